"""A user table whose rows are spread over ranks by TorchRec, and updated in backward by a lazy Adam.

Each rank holds its own rows of the table and of Adam's two moments, and nothing of the others'. TorchRec is imported
when a table is made, not before; ``make distributed`` installs it.
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

from milk_recsys.methods.milk.lazy_adam import LazyAdam

__all__ = ["MOMENTS", "ShardedUsers", "fill_rows", "shard_rows"]

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch.optim.SparseAdam names them
DRAWN_VALUES = 2**20  # held at once while a table is drawn


def shard_rows(num_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first row of a rank and the one after its last: equal blocks, rounded up, and the last ones shorter.

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
    """Fill some rows of a table with what ``nn.init.normal_(table, std=std, generator=generator)`` would put there.

    Some 4 MB of the table are drawn at a time, and what lies outside the rows is dropped: the generator ends up
    where drawing the whole table on a CPU leaves it. So no rows at all, of shape (0, D), skip a table.

    Arguments:
        rows: (R, D) float32 on any device, the table's rows start to start + R; written in place.
        num_rows: how many rows the whole table has.
        generator: a generator of the CPU; None for torch's own.

    Returns:
        the same tensor.

    Raises:
        TypeError: `rows` is not float32.
        ValueError: the rows do not lie within the table.
    """
    if rows.dtype != torch.float32:
        raise TypeError(
            f"fill_rows: `rows` must have dtype torch.float32, got {rows.dtype}. Fill, then convert."
        )
    stop, dim = start + len(rows), rows.shape[1]
    if not 0 <= start <= stop <= num_rows:
        raise ValueError(
            f"fill_rows: rows {start} to {stop} do not lie within a table of {num_rows} rows."
        )
    # A CPU draws a float32 table in groups of 16 values, and draws the last 16 again where they are no whole group.
    block = max(16, DRAWN_VALUES // dim // 16 * 16)
    begin = 0
    while begin < num_rows:
        end = min(begin + block, num_rows)
        if (num_rows - end) * dim < 16:  # too few values to be a block of their own
            end = num_rows
        drawn = torch.empty(end - begin, dim).normal_(0.0, std, generator=generator)
        first, last = max(start, begin), min(stop, end)
        if first < last:
            rows[first - start : last - start] = drawn[first - begin : last - begin].to(rows.device)
        begin = end
    return rows


class ShardedUsers(nn.Module):
    r"""A table of users, (num_users, D) float32, with its rows spread over the ranks of a process group.

    Every rank looks up the users of its slice of a batch, wherever their rows are, and backward updates the rows: as
    :class:`torch.optim.SparseAdam` would update an ``nn.Embedding(sparse=True)`` on one process, after the sum of the
    ranks' losses. With g_t the sum over all occurrences of a user in step t, only for the users of the batch,

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g_t, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g_t^2, \quad
        w \leftarrow w - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt v + \epsilon}.

    `LazyAdam` does it, on the rank's rows: fbgemm's own Adam has no kernel for the CPU, and adds eps elsewhere.

    What follows from updates in backward:

    - Every rank of the group looks up and runs backward, also one whose slice is empty (``loss + 0 * u.sum()`` where
      the loss does not depend on it): they wait for each other in both. Each backward is a step, on every rank,
      whether users of its rows are in the batch or not.
    - Gradients are summed over ranks, never averaged: scale the loss by the size of the whole batch. Making a table
      switches TorchRec's division of gradients by the number of ranks off, for the whole process.
    - The table is no parameter of this module: ``parameters()`` and ``state_dict()`` are empty, so that no other
      optimiser, nor DistributedDataParallel around the model, takes hold of it; ``to()`` leaves it where it is. Its
      state is in `local_state` and `stream_rows`.

    Arguments:
        num_users, dim: of the whole table.
        lr: learning rate; betas, eps: of Adam.
        init_std: of the normal distribution of the initial values, drawn with `fill_rows`: they are those of one
            process, whatever the number of ranks, if all ranks' generators are in the same state.
        generator: a generator of the CPU; None for torch's own.
        process_group: of all ranks; None for the default group. Give it one of its own where other collectives run
            during backward, as DistributedDataParallel's do: in one group, their order must be the same on all ranks.
        device: where the table is: ``cpu`` (gloo) or a GPU (nccl, and a build of fbgemm-gpu for CUDA).
        dtype: float32; anything else is refused.

    Raises:
        ImportError: TorchRec is not installed.
        RuntimeError: there is no process group.
        TypeError: a dtype other than float32.
        ValueError: no users, or a width below 1.
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
                f"ShardedUsers: a sharded table is float32, got dtype {dtype}. Use float32, or a replicated table."
            )
        if num_users < 1 or dim < 1:
            raise ValueError(
                f"ShardedUsers: needs at least one user and a width of 1, got {num_users} and {dim}."
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
        local = _LocalRows(weight, self.optimiser)
        collection._lookups[0] = local
        self._parts = (
            torchrec.KeyedJaggedTensor,
            collection,
        )  # in a tuple nn.Module does not register them

    rows: tuple[int, int]
    """The rank's first row and the one after its last."""

    @property
    def starts(self) -> list[int]:
        """The first row of each rank, and last the number of rows."""
        return [
            shard_rows(self.num_users, rank, self._world_size)[0]
            for rank in range(self._world_size + 1)
        ]

    @property
    def local_weight(self) -> Tensor:
        """The rank's own rows, (stop - start, D): the table itself, without gradients."""
        return self._local("weight")

    def forward(self, users: Tensor) -> Tensor:
        """Look users up, wherever their rows are. Every rank of the group must call it.

        Arguments:
            users: (B,) int64; B may be 0, and another on every rank; users may repeat.

        Returns:
            (B, D) on the table's device.

        Raises:
            TypeError: `users` is not int64.
            ValueError: `users` has another shape.
            IndexError: a user that is not in the table (checked on a CPU).
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
                f"ShardedUsers: users must lie in 0 to {self.num_users - 1}, got {int(users.min())} to "
                f"{int(users.max())}."
            )
        jagged, collection = self._parts
        length = torch.tensor(
            [len(users)], dtype=torch.int64, device=users.device
        )  # one bag, in its order
        found: Tensor = collection(jagged(keys=["users"], values=users, lengths=length))[
            "users"
        ].values()
        return found

    # --- state --------------------------------------------------------------------------------------------------------

    def local_state(self) -> dict[str, Tensor]:
        """Return ``weight``, ``exp_avg`` and ``exp_avg_sq``, the rank's own (stop - start, D), and ``step``, a scalar.

        The tensors are the table's own, not copies: clone what is kept over a step.
        """
        return {"weight": self.optimiser.weight, **self.optimiser.tensors()}

    @torch.no_grad()
    def load_local_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `local_state` gave, on the same number of ranks.

        Raises:
            KeyError: a tensor is absent.
            ValueError: a tensor has another shape than the rank's own.
        """
        own = self.local_state()
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

    def stream_rows(self, name: str, block_rows: int = 2**16) -> Iterator[Tensor]:
        """Collect a whole tensor on the first rank, block by block in the order of its rows.

        Every rank must run it to its end. The first one gets all blocks, at most one of them in memory beside the
        table; the others send theirs and get none:

            for block in users.stream_rows("exp_avg"):
                file.write(block.numpy().tobytes())  # on the first rank alone

        Arguments:
            name: ``weight``, ``exp_avg`` or ``exp_avg_sq``.
            block_rows: how many rows at most a block has; the same on every rank.

        Yields:
            (R, D) float32 on the CPU, to be used before the next one is asked for.

        Raises:
            KeyError: there is no such tensor.
        """
        local = self._local(name)
        for rank in range(self._world_size):
            start, stop = shard_rows(self.num_users, rank, self._world_size)
            for begin in range(start, stop, block_rows):
                end = min(begin + block_rows, stop)
                if rank == self._rank:
                    block = local[begin - start : end - start]
                    if rank == 0:
                        yield block.cpu()
                    else:
                        dist.send(block.contiguous(), group=self._group, group_dst=0)
                elif self._rank == 0:
                    block = local.new_empty(end - begin, self.dim)
                    dist.recv(block, group=self._group, group_src=rank)
                    yield block.cpu()

    @torch.no_grad()
    def load_rows(
        self, read: Callable[[str, int, int], Tensor], step: int, block_rows: int = 2**16
    ) -> None:
        """Fill the rank's own rows from whole tensors, whatever the number of ranks that wrote them.

        No rank waits for another. With a file's slices, at most a block is in memory beside the table:

            with safe_open(path, framework="pt") as file:
                users.load_rows(lambda name, start, stop: file.get_slice(keys[name])[start:stop], step)

        Arguments:
            read: of a name (``weight``, ``exp_avg``, ``exp_avg_sq``) and rows start and stop, gives (stop - start, D).
            step: how many steps were done.

        Raises:
            ValueError: `read` gives another shape; rows before are loaded by then.
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
        """Say how large the table is and which rows are here."""
        return f"{self.num_users}, {self.dim}, rows={self.rows}"


class _LocalRows(nn.Module):
    """The rank's own rows, looked up by their place among them, and updated as soon as their gradient is there."""

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
        """Look up a jagged tensor of places among the rows, (n,), that TorchRec has brought here: (n, D)."""
        return nn.functional.embedding(features.values(), self.weight, sparse=True)


def _no_tracing_advice(record: logging.LogRecord) -> bool:
    """Drop what torch says to TorchRec's authors, once in every process, about a function of theirs."""
    return not record.getMessage().startswith("is_fx_tracing will return true")


def _import_torchrec(device: torch.device) -> Any:
    """Import TorchRec, which takes seconds.

    Raises:
        ImportError: it is not installed, or not for this device.
    """
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_no_tracing_advice)
    try:
        with warnings.catch_warnings():  # its own modules warn of each other
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"fbgemm_gpu\.")
            torchrec = importlib.import_module("torchrec")
            variant = importlib.import_module("fbgemm_gpu").__variant__
    except ImportError as error:
        raise ImportError(
            f"a sharded user table needs TorchRec, which cannot be imported here ({error}). Run `make distributed`, "
            "or `pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0` and what they import."
        ) from error
    if device.type == "cuda" and variant == "cpu":
        raise ImportError(
            "a sharded user table on a GPU needs a CUDA build of fbgemm-gpu, and fbgemm-gpu-cpu is installed. "
            "Install fbgemm-gpu==1.8.0 in its place, or train on the CPU."
        )
    return torchrec


def _shard(
    torchrec: Any, num_users: int, dim: int, group: Any, device: torch.device
) -> tuple[Any, Tensor]:
    """Make the sharded table.

    Returns:
        TorchRec's collection of this one table; the rank's own rows of it, not yet filled, (stop - start, D).
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
        init_fn=lambda weight: weight,  # drawn later
    )
    whole = torchrec.EmbeddingCollection(tables=[config], device=torch.device("meta"))
    sharder = embedding.EmbeddingCollectionSharder()
    world_size = dist.get_world_size(group)
    local_size = torch.cuda.device_count() if device.type == "cuda" else world_size
    plan = plans.construct_module_sharding_plan(
        whole,
        {
            "users": plans.row_wise(compute_kernel="fused")
        },  # allocates the rows alone, without a gradient beside them
        sharder,
        local_size=min(world_size, local_size),
        world_size=world_size,
        device_type=device.type,
    )
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # it draws values of its own
        collection = sharder.shard(whole, plan, types.ShardingEnv.from_process_group(group), device)
    return collection, collection.embeddings["users"].weight.detach()
