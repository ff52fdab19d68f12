"""What a task reads and never trains: the VQ-GAN under a latent diffusion, the networks behind a perceptual loss.

It lies in other folders than the run's own and never enters the run's checkpoints. What it was is written in data.json
beside the data's identity, so that a model is not trained on, or sampled, with another by mistake.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.batches import Dataset, volume_count, volumes
from data_pipelines.records import Latents
from medjax.errors import UserError
from medjax.interop.perceptual import load_perceptual
from medjax.jobs.steps import volume_shapes
from medjax.runtime import agreement
from medjax.runtime.checkpoints import Checkpoints, fingerprint
from medjax.runtime.mesh import replicated
from medjax.runtime.train_state import Arrays, Task
from medjax.runtime.workdir import read_json
from medjax.tasks import make_task

MEASURED = 64  # volumes whose latents give latents.scaling="data"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What is only read.

    Attributes:
      arrays: as the task's methods take it.
      identity: plain JSON data that says which it is; empty where a run may go on with another.
    """

    arrays: Arrays
    identity: dict[str, Any]


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration; a latent diffusion's VQ-GAN is described by the config.json of its workdir.

    Without `latents.vqgan`, as in plan, it is `latents.model`.

    Raises:
      UserError: a hyper-parameter cannot work, or the VQ-GAN's workdir is none.
    """
    return make_task(config, vqgan_config(config)) if config.task == "latent_diffusion" else make_task(config)


def vqgan_config(config: ConfigDict) -> ConfigDict:
    """The configuration of the VQ-GAN under a latent diffusion.

    Raises:
      UserError: `latents.vqgan` is not the workdir of one, or of volumes of another size.
    """
    if not config.latents.vqgan:
        described = config.copy_and_resolve_references()
        described.unlock()
        described.task, described.model = "vqgan", config.latents.model
        described.losses = config.latents.losses
        return described
    workdir = pathlib.Path(config.latents.vqgan).expanduser()
    described = ConfigDict(read_json(workdir / "config.json"))
    if described.task != "vqgan":
        raise UserError(f"latents.vqgan={workdir} is a run of task {described.task!r}: give that of a VQ-GAN")
    for key in ("size", "axes", "orientation"):
        there, here = described.data[key], config.data[key]
        there, here = (tuple(value) if isinstance(value, (list, tuple)) else value for value in (there, here))
        if there != here:
            raise UserError(f"latents.vqgan={workdir} has data.{key} {there}, this run {here}: use the same for both")
    described.train.fold = None  # of the network that is trained
    for key in ("dtype", "lowering", "machine"):
        described.train[key] = config.train[key]
    return described


def frozen_shapes(config: ConfigDict, task: Task) -> Arrays:
    """The shapes of what `frozen_of` gives, with nothing read; a perceptual loss is left out."""
    if config.task != "latent_diffusion":
        return {}
    params, variables = jax.eval_shape(task.vqgan.init, jax.random.key(0), volume_shapes(task.size, 1))
    low = high = jax.ShapeDtypeStruct((task.latent_channels,), jnp.float32)
    return {"vqgan": vqgan_of(params, variables), "low": low, "high": high}


def frozen_of(config: ConfigDict, task: Task, mesh: Mesh, known: Mapping[str, Any] | None = None) -> Frozen:
    """Reads what the task reads and never trains, whole onto every device; `with_range` completes it.

    Args:
      config: whose `latents` and `losses` count.
      known: the identity that a run has had until now: it must still be the same.

    Raises:
      UserError: it cannot be read, or is another than `known`.
    """
    if config.task == "vqgan":
        path = config.losses.perceptual_weights
        if not path and config.losses.perceptual:
            told = "set losses.perceptual_weights to a file of VGG16 and LPIPS weights to have it"
            print(f"the perceptual loss is off: {told}", file=sys.stderr)
        arrays = {"perceptual": load_perceptual(path)} if path else {}
        return Frozen(on_every_device(arrays, mesh), {})
    if config.task != "latent_diffusion":
        return Frozen({}, {})
    if not config.latents.vqgan:
        raise UserError(
            "latents.vqgan is not set: give the workdir of a trained VQ-GAN, --config.latents.vqgan=WORKDIR"
        )
    step, vqgan = trained_vqgan(config, task, mesh)
    identity = {"step": step, "fingerprint": fingerprint(vqgan)}
    for key in identity:
        there = (known or {}).get(key, identity[key])
        if there != identity[key]:
            other = f"; add --config.latents.step={there} to go on" if key == "step" else "; give that VQ-GAN"
            raise UserError(
                f"latents.vqgan={config.latents.vqgan}: its {key} is {identity[key]}, but what is there was made with "
                f"{key} {there}{other}"
            )
    return Frozen({"vqgan": vqgan}, identity)


def latents_of(frozen: Frozen, task: Task) -> Latents | None:
    """Which latents records may hold for this task; None for one that has none."""
    return Latents(frozen.identity, (*task.latent_size, task.latent_channels)) if "vqgan" in frozen.arrays else None


def with_range(
    frozen: Frozen,
    config: ConfigDict,
    task: Task,
    mesh: Mesh,
    dataset: Dataset | None = None,
    known: Mapping[str, Any] | None = None,
) -> Frozen:
    """`frozen` with the range of latents that becomes [-1, 1], where there are any.

    Args:
      dataset: measured for latents.scaling="data", unless `known` says what was.
      known: as for `frozen_of`.
    """
    if "vqgan" not in frozen.arrays:
        return frozen
    scaling = config.latents.scaling
    if scaling not in ("codebook", "data"):
        raise UserError(f"latents.scaling is {scaling!r}: use 'codebook' or 'data'")
    known = known or {}
    if known.get("scaling", scaling) != scaling:
        raise UserError(f"latents.scaling is {scaling!r}, but this model has learned with {known['scaling']!r}")
    if {"low", "high"} <= known.keys():
        low, high = known["low"], known["high"]
    elif scaling == "codebook":
        low, high = task.codebook_range(frozen.arrays["vqgan"]["codebook"])
    elif dataset is None:
        raise UserError("latents.scaling is 'data', but this run has measured none: use 'codebook', or train a step")
    elif dataset.latent_ranges:
        # Of the volumes that `measured_range` looks at.
        lows, highs = (bounds[:MEASURED] for bounds in dataset.latent_ranges)
        low, high = lows.min(axis=0), highs.max(axis=0)
    else:
        low, high = agreement.as_first(np.stack(measured_range(task, frozen.arrays["vqgan"], dataset)))
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    arrays = frozen.arrays | on_every_device({"low": low, "high": high}, mesh)
    return Frozen(arrays, frozen.identity | {"scaling": scaling, "low": low.tolist(), "high": high.tolist()})


def trained_vqgan(config: ConfigDict, task: Task, mesh: Mesh) -> tuple[int, Arrays]:
    """The VQ-GAN in `latents.vqgan`, as `vqgan_of` has it, and its step: the last, or `latents.step`."""
    workdir = pathlib.Path(config.latents.vqgan).expanduser()
    shapes = jax.eval_shape(task.vqgan.init, jax.random.key(0), volume_shapes(task.size, 1))
    step, model = Checkpoints(workdir, 1).restore_model(shapes, mesh, step=config.latents.step)
    return step, on_every_device(vqgan_of(model["ema"], model["variables"]), mesh)


def vqgan_of(params: Arrays, variables: Arrays) -> Arrays:
    """What of a VQ-GAN's state encodes and decodes."""
    statistics = {n: of for n, of in variables["batch_stats"].items() if n in params["generator"]}
    return {"generator": params["generator"], "codebook": variables["codebook"], "batch_stats": statistics}


def measured_range(task: Task, vqgan: Arrays, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest of each latent channel over the first training volumes, [c] float32 each."""
    count = volume_count(dataset, "train", MEASURED)
    encode = local_encoder(task, vqgan)
    found = [encode(volumes(dataset, "train", count, chosen=[n])[0, ..., 0]) for n in range(count)]
    low, high = (np.stack([bound(latents, axis=(0, 1, 2)) for latents in found]) for bound in (np.min, np.max))
    return low.min(axis=0), high.max(axis=0)


def local_encoder(task: Task, vqgan: Arrays) -> Callable[[np.ndarray], np.ndarray]:
    """From a volume [D, H, W] to its latents [d, h, w, c], on this process's first device and without the others."""
    own = jax.tree.map(np.asarray, vqgan)
    encode = jax.jit(lambda vqgan, volumes: task.vqgan.encode(vqgan["generator"], volumes, vqgan["batch_stats"]))
    return lambda volume: np.asarray(encode(own, volume[None, ..., None]))[0]


def on_every_device(arrays: Arrays, mesh: Mesh) -> Arrays:
    """The arrays whole on every device of the mesh."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(arrays) if arrays else arrays
