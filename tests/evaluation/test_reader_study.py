import csv
import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.errors import UserError
from medjax.evaluation import reader_study
from medjax.evaluation.reader_study import write_reader_study
from medjax.evaluation.tabulate import QUESTIONS

TURNED = np.array(
    [[0, 0, 2.0, -3], [-1.0, 0, 0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]]
)  # voxel axes: posterior, superior, right


def volumes(kind, n, shape, affine, scale):
    rng = np.random.default_rng(n)
    return [(f"{kind}-{i}", (scale * rng.random(shape)).astype(np.float32), affine) for i in range(n)]


def study(folder, seed=0, count=6):
    real = volumes("real", 8, (12, 14, 10), TURNED, 4000.0)  # in RAS 10 x 12 x 14
    generated = volumes("generated", 7, (10, 12, 14), np.eye(4), 2.0)
    return write_reader_study(folder, real, generated, seed, count)


def key_of(folder):
    return json.loads((folder / "sealed" / "key.json").read_text())["cases"]


def fill_in(folder, score):
    """Writes score(kind, reader, question) into the sheet."""
    sheet, key = folder / "readers" / "scores.csv", key_of(folder)
    rows = list(csv.DictReader(sheet.open()))
    for row in rows:
        row |= {question: score(key[row["case"]]["kind"], row["reader"], question) for question in QUESTIONS}
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def tabulate(folder):
    command = [sys.executable, "-I", folder / "sealed" / "tabulate.py", folder / "readers" / "scores.csv"]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def test_two_jobs_do_not_mix_their_cases(tmp_path, monkeypatch):
    common_affine = reader_study.common_affine

    def meanwhile(volume):  # another job begins after this one has found the folder empty
        monkeypatch.undo()
        study(tmp_path / "study", seed=1)
        return common_affine(volume)

    monkeypatch.setattr(reader_study, "common_affine", meanwhile)
    with pytest.raises(UserError, match="study is being written by another job"):
        study(tmp_path / "study")
    assert json.loads((tmp_path / "study/sealed/key.json").read_text())["seed"] == 1


def test_nothing_but_the_image_tells_real_from_generated(tmp_path):
    assert study(tmp_path / "study") == 12
    readers, key = tmp_path / "study" / "readers", key_of(tmp_path / "study")
    paths = sorted((readers / "volumes").iterdir())
    assert [path.name for path in paths] == [f"case_{n:03d}.nii.gz" for n in range(1, 13)]
    assert [each["kind"] for each in key.values()].count("real") == 6
    images = [nibabel.load(path) for path in paths]
    assert len({image.header.binaryblock for image in images}) == 1
    assert images[0].get_data_dtype() == np.int16 and images[0].shape == (10, 12, 14)
    np.testing.assert_allclose(images[0].header.get_zooms(), [2, 1, 1.5])
    assert nibabel.aff2axcodes(images[0].affine) == ("R", "A", "S")
    for image in images:
        array = np.asarray(image.dataobj)
        assert array.min() == 0 and array.max() == 1000 and image.dataobj.slope == 1
    assert len({path.stat().st_mtime for path in readers.rglob("*")}) == 1
    text = b"".join(path.read_bytes() for path in readers.rglob("*") if path.is_file())
    assert b"generated-" not in text and b"real-" not in text
    assert not list(readers.rglob("key*"))
    pictures = [Image.open(path) for path in sorted((readers / "slices").iterdir())]
    assert len(pictures) == 12 and len({picture.size for picture in pictures}) == 1


def test_a_case_shows_its_volume_in_ras(tmp_path):
    study(tmp_path / "study")
    name = next(case for case, each in key_of(tmp_path / "study").items() if each["name"] == "real-3")
    case = nibabel.load(tmp_path / "study/readers/volumes" / f"{name}.nii.gz").get_fdata()
    original = volumes("real", 8, (12, 14, 10), TURNED, 4000.0)[3][1]
    expected = original.transpose(2, 0, 1)[:, ::-1]
    assert np.corrcoef(case.ravel(), expected.ravel())[0, 1] > 0.999


def test_the_seed_decides_what_is_chosen_and_in_which_order(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        study(tmp_path / name, seed, count=3)
    a, b, c = (key_of(tmp_path / name) for name in "abc")
    assert a == b and a != c
    assert len({tuple(case["kind"] for case in key_of(tmp_path / name).values()) for name in "ac"}) == 2


def test_scores_are_unblinded_and_tabulated(tmp_path):
    study(tmp_path / "study")
    given = {"real": {"reader 1": 4, "reader 2": 4}, "generated": {"reader 1": 1, "reader 2": 2}}
    fill_in(
        tmp_path / "study",
        lambda kind, reader, question: "" if question == "anatomy" and reader == "reader 2" else given[kind][reader],
    )
    done = tabulate(tmp_path / "study")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    for expected in (
        "appearance all 4.00 +- 0.00 100% 12 1.50 +- 0.52 0% 12",
        "appearance reader 2 4.00 +- 0.00 100% 6 2.00 +- 0.00 0% 6",
        "anatomy all 4.00 +- 0.00 100% 6 1.00 +- 0.00 0% 6",
    ):
        assert expected.split() in lines
    agreement = {line[0]: line[1:] for line in lines[-7:] if line and line[0] in QUESTIONS}
    assert agreement["anatomy"] == ["-"] * 3  # of one reader
    # Of 24 scores six are 1, six 2 and twelve 4, with middle ranks 3, 9 and 18; six pairs are of 1 and 2.
    chance = 6 * 6 * (9 - 3) ** 2 + 6 * 12 * (18 - 3) ** 2 + 6 * 12 * (18 - 9) ** 2
    assert agreement["consistency"][0] == f"{1 - 23 * 6 * (9 - 3) ** 2 / chance:.3f}"
    assert agreement["appearance"][1:] == ["-", f"{1 - 11 * 12 / 72:.3f}"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace("case_001,reader 1,,", "case_001,reader 1,5,"), "line 2: appearance is '5'"),
        (lambda text: text.replace("case_002", "case_999"), "'case_999' is not a case"),
        (lambda text: text.replace("anatomy", "anatomie"), "no column anatomy"),
        (lambda text: text, "no scores"),
        (lambda text: text + "case_001,reader 1,1,,\ncase_001,reader 1,2,,\n", "scored appearance of case_001 before"),
    ],
)
def test_a_sheet_that_cannot_be_read_is_told_in_one_line(tmp_path, spoil, words):
    study(tmp_path / "study", count=2)
    sheet = tmp_path / "study/readers/scores.csv"
    sheet.write_text(spoil(sheet.read_text().replace("\r\n", "\n")))
    done = tabulate(tmp_path / "study")
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="evaluate.reader_study=.* is not empty"):
        study(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_volumes_of_two_shapes_are_refused(tmp_path):
    real, generated = (volumes(name, 3, (8, 8, n), np.eye(4), 1.0) for name, n in (("a", 8), ("b", 9)))
    with pytest.raises(UserError, match="would give them away"):
        write_reader_study(tmp_path / "study", real, generated, 0, 3)
    assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match="3 real and 0 generated"):
        write_reader_study(tmp_path / "study", real, [], 0, 3)
