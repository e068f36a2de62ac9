"""An index of item vectors by faiss, for the highest inner products."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError

__all__ = ["TARGET", "IndexFacts", "check_index", "recall", "write_index"]

TOP = 20
TARGET = 0.99  # Recall at 20 below which a warning is due.
NEIGHBOURS = 32  # Links of an item in the graph of HNSW.
BUILD_DEPTH = 200  # Number of candidates while a link is searched.
SEARCH_DEPTHS = (64, 128, 256, 512, 1024, 2048)  # Tried until the recall is reached.

Vectors = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class IndexFacts:
    """An index as it was measured.

    Attributes:
        kind: exact or hnsw.
        recall_at_20: share of the 20 items with the highest inner products that the index finds.
        search_depth: ``efSearch`` of HNSW, which the file contains; None for an exact index.
        users: number of users for whom the recall was measured.
    """

    kind: str
    recall_at_20: float
    search_depth: int | None
    users: int


def check_index() -> None:
    """Raise DataError if faiss is not installed."""
    if find_spec("faiss") is None:
        raise DataError("--index needs faiss, which is not installed: pip install 'invmod[index]'")


def write_index(
    path: Path, items: Vectors, queries: Vectors, kind: Literal["exact", "hnsw"]
) -> IndexFacts:
    """Build an index of the rows of `items`, measure it with `queries`, and write it.

    The search depth of HNSW is doubled until the recall is at least `TARGET`.
    """
    import faiss

    items, queries = np.ascontiguousarray(items), np.ascontiguousarray(queries)
    width, top = items.shape[1], min(TOP, len(items))
    exact = faiss.IndexFlatIP(width)
    exact.add(items)
    _, best = exact.search(queries, top)
    if kind == "exact":
        facts = IndexFacts(kind, recall(best, _by_product(queries, items, top)), None, len(queries))
        faiss.write_index(exact, str(path))
        return facts
    graph = faiss.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILD_DEPTH
    graph.add(items)
    found, depth = 0.0, SEARCH_DEPTHS[0]
    for depth in SEARCH_DEPTHS:
        graph.hnsw.efSearch = depth
        found = recall(graph.search(queries, top)[1], best)
        if found >= TARGET:
            break
    faiss.write_index(graph, str(path))
    return IndexFacts(kind, found, depth, len(queries))


def recall(found: npt.NDArray[Any], best: npt.NDArray[Any]) -> float:
    """Return the mean share of the entries of each row of `best` that `found` has.

    Example:
        >>> recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]))
        0.75
    """
    shares = [np.isin(own, other).mean() for own, other in zip(best, found, strict=True)]
    return float(np.mean(shares)) if shares else 1.0


def _by_product(queries: Vectors, items: Vectors, top: int) -> npt.NDArray[np.int64]:
    """Return the best items of each query, from a matrix product in float64."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]
