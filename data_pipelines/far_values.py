"""Finds one value far from all others that many voxels have, as padding has: a window of quantiles shows little of the rest."""

import numpy as np

from data_pipelines.notices import Kind, Notice

MANY = 0.05  # of the voxels, from which a value counts: more than a window of quantiles would leave out
MOST = (0.01, 0.99)  # quantiles between which the other values lie, outliers aside
BELOW_AIR = -1024  # Hounsfield units; nothing that is scanned lies below, so what does was filled in
CT = ((-1100, -200), (100, 4000))  # where the lowest and the highest of the other values lie in a CT


def far_value(array: np.ndarray) -> Notice | None:
    """A notice where more than 5 % of the voxels have one value that is further from all others than these are spread.

    Of values that look like Hounsfield units a least one below -1024 counts a quarter of the spread away already: padding of
    -2000 is no further from air than bone is. Background of 0 around a brain does not count as long as the brain's
    own values are spread as far.

    Args:
      array: [I, J, K] float32, finite.
    """
    for value in (array.min(), array.max()):
        others = array != value
        share = 1 - float(np.count_nonzero(others)) / array.size
        if share <= MANY or share == 1:
            continue
        low, high = (float(quantile) for quantile in np.quantile(array[others], MOST))
        gap, spread = max(low - value, value - high), high - low
        is_ct = all(least <= at <= most for at, (least, most) in zip((low, high), CT, strict=True))
        if gap > spread or (is_ct and value < BELOW_AIR and gap > spread / 4):
            detail = f"{share:.0%} of the voxels are {value:g}, the others {low:.4g} to {high:.4g}"
            return Notice(Kind.FAR_CT if is_ct else Kind.FAR, detail)
    return None
