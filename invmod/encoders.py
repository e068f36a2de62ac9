"""Modality-specific encoders: one module per name, stacked to one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_names
from invmod.missingness.masks import MaskLike, append_axes, mask_columns


class ModalityEncoders(nn.Module):
    r"""Encode every modality by its own module and stack the results.

    .. math::
        c_{nm} = G_m(x_{nm})

    Any string is the name of a modality, ``"type"`` and ``"audio.v2"`` included: names are kept beside the modules,
    which sit in a list (``state_dict`` keys are ``encoders.0...`` in the order of `modalities`).

    Features may have any shape and dtype behind the first axis: vectors, images (N, C, H, W), token ids (N, L) of
    int64. What lies in a cell that `mask` hides, NaN or an id out of range, never reaches a module. In its place a
    module sees

    * a row of zeros, of the feature's dtype (False for bools): a valid index of every embedding. This is the default.
      It keeps shapes fixed, so that it traces under ``torch.compile`` and waits for no device;
    * nothing, with ``skip_missing=True``: a module is called with the available rows alone, none of them included.
      Missing cells then cost nothing, batch statistics are those of the available rows, and a module that is not
      finite on zeros (a mean over tokens other than padding, a division by a norm) does no harm. It must take a batch
      of any number of rows, 0 included.

    In both cases the cell's z is 0 and no gradient comes from it.

    Arguments:
        modules: modality name -> module from features (N, ...) to (N, D), the same D for all. The order of this
            mapping is the order of z's modality axis.
        skip_missing: whether modules are called with the available rows alone.

    Attributes:
        modalities: the M names in the order of z's columns.

    Raises:
        ValueError: no module.
        TypeError: a name is not a string or a value not a module.

    References:
        Bai et al., SIGIR 2024, Eq. 5 (the linear ones).

    Example:
        >>> encoders = ModalityEncoders.linear({"text": 4, "image": 6}, embedding_dim=2)
        >>> z = encoders({"image": torch.randn(3, 6), "text": torch.randn(3, 4)})
        >>> encoders.modalities, z.shape
        (('text', 'image'), torch.Size([3, 2, 2]))
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, skip_missing: bool = False) -> None:
        super().__init__()
        self.skip_missing = skip_missing
        self.modalities = check_names("ModalityEncoders", list(modules))
        for name, module in modules.items():
            if not isinstance(module, nn.Module):
                raise TypeError(
                    f"ModalityEncoders: the encoder of {name!r} must be an nn.Module, got {type(module).__name__}."
                )
        self.encoders = nn.ModuleList(modules.values())
        self._widths: dict[str, int] = {}  # where the constructor knows them

    @classmethod
    def linear(cls, dims: Mapping[str, int], embedding_dim: int, *, bias: bool = True) -> Self:
        """Build one linear map per modality, from ``dims[name]`` to `embedding_dim`.

        Raises:
            TypeError: a dimension is not an int.
            ValueError: a dimension below 1.
        """
        return cls._from_dims(dims, embedding_dim, lambda d: nn.Linear(d, embedding_dim, bias=bias))

    @classmethod
    def mlp(
        cls,
        dims: Mapping[str, int],
        embedding_dim: int,
        *,
        hidden_dims: Sequence[int] = (128,),
        dropout: float = 0.0,
    ) -> Self:
        """Build one multilayer perceptron per modality: linear, ReLU and dropout per hidden layer, then linear.

        Raises:
            TypeError: a dimension is not an int.
            ValueError: a dimension below 1.
        """
        if any(width < 1 for width in hidden_dims):
            raise ValueError(
                f"ModalityEncoders.mlp: `hidden_dims` must be positive, got {tuple(hidden_dims)}."
            )

        def build(dim: int) -> nn.Module:
            layers: list[nn.Module] = []
            for width in hidden_dims:
                layers += [nn.Linear(dim, width), nn.ReLU()]
                layers += [nn.Dropout(dropout)] if dropout else []
                dim = width
            return nn.Sequential(*layers, nn.Linear(dim, embedding_dim))

        return cls._from_dims(dims, embedding_dim, build)

    @classmethod
    def _from_dims(
        cls, dims: Mapping[str, int], embedding_dim: int, build: Callable[[int], nn.Module]
    ) -> Self:
        for name, dim in (*dims.items(), ("embedding_dim", embedding_dim)):
            if isinstance(dim, bool) or not isinstance(dim, (int, Integral)):
                raise TypeError(
                    f"ModalityEncoders: the dimension of {name!r} must be an int, got {dim!r}."
                )
            if dim < 1:
                raise ValueError(
                    f"ModalityEncoders: the dimension of {name!r} must be at least 1, got {dim}."
                )
        encoders = cls({name: build(dim) for name, dim in dims.items()})
        encoders._widths = dict(dims)
        return encoders

    @override
    def forward(self, features: Mapping[str, Tensor], mask: MaskLike | None = None) -> Tensor:
        """Encode features to z.

        Arguments:
            features: modality name -> (N, ...), exactly the names of `modalities`.
            mask: bool (N, M) or name -> (N,), the cells that may be used. An unavailable row is replaced by zeros
                before the module, or left out with ``skip_missing=True``, so that what lies there, NaN included,
                reaches neither z nor a gradient.

        Returns:
            (N, M, D); unavailable cells are 0.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError: a feature is None, or the mask is not bool.
            ValueError: rows differ, a feature has the wrong width, or a module returns something else than (N, D).
            Exception: a module's own error, with the name of its modality before it.
        """
        num_rows = self._check(features)
        columns: Sequence[Tensor | None] = [None] * len(self.modalities)
        if mask is not None:
            columns = mask_columns("ModalityEncoders", mask, self.modalities, num_rows).unbind(1)
        encoded = [
            self._encode(name, encoder, features[name], column)
            for (name, encoder), column in zip(self._named(), columns, strict=True)
        ]
        dims = {name: c.shape[1] for name, c in zip(self.modalities, encoded, strict=True)}
        if len(set(dims.values())) > 1:
            raise ValueError(
                f"ModalityEncoders: all modules must return the same width D, got {dims}."
            )
        return torch.stack(encoded, dim=1)

    def _named(self) -> Iterator[tuple[str, nn.Module]]:
        return zip(self.modalities, self.encoders, strict=True)

    def _check(self, features: Mapping[str, Tensor]) -> int:
        """Return N after checking names, types, rows and, where known, widths."""
        unknown = [name for name in features if name not in self.modalities]
        absent = [name for name in self.modalities if name not in features]
        if unknown or absent:
            raise KeyError(
                f"ModalityEncoders: `features` must have exactly the modalities {self.modalities}; "
                f"unknown: {unknown}, absent: {absent}. Impute an absent modality first, or pass "
                "zeros and mask it."
            )
        for name, x in features.items():
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"ModalityEncoders: the feature of {name!r} must be a tensor, got {type(x).__name__}."
                )
            if x.ndim == 0:
                raise ValueError(
                    f"ModalityEncoders: the feature of {name!r} must have shape (N, ...), got a scalar."
                )
            width = self._widths.get(name)
            if width is not None and (x.ndim != 2 or x.shape[1] != width):
                raise ValueError(
                    f"ModalityEncoders: the feature of {name!r} must have shape (N, {width}), got {tuple(x.shape)}."
                )
        rows = {name: x.shape[0] for name, x in features.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"ModalityEncoders: modalities must have equal numbers of rows, got {rows}."
            )
        return next(iter(rows.values()))

    def _encode(self, name: str, encoder: nn.Module, x: Tensor, column: Tensor | None) -> Tensor:
        if column is not None and self.skip_missing:
            (rows,) = column.to(x.device).nonzero(as_tuple=True)
            some = self._encode(name, encoder, x[rows], None)
            return some.new_zeros(len(x), some.shape[1]).index_copy(0, rows, some)
        if column is not None:
            x = torch.where(
                append_axes(column, x), x, torch.zeros((), dtype=x.dtype, device=x.device)
            )
        try:
            c: Tensor = encoder(x)
        except Exception as error:
            raise _with_name(error, name, x) from error
        if c.ndim != 2 or c.shape[0] != x.shape[0]:
            raise ValueError(
                f"ModalityEncoders: the module of {name!r} must return (N, D) with N = "
                f"{x.shape[0]}, got {tuple(c.shape)}."
            )
        return c if column is None else torch.where(column[:, None], c, 0.0)


def _with_name(error: Exception, name: str, x: Tensor) -> Exception:
    """Rebuild a module's error with its modality in front; a type that cannot be rebuilt becomes RuntimeError."""
    message = (
        f"ModalityEncoders: the module of {name!r} failed on a feature of shape "
        f"{tuple(x.shape)} and dtype {x.dtype}: {error}"
    )
    try:
        return type(error)(message)
    except TypeError:
        return RuntimeError(message)
