"""`--mode=export_weights`: a trained model as the PyTorch file that the published code loads."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.builders.assemble import Needs, assemble, one_device
from medjax.builders.steps import volume_shapes
from medjax.builders.weights import Trained, format_of
from medjax.errors import UserError
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.workdir import check_same_model, read_json, written_aside


def run(config: ConfigDict, workdir: pathlib.Path, output: str | None = None) -> dict[str, Any]:
    """Writes the parameters that samples are drawn with: `sample.ema` and `sample.checkpoint` choose among them.

    A file of the kind that holds both the parameters and their average gets both.

    Args:
      config: of the run.
      workdir: the run's folder; nothing in it is changed.
      output: the file to write, of safetensors if its name ends so, else as torch.save does; must not exist.

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
    run = assemble(config, workdir, Needs(), mesh=one_device())
    file_format = format_of(run)
    shapes = jax.eval_shape(run.task.init, jax.random.key(0), volume_shapes(tuple(config.data.size), 1))
    best = config.sample.checkpoint == "best"
    chosen = "ema" if config.sample.ema else "params"
    weights = ("params", "ema") if file_format.has_average else (chosen,)
    with Checkpoints(workdir, config.train.keep) as checkpoints:
        step, model = checkpoints.restore_model(shapes, run.mesh, best=best, weights=weights)
    params, *ema = (jax.device_get(model[name]) for name in weights)
    trained = Trained(step, params, ema[0] if ema else params, jax.device_get(model["variables"]))
    try:
        with written_aside(path) as aside:
            tensors = file_format.write(aside, run, trained)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{workdir} cannot be exported: {error}") from error
    return {
        "output": str(path),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "tensors": tensors,
        "step": step,
    }
