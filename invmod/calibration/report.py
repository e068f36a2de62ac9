"""The data of a calibration: rule, rows and quantile of each pattern, and coverage on test rows."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invmod._distributions import binomial_interval
from invmod._files import write_text
from invmod._optional import import_optional
from invmod._tables import aligned
from invmod.calibration.files import read_json

if TYPE_CHECKING:
    import polars

FORMAT, VERSION = "invmod calibration report", 1

NEEDS = {
    "mondrian": "calibrated on rows with exactly this pattern; holds for any missingness.",
    "masked_down": (
        "calibrated on rows that contain this pattern, scored with only this pattern; needs "
        "values that are missing completely at random."
    ),
    "nested": (
        "calibrated on all rows that share a modality with this pattern, each scored with the "
        "shared modalities; needs values that are missing completely at random; usually covers "
        "more than asked."
    ),
    "none": "rows without any modality; their intervals or sets are infinite.",
}


@dataclass(frozen=True)
class PatternCalibration:
    """The calibration of one pattern of available modalities.

    Attributes:
        pattern: M bools, True for an available modality.
        name: the available modalities, such as ``"text+image"``.
        rule: ``"mondrian"``, ``"masked_down"`` or ``"nested"``; ``"none"`` without a modality.
        num_rows: number of calibration rows n whose scores were used.
        quantile: the k-th smallest score; infinite if there are too few rows, and None for nested
            calibration, which has no single quantile.
        deviation: standard deviation of coverage over draws of the calibration rows, from the
            distribution Beta(k, n + 1 - k); None where it is not known.
        num_tests: number of test rows with this pattern.
        num_covered: number of them whose target is in the interval or set.
        mean_size: mean width of the intervals or mean number of classes in the sets, over the test
            rows with a finite one; None if there is no such row.
        num_infinite: number of test rows with an infinite interval, or with a set of all classes
            because there are too few calibration rows.

    Example:
        >>> result = PatternCalibration(
        ...     (True, False), "a", "mondrian", 50, 1.5, 0.04, 100, 90, 3.0, 0)
        >>> result.coverage, [round(bound, 3) for bound in result.interval()]
        (0.9, [0.824, 0.951])
    """

    pattern: tuple[bool, ...]
    name: str
    rule: str
    num_rows: int
    quantile: float | None
    deviation: float | None
    num_tests: int = 0
    num_covered: int = 0
    mean_size: float | None = None
    num_infinite: int = 0

    @property
    def coverage(self) -> float | None:
        """Share of the test rows that are covered, or None without test rows."""
        return self.num_covered / self.num_tests if self.num_tests else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the exact interval of the coverage, or None without test rows."""
        if not self.num_tests:
            return None
        return binomial_interval(self.num_covered, self.num_tests, confidence)


