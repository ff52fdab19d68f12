"""Times the parts of `--mode=benchmark`, one function each: it gets a `Bench` and gives back plain numbers."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipelines.augmentation import augmentation_of
from data_pipelines.batches import train_batches
from medjax.benchmarking.ceilings import product_flops, product_of
from medjax.benchmarking.rig import Bench, Stepping, described
from medjax.codecs.haar_of_latents import HaarOfLatents
from medjax.codecs.latents import Latents
from medjax.generation.sampler import CompiledSampler
from medjax.generation.told import told_of
from medjax.runtime import multihost
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import process_rows, put_batch
from medjax.task import Batch, Task
from medjax.xla import cost, flops


def train(bench: Bench, stepping: Stepping) -> dict[str, Any]:
    """Times the training step on one batch that stays on the devices, in turns with a product of large matrices."""
    timings = bench.timed(step=lambda calls: stepping.run(bench.batch for _ in range(calls)), product=product_of(bench))
    step, product = timings["step"], timings["product"]
    devices = bench.run.mesh.size
    useful = training_flops(bench)
    counted = cost.flops(stepping.step)
    reported = counted and counted * bench.run.config.train.accumulate * devices / bench.batch_size
    tflops = useful * bench.batch_size / devices / step.median / 1e12
    ceiling = product_flops(bench) / product.median / 1e12
    peak, source = peak_bytes(stepping.step)
    return described(step, bench.batch_size / devices) | {
        "flops_per_volume": useful,
        "flops_per_volume_compiler": reported,
        "tflops_per_second_per_device": tflops,
        "ceiling_tflops_per_second_per_device": ceiling,
        "ceiling_spread": product.spread,
        "mfu": tflops / ceiling,
        "peak_bytes": peak,
        "peak_bytes_by": source,
        "compile_seconds": stepping.compile_seconds,
    }


def training_flops(bench: Bench) -> float:
    """Counts FLOPs of convolutions and matrix products a volume: forward and gradients, nothing twice, nothing folded."""
    plain = plain_task(bench.run.task)
    one = {name: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype) for name, a in bench.shapes.items()}
    one["row"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    params, variables = jax.eval_shape(plain.init, key, one)
    frozen = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), bench.run.pretrained.arrays)
    return flops.count(plain.gradients, params, variables, frozen, one, key, step)


def plain_task(task: Task) -> Task:
    """Returns the task with its networks as the papers draw them: convolutions direct, unfolded, nothing recomputed."""
    changed = {}
    for field in dataclasses.fields(task):
        match getattr(task, field.name):
            case nn.Module() as network:
                changed[field.name] = plain_network(network)
            case Latents() as codec:
                changed[field.name] = plain_codec(codec)
            case HaarOfLatents() as codec:
                changed[field.name] = dataclasses.replace(codec, latents=plain_codec(codec.latents))
    return dataclasses.replace(task, **changed)


def plain_network(network: nn.Module) -> nn.Module:
    """Returns a network likewise."""
    own = {field.name for field in dataclasses.fields(network)}
    plain = {"lowering": "direct", "fold": 1, "remat": False}
    return network.clone(**{name: choice for name, choice in plain.items() if name in own})


def plain_codec(codec: Latents) -> Latents:
    """Returns a codec likewise, whose autoencoder is a task."""
    return dataclasses.replace(codec, autoencoder=plain_task(codec.autoencoder))


def peak_bytes(step: jax.stages.Compiled) -> tuple[int, str]:
    """Returns the most memory a device has held, and who says so: "device", or "compiler" where no device counts it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    return (max(peaks), "device") if peaks else (cost.memory(step).total, "compiler")


