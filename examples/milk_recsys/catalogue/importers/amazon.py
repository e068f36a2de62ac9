"""Amazon product data of 2014: reviews, metadata and visual features as McAuley's group publishes them."""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rich.progress
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.importers.write import Draft, Ids
from milk_recsys.catalogue.split import Split, draw_split
from milk_recsys.config.options import DataOptions

__all__ = ["prepare_amazon"]

CODE_BYTES, VISUAL_DIM = 10, 4096
RECORD_BYTES = CODE_BYTES + 4 * VISUAL_DIM
TEXTS_AT_ONCE = 256
TEXT_KEYS = ("title", "brand", "categories", "description")


def prepare_amazon(
    draft: Draft,
    reviews: Path,
    metadata: Path,
    images: Path | None,
    *,
    options: DataOptions,
    text_dim: int,
    encoder: Path | None,
) -> None:
    """Write a data set from the published files.

    Arguments:
        reviews: ``reviews_*_5.json.gz``; metadata: ``meta_*.json.gz``; images: ``image_features_*.b``, or None.
        options: what the new-item split is drawn by, where text features are fitted.
        encoder: folder of a local sentence encoder; None takes TF-IDF and a truncated SVD of width `text_dim`.
    """
    users, items, pairs = _read_reviews(reviews)
    draft.write_pairs(pairs, len(users), len(items))
    texts, titles = _read_texts(metadata, items, draft)
    draft.write_names(users.names, [titles[k] or name for k, name in enumerate(items.names)])
    if images is not None:
        visual = draft.new_features("visual", VISUAL_DIM)
        _read_images(images, items, visual, draft)
        draft.finish_features("visual", visual, images)
    if encoder is not None:
        _write_text(draft, texts, _encode(encoder), metadata)
        draft.write_manifest(text_features=f"sentence encoder {encoder.name}")
        return
    split = _draw(draft, texts, options, metadata)
    fitted = _fit_svd([texts[k] for k in split.warm if texts[k]], text_dim)
    _write_text(draft, texts, fitted, metadata)
    draft.write_manifest(
        text_features=f"TF-IDF and SVD fitted on the warm items of split.npz (seed {options.split_seed})"
    )
    draft.write_split(split)
    draft.notes.append(
        "text features are fitted on the warm items of split.npz alone: train with --split OUT/split.npz "
        f"--setting {options.setting}, and prepare again for another split."
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a gzip file, with a bar over its bytes."""
    try:
        with (
            rich.progress.open(path, "rb", description=path.name, transient=True) as raw,
            gzip.open(raw, "rb") as file,
        ):
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8", errors="replace")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}). Download it again.") from None


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file, one a line: JSON, or a literal of Python, as the older metadata is."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            try:
                found = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise DataError(
                    f"{path}, line {number}: is neither JSON nor a Python literal. Remove it, or download again."
                ) from None
        if not isinstance(found, dict):
            raise DataError(
                f"{path}, line {number}: must be an object, got {type(found).__name__}."
            )
        yield number, found


def _read_reviews(path: Path) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
    users, items, flat = Ids(), Ids(), array("q")
    for number, review in _objects(path):
        try:
            user, item = review["reviewerID"], review["asin"]
        except KeyError as error:
            raise DataError(
                f"{path}, line {number}: lacks {error.args[0]!r}. Is it a file of reviews?"
            ) from None
        flat.extend((users.number(str(user)), items.number(str(item))))
    return users, items, np.array(flat, dtype=np.int64).reshape(-1, 2)


def _read_texts(path: Path, items: Ids, draft: Draft) -> tuple[list[str], list[str]]:
    """Read title, brand, categories and description of the items, joined; "" where there is nothing."""
    texts, titles = [""] * len(items), [""] * len(items)
    for number, product in _objects(path):
        if "asin" not in product:
            raise DataError(f"{path}, line {number}: lacks 'asin'. Is it a file of metadata?")
        place = items.find(str(product["asin"]))
        if place is None:
            continue
        titles[place] = str(product.get("title") or "")
        texts[place] = " ".join(word for key in TEXT_KEYS for word in _words(product.get(key)))
    without = sum(not text for text in texts)
    if without:
        draft.notes.append(
            f"text: {plural(without, 'item has', 'items have')} no text in {path.name}."
        )
    return texts, titles


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _words(part)
    elif value is not None and str(value).strip():
        yield str(value).strip()


def _read_images(path: Path, items: Ids, rows: npt.NDArray[Any], draft: Draft) -> None:
    """Read records of a 10-byte code and 4096 float32 of the items, one at a time."""
    number = 0
    try:
        with rich.progress.open(path, "rb", description=path.name, transient=True) as file:
            while record := file.read(RECORD_BYTES):
                number += 1
                if len(record) < RECORD_BYTES:
                    raise DataError(
                        f"{path}: record {number} is cut short. Download the file again."
                    )
                place = items.find(record[:CODE_BYTES].decode("ascii", errors="replace").strip())
                if place is None:
                    continue
                values = np.frombuffer(record, "<f4", offset=CODE_BYTES)
                if not np.isfinite(values).all():
                    raise DataError(
                        f"{path}: record {number}, item {items.names[place]}, holds NaN or an infinity."
                    )
                rows[place] = values
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    without = int(np.isnan(rows[:, 0]).sum())
    if without == len(rows):
        raise DataError(
            f"{path}: has no record of any of the {len(rows)} items. Is it of another category?"
        )
    if without:
        draft.notes.append(
            f"visual: {plural(without, 'item has', 'items have')} no record in {path.name}."
        )


# --- text -------------------------------------------------------------------------------------------------------------

Encode = Callable[[list[str]], npt.NDArray[Any]]


def _draw(draft: Draft, texts: list[str], options: DataOptions, metadata: Path) -> Split:
    """Draw the split on the set as it will be, with a stand-in for the text that says who has one."""
    stand_in = draft.new_features("text", 1)
    stand_in[[bool(text) for text in texts]] = 1.0
    draft.finish_features("text", stand_in, metadata, checked=False)
    draft.write_manifest()
    dataset = draft.read()
    split, notes = draw_split(dataset, options)
    draft.notes += [*dataset.notes, *notes]
    return split


def _fit_svd(texts: list[str], dim: int) -> Encode:
    """Fit TF-IDF and a truncated SVD on texts."""
    if len(texts) < 2:
        raise DataError(
            "text: fewer than two warm items have a text, so nothing can be fitted. Give an --encoder."
        )
    words = TfidfVectorizer(
        sublinear_tf=True, min_df=min(2, len(texts)), max_features=50_000, stop_words="english"
    )
    try:
        weighted = words.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"text: nothing to count in the warm items' texts ({error}). Give an --encoder."
        ) from None
    width = max(1, min(dim, weighted.shape[1] - 1, len(texts) - 1))
    svd = TruncatedSVD(width, random_state=0).fit(weighted)
    return lambda some: svd.transform(words.transform(some))


def _encode(folder: Path) -> Encode:
    """Open a local sentence encoder; nothing is downloaded."""
    if not folder.is_dir():
        raise DataError(
            f"--encoder: {folder} is no folder. Name that of a sentence encoder on this machine."
        )
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError(
            "--encoder needs sentence-transformers, which is not installed: pip install 'invmod[text]'. Without "
            "--encoder, TF-IDF and an SVD are fitted."
        ) from None
    model = SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    return lambda some: np.asarray(
        model.encode(some, show_progress_bar=False, convert_to_numpy=True)
    )


def _write_text(draft: Draft, texts: list[str], encode: Encode, where: Path) -> None:
    """Write the text features of all items that have a text, some at a time; a row of zeros has no known word."""
    have = [k for k, text in enumerate(texts) if text]
    if not have:
        raise DataError(f"{where}: no item of the reviews has a text. Is it of another category?")
    width = encode([texts[have[0]]]).shape[1]
    rows = draft.new_features("text", width)
    for start in range(0, len(have), TEXTS_AT_ONCE):
        some = have[start : start + TEXTS_AT_ONCE]
        rows[some] = encode([texts[k] for k in some])
    draft.finish_features("text", rows, where)
