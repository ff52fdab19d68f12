"""Checkpoints of a run, `WORKDIR/checkpoints/STEP`, through Orbax.

Writing is asynchronous: a step is copied off the devices, training goes on, and the folder takes its final name only when
it is whole. Each checkpoint carries the fingerprint of every array, so damage is found at restore and not in the samples.
Two items, so that sampling need not read the optimiser: `model` (params, variables, ema) and `optimizer` (step, opt_state).

Whoever saves does so inside `with checkpoints:`, which no way out leaves while something is being written.
"""

import errno
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import NoneType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from medjax.errors import UserError
from medjax.runtime import distributed, multihost
from medjax.runtime.out_of_memory import is_out_of_memory
from medjax.runtime.sharding import state_shardings
from medjax.runtime.train_state import TrainState
from medjax.runtime.workdir import free_name, read_json

Arrays = Any

# Seconds that a process on its way out because of an error waits for the parts of a checkpoint that others write.
PATIENCE = 300

ADVICE = "move that folder away to go on from the checkpoint before it"


class Checkpoints:
    """Keeps the checkpoints of one workdir: the last `keep` and the one of lowest validation loss.

    One of these either saves and restores whole states or restores models: Orbax reads an item in one way only.

    Args:
      workdir: the run's folder.
      keep: number of the last checkpoints to keep.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        hush_relayed_failures()
        self.folder = workdir.absolute() / "checkpoints"
        multihost.on_first_process(self._set_unfinished_aside)
        lowest_loss = preserve.BestN(get_metric_fn=_val_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preserve.AnyPreservationPolicy([preserve.LatestN(max(keep, 1)), lowest_loss]),
            best_fn=_val_loss,  # without one, Orbax does not store metrics
        )
        with self._explained_failures():
            try:
                self._manager = ocp.CheckpointManager(self.folder, options=options)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"checkpoint {damaged(self.folder)} is damaged ({reason}): {ADVICE}") from error

    @property
    def latest_step(self) -> int | None:
        """Returns the step of the last whole checkpoint, as process 0 sees it; every process must ask."""
        step = self._manager.latest_step()
        agreed = int(multihost.broadcast_from_first(np.asarray(-1 if step is None else step)))
        return None if agreed < 0 else agreed

    def _set_unfinished_aside(self) -> None:
        for name in set_unfinished_aside(self.folder):
            print(f"{self.folder / name} was never finished: skipped", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Waits for what is being written, also where an error is on its way, which a failure to write must not hide."""
        if error is None:
            self.close()
        elif jax.process_count() == 1:
            with suppress(Exception):
                self.close()
        else:
            # Of a checkpoint that others share in, each writes its part and waits for the rest: not for ever, one may be gone.
            patience = distributed.lost_seconds() / 2 if distributed.is_lost_process(error) else PATIENCE
            waiting = threading.Thread(target=self._wait_quietly, daemon=True)
            waiting.start()
            waiting.join(patience)

    def _wait_quietly(self) -> None:
        with suppress(Exception):
            self._manager.wait_until_finished()

    @property
    def last_good(self) -> str:
        """Says, by what lies on the disk, which checkpoint there is to go on from."""
        steps = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit() and _is_committed(path)]
        return f"the last good checkpoint is step {max(steps)}" if steps else "no checkpoint was finished"

    def save(self, state: TrainState, val_loss: float | None) -> None:
        """Starts to write the state; `val_loss` is that of this very step, if it was measured."""
        measured = val_loss is not None and math.isfinite(val_loss)
        model, optimizer = _items(state)
        prints = {"model": _fingerprints(model), "optimizer": _fingerprints(optimizer)}
        prints["val_loss"] = val_loss if measured else None
        with self._explained_failures():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    optimizer=ocp.args.StandardSave(optimizer),
                    fingerprints=ocp.args.JsonSave(prints),
                ),
                metrics={"val_loss": val_loss} if measured else None,
            )

    def wait(self) -> None:
        """Returns when everything is written; raises UserError if it could not be."""
        with self._explained_failures():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the writer's threads; may be called again."""
        self.wait()
        with self._explained_failures():
            self._manager.close()

    def restore(self, shapes: TrainState, mesh: Mesh) -> TrainState:
        """Restores the last whole state, laid on `mesh` whatever mesh wrote it.

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
        """Returns the step of lowest validation loss among the checkpoints kept; None where none was measured.

        Raises:
          UserError: a loss is not the one that was written.
        """
        losses = {step: self._loss_of(step) for step in self._manager.all_steps()}
        known = {step: loss for step, loss in losses.items() if loss < math.inf}
        return min(known, key=known.get) if known else None

    def _loss_of(self, step: int) -> float:
        loss, folder = _val_loss(self._manager.metrics(step)), self.folder / str(step)
        prints = read_json(folder / "fingerprints" / "metadata")
        if prints.get("val_loss", loss) not in (loss, None if loss == math.inf else loss):
            raise UserError(f"checkpoint {folder} is damaged (its validation loss is not what was written): {ADVICE}")
        return loss

    def restore_model(
        self,
        shapes: tuple[Arrays, Arrays],
        mesh: Mesh,
        *,
        best: bool = False,
        step: int | None = None,
        weights: Sequence[str] = ("params", "ema"),
    ) -> tuple[int, dict[str, Arrays]]:
        """Restores the step and the model of the last whole checkpoint, of the best, or of a certain step.

        Args:
          shapes: shapes of (params, variables).
          best: whether to take the checkpoint of lowest validation loss; the last, and a remark, where none has one.
          step: checkpoint to take.
          weights: models to read besides "variables": "params", their moving average "ema", or both.

        Returns:
          The step, and a dictionary with "variables" and what `weights` names.

        Raises:
          UserError: there is none, it is damaged, or it is of another model.
        """
        there = sorted(self._manager.all_steps())
        if step is not None and step not in there:
            raise UserError(f"{self.folder} holds no step {step}: it has {', '.join(map(str, there)) or 'none'}")
        wanted, last = step, self.latest_step
        if last is None:
            raise UserError(f"{self.folder} holds no finished checkpoint: train first, with the same --workdir")
        step = last if wanted is None else wanted
        if best and wanted is None:
            lowest = self.best_step
            if lowest is None:
                print(
                    f"sample.checkpoint=best: no checkpoint in {self.folder} has a val_loss, taking the last, step {last}",
                    file=sys.stderr,
                )
            step = last if lowest is None else lowest
        params, variables = shapes
        model = {"variables": variables} | dict.fromkeys(weights, params)
        return step, self._restore(step, {"model": model}, mesh, partial=True)["model"]

    def _restore(self, step: int, items: dict[str, Arrays], mesh: Mesh, partial: bool = False) -> dict[str, Arrays]:
        """Restores the items by name; `partial`: what else there is in them is not read."""
        targets = {
            name: jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                shapes,
                state_shardings(shapes, mesh),
            )
            for name, shapes in items.items()
        }
        folder = self.folder / str(step)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    fingerprints=ocp.args.JsonRestore(),
                    **{
                        name: (_part if partial else ocp.args.StandardRestore)(target)
                        for name, target in targets.items()
                    },
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds, all meaning that the files do not fit
            if distributed.is_lost_process(error) or is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"checkpoint {folder} cannot be read ({reason}): it is damaged; {ADVICE}") from error
        written = restored["fingerprints"]
        for name in items:
            prints = written.get(name) if isinstance(written, dict) else None
            prints = prints if isinstance(prints, dict) else {}
            # Where its metadata have lost an array, Orbax gives back what was asked for in its place.
            lost = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(restored[name]))
            if lost or any(prints.get(path) != bits for path, bits in _fingerprints(restored[name]).items()):
                raise UserError(f"checkpoint {folder} is damaged ({name} is not what was written): {ADVICE}")
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


def damaged(folder: pathlib.Path) -> pathlib.Path:
    """Finds the first checkpoint in a folder that is damaged beside its arrays, or gives the folder where that cannot be told."""
    for step in sorted(path for path in folder.iterdir() if path.name.isdigit()):
        for path in (step / "_CHECKPOINT_METADATA", step / "metrics" / "metrics"):
            try:
                content = json.loads(path.read_text())
                parts = ("item_handlers", "metrics", "performance_metrics", "custom_metadata")
                whole = isinstance(content, dict) and all(
                    isinstance(content.get(part), (dict, NoneType)) for part in parts
                )
            except FileNotFoundError:
                continue
            except (ValueError, RecursionError):
                whole = False
            if not whole:
                return step
    return folder


def _is_committed(step_folder: pathlib.Path) -> bool:
    try:
        metadata = json.loads((step_folder / "_CHECKPOINT_METADATA").read_text())
        return bool(metadata["commit_timestamp_nsecs"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _part(target: Arrays) -> ocp.args.PyTreeRestore:
    """Asks for these arrays of an item, and for no others."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)


