"""Recommendation of new items with missing modalities: KEEP, and MILK composed from `invmod`.

`milk-recsys --help` lists the commands. In Python, `load_run` loads a finished run:

    from milk_recsys import load_run
    scorer = load_run("runs/20250101-120000-milk")

and `update_run` adds new pairs, users and items to a finished run of KEEP. Importing the package
does not import torch; these functions do. They and the commands need
`pip install "invmod[recsys]"`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milk_recsys.run.scorer import load_run
    from milk_recsys.run.update import update_run

__all__ = ["load_run", "update_run"]

_MODULES = {
    "load_run": "milk_recsys.run.scorer",
    "update_run": "milk_recsys.run.update",
}


# Loading the functions on first access keeps `import milk_recsys` free of torch.
def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            module = importlib.import_module(_MODULES[name])
        except ModuleNotFoundError as error:
            from milk_recsys.base.extras import PACKAGES, extra_needed

            package = (error.name or "").partition(".")[0]
            if package not in PACKAGES:
                raise
            raise ImportError(extra_needed(name, [package])) from None
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
