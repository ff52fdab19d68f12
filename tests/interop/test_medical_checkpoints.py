"""Files in the form of the published trainings: released names and shapes, settings and callbacks beside them."""

import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import medical_diffusion
from medjax.diffusion.schedules import cosine
from medjax.errors import UserError
from medjax.interop import medical_checkpoints
from medjax.interop.perceptual import to_params as perceptual_params
from medjax.interop.torch_load import load_state_dicts
from medjax.tasks import make_task
from torch_files import dictionary, fragment, integer, integers, tensor, write

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "medical_state_dicts.json").read_text())
BETAS = cosine(300, max_beta=0.9999).betas
NUMBERS = np.random.default_rng(0).standard_normal(512 * 256 * 64 + 1).astype(np.float32)  # of the largest tensor
ROTATION = 10_000.0 ** -(np.arange(16) / 16)  # rotary frequencies of attention heads of 32 channels
DATA = {
    "0": NUMBERS.tobytes(),
    "1": np.int64(7).tobytes(),
    "2": BETAS.astype("<f4").tobytes(),
    "3": ROTATION.astype("<f4").tobytes(),
}


class Attack:
    """Pickled, it is a program that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def view(name: str, shape: list[int], start: int) -> bytes:
    """A tensor of this shape; all look into the same numbers, from `start` on, which keeps files small."""
    if name.endswith("num_batches_tracked"):
        return tensor("1", 1, b")", b")", kind="LongStorage")
    if name == "betas":
        return tensor("2", 300, integers(300), integers(1))
    if name.endswith("rotary_emb.freqs"):
        return tensor("3", 16, integers(16), integers(1))
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return tensor("0", NUMBERS.size, integers(*shape), integers(*strides), start)


def state_dict(start: int = 0, **shapes) -> bytes:
    views = {name: view(name, shape, start) for name, shape in shapes.items()}
    return b"ccollections\nOrderedDict\n)R" + dictionary(**views)[1:]


def expected(shape: list[int], start: int = 0) -> np.ndarray:
    return NUMBERS[start : start + int(np.prod(shape))].reshape(shape)


@functools.cache
def shapes(stage: str):
    first, second = (medical_diffusion.get_config(f"adni,{stage}") for stage in ("vqgan", "ddpm"))
    task = make_task(first) if stage == "vqgan" else make_task(second, first)
    image = jax.ShapeDtypeStruct((1, *first.data.size, 1), np.float32)
    return jax.eval_shape(task.init, jax.random.key(0), {"image": image})


@pytest.fixture
def ckpt(tmp_path) -> Path:
    """As Lightning leaves it, with an attack in it."""
    return write(
        tmp_path / "latest_checkpoint.ckpt",
        dictionary(
            epoch=integer(3),
            state_dict=state_dict(**PUBLISHED["vqgan_222"]["state_dict"]),
            callbacks=fragment({"ModelCheckpoint{'monitor': 'val/recon_loss'}": {"best": Attack(tmp_path / "ran")}}),
            hyper_parameters=fragment({"args": Attack(tmp_path / "ran")}),
        ),
        DATA,
    )


def milestone(path: Path, **changes: list[int]) -> Path:
    published = PUBLISHED["gaussian_diffusion_unet3d_dim32"]["state_dict"] | changes
    vqgan = {f"vqgan.{name}": shape for name, shape in PUBLISHED["vqgan_222"]["state_dict"].items()}
    both = {key: state_dict(start, **published | vqgan) for start, key in enumerate(("model", "ema"))}
    return write(path, dictionary(step=integer(149), **both, scaler=b"}"), DATA)


def test_a_lightning_checkpoint(ckpt, tmp_path):
    found = medical_checkpoints.read_vqgan(ckpt, *shapes("vqgan"))
    assert not (tmp_path / "ran").exists()
    assert found.tensors == 126
    assert jax.tree.map(np.shape, (found.params, found.variables)) == jax.tree.map(np.shape, shapes("vqgan"))
    kernel = found.params["generator"]["decoder"]["output_conv"]["kernel"]
    published = PUBLISHED["vqgan_222"]["state_dict"]["decoder.conv_last.conv.weight"]
    np.testing.assert_array_equal(np.moveaxis(kernel, (-1, -2), (0, 1)), expected(published))
    assert found.variables["codebook"]["initialized"]
    # What the perceptual loss needs is there too.
    assert jax.tree.leaves(perceptual_params(found.perceptual))


def test_a_milestone(tmp_path):
    path = milestone(tmp_path / "model-149.pt")
    found = medical_checkpoints.read_diffusion(path, shapes("ddpm")[0], BETAS)
    assert found.tensors == 2 * (312 + 126) and found.vqgan.keys() == PUBLISHED["vqgan_222"]["state_dict"].keys()
    for start, tree in enumerate((found.params, found.ema)):
        assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, shapes("ddpm")[0])
        np.testing.assert_array_equal(tree["input_conv"]["bias"], expected([32], start))
    # The first stage is in it; not that of the average, which rounding has moved.
    vqgan = medical_checkpoints.read_vqgan(path, *shapes("vqgan"))
    assert vqgan.tensors == 126 and vqgan.perceptual
    for embeddings in (vqgan.variables["codebook"]["embeddings"], found.vqgan["codebook.embeddings"]):
        np.testing.assert_array_equal(embeddings, expected([16_384, 8]))


@pytest.mark.parametrize(
    ("changes", "betas", "message"),
    [
        ({}, cosine(300).betas, "its schedule is not that of diffusion.schedule: 'cosine_9999' is"),
        ({}, cosine(250, 0.9999).betas, "its schedule has 300 steps, diffusion.steps is 250"),
        ({"denoise_fn.init_conv.bias": [31]}, BETAS, r"has other shapes: init_conv.bias \(31,\) for \(32,\)"),
        ({"denoise_fn.null_cond_emb": [1, 5]}, BETAS, "has too many: null_cond_emb"),
        ({"text_model.weight": [5]}, BETAS, "has too many: text_model.weight"),
    ],
)
def test_milestones_of_other_models(changes, betas, message, tmp_path):
    path = milestone(tmp_path / "model-149.pt", **changes)
    with pytest.raises(ValueError, match=message):
        medical_checkpoints.read_diffusion(path, shapes("ddpm")[0], betas)


def test_each_is_not_the_other(ckpt, tmp_path):
    with pytest.raises(UserError, match="holds no state dict 'model' or 'ema' .it holds 'epoch', 'state_dict'"):
        medical_checkpoints.read_diffusion(ckpt, shapes("ddpm")[0], BETAS)
    write(ckpt, dictionary(state_dict=state_dict(**PUBLISHED["unet3d_dim16"]["state_dict"])), DATA)
    with pytest.raises(ValueError, match="lacks: .* has too many: "):
        medical_checkpoints.read_vqgan(ckpt, *shapes("vqgan"))
    published = PUBLISHED["vqgan_222"]["state_dict"]
    lacking = {name: shape for name, shape in published.items() if name != "codebook.N"}
    write(ckpt, dictionary(state_dict=state_dict(**lacking)), DATA)
    with pytest.raises(ValueError, match="lacks: codebook.N"):
        medical_checkpoints.read_vqgan(ckpt, *shapes("vqgan"))


def test_what_is_written_has_the_published_names_and_shapes_in_their_order(tmp_path):
    generator = np.random.default_rng(0)

    def random(tree):
        return jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), tree)

    vqgan, network = random(shapes("vqgan")), shapes("ddpm")[0]
    params, ema = random(network), random(network)
    path = tmp_path / "model.pt"
    medical_checkpoints.write_diffusion(path, 149, params, ema, BETAS, vqgan)
    released = PUBLISHED["gaussian_diffusion_unet3d_dim32"]["state_dict"]
    own = [name for name in PUBLISHED["vqgan_222"]["state_dict"] if not name.startswith("perceptual_model.")]
    for written in load_state_dicts(path, ("model", "ema")).values():
        assert list(written) == [*released, *(f"vqgan.{name}" for name in own)]
        assert {name: list(written[name].shape) for name in released} == released
    found = medical_checkpoints.read_diffusion(path, network, BETAS)
    for ours, theirs in ((found.params, params), (found.ema, ema)):
        assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))
    again = medical_checkpoints.read_vqgan(path, *shapes("vqgan"))
    del again.variables["codebook"]["initialized"], vqgan[1]["codebook"]["initialized"]
    assert jax.tree.all(jax.tree.map(np.array_equal, (again.params, again.variables), vqgan))


@pytest.mark.golden("medical_unet3d", "out/tables_")
def test_tables(golden):
    for steps in {key.split("/")[1].removeprefix("tables_") for key in golden.keys("out/tables_")}:
        for name, table in medical_checkpoints.tables(cosine(int(steps), max_beta=0.9999).betas).items():
            if (key := f"out/tables_{steps}/{name}") in golden:
                np.testing.assert_allclose(table, golden[key], rtol=1e-6, atol=1e-12)
