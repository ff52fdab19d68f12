import jax.numpy as jnp
import numpy as np
import pytest

from configs import medical_diffusion
from medjax.builders.pretrained import Frozen
from medjax.generation.files import sample_path, write_sample
from medjax.generation.sample_sets import open_folder, samples_in, settings, tell_failures
from small_config import small_config

DATA = {"axes": "ijk", "affine": np.eye(4), "intensity_range": (0.0, 900.0), "identity": None}


def named(config=None, params=1.0, frozen=None, data=DATA, step=10):
    frozen = frozen or Frozen({}, {})
    return settings(config or small_config(), step, {"kernel": jnp.full((3,), params)}, frozen, data)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample.seed": 1},
        {"sample.sampler": "ancestral"},
        {"sample.steps": 4},
        {"sample.schedule": "karras"},
        {"sample.eta": 0.5},
        {"sample.variance": "small"},
        {"sample.threshold": "none"},
        {"sample.dtype": "int16"},
        {"train.dtype": "bfloat16"},
        {"train.precision": "highest"},
        {"model.attention_heads": 2},
        {"diffusion.schedule": "cosine"},
    ],
)
def test_whatever_changes_a_voxel_makes_another_set(changes):
    assert named(small_config(**changes)) != named()


def test_what_changes_no_voxel_makes_no_other_set():
    changes = {"sample.count": 7, "sample.batch_size": 1, "sample.strength": 0.3, "mesh.data": 2, "train.steps": 99}
    assert named(small_config(**changes)) == named()


def test_weights_files_and_what_is_only_read_are_told_by_content():
    assert named(params=1.5) != named()
    assert named(data=DATA | {"intensity_range": (0.0, 1.0)}) != named()
    assert named(data=DATA | {"affine": np.diag([2.0, 1, 1, 1])}) != named()


def test_latents_are_of_one_vqgan_and_one_way_to_decode():
    config = medical_diffusion.get_config("folder,ddpm,tiny")
    vqgan = Frozen({}, {"fingerprint": "a", "low": [0.0], "high": [1.0]})
    known = named(config, frozen=vqgan)
    assert known == named(config, frozen=vqgan)
    assert named(config, frozen=Frozen({}, vqgan.identity | {"fingerprint": "b"})) != known
    for key, value in (("latents.tile", (8, 8, 8)), ("latents.model.padding", "zeros"), ("sample.label", 0)):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({key: value})
        assert named(changed, frozen=vqgan) != known, key


def test_a_folder_of_another_set_is_moved_aside(tmp_path, capsys):
    folder = tmp_path / "samples"
    open_folder(folder, named())
    (folder / "sample_00000.nii.gz").write_text("mine")
    open_folder(folder, named())
    assert (folder / "sample_00000.nii.gz").exists()
    (folder / "settings.json").write_text("{")
    open_folder(folder, named())
    assert (tmp_path / "samples.1/sample_00000.nii.gz").read_text() == "mine"
    open_folder(folder, named(params=2.0))
    assert (tmp_path / "samples.2/settings.json").exists()
    assert capsys.readouterr().err.count("holds samples of other weights or settings: moved to") == 2


def test_failures_are_told_in_one_line_each(tmp_path, capsys):
    drawn = {0: np.full((4, 4, 4), 1 / 3), 1: np.full((4, 4, 4), np.nan), 3: np.random.default_rng(0).random((4, 4, 4))}
    for i, volume in drawn.items():
        write_sample(sample_path(tmp_path, i), volume.astype(np.float32), DATA)
    found = samples_in(tmp_path, range(5))
    assert found.keys() == drawn.keys()
    assert tell_failures(found) == (1, 1)
    constant, broken = capsys.readouterr().err.splitlines()
    assert constant == "every voxel of sample_00000 is 600: the model has collapsed or is untrained"
    assert broken.startswith("the model draws NaN in sample_00001: ")
    assert tell_failures({3: found[3]}) == (0, 0)
    assert capsys.readouterr().err == ""
