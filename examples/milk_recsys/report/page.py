"""The report of a finished run: two pictures, and a page for the one who decides about its use.

The page, its style and the embedded pictures are made by `invmod.robustness.document`. `invmod`
imports torch, which takes seconds, so the files of this folder import it within functions: to
import the report needs no torch.
"""

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing
from milk_recsys.config.method import find_method, method_names
from milk_recsys.config.train_command import train_command
from milk_recsys.report.advice import next_steps, options_of, own_options
from milk_recsys.report.figures import curves_png, robustness_png
from milk_recsys.report.findings import Findings, find
from milk_recsys.report.glossary import glossary, meaning
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
from milk_recsys.report.words import breakable, finite, metric_name, number, pattern, percent
from milk_recsys.report.worth import pattern_findings, weight_rows, worth_answer, worth_rows

__all__ = ["write_report"]

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


def write_report(run: Path) -> Path:
    """Write report.html, robustness.png and, if the model has epochs, curves.png.

    Each file is written under a temporary name and then renamed, so no reader sees an incomplete
    file. The page contains its pictures and needs no other file and no network.

    Arguments:
        run: folder with config.json, metrics.json, history.jsonl and, if an ablation was
            trained, compare/history.jsonl. In config.json `dataset` describes the data; all other
            entries are options.

    Returns:
        the path of report.html.

    Raises:
        DataError: a file is missing or has no valid content.
    """
    config, metrics = _read_json(run / "config.json"), _read_json(run / "metrics.json")
    lacking = [key for key in ("model", "data", "setting", "monitor", "test") if key not in metrics]
    if lacking:
        raise DataError(
            f"{run / 'metrics.json'}: no {', '.join(lacking)}. Is this the folder of a finished "
            "run?"
        )
    history = _read_lines(run / "history.jsonl")
    rival_history = _read_lines(run / "compare" / "history.jsonl") if metrics.get("compare") else []
    findings = find(metrics)
    pictures = {"robustness": robustness_png(metrics, findings)}
    if find_method(metrics["model"]).trains:
        pictures["curves"] = curves_png(history, rival_history, metrics, findings)
    page = _page(run, config, metrics, findings, pictures)
    files = {f"{name}.png": content for name, content in pictures.items()}
    for name, content in {**files, "report.html": page.encode()}.items():
        with replacing(run / name) as temporary:
            temporary.write_bytes(content)
    return run / "report.html"


def _page(
    run: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    findings: Findings,
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page as HTML. The template escapes every text."""
    from invmod.robustness.document import STYLE, html_document, png_data_uri

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        share=percent,
        label=_label,
        meaning=meaning,
        count=_count,
        name_of=name_of,
        breakable=breakable,
        command_parts=_command_parts,
    )
    body = environment.get_template("report.html.j2").render(
        metrics=metrics,
        compare=metrics.get("compare") or None,
        findings=findings,
        pictures={name: png_data_uri(data) for name, data in pictures.items()},
        robustness_alt=_robustness_alt(findings),
        **_top(metrics, findings),
        **_modalities(metrics, findings),
        **_lists(metrics, findings),
        **_details(metrics, findings),
        **_run(run, config, metrics, findings),
    )
    title = f"{findings.name} on {metrics['data']}"
    style = STYLE + (folder / "report.css").read_text(encoding="utf-8")
    return html_document(title, body, style=style)


# ------------------------------------------------------------------------ contents of the page


def _top(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
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
        f"{pattern(key, names)} ({_count(by_pattern[key].get('items'))})": ("by_pattern", key)
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
                loss.estimate.value,
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
        "share_patterns": [(label, [_count(items), *cells]) for label, items, cells in patterns],
    }


def _details(metrics: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the tables of all figures, of epochs and of the data."""
    missingness = metrics.get("missingness") or {}
    models = [(findings.name, metrics)]
    if findings.rival is not None:
        models.append((findings.rival, metrics["compare"]))
    missing = {
        label: [
            (name, [_count(_at(missingness, source, part, name)) for source in SOURCES])
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
                    _count(part.get("epochs")),
                    _count(part.get("best_epoch")),
                    number(part.get("seconds_per_epoch"), 3),
                ],
            )
            for name, part in models
        ],
        "missing": missing if modalities_of(metrics) else {},
        "sizes": [
            (label, [_count(_at(missingness, what, part)) for what in ("items", "pairs")])
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


def _command_parts(command: str) -> list[str]:
    """Return a command in parts between which a line should break: before each option."""
    return re.split(r" (?=--)", command)


def _label(term: str) -> str:
    """Return the name of a metric; any other term as it is."""
    return metric_name(term) if "@" in term else term


def _robustness_alt(findings: Findings) -> str:
    """Return the alternative text of the robustness picture."""
    texts = [
        f"{loss.modality}: {number(loss.hidden)} when hidden, a loss of "
        f"{number(loss.estimate.value)}"
        for loss in findings.losses
    ]
    shown = "; ".join(texts) if texts else "No modality was hidden"
    return (
        f"Bars of {metric_name(findings.metric)} of {findings.name} with all modalities, with "
        f"gaps, with each modality hidden and by missing pattern. {shown}. The tables above "
        "contain all values."
    )


def _count(value: Any) -> str:
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
        return ", ".join(f"{key}: {_count(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_count(item) for item in value) or "none"
    return str(value)


# --------------------------------------------------------------------------------------- files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. A report is made from the folder of a finished run."
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must contain a JSON object, got {type(value).__name__}.")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history in the order of their epochs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. A report is made from the folder of a finished run."
        ) from None
    entries = []
    for at, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries.append((int(entry["epoch"]), entry))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: line {at} is not a JSON object with an `epoch`.") from None
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]
