"""Modalities that are texts in tables, and the encoders that make them numbers."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from milk_recsys.base.errors import DataError, OptionError, plural
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.encoders.contract import Encoder
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.encoders.sentences import Sentences
from milk_recsys.catalogue.encoders.tfidf import fit_tfidf
from milk_recsys.catalogue.importers.filled import COPIES_SHARE, LEAST_COPIES
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.tables import RawTable
from milk_recsys.catalogue.raw.words import texts
from milk_recsys.catalogue.split import Split, draw_split
from milk_recsys.config.options import DataOptions, Options, validate

__all__ = ["MUCH", "EncodeOptions", "Texts", "checked_texts", "read_texts", "write_texts"]

TEXTS_AT_ONCE = 256  # Number of texts encoded at a time.
MUCH = 0.5  # Share of texts or cells above which the user is told that they may be misread.


@dataclasses.dataclass(frozen=True)
class EncodeOptions:
    """How texts become features.

    Attributes:
        encoder: folder or package of a sentence encoder; None fits TF-IDF and an SVD.
        text_dim: width of the features of the SVD.
        fit_on: items on which TF-IDF is fitted: the warm items of a split, or all.
        split_seed, setting: the split.
    """

    encoder: str | None = None
    text_dim: int = 384
    fit_on: Literal["warm", "all"] = "warm"
    split_seed: int = 0
    setting: Literal["ftft", "ftmt", "mtmt"] = "ftmt"

    def check(self) -> None:
        """Raise OptionError for values that are out of range."""
        if self.text_dim < 1:
            raise OptionError(f"--text-dim must be at least 1, got {self.text_dim}.")
        validate(Options(data=self.split_options))

    @property
    def split_options(self) -> DataOptions:
        """Options of the split."""
        return DataOptions(split_seed=self.split_seed, setting=self.setting)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of one modality.

    Attributes:
        texts: one text for each item, "" for none.
        columns: columns of the table that they are made from.
        where: name of the table, for notes.
    """

    texts: Sequence[str]
    columns: tuple[str, ...]
    where: str


def read_texts(
    draft: Draft, name: str, table: RawTable, columns: Sequence[str], matching: Matching
) -> Texts:
    """Return the text of each item: the cells of the columns, joined.

    Raises:
        DataError: a column is absent, or no item has a text.
    """
    table.need(matching.item_column, *columns)
    places = matching.table_places(table, name, draft, further=True)
    joined = [""] * len(matching.items)
    for first, frame in table.batches(list(columns)):
        cells = [texts(frame[column], table.missing(column)) for column in columns]
        for row, words in enumerate(zip(*cells, strict=True)):
            place = places[first + row]
            if place >= 0 and not joined[place]:
                joined[place] = " ".join(word for word in words if word)
    return checked_texts(draft, name, Texts(joined, tuple(columns), table.path.name))


def checked_texts(draft: Draft, name: str, given: Texts) -> Texts:
    """Note how many items have no text.

    Raises:
        DataError: no item has one.
    """
    without = sum(not text for text in given.texts)
    if without == len(given.texts):
        raise DataError(f"{given.where}: no item of the interactions has a text for {name!r}.")
    if without:
        draft.notes.append(
            f"{name}: {plural(without, 'item has', 'items have')} no text in {given.where}."
        )
    return given


