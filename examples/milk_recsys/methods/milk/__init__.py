"""MILK and its ablations: their options, presets and search spaces.

The equations are in `objective.py`.
"""

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
        aligns: whether the objective has the alignment term (Eq. 6).
        has_envs: whether it has the environments and the variance penalty (Eq. 9-14).
    """

    aligns: ClassVar[bool] = True
    has_envs: ClassVar[bool] = True

    preset: Literal["recommended", "paper", "authors_code"] = option(
        "recommended",
        "Set of values for the options below. An option given by name overrides the preset. "
        "`paper` follows the text wherever the text gives a model that trains: penalty weight 50, "
        "alignment weight 0.5, alpha 0.1, batch-mean risks, their mean and biased variance, Eq. 6 "
        "as element_mean, the batch form of the regulariser with weight 1e-4. Where the text gives "
        "no value, `paper` uses the value of `recommended`. (Taken literally, Eq. 6 summed over "
        "all items and a parameter norm of weight 1 do not train.) "
        "`authors_code` follows the published code.",
    )
    batch_size: int = option(2048, "Training pairs in a (global) batch.", low=1)
    lr: float = option(1e-3, "Learning rate of Adam. Tune it on validation data.", above=True)
    optimiser: Literal["adam", "lazy_adam"] = option(
        "lazy_adam",
        "Optimiser of the user table. `lazy_adam` updates only the users of the batch, so that the "
        "cost of a step does not depend on the number of users; `adam` updates all of them. The "
        "encoders use Adam in both cases.",
    )
    embedding_dim: int = option(64, "Width of user and item embeddings.", low=1)
    user_init_std: float = option(0.1, "Standard deviation of initial user vectors.")
    penalty_weight: float = option(
        1.0,
        "Weight of the variance of the risks (beta). Published: Baby 1000, Clothing and TikTok 50, "
        "for the sum of the risks and their unbiased variance. With the mean and the biased "
        "variance, half the weight has the same effect when there are three environments.",
    )
    alignment_weight: float = option(
        0.05, "Weight of the alignment (lambda). Published: Baby and Clothing 0.05, TikTok 0.5."
    )
    alpha: float = option(
        1.0,
        "Concentration of the Dirichlet distribution: small values give weights that are nearly "
        "one-hot, large values weights that are nearly uniform. Published: searched from 0.01 to "
        "100; Baby 0.01, Clothing 0.1.",
        above=True,
    )
    num_draws: int = option(
        1, "Dirichlet draws per batch. Each gives one environment per modality.", low=1
    )
    envs: Literal["cyclic_mixup", "without_uniform", "independent", "fixed"] = option(
        "cyclic_mixup",
        "Construction of environments: as in MILK (cyclic_mixup), or as in a variant of the "
        "paper's Table 4: without the uniform environment (w/o e=0), with independent draws "
        "instead of cyclic shifts (w/o cs), or with one draw for the whole run (w/o random).",
    )
    min_weight: float = option(
        0.0,
        "Minimum weight of a modality in an environment; below 1 / (number of modalities).",
    )
    risk_reduction: Literal["mean", "sum"] = option(
        "mean", "Reduction of the risks over environments (Eq. 14): their mean or their sum."
    )
    variance_correction: Literal[0, 1] = option(
        0, "Variance estimator of the risks: biased (0) or unbiased (1)."
    )
    alignment_reduction: Literal["element_mean", "mean", "item_mean", "sum"] = option(
        "element_mean",
        "Reduction of Eq. 6 over the batch's distinct items: mean over pairs and dimensions "
        "(element_mean), over pairs (mean), over items (item_mean), or the sum as printed (sum).",
    )
    alignment_mask: Literal["pair", "complete"] = option(
        "pair",
        "Align every pair of observed modalities, or only items with all modalities.",
    )
    regulariser: Literal["batch", "parameters", "none"] = option(
        "batch",
        "Regularise the squared norms of the batch's user and item embeddings, those of all "
        "parameters, or nothing.",
    )
    regulariser_weight: float = option(1e-4, "Weight of the regulariser.")
    training_fusion: Literal["imputed", "available"] = option(
        "imputed", "Fuse imputed modalities too in training, or only observed ones."
    )
    inference: Literal["imputed", "available_mean"] = option(
        "imputed",
        "Average all modalities in a score, imputed ones included (Eq. 18), or only observed ones.",
    )
    compress: int | None = option(
        None,
        "Number of principal directions of the training items on which wider features are "
        "projected before training, so that matrix products are smaller.",
        low=1,
        shown="(default: no projection)",
    )
    kernels: Literal["auto", "numba", "torch", "compiled"] = option(
        "auto",
        "Implementation of a step between its matrix products: loops compiled by Numba, torch "
        "operations, or operations that torch.compile fuses (`compiled`: needs a GPU, Triton and "
        "a C compiler, and takes up to a minute before the first step). `auto` uses Numba on a CPU "
        "if it is installed and supports the options, and else torch operations.",
    )
    user_table: Literal["replicated", "sharded"] = option(
        "replicated",
        "Placement of the user table under torchrun: a copy in every process, or its rows sharded "
        "over the processes (needs lazy_adam). With --user-blocks a process has the rows of its "
        "own users; without it TorchRec shards them (needs float32; `make distributed` installs "
        "TorchRec).",
    )
    user_blocks: int | None = option(
        None,
        "Number of blocks into which the users are divided, with nearly equal numbers of training "
        "pairs. Under torchrun each process holds the pairs of its own blocks alone, and draws "
        "their part of an epoch. The epoch depends on the number of blocks but not on that of "
        "processes; take a multiple of it, at most the number of users.",
        low=1,
        shown="(default: every process holds all pairs)",
    )
    shared_negatives: int | None = option(
        None,
        "Number N of items that a batch draws uniformly from the pool of negatives, with "
        "replacement. Each pair of the batch takes one of those that its user does not have, "
        "uniformly; a user who has all of them draws an item of their own. A batch then has at "
        "most N distinct negatives besides such items, so that fewer items are encoded. Smaller "
        "numbers make a step faster, but the negatives of a batch are no longer independent.",
        low=1,
        shown="(default: a negative of its own for each pair)",
    )


class AlignOptions(MilkOptions):
    """Options of the ablation with alignment only."""

    has_envs = False


class EnvsOptions(MilkOptions):
    """Options of the ablation with environments only."""

    aligns = False


class ErmOptions(MilkOptions):
    """Options of the ablation with neither alignment nor environments."""

    aligns, has_envs = False, False


def _problem(run: Options, num_modalities: int | None) -> str | None:
    """Return a message about options that contradict each other, or None."""
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
    by_torchrec = options.user_table == "sharded" and options.user_blocks is None
    if by_torchrec and run.run.dtype != "float32":
        return f"--user-table sharded needs --dtype float32 or --user-blocks, got {run.run.dtype}."
    return None


# The defaults of the options that define the objective, and the options of data and evaluation that
# go with them. Options of the optimiser, of sizes and of the implementation belong to no preset.
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
            "user_blocks",
            "shared_negatives",
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
"""The options that each preset sets. No preset sets the data set, a seed or a path."""

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
    MILK,
    name="erm",
    title="ERM",
    options=ErmOptions,
    compare="none",  # This is the ablation that other methods are compared with.
    space={"lr": LR},
    search_seed=3,
)
