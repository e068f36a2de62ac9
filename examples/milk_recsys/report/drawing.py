"""Style and helpers of the pictures of a run."""

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = [
    "MODEL_COLOUR",
    "RIVAL_COLOUR",
    "STYLE",
    "WIDTH",
    "escaped",
    "layout",
    "png",
    "short",
]

DPI = 180
# Inches. A phone shows this width at a third of its size, and letters remain readable.
WIDTH = 6.0
# Blue and orange of Okabe and Ito differ for people with any colour vision, and in greyscale.
MODEL_COLOUR, RIVAL_COLOUR = "#0072B2", "#E69F00"
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


def layout() -> ConstrainedLayoutEngine:
    """Return the layout of a figure, with its margins."""
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches


def short(name: str, max_length: int = 24) -> str:
    """Return a name, cut to `max_length` characters with an ellipsis if it is longer."""
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def escaped(text: str) -> str:
    """Escape the dollar signs of a text, which matplotlib would read as a formula."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    from invmod.robustness.document import figure_png  # `invmod` imports torch: see page.py.

    return figure_png(figure, dpi=DPI)
