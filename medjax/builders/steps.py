"""The steps of a configuration, made but not run: train runs them, plan compiles them for a machine that is not there."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.runtime.mesh import batch_sharding, process_rows, replicated
from medjax.runtime.optimizer import Schedule, learning_rate_schedule, make_optimizer
from medjax.runtime.programs import jit_on, options_of
from medjax.runtime.sharding import state_shardings
from medjax.runtime.train_state import TrainState, jit_train_step, make_train_step, state_builder
from medjax.task import Arrays, Batch, Task


def optimizer_of(config: ConfigDict, task: Task) -> tuple[Schedule, optax.GradientTransformation]:
    """The learning rate by step and the optimiser that follows it, one for each of the task's parts.

    Raises:
      UserError: `optimizer.decay` is unknown.
    """
    optimizer = config.optimizer
    schedule = learning_rate_schedule(
        optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        decay=optimizer.decay,
        steps=config.train.steps,
    )
    return schedule, make_optimizer(
        schedule,
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        parts=task.parts,
    )


def volume_shapes(size: tuple[int, int, int], batch_size: int) -> Batch:
    """The shapes of a batch of volumes of (D, H, W) voxels, without the volumes."""
    return {"image": jax.ShapeDtypeStruct((batch_size, *size, 1), jnp.float32)}


def rows_here(spec: Batch, mesh: Mesh) -> Batch:
    """The shapes of this process's rows of a batch."""
    (batch_size,) = {array.shape[0] for array in spec.values()}
    count = len(process_rows(mesh, batch_size))
    return {name: jax.ShapeDtypeStruct((count, *array.shape[1:]), array.dtype) for name, array in spec.items()}


def state_shapes(task: Task, optimizer: optax.GradientTransformation, batch: Batch) -> TrainState:
    """The shapes of the train state at any step; nothing is computed."""
    return jax.eval_shape(state_builder(task, optimizer), jax.random.key(0), batch)


def train_step_of(
    config: ConfigDict,
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    mesh: Mesh,
) -> Callable[[TrainState, Arrays, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted (state, frozen, batch) -> (state, metrics) of one update on the mesh; of the arguments only shapes matter."""
    train = config.train
    step = make_train_step(
        task,
        optimizer,
        seed=config.seed,
        ema_decay=train.ema_decay,
        accumulate=train.accumulate,
        ema_start=train.ema_start,
        ema_every=train.ema_every,
    )
    return jit_train_step(step, state, batch, mesh, options_of(train.xla))


def key_shapes(batch_size: int) -> jax.ShapeDtypeStruct:
    """The shape of the keys of a batch of samples."""
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))


def denoise_step_of(
    task: Task, params: Arrays, variables: Arrays, batch: Batch, mesh: Mesh
) -> Callable[[Arrays, Arrays, Arrays, jax.Array], jax.Array]:
    """The jitted (params, variables, frozen, keys [B]) -> volumes of a sampler of a single step.

    It evaluates the network once. First noise and inverse transform are in it as in a whole sample, so its memory is that
    of sampling with any number of steps. Of the arguments only shapes matter.
    """
    once = dataclasses.replace(task, sampling=dataclasses.replace(task.sampling, steps=1, levels=None))
    keys = key_shapes(batch["image"].shape[0])
    return jit_on(
        mesh,
        once.sample,
        in_shardings=(*state_shardings((params, variables), mesh), replicated(mesh), batch_sharding(mesh, keys)),
        out_shardings=batch_sharding(mesh, batch["image"]),
    )