@dataclass(frozen=True)
class CalibrationReport:
    """Calibration by pattern; ``print(report)`` shows it as a table.

    Attributes:
        modalities: names of the modalities.
        score: the conformity score.
        coverage: the coverage that was asked for.
        num_rows: number of calibration rows.
        patterns: one `PatternCalibration` per pattern, those with more modalities first.

    Example:
        >>> result = PatternCalibration((True,), "a", "mondrian", 8, float("inf"), None)
        >>> report = CalibrationReport(("a",), "absolute", 0.9, 8, (result,))
        >>> CalibrationReport.from_json(report.to_json()) == report
        True
        >>> print(report)  # doctest: +ELLIPSIS
        Intervals (score "absolute") for a coverage of 90%, 8 calibration rows
        <BLANKLINE>
        pattern  rule      rows  quantile
        -------  --------  ----  --------
        a        mondrian  8     infinite
        ...
    """

    modalities: tuple[str, ...]
    score: str
    coverage: float
    num_rows: int
    patterns: tuple[PatternCalibration, ...]

    @property
    def tested(self) -> tuple[PatternCalibration, ...]:
        """The patterns that have test rows."""
        return tuple(result for result in self.patterns if result.num_tests)

    def worst(self) -> PatternCalibration:
        """Return the tested pattern with the lowest coverage, the first one in case of ties.

        Raises:
            ValueError: the report has no test rows.
        """
        if not self.tested:
            raise ValueError(
                "CalibrationReport.worst: the report has no test rows. Pass `features` and "
                "`targets` to `ConformalPredictor.report`."
            )
        return min(self.tested, key=lambda result: result.num_covered / result.num_tests)

    def __str__(self) -> str:
        """Return the report as a table, with the conditions under which its rules hold."""
        kind = "Intervals" if self.score in ("absolute", "quantiles") else "Sets of classes"
        head = (
            f'{kind} (score "{self.score}") for a coverage of {100 * self.coverage:.4g}%, '
            f"{self.num_rows} calibration rows"
        )
        size = "mean width" if kind == "Intervals" else "mean size"
        header = ["pattern", "rule", "rows", "quantile"]
        if self.tested:
            header += ["test rows", "coverage", size, "infinite"]
        shown = self.tested or self.patterns
        rows = [self._cells(result) for result in shown]
        used = {result.rule for result in shown}
        notes = [f"{rule}: {text}" for rule, text in NEEDS.items() if rule in used]
        return "\n\n".join([head, aligned(header, rows), "\n".join(notes)])

    def _cells(self, result: PatternCalibration) -> list[str]:
        cells = [result.name, result.rule, str(result.num_rows), _number(result.quantile)]
        interval = result.interval()
        if self.tested and interval is not None:
            cells += [
                str(result.num_tests),
                f"{result.coverage:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]",
                _number(result.mean_size),
                str(result.num_infinite),
            ]
        return cells

    def to_json(self) -> str:
        """Return the report as JSON; infinite quantiles are the string "infinite"."""
        data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        data |= dataclasses.asdict(self)
        for result in data["patterns"]:
            if result["quantile"] is not None and math.isinf(result["quantile"]):
                result["quantile"] = "infinite"
        return json.dumps(data, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CalibrationReport:
        """Read a report from the JSON of `to_json`.

        Raises:
            ValueError: the text is not JSON, no calibration report, or one of another version.
        """
        data = read_json("CalibrationReport.from_json", text, FORMAT, VERSION)
        results = []
        for values in data.pop("patterns"):
            quantile = math.inf if values["quantile"] == "infinite" else values["quantile"]
            values |= {"pattern": tuple(values["pattern"]), "quantile": quantile}
            results.append(PatternCalibration(**values))
        data["modalities"] = tuple(data["modalities"])
        return cls(**data, patterns=tuple(results))

    def save(self, path: str | Path) -> None:
        """Write the report to a JSON file."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> CalibrationReport:
        """Read a report from a JSON file."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def to_frame(self) -> polars.DataFrame:
        """Return the report as a polars data frame, one row per pattern.

        Raises:
            ImportError: polars is not installed.
        """
        pl = import_optional("polars", what="CalibrationReport.to_frame")
        rows = []
        for result in self.patterns:
            low, high = result.interval() or (None, None)
            row: dict[str, Any] = dataclasses.asdict(result) | {
                "coverage": result.coverage,
                "low": low,
                "high": high,
            }
            rows.append(row | {"pattern": list(result.pattern)})
        schema: dict[str, Any] = {
            "pattern": pl.List(pl.Boolean),
            "name": pl.String,
            "rule": pl.String,
            "num_rows": pl.Int64,
            "quantile": pl.Float64,
            "deviation": pl.Float64,
            "num_tests": pl.Int64,
            "num_covered": pl.Int64,
            "mean_size": pl.Float64,
            "num_infinite": pl.Int64,
            "coverage": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
        }
        frame: polars.DataFrame = pl.DataFrame(rows, schema=schema)
        return frame


def _number(value: float | None) -> str:
    """Return a number with four significant digits; "infinite" or "" if there is none."""
    if value is None:
        return ""
    return "infinite" if math.isinf(value) else f"{value:.4g}"