def _val_loss(metrics: Any) -> float:
    """Reads the validation loss that lies with a checkpoint; infinite where none was measured, or what is there is damaged."""
    loss = metrics.get("val_loss") if isinstance(metrics, dict) else None
    return float(loss) if isinstance(loss, (int, float)) and math.isfinite(loss) else math.inf


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
    """Returns a short name that two trees share if and only if they hold the same bits, but for an accident in 2^64."""
    return _digest(_fingerprints(tree))


def digest(prints: Arrays) -> str:
    """Returns the same name for a tree that has one number for each array, as `written_fingerprints` gives."""
    flat, _ = jax.tree_util.tree_flatten_with_path(prints)
    return _digest({jax.tree_util.keystr(path): number for path, number in flat})


def written_fingerprints(workdir: pathlib.Path, step: int) -> dict[str, Arrays] | None:
    """Reads the number of each array of a checkpoint's model, in nested dictionaries, without reading the arrays.

    None where the run has no such checkpoint.
    """
    folder = workdir / "checkpoints" / str(step)
    if not _is_committed(folder):
        return None
    tree = {"params": {}, "variables": {}, "ema": {}}
    for path, number in read_json(folder / "fingerprints" / "metadata")["model"].items():
        *parents, last = re.findall(r"\['([^']*)'\]", path)
        functools.reduce(lambda branch, name: branch.setdefault(name, {}), parents, tree)[last] = number
    return tree


def _digest(prints: dict[str, int]) -> str:
    return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprints(tree: Arrays) -> dict[str, int]:
    """Computes one number for each array, by its path: the sum of its bits as 32-bit words, the same under any sharding."""
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
