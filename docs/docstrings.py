"""Sections of docstrings whose text napoleon would take apart.

Napoleon reads ``Returns:`` as "type: description" and splits it at the first colon, so that
"(features, usable): every modality" loses its form. Types stand in the signatures here, so the
section is one text. It becomes a field of reStructuredText before napoleon reads the docstring.
"""

from typing import Any

from sphinx.application import Sphinx

SECTIONS = {"Returns:": ":returns:", "Yields:": ":yields:"}


def keep_whole(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with the sections of `SECTIONS` as fields."""
    out: list[str] = []
    field = ""  # the field whose first line is still to come
    for line in lines:
        if line in SECTIONS:
            field = SECTIONS[line]
        elif field and line.strip():
            out.append(f"{field} {line.strip()}")
            field = ""
        else:
            out.append(line)
    return out


def process(
    _app: Sphinx, _kind: str, _name: str, _thing: Any, _options: Any, lines: list[str]
) -> None:
    """Change the lines of a docstring in place, as autodoc expects."""
    lines[:] = keep_whole(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handler before that of napoleon; Sphinx calls this function when it starts."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
