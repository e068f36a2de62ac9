"""The packages of the extra `recsys`, which `pip install invmod` does not install."""

from importlib.util import find_spec

__all__ = ["PACKAGES", "extra_needed", "missing_packages"]

PACKAGES = (
    "jinja2",
    "matplotlib",
    "polars",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "tyro",
)
"""Import names of the packages that the commands need and `invmod` does not depend on."""


def missing_packages() -> list[str]:
    """Return the packages of the extra that are not installed, without importing any of them."""
    return [name for name in PACKAGES if find_spec(name) is None]


def extra_needed(what: str, missing: list[str]) -> str:
    """Return a message that `what` needs the missing packages, and how to install them."""
    verb = "is" if len(missing) == 1 else "are"
    packages = ", ".join(missing)
    return f'{what} needs {packages}, which {verb} not installed: pip install "invmod[recsys]"'
