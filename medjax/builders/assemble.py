"""Makes what a job needs of a configuration, in one order that no job has to know.

The order matters: what a task reads and never trains decides which data it may have, and is completed by them; and what
cannot work fails before any data are touched.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.datasets import Dataset
from data_pipelines.records import Latents
from medjax.builders.pretrained import (
    Frozen,
    blank_frozen,
    frozen_of,
    frozen_shapes,
    known_frozen,
    latents_of,
    on_every_device,
    task_of,
    tell_of_another_division,
    unit_range,
    with_own_vqgan,
    with_range,
)
from medjax.builders.steps import optimizer_of, volume_shapes
from medjax.errors import UserError
from medjax.runtime import multihost
from medjax.runtime.mesh import AXES, check_batch_size, check_volume_size, make_mesh
from medjax.runtime.optimizer import Schedule
from medjax.runtime.workdir import read_json
from medjax.task import Batch, Task

NOTHING: Mapping[str, Any] = MappingProxyType({})
OpenData = Callable[[ConfigDict, int, Latents | None], Dataset | None]


@dataclasses.dataclass(frozen=True)
class Needs:
    """Says what a job is to be given besides task, mesh and optimiser, and so what has to be right for it.

    Attributes:
      training: whether it takes training steps.
      sampling: whether it draws volumes.
      data: function that opens the dataset, as `data_pipelines.batches.open_dataset`; None where no data are needed.
      pretrained: "read"; "encoder", read but without the range of latents; "blank", with untrained networks where none is
        named; "shapes", with nothing read.
      own: whether the job is about the run in its workdir, which must then have read the same until now.
    """

    training: bool = False
    sampling: bool = False
    data: OpenData | None = None
    pretrained: str = "read"
    own: bool = True


@dataclasses.dataclass(frozen=True)
class Run:
    """Holds what a job works with.

    Attributes:
      config: configuration in force (`in_force`); what was given is what a run records.
      task: what is learned, or was.
      mesh: devices.
      schedule: learning rate by step.
      optimizer: optimiser that follows it.
      pretrained: what the task reads and never trains.
      dataset: volumes; None where the job needs none, or there are none.
      spec: shapes of a batch of `data.batch_size` examples, of all that the task reads of it.
    """

    config: ConfigDict
    task: Task
    mesh: Mesh
    schedule: Schedule
    optimizer: optax.GradientTransformation
    pretrained: Frozen
    dataset: Dataset | None
    spec: Batch


def assemble(
    config: ConfigDict,
    workdir: pathlib.Path | None,
    needs: Needs,
    decided: Mapping[str, Any] = NOTHING,
    mesh: Mesh | None = None,
) -> Run:
    """Makes task, mesh and optimiser, reads pretrained networks, opens the data, and says what a batch holds.

    Args:
      config: as it was given.
      workdir: the run's folder; None where there is none.
      needs: what the job needs.
      decided: values of keys that `config` leaves open, as planning/memory_fit decides them, by their dotted names.
      mesh: devices in place of those that `config.mesh` asks for.

    Raises:
      UserError, DataError: something cannot work, told before any data are touched where it can be.
    """
    config = in_force(config, workdir, decided, needs)
    task, mesh = task_of(config), mesh or make_mesh(config.mesh)
    _check_task(config, task, needs)
    _check_sizes(config, task, mesh, needs)
    schedule, optimizer = optimizer_of(config, task)
    known = known_frozen(workdir) if needs.own and workdir else None
    pretrained = _pretrained(config, task, mesh, known, needs)
    dataset = None
    if needs.data:
        latents = latents_of(pretrained, task)
        dataset = multihost.on_all_processes(lambda: needs.data(config.data, config.seed, latents))
    spec = batch_spec(config, task, dataset)
    if needs.pretrained == "read":
        pretrained = with_range(pretrained, config, task, mesh, dataset, known)
    return Run(config, task, mesh, schedule, optimizer, pretrained, dataset, spec)


def in_force(
    config: ConfigDict, workdir: pathlib.Path | None, decided: Mapping[str, Any] = NOTHING, needs: Needs = Needs()
) -> ConfigDict:
    """The configuration with what it leaves open decided; itself where nothing is open. Nowhere else is one changed.

    Open are `train.remat="auto"` and `sample.batch_size=0`, which depend on memory, and `latents.vqgan`, where a run has a
    copy of its own or has recorded which it was. Without training nothing is kept that could be made anew.

    Raises:
      UserError: a run has learned on another VQ-GAN than the one that is named.
    """
    changes = dict(decided)
    if config.train.remat == "auto" and not needs.training:
        changes["train.remat"] = "none"
    vqgan = _vqgan_in_force(config, workdir, needs.own) if workdir and "latents" in config else None
    if vqgan:
        changes["latents.vqgan"] = vqgan
    if not changes:
        return config
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


def one_device() -> Mesh:
    """The mesh of a job that computes next to nothing."""
    return make_mesh(dict.fromkeys(AXES, 1))


def batch_spec(config: ConfigDict, task: Task, dataset: Dataset | None) -> Batch:
    """The shapes of a batch of `data.batch_size` examples, of what both the data hold and the task reads.

    Without a dataset they are those of volumes, and of what the task is told besides.

    Raises:
      UserError: the task reads labels, and the data have not that many; or the data have several images.
    """
    classes = config.model.get("classes", 0)
    if dataset is not None and dataset.channels > 1:
        raise UserError(
            f"data.channels is {tuple(config.data.channels)}, but the models learn one image: give one of them"
        )
    if dataset is None:
        return volume_shapes(tuple(config.data.size), config.data.batch_size) | task.told_spec(config.data.batch_size)
    if classes and not dataset.classes:
        raise UserError(f"model.classes is {classes}, but the data have no labels: set data.label_name or data.labels")
    if classes and dataset.classes > classes:
        raise UserError(
            f"model.classes is {classes}, but the labels go to {dataset.classes - 1}: use {dataset.classes}"
        )
    shape = (config.data.batch_size, *dataset.example_shape)
    return {dataset.content: jax.ShapeDtypeStruct(shape, jnp.float32)} | task.told_spec(config.data.batch_size)


def tell_of_unused_labels(run: Run) -> None:
    """Says on stderr where the data have labels and the model could learn them, but does not."""
    data = run.config.data
    if run.task.generates and run.dataset.classes and "class" not in run.spec:
        key = "data.labels" if data.labels else "data.label_name"
        print(f"{key} is {data[key[5:]]}, but this model learns no labels: they are not used", file=sys.stderr)


def _vqgan_in_force(config: ConfigDict, workdir: pathlib.Path, own: bool) -> str | None:
    """Names the VQ-GAN's folder where it is another than `latents.vqgan` says."""
    named = config.latents.vqgan
    if own or not named or not (pathlib.Path(named).expanduser() / "config.json").exists():
        found = with_own_vqgan(config, workdir).latents.vqgan
    else:
        found = named
    if not found and own and (workdir / "config.json").exists():
        latents = read_json(workdir / "config.json").get("latents")
        found = latents.get("vqgan") if isinstance(latents, dict) else None
    return found if found != named else None


