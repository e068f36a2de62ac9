"""A report as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invmod.robustness.report import ModelDifference, PatternResult, RobustnessReport

MOST_ROWS = 31  # all patterns of five modalities


def text_table(report: RobustnessReport) -> str:
    """Return the report as aligned text: patterns, numbers missing, rates, and differences."""
    parts = [_head(report), _patterns(report), _by_num_missing(report)]
    if report.rates:
        parts.append(_rates(report))
    if report.differences:
        parts.append(_differences(report))
    return "\n\n".join(parts)


def _head(report: RobustnessReport) -> str:
    better = "higher" if report.higher_is_better else "lower"
    units = f"{report.num_units} units" + (f", {report.num_rows} rows" if report.num_rows != report.num_units else "")
    intervals = (
        f"{report.confidence:.0%} intervals from {report.num_resamples} resamples"
        if report.num_resamples
        else "no intervals"
    )
    return f"{report.metric} ({better} is better), {units}, {intervals}"


def _patterns(report: RobustnessReport) -> str:
    shown = shown_patterns(report)
    by_model = {model: {result.name: result for result in report.results(model)} for model in report.models}
    header = ["pattern", *(text for model in report.models for text in (model, "change"))]
    rows = []
    for result in shown:
        row = [result.name]
        for model in report.models:
            of_model = by_model[model][result.name]
            row += [number(of_model.value, of_model.interval), percent(of_model.drop)]
        rows.append(row)
    for label, pick in (("worst pattern", "name"), ("worst value", "value")):
        row = [label]
        for model in report.models:
            worst = report.worst(model)
            row += [worst.name if pick == "name" else plain(worst.value), percent(worst.drop)]
        rows.append(row)
    total = len(report.results())
    notes = []
    if report.patterns_sampled:
        notes.append(f"{total} of {2 ** len(report.modalities) - 1} patterns were tried.")
    if len(shown) < total:
        notes.append(f"Shown: the complete pattern, one missing, one left, and the worst; {total} in all.")
    emptied = max(result.empty_rows for result in report.patterns)
    if emptied:
        notes.append(f"A pattern leaves up to {emptied} rows with nothing.")
    return "\n".join([aligned(header, rows, rule_before=2), *notes])


def shown_patterns(report: RobustnessReport) -> list[PatternResult]:
    """Return the patterns to list: all, or where they are many the complete one, one missing, one left, the worst."""
    results = list(report.results())
    if len(results) <= MOST_ROWS:
        return results
    m = len(report.modalities)
    worst = {report.worst(model).name for model in report.models}
    return [result for result in results if result.num_missing in (0, 1, m - 1) or result.name in worst]


def _by_num_missing(report: RobustnessReport) -> str:
    groups = {model: report.by_num_missing(model) for model in report.models}
    rows = [
        [str(count), *(plain(groups[model][count]) for model in report.models)] for count in groups[report.models[0]]
    ]
    return aligned(["modalities missing", *report.models], rows) + "\nMean over the patterns with so many missing."


def _rates(report: RobustnessReport) -> str:
    points = {model: report.curve(None, model) for model in report.models}
    rows = []
    for index, point in enumerate(points[report.models[0]]):
        values = (points[model][index] for model in report.models)
        rows.append([f"{point.rate:g}", f"{point.effective_rate:.3f}", *(number(v.value, v.interval) for v in values)])
    if rows[1:]:
        rows.append(["mean along the curve", "", *(plain(report.area(None, model)) for model in report.models)])
    return aligned(["missing rate", "effective", *report.models], rows, rule_before=1 if rows[1:] else 0)


def _differences(report: RobustnessReport) -> str:
    shown = {result.name for result in shown_patterns(report)}
    rows = [
        [d.name, f"{d.model} - {d.baseline}", number(d.value, d.interval), p_value(d)]
        for d in report.differences
        if d.name in shown
    ]
    return aligned(["pattern", "difference", "", "corrected p"], rows)


def number(value: float, interval: tuple[float, float] | None) -> str:
    """Return a value with its interval."""
    return plain(value) if interval is None else f"{plain(value)} [{plain(interval[0])}, {plain(interval[1])}]"


def plain(value: float) -> str:
    """Return a figure with four digits behind the point, or with five significant ones where it is large or tiny."""
    if abs(value) >= 1000:
        return f"{value:.5g}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"


def percent(drop: float | None) -> str:
    """Return a relative drop: a loss with a minus, as a change of the metric's worth."""
    return "undefined" if drop is None else f"{-drop:+.1%}" if drop else "0.0%"


def p_value(difference: ModelDifference) -> str:
    """Return a corrected p value."""
    return "" if difference.adjusted_p_value is None else f"{difference.adjusted_p_value:.3g}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, rule_before: int = 0) -> str:
    """Return columns of text, with a rule under the header and one above the last rows."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    lines.insert(1, rule)
    if rule_before:
        lines.insert(-rule_before, rule)
    return "\n".join(line.rstrip() for line in lines)
