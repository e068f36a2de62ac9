"""Simulate the coverage of the report's intervals and the level of its corrected test.

python -m benchmarks.coverage                 # some minutes; writes benchmarks/coverage.json
python -m benchmarks.coverage --repeats 200   # a quick look
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from invmod._distributions import normal_cdf
from invmod.robustness.intervals import (
    binomial_interval,
    paired_binary_interval,
    percentile_interval,
    share_interval,
    skewed_interval,
    t_interval,
)
from invmod.robustness.permutation import adjusted_p_values
from milk_recsys.base.files import write_json

CONFIDENCE, LEVEL = 0.95, 0.05
ERRORS = 3
"""Number of Monte Carlo standard errors that a figure may be on the wrong side of its nominal."""
RESAMPLES = 999

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
Interval = Callable[[Floats, float], tuple[float, float] | None]


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        what: kind of interval, or "corrected test".
        case: distribution of the units' values, or numbers of permutations and hypotheses.
        units: number of units.
        estimate: coverage, or rate of a false claim.
        error: Monte Carlo standard error of the nominal value.
        width: mean width of the interval; None for a test.
        kept: whether the estimate is on the right side of its nominal value, up to `ERRORS`.
    """

    what: str
    case: str
    units: int
    estimate: float
    error: float
    width: float | None
    kept: bool


class Case(NamedTuple):
    """A distribution of the values of one unit, with its mean."""

    name: str
    draw: Draw
    mean: float


def binary(p: float) -> Case:
    """Return 0-1 values, such as those of accuracy."""
    return Case(f"0-1, mean {p:g}", lambda rng, n: (rng.random(n) < p).astype(float), p)


def shares(p: float, draws: int = 3, concentration: float = 2.0) -> Case:
    """Return means of 0-1 values over draws, with a probability of success that units differ in."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        own = rng.beta(concentration * p, concentration * (1 - p), n)
        return rng.binomial(draws, own) / draws

    return Case(f"means of {draws} draws, mean {p:g}", draw, p)


def mostly_zero(rng: np.random.Generator, n: int, share: float = 0.3) -> Floats:
    """Return values like NDCG: 0 for most units, otherwise between 0 and 1 with mean 0.4."""
    return (rng.random(n) < share) * rng.beta(2, 3, n)


def opposite(more: float, less: float) -> Case:
    """Return differences of 0-1 values: 1 and -1 with the given probabilities, else 0."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        u = rng.random(n)
        return (u < more).astype(float) - (u > 1 - less)

    return Case(f"0-1, {more:g} better and {less:g} worse", draw, more - less)


