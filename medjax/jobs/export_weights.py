"""`--mode=export_weights`: a trained model as the PyTorch file that the published code loads."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.builders.pretrained import frozen_of, task_of, with_own_vqgan
from medjax.builders.steps import volume_shapes
from medjax.errors import UserError
from medjax.interop import medical_checkpoints
from medjax.interop.torch_save import save_state_dict
from medjax.interop.wdm import state_dict_from_params
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import AXES, make_mesh
from medjax.runtime.workdir import check_same_model, read_json, written_aside
from medjax.task import Arrays, Task


def run(config: ConfigDict, workdir: pathlib.Path, output: str | None = None) -> dict[str, Any]:
    """Writes the parameters that samples are drawn with: `sample.ema` and `sample.checkpoint` choose among them.

    Of a latent diffusion it writes a milestone, of both the parameters and their average, with the VQ-GAN in it.

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
    trained = read_json(workdir / "config.json")
    check_same_model(workdir, trained, config.to_dict())
    if config.task == "latent_diffusion":
        config = with_own_vqgan(config, workdir).copy_and_resolve_references()
        config.latents.vqgan = config.latents.vqgan or trained["latents"]["vqgan"]
    task = task_of(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0), volume_shapes(tuple(config.data.size), 1))
    mesh = make_mesh(dict.fromkeys(AXES, 1))
    best = config.sample.checkpoint == "best"
    chosen = "ema" if config.sample.ema else "params"
    weights = ("params", "ema") if config.task == "latent_diffusion" else (chosen,)
    with Checkpoints(workdir, config.train.keep) as checkpoints:
        step, model = checkpoints.restore_model(shapes, mesh, best=best, weights=weights)
    params = jax.device_get(model[chosen])
    variables = jax.device_get(model["variables"])
    try:
        with written_aside(path) as aside:
            match config.task:
                case "vqgan":
                    tensors = medical_checkpoints.write_vqgan(aside, params, variables)
                case "latent_diffusion":
                    vqgan = vqgan_under(config, task, read_json(workdir / "data.json"))
                    both = jax.device_get((model["params"], model["ema"]))
                    betas = task.objective.schedule.betas
                    tensors = medical_checkpoints.write_diffusion(aside, step, *both, betas, vqgan)
                case _:
                    state_dict = state_dict_from_params(params)
                    save_state_dict(aside, state_dict)
                    tensors = len(state_dict)
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


def vqgan_under(config: ConfigDict, task: Task, data: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Parameters and variables of the VQ-GAN that a diffusion was trained on.

    Raises:
      UserError: it is not the one in `latents.vqgan`.
    """
    mesh = make_mesh(dict.fromkeys(AXES, 1))
    whole = frozen_of(config, task, mesh, data.get("frozen")).first_stage
    return whole["params"], whole["variables"]
