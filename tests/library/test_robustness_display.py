"""Plots and the page of a robustness report, and the deprecated methods."""

import re

import numpy as np
import pytest
from matplotlib import pyplot as plt

from invmod.robustness import (
    plot_patterns,
    plot_rates,
    to_frame,
    write_page,
)
from invmod.robustness.document import figure_png, html_document
from tests.library.robustness_cases import (
    NAMES,
    by_first,
    by_mean,
    made_up,
    quick,
)


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report():
    return quick(
        {"ours": by_mean, "<b>theirs</b>": by_first}, rates=(0.0, 0.5, 0.9), num_resamples=40
    )


def test_the_curves_show_every_point(report):
    figure = plot_rates(report)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == [
        "any modality hidden",
        *(f"{name} hidden" for name in NAMES),
    ]
    for panel, modality in zip(shown, (None, *NAMES), strict=True):
        for line, model in zip(panel.get_lines(), report.models, strict=True):
            points = report.curve(modality, model)
            np.testing.assert_allclose(line.get_xdata(), [point.effective_rate for point in points])
            np.testing.assert_allclose(line.get_ydata(), [point.value for point in points])
        assert len(panel.collections) == 2  # bands
    single = plot_rates(quick(rates=(0.0, 0.5)))
    assert single.axes[0].get_legend() is None
    assert not single.axes[0].collections
    with pytest.raises(KeyError, match="pass `rates`"):
        plot_rates(quick())


@pytest.mark.parametrize("num_modalities", [1, 2, 5, 7])
def test_curves_are_drawn_for_any_number_of_panels(num_modalities):
    features, targets = made_up(20, [f"m{index}" for index in range(num_modalities)])
    figure = plot_rates(
        quick(by_mean, features, targets, rates=(0.0, 0.5), num_draws=1, patterns=[])
    )
    assert sum(panel.get_visible() for panel in figure.axes) == (
        num_modalities + 1 if num_modalities > 1 else 1
    )


def test_the_heat_map_shows_every_value_and_the_available_modalities(report):
    figure = plot_patterns(report)
    dots, heat, _ = figure.axes
    assert [text.get_text() for text in heat.texts] == [
        f"{value:.3f}"
        for a, b in zip(report.results("ours"), report.results("<b>theirs</b>"), strict=True)
        for value in (a.value, b.value)
    ]
    filled = {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() != "white"
        for line in dots.get_lines()
        if line.get_marker() == "o"
    }
    for row, result in enumerate(report.results()):
        assert [filled[column, row] for column in range(3)] == list(result.pattern)
    # All cells have the same value, so the colour range has no width.
    dark = plot_patterns(quick(by_mean, metric=lambda p, t: 0.5, higher_is_better=False))
    assert len(dark.axes[1].texts) == 7


def test_a_heat_map_of_many_patterns_shows_the_complete_one_and_the_worst():
    features, targets = made_up(10, [f"m{index}" for index in range(7)])
    report = quick(by_mean, features, targets)
    figure = plot_patterns(report)
    shown = [float(text.get_text()) for text in figure.axes[1].texts]
    assert len(shown) == 63
    assert shown[0] == pytest.approx(report.complete().value, abs=1e-3)
    assert min(shown) == pytest.approx(report.worst().value, abs=1e-3)


def test_the_page_is_self_contained_and_escapes_names(report, tmp_path):
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert not plt.get_fignums()
    assert "&lt;b&gt;theirs&lt;/b&gt;" in page
    assert "<b>theirs" not in page
    assert page.count("data:image/png;base64,iVBOR") == 2
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "://" not in page
    for result in report.patterns:
        assert f"{result.value:.4f}" in page
    write_page(quick(), tmp_path / "short.html")
    short = (tmp_path / "short.html").read_text(encoding="utf-8")
    assert "Along missing rates" not in short
    assert "Differences" not in short


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (plot_rates, "matplotlib"),
        (plot_patterns, "matplotlib"),
        (to_frame, "polars"),
        (write_page, "jinja2"),
    ],
)
def test_the_error_for_a_missing_package_names_the_extra(
    report, tmp_path, monkeypatch, function, module
):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    arguments = (tmp_path / "page.html",) if function is write_page else ()
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'invmod\[report\]'"):
        function(report, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_deprecated_methods_call_the_functions_and_warn(report, tmp_path):
    for name, function in (("plot_rates", plot_rates), ("plot_patterns", plot_patterns)):
        with pytest.warns(
            DeprecationWarning, match=rf"RobustnessReport.{name}` .*invmod.robustness.{name}"
        ):
            figure = getattr(report, name)()
        assert figure_png(figure) == figure_png(function(report))
    with pytest.warns(
        DeprecationWarning, match=r"RobustnessReport.to_frame` .*invmod.robustness.to_frame"
    ):
        assert report.to_frame().equals(to_frame(report))
    with pytest.warns(
        DeprecationWarning, match=r"RobustnessReport.save_html` .*invmod.robustness.write_page"
    ) as caught:
        report.save_html(tmp_path / "old.html")
    assert caught[0].filename == __file__
    write_page(report, tmp_path / "new.html")
    assert (tmp_path / "old.html").read_bytes() == (tmp_path / "new.html").read_bytes()


def test_a_page_has_a_typographic_minus_before_numbers_but_not_in_names(tmp_path):
    features, targets = made_up(names=("pre-text", "image"))
    report = quick(by_first, features, targets)
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.worst().drop > 0
    assert f"\N{MINUS SIGN}{report.worst().drop:.1%}" in page
    assert "pre-text" in page
    assert "pre\N{MINUS SIGN}text" not in page


def test_a_document_escapes_its_title_and_keeps_its_body():
    page = html_document("<b>", "<p>{braces}</p>", style="p { margin: 0; }\n")
    assert "<title>&lt;b&gt;</title>" in page
    assert "<p>{braces}</p>" in page
    assert "p { margin: 0; }" in page
