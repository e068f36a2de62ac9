"""Importer for the Amazon review data of McAuley's group: 2014, 2018 and 2023.

The data consist of reviews and metadata, in JSON lines (those of 2014 also as Python literals),
compressed or not, and for 2014 and 2018 of visual features.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.importers.assemble import start, write_names
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.matching import Place
from milk_recsys.catalogue.importers.options import EncodingOptions, OutputOptions, PairOptions
from milk_recsys.catalogue.importers.texts import read_texts, write_texts
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.files import open_bytes
from milk_recsys.catalogue.raw.tables import RawTable, open_table, shown_names

__all__ = ["Amazon"]

# A record of the image features is a product code (ASIN) and 4096 little-endian float32 numbers.
CODE_BYTES, VISUAL_DIM = 10, 4096
RECORD_BYTES = CODE_BYTES + 4 * VISUAL_DIM


@dataclasses.dataclass(frozen=True)
class Release:
    """Names of the keys in one release of the data."""

    user: str
    item: str
    rating: str
    time: str
    texts: tuple[str, ...]


# The first release whose keys the reviews have is theirs. An item of 2023 is the parent product,
# since reviews and metadata of its variants (`asin`) do not meet.
RELEASES = (
    Release(
        "user_id",
        "parent_asin",
        "rating",
        "timestamp",
        ("title", "store", "categories", "features", "description"),
    ),
    Release(
        "reviewerID",
        "asin",
        "overall",
        "unixReviewTime",
        ("title", "brand", "categories", "category", "feature", "description"),
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amazon(EncodingOptions, PairOptions, OutputOptions):
    """Amazon product data of 2014, 2018 or 2023: reviews, metadata, visual features."""

    reviews: Path
    """File of reviews, such as reviews_*_5.json.gz or *.jsonl."""
    metadata: Path
    """File of metadata, such as meta_*.json.gz."""
    images: Path | None = None
    """File image_features_*.b; by default the data set has only text."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py amazon: {self.reviews.name}, {self.metadata.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set.

        Raises:
            DataError: a file is absent or damaged, or of another kind.
        """
        self.encode_options.check()
        reviews, metadata = open_table(self.reviews), open_table(self.metadata)
        release = _release(reviews)
        if release.item not in metadata.columns:
            raise DataError(
                f"{metadata.path}: has no {release.item!r}; it has "
                f"{shown_names(metadata.columns)}. Is it the file of metadata of the same "
                "release?"
            )
        time = release.time if release.time in reviews.columns else None
        rows = self.row_options(release.user, release.item, time)
        if rows.min_rating is not None and rows.rating_column is None:
            rows = dataclasses.replace(rows, rating_column=release.rating)
        matching = start(draft, reviews, rows, release.item)
        # Some files of metadata have a product twice.
        matching = dataclasses.replace(matching, repeated="first")
        columns = [key for key in release.texts if key in metadata.columns]
        if "title" in metadata.columns:
            title = Place(self.metadata, ("title",))
            write_names(draft, matching, metadata, title)
        text = read_texts(draft, "text", metadata, columns, matching)
        if self.images is not None:
            visual = draft.new_features("visual", VISUAL_DIM)
            read_images(self.images, matching.items, visual, draft)
            draft.finish_features("visual", visual, self.images)
        recipes: dict[str, Recipe] = write_texts(
            draft, {"text": text}, release.item, self.encode_options
        )
        draft.write_recipes(recipes)


def _release(reviews: RawTable) -> Release:
    for release in RELEASES:
        if {release.user, release.item} <= set(reviews.columns):
            return release
    wanted = " or ".join(f"{r.user!r} and {r.item!r}" for r in RELEASES)
    raise DataError(
        f"{reviews.path}: must have {wanted}; it has {shown_names(reviews.columns)}. Is it a "
        "file of reviews?"
    )


def read_images(path: Path, items: Ids, rows: npt.NDArray[Any], draft: Draft) -> None:
    """Read the records of the items into `rows` (num_items, 4096), one record at a time."""
    # The file has several gigabytes, so only one record is held in memory.
    number = 0
    with open_bytes(path, progress=True) as file:
        while record := file.read(RECORD_BYTES):
            number += 1
            if len(record) < RECORD_BYTES:
                raise DataError(f"{path}: record {number} is cut short. Download the file again.")
            place = items.find(record[:CODE_BYTES].decode("ascii", errors="replace").strip())
            if place is None:
                continue
            values = np.frombuffer(record, "<f4", offset=CODE_BYTES)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{path}: record {number}, item {items.names[place]}, has NaN or an infinity."
                )
            rows[place] = values
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
