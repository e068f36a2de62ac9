"""The packages of the extra `recsys`, which `pip install invmod` leaves out."""

from importlib.util import find_spec

__all__ = ["PACKAGES", "extra_needed", "missing_packages"]

PACKAGES = (
    "adjustText",
    "jinja2",
    "matplotlib",
    "optuna",
    "polars",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tyro",
)
"""Names to import of the packages that the four commands need beyond the dependencies of `invmod`."""


def missing_packages() -> list[str]:
    """Return the names of the packages of the extra that are not installed. None of them is imported."""
    return [name for name in PACKAGES if find_spec(name) is None]


def extra_needed(what: str, missing: list[str]) -> str:
    """Return one line: which packages are missing for `what`, and how to install them."""
    verb = "is" if len(missing) == 1 else "are"
    return f'{what} needs {", ".join(missing)}, which {verb} not installed: pip install "invmod[recsys]"'
