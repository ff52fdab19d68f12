import nibabel
import numpy as np
import pytest
from PIL import Image

from small_runs import command, launch, result, snapshot, write_scans


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import launch

    folder = tmp_path_factory.mktemp("trained")
    scans = write_scans(folder / "scans")
    window = (
        "--config.data.window=fixed",
        "--config.data.window_range=(0.0,900.0)",
        "--config.data.orientation=native",
    )
    argv = command(scans, folder, *window, "--config.train.steps=30", "--config.optimizer.learning_rate=1e-2")
    assert launch.main(argv) == 0
    return folder, [*argv, "--mode=sample"]


def draw(argv, capsys):
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    return result(out)


def load(folder, i):
    return nibabel.load(folder / f"run/samples/sample_{i:05d}.nii.gz")


def test_samples_open_beside_the_training_data(trained, capsys):
    folder, argv = trained
    found = draw(argv, capsys)
    assert found["count"] == 2
    assert found["seconds_per_volume"] > 0
    assert [path.rsplit("/")[-1] for path in found["files"]] == ["sample_00000.nii.gz", "sample_00001.nii.gz"]
    sample = load(folder, 0)
    source = nibabel.load(folder / "scans/subject_0/t1.nii.gz")
    assert nibabel.aff2axcodes(sample.affine) == nibabel.aff2axcodes(source.affine) == ("L", "A", "S")
    # The same place: the centre of the field of view stays where it was.
    centres = [image.affine @ [*((np.array(image.shape) - 1) / 2), 1] for image in (sample, source)]
    np.testing.assert_allclose(*centres, atol=1e-4)
    assert sample.get_data_dtype() == np.float32
    values = sample.get_fdata()
    assert values.min() >= 0  # intensities of the fixed window, not -1 .. 1
    assert 1 < values.max() <= 900


def test_int16_files_hold_the_same_volumes(trained, capsys):
    folder, argv = trained
    draw(argv, capsys)
    exact = load(folder, 1).get_fdata()
    draw([*argv, "--config.sample.dtype=int16"], capsys)
    assert load(folder, 1).get_data_dtype() == np.int16
    np.testing.assert_allclose(load(folder, 1).get_fdata(), exact, atol=900 / 2**15)


def test_a_sample_is_a_function_of_seed_and_index(trained, capsys):
    folder, argv = trained
    draw([*argv, "--config.sample.count=8", "--config.sample.batch_size=8"], capsys)
    together = np.stack([load(folder, i).get_fdata() for i in range(8)]) / 900
    for size in (1, 3):
        for path in (folder / "run/samples").glob("sample_*"):
            path.unlink()  # or they would be kept: the batch size does not make other samples
        found = draw([*argv, "--config.sample.count=8", f"--config.sample.batch_size={size}"], capsys)
        assert found["drawn"] == 8
        np.testing.assert_allclose(np.stack([load(folder, i).get_fdata() for i in range(8)]) / 900, together, atol=1e-5)
    draw([*argv, "--config.sample.seed=1"], capsys)
    assert np.abs(load(folder, 0).get_fdata() / 900 - together[0]).max() > 1e-2


def test_interrupted_sampling_goes_on_and_other_samples_stay(trained, capsys):
    folder, argv = trained
    draw([*argv, "--config.sample.seed=5"], capsys)
    kept = snapshot(folder / "run/samples")
    (folder / "run/samples/sample_00001.nii.gz").unlink()
    found = draw([*argv, "--config.sample.seed=5"], capsys)
    assert found["drawn"] == 1
    again = snapshot(folder / "run/samples")
    assert {path: kept[path] for path in kept if "sample_0" in path and "00001" not in path}.items() <= again.items()
    np.testing.assert_array_equal(
        *(np.frombuffer(files[next(p for p in files if "montage" in p)], np.uint8) for files in (kept, again))
    )
    draw([*argv, "--config.sample.seed=6"], capsys)
    aside = sorted((folder / "run").glob("samples.*"))[-1]
    assert sorted(path.name for path in aside.iterdir()) == sorted(path.rsplit("/")[-1] for path in kept)


