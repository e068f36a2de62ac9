"""Equations of the pages: KaTeX renders them, and what it cannot render stops the build."""

import re
from pathlib import Path

import equations
import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "docs" / "_static" / "katex"
DOLLARS = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("tex", [r"\frac{a}{b}", r"\hat z_{nk}", r"\big(K + \lambda I\big)^{-1}"])
@pytest.mark.parametrize("display", [False, True])
def test_an_equation_has_html_and_mathml_without_problems(tex, display):
    html = equations.render(tex, display=display)
    assert ("katex-display" in html) == display
    assert equations.find_problem(html) == ""


def test_the_index_of_a_hatted_letter_stands_behind_it_and_a_quotient_is_a_fraction():
    assert re.search(
        r"<msub><mover.*?</mover>.*?</msub>", equations.render(r"\hat z_{nk}"), re.DOTALL
    )
    assert "<mfrac><mi>a</mi><mi>b</mi></mfrac>" in equations.render(r"\frac{a}{b}")


def test_lines_of_an_equation_are_aligned():
    html = equations.render(r"a &= b \\ &= c", display=True)
    assert html.count("<mtr>") == 2


@pytest.mark.parametrize(
    ("tex", "problem"),
    [
        (r"\frac{a}{", "Unexpected end of input"),
        (r"\unknown", "Undefined control sequence"),
        (r"\frac{}{b}", "an operand of <mfrac> is empty"),
        (r"\sqrt{}", "an operand of <msqrt> is empty"),
        (r"\hat{}", "an operand of <mover> is empty"),
        ("a \u2264 ä", "strict mode"),
    ],
)
def test_a_faulty_equation_is_refused(tex, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        equations.render(tex)


def test_the_style_sheet_names_the_fonts_that_are_there():
    style = (STATIC / "katex.min.css").read_text(encoding="utf-8")
    fonts = {f"fonts/{path.name}" for path in (STATIC / "fonts").iterdir()}
    assert set(re.findall(r"url\((.*?)\)", style)) == fonts
    assert sum(path.stat().st_size for path in STATIC.rglob("*.*")) < 400_000


@pytest.mark.parametrize(
    "page",
    sorted((ROOT / "docs").rglob("*.md"), key=str),
    ids=lambda page: str(page.relative_to(ROOT / "docs")),
)
def test_displayed_equations_of_a_page_render(page):
    text = page.read_text(encoding="utf-8")
    for tex in DOLLARS.findall(text):
        equations.render(tex, display=True)
    rest = CODE.sub("", DOLLARS.sub("", text))
    for tex in re.findall(r"(?<![\\$])\$([^$\n]+)\$(?!\d)", rest):
        equations.render(tex)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "invmod").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_equations_of_docstrings_render(path):
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^( +)\.\. math::\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE):
        equations.render(block[1].strip(), display=True)
    for tex in re.findall(r":math:`([^`]+)`", text):
        equations.render(" ".join(tex.split()))
