"""Kernels of one modality, on rows that are centred and scaled to mean square length 1.

With rows x and y and the width g:

    linear      x'y
    gaussian    exp(-g |x - y|^2 / 2)
    angle       exp(g (cos(x, y) - 1)), which is the Gaussian kernel of rows of length 1

A width of 1 is about as wide as the data: the mean of |x - y|^2 / 2 over pairs of training rows is
1 for the Gaussian kernel, and at most 1 for the angle.
"""

from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor

KernelName = Literal["linear", "gaussian", "angle", "precomputed"]
KERNELS: tuple[KernelName, ...] = get_args(KernelName)


class Kernel(NamedTuple):
    """The kernel of one modality.

    Attributes:
        name: ``"linear"``, ``"gaussian"``, ``"angle"`` or ``"precomputed"``.
        width: g, the factor in the exponent; 0 for kernels that have none.

    Example:
        >>> print(Kernel("gaussian", 0.5), Kernel("linear", 0.0), sep=", ")
        gaussian 0.5, linear
    """

    name: KernelName
    width: float

    def __str__(self) -> str:
        """Return the name, with the width if there is one."""
        return f"{self.name} {self.width:g}" if self.width else self.name


def kernel_between(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Return the kernel between rows x (..., N, d) and y (..., n, d), as (..., N, n)."""
    if kernel.name == "angle":
        x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    products = x @ y.mT
    if kernel.name == "linear":
        return products
    # -|x - y|^2 / 2 = x'y - (|x|^2 + |y|^2) / 2; rounding must not make it positive.
    # Neither `products` nor its multiple is kept for gradients, so both can be written over.
    products -= x.square().sum(dim=-1)[..., None] / 2
    products -= y.square().sum(dim=-1)[..., None, :] / 2
    return products.clamp(max=0).mul_(kernel.width).exp_()
