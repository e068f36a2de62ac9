"""The result of an entry as text and as a page. This module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from milk_recsys.study.bench.score import Comparison
from milk_recsys.study.tables import markdown

__all__ = ["aligned", "page_of", "report_of"]


def aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table as lines of text, with columns of equal width."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def report_of(compared: Comparison) -> list[str]:
    """Return the tables of a comparison as lines of text."""
    lines = aligned(compared.means())
    if compared.claims:
        keep = ("claim", "verdict", "comparison", "p (Holm)", "splits significant over users")
        lines += ["", *aligned([{k: row[k] for k in keep} for row in compared.tests()])]
    return [*lines, *(f"note: {note}" for note in compared.notes)]


def page_of(compared: Comparison, digest: str) -> str:
    """Return the tables of a comparison as a page in Markdown."""
    caption = (
        "Means over splits ± half the width of a 95% interval, for splits that share items "
        "(Nadeau and Bengio)."
    )
    sections = [f"# {compared.name} on {compared.task}", markdown(compared.means(), caption)]
    if compared.claims:
        test = (
            "Two-sided t tests on log ratios of NDCG@20, paired over splits, corrected for splits "
            "that share items and for the number of systems (Holm). Last column: number of splits "
            "in which a 95% bootstrap interval over users excludes 0."
        )
        sections.append(markdown(compared.tests(), test))
    hashes = [
        {
            "split": str(line["number"]),
            "split hash": line["split"],
            "candidates hash": line["candidates"],
        }
        for line in compared.lines
    ]
    sections += [markdown(hashes, f"SHA-256 of the lists: `{digest}`.")]
    sections += [f"- {note}" for note in compared.notes]
    return "\n\n".join(sections) + "\n"
