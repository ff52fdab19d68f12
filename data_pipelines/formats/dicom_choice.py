"""Which of the series of a study are used, by one rule, and what is said of it."""

import dataclasses
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

from data_pipelines.errors import DataError
from data_pipelines.formats.dicom_series import Series


def choose(series: Sequence[Series], wanted: str = "") -> tuple[Series, ...]:
    """Keeps one series of each modality of each study of each patient, and says why in every series' `reason`.

    Left out already are localisers, projections (MIP), secondary captures, reports and other objects that are no volumes,
    series of fewer than four slices, and those with slices missing. Of the rest:

    1. those whose description does not match `wanted`;
    2. derived ones, where the study has an original of the modality;
    3. all but one: that of the thinnest slices (the least distance between them); of these that of the most slices; of
       these that of the lowest series number; then of the first uid.

    A study without a StudyInstanceUID is the folder its files lie in.

    Args:
      series: as `find_series` gives them.
      wanted: a regular expression, in whatever case, found in the descriptions of what is wanted; by default any.

    Returns:
      All of them, in their order.

    Raises:
      DataError: `wanted` is no regular expression.
    """
    try:
        pattern = re.compile(wanted, re.I)
    except re.error as error:
        raise DataError(f"{wanted!r} is no regular expression ({error})") from None
    studies: dict[tuple[str, ...], list[int]] = defaultdict(list)
    chosen = list(series)
    for n, one in enumerate(series):
        if one.status != "use":
            continue
        if pattern.search(one.description):
            studies[one.patient, one.study or str(one.files[0].parent), one.modality].append(n)
        else:
            chosen[n] = _left_out(one, f"description {one.description!r} does not match {wanted!r}")
    for indices in studies.values():
        best, *others = sorted(indices, key=lambda n: _preference(series[n]))
        for n in others:
            chosen[n] = _left_out(series[n], _why_not(series[n], series[best]))
        reasons = [series[best].reason]
        if others:
            reasons.append(f"chosen of {len(indices)} series: {_why_not(series[others[0]], series[best], ahead=True)}")
        if series[best].derived:
            reasons.append("derived, no original of it in the study")
        chosen[best] = dataclasses.replace(series[best], reason="; ".join(reason for reason in reasons if reason))
    return tuple(chosen)


def tell(place: str, series: Sequence[Series]) -> None:
    """Says on stderr, in a line or a few, how many series are used, and why the others are not.

    Args:
      place: what the lines begin with, such as "data.root=/scans".
      series: as `choose` gives them.
    """
    used = [one for one in series if one.status == "use"]
    left = Counter(_short(one) for one in series if one.status != "use")
    why = ", ".join(f"{count} {reason}" for reason, count in left.most_common())
    patients = len({one.patient for one in used})
    said = f"{place}: {len(series)} DICOM series, {len(used)} used of {patients} patient{'s' * (patients != 1)}"
    print(f"{said}; left out: {why}" if why else said, file=sys.stderr)
    for faulty in (one for one in series if one.faulty):
        count = sum(one.faulty for one in series)
        first = f", the first {faulty.name}" if count > 1 else f": {faulty.name}"
        print(f"{place}: {count} of {len(series)} series cannot be used{first}: {faulty.reason}", file=sys.stderr)
        break
    for what in ("duplicate", "tilted", "derived"):
        if told := [one for one in used if what in one.reason]:
            print(f"{place}: {len(told)} series, such as {told[0].name}: {told[0].reason}", file=sys.stderr)
    names = Counter(one.description for one in used if one.modality == "MR")
    if len(names) > 1:
        kinds = ", ".join(f"{count} {name or 'without a name'!r}" for name, count in names.most_common(5))
        print(
            f"{place}: the MR series used go by {len(names)} descriptions ({kinds}): the same contrast?",
            file=sys.stderr,
        )


def _preference(one: Series) -> tuple[bool, float, int, int, str]:
    return one.derived, round(one.spacing[2], 2), -one.slices, one.number, one.uid


def _why_not(one: Series, best: Series, ahead: bool = False) -> str:
    """Why `best` is before `one`, said of `one`, or of `best` (ahead)."""
    name = best.description or f"series {best.number or best.uid}"
    if one.derived != best.derived:
        said = "the original" if ahead else "derived"
    elif _preference(one)[1] != _preference(best)[1]:
        said = f"slices {best.spacing[2]:.4g} mm apart, not {one.spacing[2]:.4g}"
    elif one.slices != best.slices:
        said = f"{best.slices} slices, not {one.slices}"
    else:
        said = f"series number {best.number}, not {one.number}" if one.number != best.number else "the first uid"
    return said if ahead else f"another series of the study is used, {name}: {said}"


def _left_out(one: Series, reason: str) -> Series:
    return dataclasses.replace(one, status="left out", reason=reason)


def _short(one: Series) -> str:
    """A reason without its numbers, so that the like are counted together."""
    for start in ("not readable", "another series of the study is used", "description"):
        if one.reason.startswith(start):
            return start
    return "with slices missing or uneven" if one.faulty and one.slices else re.sub(r"[-\d.]+", "N", one.reason)