def data(bench: Bench, stepping: Stepping | None, alone: float | None) -> dict[str, Any] | None:
    """Times the pipeline by itself, then training from it; None without data.

    Args:
      stepping: None where training was not measured.
      alone: seconds of a step whose batch was on the devices already.
    """
    if bench.run.dataset is None:
        return None
    dataset, config = bench.run.dataset, bench.run.config
    rows = process_rows(bench.run.mesh, bench.batch_size)
    changes = {"flip": config.data.flip, "augmentation": augmentation_of(config.data)}
    batches = train_batches(dataset, config.seed, bench.batch_size, rows=rows, **changes)

    def read(calls: int) -> None:
        for _ in range(calls):
            next(batches)

    def fed(calls: int) -> Iterator[Batch]:
        for _ in range(calls):
            host_batch = next(batches)
            yield put_batch({name: host_batch[name] for name in bench.shapes}, bench.run.mesh, bench.batch_size)

    for _ in range(-(-len(dataset.train) // bench.batch_size)):  # so that all are in the page cache
        next(batches)
    timing = bench.timed(read=read)["read"]
    result = described(timing, bench.batch_size / bench.run.mesh.size)
    result["volumes_per_second"] = bench.batch_size / timing.median
    if stepping is not None:
        step = bench.timed(step=lambda calls: stepping.run(fed(calls)))["step"]
        result |= {"train_step_seconds": step.median, "wait_share": max(0.0, 1 - alone / step.median)}
    return result


def denoise_and_sample(bench: Bench, parts: tuple[str, ...]) -> dict[str, Any]:
    """Times one step of the sampler, and a batch from noise to volumes."""
    count = bench.run.config.sample.batch_size
    state = bench.state()
    indices = np.arange(count, dtype=np.uint32)
    told = told_of(bench.run.config.sample, bench.run.mesh, count)
    begin = time.perf_counter()
    drawing = CompiledSampler(
        bench.run.task,
        bench.run.mesh,
        state.params,
        state.variables,
        bench.run.config.sample.seed,
        indices,
        told,
        None,
        bench.run.pretrained.arrays,
    )
    compile_seconds = time.perf_counter() - begin
    del state

    def denoise(calls: int) -> None:
        sampled = drawing.begin(indices, told)
        for _ in range(calls):
            sampled = drawing.advance(indices, sampled, 0, 1)
        jax.block_until_ready(sampled)

    def sample(calls: int) -> None:
        for _ in range(calls):
            drawing(indices, told)

    work = {name: each for name, each in {"denoise": denoise, "sampler": sample}.items() if name in parts}
    share = count / bench.run.mesh.size
    found = {name: described(timing, share) for name, timing in bench.timed(**work).items()}
    for each in found.values():
        each["compile_seconds"] = compile_seconds
    if "sampler" in found:
        found["sampler"] |= {"steps": bench.run.task.steps, "seconds_per_volume": found["sampler"]["seconds"] / count}
    return found


def checkpoint(bench: Bench, workdir: pathlib.Path) -> dict[str, Any]:
    """Times saving the training state and reading it back, in a folder of its own that is gone afterwards."""
    state = bench.state()
    with folder_beside(workdir) as folder, Checkpoints(folder, keep=1) as checkpoints:
        for step in range(2):  # the first one compiles what is read of the state
            state = dataclasses.replace(state, step=state.step + step)
            begin = time.perf_counter()
            checkpoints.save(state, None)
            blocked = time.perf_counter() - begin
            checkpoints.wait()
            saved = time.perf_counter() - begin
        shapes = jax.eval_shape(lambda state: state, state)
        del state
        begin = time.perf_counter()
        jax.block_until_ready(checkpoints.restore(shapes, bench.run.mesh))
        restored = time.perf_counter() - begin
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return {"bytes": held, "blocked_seconds": blocked, "save_seconds": saved, "restore_seconds": restored}


@contextlib.contextmanager
def folder_beside(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a new folder on the disk of `workdir`, the same for all processes, removed at the end."""
    folder = workdir / f".benchmark-{int(multihost.broadcast_from_first(np.asarray(os.getpid())))}"
    multihost.on_first_process(lambda: folder.mkdir(parents=True))
    try:
        yield folder
    finally:
        multihost.on_first_process(lambda: shutil.rmtree(folder, ignore_errors=True))
