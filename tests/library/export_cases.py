"""Parts that are exported and compiled by the tests, with the batches that they run on.

The table of docs/parts/export.md lists the same names, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from invmod.encoders import ModalityEncoders
from invmod.fusion import (
    AttentionFusion,
    EmbraceNetFusion,
    GatedFusion,
    ProxyTokens,
    fuse,
    masked_mean,
    product_of_experts,
)
from invmod.imputation import (
    KNNImputer,
    LearnedTokens,
    MeanImputer,
    PPCAImputer,
    RidgeImputer,
    ZeroImputer,
)
from tests.strategies import NAN, normal, random_mask, randomised, seeded

M, D = 3, 4
WIDTHS = {"text": 3, "image": 5, "audio": 2}


class Case(NamedTuple):
    """A part as a module, and a function that makes its arguments for a number of rows."""

    model: nn.Module
    batch: Callable[[int], tuple[Any, ...]]


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class Fuse(nn.Module):
    """`fuse` with the weights (E, M) of fixed environments."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        return fuse(z, self.weights, mask)


class Words(nn.Module):
    """The mean embedding of tokens with an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, D)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        return (self.table(input_ids) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def evaluated(module: nn.Module) -> nn.Module:
    """Return the module in evaluation mode, with random parameters."""
    return randomised(module, seeded(3)).eval()


def holes(num_rows: int) -> Tensor:
    """Draw a mask whose first row has no modality and whose second has all."""
    mask = random_mask(seeded(num_rows), num_rows, M)
    mask[:1], mask[1:2] = False, True
    return mask


def embeddings(num_rows: int, size: int = D) -> tuple[Tensor, Tensor]:
    """Draw z (N, M, size) with NaN in the hidden cells, and its mask."""
    mask = holes(num_rows)
    z = normal(seeded(num_rows + 1), num_rows, M, size, dtype=torch.float32)
    z[~mask] = NAN
    return z, mask


def vectors(num_rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draw one vector per modality, with NaN in the hidden rows, and the mask."""
    mask = holes(num_rows)
    features = {}
    for column, (name, width) in enumerate(WIDTHS.items()):
        x = normal(seeded(num_rows + column), num_rows, width, dtype=torch.float32)
        x[~mask[:, column]] = NAN
        features[name] = x
    return features, mask


def images_and_tokens(num_rows: int) -> tuple[dict[str, Any], Tensor]:
    """Draw a vector, an image, and token ids with an attention mask; hidden ids are invalid."""
    features, mask = vectors(num_rows)
    image = normal(seeded(num_rows), num_rows, 2, 5, 5, dtype=torch.float32)
    ids = torch.randint(0, 9, (num_rows, 6), generator=seeded(num_rows))
    attention = (ids > 2).long()
    image[~mask[:, 1]], ids[~mask[:, 2]] = NAN, -7
    tokens = {"input_ids": ids, "attention_mask": attention}
    return {"text": features["text"], "image": image, "audio": tokens}, mask


def without_audio(num_rows: int) -> tuple[dict[str, Tensor | None], Tensor]:
    """Draw vectors of all modalities but one, which is missing in all rows."""
    features, mask = vectors(num_rows)
    mask[:, 2] = False
    return {**features, "audio": None}, mask


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, D),
    )


class Classifier(nn.Module):
    """A masked classifier: an imputer or none, encoders, a fusion and a linear head.

    With a `Fuse`, there are logits for each environment.
    """

    def __init__(self, encoders: nn.Module, fusion: nn.Module, imputer: Any = None) -> None:
        super().__init__()
        self.imputer, self.encoders, self.fusion = imputer, encoders, fusion
        self.head = nn.Linear(D, 3)

    def forward(self, features: dict[str, Any], mask: Tensor) -> Tensor:
        if self.imputer is not None:
            features, mask = self.imputer(features, mask)
        return self.head(self.fusion(self.encoders(features, mask), mask))


def fitted(kind: type, **options: Any) -> Any:
    features, mask = vectors(20)
    return kind(list(WIDTHS), **options).fit(features, mask)


def weights(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(5)).softmax(dim=-1)


