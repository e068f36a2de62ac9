"""One page for each public name, and tables of names on the pages of the rooms.

A page lists the names that it covers in a block, with options of autodoc under a name::

    ```{api}
    invmod.fuse
    invmod.GatedFusion
       :members: gates
    ```

The build writes a page for each name and an index of all names to docs/api/generated, and shows
each block as a table with one line per name. Names of the library that stand as code in a table of
the pages about the library become links.
"""

import importlib
import inspect
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
GENERATED = HERE / "api" / "generated"
BLOCK = re.compile(r"^```\{api\}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Pages whose tables name parts of the library. Others use the same words for options and files.
ABOUT_THE_LIBRARY = re.compile(
    r"(api|choosing|closed_or_trained|commands|concepts|index|integrations|quickstart|theory)$"
    r"|parts/|examples/"
)


@dataclass(frozen=True)
class Entry:
    """A public name, such as "invmod.fuse", with options of autodoc and its page."""

    name: str
    options: tuple[str, ...]
    page: str

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def room(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def value(self) -> Any:
        return getattr(importlib.import_module(self.room), self.short)

    @property
    def summary(self) -> str:
        """The first line of the docstring, in reStructuredText."""
        return (inspect.getdoc(self.value) or "").partition("\n")[0]


def parse(text: str, page: str) -> list[Entry]:
    """Return the entries of all blocks in the text of a page."""
    entries: list[Entry] = []
    for line in "".join(BLOCK.findall(text)).splitlines():
        if line.startswith(" "):
            last = entries.pop()
            entries.append(Entry(last.name, (*last.options, line.strip()), page))
        elif line:
            entries.append(Entry(line, (), page))
    return entries


@cache
def all_entries() -> tuple[Entry, ...]:
    """Return the entries of all pages, in the order of the pages' names."""
    pages = sorted(path for folder in ("", "parts/") for path in HERE.glob(f"{folder}*.md"))
    return tuple(
        entry
        for path in pages
        for entry in parse(
            path.read_text(encoding="utf-8"), str(path.relative_to(HERE).with_suffix(""))
        )
    )


@cache
def documents() -> dict[str, str]:
    """Return the document of each name.

    `Dominance` and `dominance` would be one file on systems that ignore case, so a class whose name
    differs from another one in case alone has "-class" in its file name.
    """
    same = Counter(entry.name.lower() for entry in all_entries())
    return {
        entry.name: f"api/generated/{entry.name}"
        + ("-class" if same[entry.name.lower()] > 1 and inspect.isclass(entry.value) else "")
        for entry in all_entries()
    }


# --- pages ----------------------------------------------------------------------------------------


def page_of(entry: Entry) -> str:
    """Return the source of the page of a name."""
    kind = "autoclass" if inspect.isclass(entry.value) else "autofunction"
    lines = [
        entry.short,
        "=" * len(entry.short),
        "",
        f"``from {entry.room} import {entry.short}`` · explained in :doc:`/{entry.page}`",
        "",
        ".. currentmodule:: invmod",
        "",
        f".. {kind}:: {entry.name}",
        *(f"   {option}" for option in entry.options),
    ]
    return "\n".join(lines) + "\n"


def table_of(entries: list[Entry]) -> str:
    """Return a table in reStructuredText: each name with the first line of its docstring."""
    rows = [f"   * - :py:obj:`~{e.name}`\n     - {e.summary}" for e in entries]
    head = ".. list-table::\n   :class: api-names\n   :header-rows: 1\n\n   * - name\n     - what\n"
    return head + "\n".join(rows) + "\n"


def index_page() -> str:
    """Return the source of the index of all names, by room."""
    parts = ["Index of names\n==============\n"]
    rooms = sorted({entry.room for entry in all_entries()})
    for room in rooms:
        entries = sorted((e for e in all_entries() if e.room == room), key=lambda e: e.short)
        parts.append(f"{room}\n{'-' * len(room)}\n\n{table_of(entries)}")
    return "\n".join(parts)


def write_pages(_app: Sphinx) -> None:
    """Write the pages that changed, and remove those of names that are gone."""
    wanted = {HERE / f"{documents()[e.name]}.rst": page_of(e) for e in all_entries()}
    wanted[GENERATED / "index.rst"] = index_page()
    GENERATED.mkdir(parents=True, exist_ok=True)
    for path in set(GENERATED.glob("*.rst")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def insert_tables(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the blocks of a page by tables, and add its names to the navigation."""
    entries = parse(source[0], docname)
    if not entries:
        return

    def table(block: re.Match[str]) -> str:
        return f"```{{eval-rst}}\n{table_of(parse(block[0], docname))}```"

    listed = "\n".join(f"{entry.short} </{documents()[entry.name]}>" for entry in entries)
    source[0] = BLOCK.sub(table, source[0]) + f"\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


# --- links ----------------------------------------------------------------------------------------


@cache
def targets() -> dict[str, str]:
    """Return the full name for each text that stands for one name of the library."""
    short = Counter(entry.short for entry in all_entries())
    return {e.name: e.name for e in all_entries()} | {
        e.short: e.name for e in all_entries() if short[e.short] == 1
    }


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make links of the names that stand as code in tables of the pages about the library."""
    docname = app.env.current_document.docname
    if not ABOUT_THE_LIBRARY.match(docname):
        return
    for table in doctree.findall(nodes.table):
        for literal in list(table.findall(nodes.literal)):
            target = targets().get(literal.astext())
            if target and not isinstance(literal.parent, nodes.reference | addnodes.pending_xref):
                link = addnodes.pending_xref(
                    "", refdomain="py", reftype="obj", reftarget=target, refdoc=docname
                )
                literal.replace_self(link)
                link += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handlers of this file; Sphinx calls this function when it starts."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", insert_tables)
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