NORMAL = Case("normal", lambda rng, n: rng.normal(size=n), 0.0)
MEANS = (
    NORMAL,
    Case("exponential", lambda rng, n: rng.exponential(size=n), 1.0),
    Case("like NDCG, 30% above 0", mostly_zero, 0.12),
    Case("log-normal", lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
)
DIFFERENCES = (
    NORMAL,
    Case(
        "like NDCG, 35% and 30% above 0",
        lambda rng, n: mostly_zero(rng, n, 0.35) - mostly_zero(rng, n, 0.3),
        0.02,
    ),
)


def binomial(values: Floats, confidence: float) -> tuple[float, float]:
    """Return the interval of the mean of 0-1 values."""
    return binomial_interval(float(values.sum()), len(values), confidence)


CASES: tuple[tuple[str, Interval, tuple[Case, ...], tuple[int, ...]], ...] = (
    (
        "proportion",
        binomial,
        tuple(binary(p) for p in (0.01, 0.05, 0.5, 0.9, 0.99)),
        (5, 20, 50, 200),
    ),
    ("share", share_interval, tuple(shares(p) for p in (0.05, 0.5, 0.99)), (20, 50, 200)),
    ("other mean", skewed_interval, MEANS, (10, 20, 50, 200)),
    (
        "difference of proportions",
        paired_binary_interval,
        (opposite(0.1, 0.1), opposite(0.2, 0.0), opposite(0.02, 0.01)),
        (20, 50, 200),
    ),
    ("other difference", t_interval, DIFFERENCES, (10, 20, 50, 200)),
)
TESTS = ((19, 3), (19, 15), (99, 15), (99, 31), (999, 7))


def interval_rows(repeats: int, seed: int) -> Iterator[Row]:
    """Yield the coverage of each interval of a mean or of a difference."""
    for what, interval, cases, sizes in CASES:
        for case in cases:
            for units in sizes:
                rng = np.random.default_rng([seed, units])
                bounds = [interval(case.draw(rng, units), CONFIDENCE) for _ in range(repeats)]
                yield coverage(what, case.name, units, bounds, case.mean)


def auc_rows(repeats: int, seed: int) -> Iterator[Row]:
    """Yield the coverage of expanded percentiles for the area under a ROC curve."""
    for shift in (0.5, 1.5):
        for units in (20, 50, 200):
            rng = np.random.default_rng([seed, units])
            bounds = [
                percentile_interval(resampled_auc(rng, units, shift), units, CONFIDENCE)
                for _ in range(repeats)
            ]
            truth = normal_cdf(shift / 2**0.5)
            yield coverage("other metric", f"AUROC {truth:.2f}", units, bounds, truth)


def resampled_auc(rng: np.random.Generator, units: int, shift: float) -> Floats:
    """Return bootstrap values of the AUROC of one sample, half of which is positive.

    Resamples without a positive or without a negative unit, where it is undefined, are left out.
    """
    half = units // 2
    better = rng.normal(shift, 1, (half, 1)) > rng.normal(0, 1, (1, units - half))
    counts = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    positive, negative = counts[:, :half], counts[:, half:]
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = ((positive @ better) * negative).sum(axis=1)
    values: Floats = wins[pairs > 0] / pairs[pairs > 0]
    return values


def coverage(
    what: str, case: str, units: int, bounds: list[tuple[float, float] | None], truth: float
) -> Row:
    """Return the share of the intervals that contain the true value, up to rounding."""
    given = np.array([(-np.inf, np.inf) if pair is None else pair for pair in bounds])
    low, high = given.T
    slack = 1e-12
    estimate = float(((low <= truth + slack) & (truth - slack <= high)).mean())
    error = (CONFIDENCE * (1 - CONFIDENCE) / len(bounds)) ** 0.5
    kept = estimate >= CONFIDENCE - ERRORS * error
    return Row(what, case, units, estimate, error, float((high - low).mean()), kept)


def level_rows(repeats: int, seed: int, units: int = 20) -> Iterator[Row]:
    """Yield the rate of any false claim of the corrected test at 5%, for equal models."""
    for permutations, hypotheses in TESTS:
        rng = np.random.default_rng([seed, permutations, hypotheses])
        rejected = 0
        for _ in range(repeats):
            differences = rng.normal(size=(units, hypotheses))
            signs = rng.integers(0, 2, (permutations, units)) * 2.0 - 1
            _, adjusted = adjusted_p_values(differences.mean(axis=0), signs @ differences / units)
            rejected += bool((adjusted <= LEVEL).any())
        estimate, error = rejected / repeats, (LEVEL * (1 - LEVEL) / repeats) ** 0.5
        case = f"{permutations} permutations, {hypotheses} hypotheses"
        kept = estimate <= LEVEL + ERRORS * error
        yield Row("corrected test", case, units, estimate, error, None, kept)


def simulate(repeats: int, seed: int = 0) -> list[Row]:
    """Return all rows. The AUROC, which needs a bootstrap per repeat, has a fifth of them."""
    return [
        *interval_rows(repeats, seed),
        *auc_rows(max(1, repeats // 5), seed),
        *level_rows(repeats, seed),
    ]


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, as the page of the report quotes them.

    Example:
        >>> print(table([Row("share", "normal", 20, 0.9512, 0.002, 0.31, True)]))
        | interval or test | case | units | coverage or rate | width | kept |
        | --- | --- | --- | --- | --- | --- |
        | share | normal | 20 | 0.951 | 0.310 | yes |
    """
    lines = [
        "| interval or test | case | units | coverage or rate | width | kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        width = "" if row.width is None else f"{row.width:.3f}"
        kept = "yes" if row.kept else "no"
        lines.append(
            f"| {row.what} | {row.case} | {row.units} | {row.estimate:.3f} | {width} | {kept} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the simulation, print the table and write the JSON file."""
    text, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage",
        description=text,
        epilog=examples,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--repeats", type=int, default=10_000, help="number of simulated samples of each case"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("coverage.json"),
        help="JSON file of the results",
    )
    options = parser.parse_args(argv)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    os.nice(10)  # other work on the machine comes first
    rows = simulate(options.repeats, options.seed)
    print(table(rows))
    write_json(options.out, {**conditions(options), "rows": [row._asdict() for row in rows]})
    return 0


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings, versions, machine and date of a simulation."""
    return {
        "confidence": CONFIDENCE,
        "level": LEVEL,
        "repeats": options.repeats,
        "seed": options.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
