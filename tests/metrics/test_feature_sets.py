import numpy as np
import pytest

from medjax.metrics.feature_sets import FeatureSet, load_features, save_features


def test_round_trip(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    saved = FeatureSet("MedicalNet ResNet-50", "0123456789ab", "5 volumes of SCANS", values)
    for _ in range(2):  # the second time over the first
        save_features(tmp_path / "features" / "real.npz", saved)
    loaded = load_features(tmp_path / "features" / "real.npz")
    assert (loaded.backbone, loaded.fingerprint, loaded.source) == (saved.backbone, saved.fingerprint, saved.source)
    np.testing.assert_array_equal(loaded.values, values)
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["real.npz"]


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_features(tmp_path / "no.npz")
    np.savez(tmp_path / "other.npz", values=np.zeros((2, 2)))
    save_features(tmp_path / "cut.npz", FeatureSet("a", "b", "c", np.zeros((40, 40))))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-200])
    (tmp_path / "empty.npz").write_bytes(b"")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((2, 2)))
    for name in ("other.npz", "cut.npz", "empty.npz", "array.npz"):
        with pytest.raises(ValueError, match=f"{name} holds no features"):
            load_features(tmp_path / name)
