"""A user table sharded over ranks by TorchRec, and updated during backward by `LazyAdam`.

Each rank holds only its own rows of the table and of Adam's two moments. TorchRec is imported when
a table is created, not before; ``make distributed`` installs it.
"""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from milk_recsys.base.distributed import BLOCK_BYTES, stream_rows
from milk_recsys.methods.milk.lazy_adam import LazyAdam

__all__ = ["MOMENTS", "ShardedUsers", "fill_rows", "shard_rows"]

MOMENTS = ("exp_avg", "exp_avg_sq")  # The names that torch.optim.SparseAdam uses.
DRAWN_VALUES = 2**20  # Number of values per block while a table is drawn (4 MB).


def shard_rows(num_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first row of a rank and the row after its last.

    Blocks have ``ceil(num_rows / world_size)`` rows, except that the last ones may be shorter or
    empty.

    Example:
        >>> [shard_rows(10, rank, 4) for rank in range(4)]
        [(0, 3), (3, 6), (6, 9), (9, 10)]
        >>> [shard_rows(5, rank, 4) for rank in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    block = math.ceil(num_rows / world_size)
    return min(rank * block, num_rows), min((rank + 1) * block, num_rows)


@torch.no_grad()
def fill_rows(
    rows: Tensor, start: int, num_rows: int, *, std: float, generator: torch.Generator | None = None
) -> Tensor:
    """Fill some rows of a table as ``nn.init.normal_(table, std=std, generator=generator)`` would.

    The whole table is drawn, 4 MB at a time, and values outside the rows are dropped. The generator
    is therefore left in the state in which drawing the whole table on a CPU leaves it. With zero
    rows, (0, D), the function only advances the generator.

    Arguments:
        rows: (R, D) float32 on any device, the table's rows start to start + R, written in place.
        num_rows: number of rows of the whole table.
        generator: a CPU generator; None for torch's default generator.

    Returns:
        the same tensor.

    Raises:
        TypeError: `rows` is not float32.
        ValueError: the rows do not lie within the table.
    """
    if rows.dtype != torch.float32:
        raise TypeError(
            f"fill_rows: `rows` must have dtype torch.float32, got {rows.dtype}. "
            "Fill, then convert."
        )
    stop, dim = start + len(rows), rows.shape[1]
    if not 0 <= start <= stop <= num_rows:
        raise ValueError(
            f"fill_rows: rows {start} to {stop} do not lie within a table of {num_rows} rows."
        )
    # On a CPU, normal_ draws float32 values in groups of 16. If the size is no multiple of 16,
    # it draws the last 16 values once more. Blocks of a multiple of 16 values give the same
    # numbers as one call.
    block = max(16, DRAWN_VALUES // dim // 16 * 16)
    begin = 0
    while begin < num_rows:
        end = min(begin + block, num_rows)
        if (num_rows - end) * dim < 16:  # normal_ has another algorithm below 16 values.
            end = num_rows
        drawn = torch.empty(end - begin, dim).normal_(0.0, std, generator=generator)
        first, last = max(start, begin), min(stop, end)
        if first < last:
            rows[first - start : last - start] = drawn[first - begin : last - begin].to(rows.device)
        begin = end
    return rows


class ShardedUsers(nn.Module):
    r"""A user table, (num_users, D) float32, sharded by rows over the ranks of a process group.

    Every rank looks up the users of its part of a batch, whichever ranks have their rows. Backward
    updates the rows as :class:`torch.optim.SparseAdam` would update an
    ``nn.Embedding(sparse=True)`` on one process, from the sum of the ranks' losses. Only the rows
    of the batch's users change:

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g_t, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g_t^2, \\
        w &\leftarrow w - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        \frac{m}{\sqrt v + \epsilon},

    where w is a user's row, m and v its moments, t the step, :math:`g_t` the sum of the gradients
    of all occurrences of the user in step t, and :math:`\gamma` the learning rate. Each rank
    updates its rows with `LazyAdam`, because fbgemm's Adam has no kernel for the CPU and adds
    epsilon elsewhere.

    Because backward makes the step:

    - Every rank of the group must look up and run backward, even if its part of the batch is empty,
      because ranks wait for each other in both (add ``0 * u.sum()`` to a loss that does not depend
      on u). Each backward is a step on every rank, even if the batch has no user of the rank's
      rows.
    - Gradients are summed over ranks, never averaged: divide the loss by the size of the whole
      batch. Creating a table switches off, for the whole process, TorchRec's division of gradients
      by the number of ranks.
    - The table is not a parameter of this module: ``parameters()`` and ``state_dict()`` are empty,
      so that neither another optimiser nor DistributedDataParallel around the model changes it, and
      ``to()`` does not move it. Its state is in `local_state` and `stream_rows`.

    Arguments:
        num_users, dim: size of the whole table.
        lr: learning rate.
        betas, eps: decay rates of Adam's moments and its epsilon.
        init_std: standard deviation of the normal distribution of the initial values. They come
            from `fill_rows` and do not depend on the number of ranks, provided that the generators
            of all ranks are in the same state.
        generator: a CPU generator; None for torch's default generator.
        process_group: the group of all ranks; None for the default group. Use a separate group if
            other collectives run during backward (as in DistributedDataParallel), because the
            collectives of one group must have the same order on all ranks.
        device: device of the table: ``cpu`` (gloo) or a GPU (nccl, and a CUDA build of fbgemm-gpu).
        dtype: must be float32.

    Raises:
        ImportError: TorchRec is not installed.
        RuntimeError: there is no process group.
        TypeError: `dtype` is not float32.
        ValueError: `num_users` or `dim` is below 1.
    """

    def __init__(
        self,
        num_users: int,
        dim: int,
        *,
        lr: float,
        init_std: float,
        generator: torch.Generator | None = None,
        process_group: dist.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        if dtype != torch.float32:
            raise TypeError(
                f"ShardedUsers: `dtype` must be torch.float32, got {dtype}. Use float32, or a "
                "replicated table."
            )
        if num_users < 1 or dim < 1:
            raise ValueError(
                "ShardedUsers: `num_users` and `dim` must be at least 1, got "
                f"{num_users} and {dim}."
            )
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "ShardedUsers: there is no process group. Start with torchrun, and call "
                "torch.distributed.init_process_group() first."
            )
        torchrec = _import_torchrec(torch.device(device))
        self.num_users, self.dim = num_users, dim
        self._group = process_group or dist.group.WORLD
        self._rank, self._world_size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self.rows = shard_rows(num_users, self._rank, self._world_size)
        collection, weight = _shard(torchrec, num_users, dim, self._group, torch.device(device))
        fill_rows(weight, self.rows[0], num_users, std=init_std, generator=generator)
        self.optimiser = LazyAdam(weight, lr, betas=betas, eps=eps)
        # Replace TorchRec's look-up of local rows, and with it fbgemm's fused optimiser.
        local = _LocalRows(weight, self.optimiser)
        collection._lookups[0] = local
        # nn.Module does not register a module inside a tuple, so the table is not a
        # parameter of this one.
        self._parts = (torchrec.KeyedJaggedTensor, collection)

    rows: tuple[int, int]
    """The rank's first row and the row after its last."""

    @property
    def starts(self) -> list[int]:
        """The first row of each rank, then the number of rows."""
        return [
            shard_rows(self.num_users, rank, self._world_size)[0]
            for rank in range(self._world_size + 1)
        ]

    @property
    def local_weight(self) -> Tensor:
        """The rank's rows, (stop - start, D): the table itself, not a copy, without gradients."""
        return self._local("weight")

    def forward(self, users: Tensor) -> Tensor:
        """Look up users, whichever ranks have their rows. Every rank of the group must call it.

        Arguments:
            users: (B,) int64. B may differ between ranks and may be 0; users may repeat.

        Returns:
            (B, D) on the table's device.

        Raises:
            TypeError: `users` is not int64.
            ValueError: `users` is not of shape (B,).
            IndexError: a user is not in the table (checked on a CPU only).
        """
        if users.dtype != torch.int64:
            raise TypeError(
                f"ShardedUsers: `users` must have dtype torch.int64, got {users.dtype}."
            )
        if users.dim() != 1:
            raise ValueError(
                f"ShardedUsers: `users` must have the shape (B,), got {tuple(users.shape)}."
            )
        if (
            users.device.type == "cpu"
            and len(users)
            and not 0 <= users.min() <= users.max() < self.num_users
        ):
            raise IndexError(
                f"ShardedUsers: users must lie in 0 to {self.num_users - 1}, got "
                f"{int(users.min())} to {int(users.max())}."
            )
        jagged, collection = self._parts
        # All users are one variable-length list, so that their rows come back in
        # the order of `users`.
        length = torch.tensor([len(users)], dtype=torch.int64, device=users.device)
        rows: Tensor = collection(jagged(keys=["users"], values=users, lengths=length))[
            "users"
        ].values()
        return rows

    # --- state ------------------------------------------------------------------------------------

    def local_state(self) -> dict[str, Tensor]:
        """Return the rank's rows of the table and its moments, and the step.

        The tensors are not copies; clone them to keep their values over a step.

        Returns:
            ``weight``, ``exp_avg`` and ``exp_avg_sq``, (stop - start, D), and ``step``, a scalar.
        """
        return {"weight": self.optimiser.weight, **self.optimiser.tensors()}

    @torch.no_grad()
    def load_local_state(self, state: dict[str, Tensor]) -> None:
        """Copy the tensors of a `local_state` of the same number of ranks into this one.

        Raises:
            KeyError: a tensor is absent.
            ValueError: a tensor does not have the shape of the rank's own.
        """
        own = self.local_state()
        # Check all tensors before any of them changes.
        for name, tensor in own.items():
            if name not in state:
                raise KeyError(f"ShardedUsers: the state lacks {name!r}.")
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"ShardedUsers: {name!r} must have the shape {tuple(tensor.shape)}, got "
                    f"{tuple(state[name].shape)}. For another number of ranks, use load_rows."
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def stream_rows(self, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Tensor]:
        """Collect a whole tensor on the first rank, block by block in the order of its rows.

        Every rank must run the generator to its end. The first rank receives all blocks, and holds
        one of them in memory in addition to its rows. The other ranks send their blocks and yield
        none:

            for block in users.stream_rows("exp_avg"):
                file.write(block.numpy().tobytes())  # Runs on the first rank alone.

        Arguments:
            name: ``weight``, ``exp_avg`` or ``exp_avg_sq``.
            block_bytes: approximate size of a block; the same on every rank.

        Yields:
            (R, D) float32 on the CPU. Use a block before requesting the next one.

        Raises:
            KeyError: `name` is not one of the tensors.
        """
        yield from stream_rows(
            self._local(name), self.starts, self._rank, group=self._group, block_bytes=block_bytes
        )

    @torch.no_grad()
    def load_rows(
        self, read: Callable[[str, int, int], Tensor], step: int, block_rows: int = 2**16
    ) -> None:
        """Fill the rank's rows from whole tensors, which any number of ranks may have written.

        No rank waits for another. If `read` returns slices of a file, one block at most is in
        memory in addition to the rows:

            with safe_open(path, framework="pt") as file:
                users.load_rows(
                    lambda name, start, stop: file.get_slice(keys[name])[start:stop], step
                )

        Arguments:
            read: a function of a name (``weight``, ``exp_avg``, ``exp_avg_sq``), a first row
                `start` and an end `stop`, which returns these rows, (stop - start, D).
            step: number of steps that were made.

        Raises:
            ValueError: `read` returns another shape. The rows before are loaded by then.
        """
        start, stop = self.rows
        for name in ("weight", *MOMENTS):
            local = self._local(name)
            for begin in range(start, stop, block_rows):
                end = min(begin + block_rows, stop)
                block = read(name, begin, end)
                if block.shape != (end - begin, self.dim):
                    raise ValueError(
                        f"ShardedUsers: rows {begin} to {end} of {name!r} must have the shape "
                        f"{(end - begin, self.dim)}, got {tuple(block.shape)}."
                    )
                local[begin - start : end - start].copy_(block)
        self.optimiser.step.fill_(step)

    def _local(self, name: str) -> Tensor:
        if name != "weight" and name not in MOMENTS:
            raise KeyError(
                f"ShardedUsers: no tensor {name!r}; there are weight, exp_avg and exp_avg_sq."
            )
        return self.local_state()[name]

    def extra_repr(self) -> str:
        """Return the size of the table and the range of the rank's rows."""
        return f"{self.num_users}, {self.dim}, rows={self.rows}"


class _LocalRows(nn.Module):
    """The rank's rows, looked up by their position among them, and updated when backward ends here.

    A hook updates the rows as soon as autograd has accumulated their gradient.
    """

    def __init__(self, weight: Tensor, optimiser: LazyAdam) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.optimiser = optimiser
        self.weight.register_post_accumulate_grad_hook(self._update)  # type: ignore[no-untyped-call]

    def _update(self, weight: Tensor) -> None:
        if weight.grad is not None:
            self.optimiser.update(weight.grad._indices()[0], weight.grad._values())
        weight.grad = None

    def forward(self, features: Any) -> Tensor:
        """Look up positions among the rank's rows, which TorchRec has sent to this rank.

        Arguments:
            features: a jagged tensor of n positions.

        Returns:
            (n, D).
        """
        return nn.functional.embedding(features.values(), self.weight, sparse=True)


def _no_tracing_advice(record: logging.LogRecord) -> bool:
    """Return False for torch's warning about a deprecated function that TorchRec calls."""
    return not record.getMessage().startswith("is_fx_tracing will return true")


def _import_torchrec(device: torch.device) -> Any:
    """Import TorchRec, which takes seconds.

    Raises:
        ImportError: it is not installed, or its fbgemm-gpu is not built for this device.
    """
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_no_tracing_advice)
    try:
        with warnings.catch_warnings():  # Modules of fbgemm_gpu use deprecated names of each other.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"fbgemm_gpu\.")
            torchrec = importlib.import_module("torchrec")
            variant = importlib.import_module("fbgemm_gpu").__variant__
    except ImportError as error:
        raise ImportError(
            f"a sharded user table needs TorchRec, which cannot be imported here ({error}). Run "
            "`make distributed`, or `pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0` "
            "and the packages that they import."
        ) from error
    if device.type == "cuda" and variant == "cpu":
        raise ImportError(
            "a sharded user table on a GPU needs a CUDA build of fbgemm-gpu, and fbgemm-gpu-cpu is "
            "installed. Install fbgemm-gpu==1.8.0 instead, or train on the CPU."
        )
    return torchrec


def _shard(
    torchrec: Any, num_users: int, dim: int, group: Any, device: torch.device
) -> tuple[Any, Tensor]:
    """Create the sharded table.

    Returns:
        TorchRec's collection with this table alone, and the rank's rows of it, (stop - start, D),
        which are not initialised.
    """
    plans, embedding, types, operations = (
        importlib.import_module(f"torchrec.distributed.{name}")
        for name in ("sharding_plan", "embedding", "types", "comm_ops")
    )
    operations.set_gradient_division(False)
    config = torchrec.EmbeddingConfig(
        name="users",
        feature_names=["users"],
        num_embeddings=num_users,
        embedding_dim=dim,
        init_fn=lambda weight: weight,  # `fill_rows` draws the values later.
    )
    whole = torchrec.EmbeddingCollection(tables=[config], device=torch.device("meta"))
    sharder = embedding.EmbeddingCollectionSharder()
    world_size = dist.get_world_size(group)
    local_size = torch.cuda.device_count() if device.type == "cuda" else world_size
    # The kernel "fused" allocates the rows alone; others also allocate a gradient of the same size.
    plan = plans.construct_module_sharding_plan(
        whole,
        {"users": plans.row_wise(compute_kernel="fused")},
        sharder,
        local_size=min(world_size, local_size),
        world_size=world_size,
        device_type=device.type,
    )
    # TorchRec draws initial values when it allocates the rows; the caller's
    # generators must not move.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        collection = sharder.shard(whole, plan, types.ShardingEnv.from_process_group(group), device)
    return collection, collection.embeddings["users"].weight.detach()
