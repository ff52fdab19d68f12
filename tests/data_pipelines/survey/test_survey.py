import dataclasses
import os

import numpy as np
import pytest

from data_pipelines.survey.survey import survey
from data_pipelines.survey.telling import lines
from scan_trees import SHAPE, labels, save, scan, scans
from surveys import images, reasons, refused, used


def test_masks_beside_images_are_left_out_and_told(tmp_path):
    for n in range(4):
        scan(tmp_path / f"case{n}/image.nii.gz")
        labels(tmp_path / f"case{n}/seg.nii.gz")
        labels(tmp_path / f"case{n}/brain_mask.nii.gz", count=2)
    found = survey(tmp_path)
    assert used(found) == {f"case{n}/image.nii.gz": f"case{n}" for n in range(4)}
    assert set(reasons(found).values()) == {"label map: by its name"} and len(reasons(found)) == 8
    assert found.layout == "plain folders" and found.channels == {"image": 4}
    told = lines(found)
    assert "4 cases of 4 subjects (plain folders), such as case0/image.nii.gz -> case0" in told[0]
    assert "taken for label maps, not for images: 8 label map: by its name (such as case0/brain_mask.nii.gz)" in told[1]
    assert told[2].endswith("orientations RAS (4); voxels 1 x 1 x 1 mm (4)") and len(told) == 3


def test_a_case_has_the_label_map_of_a_part_rather_than_the_mask_of_the_head(tmp_path):
    for n in range(3):
        scan(tmp_path / f"case{n}/image.nii.gz")
        labels(tmp_path / f"case{n}/brain_mask.nii.gz", count=2)
        labels(tmp_path / f"case{n}/extra.nii.gz")
    labels(tmp_path / "case0/seg.nii.gz")
    scan(tmp_path / "case3/image.nii.gz")
    found = survey(tmp_path, label_map=True)
    maps = {case.subject: case.label_map.name for case in found.cases}
    assert maps == {"case0": "seg.nii.gz", "case1": "extra.nii.gz", "case2": "extra.nii.gz"}
    assert reasons(found)["case0/brain_mask.nii.gz"] == "another label map of the case is used: case0/seg.nii.gz"
    assert reasons(found)["case3/image.nii.gz"] == "no label map"
    assert any(
        "3 cases have several label maps, such as case0/seg.nii.gz, case0/extra.nii.gz" in line for line in lines(found)
    )
    row = next(row for row in found.rows if row.subject == "case0" and row.status == "used")
    assert row.files == ("case0/image.nii.gz", "case0/seg.nii.gz") and row.shape == SHAPE


def test_label_maps_without_a_telling_name_are_known_by_their_values(tmp_path):
    for n in range(12):
        scan(tmp_path / f"img{n:03d}.nii.gz")
        labels(tmp_path / f"ref{n:03d}.nii.gz", np.float32 if n < 6 else np.int16)
    found = survey(tmp_path)
    assert sorted(used(found)) == [f"img{n:03d}.nii.gz" for n in range(12)]
    assert set(reasons(found).values()) == {"label map: few whole values"} and len(reasons(found)) == 12


def test_a_pattern_overrules_what_files_look_like(tmp_path):
    for n in range(3):
        scan(tmp_path / f"case{n}/image.nii.gz")
        labels(tmp_path / f"case{n}/seg.nii.gz")
    assert sorted(used(survey(tmp_path, pattern="seg*"))) == [f"case{n}/seg.nii.gz" for n in range(3)]
    assert sorted(used(survey(tmp_path, pattern="case1/*"))) == ["case1/image.nii.gz", "case1/seg.nii.gz"]
    found = survey(tmp_path, pattern="*/im*.nii.gz", label_map=True)
    assert {case.label_map.name for case in found.cases} == {"seg.nii.gz"} and len(found.cases) == 3
    save(tmp_path / "case0/image4d.nii.gz", np.zeros((8, 8, 8, 3), np.int16))
    found = survey(tmp_path, pattern="image*")
    assert len(found.cases) == 3 and reasons(found)["case0/image4d.nii.gz"] == "4D series: 3 volumes"
    assert reasons(found)["case0/seg.nii.gz"] == "label map: by its name"
    assert "data.pattern=*.mgz: matches none of 7 files" in refused(tmp_path, pattern="*.mgz")


