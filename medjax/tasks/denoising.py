"""Trains, validates and runs a denoiser, whatever x_0 is and whatever its network is told besides."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax.diffusion import process
from medjax.diffusion.guidance import Estimate
from medjax.diffusion.interpolation import lerp, slerp
from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers import loop
from medjax.diffusion.samplers.loop import NoiseAt, State
from medjax.diffusion.samplers.options import Sampling
from medjax.diffusion.schedules import Schedule
from medjax.layers.spatial import constrain_volume

Arrays = Any
Predict = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]]  # of (x_t, t): Objective.split's result
ByPart = Callable[[jax.Array], jax.Array]  # what each value costs, like x_0 -> means [B, parts]

QUARTERS = 4  # of the schedule, whose losses are told apart


def normal_by_row(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], each example's keyed by its row."""
    return constrain_volume(jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape))(rows))


def loss_and_gradients(
    objective: Objective,
    network: Callable[[Arrays, jax.Array, jax.Array, jax.Array], jax.Array],
    params: Arrays,
    variables: Arrays,
    x_0: jax.Array,
    rows: jax.Array,
    key: jax.Array,
    by_part: ByPart,
) -> tuple[Arrays, Arrays, jax.Array, jax.Array, jax.Array]:
    """Gradient of the mean over examples and parts of the weighted loss, at one random time an example.

    Args:
      objective: what is taught.
      network: its output for (params, what it sees, t [B], a key for dropout).
      params, variables: as the task has them.
      x_0: [B, ...], float32.
      rows: [B], each example's place in the whole batch, which keys its randomness.
      key: of the step.
      by_part: joins the values that count as one part of the loss.

    Returns:
      The gradients and the variables after them; the loss; the unweighted losses [B, parts]; and the times [B].
    """
    t_key, noise_key, dropout_key = jax.random.split(key, 3)
    t, time_weights = objective.draw_times(variables, t_key, rows)
    noise = normal_by_row(noise_key, rows, x_0.shape[1:])

    def loss_of(params: Arrays) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x_t = objective.q_sample(x_0, t, noise)
        output = network(params, objective.network_input(x_t, t), t, jax.random.fold_in(dropout_key, rows[0]))
        prediction, v = objective.split(output)
        errors = by_part(objective.errors(prediction, objective.target(x_0, t, noise)))
        losses = weighted(errors, objective.weights(t))
        if v is not None:
            losses += objective.bound(x_0, x_t, t, prediction, v)[:, None]
        return jnp.mean(weighted(losses, time_weights)), (errors, jnp.mean(losses, axis=1))

    (loss, (errors, losses)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return grads, objective.remember(variables, t, losses), loss, errors, t


def losses_by_quarter(objective: Objective, errors: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
    """Mean of losses [B, parts] in each quarter of the schedule; not a number where the batch had no such time."""
    quarter = t * QUARTERS // objective.schedule.steps
    return {f"loss/quarter_{q + 1}": jnp.mean(errors, where=(quarter == q)[:, None]) for q in range(QUARTERS)}


def validation_losses(
    objective: Objective, predict: Predict, x_0: jax.Array, rows: jax.Array, key: jax.Array, by_part: ByPart
) -> jax.Array:
    """Losses [quarter, B, parts], unweighted, at one fixed time in each quarter of the schedule, with fixed noise."""
    # The golden ratio spreads the times of successive volumes evenly over the quarter.
    within = jnp.mod(rows.astype(jnp.float32) * 0.6180339887, 1.0)

    def losses_in(quarter: jax.Array) -> jax.Array:
        t = ((quarter + within) / QUARTERS * objective.schedule.steps).astype(jnp.int32)
        noise = normal_by_row(jax.random.fold_in(key, quarter), rows, x_0.shape[1:])
        prediction, _ = predict(objective.q_sample(x_0, t, noise), t)
        return by_part(objective.errors(prediction, objective.target(x_0, t, noise)))

    return jax.lax.map(losses_in, jnp.arange(QUARTERS))


def validation_metrics(losses: jax.Array) -> dict[str, jax.Array]:
    """Averages what `validation_losses` gives into "val_loss" [B], and into that of each quarter."""
    quarters = {f"val_loss/quarter_{q + 1}": jnp.mean(losses[q], axis=-1) for q in range(QUARTERS)}
    return {"val_loss": jnp.mean(losses, axis=(0, 2)), **quarters}


def denoised_in_one_step(
    objective: Objective,
    predict: Predict,
    x_0: jax.Array,
    rows: jax.Array,
    key: jax.Array,
    to_volumes: Callable[[jax.Array], jax.Array],
) -> dict[str, jax.Array]:
    """x_0 noised to a quarter, a half and three quarters of the schedule, and denoised in one step, as volumes."""

    def volumes_from(quarter: jax.Array) -> jax.Array:
        t = jnp.full(rows.shape, quarter * objective.schedule.steps // QUARTERS, jnp.int32)
        noise = normal_by_row(jax.random.fold_in(key, quarter), rows, x_0.shape[1:])
        x_t = objective.q_sample(x_0, t, noise)
        prediction, _ = predict(x_t, t)
        return to_volumes(objective.x_0_from(x_t, t, prediction))

    volumes = jax.lax.map(volumes_from, jnp.arange(1, QUARTERS))
    return {f"denoised_from_{i + 1}_of_{QUARTERS}": volume for i, volume in enumerate(volumes)}


def noise_by_key(keys: jax.Array, shape: tuple[int, ...]) -> NoiseAt:
    """Standard normal noise [B, *shape] for each step of a sampler, each example's by its key."""

    def noise_at(i: jax.Array | int) -> jax.Array:
        return constrain_volume(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys))

    return noise_at


def first_state(
    schedule: Schedule,
    noise_at: NoiseAt,
    x_0: jax.Array | None = None,
    other: jax.Array | None = None,
    share: jax.Array | None = None,
) -> State:
    """Returns where sampling on a schedule starts from: noise, or x_0 with as much noise as the schedule ends at.

    Args:
      schedule: whose steps will be taken; the sampler itself asks for the noise of 0 .. steps - 1.
      noise_at: as `noise_by_key` makes it.
      x_0: [B, ...], where it starts from more than noise.
      other, share: like x_0, and [B] in [0, 1]: then what lies between the two.
    """
    noise = noise_at(schedule.steps)
    if x_0 is None:
        return loop.first_state(noise)
    if other is not None:
        x_0 = lerp(x_0, other, share)
        noise = slerp(noise, noise_at(schedule.steps + 1), share)
    t = loop.for_batch(x_0, schedule.steps - 1)
    return loop.first_state(process.q_sample(schedule, x_0, t, noise))


def run_steps(
    objective: Objective,
    sampling: Sampling,
    estimate: Estimate,
    noise_at: NoiseAt,
    state: State,
    first: int | jax.Array,
    end: int | jax.Array,
) -> State:
    """Takes the steps first, first - 1, ..., down to `end` exclusive, each by an estimate of x_0."""
    has_variance = objective.learned_variance and sampling.sampler == "ancestral"

    def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        x_0, v = estimate(x_t, t)
        return (x_0, v) if has_variance else x_0

    step = sampling.step(sampling.schedule(objective.schedule), has_variance)
    return loop.run(step, denoise, noise_at, state, first, end)


def weighted(errors: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Errors [B, parts], each example's times its weight; None: as they are."""
    return errors if weights is None else errors * weights[:, None]
