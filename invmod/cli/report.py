"""The command ``invmod report``: a robustness report of a function, with a gate."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from invmod._files import write_text
from invmod.cli.errors import UsageError
from invmod.cli.metrics import METRICS, Metric
from invmod.cli.tables import Arrays, read_npz
from invmod.robustness import RobustnessError, RobustnessReport, robustness_report
from invmod.robustness.evaluate import RATES
from invmod.robustness.verdict import verdict

Bounds = dict[str, Any]

WIDTH = 100  # of the lines of the verdict


def report(options: argparse.Namespace) -> int:
    """Run the command and return its exit status: 1 if a gate fails."""
    features, targets, mask = _data(options.data)
    bounds = gate_bounds(options.fail_under, options.fail_over_drop, tuple(features))
    metric = _metric(options.metric, lower_is_better=options.lower_is_better)
    predict = _loaded("MODULE:NAME", options.model)
    made = _evaluated(predict, features, targets, mask, metric, options)
    _write(made, options)
    print(f"{made}\n")
    for model in made.models:
        print(textwrap.fill(f"{model}: {' '.join(verdict(made, model))}", WIDTH))
    if not bounds:
        return 0
    # Output of the report comes before the message of the gate, also if both go to one file.
    sys.stdout.flush()
    try:
        made.require(**bounds)
    except RobustnessError as error:
        print(f"invmod report: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        raise UsageError(f"--fail-under: {error.args[0]}") from error
    return 0


def _data(path: str) -> tuple[Arrays, Any, Any]:
    """Return features, targets and the mask or None of an .npz file."""
    if Path(path).suffix.lower() != ".npz":
        raise UsageError(f"--data {path}: the file must end in .npz. Write it by `numpy.savez`.")
    features = read_npz(path)
    if "targets" not in features:
        found = ", ".join(features) or "none"
        raise UsageError(f"--data {path}: there is no array `targets`; arrays are: {found}.")
    targets, mask = features.pop("targets"), features.pop("mask", None)
    if not features:
        raise UsageError(f"--data {path}: there is no array besides `targets` and `mask`.")
    return features, targets, mask


def _metric(name: str, *, lower_is_better: bool) -> Metric:
    if name in METRICS:
        if lower_is_better and METRICS[name].higher_is_better:
            raise UsageError(f"--lower-is-better: a higher {name} is better. Leave the option out.")
        return METRICS[name]
    if ":" not in name:
        raise UsageError(
            f"--metric {name}: the metric must be one of {', '.join(METRICS)}, or MODULE:NAME of a "
            "function of predictions and targets."
        )
    return Metric(_loaded("--metric", name), higher_is_better=not lower_is_better)


def _loaded(option: str, text: str) -> Any:
    """Return the object NAME of an importable module MODULE; the working folder is searched."""
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise UsageError(f"{option} {text}: write MODULE:NAME, such as shop.model:predict.")
    if "/" in module or module.endswith(".py"):
        raise UsageError(
            f"{option} {text}: MODULE is a name such as shop.model, not a path. Run the command in "
            "the folder from which it can be imported."
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # the module of a user may raise anything
        raise UsageError(
            f"{option} {text}: importing {module} raises {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{option} {text}: {module} has no {name}.")
        found = getattr(found, part)
    return found


def gate_bounds(
    fail_under: Collection[str], fail_over_drop: str | None, modalities: tuple[str, ...]
) -> Bounds:
    """Return the options of `RobustnessReport.require`; empty without a gate.

    Example:
        >>> gate_bounds(["worst=0.6", "text+image=.7"], None, ("image", "text"))
        {'worst': 0.6, 'pattern': {('text', 'image'): 0.7}}
    """
    bounds: Bounds = {}
    patterns: dict[tuple[str, ...], float] = {}
    for text in fail_under:
        # A name may contain "=", a number does not.
        what, equals, number = text.rpartition("=")
        if not equals:
            raise UsageError(f"--fail-under {text}: write WHAT=VALUE, such as worst=0.6.")
        value = _number("--fail-under", text, number)
        if what in ("complete", "worst"):
            bounds[what] = value
            continue
        names = (what,) if what in modalities else tuple(what.split("+"))
        if unknown := [name for name in names if name not in modalities]:
            raise UsageError(
                f"--fail-under {text}: {', '.join(unknown)} is not among the modalities "
                f"{', '.join(modalities)}. Write complete, worst, or names joined by +."
            )
        patterns[names] = value
    if patterns:
        bounds["pattern"] = patterns
    if fail_over_drop is not None:
        bounds["worst_drop"] = _number("--fail-over-drop", fail_over_drop, fail_over_drop)
    return bounds


def _number(option: str, text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UsageError(f"{option} {text}: {number!r} is not a finite number.")
    return value


def _evaluated(
    predict: Any, features: Arrays, targets: Any, mask: Any, metric: Metric, options: Any
) -> RobustnessReport:
    rates: tuple[float, ...] = RATES
    if options.rates is not None:
        parts = [part for part in options.rates.split(",") if part.strip()]
        rates = tuple(_number("--rates", options.rates, part) for part in parts)
    try:
        return robustness_report(
            predict,
            features,
            targets,
            metric.function,
            mask=mask,
            patterns=options.patterns,
            rates=rates,
            generator=torch.Generator().manual_seed(options.seed),
            higher_is_better=metric.higher_is_better,
            per_unit=metric.per_unit,
            num_resamples=options.resamples,
        )
    except Exception as error:
        # A note of `robustness_report` states the model and the condition of a model's error.
        notes = " ".join(getattr(error, "__notes__", []))
        if notes:
            raise UsageError(f"{type(error).__name__}: {error} {notes}") from error
        if isinstance(error, (ValueError, TypeError, KeyError)):
            raise UsageError(str(error.args[0]) if error.args else repr(error)) from error
        raise


def _write(made: RobustnessReport, options: argparse.Namespace) -> None:
    try:
        if options.json:
            made.save(options.json)
        if options.html:
            from invmod.robustness.page import page

            write_text(options.html, page(made))
    except (OSError, ImportError) as error:
        raise UsageError(f"a file cannot be written: {error}") from error
