"""Sphinx configuration.

Neither the build nor the pages need a network connection: the build renders the equations.
"""

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import invmod

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the extensions in this folder

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
    "api_pages",
    "architecture_figure",
    "docstrings",
    "equations",
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
FOREIGN = (
    "torch|numpy|collections|typing|datetime|nn|Tensor|Path|pathlib|Self|NDArray|polars|matplotlib"
    "|Trainer|sklearn"
)
# Names of types in signatures, and classes that no user makes.
INTERNAL = r"Array|Predict|invmod\.environments\.protocol|invmod\.calibration\.(model|groups)"
nitpick_ignore_regex = [(r"py:.*", rf"({FOREIGN}|{INTERNAL})(\..*)?")]
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

# The exporter to ONNX, which a guide uses, reports each of its steps.
for name in ("onnxscript", "onnx_ir"):
    logging.getLogger(name).setLevel(logging.WARNING)
# Torch and Lightning make this warning by their own calls.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated")
sphinx_gallery_conf = {
    "examples_dirs": "guide",
    "gallery_dirs": "guides",  # output folder of the build
    "within_subsection_order": "gallery_order.Position",
    "filename_pattern": r"\.py$",  # run every guide
    # Run guides that have not changed too, since the library may have changed.
    "run_stale_examples": True,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "min_reported_time": 1e9,  # no timings, so that a page is the same on every machine
    "write_computation_times": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = f"invmod {version}"
html_static_path = ["_static"]
html_css_files = ["invmod.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "katex"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"


# --- results of studies, and names in docstrings --------------------------------------------------


def insert_tables(app: Sphinx, _docname: str, source: list[str]) -> None:
    """Replace each line ``% TABLE NAME`` of a page by docs/results/NAME/table.md, if it exists.

    A link to this file below the line is for readers of the source, and is left out of the page.
    Sphinx passes the text of the page as a list of one string, which is changed in place.
    """
    source[0] = re.sub(
        r"^(% (?:TABLE|FIELD|STUDIES) (\w+)\n)\n\[[^\]]*\]\([./]*results/\2/\w+\.md\)\n",
        r"\1",
        source[0],
        flags=re.MULTILINE,
    )
    for name in re.findall(r"^% TABLE (\w+)$", source[0], re.MULTILINE):
        path = HERE / "results" / name / "table.md"
        table = "This table has not been computed in this checkout.\n"
        if path.exists():
            table = path.read_text(encoding="utf-8")
        source[0] = source[0].replace(f"% TABLE {name}\n", table)
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
    "STUDIES": ("reading", "verdicts", *STUDY_PARTS),
    "FIELD": (
        *("field_reading", "field"),
        *("field_fresh", "field_drop", "field_without", "field_patterns"),
    ),
}
"""Names of the files in docs/results/SET, in the order in which they are inserted.

The first one is the text that interprets the others, which are tables and figures.
"""


def insert_studies(app: Sphinx, _docname: str, source: list[str]) -> None:
    """Replace lines such as ``% FIELD lfm2k`` of a page by the files of docs/results/lfm2k."""
    for line, kind, name in re.findall(r"^(% (FIELD|STUDIES) (\w+))$", source[0], re.MULTILINE):
        parts = []
        for stem in STUDIES[kind]:
            for file in (HERE / "results" / name / f"{stem}{suffix}" for suffix in (".md", ".png")):
                if file.exists():
                    app.env.note_dependency(str(file))
                    heading = "" if stem == STUDIES[kind][0] else f"### {title(stem)}\n\n"
                    parts.append(_part(file, heading))
        text = "\n".join(parts) or "This study has not been run in this checkout."
        source[0] = source[0].replace(f"{line}\n", f"{text}\n")


def _part(file: Path, heading: str) -> str:
    """Return a table with its heading, or the Markdown for a figure."""
    if file.suffix == ".png":
        name = file.parent.name
        return f"![{title(file.stem)} on {name}](../results/{name}/{file.name})\n"
    return heading + file.read_text(encoding="utf-8")


TITLES = {
    "verdicts": "Which claims hold",
    "popular": "The most popular test item",
    "why": "Which modalities the scores use",
    "search": "Options that the search chose",
    "field": "All systems",
    "field_fresh": "On held-out splits",
    "field_without": "KEEP without its parts",
    "field_patterns": "By pattern of missing modalities",
}


def title(stem: str) -> str:
    """Return the title of a table or figure, such as "Figure 3" for `figure3`."""
    if stem in TITLES:
        return TITLES[stem]
    return re.sub(r"(\D+)(\d)", r"\1 \2", stem).capitalize()


def show_argument_names(
    _app: Sphinx, _env: Any, node: Any, contnode: nodes.Element
) -> nodes.Element | None:
    """Show `name` of a docstring without a link if Sphinx finds no target for it.

    That is allowed for names of arguments. For a name that begins with "invmod." the return value
    is None, so that Sphinx warns of a broken reference.
    """
    is_argument = node.get("reftype") == "obj" and not node["reftarget"].startswith("invmod.")
    return contnode if is_argument else None


def setup(app: Sphinx) -> None:
    """Register the handlers of this file; Sphinx calls this function when it starts."""
    app.connect("source-read", insert_tables)
    app.connect("source-read", insert_studies)
    app.connect("missing-reference", show_argument_names)
