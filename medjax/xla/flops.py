"""Counts the floating-point operations of a function in its jaxpr: what the mathematics needs, not the machine.

Convolutions and matrix products only, two operations a multiplication: in these networks all else is less than one in a
hundred. Zeros that padding or dilation puts between the numbers of a convolution count, or do not, as said at `_convolution`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count(function: Callable, *arguments: Any) -> float:
    """Counts the operations of one call; of the arguments only shapes matter.

    A loop counts as often as it goes round where that is known (`scan`), else once; of branches the largest counts, of ways
    to do the same on several platforms (`lax.platform_dependent`) the one for all others.
    """
    if isinstance(function, jax.stages.Wrapped):  # not inside another one, which options of its own would forbid
        return _in_jaxpr(function.trace(*arguments).jaxpr.jaxpr)
    return _in_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _in_jaxpr(jaxpr: core.Jaxpr) -> float:
    return sum(map(_in_equation, jaxpr.eqns))


def _in_equation(equation: core.JaxprEqn) -> float:
    match equation.primitive.name:
        case "conv_general_dilated":
            return _convolution(equation)
        case "dot_general":
            return _product(equation)
        case "cond":
            branches = [_in_jaxpr(branch.jaxpr) for branch in equation.params["branches"]]
            return branches[-1] if equation.params.get("branches_platforms") else max(branches)
        case "scan":
            return equation.params["length"] * sum(map(_in_jaxpr, _inner(equation)))
        case "shard_map":
            return math.prod(equation.params["mesh"].shape.values()) * sum(map(_in_jaxpr, _inner(equation)))
    return sum(map(_in_jaxpr, _inner(equation)))


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the jaxprs that an equation calls."""
    for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(leaf):
            yield getattr(leaf, "jaxpr", leaf)


def _is_jaxpr(leaf: Any) -> bool:
    return isinstance(leaf, (core.Jaxpr, core.ClosedJaxpr))


def _convolution(equation: core.JaxprEqn) -> float:
    """Counts every output number as a sum over the kernel's taps and input channels, those over padding included.

    Where the input is dilated (the gradient of a strided convolution) only one tap in so many meets a number.
    """
    output, kernel = equation.outvars[0].aval, equation.invars[1].aval
    dimensions = equation.params["dimension_numbers"]
    taps_and_channels = math.prod(kernel.shape) / kernel.shape[dimensions.rhs_spec[0]]
    return 2.0 * math.prod(output.shape) * taps_and_channels / math.prod(equation.params["lhs_dilation"])


def _product(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left.shape[axis] for axis in contracted)
