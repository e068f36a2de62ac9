"""Fusion: combine the available modalities of a sample into one representation."""

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
