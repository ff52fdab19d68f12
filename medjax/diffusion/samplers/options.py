"""Chooses how samples are drawn from a trained denoiser: none of this is learned, so any model takes any of it."""

import dataclasses

import numpy as np

from medjax.diffusion.samplers.ancestral import ancestral_steps, learned_ancestral_steps
from medjax.diffusion.samplers.ddim import ddim_steps
from medjax.diffusion.samplers.dpm_solver import dpm_solver_steps
from medjax.diffusion.samplers.euler_heun import euler_steps, heun_steps
from medjax.diffusion.samplers.loop import Step
from medjax.diffusion.schedules import Schedule, follow, respace, respace_to

SAMPLERS = ("ancestral", "ddim", "dpm_solver", "dpm_solver_sde", "euler", "heun")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Holds the choices of a sampling run.

    Attributes:
      sampler: one of SAMPLERS.
      steps: number of steps of the training schedule to take, evenly spaced, first and last among them; None for all.
      levels: another schedule whose noise levels are sampled, each of its steps; None: the training schedule's `steps`.
      eta: stochasticity of DDIM; 0 is deterministic given the first noise, 1 has the posterior variance (arXiv 2010.02502, 16)
      variance: variance of the ancestral sampler where not learned: "large", beta_t, or "small", the posterior variance.
      strength: share of the way that is gone, (0, 1]: the steps at the first such share of the training's times, one at least.
    """

    sampler: str = "ddim"
    steps: int | None = None
    levels: Schedule | None = None
    eta: float = 0.0
    variance: str = "large"
    strength: float = 1.0

    def schedule(self, trained: Schedule) -> Schedule:
        """Returns the steps that are taken with a network of the schedule `trained`."""
        whole = follow(trained, self.levels) if self.levels else respace(trained, self.steps or trained.steps)
        # By time and not by number, so that a strength means the same noise whatever the levels.
        taken = max(1, np.count_nonzero(whole.timesteps <= self.strength * (trained.steps - 1)))
        return whole if taken == whole.steps else respace_to(whole, np.arange(taken))

    def step(self, schedule: Schedule, learned_variance: bool = False) -> Step:
        """Returns the sampler's step on these levels; with learned variances the ancestral one expects them of `denoise`."""
        match self.sampler:
            case "ancestral" if learned_variance:
                return learned_ancestral_steps(schedule)
            case "ancestral":
                variance = schedule.posterior_variance if self.variance == "small" else schedule.fixed_large_variance
                return ancestral_steps(schedule, variance)
            case "ddim":
                return ddim_steps(schedule, self.eta)
            case "dpm_solver":
                return dpm_solver_steps(schedule)
            case "dpm_solver_sde":
                return dpm_solver_steps(schedule, stochastic=True)
            case "euler":
                return euler_steps(schedule)
            case "heun":
                return heun_steps(schedule)
        raise ValueError(f"sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
