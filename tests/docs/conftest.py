"""Makes docs/figures.py importable."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
sys.path.append(str(Path(__file__).parents[2] / "docs"))
