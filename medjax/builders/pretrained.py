"""Loads what a task reads and never trains: the VQ-GAN under a latent diffusion, the networks behind a perceptual loss.

It never enters the run's checkpoints. What it was is written in data.json beside the data's identity, so that a model is
not trained on, or sampled, with another by mistake. The VQ-GAN is copied into the run at its first start and read there from
then on (vqgan_copy.py). A perceptual loss is of a VQ-GAN's training alone and its file is named at every start, as the data are.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.batches import Dataset, volume_count, volumes
from data_pipelines.records import Latents
from medjax.builders import vqgan_copy
from medjax.builders.steps import volume_shapes
from medjax.errors import UserError
from medjax.interop.perceptual import load_perceptual
from medjax.runtime import multihost
from medjax.runtime.checkpoints import Checkpoints, digest, fingerprint, written_fingerprints
from medjax.runtime.mesh import replicated
from medjax.runtime.workdir import check_same_model, read_config, read_json
from medjax.task import Arrays, Task
from medjax.tasks import make_task

MEASURED = 64  # volumes whose latents give latents.scaling="data" or "deviation"
OF_BOTTLENECKS = ("bottleneck", "kl_weight")  # of the autoencoder's `model`
SCALINGS = ("codebook", "data", "deviation")  # of latents


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Holds what is only read.

    Attributes:
      arrays: as the task's methods take it.
      identity: plain JSON data that says which it is; empty where a run may go on with another.
      first_stage: {"params", "variables"} of the whole VQ-GAN as NumPy arrays, discriminators too; None where there is none.
    """

    arrays: Arrays
    identity: dict[str, Any]
    first_stage: Arrays | None = None


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration; a latent diffusion's VQ-GAN is described by the config.json of its workdir.

    Without `latents.vqgan`, as in plan, it is `latents.model`.

    Raises:
      UserError: a hyper-parameter cannot work, or the VQ-GAN's workdir is none.
    """
    if "latents" not in config:
        return make_task(config)
    described = vqgan_config(config)
    check_scaling(config.latents.scaling, described.model.bottleneck)
    try:
        return make_task(config, described)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        if not config.latents.vqgan:
            raise
        place = pathlib.Path(config.latents.vqgan).expanduser() / "config.json"
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{place} is damaged: there is no such VQ-GAN ({reason}); restore it") from error


def check_scaling(scaling: str, bottleneck: str) -> None:
    """Raises UserError unless latents of an autoencoder with this bottleneck can be scaled like this."""
    if scaling not in SCALINGS:
        raise UserError(
            f"latents.scaling is {scaling!r}: use {', '.join(map(repr, SCALINGS[:-1]))} or {SCALINGS[-1]!r}"
        )
    if scaling == "codebook" and bottleneck != "codebook":
        raise UserError(
            f"latents.scaling is 'codebook', but the autoencoder has none (model.bottleneck is {bottleneck!r}): "
            "use 'deviation' or 'data'"
        )


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
    like = {key: config[key].to_dict() for key in ("data", "train")}
    like |= {"task": "vqgan", "model": config.latents.model.to_dict(), "losses": config.latents.losses.to_dict()}
    described = ConfigDict(read_config(workdir / "config.json", like))
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


def tell_of_another_division(config: ConfigDict) -> None:
    """Says on stderr where the VQ-GAN has, by its configuration, learned from subjects that this run holds back."""
    if "latents" not in config or not config.latents.vqgan:
        return
    there, here = vqgan_config(config).data, config.data
    for key in ("split", "split_seed"):
        before, now = (list(part[key]) if isinstance(part[key], (list, tuple)) else part[key] for part in (there, here))
        if before != now:
            print(
                f"data.{key} is {now}, but that of latents.vqgan={config.latents.vqgan} was {before}: it has learned from "
                "subjects that are held out here; give both the same",
                file=sys.stderr,
            )


def with_own_vqgan(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """The configuration with `latents.vqgan` naming the copy in the run's folder, where it has one; others as they are.

    A VQ-GAN that is named all the same must be the one that was copied, as far as its run is still there to tell.

    Raises:
      UserError: it is another.
    """
    copy = workdir / vqgan_copy.FOLDER
    if "latents" not in config or not vqgan_copy.is_copy(copy):
        return config
    own = config.copy_and_resolve_references()
    own.latents.vqgan = str(copy)
    named = config.latents.vqgan and pathlib.Path(config.latents.vqgan).expanduser()
    kept = vqgan_copy.read_identity(copy)
    if config.latents.step not in (None, kept["step"]):
        raise UserError(
            f"latents.step is {config.latents.step}, but {workdir} has learned on step {kept['step']}, which {copy} holds: "
            "leave it out, or choose another --workdir"
        )
    if not named or named.absolute() == copy.absolute():
        return own
    if (named / "config.json").exists():
        other = f"latents.vqgan={named} is another VQ-GAN than that in {copy}, on which {workdir} has learned"
        advice = "leave latents.vqgan out, or choose another --workdir"
        try:
            check_same_model(named, read_json(copy / "config.json"), read_json(named / "config.json"))
        except UserError as error:
            raise UserError(f"{other}: {advice}") from error
        there = named_fingerprint(named, kept["step"])
        if there not in (None, kept["fingerprint"]):
            raise UserError(f"{other}: {advice}")
        if there is not None:
            return own
    print(f"{named} holds no step {kept['step']}: going on with the copy in {copy}", file=sys.stderr)
    return own


def named_fingerprint(workdir: pathlib.Path, step: int) -> str | None:
    """The fingerprint of what encodes and decodes in a VQ-GAN's run, or in a copy of one; None if it holds no such step."""
    if vqgan_copy.is_copy(workdir):
        identity = vqgan_copy.read_identity(workdir)
        return identity["fingerprint"] if identity["step"] == step else None
    prints = written_fingerprints(workdir, step)
    if prints is None:
        return None
    return digest(vqgan_of(prints["ema"], {"batch_stats": {}} | prints.get("variables", {})))


