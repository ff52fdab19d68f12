import json

import numpy as np
import pytest

from data_pipelines.survey.brats import same_series
from data_pipelines.survey.survey import survey
from scan_trees import labels, save, scan, scans
from surveys import images, reasons, refused, used


def write_json(root, **content):
    (root / "dataset.json").write_text(json.dumps(content))


def test_the_decathlon(tmp_path):
    for n in range(10):
        scan(tmp_path / f"imagesTr/case_{n:03d}.nii.gz")
        labels(tmp_path / f"labelsTr/case_{n:03d}.nii.gz")
        scan(tmp_path / f"imagesTs/case_{n + 10:03d}.nii.gz")
    write_json(tmp_path, modality={"0": "CT"}, labels={"0": "background"})
    found = survey(tmp_path)
    assert found.layout == "nnU-Net" and found.channels == {"CT": 20}
    assert used(found) == {f"images{'Tr' if n < 10 else 'Ts'}/case_{n:03d}.nii.gz": f"case_{n:03d}" for n in range(20)}
    assert reasons(found) == {f"labelsTr/case_{n:03d}.nii.gz": "label map: by its folder" for n in range(10)}
    with_maps = survey(tmp_path, label_map=True)
    assert {case.images["CT"].name: case.label_map.parent.name for case in with_maps.cases} == {
        f"case_{n:03d}.nii.gz": "labelsTr" for n in range(10)
    }
    assert all(case.label_map.name == case.images["CT"].name for case in with_maps.cases)
    assert reasons(with_maps)["imagesTs/case_010.nii.gz"] == "no label map"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, ("0000", "0003")),
        ({"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}, ("T1", "FLAIR")),
        ({"modality": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}, ("T1", "0003")),
        ({"channel_names": {"0": "MRI", "1": "MRI", "2": "MRI", "3": "MRI"}}, ("0000", "0003")),
        ({"channel_names": ["T1"]}, ("0000", "0003")),
    ],
)
def test_channels_of_nnunet(tmp_path, content, names):
    root = tmp_path / "Dataset042_Brain"
    scans(root, [f"imagesTr/case_{n:03d}_{c:04d}.nii.gz" for n in range(3) for c in range(4)])
    labels(root / "labelsTr/case_001.nii.gz")
    if content:
        write_json(root, **content)
    message = refused(tmp_path)
    assert f"{names[0]} (3)" in message and "images of 4 channels" in message
    found = survey(tmp_path, names)
    assert images(found) == {
        f"Dataset042_Brain/imagestr/case_{n:03d}": [
            f"Dataset042_Brain/imagesTr/case_{n:03d}_{c}.nii.gz" for c in ("0000", "0003")
        ]
        for n in range(3)
    }
    assert {case.subject for case in found.cases} == {"case_000", "case_001", "case_002"}
    assert [case.subject for case in survey(tmp_path, names, label_map=True).cases] == ["case_001"]


def test_four_digits_of_a_case_are_no_channel(tmp_path):
    for n in range(3):
        scan(tmp_path / f"imagesTr/FLARE22_Tr_{n:04d}.nii.gz")
        labels(tmp_path / f"labelsTr/FLARE22_Tr_{n:04d}.nii.gz")
    scan(tmp_path / "imagesTs/FLARE22_Ts_0001.nii.gz")
    found = survey(tmp_path)
    assert sorted(used(found).values()) == [*(f"FLARE22_Tr_{n:04d}" for n in range(3)), "FLARE22_Ts_0001"]


def test_visits_of_nnunet_are_one_subject(tmp_path):
    scans(tmp_path, [f"imagesTr/patient{n:03d}_t{t}_0000.nii.gz" for n in range(2) for t in range(2)])
    assert sorted(used(survey(tmp_path)).values()) == ["patient000"] * 2 + ["patient001"] * 2


