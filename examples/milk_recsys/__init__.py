"""Recommending new items whose modalities may be missing: KEEP, and MILK composed from `invmod`.

Run `python examples/milk_recsys/train.py --help` for the command line. From Python, a finished
run is opened with `load_run`:

    from milk_recsys import load_run
    scorer = load_run("runs/20250101-120000-milk")

Importing the package imports no torch; `load_run` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milk_recsys.run.scorer import load_run

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    if name == "load_run":
        from milk_recsys.run.scorer import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
