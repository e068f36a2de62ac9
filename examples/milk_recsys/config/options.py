"""Options of a run: nested groups of typed fields, from which `command_line` derives the command line.

    Options()                                             # KEEP, as `train.py` without options
    Options.of(model="milk", lr=0.003, seed=1)            # by the names of the command line

A function takes the group that it reads. Files hold options by the names of the command line, see `to_json`.
"""

# ruff: noqa: RUF009  (`option` returns a dataclasses.field)

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from milk_recsys.base.errors import OptionError
from milk_recsys.config.method import DEFAULT_METHOD, Method, find_method, flag, option, problem_of

__all__ = [
    "GROUPS",
    "DataOptions",
    "LoopOptions",
    "OptionError",
    "Options",
    "PreparationOptions",
    "RunOptions",
    "common_fields",
    "common_names",
    "flag",
    "from_json",
    "to_json",
    "validate",
    "validate_method",
]

Metric = Literal[
    "recall@10", "recall@20", "ndcg@10", "ndcg@20", "hit@10", "hit@20", "mrr@10", "mrr@20"
]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data set, and the modalities that go missing."""

    folder: Path | None = option(
        None,
        "Folder of a data set: dataset.json, interactions.tsv (or .npy) and features/*.npy.",
        shown="(default: the embedded synthetic set)",
    )
    setting: Literal["ftft", "ftmt", "mtmt"] = option(
        "ftmt",
        "Who misses modalities: nobody (ftft), new items (ftmt), or training items too (mtmt).",
    )
    missing_rate: float = option(
        0.5, "Share of the validation and of the test items that lose one modality each.", high=1
    )
    train_missing_rate: float = option(
        0.3, "Share of the training items that lose one modality each (mtmt only).", high=1
    )
    missing_in_validation: bool = option(
        True, "Whether validation items miss modalities as test items do."
    )
    split_seed: int = option(0, "Seed of the split and of both masks.", high=2**63 - 1)
    split: Path | None = option(
        None,
        "A split.npz to use instead of drawing one; --split-seed and the rates are then ignored.",
        shown="(default: drawn from --split-seed)",
    )
    empty_items: Literal["error", "drop"] = option(
        "error", "Items without any modality: refuse the data, or drop their interactions."
    )
    candidates: Literal["test", "all_cold"] = option(
        "test", "Whom a new item competes with: the items of its own half, or all cold items."
    )
    negatives: Literal["warm", "all"] = option(
        "warm", "Draw negatives from the training items, or from all (which leaks the test items)."
    )
    eval_users: int | None = option(
        None,
        "Validate and test on this many users, drawn once from --split-seed among those with a positive there.",
        low=1,
        shown="(default: all of them)",
    )
    features: Literal["auto", "memory", "mapped"] = option(
        "auto",
        "Where features of items are: in memory, scaled and imputed once; or left in their files (mapped), and read, "
        "scaled and imputed by the batch. auto leaves them where they would take more than 1 GiB, or a quarter of a "
        "GPU's memory.",
    )


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The model, the machine and the folder of the results."""

    model: str = option(
        DEFAULT_METHOD,
        "KEEP, ours (keep); MILK (milk); MILK's ablations: only alignment (align), only environments (envs), neither "
        "(erm); or a baseline. Their options differ: --model gar --help.",
    )
    compare: Literal["none", "erm"] | None = option(
        None,
        "Train the ablation without both modules beside the model, on the same split.",
        shown="(default: erm on the embedded data, none with --data or for KEEP)",
    )
    seed: int = option(0, "Seed of everything random in training.", high=2**63 - 1)
    out: Path | None = option(
        None, "Folder for the results.", shown="(default: runs/<time>-<model>)"
    )
    resume: bool = option(False, "Go on with the run in --out; start afresh if none.")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where to train; auto takes a GPU where there is one."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = option(
        "float32", "Precision; bfloat16 is autocast, with weights and risks in float32."
    )
    tf32: bool = option(
        False,
        "On a GPU, multiply float32 matrices with TF32's 10 bits of mantissa: faster, and coarser.",
    )
    threads: int | None = option(
        None, "Number of CPU threads.", low=1, shown="(default: torch's choice)"
    )


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Epochs and early stopping."""

    epochs: int = option(1000, "Most epochs.", low=1)
    eval_every: int = option(
        10, "Evaluate after epochs 0, N, 2N, ... and after the last one.", low=1
    )
    patience: int = option(
        3, "Stop at this many evaluations in a row without a strict gain.", low=1
    )
    monitor: Metric = option("ndcg@20", "Validation metric that picks the epoch.")


@dataclasses.dataclass(frozen=True)
class PreparationOptions:
    """Scaling of the features."""

    scale_features: bool = option(True, "Scale each feature row to unit length.")
    scale_before_impute: bool = option(
        True, "Scale observed rows and then impute, or impute and then scale all rows."
    )
    norm_floor: float = option(1e-3, "Rows with a smaller norm are left unscaled.")


GROUPS: Mapping[str, type[Any]] = MappingProxyType(
    {"data": DataOptions, "run": RunOptions, "loop": LoopOptions, "preparation": PreparationOptions}
)
"""The groups that all methods share; a method takes the fields that `common_names` returns."""

FLAT = {"folder": "data"}
"""Fields that have another name on the command line and in files."""


def flat_name(field: "dataclasses.Field[Any]") -> str:
    """Return the name of a common field on the command line and in files, without dashes."""
    return FLAT.get(field.name, field.name)


def common_fields() -> dict[str, tuple[str, "dataclasses.Field[Any]"]]:
    """Return the group and the field of every common option by its name on the command line."""
    return {
        flat_name(field): (group, field)
        for group, kind in GROUPS.items()
        for field in dataclasses.fields(kind)
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """All options of a run.

    Attributes:
        method: the method's own options, an instance of the dataclass that ``Method.options`` names; None takes their
            defaults.
    """

    data: DataOptions = DataOptions()
    run: RunOptions = RunOptions()
    loop: LoopOptions = LoopOptions()
    preparation: PreparationOptions = PreparationOptions()
    method: Any = None

    def __post_init__(self) -> None:
        """Fill in the method's own options, and check that they are the method's."""
        kind = self.card.options
        if self.method is None:
            object.__setattr__(self, "method", kind())
        elif not isinstance(self.method, kind):
            raise OptionError(
                f"--model {self.run.model} has options of the type {kind.__name__}, got {type(self.method).__name__}."
            )

    @property
    def card(self) -> Method:
        """What the method declares about itself."""
        return find_method(self.run.model)

    @classmethod
    def of(cls, model: str = DEFAULT_METHOD, **values: Any) -> "Options":
        """Return options by the names of the command line; others get the method's defaults.

        Raises:
            OptionError: the method has no such option.
        """
        method = find_method(model)
        return cls(run=RunOptions(model=model)).but(**{**(method.loop or {}), **values})

    def but(self, **values: Any) -> "Options":
        """Return these options with some changed, by the names of the command line.

        Another ``model`` takes its own defaults; one with the same options, such as an ablation, keeps their values.

        Raises:
            OptionError: the method has no such option.
        """
        model = values.pop("model", self.run.model)
        method, common = find_method(model), common_fields()
        own = self.method
        if model != self.run.model:
            same = set(method.fields) == set(self.card.fields)
            own = method.options(**(vars(own) if same else {}))
        odd = sorted(set(values) - set(common) - set(method.fields))
        if odd:
            raise OptionError(
                f"--model {model} has no option {flag(odd[0])}; it has {', '.join(sorted(method.fields))}."
            )
        changed: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        changed["run"]["model"] = model
        for name in set(values) - set(method.fields):
            group, field = common[name]
            changed[group][field.name] = values[name]
        groups = {
            group: dataclasses.replace(getattr(self, group), **fields)
            for group, fields in changed.items()
        }
        mine = {name: value for name, value in values.items() if name in method.fields}
        return Options(**groups, method=dataclasses.replace(own, **mine))

    def resolved(self) -> "Options":
        """Return the options with ``compare`` decided: erm on the embedded data, none with ``--data``.

        The ablation itself (``--model erm``) has nothing to be compared with unless asked for, nor has KEEP, of which
        it is no ablation.
        """
        if self.run.compare is not None:
            return self
        beside = self.data.folder is None and self.run.model not in ("erm", "keep")
        return self.but(compare="erm" if beside else "none")

    def notes(self, given: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Return notes on options that have no effect with the others.

        Arguments:
            given: names of options that were typed (`given_options`): one that repeats its default is reported too.
        """
        notes, data = [], self.data
        if self.run.resume and self.run.out is None:
            notes.append("--resume starts a new run: no --out names the run to resume.")
        fields = common_fields().items()
        changed = given | {name for name, (_, field) in fields if self.value(name) != field.default}
        in_validation = flag(
            "missing_in_validation" if data.missing_in_validation else "no_missing_in_validation"
        )
        if data.split is not None:
            notes += [
                f"{flag(name)} is ignored: --split gives the split and its mask."
                for name in ("split_seed", "missing_rate", "train_missing_rate")
                if name in changed
                and not (name == "split_seed" and data.eval_users)  # which it draws
            ]
            if "missing_in_validation" in changed:
                notes.append(f"{in_validation} is ignored: --split gives the split and its mask.")
        elif data.setting != "mtmt" and "train_missing_rate" in changed:
            notes.append(f"--train-missing-rate is ignored: --setting is {data.setting}, not mtmt.")
        if data.split is None and data.setting == "ftft":
            notes += [
                f"{flag} is ignored: under --setting ftft nothing goes missing."
                for name, flag in (
                    ("missing_rate", "--missing-rate"),
                    ("missing_in_validation", in_validation),
                )
                if name in changed
            ]
        return tuple(notes)

    def value(self, name: str) -> Any:
        """Return the value of an option by its name on the command line."""
        if name in self.card.fields:
            return getattr(self.method, name)
        group, field = common_fields()[name]
        return getattr(getattr(self, group), field.name)


