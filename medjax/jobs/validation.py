"""The validation loss: held-out volumes, fixed times, fixed noise, so that the curve of a run is comparable with itself."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.batches import Dataset, volumes
from data_pipelines.transforms import from_network
from medjax.runtime.mesh import on_mesh, process_rows, put_batch, replicated
from medjax.runtime.pictures import three_planes
from medjax.runtime.train_state import Batch, Metrics, Task, TrainState

KEY = 0  # of the fixed noise: the same in every run, so that runs are comparable too
PICTURED = 2  # volumes


class Validation:
    """Held-out volumes in memory and the compiled functions that judge a state by them.

    Args:
      task: with `validate` and `previews`.
      dataset: whose "validation" volumes to use; without any, `losses` is empty.
      count: how many volumes at most.
      batch_size: of a batch; the last is filled up with repeats that do not count.
    """

    def __init__(self, task: Task, dataset: Dataset, mesh: Mesh, *, count: int, batch_size: int):
        self._mesh, self._dataset, self._batch_size = mesh, dataset, batch_size
        self._volumes = volumes(dataset, "validation", count)
        key = jax.random.key(KEY)

        def validate(state: TrainState, frozen: Any, batch: Batch) -> Metrics:
            return task.validate(state.ema, state.variables, frozen, batch, key)

        def previews(state: TrainState, frozen: Any, batch: Batch) -> dict[str, jax.Array]:
            return task.previews(state.ema, state.variables, frozen, batch, key)

        self._validate = jax.jit(
            on_mesh(validate, mesh),
            out_shardings=replicated(mesh),
        )
        self._previews = jax.jit(
            on_mesh(previews, mesh),
            out_shardings=replicated(mesh),
        )

    def losses(self, state: TrainState, frozen: Any) -> dict[str, float]:
        """Each loss averaged over the volumes, with the moving average of the parameters."""
        totals: dict[str, float] = {}
        for start in range(0, len(self._volumes), self._batch_size):
            counted = min(self._batch_size, len(self._volumes) - start)
            by_volume = jax.device_get(self._validate(state, frozen, self._batch(start)))
            for name, values in by_volume.items():
                totals[name] = totals.get(name, 0.0) + float(np.sum(values[:counted], dtype=np.float64))
        return {name: total / len(self._volumes) for name, total in totals.items()}

    def pictures(self, state: TrainState, frozen: Any) -> dict[str, np.ndarray]:
        """Mid-slices of a few volumes, as they are and denoised: name to [H, W] uint8."""
        if not len(self._volumes):
            return {}
        batch = self._batch(0)
        denoised = jax.device_get(self._previews(state, frozen, batch))
        shown = {"as_they_are": self._volumes[:PICTURED], **denoised}
        return {
            f"validation/{name}": np.concatenate([self._planes(volume) for volume in values[:PICTURED]])
            for name, values in shown.items()
        }

    def _planes(self, volume: np.ndarray) -> np.ndarray:
        return three_planes(from_network(volume[..., 0], self._dataset.axes), self._dataset.affine)

    def _batch(self, start: int) -> dict[str, jax.Array]:
        rows = start + np.arange(self._batch_size, dtype=np.int32)[process_rows(self._mesh, self._batch_size)]
        image = self._volumes[rows % len(self._volumes)]
        return put_batch({"image": image, "row": rows}, self._mesh, self._batch_size)