def own_weights(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    z, mask = embeddings(num_rows)
    return z, torch.rand((num_rows, 2, M), generator=seeded(5)).softmax(dim=-1), mask


def scores(num_rows: int) -> tuple[Tensor, Tensor]:
    z, mask = embeddings(num_rows)
    return z[..., 0], mask


def experts(prior: bool) -> Callable[..., Any]:
    return lambda z, mask: tuple(product_of_experts(z, 0.3 * z, mask, prior=prior))


def custom() -> dict[str, nn.Module]:
    return {"text": nn.Linear(3, D), "image": conv(), "audio": Words()}


def linear() -> nn.Module:
    return ModalityEncoders.linear(WIDTHS, D)


def skipping(*layers: Callable[[], nn.Module]) -> nn.Module:
    modules = {
        name: nn.Sequential(nn.Linear(width, D), *(layer() for layer in layers))
        for name, width in WIDTHS.items()
    }
    return ModalityEncoders(modules, skip_missing=True)


def make_cases() -> dict[str, Case]:
    """Build all parts that can be exported, by the first column of docs/parts/export.md."""
    own, skip = ModalityEncoders(custom()), "`ModalityEncoders` with `skip_missing=True`"
    heads = AttentionFusion(M, D, num_heads=2)
    queries = AttentionFusion(M, D, num_heads=2, num_queries=3)
    shapes = {name: (width,) for name, width in WIDTHS.items()}
    ppca = fitted(PPCAImputer, num_components=1)
    parts = {
        "`ModalityEncoders.linear`": (linear(), vectors),
        "`ModalityEncoders.mlp`": (ModalityEncoders.mlp(WIDTHS, D, dropout=0.5), vectors),
        "`ModalityEncoders` of images and tokens": (own, images_and_tokens),
        "`ModalityEncoders` without one of its modalities": (linear(), without_audio),
        f"{skip}, linear maps": (skipping(), vectors),
        "`masked_mean`": (Call(masked_mean), embeddings),
        "`fuse`, weights (E, M)": (Fuse(weights(5, M)), embeddings),
        "`fuse`, weights (N, E, M)": (Call(fuse), own_weights),
        "`fuse`, scores (N, M)": (Fuse(torch.eye(M)), scores),
        "`product_of_experts`": (Call(experts(True)), embeddings),
        "`product_of_experts` without a prior": (Call(experts(False)), embeddings),
        "`GatedFusion`": (GatedFusion(M, D), embeddings),
        "`AttentionFusion`": (heads, embeddings),
        "`AttentionFusion` with several queries": (queries, embeddings),
        "`EmbraceNetFusion` in evaluation mode": (EmbraceNetFusion(), embeddings),
        "`ProxyTokens`": (ProxyTokens(M, D), embeddings),
        "`ZeroImputer`": (fitted(ZeroImputer), vectors),
        "`MeanImputer`": (fitted(MeanImputer), vectors),
        "`LearnedTokens`": (LearnedTokens(shapes), vectors),
        "`LearnedTokens`, one per pattern": (LearnedTokens(shapes, per="pattern"), vectors),
        "`RidgeImputer.linear_maps()`": (fitted(RidgeImputer).linear_maps(), vectors),
        "`PPCAImputer.linear_maps()`": (ppca.linear_maps(), vectors),
        "classifier: encoders, gates, head": (Classifier(linear(), GatedFusion(M, D)), vectors),
        "classifier: imputer, encoders, attention, head": (
            Classifier(linear(), AttentionFusion(M, D), fitted(MeanImputer)),
            vectors,
        ),
        "classifier of images and tokens": (
            Classifier(own, Fuse(weights(4, M))),
            images_and_tokens,
        ),
    }
    return {name: Case(evaluated(model), batch) for name, (model, batch) in parts.items()}


def make_refused() -> dict[str, Case]:
    """Build all parts that cannot be exported, by the first column of docs/parts/export.md."""
    normalised = skipping(lambda: nn.BatchNorm1d(D))
    parts = {
        "`ModalityEncoders` with `skip_missing=True`, batch normalisation": normalised,
        "`KNNImputer`": fitted(KNNImputer),
        "`RidgeImputer`": fitted(RidgeImputer),
        "`PPCAImputer`": fitted(PPCAImputer, num_components=1),
    }
    return {name: Case(model.eval(), vectors) for name, model in parts.items()}
