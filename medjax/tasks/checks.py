"""Checks single keys of a configuration."""

from medjax.errors import UserError


def check_choices(*choices: tuple[str, str, tuple[str, ...]]) -> None:
    """Raises UserError for the first (key, value, allowed) whose value is not allowed."""
    for key, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{key} is {value!r}: use {' or '.join(map(repr, allowed))}")


def check_size(size: tuple[int, ...]) -> tuple[int, int, int]:
    """`data.size`; raises UserError unless it is (D, H, W)."""
    if len(size) != 3:
        raise UserError(f"data.size is {tuple(size)}: give three numbers, D, H and W")
    return tuple(size)
