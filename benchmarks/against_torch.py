"""Our training step and denoising step against PyTorch's, measured alternately in one run.

    python benchmarks/against_torch.py --channels 64 --size 64 --batch 1

The network is WDM's published U-Net of `channels` at its first level, its input 8 subbands of `size`^3 coefficients, so volumes
have twice that edge. Ours is what a user gets: configs/folder.py through `train_step_of` and `denoise_step_of`. The peer is
benchmarks/twin.py (`--peer twin`, or `compiled` by torch.compile, or `both`, the default), or MONAI's DiffusionModelUNet with
the same widths and number of blocks (`--peer monai`), in the same training step.

Each side is a process of its own, so that neither's threads and memory meet the other's, and they take turns: while one
measures a window of steps the other waits for a message. On a CPU both are held to the same `--threads` cores, and both keep
the memory that they free, as launch.py has it (medjax/host_memory.py; `--fresh_memory`: neither does).

A table goes to stderr, one JSON object to stdout: seconds a step as medians over windows, the smallest and the largest, and the
ratios ours to theirs, the median and the range of the ratios of neighbouring windows. "processor" seconds are those that
the process was at work on all its cores together, for machines on which others are at work too: by the clock, what is fast there
is first of all what waits for no thread that others have put aside, and PyTorch's OpenMP threads wait for each other.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
MULTIPLIERS, LEVELS = (1, 2, 2, 4, 4), 5
STEPS = ("train", "denoise")
KINDS = ("clock", "processor")  # of seconds

Step = Callable[[], None]  # runs to its end before it returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="edge of the network's input, a multiple of 16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--peer", choices=("twin", "compiled", "both", "monai"), default="both")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="cores, on a CPU")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="a window is as many steps as last so long, or one")
    parser.add_argument("--lowering", help="of our convolutions, instead of the platform's own")
    parser.add_argument("--depth", type=int, default=1, help="ours: mesh.depth over so many virtual devices, on a CPU")
    parser.add_argument("--fresh_memory", action="store_true", help="freed memory goes back to the system")
    options = parser.parse_args()
    if options.size % 2 ** (LEVELS - 1):
        parser.error(f"--size {options.size}: {LEVELS} levels need a multiple of {2 ** (LEVELS - 1)}")

    names = ["ours", *(("twin", "compiled") if options.peer == "both" else (options.peer,))]
    sides = {}
    for name in names:  # one after the other: how long their first steps take says how many make a window
        side = Side(name, options)
        if side.ready():
            sides[name] = side
    times = {(name, step, kind): [] for name in sides for step in STEPS for kind in KINDS}
    for step in STEPS:
        for _ in range(options.windows):
            for name, side in sides.items():
                for kind, seconds in zip(KINDS, side.window(step), strict=True):
                    times[name, step, kind].append(seconds)
    for side in sides.values():
        side.pipe.send(None)
    print(json.dumps(report(options, sides, times)))


class Side:
    """A process that makes its steps, warms them up and then measures a window whenever it is asked."""

    def __init__(self, name: str, options: argparse.Namespace):
        self.name = name
        self.pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        work = multiprocessing.get_context("spawn").Process(target=serve, args=(name, options, theirs), daemon=True)
        work.start()
        theirs.close()

    def ready(self) -> bool:
        """Whether it could be made; waits until it has been."""
        try:
            about = self.pipe.recv()
        except EOFError:
            about = "its process ended, most likely for want of memory"
        if isinstance(about, str):
            print(f"{self.name} cannot run here: {about}", file=sys.stderr)
            return False
        self.about = about
        print(f"{self.name}: {about['versions']}, first steps in {about['first_seconds']:.0f} s", file=sys.stderr)
        return True

    def window(self, step: str) -> tuple[float, float]:
        """The mean seconds of a step over one window: by the clock, and of the processor."""
        try:
            self.pipe.send(step)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            print(f"{self.name}: its process ended, most likely for want of memory", file=sys.stderr)
            sys.exit(2)


def serve(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Does what a side's process does."""
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = (
            os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={options.depth}"
        )
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, cores)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU is shared with the other side
    sys.path.insert(0, str(ROOT))
    from medjax.host_memory import keep_freed_memory

    if not options.fresh_memory:
        keep_freed_memory()
    begin = time.perf_counter()
    try:
        steps, versions = our_steps(options) if name == "ours" else their_steps(name, options)
        for run in 3 * tuple(steps.values()):  # after which their memory grows no more
            run()
        counts = {}
        for step, run in steps.items():
            start = time.perf_counter()
            run()
            counts[step] = max(1, round(options.seconds / (time.perf_counter() - start)))
    except Exception as error:  # of compilers, above all
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return
    pipe.send({"versions": versions, "first_seconds": time.perf_counter() - begin})
    while step := pipe.recv():
        start, at_work = time.perf_counter(), time.process_time()
        for _ in range(counts[step]):
            steps[step]()
        taken = time.perf_counter() - start, time.process_time() - at_work
        pipe.send(tuple(seconds / counts[step] for seconds in taken))


