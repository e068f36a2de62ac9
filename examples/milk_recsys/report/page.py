"""The report of a finished run: two pictures, and a page for the one who decides about its use.

The page, its style and the embedded pictures are made by `invmod.robustness.document`. `invmod`
imports torch, which takes seconds, so the files of this folder import it within functions: to
import the report needs no torch.
"""

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing
from milk_recsys.base.reading import lines_of
from milk_recsys.config.method import find_method
from milk_recsys.report.contents import contents, count_text
from milk_recsys.report.curves import curves_png
from milk_recsys.report.findings import Findings, find
from milk_recsys.report.glossary import meaning
from milk_recsys.report.robustness import robustness_png
from milk_recsys.report.shares import name_of
from milk_recsys.report.words import breakable, metric_name, number, percent

__all__ = ["write_report"]


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
    try:
        return _write(run, config, metrics)
    except DataError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{run}: metrics.json, history.jsonl or config.json lacks a value, or has a wrong one "
            f"({type(error).__name__}: {error!s:.200}). Restore the file, or train again."
        ) from error


def _write(run: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Path:
    """Write report.html and its pictures from the content of the files."""
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
    page = _page(run, config, metrics, findings, pictures)
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
        count=count_text,
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
        **contents(run, config, metrics, findings),
    )
    title = f"{findings.name} on {metrics['data']}"
    style = STYLE + (folder / "report.css").read_text(encoding="utf-8")
    return html_document(title, body, style=style)


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


# --------------------------------------------------------------------------------------- files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. A report is made from the folder of a finished run."
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must contain a JSON object, got {type(value).__name__}.")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history in the order of their epochs."""
    try:
        lines = [line.rstrip("\n") for line in lines_of(path)]
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. A report is made from the folder of a finished run."
        ) from None
    entries = []
    for at, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries.append((int(entry["epoch"]), entry))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path}: line {at} is not a JSON object with an `epoch`.") from None
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]