def test_the_montage_shows_real_volumes_where_they_are_at_hand(trained, capsys):
    folder, argv = trained

    def rows(argv):
        draw(argv, capsys)
        height = Image.open(folder / "run/samples/montage.png").size[1]
        return round(height / (128 + 4 + 18))

    without_root = [argument for argument in argv if "data.root" not in argument]
    assert rows([*argv, "--config.sample.seed=8"]) == 2
    # Never of other data: where the training data lay, or not at all.
    assert rows([*without_root, "--config.sample.seed=9"]) == 2
    (folder / "scans").rename(folder / "elsewhere")
    assert rows([*without_root, "--config.sample.seed=10"]) == 1
    (folder / "elsewhere").rename(folder / "scans")


def test_sampling_imports_no_tensorflow(trained, monkeypatch, capsys):
    import sys

    _, argv = trained
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises
    draw([*argv, "--config.sample.seed=11"], capsys)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--config.sample.count=0", "sample.count is 0"),
        ("--config.sample.batch_size=-1", "sample.batch_size is -1"),
        ("--config.sample.dtype=int8", "sample.dtype is 'int8'"),
        ("--config.sample.checkpoint=first", "sample.checkpoint is 'first'"),
        ("--config.sample.sampler=magic", "sample.sampler is 'magic'"),
        ("--config.sample.steps=5000", "sample.steps is 5000"),
        ("--config.data.size=(32,32,32)", "data.size"),
    ],
)
def test_what_cannot_be_sampled_is_named(trained, argument, word, capsys):
    folder, argv = trained
    before = snapshot(folder / "run")
    status, out, lines = launch([*argv, argument], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert word in lines[0]
    assert snapshot(folder / "run") == before


START = ("--config.sample.sampler=ddim", "--config.sample.steps=10")


def start(*paths):
    return f"--config.sample.start={','.join(str(path) for path in paths)}"


def test_variations_of_a_scan(trained, capsys):
    folder, argv = trained
    scan = folder / "scans/subject_1/t1.nii.gz"
    draw(argv, capsys)
    samples = snapshot(folder / "run/samples")
    weak = draw([*argv, *START, start(scan), "--config.sample.strength=0.1"], capsys)
    assert all("/run/variations/sample_0" in path for path in weak["files"])
    assert snapshot(folder / "run/samples") == samples
    strong_argv = [*argv, *START, start(scan), "--config.sample.strength=1.0"]
    little = [nibabel.load(path) for path in weak["files"]]
    draw(strong_argv, capsys)
    assert (folder / "run/variations.1/sample_00000.nii.gz").exists()
    much = [nibabel.load(path) for path in weak["files"]]  # of the same names

    def apart(volumes):
        return np.abs(volumes[0].get_fdata() - volumes[1].get_fdata()).mean()

    little = [nibabel.load(str(path).replace("variations", "variations.1")) for path in weak["files"]]
    assert 0 < apart(little) < apart(much)
    centres = [image.affine @ [*((np.array(image.shape) - 1) / 2), 1] for image in (little[0], nibabel.load(scan))]
    np.testing.assert_allclose(*centres, atol=1e-4)
    assert draw(strong_argv, capsys)["drawn"] == 0


def test_between_two_samples_of_ours(trained, capsys):
    _, argv = trained
    files = draw(argv, capsys)["files"]
    between = [*argv, *START, start(*files), "--config.sample.strength=0.1", "--config.sample.count=5"]
    found = draw(between, capsys)
    assert [path.rsplit("/", 2)[-2] for path in found["files"]] == ["interpolation"] * 5
    way = np.stack([nibabel.load(path).get_fdata() for path in found["files"]])
    steps = np.abs(np.diff(way, axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < np.abs(way[-1] - way[0]).mean()
    assert draw(between, capsys)["drawn"] == 0
    # Another count is another way.
    assert draw([*between[:-1], "--config.sample.count=3"], capsys)["drawn"] == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--config.sample.start=nowhere.nii.gz",), "nowhere.nii.gz"),
        (("--config.sample.start=a.nii,b.nii,c.nii",), "sample.start names 3 files"),
        (("--config.sample.start=a.nii,b.nii", "--config.sample.count=1"), "sample.count is 1"),
        (("--config.sample.strength=0.0",), "sample.strength is 0"),
    ],
)
def test_a_start_that_cannot_be_is_named(trained, arguments, word, capsys):
    _, argv = trained
    given = {argument.partition("=")[0] for argument in arguments}
    status, out, lines = launch([*(a for a in argv if a.partition("=")[0] not in given), *arguments], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert word in lines[0]
