"""Alignment losses: pull the modalities (or masked views) of a sample together."""

from invmod.alignment.by_id import stack_by_id
from invmod.alignment.contrastive import infonce_alignment_loss
from invmod.alignment.cosine import cosine_alignment_loss
from invmod.alignment.covariance import coral_alignment_loss
from invmod.alignment.pairwise import pairwise_alignment_loss
from invmod.alignment.singular_values import singular_value_alignment_loss

__all__ = [
    "coral_alignment_loss",
    "cosine_alignment_loss",
    "infonce_alignment_loss",
    "pairwise_alignment_loss",
    "singular_value_alignment_loss",
    "stack_by_id",
]
