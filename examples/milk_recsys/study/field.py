"""Beyond the paper: one table of all systems, and whether one of them wins it on splits that no search has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milk_recsys.study import claims
from milk_recsys.study.plan import Plan, strongest
from milk_recsys.study.records import MONITOR, mean_sd
from milk_recsys.study.spaces import ABLATIONS, CLOSED, WINNER, WITHOUT
from milk_recsys.study.store import Line, Store

__all__ = ["FIGURES", "table_field", "table_fresh", "table_patterns", "table_without"]

TableRows = list[dict[str, str]]
KINDS = {"tab:blue": (*ABLATIONS,), "tab:green": CLOSED, "tab:red": (WINNER,)}
OTHERS = "0.45"


def worst_drop(line: Line) -> float:
    """Return the share of NDCG@20 that it costs to hide the most useful modality from all test items; NaN without."""
    complete = max(line["test_complete"][MONITOR], 1e-12)
    return max(
        (1 - found[MONITOR] / complete for found in line["imposed"].values()), default=np.nan
    )


def percent_lost(lines: Sequence[Line]) -> str:
    """Write the mean of `worst_drop` over repeats; nothing where there is one modality alone."""
    lost = np.mean([worst_drop(line) for line in lines])
    return "" if np.isnan(lost) else f"{0 - 100 * lost:.0f}%"  # 0 - 0 is 0, and -0 is -0


def with_interval(values: Sequence[float]) -> str:
    """Write a mean with half the width of its 95% t interval over splits of the same items."""
    mean = f"{np.mean(values):.4f}"
    if len(values) < 2:
        return mean
    low, high = claims.Claim("", "", np.array(values), overlap=claims.OVERLAP).interval
    return f"{mean} ± {(high - low) / 2:.4f}"


def table_field(plan: Plan, store: Store) -> TableRows:
    """All systems, the best first, with Holm's p against the best closed form that others found and against MILK."""
    order = strongest(store, plan.methods, plan.repeats)
    closed = next((m for m in order if m in CLOSED), None)
    rivals = [name for name in (closed, "milk") if name in order and name is not None]
    against = {name: _p_against(plan, store, order, name) for name in rivals}
    rows = []
    for method in order:
        lines = store.ranked("repeat", method, limit=plan.repeats)
        row = {
            "method": method
            if len(lines) == plan.repeats
            else f"{method} ({len(lines)} of {plan.repeats})"
        }
        for title, part in (("FTFT", "test_complete"), ("FTMT", "test")):
            row[f"{title} {MONITOR}"] = with_interval([x[part][MONITOR] for x in lines])
            row[f"{title} recall@20"] = with_interval([x[part]["recall@20"] for x in lines])
        missing = store.ranked("repeat", method, "mtmt", limit=plan.repeats)
        for metric in (MONITOR, "recall@20"):
            row[f"MTMT {metric}"] = (
                with_interval([x["test"][metric] for x in missing]) if missing else ""
            )
        row["worst modality missing"] = percent_lost(lines)
        row["seconds"] = f"{np.mean([x['seconds'] + x['factor_seconds'] for x in lines]):.3g}"
        timed = store.of("timing", method)
        row["seconds to rank"] = f"{timed[0]['score_seconds']:.2g}" if timed else ""
        row |= {
            f"p against {name}": f"{p[method]:.2g}" if method in p else ""
            for name, p in against.items()
        }
        rows.append(row)
    return rows


def _p_against(plan: Plan, store: Store, methods: Sequence[str], rival: str) -> dict[str, float]:
    """Return the p values of each method against one, on FTMT's paired repeats, corrected together."""
    tested = {m: _ratios(plan, store, m, rival).p for m in methods if m != rival}
    return dict(zip(tested, claims.holm(list(tested.values())), strict=True))


def _ratios(plan: Plan, store: Store, method: str, rival: str) -> claims.Claim:
    """Return the log ratios of two methods' NDCG@20 under FTMT, over the table's repeats."""
    pairs = claims.pairs_of(store, (method, rival), limit=plan.repeats)
    ours, theirs = ([x["test"][MONITOR] for x in lines] for lines in pairs)
    return claims.Claim("", "", claims.log_ratio(ours, theirs), overlap=claims.OVERLAP)


