import dataclasses
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import cache
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.preprocessing import Arrays
from data_pipelines.readers.folder import Preprocessing

SHAPE = (8, 9, 10)
calls = []


@dataclasses.dataclass(frozen=True)
class Counting:
    """Preprocessing that remembers what it was asked for."""

    gain: float = 1.0

    def __call__(self, case: Case) -> Arrays:
        calls.append(case.path.name)
        volume = nifti.read(case.path)
        return {"image": dataclasses.replace(volume, array=self.gain * volume.array)}


@pytest.fixture
def scans(tmp_path):
    calls.clear()
    rng = np.random.default_rng(0)
    found = []
    for n in range(4):
        path = tmp_path / f"source/{n}.nii.gz"
        nifti.write(path, Volume(rng.normal(size=SHAPE).astype(np.float32), np.diag([1, 2, 3.0, 1])))
        found.append(Case(path.name, str(n), {"image": path}))
    return found


def test_decoded_once_and_memory_mappable(scans, tmp_path):
    for _ in range(2):
        examples = cache.decode(scans, Counting(), tmp_path / "cache")
    assert sorted(calls) == ["0.nii.gz", "1.nii.gz", "2.nii.gz", "3.nii.gz"]
    for scan in scans:
        example = examples[scan.name]
        np.testing.assert_array_equal(nifti.memory_map(example.images[0]), nifti.read(scan.path).array)
        np.testing.assert_allclose(example.affine, np.diag([1, 2, 3, 1]))


def test_another_preprocessing_or_a_changed_source_is_decoded_anew(scans, tmp_path):
    before = cache.decode(scans, Counting(), tmp_path / "cache")
    after = cache.decode(scans, Counting(gain=2.0), tmp_path / "cache")
    assert len(calls) == 8 and not {e.images for e in before.values()} & {e.images for e in after.values()}
    nifti.write(scans[0].path, Volume(np.random.default_rng(9).normal(size=SHAPE).astype(np.float32), np.eye(4)))
    os.utime(scans[0].path, ns=(10**18, 10**18))
    again = cache.decode(scans, Counting(), tmp_path / "cache")
    assert calls[8:] == ["0.nii.gz"]
    np.testing.assert_array_equal(nifti.memory_map(again["0.nii.gz"].images[0]), nifti.read(scans[0].path).array)
    os.utime(scans[1].path, ns=(10**18, 10**18))  # of the same size as before
    cache.decode(scans, Counting(), tmp_path / "cache")
    assert calls[9:] == ["1.nii.gz"]


def test_two_runs_at_once_decode_once(scans, tmp_path):
    runs = [threading.Thread(target=cache.decode, args=(scans, Counting(), tmp_path / "cache")) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(calls) == 4


def test_unreadable_files(scans, tmp_path, capsys):
    for n in (1, 2):
        scans[n].path.write_bytes(scans[n].path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"1\.nii\.gz.*first of 2 unusable scans out of 4.*skip_bad_files"):
        cache.decode(scans, Preprocessing(SHAPE), tmp_path / "cache")
    examples = cache.decode(scans, Preprocessing(SHAPE), tmp_path / "cache", skip_bad_files=True)
    assert list(examples) == ["0.nii.gz", "3.nii.gz"]
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2 and "2.nii.gz" in skipped[1]
    with pytest.raises(DataError, match=r"1\.nii\.gz"):
        cache.decode(scans[1:3], Preprocessing(SHAPE), tmp_path / "cache", skip_bad_files=True)


def test_full_disk_is_the_cache_s_fault_not_the_scan_s(scans, tmp_path, monkeypatch):
    def full(path, volume):
        raise DataError(f"{path.parent}: no space left")

    monkeypatch.setattr(nifti, "write", full)
    with pytest.raises(DataError, match=r"cache.*no space left"):
        cache.decode(scans, Counting(), tmp_path / "cache", skip_bad_files=True)


def test_leftovers_of_a_killed_run_are_removed(scans, tmp_path):
    examples = cache.decode(scans, Counting(), tmp_path / "cache")
    leftover = examples["0.nii.gz"].images[0].with_name(".unfinished-77-x.nii")
    leftover.touch()
    cache.decode(scans, Counting(), tmp_path / "cache")
    assert not leftover.exists()


def test_default_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "medjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == Path.home() / ".cache/medjax"


@pytest.mark.parametrize("where", [100, -3])  # in the header, in the voxels
def test_a_flipped_bit_is_noticed_and_the_volume_decoded_again(where, scans, tmp_path, capsys):
    examples = cache.decode(scans, Counting(), tmp_path / "cache")
    path = examples["2.nii.gz"].images[0]
    good = path.read_bytes()
    bad = bytearray(good)
    bad[where] ^= 1
    path.write_bytes(bad)
    calls.clear()
    cache.decode(scans, Counting(), tmp_path / "cache")
    assert calls == ["2.nii.gz"]
    assert path.read_bytes() == good
    assert f"{path}: damaged, so decoded again" in capsys.readouterr().err


def test_a_volume_without_its_checksum_is_not_whole(scans, tmp_path):
    examples = cache.decode(scans, Counting(), tmp_path / "cache")
    path = examples["1.nii.gz"].images[0]
    path.with_name(f"{path.name}.crc32").unlink()
    calls.clear()
    cache.decode(scans, Counting(), tmp_path / "cache")
    assert calls == ["1.nii.gz"]


def test_what_is_doubtful_is_told_at_each_start_in_one_line_over_all_scans(scans, tmp_path, capsys):
    for scan in scans[1:]:
        array = nifti.read(scan.path).array
        array[:3] = -1000
        nifti.write(scan.path, Volume(array, np.eye(4)))
    for _ in range(2):
        cache.decode(scans, Preprocessing(SHAPE), tmp_path / "cache")
        told = [line for line in capsys.readouterr().err.splitlines() if "far from all others" in line]
        assert len(told) == 1 and told[0].startswith("3 files: ")
        assert f"(first {scans[1].path}, 38% of the voxels are -1000" in told[0]
    cache.decode(scans, Preprocessing(SHAPE, window="fixed", window_range=(-1.0, 1.0)), tmp_path / "cache")
    assert "far from all others" not in capsys.readouterr().err


def test_a_volume_without_its_notices_is_not_whole(scans, tmp_path):
    examples = cache.decode(scans, Counting(), tmp_path / "cache")
    path = examples["1.nii.gz"].images[0]
    path.with_name(f"{path.stem}.notices.json").unlink()
    calls.clear()
    cache.decode(scans, Counting(), tmp_path / "cache")
    assert calls == ["1.nii.gz"]
