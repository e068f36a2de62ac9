"""Recommendation of new items with missing modalities: KEEP, and MILK composed from `invmod`.

`milk-recsys --help` lists the commands. In Python, `Recommender` fits frames in memory:

    import milk_recsys
    rec = milk_recsys.Recommender("keep").fit(pairs, {"text": texts, "image": images})
    lists = rec.recommend(new_items, k=20)

`load` opens a saved recommender, or a finished run. `load_run` opens a run for scores of arrays:

    from milk_recsys import load_run
    scorer = load_run("runs/20250101-120000-milk")

`Catalogue.from_frames` makes a data set from frames of pandas, polars or Arrow in memory, and
`update_run` adds new pairs, users and items to a finished run of KEEP.

Importing the package does not import torch; these functions do. They and the commands need
`pip install "invmod[recsys]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milk_recsys.catalogue.frames import Catalogue
    from milk_recsys.estimator.recommender import Recommender, load
    from milk_recsys.run.scorer import load_run
    from milk_recsys.run.update import update_run

__all__ = ["Catalogue", "Recommender", "load", "load_run", "update_run"]

_MODULES = {
    "Catalogue": "milk_recsys.catalogue.frames",
    "Recommender": "milk_recsys.estimator.recommender",
    "load": "milk_recsys.estimator.recommender",
    "load_run": "milk_recsys.run.scorer",
    "update_run": "milk_recsys.run.update",
}


# Loading on first access keeps `import milk_recsys` free of torch and of the extra's packages.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        from milk_recsys.base.extras import PACKAGES, extra_needed

        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise ImportError(extra_needed(name, [package])) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
