import numpy as np

from configs import atlas
from data_pipelines.batches import open_dataset, volumes
from medjax.diffusion.wavelet_domain import to_wavelet_domain
from medjax.jobs import subbands
from medjax.wavelets import SUBBANDS


def test_what_it_measures_evens_the_subbands_out(tmp_path):
    config = atlas.get_config("tiny")
    config.data.name, config.data.size = "synthetic", (16, 16, 16)
    found = subbands.run(config, tmp_path)
    assert list(found["subbands"]) == list(SUBBANDS)
    scale = tuple(found["subbands"].values())
    assert found["argument"] == f'--config.diffusion.subband_scale="({",".join(map(str, scale))})"'
    measured = volumes(open_dataset(config.data, config.seed), "train", found["volumes"])
    coefficients = np.asarray(to_wavelet_domain(measured, scale))
    np.testing.assert_allclose(coefficients.reshape(-1, 8).std(axis=0), 1, rtol=1e-3)
    assert not list(tmp_path.iterdir())
