"""Importer for the Amazon product data of 2014, published by McAuley's group.

The data consist of reviews, metadata and visual features.
"""

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

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.importers.write import Draft, Ids
from milk_recsys.catalogue.split import Split, draw_split
from milk_recsys.config.options import DataOptions

__all__ = ["prepare_amazon"]

# A record of the image features is a product code (ASIN) and 4096 little-endian float32 numbers.
CODE_BYTES, VISUAL_DIM = 10, 4096
RECORD_BYTES = CODE_BYTES + 4 * VISUAL_DIM
TEXTS_AT_ONCE = 256  # Number of texts encoded at a time.
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
        reviews: ``reviews_*_5.json.gz``.
        metadata: ``meta_*.json.gz``.
        images: ``image_features_*.b``, or None.
        options: options of the new-item split on whose warm items text features are fitted; not
            used with an encoder.
        text_dim: width of the text features without an encoder.
        encoder: folder of a local sentence encoder; None fits TF-IDF and a truncated SVD.
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
    # New items must not influence the text features, so the split is drawn before they are fitted.
    split = _draw_split(draft, texts, options, metadata)
    encode = _fit_svd([texts[k] for k in split.warm if texts[k]], text_dim)
    _write_text(draft, texts, encode, metadata)
    draft.write_manifest(
        text_features="TF-IDF and SVD fitted on the warm items of split.npz "
        f"(seed {options.split_seed})"
    )
    draft.write_split(split)
    draft.notes.append(
        "text features are fitted only on the warm items of split.npz: train with "
        f"--split OUT/split.npz --setting {options.setting}, and prepare again for another split."
    )


# --- reading --------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a gzip file, with a progress bar."""
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
        raise DataError(
            f"{path}: is not a complete gzip file ({error}). Download it again."
        ) from None


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a file with one object per line.

    Reviews are JSON; lines of the older metadata are Python literals.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            try:
                record = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise DataError(
                    f"{path}, line {number}: is neither JSON nor a Python literal. Remove the "
                    "line, or download the file again."
                ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{path}, line {number}: must be an object, got {type(record).__name__}."
            )
        yield number, record


def _read_reviews(path: Path) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
    """Return the users, the items and the pairs (P, 2) of the reviews."""
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
    """Return the text and the title of each item; "" for an item without one.

    The text of an item is its title, brand, categories and description, joined.
    """
    texts, titles = [""] * len(items), [""] * len(items)
    for number, product in _objects(path):
        if "asin" not in product:
            raise DataError(f"{path}, line {number}: lacks 'asin'. Is it a file of metadata?")
        # The metadata cover a whole category, including products without reviews.
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
    """Yield the texts of a metadata value, which may be a nested list."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _words(part)
    elif value is not None and str(value).strip():
        yield str(value).strip()


def _read_images(path: Path, items: Ids, rows: npt.NDArray[Any], draft: Draft) -> None:
    """Read the records of the items into `rows` (num_items, 4096), one record at a time."""
    # The file has several gigabytes, so only one record is held in memory.
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
                        f"{path}: record {number}, item {items.names[place]}, has NaN or an "
                        "infinity."
                    )
                rows[place] = values
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    without = int(np.isnan(rows[:, 0]).sum())
    if without == len(rows):
        raise DataError(
            f"{path}: has no record of any of the {len(rows)} items. Is it the file of another "
            "category?"
        )
    if without:
        draft.notes.append(
            f"visual: {plural(without, 'item has', 'items have')} no record in {path.name}."
        )


# --- text -----------------------------------------------------------------------------------------

Encode = Callable[[list[str]], npt.NDArray[Any]]


def _draw_split(draft: Draft, texts: list[str], options: DataOptions, metadata: Path) -> Split:
    """Draw the split of the data set as it will be.

    The split depends on which items have a text but not on the text's features. A placeholder of
    width 1, with a NaN row for an item without a text, stands for features that are not fitted yet.
    """
    placeholder = draft.new_features("text", 1)
    placeholder[[bool(text) for text in texts]] = 1.0
    draft.finish_features("text", placeholder, metadata, checked=False)
    draft.write_manifest()
    dataset = draft.read()
    split, notes = draw_split(dataset, options)
    draft.notes += [*dataset.notes, *notes]
    return split


def _fit_svd(texts: list[str], dim: int) -> Encode:
    """Fit TF-IDF and a truncated SVD on texts; return the function that encodes texts."""
    # Imported here because it takes a second, which other sources and --help do not need.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) < 2:
        raise DataError(
            "text: fewer than two warm items have a text, so nothing can be fitted. "
            "Give an --encoder."
        )
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=min(2, len(texts)), max_features=50_000, stop_words="english"
    )
    try:
        tfidf = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"text: the warm items' texts contain no usable word ({error}). Give an --encoder."
        ) from None
    # A truncated SVD has fewer components than the matrix has rows or columns.
    width = max(1, min(dim, tfidf.shape[1] - 1, len(texts) - 1))
    svd = TruncatedSVD(width, random_state=0).fit(tfidf)
    return lambda batch: svd.transform(vectorizer.transform(batch))


def _encode(folder: Path) -> Encode:
    """Load a local sentence encoder, without any download, as a function from texts to rows."""
    if not folder.is_dir():
        raise DataError(
            f"--encoder: {folder} is not a folder. Name the folder of a sentence encoder on this "
            "machine."
        )
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError(
            "--encoder needs sentence-transformers, which is not installed: "
            "pip install 'invmod[text]'. Without --encoder, TF-IDF and an SVD are fitted."
        ) from None
    model = SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    return lambda batch: np.asarray(
        model.encode(batch, show_progress_bar=False, convert_to_numpy=True)
    )


def _write_text(draft: Draft, texts: list[str], encode: Encode, where: Path) -> None:
    """Write the text features of all items that have a text, in batches.

    Without an encoder, a text whose words are all unknown has a row of zeros, which
    `finish_features` then counts as missing unless --keep-filled is given.
    """
    with_text = [k for k, text in enumerate(texts) if text]
    if not with_text:
        raise DataError(
            f"{where}: no item of the reviews has a text. Is it the file of another category?"
        )
    width = encode([texts[with_text[0]]]).shape[1]
    rows = draft.new_features("text", width)
    for start in range(0, len(with_text), TEXTS_AT_ONCE):
        batch = with_text[start : start + TEXTS_AT_ONCE]
        rows[batch] = encode([texts[k] for k in batch])
    draft.finish_features("text", rows, where)
