"""Prints the table of spreads in docs/sampling.md: how wide the samples of each sampler are for data of a known width.

  python benchmarks/sampling_spread.py
  python benchmarks/sampling_spread.py --evaluations 25 1000 --trained cosine --levels trained log_snr

The data are Gaussian, of mean 0 and of each of `DEVIATIONS`, so the best denoiser is known, and with it every step of every
sampler is a linear map of x_T and of its noises: the standard deviation of the samples is a sum of squares, without drawing
any. It is given divided by the data's, 1 being right. The denoiser is told times of its training, as a network is.
The last step of each sampler is the estimate of x_0 itself, so samples can only be as wide as the best estimate at the least
noise of training: that limit is the row "exact". Each cell holds one number for each of `DEVIATIONS`.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs.common import base  # noqa: E402
from medjax.diffusion.samplers import loop  # noqa: E402
from medjax.diffusion.samplers.loop import Denoise  # noqa: E402
from medjax.diffusion.samplers.options import SAMPLERS, Sampling  # noqa: E402
from medjax.diffusion.schedules import Schedule  # noqa: E402
from medjax.tasks.diffusion_choices import make_sampling, make_schedule  # noqa: E402

DEVIATIONS = (0.02, 0.1, 0.5, 1.0)  # of the wavelets' fine details to that of a whole range


def spread(sampling: Sampling, trained: Schedule, deviations: tuple[float, ...] = DEVIATIONS) -> np.ndarray:
    """The standard deviation of samples over that of the data, for data of each deviation: [deviations], float64."""
    schedule = sampling.schedule(trained)
    rows = jnp.arange(schedule.steps + 1)  # each is given one unit of noise, at one step or, the last, in x_T
    with jax.enable_x64():

        def only(i: jax.Array) -> jax.Array:
            return jnp.tile(jnp.where(rows == i, 1.0, 0.0)[:, None], len(deviations))

        def run() -> jax.Array:
            state = loop.first_state(only(schedule.steps))
            denoise, step = best_denoiser(trained, np.array(deviations)), sampling.step(schedule)
            return loop.run(step, denoise, only, state, schedule.steps - 1, -1).x_t

        return np.sqrt(np.sum(np.asarray(jax.jit(run)()) ** 2, axis=0)) / np.array(deviations)


def best_denoiser(trained: Schedule, deviations: np.ndarray) -> Denoise:
    """E[x_0 | x_t] for data N(0, deviations^2), one deviation a column, by the times of `trained`."""
    times = np.arange(trained.steps)

    def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array:
        u = jnp.interp(t.astype(x_t.dtype), times, trained.flow_times)[:, None]
        signal, noise = (1 - u) / jnp.hypot(1 - u, u), u / jnp.hypot(1 - u, u)
        return signal * deviations**2 / (signal**2 * deviations**2 + noise**2) * x_t

    return denoise


def exact(trained: Schedule, deviations: tuple[float, ...] = DEVIATIONS) -> np.ndarray:
    """Returns the `spread` of samples that are right up to the last step, where they become their own best estimate."""
    signal_2, variance = trained.alphas_cumprod[0], np.array(deviations) ** 2
    return np.sqrt(signal_2 * variance / (signal_2 * variance + 1 - signal_2))


def sampling_of(sampler: str, steps: int, levels: str, trained: Schedule) -> Sampling:
    """Makes the sampling that the keys `sample.*` of a configuration make, `levels` being `sample.schedule`."""
    sample = base().sample
    sample.update({"sampler": sampler, "steps": steps, "schedule": levels, "variance": "small"})
    return make_sampling(sample, trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", nargs="+", default=["linear", "cosine", "flow"], help="diffusion.schedule")
    parser.add_argument("--training_steps", type=int, default=1000, help="diffusion.steps")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--levels", nargs="+", default=["trained", "karras", "log_snr"], help="sample.schedule")
    parser.add_argument(
        "--evaluations", nargs="+", type=int, default=[10, 25, 50, 1000], help="of the network, two for a step of heun"
    )
    options = parser.parse_args()

    print("| trained with | sampler | levels |", *(f"{n} |" for n in options.evaluations))
    print("|---|---|---|" + "---|" * len(options.evaluations))
    for name in options.trained:
        trained = make_schedule(name, options.training_steps)
        print(f"| {name} | exact | | {cell(exact(trained))} |" + " |" * (len(options.evaluations) - 1))
        for sampler in options.samplers:
            for levels in options.levels:
                print(f"| {name} | {sampler} | {levels} |", end="")
                for evaluations in options.evaluations:
                    steps = (evaluations + 1) // 2 if sampler == "heun" else evaluations
                    print(
                        f" {cell(spread(sampling_of(sampler, steps, levels, trained), trained))} |", end="", flush=True
                    )
                print()


def cell(values: np.ndarray) -> str:
    """The value of each deviation, in one cell of the table."""
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
