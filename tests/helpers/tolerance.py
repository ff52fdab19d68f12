"""How far two float32 computations of the same thing may lie apart, on whatever computer.

Instruction sets, meshes, batch sizes and lowerings add up the same terms in other orders, so results differ by rounding. What
was seen on one computer is no measure of that; what float32 promises is.

A sum of terms about as large as itself (a convolution, a mean, a product of matrices) is off by some units of rounding of
the largest number beside it: `assert_equal_but_for_rounding`.

Where large terms cancel or are divided by small ones, it is off by more, and by how much is a property of the problem: a
result cannot be better known than by what it moves if all that goes in is wrong in its last bit. Gradients through
a normalisation are of that kind, and logarithms of faint channels: `moved_by_last_bits` measures it, in the test.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

UNIT = 2.0**-24  # the relative error of rounding one number to float32, at most
# Of a sum. Rounding errors of n terms in any order grow as sqrt(n): 42 units for a kernel of 3^3 and 64 channels, of the sum's
# own size. 4e-6 of it: five hundred times less than bfloat16's rounding, or than a thousandth too much in half of the terms.
UNITS = 64
# Of what last bits do, for they change little of the errors that one order of summation makes again and again: a gradient that
# is nothing but such errors (of a bias before a norm) was 10 times as far from another order's as last bits moved it.
TIMES = 32


def assert_equal_but_for_rounding(
    found: Any, expected: Any, *, units: float = UNITS, size: float | None = None, moves: Any = None
) -> None:
    """Fails where arrays, or trees of them, differ by more than float32 promises, and says by how much.

    Args:
      found: float32.
      expected: the same, of whatever precision; one number stands for an array of it.
      units: of rounding that a number may be off.
      size: of the terms that are added; by default that of each array's largest number.
      moves: what `moved_by_last_bits` gives of the function whose result this is: a number may be off by TIMES as much too.
    """
    pairs, others = jax.tree.leaves_with_path(expected), jax.tree.leaves(found)
    measured = [0.0] * len(pairs) if moves is None else jax.tree.leaves(moves)
    for (path, leaf), other, moved in zip(pairs, others, measured, strict=True):
        leaf, other = np.asarray(leaf, np.float64), np.asarray(other, np.float64)
        assert leaf.shape in (other.shape, ()), f"{jax.tree_util.keystr(path)}: {other.shape}, expected {leaf.shape}"
        allowed = max(units * UNIT * (np.abs(leaf).max() if size is None else size), TIMES * moved)
        difference = np.abs(other - leaf).max()
        # Written so that a NaN fails.
        assert difference <= allowed, (
            f"{jax.tree_util.keystr(path)}: off by {difference:.3g}, {allowed:.3g} is let pass"
        )


def moved_by_last_bits(function: Callable, *arguments: Any, draws: int = 4) -> Any:
    """The furthest that any number of each array of the result moves, when every float32 number of the arguments is moved to the
    next one above or below, at random.
    """
    exact = jax.device_get(function(*arguments))
    rng = np.random.default_rng(0)

    def moved(argument: Any) -> Any:
        if np.asarray(argument).dtype != np.float32:
            return argument
        return np.nextafter(argument, np.where(rng.random(np.shape(argument)) < 0.5, -np.inf, np.inf).astype("f4"))

    others = [jax.device_get(function(*jax.tree.map(moved, arguments))) for _ in range(draws)]
    return jax.tree.map(
        lambda one, *rest: max(np.abs(np.asarray(other, np.float64) - one).max() for other in rest), exact, *others
    )
