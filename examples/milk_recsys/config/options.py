"""Options of a run: nested groups of typed fields, from which the command line is derived.

    Options()                                             # KEEP, as `train.py` without options
    Options.of(model="milk", lr=0.003, seed=1)            # by the names of the command line

A function takes only the group of options that it needs. Files store options by their names on the
command line; see `to_json`.
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
    """Data set, split and missing modalities."""

    folder: Path | None = option(
        None,
        "Folder of a data set: dataset.json, interactions.tsv (or .npy) and features/*.npy.",
        shown="(default: the embedded synthetic set)",
    )
    setting: Literal["ftft", "ftmt", "mtmt"] = option(
        "ftmt",
        "Items that miss modalities: none (ftft), new items (ftmt), or training items too (mtmt).",
    )
    missing_rate: float = option(
        0.5, "Share of the validation and of the test items that lose one modality each.", high=1
    )
    train_missing_rate: float = option(
        0.3, "Share of the training items that lose one modality each (mtmt only).", high=1
    )
    missing_in_validation: bool = option(
        True, "Remove modalities of validation items too, not only of test items."
    )
    split_seed: int = option(0, "Seed of the split and of both masks.", high=2**63 - 1)
    split: Path | None = option(
        None,
        "File split.npz with the split to use; --split-seed and the rates are then ignored.",
        shown="(default: drawn from --split-seed)",
    )
    empty_items: Literal["error", "drop"] = option(
        "error", "Items without any modality: refuse the data, or drop their interactions."
    )
    candidates: Literal["test", "all_cold"] = option(
        "test",
        "Candidates among which new items are ranked: the items of the same half (validation or "
        "test), or all cold items.",
    )
    negatives: Literal["warm", "all"] = option(
        "warm", "Draw negatives from the training items, or from all (which leaks the test items)."
    )
    eval_users: int | None = option(
        None,
        "Number of users to evaluate, drawn once from --split-seed among the users with a positive "
        "item.",
        low=1,
        shown="(default: all of them)",
    )
    features: Literal["auto", "memory", "mapped"] = option(
        "auto",
        "Place of the item features: in memory, scaled and imputed once (memory), or in their "
        "files, from which each batch is read, scaled and imputed (mapped). auto leaves them in "
        "their files if they would take more than 1 GiB, or a quarter of a GPU's memory.",
    )


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Model, machine and folder of the results."""

    model: str = option(
        DEFAULT_METHOD,
        "Model: KEEP, our method (keep); MILK (milk); an ablation of MILK with only alignment "
        "(align), only environments (envs) or neither (erm); or a baseline. Options differ by "
        "model: --model gar --help.",
    )
    compare: Literal["none", "erm"] | None = option(
        None,
        "Ablation to train on the same split for comparison: erm, without both modules, or none.",
        shown="(default: erm on the embedded data, none with --data or for KEEP)",
    )
    seed: int = option(0, "Seed of all random numbers in training.", high=2**63 - 1)
    out: Path | None = option(
        None, "Folder for the results.", shown="(default: runs/<time>-<model>)"
    )
    resume: bool = option(False, "Resume the run in --out, or start a new one if there is none.")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Device to train on; auto is a GPU if there is one."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = option(
        "float32", "Precision; bfloat16 uses autocast and keeps weights and risks in float32."
    )
    tf32: bool = option(
        False,
        "Multiply float32 matrices on a GPU in TF32 (10-bit mantissa): faster but less precise.",
    )
    threads: int | None = option(
        None, "Number of CPU threads.", low=1, shown="(default: torch's choice)"
    )


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Epochs and early stopping."""

    epochs: int = option(1000, "Maximum number of epochs.", low=1)
    eval_every: int = option(
        10, "Evaluate after epochs 0, N, 2N, ... and after the last one.", low=1
    )
    patience: int = option(
        3, "Number of consecutive evaluations without a strict gain before training stops.", low=1
    )
    monitor: Metric = option("ndcg@20", "Validation metric that selects the epoch.")


@dataclasses.dataclass(frozen=True)
class PreparationOptions:
    """Scaling of the features."""

    scale_features: bool = option(True, "Scale each feature row to unit length.")
    scale_before_impute: bool = option(
        True, "Scale observed rows before imputation; otherwise scale all rows after it."
    )
    norm_floor: float = option(1e-3, "Smallest norm of a row that is scaled.")


GROUPS: Mapping[str, type[Any]] = MappingProxyType(
    {"data": DataOptions, "run": RunOptions, "loop": LoopOptions, "preparation": PreparationOptions}
)
"""Groups of the common options; `common_names` returns the ones that a method has."""

FLAT = {"folder": "data"}
"""Field -> its name on the command line and in files, if the two differ."""


def flat_name(field: "dataclasses.Field[Any]") -> str:
    """Return the name of a common field on the command line and in files, without dashes."""
    return FLAT.get(field.name, field.name)


def common_fields() -> dict[str, tuple[str, "dataclasses.Field[Any]"]]:
    """Return the common options: name on the command line -> group and field."""
    return {
        flat_name(field): (group, field)
        for group, kind in GROUPS.items()
        for field in dataclasses.fields(kind)
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """All options of a run.

    Attributes:
        data, run, loop, preparation: the common options.
            None as `loop` means the defaults of the method.
        method: the method's own options, an instance of the dataclass ``Method.options``; None
            means their defaults.
    """

    data: DataOptions = DataOptions()
    run: RunOptions = RunOptions()
    loop: LoopOptions = None  # type: ignore[assignment]  # replaced in `__post_init__`
    preparation: PreparationOptions = PreparationOptions()
    method: Any = None

    def __post_init__(self) -> None:
        """Fill in the method's defaults, and check the type of its own options."""
        # A frozen dataclass refuses ordinary assignment, hence `object.__setattr__`.
        kind = self.definition.options
        if self.loop is None:
            object.__setattr__(self, "loop", LoopOptions(**(self.definition.loop or {})))
        if self.method is None:
            object.__setattr__(self, "method", kind())
        elif not isinstance(self.method, kind):
            raise OptionError(
                f"--model {self.run.model} has options of the type {kind.__name__}, "
                f"got {type(self.method).__name__}."
            )

    @property
    def definition(self) -> Method:
        """Description of the chosen method."""
        return find_method(self.run.model)

    @classmethod
    def of(cls, model: str = DEFAULT_METHOD, **values: Any) -> "Options":
        """Return options given by their names on the command line; the others have their defaults.

        Raises:
            OptionError: the method has no such option.
        """
        return cls(run=RunOptions(model=model)).replace(**values)

    def replace(self, **values: Any) -> "Options":
        """Return a copy with some options changed, given by their names on the command line.

        With another ``model``, the method's own options have their defaults, unless both methods
        have the same options, as MILK and its ablations do; then the values are kept.

        Raises:
            OptionError: the method has no such option.
        """
        model = values.pop("model", self.run.model)
        method, common = find_method(model), common_fields()
        own = self.method
        if model != self.run.model:
            same = set(method.fields) == set(self.definition.fields)
            own = method.options(**(vars(own) if same else {}))
        unknown = sorted(set(values) - set(common) - set(method.fields))
        if unknown:
            raise OptionError(
                f"--model {model} has no option {flag(unknown[0])}; it has "
                f"{', '.join(sorted(method.fields))}."
            )
        changed: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        changed["run"]["model"] = model
        # If a method redefines a common option, the value belongs to the method's own options.
        for name in set(values) - set(method.fields):
            group, field = common[name]
            value = values[name]
            is_path = isinstance(value, str) and Path in get_args(field.type)
            changed[group][field.name] = Path(value) if is_path else value
        groups = {
            group: dataclasses.replace(getattr(self, group), **fields)
            for group, fields in changed.items()
        }
        own_values = {name: value for name, value in values.items() if name in method.fields}
        return Options(**groups, method=dataclasses.replace(own, **own_values))

    def resolved(self) -> "Options":
        """Return the options with ``compare`` set: `Method.compare`, or none with ``--data``."""
        if self.run.compare is not None:
            return self
        return self.replace(compare=self.definition.compare if self.data.folder is None else "none")

    def notes(self, given: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Return notes on options that have no effect in combination with the others.

        Arguments:
            given: names of the options on the command line (`given_options`), so that an option
                that repeats its default is reported too.
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
                # The split seed still has an effect if it draws the evaluated users.
                if name in changed and not (name == "split_seed" and data.eval_users)
            ]
            if "missing_in_validation" in changed:
                notes.append(f"{in_validation} is ignored: --split gives the split and its mask.")
        elif data.setting != "mtmt" and "train_missing_rate" in changed:
            notes.append(f"--train-missing-rate is ignored: --setting is {data.setting}, not mtmt.")
        if data.split is None and data.setting == "ftft":
            notes += [
                f"{shown} is ignored: --setting ftft removes no modality."
                for name, shown in (
                    ("missing_rate", "--missing-rate"),
                    ("missing_in_validation", in_validation),
                )
                if name in changed
            ]
        return tuple(notes)

    def value(self, name: str) -> Any:
        """Return the value of an option by its name on the command line."""
        if name in self.definition.fields:
            return getattr(self.method, name)
        group, field = common_fields()[name]
        return getattr(getattr(self, group), field.name)


