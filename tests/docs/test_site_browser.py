"""No built page is wider than the window, on a desktop and on a phone.

`make docs` builds the pages. Tables, equations and code scroll inside boxes of their own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recsys.report.chromium import Tab, find_chromium, open_chromium

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
CHROMIUM = find_chromium()
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if "_static" not in path.parts
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not PAGES, reason="docs/_build/html is not built: make docs"),
]

# The page's width, and the elements that stand out of it and out of every box that scrolls.
MEASURE = """(() => {
  const width = document.documentElement.clientWidth;
  const scrolls = e => e && (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll("article *")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && box.right > width + 1 && !scrolls(e.parentElement);
  });
  return [document.documentElement.scrollWidth - width,
          wide.slice(0, 3).map(e => `${e.tagName}.${e.className}`)];
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with open_chromium(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_not_wider_than_the_window(tab, page, width):
    tab.open(SITE / page, width=width)
    excess, wide = tab.evaluate(MEASURE)
    assert excess <= 0, f"{page} is {excess} pixels too wide at {width}: {wide}"
    assert wide == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("parts/")])
def test_equations_have_a_size_and_their_fonts(tab, page):
    tab.open(SITE / page, width=390)
    sizes = tab.evaluate(
        "document.fonts.ready.then(() => [...document.querySelectorAll('.katex-html')]"
        ".map(e => e.getBoundingClientRect()).map(box => [box.width, box.height]))"
    )
    assert all(width > 0 and height > 0 for width, height in sizes)
    if sizes:
        assert tab.evaluate("document.fonts.check('16px KaTeX_Math')")


def test_a_wide_table_scrolls_inside_its_box(tab):
    tab.open(SITE / "parts" / "objectives.html", width=390)
    boxes = tab.evaluate(
        "[...document.querySelectorAll('.table-wrapper')].map(e => [e.scrollWidth, e.clientWidth,"
        " getComputedStyle(e).overflowX, getComputedStyle(e).backgroundImage])"
    )
    scrolling = [box for box in boxes if box[0] > box[1]]
    assert scrolling
    for _, _, overflow, background in scrolling:
        assert overflow == "auto"
        assert "linear-gradient" in background  # The shadow is the hint that there is more.
