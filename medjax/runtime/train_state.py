"""Defines what changes from one training step to the next, and the step itself: the same for every task."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from medjax.runtime import programs
from medjax.runtime.mesh import batch_sharding, replicated
from medjax.runtime.sharding import state_shardings
from medjax.task import Arrays, Batch, Metrics, Task


@flax.struct.dataclass
class TrainState:
    """Holds everything that a checkpoint holds.

    Attributes:
      step: updates made so far, int32.
      params: parameters that gradients train, float32.
      variables: state that changes but is not trained by gradient (a codebook, batch statistics).
      opt_state: the optimiser's.
      ema: exponential moving average of `params`, which samples are drawn with; `params` itself at decay 0.
    """

    step: jax.Array
    params: Arrays
    variables: Arrays
    opt_state: Arrays
    ema: Arrays


def state_builder(task: Task, optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
    """Makes a pure function (key, batch) -> TrainState at step 0; of the batch only shapes matter for most tasks."""

    def build(key: jax.Array, batch: Batch) -> TrainState:
        params, variables = task.init(key, batch)
        # A copy: parameters and their average are donated together, so they must not be one buffer.
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), ema)

    return build


def build_sharded(build: Callable[..., TrainState], key: jax.Array, batch: Batch, mesh: Mesh) -> TrainState:
    """Runs `build` so that every array is born where it stays: no device ever holds the whole state."""
    shardings = state_shardings(jax.eval_shape(build, key, batch), mesh)
    return jax.jit(build, out_shardings=shardings)(key, batch)


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int,
    ema_start: int = 0,
    ema_every: int = 1,
) -> Callable[[TrainState, Arrays, Batch], tuple[TrainState, Metrics]]:
    """Makes the pure step: state k+1 is a function of state k, batch k and fold_in(seed, k) only.

    Args:
      task, optimizer: source of the gradients, and what turns them into updates.
      seed: seed of all randomness.
      ema_decay: decay of the moving average of the parameters.
      accumulate: microbatches a step.
      ema_start: up to this step the average is the parameters themselves.
      ema_every: after it, the average moves at every so many steps.
    """

    def train_step(state: TrainState, frozen: Arrays, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        rows = jnp.arange(batch_length(batch), dtype=jnp.int32)
        batch = {**batch, "row": rows}

        def gradients(variables: Arrays, microbatch: Batch) -> tuple[Arrays, Arrays, Metrics]:
            return task.gradients(state.params, variables, frozen, microbatch, key, state.step)

        grads, variables, metrics = accumulated(gradients, state.variables, batch, accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A young average must not remember the initial parameters: the decay starts low and rises.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        if ema_every > 1 and ema_decay:
            decay = jnp.where((state.step + 1) % ema_every == 0, decay, 1.0)
        if ema_start:
            decay = jnp.where(state.step < ema_start, 0.0, decay)
        ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
        metrics = {**metrics, "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, variables, opt_state, ema), metrics

    return train_step


def batch_length(batch: Batch) -> int:
    """Counts the examples a batch holds."""
    return next(iter(batch.values())).shape[0]


def accumulated(
    gradients: Callable[[Arrays, Batch], tuple[Arrays, Arrays, Metrics]],
    variables: Arrays,
    batch: Batch,
    accumulate: int,
) -> tuple[Arrays, Arrays, Metrics]:
    """Averages gradients and metrics over `accumulate` microbatches, `variables` passing through them in order.

    Microbatch m takes rows m, m + accumulate, ...: with the batch cut over devices in contiguous parts, each device then
    finds its share of every microbatch at home.
    """
    if accumulate == 1:
        return gradients(variables, batch)
    microbatches = jax.tree.map(
        lambda rows: rows.reshape(rows.shape[0] // accumulate, accumulate, *rows.shape[1:]).swapaxes(0, 1), batch
    )

    def body(carry, microbatch):
        total, variables = carry
        grads, variables, metrics = gradients(variables, microbatch)
        return (jax.tree.map(jnp.add, total, grads), variables), metrics

    first = jax.tree.map(lambda rows: rows[0], microbatches)
    shapes, _, _ = jax.eval_shape(gradients, variables, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (total, variables), metrics = jax.lax.scan(body, (zeros, variables), microbatches)
    return (
        jax.tree.map(lambda grad: grad / accumulate, total),
        variables,
        jax.tree.map(lambda values: jnp.nanmean(values, axis=0), metrics),
    )


def jit_train_step(
    step: Callable, state: TrainState, batch: Batch, mesh: Mesh, options: programs.Options = programs.NOTHING
) -> Callable:
    """Compiles `step` for the mesh: the state's memory is reused in place, metrics are whole on every device."""
    shardings = state_shardings(state, mesh)
    batch_shardings = {name: batch_sharding(mesh, array) for name, array in batch.items()}
    return programs.jit_on(
        mesh,
        step,
        options,
        in_shardings=(shardings, replicated(mesh), batch_shardings),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
