"""The command line of train.py, derived from `Options` and from the options of the method.

Nothing here imports torch, so that `--help` and a misspelt option answer at once.

    options = parse_options(["--model", "milk", "--preset", "paper", "--alpha", "1"])   # exits with 2 on bad ones
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from milk_recsys.config.method import (
    BUILT_IN,
    DEFAULT_METHOD,
    Method,
    find_method,
    flag,
    method_names,
)
from milk_recsys.config.options import (
    GROUPS,
    OptionError,
    Options,
    common_fields,
    common_names,
    flat_name,
    from_json,
    validate,
)

__all__ = ["given_options", "parse_options"]


def parse_options(argv: Sequence[str], *, prog: str | None = None) -> Options:
    """Return the options of a command line; print what is wrong and exit with status 2 if it is bad.

    `--preset` is read first and gives the defaults for the rest, so an option given wins over it
    wherever it stands, and `--preset paper --help` shows that preset's values. With `--resume` and
    an `--out` that holds a run, that run's options are the defaults, and only those that say where
    things are may be changed.
    """
    args = [str(argument) for argument in argv]
    first, _ = tyro.cli(_First, args=args, return_unknown_args=True, add_help=False, prog=prog)
    try:
        saved = _options_of_run(first)
        method = find_method(_model_of(first) if saved is None else saved.run.model)
        defaults = _defaults(first, method, saved)
        _check_known(args, method)
        parsed = tyro.cli(
            _command_line(defaults, method),
            args=args,
            prog=prog,
            description="Train KEEP (or MILK, an ablation, or a baseline), evaluate it on new items with missing "
            "modalities, and write a report. Options differ: --model NAME --help shows those of another model.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
        values = {
            name: value for part in vars(parsed).values() for name, value in vars(part).items()
        }
        options = Options.of(**(defaults | values))
        validate(options)
        if saved is not None:
            _check_unchanged(options, saved)
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return options


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """Return the names of the options that a command line gives, with whatever value: `--split-seed=0` is split_seed.

    Those of all methods that the package brings count.
    """
    typed = {
        str(word)[2:].partition("=")[0].replace("-", "_")
        for word in argv
        if str(word).startswith("--")
    }
    own = {name for model in BUILT_IN for name in find_method(model).fields}
    return frozenset(name for name in {*common_fields(), *own} if {name, f"no_{name}"} & typed)


@dataclasses.dataclass(frozen=True)
class _First:
    """The first reading of the command line: the options that the defaults of the second one depend on."""

    preset: Literal["recommended", "paper", "authors_code"] | None = None
    model: str | None = None
    out: Path | None = None
    resume: bool = False


def _model_of(first: _First) -> str:
    """Return the model asked for: without a name MILK where one of its presets is, else the default."""
    return first.model or (DEFAULT_METHOD if first.preset is None else "milk")


def _defaults(first: _First, method: Method, saved: Options | None) -> dict[str, Any]:
    """Return the value of every option where the command line does not give one."""
    options = saved or Options.of(method.name)
    values = {name: options.value(name) for name in (*common_fields(), *method.fields)}
    if saved is None and method.presets:
        preset = first.preset or "recommended"
        values |= {**method.presets[preset], "preset": preset}
    return values


def _check_known(args: Sequence[str], method: Method) -> None:
    """Refuse an option that is there, but not for this model."""
    odd = sorted(given_options(args) - common_names(method) - set(method.fields))
    if odd:
        others = [
            name
            for name in ("milk", *BUILT_IN)
            if odd[0] in {*find_method(name).fields, *common_names(find_method(name))}
        ]
        has = (
            f"Add --model {others[0]}, which has it, or leave it out" if others else "Leave it out"
        )
        raise OptionError(
            f"{flag(odd[0])} is not an option of {method.name}. {has}: --model {method.name} --help lists those of "
            f"{method.name}."
        )


def _options_of_run(first: _First) -> Options | None:
    """Return the options of the run to resume, or None where there is none."""
    if not first.resume or first.out is None or not (first.out / "config.json").exists():
        return None
    config = first.out / "config.json"
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        saved = from_json({name: value for name, value in values.items() if name != "dataset"})
        validate(saved.but(out=first.out))  # the folder may have been moved
        return saved
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise OptionError(f"{config}: is not the config of a run ({error}).") from None


_MAY_CHANGE = ("resume", "out", "device", "threads", "data", "features", "user_table")


def _check_unchanged(options: Options, saved: Options) -> None:
    names = (
        ["model"]
        if options.run.model != saved.run.model
        else [*common_fields(), *saved.card.fields]
    )
    for name in names:
        if name not in _MAY_CHANGE and options.value(name) != saved.value(name):
            raise OptionError(
                f"{flag(name)} {options.value(name)}: the run in {options.run.out} was started with "
                f"{saved.value(name)}. Leave the option out to resume that run, or choose another --out."
            )


def _command_line(defaults: Mapping[str, Any], method: Method) -> Any:
    """Return a dataclass with one dataclass per group, which tyro prints as sections."""
    taken = common_names(method) - set(method.fields)
    groups = []
    for group, kind in GROUPS.items():
        fields = [field for field in dataclasses.fields(kind) if flat_name(field) in taken]
        groups.append((group, kind.__doc__, [(flat_name(field), field) for field in fields]))
    groups.append(("method", f"Options of {method.title}.", list(method.fields.items())))
    made: list[Any] = []
    for group, description, named in groups:
        if named:
            typed: list[Any] = [
                (name, _annotated(name, field, method), defaults[name]) for name, field in named
            ]
            part = dataclasses.make_dataclass(f"{group.title()}Options", typed, frozen=True)
            part.__doc__ = description
            made.append((group, part, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass("CommandLine", made, frozen=True)


def _annotated(name: str, field: "dataclasses.Field[Any]", method: Method) -> Any:
    """Return a field's type with its help text, and with the values of the presets where they differ."""
    kind: Any = Literal[method_names()] if name == "model" else field.type
    differing = [
        f"{preset}: {values[name]}"
        for preset, values in method.presets.items()
        if name in values and values[name] != field.default
    ]
    text = field.metadata["help"] + (f" [{'; '.join(differing)}]" if differing else "")
    return Annotated[kind, tyro.conf.arg(help=text, help_behavior_hint=field.metadata["shown"])]
