"""The metric of a report: order of its arguments, its direction, and the number it returns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

Metric = Callable[[Any, Any], Any]

# Functions of `sklearn.metrics` whose names do not show their direction.
_LOWER_IS_BETTER = frozenset({"davies_bouldin_score"})
_HIGHER_IS_BETTER = frozenset({"matthews_corrcoef"})
_LOWER_ENDINGS = ("_error", "_loss", "_deviance")


def checked_metric(argument: str, metric: Any, targets_first: bool | None) -> Metric:
    """Return a metric as a function of predictions and targets, in this order.

    If `targets_first` is None, the functions of `sklearn.metrics` are recognised, whose arguments
    are targets and predictions.
    """
    if not callable(metric):
        raise TypeError(
            f"robustness_report: `{argument}` must be callable, got {type(metric).__name__}."
        )
    if hasattr(metric, "_score_func"):
        raise TypeError(
            f"robustness_report: `{argument}` must be a function of predictions and targets, got a "
            "scorer of scikit-learn, which takes an estimator. Pass its metric, such as "
            "`sklearn.metrics.accuracy_score`."
        )
    if targets_first is None:
        targets_first = is_of_sklearn(metric)
    if not targets_first:
        return cast(Metric, metric)
    return lambda predictions, targets: metric(targets, predictions)


def is_of_sklearn(metric: Any) -> bool:
    """Return whether a metric is a function of `sklearn.metrics`, possibly in a partial."""
    module = getattr(unwrapped(metric), "__module__", None) or ""
    return f"{module}.".startswith("sklearn.metrics.")


def checked_direction(function: str, metric: Any, higher_is_better: bool | None) -> bool:
    """Return whether a larger metric is better: as stated, or by the name of a function.

    Arguments:
        function: name of the public function, for error messages.
        metric: the metric of the caller, before its arguments are exchanged.
        higher_is_better: the stated direction. None finds out for functions of `sklearn.metrics`
            and means True for every other metric.

    Raises:
        ValueError: the direction is not stated, and a function of `sklearn.metrics` does not show
            it by its name.

    Example:
        >>> [checked_direction("robustness_report", max, stated) for stated in (None, True, False)]
        [True, True, False]
    """
    if higher_is_better is not None:
        return bool(higher_is_better)
    if not is_of_sklearn(metric):
        return True
    name = getattr(unwrapped(metric), "__name__", "")
    if name in _LOWER_IS_BETTER or name.endswith(_LOWER_ENDINGS):
        return False
    if name in _HIGHER_IS_BETTER or name.endswith("_score"):
        return True
    raise ValueError(
        f"{function}: whether a higher {name or 'metric'} is better is not known. State "
        "`higher_is_better=True` or `higher_is_better=False`."
    )


def checked_number(value: Any, where: str = "") -> float:
    """Return the number that a metric returned as a float.

    Arguments:
        value: a number, or a tensor or an array with one entry.
        where: model and condition in words, for error messages.

    Raises:
        TypeError: the value is not one number.
    """
    if isinstance(value, Tensor):
        value = value.detach()
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) == 1 and not isinstance(value, (str, bytes)):
        try:
            # `float` of an array of shape (1,) is deprecated, `item` of it is not.
            return float(value.item() if shape else value)
        except (TypeError, ValueError, RuntimeError):
            pass  # The error below names the rule and the condition.
    got = f"shape {shape}" if shape else type(value).__name__
    under = f" {where}" if where else ""
    raise TypeError(
        f"robustness_report: the metric must return one number, got {got}{under}. For one value "
        "per unit, pass this function as `per_unit` and its mean as `metric`."
    )


def unwrapped(metric: Any) -> Any:
    """Return the function that a `functools.partial` calls, or the metric itself."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    return metric


def metric_name(metric: Any) -> str:
    """Return the name under which a report shows a metric."""
    return str(getattr(unwrapped(metric), "__name__", "metric"))
