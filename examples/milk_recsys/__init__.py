"""Recommendation of new items with missing modalities: KEEP, and MILK composed from `invmod`.

`milk-recsys --help` lists the commands. In Python, `load_run` loads a finished run:

    from milk_recsys import load_run
    scorer = load_run("runs/20250101-120000-milk")

Importing the package does not import torch; `load_run` does. `load_run` and the commands need
`pip install "invmod[recsys]"`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milk_recsys.run.scorer import load_run

__all__ = ["load_run"]


# Loading `load_run` on first access keeps `import milk_recsys` free of torch.
def __getattr__(name: str) -> Any:
    if name == "load_run":
        try:
            from milk_recsys.run.scorer import load_run
        except ModuleNotFoundError as error:
            from milk_recsys.base.extras import PACKAGES, extra_needed

            package = (error.name or "").partition(".")[0]
            if package not in PACKAGES:
                raise
            raise ImportError(extra_needed("load_run", [package])) from None
        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
