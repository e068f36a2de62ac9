"""Rendering of a report as text tables."""

from __future__ import annotations

from invmod._tables import aligned
from invmod.robustness.numbers import change, p_value, plain, with_interval
from invmod.robustness.report import PatternResult, RobustnessReport

MAX_ROWS = 31  # all patterns of five modalities


def text_table(report: RobustnessReport) -> str:
    """Return the report as aligned text, as ``str(report)`` does.

    The tables are: all patterns, the mean by number of missing modalities, the missing rates, and
    the differences between models. With more than 31 patterns, the first table is shortened and a
    note states this.

    Arguments:
        report: of `robustness_report`.

    Example:
        >>> from invmod import PatternResult
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> print(text_table(report).split("\\n\\n")[1])
        pattern        m       change
        -------------  ------  ------
        a+b            0.8000  0.0%
        a              0.4000  -50.0%
        -------------  ------  ------
        worst pattern  a       -50.0%
        worst value    0.4000  -50.0%
    """
    parts = [_head(report), _patterns(report), _by_num_missing(report)]
    if report.rates:
        parts.append(_rates(report))
    if report.differences:
        parts.append(_differences(report))
    return "\n\n".join(parts)


def _head(report: RobustnessReport) -> str:
    better = "higher" if report.higher_is_better else "lower"
    units = f"{report.num_units} units" + (
        f", {report.num_rows} rows" if report.num_rows != report.num_units else ""
    )
    intervals = (
        f"{report.confidence:.0%} intervals from {report.num_resamples} resamples"
        if report.num_resamples
        else "no intervals"
    )
    return f"{report.metric} ({better} is better), {units}, {intervals}"


def _patterns(report: RobustnessReport) -> str:
    shown = shown_patterns(report)
    header = ["pattern", *(text for model in report.models for text in (model, "change"))]
    rows = pattern_rows(report)
    # The worst pattern can differ between models, so its name and its value have separate rows.
    for label, pick in (("worst pattern", "name"), ("worst value", "value")):
        row = [label]
        for model in report.models:
            worst = report.worst(model)
            row += [worst.name if pick == "name" else plain(worst.value), change(worst.drop)]
        rows.append(row)
    total = len(report.results())
    notes = []
    if report.patterns_sampled:
        notes.append(f"{total} of {2 ** len(report.modalities) - 1} patterns were evaluated.")
    if len(shown) < total:
        notes.append(
            f"Shown: the complete pattern, one missing, one left, and the worst; {total} in all."
        )
    emptied = max(result.empty_rows for result in report.patterns)
    if emptied:
        notes.append(f"A pattern leaves up to {emptied} rows without any modality.")
    return "\n".join([aligned(header, rows, rule_before=2), *notes])


def shown_patterns(report: RobustnessReport) -> list[PatternResult]:
    """Return the first model's results under the patterns to list.

    With more than `MAX_ROWS` patterns, these are the complete pattern, those with one modality
    missing or one left, and the worst pattern of each model.
    """
    results = list(report.results())
    if len(results) <= MAX_ROWS:
        return results
    m = len(report.modalities)
    worst = {report.worst(model).name for model in report.models}
    return [
        result for result in results if result.num_missing in (0, 1, m - 1) or result.name in worst
    ]


def _by_num_missing(report: RobustnessReport) -> str:
    groups = {model: report.by_num_missing(model) for model in report.models}
    rows = [
        [str(count), *(plain(groups[model][count]) for model in report.models)]
        for count in groups[report.models[0]]
    ]
    return (
        aligned(["modalities missing", *report.models], rows)
        + "\nMean over the patterns with that number of missing modalities."
    )


def _rates(report: RobustnessReport) -> str:
    points = {model: report.curve(None, model) for model in report.models}
    rows = []
    for index, point in enumerate(points[report.models[0]]):
        values = (points[model][index] for model in report.models)
        rows.append(
            [
                f"{point.rate:g}",
                f"{point.effective_rate:.3f}",
                *(with_interval(v.value, v.interval) for v in values),
            ]
        )
    if rows[1:]:
        rows.append(
            [
                "mean along the curve",
                "",
                *(plain(report.area(None, model)) for model in report.models),
            ]
        )
    return aligned(
        ["missing rate", "effective", *report.models], rows, rule_before=1 if rows[1:] else 0
    )


def _differences(report: RobustnessReport) -> str:
    return aligned(["pattern", "difference", "", "corrected p"], difference_rows(report))


def pattern_rows(report: RobustnessReport) -> list[list[str]]:
    """Return one row per listed pattern: name, then metric and change for each model."""
    by_model = {
        model: {result.name: result for result in report.results(model)} for model in report.models
    }
    rows = []
    for result in shown_patterns(report):
        row = [result.name]
        for model in report.models:
            model_result = by_model[model][result.name]
            row += [
                with_interval(model_result.value, model_result.interval),
                change(model_result.drop),
            ]
        rows.append(row)
    return rows


def difference_rows(report: RobustnessReport) -> list[list[str]]:
    """Return one row per comparison under a listed pattern.

    Its columns are the pattern, the models, the difference and the corrected p value.
    """
    shown = {result.name for result in shown_patterns(report)}
    return [
        [
            d.name,
            f"{d.model} - {d.baseline}",
            with_interval(d.value, d.interval),
            p_value(d.adjusted_p_value),
        ]
        for d in report.differences
        if d.name in shown
    ]
