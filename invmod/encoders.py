"""Modality-specific encoders: one module per modality, with the results stacked to one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_feature, check_names
from invmod.missingness.masks import MaskLike, append_axes, mask_columns


class ModalityEncoders(nn.Module):
    r"""Encode every modality by its own module and stack the results.

    .. math::
        c_{nm} = G_m(x_{nm})

    where :math:`x_{nm}` is the feature of sample n and modality m, :math:`G_m` is the modality's
    module, and :math:`c_{nm}` is the embedding, a row of z.

    Any string may name a modality, including ``"type"`` and ``"audio.v2"``, which `nn.ModuleDict`
    refuses: the names are stored separately from the modules, which form a list (``state_dict``
    keys are ``encoders.0...`` in the order of `modalities`).

    Features may have any dtype and any shape after the first axis: vectors, images (N, C, H, W),
    or token ids (N, L) of int64. The content of a cell that `mask` hides (NaN, or an id out of
    range) never reaches a module. Instead, the module receives

    * by default, a row of zeros of the feature's dtype (False for bools), which is a valid index
      into every embedding. Shapes stay fixed, so this mode works under ``torch.compile`` and does
      not wait for the device;
    * with ``skip_missing=True``, only the available rows. Missing cells then cost nothing, batch
      statistics are those of the available rows, and modules that return NaN for a row of zeros
      (a mean over the tokens that are not padding, a division by a norm) are safe to use. The
      module must accept a batch of any number of rows, including 0.

    In both modes, z is 0 in the missing cells and no gradient comes from them.

    Arguments:
        modules: modality name -> module from features (N, ...) to (N, D), with the same D for all.
            The order of this mapping is the order of z's modality axis.
        skip_missing: call the modules with the available rows only.

    Attributes:
        modalities: the M names in the order of z's columns.

    Raises:
        ValueError: `modules` is empty.
        TypeError: a name is not a string, or a value is not a module.

    References:
        Bai et al., SIGIR 2024, Eq. 5, for linear encoders.

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
                    f"ModalityEncoders: the encoder of {name!r} must be an nn.Module, "
                    f"got {type(module).__name__}."
                )
        self.encoders = nn.ModuleList(modules.values())
        # Input widths by name, filled by `linear` and `mlp`; modules of the caller have none here.
        self._widths: dict[str, int] = {}

    @classmethod
    def linear(cls, dims: Mapping[str, int], embedding_dim: int, *, bias: bool = True) -> Self:
        """Build one linear map per modality, from ``dims[name]`` to `embedding_dim`.

        Raises:
            TypeError: a dimension is not an int.
            ValueError: a dimension is below 1.
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
        """Build one multilayer perceptron per modality.

        Each hidden layer is a linear map, ReLU and dropout. The output layer is linear.

        Raises:
            TypeError: a dimension is not an int.
            ValueError: a dimension is below 1.
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
        """Check all dimensions, then build one module per modality with ``build(dim)``."""
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
            mask: bool (N, M) or name -> (N,), True for the cells that may be used. An unavailable
                row is replaced by zeros before the module, or left out with ``skip_missing=True``,
                so that its content, NaN included, reaches neither z nor a gradient.

        Returns:
            (N, M, D); unavailable cells are 0.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError: a feature is None, or the mask is not bool.
            ValueError: modalities have different numbers of rows, a feature has the wrong width,
                or a module does not return (N, D).
            Exception: a module's own error, with the name of its modality prepended.
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
        """Iterate over the pairs (name, module)."""
        return zip(self.modalities, self.encoders, strict=True)

    def _check(self, features: Mapping[str, Tensor]) -> int:
        """Check names, types, numbers of rows and known widths; return N."""
        unknown = [name for name in features if name not in self.modalities]
        absent = [name for name in self.modalities if name not in features]
        if unknown or absent:
            raise KeyError(
                f"ModalityEncoders: `features` must have exactly the modalities {self.modalities}; "
                f"unknown: {unknown}, absent: {absent}. Impute an absent modality first, or pass "
                "zeros and mask it."
            )
        for name, x in features.items():
            check_feature("ModalityEncoders", name, x)
            width = self._widths.get(name)
            if width is not None and (x.ndim != 2 or x.shape[1] != width):
                raise ValueError(
                    f"ModalityEncoders: the feature of {name!r} must have shape (N, {width}), "
                    f"got {tuple(x.shape)}."
                )
        rows = {name: x.shape[0] for name, x in features.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"ModalityEncoders: modalities must have equal numbers of rows, got {rows}."
            )
        return next(iter(rows.values()))

    def _encode(self, name: str, encoder: nn.Module, x: Tensor, column: Tensor | None) -> Tensor:
        """Return the embeddings (N, D) of one modality; `column` (N,) is its column of the mask."""
        if column is not None and self.skip_missing:
            # Encode the available rows only and scatter them into a table of zeros. The recursive
            # call has no mask, so it takes the plain path below.
            (rows,) = column.to(x.device).nonzero(as_tuple=True)
            encoded = self._encode(name, encoder, x[rows], None)
            return encoded.new_zeros(len(x), encoded.shape[1]).index_copy(0, rows, encoded)
        if column is not None:
            # Select instead of multiplying by the mask, because NaN * 0 is NaN.
            x = torch.where(
                append_axes(column, x), x, torch.zeros((), dtype=x.dtype, device=x.device)
            )
        try:
            c: Tensor = encoder(x)
        except Exception as error:
            raise _prefix_error(error, name, x) from error
        if c.ndim != 2 or c.shape[0] != x.shape[0]:
            raise ValueError(
                f"ModalityEncoders: the module of {name!r} must return (N, D) with N = "
                f"{x.shape[0]}, got {tuple(c.shape)}."
            )
        # A module maps zeros to its bias, so the missing rows of z are set to 0 again.
        return c if column is None else torch.where(column[:, None], c, 0.0)


def _prefix_error(error: Exception, name: str, x: Tensor) -> Exception:
    """Return a module's error with the name of its modality prepended to the message.

    The type stays the same, unless it cannot be built from one string: then it is RuntimeError.
    """
    message = (
        f"ModalityEncoders: the module of {name!r} failed on a feature of shape "
        f"{tuple(x.shape)} and dtype {x.dtype}: {error}"
    )
    try:
        return type(error)(message)
    except TypeError:
        return RuntimeError(message)
