"""The report in a real browser: whole at both widths, nothing fetched, contrast and labels.

The tests need an installed Chromium. That of contrast and labels needs axe-core as well: the
package of the extra `browser`, or the file that INVMOD_AXE names (axe.min.js of npm's axe-core).
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milk_recsys.config.options import Options
from milk_recsys.report.page import write_report
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from tests.recsys.report.chromium import Tab, find_chromium, open_chromium
from tests.recsys.report.shop import write_shop
from tests.recsys.report.test_report import compared, plausible, write_run

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt install chromium"),
]
WIDTHS = (1280, 390)

WIDE = """
[...document.querySelectorAll("body *")].filter(e => {
  const inside = e.getBoundingClientRect().right <= document.documentElement.clientWidth + 0.5;
  const whole = getComputedStyle(e).display == "inline" || e.scrollWidth <= e.clientWidth + 1;
  return !(inside && whole);
}).map(e => e.tagName + ": " + e.textContent.trim().slice(0, 60))
"""
# Numbers and intervals of a cell stand on one line.
WRAPPED = """
[...document.querySelectorAll("td.n")].filter(e => {
  const range = document.createRange();
  range.selectNodeContents(e);
  return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1;
}).map(e => e.textContent)
"""
BROKEN = """
[...document.images].filter(e => !e.complete || e.naturalWidth == 0).map(e => e.alt)
"""
AXE = """
axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}).then(found =>
  found.violations.map(v => v.id + ": " + v.nodes.map(n => n.target.join(" ")).join(", ")))
"""
OPEN = "document.querySelectorAll('details').forEach(e => e.open = true)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with open_chromium(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a shop with names, of MILK with its ablation, and of many long names."""
    from milk_recsys.train import run

    root = tmp_path_factory.mktemp("pages")
    options, dataset = begin.open_run(
        Options.of(data=write_shop(root / "data"), out=root / "shop", compare="none", device="cpu")
    )
    run(options, dataset, Progress(quiet=True))
    long = {f"a_modality_with_quite_a_long_name_{at}": 0.01 * at + 0.1 for at in range(30)}
    return {
        "shop": root / "shop/report.html",
        "ablation": write_report(write_run(root / "ablation", compared())),
        "long": write_report(write_run(root / "long", plausible(long))),
    }


def requests_of(tab: Tab) -> list[str]:
    """Return the addresses that the page asked for, apart from itself and embedded data."""
    asked = [
        params["request"]["url"]
        for method, params in tab.events
        if method == "Network.requestWillBeSent" and params.get("type") != "Document"
    ]
    return [url for url in asked if not url.startswith("data:")]


def faults_of(tab: Tab) -> list[Any]:
    """Return failed requests, errors in the console, and exceptions."""
    kinds = ("Network.loadingFailed", "Runtime.exceptionThrown")
    return [
        (method, params)
        for method, params in tab.events
        if method in kinds
        or (method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["shop", "ablation", "long"])
def test_the_page_is_whole(tab: Tab, pages: dict[str, Path], name: str, width: int) -> None:
    tab.open(pages[name], width=width)
    tab.evaluate(OPEN)
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(WIDE) == []
    assert tab.evaluate(WRAPPED) == []
    assert tab.evaluate(BROKEN) == []
    assert tab.evaluate("document.images.length") >= 1
    assert requests_of(tab) == []
    assert faults_of(tab) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["shop", "ablation"])
def test_contrast_and_labels(tab: Tab, pages: dict[str, Path], name: str, scheme: str) -> None:
    axe = axe_source()
    tab.colours(scheme)
    tab.open(pages[name], width=390)
    tab.evaluate(OPEN)
    tab.evaluate(axe)
    assert tab.evaluate(AXE) == []


def bad_page(folder: Path) -> Path:
    """Write a page with each of the faults."""
    page = folder / "bad.html"
    page.write_text(
        "<!doctype html><html><body><p style='color: #ccc; background: #fff'>pale</p>"
        "<div style='width: 50px; overflow: hidden'><span style='display: block; width: 90px'>"
        "cut</span></div><div style='width: 2000px'>wide</div><img src='none.png' alt='broken'>"
        "<table style='width: 40px'><tr><td class='n'>0.1 to 0.2</td></tr></table></body></html>"
    )
    return page


def test_the_checks_of_the_page_find_faults(tab: Tab, tmp_path: Path) -> None:
    tab.open(bad_page(tmp_path), width=390)
    assert {line.partition(": ")[2] for line in tab.evaluate(WIDE)} >= {"cut", "wide"}
    assert tab.evaluate(WRAPPED) == ["0.1 to 0.2"]
    assert tab.evaluate(BROKEN) == ["broken"]
    assert [url.rpartition("/")[2] for url in requests_of(tab)] == ["none.png"]
    assert faults_of(tab)


def test_the_check_of_contrast_and_labels_finds_faults(tab: Tab, tmp_path: Path) -> None:
    axe = axe_source()
    tab.open(bad_page(tmp_path), width=390)
    tab.evaluate(axe)
    found = {line.partition(":")[0] for line in tab.evaluate(AXE)}
    assert {"color-contrast", "html-has-lang", "document-title"} <= found


def axe_source() -> str:
    """Return the source of axe-core, or skip the test."""
    named = os.environ.get("INVMOD_AXE")
    if named:
        return Path(named).read_text(encoding="utf-8")
    package = importlib.util.find_spec("axe_core_python")
    if package is None or package.origin is None:
        pytest.skip(
            "axe-core is not installed: pip install 'invmod[browser]', or set INVMOD_AXE to "
            "axe.min.js"
        )
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")
