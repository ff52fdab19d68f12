"""Augmentation: what it draws, what it does to images and label maps, and that it has no state."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from scipy.spatial.transform import Rotation

from configs import atlas, brats, common, folder, lidc, medical_diffusion
from data_pipelines import augmentation, batches, datasets
from data_pipelines.augmentation import Augmentation, augmentation_of, augmented
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.records import Latents
from prepared import changed as changed_keys
from prepared import make, scans_to_prepare
from test_batches import settings, take

ALL = Augmentation(rotate=10.0, scale=0.1, shift=0.05, gamma=0.3, brightness=0.2, noise=0.1)
GEOMETRY = Augmentation(rotate=10.0, scale=0.1, shift=0.05)
CUBES = tf.ones([3])
SHAPE = (20, 24, 16)
N = 7


def key(p: int, seed: int = 3) -> tf.Tensor:
    return tf.constant([seed, p], tf.int64)


def smooth(seed: int = 0, shape=SHAPE, sigma: float = 3.0) -> np.ndarray:
    """Random numbers without detail, from -1 to 1, [D, H, W] float32."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (2 * (noise - noise.min()) / np.ptp(noise) - 1).astype(np.float32)


def changed(image: np.ndarray, amounts: Augmentation, p: int = 0, spacing: tf.Tensor = CUBES, **others) -> dict:
    """What becomes of [D, H, W, C] at position p, as NumPy's."""
    arrays = {"image": tf.constant(image)} | {name: tf.constant(array) for name, array in others.items()}
    return {name: array.numpy() for name, array in augmented(arrays, amounts, key(p), spacing).items()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> datasets.Dataset:
    """Nine subjects with two images and a label map each, laid out as BraTS, of voxels that are no cubes."""
    place = tmp_path_factory.mktemp("augmentation")
    for n in range(9):
        name = f"BraTS-GLI-{n:05d}-000"
        for number, series in enumerate(("t1n", "t2f")):
            array = 500 + 400 * smooth(2 * n + number)
            nifti.write(place / f"scans/{name}/{name}-{series}.nii", Volume(array, np.diag([-1.0, -1, 2, 1])))
        labels = np.select([array > 600, array > 400], [4, 1], 0).astype(np.uint8)
        nifti.write(place / f"scans/{name}/{name}-seg.nii", Volume(labels, np.diag([-1.0, -1, 2, 1])), np.uint8)
    data = settings(
        name="brats", root=str(place / "scans"), cache=str(place / "cache"), size=SHAPE, orientation="native",
        channels=("t1n", "t2f"), label_map=True, window="quantile", window_range=(0.001, 0.999),
    )  # fmt: skip
    dataset = datasets.open_dataset(data, 0)
    assert len(dataset.train) == N
    return dataset


def test_a_batch_is_the_same_wherever_a_run_starts_and_whoever_reads_its_rows(dataset):
    whole = take(batches.train_batches(dataset, 5, 4, flip=True, augmentation=ALL), 6)
    assert sorted(whole[0]) == ["image", "labels"]
    late = next(batches.train_batches(dataset, 5, 4, step=5, flip=True, augmentation=ALL))
    for name in late:
        np.testing.assert_array_equal(late[name], whole[5][name])
    for rows in ((0, 1), (2, 3), (3, 0)):
        part = take(batches.train_batches(dataset, 5, 4, step=1, rows=rows, flip=True, augmentation=ALL), 2)
        for ours, theirs in zip(part, whole[1:3], strict=True):
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name][list(rows)])


def test_a_volume_is_another_each_time_that_it_comes_and_with_each_seed(dataset):
    one = [next(batches.train_batches(dataset, seed, 2 * N, augmentation=GEOMETRY))["image"] for seed in (5, 6)]
    seen = [image.tobytes() for batch in one for image in batch]
    assert len(set(seen)) == 4 * N


def test_without_any_amount_batches_are_what_the_files_hold(dataset):
    held = {
        volume.tobytes(): labels.tobytes()
        for volume, labels in zip(batches.volumes(dataset, "train"), batches.label_maps(dataset, "train"), strict=True)
    }
    none = Augmentation()
    for plain, batch in zip(
        take(batches.train_batches(dataset, 5, 4), 3),
        take(batches.train_batches(dataset, 5, 4, augmentation=none), 3),
        strict=True,
    ):
        for name in plain:
            np.testing.assert_array_equal(plain[name], batch[name])
        for image, labels in zip(batch["image"], batch["labels"], strict=True):
            assert held[image.tobytes()] == labels.tobytes()


