"""The two pictures of a run: training curves, and the metric when modalities are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullLocator

from milk_recsys.report.findings import Findings
from milk_recsys.report.values import FEW_CUSTOMERS
from milk_recsys.report.words import finite, metric_name, number, pattern

__all__ = ["curves_png", "robustness_png"]

DPI = 180
# Inches. A phone shows this width at a third of its size, and letters remain readable.
WIDTH = 6.0
# Blue and orange of Okabe and Ito differ for people with any colour vision, and in greyscale.
MODEL_COLOUR, RIVAL_COLOUR = "#0072B2", "#E69F00"
# Each part of the loss has a colour of Okabe and Ito and a dash pattern, so no reader has to rely
# on colour.
PART_STYLES = {
    "loss": ("#000000", "-"),
    "risk": ("#0072B2", "--"),
    "penalty": ("#D55E00", "-."),
    "alignment": ("#009E73", ":"),
    "regulariser": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
}
MAX_ROWS = 14  # of modalities and of patterns: more would make the picture too high
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


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


def curves_png(
    history: Sequence[Mapping[str, Any]],
    rival_history: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    findings: Findings,
) -> bytes:
    """Return a PNG of the training loss with its parts and of the validation metric."""
    losses = [
        value
        for line in [*history, *rival_history]
        if (value := finite(line.get("loss"))) is not None
    ]
    linear = min(losses, default=1.0) <= 0  # a log axis cannot show values that are 0 or less
    with matplotlib.style.context(["default", STYLE]):
        if not rival_history:
            figure = Figure(figsize=(WIDTH, 7.0), layout=_layout())
            parts, validation = figure.subplots(2, 1)
        else:
            figure = Figure(figsize=(WIDTH, 10.2), layout=_layout())
            axes = figure.subplot_mosaic([["model"], ["rival"], ["validation"]])
            parts, validation = axes["model"], axes["validation"]
            axes["rival"].sharey(parts)
            _draw_parts(
                axes["rival"], rival_history, f"Training loss, {findings.rival}", linear=linear
            )
        _draw_parts(parts, history, f"Training loss, {findings.name}", linear=linear)
        if parts.has_data():
            # The legend needs 40% more height, measured in the scale of the axis.
            low, high = parts.get_ylim()
            room = 0.4 * (high - low) if linear else high * ((high / low) ** 0.4 - 1)
            parts.set_ylim(low, high + room)
        monitor = str(metrics["monitor"])
        curves = [(history, metrics, findings.name, MODEL_COLOUR, "o", "-")]
        if rival_history:
            curves.append(
                (
                    rival_history,
                    metrics.get("compare") or {},
                    str(findings.rival),
                    RIVAL_COLOUR,
                    "s",
                    "--",
                )
            )
        for lines, part, name, colour, marker, dash in curves:
            _draw_validation(
                validation, lines, part.get("best_epoch"), monitor, name, colour, marker, dash
            )
        validation.set(
            xlabel="epoch", ylabel=f"{metric_name(monitor)} (0 to 1)", title="Validation"
        )
        validation.set_ylim(
            0, 1.1 * max(validation.dataLim.y1, 0.01) if validation.has_data() else 1
        )
        validation.grid(True)
        if validation.has_data():
            validation.legend(loc="lower right")
        _whole_epochs(validation, [*history, *rival_history])
        return _png(figure)


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
        figure = Figure(figsize=(WIDTH, sum(panels.values())), layout=_layout())
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
        return _png(figure)


# ------------------------------------------------------------------------------------- curves


def _draw_parts(
    axes: Axes, history: Sequence[Mapping[str, Any]], title: str, *, linear: bool
) -> None:
    """Draw the loss and its parts: on a linear axis if `linear`, else on a log axis."""
    for name, (colour, dash) in PART_STYLES.items():
        points = [(line["epoch"], finite(line.get(name))) for line in history]
        drawn = [
            (epoch, value) for epoch, value in points if value is not None and (linear or value > 0)
        ]
        if drawn:
            marker = "o" if len(drawn) == 1 else None
            axes.plot(
                *zip(*drawn, strict=True),
                label=name,
                color=colour,
                linestyle=dash,
                marker=marker,
                linewidth=1.8,
            )
    if axes.has_data():
        if not linear:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(loc="upper right", fontsize=9, ncols=2, handlelength=3)
    axes.set(
        title=title,
        xlabel="epoch",
        ylabel="mean over an epoch" + ("" if linear else " (log scale)"),
    )
    axes.grid(True)
    _whole_epochs(axes, history)


def _draw_validation(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None,
    monitor: str,
    name: str,
    colour: str,
    marker: str,
    dash: str,
) -> None:
    """Draw the validation metric of a model, with a ring at the best epoch."""
    points = [
        (line["epoch"], finite((line.get("validation") or {}).get(monitor))) for line in history
    ]
    known = {epoch: value for epoch, value in points if value is not None}
    if not known:
        return
    label = name
    if best_epoch is not None and best_epoch in known:
        label = f"{name}: best {number(known[best_epoch])}, epoch {best_epoch}"
        ring: dict[str, Any] = {"markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}
        axes.plot([best_epoch], [known[best_epoch]], marker, color=colour, **ring)
    axes.plot(
        [*known],
        [*known.values()],
        color=colour,
        marker=marker,
        markersize=4,
        linestyle=dash,
        label=label,
    )


def _whole_epochs(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Set ticks at whole epochs only, and widen the axis if there is a single epoch."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    epochs = {line["epoch"] for line in history}
    if len(epochs) == 1:
        axes.set_xlim(min(epochs) - 1, max(epochs) + 1)


# --------------------------------------------------------------------------------- robustness


def _hidden_rows(metrics: Mapping[str, Any], findings: Findings) -> list[Row]:
    """Return rows for complete items, the setting, and each hidden modality, largest loss first."""
    setting = f"with gaps ({str(metrics['setting']).upper()})"
    rows = [
        _row(label, metrics, findings.metric, key)
        for key, label in (("test_complete", "complete"), ("test", setting))
    ]
    for loss in findings.losses[:MAX_ROWS]:
        row = _row(
            f"{_short(loss.modality)} hidden", metrics, findings.metric, "imposed", loss.modality
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
        label = f"{_short(pattern(key, modalities))}\n{sizes}"
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
            bar = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axes.barh(place, value, thickness * 0.92, **bar)
            interval = intervals[which][at] if intervals[which] else {}
            _draw_whisker(axes, interval, place)
            # Values stand in a column on the right, where no mark can hide them.
            right = axes.get_yaxis_transform()
            axes.text(1.02, place, number(value), transform=right, va="center", fontsize=10)
    _draw_marks(axes, rows)
    axes.set_yticks(range(len(rows)), [_escaped(row.label) for row in rows])
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
        axes.plot([], [], marker, linestyle="-", color=colour, markersize=8, label=_escaped(name))
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(losses)), [_escaped(_short(loss.modality)) for loss in losses])
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


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches


def _short(name: str, max_length: int = 24) -> str:
    """Return a name, cut to `max_length` characters with an ellipsis if it is longer."""
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def _escaped(text: str) -> str:
    """Escape the dollar signs of a text, which matplotlib would read as a formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    from invmod.robustness.document import figure_png  # `invmod` imports torch: see page.py.

    return figure_png(figure, dpi=DPI)
