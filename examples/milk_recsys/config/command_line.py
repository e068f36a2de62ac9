"""The command line of train.py, derived from `Options` and from the options of the method.

    options = parse_options(["--model", "milk", "--preset", "paper", "--alpha", "1"])

Nothing here imports torch, so that `--help` and the error for a misspelt option appear at once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from milk_recsys.base.files import read_json
from milk_recsys.base.manual import help_ends_with
from milk_recsys.base.terminal import print_error
from milk_recsys.config.config_file import read_config_file, values_for
from milk_recsys.config.method import (
    BUILT_IN,
    DEFAULT_METHOD,
    Method,
    find_method,
    flag,
    method_names,
    option,
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

ABOUT = """\
Train KEEP (or MILK, an ablation, or a baseline), evaluate it on new items with missing modalities,
and write a report.

    milk-recsys train --data shop --out runs/shop
    milk-recsys train --model milk --data shop --compare erm --out runs/milk

Options differ by model: --model NAME --help shows those of another model.
"""


def parse_options(argv: Sequence[str], *, prog: str | None = None) -> Options:
    """Return the options of a command line; for bad ones, print an error and exit with status 2.

    `--preset` is read before the other options and sets their defaults. Therefore an option that is
    given overrides the preset, whether it comes before or after it, and `--preset paper --help`
    shows that preset's values. `--config` is read first of all, and a preset on the command line
    overrides it. With `--resume` and an `--out` that holds a run, that run's options
    are the defaults; only options on folders, the machine and memory may then be changed.
    """
    args = [str(argument) for argument in argv]
    early, _ = tyro.cli(
        _EarlyOptions,
        args=args,
        return_unknown_args=True,
        add_help=False,
        prog=prog,
        config=(tyro.conf.DisallowNone,),
    )
    try:
        saved = _options_of_run(early)
        config = {} if early.config is None else read_config_file(early.config)
        if config and saved is not None:
            raise OptionError(
                f"--config: the run in {early.out} has its own options. Leave --config out to "
                "resume it, or choose another --out."
            )
        given = early.model or (None if early.preset else config.get("model"))
        early = dataclasses.replace(early, model=given)
        method = find_method(_model_of(early) if saved is None else saved.run.model)
        if early.model not in (None, method.name):
            raise OptionError(
                f"--model {early.model}: the run in {early.out} was started with {method.name}. "
                "Leave the option out to resume that run, or choose another --out."
            )
        defaults = _defaults(early, method, saved, values_for(config, method, early.config))
        _check_known(args, method)
        with help_ends_with("milk"):
            parsed = tyro.cli(
                _command_line(defaults, method),
                args=args,
                prog=prog,
                description=ABOUT,
                # Options are typed without the name of their group, and None cannot be typed.
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
            )
        values = {
            name: value for group in vars(parsed).values() for name, value in vars(group).items()
        }
        del values["config"]  # It has been read.
        options = Options.of(**(defaults | values))
        validate(options)
        if saved is not None:
            _check_unchanged(options, saved)
    except OptionError as error:
        print_error(error)
        raise SystemExit(2) from None
    return options


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """Return the names of the options on a command line: split_seed for `--split-seed=0`.

    Options of all built-in methods are recognised, not only those of the chosen one.
    """
    # Dashes and underscores are equivalent; a switch is typed as --name or --no-name.
    typed = {
        str(word)[2:].partition("=")[0].replace("-", "_")
        for word in argv
        if str(word).startswith("--")
    }
    own = {name for model in BUILT_IN for name in find_method(model).fields}
    return frozenset(name for name in {*common_fields(), *own} if {name, f"no_{name}"} & typed)


@dataclasses.dataclass(frozen=True)
class _EarlyOptions:
    """The options that are parsed first, because the defaults of all others depend on them."""

    config: Path | None = None
    preset: Literal["recommended", "paper", "authors_code"] | None = None
    model: str | None = None
    out: Path | None = None
    resume: bool = False


CONFIG_FIELD = option(
    None,
    "File of options in the format of a run's config.json, of which any may be absent. Options on "
    "the command line override it; its out, resume and dataset are not used.",
    shown="(default: none)",
)
CONFIG_FIELD.type = Path | None


def _model_of(early: _EarlyOptions) -> str:
    """Return the name of the model. `--preset` alone means the first method that has it: MILK."""
    if early.model or early.preset is None:
        return early.model or DEFAULT_METHOD
    return next(name for name in BUILT_IN if early.preset in find_method(name).presets)


def _defaults(
    early: _EarlyOptions, method: Method, saved: Options | None, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of all options that the command line leaves out.

    Arguments:
        config: options of the file `--config`.
    """
    options = saved or Options.of(method.name)
    values = {name: options.value(name) for name in (*common_fields(), *method.fields)}
    if saved is None and method.presets:
        preset: str = config.get("preset") or next(iter(method.presets))
        if preset not in method.presets:
            raise OptionError(f"--config: {preset!r} is not a preset of {method.name}.")
        values |= {**method.presets[preset], "preset": preset}
    values |= config
    if early.preset is not None and early.preset in method.presets:
        values |= {**method.presets[early.preset], "preset": early.preset}
    return values


