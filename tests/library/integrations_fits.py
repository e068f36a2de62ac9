"""Data, a network and the expected report of the fits in the tests of the callbacks."""

import random

import numpy as np
import torch
from torch import nn

from invmod.integrations.states import evaluation_mode
from invmod.robustness import robustness_report


def data(num_rows=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, (num_rows,), generator=generator)
    signal = (2.0 * targets - 1)[:, None]
    features = {
        "image": signal + 0.3 * torch.randn(num_rows, 3, generator=generator),
        "text": signal + 2 * torch.randn(num_rows, 2, generator=generator),
    }
    return features, targets


def accuracy(predictions, targets):
    return (predictions == targets).double().mean().item()


class Net(nn.Module):
    """A classifier of both modalities with everything that a report must leave as it was."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, image, text):
        x = torch.cat([image.nan_to_num(), text.nan_to_num()], dim=1)
        return self.head(self.frozen(self.encoder(x)))


def classes(model, features, mask):
    """Predictions; everything that a report must see or protect is checked here."""
    net = getattr(model, "net", model)
    assert not any(module.training for module in net.modules())
    assert not torch.is_grad_enabled()
    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    return net(features["image"], features["text"]).argmax(dim=1)


def expected_report(net, **options):
    features, targets = data(seed=1)
    with evaluation_mode(net):
        return robustness_report(
            lambda features, mask: net(features["image"], features["text"]).argmax(dim=1),
            features,
            targets,
            accuracy,
            generator=torch.Generator().manual_seed(0),
            **{"rates": (0.0, 0.25, 0.5, 0.75), "num_resamples": 0, **options},
        )
