"""Measure the structure of the code in checkouts of the project, and print one table.

    python -m benchmarks.structure CHECKOUT... [--out benchmarks/quality/structure.md]

The table has a column per checkout, named by its commit. Only tracked files count. The code is
parsed, never imported.

- Levels of imports: number of modules of `milk_recsys` on the longest chain in which each imports
  the next one. Imports within functions do not count; imports for type checkers do.
- Comments: without directives such as `# noqa`. Docstrings are not comments.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

EXAMPLE, LIBRARY = "examples/milk_recsys", "invmod"
LONGEST_LINE = 100
# Comments that address a tool, or that draw a line between the parts of a file.
DIRECTIVES = ("# noqa", "# type:", "# ruff", "# ---")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all checkouts, and print the table.

    Returns:
        the exit status, 0; 2 if a folder is not a checkout of the project.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkouts", type=Path, nargs="+", help="folders of checkouts")
    parser.add_argument("--out", type=Path, help="file for the table, which is printed in any case")
    arguments = parser.parse_args(argv)
    columns = {}
    for checkout in arguments.checkouts:
        if not (checkout / EXAMPLE).is_dir() or not (checkout / ".git").exists():
            parser.error(f"{checkout} is not a git checkout with {EXAMPLE}.")
        columns[commit_of(checkout)] = measure(checkout)
    table = table_of(columns)
    print(table)
    if arguments.out:
        command = "python -m benchmarks.structure CHECKOUT..."
        note = f"{time.strftime('%Y-%m-%d')}, `{command}`; a column per checkout, by its commit."
        arguments.out.write_text(f"{table}\n\n{note}\n", encoding="utf-8")
    return 0


def table_of(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Return a Markdown table with a row per measure."""
    measures = next(iter(columns.values()))
    lines = [["measure", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(column[name] for column in columns.values())] for name in measures]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(checkout: Path) -> dict[str, str]:
    """Return the measures of a checkout, formatted, by their titles."""
    tracked = [checkout / name for name in _git(checkout, "ls-files", "-z").split("\0") if name]
    tracked = [path for path in tracked if path.is_file()]
    sources = {
        path.relative_to(checkout).as_posix(): path.read_text(encoding="utf-8")
        for path in tracked
        if path.suffix == ".py"
    }
    example = {name: text for name, text in sources.items() if name.startswith(f"{EXAMPLE}/")}
    library = {name: text for name, text in sources.items() if name.startswith(f"{LIBRARY}/")}
    options = [count for text in example.values() if (count := options_parameters(text))]
    any_names = sum(
        token.type == tokenize.NAME and token.string == "Any"
        for text in example.values()
        for token in tokens(text)
    )
    long_lines = sum(
        len(line) > LONGEST_LINE for text in sources.values() for line in text.splitlines()
    )
    top = sum(name.count("/") == EXAMPLE.count("/") + 1 for name in example)
    return {
        "levels of imports in milk_recsys": str(levels(example)),
        "modules at the top of milk_recsys": str(top),
        "parameters annotated `Options`": f"{sum(options)} (files: {len(options)})",
        "`Any` per 1,000 lines of milk_recsys": f"{1000 * any_names / count_lines(example):.1f}",
        "comments per 100 lines of milk_recsys": f"{comments_per_100(example):.1f}",
        "comments per 100 lines of invmod": f"{comments_per_100(library):.1f}",
        f".py lines over {LONGEST_LINE} characters": f"{long_lines:,}",
        "tracked bytes": f"{sum(path.stat().st_size for path in tracked):,}",
    }


def commit_of(checkout: Path) -> str:
    """Return the short commit of a checkout, with the suffix -dirty if tracked files differ."""
    return _git(checkout, "describe", "--always", "--dirty", "--exclude", "*").strip()


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- text -----------------------------------------------------------------------------------------


def count_lines(sources: Mapping[str, str]) -> int:
    """Return the number of lines of all files, and 1 if there is none, so that it may divide."""
    return max(1, sum(len(text.splitlines()) for text in sources.values()))


def comments_per_100(sources: Mapping[str, str]) -> float:
    """Return the number of comments, except directives, per 100 lines."""
    comments = sum(
        token.type == tokenize.COMMENT and not token.string.startswith(DIRECTIVES)
        for text in sources.values()
        for token in tokens(text)
    )
    return 100 * comments / count_lines(sources)


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens of a module."""
    return tokenize.generate_tokens(io.StringIO(text).readline)


# --- syntax ---------------------------------------------------------------------------------------


def options_parameters(text: str) -> int:
    """Return the number of parameters in a module whose annotation contains the name Options."""
    annotations = (
        parameter.annotation
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    )
    return sum(
        bool(re.search(r"\bOptions\b", ast.unparse(annotation)))
        for annotation in annotations
        if annotation is not None
    )


def levels(sources: Mapping[str, str]) -> int:
    """Return the number of levels of imports among the modules of the example, by their paths.

    A module is one level above the highest module that it imports. Modules that import each other
    in a circle count as one module.
    """
    imports = imports_of(sources)
    reachable = {module: _reachable(imports, module) for module in imports}
    heights: dict[str, int] = {}

    def height(module: str) -> int:
        if module not in heights:
            circle = {other for other in reachable[module] if module in reachable[other]}
            below = {other for member in {module, *circle} for other in imports[member]} - {
                module,
                *circle,
            }
            heights[module] = 1 + max(map(height, below), default=0)
        return heights[module]

    return max(map(height, imports), default=0)


def imports_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return module -> the modules of the example that it imports at module level.

    The package itself is left out: `from milk_recsys import train` imports the module `train`.
    """
    modules = {}
    for path, text in sources.items():
        parts = Path(path).with_suffix("").parts[1:]  # without the folder `examples`
        modules[".".join(parts).removesuffix(".__init__")] = ast.parse(text).body
    package = Path(EXAMPLE).name
    return {
        module: (set(_imported(body)) & modules.keys()) - {module, package}
        for module, body in modules.items()
    }


def _imported(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements import, also under `if` and `try`."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from _imported(node.body)


def _reachable(imports: Mapping[str, set[str]], start: str) -> set[str]:
    """Return the modules that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for module in imports[waiting.pop()] - reached:
            reached.add(module)
            waiting.append(module)
    return reached


if __name__ == "__main__":
    sys.exit(main())
