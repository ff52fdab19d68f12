"""Small evaluations while a model trains: what it draws now, by the numbers of `--mode=evaluate`.

All processes draw, and go on training; process 0 judges what was drawn beside that, in a thread of its own. A measurement
that fails, for want of the devices' memory or of a model that draws NaN, is a row of nulls and not the end of training.
"""

import math
import sys
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from data_pipelines.batches import volume_count, volumes
from medjax.builders.assemble import Run
from medjax.errors import UserError
from medjax.evaluation.compare import check, weights_of
from medjax.evaluation.score import Score
from medjax.evaluation.scores import PLAIN_NAMES, Featured, feature_scores
from medjax.generation.sampler import CompiledSampler
from medjax.generation.told import told_of
from medjax.metrics.ms_ssim_pairs import mean_ms_ssim
from medjax.models.features import load_backbone
from medjax.runtime.mesh import batch_ways, row_everywhere
from medjax.runtime.metrics_log import MetricsLog
from medjax.runtime.out_of_memory import is_out_of_memory
from medjax.runtime.train_state import TrainState

MOST_REAL = 64  # held-out volumes, in memory of process 0


class Trials:
    """Draws the same few samples of each state it is given, and logs how they compare with held-out volumes.

    The samples' noise is that of `sample.seed` and their numbers, so curves show the model and not chance. Copies are not
    looked for: that takes all training volumes, and `--mode=evaluate`.

    Args:
      run: what trains; of its dataset validation and test volumes are the real ones.
      log: where rows go; only process 0's is read.

    Raises:
      UserError: fewer than two volumes are held out.
    """

    def __init__(self, run: Run, log: MetricsLog):
        config, dataset = run.config, run.dataset
        if dataset.content != "image":
            raise UserError(
                "train.evaluate_every is set, but data.records holds latents: leave it at 0, or give volumes"
            )
        held_out = sum(volume_count(dataset, side) for side in ("validation", "test"))
        if held_out < 2:
            raise UserError(
                f"train.evaluate_every is set, but {held_out} volumes are held out: data.split must leave 2"
            )
        if config.train.evaluate_count < 2:
            raise UserError(f"train.evaluate_count is {config.train.evaluate_count}: use 2 or more")
        check(config.evaluate)
        self._backbone = load_backbone(weights_of(config.evaluate)[0])
        self._run, self._config, self._mesh, self._log = run, config, run.mesh, log
        self._dataset, self._drawing, self._real = dataset, None, None
        self._pool = ThreadPoolExecutor(1)
        self._judging: list[tuple[int, Future]] = []

    def begin(self, step: int, state: TrainState) -> None:
        """Draws samples of the state with the moving average of its parameters; every process must call."""
        try:
            drawn = self._drawn(state)
        except jax.errors.JaxRuntimeError as error:
            # With several processes the others would wait for this one.
            if jax.process_count() > 1 or not is_out_of_memory(error):
                raise
            failed: Future = Future()
            failed.set_exception(error)
            self._judging.append((step, failed))
            return
        if jax.process_index() == 0:
            self._judging.append((step, self._pool.submit(self._judged, drawn)))

    def _drawn(self, state: TrainState) -> np.ndarray:
        batch_size, count = batch_ways(self._mesh), self._config.train.evaluate_count
        batches = [np.arange(first, first + batch_size, dtype=np.uint32) for first in range(0, count, batch_size)]
        params = state.ema if self._config.sample.ema else state.params
        told = told_of(self._config.sample, self._mesh, batch_size)
        if self._drawing is None:
            seed = self._config.sample.seed
            self._drawing = CompiledSampler(
                self._run.task,
                self._mesh,
                params,
                state.variables,
                seed,
                batches[0],
                told,
                None,
                self._run.pretrained.arrays,
            )
        drawing = self._drawing.of(params, state.variables)
        drawn = []
        for indices in batches:
            batch = drawing(indices, told)
            whole = jax.process_count() == 1
            drawn.append(np.asarray(batch) if whole else np.stack([self._row(batch, n) for n in range(batch_size)]))
        return np.concatenate(drawn)[:count]

    def write(self) -> None:
        """Waits for what is being judged, and logs it: rows up to a checkpoint must be there before it is.

        Raises:
          OSError: what ends training too, a full disk among them.
        """
        for step, judged in self._judging:
            try:
                values = judged.result()
            except OSError:
                raise
            except Exception as error:  # whatever it was, the model that trains is none the worse for it
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                print(f"train.evaluate_every: step {step} was not measured ({reason})", file=sys.stderr)
                values = dict.fromkeys((f"evaluate/{name}" for name in PLAIN_NAMES), math.nan)
            self._log.write(step, values)
        self._judging.clear()

    def close(self) -> None:
        self.write()
        self._pool.shutdown()

    def _row(self, batch: jax.Array, n: int) -> np.ndarray:
        return row_everywhere(batch, n, self._mesh)

    def _judged(self, generated: np.ndarray) -> dict[str, float]:
        evaluate = self._config.evaluate
        backbone, features, real = self._real_ones()
        drawn = backbone.features(generated, evaluate.batch_size)
        found = Featured(backbone.name, features, drawn, features[:0], features, "")
        scores: list[Score] = feature_scores(found, evaluate.k)
        values = {f"evaluate/{score.name}": score.value for score in scores if score.name in PLAIN_NAMES}
        for name, each in (("generated", generated), ("real", real)):
            try:
                values[f"evaluate/ms_ssim_{name}"] = mean_ms_ssim(each, evaluate.pairs or None, evaluate.seed).mean
            except ValueError:  # too small for its window
                continue
        return {name: math.nan if value is None else value for name, value in values.items()}

    def _real_ones(self) -> tuple:
        """The backbone, and the held-out volumes and their features, taken at the first time."""
        if self._real is None:
            backbone = self._backbone
            real = np.concatenate([volumes(self._dataset, side, MOST_REAL) for side in ("validation", "test")])[
                :MOST_REAL
            ]
            self._real = backbone, backbone.features(real, self._config.evaluate.batch_size), real
        return self._real


def trials_of(run: Run, log: MetricsLog) -> Trials | None:
    """The trials of a run, None where `train.evaluate_every` is 0."""
    return Trials(run, log) if run.config.train.evaluate_every else None
