import importlib

import jax
import nibabel
import numpy as np
import pytest

from configs import brats, lidc
from data_pipelines import transforms
from data_pipelines.nifti import Volume
from medjax.runtime.mesh import check_volume_size, make_mesh
from medjax.tasks import make_task

VARIANTS = [
    ("atlas", ["", "demo", "tiny", "bf16", "tiny,bf16"]),
    ("folder", ["", "128", "256", "tiny", "bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
    ("brats", ["", "128", "256", "tiny", "256,bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
    ("lidc", ["", "128", "256", "tiny", "256,bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
]


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name, variants in VARIANTS for variant in variants])
def test_every_variant_is_a_model_that_fits_its_volumes(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    task = make_task(config)
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1})
    check_volume_size(tuple(config.data.size), mesh, task.size_multiple)
    image = jax.ShapeDtypeStruct((1, *config.data.size, 1), "float32")
    jax.eval_shape(task.init, jax.random.key(0), {"image": image})


@pytest.mark.parametrize("name", ["brats", "lidc"])
@pytest.mark.parametrize(("variant", "batch_size"), [("128", 10), ("256", 1)])
def test_published_values(name, variant, batch_size):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    assert config.optimizer.learning_rate == 1e-5
    assert config.optimizer.weight_decay == 0
    assert config.optimizer.clip_norm == 0
    assert config.train.steps == 1_200_000
    assert config.train.ema_decay == 0
    assert config.train.dtype == "float32"
    assert config.data.batch_size == batch_size
    assert config.data.orientation == "native"
    assert (config.diffusion.schedule, config.diffusion.steps) == ("linear", 1000)
    assert (config.sample.sampler, config.sample.steps) == ("ancestral", None)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="'huge' is not a variant of this file; use demo, tiny, bf16"):
        importlib.import_module("configs.atlas").get_config("huge")


@pytest.mark.parametrize("variant", ["128", "256"])
def test_imported_brats_samples_lie_as_preprocessed_scans_do(variant):
    config = brats.get_config(variant)
    # The geometry of every BraTS scan; the numbers are not looked at.
    scan = Volume(
        np.zeros((240, 240, 155), np.uint8), np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    volume = transforms.average_pool(transforms.crop_or_pad(scan, (256, 256, 256)), 256 // config.data.size[0])
    np.testing.assert_array_equal(config.data.affine, volume.affine)


@pytest.mark.parametrize("variant", ["128", "256"])
def test_imported_lidc_samples_are_256_mm_about_the_origin(variant):
    config = lidc.get_config(variant)
    affine = np.array(config.data.affine)
    assert nibabel.aff2axcodes(affine) == ("L", "A", "S")
    np.testing.assert_allclose(affine @ [*((np.array(config.data.size) - 1) / 2), 1], [0, 0, 0, 1])
    np.testing.assert_allclose(np.abs(np.diag(affine)[:3]) * config.data.size, 256)
