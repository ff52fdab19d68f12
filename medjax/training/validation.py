"""The validation loss: held-out volumes, fixed times, fixed noise, so that the curve of a run is comparable with itself."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batches import Dataset, known, volume_count, volumes
from data_pipelines.transforms import from_network
from medjax.pictures import three_planes
from medjax.runtime.mesh import (
    batch_sharding,
    batch_ways,
    process_rows,
    put_batch,
    replicated,
    row_everywhere,
)
from medjax.runtime.programs import jit_on
from medjax.runtime.train_state import TrainState
from medjax.task import Batch, Metrics, Task

KEY = 0  # of the fixed noise: the same in every run, so that runs are comparable too
PICTURED = 2  # volumes


class Validation:
    """Held-out volumes in memory, each process its own, and the compiled functions that judge a state by them.

    Args:
      task: with `validate` and `previews`.
      dataset: whose "validation" volumes to use; without any, `losses` is empty.
      count: how many volumes at most.
      batch_size: of a batch, whose memory is to be that of a training step at most; the last is filled up with repeats that do
        not count. Pictures take the least batch that the mesh divides, one volume a data-parallel way.
      told: names of what is known of each volume and the task is told.
    """

    def __init__(
        self, task: Task, dataset: Dataset, mesh: Mesh, *, count: int, batch_size: int, told: Sequence[str] = ()
    ):
        self._mesh, self._dataset, self._batch_size = mesh, dataset, batch_size
        self._count, self._pictured = volume_count(dataset, "validation", count), batch_ways(mesh)
        batches = [(start, batch_size) for start in range(0, self._count, batch_size)]
        batches += [(start, self._pictured) for start in range(0, min(PICTURED, self._count), self._pictured)]
        numbers = sorted({int(n) for start, length in batches for n in self._numbers(self._rows(start, length))})
        values = known(dataset, "validation", count)
        self._told = {name: values[name] for name in told}
        self._volumes = dict(zip(numbers, volumes(dataset, "validation", count, chosen=numbers), strict=True))
        key = jax.random.key(KEY)

        def validate(state: TrainState, frozen: Any, batch: Batch) -> Metrics:
            return task.validate(state.ema, state.variables, frozen, batch, key)

        def previews(state: TrainState, frozen: Any, batch: Batch) -> dict[str, jax.Array]:
            return task.previews(state.ema, state.variables, frozen, batch, key)

        shape = jax.ShapeDtypeStruct((self._pictured, *dataset.size, 1), np.float32)
        self._validate = jit_on(mesh, validate, out_shardings=replicated(mesh))
        self._previews = jit_on(mesh, previews, out_shardings=batch_sharding(mesh, shape))

    def losses(self, state: TrainState, frozen: Any) -> dict[str, float]:
        """Each loss averaged over the volumes, with the moving average of the parameters."""
        totals: dict[str, float] = {}
        for start in range(0, self._count, self._batch_size):
            counted = min(self._batch_size, self._count - start)
            by_volume = jax.device_get(self._validate(state, frozen, self._batch(start, self._batch_size)))
            for name, values in by_volume.items():
                totals[name] = totals.get(name, 0.0) + float(np.sum(values[:counted], dtype=np.float64))
        return {name: total / self._count for name, total in totals.items()}

    def pictures(self, state: TrainState, frozen: Any) -> dict[str, np.ndarray]:
        """Mid-slices of a few volumes, as they are and denoised: name to [H, W] uint8."""
        shown: dict[str, list[np.ndarray]] = {}
        for start in range(0, min(PICTURED, self._count), self._pictured):
            batch = self._batch(start, self._pictured)
            as_they_are = {"as_they_are": batch["image"]} if "image" in batch else {}
            for name, values in (as_they_are | self._previews(state, frozen, batch)).items():
                for row in range(min(PICTURED, self._count) - start)[: self._pictured]:
                    volume = row_everywhere(values, row, self._mesh)
                    shown.setdefault(f"validation/{name}", []).append(self._planes(volume))
        return {name: np.concatenate(planes) for name, planes in shown.items()}

    def _planes(self, volume: np.ndarray) -> np.ndarray:
        return three_planes(from_network(volume[..., 0], self._dataset.axes), self._dataset.affine)

    def _batch(self, start: int, length: int) -> dict[str, jax.Array]:
        rows = self._rows(start, length)
        numbers = [int(n) for n in self._numbers(rows)]
        batch = {self._dataset.content: np.stack([self._volumes[n] for n in numbers]), "row": rows}
        told = {name: values[numbers] for name, values in self._told.items()}
        return put_batch(batch | told, self._mesh, length)

    def _rows(self, start: int, length: int) -> np.ndarray:
        """This process's places, among all volumes in order, of the batch that begins at `start`."""
        return start + np.asarray(process_rows(self._mesh, length), np.int32)

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """Says which volumes these places are: after the last comes the first."""
        return rows % self._count
