"""The robustness report of a model in training, shared by the callbacks of all frameworks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from invmod._checks import check_count, check_names
from invmod.integrations.states import check_whole, evaluation_mode, kept_random_state
from invmod.missingness import hide_features, mask_from_features
from invmod.missingness.arrays import as_tensor, count_rows, each_array, given_features
from invmod.robustness import RobustnessReport, robustness_report
from invmod.robustness.inputs import Array

Predict = Callable[[Any, dict[str, Any], Tensor], Tensor]

RATES = (0.0, 0.25, 0.5, 0.75)  # fewer than in a report, because it is computed again and again


def call_model(model: Any, features: dict[str, Any], mask: Tensor) -> Tensor:
    """Return ``model(features, mask)``."""
    return model(features, mask)  # type: ignore[no-any-return]


class PeriodicReport:
    """A report every few epochs: data, options and results. The callbacks inherit from it."""

    def __init__(
        self,
        features: Mapping[str, Any],
        targets: Array,
        metric: Callable[[Any, Any], float],
        *,
        predict: Predict | None = None,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        every_rank: bool = False,
        seed: int = 0,
        prefix: str = "robustness",
        **report_options: Any,
    ) -> None:
        known = set(inspect.signature(robustness_report).parameters) - {
            "predict",
            "features",
            "targets",
            "metric",
            "generator",
        }
        if unknown := sorted(report_options.keys() - known):
            raise TypeError(
                f"RobustnessCallback: {unknown} are not options of `robustness_report`, which are "
                f"{sorted(known)}."
            )
        self._set_features(features, report_options)
        self.targets = targets.cpu() if isinstance(targets, Tensor) else targets
        self.metric = metric
        self.predict = call_model if predict is None else predict
        self.every_n_epochs = check_count("RobustnessCallback", "every_n_epochs", every_n_epochs)
        if batch_size is not None:
            batch_size = check_count("RobustnessCallback", "batch_size", batch_size)
        self.batch_size = batch_size
        self.every_rank = every_rank
        self.seed = seed
        self.prefix = prefix
        self.report_options = {"rates": RATES, "num_resamples": 0, **report_options}
        self.reports: dict[int, RobustnessReport] = {}

    def _set_features(self, features: Mapping[str, Any], options: dict[str, Any]) -> None:
        """Store the features as tensors, their number of rows, and the natural mask."""
        function = "RobustnessCallback"
        given = given_features(function, features, check_names(function, tuple(features)))
        self.num_rows = count_rows(function, given)
        # A feature of None is missing in all rows, and `predict` receives it as None.
        self.features = {name: _as_tensors(name, given.get(name)) for name in features}
        self.integer_fill = options.pop("integer_fill", "auto")
        if options.get("mask") is None:
            options["mask"] = mask_from_features(
                self.features, tuple(self.features), integer_fill=self.integer_fill
            )

    def _figures(
        self,
        model: nn.Module,
        epoch: int,
        *,
        is_main: bool,
        broadcast: Callable[[Any], Any],
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        convert: Callable[[Any], Any] = lambda features: features,
    ) -> dict[str, float]:
        """Return the figures of the report after `epoch`, the same on all ranks.

        Arguments:
            model: not wrapped for data-parallel training.
            epoch: number of epochs so far.
            is_main: whether this process is rank 0.
            broadcast: returns the object that rank 0 passes, on all ranks.
            context: surrounds each call of the model.
            convert: applied to the features of each call.
        """
        if not self.every_rank:
            check_whole(model)
        figures: dict[str, float] = {}
        error: Exception | None = None
        if is_main or self.every_rank:
            try:
                self.reports[epoch] = self._report(model, context, convert)
                figures = report_figures(self.reports[epoch], self.prefix)
            except Exception as raised:
                # The other ranks wait for the broadcast, so the error is raised after it.
                error = raised
        figures, message = broadcast((figures, repr(error) if error else None))
        if error is not None:
            raise error
        if message is not None:
            raise RuntimeError(f"RobustnessCallback: the report failed on rank 0: {message}")
        return figures

    def _report(
        self,
        model: nn.Module,
        context: Callable[[], AbstractContextManager[Any]],
        convert: Callable[[Any], Any],
    ) -> RobustnessReport:
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device

        names = tuple(self.features)

        def predict(_: Any, mask: Tensor) -> Tensor:
            size = self.batch_size or self.num_rows
            parts = []
            for start in range(0, self.num_rows, size):
                rows = slice(start, start + size)
                part = functools.partial(_rows, rows, device)
                batch = {name: each_array(x, part) for name, x in self.features.items()}
                kept = mask[rows].to(device)
                shown = hide_features(batch, kept, names, integer_fill=self.integer_fill)
                hidden = {name: shown.get(name) for name in names}
                with context():
                    parts.append(_prediction(self.predict(model, convert(hidden), kept)))
            return torch.cat(parts)

        # Cells are hidden batch by batch in `predict`, so the report needs names and rows only.
        # This allows for features that are mappings, and the device never holds the whole data.
        placeholders = {
            name: None if x is None else torch.zeros(self.num_rows, 1)
            for name, x in self.features.items()
        }
        with evaluation_mode(model), kept_random_state(device):
            # The same seed after every epoch: the same cells are hidden, so figures are comparable.
            torch.manual_seed(self.seed)
            return robustness_report(
                predict,
                placeholders,
                self.targets,
                self.metric,
                generator=torch.Generator().manual_seed(self.seed),
                **self.report_options,
            )


def report_figures(report: RobustnessReport, prefix: str) -> dict[str, float]:
    """Return what the callbacks log of a report, name -> number.

    Example:
        >>> from invmod.robustness import PatternResult
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> for name, value in report_figures(report, "robustness").items():
        ...     print(name, value)
        robustness/complete 0.8
        robustness/worst 0.4
        robustness/worst_drop 0.5
        robustness/worst_has_a 1.0
        robustness/worst_has_b 0.0
    """
    worst = report.worst()
    figures = {"complete": report.complete().value, "worst": worst.value}
    if worst.drop is not None:
        figures["worst_drop"] = worst.drop
    for modality, available in zip(report.modalities, worst.pattern, strict=True):
        figures[f"worst_has_{modality}"] = float(available)
    # A curve of one point, or one along which no cell was hidden, has no area.
    if report.rates and len({point.effective_rate for point in report.curve()}) > 1:
        figures["area"] = report.area()
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def _as_tensors(name: str, x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _as_tensors(f"{name}.{key}", part) for key, part in x.items()}
    return (
        x if x is None or isinstance(x, Tensor) else as_tensor(f"RobustnessCallback: {name!r}", x)
    )


def _rows(rows: slice, device: torch.device, x: Tensor) -> Tensor:
    return x[rows].to(device)


def _prediction(part: Any) -> Tensor:
    if not isinstance(part, Tensor):
        raise TypeError(
            f"RobustnessCallback: predictions must be a tensor, got {type(part).__name__}. Pass "
            "`predict`, a function of model, features and mask that returns a tensor."
        )
    # Metrics are computed on the CPU, where few functions accept half precision.
    half = part.dtype in (torch.float16, torch.bfloat16)
    return part.detach().to("cpu", torch.float32 if half else part.dtype)
