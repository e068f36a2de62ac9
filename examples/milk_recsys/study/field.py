"""Comparison of all systems beyond the paper, and tests of the winner on held-out splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milk_recsys.study import claims
from milk_recsys.study.claims import with_interval
from milk_recsys.study.labels import label_points
from milk_recsys.study.plan import Plan, strongest
from milk_recsys.study.records import MONITOR, mean_sd, p_text
from milk_recsys.study.spaces import ABLATIONS, CLOSED, FORMER, WINNER, WITHOUT
from milk_recsys.study.store import Line, Store

__all__ = ["FIGURES", "table_field", "table_fresh", "table_patterns", "table_without"]

TableRows = list[dict[str, str]]
KINDS = {"tab:blue": (*ABLATIONS,), "tab:green": CLOSED, "tab:red": (WINNER, FORMER)}
"""Colour of the points of a figure -> its methods."""
OTHERS = "0.45"  # grey, for all other methods


def worst_drop(line: Line) -> float:
    """Return the share of NDCG@20 lost with the most useful modality hidden from all test items.

    NaN if no modality was hidden, as on data with a single one.
    """
    complete = max(line["test_complete"][MONITOR], 1e-12)
    return max(
        (1 - hidden[MONITOR] / complete for hidden in line["imposed"].values()), default=np.nan
    )


def percent_lost(lines: Sequence[Line]) -> str:
    """Return the mean of `worst_drop` over repeats as a change in percent; "" if there is none."""
    lost = np.mean([worst_drop(line) for line in lines])
    # `0 -` instead of a minus sign, since -0.0 would be printed as "-0%".
    return "" if np.isnan(lost) else f"{0 - 100 * lost:.0f}%"


def table_field(plan: Plan, store: Store) -> TableRows:
    """Return the table of all systems, the best first.

    Its p-values, corrected by Holm's method, compare each system with MILK and with the best of
    `CLOSED`.
    """
    order = strongest(store, plan.systems(store), plan.repeats)
    closed = next((m for m in order if m in CLOSED), None)
    rivals = [name for name in (closed, "milk") if name in order and name is not None]
    against = {name: _p_against(plan, store, order, name) for name in rivals}
    rows = []
    for method in order:
        lines = plan.repeats_of(store, method)
        row = {
            "method": method
            if len(lines) == plan.repeats
            else f"{method} ({len(lines)} of {plan.repeats})"
        }
        for title, part in (("FTFT", "test_complete"), ("FTMT", "test")):
            row[f"{title} {MONITOR}"] = with_interval([x[part][MONITOR] for x in lines])
            row[f"{title} recall@20"] = with_interval([x[part]["recall@20"] for x in lines])
        missing = plan.repeats_of(store, method, "mtmt")
        for metric in (MONITOR, "recall@20"):
            row[f"MTMT {metric}"] = (
                with_interval([x["test"][metric] for x in missing]) if missing else ""
            )
        row["most useful modality hidden"] = percent_lost(lines)
        row["seconds"] = f"{np.mean([x['seconds'] + x['factor_seconds'] for x in lines]):.3g}"
        timed = store.of("timing", method)
        row["seconds to rank"] = f"{timed[0]['score_seconds']:.2g}" if timed else ""
        row |= {
            f"p against {name}": p_text(p[method]) if method in p else ""
            for name, p in against.items()
        }
        rows.append(row)
    return rows


def _p_against(plan: Plan, store: Store, methods: Sequence[str], rival: str) -> dict[str, float]:
    """Return p-values of each method against a rival, paired over repeats, corrected together."""
    # The former version of the winner is no further system to correct for.
    tested = {m: _ratios(plan, store, m, rival).p for m in methods if m not in (rival, FORMER)}
    return dict(zip(tested, claims.holm(list(tested.values())), strict=True))


def _ratios(plan: Plan, store: Store, method: str, rival: str) -> claims.Claim:
    """Return the log ratios of NDCG@20 of two methods under FTMT, over the repeats of the table."""
    pairs = claims.pairs_of(store, (method, rival), limit=plan.repeats)
    ours, theirs = ([x["test"][MONITOR] for x in lines] for lines in pairs)
    return claims.Claim("", "", claims.log_ratio(ours, theirs), overlap=claims.OVERLAP)


def table_patterns(plan: Plan, store: Store) -> TableRows:
    """Return NDCG@20 by pattern of the test items under FTMT, and with each modality hidden."""
    rows = []
    for method in strongest(store, plan.systems(store), plan.repeats):
        lines = plan.repeats_of(store, method)
        row = {"method": method, "complete": mean_sd([x["test_complete"][MONITOR] for x in lines])}
        for title, key in (("has", "by_pattern"), ("all without", "imposed")):
            names = dict.fromkeys(name for x in lines for name in x[key])
            row |= {
                f"{title} {n}": mean_sd([x[key][n][MONITOR] for x in lines if n in x[key]])
                for n in names
            }
        rows.append(row)
    return rows


def table_fresh(plan: Plan, store: Store) -> TableRows:
    """Compare the winner with each finalist on held-out splits.

    The first rows compare NDCG@20, the others the share that is lost with the most useful modality
    hidden.
    """
    others = [m for m in plan.systems(store) if m != WINNER and store.ranked("fresh", m)]
    tested: list[claims.Claim | None] = []
    for other in others:
        text = f"{WINNER} ranks new items better than {other}"
        tested.append(
            claims.better(
                store, text, "NDCG@20, FTMT", (WINNER, other), "ftmt", "fresh", claims.OVERLAP
            )
        )
    for other in others:
        pairs = claims.pairs_of(store, (WINNER, other), "ftmt", "fresh")
        kept = [[1 - worst_drop(x) for x in lines] for lines in pairs]
        if not kept[0] or np.isnan(kept[0]).any():
            continue
        text = f"With its most useful modality hidden, {WINNER} loses a smaller share than {other}"
        note = (
            f"loses {100 * (1 - np.mean(kept[0])):.1f}% against {100 * (1 - np.mean(kept[1])):.1f}%"
        )
        tested.append(
            claims.Claim(text, "share lost", claims.log_ratio(*kept), None, note, claims.OVERLAP)
        )
    rows = claims.rows([claim for claim in tested if claim is not None])
    # The sources of these claims are measures, not sections of the paper.
    names = {"section": "measure"}
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def table_without(plan: Plan, store: Store) -> TableRows:
    """Return the ablations of the winner: each lacks one part of it."""
    rows = []
    for name in (WINNER, *WITHOUT):
        lines = plan.repeats_of(store, name)
        if not lines:
            continue
        row = {
            "variant": name,
            f"FTMT {MONITOR}": with_interval([x["test"][MONITOR] for x in lines]),
        }
        row[f"complete {MONITOR}"] = with_interval([x["test_complete"][MONITOR] for x in lines])
        row["most useful modality hidden"] = percent_lost(lines)
        ratios = _ratios(plan, store, name, WINNER)
        row[f"FTMT, change from {WINNER}"] = (
            "" if name == WINNER else f"{100 * np.expm1(ratios.values.mean()):+.1f}%"
        )
        row["p"] = "" if name == WINNER else p_text(ratios.p)
        rows.append(row)
    return rows


# --- figures --------------------------------------------------------------------------------------


def _colour(method: str) -> str:
    """Return the colour of the kind of a method."""
    return next((colour for colour, methods in KINDS.items() if method in methods), OTHERS)


def _legend(axes: Axes) -> None:
    """Draw a legend of the kinds of methods above the axes."""
    for colour, name in zip(
        (*KINDS, OTHERS),
        ("MILK and ablations", "kNN, MARec, ridge", WINNER, "other baselines"),
        strict=True,
    ):
        axes.scatter([], [], color=colour, label=name)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(KINDS) + 1, frameon=False, fontsize=8
    )


def figure_time(plan: Plan, store: Store) -> Figure | None:
    """Draw NDCG@20 against the seconds of a whole run, for all methods except `random`."""
    methods = strongest(store, [m for m in plan.systems(store) if m != "random"], plan.repeats)
    if not methods:
        return None
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(
        xscale="log",
        xlabel="seconds of a run (training, validation and test)",
        ylabel="test NDCG@20, FTMT",
    )
    axes.spines[["top", "right"]].set_visible(False)
    places = []
    for method in methods:
        lines = plan.repeats_of(store, method)
        at = (
            np.mean([x["seconds"] + x["factor_seconds"] for x in lines]),
            np.mean([x["test"][MONITOR] for x in lines]),
        )
        axes.scatter(*at, color=_colour(method), s=25)
        places.append(at)
    _legend(axes)
    label_points(axes, places, methods)
    return figure


def figure_drop(plan: Plan, store: Store) -> Figure | None:
    """Draw NDCG@20 with complete test items and with the most useful modality hidden."""
    methods = strongest(store, [m for m in plan.systems(store) if m != "random"], plan.repeats)[
        ::-1
    ]
    if not methods or not store.ranked("repeat", methods[0])[0]["imposed"]:
        return None
    figure = Figure(figsize=(7.5, 0.27 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(methods):
        lines = plan.repeats_of(store, method)
        complete = np.mean([x["test_complete"][MONITOR] for x in lines])
        left = np.mean([x["test_complete"][MONITOR] * (1 - worst_drop(x)) for x in lines])
        axes.plot([left, complete], [place, place], color=_colour(method), linewidth=1.5)
        axes.scatter([complete], [place], color=_colour(method), s=25)
        axes.scatter([left], [place], facecolor="white", edgecolor=_colour(method), s=25, zorder=3)
        axes.annotate(
            percent_lost(lines),
            (complete, place),
            xytext=(6, -3),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_xlabel("NDCG@20: filled with all modalities, hollow with the most useful one hidden")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)
    return figure


FIGURES: Mapping[str, Callable[[Plan, Store], Figure | None]] = {
    "field": figure_time,
    "field_drop": figure_drop,
}