@pytest.mark.parametrize(
    ("name", "array", "intent", "reason"),
    [
        ("bold.nii", np.arange(800, dtype=np.int16).reshape(4, 5, 4, 10), None, "4D series: 10 volumes"),
        ("survey1.nii", np.arange(3072, dtype=np.int16).reshape(32, 32, 3), None, "localiser: 3 slices"),
        ("localizer.nii", np.arange(960, dtype=np.int16).reshape(SHAPE), None, "localiser: by its name"),
        ("tiny.nii", np.arange(64, dtype=np.int16).reshape(4, 4, 4), None, "too small: of shape (4, 4, 4)"),
        ("slice.nii", np.arange(64, dtype=np.int16).reshape(8, 8, 1), None, "single slice: of shape (8, 8, 1)"),
        ("x.nii", np.arange(960, dtype=np.float32).reshape(SHAPE), "label", "label map: by its header"),
        ("z.nii", np.arange(960, dtype=np.float32).reshape(SHAPE), "z score", "statistical map: z score, says its header"),
        ("gm_probseg.nii", np.arange(960, dtype=np.float32).reshape(SHAPE), None, "map of probabilities: by its name"),
        ("c.nii", np.ones(SHAPE, np.complex64), None, "no numbers: complex64 values"),
        ("rgb.nii", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), None, "colours: by its header"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_left_out_with_the_reason(tmp_path, name, array, intent, reason):
    for n in range(3):
        scan(tmp_path / f"p{n:02d}/t1.nii")
    save(tmp_path / "p00" / name, array, intent=intent)
    found = survey(tmp_path)
    assert sorted(used(found)) == [f"p{n:02d}/t1.nii" for n in range(3)]
    assert reasons(found) == {f"p00/{name}": reason}


def test_several_channels_must_be_chosen_from(tmp_path):
    for n in range(4):
        scans(tmp_path, [f"p{n:02d}/t1.nii.gz", f"p{n:02d}/flair.nii.gz"][: 1 if n == 3 else 2])
    message = refused(tmp_path)
    assert "t1 (4), flair (3)" in message and 'data.channels=("t1",)' in message
    assert images(survey(tmp_path, ("t1",))) == {f"p{n:02d}/t1.nii.gz": [f"p{n:02d}/t1.nii.gz"] for n in range(4)}
    found = survey(tmp_path, ("FLAIR", "t1"))
    assert images(found) == {f"p{n:02d}": [f"p{n:02d}/flair.nii.gz", f"p{n:02d}/t1.nii.gz"] for n in range(3)}
    assert list(found.cases[0].images) == ["FLAIR", "t1"]
    assert reasons(found) == {"p03": "no FLAIR"}
    assert "no case has one of them; there are t1 (4), flair (3) cases each" in refused(tmp_path, channels=("pd",))
    assert "names a channel twice" in refused(tmp_path, channels=("t1", "T1"))


def test_no_case_has_all_that_is_asked_for(tmp_path):
    scans(tmp_path, ["p01/t1.nii", "p02/flair.nii"])
    assert "no case has all of them (no flair); there are flair (1), t1 (1)" in refused(
        tmp_path, channels=("t1", "flair")
    )
    scans(tmp_path, ["p03/t1.nii", "p03/flair.nii"])
    assert "none of 1 cases has a label map" in refused(tmp_path, channels=("t1", "flair"), label_map=True)


def test_visits_in_flat_names_are_one_subject(tmp_path):
    scans(tmp_path, [f"patient{n:03d}_t{t}.nii.gz" for n in range(6) for t in range(2)])
    found = survey(tmp_path)
    assert used(found) == {f"patient{n:03d}_t{t}.nii.gz": f"patient{n:03d}" for n in range(6) for t in range(2)}
    assert [case.visit for case in found.cases[:2]] == ["t0", "t1"]


def test_t1_and_t2_without_a_t0_are_contrasts(tmp_path):
    scans(tmp_path, [f"patient{n:03d}_t{t}.nii.gz" for n in range(6) for t in (1, 2)])
    assert "t1 (6), t2 (6)" in refused(tmp_path)
    assert [case.visit for case in survey(tmp_path, ("t1", "t2")).cases] == [""] * 6


@pytest.mark.parametrize(
    ("names", "channels", "subjects", "cases"),
    [
        (["T1/p{n:02d}.nii.gz", "FLAIR/p{n:02d}.nii.gz"], ("T1", "FLAIR"), 12, 12),
        (["IXI{n:03d}-Guys-T1.nii.gz", "IXI{n:03d}-Guys-T2.nii.gz"], ("T1", "T2"), 12, 12),
        (["p{n:02d}/p{n:02d}_T1.nii", "p{n:02d}/p{n:02d}_T2.nii"], ("T2",), 12, 12),
        (["p{n:02d}/visit1/t1.nii", "p{n:02d}/visit2/t1.nii"], (), 12, 24),
        (["P{n:02d}_20200101_T1.nii", "P{n:02d}_20210101_T1.nii"], (), 12, 24),
        (["p{n:02d}/scan1.nii", "p{n:02d}/scan2.nii"], (), 12, 24),
        (["p{n:02d}/Dyn_0.nii", "p{n:02d}/Dyn_1.nii"], ("Dyn_0",), 12, 12),
        (["patient {n}/T1 weighted.nii", "patient {n}/ünïcode.nii"], ("T1_weighted",), 12, 12),
        (["P{n:02d}/T1.NII.GZ", "P{n:02d}/FLAIR.NII"], ("t1", "flair"), 12, 12),
        (["anna{n}_t0.nii", "anna{n}_t1.nii"], (), 12, 24),
        (["hospital/p{n:02d}/t1.nii"], (), 12, 12),
    ],
)
def test_plain_folders_of_many_kinds(tmp_path, names, channels, subjects, cases):
    scans(tmp_path, [name.format(n=n) for n in range(12) for name in names])
    found = survey(tmp_path, channels)
    if "hospital" not in names[0]:  # a person for the rules of subjects, who is then told of
        assert len({case.subject for case in found.cases}) == subjects
    assert len(found.cases) == cases


@pytest.mark.parametrize(
    ("image", "label_map", "subject"),
    [
        ("images/p{n:02d}.nii.gz", "masks/p{n:02d}.nii.gz", "p07"),
        ("images/p{n:02d}.nii.gz", "labels/p{n:02d}_seg.nii.gz", "p07"),
        ("p{n:02d}_img.nii.gz", "p{n:02d}_mask.nii.gz", "p07"),
        ("volume-{n}.nii", "segmentation-{n}.nii", "7"),
        ("case_{n:05d}/imaging.nii.gz", "case_{n:05d}/segmentation.nii.gz", "case_00007"),
        ("s{n:04d}/ct.nii.gz", "s{n:04d}/segmentations/liver.nii.gz", "s0007"),
        (
            "patient{n:03d}/patient{n:03d}_frame01.nii.gz",
            "patient{n:03d}/patient{n:03d}_frame01_gt.nii.gz",
            "patient007",
        ),
        ("p{n:02d}/baseline/flair.nii", "p{n:02d}/baseline/seg.nii", "p07"),
        ("sub-{n:02d}/t1.nii", "sub-{n:02d}/lesion.nii", "sub-07"),
        ("p{n:02d}/t1.nii", "p{n:02d}/lesion_mask.nii", "p07"),
        ("p{n:02d}/P{n:02d}_T1.nii", "p{n:02d}/seg.nii", "p07"),
    ],
)
def test_label_maps_lie_beside_images_in_many_ways(tmp_path, image, label_map, subject):
    for n in range(12):
        scan(tmp_path / image.format(n=n))
        labels(tmp_path / label_map.format(n=n))
    found = survey(tmp_path, label_map=True)
    pairs = {case.name: case.label_map.relative_to(tmp_path).as_posix() for case in found.cases}
    assert pairs == {image.format(n=n): label_map.format(n=n) for n in range(12)}
    assert used(found)[image.format(n=7)] == subject and reasons(found) == {}


def test_words_that_tell_no_image_from_another_are_no_channels(tmp_path):
    scans(tmp_path, ["p01.nii", "p02/image.nii", "p03_img.nii", "p04/anat/scan.nii", "p05/volume.nii"])
    labels(tmp_path / "p03_mask.nii")
    found = survey(tmp_path)
    assert found.channels == {"image": 5} and sorted(used(found).values()) == [f"p0{n}" for n in range(1, 6)]


def test_words_that_part_a_persons_files_are_channels_and_others_are_names(tmp_path):
    scans(tmp_path / "a", [f"{n}_{series}.nii" for n in range(6) for series in ("t2w", "hbv")])
    found = survey(tmp_path / "a", ("t2w", "hbv"))
    assert used(found) == {str(n): str(n) for n in range(6)}
    scans(tmp_path / "b", [f"{n}_{'AD' if n % 2 else 'CN'}.nii" for n in range(6)])
    assert sorted(used(survey(tmp_path / "b")).values()) == ["0_CN", "1_AD", "2_CN", "3_AD", "4_CN", "5_AD"]
    scans(tmp_path / "c", [f"{group}_{n}.nii" for n in range(6) for group in ("AD", "CN")])
    assert len(set(used(survey(tmp_path / "c")).values())) == 12


def test_four_digits_are_channels_where_there_is_a_first(tmp_path):
    scans(tmp_path / "a", [f"FLARE22_{n:04d}.nii" for n in range(1, 13)])
    assert sorted(used(survey(tmp_path / "a")).values()) == [f"FLARE22_{n:04d}" for n in range(1, 13)]
    scans(tmp_path / "b", [f"case_{n:03d}_{channel:04d}.nii" for n in range(6) for channel in (0, 1)])
    found = survey(tmp_path / "b", ("0000", "0001"))
    assert used(found) == {f"case_{n:03d}": f"case_{n:03d}" for n in range(6)}


def test_a_folder_of_a_contrast_of_a_collection_is_nobodys(tmp_path):
    scans(tmp_path, [f"IXI-T{t}/IXI{n:03d}-Guys-{n + 827:04d}-T{t}.nii.gz" for n in range(6) for t in (1, 2)])
    assert sorted(used(survey(tmp_path, ("T1", "T2"))).values()) == [f"IXI{n:03d}-Guys-{n + 827:04d}" for n in range(6)]


def test_the_channels_of_a_patient_are_one_subject_whatever_the_case_of_letters(tmp_path):
    scans(tmp_path, ["P01_T1.nii", "p01_FLAIR.nii", "Zoe\u0308_T1.nii", "Zo\u00eb_v2_T1.nii"])
    found = survey(tmp_path, ("T1",))
    assert used(found) == {"P01_T1.nii": "P01", "Zoe\u0308_T1.nii": "Zo\u00eb", "Zo\u00eb_v2_T1.nii": "Zo\u00eb"}


def test_the_folder_of_one_subject(tmp_path):
    root = tmp_path / "patient7"
    scans(root, ["t1.nii.gz", "flair.nii.gz"])
    labels(root / "seg.nii.gz")
    found = survey(root, ("t1", "flair"), label_map=True)
    assert used(found) == {"patient7": "patient7"} and found.cases[0].label_map == root / "seg.nii.gz"


def test_one_file(tmp_path):
    scan(tmp_path / "brain.nii.gz")
    assert list(used(survey(tmp_path))) == ["brain.nii.gz"]
    assert "is a file; give the folder" in refused(tmp_path / "brain.nii.gz")
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path / "empty")


def test_alike_names_in_two_folders_are_two_cases(tmp_path):
    scans(tmp_path, ["a/p01.nii.gz", "b/p01.nii.gz", "train/p02.nii.gz", "test/p02.nii.gz"])
    assert len(survey(tmp_path).cases) == 4


def test_two_layouts_in_one_folder(tmp_path):
    scans(tmp_path, ["sub-01/anat/sub-01_T1w.nii.gz", "imagesTr/case_000_0000.nii.gz", "p07_T1w.nii.gz"])
    assert "0000 (1), T1w (2)" in refused(tmp_path).replace("T1w (2), 0000 (1)", "0000 (1), T1w (2)")
    found = survey(tmp_path, ("T1w",))
    assert set(found.layout.split(", ")) == {"BIDS", "plain folders"}
    assert used(found) == {"sub-01/anat/sub-01_T1w.nii.gz": "sub-01", "p07_T1w.nii.gz": "p07"}
    assert reasons(found) == {"imagesTr/case_000_0000.nii.gz": "channel not asked for: 0000"}


def test_subjects_by_a_pattern(tmp_path):
    scans(tmp_path, [f"MOLLI/p{n:02d}.nii" for n in range(3)])
    assert set(used(survey(tmp_path)).values()) == {"MOLLI"}
    found = survey(tmp_path, subject_pattern=r"/(p\d+)")
    assert used(found) == {f"MOLLI/p{n:02d}.nii": f"p{n:02d}" for n in range(3)}
    assert "has no group" in refused(tmp_path, subject_pattern="p")


def test_linked_subjects_are_found_and_what_is_not_fetched_is_counted(tmp_path):
    root = tmp_path / "root"
    for n in (1, 2, 3):
        scan(tmp_path / f"elsewhere/sub-0{n}/anat/sub-0{n}_T1w.nii.gz")
        root.mkdir(exist_ok=True)
        (root / f"sub-0{n}").symlink_to(tmp_path / f"elsewhere/sub-0{n}")
    (root / "sub-03" / "loop").symlink_to(root)
    (root / "sub-04/anat").mkdir(parents=True)
    (root / "sub-04/anat/sub-04_T1w.nii.gz").symlink_to("../../.git/annex/objects/aa/bb/SHA256E-s1--0.nii.gz")
    (root / "sub-05_T1w.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 130\n")
    (root / "sub-06_T1w.nii.gz").write_text("/annex/objects/SHA256E-s1--0.nii.gz\n")
    (root / "sub-07_T1w.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    found = survey(root)
    assert used(found) == {f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz": f"sub-0{n}" for n in (1, 2, 3)}
    not_fetched = {row.name: row.reason for row in found.rows if row.status == "unreadable"}
    assert not_fetched["sub-04/anat/sub-04_T1w.nii.gz"].startswith("not fetched: `datalad get FILE`")
    assert not_fetched["sub-05_T1w.nii.gz"] == "not fetched: `git lfs pull` fetches it"
    assert not_fetched["sub-06_T1w.nii.gz"].startswith("not fetched: `datalad get FILE`")
    assert not_fetched["sub-07_T1w.nii.gz"].startswith("a broken link: to ")
    told = "\n".join(lines(found))
    assert "cannot be read: 2 not fetched: `datalad get FILE`" in told and "1 not fetched: `git lfs pull`" in told
    assert "sub-03/loop: a link to a folder" in told


def test_nothing_is_fetched(tmp_path):
    for n in range(3):
        (tmp_path / f"sub-0{n}_T1w.nii.gz").symlink_to(".git/annex/objects/aa/SHA256E-s1.nii.gz")
    assert "3 not fetched" in refused(tmp_path) and "`datalad get FILE`" in refused(tmp_path)


def test_nothing_is_an_image(tmp_path):
    for n in range(3):
        labels(tmp_path / f"case{n}/seg.nii.gz")
    message = refused(tmp_path)
    assert "3 files, none can be trained on: 3 label map (such as case0/seg.nii.gz)" in message
    assert "set data.pattern" in message
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.mha").write_text("ObjectType = Image\n")
    assert "convert them to NIfTI" in refused(tmp_path / "other")


def test_a_file_under_two_names_is_used_once(tmp_path):
    scan(tmp_path / "p01/t1.nii.gz")
    (tmp_path / "p01_t1.nii.gz").symlink_to("p01/t1.nii.gz")
    found = survey(tmp_path)
    assert list(used(found)) == ["p01/t1.nii.gz"] == list(used(survey(tmp_path, pattern="*t1.nii.gz")))
    assert reasons(found) == {"p01_t1.nii.gz": "the same file as another: p01/t1.nii.gz"}


def test_damaged_files_are_told(tmp_path):
    scan(tmp_path / "p01.nii.gz")
    (tmp_path / "p02.nii.gz").write_bytes(b"\x1f\x8b\x08nothing")
    (tmp_path / "p03.nii").write_bytes(b"")
    found = survey(tmp_path)
    assert list(used(found)) == ["p01.nii.gz"]
    assert {row.name for row in found.rows if row.status == "unreadable"} == {"p02.nii.gz", "p03.nii"}


def test_a_tree_that_cannot_be_written_to(tmp_path):
    root = tmp_path / "root"
    scans(root, ["p01/t1.nii.gz", "p02/t1.nii.gz"])
    before = {path: path.stat() for path in root.rglob("*")}
    for folder in (root / "p01", root / "p02", root):
        os.chmod(folder, 0o555)
    found = survey(root)
    for folder in (root, root / "p01", root / "p02"):
        os.chmod(folder, 0o755)
    assert len(found.cases) == 2 and {path.stat().st_mtime_ns for path in before} == {
        status.st_mtime_ns for status in before.values()
    }


def test_dicom_files_are_handed_on(tmp_path):
    for name in ("IM0001", "b/x.IMA", "c/1.2.840.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(20))
    (tmp_path / "notes").write_text("nothing")
    found = survey(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.dicom_files] == ["IM0001", "b/x.IMA", "c/1.2.840.1"]
    assert found.cases == () and found.layout == "DICOM"
    assert survey(tmp_path, pattern="*.nii").dicom_files == found.dicom_files
    scan(tmp_path / "p01.nii.gz")
    assert len(survey(tmp_path).cases) == 1 and survey(tmp_path).layout == "plain folders, DICOM"


def test_a_survey_of_the_same_folder_is_the_same_wherever_it_lies(tmp_path):
    for root in ("one", "two"):
        scans(tmp_path / root, ["p01/t1.nii.gz", "p02/t1.nii.gz"])
        labels(tmp_path / root / "p01/seg.nii.gz")
    one, two = (survey(tmp_path / root) for root in ("one", "two"))
    assert one.rows == two.rows
    assert [dataclasses.replace(c, images={}) for c in one.cases] == [
        dataclasses.replace(c, images={}) for c in two.cases
    ]