def test_flips_are_drawn_as_they_are_without_augmentation(dataset):
    plain, flipped = (next(batches.train_batches(dataset, 5, 20, flip=flip))["labels"] for flip in (False, True))
    mirrored = [not np.array_equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    # By the same generator with the key (seed, p), as ever since there are flips.
    drawn = [bool(tf.random.stateless_uniform([], key(p, 5)) < 0.5) for p in range(20)]
    assert mirrored == drawn and 3 < sum(mirrored) < 17
    noise = Augmentation(noise=1e-3)
    both = next(batches.train_batches(dataset, 5, 20, flip=True, augmentation=noise))["labels"]
    np.testing.assert_array_equal(both, flipped)


@pytest.mark.parametrize("amount", ["rotate", "scale", "shift", "gamma", "brightness", "noise"])
def test_each_amount_is_drawn_the_same_whatever_else_is_on(amount):
    names = {"rotate": ("angle", "axis"), "scale": ("factor",), "gamma": ("exponent",), "brightness": ("gain",)}
    alone = augmentation.draws(Augmentation(**{amount: getattr(ALL, amount)}), key(4), 2)
    together = augmentation.draws(ALL, key(4), 2)
    for name in names.get(amount, (("deviation" if amount == "noise" else "shift"),)):
        np.testing.assert_array_equal(alone[name], together[name])


def test_draws_fill_their_limits_on_both_sides_and_differ_from_each_other():
    drawn = [augmentation.draws(ALL, key(p), 2) for p in range(200)]
    values = {name: np.array([d[name].numpy() for d in drawn]).reshape(200, -1) for name in drawn[0]}
    np.testing.assert_allclose(np.linalg.norm(values["axis"], axis=1), 1, atol=1e-6)
    assert (np.abs(values["axis"].mean(0)) < 0.15).all()
    limits = {
        "angle": (values["angle"], np.deg2rad(10)),
        "factor": (np.log(values["factor"]), np.log(1.1)),
        "shift": (values["shift"], 0.05),
        "exponent": (np.log(values["exponent"]), 0.3),
        "gain": (values["gain"] - 1, 0.2),
    }
    columns = []
    for name, (found, largest) in limits.items():
        assert (np.abs(found) <= largest * (1 + 1e-5)).all(), name
        assert (found.max(0) > 0.9 * largest).all() and (found.min(0) < -0.9 * largest).all(), name
        columns += list(found.T)
    deviation = values["deviation"]
    assert deviation.min() >= 0 and deviation.max() <= 0.1 and deviation.max() > 0.09 and deviation.min() < 0.01
    apart = np.corrcoef([*columns, *deviation.T]) - np.eye(len(columns) + 2)
    assert np.abs(apart).max() < 0.3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.5), (3.0, 0.5, 1.0)])
def test_a_known_turn_is_that_of_scipy_in_millimetres(spacing):
    volume, edges = smooth(1), np.array(spacing)
    axis, angle, factor, shift = np.array([0.48, -0.6, 0.64]), np.deg2rad(12), 1.07, np.array([0.2, -0.15, 0.1])
    drawn = {"axis": axis, "angle": angle, "factor": factor, "shift": shift}
    drawn = {name: tf.constant(value, tf.float32) for name, value in drawn.items()}
    matrix, offset = augmentation.motion(drawn, SHAPE, tf.constant(spacing))
    # Of its own: where each voxel's point in millimetres lay before it was turned, made larger and shifted.
    centre = (np.array(SHAPE) - 1) / 2 * edges
    back = np.linalg.inv(factor * Rotation.from_rotvec(angle * axis).as_matrix())
    points = np.indices(SHAPE).reshape(3, -1) * edges[:, None] - (centre + shift * SHAPE * edges)[:, None]
    sources = ((back @ points + centre[:, None]) / edges[:, None]).reshape(3, *SHAPE)
    found = augmentation.moved(tf.constant(volume[..., None]), matrix, offset).numpy()[..., 0]
    linear, spline = (ndimage.map_coordinates(volume, sources, order=order, cval=-1) for order in (1, 3))
    within = np.all([(s > 1) & (s < n - 2) for s, n in zip(sources, SHAPE, strict=True)], axis=0)
    assert within.mean() > 0.3
    np.testing.assert_allclose(found[within], spline[within], atol=0.04)
    error, by_linear = (np.abs(x - spline)[within].mean() for x in (found, linear))
    assert error < by_linear < np.abs(volume - spline)[within].mean() / 20
    outside = np.any([(s < -3) | (s > n + 2) for s, n in zip(sources, SHAPE, strict=True)], axis=0)
    assert outside.any() and (found[outside] == -1).all()
    labels = (volume > 0).astype(np.int32) + 3 * (volume > 0.4)
    nearest = ndimage.map_coordinates(labels, sources, order=0, mode="grid-constant", cval=0)
    assert (augmentation.moved_labels(tf.constant(labels), matrix, offset).numpy() == nearest).mean() > 0.999


