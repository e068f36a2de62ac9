"""Data sets: readers, importers, splits, tables as tensors, preparation of features."""
