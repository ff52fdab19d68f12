"""Batches without files and without TensorFlow: smooth random volumes, to measure and to test with."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.transforms import Shape

COARSE = 6  # random values an axis; everything between them is interpolated


def volume(size: Shape, seed: int, index: int) -> np.ndarray:
    """[D, H, W] float32 in [-1, 1], a pure function of its arguments."""
    field = np.random.default_rng([seed, index]).uniform(-1, 1, (COARSE,) * 3).astype(np.float32)
    for axis, n in enumerate(size):
        at = np.linspace(0, COARSE - 1, n)
        weights = np.stack([np.interp(at, range(COARSE), unit) for unit in np.eye(COARSE)], 1).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(field)


def train_batches(
    size: Shape, seed: int, batch_size: int, step: int = 0, rows: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches step, step + 1, ... as `batches.train_batches` does."""
    chosen = range(batch_size) if rows is None else rows
    while True:
        images = np.stack([volume(size, seed, step * batch_size + row) for row in chosen])[..., None]
        yield {"image": images}
        step += 1
