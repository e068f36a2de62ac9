"""Selection and scoring of the calibration rows of a pattern."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod.calibration.model import MaskedModel, Pattern
from invmod.calibration.ranks import Floats, conformal_quantile, conformal_rank, rows_needed
from invmod.calibration.scores import INTERVAL_SCORES, target_scores
from invmod.calibration.table import Table
from invmod.calibration.targets import check_range
from invmod.missingness import rows_by_pattern

Rule = Literal["auto", "mondrian", "masked_down", "nested"]
RULES: tuple[Rule, ...] = ("auto", "mondrian", "masked_down", "nested")


class PatternScores(NamedTuple):
    """The calibration scores of one pattern.

    `groups` has the pattern under which rows were scored, and their scores in ascending order. It
    has one entry, except for nested calibration.
    """

    rule: str
    groups: tuple[tuple[Pattern, Floats], ...]

    def __repr__(self) -> str:
        """Return the rule and the number of rows, without the scores."""
        return f"PatternScores(rule={self.rule!r}, num_rows={self.num_rows})"

    @property
    def scores(self) -> list[Floats]:
        """The scores of each group."""
        return [scores for _, scores in self.groups]

    @property
    def num_rows(self) -> int:
        """Number of calibration rows."""
        return sum(map(len, self.scores))

    def quantile(self, coverage: float) -> float | None:
        """Return the quantile; None if groups must be combined for each test row."""
        if conformal_rank(self.num_rows, coverage) > self.num_rows:
            return math.inf
        return conformal_quantile(self.scores[0], coverage) if len(self.groups) == 1 else None


@dataclass
class CalibrationRows:
    """The calibration rows, with a cache of their scores under each pattern."""

    function: str
    model: MaskedModel
    table: Table
    targets: NDArray[Any]
    num_classes: int | None = None
    cache: dict[Pattern, Floats] = field(default_factory=dict)

    def scores(self, pattern: Pattern, coverage: float, rule: Rule, min_rows: int) -> PatternScores:
        """Return the rule of a pattern and the scores of its calibration rows."""
        mask = self.table.mask.cpu()
        wanted = torch.tensor(pattern)
        shared = mask & wanted
        exact = (mask == wanted).all(dim=1)
        containing = (shared == wanted).all(dim=1)
        chosen: str = rule
        if rule == "auto":
            # With a coverage close to 1, `min_rows` rows may be too few for a finite quantile.
            if int(exact.sum()) >= max(min_rows, rows_needed(coverage)):
                chosen = "mondrian"
            else:
                chosen = "masked_down" if containing.sum() >= rows_needed(coverage) else "nested"
        if chosen != "nested":
            rows = exact if chosen == "mondrian" else containing
            return PatternScores(chosen, ((pattern, self._scores(pattern, rows)),))
        # Rows that share no modality with the pattern cannot be scored and are left out.
        by_shared = [u for u in rows_by_pattern(shared) if any(u)]
        groups = [(u, self._scores(u, (shared == torch.tensor(u)).all(dim=1))) for u in by_shared]
        return PatternScores(chosen, tuple(groups))

    def _scores(self, pattern: Pattern, selected: Tensor) -> Floats:
        """Return the sorted scores of the selected rows (bool (N,)) under a pattern.

        The model is called once per pattern, on all rows that contain it.
        """
        if pattern not in self.cache:
            self.cache[pattern] = self._scores_under(pattern)
        return np.sort(self.cache[pattern][selected.numpy()])

    def _scores_under(self, pattern: Pattern) -> Floats:
        """Return scores (N,), which are NaN for the rows that do not contain the pattern."""
        scores = np.full(len(self.targets), np.nan)
        # A row contains the pattern if it has every modality that the pattern has.
        containing = (self.table.mask.cpu() | ~torch.tensor(pattern)).all(dim=1)
        if not containing.any():
            return scores
        rows = containing.nonzero()[:, 0].to(self.table.mask.device)
        outputs = self.model.outputs(self.function, self.table, rows, pattern)
        if self.model.score not in INTERVAL_SCORES:
            self._count_classes(outputs)
        chosen = containing.numpy()
        scores[chosen] = target_scores(self.model.score, outputs, self.targets[chosen])
        return scores

    def _count_classes(self, outputs: Floats) -> None:
        if self.num_classes not in (None, outputs.shape[1]):
            raise ValueError(
                f"{self.function}: the model must return the same number of classes under all "
                f"patterns, got {self.num_classes} and {outputs.shape[1]}."
            )
        self.num_classes = outputs.shape[1]
        check_range(self.function, self.targets, self.num_classes)