def common_names(method: Method) -> frozenset[str]:
    """Return the names of the common options that a method has."""
    names = set(common_fields()) - set(method.without)
    if not method.trains:
        names -= {"epochs", "eval_every", "patience"}
    return frozenset(names)


DEFAULTS_OF_OLDER_RUNS: Mapping[str, Any] = MappingProxyType(
    {
        "optimiser": "adam",
        "user_table": "replicated",
        "user_blocks": None,
        "shared_negatives": None,
        "tf32": False,
        "kernels": "torch",
        "compress": None,
        "features": "memory",
        "eval_users": None,
        "method": None,
        "envs": "cyclic_mixup",
    }
)
"""Values that stand for options which the version of an older run did not have."""


# --- checks ---------------------------------------------------------------------------------------


def validate_method(options: Options, num_modalities: int | None = None) -> None:
    """Check the method's own options against the others and the data.

    Arguments:
        num_modalities: number of modalities of the data set, or None before it is read.

    Raises:
        OptionError: options conflict.
    """
    check = options.definition.validate
    problem = check(options, num_modalities) if check else None
    if problem:
        raise OptionError(problem)


def validate(options: Options) -> None:
    """Check all options; raise an OptionError that names the option, the rule and the value."""
    method = options.definition
    for group in (*(getattr(options, name) for name in GROUPS), options.method):
        problem = problem_of(group)
        if problem:
            raise OptionError(problem)
    validate_method(options)
    if options.run.dtype not in method.precisions:
        kinds = " or ".join(method.precisions)
        raise OptionError(
            f"--dtype must be {kinds} for --model {method.name}, got {options.run.dtype}."
        )
    known = {*common_names(method), *method.fields}
    for name, (_, field) in common_fields().items():
        if name not in known and options.value(name) != field.default:
            raise OptionError(
                f"--model {method.name} does not use {flag(name)}, got {options.value(name)}. "
                "Leave it out."
            )
    out = options.run.out
    if out is not None and out.exists() and not out.is_dir():
        raise OptionError(f"--out: {out} is a file. Name a folder.")