def our_config(options: argparse.Namespace) -> Any:
    """Returns what a user's own run would be of, at this size."""
    from configs import folder

    config = folder.get_config("bf16" if options.dtype == "bfloat16" else None)
    config.train.remat = "none"
    config.data.size = (2 * options.size,) * 3
    config.data.batch_size = options.batch
    config.mesh.depth = options.depth
    config.model.base_channels = options.channels
    config.model.channel_multipliers = MULTIPLIERS
    config.train.lowering = options.lowering
    return config


def our_steps(options: argparse.Namespace) -> tuple[dict[str, Step], str]:
    """The jitted steps that train and sample run, on a batch that is on the device already."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from medjax.builders.steps import denoise_step_of, optimizer_of, state_shapes, train_step_of
    from medjax.runtime.mesh import make_mesh
    from medjax.runtime.train_state import TrainState
    from medjax.tasks import make_task

    config = our_config(options)
    task, mesh = make_task(config), make_mesh(config.mesh)
    batch = {"image": jax.random.uniform(jax.random.key(1), (options.batch, *config.data.size, 1), minval=-1.0)}
    _, optimizer = optimizer_of(config, task)
    # Any numbers will do, and drawing them by the task's own `init` takes longer to compile than a step.
    generator = np.random.default_rng(config.seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * generator.standard_normal(leaf.shape, np.float32)),
        state_shapes(task, optimizer, batch).params,
    )
    average = jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.zeros((), jnp.int32), params, task.objective.init(), optimizer.init(params), average)
    train_step = train_step_of(config, task, optimizer, state, batch, mesh)
    denoise_step = denoise_step_of(task, state.params, state.variables, batch, mesh)
    frozen, keys = {}, jax.random.split(jax.random.key(2), options.batch)

    def train() -> None:
        nonlocal state
        state, metrics = train_step(state, frozen, batch)
        assert jnp.isfinite(metrics["loss"]), "its loss is not finite"

    def denoise() -> None:
        jax.block_until_ready(denoise_step(state.params, state.variables, frozen, keys))

    return {"train": train, "denoise": denoise}, f"jax {jax.__version__}"


def their_steps(name: str, options: argparse.Namespace) -> tuple[dict[str, Step], str]:
    """The same of PyTorch."""
    import torch

    from benchmarks import twin

    torch.set_num_threads(options.threads)
    config, versions = our_config(options), f"torch {torch.__version__}"
    if name == "monai":
        import monai

        network, versions = monai_network(options), f"{versions}, monai {monai.__version__}"
    else:
        network = twin.UNet(options.channels, MULTIPLIERS, config.model.blocks_per_level, config.model.groups)
    settings = twin.Settings(
        learning_rate=config.optimizer.learning_rate,
        clip_norm=config.optimizer.clip_norm,
        ema_decay=config.train.ema_decay,
        autocast=options.dtype == "bfloat16",
        compile=name == "compiled",
    )
    learner = twin.Twin(network, settings, options.device)
    volumes = torch.rand((options.batch, 1, *config.data.size), device=options.device) * 2 - 1

    def train() -> None:
        assert learner.train_step(volumes).isfinite(), "its loss is not finite"

    def denoise() -> None:
        learner.denoise_step((options.batch, 8, *(options.size,) * 3)).sum().item()

    return {"train": train, "denoise": denoise}, versions


def monai_network(options: argparse.Namespace) -> Any:
    """MONAI's U-Net of the same widths and residual blocks without attention; its skips are concatenated, so it is larger."""
    import torch
    from monai.networks.nets import DiffusionModelUNet

    class WithPositions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = DiffusionModelUNet(
                spatial_dims=3,
                in_channels=8,
                out_channels=8,
                num_res_blocks=2,
                channels=tuple(options.channels * multiplier for multiplier in MULTIPLIERS),
                attention_levels=(False,) * LEVELS,
                norm_num_groups=32,
                resblock_updown=True,
            )

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.network(x, timesteps=t).float()

    return WithPositions()


def report(options: argparse.Namespace, sides: dict[str, Side], times: dict[tuple[str, str, str], list[float]]) -> dict:
    """The JSON object; prints the table on the way."""
    result: dict[str, Any] = vars(options) | {
        "versions": {name: side.about["versions"] for name, side in sides.items()}
    }
    for (name, step, kind), taken in times.items():
        result[f"{name}_{step}_{kind}_seconds"] = spread(taken)
        line = f"{name:>9} {step:>7}, {kind:>9}: {format_spread(taken, ' s')}"
        if name != "ours" and "ours" in sides:
            ratios = [ours / theirs for ours, theirs in zip(times["ours", step, kind], taken, strict=True)]
            result[f"ours_to_{name}_{step}_{kind}"] = spread(ratios)
            line += f"   ours/theirs {format_spread(ratios)}"
        print(line, file=sys.stderr)
    return result


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def format_spread(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3f}{unit} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
