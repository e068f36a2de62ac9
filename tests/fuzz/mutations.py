"""Mutations of files: of their bytes, of JSON values, of arrays, and of what kind of file it is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

TOKENS = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b"\t\t", b'"', b"'",
    b",", b"-1", b"0", b"007", b"1e400", b"nan", b"inf", b"-inf", b"99999999999999999999", b"0x1f",
    b"1.5", b"null", b"true", b"{}", b"[]", b"[" * 5000, b"\x1b[31m", b"\xed\xa0\x80", b"=1+1",
    b"../../etc", b"PK\x03\x04", b"\x93NUMPY", b"PAR1", b"\x1f\x8b", b"\x80\x04", b"user", b"item",
    "é日\u202e".encode(),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e-320, 1e38,
    1e308, float("nan"), float("inf"), "", "a", "0", "keep", "milk", "gar", "../x", "/", "\x00",
    "\x1b[31m", "\ud800", "x" * 5000, [], {}, [[]], {"a": {}}, [1, 2], ["a"], {"": None},
]  # fmt: skip


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """Return bytes with one change."""
    kind = random.randrange(9)
    if kind == 0:
        return b""
    place = random.randrange(len(content) + 1)
    end = min(len(content), place + 1 + random.randrange(1 << random.randrange(9)))
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[end:]
    if kind == 3:
        return content[:end] + content[place:]
    if kind == 4:
        return content[:place] + random.choice(TOKENS) + content[place:]
    if kind == 5:
        return content[:place] + random.choice(TOKENS) + content[end:]
    if kind == 6:
        changed = bytearray(content or b"\x00")
        for _ in range(1 + random.randrange(8)):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        return bytes(changed)
    lines = content.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    if kind == 7:
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)
    cells = lines[first].split(b"\t") if b"\t" in lines[first] else lines[first].split(b",")
    cells[random.randrange(len(cells))] = random.choice(TOKENS)
    lines[first] = (b"\t" if b"\t" in lines[first] else b",").join(cells)
    return b"\n".join(lines)


def mutate_json(random: Random, value: Any) -> Any:
    """Return a JSON value with one change somewhere inside."""
    if random.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return random.choice(VALUES)
    if isinstance(value, list):
        place = random.randrange(len(value))
        return [*value[:place], mutate_json(random, value[place]), *value[place + 1 :]]
    key = random.choice(sorted(value))
    kind = random.random()
    if kind < 0.15:
        return {k: v for k, v in value.items() if k != key}
    if kind < 0.25:
        return {**value, str(random.choice(VALUES)): random.choice(VALUES)}
    return {**value, key: mutate_json(random, value[key])}


def dump(value: Any) -> bytes:
    """Return JSON, with lone surrogates as escapes."""
    return json.dumps(value).encode()


def mutate_array(random: Random, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array with other values, another shape or another type."""
    array = array.copy()
    kind = random.randrange(6)
    if kind == 0 and array.size and array.dtype.kind in "fiu":
        value = random.choice([0, -1, 1, 127, float("nan"), float("inf"), -float("inf"), 6e4])
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            chosen = [random.randrange(array.size) for _ in range(1 + random.randrange(9))]
            flat[chosen] = np.array(value).astype(array.dtype)
        return array
    if kind == 1:
        return array[: random.randrange(len(array) + 1)] if array.ndim else array
    if kind == 2:
        kinds = ["float16", "float64", "int8", "int64", "uint8", "bool", ">f4", "complex64", "U3"]
        with np.errstate(all="ignore"):
            return array.astype(random.choice(kinds))
    if kind == 3:
        return np.concatenate([array, array]) if array.ndim else array
    if kind == 4:
        return array.reshape(-1) if random.random() < 0.5 else array[None]
    return np.zeros(random.choice([(), (0,), (0, 3), (3, 0), (1, 1, 1)]), array.dtype)


def _npy(random: Random, content: bytes) -> bytes:
    target = io.BytesIO()
    np.save(target, mutate_array(random, np.load(io.BytesIO(content))))
    return target.getvalue()


def _npz(random: Random, content: bytes) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    name = random.choice(sorted(arrays))
    if random.random() < 0.2:
        del arrays[name]
    else:
        arrays[name] = mutate_array(random, arrays[name])
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def _json(random: Random, content: bytes) -> bytes:
    return dump(mutate_json(random, json.loads(content)))


def _json_lines(random: Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    place = random.randrange(len(lines))
    lines[place] = dump(mutate_json(random, json.loads(lines[place]))) + b"\n"
    return b"".join(lines)


def _safetensors(random: Random, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if random.random() < 0.4 and "facts" in header.get("__metadata__", {}):
        facts = mutate_json(random, json.loads(header["__metadata__"]["facts"]))
        header["__metadata__"]["facts"] = json.dumps(facts)
    elif random.random() < 0.5:
        header = mutate_json(random, header)
    elif data:
        numbers = np.frombuffer(data, np.uint8).copy()
        place = random.randrange(len(numbers))
        numbers[place : place + 8] = random.choice([0, 127, 255])
        data = numbers.tobytes()
    text = dump(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _parquet(random: Random, content: bytes) -> bytes:
    """Change one cell of a column of texts or numbers, which may hold JSON."""
    table = pl.read_parquet(io.BytesIO(content))
    name = random.choice(table.columns)
    cells = table[name].to_list()
    place = random.randrange(len(cells))
    if table.schema[name] == pl.String:
        try:
            cells[place] = dump(mutate_json(random, json.loads(cells[place]))).decode()
        except (ValueError, TypeError):
            cells[place] = random.choice(["", "x", None, "\x1b[31m"])
    else:
        cells[place] = random.choice([None, cells[0], cells[-1]])
    target = io.BytesIO()
    table.with_columns(pl.Series(name, cells, dtype=table.schema[name])).write_parquet(target)
    return target.getvalue()


BY_SUFFIX: dict[str, Callable[[Random, bytes], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}


def mutate_file(random: Random, path: Path) -> None:
    """Change a file once: its content, or its kind."""
    if random.random() < 0.08:
        _change_kind(random, path)
        return
    content = path.read_bytes()
    by_format = BY_SUFFIX.get(path.suffix)
    if by_format is not None and random.random() < 0.6:
        # After an earlier mutation the content may be of no format.
        with contextlib.suppress(Exception):
            path.write_bytes(by_format(random, content))
            return
    path.write_bytes(mutate_bytes(random, content))


def _change_kind(random: Random, path: Path) -> None:
    path.unlink()
    kind = random.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.symlink_to("/dev/zero")  # Read only; nothing of this fuzzer writes to it.


def mutate_folder(random: Random, folder: Path, names: list[str] | None = None) -> None:
    """Change one to three files of a folder, or copy one over another."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink() and (names is None or path.name in names)
        )
        if not files:
            return
        path = random.choice(files)
        if random.random() < 0.04:
            shutil.copyfile(random.choice(files), path.with_name("copied"))
            (path.with_name("copied")).replace(path)
        else:
            mutate_file(random, path)
