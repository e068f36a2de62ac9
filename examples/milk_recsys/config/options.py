"""Options of the example: one frozen, typed dataclass, from which `command_line` derives the command line."""

# ruff: noqa: RUF009  (`_option` returns a dataclasses.field)

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from milk_recsys.config.method_options import BASELINES, UNTRAINED, check_own

__all__ = ["PRESETS", "OptionError", "Options", "common_options", "flag", "from_json", "to_json", "validate"]

Metric = Literal["recall@10", "recall@20", "ndcg@10", "ndcg@20", "hit@10", "hit@20", "mrr@10", "mrr@20"]

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "data": "What to train on, and which modalities go missing.",
        "run": "Which model, where it runs and where the results go.",
        "training": "The loop, early stopping and the optimiser.",
        "milk": "The objective and the environments (Eq. 6, 9-11, 14-16).",
        "features": "Scaling, imputation, negatives, and what is fused.",
        "baseline": "The baseline's own; what a name means is on its fidelity card.",
    }
)


class OptionError(ValueError):
    """An option whose value makes no sense; a command prints it and exits with status 2."""


def _option(default: Any, group: str, text: str, *, shown: str | None = None) -> Any:
    """A dataclass field with its group and help text; `shown` replaces the printed default."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text, "shown": shown})


@dataclasses.dataclass(frozen=True)
class Options:
    """Every option of a run, with the defaults of the preset `recommended`."""

    # What to train on
    data: Path | None = _option(
        None,
        "data",
        "Folder of a data set: dataset.json, interactions.tsv (or .npy) and features/*.npy.",
        shown="(default: the embedded synthetic set)",
    )
    setting: Literal["ftft", "ftmt", "mtmt"] = _option(
        "ftmt",
        "data",
        "Who misses modalities: nobody (ftft), new items (ftmt), or training items too (mtmt).",
    )
    missing_rate: float = _option(
        0.5, "data", "Share of the validation and of the test items that lose one modality each."
    )
    train_missing_rate: float = _option(
        0.3, "data", "Share of the training items that lose one modality each (mtmt only)."
    )
    missing_in_validation: bool = _option(True, "data", "Whether validation items miss modalities as test items do.")
    split_seed: int = _option(0, "data", "Seed of the split and of both masks.")
    split: Path | None = _option(
        None,
        "data",
        "A split.npz to use instead of drawing one; --split-seed and the rates are then ignored.",
        shown="(default: drawn from --split-seed)",
    )
    empty_items: Literal["error", "drop"] = _option(
        "error",
        "data",
        "Items without any modality: refuse the data, or drop their interactions.",
    )

    # Which model, where
    model: Literal[
        "milk",
        "align",
        "envs",
        "erm",
        "duif",
        "micro",
        "dropoutnet",
        "mtpr",
        "heater",
        "clcrec",
        "ccfcrec",
        "gar",
        "gorec",
        "content_knn",
        "random",
        "knn",
        "marec",
        "ridge",
        "sibrar",
        "i3mrec",
        "dgmrec",
        "aldi",
        "keep",
    ] = _option(
        "milk",
        "run",
        "KEEP, ours (keep); MILK (milk); MILK's ablations: only alignment (align), only environments (envs), neither "
        "(erm); or a baseline. Their options differ: --model gar --help.",
    )
    method: dict[str, Any] | None = _option(None, "baseline", "Options of the baseline's own; None: its defaults.")
    compare: Literal["none", "erm"] | None = _option(
        None,
        "run",
        "Train the ablation without both modules beside the model, on the same split.",
        shown="(default: erm on the embedded data, none with --data or for KEEP)",
    )
    preset: Literal["recommended", "paper", "authors_code"] = _option(
        "recommended",
        "run",
        "Sets MILK's options below; one given by name wins over it. `paper` follows the text "
        "where that trains: penalty weight 50, alignment weight .5, alpha .1, batch-mean risks, "
        "their mean and biased variance, Eq. 6 as element_mean, the batch form of the regulariser "
        "with weight 1e-4; where the text is silent it takes the value of `recommended`. (To the "
        "letter, Eq. 6 summed over all items and a parameter norm of weight 1 do not train.) "
        "`authors_code` follows the published code.",
    )
    seed: int = _option(0, "run", "Seed of everything random in training.")
    out: Path | None = _option(None, "run", "Folder for the results.", shown="(default: runs/<time>-<model>)")
    resume: bool = _option(False, "run", "Go on with the run in --out; start afresh if none.")
    device: Literal["auto", "cpu", "cuda"] = _option(
        "auto", "run", "Where to train; auto takes a GPU where there is one."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = _option(
        "float32", "run", "Precision; bfloat16 is autocast, with weights and risks in float32."
    )
    kernels: Literal["auto", "numba", "torch"] = _option(
        "auto",
        "run",
        "What runs between matrix products: loops compiled by Numba, or operations of torch; auto takes Numba on a CPU "
        "where it is installed and knows the options.",
    )
    tf32: bool = _option(
        False, "run", "On a GPU, multiply float32 matrices with TF32's 10 bits of mantissa: faster, and coarser."
    )
    user_table: Literal["replicated", "sharded"] = _option(
        "replicated",
        "run",
        "Under torchrun: every process has the whole table of users, or TorchRec spreads its rows over them (with "
        "lazy_adam and float32; `make distributed` installs TorchRec).",
    )
    threads: int | None = _option(None, "run", "Number of CPU threads.", shown="(default: torch's choice)")
    features: Literal["auto", "memory", "mapped"] = _option(
        "auto",
        "run",
        "Where features of items are: in memory, scaled and imputed once; or left in their files (mapped), and read, "
        "scaled and imputed by the batch. auto leaves them where they would take more than 1 GiB, or a quarter of a "
        "GPU's memory.",
    )

    # The loop
    epochs: int = _option(1000, "training", "Most epochs.")
    batch_size: int = _option(2048, "training", "Training pairs in a (global) batch.")
    lr: float = _option(1e-3, "training", "Learning rate of Adam; worth tuning on validation.")
    optimiser: Literal["adam", "lazy_adam"] = _option(
        "lazy_adam",
        "training",
        "Of the users: Adam that touches only those of a batch, so that a step costs the same however many there are; "
        "or Adam. The encoders take Adam either way.",
    )
    embedding_dim: int = _option(64, "training", "Width of user and item embeddings.")
    user_init_std: float = _option(0.1, "training", "Standard deviation of initial user vectors.")
    eval_every: int = _option(10, "training", "Evaluate after epochs 0, N, 2N, ... and after the last one.")
    patience: int = _option(3, "training", "Stop at this many evaluations in a row without a strict gain.")
    monitor: Metric = _option("ndcg@20", "training", "Validation metric that picks the epoch.")
    candidates: Literal["test", "all_cold"] = _option(
        "test",
        "training",
        "Whom a new item competes with: the items of its own half, or all cold items.",
    )
    eval_users: int | None = _option(
        None,
        "training",
        "Validate and test on this many users, drawn once from --split-seed among those with a positive there.",
        shown="(default: all of them)",
    )

    # Objective and environments
    penalty_weight: float = _option(
        1.0,
        "milk",
        "Weight of the variance of the risks (beta). Published: Baby 1000, Clothing and TikTok 50, "
        "for the sum of the risks; for their mean it means half as much at three environments.",
    )
    alignment_weight: float = _option(
        0.05,
        "milk",
        "Weight of the alignment (lambda). Published: Baby and Clothing .05, TikTok .5.",
    )
    alpha: float = _option(
        1.0,
        "milk",
        "Concentration of the Dirichlet draws: small is near one-hot, large is near uniform. "
        "Published: .01 to 100 searched; Baby .01, Clothing .1.",
    )
    num_draws: int = _option(1, "milk", "Dirichlet draws a batch, each giving one environment per modality.")
    envs: Literal["cyclic_mixup", "without_uniform", "independent", "fixed"] = _option(
        "cyclic_mixup",
        "milk",
        "MILK's environments (cyclic_mixup); or a variant of the paper's Table 4: without the uniform one (w/o e=0), "
        "independent draws in place of cyclic shifts (w/o cs), or one draw kept for the run (w/o random).",
    )
    min_weight: float = _option(0.0, "milk", "Least weight of a modality in an environment; below 1 / modalities.")
    risk_reduction: Literal["mean", "sum"] = _option(
        "mean", "milk", "How the risks of the environments are put together (Eq. 14)."
    )
    variance_correction: Literal[0, 1] = _option(0, "milk", "Variance of the risks: biased (0) or unbiased (1).")
    alignment_reduction: Literal["element_mean", "mean", "item_mean", "sum"] = _option(
        "element_mean",
        "milk",
        "Eq. 6 over the batch's distinct items: mean over pairs and dimensions (element_mean), "
        "over pairs, over items, or their sum to the letter.",
    )
    alignment_mask: Literal["pair", "complete"] = _option(
        "pair", "milk", "Align each observed pair, or only items that miss nothing."
    )
    regulariser: Literal["batch", "parameters", "none"] = _option(
        "batch",
        "milk",
        "Squared norms of a batch's user and item embeddings, of all parameters, or nothing.",
    )
    regulariser_weight: float = _option(1e-4, "milk", "Weight of the regulariser.")

    # Features and fusion
    scale_features: bool = _option(True, "features", "Scale each feature row to unit length.")
    scale_before_impute: bool = _option(
        True, "features", "Scale observed rows and then impute, or impute and then scale all rows."
    )
    norm_floor: float = _option(1e-3, "features", "Rows with a smaller norm are left unscaled.")
    compress: int | None = _option(
        None,
        "features",
        "Project features that are wider on this many principal directions of the training items, once: smaller "
        "products in every step.",
        shown="(default: no projection)",
    )
    negatives: Literal["warm", "all"] = _option(
        "warm",
        "features",
        "Draw negatives from the training items, or from all (which leaks the test items).",
    )
    training_fusion: Literal["imputed", "available"] = _option(
        "imputed", "features", "What training fuses: imputed modalities too, or observed ones."
    )
    inference: Literal["imputed", "available_mean"] = _option(
        "imputed",
        "features",
        "What a score averages (Eq. 18): all modalities with imputed ones, or observed ones.",
    )

    def own(self) -> Any:
        """The baseline's own options, as its dataclass in `baselines.options`."""
        return BASELINES[self.model](**(self.method or {}))

    def resolved(self) -> "Options":
        """The options with `compare` decided: erm on the embedded data, none with `--data`.

        The ablation itself (`--model erm`) has nothing to be compared with unless asked for, nor has KEEP, of which it
        is none.
        """
        if self.compare is not None:
            return self
        beside = self.data is None and self.model not in ("erm", "keep")
        return dataclasses.replace(self, compare="erm" if beside else "none")

    def notes(self, given: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """What the user should be told of options that have no effect beside others.

        Arguments:
            given: names of options that were typed (`given_options`): one that repeats its default is told of too.
        """
        found = []
        if self.resume and self.out is None:
            found.append("--resume starts a new run: no --out names the run to go on with.")
        changed = given | {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        in_validation = flag("missing_in_validation" if self.missing_in_validation else "no_missing_in_validation")
        if self.split is not None:
            found += [
                f"{flag(name)} is ignored: --split gives the split and its mask."
                for name in ("split_seed", "missing_rate", "train_missing_rate")
                if name in changed and not (name == "split_seed" and self.eval_users)  # which it draws
            ]
            if "missing_in_validation" in changed:
                found.append(f"{in_validation} is ignored: --split gives the split and its mask.")
        elif self.setting != "mtmt" and "train_missing_rate" in changed:
            found.append(f"--train-missing-rate is ignored: --setting is {self.setting}, not mtmt.")
        if self.split is None and self.setting == "ftft":
            found += [
                f"{flag} is ignored: under --setting ftft nothing goes missing."
                for name, flag in (("missing_rate", "--missing-rate"), ("missing_in_validation", in_validation))
                if name in changed
            ]
        return tuple(found)


_MILK_FIELDS = tuple(
    f.name
    for f in dataclasses.fields(Options)
    if f.metadata["group"] in ("milk", "features")
    or f.name in ("missing_in_validation", "candidates", "monitor", "patience", "eval_every")
)
_RECOMMENDED = {name: getattr(Options(), name) for name in _MILK_FIELDS}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "recommended": _RECOMMENDED,
        "paper": _RECOMMENDED | {"penalty_weight": 50.0, "alignment_weight": 0.5, "alpha": 0.1},
        "authors_code": _RECOMMENDED
        | {
            "penalty_weight": 50.0,
            "alignment_weight": 0.05,
            "alpha": 0.1,
            "risk_reduction": "sum",
            "variance_correction": 1,
            "alignment_mask": "complete",
            "scale_before_impute": False,
            "candidates": "all_cold",
            "negatives": "all",
            "monitor": "ndcg@10",
        },
    }
)
"""What each preset sets: MILK's options, all of them, and nothing of the data, seeds or places."""


