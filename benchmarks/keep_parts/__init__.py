"""Parts that KEEP does not have, measured; see `parts.py`."""
