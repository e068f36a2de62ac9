"""KEEP: its options and its search space. The equations are in `model.py`."""

import dataclasses

from milk_recsys.config.method import Method, count, option

CHOSEN = "chosen on the training items"


@dataclasses.dataclass(frozen=True)
class KeepOptions:
    """Options of KEEP. Those that are None are chosen on the training items."""

    width: float | None = option(
        None,
        "Rate at which the kernel decreases with the angle between items (gamma), for every "
        "modality.",
        above=True,
        shown=CHOSEN,
    )
    ridge: float | None = option(
        None,
        "Ridge penalty of the kernel regression on content (l), for every pattern.",
        above=True,
        shown=CHOSEN,
    )
    shrinkage: float | None = option(
        None,
        "Shrinkage of the singular values (lambda), in units of the mean of the 50 largest squared "
        "ones.",
        shown=CHOSEN,
    )
    predicted_popularity: float | None = option(
        None,
        "Exponent c: scores of a new item are multiplied by its predicted number of pairs to the "
        "power c.",
        shown=CHOSEN,
    )
    popularity: float = option(
        0.25,
        "Exponent b: each pair is divided by (its user's pairs x its item's pairs) to the power b.",
    )
    rank: int | None = option(
        None,
        "Maximum number of singular vectors of warm items. By default none are computed for up to "
        "10,000 warm items or users, which is the same as all of them, and 2,048 for more, or as "
        "many as fit in 2^27 numbers.",
        1,
        shown="all, or at most 2048",
    )
    landmarks: int = count(
        512,
        "Number of warm items on which the kernel of each modality is projected, if there are more "
        "than 10,000; else the regression is exact.",
    )
    neighbours: int | None = option(
        None,
        "Number of nearest warm items that correct the vector of each new item, if the kernel is "
        "projected on --landmarks (with more than 10,000 warm items); 0 for no correction.",
        shown="256, or 64 with more than 100,000 warm items",
    )
    probes: int | None = option(
        None,
        "Neighbours of a new item are searched among the warm items that are nearest to the same "
        "landmarks as the new item: to this number of landmarks of each modality.",
        1,
        shown="all warm items are searched, or 8 landmarks with more than 100,000 warm items",
    )
    user_blocks: int | None = option(
        None,
        "Number of blocks into which the users are divided, with nearly equal numbers of training "
        "pairs. Under torchrun each process holds the pairs of its own blocks alone; the fitted "
        "model is the same up to rounding. Take a multiple of the number of processes, at most the "
        "number of users.",
        low=1,
        shown="every process holds all pairs",
    )
    per_pattern: bool = option(
        True,
        "Fit one regression per pattern of modalities, or one with all modalities for all items.",
    )
    fit_weights: bool = option(
        True, "Fit the weights of a pattern's modalities (mu), or weight them equally."
    )


KEEP = Method(
    name="keep",
    title="KEEP",
    options=KeepOptions,
    compare="none",  # erm is not an ablation of KEEP.
    learner="milk_recsys.methods.keep.model:keep_learner",
    model="milk_recsys.methods.keep.model:Keep",
    scorer="milk_recsys.methods.keep.scoring:scoring_model",
    without=("negatives", "features", "scale_features", "scale_before_impute", "norm_floor"),
    distributed=True,
    space={},  # It chooses its options on the training items.
    search_seed=22,
)
