"""Labels of points do not cover each other, nor points, where there is room."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from milk_recsys.study.labels import label_points


@pytest.mark.parametrize("log", [False, True])
def test_labels_of_crowded_points_do_not_overlap(log):
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    places = [(10 ** float(x), float(y)) for x, y in rng.normal(1, 0.25, (25, 2))]
    if log:
        axes.set_xscale("log")
    names = [f"method_{k}" for k in range(25)]
    for x, y in places:
        axes.scatter(x, y, s=25)
    label_points(axes, places, names)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}
    assert list(boxes) == names
    # The width of a letter is an estimate, so a label may touch its neighbour by a pixel or two.
    for (_, a), (_, b) in combinations(boxes.items(), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 2
    for text, (x, y) in zip(axes.texts, places, strict=True):
        assert text.xy == pytest.approx((x, y))
        assert axes.bbox.contains(*boxes[text.get_text()].min)


def test_a_lone_label_stands_to_the_right_without_a_line():
    figure = Figure()
    axes = figure.subplots()
    axes.scatter([0.5], [0.5])
    label_points(axes, [(0.5, 0.5)], ["keep"])
    (text,) = axes.texts
    assert text.get_position()[0] > 0
    assert text.arrow_patch is None
