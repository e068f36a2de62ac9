"""Fill with what a model learns to put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes, mask_columns

MOST_PATTERNS_OF = 10  # modalities: 1024 tokens each


class LearnedTokens(Imputer):
    r"""Fill a missing modality with a token that is learned with the model behind it.

    .. math::
        \hat x_{nm} = a_{nm} x_{nm} + (1 - a_{nm}) \, t_m
        \qquad\text{or}\qquad
        \hat x_{nm} = a_{nm} x_{nm} + (1 - a_{nm}) \, t_{m, a_n}

    with one token a modality, or one for each of the patterns of what else is missing. It needs no fit: the tokens are
    parameters, start at 0 (where this is `invmod.ZeroImputer`), and get a gradient where they were used, 0 elsewhere.

    Arguments:
        shapes: modality name -> shape of a feature without its first axis, ``(d,)`` or ``(channels, height, width)``;
            their order is that of the mask's columns.
        per: ``"modality"``, or ``"pattern"`` for up to 10 modalities.

    Raises:
        TypeError, ValueError: the names are not distinct strings, a shape is not a sequence of ints, an unknown `per`,
            or too many modalities for patterns.

    References:
        Lee et al., Multimodal Prompting with Missing Modalities for Visual Recognition, CVPR 2023, for patterns.

    Example:
        >>> tokens = LearnedTokens({"text": (2,)})
        >>> filled, usable = tokens({"text": torch.tensor([[1.0, 2.0], [9.0, 9.0]])}, torch.tensor([[True], [False]]))
        >>> filled["text"].sum().backward()
        >>> filled["text"].tolist(), tokens.token_0.grad.tolist()
        ([[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0]])
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        per: Literal["modality", "pattern"] = "modality",
    ) -> None:
        super().__init__(list(shapes))
        if per not in ("modality", "pattern"):
            raise ValueError(f"LearnedTokens: `per` must be 'modality' or 'pattern', got {per!r}.")
        if per == "pattern" and len(shapes) > MOST_PATTERNS_OF:
            raise ValueError(
                f"LearnedTokens: there are 2^{len(shapes)} patterns of {len(shapes)} modalities, too many for a token "
                f"each; use per='modality', or at most {MOST_PATTERNS_OF} modalities."
            )
        self.per = per
        count = 1 if per == "modality" else 2 ** len(shapes)
        for index, (name, shape) in enumerate(shapes.items()):
            if isinstance(shape, str) or not all(isinstance(size, int) for size in shape):
                raise TypeError(
                    f"LearnedTokens: the shape of {name!r} must be a sequence of ints, got {shape!r}."
                )
            self.register_parameter(f"token_{index}", nn.Parameter(torch.zeros(count, *shape)))

    @override
    def _state_names(self) -> list[str]:
        return []

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        function = "LearnedTokens"
        num_rows = self._check(function, features, mask)
        columns = mask_columns(function, mask, self.modalities, num_rows)
        chosen = torch.zeros(num_rows, dtype=torch.int64, device=columns.device)
        if self.per == "pattern":
            chosen = (columns * 2 ** torch.arange(columns.shape[1], device=columns.device)).sum(
                dim=1
            )
        filled = {}
        for index, name in enumerate(self.modalities):
            token: Tensor = getattr(self, f"token_{index}")
            fill, x = token[chosen], features.get(name)
            if x is None:
                if not torch.compiler.is_compiling() and columns[:, index].any():
                    raise ValueError(
                        f"{function}: the mask calls {name!r} available, but `features` lacks it."
                    )
                filled[name] = fill
                continue
            if x.shape[1:] != token.shape[1:]:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have shape (N, "
                    f"{', '.join(map(str, token.shape[1:]))}), got {tuple(x.shape)}."
                )
            filled[name] = torch.where(append_axes(columns[:, index], x), x, fill.to(x.dtype))
        return filled, torch.ones_like(columns)
