"""MILK and its ablations: their options, and the values that a study may try. The equations are in `objective.py`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from milk_recsys.config.method import Method, log_range, option
from milk_recsys.config.options import Options

__all__ = ["ALIGN", "ENVS", "ERM", "MILK", "MilkOptions"]


@dataclasses.dataclass(frozen=True)
class MilkOptions:
    """Options of MILK and its ablations (Eq. 6, 9-11, 14-16).

    Attributes:
        aligns: whether the objective has the alignment; has_envs: whether it has environments and their penalty.
    """

    aligns: ClassVar[bool] = True
    has_envs: ClassVar[bool] = True

    preset: Literal["recommended", "paper", "authors_code"] = option(
        "recommended",
        "Sets MILK's options below; one given by name wins over it. `paper` follows the text "
        "where that trains: penalty weight 50, alignment weight .5, alpha .1, batch-mean risks, "
        "their mean and biased variance, Eq. 6 as element_mean, the batch form of the regulariser "
        "with weight 1e-4; where the text is silent it takes the value of `recommended`. (To the "
        "letter, Eq. 6 summed over all items and a parameter norm of weight 1 do not train.) "
        "`authors_code` follows the published code.",
    )
    batch_size: int = option(2048, "Training pairs in a (global) batch.", low=1)
    lr: float = option(1e-3, "Learning rate of Adam; worth tuning on validation.", above=True)
    optimiser: Literal["adam", "lazy_adam"] = option(
        "lazy_adam",
        "Of the users: Adam that touches only those of a batch, so that a step costs the same however many there are; "
        "or Adam. The encoders take Adam either way.",
    )
    embedding_dim: int = option(64, "Width of user and item embeddings.", low=1)
    user_init_std: float = option(0.1, "Standard deviation of initial user vectors.")
    penalty_weight: float = option(
        1.0,
        "Weight of the variance of the risks (beta). Published: Baby 1000, Clothing and TikTok 50, "
        "for the sum of the risks; for their mean it means half as much at three environments.",
    )
    alignment_weight: float = option(
        0.05, "Weight of the alignment (lambda). Published: Baby and Clothing .05, TikTok .5."
    )
    alpha: float = option(
        1.0,
        "Concentration of the Dirichlet draws: small is near one-hot, large is near uniform. "
        "Published: .01 to 100 searched; Baby .01, Clothing .1.",
        above=True,
    )
    num_draws: int = option(
        1, "Dirichlet draws a batch, each giving one environment per modality.", low=1
    )
    envs: Literal["cyclic_mixup", "without_uniform", "independent", "fixed"] = option(
        "cyclic_mixup",
        "MILK's environments (cyclic_mixup); or a variant of the paper's Table 4: without the uniform one (w/o e=0), "
        "independent draws in place of cyclic shifts (w/o cs), or one draw kept for the run (w/o random).",
    )
    min_weight: float = option(
        0.0, "Least weight of a modality in an environment; below 1 / modalities."
    )
    risk_reduction: Literal["mean", "sum"] = option(
        "mean", "How the risks of the environments are put together (Eq. 14)."
    )
    variance_correction: Literal[0, 1] = option(
        0, "Variance of the risks: biased (0) or unbiased (1)."
    )
    alignment_reduction: Literal["element_mean", "mean", "item_mean", "sum"] = option(
        "element_mean",
        "Eq. 6 over the batch's distinct items: mean over pairs and dimensions (element_mean), "
        "over pairs, over items, or their sum to the letter.",
    )
    alignment_mask: Literal["pair", "complete"] = option(
        "pair", "Align each observed pair, or only items that miss nothing."
    )
    regulariser: Literal["batch", "parameters", "none"] = option(
        "batch",
        "Squared norms of a batch's user and item embeddings, of all parameters, or nothing.",
    )
    regulariser_weight: float = option(1e-4, "Weight of the regulariser.")
    training_fusion: Literal["imputed", "available"] = option(
        "imputed", "What training fuses: imputed modalities too, or observed ones."
    )
    inference: Literal["imputed", "available_mean"] = option(
        "imputed",
        "What a score averages (Eq. 18): all modalities with imputed ones, or observed ones.",
    )
    compress: int | None = option(
        None,
        "Project features that are wider on this many principal directions of the training items, once: smaller "
        "products in every step.",
        low=1,
        shown="(default: no projection)",
    )
    kernels: Literal["auto", "numba", "torch"] = option(
        "auto",
        "What runs between matrix products: loops compiled by Numba, or operations of torch; auto takes Numba on a CPU "
        "where it is installed and knows the options.",
    )
    user_table: Literal["replicated", "sharded"] = option(
        "replicated",
        "Under torchrun: every process has the whole table of users, or TorchRec spreads its rows over them (with "
        "lazy_adam and float32; `make distributed` installs TorchRec).",
    )


class AlignOptions(MilkOptions):
    """Options of the ablation with alignment only."""

    has_envs = False


class EnvsOptions(MilkOptions):
    """Options of the ablation with environments only."""

    aligns = False


class ErmOptions(MilkOptions):
    """Options of the ablation without both."""

    aligns, has_envs = False, False


def _problem(run: Options, num_modalities: int | None) -> str | None:
    """Return what is wrong with the options together, or None."""
    options: MilkOptions = run.method
    if options.min_weight >= 1:
        return (
            f"--min-weight must be at least 0 and below 1 / modalities, got {options.min_weight}."
        )
    if num_modalities is not None and options.min_weight * num_modalities >= 1:
        return (
            f"--min-weight must be below 1 / {num_modalities} modalities, got {options.min_weight}."
        )
    if options.regulariser == "parameters" and options.optimiser != "adam":
        return (
            "--regulariser parameters changes all users at every step: it needs --optimiser adam."
        )
    if options.user_table == "sharded" and options.optimiser != "lazy_adam":
        return f"--user-table sharded needs --optimiser lazy_adam, got {options.optimiser}."
    if options.user_table == "sharded" and run.run.dtype != "float32":
        return f"--user-table sharded needs --dtype float32, got {run.run.dtype}."
    return None


_RECOMMENDED: Mapping[str, Any] = {
    **{
        name: field.default
        for name, field in {f.name: f for f in dataclasses.fields(MilkOptions)}.items()
        if name
        not in (
            "preset",
            "batch_size",
            "lr",
            "optimiser",
            "embedding_dim",
            "user_init_std",
            "kernels",
            "user_table",
        )
    },
    "missing_in_validation": True,
    "candidates": "test",
    "negatives": "warm",
    "monitor": "ndcg@20",
    "patience": 3,
    "eval_every": 10,
    "scale_features": True,
    "scale_before_impute": True,
    "norm_floor": 1e-3,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "recommended": _RECOMMENDED,
    "paper": {**_RECOMMENDED, "penalty_weight": 50.0, "alignment_weight": 0.5, "alpha": 0.1},
    "authors_code": {
        **_RECOMMENDED,
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
"""The options that each preset sets; none of the data, seeds or places."""

LR, ALPHA = log_range(1e-3, 3e-2), log_range(1e-2, 1e2)
PENALTY, ALIGNMENT = log_range(1e-1, 1e2), log_range(5e-3, 5.0)

MILK = Method(
    name="milk",
    title="MILK",
    options=MilkOptions,
    learner="milk_recsys.methods.milk.learner:milk_learner",
    scorer="milk_recsys.methods.milk.model:scoring_model",
    check="milk_recsys.methods.milk.learner:check_learner",
    validate=_problem,
    loop={"epochs": 1000, "eval_every": 10, "patience": 3},
    presets=PRESETS,
    precisions=("float32", "float64", "bfloat16"),
    distributed=True,
    space={"lr": LR, "alpha": ALPHA, "penalty_weight": PENALTY, "alignment_weight": ALIGNMENT},
    limits={"epochs": 300, "eval_every": 10, "patience": 3},
    paper=True,
    search_seed=0,
)

ALIGN = dataclasses.replace(
    MILK,
    name="align",
    title="MILK (alignment only)",
    options=AlignOptions,
    space={"lr": LR, "alignment_weight": ALIGNMENT},
    search_seed=1,
)

ENVS = dataclasses.replace(
    MILK,
    name="envs",
    title="MILK (environments only)",
    options=EnvsOptions,
    space={"lr": LR, "alpha": ALPHA, "penalty_weight": PENALTY},
    search_seed=2,
)

ERM = dataclasses.replace(
    MILK, name="erm", title="ERM", options=ErmOptions, space={"lr": LR}, search_seed=3
)
