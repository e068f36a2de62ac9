"""Alignment: draw what two modalities of one sample say towards each other, where both are there."""

from invmod.alignment.pairwise import pairwise_alignment_loss

__all__ = ["pairwise_alignment_loss"]
