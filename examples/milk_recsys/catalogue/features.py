"""Feature rows of items: held on the model's device, or read from memory-mapped files on demand."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ROWS_AT_ONCE", "ItemFeatures"]

ROWS_AT_ONCE = 16_384  # Number of rows read, scaled or encoded at a time.


class ItemFeatures:
    """Features of the items of a data set, read by rows.

    Arguments:
        arrays: modality -> (num_items, d), as stored; a row of NaN is a missing modality.
        device: device of the rows that are returned.
        mapped: leave the arrays where they are, usually in memory-mapped files, and copy only the
            requested rows to the device. Otherwise all rows are copied to the device now.

    Attributes:
        dims: modality -> width.
    """

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], device: torch.device, *, mapped: bool = False
    ) -> None:
        self.device, self.mapped = device, mapped
        # For features of some items only (see `only`): item id -> row of `_tensors`, or -1.
        self._places: Tensor | None = None
        self.dims = {name: x.shape[1] for name, x in arrays.items()}
        self.num_items = len(next(iter(arrays.values())))
        self._tensors = {
            name: _as_tensor(x) if mapped else torch.from_numpy(np.array(x)).to(device)
            for name, x in arrays.items()
        }

    def only(self, items: Tensor) -> ItemFeatures:
        """Return the features of the given items only, under the same ids.

        Requesting another item from the result raises an error.

        Arguments:
            items: (n,) distinct ids. Rows in memory are copied; rows in files stay there.
        """
        subset = copy.copy(self)
        subset._places = torch.full((self.num_items,), -1, dtype=torch.int64, device=self.device)
        subset._places[items] = (
            items if self.mapped else torch.arange(len(items), device=self.device)
        )
        if not self.mapped:
            subset._tensors = self.rows(items)
        return subset

    @property
    def items(self) -> Tensor:
        """Ids of the items whose features are here, increasing."""
        if self._places is None:
            return torch.arange(self.num_items, device=self.device)
        return (self._places >= 0).nonzero()[:, 0]

    def rows(self, items: Tensor) -> dict[str, Tensor]:
        """Return the stored rows of the given items (n,) on the device: modality -> (n, d)."""
        # On a GPU this check would wait for the device; `index_select` fails there for place -1.
        if self._places is not None:
            items = self._places[items]
            if items.device.type == "cpu" and len(items) and int(items.min()) < 0:
                raise IndexError("ItemFeatures: `items` has an item that these features leave out.")
        if not self.mapped:
            return {name: x.index_select(0, items) for name, x in self._tensors.items()}
        places = items.cpu()
        return {
            name: x.index_select(0, places).to(self.device) for name, x in self._tensors.items()
        }

    def masked(self, items: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the rows of the given items, with NaN where `mask` is False.

        If the features are mapped, so is the result: the rows are copied to temporary files, in the
        folder that TMPDIR names, which vanish with the tensors.

        Arguments:
            items: (n,) ids.
            mask: bool (n, M), in the order of the modalities.
        """
        if not self.mapped or self.device.type != "cpu":
            rows = self.rows(items)
            return {
                name: x.masked_fill(~mask[:, m, None], torch.nan)
                for m, (name, x) in enumerate(rows.items())
            }
        files = {
            name: _temporary((len(items), x.shape[1]), x.dtype) for name, x in self._tensors.items()
        }
        start = 0
        for block, rows in self.blocks(items):
            at = slice(start, start + len(block))
            for m, (name, x) in enumerate(rows.items()):
                files[name][at] = x.masked_fill(~mask[at, m, None], torch.nan)
            start += len(block)
        return files

    def blocks(self, items: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the items and their rows in blocks."""
        for block in torch.split(items, ROWS_AT_ONCE):
            yield block, self.rows(block)


def _temporary(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return a tensor over the memory map of a temporary file that has no name."""
    with tempfile.TemporaryFile() as file:
        number = torch.empty(0, dtype=dtype).numpy().dtype
        if not shape[0]:
            return torch.empty(shape, dtype=dtype)
        # The map remains when the file is closed.
        return torch.from_numpy(np.memmap(file, number, "w+", shape=shape))


def _as_tensor(x: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over the memory of an array, without a copy.

    torch warns that the memory of a read-only map is not writable; nothing here writes to it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(x))
