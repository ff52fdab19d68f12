"""How this process takes memory from the operating system, and what it does with memory that it frees."""

import ctypes
import importlib.metadata
import importlib.util
import sys

import jax

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that it frees, for its next arrays; call it before JAX looks for devices.

    XLA takes one block for all temporaries of a program and frees it at the end. glibc's malloc gives a block of that size back
    to the system at once, which hands it out again page by page, each cleared and mapped at its first touch: in every
    step anew. Here all blocks come out of one heap that only grows, to the most that was ever in use at a time. Only threads
    that have no heap of their own yet take part, and XLA's, which make the arrays, get theirs when JAX looks for devices.

    Returns:
      Whether the C library took it: False where it is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # -1: as a size, the largest there is.
    return mallopt is not None and all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])


def only_cpus() -> bool:
    """Whether all arrays will be the process's own memory, as far as can be told before JAX looks for devices."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
