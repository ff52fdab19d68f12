"""Checkpoints of a run, `WORKDIR/checkpoints/STEP`, through Orbax.

Writing is asynchronous: a step is copied off the devices, training goes on, and the folder takes its final name only when
it is whole. Each checkpoint carries the fingerprint of every array, so damage is found at restore and not in the samples.
Two items, so that sampling need not read the optimiser: `model` (params, variables, ema) and `optimizer` (step, opt_state).
"""

import errno
import functools
import hashlib
import json
import logging
import os
import pathlib
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from medjax.errors import UserError
from medjax.runtime import agreement, distributed
from medjax.runtime.sharding import state_shardings
from medjax.runtime.train_state import TrainState
from medjax.runtime.workdir import free_name

Arrays = Any


class Checkpoints:
    """The checkpoints of one workdir: the last `keep` and the one of lowest validation loss.

    Args:
      workdir: the run's folder.
      keep: how many of the last to keep.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        hush_relayed_failures()
        self.folder = workdir.absolute() / "checkpoints"
        agreement.first_alone(self._set_unfinished_aside)
        lowest_loss = preserve.BestN(
            get_metric_fn=lambda metrics: metrics["val_loss"], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preserve.AnyPreservationPolicy([preserve.LatestN(max(keep, 1)), lowest_loss]),
            best_fn=lambda metrics: metrics["val_loss"],  # without one, Orbax does not store metrics
        )
        with self._explained_failures():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the last whole checkpoint, as process 0 sees it; every process must ask."""
        step = self._manager.latest_step()
        agreed = int(agreement.as_first(np.asarray(-1 if step is None else step)))
        return None if agreed < 0 else agreed

    def _set_unfinished_aside(self) -> None:
        for name in set_unfinished_aside(self.folder):
            print(f"{self.folder / name} was never finished: skipped", file=sys.stderr)

    def save(self, state: TrainState, val_loss: float | None) -> None:
        """Starts to write the state; `val_loss` is that of this very step, if it was measured."""
        model, optimizer = _items(state)
        prints = {"model": _fingerprints(model), "optimizer": _fingerprints(optimizer)}
        with self._explained_failures():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    optimizer=ocp.args.StandardSave(optimizer),
                    fingerprints=ocp.args.JsonSave(prints),
                ),
                metrics=None if val_loss is None else {"val_loss": val_loss},
            )

    def wait(self) -> None:
        """Returns when everything is written; raises UserError if it could not be."""
        with self._explained_failures():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the writer's threads."""
        self.wait()
        self._manager.close()

    def restore(self, shapes: TrainState, mesh: Mesh) -> TrainState:
        """The last whole state, laid on `mesh` whatever mesh wrote it.

        Args:
          shapes: the state as `jax.ShapeDtypeStruct`s.

        Raises:
          UserError: the files are damaged or of another model.
        """
        model, optimizer = _items(shapes)
        restored = self._restore(self.latest_step, {"model": model, "optimizer": optimizer}, mesh)
        return TrainState(**restored["model"], **restored["optimizer"])

    @property
    def best_step(self) -> int | None:
        """The step of lowest validation loss among the checkpoints kept, or the last where none was measured."""
        measured = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        losses = {step: metrics["val_loss"] for step, metrics in measured.items() if metrics}
        return min(losses, key=losses.get) if losses else self.latest_step

    def restore_model(
        self, shapes: tuple[Arrays, Arrays], mesh: Mesh, *, best: bool = False, step: int | None = None
    ) -> tuple[int, dict[str, Arrays]]:
        """The step and {"params", "variables", "ema"} of the last whole checkpoint, of the best, or of a certain step.

        Args:
          shapes: of (params, variables).

        Raises:
          UserError: there is none, it is damaged, or it is of another model.
        """
        there = sorted(self._manager.all_steps())
        if step is not None and step not in there:
            raise UserError(f"{self.folder} holds no step {step}: it has {', '.join(map(str, there)) or 'none'}")
        step = step if step is not None else self.best_step if best else self.latest_step
        if step is None:
            raise UserError(f"{self.folder} holds no finished checkpoint: train first, with the same --workdir")
        params, variables = shapes
        model = {"params": params, "variables": variables, "ema": params}
        return step, self._restore(step, {"model": model}, mesh)["model"]

    def _restore(self, step: int, items: dict[str, Arrays], mesh: Mesh) -> dict[str, Arrays]:
        targets = {
            name: jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                shapes,
                state_shardings(shapes, mesh),
            )
            for name, shapes in items.items()
        }
        folder = self.folder / str(step)
        advice = "move that folder away to go on from the checkpoint before it"
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    fingerprints=ocp.args.JsonRestore(),
                    **{name: ocp.args.StandardRestore(target) for name, target in targets.items()},
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds, all meaning that the files do not fit
            if distributed.is_loss(error):
                raise
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"checkpoint {folder} cannot be read ({reason}): it is damaged; {advice}") from error
        for name in items:
            if _fingerprints(restored[name]) != restored["fingerprints"][name]:
                raise UserError(f"checkpoint {folder} is damaged ({name} is not what was written): {advice}")
        return {name: restored[name] for name in items}

    @contextmanager
    def _explained_failures(self) -> Iterator[None]:
        """Turns a failure to write into one line that names the folder."""
        try:
            yield
        except Exception as error:
            if _is_disk_full(error):
                raise UserError(f"no space left on the disk of {self.folder}: free some, then start again") from error
            if isinstance(error, OSError):
                raise UserError(f"{self.folder} cannot be written: {error.strerror or error}") from error
            raise


