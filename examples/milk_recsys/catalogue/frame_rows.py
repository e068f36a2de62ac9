"""Ids and rows of frames that belong to a fitted model: users, items, and new rows of features.

Ids are text, by the rules of `Catalogue.from_frames`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frames import MemoryDraft, frame_of, write_features
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.raw.arrays import ids_of_array
from milk_recsys.catalogue.raw.tables import FrameTable
from milk_recsys.catalogue.raw.values import BadCell, id_texts, plain_ids

__all__ = ["find_ids", "is_frame", "read_feature_rows", "texts_of_ids"]

Array = npt.NDArray[Any]
SHOWN = 3  # Number of unknown ids in a message.


def is_frame(given: Any) -> bool:
    """Return whether an argument is a frame of pandas, polars or Arrow, or a mapping of columns."""
    frames = (Mapping, pl.DataFrame, pl.LazyFrame, pa.Table, pa.RecordBatch)
    return isinstance(given, frames) or hasattr(given, "columns")


def texts_of_ids(given: Iterable[Any], what: str) -> list[str]:
    """Return ids as texts: of a list, an array, or a column of pandas, polars or Arrow.

    Raises:
        DataError: an id is empty, or neither text nor a whole number.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable) or is_frame(given):
        raise DataError(f"{what}: must be a list of ids, got {type(given).__name__}.")
    values = given.to_list() if isinstance(given, pl.Series) else list(given)
    values = [x.as_py() if isinstance(x, pa.Scalar) else x for x in values]
    values = [x.item() if isinstance(x, np.generic) else x for x in values]
    if len({type(x) for x in values}) > 1:  # A column has one type; a list may mix several.
        return [text for x in values for text in texts_of_ids([x], what)]
    texts = id_texts(pl.Series(values)) if values else pl.Series([], dtype=pl.String)
    if isinstance(texts, BadCell):
        raise DataError(f"{what}: {texts.problem}.")
    if texts.has_nulls() or (texts == "").any():
        raise DataError(f"{what}: has an empty id. Leave it out.")
    return texts.to_list()


def find_ids(ids: Ids, given: Iterable[Any], what: str, advice: str) -> npt.NDArray[np.int64]:
    """Return the numbers of the given ids.

    Arguments:
        ids: the known ids.
        what: the kind of the ids, for the message.
        advice: what to do about unknown ids.

    Raises:
        DataError: ids are unknown; the message names some of them.
    """
    texts = texts_of_ids(given, what)
    # A column of texts that all end in ".0" is one of integers, as in `Catalogue.from_frames`.
    plain = plain_ids(texts)
    numbers = [
        known if (known := ids.find(text)) is not None else ids.find(other)
        for text, other in zip(texts, plain, strict=True)
    ]
    unknown = [text for text, n in zip(texts, numbers, strict=True) if n is None]
    if unknown:
        shown = ", ".join(map(repr, dict.fromkeys(unknown[:SHOWN])))
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        like = f" Known ids are like {' and '.join(map(repr, ids.names[:2]))}." if len(ids) else ""
        raise DataError(f"{what}: {shown}{more} not known.{like} {advice}")
    return np.array(numbers, dtype=np.int64)


def read_feature_rows(
    features: Mapping[str, Any],
    key: str,
    dims: Mapping[str, int] | None,
    columns: Mapping[str, tuple[str, ...]],
    what: str = "new_items",
) -> tuple[Ids, dict[str, Array], dict[str, tuple[str, ...]]]:
    """Read rows of features: modality -> frame, or a pair (ids, array).

    Arguments:
        key: the column of ids of frames.
        dims: modality -> width, of a fitted model; None if any modality and width will do.
        columns: modality -> columns of its frame.
        what: name of the argument, for messages.

    Returns:
        the ids in the order in which they appear first; modality -> (n, width), with NaN in rows
        that lack the modality; and modality -> columns of its frame.

    Raises:
        DataError: a modality is unknown, has another width, or cannot be read.
    """
    if not isinstance(features, Mapping) or not features:
        raise DataError(
            f"{what}: must map modalities to frames"
            + (f", as in `fit`. Give at least one of {', '.join(dims)}." if dims else ".")
        )
    ids = Ids()
    for name, given in features.items():
        if dims is not None and name not in dims:
            raise DataError(
                f"{what}: unknown modality {name!r}. The model was fitted on {', '.join(dims)}."
            )
        for text in _row_ids(given, f"{what}[{name!r}]", key):
            ids.number(text)
    draft = MemoryDraft(what)
    draft.counts = {"num_items": len(ids)}
    used = {}
    for name, given in features.items():
        wanted = columns.get(name, ())
        used[name] = write_features(draft, name, given, wanted, Matching(ids, key), checked=False)
        width = draft.arrays[name].shape[1]
        if dims is not None and width != dims[name]:
            raise DataError(
                f"{what}[{name!r}]: has {width} features, but the model was fitted on {dims[name]}."
            )
    return ids, dict(draft.arrays), used


def _row_ids(given: Any, what: str, key: str) -> list[str]:
    if isinstance(given, tuple) and len(given) == 2:
        return ids_of_array(Path(what), "ids", np.asarray(given[0]))
    texts = FrameTable(frame_of(given, what), what).distinct_ids(key)
    if None in texts:
        raise DataError(f"{what}, row {texts.index(None)}: has no {key}. Give it one.")
    return [text for text in texts if text is not None]
