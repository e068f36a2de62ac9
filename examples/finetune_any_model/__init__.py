"""Finetuning of a trained model for missing modalities, in PyTorch and in Lightning."""
