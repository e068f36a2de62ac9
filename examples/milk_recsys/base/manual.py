"""Where the manual of a command is, for the ends of help texts, and plain command lines."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from typing import TypeVar

__all__ = ["help_ends_with", "manual", "parse"]

Kind = TypeVar("Kind")


def manual(page: str) -> str:
    """Return the address of a page of the manual, or its path in the source without an address.

    The address is the project's URL `Documentation` in pyproject.toml.

    Example:
        >>> manual("serve").endswith("serve.html") or manual("serve")
        'docs/serve.md in the source of invmod'
    """
    try:
        urls = metadata("invmod").get_all("Project-URL") or []
    except PackageNotFoundError:  # Run from a checkout that is not installed.
        urls = []
    for url in urls:
        label, _, address = url.partition(", ")
        if label == "Documentation":
            return f"{address.rstrip('/')}/{page}.html"
    return f"docs/{page}.md in the source of invmod"


@contextmanager
def help_ends_with(page: str) -> Iterator[None]:
    """Print where the manual is, below the help text that the block prints before it exits."""
    try:
        yield
    except SystemExit as stop:
        if not stop.code:
            print(f"Manual: {manual(page)}")
        raise


def parse(kind: type[Kind], argv: Sequence[str] | None, *, prog: str, page: str) -> Kind:
    """Return the options of a dataclass from a command line; None is that of the process.

    A wrong option ends the process with status 2, and `--help` with a text that names the page.
    """
    import tyro  # Not above, since the help of `milk-recsys` itself needs no other package.

    with help_ends_with(page):
        return tyro.cli(
            kind,
            args=sys.argv[1:] if argv is None else list(argv),
            prog=prog,
            config=(tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes),
        )
