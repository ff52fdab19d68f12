"""Sets up what each part of `--mode=benchmark` needs besides the run: a batch, a state, the compiled training step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from medjax.benchmarking.timing import Timing, measure
from medjax.builders.assemble import Run
from medjax.builders.steps import rows_here, train_step_of
from medjax.runtime import multihost
from medjax.runtime.mesh import put_batch
from medjax.runtime.train_state import TrainState, build_sharded, state_builder
from medjax.task import Arrays, Batch


@dataclasses.dataclass(frozen=True)
class Bench:
    """Holds what every part is measured with.

    Attributes:
      run: what runs where; its configuration's `benchmark` says how long to measure.
    """

    run: Run

    def timed(self, **work: Callable[[int], None]) -> dict[str, Timing]:
        """Runs `timing.measure` as the configuration asks."""
        benchmark = self.run.config.benchmark
        return measure(work, windows=benchmark.windows, seconds=benchmark.seconds, limit=benchmark.limit_seconds)

    @property
    def batch_size(self) -> int:
        return self.run.config.data.batch_size

    @functools.cached_property
    def shapes(self) -> Batch:
        """Returns the shapes of this process's rows of a training batch."""
        return rows_here(self.run.spec, self.run.mesh)

    @functools.cached_property
    def batch(self) -> Batch:
        """Draws noise in the shape of a training batch, and the first label."""
        random = np.random.default_rng(0)
        rows = {
            name: np.clip(random.normal(size=a.shape) / 3, -1, 1).astype(a.dtype)
            if a.ndim > 1
            else np.zeros(a.shape, a.dtype)
            for name, a in self.shapes.items()
        }
        return put_batch(rows, self.run.mesh, self.batch_size)

    def state(self) -> TrainState:
        """Makes initial parameters at the last step of training, when all that begins later, as discriminators do, has begun."""
        run = self.run
        build = state_builder(run.task, run.optimizer)
        state = build_sharded(build, jax.random.key(run.config.seed), self.batch, run.mesh)
        return dataclasses.replace(state, step=state.step + max(0, run.config.train.steps - 1))


@dataclasses.dataclass
class Stepping:
    """Holds the compiled training step, and the state it has come to."""

    step: jax.stages.Compiled
    state: TrainState
    frozen: Arrays
    compile_seconds: float

    def run(self, batches: Iterator[Batch]) -> None:
        """Takes steps over all batches, as the training loop does: never more than one ahead of the devices."""
        last = None
        for batch in batches:
            self.state, metrics = self.step(self.state, self.frozen, batch)
            if last is not None:
                jax.block_until_ready(last["loss"])
            last = metrics
        jax.block_until_ready(self.state)


def compile_step(bench: Bench) -> Stepping:
    """Compiles the training step, its time apart."""
    state = bench.state()
    function = train_step_of(bench.run.config, bench.run.task, bench.run.optimizer, state, bench.batch, bench.run.mesh)
    begin = time.perf_counter()
    step = function.lower(state, bench.run.pretrained.arrays, bench.batch).compile()
    seconds = time.perf_counter() - begin
    multihost.barrier()
    return Stepping(step, state, bench.run.pretrained.arrays, seconds)


def described(timing: Timing, volumes: float) -> dict[str, Any]:
    """Returns a timing as JSON, of work on so many volumes a device."""
    return {
        "seconds": timing.median,
        "spread": timing.spread,
        "windows": list(timing.windows),
        "calls_per_window": timing.calls,
        "volumes_per_second_per_device": volumes / timing.median,
    }
