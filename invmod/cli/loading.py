"""Import of a user's function, which may raise any error."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from invmod.cli.errors import UsageError

EXTRAS = {
    "accelerate": "transformers",
    "jinja2": "report",
    "matplotlib": "report",
    "numba": "fast",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "polars": "report",
    "pyarrow": "recsys",
    "pytorch_lightning": "lightning",
    "safetensors": "io",
    "scipy": "recsys",
    "sentence_transformers": "text",
    "sklearn": "sklearn",
    "transformers": "transformers",
}
"""Package that a module of a user may import -> the extra that installs it."""


def loaded(option: str, text: str) -> Any:
    """Return the object NAME of an importable module MODULE; the working folder is searched.

    Example:
        >>> loaded("--metric", "math:dist")((0, 0), (3, 4))
        5.0
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise UsageError(f"{option} {text}: write MODULE:NAME, such as shop.model:predict.")
    if "/" in module or module.endswith(".py"):
        raise UsageError(
            f"{option} {text}: MODULE is a name such as shop.model, not a path. Run the command in "
            "the folder from which it can be imported."
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    # A module may raise anything. A call of `sys.exit` must not end the command, because the gate
    # would be passed with the status 0.
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{option} {text}: importing {module} raises {described(error)}{_extra(error)}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{option} {text}: {module} has no {name}.")
        found = getattr(found, part)
    return found


def described(error: BaseException) -> str:
    """Return the type and the message of an error.

    Example:
        >>> described(RuntimeError("no weights")), described(RuntimeError())
        ('RuntimeError: no weights', 'RuntimeError')
    """
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _extra(error: BaseException) -> str:
    """Return how to install the package whose absence is the error, if an extra has it."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    # An error within an installed package has another cause.
    if name not in EXTRAS or not isinstance(error, ModuleNotFoundError):
        return ""
    return f". Install {name}: pip install 'invmod[{EXTRAS[name]}]'."
