"""Measures the table of docs/sampling.md: samplers and numbers of steps against seconds a volume and Frechet distance.

  python benchmarks/sampling_table.py --workdir=RUN --rows="ancestral:1000 ddim:25 dpm_solver:25@karras" --output=TABLE

Each row draws `--count` volumes from a trained workdir and compares them with its held-out subjects, validation and test,
in the features of MedicalNet's ResNet-50 with seeded weights: a fixed space, not a trained one. TABLE/rows.jsonl keeps a
line a row, and rows that are in it are not measured again; TABLE/table.md and TABLE/samples.png are made of them. Run it
again with another --workdir and the same --output for models trained otherwise. Frechet distances depend on the counts,
so compare within one table. The first row, "held-out halves", is the distance between real volumes.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from data_pipelines.batches import open_dataset, volumes  # noqa: E402
from data_pipelines.transforms import from_network  # noqa: E402
from medjax.builders.pretrained import frozen_of, task_of, with_range  # noqa: E402
from medjax.builders.steps import volume_shapes  # noqa: E402
from medjax.generation.sampler import CompiledSampler  # noqa: E402
from medjax.metrics.frechet import frechet_distance  # noqa: E402
from medjax.models.features import features_of  # noqa: E402
from medjax.models.medicalnet import ResNet  # noqa: E402
from medjax.pictures import montage  # noqa: E402
from medjax.runtime.checkpoints import Checkpoints  # noqa: E402
from medjax.runtime.mesh import make_mesh  # noqa: E402
from medjax.runtime.workdir import read_json  # noqa: E402

FEATURE_SEED = 0
PICTURED = 4  # volumes a row


@dataclasses.dataclass(frozen=True)
class Row:
    """SAMPLER[:STEPS][@SCHEDULE][+KEY=VALUE...], such as dpm_solver:25@log_snr; without @SCHEDULE on the trained levels."""

    text: str

    def overrides(self) -> dict[str, object]:
        """The `sample.*` keys that it sets."""
        head, *more = self.text.split("+")
        head, _, schedule = head.partition("@")
        sampler, _, steps = head.partition(":")
        values = {"sampler": sampler, "steps": int(steps) if steps else None, "schedule": schedule or "trained"}
        for pair in more:
            key, _, value = pair.partition("=")
            values[key] = float(value) if key == "eta" else value
        return values


class Model:
    """A trained workdir: its configuration, parameters and held-out subjects."""

    def __init__(self, workdir: pathlib.Path):
        self.workdir = workdir
        self.config = ConfigDict(read_json(workdir / "config.json"))
        self.config.data.size = tuple(self.config.data.size)
        self.mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1})
        task, known = task_of(self.config), read_json(workdir / "data.json").get("frozen")
        frozen = frozen_of(self.config, task, self.mesh, known)
        self.frozen = with_range(frozen, self.config, task, self.mesh, known=known).arrays
        shapes = jax.eval_shape(task.init, jax.random.key(0), volume_shapes(self.config.data.size, 1))
        self.step, model = Checkpoints(workdir, self.config.train.keep).restore_model(shapes, self.mesh)
        self.params, self.variables = model["ema"], model["variables"]

    def held_out(self) -> np.ndarray:
        """[n, D, H, W, 1] in [-1, 1], of subjects that no step was trained on."""
        data = self.config.data.copy_and_resolve_references()
        data.records = None  # which may hold latents
        dataset = open_dataset(data, self.config.seed)
        return np.concatenate([volumes(dataset, side) for side in ("validation", "test")])

    def draw(self, row: Row, count: int, batch_size: int, seed: int) -> tuple[np.ndarray, float, int]:
        """`count` volumes, seconds a volume without compilation, and network evaluations a volume."""
        config = self.config.copy_and_resolve_references()
        config.sample.update(row.overrides() | {"start": None})
        task = task_of(config)
        indices = np.arange(batch_size, dtype=np.uint32)
        drawing = CompiledSampler(task, self.mesh, self.params, self.variables, seed, indices, None, self.frozen)
        drawn, begin = [], time.perf_counter()
        for start in range(0, count, batch_size):
            drawn.append(np.asarray(drawing(start + indices)))
            print(f"{row.text}: {min(start + batch_size, count)} of {count}", file=sys.stderr)
        seconds = (time.perf_counter() - begin) / (len(drawn) * batch_size)
        evaluations = 2 * task.steps - 1 if task.sampling.sampler == "heun" else task.steps
        return np.concatenate(drawn)[:count], seconds, evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--rows", required=True, help="as Row, separated by spaces")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--name", help="of the model in the table; the workdir's by default")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictured", help="rows to show in samples.png, separated by spaces; all by default")
    options = parser.parse_args()

    model, name = Model(options.workdir), options.name or options.workdir.name
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "rows.jsonl"
    known = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = {(row["model"], row["row"], row["step"], row["count"], row["seed"]) for row in known}

    network = ResNet()
    image = jax.ShapeDtypeStruct((1, *model.config.data.size, 1), jnp.float32)
    params = jax.jit(lambda key: network.init(key, jnp.zeros(image.shape)))(jax.random.key(FEATURE_SEED))

    def apply(params: dict, x: jax.Array) -> jax.Array:
        return network.apply(params, (x + 1) / 2)

    def features(x: np.ndarray) -> np.ndarray:
        return features_of(apply, params, x, options.batch_size)

    def keep(row: dict[str, object], drawn: np.ndarray) -> None:
        np.save(options.output / f"{len(known):03d}.npy", drawn[:PICTURED].astype(np.float16))
        known.append(row | {"device": jax.devices()[0].device_kind})
        with record.open("a") as file:
            file.write(json.dumps(known[-1]) + "\n")

    real = model.held_out()
    real_features = features(real)
    asked = {"model": name, "step": model.step, "count": options.count, "seed": options.seed, "real": len(real)}
    if not known:
        halves = frechet_distance(real_features[::2], real_features[1::2])
        empty = {"seconds": None, "evaluations": None}
        keep(asked | empty | {"model": "", "row": "held-out halves", "frechet": halves}, real)
    for text in options.rows.split():
        if (name, text, model.step, options.count, options.seed) in done:
            continue
        drawn, seconds, evaluations = model.draw(Row(text), options.count, options.batch_size, options.seed)
        distance = frechet_distance(features(drawn), real_features)
        keep(asked | {"row": text, "seconds": seconds, "evaluations": evaluations, "frechet": distance}, drawn)
        print(f"{name} {text}: {seconds:.3g} s a volume, Frechet distance {distance:.4g}", file=sys.stderr)

    (options.output / "table.md").write_text(table(known))
    data = read_json(options.workdir / "data.json")
    chosen = None if options.pictured is None else {"held-out halves", *options.pictured.split()}
    pictured = [
        (f"{row['model']} {row['row']}", [from_network(v[..., 0].astype(np.float32), data["axes"]) for v in drawn])
        for n, row in enumerate(known)
        if chosen is None or row["row"] in chosen
        for drawn in [np.load(options.output / f"{n:03d}.npy")]
    ]
    montage(pictured, np.asarray(data["affine"])).save(options.output / "samples.png")


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| model | sampler | evaluations | s / volume | Frechet distance |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g}"
        evaluations = "" if row["evaluations"] is None else row["evaluations"]
        lines.append(f"| {row['model']} | {row['row']} | {evaluations} | {seconds} | {row['frechet']:.4g} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
