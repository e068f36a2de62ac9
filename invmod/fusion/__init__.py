"""Fusion: from z (N, M, ...), what each modality says, to one representation per sample."""

from invmod.fusion.linear import fuse

__all__ = ["fuse"]
