"""Parts of a self-contained HTML page: skeleton, style and embedded figures."""

from __future__ import annotations

import base64
import datetime
import html
import io
import platform
import sys
import warnings
from typing import TYPE_CHECKING, Any

from invmod._optional import import_optional
from invmod.robustness.numbers import figure

if TYPE_CHECKING:
    import matplotlib.figure

STYLE = """\
:root { color-scheme: light dark; --text: #1d2129; --soft: #57606a; --page: #ffffff; \
--card: #f4f6f8; --line: #d5dae0; \
--accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ec; --soft: #a3adb8; --page: #14181d; --card: #1e242b; --line: #39424c; \
--accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 62rem; background: var(--page); \
color: var(--text); \
font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0.25rem; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 0.75rem; padding-bottom: 0.25rem; \
border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0; }
p { margin: 0.5rem 0; max-width: 46rem; }
.lead, small, figcaption { color: var(--soft); }
.answer { background: var(--card); border-left: 4px solid var(--accent); \
border-radius: 0 6px 6px 0; \
padding: 0.8rem 1.1rem; margin: 0.9rem 0; }
.answer .headline { font-size: 1.15rem; font-weight: 600; }
.answer p { max-width: none; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
figcaption { font-size: 0.9rem; margin-top: 0.4rem; max-width: 46rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); \
outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.88rem; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.65rem; text-align: left; vertical-align: top; }
tbody th[rowspan], thead th:first-child { min-width: 8.5rem; }
thead th { white-space: nowrap; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody tr:last-child > * , tbody th[rowspan] { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.key { font-weight: 700; }
.pairs td { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; padding: 0.4rem 0; }
"""
"""Light and dark style sheet of a report's page; class `n` is for columns of numbers."""

SKELETON = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


TABLE = """\
{% macro table(label, header, rows, note="", texts=(1,), keys=()) %}
<div class="scroll" role="region" aria-label="{{ label }}" tabindex="0">
<table>
<thead><tr>
{% for name in header %}<th scope="col"
{%- if loop.index not in texts %} class="n"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if keys %} data-pattern="{{ keys[loop.index0] }}"{% endif %}>
{% for cell in row %}
{% if loop.first %}<th scope="row">{{ cell }}</th>
{% elif loop.index not in texts %}<td class="n">{{ cell | figure }}</td>
{% else %}<td>{{ cell }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if note %}<p>{{ note }}</p>{% endif %}
{% endmacro %}
"""
"""Macro of a table. `texts` are the positions of columns of names, from 1; others are numbers."""


def template_environment(what: str = "This part of the robustness report") -> Any:
    """Return a Jinja environment that escapes text and has the filter `figure`.

    Arguments:
        what: what needs Jinja, for the error if it is not installed.
    """
    jinja2 = import_optional("jinja2", what=what)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = figure
    return environment


def html_document(title: str, body: str, *, style: str = STYLE) -> str:
    """Return a complete, self-contained HTML page.

    Arguments:
        title: plain text, which is escaped.
        body: HTML, in which all text is already escaped.
        style: CSS.

    Example:
        >>> page = html_document("a < b", "<p>hello</p>")
        >>> "<title>a &lt; b</title>" in page, "<p>hello</p>" in page
        (True, True)
    """
    return SKELETON.format(title=html.escape(title), style=style, body=body)


def stamp(date: datetime.date | None = None) -> str:
    """Return the date and the versions of invmod, PyTorch and Python; None means today.

    Example:
        >>> stamp(datetime.date(2026, 3, 1)).split(",")[0]
        '1 March 2026'
    """
    import torch

    date = datetime.date.today() if date is None else date
    # Importing the package here would make a cycle; it is loaded whenever this module is.
    version = sys.modules["invmod"].__version__
    return (
        f"{date.day} {date:%B %Y}, invmod {version}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def figure_png(figure: matplotlib.figure.Figure, *, dpi: int = 144) -> bytes:
    """Return a figure as a PNG file with a palette of at most 256 colours.

    A palette makes the file of a chart about a third as large. The name and version of matplotlib
    are left out of the file. A character that the font lacks is drawn as a box, without a warning.
    """
    from PIL import Image  # installed with matplotlib; only drawing needs it

    drawn, data = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(drawn, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB")
    colours = picture.quantize(256, dither=Image.Dither.NONE)
    colours.save(data, format="png", optimize=True, dpi=(dpi, dpi))
    return data.getvalue()


def png_data_uri(png: bytes) -> str:
    """Return a PNG file as a data URI for ``<img src="...">``.

    Example:
        >>> png_data_uri(b"PNG")
        'data:image/png;base64,UE5H'
    """
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
