"""Write the tables, figures and verdicts of a study from its results file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.study import claims, field, tables
from milk_recsys.study.captions import captions_of
from milk_recsys.study.figures import FIGURES, write_figure
from milk_recsys.study.plan import Plan, strongest
from milk_recsys.study.records import MONITOR, mean_sd
from milk_recsys.study.spaces import (
    ABLATIONS,
    SWEEPS,
    WHY_PENALTIES,
)
from milk_recsys.study.store import Store

__all__ = ["write_results"]


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
            paths += tables.write_table(numbers(name, plan, store), out / name, captions[name])
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


def numbers(name: str, plan: Plan, store: Store) -> tables.TableRows:
    """Return the values that a figure shows, as the rows of a table."""
    mean, metric = mean_sd, MONITOR
    if name == "figure6":
        return [
            {
                "option": line["phase"].removeprefix("sweep "),
                "split": str(line["number"]),
                "validation ndcg@20": f"{line['validation'][metric]:.3f}",
                "test ndcg@20": f"{line['test'][metric]:.3f}" if "test" in line else "diverged",
            }
            for option, values in SWEEPS.items()
            for value in values
            for line in store.of(f"sweep {option}={value:g}", "milk")
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