def common_names(method: Method) -> frozenset[str]:
    """Return the names of the common options that a method takes."""
    names = set(common_fields()) - set(method.without)
    if not method.trains:
        names -= {"epochs", "eval_every", "patience"}
    return frozenset(names)


DEFAULTS_OF_OLDER_RUNS: Mapping[str, Any] = MappingProxyType(
    {
        "optimiser": "adam",
        "user_table": "replicated",
        "tf32": False,
        "kernels": "torch",
        "compress": None,
        "features": "memory",
        "eval_users": None,
        "method": None,
        "envs": "cyclic_mixup",
    }
)
"""Values of options that earlier versions did not have."""


# ----------------------------------------------------------------------------------- checks


def validate_method(options: Options, num_modalities: int | None = None) -> None:
    """Raise OptionError where the method's own options do not go together, or with the data.

    Arguments:
        num_modalities: of the data set, once it is read.
    """
    check = options.card.validate
    problem = check(options, num_modalities) if check else None
    if problem:
        raise OptionError(problem)


def validate(options: Options) -> None:
    """Raise OptionError that names the option, the rule and the value."""
    method = options.card
    for group in (*(getattr(options, name) for name in GROUPS), options.method):
        problem = problem_of(group)
        if problem:
            raise OptionError(problem)
    validate_method(options)
    if options.run.dtype not in method.precisions:
        kinds = " or ".join(method.precisions)
        raise OptionError(f"--model {method.name} works in {kinds}, not in {options.run.dtype}.")
    taken = common_names(method)
    for name, (_, field) in common_fields().items():
        if name not in taken and name not in method.fields and options.value(name) != field.default:
            raise OptionError(
                f"--model {method.name} has no use for {flag(name)} {options.value(name)}. Leave it out."
            )
    out = options.run.out
    if out is not None and out.exists() and not out.is_dir():
        raise OptionError(f"--out: {out} is a file. Name a folder.")


