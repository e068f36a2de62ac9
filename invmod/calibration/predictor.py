"""The calibrated model: intervals and sets for rows with any pattern of missing modalities."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invmod._files import write_text
from invmod.calibration.files import read_json, template_from_json, template_to_json
from invmod.calibration.groups import PatternScores
from invmod.calibration.model import MaskedModel, Pattern, Predict, check_predict
from invmod.calibration.ranks import Floats, accepted_classes, combined_ends
from invmod.calibration.report import CalibrationReport
from invmod.calibration.scores import class_scores, interval_ends
from invmod.calibration.summary import counted_tests, pattern_calibration
from invmod.calibration.table import Array, Features, Mask, Table, check_mapping, checked_table
from invmod.calibration.targets import checked_targets
from invmod.missingness import pattern_name, rows_by_pattern

FORMAT, VERSION = "invmod conformal predictor", 1


@dataclass(frozen=True, eq=False, repr=False)
class ConformalPredictor:
    """A model with calibration scores by pattern, made by `calibrate_by_pattern`.

    Attributes:
        model: the user's model and how it is called.
        coverage: the coverage that was asked for.
        num_rows: number of calibration rows.
        num_classes: C for sets of classes, None for intervals.
        calibrated: pattern -> its scores.

    Example:
        >>> from invmod.calibration import calibrate_by_pattern
        >>> features = {"a": np.zeros((19, 1))}
        >>> predictor = calibrate_by_pattern(
        ...     lambda features, mask: features["a"][:, 0], features, np.arange(19.0), "absolute")
        >>> predictor.intervals({"a": np.ones((2, 1))}).tolist()
        [[-16.0, 18.0], [-16.0, 18.0]]
    """

    model: MaskedModel
    coverage: float
    num_rows: int
    num_classes: int | None
    calibrated: dict[Pattern, PatternScores]

    def __repr__(self) -> str:
        """Return score, coverage, number of rows and the rule of each pattern, without scores."""
        rules = {
            pattern_name(pattern, self.modalities): scores.rule
            for pattern, scores in self.calibrated.items()
            if any(pattern)
        }
        return (
            f"ConformalPredictor(score={self.model.score!r}, coverage={self.coverage}, "
            f"num_rows={self.num_rows}, rules={rules})"
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the mask's columns."""
        return self.model.modalities

    def intervals(self, features: Features, mask: Mask | None = None) -> Any:
        r"""Return the intervals of regression targets.

        With one pattern of calibration scores the interval of a row is

        .. math:: [\, l(x, p) - q_p, \; u(x, p) + q_p \,]

        where p is the row's pattern, l and u are the model's outputs (both are its prediction for
        the score ``"absolute"``) and :math:`q_p` is the quantile of the pattern.

        Arguments:
            features: modality name -> (N, ...), as for `calibrate_by_pattern`. A name that is
                absent or None is missing in all rows; the model receives hidden cells in the shape
                and dtype that the calibration had, and None if it had None.
            mask: bool (N, M) with columns in the order of `modalities`, or name -> (N,); if None,
                rows of NaN are missing.

        Returns:
            (N, 2) lower and upper ends in float64, an array if the features are arrays, else a
            tensor on their device. Ends are infinite where the pattern has too few calibration
            rows, or where a row has no modality. With the score ``"quantiles"`` a lower end can
            exceed the upper one; such an interval is empty.

        Raises:
            KeyError: `features` has a name that the calibration does not have.
            TypeError: the calibration is for sets of classes, or an argument has a wrong type.
            ValueError: a row has a pattern that was not calibrated, all features are None, the mask
                has available rows of one that is, or the model returns NaN.
        """
        if self.num_classes is not None:
            raise TypeError(
                "ConformalPredictor.intervals: the calibration has the score "
                f"{self.model.score!r} of classes. Call `sets`."
            )
        table = self._table("ConformalPredictor.intervals", features, mask)
        return table.like_given(self._results("ConformalPredictor.intervals", table))

    def sets(self, features: Features, mask: Mask | None = None) -> Any:
        r"""Return the sets of classes.

        .. math:: \{\, c : s(x, p, c) \le q_p \,\}

        where p is the row's pattern, s is the score and :math:`q_p` is the quantile of the pattern.

        Arguments:
            features: modality name -> (N, ...), as for `calibrate_by_pattern`. A name that is
                absent or None is missing in all rows; the model receives hidden cells in the shape
                and dtype that the calibration had, and None if it had None.
            mask: bool (N, M) with columns in the order of `modalities`, or name -> (N,); if None,
                rows of NaN are missing.

        Returns:
            bool (N, C), True for the classes of a row's set, an array if the features are arrays,
            else a tensor on their device. A set has all classes where the pattern has too few
            calibration rows, or where a row has no modality. A set can be empty.

        Raises:
            KeyError: `features` has a name that the calibration does not have.
            TypeError: the calibration is for intervals, or an argument has a wrong type.
            ValueError: a row has a pattern that was not calibrated, all features are None, the mask
                has available rows of one that is, or the model returns NaN.
        """
        if self.num_classes is None:
            raise TypeError(
                "ConformalPredictor.sets: the calibration has the score "
                f"{self.model.score!r} of numbers. Call `intervals`."
            )
        table = self._table("ConformalPredictor.sets", features, mask)
        return table.like_given(self._results("ConformalPredictor.sets", table))

    def report(
        self,
        features: Features | None = None,
        targets: Array | None = None,
        mask: Mask | None = None,
    ) -> CalibrationReport:
        """Return rule, rows and quantile of each pattern, and coverage on test rows if given.

        Arguments:
            features: modality name -> (N, ...) of test rows, as for `intervals`. They must not be
                calibration rows.
            targets: (N,), their targets.
            mask: bool (N, M) with columns in the order of `modalities`, or name -> (N,); if None,
                rows of NaN are missing.

        Raises:
            TypeError: only one of `features` and `targets` is given, or a wrong type.
            ValueError: as for `intervals` and `sets`.
        """
        function = "ConformalPredictor.report"
        if (features is None) != (targets is None):
            raise TypeError(f"{function}: `features` and `targets` must be given together.")
        tests: dict[Pattern, dict[str, Any]] = {}
        if features is not None and targets is not None:
            table = self._table(function, features, mask)
            values = checked_targets(
                function, targets, self.model.score, len(table.mask), self.num_classes
            )
            infinite = {
                p: s.quantile(self.coverage) == math.inf for p, s in self.calibrated.items()
            }
            tests = counted_tests(table.mask, values, self._results(function, table), infinite)
        results = [
            pattern_calibration(pattern, scores, self.modalities, self.coverage, tests)
            for pattern, scores in self.calibrated.items()
            # Rows without any modality are a fact about the test rows, not about calibration.
            if any(pattern) or pattern in tests
        ]
        return CalibrationReport(
            self.modalities, self.model.score, self.coverage, self.num_rows, tuple(results)
        )

    # --- files

    def to_json(self) -> str:
        """Return everything except the model as JSON."""
        model = self.model
        data = {
            "format": FORMAT,
            "version": VERSION,
            "modalities": model.modalities,
            "score": model.score,
            "integer_fill": model.integer_fill,
            "templates": {name: template_to_json(x) for name, x in model.templates.items()},
            "coverage": self.coverage,
            "num_rows": self.num_rows,
            "num_classes": self.num_classes,
            "calibrated": [
                [pattern, scores.rule, [[u, group.tolist()] for u, group in scores.groups]]
                for pattern, scores in self.calibrated.items()
            ],
        }
        return json.dumps(data, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, predict: Predict) -> ConformalPredictor:
        """Read the JSON of `to_json`; `predict` must be the model that was calibrated.

        Raises:
            TypeError: `predict` is not callable.
            ValueError: the text is not JSON, no calibration, or one of another version; or
                `predict` is in training mode.
        """
        check_predict("ConformalPredictor.from_json", predict)
        data = read_json("ConformalPredictor.from_json", text, FORMAT, VERSION)
        calibrated = {
            tuple(pattern): PatternScores(
                rule, tuple((tuple(u), np.array(scores, dtype=float)) for u, scores in groups)
            )
            for pattern, rule, groups in data["calibrated"]
        }
        model = MaskedModel(
            predict,
            tuple(data["modalities"]),
            data["score"],
            data["integer_fill"],
            {name: template_from_json(x) for name, x in data["templates"].items()},
        )
        return cls(model, data["coverage"], data["num_rows"], data["num_classes"], calibrated)

    def save(self, path: str | Path) -> None:
        """Write everything except the model to a JSON file."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path, predict: Predict) -> ConformalPredictor:
        """Read a file of `save`; `predict` must be the model that was calibrated."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"), predict)

    # --- helpers

    def _table(self, function: str, features: Features, mask: Mask | None) -> Table:
        check_mapping(function, features)
        names = self.modalities
        unknown = [name for name in features if name not in names]
        if unknown:
            raise KeyError(
                f"{function}: `features` must have the modalities {names} of the calibration, or "
                f"some of them, got the unknown {unknown}. Correct the names or leave them out."
            )
        # The mask's columns follow the calibration, not the order of this dictionary.
        ordered = {name: features.get(name) for name in names}
        return checked_table(function, ordered, mask, self.model.integer_fill, self.model.templates)

    def _results(self, function: str, table: Table) -> NDArray[Any]:
        """Return intervals (N, 2) or sets (N, C)."""
        shape = (len(table.mask), 2 if self.num_classes is None else self.num_classes)
        results: NDArray[Any] = np.empty(shape, dtype=float if self.num_classes is None else bool)
        for pattern, rows in rows_by_pattern(table.mask).items():
            if pattern not in self.calibrated:
                raise ValueError(
                    f"{function}: row {int(rows[0])} has the pattern "
                    f"{pattern_name(pattern, self.modalities)}, which was not calibrated. Add it "
                    "to `patterns` of `calibrate_by_pattern`."
                )
            results[rows.cpu().numpy()] = self._of_pattern(function, table, rows, pattern)
        return results

    def _of_pattern(
        self, function: str, table: Table, rows: Tensor, pattern: Pattern
    ) -> NDArray[Any]:
        """Return intervals or sets of rows that have the same pattern."""
        calibrated = self.calibrated[pattern]
        if calibrated.quantile(self.coverage) == math.inf:
            # The infinite ends broadcast to (n, 2), and True to all classes.
            return np.array([-math.inf, math.inf] if self.num_classes is None else True)
        outputs = [self.model.outputs(function, table, rows, u) for u, _ in calibrated.groups]
        score, quantile = self.model.score, calibrated.quantile(self.coverage)
        if self.num_classes is not None:
            self._check_classes(function, outputs)
            candidates = [class_scores(score, output) for output in outputs]
            return accepted_classes(candidates, calibrated.scores, self.coverage)
        ends = [interval_ends(score, output) for output in outputs]
        if quantile is None:
            lower, upper = combined_ends(ends, calibrated.scores, self.coverage)
        else:
            lower, upper = ends[0][0] - quantile, ends[0][1] + quantile
        return np.stack([lower, upper], axis=1)

    def _check_classes(self, function: str, outputs: list[Floats]) -> None:
        for output in outputs:
            if output.shape[1] != self.num_classes:
                raise ValueError(
                    f"{function}: the model must return {self.num_classes} classes as in "
                    f"calibration, got {output.shape[1]}."
                )
