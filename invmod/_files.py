"""Atomic file writes: a file is written under a temporary name and then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` if the block raises no error.

    After an error, `path` is unchanged and the temporary file is deleted. A process that is killed
    leaves at most the temporary file behind. Several processes may write the same path: each uses
    its own temporary name, and the last rename wins.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [path.name for path in folder.iterdir()], (folder / "notes.txt").read_text()
        (['notes.txt'], 'whole')
    """
    path = Path(path)
    # The process id and the random part give concurrent writers different names.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        # The temporary file is in the same folder, so this rename is atomic.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
