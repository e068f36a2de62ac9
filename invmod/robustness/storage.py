"""Conversion of a report to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from invmod.robustness.results import (
    ModelDifference,
    PatternResult,
    ProfileResult,
    RateResult,
    Violation,
)

Report = TypeVar("Report")

FORMAT = "invmod robustness report"
VERSION = 2
READ_VERSIONS = (1, 2)
KINDS = {
    "patterns": PatternResult,
    "rates": RateResult,
    "profiles": ProfileResult,
    "differences": ModelDifference,
    "worse_with_more": Violation,
}


def report_to_json(report: Any) -> str:
    """Return the report as JSON; raise a ValueError if a number of it is not finite."""
    content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(report)}
    try:
        # JSON has no token for NaN or infinity, and other readers refuse those of Python.
        return json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            "RobustnessReport.to_json: JSON has no NaN and no infinity, but the report has such a "
            "number. Use None for an undefined drop, interval or p-value."
        ) from error


def report_from_json(text: str, kind: type[Report]) -> Report:
    """Return the report, of the class `kind`, that this or an earlier version wrote."""
    undefined: list[str] = []
    try:
        given = json.loads(text, parse_constant=undefined.append)
    except json.JSONDecodeError as error:
        raise ValueError(f"RobustnessReport.from_json: this is not JSON: {error}.") from error
    if not isinstance(given, dict) or given.pop("format", None) != FORMAT:
        raise ValueError("RobustnessReport.from_json: this is JSON, but not a robustness report.")
    version = given.pop("version", None)
    if version not in READ_VERSIONS:
        raise ValueError(
            f"RobustnessReport.from_json: the report has version {version!r}, this invmod reads "
            f"{' and '.join(map(str, READ_VERSIONS))}."
        )
    if undefined and version > 1:
        raise ValueError(
            f"RobustnessReport.from_json: this is not JSON: it has the token {undefined[0]}."
        )
    try:
        if version == 1:
            _upgrade(given)
        for key, result in KINDS.items():
            # JSON has neither tuples nor dataclasses, so both are restored here.
            given[key] = tuple(result(**_tuples(entry)) for entry in given[key])
        return kind(**_tuples(given))
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"RobustnessReport.from_json: the report is damaged: {error}.") from error


def _upgrade(given: dict[str, Any]) -> None:
    """Change the content of a report of version 1 in place to that of version 2.

    Version 1 had no profiles and no violations. Its differences had only the name of their pattern,
    in the order of the patterns. Where a metric was undefined in a resample, its intervals were
    NaN.
    """
    given["profiles"], given["worse_with_more"] = [], []
    patterns = [result["pattern"] for result in given["patterns"]]
    distinct = list(dict.fromkeys(map(tuple, patterns)))
    for place, difference in enumerate(given["differences"]):
        difference["pattern"] = distinct[place % len(distinct)]
    for key in KINDS:
        for entry in given[key]:
            # `json.loads` was told to read a NaN as None.
            if entry["interval"] is not None and None in entry["interval"]:
                entry["interval"] = None


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the mapping in which JSON's lists are tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
