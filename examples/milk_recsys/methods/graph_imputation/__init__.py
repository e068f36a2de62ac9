"""Options of graph imputation and their search space in a study. The equations are in `graph.py`
and `model.py`.
"""

import dataclasses
from typing import Literal

from milk_recsys.config.method import Method, choice, count, log_range, option

DIFFUSIONS = ("neigh_mean", "multi_hop", "pagerank", "heat")


@dataclasses.dataclass(frozen=True)
class GraphImputationOptions:
    """Options of the imputation over a graph of items, and of the regression after it."""

    diffusion: Literal["neigh_mean", "multi_hop", "pagerank", "heat"] = option(
        "neigh_mean",
        "Rows that a missing row is the mean of: the item's neighbours, those within --layers "
        "hops, or those that a random walk with restarts or heat diffusion reaches most.",
    )
    neighbours: int = count(20, "Number of neighbours of an item, the item itself among them (k).")
    layers: int = option(3, "Number of hops of multi_hop.", 1, 100)
    ridge: float = option(
        3.0, "Strength of the ridge penalty of the regression on content (l).", above=True
    )
    smoothing: float = option(
        100.0, "Strength of the kernel ridge over users (lambda); 0: no smoothing."
    )


GRAPH_IMPUTATION = Method(
    name="graph_imputation",
    title="graph imputation",
    options=GraphImputationOptions,
    learner="milk_recsys.methods.learner:closed_form",
    model="milk_recsys.methods.graph_imputation.model:GraphImputation",
    without=("negatives", "features", "scale_before_impute"),
    space={
        "diffusion": choice(*DIFFUSIONS),
        "neighbours": choice(10, 20, 50),
        "ridge": log_range(0.3, 30),
        "smoothing": choice(0.0, 30.0, 100.0, 300.0),
    },
    search_seed=26,
)
