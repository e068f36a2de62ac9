"""Recommenders of new items, one file or folder each."""