def test_detail_survives_a_move_as_it_would_a_cubic_spline():
    volume, away = smooth(1, sigma=0.8), (slice(4, -4),) * 3
    detail = [[], [], []]
    for p in range(8):
        matrix, offset = augmentation.motion(augmentation.draws(GEOMETRY, key(p), 1), SHAPE, CUBES)
        found = augmentation.moved(tf.constant(volume[..., None]), matrix, offset).numpy()[..., 0]
        by_order = (ndimage.affine_transform(volume, matrix.numpy(), offset.numpy(), order=order) for order in (1, 3))
        for each, array in zip(detail, (found, *by_order), strict=True):
            each.append(ndimage.laplace(array)[away].std())
    ours, linear, spline = (np.mean(each) / ndimage.laplace(volume)[away].std() for each in detail)
    assert linear < 0.8 * spline and 0.9 * spline < ours < 1.1 * spline


def test_images_and_label_maps_stay_together_away_from_borders():
    blobs = smooth(2, (36, 40, 32), sigma=6.0)
    labels = np.select([blobs > 0.3, blobs > -0.3], [7, 2], 0).astype(np.int32)
    value = {0: -1.0, 2: 0.25, 7: 0.75}
    image = np.vectorize(value.get)(labels).astype(np.float32)[..., None]
    elsewhere = 0.0
    for p in range(6):
        new = changed(image, GEOMETRY, p, labels=labels)
        assert new["labels"].dtype == np.int32 and set(np.unique(new["labels"])) <= {0, 2, 7}
        # Where all neighbours within three voxels have the same label, no other could come into the interpolation.
        bounds = (
            extreme(new["labels"], 7, mode="constant", cval=-1)
            for extreme in (ndimage.maximum_filter, ndimage.minimum_filter)
        )
        away = np.equal(*bounds)
        assert {2, 7} <= set(new["labels"][away]) and away.sum() > 200
        np.testing.assert_allclose(new["image"][away, 0], np.vectorize(value.get)(new["labels"][away]), atol=1e-5)
        elsewhere += (new["labels"] != labels).mean()
    assert elsewhere / 6 > 0.05


def test_channels_move_alike_but_each_has_its_own_intensities():
    image = np.stack([smooth(3), smooth(3)], axis=-1)
    still = changed(image, GEOMETRY, 1)["image"]
    np.testing.assert_array_equal(still[..., 0], still[..., 1])
    assert np.abs(still - image).max() > 0.1
    for amounts in (Augmentation(gamma=0.3), Augmentation(brightness=0.2), Augmentation(noise=0.1)):
        new = changed(image, amounts, 1)["image"]
        assert np.abs(new[..., 0] - new[..., 1]).max() > 0.01


def test_intensities_stay_in_range_and_in_order_and_air_stays_black():
    ramp = np.linspace(-1, 1, 10 * 10 * 10, dtype=np.float32).reshape(10, 10, 10, 1)
    for p in range(5):
        gamma = changed(ramp, Augmentation(gamma=0.3), p)["image"].ravel()
        assert gamma[0] == -1 and gamma[-1] == 1 and (np.diff(gamma) > 0).all()
        exponent = float(augmentation.draws(Augmentation(gamma=0.3), key(p), 1)["exponent"][0])
        np.testing.assert_allclose(gamma, 2 * ((ramp.ravel() + 1) / 2) ** exponent - 1, atol=1e-6)
        bright = changed(ramp, Augmentation(brightness=0.2), p)["image"].ravel()
        gain = float(augmentation.draws(Augmentation(brightness=0.2), key(p), 1)["gain"][0])
        np.testing.assert_allclose(bright, np.minimum((ramp.ravel() + 1) * gain - 1, 1), atol=1e-6)
        assert bright[0] == -1 and bright.max() <= 1
        every = changed(ramp, ALL, p)["image"]
        assert every.min() >= -1 and every.max() <= 1 and every.dtype == np.float32


