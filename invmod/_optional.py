"""Import of packages that are not among the core dependencies."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(
    module: str, *, what: str = "This part of the robustness report", extra: str = "report"
) -> Any:
    """Import a module that an extra of the distribution installs.

    Arguments:
        module: full name of the module.
        what: the part of the library that needs it, for the error message.
        extra: name of the extra that installs it.

    Raises:
        ImportError: it is not installed; the message names the extra.

    Example:
        >>> import_optional("json", what="This example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise ImportError(f"{what} needs {name}: pip install 'invmod[{extra}]'.") from error
