"""Defines one number of an evaluation, with all that it takes to be read rightly."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
    """Holds a number with its direction, its n and what real volumes score among themselves.

    Attributes:
      name: key in metrics.json: "fid", "kid", "ms_ssim", "precision", ...
      title: for people: "Frechet distance".
      value: None where it could not be computed.
      direction: which way is better: "less", "more", or "like real" (best when equal to the baseline).
      unit: "" where it has none.
      n_real, n_generated: volumes on either side; None for a side that takes no part.
      low, high: of a 95 % interval.
      error: standard error, where there is one and no interval.
      baseline: the same between real and real volumes.
      baseline_of: what that compares: "held-out against training volumes", "random halves of the real volumes".
      p_value: the probability of a value at least as bad if generated and real volumes were of one distribution; None where
        that was not tested.
      how: one or two sentences: how it was computed, with what features, which k, how many pairs, what scales.
    """

    name: str
    title: str
    value: float | None
    direction: str
    unit: str
    n_real: int | None
    n_generated: int | None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    baseline: float | None = None
    baseline_of: str = ""
    how: str = ""
    p_value: float | None = None
