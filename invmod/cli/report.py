"""The command ``invmod report``: a robustness report of a function, with a gate."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch

from invmod._files import write_text
from invmod.cli.errors import UsageError
from invmod.cli.gate import finite_number, gate_bounds
from invmod.cli.loading import described, loaded
from invmod.cli.metrics import METRICS, Metric
from invmod.cli.outputs import check_outputs, written
from invmod.cli.tables import Arrays, read_npz
from invmod.robustness import RobustnessError, RobustnessReport, robustness_report
from invmod.robustness.evaluate import RATES
from invmod.robustness.metrics import checked_direction
from invmod.robustness.verdict import verdict

WIDTH = 100  # of the lines of the verdict
NOTE = re.compile(
    r"robustness_report: raised by the (model .*) (under the .*|at the .*)\.", re.DOTALL
)
"""The note that `robustness_report` adds to an error of a model."""


def report(options: argparse.Namespace) -> int:
    """Run the command and return its exit status: 1 if a gate fails."""
    check_outputs(options, options.data)
    features, targets, mask = _data(options.data)
    metric = _metric(options)
    bounds = gate_bounds(options.fail_under, options.fail_over_drop, tuple(features), metric)
    predict = loaded("MODULE:NAME", options.model)
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
    except (KeyError, ValueError) as error:
        raise UsageError(f"the gate: {error.args[0]}") from error
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


def _metric(options: argparse.Namespace) -> Metric:
    name, lower_is_better = options.metric, options.lower_is_better
    stated = not lower_is_better if lower_is_better or options.higher_is_better else None
    if name in METRICS:
        if stated not in (None, METRICS[name].higher_is_better):
            option, better = ("lower", "higher") if lower_is_better else ("higher", "lower")
            raise UsageError(
                f"--{option}-is-better: a {better} {name} is better. Leave the option out."
            )
        return METRICS[name]
    if ":" not in name:
        raise UsageError(
            f"--metric {name}: the metric must be one of {', '.join(METRICS)}, or MODULE:NAME of a "
            "function of predictions and targets."
        )
    function = loaded("--metric", name)
    try:
        higher_is_better = checked_direction("robustness_report", function, stated)
    except ValueError as error:
        raise UsageError(
            f"--metric {name}: its name does not show whether a higher value is better. Add "
            "--higher-is-better or --lower-is-better."
        ) from error
    return Metric(function, higher_is_better=higher_is_better)


def _evaluated(
    predict: Any, features: Arrays, targets: Any, mask: Any, metric: Metric, options: Any
) -> RobustnessReport:
    rates: tuple[float, ...] = RATES
    if options.rates is not None:
        parts = [part for part in options.rates.split(",") if part.strip()]
        rates = tuple(finite_number("--rates", options.rates, part) for part in parts)
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
    # A model or a metric may raise anything; the exit status 1 is only for the gate.
    except (Exception, SystemExit) as error:
        raise UsageError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return a sentence about an error of the evaluation, with the condition if it has a note."""
    for note in getattr(error, "__notes__", ()):
        if found := NOTE.fullmatch(note):
            model, condition = found.groups()
            return (
                f"the {model} raises {described(error)} ({condition.removeprefix('under the ')}). "
                "--traceback shows where."
            )
    if isinstance(error, (ValueError, TypeError, KeyError)) and error.args:
        return str(error.args[0])
    return f"the evaluation raises {described(error)}. --traceback shows where."


def _write(made: RobustnessReport, options: argparse.Namespace) -> None:
    if options.json:
        with written("json", options.json):
            made.save(options.json)
    if options.html:
        from invmod.robustness.page import page

        with written("html", options.html):
            write_text(options.html, page(made))
