"""An export: vectors of users and items as Parquet, an index, an item tower, and their facts."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

import invmod
from milk_recsys.base.checkpoint import save_state
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import write_json
from milk_recsys.exporting.catalogue import ServedItems
from milk_recsys.exporting.index import TARGET, recall, write_index
from milk_recsys.exporting.item_tower import write_onnx
from milk_recsys.exporting.reduction import Reduction, fit_reduction
from milk_recsys.exporting.tables import write_table
from milk_recsys.ranking.top import top_items

__all__ = ["Export", "new_folder", "write_export"]

FORMAT = 1
ROWS_AT_ONCE = 2**12  # Number of vectors that are written at a time.
MEASURED_USERS = 1000  # Maximum number of users for whom a recall is measured.
TOP = 20


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        users: int64 (u,) numbers of the users, who have a training pair.
        places: int64 (n,) places of the items among the candidates.
        width: maximum number of dimensions, or None for all.
        index: kind of the index, or None for none.
        onnx: whether the item tower is exported.
    """

    users: Tensor
    places: Tensor
    width: int | None
    index: Literal["exact", "hnsw"] | None
    onnx: bool


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `path` if the block raises no error.

    Raises:
        DataError: `path` exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise DataError(f"--out: {path} exists already and is never overwritten. Name another.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise DataError(f"--out: {path} cannot be written ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_export(folder: Path, served: ServedItems, export: Export) -> dict[str, Any]:
    """Write all files of an export; return the content of its export.json.

    Vectors are float32. Inner products of their rows are the scores of the run, up to rounding.
    """
    scorer, width = served.scorer, served.candidates.vectors.shape[1]
    users = scorer.user_vectors(export.users)
    items = served.candidates.vectors[export.places.to(users.device)]
    measured = users[_spread(len(users), users.device)]
    best = top_items(measured, items, TOP).positions.cpu().numpy()
    reduction, facts = None, dict[str, Any](width=width, full_width=width)
    if export.width is not None and export.width < width:
        reduction = fit_reduction(users, items, export.width)
        facts |= {"width": reduction.users.shape[1], "squared_norm_kept": reduction.kept}
        maps = {"users": reduction.users.contiguous(), "items": reduction.items.contiguous()}
        save_state(
            folder / "reduction.safetensors", maps, {"model": served.fitted.options.run.model}
        )
    reduced_items = _reduced(items, None if reduction is None else reduction.items).float()
    queries = _reduced(measured, None if reduction is None else reduction.users).float()
    if reduction is not None:
        found = top_items(queries, reduced_items, TOP).positions.cpu().numpy()
        facts["recall_at_20"] = recall(found, best)
    _write_vectors(folder, served, export, users, reduction, reduced_items)
    result: dict[str, Any] = {
        "format": FORMAT,
        "model": served.fitted.options.run.model,
        "users": len(users),
        "items": len(items),
        "vectors": facts,
        "index": None,
        "onnx": None,
        "versions": {"invmod": invmod.__version__, "torch": torch.__version__},
    }
    if export.index is not None:
        index = write_index(
            folder / "items.faiss", reduced_items.cpu().numpy(), queries.cpu().numpy(), export.index
        )
        result["index"] = {"file": "items.faiss", **dataclasses.asdict(index), "target": TARGET}
    if export.onnx:
        write_onnx(folder / "item_tower.onnx", served.fitted)
        inputs = [*served.fitted.dims, "mask"]
        result["onnx"] = {"file": "item_tower.onnx", "inputs": inputs, "output": "vectors"}
    write_json(folder / "export.json", result)
    return result


def _write_vectors(
    folder: Path,
    served: ServedItems,
    export: Export,
    users: Tensor,
    reduction: Reduction | None,
    items: Tensor,
) -> None:
    """Write users.parquet and items.parquet; a row of items.parquet is a position in the index."""
    numbers = export.users.numpy()
    columns: dict[str, Any] = {"user": numbers}
    names = served.users.names or served.users.ids
    columns |= {} if names is None else {"user_name": [names[n] for n in numbers.tolist()]}
    matrix = None if reduction is None else reduction.users
    blocks = (_reduced(block, matrix).float() for block in _blocks(users))
    write_table(folder / "users.parquet", _frames(columns, blocks), "parquet")
    places = export.places.tolist()
    columns = {"item": np.array([served.numbers[place] for place in places])}
    for name, labels in (("item_id", served.ids), ("item_name", served.names)):
        if labels is not None:
            columns[name] = [labels[place] for place in places]
    columns["known"] = (served.candidates.known[export.places] >= 0).numpy()
    write_table(folder / "items.parquet", _frames(columns, _blocks(items)), "parquet")


def _frames(columns: dict[str, Any], blocks: Iterable[Tensor]) -> Iterator[Any]:
    """Yield frames of blocks of vectors, with the columns of their rows."""
    start = 0
    for block in blocks:
        part = {name: values[start : start + len(block)] for name, values in columns.items()}
        start += len(block)
        vectors = block.cpu().numpy()
        kind = pl.Array(pl.Float32, vectors.shape[1])
        yield pl.DataFrame({**part, "vector": pl.Series(vectors, dtype=kind)})


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def _reduced(vectors: Tensor, matrix: Tensor | None) -> Tensor:
    return vectors if matrix is None else vectors @ matrix


def _spread(count: int, device: torch.device) -> Tensor:
    """Return at most `MEASURED_USERS` places from 0 to count - 1, evenly spaced."""
    wanted = min(count, MEASURED_USERS)
    return torch.arange(wanted, device=device) * (count - 1) // max(1, wanted - 1)