BEFORE: Mapping[str, Any] = MappingProxyType(
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
"""What versions did that did not have an option yet."""


def flag(name: str) -> str:
    """The command line's name of a field: `--missing-rate` of `missing_rate`."""
    return "--" + name.replace("_", "-")


# ----------------------------------------------------------------------------------- checks


def validate(options: Options) -> None:
    """Raises OptionError naming the option, the rule and what came."""
    for name in ("batch_size", "num_draws", "eval_every", "patience", "epochs", "embedding_dim"):
        _require(options, name, lambda v: v >= 1, "at least 1")
    for name in ("threads", "eval_users", "compress"):
        if getattr(options, name) is not None:
            _require(options, name, lambda v: v >= 1, "at least 1")
    for name in ("lr", "alpha"):
        _require(options, name, lambda v: 0 < v < math.inf, "finite and above 0")
    for name in (
        "penalty_weight",
        "alignment_weight",
        "regulariser_weight",
        "user_init_std",
        "norm_floor",
    ):
        _require(options, name, lambda v: 0 <= v < math.inf, "finite and at least 0")
    for name in ("missing_rate", "train_missing_rate"):
        _require(options, name, lambda v: 0 <= v <= 1, "a share from 0 to 1")
    for name in ("seed", "split_seed"):
        _require(options, name, lambda v: 0 <= v < 2**63, "from 0 to 2**63 - 1")
    _require(options, "min_weight", lambda v: 0 <= v < 1, "at least 0 and below 1 / modalities")
    _validate_baseline(options)
    if options.regulariser == "parameters" and options.optimiser != "adam":
        raise OptionError("--regulariser parameters changes all users at every step: it needs --optimiser adam.")
    if options.user_table == "sharded":
        for name, value in (("optimiser", "lazy_adam"), ("dtype", "float32")):
            if getattr(options, name) != value:
                raise OptionError(f"--user-table sharded needs {flag(name)} {value}, got {getattr(options, name)}.")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out: {options.out} is a file. Name a folder.")


def _validate_baseline(options: Options) -> None:
    """A baseline takes options of its own and the common ones; MILK's would be without effect."""
    if options.model not in BASELINES:
        if options.method is not None:
            raise OptionError(f"--model {options.model} has no options of a baseline, got {sorted(options.method)}.")
        return
    names = {f.name for f in dataclasses.fields(BASELINES[options.model])}
    odd = sorted(set(options.method or {}) - names)
    if odd:
        raise OptionError(f"--model {options.model} has no option {flag(odd[0])}; it has {', '.join(sorted(names))}.")
    problem = check_own(options.own())
    if problem:
        raise OptionError(problem)
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if field.name not in common_options(options.model) and value != field.default:
            raise OptionError(f"--model {options.model} has no use for {flag(field.name)} {value}. Leave it out.")
    if options.dtype == "bfloat16":
        raise OptionError(f"--model {options.model} works in float32 or float64, not in bfloat16.")


_MILKS_OWN = frozenset(
    {
        "preset",
        "kernels",
        "user_table",
        "features",
        "batch_size",
        "lr",
        "optimiser",
        "user_init_std",
        "compress",
        "negatives",
        "training_fusion",
        "inference",
    }
)


_LOOPS_OWN = frozenset({"epochs", "eval_every", "patience", "embedding_dim"})
_SCALING = frozenset({"scale_features", "scale_before_impute", "norm_floor"})


def common_options(model: str) -> frozenset[str]:
    """Names of the options here that a model takes: all for MILK and its ablations, fewer for a baseline."""
    fields = {f.name: f.metadata["group"] for f in dataclasses.fields(Options)}
    if model not in BASELINES:
        return frozenset(fields) - {"method"}
    odd = _MILKS_OWN | {f.name for f in dataclasses.fields(BASELINES[model])}
    if model in UNTRAINED:  # solved at once, on centred rows of length 1; ridge on scaled ones
        odd |= _LOOPS_OWN | ({"scale_before_impute"} if model == "ridge" else _SCALING)
    return frozenset(name for name, group in fields.items() if group != "milk" and name not in odd)


def _require(options: Options, name: str, holds: Any, rule: str) -> None:
    value = getattr(options, name)
    if not holds(value):  # NaN fails every comparison, so it is refused as well
        raise OptionError(f"{flag(name)} must be {rule}, got {value}.")


# ------------------------------------------------------------------------------------- JSON


def to_json(options: Options) -> dict[str, Any]:
    """The options as what JSON can hold; paths become strings."""
    values = {
        name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(options).items()
    }
    return values | {"method": dataclasses.asdict(options.own()) if options.model in BASELINES else None}


def from_json(values: Mapping[str, Any]) -> Options:
    """Options from `to_json`'s form; an unknown or missing name, or a wrong type, raises OptionError.

    A run of an earlier version lacks the options that came later; they get what that version did.
    """
    known = {f.name for f in dataclasses.fields(Options)}
    values = {**BEFORE, **values}
    if set(values) != known:
        odd = sorted(set(values) ^ known)
        raise OptionError(f"options: unknown or missing names {odd}. Was another version used?")
    for field in dataclasses.fields(Options):
        if not _fits(values[field.name], field.type):
            raise OptionError(f"{flag(field.name)} cannot be {values[field.name]!r:.60}.")
    paths = {name: Path(values[name]) for name in ("data", "split", "out") if values[name]}
    return Options(**(dict(values) | paths))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (str if kind is Path else kind)
