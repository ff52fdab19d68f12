"""What each of the processes of two_processes.py does: `python work_of_two.py JOB PORT PROCESS [FOLDER [WHICH]]`.

Each prints what it found as its last line and leaves as launch.py does.
"""

import json
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import synthetic
from medjax.errors import UserError
from medjax.runtime import distributed, multihost
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import make_mesh, process_rows, put_batch, replicated, row_everywhere, take_rows
from wide_state import check, wide_shapes, wide_state

ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}
SIZE = (8, 8, 4)


def rows() -> list:
    """Batches on several meshes, from own rows to devices and back to whole rows; what cannot be seen is not compared."""
    first, second, third, fourth = jax.devices()
    whole = next(synthetic.train_batches(SIZE, 0, 4))
    found = []
    for sizes, devices in (
        ({"data": 4}, [first, second, third, fourth]),
        ({"data": 4}, [first, third, second, fourth]),  # as on a TPU, whose meshes do not follow the hosts
        ({"data": 2, "depth": 2}, [first, second, third, fourth]),
        ({"data": 2, "depth": 2}, [first, third, second, fourth]),  # each row is cut over both processes
        ({"fsdp": 1, "depth": 2, "height": 2}, [first, third, second, fourth]),
    ):
        mesh = make_mesh(ONE | sizes, devices)
        own = process_rows(mesh, 4)
        read = next(synthetic.train_batches(SIZE, 0, 4, rows=own))
        batch = put_batch(read, mesh, 4)
        for name, array in batch.items():
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(shard.data, whole[name][shard.index])
        taken = dict(take_rows(batch["image"], mesh))
        for row, volume in taken.items():
            np.testing.assert_array_equal(volume, whole["image"][row])
        np.testing.assert_array_equal(row_everywhere(batch["image"], 2, mesh), whole["image"][2])
        found.append([own, sorted(taken)])
    return found


def decisions() -> dict:
    """What the two are told when one of them votes, fails or differs."""
    process = jax.process_index()
    any_of = multihost.AnyOf()
    answers = [any_of(process == 1 and call == 2) for call in range(5)]

    def outcome(function, *arguments) -> str:
        try:
            return str(function(*arguments))
        except UserError as error:
            return f"UserError: {error}"

    def fails_on_second() -> None:
        if process == 1:
            raise UserError("bad file")

    def fails_on_first() -> None:
        assert process == 0  # the other must not run it
        raise UserError("bad folder")

    return {
        "answers": answers,
        "as_first": int(multihost.broadcast_from_first(np.asarray(process + 5))),
        "together": outcome(multihost.on_all_processes, lambda: process),
        "second_fails": outcome(multihost.on_all_processes, fails_on_second),
        "first_fails": outcome(multihost.on_first_process, fails_on_first),
        "same": outcome(multihost.check_same, {"steps": 3}),
        "different": outcome(multihost.check_same, {"steps": 3 + process}),
    }


def checkpoints(folder: pathlib.Path) -> int | None:
    """Step 1, written elsewhere, is restored on a mesh over both; step 2 is written from another one."""
    manager = Checkpoints(folder, 3)
    step = manager.latest_step
    restored = manager.restore(wide_shapes(), make_mesh(ONE | {"data": 2, "fsdp": 2}))
    check(restored, step=1)
    manager.save(wide_state(2, make_mesh(ONE | {"fsdp": 4})), 0.5)
    manager.close()
    return step


def fails(folder: pathlib.Path, failing: int) -> None:
    """Both save; right after it one of them comes upon an error, and the other goes on computing with it."""
    mesh = make_mesh(ONE | {"fsdp": 2})
    total = jax.jit(lambda batch: jnp.sum(batch["row"]), out_shardings=replicated(mesh))
    batch = put_batch({"row": np.ones(1, np.float32)}, mesh, 2)
    with distributed.explain_lost_process(), Checkpoints(folder, 3) as checkpoints:
        total(batch).block_until_ready()  # the two are connected, as they are in training; who waits to be sees no loss
        checkpoints.save(wide_state(1, mesh), None)
        if jax.process_index() == failing:
            raise UserError("bad record")
        for _ in range(10**6):
            total(batch).block_until_ready()


def waits_for(signal_number: int) -> None:
    """Both add up numbers; after a while the second one is gone."""
    mesh = make_mesh(ONE | {"data": -1})
    total = jax.jit(lambda batch: jnp.sum(batch["row"]), out_shardings=replicated(mesh))
    batch = put_batch({"row": np.ones(2, np.float32)}, mesh, 4)
    with distributed.explain_lost_process():
        for call in range(10**6):
            if call == 20 and jax.process_index() == 1:
                os.kill(os.getpid(), signal_number)
            total(batch).block_until_ready()
            time.sleep(0.01)


if __name__ == "__main__":
    job, port, process, *folder = sys.argv[1:]
    try:
        distributed.join(f"localhost:{port}", 2, int(process))
        result = {
            "rows": rows,
            "decisions": decisions,
            "checkpoints": lambda: checkpoints(pathlib.Path(folder[0])),
            "fails": lambda: fails(pathlib.Path(folder[0]), int(folder[1])),
            "killed": lambda: waits_for(signal.SIGKILL),
            "frozen": lambda: waits_for(signal.SIGSTOP),
            "joined": lambda: jax.process_count(),
        }[job]()
        distributed.leave()
        print(json.dumps(result), flush=True)
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    os._exit(0)
