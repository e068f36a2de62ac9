"""Journals of benchmarks: one JSON object a line, written whole and renamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from milk_recsys.base.files import replacing


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; none if there is no journal."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def write_journal(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write a journal, whose folder is made if it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_table(path: Path, lines: Iterable[str]) -> None:
    """Write the lines of a table, and print them."""
    text = "\n".join(lines) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
