"""The training methods that examples/missing_study.py compares.

All methods train the same classifier: one encoder per modality, the mean of the available
embeddings, a linear head. They differ in the loss of a training step, one function per method in
`LOSSES`, and some also fill missing embeddings. Each function is composed of parts of invmod:

    ERM           loss on samples as they are
    dropout       loss under a random subset of modalities for each sample
    alignment     loss of ERM, plus an alignment loss, which pulls a sample's embeddings together
    environments  mean loss over cyclic-mixup environments
    V-REx         mean loss over environments, plus its variance (MILK without alignment)
    MILK          mean loss over environments, plus its variance, plus the alignment loss
    masks, V-REx  like V-REx, with masks (one modality left, one missing) instead of mixup weights
    EmbraceNet    like dropout, and each coordinate of the mean is that of one random modality
    proxies       like dropout, and missing embeddings are predicted from the available ones
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invmod.alignment import pairwise_alignment_loss
from invmod.encoders import ModalityEncoders
from invmod.environments import (
    CyclicMixupEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    RandomSubsetEnvs,
    UnionEnvs,
)
from invmod.fusion import EmbraceNetFusion, ProxyTokens, fuse, masked_mean
from invmod.missingness import mask_from_features
from invmod.objectives import invariant_objective
from invmod.penalties import vrex_penalty

__all__ = ["METHODS", "Problem", "accuracy", "balanced_accuracy", "train"]

EMBEDDING_DIM = 32
LEARNING_RATE = 3e-3
BATCH_SIZE = 100

METHODS: dict[str, list[dict[str, float]]] = {
    "ERM": [{"weight_decay": w} for w in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)],
    "dropout": [{"rate": r} for r in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)],
    "alignment": [{"alignment": w} for w in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)],
    "environments": [{"alpha": a} for a in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)],
    "V-REx": [{"alpha": a, "penalty": b} for a, b in product((0.1, 1.0), (0.1, 1.0, 10.0))],
    "MILK": [
        {"alpha": 0.1, "penalty": b, "alignment": w}
        for b, w in product((0.1, 1.0), (0.003, 0.01, 0.03))
    ],
    "masks, V-REx": [{"penalty": b} for b in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)],
    "EmbraceNet": [{"rate": r} for r in (0.0, 0.2, 0.35, 0.5, 0.65, 0.8)],
    # The paper's weight is 0.2; its loss is a mean over the 32 coordinates, and ours is a sum.
    "proxies": [{"rate": r, "weight": w} for r, w in product((0.2, 0.5, 0.8), (0.002, 0.02))],
}


@dataclass(frozen=True)
class Problem:
    """A classification problem with several modalities.

    Arguments:
        name: name of the data set.
        features: modality name -> float32 (N, D_m), NaN where missing.
        targets: int64 (N,), the class of each sample.
        split: maps a seed to training, validation and test rows.
        metric: maps predictions and targets to a number; higher is better.
        epochs: number of epochs of every run.
    """

    name: str
    features: dict[str, Tensor]
    targets: Tensor
    split: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    metric: Callable[[Tensor, Tensor], float]
    epochs: int


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of correct predictions."""
    return (predictions == targets).double().mean().item()


def balanced_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Mean over the classes in `targets` of the share of correct predictions."""
    classes = targets.unique()
    return float(
        np.mean([(predictions[targets == c] == c).double().mean().item() for c in classes])
    )


# --- the model ------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """One encoder per modality, fusion by a mean, and a linear head.

    Some methods set `fill`, which takes embeddings (N, M, D) and a mask, and returns filled
    embeddings and the mask of those that may be used. Else missing ones are left out of the mean.
    """

    def __init__(self, dims: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.encoders = ModalityEncoders.mlp(dict(dims), embedding_dim=EMBEDDING_DIM)
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
    "EmbraceNet": embrace_loss,
    "proxies": proxies_loss,
}


# --- training -------------------------------------------------------------------------------------


def train(
    problem: Problem, method: str, config: Mapping[str, float], seed: int
) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """Train on the training rows of a split.

    Features are standardised with mean and standard deviation of the available training rows.

    Returns:
        a function from features and mask to probabilities of classes (N, C).
    """
    names = tuple(problem.features)
    mask = mask_from_features(problem.features, names)
    rows = problem.split(seed)[0]
    scaled, moments = {}, {}
    for index, (name, x) in enumerate(problem.features.items()):
        available = x[rows[mask[rows, index]]]
        # A constant column has a standard deviation of 0 (or 1e-17), by which nothing can be
        # divided.
        moments[name] = available.mean(dim=0), available.std(dim=0).clamp(min=1e-6)
        scaled[name] = (x - moments[name][0]) / moments[name][1]

    generator = torch.Generator().manual_seed(seed)
    # Layers draw their initial weights from the global generator, whose state is restored
    # afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(
            {name: x.shape[1] for name, x in scaled.items()}, int(problem.targets.max()) + 1
        )
        if method == "proxies":
            model.fill = ProxyTokens(len(names), EMBEDDING_DIM)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=config.get("weight_decay", 1e-4)
    )
    for _ in range(problem.epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH_SIZE):
            x = {name: values[batch] for name, values in scaled.items()}
            step = Step(model, config, x, mask[batch], problem.targets[batch], generator)
            loss = LOSSES[method](step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()

    def predict(features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        x = {
            name: (values - moments[name][0]) / moments[name][1]
            for name, values in features.items()
        }
        with torch.no_grad():
            return model(x, mask).softmax(dim=1)

    return predict
