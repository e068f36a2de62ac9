"""Order of the guides in their gallery."""

from typing import Any

ORDER = (
    "robust_in_twenty_minutes",
    "a_missing_sensor",
    "a_missing_assay",
    "not_at_random",
    "which_modality_matters",
    "compare_two_models",
    "how_sure_is_my_model",
    "new_items_in_a_shop",
    "lightning_training",
    "export_a_model",
)


class Position:
    """A sort key for Sphinx-Gallery: the position of a guide in `ORDER`."""

    def __init__(self, *_folder: Any) -> None:
        """Accept the folder, which Sphinx-Gallery passes."""

    def __call__(self, name: str) -> int:
        """Return the position of a file name such as ``not_at_random.py``."""
        return ORDER.index(name.removesuffix(".py"))