def _check_task(config: ConfigDict, task: Task, needs: Needs) -> None:
    """Raises UserError for what the task does not do."""
    if needs.sampling and not task.generates:
        raise UserError(
            f"task is {config.task!r}, which draws no samples: train a latent diffusion on it and sample that"
        )
    if not (needs.training and needs.own):
        return
    if config.train.evaluate_every and not task.generates:
        raise UserError(f"train.evaluate_every is set, but task {config.task!r} draws no samples: leave it at 0")
    if config.train.ema_decay and not task.averaged:
        raise UserError(
            f"train.ema_decay is {config.train.ema_decay}: the codebook and batch statistics of a VQ-GAN are of its "
            "parameters, not of their average; leave it at 0"
        )
    tell_of_another_division(config)


def _check_sizes(config: ConfigDict, task: Task, mesh: Mesh, needs: Needs) -> None:
    """Raises UserError for volumes that the networks, or batches that the mesh, cannot divide."""
    if needs.training or needs.sampling:
        check_volume_size(tuple(config.data.size), mesh, task.size_multiple)
    if needs.training:
        check_batch_size("data.batch_size", config.data.batch_size, mesh, config.train.accumulate)
    if needs.sampling:
        check_batch_size("sample.batch_size", config.sample.batch_size, mesh)


def _pretrained(config: ConfigDict, task: Task, mesh: Mesh, known: Mapping[str, Any] | None, needs: Needs) -> Frozen:
    """Reads what the task reads and never trains, or makes what stands in for it."""
    if needs.pretrained == "shapes":
        return Frozen(frozen_shapes(task), {})
    if needs.pretrained != "blank" or "vqgan" not in task.pretrained:
        return frozen_of(config, task, mesh, known, losses=needs.training)
    if not config.latents.vqgan:
        return blank_frozen(task, mesh)
    read = frozen_of(config, task, mesh, known)
    return dataclasses.replace(read, arrays=read.arrays | on_every_device(unit_range(task), mesh))