def _check_known(args: Sequence[str], method: Method) -> None:
    """Refuse an option that exists only for other models, and name a model that has it."""
    foreign = sorted(given_options(args) - common_names(method) - set(method.fields))
    if foreign:
        others = [
            name
            for name in ("milk", *BUILT_IN)
            if foreign[0] in {*find_method(name).fields, *common_names(find_method(name))}
        ]
        advice = (
            f"Add --model {others[0]}, which has it, or leave it out" if others else "Leave it out"
        )
        raise OptionError(
            f"{flag(foreign[0])} is not an option of {method.name}. {advice}: "
            f"--model {method.name} --help lists the options of {method.name}."
        )


def _options_of_run(early: _EarlyOptions) -> Options | None:
    """Return the options of the run to resume, or None if there is none."""
    if not early.resume or early.out is None or not (early.out / "config.json").exists():
        return None
    config = early.out / "config.json"
    try:
        values = read_json(config)
        saved = from_json({name: value for name, value in values.items() if name != "dataset"})
        validate(saved.replace(out=early.out))  # The folder may have been moved since the run.
        return saved
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise OptionError(f"{config}: is not the config of a run ({error}).") from None


# Options that a resumed run may change: those on folders, the machine and memory.
_MAY_CHANGE = ("resume", "out", "device", "threads", "data", "features", "user_table", "tracker")


def _check_unchanged(options: Options, saved: Options) -> None:
    """Refuse a changed option, which would make a resumed run differ from an uninterrupted one."""
    names = (
        ["model"]
        if options.run.model != saved.run.model
        else [*common_fields(), *saved.definition.fields]
    )
    for name in names:
        if name not in _MAY_CHANGE and options.value(name) != saved.value(name):
            raise OptionError(
                f"{flag(name)} {options.value(name)}: the run in {options.run.out} was started "
                f"with {saved.value(name)}. Leave the option out to resume that run, or choose "
                "another --out."
            )


def _command_line(defaults: Mapping[str, Any], method: Method) -> Any:
    """Return a dataclass with one nested dataclass per group, which tyro prints as a section."""
    # A method may redefine a common option; its own field then replaces the common one.
    common = common_names(method) - set(method.fields)
    groups = []
    for group, kind in GROUPS.items():
        fields = [field for field in dataclasses.fields(kind) if flat_name(field) in common]
        groups.append((group, kind.__doc__, [(flat_name(field), field) for field in fields]))
    groups.insert(0, ("files", "Options in a file.", [("config", CONFIG_FIELD)]))
    groups.append(("method", f"Options of {method.title}.", list(method.fields.items())))
    sections: list[Any] = []
    for group, description, named_fields in groups:
        if named_fields:
            typed: list[Any] = [
                (name, _annotated(name, field, method), defaults.get(name))
                for name, field in named_fields
            ]
            section = dataclasses.make_dataclass(f"{group.title()}Options", typed, frozen=True)
            section.__doc__ = description
            sections.append((group, section, dataclasses.field(default_factory=section)))
    return dataclasses.make_dataclass("CommandLine", sections, frozen=True)


def _annotated(name: str, field: "dataclasses.Field[Any]", method: Method) -> Any:
    """Return a field's type with its help text, which lists presets that change the default."""
    kind: Any = Literal[method_names()] if name == "model" else field.type
    differing = [
        f"{preset}: {values[name]}"
        for preset, values in method.presets.items()
        if name in values and values[name] != field.default
    ]
    text = field.metadata["help"] + (f" [{'; '.join(differing)}]" if differing else "")
    return Annotated[kind, tyro.conf.arg(help=text, help_behavior_hint=field.metadata["shown"])]
