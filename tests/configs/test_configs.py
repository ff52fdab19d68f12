import importlib

import jax
import nibabel
import numpy as np
import pytest

from configs import brats, lidc, medical_diffusion
from data_pipelines import transforms
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import mrnet
from medjax.builders.pretrained import task_of
from medjax.runtime.mesh import check_volume_size, make_mesh
from medjax.tasks import make_task

VARIANTS = [
    ("atlas", ["", "demo", "tiny", "bf16", "tiny,bf16"]),
    ("folder", ["", "128", "256", "tiny", "bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
    ("brats", ["", "128", "256", "tiny", "256,bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
    ("lidc", ["", "128", "256", "tiny", "256,bf16", "wavunet", "256,wavunet", "tiny,wavunet"]),
]


INITIALIZED = {}  # by task and size: variants that are the same task are traced once


def initialized(task, size):
    """The shapes of a task's parameters and variables on volumes of this size."""
    key = (repr(task), tuple(size))
    if key not in INITIALIZED:
        image = jax.ShapeDtypeStruct((1, *size, 1), "float32")
        INITIALIZED[key] = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    return INITIALIZED[key]


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name, variants in VARIANTS for variant in variants])
def test_every_variant_is_a_model_that_fits_its_volumes(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    task = make_task(config)
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1})
    check_volume_size(tuple(config.data.size), mesh, task.size_multiple)
    initialized(task, config.data.size)


@pytest.mark.parametrize("dataset", ["atlas", "adni", "brats", "duke", "folder", "lidc", "mrnet"])
@pytest.mark.parametrize("more", ["", "bf16,", "tiny,"])
@pytest.mark.parametrize("stage", ["vqgan", "ddpm", "ddpm,unet"])
def test_both_stages_of_medical_diffusion_fit_their_volumes(dataset, stage, more):
    config = medical_diffusion.get_config(f"{more}{stage},{dataset}")
    task = task_of(config)
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1})
    check_volume_size(tuple(config.data.size), mesh, task.size_multiple)
    # Where the first stage ends, the second begins.
    first = medical_diffusion.get_config(f"{more}vqgan,{dataset}")
    latents = task.codec.shape[:3] if task.generates else task.latent_size
    assert task_of(first).latent_size == latents
    keys = ("name", "size", "axes", "orientation", "fit", "window_range", "flip", "affine")
    assert {key: first.data[key] for key in keys} == {key: config.data[key] for key in keys}
    initialized(task, config.data.size)
    assert (config.train.dtype == "bfloat16") == (more == "bf16,")


@pytest.mark.parametrize(
    ("dataset", "size", "latents", "batch_size", "parameters"),
    [
        ("adni", (64, 64, 64), (32, 32, 32), 10, 9_981_512),
        ("brats", (64, 64, 64), (32, 32, 32), 10, 9_981_512),
        ("mrnet", (32, 256, 256), (8, 64, 64), 40, 35_730_312),
        ("duke", (32, 256, 256), (8, 64, 64), 40, 35_730_312),
        ("lidc", (128, 128, 128), (32, 32, 32), 50, 9_981_512),
    ],
)
def test_published_values_of_medical_diffusion(dataset, size, latents, batch_size, parameters):
    vqgan, ddpm = (medical_diffusion.get_config(f"{dataset},{stage}") for stage in ("vqgan", "ddpm"))
    task = task_of(ddpm)
    assert vqgan.data.size == size and task.codec.shape == (*latents, 8)
    params, _ = initialized(task, size)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    params, _ = initialized(task_of(vqgan), size)
    by_downsampling = {2: 14_080_971, 4: 15_205_227}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == by_downsampling[size[1] // latents[1]]
    assert (vqgan.data.batch_size, vqgan.train.steps, vqgan.model.codes) == (2, 100_000, 16_384)
    assert (vqgan.optimizer.b1, vqgan.optimizer.b2, vqgan.optimizer.clip_norm) == (0.5, 0.9, 1)
    assert vqgan.optimizer.learning_rate == pytest.approx(3e-4 * (1 / 8) * (2 / 4))
    assert (ddpm.data.batch_size, ddpm.train.steps, ddpm.train.accumulate) == (batch_size, 150_000, 2)
    assert (ddpm.optimizer.learning_rate, ddpm.diffusion.steps, ddpm.diffusion.schedule) == (1e-4, 300, "cosine_9999")
    assert (ddpm.diffusion.prediction, ddpm.diffusion.loss, ddpm.sample.variance) == ("noise", "l1", "small")
    assert (ddpm.train.ema_decay, ddpm.train.ema_start, ddpm.train.ema_every) == (0.995, 2000, 10)


def test_the_first_stage_has_no_other_network():
    with pytest.raises(ValueError, match="'unet' is not a variant of this file; use atlas, adni"):
        medical_diffusion.get_config("adni,vqgan,unet")


def test_imported_mrnet_samples_lie_as_preprocessed_exams_do():
    config = medical_diffusion.get_config("mrnet")
    shape = transforms.voxel_shape(config.data.size, config.data.axes)
    np.testing.assert_allclose(config.data.affine, mrnet.affine("sagittal", shape, mrnet.VOXEL_SIZE))


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
    assert sampling_of(config) == ("dpm_solver", 25, "log_snr", "large")  # as docs/sampling.md recommends
    published = importlib.import_module(f"configs.{name}").get_config(f"{variant},published")
    assert sampling_of(published) == ("ancestral", None, "trained", "large")
    published.sample = config.sample
    assert published == config  # nothing else changes


def test_medical_diffusion_samples_as_published_if_asked():
    config = importlib.import_module("configs.medical_diffusion").get_config("published,adni,ddpm")
    assert sampling_of(config) == ("ancestral", None, "trained", "small")


def sampling_of(config):
    return tuple(config.sample[key] for key in ("sampler", "steps", "schedule", "variance"))


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
