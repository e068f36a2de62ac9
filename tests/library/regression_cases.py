"""Problems and models shared by the tests of `PatternKernelRidge`."""

import torch

from invmod.regression import PatternKernelRidge
from tests.strategies import seeded

NAMES = ("a", "b", "c")
F64 = torch.float64


def problem(n=40, seed=0, *, hidden=0.3, outputs=2):
    """Rows of three modalities, some of them missing, and targets that depend on all three."""
    g = seeded(seed)
    x = {
        name: torch.randn(n, 2 + m, generator=g, dtype=F64) * 3**m + m
        for m, name in enumerate(NAMES)
    }
    y = sum(torch.tanh((v - v.mean(0)) / v.std(0)).sum(1, keepdim=True) for v in x.values())
    y = y * torch.tensor([[1.0, -2.0, 0.5][:outputs]], dtype=F64)
    y = y + 0.1 * torch.randn(y.shape, generator=g, dtype=F64)
    mask = torch.rand(n, 3, generator=g) >= hidden
    mask[0] = True
    return x, y, mask


def hide(x, mask, value):
    """Return the features with `value` in hidden cells."""
    return {
        name: torch.where(mask[:, [m]], v, torch.full_like(v, value))
        for m, (name, v) in enumerate(x.items())
    }


def small_model(modalities=NAMES, **options):
    """A model without choices, so that fits of different rows have equal options."""
    given = {"kernel": "gaussian", "width": 0.5, "weights": "equal", "ridge": 0.3}
    return PatternKernelRidge(modalities, **{**given, "standardize": False, **options})
