"""Rendering of rows of text as an aligned table."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    rule_before: int = 0,
    numbers_right: bool = False,
) -> str:
    """Return a table of aligned text with a rule under the header.

    A second rule stands above the last `rule_before` rows, if that is not 0. With `numbers_right`,
    the entries of all columns but the first are aligned to the right.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = []
    for row in (header, *rows):
        right = numbers_right and row is not header
        cells = [
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    lines.insert(1, rule)
    if rule_before:
        lines.insert(-rule_before, rule)
    return "\n".join(line.rstrip() for line in lines)
