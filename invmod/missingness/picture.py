"""Matplotlib picture of a summary of missingness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from invmod._optional import import_optional
from invmod.missingness.summary import MissingnessSummary

if TYPE_CHECKING:
    import matplotlib.figure

MAX_MODALITIES = 24  # more are not readable; those with the highest missing rates are shown
MAX_PATTERNS = 20
COLOUR = "#0072b2"


def plot_missingness(summary: MissingnessSummary) -> matplotlib.figure.Figure:
    """Plot the missing rates, the most frequent patterns and the correlation of missingness.

    A filled dot is an available modality, an empty one a missing modality. Of more than 24
    modalities those with the highest missing rates are shown, of more than 20 patterns the most
    frequent. The figure is registered with pyplot: show it by ``plt.show()`` and free it by
    ``plt.close(figure)``.

    Arguments:
        summary: of `missingness_summary`.

    Raises:
        ImportError: matplotlib is not installed; the message explains how to install it.
        ValueError: the summary has no rows.

    Example:
        >>> import torch
        >>> from invmod.missingness import missingness_summary
        >>> mask = torch.tensor([[True, True], [True, False], [False, True]])
        >>> figure = plot_missingness(missingness_summary(mask, ["image", "text"]))
        >>> [panel.get_title() for panel in figure.axes[::2]]
        ['missing rate', 'rows with the pattern', '']
        >>> import_optional("matplotlib.pyplot", what="The example").close(figure)
    """
    plt = import_optional("matplotlib.pyplot", what="The picture of missing modalities")
    if not summary.num_rows:
        raise ValueError("plot_missingness: `summary` has no rows, so there is nothing to plot.")
    order = sorted(range(len(summary.modalities)), key=lambda index: -summary.missing[index])
    shown = sorted(order[:MAX_MODALITIES])
    m = len(shown)
    patterns = summary.patterns[:MAX_PATTERNS]
    # Modalities that are never missing have no correlation.
    varying = [index for index in shown if 0 < summary.missing[index] < summary.num_rows]
    names = [_short(summary.modalities[index]) for index in shown]
    longest = max(len(name) for name in names)
    height = max(1.6 + 0.26 * m, 0.9 + 0.26 * len(patterns)) + 0.075 * longest
    widths = [0.28 * m + 1.2, 1.8]
    figure = plt.figure(
        figsize=(3.4 + sum(widths) + (0.34 * len(varying) + 2 if len(varying) > 1 else 0), height),
        layout="constrained",
    )
    panels = [3.0, *widths, *([0.34 * len(varying) + 1.6] if len(varying) > 1 else [])]
    axes = list(figure.subplots(1, len(panels), width_ratios=panels))
    _draw_rates(axes[0], [summary.rates[index] for index in shown], names)
    _draw_patterns(axes[1], axes[2], summary, shown, names)
    if len(varying) > 1:
        image = _draw_correlation(axes[3], summary, varying)
        figure.colorbar(image, ax=axes[3], fraction=0.05, pad=0.03).ax.tick_params(labelsize=8)
    typed: matplotlib.figure.Figure = figure  # pyplot is imported without types
    return typed


def _short(name: str) -> str:
    # A dollar sign would begin a formula in matplotlib.
    shown = name if len(name) <= 24 else f"{name[:22]}\N{HORIZONTAL ELLIPSIS}"
    return shown.replace("$", r"\$")


def _draw_rates(panel: Any, rates: list[float], names: list[str]) -> None:
    panel.barh(range(len(rates)), rates, color=COLOUR, height=0.7)
    for row, rate in enumerate(rates):
        panel.text(rate, row, f" {rate:.1%}", va="center", fontsize=8)
    panel.set_yticks(range(len(rates)), names, fontsize=8)
    panel.set_ylim(len(rates) - 0.4, -0.6)
    panel.set_xlim(0, max(*rates, 1e-3) * 1.25)
    panel.set_title("missing rate", fontsize=9)
    panel.set_xticks([])
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)


def _draw_patterns(
    dots: Any, bars: Any, summary: MissingnessSummary, shown: list[int], names: list[str]
) -> None:
    patterns = summary.patterns[:MAX_PATTERNS]
    for row, entry in enumerate(patterns):
        for column, index in enumerate(shown):
            available = entry.pattern[index]
            dots.plot(
                column,
                row,
                marker="o",
                markersize=6,
                color="0.15" if available else "white",
                markeredgecolor="0.15" if available else "0.75",
                markeredgewidth=0.8,
            )
    dots.set(xlim=(-0.6, len(shown) - 0.4), ylim=(len(patterns) - 0.4, -0.6), yticks=[])
    dots.set_xticks(range(len(shown)), names, rotation=90, fontsize=8)
    dots.xaxis.tick_top()
    dots.tick_params(length=0)
    dots.spines[:].set_visible(False)
    bars.barh(range(len(patterns)), [entry.count for entry in patterns], color="0.45", height=0.7)
    for row, entry in enumerate(patterns):
        bars.text(entry.count, row, f" {entry.count} ({entry.rate:.1%})", va="center", fontsize=8)
    bars.set(ylim=(len(patterns) - 0.4, -0.6), yticks=[], xticks=[])
    bars.set_xlim(0, patterns[0].count * 1.9)
    bars.set_title("rows with the pattern", fontsize=9)
    bars.spines[:].set_visible(False)


def _draw_correlation(panel: Any, summary: MissingnessSummary, varying: list[int]) -> Any:
    table = np.eye(len(varying))
    place = {summary.modalities[index]: row for row, index in enumerate(varying)}
    for pair in summary.pairs():
        if pair.correlation is not None and pair.first in place and pair.second in place:
            a, b = place[pair.first], place[pair.second]
            table[a, b] = table[b, a] = pair.correlation
    # The default, square cells, would move the panel after its labels were measured.
    image = panel.imshow(
        table, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    if len(varying) <= 12:
        for (a, b), value in np.ndenumerate(table):
            colour = "white" if abs(value) > 0.6 else "black"
            text = f"{round(value, 1) + 0.0:.1f}"  # adding 0.0 turns -0.0 into 0.0
            panel.text(b, a, text, ha="center", va="center", fontsize=7, color=colour)
    names = [_short(summary.modalities[index]) for index in varying]
    panel.set_xticks(range(len(varying)), names, rotation=90, fontsize=8)
    panel.set_yticks(range(len(varying)), names, fontsize=8)
    panel.set_title("correlation of missingness", fontsize=9)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return image
