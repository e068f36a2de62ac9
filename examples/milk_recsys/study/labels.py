"""Labels of the points of a figure, placed so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

__all__ = ["label_points"]

SIZE = 7.0  # of the font, in points
LETTER = 0.62 * SIZE  # mean width of a letter
CLEARANCE = 4.0  # between a point and its label
Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


def label_points(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write a name next to each point, where it covers neither a point nor another name.

    A name that stands farther away has a line to its point. The points must be drawn before.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # fixes the limits and the layout
    scale = 72 / figure.dpi
    points = axes.transData.transform(np.asarray(places)) * scale
    left, bottom, right, top = axes.bbox.extents
    frame: Box = (left * scale, bottom * scale, right * scale, top * scale)
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    for name, place, point in zip(names, places, points, strict=True):
        width, height = LETTER * len(name), SIZE
        free = (
            offset
            for offset in _offsets(width, height)
            if _fits(_box(point, offset, width, height), frame, taken)
        )
        offset = next(free, (CLEARANCE, -height / 2))
        taken.append(_box(point, offset, width, height))
        far = abs(offset[1] + height / 2) > 2 * height
        line = {"arrowstyle": "-", "color": "0.7", "lw": 0.5} if far else None
        axes.annotate(
            name,
            place,
            xytext=offset,
            textcoords="offset points",
            fontsize=SIZE,
            arrowprops=line,
        )


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield places of a label relative to its point, from the nearest to the farthest."""
    for steps in range(8):
        for sign in (1, -1) if steps else (1,):
            y = -height / 2 + sign * steps * height
            yield CLEARANCE, y
            yield -CLEARANCE - width, y
            if steps:
                yield -width / 2, y


def _box(
    point: npt.NDArray[np.float64], offset: tuple[float, float], width: float, height: float
) -> Box:
    left, bottom = float(point[0]) + offset[0], float(point[1]) + offset[1]
    return left, bottom, left + width, bottom + height


def _fits(box: Box, frame: Box, taken: Sequence[Box]) -> bool:
    inside = box[0] > frame[0] and box[1] > frame[1] and box[2] < frame[2] and box[3] < frame[3]
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in taken
    )
