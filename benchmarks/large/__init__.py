"""The benchmark of catalogues that are larger than memory; see `__main__.py`."""
