"""What each baseline lets one choose: one frozen dataclass each, defaults first. No torch here.

A name that `milk_recsys.config.options.Options` has too (``lr``, ``batch_size``) takes its place for that baseline.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["BASELINES", "LOOP", "NEEDS_FACTORS", "UNTRAINED", "FactorOptions", "check_own"]


def _option(default: Any, text: str, low: float = 0, high: float = math.inf, *, above: bool = False) -> Any:
    """A field with its help text and the numbers that it may be: from `low` (or above it) to `high`."""
    return dataclasses.field(default=default, metadata={"help": text, "low": low, "high": high, "above": above})


def _lr(default: float, text: str = "Learning rate.") -> Any:
    return _option(default, text, above=True)


def _count(default: int, text: str) -> Any:
    return _option(default, text, 1)


@dataclasses.dataclass(frozen=True)
class FactorOptions:
    """Of the matrix factorisation behind frozen user and item vectors."""

    factor_lr: float = _lr(5e-3, "Learning rate of the matrix factorisation (Adam).")
    factor_l2: float = _option(1e-3, "Weight of its squared norms, mean over triples.")
    factor_epochs: int = _count(200, "Its most epochs; 5% of the training pairs, held out, stop it early.")
    factor_batch_size: int = _count(2048, "Training pairs in one of its batches.")


@dataclasses.dataclass(frozen=True)
class ContentKnnOptions:
    """Nothing to choose."""


@dataclasses.dataclass(frozen=True)
class RandomOptions:
    """Nothing to choose."""


@dataclasses.dataclass(frozen=True)
class DuifOptions:
    """Of DUIF."""

    lr: float = _lr(1e-3)
    l2: float = _option(1e-4, "Weight of the squared norms of a batch's vectors, mean over triples.")
    batch_size: int = _count(2048, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class MicroOptions:
    """Of MICRO."""

    lr: float = _lr(5e-4)
    l2: float = _option(1e-5, "Weight of half the squared norms of a batch's vectors, mean over triples.")
    contrast_weight: float = _option(0.03, "Weight of the contrast between fused and single modalities.")
    tau: float = _option(0.5, "Temperature of the contrast.", above=True)
    neighbours: int = _count(10, "Edges of each item in a modality's graph, itself included.")
    fixed_share: float = _option(0.9, "Share of the fixed graph; the rest is the learned one's.", 0, 1)
    layers: int = _option(2, "Hops on the graph of users and items.")
    contrast_items: int = _count(128, "Items contrasted in a step, drawn anew; all where there are no more.")
    batch_size: int = _count(1024, "Distinct users in a batch.")


@dataclasses.dataclass(frozen=True)
class DropoutNetOptions(FactorOptions):
    """Of DropoutNet."""

    lr: float = _lr(1e-3, "Learning rate of SGD with momentum .9.")
    dropout: float = _option(
        0.5, "Share of a batch's pairs that lose their item's vector, and of those that lose their user's.", 0, 1
    )
    hidden: int = _count(200, "Width of the one hidden layer of each tower.")
    targets: int = _count(25, "Items a user is trained on in an epoch: so many of the best, and so many at random.")
    group_size: int = _count(100, "Users whose pairs are shuffled together.")
    decay_groups: int = _count(400, "Groups after which the learning rate falls to a tenth.")
    batch_size: int = _count(250, "Pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class MtprOptions:
    """Of MTPR."""

    embedding_lr: float = _lr(1e-2, "Learning rate of users and items (Adagrad).")
    lr: float = _lr(1e-2, "Learning rate of the maps (Adam).")
    embedding_decay: float = _option(0.0, "Weight of squared norms of a batch's users and items, sum of a batch.")
    decay: float = _option(1e-2, "Weight of the squared norms of the maps, sum of a batch.")
    batch_size: int = _count(512, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class HeaterOptions(FactorOptions):
    """Of Heater."""

    lr: float = _lr(5e-3, "Learning rate of SGD with momentum .9.")
    lr_decay: float = _option(0.8, "What the learning rate is multiplied with ...", 0, 1, above=True)
    decay_epochs: int = _count(10, "... after so many epochs.")
    similarity_weight: float = _option(
        0.1, "Weight of the squared distance of content and item vector, mean over pairs."
    )
    l2: float = _option(1e-4, "Weight of the sum of squares of all weights and biases.")
    dropout: float = _option(0.5, "Share of a batch's pairs whose item is its content.", 0, 1)
    experts: int = _count(5, "Experts.")
    num_negatives: int = _count(5, "Negatives of each positive.")
    batch_size: int = _count(1024, "Pairs in a batch, positive and negative.")


@dataclasses.dataclass(frozen=True)
class ClcrecOptions:
    """Of CLCRec."""

    lr: float = _lr(2e-3)
    num_negatives: int = _count(128, "Negatives of each positive.")
    tau: float = _option(0.5, "Temperature of both contrasts.", above=True)
    content_share: float = _option(
        0.5, "Share of the contrast between items and content; the rest is that between users and items.", 0, 1
    )
    replaced: float = _option(
        0.5, "Candidate rows drawn to take content for their vector, as a share of a batch's.", 0, 1
    )
    norm_weight: float = _option(0.1, "Weight of the norms of a batch's vectors.")
    hidden: int = _count(256, "Width of the encoder's hidden layer.")
    batch_size: int = _count(512, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class CcfcrecOptions:
    """Of CCFCRec."""

    lr: float = _lr(1e-3)
    contrast_share: float = _option(0.6, "Share of the contrasts; the rest is that of the two rankings.", 0, 1)
    tau: float = _option(0.1, "Temperature of the contrasts.", above=True)
    num_positives: int = _count(5, "Items of the user that an item is contrasted with.")
    num_negatives: int = _count(40, "Negatives of each of them.")
    weight_decay: float = _option(1e-4, "Coupled weight decay, beside a mean over the batch.")
    batch_size: int = _count(1024, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class GarOptions(FactorOptions):
    """Of GAR."""

    lr: float = _lr(1e-3, "Learning rate of both networks (Adam).")
    similarity_share: float = _option(
        0.5, "Share of the generator's loss that is the distance to the item vectors (the paper's alpha).", 0, 1
    )
    real_share: float = _option(0.9, "Weight of real negatives in the discriminator's loss (the paper's beta).", 0, 1)
    l2: float = _option(1e-3, "Weight of half the sum of squares of the kernels.")
    hidden: int = _count(200, "Width of the hidden layers.")
    batch_size: int = _count(1024, "Triples in a batch.")


@dataclasses.dataclass(frozen=True)
class GorecOptions(FactorOptions):
    """Of GoRec."""

    lr: float = _lr(1e-3)
    uniformity_weight: float = _option(0.1, "Weight of the uniformity of the latent means.")
    kl_weight: float = _option(1e-2, "Weight of the divergence from the prior.")
    cluster_items: int = _count(10, "Items in a cluster, on average.")
    dropout: float = _option(0.3, "Dropout of the decoder's content.", 0, 1)
    batch_size: int = _count(256, "Items in a batch.")


@dataclasses.dataclass(frozen=True)
class KnnOptions:
    """Of kNN."""

    neighbours: int = _option(50, "Warm items that a new one is near to, of each modality; 0: all.")


@dataclasses.dataclass(frozen=True)
class MarecOptions:
    """Of MARec's closed form."""

    neighbours: int = _option(50, "Warm items that a new one is near to, of each modality; 0: all.")
    smoothing: float = _option(100.0, "Strength of the kernel ridge over users (lambda).", above=True)


