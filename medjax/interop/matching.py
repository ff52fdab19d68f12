"""Checks that a state dict is of the architecture that it is read for."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

NAMED = 3  # names that do not fit, shown in a message
LONGEST = 120  # characters of each that are shown


def require_match(state_dict: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that a state dict holds floats of these names and shapes and nothing else.

    Raises:
      ValueError: it does not; all problems of a kind are counted, the first few named.
    """
    fitting = [name for name in shapes if name in state_dict]
    require_none(
        {
            "lacks": [name for name in shapes if name not in state_dict],
            "has too many": [name for name in state_dict if name not in shapes],
            "has other shapes": [
                f"{name} {np.shape(state_dict[name])} for {shapes[name]}"
                for name in fitting
                if np.shape(state_dict[name]) != shapes[name]
            ],
            "has no floats": [
                f"{name} {state_dict[name].dtype}"
                for name in fitting
                if not jnp.issubdtype(state_dict[name].dtype, jnp.floating)
            ],
        }
    )


def require_none(problems: Mapping[str, list[str]]) -> None:
    """Raises ValueError with the first few of each kind of problem and how many there are."""
    found = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            found.append(f"{what}: {', '.join(f'{name:.{LONGEST}}' for name in names[:NAMED])}{more}")
    if found:
        raise ValueError(f"the state dict {'; '.join(found)}. Is it of this architecture?")
