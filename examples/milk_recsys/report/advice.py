"""What to do next with a run: instructions, most of them with a command to copy."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import OptionError
from milk_recsys.config.method import DEFAULT_METHOD
from milk_recsys.config.options import Options, common_names, from_json
from milk_recsys.config.train_command import train_command
from milk_recsys.estimator.abilities import abilities
from milk_recsys.report.findings import Findings
from milk_recsys.report.shares import neglected_patterns
from milk_recsys.report.values import difference, title_of, value_of
from milk_recsys.report.verdict import chance_difference
from milk_recsys.report.words import listed
from milk_recsys.report.worth import Worth, unused

__all__ = ["Step", "lists_command", "next_steps", "options_of", "own_options"]


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction, and the command that follows it, or None."""

    text: str
    command: str | None = None


def options_of(config: Mapping[str, Any]) -> Options | None:
    """Return the options of a config.json; None if this version does not know all of them."""
    try:
        return from_json({key: value for key, value in config.items() if key != "dataset"})
    except OptionError:
        return None


def own_options(config: Mapping[str, Any], options: Options | None) -> dict[str, Any]:
    """Return the options that the method takes, by their names on the command line.

    Without `options`, all entries of config.json, of which some may have no effect.
    """
    if options is None:
        return {key: value for key, value in config.items() if key != "dataset"}
    names = common_names(options.definition) - set(options.definition.fields)
    values = {name: config[name] for name in config if name in names}
    return values | {name: getattr(options.method, name) for name in options.definition.fields}


def next_steps(
    metrics: Mapping[str, Any],
    findings: Findings,
    worth: Sequence[Worth],
    options: Options | None,
    run: Path,
) -> list[Step]:
    """Return the steps, the most useful one first.

    Arguments:
        run: folder of the run, for the commands.
    """
    good = _is_good(metrics, findings.metric)
    steps = [] if good else [_other_model(metrics, options)]
    if options is not None and (command := lists_command(options, run)):
        start = "Make lists" if good else "If you use the model nevertheless: make lists"
        text = f"{start} for items that are new today, from the folder NEW_ITEMS of their features"
        steps.append(
            Step(
                f"{text}. The command “milk-recsys prepare items” makes such a folder from tables.",
                command,
            )
        )
    elif good:
        steps.append(_other_model(metrics, options))
    steps += _data_steps(metrics, worth)
    if options is not None and options.data.split is None:
        again = options.replace(split_seed=options.data.split_seed + 1, out=None)
        steps.append(
            Step(
                "Check that this result is not an accident of one split: repeat it on other test "
                "items, with two or more further values of --split-seed, and compare the reports.",
                train_command(again),
            )
        )
    return steps


def lists_command(options: Options, run: Path) -> str | None:
    """Return the command that recommends new items with a run; None if the method cannot."""
    command = ["milk-recsys", "recommend", "--run", str(run), "--items", "NEW_ITEMS"]
    if options.definition.scorer is None:  # The run has no vectors, so the data are needed again.
        if options.data.folder is None or "recommend" not in abilities(options.definition):
            return None
        command += ["--data", str(options.data.folder)]
    return shlex.join(command)


def _is_good(metrics: Mapping[str, Any], metric: str) -> bool:
    """Return whether the model is significantly better than all that it is compared with."""
    random, untrained = chance_difference(metrics, metric), metrics.get("floor") or {}
    if random is not None and not random.low_above_zero:
        return False
    ours, theirs = value_of(metrics, "test", metric), value_of(untrained, "test", metric)
    if ours is None or theirs is None:
        return ours is not None
    return difference(untrained, ("test",), metric, ours - theirs).low_above_zero


def _other_model(metrics: Mapping[str, Any], options: Options | None) -> Step:
    """Return the step for a model that is not good enough, or that makes no lists."""
    if metrics["model"] == DEFAULT_METHOD or options is None:
        return Step(
            "Look at the data before you use the lists: do the ids of items and features match, "
            "are there enough orders, and do the features say what customers choose by?"
        )
    other = Options.of(DEFAULT_METHOD, data=options.data.folder, setting=options.data.setting)
    other = other.replace(split_seed=options.data.split_seed, split=options.data.split).resolved()
    return Step(
        f"Train {title_of(DEFAULT_METHOD)} on the same split and compare its report with this one.",
        train_command(other),
    )


def _data_steps(metrics: Mapping[str, Any], worth: Sequence[Worth]) -> list[Step]:
    """Return the steps on modalities: complete a valuable one, leave out an unused one."""
    steps = []
    best = [row.modality for row in worth if row.use == "worth most"]
    neglected = [f"“{label}”" for label, *_ in neglected_patterns(metrics)]
    if best:
        also = f" Items of the pattern {listed(neglected)} are hardly listed." if neglected else ""
        steps.append(
            Step(f"Give every new item “{best[0]}” first: it is worth most in the lists.{also}")
        )
    names = unused(worth)
    if names:
        words = listed([f"“{name}”" for name in names])
        steps.append(
            Step(
                f"Do not spend work on {words} for items that have the other modalities: the "
                "model does not use it there."
            )
        )
    return steps
