"""The values that the template of the page shows, section by section."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milk_recsys.config.method import find_method, method_names
from milk_recsys.config.train_command import train_command
from milk_recsys.report.advice import next_steps, options_of, own_options
from milk_recsys.report.findings import Findings
from milk_recsys.report.glossary import glossary
from milk_recsys.report.shares import (
    example_sentences,
    name_of,
    share_findings,
    share_sources,
    share_tables,
)
from milk_recsys.report.systems import measures, quality_rows, sections_of, systems_of
from milk_recsys.report.values import modalities_of, num_customers
from milk_recsys.report.verdict import candidates_of
from milk_recsys.report.words import finite, number, pattern
from milk_recsys.report.worth import pattern_findings, weight_rows, worth_answer, worth_rows

__all__ = ["contents", "count_text"]

CONTENTS = {
    "verdict": "Verdict",
    "list": "One customer's list",
    "modalities": "What each modality is worth",
    "next": "What to do next",
    "shares": "Popularity, coverage and exposure",
    "ablation": "Comparison with the ablation",
    "limits": "Limits",
    "training": "Training",
    "figures": "All figures",
    "data": "Data",
    "glossary": "Glossary",
    "run": "Run",
}
FACTS = {
    "users": "customers",
    "modalities": "modalities, with the number of their values",
    "missing_in_nature": "items without a modality",
}
SOURCES = ("nature", "removed")  # Of missing modalities: the data, and the setting.
SPLIT_PARTS = {"warm": "Training (warm)", "validation": "Validation", "test": "Test"}


def contents(
    run: Path, config: Mapping[str, Any], metrics: Mapping[str, Any], findings: Findings
) -> dict[str, Any]:
    """Return the variables of report.html.j2, except for the pictures."""
    return {
        **_verdict(metrics, findings),
        **_modalities(metrics, findings),
        **_lists(metrics, findings),
        **_details(metrics, findings),
        **_run(run, config, metrics, findings),
    }


def _verdict(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the contents, the sentences on the model, and the main table."""
    left_out = set() if metrics.get("lists") else {"list", "shares"}
    left_out |= set() if findings.ablation else {"ablation"}
    systems, known = systems_of(metrics, findings), metrics["model"] in method_names()
    return {
        "contents": {key: title for key, title in CONTENTS.items() if key not in left_out},
        "title": findings.name[0].upper() + findings.name[1:],
        "summary": find_method(metrics["model"]).summary if known else "",
        "systems": systems,
        "quality": quality_rows(metrics, findings, systems),
        "candidates": candidates_of(metrics),
        "customers": num_customers(metrics),
        "gaps": _removes(metrics),
    }


def _removes(metrics: Mapping[str, Any]) -> bool:
    """Return whether the setting removed a modality from a test item."""
    removed = ((metrics.get("missingness") or {}).get("removed") or {}).get("test") or {}
    return any(removed.values())


def _modalities(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the tables on modalities and on patterns."""
    systems, names = systems_of(metrics, findings), modalities_of(metrics)
    worth = worth_rows(metrics, findings)
    hidden = {f"“{name}” hidden": ("imposed", name) for name in metrics.get("imposed") or {}}
    by_pattern = metrics.get("by_pattern") or {}
    most_items_first = sorted(by_pattern, key=lambda key: -(by_pattern[key].get("items") or 0))
    patterns = {
        f"{pattern(key, names)} ({count_text(by_pattern[key].get('items'))})": ("by_pattern", key)
        for key in most_items_first
    }
    levels = {"complete": ("test_complete",), **hidden} if hidden else {}
    return {
        "modalities": list(names),
        "worth": worth,
        "worth_answer": worth_answer(findings, worth),
        "pattern_findings": pattern_findings(metrics, findings),
        "weights": weight_rows(metrics),
        "hidden_levels": measures(systems, levels, findings.metric),
        "pattern_levels": measures(systems, patterns, findings.metric),
        "loss_rows": [
            (
                loss.modality,
                findings.rival_losses[loss.modality].estimate.value,
                findings.loss_differences[loss.modality],
            )
            for loss in findings.losses
            if loss.modality in findings.loss_differences
        ],
    }


def _lists(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return what the page shows of the lists; `lists` is None for a run that has none."""
    lists = metrics.get("lists") or None
    if lists is None:
        return {"lists": None}
    sources = share_sources(metrics, findings)
    rows, patterns = share_tables(metrics, sources)
    return {
        "lists": lists,
        "customer": name_of(lists["example"], "customer"),
        "example_sentences": example_sentences(metrics, findings),
        "share_findings": share_findings(metrics),
        "share_titles": list(sources.values()),
        "share_rows": rows,
        "share_patterns": [
            (label, [count_text(items), *cells]) for label, items, cells in patterns
        ],
    }


def _details(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the tables of all figures, of epochs and of the data."""
    missingness = metrics.get("missingness") or {}
    models = [(findings.name, metrics)]
    if findings.rival is not None:
        models.append((findings.rival, metrics["compare"]))
    missing = {
        label: [
            (name, [count_text(_at(missingness, source, part, name)) for source in SOURCES])
            for name in modalities_of(metrics)
        ]
        for part, label in SPLIT_PARTS.items()
    }
    return {
        "sections": sections_of(metrics, systems_of(metrics, findings)),
        "epoch_rows": [
            (
                name,
                [
                    count_text(part.get("epochs")),
                    count_text(part.get("best_epoch")),
                    number(part.get("seconds_per_epoch"), 3),
                ],
            )
            for name, part in models
        ],
        "missing": missing if modalities_of(metrics) else {},
        "sizes": [
            (label, [count_text(_at(missingness, what, part)) for what in ("items", "pairs")])
            for part, label in SPLIT_PARTS.items()
        ],
        "glossary": glossary(metrics),
    }


def _run(
    run: Path, config: Mapping[str, Any], metrics: Mapping[str, Any], findings: Findings
) -> dict[str, Any]:
    """Return the next steps, and what made the run."""
    options, facts = options_of(config), config.get("dataset") or {}
    worth = worth_rows(metrics, findings)
    return {
        "steps": next_steps(metrics, findings, worth, options, run),
        "command": None if options is None else train_command(options),
        "options": own_options(config, options),
        "facts": {FACTS.get(key, key.replace("_", " ")): value for key, value in facts.items()},
        "run_facts": {
            "date": _date(metrics.get("date")),
            "seconds from start to report": number(metrics.get("seconds"), 1),
            "model": metrics["model"],
            "setting": metrics["setting"],
            "seed": _text(metrics.get("seed")),
            "split seed": _text(metrics.get("split_seed")),
            "metric that chooses the epoch": metrics["monitor"],
            "candidates": metrics.get("candidates"),
        },
    }


def _at(values: Any, *path: str) -> Any:
    """Return the value at a path of a nested mapping; None if there is none."""
    for key in path:
        values = (values or {}).get(key)
    return values


def _date(text: str | None) -> str:
    """Return the date and the time of an ISO date in words, such as 5 March 2026, 14:02."""
    if text is None:
        return "–"
    date = datetime.datetime.fromisoformat(text)
    return f"{date.day} {date:%B %Y, %H:%M} (UTC{date:%z})"


def _text(value: Any) -> str:
    """Return a seed as text, without separators."""
    return "–" if value is None else str(value)


def count_text(value: Any) -> str:
    """Return the text of a cell: integers with separators, lists joined, null as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}" if finite(value) is not None else "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(count_text(item) for item in value) or "none"
    return str(value)
