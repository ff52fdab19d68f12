"""Sets how this process takes memory from the operating system, how much there is, and what becomes of what it frees."""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

import jax

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

MEMBERSHIP = pathlib.Path("/proc/self/cgroup")  # the control groups of this process
GROUPS = pathlib.Path("/sys/fs/cgroup")  # where the system shows control groups as folders


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
    """Tells whether all arrays will be the process's own memory, as far as can be told before JAX looks for devices."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def memory_size(membership: pathlib.Path = MEMBERSHIP, groups: pathlib.Path = GROUPS) -> int:
    """Tells how much memory this process may use, in bytes: the computer's, or less where a control group limits it.

    Schedulers (SLURM's --mem) and containers (Docker's --memory) set such limits, and end the process that passes one. A
    group is also bound by the groups that it lies in.

    Args:
      membership: a file as /proc/self/cgroup.
      groups: the folder of all groups, of version 2 directly, of version 1 below `memory`.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # a system without control groups
        return physical
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2; with version 1 beside it, often in a folder of its own
            trees, name = (groups, groups / "unified"), "memory.max"
        elif "memory" in controllers.split(","):
            trees, name = (groups / "memory", groups / controllers), "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be one that only the host sees: then the folder's own top is the container's.
        parts = pathlib.PurePosixPath(path).parts[1:]
        for tree in trees:
            limits += [_limit(tree.joinpath(*parts[:depth], name)) for depth in range(len(parts) + 1)]
    return min([physical, *(limit for limit in limits if limit is not None)])


def _limit(file: pathlib.Path) -> int | None:
    """Reads the bytes that a group's file allows; None where there is no such file, or it sets no limit ("max")."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