# ------------------------------------------------------------------------------------- JSON


def to_json(options: Options) -> dict[str, Any]:
    """Return the options as JSON can hold them: common ones by name, the method's own under ``method``."""
    common = common_fields().items()
    values = {name: getattr(getattr(options, group), field.name) for name, (group, field) in common}
    texts = {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }
    return texts | {"method": dataclasses.asdict(options.method)}


def from_json(values: Mapping[str, Any]) -> Options:
    """Return options from the form of `to_json`, or from that of version 0.1.0, in which MILK's own are not apart.

    Raises:
        OptionError: an unknown or missing name, or a value of a wrong type.
    """
    values = {**DEFAULTS_OF_OLDER_RUNS, **values}
    common = common_fields()
    method = find_method(str(values.get("model")))
    own = values["method"]
    if own is not None and not isinstance(own, Mapping):
        raise OptionError(f"--method cannot be {own!r:.60}.")
    own = {
        name: values[name] for name in method.fields if name in values and name not in common
    } | dict(own or {})
    older = set(
        find_method("milk").fields
    )  # which files of version 0.1.0 have beside the common ones
    odd = sorted((set(values) - set(common) - older - {"method"}) | (set(common) - set(values)))
    odd += sorted(set(own) ^ set(method.fields))
    if odd:
        raise OptionError(f"options: unknown or missing names {odd}. Was another version used?")
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, (group, field) in common.items():
        groups[group][field.name] = _from_text(name, field, values[name])
    mine = {name: _from_text(name, field, own[name]) for name, field in method.fields.items()}
    made = {group: GROUPS[group](**fields) for group, fields in groups.items()}
    return Options(**made, method=method.options(**mine))


def _from_text(name: str, field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a value read from JSON as a field's type; raise OptionError where it is of another."""
    if not _fits(value, field.type):
        raise OptionError(f"{flag(name)} cannot be {value!r:.60}.")
    return Path(value) if value and Path in (field.type, *get_args(field.type)) else value


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value read from JSON is of a field's type."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (str if kind is Path else kind)
