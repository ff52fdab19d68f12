"""`--mode=export_weights`: a trained model as the PyTorch file that the published code loads."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.interop.torch_save import save_state_dict
from medjax.interop.wdm import state_dict_from_params
from medjax.jobs.steps import batch_shapes
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import AXES, make_mesh
from medjax.runtime.workdir import check_same_model, read_json, written_aside
from medjax.tasks import make_task


def run(config: ConfigDict, workdir: pathlib.Path, output: str | None = None) -> dict[str, Any]:
    """Writes the parameters that samples are drawn with: `sample.ema` and `sample.checkpoint` choose among them.

    Args:
      config: of the run.
      workdir: the run's folder; nothing in it is changed.
      output: the .pt file to write; must not exist.

    Returns:
      `output`, `parameters`, `tensors` and the `step` of the checkpoint.

    Raises:
      UserError: there is no checkpoint, it is of another model or of one that PyTorch has not, or `output` exists.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=export_weights runs in one process: start one alone")
    if not output:
        raise UserError("--output is missing: name the file to write, as --output=weights.pt")
    path = pathlib.Path(output).expanduser()
    if path.exists():
        raise UserError(f"--output={path} exists: choose another name")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.parent}; make it first")
    check_same_model(workdir, read_json(workdir / "config.json"), config.to_dict())
    task = make_task(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch_shapes(tuple(config.data.size), 1))
    mesh = make_mesh(dict.fromkeys(AXES, 1))
    best = config.sample.checkpoint == "best"
    step, model = Checkpoints(workdir, config.train.keep).restore_model(shapes, mesh, best=best)
    params = jax.device_get(model["ema" if config.sample.ema else "params"])
    try:
        state_dict = state_dict_from_params(params)
    except ValueError as error:
        raise UserError(f"{workdir} cannot be exported: {error}") from error
    with written_aside(path) as aside:
        save_state_dict(aside, state_dict)
    return {
        "output": str(path),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "tensors": len(state_dict),
        "step": step,
    }
