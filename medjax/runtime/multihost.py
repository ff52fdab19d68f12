"""Lets several processes decide alike: each is told the same answer, so that none waits where another does not."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from medjax.errors import UserError

T = TypeVar("T")

WEEK_MS = 7 * 24 * 3600 * 1000  # one that is lost ends the others much sooner


def barrier() -> None:
    """Waits for all processes, without their devices, which on CPUs give each other up after half a minute.

    Wherever processes may be far apart in time, after decoding or compiling, they meet before they compute together.
    """
    multihost.get_barrier_sync_fn()(key="meet", timeout_ms=WEEK_MS)


def broadcast_from_first(values: np.ndarray) -> np.ndarray:
    """Returns what process 0 holds, of the same shape and dtype on all. Shared folders may look different from other hosts."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values))


def on_all_processes(action: Callable[[], T]) -> T:
    """Runs `action` on every process and waits for all; where it raises on one, it raises on all.

    Raises:
      UserError: it raised on another process.
    """
    if jax.process_count() == 1:
        return action()
    failure, result = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    barrier()
    failed = np.flatnonzero(multihost_utils.process_allgather(np.asarray(failure is not None)))
    if failure is not None:
        raise failure
    if len(failed):
        raise UserError(f"process {jax.process_index()} stops because process {failed[0]} did: see what that one said")
    return result


def on_first_process(action: Callable[[], None]) -> None:
    """Runs `action` on process 0 while the others wait; if it raises, it raises on all."""
    on_all_processes(lambda: action() if jax.process_index() == 0 else None)


def check_same(told: Any) -> None:
    """Raises UserError on all processes unless `told`, plain data, is the same on all.

    Batches, meshes and steps that differ would not fail but wait for each other for ever.
    """

    def compare() -> None:
        if (broadcast_from_first(digest) != digest).any():
            raise UserError(
                f"process {jax.process_index()} has another configuration or other data than process 0: "
                "start all with the same command on the same files"
            )

    digest = np.frombuffer(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest(), np.uint8)
    on_all_processes(compare)


class AnyOf:
    """Tells whether any process said yes, the same answer on all at the same call.

    Every process must call it equally often. With several processes the answer is that to the call before, so that the
    host never waits for the devices: one step too late is early enough to save and leave.
    """

    def __init__(self):
        self._asked = None
        if jax.process_count() == 1:
            return
        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        by_device = NamedSharding(mesh, PartitionSpec("devices"))
        shape = (jax.device_count(),)
        self._votes = {
            vote: jax.make_array_from_callback(shape, by_device, lambda _, vote=vote: np.asarray([vote]))
            for vote in (False, True)
        }
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, vote: bool) -> bool:
        if jax.process_count() == 1:
            return vote
        before, self._asked = self._asked, self._any(self._votes[vote])
        return before is not None and bool(before)