def test_channels_on_a_fourth_axis_are_refused(tmp_path):
    for n in range(2):
        save(tmp_path / f"imagesTr/BRATS_{n:03d}.nii.gz", np.arange(3840, dtype=np.int16).reshape(10, 12, 8, 4))
        labels(tmp_path / f"labelsTr/BRATS_{n:03d}.nii.gz")
    write_json(tmp_path, modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"})
    message = refused(tmp_path)
    assert "2 4D series (such as imagesTr/BRATS_000.nii.gz)" in message and "nnUNetv2_convert_MSD_dataset" in message


def test_bids(tmp_path):
    for n in (1, 2):
        for ses in (1, 2):
            stem = f"sub-0{n}_ses-{ses}"
            scans(tmp_path / f"sub-0{n}/ses-{ses}", [f"anat/{stem}_T1w.nii.gz", f"anat/{stem}_FLAIR.nii.gz"])
    folder = tmp_path / "sub-01/ses-1"
    scan(folder / "anat/sub-01_ses-1_run-2_T1w.nii.gz")
    scan(folder / "anat/sub-01_ses-1_ce-gad_T1w.nii.gz")
    save(folder / "func/sub-01_ses-1_task-rest_bold.nii.gz", np.arange(9600, dtype=np.int16).reshape(10, 12, 8, 10))
    scan(folder / "fmap/sub-01_ses-1_phasediff.nii.gz")
    scan(tmp_path / "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_desc-preproc_T1w.nii.gz")
    labels(tmp_path / "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz")
    labels(tmp_path / "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_space-MNI_dseg.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    assert "T1w (4)" in (message := refused(tmp_path)) and "ce-gad_T1w (1)" in message
    found = survey(tmp_path, ("T1w", "FLAIR"))
    assert used(found) == {f"sub-0{n}/ses-{ses}": f"sub-0{n}" for n in (1, 2) for ses in (1, 2)}
    assert {case.visit for case in found.cases} == {"ses-1", "ses-2"} and found.layout == "BIDS"
    stem = "sub-01/ses-1/anat/sub-01_ses-1"
    assert images(found)["sub-01/ses-1"] == [f"{stem}_T1w.nii.gz", f"{stem}_FLAIR.nii.gz"]
    assert reasons(found) == {
        f"{stem}_run-2_T1w.nii.gz": f"another T1w of the same visit is used: {stem}_T1w.nii.gz",
        f"{stem}_ce-gad_T1w.nii.gz": "channel not asked for: ce-gad_T1w",
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz": "BIDS func: not anatomy",
        "sub-01/ses-1/fmap/sub-01_ses-1_phasediff.nii.gz": "BIDS fmap: not anatomy",
        "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_desc-preproc_T1w.nii.gz": "BIDS derivatives: not the raw images",
        "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz": "label map: by its name",
        "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_space-MNI_dseg.nii.gz": "label map: by its name",
    }
    (case,) = survey(tmp_path, ("T1w",), label_map=True).cases
    assert case.label_map.name == "sub-01_ses-1_dseg.nii.gz"


def test_bids_of_one_contrast_needs_no_key(tmp_path):
    scans(tmp_path, [f"sub-{n:02d}/anat/sub-{n:02d}_acq-{'AB'[n % 2]}_T1w.nii.gz" for n in range(12)])
    found = survey(tmp_path)
    assert len(used(found)) == 12 and found.channels == {"T1w": 12}
    assert len(survey(tmp_path, ("acq-A_T1w",)).cases) == 6


def test_derivatives_given_as_the_root_are_images(tmp_path):
    stem = "sub-01/anat/sub-01"
    scans(
        tmp_path,
        [
            f"{stem}_desc-preproc_T1w.nii.gz",
            f"{stem}_space-MNI_desc-preproc_T1w.nii.gz",
            f"{stem}_label-GM_probseg.nii.gz",
        ],
    )
    labels(tmp_path / f"{stem}_space-MNI_desc-brain_mask.nii.gz")
    found = survey(tmp_path, ("space-MNI_desc-preproc_T1w",), label_map=True)
    assert found.cases[0].label_map.name == "sub-01_space-MNI_desc-brain_mask.nii.gz"
    assert reasons(found)[f"{stem}_label-GM_probseg.nii.gz"] == "map of probabilities: by its name"


def test_two_bids_datasets_do_not_hide_each_other(tmp_path):
    scans(tmp_path, [f"ds{d}/sub-01/anat/sub-01_T1w.nii.gz" for d in (1, 2)])
    assert used(survey(tmp_path)) == {f"ds{d}/sub-01/anat/sub-01_T1w.nii.gz": "sub-01" for d in (1, 2)}


@pytest.mark.parametrize(
    ("stem", "series", "label_map", "subject", "visit"),
    [
        ("BraTS-GLI-00005-100-{}", ("t1n", "t1c", "t2w", "t2f"), "seg", "BraTS-GLI-00005", "100"),
        ("BraTS-MEN-RT-0001-1_{}", ("t1c",), "gtv", "BraTS-MEN-RT-0001", "1"),
        ("BraTS2021_00000_{}", ("t1", "t1ce", "t2", "flair"), "seg", "BraTS2021_00000", ""),
        ("BraTS20_Training_001_{}", ("t1", "t1ce", "t2", "flair"), "seg", "BraTS20_Training_001", ""),
        ("Brats18_2013_2_1_{}", ("t1", "t1ce", "t2", "flair"), "seg", "Brats18_2013_2", "1"),
        ("UCSF-PDGM-0004_{}", ("T1", "T1c", "T2", "FLAIR"), "tumor_segmentation", "UCSF-PDGM-0004", ""),
        ("UCSF-PDGM-0429_FU003d_{}", ("T1", "T1_bias"), "tumor_segmentation", "UCSF-PDGM-0429", "FU003d"),
        ("UPENN-GBM-00001_11_{}", ("T1", "T1GD"), "automated_approx_segm", "UPENN-GBM-00001", "11"),
    ],
)  # fmt: skip
def test_names_of_brats_and_the_like(tmp_path, stem, series, label_map, subject, visit):
    folder = tmp_path / stem.format("x").rpartition("x")[0].rstrip("-_")
    scans(folder, [f"{stem.format(name)}.nii.gz" for name in series])
    labels(folder / f"{stem.format(label_map)}.nii.gz")
    labels(folder / f"{stem.format('brain_segmentation')}.nii.gz", count=2)
    found = survey(tmp_path, series, label_map=True)
    (case,) = found.cases
    assert (case.subject, case.visit, found.layout) == (subject, visit, "BraTS")
    assert [path.name for path in case.images.values()] == [f"{stem.format(name)}.nii.gz" for name in series]
    assert case.label_map.name == f"{stem.format(label_map)}.nii.gz"


def test_a_series_goes_by_the_names_of_all_years(tmp_path):
    scans(
        tmp_path,
        [
            "BraTS2021_00000_t1.nii.gz",
            "BraTS2021_00000_t1ce.nii.gz",
            "BraTS-GLI-00001-000-t1n.nii.gz",
            "BraTS-GLI-00001-000-t1c.nii.gz",
        ],
    )
    assert len(survey(tmp_path, ("t1n",)).cases) == len(survey(tmp_path, ("t1", "T1CE")).cases) == 2
    assert same_series("FLAIR") == ("t2f",) and same_series("adc") == ()


def test_adni_has_one_image_a_visit(tmp_path):
    subject = "002_S_0001"
    kinds = (
        "MPR____N3",
        "MPR-R____N3",
        "MT1__GradWarp",
        "MPR__GradWarp__B1_Correction__N3",
        "T1_Calibration",
        "3-plane_localizer",
    )
    scans(tmp_path / subject, [f"{kind}/2006-04-18_08_20_30.0/I{n}/x.nii" for n, kind in enumerate(kinds)])
    scans(tmp_path / subject, [f"{kind}/2007-04-18_08_20_30.0/I{n}/x.nii" for n, kind in enumerate(kinds[:2], 10)])
    found = survey(tmp_path)
    assert used(found) == {
        f"{subject}/MPR__GradWarp__B1_Correction__N3/2006-04-18_08_20_30.0/I3/x.nii": subject,
        f"{subject}/MPR____N3/2007-04-18_08_20_30.0/I10/x.nii": subject,
    }
    assert [case.visit for case in found.cases] == ["2006-04-18", "2007-04-18"]
    why = sorted(reason.partition(":")[0] for reason in reasons(found).values())
    assert why == ["another T1 of the same visit is used"] * 4 + ["calibration scan", "localiser"]
    scan(tmp_path / subject / "Axial_T2-FLAIR/2006-04-18_09_00_00.0/I20/x.nii")
    assert "T1 (2), FLAIR (1)" in refused(tmp_path)


def test_oasis_has_one_image_a_visit(tmp_path):
    for person in ("OAS1_0001_MR1", "OAS1_0002_MR1", "OAS1_0002_MR2"):
        scans(tmp_path / person, [f"RAW/{person}_mpr-{n}_anon.hdr" for n in (1, 2, 3)])
        scan(tmp_path / person / f"PROCESSED/MPRAGE/T88_111/{person}_mpr_n4_anon_111_t88_gfc.hdr")
        labels(tmp_path / person / f"FSL_SEG/{person}_mpr_n4_anon_111_t88_masked_gfc_fseg.nii")
    scan(tmp_path / "OAS2_0001_MR1/RAW/mpr-1.nifti.hdr")
    found = survey(tmp_path)
    assert sorted((case.subject, case.visit) for case in found.cases) == [
        ("OAS1_0001", "MR1"), ("OAS1_0002", "MR1"), ("OAS1_0002", "MR2"), ("OAS2_0001", "MR1"),
    ]  # fmt: skip
    assert all(
        path.name.endswith(("mpr-1_anon.hdr", "mpr-1.nifti.hdr"))
        for case in found.cases
        for path in case.images.values()
    )
    assert "has a label map" in refused(tmp_path, label_map=True)


def test_a_label_map_of_another_grid_is_not_the_images(tmp_path):
    scans(tmp_path, [f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2)])
    labels(tmp_path / "derivatives/x/sub-01/anat/sub-01_space-MNI_dseg.nii.gz")
    labels(tmp_path / "derivatives/x/sub-02/anat/sub-02_desc-aseg_dseg.nii.gz")
    assert set(used(survey(tmp_path, label_map=True)).values()) == {"sub-02"}


def test_oasis_3_is_named_as_bids_is(tmp_path):
    scans(
        tmp_path,
        [
            f"OAS3000{n}_MR_d0{v}/anat{a}/NIFTI/sub-OAS3000{n}_ses-d0{v}_run-0{a}_T1w.nii.gz"
            for n in (1, 2)
            for v in (129, 757)
            for a in (1, 2)
        ],
    )
    found = survey(tmp_path)
    assert sorted((case.subject, case.visit) for case in found.cases) == [
        (f"sub-OAS3000{n}", f"ses-d0{v}") for n in (1, 2) for v in (129, 757)
    ]
    assert all("run-01" in case.name for case in found.cases)
