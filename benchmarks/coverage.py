"""Prints how often what an evaluation promises holds: intervals of distances, and the false alarms of the search for copies.

    python benchmarks/coverage.py frechet kernel copies --repeats=200

Everything is simulated features, whose true distances are known. Tables as in docs/evaluation.md.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from medjax.metrics.false_alarms import limit_of, observed
from medjax.metrics.frechet_interval import estimate_frechet
from medjax.metrics.kernel import kernel_distance
from medjax.metrics.memorization import BEHIND, margins

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]

COUNTS = ((20, 16), (38, 16), (32, 32), (100, 100))
FRESH, TRAINING, SITES = 2000, 240, 8


def frechet(repeats: int) -> None:
    """Gaussian features whose deviations are i^-p; the second distribution equal, or 1.2 times as wide and moved by 0.3."""
    print(f"\nFrechet distance, n to infinity: {repeats} repetitions")
    print(
        "| features, p | n, m | truth | interval told | holds the truth, where told | p <= 0.05 |\n|---|---|---|---|---|---|"
    )
    for f, p in ((480, 0.7), (480, 1.0), (96, 0.7), (96, 1.5), (96, 2.0), (20, 0.0)):
        deviations = np.arange(1, f + 1.0) ** -p
        for scale, move in ((1.0, 0.0), (1.2, 0.3)):
            truth = float(np.sum(deviations**2) * ((scale - 1) ** 2 + move**2))
            for n, m in COUNTS:
                rng, told, held, rejected = np.random.default_rng(0), 0, 0, 0
                for seed in range(repeats):
                    real = rng.standard_normal((n, f)) * deviations
                    generated = (rng.standard_normal((m, f)) * scale + move) * deviations
                    found = estimate_frechet(real, generated, 80, seed)
                    told += found.extrapolated
                    held += found.extrapolated and found.low <= truth <= found.high
                    rejected += found.p_value <= 0.05
                holds = f"{held / told:.1%}" if told else "-"
                print(
                    f"| {f}, {p} | {n}, {m} | {truth:.3g} | {told / repeats:.0%} | {holds} | {rejected / repeats:.1%} |",
                    flush=True,
                )


def kernel(repeats: int) -> None:
    """Sixteen normal features; a share of the real volumes is of a kind of its own, which the generated ones lack."""
    print(f"\nKernel distance: {repeats} repetitions")
    print("| differ in | n, m | real volumes of that kind, mean | interval holds the truth |\n|---|---|---|---|")
    cases: dict[str, tuple[Draw, float]] = {"nothing": (moved(0.0), 0.0), "the mean, by 0.3": (moved(0.3), 0.0)}
    for share in (0.05, 0.1, 0.2):
        cases[f"a kind, {share:.0%}, missing"] = missing(share), share
    for name, (draw, share) in cases.items():
        truth = 0.0
        if name != "nothing":
            rng = np.random.default_rng(1)
            truth = float(np.mean([kernel_distance(*draw(rng, 4000, 4000)).value for _ in range(4)]))
        for n, m in ((20, 20), (40, 40), (100, 100)):
            rng = np.random.default_rng(0)
            found = [kernel_distance(*draw(rng, n, m)) for _ in range(repeats)]
            held = np.mean([each.low <= truth <= each.high for each in found])
            print(f"| {name} | {n}, {m} | {share * n:g} | {held:.1%} |", flush=True)


def moved(by: float) -> Draw:
    return lambda rng, n, m: (rng.standard_normal((n, 16)), rng.standard_normal((m, 16)) + by)


def missing(share: float) -> Draw:
    def draw(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        real = rng.standard_normal((n, 16))
        real[:, 0] += 8.0 * (rng.random(n) < share)
        return real, rng.standard_normal((m, 16))

    return draw


def copies(repeats: int) -> None:
    """Subjects as vectors of 24 numbers, correlated; new ones, and training subjects with noise (correlation 0.9)."""
    print(
        f"\nFalse alarms, 1 % asked for, {FRESH} new subjects a repetition, {TRAINING} training: {repeats} repetitions"
    )
    print(
        "| subjects | calibrated on | stand out from rank | new subjects flagged, mean (10 to 90 %) | printed, mean | "
        "interval holds the rate | copies found |\n|---|---|---|---|---|---|---|"
    )
    for name in ("homogeneous", "10 % with strong own variation", "10 % of sites of 3"):
        for k in (24, 100, 200):
            for rank in sorted({BEHIND, 10}):
                rng = np.random.default_rng(0)
                runs = np.array([false_alarms(name, k, rank, rng) for _ in range(repeats)])
                rates, printed, held, found = runs.T
                low, high = np.quantile(rates, [0.1, 0.9])
                print(
                    f"| {name} | {k} | {rank} | {rates.mean():.1%} ({low:.1%} to {high:.1%}) | {printed.mean():.1%} | "
                    f"{held.mean():.0%} | {found.mean():.0%} |",
                    flush=True,
                )


def false_alarms(name: str, k: int, rank: int, rng: np.random.Generator) -> tuple[float, float, bool, float]:
    """The rate of new subjects that are flagged, the one observed on k, whether its interval holds it, and copies found."""
    sites = rng.standard_normal((SITES, 24))
    training, held_out, fresh = (subjects(name, n, sites, rng) for n in (TRAINING, k, FRESH))
    if name.endswith("sites of 3"):
        training[: 3 * SITES] = of_sites(np.repeat(sites, 3, axis=0), rng)
    copied = training[:100] + np.sqrt(1 / 0.81 - 1) * training[:100].std(axis=1, keepdims=True) * rng.standard_normal(
        (100, 24)
    )
    scores = [margins(correlations(each, training), np.arange(TRAINING), rank) for each in (held_out, fresh, copied)]
    threshold, seen = limit_of(scores[0], rank, 0.01).threshold, observed(scores[:1], rank, 0.01)
    rate = float(np.mean(scores[1] > threshold))
    return rate, seen.count / k, seen.low <= rate <= seen.high, float(np.mean(scores[2] > threshold))


def subjects(name: str, n: int, sites: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, 24]: one in ten is special in the way that `name` says."""
    rows, special = rng.standard_normal((n, 24)), rng.random(n) < 0.1
    if "variation" in name:
        rows[special] *= np.exp(rng.standard_normal((special.sum(), 24)))
    if "sites" in name:
        rows[special] = of_sites(sites[rng.integers(len(sites), size=special.sum())], rng)
    return rows


def of_sites(sites: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Subjects who have 80 % of their variance from their site."""
    return np.sqrt(0.8) * sites + np.sqrt(0.2) * rng.standard_normal(sites.shape)


def correlations(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    rows, others = (x - x.mean(axis=1, keepdims=True) for x in (rows, others))
    return rows @ others.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(others, axis=1)


PARTS = {"frechet": frechet, "kernel": kernel, "copies": copies}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    for part in arguments.parts:
        PARTS[part](arguments.repeats)
