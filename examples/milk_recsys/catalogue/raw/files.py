"""Files of raw data: their formats, compression, and the parts of a folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa  # type: ignore[import-untyped]
import rich.console
import rich.progress

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.reading import check_regular, exists

__all__ = ["Format", "check_file", "file_format", "open_bytes", "parts_of", "reading"]

Format = Literal["text", "json", "parquet", "arrow", "npy", "npz", "hdf5"]

# First bytes of a file -> its format. A name may end in anything; the content decides.
SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
)
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# Formats that are recognised only to say what to do with them.
REFUSED = (
    (b"\x80\x02", "is a pickle, which could run code and is never opened"),
    (b"\x80\x03", "is a pickle, which could run code and is never opened"),
    (b"\x80\x04", "is a pickle, which could run code and is never opened"),
    (b"\x80\x05", "is a pickle, which could run code and is never opened"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel file"),
    (b"SQLite format 3", "is an SQLite database"),
    (b"%PDF", "is a PDF file"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstandard"),
)
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")

FAILURES = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    UnicodeError,
    pa.ArrowException,
)
"""Errors that a damaged or unreadable file may cause while it is read."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of a damaged or unreadable file into a DataError of one sentence."""
    try:
        yield
    except DataError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: is not a complete gzip file or its like ({error}). Download it again."
        ) from None
    except UnicodeError as error:
        raise DataError(
            f"{path}: is not text in the encoding it was read with ({error!s:.120}). Name its "
            "encoding, for example --encoding latin-1."
        ) from None
    except FAILURES as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({first:.200}).") from None


def check_file(path: Path) -> None:
    """Refuse a path that is no regular file, before anything waits for a pipe or a device."""
    check_regular(path)
    if not exists(path):
        raise DataError(f"{path}: no such file.")


def parts_of(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, or the parts in a folder, by name.

    Markers such as ``_SUCCESS`` and hidden files are no parts.
    """
    if not path.is_dir():
        check_file(path)
        return [path]
    parts = sorted(
        part
        for part in path.rglob("*")
        if part.is_file() and not any(p.startswith(("_", ".")) for p in _inside(part, path))
    )
    if not parts:
        raise DataError(f"{path}: the folder has no file. Name a table, or a folder of its parts.")
    suffixes = {part.suffix for part in parts}
    if len(suffixes) > 1:
        raise DataError(
            f"{path}: the folder has files of several kinds ({', '.join(sorted(suffixes))}). Name "
            "one file, or put the parts of one table into a folder of their own."
        )
    return parts


def _inside(part: Path, folder: Path) -> tuple[str, ...]:
    return part.relative_to(folder).parts


def file_format(path: Path) -> Format:
    """Return the format of a file, by its first bytes.

    Raises:
        DataError: the file is absent, empty, or of a format that cannot be read.
    """
    check_file(path)
    with reading(path), path.open("rb") as raw:
        compressed = raw.read(6).startswith(tuple(COMPRESSIONS))
    with open_bytes(path) as stream:
        start = stream.read(16)
    if not start:
        raise DataError(f"{path}: is empty.")
    for mark, problem in REFUSED:
        if start.startswith(mark):
            raise DataError(f"{path}: {problem}. Save the table as CSV or Parquet.")
    found = next((name for mark, name in SIGNATURES if start.startswith(mark)), None)
    if found == "npz":
        _refuse_archive(path)
    if found is not None and compressed:
        raise DataError(f"{path}: is a compressed {found} file. Unpack it first.")
    if found is not None:
        return found
    name = path.name.lower()
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    # A table of text may begin with a quote or a letter, but not with the brace of an object.
    return "json" if name.endswith(JSON_SUFFIXES) or start.lstrip()[:1] == b"{" else "text"


def _refuse_archive(path: Path) -> None:
    """Raise DataError for an Excel file and other ZIP archives that hold no arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return  # The reader of arrays says what is wrong.
    if any(name.startswith("xl/") for name in names):
        raise DataError(f"{path}: is an Excel file. Save the table as CSV or Parquet.")
    if not all(name.endswith(".npy") for name in names):
        raise DataError(
            f"{path}: is a ZIP archive of {plural(len(names), 'file', 'files')}. Unpack it first."
        )


@contextmanager
def open_bytes(path: Path, *, progress: bool = False) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed if its first bytes say that it is compressed.

    Arguments:
        progress: whether to show a progress bar.
    """
    check_file(path)
    with reading(path):
        if not progress:
            with path.open("rb") as raw, _decompressed(path, raw) as stream:
                yield stream
            return
        console = rich.console.Console(stderr=True)
        with (
            rich.progress.open(
                path,
                "rb",
                description=path.name,
                transient=True,
                console=console,
                disable=not console.is_terminal,
            ) as bar,
            _decompressed(path, bar) as stream,
        ):
            yield stream


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    with path.open("rb") as file:
        start = file.read(6)
    for mark, opener in COMPRESSIONS.items():
        if start.startswith(mark):
            # `gzip` reads members one after the other as one file, which some archives consist of.
            return cast(BinaryIO, opener(raw, "rb"))
    return raw
