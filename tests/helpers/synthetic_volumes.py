"""The volumes that reference numbers were measured on: made by recipe, in integers, exact to the bit."""

import re

import numpy as np

from golden_files import splitmix64


def synthetic_volume(recipe: str) -> np.ndarray:
    """The int16 volume that a recipe such as "...synthetic_volume((240, 240, 155), 500, 'mri')" names."""
    i, j, k, seed, kind = re.search(r"\((\d+),\s*(\d+),\s*(\d+)\),\s*(\d+),\s*'(\w+)'", recipe).groups()
    shape, seed, step, radius = (int(i), int(j), int(k)), int(seed), 16, 4
    coarse = tuple(-(-n // step) for n in shape)
    blobs = (splitmix64(f"low-{kind}", seed, np.prod(coarse)) % np.uint64(1024)).astype(np.int64).reshape(coarse)
    for axis, n in enumerate(shape):
        blobs = np.repeat(blobs, step, axis=axis).take(range(n), axis=axis)
    for axis in range(3):
        edges = [(radius, radius) if axis == a else (0, 0) for a in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(blobs, edges, mode="edge"), 2 * radius + 1, axis)
        blobs = windows.sum(-1)
    blobs //= (2 * radius + 1) ** 3
    random = splitmix64(f"noise-{kind}", seed, np.prod(shape)).reshape(shape)
    noise = (random % np.uint64(64)).astype(np.int64)
    # Squared distances from the centre in units of the half edge, as integers over 2^20.
    x, y, z = np.ogrid[tuple(slice(n) for n in shape)]
    x2, y2, z2 = ((2 * v + 1 - n) ** 2 * 2**20 // n**2 for v, n in zip((x, y, z), shape, strict=True))
    if kind == "mri":
        inside = x2 * 100 // 64 + y2 * 100 // 81 + z2 * 100 // 72 < 2**20
        values, outside = 100 + 3 * blobs + 4 * noise, 0
        values += 6000 * ((random >> np.uint64(20)) % np.uint64(30000) == 0)
    elif kind == "u8":
        return np.clip(blobs - 384 + noise // 8, 0, 255).astype(np.int16)
    else:
        inside = np.broadcast_to(x2 + y2 < 2**20, shape)
        values, outside = -1150 + 2 * blobs + 4 * noise, -2000
        values += 1500 * ((random >> np.uint64(20)) % np.uint64(2000) == 0)
    return np.where(inside, values, outside).astype(np.int16)
