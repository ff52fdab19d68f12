import types

import numpy as np
import pytest

from configs import medical_diffusion
from medjax.builders import pretrained
from medjax.builders.pretrained import measured_deviation, task_of, tell_of_another_division, tell_of_cut_latents
from medjax.errors import UserError
from medjax.runtime.workdir import write_json


@pytest.fixture
def config(tmp_path):
    """A diffusion on the latents of a VQ-GAN whose workdir holds its configuration."""
    (tmp_path / "vqgan").mkdir()
    write_json(tmp_path / "vqgan/config.json", medical_diffusion.get_config("folder,vqgan,tiny").to_dict())
    config = medical_diffusion.get_config("folder,ddpm,tiny")
    config.latents.vqgan = str(tmp_path / "vqgan")
    return config


@pytest.mark.parametrize(("key", "value"), [("split", (0.5, 0.25, 0.25)), ("split_seed", 99)])
def test_a_vqgan_that_has_learned_from_others_than_this_run_is_told(config, key, value, capsys):
    tell_of_another_division(config)
    assert capsys.readouterr().err == ""
    config.data[key] = value
    tell_of_another_division(config)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"data.{key} is" in line and "held out here" in line


def test_an_autoencoder_without_the_key_had_a_codebook(config, tmp_path):
    described = medical_diffusion.get_config("folder,vqgan,tiny").to_dict()
    for key in ("bottleneck", "kl_weight"):
        del described["model"][key]
    write_json(tmp_path / "vqgan/config.json", described)
    config.latents.model.bottleneck = "kl"  # which only says what to plan with
    assert task_of(config).latents.autoencoder.bottleneck.name == "commitment"


@pytest.mark.parametrize(
    ("bottleneck", "scaling", "message"),
    [
        ("kl", "codebook", "latents.scaling is 'codebook', but the autoencoder has none .*use 'deviation' or 'data'"),
        ("codebook", "range", "latents.scaling is 'range': use 'codebook', 'data' or 'deviation'"),
        ("kl", "deviation", None),
        ("codebook", "deviation", None),
        ("kl", "data", None),
    ],
)
def test_latents_are_scaled_by_what_there_is(bottleneck, scaling, message):
    if message is None:
        pretrained.check_scaling(scaling, bottleneck)
    else:
        with pytest.raises(UserError, match=message):
            pretrained.check_scaling(scaling, bottleneck)


@pytest.mark.parametrize("threshold", ["clamp", "dynamic", "none"])
def test_a_threshold_of_latents_that_have_no_range_is_told(threshold, capsys):
    tell_of_cut_latents("data", threshold)
    tell_of_cut_latents("deviation", threshold)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (threshold != "none")
    assert all(f"sample.threshold is '{threshold}'" in line for line in lines)


@pytest.mark.parametrize("prepared", [True, False])
def test_the_deviation_is_that_of_the_first_training_latents(prepared, monkeypatch):
    """Of latents that were prepared, and of volumes, of which the encoder here makes two channels."""
    monkeypatch.setattr(pretrained, "MEASURED", 3)
    values = np.random.default_rng(0).normal(5, 2, (4, 2, 3, 4, 2 if prepared else 1)).astype("f4")
    monkeypatch.setattr(pretrained, "volume_count", lambda dataset, side, count: min(len(values), count))
    monkeypatch.setattr(pretrained, "volumes", lambda dataset, side, count, chosen: values[:count][chosen])
    monkeypatch.setattr(pretrained, "local_encoder", lambda task, frozen: lambda x: np.stack([x, 3 * x], axis=-1))
    first = values[:3].astype("f8")
    expected = first if prepared else np.concatenate([first, 3 * first])
    dataset = types.SimpleNamespace(latents=object() if prepared else None)
    np.testing.assert_allclose(measured_deviation(None, {}, dataset), expected.std(), rtol=1e-5)
