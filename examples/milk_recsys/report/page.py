"""The report of a finished run: two pictures, and a page that begins with the results in words.

The page, its style and the embedded pictures are made by `invmod.robustness.document`. `invmod`
imports torch, which takes seconds, so the files of this folder import it within functions: to
import the report needs no torch.
"""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing
from milk_recsys.config.method import find_method
from milk_recsys.report.figures import curves_png, robustness_png
from milk_recsys.report.findings import (
    FEW_USERS,
    Findings,
    find,
    finite,
    metric_name,
    number,
    pattern,
    percent,
)

__all__ = ["write_report"]

STYLE_OF_PICTURES = "img { width: 100%; max-width: 56rem; }\n"
"""CSS after the library's style: pictures as wide as the page."""
SECTION_TITLES = {
    "validation": "Validation",
    "test": "Test, under the setting",
    "test_complete": "Test, complete items",
    "test_all_cold": "Test, among all cold items",
}
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
    if metrics.get("fit_all"):
        return _write_untested(run, config, metrics)
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
    page = _page(config, metrics, findings, pictures)
    files = {f"{name}.png": content for name, content in pictures.items()}
    for name, content in {**files, "report.html": page.encode()}.items():
        with replacing(run / name) as temporary:
            temporary.write_bytes(content)
    return run / "report.html"


def _write_untested(run: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Path:
    """Write report.html of a run without a test (``--fit-all``): what was fitted on what."""
    from invmod.robustness.document import STYLE, html_document

    def table(values: Mapping[str, Any]) -> str:
        rows = (
            f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>"
            for k, v in values.items()
        )
        return f"<table>{''.join(rows)}</table>"

    title = f"{find_method(metrics['model']).title} on {metrics['data']}"
    items = metrics["missingness"]["items"]["warm"]
    body = (
        f"<h1>{escape(title)}</h1><p>Trained on all {items} items (--fit-all). No item was held "
        "out, so this run has no test. Train without --fit-all to measure the quality.</p>"
        f"<h2>Data</h2>{table(config.get('dataset', {}))}"
        f"<h2>Chosen options</h2>{table(metrics.get('chosen', {}))}"
        f"<h2>Options</h2>{table({k: v for k, v in config.items() if k != 'dataset'})}"
    )
    with replacing(run / "report.html") as temporary:
        temporary.write_text(html_document(title, body, style=STYLE), encoding="utf-8")
    return run / "report.html"


def _page(
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    findings: Findings,
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page as HTML. The template escapes every text."""
    from invmod.robustness.document import STYLE, html_document, png_data_uri

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=_share, metric_name=metric_name, count=_count)
    facts = {key.replace("_", " "): value for key, value in (config.get("dataset") or {}).items()}
    body = environment.get_template("report.html.j2").render(
        metrics=metrics,
        compare=metrics.get("compare") or None,
        findings=findings,
        pictures={name: png_data_uri(data) for name, data in pictures.items()},
        robustness_alt=_robustness_alt(findings),
        columns=[key for key in metrics["test"] if "@" in key],
        main_rows=_rows(
            metrics, findings, {key: (label, (key,)) for key, label in SECTION_TITLES.items()}
        ),
        pattern_rows=_rows(metrics, findings, _nested(metrics, "by_pattern")),
        imposed_rows=_rows(metrics, findings, _nested(metrics, "imposed")),
        few_users=FEW_USERS,
        split_parts=SPLIT_PARTS,
        sizes=_sizes(metrics),
        missing=_missingness(metrics),
        options={key: value for key, value in config.items() if key != "dataset"},
        facts=facts,
    )
    title = f"{findings.name} on {metrics['data']}"
    return html_document(title, body, style=STYLE + STYLE_OF_PICTURES)


# ------------------------------------------------------------------------ contents of the tables


def _nested(metrics: Mapping[str, Any], key: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the label and the path of each entry of `by_pattern` or `imposed`."""
    modalities = (metrics.get("missingness") or {}).get("modalities") or ()
    entries = metrics.get(key) or {}
    if key == "by_pattern":
        entries = sorted(entries, key=lambda name: -(entries[name].get("items") or 0))
    labels = {
        name: pattern(name, modalities) if key == "by_pattern" else f"{name} hidden"
        for name in entries
    }
    return {name: (label, (key, name)) for name, label in labels.items()}


def _rows(
    metrics: Mapping[str, Any],
    findings: Findings,
    places: Mapping[str, tuple[str, tuple[str, ...]]],
) -> list[dict[str, Any]]:
    """Return table rows: for each path the metrics of the model and, if any, of the ablation."""
    models = [(findings.name, metrics)]
    if findings.rival is not None:
        models.append((findings.rival, metrics["compare"]))
    rows = []
    for label, path in places.values():
        sections: list[tuple[str, Mapping[str, Any]]] = []
        for name, part in models:
            section: Any = part
            for key in path:
                section = (section or {}).get(key)
            if section:
                sections.append((name, section))
        if sections:
            rows.append({"label": label, "models": sections})
    return rows


def _missingness(metrics: Mapping[str, Any]) -> list[tuple[str, list[int | None]]]:
    """Count the items that miss each modality naturally and by the setting, in each part."""
    missingness = metrics.get("missingness") or {}
    sources = [
        (missingness.get(source) or {}).get(part) or {}
        for part in SPLIT_PARTS
        for source in ("nature", "removed")
    ]
    return [
        (name, [source.get(name) for source in sources])
        for name in missingness.get("modalities") or ()
    ]


def _sizes(metrics: Mapping[str, Any]) -> list[tuple[str, list[int | None]]]:
    """Return the number of items and of pairs of each part of the split."""
    missingness = metrics.get("missingness") or {}
    return [
        (label, [(missingness.get(what) or {}).get(part) for what in ("items", "pairs")])
        for part, label in SPLIT_PARTS.items()
    ]


def _robustness_alt(findings: Findings) -> str:
    """Return the alternative text of the robustness picture."""
    texts = [
        f"{loss.modality}: {number(loss.hidden)} when hidden, a loss of "
        f"{number(loss.estimate.value)}"
        for loss in findings.losses
    ]
    shown = "; ".join(texts) if texts else "No modality was hidden"
    return (
        f"Bars of {metric_name(findings.metric)} of {findings.name} with all modalities, under the "
        f"setting, with each modality hidden and by missing pattern. {shown}. The tables below "
        "contain all values."
    )


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


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
