"""`--mode=benchmark`: how fast a configuration runs on this machine, and how near that is to what the machine can do."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import time
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.batches import Dataset, open_dataset
from data_pipelines.records import Latents
from medjax.benchmarking import ceilings, parts
from medjax.benchmarking.compare_results import compare_with, in_columns, read_result
from medjax.benchmarking.rig import Bench, Stepping, compile_step
from medjax.builders.assemble import Needs, assemble
from medjax.console import say
from medjax.errors import UserError
from medjax.planning.memory_fit import decisions
from medjax.runtime import distributed, multihost
from medjax.tasks import task_class
from medjax.xla import cudnn, hlo
from medjax.xla.profile import Operation, operations

PARTS = ("train", "denoise", "sampler", "haar", "data", "checkpoint")
PROFILED_STEPS = 3
OPERATIONS_SHOWN = 20
USED = {"jax": "jax", "cudnn": "cuDNN"}  # versions that the table tells


def run(
    config: ConfigDict, workdir: pathlib.Path, compare: str | None = None, profile: str | None = None
) -> dict[str, Any]:
    """Times the parts that `benchmark.parts` names, and appends the result to WORKDIR/benchmarks.jsonl.

    Needs no data and no TensorFlow: without data the batches are noise, and what concerns data is null.

    Args:
      config: as for training.
      workdir: any folder; a run in it is left as it is.
      compare: a file of an earlier result, or of many, whose last is taken: prints and returns the ratios to it.
      profile: a folder for a trace of some training steps: prints the operations that take the longest.

    Raises:
      UserError, DataError: what was asked for cannot work.
    """
    with distributed.one_voice(), distributed.explain_lost_process():
        result = _run(config, workdir, compare, profile)
        distributed.leave()
        return result


def _run(config: ConfigDict, workdir: pathlib.Path, compare: str | None, profile: str | None) -> dict[str, Any]:
    earlier = read_result(pathlib.Path(compare).expanduser()) if compare else None
    wanted = parts_of(config)
    if profile and "train" not in wanted:
        raise UserError(f"--profile traces the training step, benchmark.parts is {config.benchmark.parts!r}: add train")
    data = dataset_at_hand if "data" in wanted else None
    sampling = bool({"denoise", "sampler"} & set(wanted)) and task_class(config).generates
    needs = Needs(training=True, sampling=sampling, data=data, pretrained="blank", own=False)
    run = assemble(config, workdir, needs, decisions(config, workdir, needs))
    multihost.on_first_process(lambda: workdir.mkdir(parents=True, exist_ok=True))
    bench = Bench(run)
    # A program found in the cache would be said to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks whether there is one at its first compilation only

    found: dict[str, dict[str, Any] | None] = dict.fromkeys(PARTS)
    stepping = None
    if "train" in wanted:
        say("compiling the training step")
        stepping = compile_step(bench)
        say("timing the training step, in turns with a product of matrices")
        found["train"] = parts.train(bench, stepping)
    if profile:
        with_trace(bench, stepping, pathlib.Path(profile).expanduser())
    if run.dataset is not None:
        say("timing the data, and training from them")
        found["data"] = parts.data(bench, stepping, found["train"] and found["train"]["seconds"])
    stepping = None  # and its memory
    if sampling:
        say("timing the sampler")
        found |= parts.denoise_and_sample(bench, wanted)
    if "haar" in wanted:
        say("timing the Haar transform, in turns with a copy")
        found["haar"] = ceilings.haar(bench)
    if "checkpoint" in wanted:
        say("timing a checkpoint")
        found["checkpoint"] = parts.checkpoint(bench, workdir)

    result = headline(found) | circumstances(run.config, run.mesh) | {"parts": found}
    if jax.process_index() == 0:
        say("\n" + table(result))
        if "cudnn" in result["versions"] and (older := cudnn.remark(cudnn.loaded_version(), cudnn.built_version())):
            say(older)
    if earlier:
        text, ratios = compare_with(earlier, result)
        say("\n" + text)
        result["compared"] = ratios
    multihost.on_first_process(lambda: append(workdir / "benchmarks.jsonl", result))
    return result | {"results": str(workdir / "benchmarks.jsonl")}


def parts_of(config: ConfigDict) -> tuple[str, ...]:
    """Returns the parts to time.

    Raises:
      UserError: one is unknown, or a number of `benchmark` is not positive.
    """
    wanted = tuple(part.strip() for part in config.benchmark.parts.split(","))
    for part in wanted:
        if part not in PARTS:
            raise UserError(f"benchmark.parts names {part!r}: use some of {','.join(PARTS)}")
    for key in ("windows", "seconds", "limit_seconds"):
        if config.benchmark[key] <= 0:
            raise UserError(f"benchmark.{key} is {config.benchmark[key]}: use a positive number")
    return wanted


def dataset_at_hand(data: ConfigDict, seed: int, latents: Latents | None) -> Dataset | None:
    """Opens the data as `open_dataset` does; None where `data` names none, or there is no TensorFlow to read them."""
    if data.name == "synthetic" or not (data.root or data.records or data.name == "atlas"):
        say("no data: data.root is not set, batches are noise")
        return None
    if importlib.util.find_spec("tensorflow") is None:
        say("no data: TensorFlow is not there to read them, batches are noise")
        return None
    return open_dataset(data, seed, latents)


def with_trace(bench: Bench, stepping: Stepping, folder: pathlib.Path) -> None:
    """Leaves a trace of some training steps in a folder, and prints the operations that took the longest."""
    with jax.profiler.trace(str(folder)):
        stepping.run(bench.batch for _ in range(PROFILED_STEPS))
    if jax.process_index() == 0:
        try:
            shown = operations_table(operations(folder, hlo.parse(stepping.step.as_text())))
        except hlo.UNREADABLE as error:
            shown = f"the compiled step's text cannot be read ({type(error).__name__}): open the trace in a viewer"
        say(f"\n{shown}\ntrace of {PROFILED_STEPS} training steps: {folder}")


def headline(found: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """The numbers that are compared first; None for what was not measured."""

    def of(part: str, name: str) -> Any:
        return (found[part] or {}).get(name)

    return {
        "train_step_seconds": of("train", "seconds"),
        "volumes_per_second_per_device": of("train", "volumes_per_second_per_device"),
        "denoise_step_seconds": of("denoise", "seconds"),
        "sample_seconds_per_volume": of("sampler", "seconds_per_volume"),
        "flops_per_volume": of("train", "flops_per_volume"),
        "tflops_per_second_per_device": of("train", "tflops_per_second_per_device"),
        "mfu": of("train", "mfu"),
        "peak_bytes": of("train", "peak_bytes"),
        "compile_seconds": of("train", "compile_seconds"),
        "data_volumes_per_second": of("data", "volumes_per_second"),
        "data_wait_share": of("data", "wait_share"),
    }


def circumstances(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """On what, with what and of what it was measured."""
    described = config.to_dict()
    described["data"] = {k: v for k, v in described["data"].items() if k not in ("root", "cache", "records")}
    text = json.dumps({k: v for k, v in described.items() if k != "benchmark"}, sort_keys=True, default=str)
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "cpu_cores": os.cpu_count(),
        "mesh": dict(mesh.shape),
        "task": described["task"],
        "size": list(config.data.size),
        "batch_size": config.data.batch_size,
        "sample_batch_size": config.sample.batch_size,
        "dtype": config.train.dtype,
        "precision": config.train.precision,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        "versions": versions(device.platform),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def versions(kind: str) -> dict[str, str | None]:
    """The versions of what was used; on a GPU of NVIDIA's that of cuDNN too."""
    found = {"python": platform.python_version()} | {name: version(name) for name in ("jax", "jaxlib", "flax")}
    loaded = cudnn.loaded_version() if kind == "gpu" else None
    return found | ({"cudnn": cudnn.in_words(loaded)} if loaded else {})