# --- JSON -----------------------------------------------------------------------------------------


def to_json(options: Options) -> dict[str, Any]:
    """Return the options as a JSON object, with the method's own options under ``method``."""
    common = common_fields().items()
    values = {name: getattr(getattr(options, group), field.name) for name, (group, field) in common}
    texts = {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }
    return texts | {"method": dataclasses.asdict(options.method)}


def from_json(values: Mapping[str, Any]) -> Options:
    """Return options from the format of `to_json`, or from that of version 0.1.0.

    In version 0.1.0 MILK's own options were stored together with the common ones.

    Raises:
        OptionError: a name is unknown or missing, or a value has a wrong type.
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
    # Files of version 0.1.0 have MILK's options for every method, so these names are accepted.
    older = set(find_method("milk").fields)
    wrong = sorted((set(values) - set(common) - older - {"method"}) | (set(common) - set(values)))
    wrong += sorted(set(own) ^ set(method.fields))
    if wrong:
        raise OptionError(
            f"options: unknown or missing names {wrong}. Was the file written by another version?"
        )
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, (group, field) in common.items():
        groups[group][field.name] = _from_text(name, field, values[name])
    own_values = {name: _from_text(name, field, own[name]) for name, field in method.fields.items()}
    common_groups = {group: GROUPS[group](**fields) for group, fields in groups.items()}
    return Options(**common_groups, method=method.options(**own_values))


def _from_text(name: str, field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a JSON value, as a Path if the field is one; raise OptionError for a wrong type."""
    if not _fits(value, field.type):
        raise OptionError(f"{flag(name)} cannot be {value!r:.60}.")
    return Path(value) if value and Path in (field.type, *get_args(field.type)) else value


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value has a field's type."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if get_args(kind):
        return any(_fits(value, part) for part in get_args(kind))
    # JSON does not distinguish 1 from 1.0, so an integer is a valid float.
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (str if kind is Path else kind)
