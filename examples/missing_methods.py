"""Configurations of the trained methods of examples/missing_study.py, and their training.

The methods differ in the loss of a training step: examples/missing_losses.py. The kernel
regressions, which are fitted in closed form, are in examples/missing_kernels.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from invmod.fusion import ProxyTokens
from invmod.missingness import mask_from_features
from missing_losses import EMBEDDING_DIM, LOSSES, Classifier, PPCAFill, Step

__all__ = ["METHODS", "Problem", "Trained", "accuracy", "balanced_accuracy", "train"]

LEARNING_RATE = 3e-3
BATCH_SIZE = 100
PPCA_EPOCHS = 5  # number of epochs without a fill, and between two fits

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
    "two masks": [{"rate": r} for r in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)],
    "more-versus-fewer": [
        {"rate": r, "ranking": w} for r, w in product((0.2, 0.5, 0.8), (0.1, 0.5))
    ],
    "singular values": [
        {"temperature": t, "singular": w} for t, w in product((0.1, 1.0), (0.01, 0.1, 1.0))
    ],
    "PPCA": [
        {"rate": r, "components": k, "singular": 0.1} for r, k in product((0.2, 0.5, 0.8), (16, 64))
    ],
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
        encoder: makes the encoder of a modality from its width D_m; None: a multilayer perceptron.
    """

    name: str
    features: dict[str, Tensor]
    targets: Tensor
    split: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    metric: Callable[[Tensor, Tensor], float]
    epochs: int
    encoder: Callable[[int], nn.Module] | None = None


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of correct predictions."""
    return (predictions == targets).double().mean().item()


def balanced_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Mean over the classes in `targets` of the share of correct predictions."""
    classes = targets.unique()
    return float(
        np.mean([(predictions[targets == c] == c).double().mean().item() for c in classes])
    )


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A trained classifier: a function from features and mask to probabilities of classes (N, C).

    Arguments:
        model: the classifier.
        moments: modality name -> mean and standard deviation (D_m,) of the training rows.
    """

    model: Classifier
    moments: Mapping[str, tuple[Tensor, Tensor]]

    @torch.no_grad()
    def __call__(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return probabilities of classes (N, C)."""
        return self.model(self._scaled(features), mask).softmax(dim=1)

    @torch.no_grad()
    def embeddings(self, features: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Return modality name -> embeddings (N, D)."""
        z = self.model.encoders(self._scaled(features), mask)
        return dict(zip(features, z.unbind(dim=1), strict=True))

    def _scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: standardised(x, *self.moments[name]) for name, x in features.items()}


def standardised(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Subtract the mean, and divide by the standard deviation."""
    return (x - mean) / deviation


def train(problem: Problem, method: str, config: Mapping[str, float], seed: int) -> Trained:
    """Train on the training rows of a split.

    Features are standardised with mean and standard deviation of the available training rows.
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
        scaled[name] = standardised(x, *moments[name])

    generator = torch.Generator().manual_seed(seed)
    # Layers draw their initial weights from the global generator, whose state is restored
    # afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(
            {name: x.shape[1] for name, x in scaled.items()},
            int(problem.targets.max()) + 1,
            problem.encoder,
        )
        if method == "proxies":
            model.fill = ProxyTokens(len(names), EMBEDDING_DIM)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=config.get("weight_decay", 1e-4)
    )
    for epoch in range(problem.epochs):
        if method == "PPCA" and epoch and epoch % PPCA_EPOCHS == 0:
            model.fill = fitted_fill(model, scaled, mask, rows, int(config["components"]))
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH_SIZE):
            x = {name: values[batch] for name, values in scaled.items()}
            step = Step(model, config, x, mask[batch], problem.targets[batch], generator)
            loss = LOSSES[method](step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    if method == "PPCA":
        model.fill = fitted_fill(model, scaled, mask, rows, int(config["components"]))
    model.eval()
    return Trained(model, moments)


def fitted_fill(
    model: Classifier,
    features: Mapping[str, Tensor],
    mask: Tensor,
    rows: Tensor,
    num_components: int,
) -> PPCAFill:
    """Fit probabilistic PCA to the embeddings of the training rows."""
    with torch.no_grad():
        z = model.encoders({name: x[rows] for name, x in features.items()}, mask[rows])
    return PPCAFill(z, mask[rows], num_components)
