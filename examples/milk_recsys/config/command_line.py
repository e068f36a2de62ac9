"""The command line of train.py, derived from `Options`.

Nothing here imports torch, so that `--help` and a misspelt option answer at once.

    options = parse_options(["--preset", "paper", "--alpha", "1"])   # exits with status 2 on bad ones
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from milk_recsys.config.method_options import BASELINES, LOOP
from milk_recsys.config.options import GROUPS, PRESETS, OptionError, Options, common_options, flag, from_json, validate

__all__ = ["DEFAULT_MODEL", "given_options", "parse_options"]

DEFAULT_MODEL = "keep"
"""What train.py trains where nothing is said: the winner of the field."""


def parse_options(argv: Sequence[str], *, prog: str | None = None) -> Options:
    """Options from a command line; prints what is wrong and exits with status 2 if it is bad.

    `--preset` is read first and gives the defaults for the rest, so an option given wins over it
    wherever it stands, and `--preset paper --help` shows that preset's values. With `--resume` and
    an `--out` that holds a run, that run's options are the defaults, and only those that say where
    things are may be changed.
    """
    args = [str(argument) for argument in argv]
    first, _ = tyro.cli(_First, args=args, return_unknown_args=True, add_help=False, prog=prog)
    try:
        saved = _options_of_run(first)
        model = _model_of(first) if saved is None else saved.model
        defaults = {**PRESETS[first.preset or "recommended"], "preset": first.preset or "recommended"}
        if saved is not None:
            defaults = vars(saved)
        elif model in BASELINES:  # presets are MILK's
            defaults = dict(LOOP.get(model, {}))
        if first.model is None:
            defaults = {**defaults, "model": model}
        _check_known(given_options(args), model)
        parsed = tyro.cli(
            _command_line(defaults, model),
            args=args,
            prog=prog,
            description="Train KEEP (or MILK, an ablation, or a baseline), evaluate it on new items with missing "
            "modalities, and write a report. Options differ: --model NAME --help shows those of another model.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
        groups = {group: vars(part) for group, part in vars(parsed).items()}
        own = groups.pop("baseline", None)
        values = {name: v for group in groups.values() for name, v in group.items()}
        options = Options(**values, method=own)
        validate(options)
        if saved is not None:
            _check_unchanged(options, saved)
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return options


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """Names of the options that a command line gives, with whatever value: `--split-seed=0` is split_seed."""
    typed = {str(word)[2:].partition("=")[0].replace("-", "_") for word in argv if str(word).startswith("--")}
    return frozenset(f.name for f in dataclasses.fields(Options) if {f.name, f"no_{f.name}"} & typed)


@dataclasses.dataclass(frozen=True)
class _First:
    """The first reading of the command line: what the defaults of the second one depend on."""

    preset: Literal["recommended", "paper", "authors_code"] | None = None
    model: str | None = None
    out: Path | None = None
    resume: bool = False


def _model_of(first: _First) -> str:
    """The model asked for, or MILK where one of its presets is, or what we would use."""
    return first.model or (DEFAULT_MODEL if first.preset is None else "milk")


def _check_known(given: frozenset[str], model: str) -> None:
    """Refuse an option that is there, but not for this model."""
    own = {f.name for f in dataclasses.fields(BASELINES[model])} if model in BASELINES else frozenset()
    odd = sorted(given - common_options(model) - own)
    if odd:
        raise OptionError(
            f"{flag(odd[0])} is not an option of {model}. Add --model milk, which has it, or leave it out: --model "
            f"{model} --help lists those of {model}."
        )


def _options_of_run(first: _First) -> Options | None:
    """The options of the run that is to go on, or None where there is none."""
    if not first.resume or first.out is None or not (first.out / "config.json").exists():
        return None
    config = first.out / "config.json"
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        saved = from_json({name: value for name, value in values.items() if name != "dataset"})
        validate(dataclasses.replace(saved, out=first.out))  # the folder may have been moved
        return saved
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise OptionError(f"{config}: is not the config of a run ({error}).") from None


_MAY_CHANGE = ("resume", "out", "device", "threads", "data", "features", "user_table")


def _check_unchanged(options: Options, saved: Options) -> None:
    for name, value in vars(saved).items():
        if name not in _MAY_CHANGE and getattr(options, name) != value:
            raise OptionError(
                f"{flag(name)} {getattr(options, name)}: the run in {options.out} was started with {value}. "
                "Leave the option out to go on with that run, or choose another --out."
            )


def _command_line(defaults: Mapping[str, Any], model: str) -> Any:
    """`Options` with its fields put into one dataclass per group: what tyro prints as sections.

    Of a baseline they are the options that it takes, and in a group of their own those that only it has.
    """
    common = common_options(model)
    own = defaults.get("method") or {}
    groups = []
    for group, description in GROUPS.items():
        fields = [
            (f.name, Annotated[f.type, _argument(f)], defaults.get(f.name, f.default))
            for f in dataclasses.fields(Options)
            if f.metadata["group"] == group and f.name in common
        ]
        if group == "baseline" and model in BASELINES:
            fields = [
                (f.name, Annotated[f.type, tyro.conf.arg(help=f.metadata["help"])], own.get(f.name, f.default))
                for f in dataclasses.fields(BASELINES[model])
            ]
        if not fields:
            continue
        made = dataclasses.make_dataclass(f"{group.title()}Options", fields, frozen=True)
        made.__doc__ = description
        groups.append((group, made, dataclasses.field(default_factory=made)))
    return dataclasses.make_dataclass("CommandLine", groups, frozen=True)


def _argument(field: "dataclasses.Field[Any]") -> Any:
    """Help text of a field, with what the other presets set where they differ."""
    differing = [
        f"{preset}: {values[field.name]}"
        for preset, values in PRESETS.items()
        if field.name in values and values[field.name] != field.default
    ]
    text = field.metadata["help"] + (f" [{'; '.join(differing)}]" if differing else "")
    return tyro.conf.arg(help=text, help_behavior_hint=field.metadata["shown"])
