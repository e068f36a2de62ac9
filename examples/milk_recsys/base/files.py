"""Files that are written atomically (under a temporary name, then renamed), and journals.

The library has the same `replacing` for its own files. It cannot serve here: importing any part of
invmod imports torch, and commands check their options and data before that.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError

__all__ = ["Journal", "read_json", "replacing", "write_json"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block raises no error.

    If the process is killed, `path` remains as it was, and the temporary file may remain. Every
    call has a temporary name of its own, so several threads and processes may write `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON. NaN and infinity raise a ValueError, since JSON has neither."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class Journal:
    """A file of JSON lines to which lines are appended.

    If the process is killed, at most the last line is incomplete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate_after(self, epoch: int) -> None:
        """Remove the lines of later epochs, whose checkpoint was never written."""
        self._write([line for line in self.read() if line["epoch"] <= epoch])

    def repair(self) -> None:
        """Remove an incomplete last line, so that the next one is not appended to it."""
        if self.path.exists():
            self._write(self.read())

    def _write(self, lines: list[dict[str, Any]]) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
            )

    def append(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Read all complete lines.

        Raises:
            DataError: a complete line is not JSON.
        """
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        # Only a last line that was cut lacks its end of line.
        try:
            return [
                json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")
            ]
        except ValueError as error:
            raise DataError(
                f"{self.path}: has a damaged line ({error}). Remove it, or start in another --out."
            ) from None
