"""The classifier and the losses of the methods that examples/missing_study.py compares.

All methods train the same classifier: one encoder per modality, the mean of the available
embeddings, a linear head. They differ in the loss of a training step, one function per method in
`LOSSES`, and two fill missing embeddings. Each function is composed of parts of invmod:

    ERM                loss on samples as they are
    dropout            loss under a random subset of modalities for each sample
    alignment          loss of ERM, plus a loss that pulls a sample's embeddings together
    environments       mean loss over cyclic-mixup environments
    V-REx              mean loss over environments, plus its variance (MILK without alignment)
    MILK               mean loss over environments, plus its variance, plus the alignment loss
    masks, V-REx       like V-REx, with masks (one left, one missing) instead of mixup weights
    two masks          loss on samples as they are, plus the loss under a random subset
    more-versus-fewer  like two masks, plus a ranking loss where more modalities predict worse
    singular values    like alignment, with a loss of the singular values of all embeddings
    PPCA               like dropout, with missing embeddings filled by probabilistic PCA
    EmbraceNet         like dropout, and each coordinate is that of one random modality
    proxies            like dropout, with missing embeddings predicted from the available ones
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invmod.alignment import pairwise_alignment_loss, singular_value_alignment_loss
from invmod.encoders import ModalityEncoders
from invmod.environments import (
    CyclicMixupEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    RandomSubsetEnvs,
    UnionEnvs,
)
from invmod.fusion import EmbraceNetFusion, fuse, masked_mean
from invmod.imputation import PPCAImputer
from invmod.objectives import invariant_objective, more_vs_fewer_loss
from invmod.penalties import vrex_penalty

__all__ = ["LOSSES", "Classifier", "PPCAFill", "Step"]

EMBEDDING_DIM = 32


# --- the model ------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """One encoder per modality, fusion by a mean, and a linear head.

    The encoders are multilayer perceptrons, or modules that `encoder` makes from the width of a
    modality.

    Some methods set `fill`, which takes embeddings (N, M, D) and a mask, and returns filled
    embeddings and the mask of those that may be used. Else missing ones are left out of the mean.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        num_classes: int,
        encoder: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if encoder is None:
            self.encoders = ModalityEncoders.mlp(dict(dims), embedding_dim=EMBEDDING_DIM)
        else:
            self.encoders = ModalityEncoders({name: encoder(d) for name, d in dims.items()})
        self.head = nn.Linear(EMBEDDING_DIM, num_classes)
        self.fill: nn.Module | None = None

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Compute logits (N, C) from the mean of the available or filled embeddings."""
        return self.classify(self.encoders(features, mask), mask)

    def classify(self, z: Tensor, mask: Tensor) -> Tensor:
        """Compute logits (N, C) from embeddings (N, M, D)."""
        if self.fill is not None:
            z, mask = self.fill(z, mask)
        return self.head(masked_mean(z, mask))


class PPCAFill(nn.Module):
    """Fill missing embeddings by probabilistic PCA, without a gradient to its parameters."""

    def __init__(self, z: Tensor, mask: Tensor, num_components: int) -> None:
        super().__init__()
        self.names = tuple(f"m{index}" for index in range(z.shape[1]))
        self.imputer = PPCAImputer(
            self.names,
            num_components=num_components,
            noise="modality",
            standardize=False,
            max_iterations=50,
        ).fit(self._features(z), mask)

    def forward(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return filled embeddings (N, M, D) and the mask of those that may be used."""
        filled, _ = self.imputer(self._features(z), mask)
        fills = torch.stack([filled[name] for name in self.names], dim=1)
        # A row without any modality would be filled with the mean, which says nothing about it.
        usable = mask.any(dim=1, keepdim=True).expand_as(mask)
        return torch.where(mask[..., None], z, fills), usable

    def _features(self, z: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, z.detach().unbind(dim=1), strict=True))


