"""Equations as HTML, rendered by KaTeX while the pages are built.

The readers' browsers need no scripts and no network: they only load the style sheet and the fonts
in docs/_static/katex. ``docs/katex`` has the version of KaTeX, its script and its licence. An
equation that KaTeX cannot read, or that has an empty operand, stops the build with the page and
the line.
"""

import re
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number

SCRIPT = Path(__file__).parent / "katex" / "katex.min.js"
STYLE = "katex/katex.min.css"
MATHML = "{http://www.w3.org/1998/Math/MathML}"
# Elements of MathML whose children are operands. `{}_a x` has an empty base on purpose, so the
# elements of indices are not among them.
WITH_OPERANDS = ("mfrac", "msqrt", "mroot", "mover", "munder", "munderover")


@cache
def _katex() -> MiniRacer:
    engine = MiniRacer()
    engine.eval(SCRIPT.read_text(encoding="utf-8"))
    return engine


@cache
def render(tex: str, *, display: bool = False) -> str:
    """Return the HTML of an equation, with its MathML for screen readers.

    Raises:
        ValueError: KaTeX cannot read the equation, or one of its operands is empty.
    """
    if display and re.search(r"\\\\|&", tex) and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    options = {"displayMode": display, "throwOnError": True, "strict": "error", "trust": False}
    try:
        html: str = _katex().call("katex.renderToString", tex, options)
    except JSEvalException as error:
        message = str(error).partition("\n")[0].partition("ParseError: ")[2] or str(error)
        raise ValueError(message) from error
    problem = find_problem(html)
    if problem:
        raise ValueError(problem)
    return html


def find_problem(html: str) -> str:
    """Return what is wrong with a rendered equation, or an empty text."""
    if "katex-error" in html:
        return "KaTeX marked a part of it as an error"
    mathml = re.search(r"<math.*?</math>", html, re.DOTALL)
    if mathml is None:
        return "it has no MathML"
    for element in ET.fromstring(mathml[0]).iter():
        name = element.tag.removeprefix(MATHML)
        if name in WITH_OPERANDS and (not len(element) or any(map(_is_empty, element))):
            return f"an operand of <{name}> is empty"
    return ""


def _is_empty(element: ET.Element) -> bool:
    return not "".join(element.itertext()).strip()


# --- the renderer of Sphinx -----------------------------------------------------------------------


def visit_math(self: Any, node: nodes.math) -> None:
    """Write an inline equation."""
    self.body.append(f'<span class="math notranslate">{_rendered(node)}</span>')
    raise nodes.SkipNode


def visit_displaymath(self: Any, node: nodes.math_block) -> None:
    """Write a displayed equation in a box that scrolls, with its number if it has a label."""
    self.body.append(self.starttag(node, "div", CLASS="equation notranslate", tabindex="0"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(_rendered(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def _rendered(node: nodes.Element, *, display: bool = False) -> str:
    try:
        return render(node.astext(), display=display)
    except ValueError as error:
        place = f"{node.source}:{node.line}"
        raise ValueError(f"{place}: {error} in the equation {node.astext()!r}") from error


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; Sphinx calls this function when it starts."""
    app.add_html_math_renderer("katex", (visit_math, None), (visit_displaymath, None))
    app.add_css_file(STYLE)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
