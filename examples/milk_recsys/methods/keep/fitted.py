"""The fitted KEEP: a module that embeds new items of any pattern. Equations are in `model.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invmod.regression import PatternKernelRidge
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.methods import closed_form
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.keep.content import content_regression
from milk_recsys.methods.keep.division import embed_divided
from milk_recsys.methods.keep.embedded import EmbeddedItems
from milk_recsys.methods.keep.pairs import user_sums

BLOCK = 4096  # Number of items that are embedded at once.
MAX_WEIGHTS = 2**27  # Number of weights of warm items in memory, for a block of new items.
SHARED_NAMES = ("trained_users", "counts", "exponent", "shrinkage")
# The vectors A of the users, or their pairs and the factors c with A_u = (x_u E) c.
USER_NAMES = (("users.weight",), ("user_offsets", "user_items", "user_factors", "damping"))
# The vectors E of the warm items, or its entries if it is sparse.
ITEM_NAMES = (("items",), ("item_rows", "item_columns", "item_values"))


def item_state(items: Tensor) -> dict[str, Tensor]:
    """Return the part of the state that holds E (n, r), which may be sparse."""
    if not items.is_sparse:
        return {"items": items}
    parts = (*items.indices(), items.values())
    return dict(zip(ITEM_NAMES[1], parts, strict=True))


class KeepModel(nn.Module):
    """The fitted KEEP, which embeds new items of any pattern without the training pairs.

    Arguments:
        modalities: names, in the order of the columns of masks.
        own: the method's options.
        regression: the regression on content, fitted on all warm items.
        state: ``trained_users`` (U,) bool, the vectors E as in `item_state`, ``counts`` (n,)
            numbers of pairs, ``shrinkage`` () and ``exponent`` () of the predicted popularity; and
            the vectors A as ``users.weight`` (U, r), or what they are made of: ``user_offsets``
            (U + 1,), ``user_items`` (P,), ``user_factors`` (r,) and the popularity exponent
            ``damping`` ().
        first_user: the user of the first row of A or of the first pairs, if the state has those of
            consecutive users only.

    Raises:
        KeyError: the state lacks a tensor, or has one too many.
    """

    users: nn.Embedding | None
    trained_users: Tensor
    counts: Tensor
    exponent: Tensor
    shrinkage: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        own: Any,
        regression: PatternKernelRidge,
        state: Mapping[str, Tensor],
        first_user: int = 0,
    ) -> None:
        super().__init__()
        check_names(state)
        self.first_user = first_user
        self.modalities, self.options, self.regression = tuple(modalities), own, regression
        self.users = None
        if "users.weight" in state:
            self.users = nn.Embedding.from_pretrained(state["users.weight"])
        for name, x in state.items():
            if name != "users.weight":
                self.register_buffer(name, x)
        self._predictor: Callable[..., Tensor] | None = None  # A projected regression.
        self._embedded = EmbeddedItems()
        self.sums: Any = None  # The sums over pairs that `update.py` keeps between updates.
        # What is known of the accuracy of the vectors, if they were computed in this process.
        self.accuracy: Mapping[str, float] = {}

    def forget(self) -> None:
        """Drop what was computed from the state."""
        self._predictor = self.sums = None
        self._embedded.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> KeepModel:
        self.forget()  # `fn` may change the precision or the device.
        super()._apply(fn, recurse)
        # The regression keeps its dtype, so a model of another precision needs another regression.
        dtype = self.counts.dtype
        if dtype != self.regression.dtype:
            state = self.regression.state_dict()
            self.regression = content_regression(
                self.regression.modalities, self.options, dtype, len(self.counts), projected=True
            )
            self.regression.load_state_dict(
                {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
            )
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state; see `torch.nn.Module.load_state_dict`.

        If the state equals the present one, nothing changes, so that cached regressions remain.
        """
        present = self.state_dict()
        if present.keys() == state_dict.keys() and all(
            _equal(x.to(present[name]), present[name]) for name, x in state_dict.items()
        ):
            return nn.modules.module._IncompatibleKeys([], [])
        self.forget()
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def chosen(self) -> dict[str, Any]:
        """Options that were chosen or given, with weights and ridges of the patterns met so far.

        With singular vectors also `accuracy`.
        """
        kernels = {
            name: None if kernel is None else kernel.width
            for name, kernel in self.regression.kernels.items()
        }
        return {
            "shrinkage": float(self.shrinkage),
            "predicted_popularity": float(self.exponent),
            "width": kernels,
            "patterns": {
                "+".join(names): {"weights": list(choice.weights), "ridge": choice.ridge}
                for names, choice in self.regression.choices.items()
            },
            **self.accuracy,
        }

    @property
    def dim(self) -> int:
        """The width of the vectors, r."""
        return (
            len(self.get_buffer("user_factors")) if self.users is None else self.users.embedding_dim
        )

    @torch.no_grad()
    def user_vectors(self, users: Tensor | None) -> Tensor:
        """Return the vectors A (u, r) of users; None for all that the state has."""
        users = None if users is None else users - self.first_user
        if self.users is not None:
            weight = self.users.weight
            return weight if users is None else weight.index_select(0, users)
        if users is None:
            users = torch.arange(
                len(self.get_buffer("user_offsets")) - 1, device=self.counts.device
            )
        items, damping = self.get_buffer("items"), self.get_buffer("damping")
        pairs = self.get_buffer("user_offsets"), self.get_buffer("user_items")
        scales = self.counts.clamp(min=1).to(items) ** -damping
        return user_sums(users, *pairs, scales, damping, items) * self.get_buffer("user_factors")

    @torch.no_grad()
    def embed_catalogue_items(
        self,
        features: ItemFeatures,
        items: Tensor,
        mask: Tensor,
        world: World = SINGLE_PROCESS,
    ) -> Tensor:
        """Return the vectors (C, r) of new items of a catalogue; they are kept, see `embed_items`.

        Arguments:
            items: (C,) distinct ids.
            mask: (C, M) bool, the modalities that may be used.
            world: processes that call this method together; each embeds some of the items.
        """
        return self._embedded.vectors(
            features, items, mask, lambda some, own: embed_divided(self, features, some, own, world)
        )

    def patterns(self, mask: Tensor) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Yield the items of each pattern in the mask (N, M), and the regression's modalities."""
        names = self.regression.modalities
        own = mask[:, [self.modalities.index(name) for name in names]]
        for modalities, items in closed_form.patterns(own):
            yield tuple(names[m] for m in modalities) if self.options.per_pattern else names, items

    @torch.no_grad()
    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the vectors (N, r) of new items, each from the regression of its pattern.

        They include the factor of the predicted popularity, up to a constant that is the same for
        all items. The vector of an item without any modality is 0.
        """
        names = self.regression.modalities
        weights = len(self.counts) if self._weighs_items else 1
        size = max(1, min(BLOCK, MAX_WEIGHTS // weights))
        own = mask[:, [self.modalities.index(name) for name in names]]
        vectors = self.counts.new_zeros(len(mask), self.dim)
        for pattern, items in self.patterns(mask):
            for block in items.split(size):
                rows = {name: features[name][block] for name in names if name in features}
                vectors[block] = self._vectors(rows, own[block], pattern)
        return vectors

    def scores_of(self, vectors: Tensor) -> ScoreBlock:
        """Return a function from users to their scores of items with these vectors, <A_u, v_c>."""
        return lambda users: self.user_vectors(users) @ vectors.T

    @property
    def _weighs_items(self) -> bool:
        """Whether a vector is a sum over warm items, with a weight of each."""
        return self.regression.is_exact or "items" not in self._buffers

    def _vectors(
        self, rows: Mapping[str, Tensor], mask: Tensor, pattern: tuple[str, ...]
    ) -> Tensor:
        """Return the vectors (N, r) of items by the regression of a pattern."""
        if self._weighs_items:
            h = self.regression.smoother(rows, mask, pattern=pattern)
            vectors, logs = self._summed(h), h @ self._centred_logs()
        else:
            if self._predictor is None:
                targets = torch.cat([self.get_buffer("items"), self._centred_logs()], dim=1)
                self._predictor = self.regression.with_targets(targets)
            values = self._predictor(rows, mask, pattern=pattern)
            vectors, logs = values.split([values.shape[1] - 1, 1], dim=1)
        return vectors * (self.exponent * logs).exp()

    def _summed(self, h: Tensor) -> Tensor:
        """Return h E (N, r)."""
        if "items" in self._buffers:
            return h @ self.get_buffer("items")
        rows, columns, values = (self.get_buffer(name) for name in ITEM_NAMES[1])
        size = (self.dim, len(self.counts))
        transposed = torch.sparse_coo_tensor(
            torch.stack([columns, rows]), values, size, check_invariants=False
        )
        return torch.sparse.mm(transposed.coalesce(), h.T.contiguous()).T

    def _centred_logs(self) -> Tensor:
        """Return log d_W - mean(log d_W), (n, 1)."""
        logs = self.counts.clamp(min=1).log()
        return (logs - logs.mean())[:, None]


def check_names(state: Mapping[str, Tensor]) -> None:
    """Raise unless the state has the tensors of `KeepModel`."""
    items = ITEM_NAMES[any(name in state for name in ITEM_NAMES[1])]
    users = USER_NAMES[any(name in state for name in USER_NAMES[1])]
    if mismatch := sorted(set(state) ^ {*SHARED_NAMES, *users, *items}):
        raise KeyError(f"the model lacks, or should not have, {', '.join(mismatch)}")


def _equal(x: Tensor, y: Tensor) -> bool:
    """Return whether two tensors are equal; NaN stands for an option that was not compared."""
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
