"""The picture of a run's training: the loss with its parts, and the validation metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from milk_recsys.report.drawing import MODEL_COLOUR, RIVAL_COLOUR, STYLE, WIDTH, layout, png
from milk_recsys.report.findings import Findings
from milk_recsys.report.words import finite, metric_name, number

__all__ = ["curves_png"]

# Each part of the loss has a colour of Okabe and Ito and a dash pattern, so no reader has to rely
# on colour.
PART_STYLES = {
    "loss": ("#000000", "-"),
    "risk": ("#0072B2", "--"),
    "penalty": ("#D55E00", "-."),
    "alignment": ("#009E73", ":"),
    "regulariser": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
}


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
            figure = Figure(figsize=(WIDTH, 7.0), layout=layout())
            parts, validation = figure.subplots(2, 1)
        else:
            figure = Figure(figsize=(WIDTH, 10.2), layout=layout())
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
        return png(figure)


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
