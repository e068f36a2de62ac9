"""Matplotlib plots of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from invmod._optional import import_optional
from invmod.robustness.report import PatternResult, RobustnessReport

if TYPE_CHECKING:
    import matplotlib.figure

MAX_ROWS = 63  # a heat map with more rows is not readable; the worst patterns are shown
MAX_NAME = 24  # a label with more characters would leave no room for the plot
PANELS = 4  # panels per row
# The colours are distinguishable for colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", "-.", ":")


def plot_rates(report: RobustnessReport) -> matplotlib.figure.Figure:
    """Plot the metric against the effective missing rate, for all modalities and for each.

    One panel is for hidden cells in all modalities, and one for hidden cells in each modality. The
    figure is registered with pyplot: show it by ``plt.show()`` and free it by
    ``plt.close(figure)``.

    Arguments:
        report: of `robustness_report`, with `rates`.

    Raises:
        ImportError: matplotlib is not installed; the message explains how to install it.
        KeyError: the report has no rates.

    Example:
        >>> from invmod.robustness import PatternResult, RateResult
        >>> rates = (
        ...     RateResult("m", None, 0.0, 0.0, 0.8, None),
        ...     RateResult("m", None, 0.5, 0.4, 0.6, None),
        ... )
        >>> results = (PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),)
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results, rates
        ... )
        >>> figure = plot_rates(report)
        >>> figure.axes[0].get_lines()[0].get_xdata().tolist()
        [0.0, 0.4]
        >>> import_optional("matplotlib.pyplot").close(figure)
    """
    plt = import_optional("matplotlib.pyplot")
    report.curve()  # raises a KeyError if there is no curve to draw
    curves = list(dict.fromkeys(point.modality for point in report.rates))
    columns = len(curves) if len(curves) <= PANELS else 3 if len(curves) <= 6 else PANELS
    rows = math.ceil(len(curves) / columns)
    figure = plt.figure(figsize=(2.9 * columns + 0.6, 2.6 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for panel, modality in zip(panels, curves, strict=False):
        for index, model in enumerate(report.models):
            points = report.curve(modality, model)
            x = [point.effective_rate for point in points]
            colour = COLOURS[index % len(COLOURS)]
            panel.plot(
                x,
                [point.value for point in points],
                color=colour,
                linestyle=STYLES[index % len(STYLES)],
                marker="o",
                markersize=3,
                label=literal(model),
            )
            bands = [point.interval for point in points]
            if all(bands):
                low, high = zip(*(band for band in bands if band is not None), strict=True)
                panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(
            "any modality hidden" if modality is None else f"{literal(modality)} hidden", fontsize=9
        )
        panel.set(xlim=(0, 0.95), xticks=(0, 0.3, 0.6, 0.9))
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    figure.supxlabel("share of cells missing (effective rate)", fontsize=9)
    figure.supylabel(literal(report.metric), fontsize=9)
    if len(report.models) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    typed: matplotlib.figure.Figure = figure  # pyplot is imported without types
    return typed


def plot_patterns(report: RobustnessReport) -> matplotlib.figure.Figure:
    """Plot a heat map of the metric: one row per pattern, one column per model.

    A filled dot marks an available modality, an empty dot a missing one. With more than 63
    patterns, only the worst are shown. The figure is registered with pyplot: show it by
    ``plt.show()`` and free it by ``plt.close(figure)``.

    Arguments:
        report: of `robustness_report`.

    Raises:
        ImportError: matplotlib is not installed; the message explains how to install it.

    Example:
        >>> from invmod.robustness import PatternResult
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> figure = plot_patterns(report)
        >>> [text.get_text() for text in figure.axes[1].texts]
        ['0.800', '0.400']
        >>> import_optional("matplotlib.pyplot").close(figure)
    """
    plt = import_optional("matplotlib.pyplot")
    results = report.results()
    if len(results) > MAX_ROWS:
        kept = _worst_patterns(report)
        results = tuple(result for result in results if result.pattern in kept)
    values = {(result.model, result.pattern): result.value for result in report.patterns}
    table = [[values[model, result.pattern] for model in report.models] for result in results]
    m, k = len(report.modalities), len(report.models)
    longest = min(max(len(name) for name in (*report.modalities, *report.models)), MAX_NAME)
    row_height = 0.26
    figure = plt.figure(
        figsize=(0.42 * m + 1.15 * k + 1.6, row_height * len(results) + 0.075 * longest + 0.7),
        layout="constrained",
    )
    dots, heat = figure.subplots(1, 2, width_ratios=[0.42 * m, 1.15 * k])
    _draw_dots(dots, report, results)
    image = _draw_heat(heat, report, table, rotate=longest > 10)
    for row in range(1, len(results)):
        # A line separates patterns with different numbers of missing modalities.
        if results[row].num_missing != results[row - 1].num_missing:
            dots.axhline(row - 0.5, color="0.8", linewidth=0.8)
            heat.axhline(row - 0.5, color="white", linewidth=2)
    colour_bar = figure.colorbar(image, ax=heat, fraction=0.06, pad=0.03, aspect=30)
    colour_bar.set_label(literal(report.metric), fontsize=8)
    colour_bar.ax.tick_params(labelsize=8)
    colour_bar.outline.set_visible(False)
    typed: matplotlib.figure.Figure = figure
    return typed


def _draw_dots(dots: Any, report: RobustnessReport, results: Sequence[PatternResult]) -> None:
    for row, result in enumerate(results):
        for column, available in enumerate(result.pattern):
            dots.plot(
                column,
                row,
                marker="o",
                markersize=6,
                color="0.15" if available else "white",
                markeredgecolor="0.15" if available else "0.75",
                markeredgewidth=0.8,
            )
    dots.set(xlim=(-0.6, len(report.modalities) - 0.4), ylim=(len(results) - 0.5, -0.5), yticks=[])
    names = [literal(name) for name in report.modalities]
    dots.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    dots.xaxis.tick_top()
    dots.tick_params(length=0)
    dots.spines[:].set_visible(False)


def _draw_heat(
    heat: Any, report: RobustnessReport, table: list[list[float]], *, rotate: bool
) -> Any:
    """Draw the cells of the heat map and return its image; bright cells are always the better."""
    image = heat.imshow(
        table,
        aspect="auto",
        cmap="viridis" if report.higher_is_better else "viridis_r",
        interpolation="nearest",
    )
    low, high = image.get_clim()
    for row, row_values in enumerate(table):
        for column, value in enumerate(row_values):
            share = (value - low) / (high - low) if high > low else 0.0
            bright = share > 0.6 if report.higher_is_better else share < 0.4
            heat.text(
                column,
                row,
                f"{value:.3f}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if bright else "white",
            )
    names = [literal(name) for name in report.models]
    heat.set_xticks(range(len(names)), names, rotation=90 if rotate else 0, fontsize=8)
    heat.xaxis.tick_top()
    heat.set_yticks([])
    heat.tick_params(length=0)
    heat.spines[:].set_visible(False)
    return image


def _worst_patterns(report: RobustnessReport) -> set[tuple[bool, ...]]:
    """Return the complete pattern and the worst patterns, at most `MAX_ROWS`.

    A pattern is ranked by the worst value of any model under it.
    """
    sign = 1 if report.higher_is_better else -1
    worst_values: dict[tuple[bool, ...], float] = {}
    for result in report.patterns:
        worst = worst_values.get(result.pattern, math.inf)
        worst_values[result.pattern] = min(worst, sign * result.value)
    complete = report.complete().pattern
    ranked = sorted(
        worst_values.keys() - {complete}, key=lambda pattern: (worst_values[pattern], pattern)
    )
    return {complete, *ranked[: MAX_ROWS - 1]}


def literal(name: str) -> str:
    r"""Return a name that matplotlib draws as it is; the middle of a long one is left out.

    A pair of dollar signs would enclose a formula, and a leading underscore would keep a label out
    of the legend; a word joiner, which has no width, is put in front of it.

    Example:
        >>> print(literal("a$b$c"), len(literal("_ours")))
        a\$b\$c 6
    """
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 9]}\N{HORIZONTAL ELLIPSIS}{name[-8:]}"
    shown = name.replace("$", r"\$")
    return f"\N{WORD JOINER}{shown}" if shown.startswith("_") else shown
