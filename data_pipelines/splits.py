"""Subjects are divided into train, validation and test by a number of their own, whoever else is there.

The number is a hash of the seed of the split and the subject's name, uniform in [0, 1), so a subject keeps its side when
others come or go, on every machine. The price is that sides hold their fractions only on average: of a few subjects a
side may hold none.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

SPLITS = ("train", "validation", "test")
SEEDS_TRIED = 1000

Fractions = tuple[float, float, float]  # of train, validation and test, of any sum


def place(subject: str, seed: int) -> float:
    """The number of a subject: the first 53 bits of SHA-256 of "SEED:SUBJECT" in UTF-8, as a fraction in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def side(subject: str, fractions: Fractions, seed: int) -> str:
    """The one of `SPLITS` that a subject is on: its place is counted off from validation, then test, then train.

    Args:
      subject: its name.
      fractions: normalised to add up to one; 0 leaves a side empty.
      seed: of the split, data.split_seed.
    """
    total = sum(fractions)
    _, validation, test = (fraction / total for fraction in fractions)
    there = place(subject, seed)
    return "validation" if there < validation else "test" if there < validation + test else "train"


def subjects_by_side(subjects: Iterable[str], fractions: Fractions, seed: int) -> dict[str, int]:
    """How many different subjects each of `SPLITS` holds."""
    counts = Counter(side(subject, fractions, seed) for subject in set(subjects))
    return {name: counts[name] for name in SPLITS}


def seed_that_fills(subjects: Sequence[str], fractions: Fractions) -> int | None:
    """The first seed that leaves a subject on every side whose fraction is not 0; None if none of the first does."""
    wanted = [name for name, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0]
    if len(set(subjects)) < len(wanted):
        return None
    for seed in range(SEEDS_TRIED):
        held = subjects_by_side(subjects, fractions, seed)
        if all(held[name] for name in wanted):
            return seed
    return None
