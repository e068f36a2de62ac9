"""Fusion: from what each modality says to one representation, by what is there."""

from invmod.fusion.learned import AttentionFusion, GatedFusion
from invmod.fusion.linear import fuse
from invmod.fusion.masked import Gaussian, masked_mean, product_of_experts

__all__ = [
    "AttentionFusion",
    "GatedFusion",
    "Gaussian",
    "fuse",
    "masked_mean",
    "product_of_experts",
]
