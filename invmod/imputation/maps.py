"""Fill by one stored affine map per pattern: the form of linear imputers that can be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from invmod.imputation.joint import JointImputer, TableImputer, shape_error
from invmod.missingness.masks import pattern_codes

MAX_PATTERN_MODALITIES = 10  # one map per pattern: 2**10 = 1024 maps (D, D)


class LinearMapImputer(TableImputer):
    r"""Fill by an affine map of the available modalities, stored for each pattern.

    .. math::
        \hat x_n = A_{p_n} x_n + c_{p_n}

    where :math:`x_n` are the D centred and scaled entries of a row with 0 in missing cells,
    :math:`p_n` is its pattern of available modalities, and :math:`A_p`, :math:`c_p` are the map of
    the pattern p. Observed cells are returned unchanged.

    `RidgeImputer.linear_maps` and `PPCAImputer.linear_maps` build it; it fills as they do. Rows are
    selected by arithmetic and not by their values, so ``torch.export``, ONNX and ``torch.compile``
    take it with any number of rows. It holds and multiplies :math:`2^M` matrices (D, D) of float64,
    and has no `fit`; a new one takes its state by `load_state_dict` or `load`.

    Arguments:
        modalities: the M names in the order of the mask's columns, at most 10.

    Raises:
        TypeError, ValueError: the names are not distinct strings, or there are more than 10.

    Example:
        >>> from invmod.imputation import RidgeImputer
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> mask = torch.ones(3, 2, dtype=torch.bool)
        >>> imputer = RidgeImputer(["x", "y"], ridge=0.0).fit({"x": x, "y": 3 * x + 1}, mask)
        >>> maps = imputer.linear_maps()
        >>> filled, usable = maps({"x": torch.tensor([[5.0]])}, torch.tensor([[True, False]]))
        >>> filled["y"].round(decimals=4)
        tensor([[16.]])
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        if len(self.modalities) > MAX_PATTERN_MODALITIES:
            raise ValueError(
                f"LinearMapImputer: there are 2^{len(self.modalities)} patterns of "
                f"{len(self.modalities)} modalities, too many for a map each; at most "
                f"{MAX_PATTERN_MODALITIES} modalities are possible."
            )

    @override
    def _model_state_names(self) -> list[str]:
        return ["maps", "offsets"]

    @override
    def _fills(self, x: Tensor, a: Tensor) -> Tensor:
        # Not `get_buffer`, which torch.compile does not trace in torch 2.8.
        maps, offsets = (getattr(self, name) for name in self._model_state_names())
        code = pattern_codes(a)[:, None]
        fills = torch.zeros_like(x)
        # The last pattern has all modalities, and nothing to fill.
        for index in range(2 ** len(self.modalities) - 1):
            fills = torch.where(code == index, x @ maps[index].T + offsets[index], fills)
        return fills

    @override
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        num, dim = 2 ** len(sizes), sum(sizes)
        shapes: dict[str, tuple[int, ...]] = {"maps": (num, dim, dim), "offsets": (num, dim)}
        return shape_error("LinearMapImputer", state, shapes)


class LinearJointImputer(JointImputer):
    """Joint imputer whose fills are affine in the available entries of a row."""

    def linear_maps(self) -> LinearMapImputer:
        """Return a module that fills as this one does, and that can be exported and compiled.

        It stores the fitted solution as one affine map per pattern, so later changes of this
        imputer do not change it.

        Returns:
            `LinearMapImputer`, in the training mode and on the device of this imputer.

        Raises:
            RuntimeError: the imputer is not fitted.
            ValueError: there are more than 10 modalities.
        """
        function = f"{type(self).__name__}.linear_maps"
        self._check_fitted(function)
        result = LinearMapImputer(self.modalities)
        centres, scales = self._units()
        dim, num, device = sum(self._sizes()), len(self.modalities), centres[0].device
        maps = torch.zeros(2**num, dim, dim, dtype=torch.float64, device=device)
        offsets = torch.zeros(2**num, dim, dtype=torch.float64, device=device)
        # The fill of a row of zeros is the offset, and the fills of unit rows are the columns.
        # Entries of missing modalities are never read, so their columns are 0.
        rows = torch.cat([torch.zeros_like(maps[0, :1]), torch.eye(dim).to(maps)])
        # The last pattern has all modalities, and nothing to fill.
        for code in range(2**num - 1):
            pattern = torch.tensor([bool(code >> index & 1) for index in range(num)], device=device)
            fills = self._predict(rows, pattern.expand(dim + 1, -1))
            maps[code], offsets[code] = (fills[1:] - fills[0]).T, fills[0]
        result._set_fitted(
            [centre.clone() for centre in centres],
            [scale.clone() for scale in scales],
            {"maps": maps, "offsets": offsets},
        )
        return result.train(self.training)
