"""Models, metrics and data shared by the tests of the robustness report."""

import numpy as np
import torch

from invmod.robustness import robustness_report
from tests.strategies import normal, seeded

NAMES = ("text", "image", "audio")


def accuracy(predictions, targets):
    return float(
        (predictions == targets).mean(dtype=float)
        if isinstance(targets, np.ndarray)
        else (predictions == targets).double().mean()
    )


def right(predictions, targets):
    return (predictions == targets).double()


def mean(predictions, _targets):
    return float(predictions.double().mean())


def made_up(n=60, names=NAMES, seed=0):
    """Features that all contain the sign of the target plus noise, and the targets."""
    generator = seeded(seed)
    targets = torch.randint(2, (n,), generator=generator)
    signal = (2.0 * targets - 1)[:, None]
    return {name: signal + 0.8 * normal(generator, n, 2) for name in names}, targets


def by_mean(features, mask):
    """Predict by the mean of the available modalities."""
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    z = torch.where(mask, z, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return (z > 0).long()


def by_first(features, mask):
    """Predict by the first modality, without using the mask."""
    return (next(iter(features.values())).nan_to_num().mean(dim=1) > 0).long()


def quick(predict=by_mean, features=None, targets=None, metric=accuracy, **options):
    made, truth = made_up()
    features = made if features is None else features
    targets = truth if targets is None else targets
    options = {"rates": (), "num_resamples": 0, "generator": seeded(0)} | options
    return robustness_report(predict, features, targets, metric, **options)
