"""KEEP of a finished run, from the tensors of its file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from invmod._text import NAMES, decode_text
from milk_recsys.config.options import Options
from milk_recsys.methods.keep.content import content_regression
from milk_recsys.methods.keep.fitted import KeepModel, check_names

__all__ = ["scoring_model"]

PREFIX = "regression."


def scoring_model(
    options: Options, dims: Mapping[str, int], num_users: int, tensors: Mapping[str, Tensor]
) -> KeepModel:
    """Build the model of a finished run from its tensors.

    Raises:
        KeyError: a tensor is absent, or there is one too many.
        RuntimeError: the numbers of users or the widths differ from those of the data.
    """
    others = {name: x for name, x in tensors.items() if not name.startswith(PREFIX)}
    if PREFIX + NAMES not in tensors:
        raise KeyError(f"the model has no tensor {PREFIX + NAMES}")
    fitted = {k.removeprefix(PREFIX): x for k, x in tensors.items() if k.startswith(PREFIX)}
    names = [str(name) for name in decode_text(fitted[NAMES]) or ()]
    check_names(others)
    counts = others["counts"]
    # The state has landmarks if the regression was projected.
    regression = content_regression(
        names, options.method, counts.dtype, len(counts), projected=True
    )
    regression.load_state_dict(fitted)
    model = KeepModel(list(dims), options.method, regression, others)
    widths = {name: regression.get_buffer(f"rows_{m}").shape[1] for m, name in enumerate(names)}
    users = len(model.trained_users)
    if users != num_users or not widths.items() <= dict(dims).items():
        raise RuntimeError(f"{users} users and widths {widths}")
    return model
