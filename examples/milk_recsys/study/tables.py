"""Tables of the study, written in Markdown, CSV and LaTeX from the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.config.options import DataOptions
from milk_recsys.study.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_4, in_paper
from milk_recsys.study.plan import Plan, best_trial
from milk_recsys.study.records import MONITOR, mean_sd
from milk_recsys.study.spaces import VARIANTS, VARIANTS_IN_WORDS
from milk_recsys.study.store import Store, user_values

__all__ = [
    "markdown",
    "table_1",
    "table_2",
    "table_3",
    "table_4",
    "table_popular",
    "table_search",
    "write_table",
]

TableRows = list[dict[str, str]]
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def write_table(rows: Sequence[Mapping[str, Any]], path: Path, caption: str) -> list[Path]:
    """Write a table as path.md, path.csv and path.tex; return the paths.

    Nothing is written if there are no rows.
    """
    if not rows:
        return []
    frame = pl.DataFrame([dict(row) for row in rows])
    texts = {
        ".md": markdown(rows, caption),
        ".csv": frame.write_csv(),
        ".tex": _latex(rows, caption),
    }
    for suffix, text in texts.items():
        with replacing(path.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [path.with_suffix(suffix) for suffix in texts]


def markdown(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Return a table in Markdown, followed by its caption."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]) for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + f"\n\n{caption}\n"


def _latex(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    names = list(rows[0])
    lines = [
        " & ".join(_escaped(str(cell)) for cell in cells) + r" \\"
        for cells in [names, *(r.values() for r in rows)]
    ]
    head = [
        r"\begin{table}",
        rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * len(names)}}}",
        r"\hline",
    ]
    tail = [r"\hline", r"\end{tabular}", r"\end{table}"]
    return "\n".join([*head, lines[0], r"\hline", *lines[1:], *tail]) + "\n"


def _escaped(text: str) -> str:
    """Return a text with the special characters of LaTeX escaped."""
    for mark in "&%$#_{}":
        text = text.replace(mark, "\\" + mark)
    return text.replace("±", r"$\pm$").replace("~", r"\textasciitilde{}")


# --- the paper's tables ---------------------------------------------------------------------------


def table_1(dataset: Dataset) -> TableRows:
    """Return the sizes of the parts of a split, and those of the paper if it has the data set."""
    # The parts are those of every setting, and ftft draws no mask.
    split, _ = draw_split(dataset, DataOptions(setting="ftft"))
    known, rows = in_paper(dataset.name), []
    pairs = np.asarray(dataset.interactions)
    for name, items in (
        ("train", split.warm),
        ("validation", split.validation),
        ("test", split.test),
    ):
        part = pairs[np.isin(pairs[:, 1], items)]
        users = len(np.unique(part[:, 0]))
        row = {
            "part": name,
            "users": f"{users:,}",
            "items": f"{len(items):,}",
            "interactions": f"{len(part):,}",
            "density": f"{100 * len(part) / (users * len(items)):.3f}%",
        }
        if known:
            u, i, p = TABLE_1[known][name]
            row |= {
                "paper: users": f"{u:,}",
                "paper: items": f"{i:,}",
                "paper: interactions": f"{p:,}" if p else "",
            }
        rows.append(row)
    return rows


def table_2(plan: Plan, store: Store, dataset: Dataset) -> TableRows:
    """Return means with standard deviations over repeats of all methods, and seconds per run."""
    known, rows = in_paper(dataset.name), []
    for method in store.methods(plan.methods):
        row = {"method": method}
        for setting in plan.settings:
            lines = plan.repeats_of(store, method, setting)
            for metric in METRICS:
                row[f"{setting} {metric}"] = (
                    mean_sd([x["test"][metric] for x in lines]) if lines else ""
                )
            if known:
                value = TABLE_2.get((method, setting, known, MONITOR))
                row[f"paper: {setting} {MONITOR}"] = "" if value is None else f"{value:.4f}"
        lines = plan.repeats_of(store, method)
        row["seconds"] = (
            f"{np.mean([x['seconds'] + x['factor_seconds'] for x in lines]):.0f}" if lines else ""
        )
        rows.append(row)
    return rows


def table_popular(plan: Plan, store: Store, dataset: Dataset) -> TableRows:
    """Return NDCG@20 under FTMT of users with and without the most popular test item of a split.

    A single item that many users have can decide a split: a method that ranks it first for all
    users has a high score there, but not on other splits.
    """
    ranked = {method: plan.repeats_of(store, method) for method in store.methods(plan.methods)}
    seeds = {line["options"]["split_seed"] for lines in ranked.values() for line in lines}
    has, rows = {seed: _have_the_most_popular(dataset, seed) for seed in seeds}, []
    for method, lines in ranked.items():
        users = [(user_values(x), has[x["options"]["split_seed"]]) for x in lines]
        means = [values[group].mean() for values, group in users]
        row = {
            "method": method,
            f"all users {MONITOR}": mean_sd([x["test"][MONITOR] for x in lines]),
        }
        row["users who have it"] = mean_sd(means)
        row["highest of a split"] = f"{max(means):.3f}"
        row["all others"] = mean_sd([values[~group].mean() for values, group in users])
        rows.append(row)
    return rows


def _have_the_most_popular(dataset: Dataset, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the users with a test item: True for those with the most popular one."""
    test = draw_split(dataset, DataOptions(split_seed=seed, setting="ftft"))[0].test
    pairs = np.asarray(dataset.interactions)
    tested = pairs[np.isin(pairs[:, 1], test)]
    popular = np.bincount(tested[:, 1]).argmax()
    return np.isin(np.unique(tested[:, 0]), tested[tested[:, 1] == popular, 0])


