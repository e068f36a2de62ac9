"""Rendering of a summary of missingness as text tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

from invmod._tables import aligned
from invmod.missingness.mcar_results import McarTest, counted, shown_p
from invmod.missingness.summary import MissingnessSummary

MAX_ROWS = 20  # rows of each table; a note states how many more there are
MAX_NAMES = 6  # missing modalities listed for a pattern

Table = tuple[list[str], list[list[str]], str]


def summary_table(summary: MissingnessSummary) -> str:
    """Return the summary as aligned text, as ``str(summary)`` does.

    Example:
        >>> import torch
        >>> from invmod.missingness import missingness_summary
        >>> mask = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
        >>> print(summary_table(missingness_summary(mask, ["image", "text"])))
        4 rows, 2 modalities; 25.0% of the rows are complete, 50.0% of the cells are missing
        <BLANKLINE>
        modality  missing  rate
        --------  -------  -----
        text            3  75.0%
        image           1  25.0%
        <BLANKLINE>
        missing modalities  rows  share
        ------------------  ----  -----
        text                   2  50.0%
        (none)                 1  25.0%
        image, text            1  25.0%
        <BLANKLINE>
        missing together  rows  expected  correlation  odds ratio
        ----------------  ----  --------  -----------  ----------
        image, text          1       0.8         0.33        1.80
    """
    parts = [headline(summary)]
    for header, rows, note in (rate_rows(summary), pattern_rows(summary), pair_rows(summary)):
        if rows:
            parts.append(aligned(header, rows, numbers_right=True) + (f"\n{note}" if note else ""))
    return "\n\n".join(parts)


def headline(summary: MissingnessSummary) -> str:
    """Return the numbers of rows and modalities and the overall rates in one line."""
    modalities = counted(len(summary.modalities), "modality", "modalities")
    counts = f"{counted(summary.num_rows, 'row')}, {modalities}"
    if not summary.num_rows:
        return counts
    return (
        f"{counts}; {summary.complete_rows / summary.num_rows:.1%} of the rows are complete, "
        f"{summary.cell_rate:.1%} of the cells are missing"
    )


def rate_rows(summary: MissingnessSummary) -> Table:
    """Return header, rows and note of the table of missing rates, the largest rate first."""
    header = ["modality", "missing", "rate"]
    partly = any(summary.partial)
    if partly:
        header.append("missing in part")
    entries = zip(summary.modalities, summary.missing, summary.rates, summary.partial, strict=True)
    rows = [
        [shown_name(name), str(count), f"{rate:.1%}", *([str(partial)] if partly else [])]
        for name, count, rate, partial in sorted(entries, key=lambda entry: -entry[1])
    ]
    never = [row for row in rows if row[1] == "0" and row[3:] in ([], ["0"])]
    if len(rows) > MAX_ROWS and never:
        # In wide tables, complete columns are a long list without information.
        rows = [row for row in rows if row not in never]
        note = f"{len(never)} more without a missing value."
    else:
        note = ""
    if len(rows) > MAX_ROWS:
        note = f"{len(rows) - MAX_ROWS} more with a lower rate. {note}".strip()
    return header, rows[:MAX_ROWS], note


def pattern_rows(summary: MissingnessSummary) -> Table:
    """Return header, rows and note of the table of patterns, the most frequent first."""
    shown = summary.patterns[:MAX_ROWS]
    rest = summary.patterns[MAX_ROWS:]
    rows = [
        [missing_names(summary, entry.missing), str(entry.count), f"{entry.rate:.1%}"]
        for entry in shown
    ]
    note = (
        f"{counted(len(rest), 'more pattern')} with "
        f"{counted(sum(entry.count for entry in rest), 'row')}."
        if rest
        else ""
    )
    return ["missing modalities", "rows", "share"], rows, note


def pair_rows(summary: MissingnessSummary) -> Table:
    """Return header, rows and note of the table of pairs, the strongest correlation first."""
    pairs = summary.pairs()
    rows = [
        [
            f"{shown_name(pair.first)}, {shown_name(pair.second)}",
            str(pair.both),
            f"{pair.expected:.1f}",
            "" if pair.correlation is None else f"{pair.correlation:.2f}",
            f"{pair.odds_ratio:.3g}" if pair.odds_ratio >= 1000 else f"{pair.odds_ratio:.2f}",
        ]
        for pair in pairs[:MAX_ROWS]
    ]
    more = len(pairs) - MAX_ROWS
    note = f"{counted(more, 'more pair')} with a weaker correlation." if more > 0 else ""
    header = ["missing together", "rows", "expected", "correlation", "odds ratio"]
    return header, rows, note


def test_rows(test: McarTest) -> Table:
    """Return header, rows and note of the table of a permutation test, one row per modality."""
    smallest = 1 / (1 + test.num_permutations)
    rows = [
        [
            shown_name(entry.modality),
            str(entry.num_rows),
            str(entry.num_patterns),
            shown_p(entry.p_value, smallest).removeprefix("= "),
            shown_p(entry.adjusted_p_value, test.smallest_p).removeprefix("= "),
        ]
        for entry in test.modalities
    ]
    return ["tested values", "rows", "patterns", "p", "corrected p"], rows, ""


def missing_names(summary: MissingnessSummary, missing: Sequence[str]) -> str:
    """Return the missing modalities of a pattern; a long list is shortened.

    Example:
        >>> summary = MissingnessSummary(("a", "b"), 0, (0, 0), (0, 0), (), ((0, 0), (0, 0)))
        >>> missing_names(summary, ["b"]), missing_names(summary, [])
        ('b', '(none)')
    """
    if not missing:
        return "(none)"
    m = len(summary.modalities)
    if len(missing) > MAX_NAMES and m - len(missing) <= MAX_NAMES:
        left = [shown_name(name) for name in summary.modalities if name not in missing]
        return f"(all except {', '.join(left)})" if left else f"(all {m})"
    names = [shown_name(name) for name in missing[:MAX_NAMES]]
    more = f" and {len(missing) - MAX_NAMES} more" if len(missing) > MAX_NAMES else ""
    return ", ".join(names) + more


def shown_name(name: str) -> str:
    """Return a name, quoted if it could be mistaken for several names or for none.

    Example:
        >>> shown_name("image"), shown_name("a, b"), shown_name("")
        ('image', '"a, b"', '""')
    """
    plain = name == name.strip() and name.isprintable() and name[:1] not in ("", "(", '"')
    return name if plain and "," not in name else json.dumps(name, ensure_ascii=False)