def table_patterns(plan: Plan, store: Store) -> TableRows:
    """NDCG@20 of FTMT's test items by the modalities that they have, and with a modality hidden from all of them."""
    rows = []
    for method in strongest(store, plan.methods, plan.repeats):
        lines = store.ranked("repeat", method, limit=plan.repeats)
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
    """Whether the winner beats each finalist on splits that no search has seen, and needs its modalities less."""
    others = [m for m in plan.methods if m != WINNER and store.ranked("fresh", m)]
    found: list[claims.Claim | None] = []
    for other in others:
        text = f"{WINNER} ranks new items better than {other}"
        found.append(
            claims.better(
                store, text, "NDCG@20, FTMT", (WINNER, other), "ftmt", "fresh", claims.OVERLAP
            )
        )
    for other in others:
        pairs = claims.pairs_of(store, (WINNER, other), "ftmt", "fresh")
        kept = [[1 - worst_drop(x) for x in lines] for lines in pairs]
        if not kept[0] or np.isnan(kept[0]).any():
            continue
        text = f"Without its most useful modality {WINNER} keeps a larger share than {other}"
        note = (
            f"loses {100 * (1 - np.mean(kept[0])):.1f}% against {100 * (1 - np.mean(kept[1])):.1f}%"
        )
        found.append(
            claims.Claim(text, "worst imposed", claims.log_ratio(*kept), None, note, claims.OVERLAP)
        )
    return claims.rows([claim for claim in found if claim is not None])


def table_without(plan: Plan, store: Store) -> TableRows:
    """The winner without one of its parts, all else as tuned, paired with it."""
    rows = []
    for name in (WINNER, *WITHOUT):
        lines = store.ranked("repeat", name, limit=plan.repeats)
        if not lines:
            continue
        row = {
            "variant": name,
            f"FTMT {MONITOR}": with_interval([x["test"][MONITOR] for x in lines]),
        }
        row[f"complete {MONITOR}"] = with_interval([x["test_complete"][MONITOR] for x in lines])
        row["worst modality missing"] = percent_lost(lines)
        ratios = _ratios(plan, store, name, WINNER)
        row["FTMT, against it"] = (
            "" if name == WINNER else f"{100 * np.expm1(ratios.values.mean()):+.1f}%"
        )
        row["p"] = "" if name == WINNER else f"{ratios.p:.2g}"
        row["seconds"] = f"{np.mean([x['seconds'] for x in lines]):.3g}"
        rows.append(row)
    return rows


# --- figures ----------------------------------------------------------------------------------------------------------


def _colour(method: str) -> str:
    return next((colour for colour, methods in KINDS.items() if method in methods), OTHERS)


def _legend(axes: Axes) -> None:
    for colour, name in zip(
        (*KINDS, OTHERS),
        ("MILK and ablations", "closed forms", WINNER, "other baselines"),
        strict=True,
    ):
        axes.scatter([], [], color=colour, label=name)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(KINDS) + 1, frameon=False, fontsize=8
    )


def figure_time(plan: Plan, store: Store) -> Figure | None:
    """Accuracy against the seconds of a whole run; not of `random`."""
    methods = strongest(store, [m for m in plan.methods if m != "random"], plan.repeats)
    if not methods:
        return None
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(
        xscale="log",
        xlabel="seconds of a run: training, validation, test",
        ylabel="test NDCG@20, FTMT",
    )
    axes.spines[["top", "right"]].set_visible(False)
    places, names = [], []
    for method in methods:
        lines = store.ranked("repeat", method, limit=plan.repeats)
        at = (
            np.mean([x["seconds"] + x["factor_seconds"] for x in lines]),
            np.mean([x["test"][MONITOR] for x in lines]),
        )
        axes.scatter(*at, color=_colour(method), s=25)
        places.append(at)
        names.append(axes.text(*at, method, fontsize=7))
    _legend(axes)
    x, y = zip(*places, strict=True)
    adjust_text(
        names,
        x=x,
        y=y,
        ax=axes,
        expand=(1.2, 1.4),
        arrowprops={"arrowstyle": "-", "color": "0.7", "lw": 0.5},
    )
    return figure


def figure_drop(plan: Plan, store: Store) -> Figure | None:
    """What each system keeps when its most useful modality is hidden from all test items."""
    methods = strongest(store, [m for m in plan.methods if m != "random"], plan.repeats)[::-1]
    if not methods or not store.ranked("repeat", methods[0])[0]["imposed"]:
        return None
    figure = Figure(figsize=(7.5, 0.27 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(methods):
        lines = store.ranked("repeat", method, limit=plan.repeats)
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
    axes.set_xlabel("NDCG@20: full with all modalities, hollow without the most useful one")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)
    return figure


FIGURES: Mapping[str, Callable[[Plan, Store], Figure | None]] = {
    "field": figure_time,
    "field_drop": figure_drop,
}
