"""`--mode=train`: from data to a trained generator, going on by itself where an earlier run stopped."""

import contextlib
import functools
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import nibabel
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines.augmentation import augmentation_of
from data_pipelines.batches import Dataset, open_dataset, train_batches
from data_pipelines.survey.table import CASES_CSV
from medjax.builders.assemble import Needs, assemble, tell_of_unused_labels
from medjax.builders.pretrained import keep_pretrained
from medjax.builders.steps import rows_here, train_step_of
from medjax.errors import UserError
from medjax.planning.memory_fit import decisions
from medjax.runtime import distributed, multihost
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.interrupt import Interrupt, NothingToSave
from medjax.runtime.mesh import process_rows, put_batch
from medjax.runtime.metrics_log import MetricsLog, last_values
from medjax.runtime.stopwatch import Stopwatch
from medjax.runtime.train_state import build_sharded, state_builder
from medjax.runtime.workdir import open_workdir, recorded_data, sole_use
from medjax.training.sample_scores import trials_of
from medjax.training.validation import Validation


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains to `train.steps`, or until SIGTERM or Ctrl-C, and leaves a checkpoint either way.

    Raises:
      UserError, DataError: what was asked for cannot work, the loss is not finite, or the disk is full.
    """
    try:
        with (
            distributed.one_voice(),
            distributed.explain_lost_process(),
            Interrupt() as interrupt,
            contextlib.ExitStack() as held,
        ):
            if jax.process_count() > 1:
                interrupt.defer()  # all must leave together, and the loop is the first place where they can
            result = _run(config, workdir, interrupt, held)
            distributed.leave()
            return result
    except NothingToSave:
        print("interrupted before the first step: nothing to save", file=sys.stderr)
        unknown = ("step", "loss", "val_loss", "parameters", "steps_per_second", "resumed_from")
        return dict.fromkeys(unknown) | {"workdir": str(workdir)}


def _run(config: ConfigDict, workdir: pathlib.Path, interrupt: Interrupt, held: contextlib.ExitStack) -> dict[str, Any]:
    # What cannot work fails here, as far as it can before any data are touched.
    opened = functools.partial(open_dataset, cases_csv=workdir / CASES_CSV, recorded=recorded_data(workdir))
    needs = Needs(training=True, data=opened)
    run = assemble(config, workdir, needs, decisions(config, workdir, needs))
    task, mesh, optimizer, dataset, frozen = run.task, run.mesh, run.optimizer, run.dataset, run.pretrained
    batch_size = run.config.data.batch_size
    warn_of_oddities(dataset)
    tell_of_unused_labels(run)
    multihost.check_same([dataset.identity(), without_paths(run.config)])

    def open_folder() -> None:
        held.enter_context(sole_use(workdir))
        open_workdir(workdir, config.to_dict(), description(dataset) | {"frozen": frozen.identity})
        keep_pretrained(frozen, run.config, workdir)

    multihost.on_first_process(open_folder)

    # The state: as it was left, or new.
    rows = process_rows(mesh, batch_size)
    zeros = {name: np.zeros(a.shape, a.dtype) for name, a in rows_here(run.spec, mesh).items()}
    example = put_batch(zeros, mesh, batch_size)
    build, key = state_builder(task, optimizer), jax.random.key(config.seed)
    checkpoints = Checkpoints(workdir, config.train.keep)
    resumed_from = checkpoints.latest_step
    if resumed_from is None:
        state = build_sharded(build, key, example, mesh)
    else:
        print(f"going on from step {resumed_from} of {workdir}", file=sys.stderr)
        state = checkpoints.restore(jax.eval_shape(build, key, example), mesh)
    start, steps = resumed_from or 0, config.train.steps
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held.enter_context(last_good_told(checkpoints))
    log = MetricsLog(workdir if jax.process_index() == 0 else None, start)
    held.callback(log.close)
    # A microbatch at a time: more would need more memory than the step, which is all that was reckoned with.
    microbatch = batch_size // config.train.accumulate
    told = [name for name in run.spec if name != dataset.content]
    count = config.train.eval_volumes
    validation = Validation(task, dataset, mesh, count=count, batch_size=microbatch, told=told)
    trials = trials_of(run, log)

    def evaluate(step: int) -> float | None:
        losses = validation.losses(state, frozen.arrays)
        if losses:
            log.write(step, losses)
        for name, pixels in validation.pictures(state, frozen.arrays).items():
            log.write_picture(step, name, pixels)
        return losses.get("val_loss")

    if start < steps:
        # Compiled apart, so that the rates below are those of training alone.
        begin = time.perf_counter()
        print(f"compiling the training step of {parameters:,} parameters", file=sys.stderr)
        step_function = train_step_of(run.config, task, optimizer, state, example, mesh)
        train_step = step_function.lower(state, frozen.arrays, example).compile()
        multihost.barrier()
        print(f"compiled in {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    val_loss = evaluate(0) if start == 0 else None

    # The loop. Numbers stay on the device until a row is due, so the host never waits for the step it has just sent.
    changes = {"flip": config.data.flip, "augmentation": augmentation_of(config.data)}
    batches = train_batches(dataset, config.seed, batch_size, step=start, rows=rows, **changes)
    interrupt.defer()
    any_requested = multihost.AnyOf()
    watch, pending = Stopwatch(), []
    with tqdm(
        total=steps * batch_size,
        initial=start * batch_size,
        unit="vol",
        desc="training",
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
    ) as progress:
        for step in range(start + 1, steps + 1):
            host_batch = next(batches)
            batch = put_batch({name: host_batch[name] for name in example}, mesh, batch_size)
            state, metrics = train_step(state, frozen.arrays, batch)
            pending.append((step, metrics))
            watch.step(1)
            if len(pending) > 1:
                jax.block_until_ready(pending[-2][1]["loss"])
            progress.update(batch_size)

            last = any_requested(interrupt.requested) or step == steps
            log_due, eval_due, save_due = (
                step % every == 0
                for every in (config.train.log_every, config.train.eval_every, config.train.checkpoint_every)
            )
            if log_due or eval_due or save_due or last:
                rows_due = [number for number, _ in pending if number % config.train.log_every == 0 or number == steps]
                for number, values in check_finite(pending):
                    if number in rows_due:
                        rates = {
                            "learning_rate": float(run.schedule(number - 1)),
                            "volumes_per_second": watch.rate * batch_size,
                        }
                        log.write(number, values | rates)
                        progress.set_postfix_str(f"loss {values['loss']:.4g}", refresh=False)
                pending.clear()
            if eval_due or step == steps:
                with watch.paused():
                    val_loss = evaluate(step)
            if trials and (step % config.train.evaluate_every == 0 or step == steps):
                with watch.paused():
                    trials.begin(step, state)
            if trials and (save_due or last):
                with watch.paused():
                    trials.write()
            if save_due or last:
                with watch.paused():
                    checkpoints.save(state, val_loss if eval_due or step == steps else None)
            if last:
                break
    checkpoints.close()
    if trials:
        trials.close()
    multihost.on_first_process(log.close)

    values = last_values(workdir / "metrics.jsonl")
    return {
        "step": int(state.step),
        "loss": values.get("loss"),
        "val_loss": values.get("val_loss"),
        "parameters": parameters,
        "steps_per_second": watch.rate,
        "volumes_per_second": watch.rate and watch.rate * batch_size,
        "resumed_from": resumed_from,
        "volumes": len(dataset.train),
        "skipped_files": dataset.skipped,
        "padded_scans": dataset.padded,
        "workdir": str(workdir),
    }


@contextlib.contextmanager
def last_good_told(checkpoints: Checkpoints) -> Iterator[None]:
    """Leaves the block when nothing is being written any more; what ends it is told which checkpoint to go on from."""
    try:
        with checkpoints:
            yield
    except BaseException as error:
        error.add_note(checkpoints.last_good)
        raise


def without_paths(config: ConfigDict) -> dict[str, Any]:
    """The whole configuration without where the data lie, which may differ from host to host."""
    told = config.to_dict()
    return told | {
        "data": {key: value for key, value in told["data"].items() if key not in ("root", "cache", "records")}
    }


def warn_of_oddities(dataset: Dataset) -> None:
    """Says on stderr what works but is seldom meant."""
    orders = {"".join(nibabel.aff2axcodes(example.affine)) for example in dataset.train}
    if len(orders) > 1:
        found = ", ".join(sorted(orders))
        print(f"voxel orders differ ({found}) and data.orientation=native keeps them: consider RAS", file=sys.stderr)


def check_finite(pending: list[tuple[int, dict[str, jax.Array]]]) -> list[tuple[int, dict[str, float]]]:
    """The metrics of successive steps as numbers.

    Raises:
      UserError: naming the first step whose loss or gradient is not finite.
    """
    numbers = [
        (step, {name: float(value) for name, value in jax.device_get(metrics).items()}) for step, metrics in pending
    ]
    for step, values in numbers:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise UserError(
                    f"{name} is {values[name]} at step {step}: training stopped; "
                    "lower optimizer.learning_rate or set optimizer.clip_norm"
                )
    return numbers


def description(dataset: Dataset) -> dict[str, Any]:
    """Describes the data for the workdir: their identity, and how arrays become files again."""
    return {
        "identity": dataset.identity(),
        "scans": dataset.digests,
        "axes": dataset.axes,
        "affine": np.asarray(dataset.affine).tolist(),
        "intensity_range": list(dataset.intensity_range),
    }
