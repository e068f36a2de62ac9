"""Switches of a page: a reader turns modalities off, and a script shows the pattern's figures."""

from __future__ import annotations

import json
from typing import Any

from invmod.robustness.numbers import change, figure, with_interval
from invmod.robustness.report import RobustnessReport

STYLE = """\
.switches { border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem 1rem; margin: 0; \
min-width: 0; }
.switches label { display: inline-flex; align-items: center; gap: 0.4rem; margin: 0.15rem 1.1rem \
0.15rem 0; cursor: pointer; }
.switches legend { font-weight: 600; padding: 0 0.3rem; }
.switches input { width: 1.1rem; height: 1.1rem; accent-color: var(--accent); flex: none; }
output { display: block; min-height: 4.5rem; }
tr.chosen > * { background: var(--card); box-shadow: inset 0 1px var(--accent), \
inset 0 -1px var(--accent); }
"""
"""Style of the switches, of their result and of the chosen row."""

SCRIPT = """\
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const boxes = Array.from(document.querySelectorAll("#switches input"));
  const result = document.getElementById("chosen");
  const cell = (row, kind, text) => {
    const made = row.appendChild(document.createElement(kind));
    made.textContent = text;
    return made;
  };
  const show = () => {
    const key = boxes.map((box) => (box.checked ? "1" : "0")).join("");
    const figures = data.patterns[key];
    for (const row of document.querySelectorAll("tr[data-pattern]")) {
      row.classList.toggle("chosen", row.dataset.pattern === key);
    }
    result.replaceChildren();
    if (!figures) {
      const note = result.appendChild(document.createElement("p"));
      note.textContent = key.includes("1")
        ? "This pattern was not evaluated."
        : "Leave at least one modality on.";
      return;
    }
    const scroll = result.appendChild(document.createElement("div"));
    scroll.className = "scroll";
    const table = scroll.appendChild(document.createElement("table"));
    const head = table.createTHead().insertRow();
    data.header.forEach((text, index) => {
      cell(head, "th", text).className = index ? "n" : "";
    });
    const body = table.createTBody();
    data.models.forEach((model, index) => {
      const row = body.insertRow();
      cell(row, "th", model);
      for (const text of figures[index]) cell(row, "td", text).className = "n";
    });
  };
  boxes.forEach((box) => {
    box.checked = true;
    box.addEventListener("change", show);
  });
  document.getElementById("switches").hidden = false;
  show();
})();
"""
"""The script writes text by `textContent` only, so no name is read as HTML."""


def pattern_key(pattern: tuple[bool, ...]) -> str:
    """Return a pattern as a text of zeros and ones, by which the script finds it.

    Example:
        >>> pattern_key((True, False))
        '10'
    """
    return "".join("1" if available else "0" for available in pattern)


def figures_json(report: RobustnessReport) -> str:
    """Return the figures of all patterns as JSON that is safe inside a script element.

    Example:
        >>> from invmod.robustness import PatternResult
        >>> results = (PatternResult("</script>", (True,), "a", 0.8, None, 0.0, 0),)
        >>> report = RobustnessReport(
        ...     ("</script>",), ("a",), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> "<" in figures_json(report), json.loads(figures_json(report))["models"]
        (False, ['</script>'])
    """
    patterns: dict[str, list[list[str]]] = {}
    for model in report.models:
        for result in report.results(model):
            patterns.setdefault(pattern_key(result.pattern), []).append(
                [
                    figure(with_interval(result.value, result.interval)),
                    figure(change(result.drop)),
                ]
            )
    header = ["Model", report.metric, "Change"]
    return _script_safe({"header": header, "models": report.models, "patterns": patterns})


def _script_safe(data: Any) -> str:
    """Return JSON without the characters that could end a script element or begin a comment."""
    text = json.dumps(data, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