def write_texts(
    draft: Draft, given: Mapping[str, Texts], item_column: str, options: EncodeOptions
) -> dict[str, Recipe]:
    """Write the modalities of texts and the manifest; return the recipes for new items.

    A fitted encoder must not see new items, so the split is drawn before it is fitted, and written.
    """
    if options.encoder is not None or options.fit_on == "all" or not given:
        fitted = range(draft.counts["num_items"])
        encoders = _encoders(given, fitted, options)
        for name, encoder in encoders.items():
            _write_rows(draft, name, given[name], encoder)
        draft.write_manifest(**({"text_features": _described(options)} if given else {}))
    else:
        # Which items have a text decides on the split, the texts themselves do not. A placeholder
        # of width 1 stands for features that are not fitted yet.
        for name, t in given.items():
            placeholder = draft.new_features(name, 1)
            placeholder[[bool(text) for text in t.texts]] = 1.0
            draft.finish_features(name, placeholder, t.where, checked=False)
        draft.write_manifest()
        dataset = draft.read()
        split, notes = draw_split(dataset, options.split_options)
        draft.notes += [*dataset.notes, *notes]
        encoders = _encoders(given, split.warm, options)
        for name, encoder in encoders.items():
            _write_rows(draft, name, given[name], encoder)
        draft.write_manifest(text_features=_described(options))
        draft.write_split(restrict(split, draft.read()))
        draft.notes.append(
            "text features are fitted only on the warm items of split.npz: train with "
            f"--split OUT/split.npz --setting {options.setting}, and prepare again for another "
            "split."
        )
    return {
        name: Recipe(item_column, given[name].columns, encoder)
        for name, encoder in encoders.items()
    }


def restrict(split: Split, dataset: Dataset) -> Split:
    """Return a split without the cells and items that the data set turned out to lack.

    A text without any known word is missing, which is known only once the encoder is fitted.
    """
    mask = split.mask & dataset.natural_mask
    # An item that is left with nothing keeps what it has.
    mask = np.where(mask.any(axis=1, keepdims=True), mask, dataset.natural_mask)
    used = np.flatnonzero(dataset.item_counts)
    warm, validation, test = (
        np.intersect1d(part, used) for part in (split.warm, split.validation, split.test)
    )
    return Split(warm, validation, test, mask)


def _encoders(
    given: Mapping[str, Texts], items: Collection[int], options: EncodeOptions
) -> dict[str, Encoder]:
    """Return an encoder of each modality: the sentence encoder, or one fitted on the items."""
    if options.encoder is not None and given:
        return dict.fromkeys(given, Sentences(options.encoder))
    return {
        name: fit_tfidf([t.texts[k] for k in items], options.text_dim, name)
        for name, t in given.items()
    }


def _described(options: EncodeOptions) -> str:
    if options.encoder is not None:
        return f"sentence encoder {options.encoder.rstrip('/').rpartition('/')[2]}"
    if options.fit_on == "all":
        return "TF-IDF and SVD fitted on all items"
    return f"TF-IDF and SVD fitted on the warm items of split.npz (seed {options.split_seed})"


def _write_rows(draft: Draft, name: str, t: Texts, encoder: Encoder) -> None:
    """Write the features of all items that have a text, in batches.

    A text without any word that the encoder knows says nothing, so it is missing. Texts that repeat
    are kept, since those of a brand do by their nature; a note names them.
    """
    with_text = [k for k, text in enumerate(t.texts) if text]
    rows, unknown = draft.new_features(name, encoder.width), 0
    for start in range(0, len(with_text), TEXTS_AT_ONCE):
        batch = np.array(with_text[start : start + TEXTS_AT_ONCE])
        encoded = encoder.encode([t.texts[k] for k in batch])
        known = encoded.any(axis=1)
        unknown += int((~known).sum())
        rows[batch[known]] = encoded[known]
    if unknown:
        lost = f"{name}: {plural(unknown, 'text has', 'texts have')} no word that two of the fitted"
        lost += " texts share; written as missing."
        if unknown > MUCH * len(with_text):
            draft.warnings.append(f"{lost} A sentence encoder reads all of them: --encoder.")
        else:
            draft.notes.append(lost)
    copies = Counter(text for text in t.texts if text).most_common(1)[0]
    if copies[1] >= max(LEAST_COPIES, COPIES_SHARE * len(t.texts)):
        draft.notes.append(
            f"{name}: {copies[1]} items have the text {copies[0][:40]!r}. If it stands for an "
            f"empty cell: --missing {shlex.quote(copies[0][:40])}."
        )
    draft.finish_features(name, rows, t.where, checked=draft.filled.get(name) == "missing")
