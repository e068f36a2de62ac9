"""Variants of KEEP's regression, measured; see `parts.py`."""
