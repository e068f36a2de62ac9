"""Matplotlib draws without a display, for docs/figures.py and docs/known_answers.py."""

import matplotlib as mpl

mpl.use("agg")
