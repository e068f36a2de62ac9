"""Conditions on rows of a table, such as ``Quantity>0`` or ``StockCode~^[0-9]{5}``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

import polars as pl

from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.raw.tables import RawTable
from milk_recsys.catalogue.raw.values import trimmed

__all__ = ["Condition", "parse_conditions", "rows_kept"]

Sign = Literal[">=", "<=", ">", "<", "!=", "!~", "=", "~"]
FORM = re.compile(r"(.+?)\s*(>=|<=|!=|!~|==|=|>|<|~)\s*(.*)", re.DOTALL)
COMPARISONS: dict[str, Callable[[pl.Series, float], pl.Series]] = {
    ">=": lambda x, y: x >= y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    "<": lambda x, y: x < y,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition: a column, a sign, and a value.

    ``>=, <=, >, <`` compare numbers. ``=`` and ``!=`` compare trimmed texts, or numbers in a typed
    column of numbers. ``~`` and ``!~`` search a regular expression in texts. An empty cell is an
    empty text, and no number.
    """

    column: str
    sign: Sign
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.value}"

    def holds(self, table: RawTable, frame: pl.DataFrame, first: int) -> pl.Series:
        """Return for which rows of a block the condition holds."""
        number, equal = _number(self.value), self.sign in ("=", "!=")
        if equal and number is not None and frame[self.column].dtype.is_numeric():
            same = (table.numbers(frame, self.column, first) == number).fill_null(value=False)
            return ~same if self.sign == "!=" else same
        if self.sign in COMPARISONS:
            numbers = table.numbers(frame, self.column, first)
            return COMPARISONS[self.sign](numbers, float(self.value)).fill_null(value=False)
        texts = trimmed(frame[self.column].cast(pl.String)).fill_null("")
        holds = texts == self.value if equal else texts.str.contains(self.value)
        return ~holds if self.sign[0] == "!" else holds


def parse_conditions(words: Sequence[str]) -> list[Condition]:
    """Parse conditions.

    Raises:
        OptionError: a condition has no sign, no number after a comparison, or an invalid regular
            expression.

    Example:
        >>> [str(c) for c in parse_conditions(["Unit price > 0", "code!~^C"])]
        ['Unit price>0', 'code!~^C']
    """
    conditions = []
    for word in words:
        match = FORM.fullmatch(word.strip())
        if not match:
            raise OptionError(
                f"--where: {word!r} must be COLUMN, a sign and a value, such as Quantity>0, "
                "Country=France or StockCode~^[0-9]. Signs are > >= < <= = != ~ !~."
            )
        column, sign, value = match.groups()
        sign = "=" if sign == "==" else sign
        if sign in COMPARISONS:
            if _number(value) is None:
                raise OptionError(f"--where: {word!r} must compare with a number.")
        elif sign in ("~", "!~"):
            try:
                pl.Series([""]).str.contains(value)
            except pl.exceptions.PolarsError as error:
                first = str(error).splitlines()[0]
                raise OptionError(
                    f"--where: {value!r} is no regular expression ({first})."
                ) from None
        conditions.append(Condition(column, sign, value))  # type: ignore[arg-type]
    return conditions


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def rows_kept(
    conditions: Sequence[Condition], table: RawTable, frame: pl.DataFrame, first: int
) -> pl.Series:
    """Return for which rows of a block all conditions hold."""
    kept = pl.repeat(value=True, n=len(frame), eager=True)
    for condition in conditions:
        kept &= condition.holds(table, frame, first)
    return kept
