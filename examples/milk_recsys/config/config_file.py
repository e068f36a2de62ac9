"""The file of the option --config: what config.json of a run holds, or a part of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milk_recsys.base.files import read_json
from milk_recsys.config.method import Method
from milk_recsys.config.options import OptionError, common_fields, from_text

__all__ = ["read_config_file", "values_for"]

UNUSED = ("dataset", "out", "resume")  # Facts of another run, and its folder.


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the options of a file by their names, those of the method among them.

    Raises:
        OptionError: the file cannot be read, or is no JSON object.
    """
    try:
        values = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"--config: {path} cannot be read as JSON ({error!s:.200}).") from None
    own = values.get("method") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(own, dict | None):
        raise OptionError(
            f"--config: {path} must be a JSON object of options, with those of the method as an "
            "object under `method`, like config.json of a run."
        )
    common = {name: value for name, value in values.items() if name not in (*UNUSED, "method")}
    if twice := sorted(common.keys() & (own or {}).keys()):
        raise OptionError(f"--config: {path} has {twice[0]} twice. Leave one of them out.")
    return common | (own or {})


def values_for(config: Mapping[str, Any], method: Method, path: Path | None) -> dict[str, Any]:
    """Return the options of a file for a method, with paths as paths.

    Raises:
        OptionError: a name is unknown, or a value has a wrong type.
    """
    common = {name: field for name, (_, field) in common_fields().items()}
    fields = common | dict(method.fields)
    values = {}
    for name, value in config.items():
        if name == "model":
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(
                f"--config: {path}: {name!r} is not an option of {method.name}.{hint} Leave it "
                f"out, or see --model {method.name} --help."
            )
        try:
            values[name] = from_text(name, fields[name], value)
        except OptionError as error:
            raise OptionError(f"--config: {path}: {error}") from None
    return values | ({"model": method.name} if config else {})