@dataclasses.dataclass(frozen=True)
class RidgeOptions:
    """Of the ridge regression for each pattern of modalities."""

    ridge: float = _option(3.0, "Strength of the regression on content (l).", above=True)
    smoothing: float = _option(100.0, "Strength of the kernel ridge over users (lambda); 0: none.")


@dataclasses.dataclass(frozen=True)
class KeepOptions:
    """Of KEEP."""

    width: float = _option(1.0, "How fast likeness falls with the angle (gamma).", above=True)
    ridge: float = _option(1.0, "Strength of the regression on content (l).", above=True)
    shrinkage: float = _option(1.0, "Strength of the shrinkage, in means of the 50 largest squared singular values.")
    popularity: float = _option(0.25, "Power of the counts of users and items that their pairs are divided by (b).")
    rank: int = _count(2048, "Singular vectors of users and items, at most.")
    landmarks: int = _count(4096, "Warm items that span the kernel where there are more than 10,000; else all do.")
    per_pattern: bool = _option(True, "A regression for each pattern of modalities; or that of all of them for all.")
    fit_weights: bool = _option(True, "Fit how much each modality of a pattern counts (mu); or let all count alike.")


@dataclasses.dataclass(frozen=True)
class SibrarOptions:
    """Of SiBraR."""

    lr: float = _lr(1e-3)
    weight_decay: float = _option(1e-4, "Weight decay (AdamW).")
    num_negatives: int = _count(10, "Negatives of each positive.")
    contrast_weight: float = _option(1e-5, "Weight of the contrast between the two modalities drawn; 0: one is drawn.")
    tau: float = _option(0.5, "Temperature of the contrast.", above=True)
    width: int = _count(128, "Width of the maps and of the branch.")
    layers: int = _count(2, "Linear layers of the branch.")
    batch_size: int = _count(256, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class I3mrecOptions:
    """Of I3-MRec."""

    lr: float = _lr(1e-3)
    penalty_weight: float = _option(100.0, "Weight of the variance of the modalities' risks.")
    contrast_weight: float = _option(1e-3, "Weight of the contrast between views under two masks.")
    bottleneck_weight: float = _option(1e-5, "Weight of the bound on what a view tells of its modalities.")
    tau: float = _option(0.4, "Temperature of the contrast.", above=True)
    dropout: float = _option(0.1, "Dropout before the mixing matrix.", 0, 1)
    l2: float = _option(1e-3, "Weight of half the squared norms of a batch's vectors, mean over triples.")
    contrast_items: int = _count(256, "Items of a batch that are contrasted.")
    batch_size: int = _count(2048, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class DgmrecOptions:
    """Of DGMRec."""

    lr: float = _lr(1e-3)
    contrast_weight: float = _option(1e-2, "Weight of the contrasts.")
    tau_general: float = _option(0.3, "Temperature between modalities' shared parts.", above=True)
    tau: float = _option(0.15, "Temperature of the other contrasts.", above=True)
    translation_weight: float = _option(0.5, "Weight of translating one modality's shared part from the others'.")
    l2: float = _option(1e-5, "Weight of half the squared norms of a batch's vectors, mean over triples.")
    fused_l2: float = _option(1e-1, "The same of their content.")
    neighbours: int = _count(10, "Edges of each item in a modality's graph, itself included.")
    layers: int = _count(1, "Hops on these graphs.")
    contrast_pairs: int = _count(512, "Pairs of a batch that are contrasted.")
    batch_size: int = _count(2048, "Training pairs in a batch.")


@dataclasses.dataclass(frozen=True)
class AldiOptions(FactorOptions):
    """Of ALDI."""

    lr: float = _lr(1e-3)
    ranking_weight: float = _option(0.9, "Weight of the teacher's rankings (the paper's alpha).")
    identification_weight: float = _option(0.05, "Weight of the teacher's placing of items (its beta).")
    rating_weight: float = _option(0.1, "Weight of the distance to the teacher's scores (its gamma).")
    l2: float = _option(1e-4, "Weight of half the sum of squares of the kernels.")
    hidden: int = _count(200, "Width of the hidden layers.")
    batch_size: int = _count(1024, "Triples in a batch.")


BASELINES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "duif": DuifOptions,
        "micro": MicroOptions,
        "dropoutnet": DropoutNetOptions,
        "mtpr": MtprOptions,
        "heater": HeaterOptions,
        "clcrec": ClcrecOptions,
        "ccfcrec": CcfcrecOptions,
        "gar": GarOptions,
        "gorec": GorecOptions,
        "content_knn": ContentKnnOptions,
        "random": RandomOptions,
        "knn": KnnOptions,
        "marec": MarecOptions,
        "ridge": RidgeOptions,
        "sibrar": SibrarOptions,
        "i3mrec": I3mrecOptions,
        "dgmrec": DgmrecOptions,
        "aldi": AldiOptions,
        "keep": KeepOptions,
    }
)
"""The options of each baseline, by its name on the command line."""

LOOP: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "duif": {"epochs": 300, "eval_every": 10, "patience": 3},
        "micro": {"epochs": 30, "eval_every": 1, "patience": 5},
        "dropoutnet": {"epochs": 20, "eval_every": 1, "patience": 5},
        "mtpr": {"epochs": 100, "eval_every": 5, "patience": 3},
        "heater": {"epochs": 20, "eval_every": 1, "patience": 5},
        "clcrec": {"epochs": 30, "eval_every": 1, "patience": 5},
        "ccfcrec": {"epochs": 50, "eval_every": 2, "patience": 5},
        "gar": {"epochs": 30, "eval_every": 1, "patience": 5},
        "gorec": {"epochs": 500, "eval_every": 10, "patience": 3},
        "sibrar": {"epochs": 30, "eval_every": 1, "patience": 5},
        "i3mrec": {"epochs": 100, "eval_every": 2, "patience": 5},
        "dgmrec": {"epochs": 100, "eval_every": 2, "patience": 5},
        "aldi": {"epochs": 30, "eval_every": 1, "patience": 5},
    }
)
"""Defaults of a baseline's loop, where it has one: an epoch of one does many times the work of an epoch of another."""

NEEDS_FACTORS = frozenset(name for name, kind in BASELINES.items() if issubclass(kind, FactorOptions))
UNTRAINED = frozenset(BASELINES) - frozenset(LOOP)


def check_own(own: Any) -> str | None:
    """Say which option of a baseline is out of its range, or None."""
    for field in dataclasses.fields(own):
        value, low, high = getattr(own, field.name), field.metadata["low"], field.metadata["high"]
        if field.type is bool:
            if type(value) is not bool:
                return f"--{field.name.replace('_', '-')} must be true or false, got {value!r}."
            continue
        kind = "whole number" if field.type is int else "number"
        if type(value) not in ((int,) if field.type is int else (int, float)):
            return f"--{field.name.replace('_', '-')} must be a {kind}, got {value!r}."
        inside = (low < value if field.metadata["above"] else low <= value) and value <= high and math.isfinite(value)
        if not inside:
            least = f"above {low:g}" if field.metadata["above"] else f"at least {low:g}"
            most = "" if high == math.inf else f" and at most {high:g}"
            return f"--{field.name.replace('_', '-')} must be finite, {least}{most}, got {value}."
    return None
