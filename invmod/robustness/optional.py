"""Import of packages that are not among the core dependencies."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(module: str) -> Any:
    """Import a module of the extra ``report``.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise ImportError(
            f"This part of the robustness report needs {name}: pip install 'invmod[report]'."
        ) from error
