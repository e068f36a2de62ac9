"""Rendering of rows of text as an aligned table."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, rule_before: int = 0) -> str:
    """Return a table of aligned text with a rule under the header.

    A second rule stands above the last `rule_before` rows, if that is not 0.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]
    lines.insert(1, rule)
    if rule_before:
        lines.insert(-rule_before, rule)
    return "\n".join(line.rstrip() for line in lines)
