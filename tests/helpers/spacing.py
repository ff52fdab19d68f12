"""Timesteps as the reference's respacing strings choose them: "50", sections "10,15,20", strides "ddim50"."""

import numpy as np

from medjax.diffusion.schedules import evenly_spaced


def spaced_timesteps(total: int, respacing: str) -> np.ndarray:
    if respacing.startswith("ddim"):
        count = int(respacing.removeprefix("ddim"))
        stride = next(stride for stride in range(1, total) if len(range(0, total, stride)) == count)
        return np.arange(0, total, stride)
    counts = [int(count) for count in respacing.split(",")]
    sizes = [total // len(counts) + (i < total % len(counts)) for i in range(len(counts))]
    starts = np.cumsum([0, *sizes[:-1]])
    sections = zip(starts, sizes, counts, strict=True)
    return np.concatenate([start + evenly_spaced(size, count) for start, size, count in sections])
