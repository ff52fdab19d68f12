import dataclasses

import numpy as np
import pytest

from case_of import case_of
from data_pipelines import preprocessing
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import brats, folder, lidc, mrnet


def test_what_is_not_made_use_of_leaves_the_identity_of_runs_and_the_place_in_the_cache():
    """As both were before there were options."""
    plain = folder.Preprocessing((4, 5, 6), fit="brain", margin=10)
    assert preprocessing.written(plain) == (
        "Preprocessing(shape=(4, 5, 6), orientation='RAS', spacing=None, window='quantile', window_range=(0.001, 0.999), "
        "fit='brain', margin=10, voxel_size=(1.0, 1.0, 1.0))"
    )
    assert preprocessing.parameters(plain) == {
        "shape": (4, 5, 6), "orientation": "RAS", "spacing": None, "window": "quantile", "window_range": (0.001, 0.999),
        "fit": "brain", "margin": 10, "voxel_size": (1.0, 1.0, 1.0),
    }  # fmt: skip
    knee = mrnet.Preprocessing((4, 5, 6), plane="axial")
    assert preprocessing.written(knee).endswith("voxel_size=(0.625, 0.625, 3.0), plane='axial')")
    published = brats.Preprocessing((4, 5, 6))
    assert preprocessing.written(published) == "Preprocessing(shape=(4, 5, 6), orientation='native')"
    assert preprocessing.parameters(published) == {"shape": (4, 5, 6), "orientation": "native"}
    chest = lidc.Preprocessing((4, 5, 6))
    assert preprocessing.written(chest).endswith("orientation='native', spacing=(1.0, 1.0, 1.0))")


def test_what_is_made_use_of_makes_other_volumes():
    plain = folder.Preprocessing((4, 5, 6))
    asked = dataclasses.replace(plain, nan_background=True)
    assert preprocessing.written(asked) == preprocessing.written(plain)[:-1] + ", nan_background=True)"
    assert preprocessing.parameters(asked) == preprocessing.parameters(plain) | {"nan_background": True}


@pytest.mark.parametrize(
    "published", [brats.Preprocessing((8, 8, 8)), lidc.Preprocessing((8, 8, 8), spacing=(32.0,) * 3)]
)
def test_published_preprocessing_takes_nan_for_background_where_it_is_told_to(published, tmp_path):
    array = np.random.default_rng(0).uniform(-500, 1000, (8, 8, 8)).astype(np.float32)
    affine = np.diag([*getattr(published, "spacing", (1, 1, 1)), 1.0])
    array[0, 0, 0] = -1000
    nifti.write(tmp_path / "a.nii", Volume(array, affine))
    nifti.write(tmp_path / "b.nii", Volume(np.where(array == -1000, np.nan, array), affine))
    with pytest.raises(DataError, match="data.nan_background=True"):
        published(case_of(tmp_path / "b.nii"))
    asked = dataclasses.replace(published, nan_background=True)
    (found,) = asked(case_of(tmp_path / "b.nii")).values()
    assert np.isfinite(found.array).all() and found.array[0, 0, 0] == -1
