"""Makes noise schedules: tables over the timesteps 0 .. T-1, in float64."""

import dataclasses
from functools import cached_property

import numpy as np

MOST_NOISE = 80.0  # sigma / alpha, whose 1/80 of x_0 makes no difference (arXiv 2206.00364, table 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Holds a variance-preserving schedule (arXiv 2006.11239); tables are numpy float64 [T], cast to float32 where used.

    Attributes:
      betas: beta_t in (0, 1]; a last one of 1 leaves pure noise.
      timesteps: the timestep of the training schedule that each step stands for: what the network is told. Whole numbers, or
        fractions between the training steps where another schedule's levels are sampled (`follow`).
    """

    betas: np.ndarray
    timesteps: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Returns alpha_bar_t, the share of x_0's variance in x_t."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """Returns alpha_bar_{t-1}; 1 before the first step."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def flow_times(self) -> np.ndarray:
        """Returns each step's place on the line from x_0, at 0, to noise, at 1: the noise's share of their amplitudes.

        x_t / (signal + noise) is that point of the line, so a variance-preserving process is a flow seen through a lens.
        """
        signal, noise = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
        return noise / (signal + noise)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Returns the variance of q(x_{t-1} | x_t, x_0), eq. 7 of the paper; 0 at t = 0. "Fixed small"."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """Returns the posterior variance's logarithm, that of t = 1 standing in at t = 0."""
        with np.errstate(divide="ignore"):  # of a single step: no variance at all
            return np.log(_first_from_second(self.posterior_variance))

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """Returns the weight of x_0 in the mean of q(x_{t-1} | x_t, x_0)."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """Returns the weight of x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        return (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)

    @cached_property
    def fixed_large_variance(self) -> np.ndarray:
        """Returns beta_t, and the posterior variance of t = 1 at t = 0: what the published models sample with."""
        return np.append(_first_from_second(self.posterior_variance)[:1], self.betas[1:])


def linear(steps: int) -> Schedule:
    """Makes betas from 1e-4 to 0.02 in equal steps, times 1000 / steps (arXiv 2006.11239, any number of steps).

    Raises:
      ValueError: fewer than 21 steps, where the last beta would reach 1.
    """
    if steps <= 20:
        raise ValueError(f"a linear schedule of {steps} steps has betas of 1 or more: use at least 21, or cosine")
    return Schedule(np.linspace(1e-4, 0.02, steps, dtype=np.float64) * (1000 / steps), np.arange(steps))


def cosine(steps: int, max_beta: float = 0.999) -> Schedule:
    """Makes alpha_bar(u) = cos^2((u + 0.008) / 1.008 * pi / 2), betas at most `max_beta` (arXiv 2102.09672, eq. 17).

    That leaves a little of x_0 in the last x_t, of which a network that predicts noise has to make all of it.

    Raises:
      ValueError: no step.
    """
    if steps < 1:
        raise ValueError(f"a cosine schedule of {steps} steps: use at least 1")
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return Schedule(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta), np.arange(steps))


def vp(steps: int) -> Schedule:
    """Samples the continuous process alpha_bar(u) = exp(-(0.1 u + 19.9 u^2 / 2)) at u = 1/T .. 1 (arXiv 2011.13456, eq. 33).

    The limit of `linear` for many steps, and good for few: from pure noise in T = 2 steps (arXiv 2112.07804).

    Raises:
      ValueError: no step.
    """
    u = _times(steps, "vp")
    return from_alphas_cumprod(np.exp(-(0.1 * u + 19.9 * u**2 / 2)))


def flow(steps: int) -> Schedule:
    """Samples the straight line x_u = (1 - u) x_0 + u noise at u = 1/T .. 1 (arXiv 2209.03003), scaled to preserve variance.

    Raises:
      ValueError: no step.
    """
    u = _times(steps, "flow")
    return from_alphas_cumprod((1 - u) ** 2 / ((1 - u) ** 2 + u**2))


