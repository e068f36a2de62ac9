"""Groups of options that several sources of `prepare` share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.importers.texts import EncodeOptions
from milk_recsys.catalogue.raw.tables import TextFormat

__all__ = ["EncodingOptions", "FileOptions", "OutputOptions", "PairOptions"]

Expected = Literal["baby", "clothing", "tiktok"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the data set is written, and what is done with rows that were filled in."""

    out: Path
    """Folder for the data set; it must not exist yet."""
    keep_filled: bool = False
    """Keep rows that were probably filled in, instead of marking them as missing."""
    filled: tuple[str, ...] = ()
    """NAME=keep or NAME=missing: the same for single modalities. `missing` also marks rows that
    repeat as categories do."""
    expect: Expected | None = None
    """Compare the counts with the paper's Table 1."""

    @property
    def filled_by_name(self) -> dict[str, str]:
        """Modality -> `keep` or `missing`."""
        policies = {}
        for word in self.filled:
            name, _, policy = word.partition("=")
            if policy not in ("keep", "missing"):
                raise OptionError(f"--filled must be NAME=keep or NAME=missing, got {word!r}.")
            policies[name] = policy
        return policies


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How text files are written; by default this is found in each file."""

    separator: str | None = None
    """Text between two cells of text files, or `tab`; by default it is found in each file."""
    encoding: str | None = None
    """Encoding of text files, such as latin-1; by default UTF-8."""
    decimal: Literal["auto", ".", ","] = "auto"
    """Decimal sign of numbers in text files; `auto` finds it in each file."""
    quotes: Literal["auto", "none", "doubled", "escaped"] = "auto"
    """Quotes of text files: plain characters (`none`), or around cells, with a quote within a cell
    doubled or escaped by a backslash."""
    header: bool = True
    """Whether the first line of text files names the columns; else they are called 1, 2, ..."""
    missing: tuple[str, ...] = ()
    """Further texts that stand for an empty cell of numbers or text, or COLUMN=TEXT."""

    @property
    def text_format(self) -> TextFormat:
        """The same as one object."""
        separator = self.separator
        if separator in ("tab", "\\t"):
            separator = "\t"
        if separator == "":
            raise OptionError("--separator must not be empty.")
        return TextFormat(
            separator, self.encoding, self.decimal, self.quotes, self.header, self.missing
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Which rows of the table of interactions count."""

    rating_column: str | None = None
    """Column of ratings; needs --min-rating."""
    min_rating: float | None = None
    """Leave out rows with a lower rating."""
    implicit_rating: float | None = None
    """Rating that means that none was given; such rows count."""
    time_format: str | None = None
    """Format of times, as in strptime; by default it is found."""
    where: tuple[str, ...] = ()
    """Conditions on rows, such as `Quantity>0`, `Country=France` or `Code~^[0-9]`."""
    empty_ids: Literal["error", "drop"] = "error"
    """Rows without a user or an item: stop with an error, or leave them out."""
    id_case: Literal["keep", "upper", "lower"] = "keep"
    """Upper, lower or kept case of all ids."""
    min_pairs: int = 1
    """Leave out users and items with fewer distinct pairs, until none is left (k-core)."""

    def row_options(self, user: str, item: str, time: str | None) -> RowOptions:
        """Return the same as one object, for the given columns."""
        if self.min_pairs < 1:
            raise OptionError(f"--min-pairs must be at least 1, got {self.min_pairs}.")
        return RowOptions(
            user_column=user,
            item_column=item,
            time_column=time,
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(PairOptions)},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How texts become features."""

    encoder: str | None = None
    """Sentence encoder on this machine: its folder, or an installed package that contains one; by
    default, TF-IDF and an SVD are fitted."""
    text_dim: int = 384
    """Width of the text features from the SVD."""
    fit_on: Literal["warm", "all"] = "warm"
    """Items on which TF-IDF and the SVD are fitted: the warm items of a split, or all items."""
    split_seed: int = 0
    """Seed of the split on whose warm items the text features are fitted."""
    setting: Literal["ftft", "ftmt", "mtmt"] = "ftmt"
    """Setting of that split."""

    @property
    def encode_options(self) -> EncodeOptions:
        """The same as one object."""
        return EncodeOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(EncodingOptions)}
        )
