"""Encoders: one module per modality, with the results stacked to one tensor."""

from invmod.encoders.modules import ModalityEncoders

__all__ = ["ModalityEncoders"]