def karras(steps: int) -> Schedule:
    """Spaces noise levels sigma / alpha from 0.002 to 80 evenly in their 7th root (arXiv 2206.00364, eq. 5).

    Raises:
      ValueError: no step.
    """
    if steps < 1:
        raise ValueError(f"a karras schedule of {steps} steps: use at least 1")
    roots = np.linspace(MOST_NOISE ** (1 / 7), 0.002 ** (1 / 7), steps)[
        ::-1
    ]  # of one step: 80, the noise it starts from
    return from_alphas_cumprod(1 / (1 + roots**14))


def log_snr(trained: Schedule, steps: int) -> Schedule:
    """Cuts the span of noise levels that `trained` knows evenly in the logarithm of signal to noise (arXiv 2206.00927, 4).

    It runs from the least noise of training to its most, at most sigma / alpha = `MOST_NOISE`. Beyond either end a network
    has to be told a wrong time. Within them each step divides the noise by the same factor, so that solvers, which are exact
    but for how the estimate of x_0 changes in that logarithm, spend as much care on fine detail as on the outline.

    Raises:
      ValueError: no step.
    """
    if steps < 1:
        raise ValueError(f"a log_snr schedule of {steps} steps: use at least 1")
    with np.errstate(divide="ignore"):  # a last level may hold no signal
        sigma = np.minimum(np.sqrt(1 / trained.alphas_cumprod - 1), MOST_NOISE)
    levels = np.geomspace(sigma[-1], sigma[0], steps)[::-1]  # of one step: the noise it starts from
    return from_alphas_cumprod(1 / (1 + levels**2))


def from_alphas_cumprod(alphas_cumprod: np.ndarray) -> Schedule:
    """Makes the schedule with these falling alpha_bar; its timesteps count them."""
    betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return Schedule(betas, np.arange(len(betas)))


def respace(schedule: Schedule, steps: int) -> Schedule:
    """Returns the same process seen at `steps` of its timesteps only, evenly spaced, the first and the last among them.

    With a single step that is the last one, the pure noise that sampling starts from.

    Raises:
      ValueError: steps is not in 1 .. T.
    """
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"respacing a schedule of {schedule.steps} steps to {steps}: use 1 to {schedule.steps}")
    if steps == 1:
        return respace_to(schedule, np.array([schedule.steps - 1]))
    return respace_to(schedule, evenly_spaced(schedule.steps, steps))


def respace_to(schedule: Schedule, indices: np.ndarray) -> Schedule:
    """Returns the process seen at the given increasing indices only: alpha_bar is theirs, betas follow from it."""
    betas = from_alphas_cumprod(schedule.alphas_cumprod[indices]).betas
    return Schedule(betas, schedule.timesteps[indices])


def follow(trained: Schedule, levels: Schedule) -> Schedule:
    """Returns the noise levels of another schedule, to sample with a network of the training schedule `trained`.

    A denoiser knows the share of noise in what it sees and nothing of the schedule that mixed it, so it is told the time,
    between its own steps, at which training mixed that share (the nearest end beyond them).
    """
    timesteps = np.interp(levels.flow_times, trained.flow_times, trained.timesteps.astype(np.float64))
    return Schedule(levels.betas, timesteps)


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Returns `count` integers from 0 to total - 1, both included, rounded half to even from equal spacing."""
    spacing = (total - 1) / max(count - 1, 1)
    # By repeated addition, as the published code does: it decides which way a half is rounded.
    return np.round(np.cumsum(np.append(0.0, np.full(count - 1, spacing)))).astype(np.int64)


def _times(steps: int, name: str) -> np.ndarray:
    """Returns 1/T .. 1."""
    if steps < 1:
        raise ValueError(f"a {name} schedule of {steps} steps: use at least 1")
    return np.arange(1, steps + 1) / steps


def _first_from_second(table: np.ndarray) -> np.ndarray:
    """Replaces the table's first entry, a variance of 0, by the second one's (kept if there is no second)."""
    return np.append(table[1:2] if len(table) > 1 else table[:1], table[1:])
