"""Files that medjax reads, good ones to begin with, and what reads each of them: the fuzzer's targets."""

import contextlib
import dataclasses
import io
import json
import pathlib
import random
from collections.abc import Callable

import numpy as np

from case_of import case_of
from soak import mutations

SHAPE = (8, 8, 8)


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
      name: for people.
      weight: how often it is tried, beside the others.
      write: makes good files in an empty folder.
      files: of these, those that are damaged, one at a time.
      damage: from good bytes to others.
      read: reads the folder as a job does; raises UserError or DataError for what cannot be used.
    """

    name: str
    weight: int
    write: Callable[[pathlib.Path], None]
    files: tuple[str, ...]
    damage: Callable[[bytes, random.Random], bytes]
    read: Callable[[pathlib.Path], object]


def targets() -> tuple[Target, ...]:
    """Lists all of them."""
    run = ("run/config.json", "run/data.json", "run/samples/settings.json")
    tree = mutations.damaged_json
    return (
        Target("NIfTI", 20, write_nifti, ("scan.nii",), mutations.damaged, read_nifti),
        Target("NIfTI, compressed", 20, write_nifti_gz, ("scan.nii.gz",), mutations.damaged_gzip, read_nifti),
        Target("npy", 15, write_npy, ("scan.npy",), mutations.damaged, read_npy),
        Target("DICOM", 15, write_dicom, ("1.dcm",), mutations.damaged, read_dicom),
        Target("DICOM, elements", 10, write_dicom, ("1.dcm",), damaged_dicom, read_dicom),
        Target("pt", 20, write_pt, ("a.pt",), mutations.damaged_zip, read_pt),
        Target("pt before 1.6", 15, write_old_pt, ("a.pt",), mutations.damaged_pickle, read_pt),
        Target("records.json", 10, write_records, ("records/records.json",), tree, read_records),
        Target("a record", 5, write_records, ("records/folder-train.tfrecord-*",), mutations.damaged, read_records),
        Target("a run's folder", 20, write_run, run[:2], tree, open_run),
        Target("the VQ-GAN's config.json", 10, write_run, run[:1], tree, read_vqgan),
        Target("settings.json", 10, write_run, run[2:], tree, read_settings),
        Target("metrics.jsonl", 15, write_run, ("run/metrics.jsonl",), mutations.damaged_lines, read_metrics),
        Target("checkpoint's metadata", 3, write_checkpoint, METADATA, tree, read_checkpoint),
        Target("checkpoint's arrays", 2, write_checkpoint, ARRAYS, mutations.damaged, read_checkpoint),
    )


def nifti_image():
    """Makes a small image of scaled integers, with both forms of an affine."""
    import nibabel

    array = np.random.default_rng(0).integers(0, 900, (7, 6, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(array, np.diag([-2.0, 2.0, 2.5, 1.0]))
    image.header.set_slope_inter(2.0, -5.0)
    image.header.set_xyzt_units("mm")
    return image


def write_nifti(folder: pathlib.Path) -> None:
    nifti_image().to_filename(folder / "scan.nii")


def write_nifti_gz(folder: pathlib.Path) -> None:
    nifti_image().to_filename(folder / "scan.nii.gz")


def read_nifti(folder: pathlib.Path) -> object:
    from data_pipelines.readers.folder import Preprocessing

    (path,) = folder.iterdir()
    return Preprocessing(SHAPE)(case_of(path))["image"]


def write_npy(folder: pathlib.Path) -> None:
    np.save(folder / "scan.npy", np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32))


def read_npy(folder: pathlib.Path) -> object:
    from data_pipelines.readers.folder import Preprocessing

    return Preprocessing(SHAPE)(case_of(folder / "scan.npy"))["image"]


def write_dicom(folder: pathlib.Path) -> None:
    from test_dicom import write_slice

    for k in range(3):
        write_slice(folder / f"{k}.dcm", k)


def damaged_dicom(content: bytes, rng: random.Random) -> bytes:
    """Removes an element of a slice or gives it another value, as long as pydicom writes that."""
    import pydicom

    image = pydicom.dcmread(io.BytesIO(content))
    for _ in range(rng.choice((1, 1, 2))):
        element = rng.choice(list(image))
        if rng.random() < 0.2:
            del image[element.tag]
            continue
        value = rng.choice(("", "x", "-1", "0", "1e400", "nan", "1\\2", "9" * 40, 0, 65535, -1, b"", b"\xff" * 7))
        with contextlib.suppress(Exception):
            element.value = value
    out = io.BytesIO()
    try:
        image.save_as(out, enforce_file_format=True)
    except Exception:  # pydicom would not write that
        return mutations.damaged(content, rng)
    return out.getvalue()


def read_dicom(folder: pathlib.Path) -> object:
    from data_pipelines.formats import dicom

    return dicom.modality(folder), dicom.read_series(folder)


def state_dict() -> dict[str, np.ndarray]:
    return {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.bias": np.ones(3, np.float32)}


def write_pt(folder: pathlib.Path) -> None:
    from medjax.interop.torch_save import save_checkpoint

    save_checkpoint(folder / "a.pt", {"model": state_dict(), "step": 7})


def write_old_pt(folder: pathlib.Path) -> None:
    from test_torch_legacy import STORAGES, TENSORS, stream
    from torch_files import dictionary

    stream(folder / "a.pt", dictionary(**TENSORS), STORAGES)


def read_pt(folder: pathlib.Path) -> object:
    """Reads it in both ways; what the one refuses, the other may take."""
    from medjax.errors import UserError
    from medjax.interop.torch_load import load_state_dict, load_state_dicts

    with contextlib.suppress(UserError):
        load_state_dicts(folder / "a.pt", ("model", ""))
    return {name: array.sum() for name, array in load_state_dict(folder / "a.pt").items()}


def data_config(folder: pathlib.Path):
    """Makes the configuration of a small dataset that lies in a folder."""
    from configs import folder as of_folder

    config = of_folder.get_config("tiny")
    config.data.size = SHAPE
    config.data.root = str(folder / "scans")
    config.data.cache = str(folder / "cache")
    config.data.records = str(folder / "records")
    return config


def write_records(folder: pathlib.Path) -> None:
    from data_pipelines import prepare_records
    from small_runs import write_scans

    write_scans(folder / "scans", 4)
    preparation = prepare_records.plan(data_config(folder).data)
    with prepare_records.sole_use(preparation):
        prepare_records.decode(preparation, range(4))
        prepare_records.finish(preparation)


def read_records(folder: pathlib.Path) -> object:
    from data_pipelines.batches import open_dataset, volumes

    dataset = open_dataset(data_config(folder).data, 0)
    return dataset.identity(), [volumes(dataset, side) for side in ("train", "validation", "test")]


def run_data() -> dict:
    """Gives what data.json holds of a run on latents."""
    affine = np.eye(4).tolist()
    identity = {"name": "folder", "size": [8, 8, 8], "split": [0.8, 0.1, 0.1], "fingerprint": "abc"}
    frozen = {"step": 4, "fingerprint": "abc", "scaling": "codebook", "low": [-1.0], "high": [1.0]}
    return {"identity": identity, "axes": "ijk", "affine": affine, "intensity_range": [0.0, 1.0], "frozen": frozen}


def write_run(folder: pathlib.Path) -> None:
    """Writes what a run of a VQ-GAN leaves beside its checkpoints."""
    from medjax.runtime.workdir import write_json

    (folder / "run/samples").mkdir(parents=True)
    write_json(folder / "run/config.json", vqgan_config(folder).to_dict())
    write_json(folder / "run/data.json", run_data())
    write_json(folder / "run/samples/settings.json", {"step": 10, "seed": 0, "sampler": "ddim", "steps": 3})
    rows = [{"step": step, "loss": 1.0 / (1 + step), "val_loss": 0.5, "loss/LLL": None} for step in range(12)]
    (folder / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def vqgan_config(folder: pathlib.Path):
    from configs import medical_diffusion

    config = medical_diffusion.get_config("folder,vqgan,tiny")
    config.data.root = str(folder / "scans")
    return config


def open_run(folder: pathlib.Path) -> object:
    """Opens it as training does."""
    from medjax.builders.pretrained import known_frozen
    from medjax.runtime.workdir import open_workdir

    known = known_frozen(folder / "run")
    open_workdir(folder / "run", vqgan_config(folder).to_dict(), run_data())
    return known


def read_vqgan(folder: pathlib.Path) -> object:
    """Reads it as training a diffusion on it does."""
    from configs import medical_diffusion
    from medjax.builders.pretrained import task_of

    config = medical_diffusion.get_config("folder,ddpm,tiny")
    config.latents.vqgan = str(folder / "run")
    return task_of(config)


def read_settings(folder: pathlib.Path) -> object:
    """Reads them as sampling and the report of an evaluation do."""
    from medjax.evaluation.exhibits import run_facts
    from medjax.jobs.sample import open_folder

    facts = run_facts(folder / "run")
    open_folder(folder / "run/samples", {"step": 10, "seed": 0})
    return facts


def read_metrics(folder: pathlib.Path) -> object:
    """Reads them as going on, the end of training and the report of an evaluation do."""
    from medjax.evaluation.exhibits import training_curves
    from medjax.runtime.metrics_log import MetricsLog, last_values

    path = folder / "run/metrics.jsonl"
    found = last_values(path), training_curves(folder / "run")
    MetricsLog(folder / "run", 5).close()
    return found


METADATA = (
    "run/checkpoints/2/_CHECKPOINT_METADATA",
    "run/checkpoints/2/fingerprints/metadata",
    "run/checkpoints/2/model/_METADATA",
    "run/checkpoints/2/model/_sharding",
    "run/checkpoints/2/metrics/metrics",
)
ARRAYS = ("run/checkpoints/2/model/**/*",)


def small_state(step: int):
    import jax.numpy as jnp

    from medjax.runtime.train_state import TrainState

    params = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3) + step}}
    return TrainState(step=jnp.asarray(step), params=params, variables={}, opt_state={"mu": params}, ema=params)


def write_checkpoint(folder: pathlib.Path) -> None:
    from medjax.runtime.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder / "run", 3)
    for step in (1, 2):
        checkpoints.save(small_state(step), 0.5 / step)
    checkpoints.close()


def read_checkpoint(folder: pathlib.Path) -> object:
    """Reads it as going on and sampling do."""
    import jax

    from medjax.runtime.checkpoints import Checkpoints
    from medjax.runtime.mesh import AXES, make_mesh

    mesh = make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])
    training, sampling = Checkpoints(folder / "run", 3), Checkpoints(folder / "run", 3)
    state = jax.eval_shape(lambda: small_state(2))
    model = sampling.restore_model((state.params, {}), mesh, weights=("ema",))
    return sampling.best_step, training.restore(state, mesh), model