def keep_pretrained(frozen: Frozen, config: ConfigDict, workdir: pathlib.Path) -> None:
    """Copies the VQ-GAN that was read from `latents.vqgan` into the run's folder, unless it has a copy."""
    folder = workdir / vqgan_copy.FOLDER
    if frozen.first_stage is None or vqgan_copy.is_copy(folder):
        return
    source = pathlib.Path(config.latents.vqgan).expanduser()
    identity = {"from": str(source.absolute())} | {key: frozen.identity[key] for key in ("step", "fingerprint")}
    vqgan_copy.write_copy(folder, read_json(source / "config.json"), identity, frozen.first_stage)


def known_frozen(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Reads what the run in this folder has read and not trained, None for a new run."""
    path = workdir / "data.json"
    known = read_json(path).get("frozen") if path.exists() else None
    if not isinstance(known, (dict, NoneType)):
        raise UserError(f"{path} is damaged (frozen is {known!r:.60}): restore it or choose another --workdir")
    return known


def frozen_shapes(task: Task) -> Arrays:
    """The shapes of what `frozen_of` and `with_range` give, with nothing read; a perceptual loss is left out."""
    if "vqgan" not in task.pretrained:
        return {}
    params, variables = jax.eval_shape(
        task.latents.autoencoder.init, jax.random.key(0), volume_shapes(task.latents.size, 1)
    )
    low = high = jax.ShapeDtypeStruct((task.latents.channels,), jnp.float32)
    return {"vqgan": vqgan_of(params, variables), "low": low, "high": high}


def blank_frozen(task: Task, mesh: Mesh) -> Frozen:
    """Stands in for what `frozen_of` and `with_range` give: a VQ-GAN that has learned nothing, and latents in [-1, 1].

    How long anything takes depends on neither.
    """
    shapes = volume_shapes(task.latents.size, 1)
    volume = {name: np.zeros(a.shape, a.dtype) for name, a in shapes.items()}
    vqgan = vqgan_of(*task.latents.autoencoder.init(jax.random.key(0), volume))
    return Frozen(on_every_device({"vqgan": vqgan} | unit_range(task), mesh), {})


def unit_range(task: Task) -> Arrays:
    """The range of latents that lie in [-1, 1] as they are."""
    return {name: np.full(task.latents.channels, value, np.float32) for name, value in (("low", -1), ("high", 1))}


def frozen_of(
    config: ConfigDict, task: Task, mesh: Mesh, known: Mapping[str, Any] | None = None, losses: bool = True
) -> Frozen:
    """Reads what the task reads and never trains, whole onto every device; `with_range` completes it.

    Args:
      config: whose `latents` and `losses` count.
      task: which says what it reads.
      mesh: whose devices.
      known: the identity that a run has had until now: it must still be the same.
      losses: whether to read the networks behind losses too.

    Raises:
      UserError: it cannot be read, or is another than `known`.
    """
    if losses and "perceptual" in task.pretrained:
        path = config.losses.perceptual_weights
        if not path and config.losses.perceptual:
            told = "set losses.perceptual_weights to a file of VGG16 and LPIPS weights to have it"
            print(f"the perceptual loss is off: {told}", file=sys.stderr)
        arrays = {"perceptual": load_perceptual(path)} if path else {}
        return Frozen(on_every_device(arrays, mesh), {})
    if "vqgan" not in task.pretrained:
        return Frozen({}, {})
    if not config.latents.vqgan:
        raise UserError(
            "latents.vqgan is not set: give the workdir of a trained VQ-GAN, --config.latents.vqgan=WORKDIR"
        )
    known = known or {}
    asked = config.latents.step
    if asked is not None and known.get("step", asked) != asked:
        raise UserError(f"latents.step is {asked}, but what is there was made with step {known['step']}: leave it out")
    step, model = trained_vqgan(config, task, mesh, known.get("step", asked))
    vqgan = vqgan_of(model["params"], model["variables"])
    identity = {"step": step, "fingerprint": fingerprint(vqgan)}
    for key, found in identity.items():
        if known.get(key, found) != found:
            raise UserError(
                f"latents.vqgan={config.latents.vqgan}: its {key} is {found}, but what is there was made with "
                f"{key} {known[key]}; give that VQ-GAN"
            )
    return Frozen({"vqgan": vqgan}, identity, jax.device_get(model))


def decoding_of(config: ConfigDict, frozen: Frozen) -> dict[str, Any]:
    """Returns what decides how the latents that are drawn become volumes, as plain data; {} where there are none."""
    if "latents" not in config:
        return {}
    # The fingerprint tells one bottleneck from another; samples drawn before there were two stay the same set.
    vqgan = {key: value for key, value in vqgan_config(config).model.to_dict().items() if key not in OF_BOTTLENECKS}
    return {"latents": {"tile": config.latents.tile, "vqgan": vqgan, **frozen.identity}}


def latents_of(frozen: Frozen, task: Task) -> Latents | None:
    """Says which latents records may hold for this task; None for one that has none."""
    return Latents(frozen.identity, task.latents.shape) if "vqgan" in frozen.arrays else None


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
      dataset: measured for latents.scaling="data" or "deviation", unless `known` says what was.
      known: as for `frozen_of`.
    """
    if "vqgan" not in frozen.arrays:
        return frozen
    scaling, known = config.latents.scaling, known or {}
    tell_of_cut_latents(scaling, config.sample.threshold)
    if known.get("scaling", scaling) != scaling:
        raise UserError(f"latents.scaling is {scaling!r}, but this model has learned with {known['scaling']!r}")
    if {"low", "high"} <= known.keys():
        low, high = known["low"], known["high"]
    elif scaling == "codebook":
        low, high = task.latents.codebook_range(frozen.arrays["vqgan"]["codebook"])
    elif dataset is None:
        choice = "use 'codebook', or train a step" if "codebook" in frozen.arrays["vqgan"] else "train a step"
        raise UserError(f"latents.scaling is {scaling!r}, but this run has measured none: {choice}")
    elif scaling == "deviation":
        # Once low is minus the deviation and high the deviation, what is scaled is divided by it.
        deviation = multihost.broadcast_from_first(measured_deviation(task, frozen.arrays, dataset))
        low, high = (np.full(task.latents.channels, bound) for bound in (-deviation, deviation))
    elif dataset.latent_ranges:
        # Of the volumes that `measured_range` looks at.
        lows, highs = (bounds[:MEASURED] for bounds in dataset.latent_ranges)
        low, high = lows.min(axis=0), highs.max(axis=0)
    else:
        low, high = multihost.broadcast_from_first(np.stack(measured_range(task, frozen.arrays, dataset)))
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    arrays = frozen.arrays | on_every_device({"low": low, "high": high}, mesh)
    identity = frozen.identity | {"scaling": scaling, "low": low.tolist(), "high": high.tolist()}
    return dataclasses.replace(frozen, arrays=arrays, identity=identity)


def trained_vqgan(config: ConfigDict, task: Task, mesh: Mesh, step: int | None) -> tuple[int, Arrays]:
    """The step, and {"params", "variables"} on every device, of the VQ-GAN in `latents.vqgan`.

    Args:
      config: whose `latents.vqgan` is the VQ-GAN's run, or a copy in another's.
      task: the latent diffusion.
      mesh: whose devices.
      step: the step to read; None for the last, or for that of a copy.

    Raises:
      UserError: it cannot be read, is damaged, or is not of that step.
    """
    workdir = pathlib.Path(config.latents.vqgan).expanduser()
    params, variables = jax.eval_shape(
        task.latents.autoencoder.init, jax.random.key(0), volume_shapes(task.latents.size, 1)
    )
    if vqgan_copy.is_copy(workdir):
        identity = vqgan_copy.read_identity(workdir)
        model = vqgan_copy.read_copy(workdir, {"params": params, "variables": variables})
        model = on_every_device(model, mesh)
        if fingerprint(vqgan_of(model["params"], model["variables"])) != identity["fingerprint"]:
            raise UserError(f"{workdir} is damaged (it is not what was written): {vqgan_copy.advice(workdir)}")
        if step not in (None, identity["step"]):
            raise UserError(f"latents.vqgan={workdir} is a copy of step {identity['step']}, not of step {step}")
        return identity["step"], model
    with Checkpoints(workdir, 1) as checkpoints:
        step, model = checkpoints.restore_model((params, variables), mesh, step=step, weights=("ema",))
    return step, on_every_device({"params": model["ema"], "variables": model["variables"]}, mesh)


def vqgan_of(params: Arrays, variables: Arrays) -> Arrays:
    """Selects what of a VQ-GAN's state encodes and decodes."""
    statistics = {n: of for n, of in variables["batch_stats"].items() if n in params["generator"]}
    codebook = {"codebook": variables["codebook"]} if "codebook" in variables else {}
    return {"generator": params["generator"], **codebook, "batch_stats": statistics}


def tell_of_cut_latents(scaling: str, threshold: str) -> None:
    """Says on stderr where sampling would keep latents in [-1, 1] whose deviation is 1."""
    if scaling == "deviation" and threshold != "none":
        told = "cuts latents off" if threshold == "clamp" else "brings latents down"
        print(
            f"sample.threshold is {threshold!r}, which {told} to one standard deviation where latents.scaling is 'deviation': "
            "'none' leaves them as they are",
            file=sys.stderr,
        )


def measured_range(task: Task, frozen: Arrays, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest of each latent channel over the first training volumes, [c] float32 each."""
    found = list(first_latents(task, frozen, dataset))
    low, high = (np.stack([bound(latents, axis=(0, 1, 2)) for latents in found]) for bound in (np.min, np.max))
    return low.min(axis=0), high.max(axis=0)


def measured_deviation(task: Task, frozen: Arrays, dataset: Dataset) -> np.ndarray:
    """The standard deviation of all latents' values over the first training volumes (arXiv 2112.10752, G), scalar float32."""
    sums = [
        (latents.size, latents.sum(dtype=np.float64), np.square(latents, dtype=np.float64).sum())
        for latents in first_latents(task, frozen, dataset)
    ]
    count, total, squares = np.sum(sums, axis=0)
    return np.sqrt(squares / count - (total / count) ** 2).astype(np.float32)


def first_latents(task: Task, frozen: Arrays, dataset: Dataset) -> Iterator[np.ndarray]:
    """Latents [d, h, w, c] of the first training volumes, encoded, or read where the dataset holds latents."""
    encode = None if dataset.latents else local_encoder(task, frozen)
    count = volume_count(dataset, "train", MEASURED)
    for n in range(count):
        values = volumes(dataset, "train", count, chosen=[n])[0]
        yield encode(values) if encode else values


def local_encoder(task: Task, frozen: Arrays) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a function from a volume [D, H, W] to its latents [d, h, w, c], on this process's first device alone."""
    own = jax.tree.map(np.asarray, frozen["vqgan"])
    encode = jax.jit(task.latents.autoencoder.encode)
    return lambda volume: np.asarray(encode(own, volume[None]))[0]


def on_every_device(arrays: Arrays, mesh: Mesh) -> Arrays:
    """The arrays whole on every device of the mesh."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(arrays) if arrays else arrays
