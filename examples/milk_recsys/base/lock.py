"""A lock on a folder that only one process at a time may write."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.base.files import NO_FOLLOW

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LOCK", "check_free", "folder_lock"]

LOCK = ".milk-recsys.lock"
"""Name of the lock file: JSON with the number of the process and the name of its machine."""

# Opening a pipe must not wait for its other end. Windows has no such flag.
FLAGS = os.O_RDWR | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder during the block.

    The operating system releases the lock when the process ends, however it ends. A lock file
    that a killed process left is therefore no obstacle.

    Raises:
        OptionError: another process holds the lock.
    """
    path = folder / LOCK
    handle = _acquire(path)
    try:
        try:
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(_own()).encode())
        except OSError as error:
            error.filename = str(path)
            raise
        yield
    finally:
        # The file is removed while the lock is held, so that no other process can have it.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def check_free(folder: Path) -> None:
    """Raise OptionError if another process holds the lock of a folder, which need not exist."""
    path = folder / LOCK
    try:
        handle = os.open(path, FLAGS)
    except OSError:
        return  # There is no lock file, or `folder_lock` will report the problem.
    try:
        _lock(handle, path)
    finally:
        os.close(handle)  # Releases the lock.


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        try:
            handle = os.open(path, FLAGS | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be created ({error.strerror}). Name a folder that you can write."
            ) from None
        try:
            _lock(handle, path)
            # The holder before may have removed the file after it was opened here. Then others
            # lock a new file, and so must this process.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.lstat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    """Lock an open file, or raise OptionError that names the process that holds it."""
    try:
        _lock_file(handle)
    except BlockingIOError:
        raise _held(path, _holder(handle)) from None
    except OSError:
        # Some file systems have no locks. There the numbers in the file decide.
        holder = _holder(handle)
        if holder and holder != _own() and _may_run(holder):
            raise _held(path, holder) from None


def _lock_file(handle: int) -> None:
    """Lock an open file without waiting; BlockingIOError if another process has locked it."""
    if sys.platform == "win32":
        # Windows locks bytes, which others cannot read then: here one behind the content.
        os.lseek(handle, 1_000_000, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _own() -> dict[str, Any]:
    return {"process": os.getpid(), "host": socket.gethostname()}


def _holder(handle: int) -> dict[str, Any]:
    """Return the content of a lock file, {} if it is being written."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = json.loads(os.read(handle, 1000))
        return {"process": int(holder["process"]), "host": str(holder["host"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _may_run(holder: dict[str, Any]) -> bool:
    """Return whether a process may still run: not if it was of this machine, and is gone."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _held(path: Path, holder: dict[str, Any]) -> OptionError:
    who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
    return OptionError(
        f"--out: {path.parent} is being written by {who}. Wait for its end, or name another --out."
    )
