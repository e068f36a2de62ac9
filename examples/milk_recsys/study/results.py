"""Write the tables, figures and verdicts of a study from its results file."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.study import claims, field, tables
from milk_recsys.study.figures import FIGURES, write_figure
from milk_recsys.study.plan import FRESH_SEED, Plan, strongest
from milk_recsys.study.records import MONITOR, mean_sd
from milk_recsys.study.spaces import (
    ABLATIONS,
    FORMER,
    METHODS,
    VARIANTS,
    WHY_PENALTIES,
    WINNER,
)
from milk_recsys.study.store import Line, Store

__all__ = ["write_results"]

PAPERS = {*METHODS, *VARIANTS, "factors"}
"""Methods whose runs belong to the study of the paper."""


def write_results(plan: Plan, store: Store, dataset: Dataset, out: Path) -> list[Path]:
    """Write the tables, figures and verdicts for which there are runs; return their paths."""
    paths: list[Path] = []
    captions = captions_of(plan, store, dataset)
    paper_tables = {
        "table1": lambda: tables.table_1(dataset),
        "table2": lambda: tables.table_2(plan, store, dataset),
        "table3": lambda: tables.table_3(plan, store, dataset),
        "table4": lambda: tables.table_4(plan, store, dataset),
    }
    for name in plan.names:
        if name == "field":
            paths += _field(plan, store, out, captions)
        elif name in paper_tables:
            paths += tables.write_table(paper_tables[name](), out / name, captions[name])
        else:
            paths += write_figure(FIGURES[name], plan, store, out / name)
            paths += tables.write_table(numbers(name, plan, store), out / name, captions["figure"])
    if "table2" in plan.names:
        paths += tables.write_table(
            tables.table_popular(plan, store, dataset), out / "popular", captions["popular"]
        )
    if store.lines:
        paths += write_figure(FIGURES["search"], plan, store, out / "search")
        paths += tables.write_table(
            tables.table_search(plan, store), out / "search", captions["search"]
        )
    made_claims = [] if plan.names == ("field",) else claims.claims_of(plan, store)
    if made_claims:
        rows = claims.rows(made_claims)
        paths += tables.write_table(rows, out / "verdicts", captions["verdicts"])
        paths.append(out / "verdicts.txt")
        lines = [
            f"{row['claim']} ({row['section']}): {row['verdict']}. {row['comparison']}."
            for row in rows
        ]
        lines += [text for text in (claims.small_alpha(store),) if text]
        with replacing(paths[-1]) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def _field(plan: Plan, store: Store, out: Path, captions: Mapping[str, str]) -> list[Path]:
    """Write the tables and figures of the comparison of all systems."""
    paths = tables.write_table(field.table_field(plan, store), out / "field", captions["field"])
    paths += tables.write_table(
        field.table_patterns(plan, store), out / "field_patterns", captions["patterns"]
    )
    paths += tables.write_table(
        field.table_without(plan, store), out / "field_without", captions["without"]
    )
    paths += tables.write_table(
        field.table_fresh(plan, store), out / "field_fresh", captions["fresh"]
    )
    for name, draw in field.FIGURES.items():
        paths += write_figure(draw, plan, store, out / name)
    return paths


def _hours(lines: Iterable[Line]) -> float:
    """Return the hours that runs and their audits took."""
    return float(sum(x["seconds"] + x.get("audit", {}).get("seconds", 0) for x in lines)) / 3600


def captions_of(plan: Plan, store: Store, dataset: Dataset) -> dict[str, str]:
    """Return the caption of each table: data, trials, repeats, tests, date and machine."""
    what = (
        f"{dataset.name}, candidates: test items; {plan.trials} trials per method on a separate "
        "split"
    )
    how = f"{plan.repeats} repeats, mean ± standard deviation"
    where = ""
    if store.lines:
        last = store.lines[-1]
        versions = last["versions"]
        machine = f"{platform.machine()}, {versions['device']}, torch {versions['torch']}"
        where = f" {last['date']}, {machine}."
    former = ""
    if store.of("repeat", FORMER):
        former = f" {FORMER}: the first version of {WINNER}, whose options were tuned."
    paper = [
        x for x in store.lines if x["method"] in PAPERS and x["phase"] not in ("fresh", "timing")
    ]
    hours, paper_hours = f"{_hours(store.lines):.1f}", f"{_hours(paper):.1f}"
    return {
        "table1": (
            f"Split 0 of {dataset.name}. 20% of the items with interactions are new; half of these "
            "are test items."
        ),
        "table2": (
            f"{what}; {how}. The runs of the paper's study took {paper_hours} hours.{where}"
        ),
        "popular": (
            f"{what}, FTMT; {how}. NDCG@20 of all users, of the users who have the most popular "
            f"test item of their split (mean, and highest split), and of all others.{where}"
        ),
        "table3": (
            f"{what}, FTMT; {how}. Zero, mean and map are imputations of the same trained model "
            f"without modules.{where}"
        ),
        "table4": f"{what}, FTMT; {how}. All rows use the tuned options of MILK.{where}",
        "figure": f"{what}; {how}.{where}",
        "field": (
            f"{what}; {plan.repeats} repeats, mean ± half the width of a 95% t interval, corrected "
            "for splits that share items (Nadeau and Bengio). FTFT: the models of FTMT, tested on "
            "complete items. Worst modality missing: change of NDCG@20 when the most useful "
            "modality is hidden from all test items. Seconds: a whole run (factors, training, "
            "validation and all tests). Seconds to rank: ranking the test items once. p: "
            "two-sided t tests on log ratios of NDCG@20 under FTMT, paired over repeats, "
            "corrected for shared items and for the number of methods in the column (Holm). "
            f"{WINNER} was designed with these splits in view, so its p values here are too small. "
            f"All runs took {hours} hours, of which {paper_hours} belong to the paper's "
            f"study.{former}{where}"
        ),
        "patterns": (
            f"{what}, FTMT; {how}. NDCG@20 of the test items with exactly these modalities, ranked "
            f"among all candidates, and of all test items with one modality hidden.{where}"
        ),
        "without": (
            f"{dataset.name}, FTMT; {plan.repeats} repeats, mean ± half the width of a 95% t "
            f"interval. Each variant lacks one part of {WINNER}; its other options are chosen as "
            "always. p: two-sided t tests on log ratios, corrected for splits that share items but "
            f"not for the number of variants.{where}"
        ),
        "fresh": (
            f"{dataset.name}, {plan.fresh()} held-out splits (seeds from {FRESH_SEED} on), which "
            "no search has used; tuned methods have the options of the search. Two-sided t tests "
            "on log ratios, paired over splits, corrected for splits that share items (Nadeau and "
            "Bengio) and for the number of claims (Holm). Splits as independent: without the "
            "correction for shared items. Last column: number of splits in which a 95% bootstrap "
            f"interval over users excludes 0.{former}{where}"
        ),
        "search": (
            f"{dataset.name}, FTMT, validation items of a separate split: the number of the best "
            f"trial and its options.{where}"
        ),
        "verdicts": (
            f"{what}. Two-sided t tests on log ratios, paired over repeats, corrected for the "
            "number of claims (Holm). Last column: number of splits in which a 95% bootstrap "
            f"interval over users excludes 0.{where}"
        ),
    }


def numbers(name: str, plan: Plan, store: Store) -> tables.TableRows:
    """Return the values that a figure shows, as the rows of a table."""
    mean, metric = mean_sd, MONITOR
    if name == "figure6":
        return [
            {
                "option": line["phase"].removeprefix("sweep "),
                "split": str(line["number"]),
                "validation ndcg@20": f"{line['validation'][metric]:.4f}",
                "test ndcg@20": f"{line['test'][metric]:.4f}" if "test" in line else "diverged",
            }
            for line in store.lines
            if line["phase"].startswith("sweep ")
        ]
    if name == "why":
        return worth(plan, store)
    top = strongest(store, plan.baselines(), plan.repeats)[:2]
    methods = {"figure1": ["duif"], "figure3": ["milk", *top, "content_knn"]}.get(
        name, list(ABLATIONS)
    )
    rows = []
    for method in methods:
        lines = plan.repeats_of(store, method)
        if not lines:
            continue
        row = {"method": method}
        if name == "figure3":
            groups = [
                g
                for g in ("overall", "missing 0", "missing 1", "missing 2")
                if g in lines[0].get("groups", {})
            ]
            row |= {
                g: mean([x["groups"][g][metric] for x in lines if g in x["groups"]]) for g in groups
            }
            if not groups:
                continue
        else:
            row["complete"] = mean([x["test_complete"][metric] for x in lines])
            row["FTMT"] = mean([x["test"][metric] for x in lines])
            if name != "figure5":
                missing = plan.repeats_of(store, method, "mtmt")
                row["MTMT"] = mean([x["test"][metric] for x in missing]) if missing else ""
            row["lost, FTMT"] = mean(
                [1 - x["test"][metric] / max(x["test_complete"][metric], 1e-12) for x in lines]
            )
        rows.append(row)
    return rows


def worth(plan: Plan, store: Store) -> tables.TableRows:
    """Return NDCG@20 of each modality alone and its share of the score.

    The rows are MILK without modules, MILK as tuned, and MILK with several penalty weights.
    """
    limit = plan.top_repeats()  # as many as the sweep has, so that all rows use the same splits
    repeats = {name: store.ranked("repeat", method, limit=limit) for name, method in WORTH.items()}
    repeats |= {
        f"milk, penalty {v:g}": store.ranked(f"sweep penalty_weight={v:g}", "milk")
        for v in WHY_PENALTIES
    }
    rows = []
    for name, lines in repeats.items():
        lines = [line for line in lines if "alone" in line]
        if not lines:
            continue
        row = {"model": name, "repeats": str(len(lines))}
        row |= {
            part: mean_sd([x[key][MONITOR] for x in lines])
            for part, key in SECTIONS_OF_WORTH.items()
        }
        for modality in lines[0]["alone"]:
            row[f"{modality} alone"] = mean_sd([x["alone"][modality] for x in lines])
            row[f"{modality}, share"] = (
                f"{sum(x['share'][modality] for x in lines) / len(lines):.2f}"
            )
        rows.append(row)
    return rows


WORTH = {"erm": "erm", "milk, as tuned": "milk"}
SECTIONS_OF_WORTH = {"complete": "test_complete", "FTMT": "test"}
