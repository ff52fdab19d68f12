"""Tells which words of a name say a visit, and which a contrast."""

import re
from collections.abc import Iterable, Sequence

from data_pipelines.subjects import DATE, NUMBERED

VISIT = re.compile(
    r"ses\d*|session\d*|visit\d*|timepoint\d*|tp\d+|baseline|bl|follow|followup\d*|fu\d*[dmy]?|[vmdwy]\d{1,4}[dmy]?|scan\d{1,2}"
    r"|run\d*|rep\d*|repeat\d*|rescan|retest|time\d*|preop|postop|day\d*|week\d*|month\d*|year\d*|mr\d+|(mprage|mpr)\d",
    re.IGNORECASE,
)
AROUND = re.compile(r"pre|post", re.IGNORECASE)  # a visit alone, a part of the contrast's name beside one: t1_post
T_NUMBER = re.compile(r"t\d{1,2}", re.IGNORECASE)  # t1 and t2 are contrasts, or the visits beside t0 or t3
CONTRAST = re.compile(
    r"(t1|t2|pd)(w|c|ce|gd|n|f|s|star|map|spc|post|pre|wi|weighted)?|flair|swi|dwi|adc|dti|dce|asl|cbf|bold|fmri|mprage|mpr"
    r"|mp2rage|f?spgr|gre|stir|mra|cta?|cbct|pet|fdg|dyn\d*|dixon",
    re.IGNORECASE,
)


def numbers_visits(words: Iterable[str]) -> bool:
    """Whether words such as t0 and t1 say visits in these names: where there is a t0, or one beyond t2."""
    return any(T_NUMBER.fullmatch(word) and not 1 <= int(word[1:]) <= 2 for word in words)


def split_visit(words: Sequence[str], t_is_visit: bool) -> tuple[str, tuple[str, ...]]:
    """Parts the words of a name that name no person into the visit and the others.

    Args:
      words: in their order.
      t_is_visit: whether the first of t0, t1, ... says the visit.

    Returns:
      the visit, such as "ses-2", of several words joined by "_", empty if there is none; and the other words.
    """
    visit: list[str] = []
    rest: list[str] = []
    contrast = any(CONTRAST.fullmatch(word) and not (t_is_visit and T_NUMBER.fullmatch(word)) for word in words)
    n = 0
    while n < len(words):
        word = words[n]
        following = words[n + 1] if n + 1 < len(words) else ""
        says_visit = (
            VISIT.fullmatch(word)
            or DATE.fullmatch(f" {word}", 1)
            or (word.isdecimal() and not re.fullmatch(r"000\d", word))
            or (AROUND.fullmatch(word) and not contrast)
        )
        numbers = re.fullmatch(r"[A-Za-z]?\d+\w*", following) and not CONTRAST.fullmatch(following)
        if NUMBERED.fullmatch(word) and numbers:
            visit.append(f"{word}-{following}")
            n += 1
        elif t_is_visit and T_NUMBER.fullmatch(word):
            visit.append(word)
            t_is_visit = False
        elif says_visit:
            visit.append(word)
        else:
            rest.append(word)
        n += 1
    return "_".join(visit), tuple(rest)
