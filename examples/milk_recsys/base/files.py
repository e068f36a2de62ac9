"""Files and folders that are written under a temporary name and then renamed, and journals.

A temporary name is random, and the file or folder is created under it by this process: a file or
link that somebody else has put there is never opened. What is replaced must be a regular file. A
symbolic link is refused, not followed.

The library has a `replacing` of its own. It cannot serve here: importing any part of invmod imports
torch, and commands check their options and data before that.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError
from milk_recsys.base.reading import (
    check_regular,
    check_replaceable,
    kind_of,
    lines_of,
    read_json,
)

__all__ = [
    "NO_FOLLOW",
    "Journal",
    "read_json",
    "remove_leftovers",
    "replacing",
    "replacing_folder",
    "write_json",
]

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open` that refuses symbolic links. Windows has none; paths are checked before too."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file in the same folder; rename it to `path` if no error is raised.

    If the process is killed, `path` remains as it was, and the temporary file may remain. Every
    call has a temporary name of its own, so several threads and processes may write `path`.

    Raises:
        DataError: `path` is something other than a regular file.
        OSError: the file cannot be written; its `filename` is `path`.
    """
    check_replaceable(path)
    temporary = _temporary(path)
    with _naming(path, temporary):
        # With O_EXCL, no existing file is opened and no link is followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
        os.close(os.open(temporary, flags, 0o666))
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to `path` if no error is raised.

    Raises:
        DataError: `path` exists already, and is no empty folder.
        OSError: the folder cannot be written.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: exists already, and is never overwritten. Name another folder.")
    # The same parent folder guarantees the same file system, so that the renaming is atomic.
    temporary = _temporary(path)
    with _naming(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()  # Raises FileExistsError for an existing folder or link.
        try:
            yield temporary
            # An empty folder is replaced. If somebody has put files into it, the renaming fails.
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Put the name of a path into errors that have a temporary name, or none, as writes do."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and Path(os.fsdecode(error.filename))
        if not named or named.is_relative_to(temporary):
            error.filename = str(path)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files of `replacing` for the given names, which a killed process left.

    No other file is removed, whatever its ending. The caller must know that no other process
    writes these files: it holds the folder's lock.
    """
    # Earlier versions put the number of the process into the name.
    ours = re.compile(
        rf"\.(?:{'|'.join(map(re.escape, names))})\.(?:\d+(?:\.[0-9a-f]{{8}})?|[0-9a-f]{{16}})\.tmp"
    )
    for path in folder.glob(".*.tmp"):
        if ours.fullmatch(path.name) and kind_of(path) == "regular file":
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON. NaN and infinity raise a ValueError, since JSON has neither."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


class Journal:
    """A file of JSON lines to which lines are appended.

    If the process is killed, at most the last line is incomplete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate_after(self, epoch: int) -> None:
        """Remove the lines of later epochs, whose checkpoint was never written.

        Raises:
            DataError: the lines that remain are not those of the epochs 0, 1, ... up to `epoch`,
                one each: somebody shortened, doubled or changed the file.
        """
        kept = []
        for line in self.read():
            number = line.get("epoch") if isinstance(line, dict) else None
            if type(number) is not int:
                raise DataError(
                    f"{self.path}: has a line without the number of an epoch. Start in another "
                    "--out."
                )
            if number <= epoch:
                kept.append(line)
        if [line["epoch"] for line in kept] != list(range(epoch + 1)):
            raise DataError(
                f"{self.path}: does not have one line for each of the {epoch + 1} epochs of the "
                "checkpoint. Restore the file, or start in another --out."
            )
        self._write(kept)

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
        """Append a line.

        Raises:
            DataError: the file is a link, a pipe or a device.
            OSError: the line cannot be written, for example because the disk is full.
        """
        check_regular(self.path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_FOLLOW
        try:
            handle = os.open(self.path, flags, 0o666)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            error.filename = str(self.path)
            raise

    def read(self) -> list[dict[str, Any]]:
        """Read all complete lines.

        Raises:
            DataError: a complete line is not JSON, or the file cannot be read as text.
        """
        if not self.path.exists():
            return []
        try:
            # Only a last line that was cut lacks its end of line.
            return [json.loads(line) for line in lines_of(self.path) if line.endswith("\n")]
        except DataError:
            raise
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.path}: has a damaged line ({error!s:.200}). Remove it, or start in another "
                "--out."
            ) from None
