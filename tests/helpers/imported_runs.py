"""Runs that begin with weights in a PyTorch file: tiny networks of the published kinds, random weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import brats
from medjax.interop.torch_save import save_state_dict
from medjax.interop.wdm import state_dict_from_params
from medjax.tasks import make_task
from small_runs import ROOT

VARIANTS = ("tiny", "tiny,wavunet")
SMALL = (
    "--config.data.size=(16,16,16)",
    "--config.data.batch_size=2",
    "--config.sample.count=1",
    "--config.sample.batch_size=1",
    "--config.sample.steps=2",
    "--config.mesh.data=1",
)


def arguments(variants: str, workdir: pathlib.Path, mode: str, *more: str) -> list[str]:
    config = f"--config={ROOT}/configs/brats.py:{variants}"
    return ["launch.py", config, *SMALL, f"--workdir={workdir}", f"--mode={mode}", *more]


def random_weights(variants: str) -> dict[str, np.ndarray]:
    """A state dict of the network of `arguments`, by its published names."""
    image = jax.ShapeDtypeStruct((1, 16, 16, 16, 1), jnp.float32)
    task = make_task(brats.get_config(variants))
    params, _ = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    generator = np.random.default_rng(0)
    return state_dict_from_params(
        jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32) / 10, params)
    )


def write_weights(path: pathlib.Path, variants: str) -> pathlib.Path:
    save_state_dict(path, random_weights(variants))
    return path


def import_run(folder: pathlib.Path, variants: str) -> pathlib.Path:
    """FOLDER/run, imported from FOLDER/weights.pt."""
    import launch

    path = write_weights(folder / "weights.pt", variants)
    assert launch.main(arguments(variants, folder / "run", "import_weights", f"--checkpoint={path}")) == 0
    return folder / "run"