def test_noise_has_the_deviation_that_was_drawn_and_labels_have_none():
    labels = np.arange(1000, dtype=np.int32).reshape(10, 10, 10)
    grey = np.zeros((10, 10, 10, 2), np.float32)
    for p in range(3):
        new = changed(grey, Augmentation(noise=0.1, gamma=0.2, brightness=0.1), p, labels=labels)
        np.testing.assert_array_equal(new["labels"], labels)
        expected = augmentation.draws(Augmentation(noise=0.1), key(p), 2)["deviation"].numpy()
        np.testing.assert_allclose(new["image"].std(axis=(0, 1, 2)), expected, rtol=0.1)
        a, b = new["image"][..., 0].ravel(), new["image"][..., 1].ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_prepared_records_are_augmented_as_the_scans_are(tmp_path):
    data = scans_to_prepare(tmp_path)
    make(data)
    sources = [datasets.open_dataset(changed_keys(data, records=place), 0) for place in (None, data.records)]
    pairs = [take(batches.train_batches(source, 1, 4, flip=True, augmentation=GEOMETRY), 2) for source in sources]
    # Sharpening, x less a twelfth of its Laplacian, makes at most twice of what float16 has left out.
    for ours, theirs in zip(*pairs, strict=True):
        np.testing.assert_allclose(ours["image"], theirs["image"], atol=2 * 2.5e-4)


def test_volumes_in_batches_turn_in_millimetres(dataset):
    """The voxels of the files are twice as long along their last axis."""
    plain, turned = (
        next(batches.train_batches(dataset, 5, 3, augmentation=amounts)) for amounts in (Augmentation(), GEOMETRY)
    )
    for p in range(3):
        arrays = {"image": plain["image"][p], "labels": plain["labels"][p]}
        drawn = {name: tf.constant(array) for name, array in arrays.items()}
        expected = augmented(drawn, GEOMETRY, key(p, 5), tf.constant([1.0, 1.0, 2.0]))
        np.testing.assert_allclose(turned["image"][p], expected["image"], atol=1e-5)
        assert (turned["labels"][p] == expected["labels"].numpy()).mean() > 0.999


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("rotate", -1.0, "data.rotate is -1; give a number from 0, which is none, to 30"),
        ("rotate", 90.0, "data.rotate is 90; .* to 30"),
        ("scale", 2.0, "data.scale is 2; .* to 0.5"),
        ("shift", 3.0, "data.shift is 3; .* to 0.5"),
        ("gamma", -0.1, "data.gamma is -0.1; .* to 1"),
        ("brightness", 1.0, "data.brightness is 1; .* to 0.5"),
        ("noise", float("nan"), "data.noise is nan; .* to 0.5"),
    ],
)
def test_amounts_that_make_no_sense_are_refused(name, value, found):
    with pytest.raises(DataError, match=found):
        datasets.open_dataset(settings(**{name: value}), 0)


def test_latents_are_not_augmented(dataset):
    latent = dataclasses.replace(dataset, latents=Latents({}, (2, 2, 2, 1)))
    found = "data.rotate is 10, data.noise is 0.1, but data.records holds latents.*set data.rotate=0.0, data.noise=0.0"
    with pytest.raises(DataError, match=found):
        next(batches.train_batches(latent, 0, 1, augmentation=Augmentation(rotate=10.0, noise=0.1)))


def test_it_is_on_for_folders_and_off_where_the_papers_have_none():
    on = augmentation_of(folder.get_config("tiny").data)
    assert on == Augmentation(rotate=4.0, scale=0.04, shift=0.02, gamma=0.1)
    published = [brats.get_config(), lidc.get_config(), atlas.get_config(), common.base()]
    published += [medical_diffusion.get_config(f"{name},ddpm") for name in medical_diffusion.DATASETS]
    assert all(augmentation_of(config.data) == Augmentation() for config in published)
