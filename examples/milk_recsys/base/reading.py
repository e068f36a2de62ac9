"""Kinds of files, and the reading of regular files, of bounded size where they are read whole."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError

__all__ = [
    "MAX_JSON",
    "MAX_LINE",
    "check_inside",
    "check_regular",
    "check_replaceable",
    "exists",
    "kind_of",
    "lines_of",
    "read_json",
]

MAX_LINE = 1 << 26  # Bytes of a line, 64 MB.
MAX_JSON = 1 << 30  # Bytes of a JSON file, which is read as a whole, 1 GB.


KINDS = (
    (stat.S_ISREG, "regular file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def kind_of(path: Path, *, follow: bool = False) -> str | None:
    """Return the kind of a file in words; None if there is none.

    Arguments:
        follow: whether a symbolic link stands for the file that it leads to.
    """
    try:
        mode = (path.stat() if follow else path.lstat()).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return next((name for is_kind, name in KINDS if is_kind(mode)), "file of an unknown kind")


def check_replaceable(path: Path) -> None:
    """Refuse a path whose replacement would destroy something other than a regular file.

    Raises:
        DataError: there is a link, a device, a pipe, a socket or a folder.
    """
    kind = kind_of(path)
    if kind not in (None, "regular file"):
        raise DataError(
            f"{path}: is a {kind}, which is never replaced. Remove it, or name another file."
        )


def exists(path: Path) -> bool:
    """Return whether there is a file or folder; a DataError if this cannot be found out."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(path, error)) from None


def check_regular(path: Path) -> None:
    """Refuse what would block or never end when it is read: pipes, devices, sockets, folders.

    A missing file is not refused here; opening it raises FileNotFoundError.

    Raises:
        DataError: there is something other than a regular file, or the folder is unreachable.
    """
    try:
        kind = kind_of(path, follow=True)
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(path, error)) from None
    if kind not in (None, "regular file"):
        raise DataError(f"{path}: is a {kind}, not a regular file. Put a regular file there.")


def check_inside(path: Path, root: Path, what: str = "") -> None:
    """Refuse a path that leads out of a folder, for example by a symbolic link.

    Arguments:
        what: text behind the name of the file or folder in the error message.

    Raises:
        DataError: it leads outside, or cannot be followed.
    """
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    # `resolve` fails for a symbolic link to itself and for a name with a NUL character.
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{root}{what}: the path {str(path)!a} cannot be followed ({error!s:.200}). Correct "
            "it, or put the file itself there."
        ) from None
    if not inside:
        raise DataError(f"{path}{what}: leads outside {root}. Put the file itself into the folder.")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no regular file, cannot be read, or is not JSON.
    """
    check_regular(path)
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise DataError(f"{path}: has {size:,} bytes, more than the {MAX_JSON:,} allowed.")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (DataError, FileNotFoundError):
        raise
    except OSError as error:
        raise DataError(_unreadable(path, error)) from None
    except RecursionError:
        raise DataError(f"{path}: is not valid JSON (nested too deeply).") from None
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error!s:.200}).") from None


def lines_of(path: Path, *, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a text file with their line ends; only the last one may lack it.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no regular file, or a line is too long.
        UnicodeDecodeError: it is not text in this encoding.
    """
    check_regular(path)
    with path.open(encoding=encoding, newline="\n") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith("\n"):
                raise DataError(
                    f"{path}, line {number}: has more than {MAX_LINE:,} characters. Is this a text "
                    "file with one record per line?"
                )
            yield line


def _unreadable(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{str(path)!r:.300}: cannot be read ({reason})."
