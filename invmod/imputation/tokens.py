"""Fill missing features with learned tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_choice
from invmod.imputation.base import Imputer
from invmod.missingness.masks import MaskLike, append_axes, pattern_codes

MAX_PATTERN_MODALITIES = 10  # one token per pattern: 2**10 = 1024 tokens for each modality


class LearnedTokens(Imputer):
    r"""Fill a missing modality with a token that is trained together with the model.

    .. math::
        \hat x_{nm} = a_{nm} x_{nm} + (1 - a_{nm}) \, t_m
        \qquad\text{or}\qquad
        \hat x_{nm} = a_{nm} x_{nm} + (1 - a_{nm}) \, t_{m, a_n}

    where :math:`x_{nm}` is the feature of sample n and modality m, :math:`a_{nm}` is 1 where the
    mask is True, and t are the tokens: one per modality, :math:`t_m`, or one per modality and
    pattern :math:`a_n` of available modalities, :math:`t_{m, a_n}`. There is no `fit`: the tokens
    are parameters. They start at 0, where the result equals `ZeroImputer`. Tokens that a batch does
    not use get a gradient of 0. Features of integers are an error, because no gradient could reach
    a token through them. The module can be exported and compiled with any number of rows.

    Arguments:
        shapes: modality name -> shape of a feature without its first axis, for example ``(d,)`` or
            ``(channels, height, width)``, in the order of the mask's columns.
        per: ``"modality"``, or ``"pattern"`` for up to 10 modalities.

    Raises:
        TypeError, ValueError: the names are not distinct strings, a shape is not a sequence of
            ints that are not negative, `per` is unknown, or there are too many modalities for
            patterns. In a call: a feature is not floating point or complex.

    References:
        Lee et al., Multimodal Prompting with Missing Modalities for Visual Recognition, CVPR 2023,
        for tokens per pattern.

    Example:
        >>> tokens = LearnedTokens({"text": (2,)})
        >>> features = {"text": torch.tensor([[1.0, 2.0], [9.0, 9.0]])}
        >>> filled, usable = tokens(features, torch.tensor([[True], [False]]))
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
        check_choice("LearnedTokens", "per", per, ("modality", "pattern"))
        if per == "pattern" and len(shapes) > MAX_PATTERN_MODALITIES:
            raise ValueError(
                f"LearnedTokens: there are 2^{len(shapes)} patterns of {len(shapes)} modalities, "
                "too many for a token each; use per='modality', or at most "
                f"{MAX_PATTERN_MODALITIES} modalities."
            )
        self.per = per
        count = 1 if per == "modality" else 2 ** len(shapes)
        for index, (name, shape) in enumerate(shapes.items()):
            if (
                isinstance(shape, str)
                or not isinstance(shape, Sequence)
                or any(isinstance(size, bool) or not isinstance(size, Integral) for size in shape)
            ):
                raise TypeError(
                    f"LearnedTokens: the shape of {name!r} must be a sequence of ints, "
                    f"got {shape!r}."
                )
            if any(size < 0 for size in shape):
                raise ValueError(
                    f"LearnedTokens: the shape of {name!r} must not be negative, got {shape!r}."
                )
            token = torch.zeros(count, *map(int, shape))
            self.register_parameter(f"token_{index}", nn.Parameter(token))
        self._set_state({})

    @override
    def _state_names(self) -> list[str]:
        return []

    @override
    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike
    ) -> tuple[dict[str, Tensor], Tensor]:
        function = "LearnedTokens"
        num_rows = self._check_features(function, features, mask)
        columns = self._mask_columns(function, features, mask, num_rows)
        token_index = torch.zeros(num_rows, dtype=torch.int64, device=columns.device)
        if self.per == "pattern":
            token_index = pattern_codes(columns)
        filled = {}
        for index, name in enumerate(self.modalities):
            token: Tensor = getattr(self, f"token_{index}")
            fill, x = token[token_index], features.get(name)
            if x is None:
                filled[name] = fill
                continue
            if not (x.is_floating_point() or x.is_complex()):
                raise TypeError(
                    f"{function}: the feature of {name!r} must be floating point or complex, got "
                    f"{x.dtype}, through which no gradient reaches a token. Put the tokens after "
                    "the embedding of ids, or convert the feature with `x.float()`."
                )
            if x.shape[1:] != token.shape[1:]:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have shape (N, "
                    f"{', '.join(map(str, token.shape[1:]))}), got {tuple(x.shape)}."
                )
            filled[name] = torch.where(append_axes(columns[:, index], x), x, fill.to(x.dtype))
        return filled, torch.ones_like(columns)
