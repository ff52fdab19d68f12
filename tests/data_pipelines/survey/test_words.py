import pytest

from data_pipelines.survey.found import Kind
from data_pipelines.survey.visits import numbers_visits, split_visit
from data_pipelines.survey.words import no_image, split


@pytest.mark.parametrize(
    "name",
    [
        "seg",
        "brain_mask",
        "T1_brainmask",
        "p01-label",
        "lesion.mask",
        "aparc+aseg",
        "sub_dseg",
        "GTV",
        "BET_MASK",
        "pred",
    ],
)
def test_words_of_label_maps(name):
    assert no_image((), split(name)) == (Kind.LABEL_MAP, "label map: by its name")


@pytest.mark.parametrize("name", ["t1", "masked_brain", "segal", "T1_unmasked", "labelled", "loc", "brain", "rois2go"])
def test_other_words_say_nothing(name):
    assert no_image((), split(name)) is None


def test_folders_say_it_by_their_whole_name():
    assert no_image(("p01", "Masks"), ("x",)) == (Kind.LABEL_MAP, "label map: by its folder")
    assert no_image(("derivatives",), ("x",)) == (Kind.OTHER, "derivatives: by its folder")
    assert no_image(("segmentation_challenge", "unmask"), ("x",)) is None


@pytest.mark.parametrize(
    ("words", "visit", "rest"),
    [
        (("v2", "T1"), "v2", ("T1",)),
        (("ses", "M00", "T1"), "ses-M00", ("T1",)),
        (("baseline", "T1"), "baseline", ("T1",)),
        (("T1", "post"), "", ("T1", "post")),
        (("post",), "post", ()),
        (("2020-01-31", "flair"), "2020-01-31", ("flair",)),
        (("run", "2", "bold"), "run-2", ("bold",)),
        (("0000",), "", ("0000",)),
        (("2",), "2", ()),
    ],
)
def test_visits(words, visit, rest):
    assert split_visit(words, t_is_visit=False) == (visit, rest)


def test_t_numbers_are_visits_beside_a_t0_or_a_t3():
    assert numbers_visits(["t0", "t1"]) and numbers_visits(["T1", "T3"]) and not numbers_visits(["t1", "t2", "t1w"])
    assert split_visit(("t0", "t1"), t_is_visit=True) == ("t0", ("t1",))
