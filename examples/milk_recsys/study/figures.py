"""Figures of the paper and of the search, drawn from the results file as PNG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from milk_recsys.base.files import replacing
from milk_recsys.study.plan import Plan, best_trial, strongest
from milk_recsys.study.records import MONITOR
from milk_recsys.study.spaces import SWEEPS, WHY_PENALTIES, space_of
from milk_recsys.study.store import Store

__all__ = ["FIGURES", "write_figure"]

LABELS = {
    "milk": "MILK",
    "align": "alignment\nalone (align)",
    "envs": "environments\nalone (envs)",
    "erm": "neither\n(erm)",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
TINTS = ("0.75", "tab:blue", "tab:orange", "tab:green")


def write_figure(
    draw: Callable[[Plan, Store], Figure | None], plan: Plan, store: Store, path: Path
) -> list[Path]:
    """Write a figure as path.png and path.pdf; nothing if the results file lacks its runs."""
    figure = draw(plan, store)
    if figure is None:
        return []
    from invmod.robustness.document import figure_png  # imports torch, which reading results avoids

    png, pdf = path.with_suffix(".png"), path.with_suffix(".pdf")
    with replacing(png) as temporary:
        temporary.write_bytes(figure_png(figure, dpi=150))
    with replacing(pdf) as temporary:
        # Without its date the same figure has the same bytes.
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    return [png, pdf]


def _bars(
    axes: Axes, groups: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[str]
) -> None:
    """Draw groups of bars of means, with standard deviations over repeats."""
    width = 0.8 / len(groups)
    for place, (name, columns) in enumerate(groups.items()):
        x = [k + (place - (len(groups) - 1) / 2) * width for k in range(len(columns))]
        means = [float(np.mean(c)) if len(c) else np.nan for c in columns]
        spread = [np.std(c, ddof=1) if len(c) > 1 else 0.0 for c in columns]
        axes.bar(
            x,
            means,
            width * 0.92,
            yerr=spread,
            label=name,
            color=(*TINTS, *COLOURS)[place],
            capsize=2,
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.spines[["top", "right"]].set_visible(False)


def figure_1(plan: Plan, store: Store) -> Figure | None:
    """Draw DUIF with complete data, with modalities missing in the test items, and in all items."""
    missing, both = plan.repeats_of(store, "duif"), plan.repeats_of(store, "duif", "mtmt")
    if not missing:
        return None
    columns = {
        "complete": [x["test_complete"] for x in missing],
        "missing in test": [x["test"] for x in missing],
    }
    if both:
        columns["missing in training and test"] = [x["test"] for x in both]
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, metric, label in zip(
        axes, ("recall@20", MONITOR), ("Recall@20", "NDCG@20"), strict=True
    ):
        _bars(
            ax, {name: [[s[metric] for s in sections]] for name, sections in columns.items()}, [""]
        )
        ax.set_ylabel(label)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def figure_3(plan: Plan, store: Store) -> Figure | None:
    """Draw MILK and the two strongest baselines by the number of missing modalities of an item.

    A line shows the gain of MILK over the better baseline.
    """
    methods = [*strongest(store, plan.baselines(), plan.repeats)[:2][::-1], "milk"]
    lines = {m: [x for x in plan.repeats_of(store, m) if "groups" in x] for m in methods}
    if not all(lines.values()) or len(methods) < 2:
        return None
    groups = [
        g
        for g in ("overall", "missing 0", "missing 1", "missing 2")
        if g in lines["milk"][0]["groups"]
    ]
    values = {
        m: [[x["groups"][g][MONITOR] for x in lines[m] if g in x["groups"]] for g in groups]
        for m in methods
    }
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    _bars(
        axes,
        {LABELS.get(m, m): v for m, v in values.items()},
        ["overall", "complete", "missing one", "missing two"][: len(groups)],
    )
    axes.set_ylabel("NDCG@20")
    best = [max(np.mean(values[m][k]) for m in methods[:-1]) for k in range(len(groups))]
    gain = [100 * (np.mean(values["milk"][k]) / best[k] - 1) for k in range(len(groups))]
    line = axes.twinx()  # a second scale on the right, in percent
    line.plot(range(len(groups)), gain, "k-o", markersize=4)
    line.axhline(0, color="0.6", linewidth=0.8)
    line.set_ylabel("MILK's gain over the better baseline, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False)
    return figure


def figure_4(plan: Plan, store: Store) -> Figure | None:
    """Draw MILK and its ablations under both settings."""
    methods = [m for m in ("erm", "envs", "align", "milk") if plan.repeats_of(store, m)]
    if "milk" not in methods:
        return None
    settings = [s for s in plan.settings if plan.repeats_of(store, "milk", s)]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, metric, label in zip(
        axes, ("recall@20", MONITOR), ("Recall@20", "NDCG@20"), strict=True
    ):
        groups = {
            LABELS[m]: [[x["test"][metric] for x in plan.repeats_of(store, m, s)] for s in settings]
            for m in methods
        }
        _bars(ax, groups, [s.upper() for s in settings])
        ax.set_ylabel(label)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def figure_5(plan: Plan, store: Store) -> Figure | None:
    """Draw MILK and its ablations with complete test items (FTFT) and under FTMT, and the loss."""
    methods = [m for m in ("erm", "envs", "align", "milk") if plan.repeats_of(store, m)]
    if "milk" not in methods:
        return None
    lines = {m: plan.repeats_of(store, m) for m in methods}
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    parts = {"FTFT": "test_complete", "FTMT": "test"}
    groups = {
        name: [[x[part][MONITOR] for x in lines[m]] for m in methods]
        for name, part in parts.items()
    }
    _bars(axes, groups, [LABELS[m] for m in methods])
    axes.set_ylabel("NDCG@20")
    lost = [
        100 * np.mean([1 - x["test"][MONITOR] / x["test_complete"][MONITOR] for x in lines[m]])
        for m in methods
    ]
    line = axes.twinx()  # a second scale on the right, in percent
    line.plot(range(len(methods)), lost, "k-o", markersize=4)
    line.set_ylabel("loss from FTFT to FTMT, %")
    if min(lost) > 0:
        line.set_ylim(0, 1.3 * max(lost))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2, frameon=False)
    return figure


def figure_6(_plan: Plan, store: Store) -> Figure | None:
    """Draw sweeps of three options of MILK: one repeat per point, three at the best point."""
    names = {
        "alpha": "alpha",
        "alignment_weight": "weight of the alignment",
        "penalty_weight": "weight of the penalty",
    }
    # Option -> value -> repeats. The figure needs at least one repeat of each point.
    points = {
        o: {v: store.of(f"sweep {o}={v:g}", "milk") for v in values} for o, values in SWEEPS.items()
    }
    if not all(lines for by_value in points.values() for lines in by_value.values()):
        return None
    figure = Figure(figsize=(9.5, 3.1), layout="constrained")
    for ax, (option, by_value) in zip(
        figure.subplots(1, 3, sharey=True), points.items(), strict=True
    ):
        x = range(len(by_value))
        for part, style in (("test", "-o"), ("validation", "--s")):
            first = [lines[0][part][MONITOR] for lines in by_value.values()]
            ax.plot(x, first, style, markersize=4, label=f"{part}, split 0")
        more = [(k, line) for k, lines in enumerate(by_value.values()) for line in lines[1:]]
        ax.plot(
            [k for k, _ in more],
            [line["test"][MONITOR] for _, line in more],
            "x",
            color="tab:red",
            label="test, further splits",
        )
        tuned = best_trial(store.of("trial", "milk"))["tuned"][option]
        ax.set_xticks(x, [f"{v:g}" for v in by_value])
        ax.set_xlabel(f"{names[option]} (tuned: {tuned:.3g})")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("NDCG@20")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def figure_why(plan: Plan, store: Store) -> Figure | None:
    """Draw NDCG@20 of each modality alone and its share of the score against the penalty weight."""
    points = {v: store.ranked(f"sweep penalty_weight={v:g}", "milk") for v in WHY_PENALTIES}
    if not all(points.values()) or not all(
        "alone" in x for lines in points.values() for x in lines
    ):
        return None
    names = list(points[0][0]["alone"])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = range(len(points))
    for part, label, style in (("test_complete", "complete", "k-o"), ("test", "FTMT", "k--s")):
        left.plot(
            x,
            [np.mean([y[part][MONITOR] for y in lines]) for lines in points.values()],
            style,
            label=label,
        )
    for place, name in enumerate(names):
        colour = COLOURS[place % len(COLOURS)]
        alone = [[y["alone"][name] for y in lines] for lines in points.values()]
        left.plot(x, [np.mean(a) for a in alone], "-^", color=colour, label=f"{name} alone")
        shares = [np.mean([y["share"][name] for y in lines]) for lines in points.values()]
        right.plot(x, shares, "-^", color=colour, label=name)
    erm = [y for y in store.ranked("repeat", "erm", limit=plan.top_repeats()) if "alone" in y]
    for place, name in enumerate(names if erm else ()):
        at = float(np.mean([y["alone"][name] for y in erm]))
        left.axhline(at, color=COLOURS[place % len(COLOURS)], linestyle=":", linewidth=1)
    if erm:
        left.plot([], [], ":", color="0.4", linewidth=1, label="erm, each alone")
    for axes, label in ((left, "NDCG@20"), (right, "share of the score's variance")):
        axes.set_xticks(x, [f"{v:g}" for v in points])
        axes.set(xlabel="weight of the penalty", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def figure_search(plan: Plan, store: Store) -> Figure | None:
    """Draw the best validation score so far against the number of trials, for all methods."""
    searches: dict[str, Any] = {
        m: [x["validation"][MONITOR] for x in store.of("trial", m)] for m in plan.methods
    }
    searches = {m: scores for m, scores in searches.items() if scores}
    if not searches:
        return None
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for place, (method, scores) in enumerate(searches.items()):
        style = ("-", "--", "-.", ":")[place // 10]
        label = f"{method} ({len(space_of(method))} options)"
        axes.plot(
            range(1, len(scores) + 1),
            np.maximum.accumulate(scores),
            style,
            label=label,
            marker="os^D"[place % 4],
            markersize=3,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trials", ylabel="best validation NDCG@20 so far")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


FIGURES: Mapping[str, Callable[[Plan, Store], Figure | None]] = {
    "figure1": figure_1,
    "figure3": figure_3,
    "figure4": figure_4,
    "figure5": figure_5,
    "figure6": figure_6,
    "why": figure_why,
    "search": figure_search,
}
