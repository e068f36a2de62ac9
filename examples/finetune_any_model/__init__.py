"""A complete-data model of your own made robust to missing modalities in a few lines, in PyTorch and in Lightning."""