def table(result: dict[str, Any]) -> str:
    """Writes what was measured, for people."""
    rows = [("", "median", "spread", "volumes/s a device", "")]
    names = {
        "train": "training step",
        "denoise": "denoising step",
        "sampler": "a batch of samples",
        "data": "reading a batch",
    }
    for part, name in names.items():
        if numbers := result["parts"][part]:
            speed = f"{numbers['volumes_per_second_per_device']:.4g}"
            rows.append((name, duration(numbers["seconds"]), f"{numbers['spread']:.1%}", speed, remark(part, numbers)))
    if numbers := result["parts"]["haar"]:
        spread = f"{numbers['spread']:.1%}"
        held = f"{numbers['volumes']} volumes, {numbers['bytes'] / 1e6:.4g} MB"
        rows.append(("copy", duration(numbers["copy_seconds"]), spread, "", held))
        for way in ("forward", "inverse"):
            text = f"{numbers[f'{way}_over_copy']:.2f} copies"
            rows.append((f"Haar, {way}", duration(numbers[f"{way}_seconds"]), spread, "", text))
        text = f"{numbers['matrices_over_forward']:.1f} times the forward transform"
        rows.append(("the same by matrices", duration(numbers["matrices_seconds"]), spread, "", text))
    if numbers := result["parts"]["checkpoint"]:
        text = f"{numbers['bytes'] / 1e6:.4g} MB; training waits {duration(numbers['blocked_seconds'])}"
        rows.append(("checkpoint, saved", duration(numbers["save_seconds"]), "", "", text))
        rows.append(("checkpoint, read", duration(numbers["restore_seconds"]), "", "", ""))
    kind = f"{result['device_kind']} x {result['devices']}, {result['dtype']}, batch {result['batch_size']}"
    used = ", ".join(f"{word} {result['versions'][n]}" for n, word in USED.items() if result["versions"].get(n))
    return f"{kind}, {' x '.join(map(str, result['size']))}, {used}\n{in_columns(rows)}"


