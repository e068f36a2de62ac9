"""Fusion: combine the available modalities of a sample into one representation."""

from invmod.fusion.embrace import EmbraceNetFusion
from invmod.fusion.learned import AttentionFusion, GatedFusion
from invmod.fusion.linear import fuse
from invmod.fusion.masked import Gaussian, masked_mean, product_of_experts
from invmod.fusion.proxies import ProxyTokens

__all__ = [
    "AttentionFusion",
    "EmbraceNetFusion",
    "GatedFusion",
    "Gaussian",
    "ProxyTokens",
    "fuse",
    "masked_mean",
    "product_of_experts",
]
