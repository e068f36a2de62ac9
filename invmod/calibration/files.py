"""The JSON of calibrations and their reports: which kind of file it is, and in which version."""

from __future__ import annotations

import json
from typing import Any

import torch

from invmod.calibration.table import Tensors
from invmod.missingness.arrays import each_array


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


def template_to_json(template: Tensors | None) -> Any:
    """Return the shape of a row and the dtype of a template, or those of each of a mapping.

    Example:
        >>> template_to_json({"ids": torch.empty(0, 4, dtype=torch.int32)})
        {'ids': [[4], 'int32']}
    """
    return each_array(template, lambda x: [list(x.shape[1:]), str(x.dtype).removeprefix("torch.")])


def template_from_json(data: Any) -> Tensors | None:
    """Return the template that `template_to_json` described.

    Example:
        >>> template_from_json([[4], "int32"])
        tensor([], size=(0, 4), dtype=torch.int32)
    """
    template: Tensors | None = each_array(
        data, lambda x: torch.empty((0, *x[0]), dtype=getattr(torch, x[1]))
    )
    return template