def remark(part: str, numbers: dict[str, Any]) -> str:
    """Returns what else there is to say of a timing."""
    if part == "train":
        counted = numbers["flops_per_volume_compiler"]
        compiler = f"{counted / numbers['flops_per_volume']:.2f} times that" if counted else "none"
        return (
            f"{numbers['tflops_per_second_per_device']:.4g} TFLOP/s a device, {numbers['mfu']:.1%} of a matrix product's "
            f"{numbers['ceiling_tflops_per_second_per_device']:.4g}; {numbers['flops_per_volume'] / 1e9:.5g} GFLOP a "
            f"volume (compiler's count: {compiler}); {numbers['peak_bytes'] / 2**30:.3g} GiB by the "
            f"{numbers['peak_bytes_by']}; compiled in {numbers['compile_seconds']:.1f} s"
        )
    if part == "sampler":
        return f"{numbers['steps']} steps, {numbers['seconds_per_volume']:.4g} s a volume"
    if part == "data" and "wait_share" in numbers:
        step = duration(numbers["train_step_seconds"])
        return f"training from the data {step} a step, {numbers['wait_share']:.1%} of it waiting for them"
    return ""


def operations_table(found: list[Operation]) -> str:
    """The longest operations, and what all of each kind take."""
    total = sum(operation.seconds for operation in found)
    if not total:
        return "the trace names no operations of the training step"
    rows = [("share", "a step", "runs", "operation", "of the model")]
    for operation in found[:OPERATIONS_SHOWN]:
        seconds, times = operation.seconds / PROFILED_STEPS, operation.times / PROFILED_STEPS
        rows.append(
            (f"{operation.seconds / total:.1%}", duration(seconds), f"{times:g}", operation.name, operation.place)
        )
    kinds: dict[str, float] = {}
    for operation in found:
        kinds[operation.opcode] = kinds.get(operation.opcode, 0.0) + operation.seconds
    shares = sorted(kinds.items(), key=lambda item: -item[1])
    rest = ", ".join(f"{kind} {seconds / total:.1%}" for kind, seconds in shares if seconds / total > 0.005)
    return f"{in_columns(rows)}\nby kind: {rest}"


def duration(seconds: float) -> str:
    """Writes a number in the unit that reads best."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-6:.4g} us"


def append(path: pathlib.Path, result: dict[str, Any]) -> None:
    """One line more in the file of results."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def version(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
