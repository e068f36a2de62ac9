"""The command line of `prepare`, derived from the dataclasses of its sources."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Annotated, Any, get_origin, get_type_hints

import tyro

from milk_recsys.base.manual import help_ends_with
from milk_recsys.catalogue.importers.options import (
    EncodingOptions,
    FileOptions,
    OutputOptions,
    PairOptions,
)

__all__ = ["parse_source"]

# Sections of `--help`; the options of the source itself come first.
SECTIONS = {
    "interaction": PairOptions,
    "text_file": FileOptions,
    "text_feature": EncodingOptions,
    "output": OutputOptions,
}


def parse_source(
    argv: Sequence[str], sources: Mapping[str, type], *, prog: str, description: str | None
) -> Any:
    """Return the source that a command line describes; exit with status 2 for a bad one.

    Arguments:
        sources: name of each subcommand -> its dataclass, whose fields are the options.
    """
    lines = {name: _command_line(name, kind) for name, kind in sources.items()}
    with help_ends_with("prepare"):
        parsed = tyro.cli(
            _union(lines),
            args=_join_repeated([str(word) for word in argv], sources),
            prog=prog,
            description=description,
            # Options are typed without the name of their section, and None cannot be typed.
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
    kind = next(sources[name] for name, line in lines.items() if isinstance(parsed, line))
    return kind(**{k: v for section in vars(parsed).values() for k, v in vars(section).items()})


def _union(lines: Mapping[str, type]) -> Any:
    """Return the union of the subcommands, as tyro takes it."""
    kinds: list[Any] = [
        Annotated[line, tyro.conf.subcommand(name, prefix_name=False)]
        for name, line in lines.items()
    ]
    return reduce(lambda first, second: first | second, kinds)


def _command_line(name: str, kind: type) -> type:
    """Return a dataclass with a nested dataclass for each section of the options of a source."""
    inherited = {title: base for title, base in SECTIONS.items() if issubclass(kind, base)}
    names = {title: [f.name for f in dataclasses.fields(b)] for title, b in inherited.items()}
    known = {field for fields in names.values() for field in fields}
    own = [f.name for f in dataclasses.fields(kind) if f.name not in known]
    sections: list[Any] = []
    for title, fields in {"input": own, **names}.items():
        section = dataclasses.make_dataclass(
            f"{name.title()}{title.title()}", _fields(kind, fields), frozen=True, kw_only=True
        )
        section.__doc__ = inherited[title].__doc__ if title in inherited else "Files and columns."
        sections.append((title, section))
    line = dataclasses.make_dataclass(f"{name.title()}CommandLine", sections, frozen=True)
    line.__doc__ = kind.__doc__
    return line


def _fields(kind: type, names: Sequence[str]) -> list[Any]:
    """Return the fields of a source with these names, as `make_dataclass` takes them."""
    types, helps = get_type_hints(kind), _helps(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    made: list[Any] = []
    for name in names:
        default = fields[name].default
        needed = default is dataclasses.MISSING
        hint = "(required)" if needed else "" if default in (None, ()) else f"(default: {default})"
        word = helps[name].split()[0]  # Such as NAME=FILE.
        several = f"{word if '=' in word else 'TEXT'} ..." if _is_tuple(types[name]) else None
        told = tyro.conf.arg(help=helps[name], help_behavior_hint=hint, metavar=several)
        made.append((name, Annotated[types[name], told], dataclasses.field(default=default)))
    return made


def _helps(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and of its bases, on one line."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant):
                    helps[field.target.id] = " ".join(str(text.value).split())
    return helps


def _join_repeated(words: Sequence[str], sources: Mapping[str, type]) -> list[str]:
    """Return the words with the values of an option that is given several times in one place.

    Without this, `--features A --features B` would silently mean B alone.

    Example:
        >>> from milk_recsys.catalogue.importers.tables import Table
        >>> words = ["table", "--text", "a=x:t", "--out", "o", "--text=b=y:t"]
        >>> _join_repeated(words, {"table": Table})
        ['table', '--text', 'a=x:t', 'b=y:t', '--out', 'o']
    """
    types = get_type_hints(sources[words[0]]) if words and words[0] in sources else {}
    names = Counter(_field(word) for word in words if word.startswith("--"))
    repeated = {n for n, k in names.items() if k > 1 and _is_tuple(types.get(n))}
    first: dict[str, list[str]] = {}
    groups: list[list[str]] = [[]]
    current = groups[0]
    for word in words:
        field = _field(word) if word.startswith("--") else ""
        if field in repeated:
            option, mark, value = word.partition("=")
            if field not in first:
                first[field] = [option]
                groups.append(first[field])
            current = first[field]
            current += [value] if mark else []
        elif field:
            current = [word]
            groups.append(current)
        else:
            current.append(word)
    return [word for group in groups for word in group]


def _field(word: str) -> str:
    return word.partition("=")[0].removeprefix("--").replace("-", "_")


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple
