"""Plots as inline SVG: pure functions from numbers to text, drawn in the colours that the page's style sheet names."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named line: y over x, equally long; points that are not finite break it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
