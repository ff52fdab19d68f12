"""Defines what a training step asks of a network: which times, which target, which weights."""

import dataclasses

import jax
import jax.numpy as jnp

from medjax.diffusion import learned_variance, predictions, process, times
from medjax.diffusion.schedules import Schedule

Variables = dict[str, jax.Array]

LOSSES = ("mse", "l1")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Defines the training of a denoiser.

    Attributes:
      schedule: schedule of the noise.
      prediction: target of the network: "x_0", "noise", "v" or "flow" (predictions.py).
      times: distribution of the trained times: "uniform", "continuous" or "importance" (times.py).
      min_snr: gamma of min-SNR weights, which keep easy times from outweighing hard ones; 0: all losses weigh alike.
      loss: cost of its errors: "mse", their squares, or "l1", their magnitudes.
      learned_variance: the network has twice the channels, the second half being variances (learned_variance.py).
    """

    schedule: Schedule
    prediction: str = "x_0"
    times: str = "uniform"
    min_snr: float = 0.0
    loss: str = "mse"
    learned_variance: bool = False

    def init(self) -> Variables:
        """Returns what is learned of the times without gradients: their losses, for importance sampling; otherwise nothing."""
        return times.no_history(self.schedule.steps) if self.times == "importance" else {}

    def draw_times(self, variables: Variables, key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Draws times [B] for the examples of these rows, and the weights [B] of their losses; None: all 1."""
        steps = self.schedule.steps
        weights = None
        if self.times == "importance":
            t, weights = times.important(key, rows, variables)
        else:
            t = {"uniform": times.uniform, "continuous": times.continuous}[self.times](key, rows, steps)
        return t, weights

    def weights(self, t: jax.Array) -> jax.Array | None:
        """Returns the weights of the squared errors at the times t, [B]; None: all 1."""
        return predictions.min_snr_weight(self.prediction, self.schedule, t, self.min_snr) if self.min_snr else None

    def network_input(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """Returns what the network sees of x_t."""
        return predictions.network_input(self.prediction, self.schedule, x_t, t)

    def target(self, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
        """Returns what the network's prediction should be."""
        return predictions.target(self.prediction, self.schedule, x_0, t, noise)

    def errors(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Returns the loss of each value of the prediction, in the shape of both."""
        return jnp.abs(prediction - target) if self.loss == "l1" else (prediction - target) ** 2

    def split(self, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Splits the network's output into the prediction and the variances v, None where they are not learned."""
        return tuple(jnp.split(output, 2, axis=-1)) if self.learned_variance else (output, None)

    def x_0_from(self, x_t: jax.Array, t: jax.Array, prediction: jax.Array) -> jax.Array:
        """Returns the x_0 that the prediction means."""
        return predictions.x_0_from(self.prediction, self.schedule, x_t, t, prediction)

    def bound(self, x_0: jax.Array, x_t: jax.Array, t: jax.Array, prediction: jax.Array, v: jax.Array) -> jax.Array:
        """Returns the term that teaches the variances, [B], to be added to the loss (hybrid loss of arXiv 2102.09672, eq. 16)."""
        estimate = self.x_0_from(x_t, t, prediction)
        terms = learned_variance.bound(self.schedule, x_0, x_t, t, estimate, v)
        return learned_variance.VLB_WEIGHT * self.schedule.steps * terms

    def remember(self, variables: Variables, t: jax.Array, losses: jax.Array) -> Variables:
        """Returns the variables after a batch of losses [B] at the times t."""
        return times.remember(variables, t, losses) if self.times == "importance" else variables

    def q_sample(self, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
        """Returns x_t."""
        return process.q_sample(self.schedule, x_0, t, noise)
