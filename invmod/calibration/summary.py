"""Results of one pattern for the report: its quantile, and its coverage on test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invmod.calibration.groups import PatternScores
from invmod.calibration.model import Pattern
from invmod.calibration.ranks import coverage_deviation
from invmod.calibration.report import PatternCalibration
from invmod.missingness import pattern_name, rows_by_pattern


def counted_tests(
    mask: Tensor, targets: NDArray[Any], results: NDArray[Any], infinite: Mapping[Pattern, bool]
) -> dict[Pattern, dict[str, Any]]:
    """Return pattern -> the fields of `PatternCalibration` that need test rows.

    Arguments:
        mask: bool (N, M).
        targets: (N,).
        results: intervals (N, 2), or sets bool (N, C).
        infinite: pattern -> whether its quantile is infinite.
    """
    if results.dtype == bool:
        covered = results[np.arange(len(results)), targets]
        sizes = results.sum(axis=1).astype(float)
    else:
        covered = (results[:, 0] <= targets) & (targets <= results[:, 1])
        # An interval whose lower end exceeds the upper one is empty.
        sizes = np.maximum(results[:, 1] - results[:, 0], 0)
    tests: dict[Pattern, dict[str, Any]] = {}
    for pattern, rows in rows_by_pattern(mask).items():
        index = rows.cpu().numpy()
        tests[pattern] = {
            "num_tests": len(index),
            "num_covered": int(covered[index].sum()),
            "mean_size": None if infinite[pattern] else float(sizes[index].mean()),
            "num_infinite": len(index) if infinite[pattern] else 0,
        }
    return tests


def pattern_calibration(
    pattern: Pattern,
    scores: PatternScores,
    modalities: Sequence[str],
    coverage: float,
    tests: Mapping[Pattern, dict[str, Any]],
) -> PatternCalibration:
    """Return the result of one pattern, with the fields of its test rows if it has any."""
    deviation = coverage_deviation(scores.num_rows, coverage)
    return PatternCalibration(
        pattern=pattern,
        name=pattern_name(pattern, modalities),
        rule=scores.rule,
        num_rows=scores.num_rows,
        quantile=scores.quantile(coverage),
        # Scores of several patterns are not drawn from one distribution.
        deviation=deviation if len(scores.groups) == 1 else None,
        **tests.get(pattern, {}),
    )