@functools.cache  # once for the process
def hush_relayed_failures() -> None:
    """Keeps Python from printing a traceback for what fails in Orbax's threads: it is raised again where it is waited for."""
    print_thread_failure, print_unraisable = threading.excepthook, sys.unraisablehook

    def in_thread(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("orbax"):
            print_thread_failure(failure)

    def unraisable(failure: "sys.UnraisableHookArgs") -> None:
        # TensorStore reports to the event loop of a thread that has failed already.
        if "Event loop is closed" not in str(failure.exc_value):
            print_unraisable(failure)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # "exception was never retrieved"


def set_unfinished_aside(folder: pathlib.Path) -> Sequence[str]:
    """Renames what an interrupted write left under a step's own name, and returns the names of all such leftovers.

    Orbax gives a folder its final name last and ignores its own temporary names, but a copy between file systems that was
    cut short, say, leaves a numbered folder that is not whole.
    """
    if not folder.is_dir():
        return []
    leftovers = []
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".orbax-checkpoint-tmp"):
            leftovers.append(path.name)
        elif path.name.isdigit() and path.is_dir() and not _is_committed(path):
            leftovers.append(path.name)
            path.rename(free_name(path.with_name(path.name + ".unfinished")))
    return leftovers


def _is_committed(step_folder: pathlib.Path) -> bool:
    try:
        metadata = json.loads((step_folder / "_CHECKPOINT_METADATA").read_text())
        return bool(metadata["commit_timestamp_nsecs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _items(state: TrainState) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
    model = {"params": state.params, "variables": state.variables, "ema": state.ema}
    return model, {"step": state.step, "opt_state": state.opt_state}


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def fingerprint(tree: Arrays) -> str:
    """A short name that two trees share if and only if they hold the same bits, but for an accident in 2^64."""
    return hashlib.sha256(json.dumps(_fingerprints(tree), sort_keys=True).encode()).hexdigest()[:16]


def _fingerprints(tree: Arrays) -> dict[str, int]:
    """One number for each array, by its path: the sum of its bits as 32-bit words, the same under any sharding."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = _bit_sums([leaf for _, leaf in flat])
    # Dictionaries and the optimiser's named tuples come back from disk alike when a path is spelled by its keys.
    return {jax.tree_util.keystr(path): int(total) for (path, _), total in zip(flat, jax.device_get(sums), strict=True)}


@jax.jit
def _bit_sums(arrays: list[jax.Array]) -> list[jax.Array]:
    def bit_sum(array: jax.Array) -> jax.Array:
        array = array.astype(jnp.uint8) if array.dtype == bool else array
        words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(array, words).astype(jnp.uint32)
        # Weighted by position, so that two exchanged words are noticed as well.
        weights = jnp.arange(1, 2 * bits.size, 2, dtype=jnp.uint32).reshape(bits.shape)
        return jnp.sum(bits * weights, dtype=jnp.uint32)

    return [bit_sum(array) for array in arrays]
