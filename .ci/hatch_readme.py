"""Give the package a README whose links work on a package index.

The links of README.md are relative to the repository, where a package index has no files. With an
address under `Repository` in [project.urls] of pyproject.toml, they lead there: to the tag of a
release, or to `main` for a development version. Without one, a link becomes its text and a picture
is left out, so that the page has no broken link.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


class ReadmeHook(MetadataHookInterface):
    """Set the metadata field `readme`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to the metadata of the project."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_index(text, repository, metadata["version"]),
        }


def for_index(text: str, repository: str | None, version: str) -> str:
    """Return Markdown whose relative links are absolute, or their text if there is no address."""
    tag = "main" if "dev" in version else f"v{version}"

    def absolute(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if repository:
            kind = "raw" if mark else "blob"
            return f"{mark}[{label}]({repository.rstrip('/')}/{kind}/{tag}/{target})"
        return "" if mark else label

    # Odd parts are blocks of code, in which nothing is a link.
    parts = FENCE.split(text)
    return "".join(
        part if number % 2 else LINK.sub(absolute, part) for number, part in enumerate(parts)
    )
