"""How close is close: float32 against float32, where the references differ from their own float64 by 2e-6 to 9e-6."""

import numpy as np

from golden_files import GoldenFile, odd_integers
from tolerance import UNIT, UNITS


def assert_close(actual, expected, atol: float | np.ndarray = 2e-5, rtol: float = 1e-4, name: str = "") -> None:
    """Fails where |actual - expected| exceeds atol + rtol |expected|, and says by how much."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    difference = np.abs(np.subtract(actual, expected, out=np.zeros(actual.shape), where=actual != expected))
    excess = difference / (atol + rtol * np.abs(expected))
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    # Written so that a NaN fails.
    assert np.all(excess <= 1), (
        f"{name} at {worst}: {actual[worst]}, expected {expected[worst]}; {excess[worst]:.3g} times the tolerance"
    )


def assert_activations(actual, expected: np.ndarray, name: str) -> None:
    """Compares what is inside of a network, which may be larger than what comes out: sums of it are rounded as coarsely."""
    assert_close(actual, expected, atol=max(2e-5, UNITS * UNIT * np.abs(expected).max()), name=name)


def assert_gradients(golden: GoldenFile, gradients: dict[str, np.ndarray], prefix: str = "out/") -> None:
    """Compares gradients by state dict name: some whole, all by their length, sum and a random projection."""
    for key in golden.keys(f"{prefix}grad/"):
        assert_close(gradients[key.removeprefix(f"{prefix}grad/")], golden[key], name=key)
    if f"{prefix}grad_names" not in golden:
        return
    names = golden[f"{prefix}grad_names"].tolist()
    assert names == list(gradients)
    for statistic in ("l2", "sum", "probe"):
        if f"{prefix}grad_{statistic}" in golden:
            for name, expected in zip(names, golden[f"{prefix}grad_{statistic}"], strict=True):
                gradient = gradients[name].astype(np.float64)
                length = np.linalg.norm(gradient)
                if statistic == "l2":
                    assert_close(length, expected, name=name)
                    continue
                direction = odd_integers(f"probe:{name}", 0, gradient.shape) if statistic == "probe" else 1.0
                # A relative error of 1e-4 of the gradient's length, along a direction of this length.
                error = (
                    1e-4 * length * np.linalg.norm(np.broadcast_to(direction, gradient.shape)) / np.sqrt(gradient.size)
                )
                assert_close(np.sum(gradient * direction), expected, atol=2e-5 + error, name=f"{statistic} of {name}")
