"""Pictures of the two packages: their rooms and the imports between them, read from the sources.

A block of a page becomes a picture in SVG and a table of the rooms::

    ```{rooms} invmod
    ```

A room stands above every room that it imports. An arrow leads from a room to a room that it
imports; imports that follow from others (A imports B, B imports C, A imports C) have no arrow.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
PACKAGES = {"invmod": ROOT / "invmod", "milk_recsys": ROOT / "examples" / "milk_recsys"}
COMMANDS = "commands"  # the files of the recommender that are in no room
WIDTH, HEIGHT, GAP_X, GAP_Y = 104, 34, 12, 44


@dataclass(frozen=True)
class Room:
    """A subpackage, or a module that is not in one."""

    name: str
    files: tuple[Path, ...]

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring of the package, or of its only file."""
        if self.name == COMMANDS:
            return "The commands, each a file."
        first = next((path for path in self.files if path.stem == "__init__"), self.files[0])
        text = ast.get_docstring(ast.parse(first.read_text(encoding="utf-8"))) or ""
        return " ".join(text.split("\n\n")[0].split())


def room_of(package: str, parts: tuple[str, ...]) -> str:
    """Return the room of a module, given its path within the package; "" for private helpers."""
    first = parts[0].removesuffix(".py") if parts else ""
    if first.startswith("_") or not first:
        return "" if package == "invmod" else COMMANDS
    if package == "milk_recsys" and not (PACKAGES[package] / first).is_dir():
        return COMMANDS
    return first


def find_rooms(package: str) -> dict[str, Room]:
    """Return the rooms of a package by name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        name = room_of(package, path.relative_to(PACKAGES[package]).parts)
        if name:
            files.setdefault(name, []).append(path)
    return {name: Room(name, tuple(paths)) for name, paths in files.items()}


def find_imports(package: str) -> dict[str, set[str]]:
    """Return the rooms that each room imports, also in functions and for types."""
    rooms = find_rooms(package)
    needed: dict[str, set[str]] = {name: set() for name in rooms}
    for name, room in rooms.items():
        for path in room.files:
            for module in _modules(path):
                if module[0] == package and len(module) > 1:
                    other = room_of(package, module[1:])
                    needed[name] |= {other} & rooms.keys() - {name}
    return needed


def _modules(path: Path) -> list[tuple[str, ...]]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(tuple(node.module.split(".")))
    return modules


def find_levels(needed: dict[str, set[str]]) -> dict[str, int]:
    """Return the level of each room: 0 if it imports none, else one above the highest import."""
    levels: dict[str, int] = {}
    while rest := needed.keys() - levels.keys():
        free = {name for name in rest if needed[name] <= levels.keys()}
        if not free:
            raise ValueError(f"These rooms import each other: {', '.join(sorted(rest))}.")
        for name in free:
            levels[name] = 1 + max((levels[other] for other in needed[name]), default=-1)
    return levels


def find_arrows(needed: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that do not follow from others."""

    def below(name: str) -> set[str]:
        return needed[name].union(*(below(other) for other in needed[name]))

    return [
        (name, other)
        for name, others in sorted(needed.items())
        for other in sorted(others)
        if not any(other in below(third) for third in others - {other})
    ]


def draw(package: str) -> str:
    """Return the picture of a package, which takes its colours from the page."""
    needed = find_imports(package)
    levels = find_levels(needed)
    rows = [sorted(n for n in levels if levels[n] == k) for k in range(max(levels.values()) + 1)]
    width = max(map(len, rows)) * (WIDTH + GAP_X) + GAP_X
    height = len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 8
    places = {}
    for k, row in enumerate(rows):
        start = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        y = height - 4 - HEIGHT - k * (HEIGHT + GAP_Y)
        for j, name in enumerate(row):
            places[name] = (start + j * (WIDTH + GAP_X), y)
    lines = [_arrow(places[name], places[other]) for name, other in find_arrows(needed)]
    boxes = [_box(name, *place) for name, place in places.items()]
    marker = (
        f'<defs><marker id="tip-{package}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
    )
    body = "".join(lines).replace("#tip", f"#tip-{package}") + "".join(boxes)
    return (
        f'<div class="rooms" tabindex="0"><svg viewBox="0 0 {width} {height}" role="img" '
        f'style="min-width: {0.75 * width:.0f}px; max-width: {width}px" '
        f'aria-label="Rooms of {package} and their imports">'
        f"{marker}{body}</svg></div>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, x2, y1 = x1 + WIDTH / 2, x2 + WIDTH / 2, y1 + HEIGHT
    middle = (y1 + y2) / 2
    path = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"
    return f'<path class="arrow" marker-end="url(#tip)" d="{path}"/>'


def _box(name: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">{name}</text>'
    )


def table(package: str) -> str:
    """Return a Markdown table of the rooms, from the top of the picture to its bottom."""
    rooms, levels = find_rooms(package), find_levels(find_imports(package))
    rows = [
        f"| `{name}` | {len(rooms[name].files)} | {rooms[name].summary} |"
        for name in sorted(rooms, key=lambda name: (-levels[name], name))
    ]
    return "\n".join(["| subpackage | files | content |", "| --- | --- | --- |", *rows])


class RoomsDirective(SphinxDirective):
    """The picture and the table of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the picture and the table."""
        package = self.arguments[0]
        for room in find_rooms(package).values():
            for path in room.files:
                self.env.note_dependency(str(path))
        holder = nodes.container()
        lines = StringList(table(package).splitlines(), source=f"rooms of {package}")
        self.state.nested_parse(lines, 0, holder)
        return [nodes.raw("", draw(package), format="html"), *holder.children]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive; Sphinx calls this function when it starts."""
    app.add_directive("rooms", RoomsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
