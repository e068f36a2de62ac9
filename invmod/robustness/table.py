"""Rendering of a report as text tables."""

from __future__ import annotations

from invmod._tables import aligned
from invmod.robustness.numbers import change, counted, level, p_value, plain, with_interval
from invmod.robustness.report import PatternResult, RobustnessReport

MAX_ROWS = 31  # all patterns of five modalities
MAX_VIOLATIONS = 10


def text_table(report: RobustnessReport) -> str:
    """Return the report as aligned text, as ``str(report)`` does.

    The tables are: all patterns, the mean by number of missing modalities, the missing rates, and
    the differences between models. With more than 31 patterns, the first table is shortened and a
    note states this.

    Arguments:
        report: of `robustness_report`.

    Example:
        >>> from invmod.robustness import PatternResult
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
    if report.profiles:
        parts.append(_profiles(report))
    if report.differences:
        parts.append(_differences(report))
    if report.worse_with_more:
        parts.append(_violations(report))
    return "\n\n".join(parts)


def _head(report: RobustnessReport) -> str:
    better = "higher" if report.higher_is_better else "lower"
    units = counted(report.num_units, "unit") + (
        f", {report.num_rows} rows" if report.num_rows != report.num_units else ""
    )
    return f"{report.metric} ({better} is better), {units}, {intervals_text(report)}"


def intervals_text(report: RobustnessReport) -> str:
    """Return the level of the intervals and the number of resamples, or why there are none."""
    if not report.num_resamples:
        return "no intervals"
    if all(result.interval is None for result in report.patterns):
        return "no intervals (a single unit)" if report.num_units == 1 else "no intervals"
    return f"{level(report.confidence)} intervals, {report.num_resamples} resamples"


def _patterns(report: RobustnessReport) -> str:
    header = ["pattern", *(text for model in report.models for text in (model, "change"))]
    rows = pattern_rows(report)
    # The worst pattern can differ between models, so its name and its value have separate rows.
    for label, pick in (("worst pattern", "name"), ("worst value", "value")):
        row = [label]
        for model in report.models:
            worst = report.worst(model)
            row += [worst.name if pick == "name" else plain(worst.value), change(worst.drop)]
        rows.append(row)
    return "\n".join([aligned(header, rows, rule_before=2), *notes(report)])


def notes(report: RobustnessReport, *, shortened: bool = True) -> list[str]:
    """Return sentences on the table of patterns: what it leaves out, ties and undefined cases.

    `shortened` False is for a table that has all patterns.
    """
    lines, total, shown = [], len(report.results()), len(shown_patterns(report))
    if report.patterns_sampled:
        lines.append(f"{total} of {2 ** len(report.modalities) - 1} patterns were evaluated.")
    if shortened and shown < total:
        lines.append(
            f"Shown: the complete pattern, one missing, one left, and the worst; {total} in all."
        )
    emptied = max(result.empty_rows for result in report.patterns)
    if emptied:
        lines.append(f"A pattern leaves up to {emptied} rows without any modality.")
    for model in report.models:
        tied = len(report.tied_for_worst(model))
        if tied > 1:
            lines.append(f"{model}: {tied} patterns tie for the worst; the first is named.")
    undefined = max(
        *(result.num_undefined for result in report.patterns),
        *(point.num_undefined for point in report.rates),
        *(profile.num_undefined for profile in report.profiles),
        *(difference.num_undefined for difference in report.differences),
        0,
    )
    if undefined:
        lines.append(
            f"The metric is undefined in up to {undefined} of {report.num_resamples} resamples; "
            "intervals come from the others."
        )
    return lines


def shown_patterns(report: RobustnessReport) -> list[PatternResult]:
    """Return the first model's results under the patterns to list.

    With more than `MAX_ROWS` patterns, these are the complete pattern, those with one modality
    missing or one left, and the worst pattern of each model.
    """
    results = list(report.results())
    if len(results) <= MAX_ROWS:
        return results
    m = len(report.modalities)
    worst = {report.worst(model).pattern for model in report.models}
    return [
        result
        for result in results
        if result.num_missing in (0, 1, m - 1) or result.pattern in worst
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
    means = [area_text(report, None, model) for model in report.models]
    if any(means):
        rows.append(["mean along the curve", "", *means])
    return aligned(
        ["missing rate", "effective", *report.models], rows, rule_before=1 if any(means) else 0
    )


def area_text(report: RobustnessReport, modality: str | None, model: str) -> str:
    """Return the mean along a curve as text, empty if the curve has no width.

    A curve has no width if it has one point, or if no rate could hide a cell: a row keeps its last
    modality.
    """
    points = report.curve(modality, model)
    if not points[-1].effective_rate > points[0].effective_rate:
        return ""
    return plain(report.area(modality, model))


def _profiles(report: RobustnessReport) -> str:
    header, rows = profile_rows(report)
    return aligned(header, rows) + "\nIn brackets: the share of cells that was hidden."


def profile_rows(report: RobustnessReport) -> tuple[list[str], list[list[str]]]:
    """Return the header and one row per profile.

    The columns are the profile, for each modality its rate and effective rate, and for each model
    the metric and its change.
    """
    header = [
        "profile",
        *report.modalities,
        *(text for model in report.models for text in (model, "change")),
    ]
    rows = []
    for name in dict.fromkeys(profile.name for profile in report.profiles):
        first = report.profile(name)
        row = [name]
        for rate, effective in zip(first.rates, first.effective_rates, strict=True):
            row.append(f"{rate:g} ({effective:.3f})")
        for model in report.models:
            result = report.profile(name, model)
            row += [with_interval(result.value, result.interval), change(result.drop)]
        rows.append(row)
    return header, rows


def _differences(report: RobustnessReport) -> str:
    return aligned(["pattern", "difference", "", "corrected p"], difference_rows(report))


def _violations(report: RobustnessReport) -> str:
    found = report.violations()
    if not report.num_resamples:
        return (
            f"Adding a modality makes a model worse in {counted(len(found), 'case')} (not tested)."
        )
    significant = report.violations(significance=0.05)
    text = (
        f"Adding a modality makes a model worse in {counted(len(found), 'case')}, significantly in "
        f"{len(significant)} (at 5%, corrected)."
    )
    if not significant:
        return text
    rows = [
        [
            v.model,
            v.name,
            v.added,
            with_interval(v.loss, v.interval),
            p_value(v.adjusted_p_value, report.num_resamples, len(report.models)),
        ]
        for v in significant[:MAX_VIOLATIONS]
    ]
    return f"{text}\n{aligned(['model', 'pattern', 'better without', 'loss', 'corrected p'], rows)}"


def pattern_rows(report: RobustnessReport, *, shortened: bool = True) -> list[list[str]]:
    """Return one row per pattern: name, then metric and change for each model.

    With `shortened` only the patterns are listed that the printed table shows.
    """
    by_model = {
        model: {result.pattern: result for result in report.results(model)}
        for model in report.models
    }
    rows = []
    for result in shown_patterns(report) if shortened else report.results():
        row = [result.name]
        for model in report.models:
            model_result = by_model[model][result.pattern]
            row += [
                with_interval(model_result.value, model_result.interval),
                change(model_result.drop),
            ]
        rows.append(row)
    return rows


def difference_rows(
    report: RobustnessReport, *, shortened: bool = True, minus: str = "-"
) -> list[list[str]]:
    """Return one row per comparison; with `shortened` under the patterns of the printed table only.

    Its columns are the pattern, the models, the difference and the corrected p-value.
    """
    listed = shown_patterns(report) if shortened else report.results()
    shown = {result.pattern for result in listed}
    comparisons = len(report.models) - 1
    return [
        [
            d.name,
            f"{d.model} {minus} {d.baseline}",
            with_interval(d.value, d.interval),
            p_value(d.adjusted_p_value, report.num_resamples, comparisons),
        ]
        for d in report.differences
        if d.pattern in shown
    ]
