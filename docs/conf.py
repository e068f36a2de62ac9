"""Sphinx configuration. Neither the build nor a reader needs the network: equations become MathML in the build."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number

HERE = Path(__file__).parent
import invmod  # noqa: E402

project = "invmod"
author = "The invmod developers"
copyright = "the invmod developers, MIT licence"
version = release = invmod.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "results",
    "guide",
    "guides/*.py",
    "guides/*.ipynb",
    "guides/sg_execution_times.rst",
]
nitpicky = True
FOREIGN = "torch|numpy|collections|typing|nn|Tensor|Path|pathlib|Self|NDArray|polars|matplotlib"
nitpick_ignore_regex = [(r"py:.*", rf"({FOREIGN}|invmod\.environments\.protocol)(\..*)?")]
default_role = "py:obj"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": "guide",
    "gallery_dirs": "guides",  # made by the build
    "filename_pattern": r"\.py$",  # run every guide
    "run_stale_examples": True,  # the library may have changed where a guide has not
    "abort_on_example_error": True,
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "min_reported_time": 1e9,  # no timings: a page is the same on every machine
    "write_computation_times": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = f"invmod {version}"
html_static_path = ["_static"]
html_css_files = ["invmod.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


# ------------------------------------------------------------------------------ equations


def visit_math(self: Any, node: nodes.math) -> None:
    """An equation in a line as MathML, which browsers show without a script or a font from elsewhere."""
    self.body.append(_mathml(node))
    raise nodes.SkipNode


def visit_displaymath(self: Any, node: nodes.math_block) -> None:
    """An equation of its own, with its number where it has a label."""
    self.body.append(self.starttag(node, "div", CLASS="equation"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(_mathml(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def _mathml(node: nodes.Element, *, as_block: bool = False) -> str:
    tex = node.astext().replace(r"\dots", r"\ldots")
    tex = re.sub(
        r"\\(big|Big)(?![a-zA-Z])", r"\\\1l", tex
    )  # the converter knows these under one name each
    try:
        return latex2mathml.tex2mathml(tex, as_block=as_block)
    except latex2mathml.MathError as error:
        raise ValueError(
            f"{node.source}:{node.line}: {error} in the equation {node.astext()!r}"
        ) from error


# --------------------------------------------------------------------------- results, and names in docstrings


def put_in_tables(app: Sphinx, _docname: str, source: list[str]) -> None:
    """Put docs/results/NAME/table.md where a page has the line ``% TABLE NAME``."""
    for name in re.findall(r"^% TABLE (\w+)$", source[0], re.MULTILINE):
        path = HERE / "results" / name / "table.md"
        source[0] = source[0].replace(f"% TABLE {name}\n", path.read_text(encoding="utf-8"))
        app.env.note_dependency(str(path))


STUDY_PARTS = (
    "table1",
    "table2",
    "popular",
    "table3",
    "table4",
    "figure1",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "why",
    "search",
)


STUDIES = {
    "% STUDIES": ("reading", "verdicts", STUDY_PARTS),
    "% FIELD": (
        "field_reading",
        "field",
        ("field_fresh", "field_drop", "field_without", "field_patterns"),
    ),
}
"""A line of a page -> what was read from a study, the table without which it is not shown, and its other parts."""


def put_in_studies(app: Sphinx, _docname: str, source: list[str]) -> None:
    """Put the studies of docs/results, those that are done, where a page has one of the lines of `STUDIES`."""
    for line, (reading, first, others) in STUDIES.items():
        if f"\n{line}\n" not in source[0]:
            continue
        parts = []
        for path in sorted((HERE / "results").glob(f"*/{first}.md")):
            parts.append(f"## {path.parent.name}\n")
            for file in (
                path.with_name(f"{name}{end}")
                for name in (reading, first, *others)
                for end in (".md", ".png")
            ):
                if file.exists():
                    app.env.note_dependency(str(file))
                    parts.append(
                        _part(
                            file,
                            heading="" if file.stem == reading else f"### {title(file.stem)}\n\n",
                        )
                    )
        source[0] = source[0].replace(
            line, "\n".join(parts) or "No study has been run in this checkout."
        )


def _part(file: Path, heading: str) -> str:
    if file.suffix == ".png":
        return (
            f"![{title(file.stem)} on {file.parent.name}](results/{file.parent.name}/{file.name})\n"
        )
    return heading + file.read_text(encoding="utf-8")


TITLES = {
    "verdicts": "Which claims hold",
    "field": "All systems",
    "field_fresh": "On fresh splits",
    "field_without": "KEEP without its parts",
    "field_patterns": "By what is missing",
}


def title(stem: str) -> str:
    """Name a table or figure: `figure3` is Figure 3."""
    if stem in TITLES:
        return TITLES[stem]
    return re.sub(r"(\D+)(\d)", r"\1 \2", stem).capitalize()


def keep_plain_names(
    _app: Sphinx, _env: Any, node: Any, contnode: nodes.Element
) -> nodes.Element | None:
    """Show `name` of a docstring as it is where it names an argument; a name of invmod must lead somewhere."""
    is_argument = node.get("reftype") == "obj" and not node["reftarget"].startswith("invmod.")
    return contnode if is_argument else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.connect("source-read", put_in_tables)
    app.connect("source-read", put_in_studies)
    app.connect("missing-reference", keep_plain_names)