def table_search(plan: Plan, store: Store) -> TableRows:
    """Return the best trial of each method, with its options and its validation score."""
    rows = []
    for method in plan.systems(store):
        trials = store.of("trial", method)
        if trials:
            best = best_trial(trials)
            row = {
                "method": method,
                "trials": str(len(trials)),
                "the best": str(best["number"] + 1),
            }
            row[f"validation {MONITOR}"] = f"{best['validation'][MONITOR]:.3f}"
            row["chosen"] = ", ".join(
                f"{name} {value if isinstance(value, str) else format(value, '.3g')}"
                for name, value in best["tuned"].items()
            )
            rows.append(row)
    return rows


def table_3(plan: Plan, store: Store, dataset: Dataset) -> TableRows:
    """Return MILK without modules (three imputations), with each module alone, and with both."""
    erm = [x for x in plan.repeats_of(store, "erm") if "imputed" in x]
    sections = {
        "zero": [x["imputed"]["zero"] for x in erm],
        "mean": [x["test"] for x in erm],
        "map": [x["imputed"]["map"] for x in erm],
    }
    sections |= {
        m: [x["test"] for x in plan.repeats_of(store, m)] for m in ("align", "envs", "milk")
    }
    return _two_metrics(sections, TABLE_3, dataset)


def table_4(plan: Plan, store: Store, dataset: Dataset) -> TableRows:
    """Return MILK and its variants with other environments."""
    names = ("milk", *VARIANTS)
    sections = {name: [x["test"] for x in plan.repeats_of(store, name)] for name in names}
    return _two_metrics(sections, TABLE_4, dataset)


def _two_metrics(
    sections: Mapping[str, list[Any]],
    paper: Mapping[str, Mapping[str, tuple[float, float]]],
    dataset: Dataset,
) -> TableRows:
    """Return Recall@20 and NDCG@20 of each method, and those of the paper if it has the set."""
    known, rows = in_paper(dataset.name), []
    for name, repeats in sections.items():
        if not repeats:
            continue
        row = {"method": VARIANTS_IN_WORDS.get(name, name)} | {
            m: mean_sd([s[m] for s in repeats]) for m in ("recall@20", "ndcg@20")
        }
        stated = paper[name].get(known or "")
        if stated:
            row |= {"paper: recall@20": f"{stated[0]:.4f}", "paper: ndcg@20": f"{stated[1]:.4f}"}
        rows.append(row)
    return rows
