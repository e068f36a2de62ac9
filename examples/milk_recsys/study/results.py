"""What a study shows: its tables, its figures and its verdicts, written beside the store."""

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
from milk_recsys.study.spaces import ABLATIONS, METHODS, SPACES, VARIANTS, WHY_PENALTIES, WINNER
from milk_recsys.study.store import Line, Store

__all__ = ["write_results"]

PAPERS = {*METHODS, *VARIANTS, "factors"}  # methods of the paper's study


def write_results(plan: Plan, store: Store, dataset: Dataset, out: Path) -> list[Path]:
    """Write the tables and figures of the plan that the store has runs for, and the verdicts; return their paths."""
    found: list[Path] = []
    captions = captions_of(plan, store, dataset)
    made = {
        "table1": lambda: tables.table_1(dataset),
        "table2": lambda: tables.table_2(plan, store, dataset),
        "table3": lambda: tables.table_3(plan, store, dataset),
        "table4": lambda: tables.table_4(plan, store, dataset),
    }
    for name in plan.names:
        if name == "field":
            found += _field(plan, store, out, captions)
        elif name in made:
            found += tables.write_table(made[name](), out / name, captions[name])
        else:
            found += write_figure(FIGURES[name], plan, store, out / name)
            found += tables.write_table(numbers(name, plan, store), out / name, captions["figure"])
    if "table2" in plan.names:
        found += tables.write_table(
            tables.table_popular(plan, store, dataset), out / "popular", captions["popular"]
        )
    if store.lines:
        found += write_figure(FIGURES["search"], plan, store, out / "search")
        found += tables.write_table(
            tables.table_search(plan, store), out / "search", captions["search"]
        )
    made_claims = [] if plan.names == ("field",) else claims.claims_of(plan, store)
    if made_claims:
        rows = claims.rows(made_claims)
        found += tables.write_table(rows, out / "verdicts", captions["verdicts"])
        found.append(out / "verdicts.txt")
        lines = [
            f"{row['claim']} ({row['section']}): {row['verdict']}. {row['figures']}."
            for row in rows
        ]
        lines += [text for text in (claims.small_alpha(store),) if text]
        with replacing(found[-1]) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


def _field(plan: Plan, store: Store, out: Path, captions: Mapping[str, str]) -> list[Path]:
    """Write the field's tables and figures."""
    found = tables.write_table(field.table_field(plan, store), out / "field", captions["field"])
    found += tables.write_table(
        field.table_patterns(plan, store), out / "field_patterns", captions["patterns"]
    )
    found += tables.write_table(
        field.table_without(plan, store), out / "field_without", captions["without"]
    )
    found += tables.write_table(
        field.table_fresh(plan, store), out / "field_fresh", captions["fresh"]
    )
    for name, draw in field.FIGURES.items():
        found += write_figure(draw, plan, store, out / name)
    return found


def _hours(lines: Iterable[Line]) -> float:
    """Add up what runs and their audits took."""
    return float(sum(x["seconds"] + x.get("audit", {}).get("seconds", 0) for x in lines)) / 3600


def captions_of(plan: Plan, store: Store, dataset: Dataset) -> dict[str, str]:
    """Say under each table what it is of: data, trials, repeats, machine and date."""
    what = f"{dataset.name}, candidates test, {plan.trials} trials a method on a split of their own"
    how = f"{plan.repeats} repeats, mean ± standard deviation"
    where = ""
    if store.lines:
        last = store.lines[-1]
        versions = last["versions"]
        where = f" {last['date']}, {platform.machine()}, {versions['device']}, torch {versions['torch']}."
    paper = [
        x for x in store.lines if x["method"] in PAPERS and x["phase"] not in ("fresh", "timing")
    ]
    return {
        "table1": f"Split 0 of {dataset.name}: 20% of the items with an interaction are new, half of them for test.",
        "table2": f"{what}; {how}. The paper's study took {_hours(paper):.1f} hours of runs.{where}",
        "popular": (
            f"{what}, FTMT; {how}: the users who have the most popular test item of their split, and the others.{where}"
        ),
        "table3": f"{what}, FTMT; {how}. Zero, mean and map share one training without modules.{where}",
        "table4": f"{what}, FTMT; {how}, all with MILK's tuned options.{where}",
        "figure": f"{what}; {how}.{where}",
        "field": (
            f"{what}; {plan.repeats} repeats, mean ± half a 95% t interval, corrected for splits that share items. "
            "FTFT is FTMT's training with complete test items; worst modality missing: what NDCG@20 loses when the "
            "most useful one is hidden from all test items; seconds: a whole run (factors, training, validation, all "
            "ways of testing), and ranking the test items once; p: FTMT's NDCG@20, t tests on log ratios, paired "
            "over repeats, corrected for shared items and down the column (Holm). "
            f"{WINNER} was designed while these splits "
            f"were looked at, so its p here are too small. All runs took {_hours(store.lines):.1f} hours, the paper's "
            f"among them {_hours(paper):.1f}.{where}"
        ),
        "patterns": (
            f"{what}, FTMT; {how}: NDCG@20 of the test items that have these modalities, ranked among all, and of all "
            f"test items with one hidden.{where}"
        ),
        "without": (
            f"{dataset.name}, FTMT; {plan.repeats} repeats, mean ± half a 95% t interval: {WINNER} as tuned, and "
            "without one of its parts, nothing tuned anew. p: t tests on log ratios, corrected for splits that share "
            f"items, not for their number.{where}"
        ),
        "fresh": (
            f"{dataset.name}, {plan.fresh()} splits from seed {FRESH_SEED} on that no search has seen, options as "
            "chosen before. Two-sided t tests on log ratios, paired over splits, corrected for splits that share items "
            "(Nadeau and Bengio) and together (Holm); beside them p without the former, and the splits in which a "
            f"bootstrap over users leaves 0 out.{where}"
        ),
        "search": (
            f"{dataset.name}, validation items of a split of their own under FTMT: which trial was the best, and its "
            f"options.{where}"
        ),
        "verdicts": (
            f"{what}. Two-sided t tests on log ratios, paired over repeats and corrected together (Holm); beside them, "
            f"the splits in which a bootstrap over users leaves 0 out.{where}"
        ),
    }


def numbers(name: str, plan: Plan, store: Store) -> tables.TableRows:
    """Return the numbers that a figure shows."""
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
    baselines = [m for m in plan.methods if m not in ABLATIONS and SPACES[m]]
    top = strongest(store, baselines, plan.repeats)[:2]
    methods = {"figure1": ["duif"], "figure3": ["milk", *top, "content_knn"]}.get(
        name, list(ABLATIONS)
    )
    rows = []
    for method in methods:
        lines = store.ranked("repeat", method, limit=plan.repeats)
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
                missing = store.ranked("repeat", method, "mtmt", limit=plan.repeats)
                row["MTMT"] = mean([x["test"][metric] for x in missing]) if missing else ""
            row["lost, FTMT"] = mean(
                [1 - x["test"][metric] / max(x["test_complete"][metric], 1e-12) for x in lines]
            )
        rows.append(row)
    return rows


def worth(plan: Plan, store: Store) -> tables.TableRows:
    """Return what each modality is worth: to the ablation without modules, to MILK, and to it at several penalties."""
    few = plan.top_repeats()  # the splits that the points have
    found = {name: store.ranked("repeat", method, limit=few) for name, method in WORTH.items()}
    found |= {
        f"milk, penalty {v:g}": store.ranked(f"sweep penalty_weight={v:g}", "milk")
        for v in WHY_PENALTIES
    }
    rows = []
    for name, lines in found.items():
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
