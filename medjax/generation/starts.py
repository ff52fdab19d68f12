"""Reads where sampling starts when not from noise: `sample.start`, one volume to vary or two to go from one to the other."""

import dataclasses
import hashlib
import pathlib
import re
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.cases import Case
from data_pipelines.formats import nifti
from data_pipelines.settings import preprocessing_of
from data_pipelines.standard_scale import scales_in
from data_pipelines.transforms import to_network, voxel_shape
from medjax.errors import UserError
from medjax.runtime.mesh import process_rows, put_batch
from medjax.runtime.workdir import as_json, first_difference, read_json
from medjax.task import Batch


@dataclasses.dataclass(frozen=True)
class Start:
    """Volumes to start from.

    Attributes:
      paths: one file, or two.
      volumes: [1 or 2, D, H, W, 1] float32 in [-1, 1].
      affine: [4, 4], of the first, which what is drawn takes.
      count: how many are drawn: two volumes are the ends of as many equal steps.
    """

    paths: tuple[pathlib.Path, ...]
    volumes: np.ndarray
    affine: np.ndarray
    count: int

    @property
    def folder(self) -> str:
        """Returns the name of the folder in the workdir, beside samples."""
        return "variations" if len(self.paths) == 1 else "interpolation"

    def settings(self) -> dict[str, Any]:
        """Lists what decides what is drawn, besides the sampler."""
        digests = [hashlib.sha256(np.ascontiguousarray(volume)).hexdigest() for volume in self.volumes]
        return {"start": [str(path) for path in self.paths], "sha256": digests} | (
            {"count": self.count} if len(self.paths) == 2 else {}
        )

    def key_indices(self, indices: np.ndarray) -> np.ndarray:
        """Says whose noise each volume takes: its own in variations; all the same on the way between two volumes."""
        return indices if len(self.paths) == 1 else np.zeros_like(indices)

    def of(self, indices: np.ndarray, mesh: Mesh) -> Batch:
        """Lays on the mesh where a batch of these volumes starts, as a task's `begin` takes it."""
        own = indices[np.asarray(process_rows(mesh, len(indices)))]
        images = [np.repeat(volume[None], len(own), axis=0) for volume in self.volumes]
        rows = dict(zip(("image", "other"), images, strict=False))
        if len(self.paths) == 2:
            rows["share"] = (own / (self.count - 1)).astype(np.float32)
        return put_batch(rows, mesh, len(indices))


def open_start(sample: ConfigDict, trained: dict[str, Any], data: dict[str, Any]) -> Start | None:
    """The volumes that `sample.start` names, as the network takes them; None where it names none.

    Args:
      sample: the `sample` part of the configuration.
      trained: the run's config.json, whose preprocessing a scan goes through. Our own samples are taken as they are.
      data: the run's data.json.

    Raises:
      UserError, DataError: a file cannot be used, or there are more than two.
    """
    if not sample.start:
        return None
    paths = tuple(pathlib.Path(name.strip()).expanduser() for name in sample.start.split(","))
    if len(paths) > 2:
        raise UserError(f"sample.start names {len(paths)} files: give FILE for variations, or FILE,FILE to interpolate")
    if len(paths) == 2 and sample.count < 2:
        raise UserError(f"sample.count is {sample.count}: use 2 or more, the ends among them, between two volumes")
    read = [_read_sample(path, trained, data) if is_sample(path) else _read_scan(path, trained, data) for path in paths]
    arrays = [to_network(volume.array, data["axes"]) for volume in read]
    return Start(paths, np.stack(arrays)[..., None].astype(np.float32), read[0].affine, sample.count)


def is_sample(path: pathlib.Path) -> bool:
    """Whether the file is one that --mode=sample left where it lies."""
    return bool(re.fullmatch(r"sample_\d{5,}\.nii\.gz", path.name)) and (path.parent / "settings.json").exists()


def _read_sample(path: pathlib.Path, trained: dict[str, Any], data: dict[str, Any]) -> nifti.Volume:
    volume = nifti.read_unchecked(path)
    expected = voxel_shape(tuple(trained["data"]["size"]), data["axes"])
    if volume.array.shape != expected:
        raise UserError(f"{path} has {volume.array.shape} voxels, this model {expected}: start from samples of its own")
    if not np.isfinite(volume.array).all():
        raise UserError(f"{path} holds NaN, which a model drew: start from another sample")
    files = read_json(path.parent / "settings.json").get("files", {})
    for key in ("axes", "intensity_range"):
        if difference := first_difference(files.get(key), as_json(data[key]), key):
            raise UserError(f"{path} is no sample of this model, {difference}: start from samples of its own")
    low, high = data["intensity_range"]
    array = np.clip((volume.array - low) / (high - low) * 2 - 1, -1, 1)
    return dataclasses.replace(volume, array=array)


def _read_scan(path: pathlib.Path, trained: dict[str, Any], data: dict[str, Any]) -> nifti.Volume:
    case = Case(path.name, path.name, {"image": path})
    return preprocessing_of(ConfigDict(trained["data"]), scales_in(data))(case)["image"]
