"""Check the built pages: links, anchors, equations, and that nothing is loaded from elsewhere.

    python docs/check_site.py docs/_build/html

Prints one line per problem. The exit status is 1 if there is any.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from equations import find_problem

# Elements whose address the browser loads with the page, and the attribute that has it.
LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
# Relations of <link> that are not loaded: pages next to this one.
NOT_LOADED = {"next", "prev", "search", "index", "author", "canonical"}


@dataclass
class Page(HTMLParser):
    """The addresses, anchors and equations of a page."""

    path: Path
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    equations: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.text = self.path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        address = values.get(LOADED.get(tag, ""), "")
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif address and not (tag == "link" and values.get("rel") in NOT_LOADED):
            self.loaded.append(address)
        classes = values.get("class", "").split()
        self.equations += "notranslate" in classes and ("math" in classes or "equation" in classes)


@cache
def read(path: Path) -> Page:
    """Parse a page once."""
    return Page(path)


def problems_of(path: Path) -> Iterator[str]:
    """Yield what is wrong on a page."""
    page = read(path)
    for address in page.loaded:
        if urlsplit(address).netloc:
            yield f"loads {address}, which needs a network"
    for address in {*page.links, *page.loaded}:
        yield from _problems_of_address(page, address)
    rendered = re.findall(r"<math .*?</math>", page.text, re.DOTALL)
    if len(rendered) != page.equations or "katex-error" in page.text:
        yield f"{page.equations} equations, of which {len(rendered)} are rendered"
    for equation in rendered:
        problem = find_problem(equation)
        if problem:
            yield f"{problem} in {equation}"


def _problems_of_address(page: Page, address: str) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        yield f"takes {unquote(parts.path)} for an address of mail; write \\@"
    if parts.scheme or parts.netloc:
        return
    target = page.path if not parts.path else (page.path.parent / unquote(parts.path)).resolve()
    if not target.is_file():
        yield f"links to {address}, which does not exist"
    elif (
        parts.fragment
        and target.suffix == ".html"
        and unquote(parts.fragment) not in read(target).anchors
    ):
        yield f"links to {address}, whose page has no such anchor"


def main(argv: Sequence[str] | None = None) -> int:
    """Check a folder of pages."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not (root := Path(arguments[0]).resolve()).is_dir():
        print("usage: python docs/check_site.py FOLDER, such as docs/_build/html", file=sys.stderr)
        return 2
    pages = sorted(path for path in root.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        print(f"{arguments[0]} has no pages.", file=sys.stderr)
        return 2
    problems = [f"{path.relative_to(root)}: {p}" for path in pages for p in problems_of(path)]
    print("\n".join(problems) or f"{len(pages)} pages: links, anchors and equations are right.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
