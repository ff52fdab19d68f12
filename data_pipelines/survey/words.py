"""Tells from the words of a file's name what is no image: label maps, maps of probabilities, localisers, fields, calibrations."""

import re
from collections.abc import Iterable

from data_pipelines.survey.found import Kind

# Whole words, in whatever case. A word that is in a name by chance ("masked", "segal") is none of them.
LABEL_MAP = re.compile(
    r"((brain|head|lung|liver|lesion|tumou?r|deface|bet|body|roi)?masks?\d?|msk|[da]?segs?\d?|segm|(automated)?segmentations?"
    r"|labels?(maps?)?\d?|labels(tr|ts|va)|(wm|des)?parc|aparc(\+aseg)?|aparc\w*\+aseg|wmparc|parcellations?|rois?"
    r"|annotations?|gt|ground ?truth|groundtruth|truth|[gcp]tv|contours?|pred|preds|predictions?)",
    re.IGNORECASE,
)
PROBABILITIES = re.compile(
    r"prob|probs|probseg|probmaps?|probability|probabilities|pve(seg)?|posteriors?|softmax|tpm", re.IGNORECASE
)
STATISTICS = re.compile(r"[tzf]stat\d*|(var)?cope\d*|spm[tf]|[tzp]map", re.IGNORECASE)
LOCALISER = re.compile(
    r"locali[sz]ers?|scouts?|topograms?|surview|scanograms?|(3|three)?plane(loc)?|aahscout\w*", re.IGNORECASE
)
CALIBRATION = re.compile(r"calib|calibration|phantom|b1map|b0map|fieldmap|fmap", re.IGNORECASE)
FIELD = re.compile(r"warp|warpfield|xfm|jac|jacobian|deformations?|displacements?|dvf|ddf|transform", re.IGNORECASE)
TISSUE = re.compile(
    r"(m?w|r)?[cp][1-6](?=[A-Za-z])|(mw|w|r)[cp][1-6]"
)  # how SPM and CAT begin the names of tissue maps

# Folders of which everything is that; whole names.
FOLDERS = {
    Kind.LABEL_MAP: re.compile(
        r"labels?((tr|ts|va)|maps?)?|masks?|segs?|segmentations?|annotations?|rois?|contours?|gt|ground[-_ ]?truths?|preds?"
        r"|predictions?|brain[-_ ]?masks?",
        re.IGNORECASE,
    ),
    Kind.OTHER: re.compile(r"derivatives|locali[sz]ers?|scouts?|calibrations?", re.IGNORECASE),
}

REASONS = (
    (PROBABILITIES, Kind.OTHER, "map of probabilities"),
    (LABEL_MAP, Kind.LABEL_MAP, "label map"),
    (STATISTICS, Kind.OTHER, "statistical map"),
    (LOCALISER, Kind.OTHER, "localiser"),
    (CALIBRATION, Kind.OTHER, "calibration scan"),
    (FIELD, Kind.OTHER, "transform"),
)


def no_image(folders: Iterable[str], words: Iterable[str]) -> tuple[Kind, str] | None:
    """Says by folders and the words of its name what a file is instead of an image, and why; None where nothing says so."""
    for word in words:
        for pattern, kind, what in REASONS:
            if pattern.fullmatch(word):
                return kind, f"{what}: by its name"
    for folder in folders:
        for kind, pattern in FOLDERS.items():
            if pattern.fullmatch(folder):
                what = "label map" if kind is Kind.LABEL_MAP else folder.lower()
                return kind, f"{what}: by its folder"
    return None


def split(text: str) -> tuple[str, ...]:
    """The words of a name: what stands between -, _, . and blanks."""
    return tuple(word for word in re.split(r"[-_. ]+", text) if word)
