"""Makes docs/figures.py importable."""

import matplotlib as mpl

mpl.use("agg")
