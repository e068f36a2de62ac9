"""The item tower of a method as an ONNX model: from features and a mask to vectors."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milk_recsys.base.errors import DataError
from milk_recsys.estimator.fitted import Fitted

__all__ = ["ItemTower", "check_onnx", "tower_of", "write_onnx"]

PACKAGES = ("onnx", "onnxscript")
TRACED_ROWS = 3  # Any number of rows but 0 and 1, which a tracer takes for constants.


class ItemTower(nn.Module):
    """Vectors of items from features and the mask, as one module.

    Arguments:
        model: a model whose items have vectors that depend on their features alone.
        modalities: names, in the order of the arguments.
    """

    def __init__(self, model: Any, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.modalities = model, modalities

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the vectors (N, D).

        Arguments:
            inputs: features (N, d_m) of each modality, and the mask, bool (N, M).
        """
        features = dict(zip(self.modalities, inputs[:-1], strict=True))
        vectors: Tensor = self.model.embed_items(features, inputs[-1])
        return vectors


def check_onnx() -> None:
    """Raise DataError if the packages of the extra `onnx` are not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise DataError(
            f"--onnx needs {' and '.join(missing)}, which is not installed: "
            "pip install 'invmod[onnx]'"
        )


def tower_of(fitted: Fitted) -> ItemTower:
    """Return the item tower of a fitted model, in the precision of the run.

    Raises:
        DataError: the method has none.
    """
    model: Any = fitted.model
    if not getattr(model, "has_item_tower", False):
        raise DataError(
            f"--onnx: {fitted.options.run.model} has no item tower. Its vectors of new items are "
            "sums over the training items, not the output of a network. Leave the option out; the "
            "server embeds new items (milk-recsys serve)."
        )
    return ItemTower(model, tuple(fitted.dims)).eval()


def write_onnx(path: Path, fitted: Fitted) -> None:
    """Write the item tower; its inputs are the modalities and `mask`, its output is `vectors`.

    Values of missing modalities are not read, and must be finite, for example 0.

    Raises:
        DataError: the method has no item tower.
    """
    tower = tower_of(fitted)
    weight = next(tower.parameters())
    shapes = [torch.zeros(TRACED_ROWS, dim, dtype=weight.dtype) for dim in fitted.dims.values()]
    inputs = tuple(x.to(weight.device) for x in shapes)
    mask = torch.ones(TRACED_ROWS, len(fitted.dims), dtype=torch.bool, device=weight.device)
    rows = torch.export.Dim("rows")
    names = [*fitted.dims, "mask"]
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing and conversion emit warnings about the internals of torch and onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            (*inputs, mask),
            path,
            input_names=names,
            output_names=["vectors"],
            dynamic_shapes=(tuple({0: rows} for _ in names),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
