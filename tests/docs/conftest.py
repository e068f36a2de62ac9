"""Lets docs/figures.py draw without a display."""

import matplotlib as mpl

mpl.use("agg")
