"""The JSON of calibrations and their reports: which kind of file it is, and in which version."""

from __future__ import annotations

import json
from typing import Any


def read_json(function: str, text: str, kind: str, version: int) -> dict[str, Any]:
    """Return the data of a file, without its format and version, after comparing both.

    Arguments:
        function: name for error messages.
        text: JSON.
        kind: the format that is expected.
        version: the version that is expected.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{function}: the text is not JSON: {error}") from error
    found = data.pop("format", None) if isinstance(data, dict) else None
    if found != kind:
        other = f"has the format {found!r}" if found is not None else "does not state a format"
        raise ValueError(
            f"{function}: the text must be JSON with the format {kind!r}, but it {other}. "
            "Pass a file that was saved by the same class."
        )
    if (saved := data.pop("version", None)) != version:
        raise ValueError(
            f"{function}: the text must have version {version} of the format {kind!r}, got "
            f"{saved!r}. Load it with the invmod that saved it."
        )
    return dict(data)
