"""Feature rows of items: held on the model's device, or left in mapped files and read where they are asked for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ROWS_AT_ONCE", "ItemFeatures"]

ROWS_AT_ONCE = 16_384  # rows that are read, scaled or encoded at once


class ItemFeatures:
    """The features of a catalogue, by rows.

    Arguments:
        arrays: modality -> (num_items, d), as stored; a row of NaN is a missing modality.
        device: where rows go.
        mapped: leave the arrays where they are (memory-mapped files, as a rule) and copy only what is asked for;
            else all of them are copied to the device now.

    Attributes:
        dims: modality -> width.
    """

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], device: torch.device, *, mapped: bool = False
    ) -> None:
        self.device, self.mapped = device, mapped
        self._places: Tensor | None = None
        self.dims = {name: x.shape[1] for name, x in arrays.items()}
        self.num_items = len(next(iter(arrays.values())))
        self._tensors = {
            name: _as_tensor(x) if mapped else torch.from_numpy(np.array(x)).to(device)
            for name, x in arrays.items()
        }

    def only(self, items: Tensor) -> ItemFeatures:
        """Return the features of some items alone, under their ids; asked for another, they raise.

        Arguments:
            items: (n,) distinct ids. Their rows are copied where they are in memory; a file stays where it is.
        """
        found = copy.copy(self)
        found._places = torch.full((self.num_items,), -1, dtype=torch.int64, device=self.device)
        found._places[items] = (
            items if self.mapped else torch.arange(len(items), device=self.device)
        )
        if not self.mapped:
            found._tensors = self.rows(items)
        return found

    @property
    def items(self) -> Tensor:
        """The ids that there are features of, increasing."""
        if self._places is None:
            return torch.arange(self.num_items, device=self.device)
        return (self._places >= 0).nonzero()[:, 0]

    def rows(self, items: Tensor) -> dict[str, Tensor]:
        """Return the rows of the given items (n,), modality -> (n, d), as stored, on the device."""
        if self._places is not None:
            items = self._places[items]
            if items.device.type == "cpu" and len(items) and int(items.min()) < 0:
                raise IndexError("ItemFeatures: asked for an item that these features leave out.")
        if not self.mapped:
            return {name: x.index_select(0, items) for name, x in self._tensors.items()}
        places = items.cpu()
        return {
            name: x.index_select(0, places).to(self.device) for name, x in self._tensors.items()
        }

    def blocks(self, items: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the items and their rows, some at a time."""
        for some in torch.split(items, ROWS_AT_ONCE):
            yield some, self.rows(some)


def _as_tensor(x: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor over the same memory, which is never written to: a read-only map stays one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(x))