@dataclass(frozen=True)
class Step:
    """What the loss of a training step is computed from.

    Arguments:
        model: the classifier.
        config: a configuration of the method.
        features: the features of a batch, modality name -> (N, D_m).
        mask: (N, M), True where a modality is available.
        targets: (N,), the classes.
        generator: draws masks, weights and modalities.
    """

    model: Classifier
    config: Mapping[str, float]
    features: Mapping[str, Tensor]
    mask: Tensor
    targets: Tensor
    generator: torch.Generator

    def encode(self) -> Tensor:
        """Return the embeddings (N, M, D)."""
        return self.model.encoders(self.features, self.mask)

    def loss(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss of embeddings under a mask."""
        return F.cross_entropy(self.model.classify(z, mask), self.targets)

    def subset(self) -> Tensor:
        """Draw a random subset of the available modalities for each sample, (N, M)."""
        envs = RandomSubsetEnvs(self.mask.shape[1], rates=self.config["rate"])
        keep = envs.sample_masks((len(self.mask),), generator=self.generator)[:, 0] & self.mask
        # A sample whose subset contains none of its available modalities keeps all of them.
        return torch.where(keep.any(dim=1, keepdim=True), keep, self.mask)


# --- the losses -----------------------------------------------------------------------------------


def plain_loss(step: Step) -> Tensor:
    """ERM, with an alignment loss if the configuration has its weight."""
    z = step.encode()
    return step.loss(z, step.mask) + alignment_term(step, z)


def dropout_loss(step: Step) -> Tensor:
    """Hide a random subset of modalities from the encoders and the mean."""
    return F.cross_entropy(step.model(step.features, step.subset()), step.targets)


def environments_loss(step: Step) -> Tensor:
    """Mean and variance over cyclic-mixup environments, and alignment: MILK and its parts."""
    z = step.encode()
    envs = CyclicMixupEnvs(step.mask.shape[1], step.config["alpha"])
    h = fuse(z, envs.sample(generator=step.generator), step.mask)  # (E, N, D)
    risks = torch.stack([F.cross_entropy(step.model.head(h_e), step.targets) for h_e in h])
    loss = invariant_objective(
        risks, penalty=vrex_penalty, penalty_weight=step.config.get("penalty", 0.0)
    )
    return loss + alignment_term(step, z)


def masks_loss(step: Step) -> Tensor:
    """Mean and variance over masks: all modalities, one missing, one left."""
    z, m = step.encode(), step.mask.shape[1]
    # With two modalities "one missing" and "one left" are the same masks.
    envs = UnionEnvs(LeaveOneOutEnvs(m), OneHotEnvs(m)) if m > 2 else OneHotEnvs(m)
    env_masks = [step.mask, *(step.mask & row for row in envs.sample_masks())]
    # A mask may hide all modalities of a sample. Each risk is a mean over the other samples.
    env_rows = [env_mask.any(dim=1) for env_mask in env_masks]
    risks = torch.stack(
        [
            F.cross_entropy(step.model.classify(z[rows], env_mask[rows]), step.targets[rows])
            for env_mask, rows in zip(env_masks, env_rows, strict=True)
            if rows.any()
        ]
    )
    return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=step.config["penalty"])


def alignment_term(step: Step, z: Tensor) -> Tensor:
    """Return the weighted alignment loss, or 0 if the configuration has no weight."""
    if "alignment" not in step.config:
        return z.new_zeros(())
    return step.config["alignment"] * pairwise_alignment_loss(z, step.mask)


def two_masks_loss(step: Step) -> Tensor:
    """Mean loss under two masks, and a ranking loss between them if it has a weight (SimMLM)."""
    z, keep = step.encode(), step.subset()
    more, fewer = (
        F.cross_entropy(step.model.classify(z, mask), step.targets, reduction="none")
        for mask in (step.mask, keep)
    )
    ranking = more_vs_fewer_loss(more, fewer, step.mask, keep)
    return more.mean() + fewer.mean() + step.config.get("ranking", 0.0) * ranking


def singular_values_loss(step: Step) -> Tensor:
    """ERM, with an alignment loss of all modalities of a sample at once."""
    z = step.encode()
    singular = singular_value_alignment_loss(z, step.mask, temperature=step.config["temperature"])
    return step.loss(z, step.mask) + step.config["singular"] * singular


def ppca_loss(step: Step) -> Tensor:
    """Fill hidden embeddings by PPCA, and align the filled ones by their singular values (CalMRL).

    In the first epochs there is no fill, and the hidden embeddings are left out.
    """
    z, keep = step.encode(), step.subset()
    if step.model.fill is not None:
        z, keep = step.model.fill(z, keep)
    singular = singular_value_alignment_loss(z, keep)
    logits = step.model.head(masked_mean(z, keep))
    return F.cross_entropy(logits, step.targets) + step.config["singular"] * singular


def embrace_loss(step: Step) -> Tensor:
    """Each coordinate of the representation is that of one random modality (EmbraceNet).

    In evaluation the mean of the available embeddings is the expectation of these draws.
    """
    keep = step.subset()
    z = step.model.encoders(step.features, keep)
    h = EmbraceNetFusion()(z, keep, generator=step.generator)
    return F.cross_entropy(step.model.head(h), step.targets)


def proxies_loss(step: Step) -> Tensor:
    """Fill hidden embeddings from the others, and align the fills with what they stand for."""
    z = step.encode()
    alignment = step.model.fill.alignment_loss(z, step.mask)
    return step.loss(z, step.subset()) + step.config["weight"] * alignment


LOSSES: dict[str, Callable[[Step], Tensor]] = {
    "ERM": plain_loss,
    "dropout": dropout_loss,
    "alignment": plain_loss,
    "environments": environments_loss,
    "V-REx": environments_loss,
    "MILK": environments_loss,
    "masks, V-REx": masks_loss,
    "two masks": two_masks_loss,
    "more-versus-fewer": two_masks_loss,
    "singular values": singular_values_loss,
    "PPCA": ppca_loss,
    "EmbraceNet": embrace_loss,
    "proxies": proxies_loss,
}
