"""Atomic file writes: a file is written under a temporary name and then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` if the block raises no error.

    After an error, `path` is unchanged and the temporary file is deleted. A process that is killed
    leaves at most the temporary file behind. Several processes may write the same path: each uses
    its own random temporary name, and the last rename wins.

    Raises:
        FileExistsError: `path` is something other than a regular file. A symbolic link is refused,
            not followed, and a device such as ``/dev/null`` is not replaced.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [path.name for path in folder.iterdir()], (folder / "notes.txt").read_text()
        (['notes.txt'], 'whole')
    """
    path = Path(path)
    _check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # With O_EXCL, the file is a new one: no file or link that somebody else put there is opened.
    # Windows has no O_NOFOLLOW, and needs none, since O_EXCL follows no link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(temporary, flags, 0o666))
    try:
        yield temporary
        # The temporary file is in the same folder, so this rename is atomic.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise FileExistsError(
            errno.EEXIST,
            f"it is {kind}, and is not replaced; remove it, or name another",
            str(path),
        )


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
