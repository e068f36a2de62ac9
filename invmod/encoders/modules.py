"""Modality-specific encoders: one module per modality, with the results stacked to one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from invmod._checks import check_count, check_names, has_known_values
from invmod._text import NAMES, encode_text, restore_text
from invmod.encoders.names import check_loaded_names
from invmod.encoders.rows import (
    Feature,
    call_module,
    count_rows,
    first_entry,
    hide_rows,
    running_statistics_for_single_rows,
    select_rows,
)
from invmod.missingness.masks import MaskLike, mask_columns


class ModalityEncoders(nn.Module):
    r"""Encode every modality by its own module and stack the results.

    .. math::
        c_{nm} = G_m(x_{nm})

    where :math:`x_{nm}` is the feature of sample n and modality m, :math:`G_m` is the modality's
    module, and :math:`c_{nm}` is the embedding, a row of z.

    Any string may name a modality, including ``"type"`` and ``"audio.v2"``, which `nn.ModuleDict`
    refuses: the names are stored separately from the modules, which form a list (``state_dict``
    keys are ``encoders.0...`` in the order of `modalities`). The state also contains the names, as
    the integer buffer ``modality_names``. Loading a state with other names, or with the same names
    in another order, is an error. A state without names, from an older version, loads with a
    warning.

    Features may have any dtype and any shape after the first axis: vectors, images (N, C, H, W),
    or token ids (N, L) of int64. A feature may also be a mapping such as ``{"input_ids": (N, L),
    "attention_mask": (N, L)}``; its module receives the entries as keyword arguments. The content
    of a cell that `mask` hides (NaN, or an id out of range) never reaches a module. Instead, the
    module receives

    * by default, a row of zeros of the feature's dtype (False for bools) in every entry, which is a
      valid index into every embedding. Shapes stay fixed, so this mode works under
      ``torch.compile``, ``torch.export`` and ONNX, and does not wait for the device;
    * with ``skip_missing=True``, only the available rows. Missing cells then cost nothing, batch
      statistics are those of the available rows, and modules that return NaN for a row of zeros
      (a mean over the tokens that are not padding, a division by a norm) are safe to use. The
      module must accept a batch of any number of rows, including 0. With exactly one available
      row, batch normalisation in training mode uses its running statistics and leaves them
      unchanged, because one row has no variance. The number of rows depends on the mask, so only
      modules that do not compare numbers of rows can be exported or compiled to one graph: linear
      maps can, batch normalisation cannot. Set ``skip_missing`` to False before an export, in
      evaluation mode: z stays the same for modules that treat rows independently.

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
        >>> encoders({"text": torch.randn(3, 4)})[:, 1]  # no image in any row
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]], grad_fn=<SelectBackward0>)
    """

    modality_names: Tensor

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
        self.register_buffer(NAMES, encode_text(self.modalities))
        # Input widths by name and the output width D, set by `linear` and `mlp`; modules of the
        # caller have none here.
        self._widths: dict[str, int] = {}
        self._embedding_dim: int | None = None

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
        widths = [check_count("ModalityEncoders.mlp", "hidden_dims", w) for w in hidden_dims]

        def build(dim: int) -> nn.Module:
            layers: list[nn.Module] = []
            for width in widths:
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
        encoders = cls({name: build(int(dim)) for name, dim in dims.items()})
        encoders._widths = {name: int(dim) for name, dim in dims.items()}
        encoders._embedding_dim = int(embedding_dim)
        return encoders

    @override
    def forward(
        self, features: Mapping[str, Feature | None], mask: MaskLike | None = None
    ) -> Tensor:
        """Encode features to z.

        Arguments:
            features: modality name -> (N, ...), or name -> mapping of such tensors, which the
                module receives as keyword arguments. A modality that is absent or None is missing
                in all rows.
            mask: bool (N, M) or name -> (N,), True for the cells that may be used. An unavailable
                row is replaced by zeros before the module, or left out with ``skip_missing=True``,
                so that its content, NaN included, reaches neither z nor a gradient. None means all
                cells of the given modalities.

        Returns:
            (N, M, D); unavailable cells are 0.

        Raises:
            KeyError: a modality is unknown.
            TypeError: a feature is neither a tensor nor a mapping of tensors, the mask is not bool,
                or a module does not return a tensor.
            ValueError: modalities have different numbers of rows, a feature has the wrong width,
                a module does not return (N, D), or the mask has available cells of an absent
                modality (checked where the values are known, not in compiled or exported code).
            Exception: a module's own error, with the name of its modality prepended.
        """
        num_rows = count_rows(features, mask, self.modalities, self._widths)
        columns: Sequence[Tensor | None] = [None] * len(self.modalities)
        if mask is not None:
            columns = mask_columns("ModalityEncoders", mask, self.modalities, num_rows).unbind(1)
        encoded: dict[str, Tensor] = {}
        for (name, encoder), column in zip(self._named(), columns, strict=True):
            x = features.get(name)
            if x is not None:
                encoded[name] = self._encode(name, encoder, x, column)
            elif column is not None:
                _check_hidden(name, column)
        dims = {name: c.shape[1] for name, c in encoded.items()}
        # Widths are compared one by one: a set would hash them, which symbolic sizes do not allow.
        if any(dim != next(iter(dims.values())) for dim in dims.values()):
            raise ValueError(
                f"ModalityEncoders: all modules must return the same width D, got {dims}."
            )
        if len(encoded) < len(self.modalities):
            zeros = self._zeros(encoded, num_rows)
            encoded = {name: encoded.get(name, zeros) for name in self.modalities}
        return torch.stack(list(encoded.values()), dim=1)

    def _named(self) -> Iterator[tuple[str, nn.Module]]:
        """Iterate over the pairs (name, module)."""
        return zip(self.modalities, self.encoders, strict=True)

    def _zeros(self, encoded: Mapping[str, Tensor], num_rows: int) -> Tensor:
        """Return the embeddings (N, D) of a modality that is missing in all rows."""
        for c in encoded.values():
            return c.new_zeros(c.shape)
        parameter = next(self.parameters(), None)
        if self._embedding_dim is None or parameter is None:
            raise ValueError(
                "ModalityEncoders: no modality is given, so the width D of the caller's modules is "
                "unknown. Give the features of at least one modality."
            )
        return parameter.new_zeros(num_rows, self._embedding_dim)

    def _encode(self, name: str, encoder: nn.Module, x: Feature, column: Tensor | None) -> Tensor:
        """Return the embeddings (N, D) of one modality; `column` (N,) is its column of the mask."""
        if column is None:
            return call_module(name, encoder, x)
        if not self.skip_missing:
            c = call_module(name, encoder, hide_rows(x, column))
            # A module maps zeros to its bias, so the missing rows of z are set to 0 again.
            return torch.where(column[:, None], c, 0.0)
        # Encode the available rows only and scatter them into a table of zeros.
        first = first_entry(x)
        (rows,) = column.to(first.device).nonzero(as_tuple=True)
        single = self.training and rows.shape[0] == 1
        with running_statistics_for_single_rows(encoder) if single else nullcontext():
            c = call_module(name, encoder, select_rows(x, rows))
        return c.new_zeros(first.shape[0], c.shape[1]).index_copy(0, rows, c)

    @override
    def extra_repr(self) -> str:
        return f"modalities={self.modalities}, skip_missing={self.skip_missing}"

    @override
    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        restore_text(self.modality_names, self.modalities)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    @override
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Compare the names before any encoder of this module is changed, then load as usual."""
        key = f"{prefix}{NAMES}"
        if check_loaded_names(state_dict, prefix, self.modalities):
            # A state of another length would be an error of its own, and floats from an average of
            # states would replace the integers where tensors are assigned.
            state_dict = {**state_dict, key: encode_text(self.modalities, state_dict[key].device)}
        else:
            # With `assign=True` the module may still be on the meta device.
            device = "cpu" if self.modality_names.is_meta else self.modality_names.device
            self.modality_names = encode_text(self.modalities, device)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)


def _check_hidden(name: str, column: Tensor) -> None:
    """Raise if the mask (N,) of an absent modality has an available row.

    Its values are unknown in traced code and on the meta device.
    """
    if has_known_values(column) and column.any():
        raise ValueError(
            f"ModalityEncoders: `features` has no modality {name!r}, but `mask` has "
            f"{int(column.sum())} available rows of it. Hide them, for example with "
            "`mask_from_features`, or impute the modality first."
        )
