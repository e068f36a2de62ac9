"""Base of all imputers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from invmod._fitted import FittedModule
from invmod.missingness.masks import MaskLike


class Imputer(FittedModule):
    """Base of all imputers: fills features, and checks that their dtypes can hold fills."""

    # Whether fills are exact in integers and bools, so that such features can be filled.
    _fills_integers: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the unavailable rows.

        Arguments:
            features: modality name -> (N, ...). A modality that is absent or None is missing in all
                rows, so all of them are filled.
            mask: bool (N, M) or name -> (N,), True for the available cells.

        Returns:
            (features, usable): every modality (N, ...), and an all-True mask (N, M). Available
            cells are returned unchanged. NaN or an infinity in an available cell stays visible:
            in the cell itself, and in all fills of its row that depend on it.

        Raises:
            RuntimeError: the imputer is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit, or the mask marks a modality as
                available that is absent or None.
        """

    def _check_row(self, function: str, name: str, x: Tensor, shape: torch.Size) -> None:
        """Raise unless a feature has rows of the fitted shape and a dtype that can hold fills."""
        if x.shape[1:] != shape:
            raise ValueError(
                f"{function}: the feature of {name!r} must have shape (N, "
                f"{', '.join(map(str, shape))}) as in `fit`, got {tuple(x.shape)}."
            )
        if not (self._fills_integers or x.is_floating_point()):
            raise TypeError(
                f"{function}: the feature of {name!r} must be floating point, as in `fit`, got "
                f"{x.dtype}, in which fills would be rounded. Convert it, for example with "
                "`x.float()`."
            )
