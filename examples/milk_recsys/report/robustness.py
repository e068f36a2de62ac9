"""The picture of a run's metric when modalities are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milk_recsys.report.drawing import (
    MODEL_COLOUR,
    RIVAL_COLOUR,
    STYLE,
    WIDTH,
    escaped,
    layout,
    png,
    short,
)
from milk_recsys.report.findings import Findings
from milk_recsys.report.values import FEW_CUSTOMERS
from milk_recsys.report.words import finite, metric_name, number, pattern

__all__ = ["robustness_png"]

MAX_ROWS = 14  # of modalities and of patterns: more would make the picture too high


@dataclass(frozen=True)
class Row:
    """A row of bars: its label, and the value of each system; None if it has none."""

    label: str
    model: float | None
    rival: float | None = None
    knn: float | None = None
    random: float | None = None


def _row(label: str, metrics: Mapping[str, Any], metric: str, *path: str) -> Row:
    """Return the row of a section of metrics.json, for the model and all that it is compared to."""

    def value(part: str | None, path: Sequence[str] = path) -> float | None:
        section: Any = metrics if part is None else metrics.get(part)
        for key in path:
            section = (section or {}).get(key)
        return finite((section or {}).get(metric))

    # Hiding a modality changes neither candidates nor positives, and so no random order.
    random = value("chance", path if path[0] == "by_pattern" else ("test",))
    return Row(label, value(None), value("compare"), value("floor"), random)


def robustness_png(metrics: Mapping[str, Any], findings: Findings) -> bytes:
    """Return a PNG of the metric with each modality hidden, the losses, and each pattern."""
    hidden, patterns = _hidden_rows(metrics, findings), _pattern_rows(metrics, findings)
    losses = findings.losses[:MAX_ROWS]
    # Inches: a fixed height per row, and the height of the title and the label of the axis.
    panels = {"level": 0.5 * len(hidden) + 1.3}
    if losses:
        panels["loss"] = 0.4 * len(losses) + 1.3
    if patterns:
        panels["pattern"] = 0.55 * len(patterns) + 1.3
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, sum(panels.values())), layout=layout())
        axes = figure.subplot_mosaic(
            [[name] for name in panels], height_ratios=list(panels.values())
        )
        label = metric_name(findings.metric)
        _draw_bars(axes["level"], hidden, findings)
        axes["level"].set(title="All test items", xlabel=f"{label}, mean over customers (0 to 1)")
        if losses:
            _draw_losses(axes["loss"], findings)
            axes["loss"].set(
                title="Loss with 95% intervals", xlabel=f"{label}, complete minus hidden"
            )
        if patterns:
            _draw_bars(axes["pattern"], patterns, findings, _pattern_intervals(metrics, findings))
            axes["pattern"].set(
                title="By available modalities", xlabel=f"{label}, mean over customers (0 to 1)"
            )
        return png(figure)


def _hidden_rows(metrics: Mapping[str, Any], findings: Findings) -> list[Row]:
    """Return rows for complete items, the setting, and each hidden modality, largest loss first."""
    setting = f"with gaps ({str(metrics['setting']).upper()})"
    rows = [
        _row(label, metrics, findings.metric, key)
        for key, label in (("test_complete", "complete"), ("test", setting))
    ]
    for loss in findings.losses[:MAX_ROWS]:
        row = _row(
            f"{short(loss.modality)} hidden", metrics, findings.metric, "imposed", loss.modality
        )
        theirs = findings.rival_losses.get(loss.modality)
        # The losses also come from `drops`, which may have values that `imposed` lacks.
        rows.append(replace(row, model=loss.hidden, rival=theirs.hidden if theirs else None))
    return rows


def _pattern_keys(metrics: Mapping[str, Any]) -> list[str]:
    """Return the patterns with the most items, the most frequent first."""
    by_pattern = metrics.get("by_pattern") or {}
    return sorted(by_pattern, key=lambda key: -(by_pattern[key].get("items") or 0))[:MAX_ROWS]


def _pattern_rows(metrics: Mapping[str, Any], findings: Findings) -> list[Row]:
    """Return a row for each pattern, labelled with its number of items and users."""
    modalities = (metrics.get("missingness") or {}).get("modalities") or ()
    rows = []
    for key in _pattern_keys(metrics):
        part = metrics["by_pattern"][key]
        items, customers = (part.get(name) or 0 for name in ("items", "users"))
        few = " (few)" if customers < FEW_CUSTOMERS else ""
        sizes = f"{_counted(items, 'item')}, {_counted(customers, 'customer')}{few}"
        label = f"{short(pattern(key, modalities))}\n{sizes}"
        rows.append(_row(label, metrics, findings.metric, "by_pattern", key))
    return rows


def _counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 item" or "2 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _pattern_intervals(
    metrics: Mapping[str, Any], findings: Findings
) -> list[list[Mapping[str, Any]]]:
    """Return the interval of each pattern ({} if none), for the model and for the ablation."""
    parts = [metrics, metrics.get("compare") or {}]
    return [
        [
            (((part.get("by_pattern") or {}).get(key) or {}).get("intervals") or {}).get(
                findings.metric
            )
            or {}
            for key in _pattern_keys(metrics)
        ]
        for part in parts
    ]


def _draw_bars(
    axes: Axes,
    rows: Sequence[Row],
    findings: Findings,
    intervals: Sequence[Sequence[Mapping[str, Any]]] = ((), ()),
) -> None:
    """Draw bars from 0, the model above the ablation, each with its value at its end."""
    series = _series(findings)
    thickness = 0.8 / len(series)
    for which, (_, colour, hatch, _) in enumerate(series):
        for at, row in enumerate(rows):
            value = (row.model, row.rival)[which]
            # The bars of a row lie side by side, centred on the position of the row.
            place = at + (which - (len(series) - 1) / 2) * thickness
            if value is None:
                axes.text(0, place, " no value", va="center", fontsize=9, color="#555555")
                continue
            height = thickness * 0.92
            bar = axes.barh(place, value, height, color=colour, edgecolor="white", linewidth=0)
            bar[0].set_hatch(hatch)
            interval = intervals[which][at] if intervals[which] else {}
            _draw_whisker(axes, interval, place)
            # Values stand in a column on the right, where no mark can hide them.
            right = axes.get_yaxis_transform()
            axes.text(1.02, place, number(value), transform=right, va="center", fontsize=10)
    _draw_marks(axes, rows)
    axes.set_yticks(range(len(rows)), [escaped(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.05)
    axes.set_xlim(left=0)
    axes.grid(True, axis="x")


def _draw_marks(axes: Axes, rows: Sequence[Row]) -> None:
    """Mark the levels of a random order (black line) and of content kNN (white diamond)."""
    for at, row in enumerate(rows):
        if row.random is not None:
            axes.plot([row.random] * 2, [at - 0.44, at + 0.44], color="#000000", linewidth=2.2)
        if row.knn is not None:
            axes.plot([row.knn], [at], "D", color="white", markersize=7, markeredgecolor="#000000")


def _draw_whisker(axes: Axes, interval: Mapping[str, Any], place: float) -> None:
    """Draw an interval, if there is one."""
    low, high = finite(interval.get("low")), finite(interval.get("high"))
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color="#222222", linewidth=1.4)


def _draw_losses(axes: Axes, findings: Findings) -> None:
    """Draw each loss with its interval, and the legend above."""
    series, losses = _series(findings), findings.losses[:MAX_ROWS]
    for which, (name, colour, _, marker) in enumerate(series):
        shift = (which - (len(series) - 1) / 2) * 0.36
        for at, mine in enumerate(losses):
            loss = mine if which == 0 else findings.rival_losses.get(mine.modality)
            if loss is None:
                continue
            place, low, high = at + shift, loss.estimate.low, loss.estimate.high
            if low is not None and high is not None:
                axes.plot([low, high], [place] * 2, color=colour, linewidth=2.2)
            axes.plot(
                [loss.estimate.value],
                [place],
                marker,
                color=colour,
                markersize=8,
                markeredgecolor="white",
            )
        axes.plot([], [], marker, linestyle="-", color=colour, markersize=8, label=escaped(name))
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(losses)), [escaped(short(loss.modality)) for loss in losses])
    axes.set_ylim(len(losses) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.1), ncols=2, fontsize=10)


def _series(findings: Findings) -> list[tuple[str, str, str | None, str]]:
    """Return name, colour, hatch and marker of the model and, if there is one, of the ablation."""
    series: list[tuple[str, str, str | None, str]] = [(findings.name, MODEL_COLOUR, None, "o")]
    if findings.rival is not None:
        series.append((findings.rival, RIVAL_COLOUR, "///", "s"))
    return series
