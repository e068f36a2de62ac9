"""A sharded table has the initial rows, the steps and the files of a table in one process."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, multiprocessing, nn

from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.methods.milk import sharded_users
from milk_recsys.methods.milk.sharded_users import MOMENTS, ShardedUsers, fill_rows, shard_rows

needs_torchrec = pytest.mark.skipif(
    importlib.util.find_spec("torchrec") is None,
    reason="TorchRec is not installed: make distributed",
)
NUM_USERS, DIM, LR, STD, SEED, STEPS, HALF = 101, 8, 0.05, 0.1, 7, 20, 10
NAMES = ("weight", *MOMENTS)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return users (B,) of a step, with repeats, and coefficients (B, D) of the loss.

    The coefficients are as small as the gradients of a mean.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    users = torch.randint(NUM_USERS, (40,), generator=generator)
    users[20:25] = users[:5]  # Repeats on other ranks.
    users[1:3] = users[0]
    return users, torch.randn(40, DIM, generator=generator) * 10.0 ** -(step % 6)


def slices(step: int, world_size: int) -> list[slice]:
    """Return unequal slices of a batch; in some steps a rank has an empty slice, or one has all."""
    bounds = sorted(
        torch.randint(41, (world_size - 1,), generator=torch.Generator().manual_seed(step)).tolist()
    )
    if step % 5 == 3:
        bounds = [0] * (world_size - 1)
    if step % 5 == 4:
        bounds = [40] * (world_size - 1)
    return [slice(*pair) for pair in zip([0, *bounds], [*bounds, 40], strict=True)]


def make_table(seed: int = SEED) -> ShardedUsers:
    generator = torch.Generator().manual_seed(seed)
    return ShardedUsers(NUM_USERS, DIM, lr=LR, init_std=STD, generator=generator)


def train(table: ShardedUsers, steps: range) -> list[Tensor]:
    """Train as a rank does; return the rows that were looked up."""
    looked_up = []
    for step in steps:
        users, coefficients = batch(step)
        own = slices(step, dist.get_world_size())[dist.get_rank()]
        u = table(users[own])
        looked_up.append(u.detach().clone())
        (u.square() / 2 * 1e-3 + u * coefficients[own]).sum().backward()
    return looked_up


def state_of(table: ShardedUsers) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in table.local_state().items()}


def load_file(table: ShardedUsers, path: Path, block_rows: int) -> None:
    with safe_open(path, framework="pt") as file:
        table.load_rows(
            lambda name, start, stop: file.get_slice(name)[start:stop], HALF, block_rows
        )


def rank_saves_and_resumes(folder: Path) -> dict[str, object]:
    """Train to the end, write a file half way, and resume from it and from the rank's state."""
    table = make_table()
    result: dict[str, object] = {"rows": table.rows, "initial": table.local_weight.clone()}
    looked_up = train(table, range(HALF))
    half = state_of(table)
    whole = {
        name: list(map(torch.clone, table.stream_rows(name, block_bytes=17 * 4 * DIM)))
        for name in NAMES
    }
    if dist.get_rank() == 0:
        save_state(
            folder / "half.safetensors",
            {name: torch.cat(blocks) for name, blocks in whole.items()},
            {},
        )
    else:
        assert not any(whole.values())
    dist.barrier()
    looked_up += train(table, range(HALF, STEPS))
    result |= {"looked_up": looked_up, "half": half, "final": state_of(table)}

    for name in ("from_file", "from_state"):
        other = make_table(seed=99)
        if name == "from_file":
            load_file(other, folder / "half.safetensors", block_rows=13)
        else:
            other.load_local_state(half)
        train(other, range(HALF, STEPS))
        result[name] = state_of(other)
    return result


def rank_loads(folder: Path) -> dict[str, object]:
    """Resume from the file of `rank_saves_and_resumes`."""
    table = make_table(seed=99)
    load_file(table, folder / "half.safetensors", block_rows=10)
    result: dict[str, object] = {"rows": table.rows, "half": state_of(table)}
    result["streamed"] = list(
        map(torch.clone, table.stream_rows("exp_avg", block_bytes=11 * 4 * DIM))
    )
    train(table, range(HALF, STEPS))
    return {**result, "final": state_of(table)}


def rank_of_few_users(_: Path) -> dict[str, object]:
    """Five users on four ranks, in a separate process group. The last rank has no rows."""
    generator = torch.Generator().manual_seed(SEED)
    table = ShardedUsers(
        5, DIM, lr=LR, init_std=STD, generator=generator, process_group=dist.new_group()
    )
    u = table(torch.tensor([4, 0, 4]))
    u.sum().backward()
    return {"rows": table.rows, "looked_up": u.detach().clone(), "final": state_of(table)}


def rank_main(
    rank: int, world_size: int, folder: Path, jobs: list[Callable[[Path], dict[str, object]]]
) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    meeting, timeout = f"file://{folder}/meet-{world_size}", timedelta(seconds=120)
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=timeout
    )
    for job in jobs:
        torch.save(job(folder), folder / f"{job.__name__}-{world_size}-{rank}.pt")
    dist.destroy_process_group()


Ranks = Callable[[Callable[[Path], dict[str, object]], int], list[dict[str, object]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """`ranks(job, world_size)`: the result of each rank. The processes are started once."""
    folder = tmp_path_factory.mktemp("ranks")
    # Import TorchRec once, not in every process, because it takes seconds.
    multiprocessing.set_forkserver_preload(["torchrec", __name__])
    for world_size, jobs in {
        2: [rank_saves_and_resumes],
        4: [rank_loads, rank_of_few_users],
    }.items():
        multiprocessing.start_processes(
            rank_main, (world_size, folder, jobs), nprocs=world_size, start_method="forkserver"
        )

    def results(
        job: Callable[[Path], dict[str, object]], world_size: int
    ) -> list[dict[str, object]]:
        paths = [folder / f"{job.__name__}-{world_size}-{rank}.pt" for rank in range(world_size)]
        return [torch.load(path) for path in paths]

    results.folder = folder
    return results


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def one_process() -> dict[str, object]:
    """The same training on one process, with torch.optim.SparseAdam."""
    embedding = nn.Embedding(NUM_USERS, DIM, sparse=True)
    nn.init.normal_(embedding.weight, std=STD, generator=torch.Generator().manual_seed(SEED))
    optimiser = torch.optim.SparseAdam(embedding.parameters(), lr=LR)
    result: dict[str, object] = {"initial": embedding.weight.detach().clone()}
    looked_up = []
    for step in range(STEPS):
        users, coefficients = batch(step)
        u = embedding(users)
        looked_up.append(u.detach().clone())
        optimiser.zero_grad()
        (u.square() / 2 * 1e-3 + u * coefficients).sum().backward()
        optimiser.step()
        if step + 1 in (HALF, STEPS):
            state = optimiser.state[embedding.weight]
            now = {
                "weight": embedding.weight.detach().clone(),
                **{name: state[name].clone() for name in MOMENTS},
            }
            result["half" if step + 1 == HALF else "final"] = {
                **now,
                "step": torch.tensor(state["step"]),
            }
    return {**result, "looked_up": looked_up}


def whole(results: list[dict], when: str) -> dict[str, Tensor]:
    """Return the concatenated rows of all ranks, and the step, which must be equal on all ranks."""
    steps = {int(result[when]["step"]) for result in results}
    assert len(steps) == 1
    tensors = {name: torch.cat([result[when][name] for result in results]) for name in NAMES}
    return {**tensors, "step": torch.tensor(steps.pop())}


def assert_same_training(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert int(ours["step"]) == int(theirs["step"])
    for name in NAMES:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-5, atol=1e-5 * theirs[name].abs().mean().item()
        )


def assert_identical(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in (*NAMES, "step"):
        assert torch.equal(ours[name], theirs[name]), name


# --- tests that do not need TorchRec --------------------------------------------------------------


@given(num_rows=st.integers(0, 60), world_size=st.integers(1, 9))
def test_shards_are_the_rows_in_order(num_rows: int, world_size: int) -> None:
    shards = [shard_rows(num_rows, rank, world_size) for rank in range(world_size)]
    assert [row for start, stop in shards for row in range(start, stop)] == list(range(num_rows))


@given(
    num_rows=st.integers(1, 90),
    dim=st.integers(1, 20),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 9),
)
def test_filled_rows_are_those_of_the_whole_table(
    num_rows: int, dim: int, at: tuple[float, float], seed: int
) -> None:
    start, stop = sorted(round(x * num_rows) for x in at)
    one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
    table = nn.init.normal_(torch.empty(num_rows, dim), std=0.3, generator=one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_users, "DRAWN_VALUES", 64)
        rows = fill_rows(torch.empty(stop - start, dim), start, num_rows, std=0.3, generator=other)
    assert torch.equal(rows, table[start:stop])
    assert torch.equal(one.get_state(), other.get_state())


def test_filled_rows_with_the_real_size_of_blocks() -> None:
    table = nn.init.normal_(
        torch.empty(50_001, 64), std=0.3, generator=torch.Generator().manual_seed(0)
    )
    rows = fill_rows(
        torch.empty(30_000, 64), 20_001, 50_001, std=0.3, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(rows, table[20_001:])


def test_fill_rows_checks_its_arguments() -> None:
    with pytest.raises(TypeError, match="float32"):
        fill_rows(torch.empty(2, 3, dtype=torch.float64), 0, 4, std=1.0)
    with pytest.raises(ValueError, match="rows 3 to 5"):
        fill_rows(torch.empty(2, 3), 3, 4, std=1.0)


def test_torchrec_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, milk_recsys.methods.milk.sharded_users; sys.exit('torchrec' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_errors_before_a_table_is_made(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"lr": LR, "init_std": STD}
    with pytest.raises(TypeError, match=r"float32, got torch\.float64"):
        ShardedUsers(4, 2, **options, dtype=torch.float64)
    with pytest.raises(ValueError, match="`num_users` and `dim` must be at least 1, got 0 and 2"):
        ShardedUsers(0, 2, **options)
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(
        ImportError, match=r"make distributed.*pip install --no-deps torchrec==1\.8\.0"
    ):
        ShardedUsers(4, 2, **options)


def test_no_process_group_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"no process group.*torchrun"):
        ShardedUsers(4, 2, lr=LR, init_std=STD)


# --- several ranks --------------------------------------------------------------------------------


@needs_torchrec
@pytest.mark.slow
class TestRanks:
    def test_initial_rows_are_those_of_one_process(self, ranks: Ranks, one_process: dict) -> None:
        results = ranks(rank_saves_and_resumes, 2)
        assert [result["rows"] for result in results] == [(0, 51), (51, 101)]
        assert torch.equal(
            torch.cat([result["initial"] for result in results]), one_process["initial"]
        )

    def test_every_lookup_is_that_of_one_process(self, ranks: Ranks, one_process: dict) -> None:
        results = ranks(rank_saves_and_resumes, 2)
        sizes = set()
        for step, theirs in enumerate(one_process["looked_up"]):
            parts = [result["looked_up"][step] for result in results]
            sizes.update(map(len, parts))
            torch.testing.assert_close(torch.cat(parts), theirs, rtol=1e-5, atol=1e-6)
        assert {0, 40} < sizes  # Some slices are empty, and some are the whole batch.

    def test_training_is_sparse_adam_on_one_process(self, ranks: Ranks, one_process: dict) -> None:
        results = ranks(rank_saves_and_resumes, 2)
        assert_same_training(whole(results, "half"), one_process["half"])
        assert_same_training(whole(results, "final"), one_process["final"])

    def test_file_has_the_whole_tensors_in_order(self, ranks: Ranks) -> None:
        tensors, _ = load_state(ranks.folder / "half.safetensors")
        ours = whole(ranks(rank_saves_and_resumes, 2), "half")
        assert set(tensors) == set(NAMES)
        for name in NAMES:
            assert torch.equal(tensors[name], ours[name])

    @pytest.mark.parametrize("way", ["from_file", "from_state"])
    def test_resuming_changes_no_bit(self, ranks: Ranks, way: str) -> None:
        for result in ranks(rank_saves_and_resumes, 2):
            assert_identical(result[way], result["final"])

    def test_four_ranks_resume_from_the_file_of_two(self, ranks: Ranks, one_process: dict) -> None:
        results = ranks(rank_loads, 4)
        assert [result["rows"] for result in results] == [(0, 26), (26, 52), (52, 78), (78, 101)]
        assert_identical(whole(results, "half"), whole(ranks(rank_saves_and_resumes, 2), "half"))
        assert_same_training(whole(results, "final"), one_process["final"])
        assert torch.equal(torch.cat(results[0]["streamed"]), whole(results, "half")["exp_avg"])
        assert not any(result["streamed"] for result in results[1:])

    def test_one_rank_resumes_from_the_file_of_two(
        self, ranks: Ranks, one_process: dict, alone: None
    ) -> None:
        result = rank_loads(ranks.folder)
        assert_identical(whole([result], "half"), whole(ranks(rank_saves_and_resumes, 2), "half"))
        assert_same_training(whole([result], "final"), one_process["final"])

    def test_a_rank_may_have_no_rows(self, ranks: Ranks) -> None:
        results = ranks(rank_of_few_users, 4)
        assert [result["rows"] for result in results] == [(0, 2), (2, 4), (4, 5), (5, 5)]
        embedding = nn.Embedding(5, DIM, sparse=True)
        nn.init.normal_(embedding.weight, std=STD, generator=torch.Generator().manual_seed(SEED))
        optimiser = torch.optim.SparseAdam(embedding.parameters(), lr=LR)
        u = embedding(torch.tensor([4, 0, 4]))
        (4 * u.sum()).backward()  # Every rank has the whole batch, and gradients are summed.
        optimiser.step()
        for result in results:
            assert torch.equal(result["looked_up"], u)
        torch.testing.assert_close(whole(results, "final")["weight"], embedding.weight.detach())
        torch.testing.assert_close(
            whole(results, "final")["exp_avg"],
            optimiser.state[embedding.weight]["exp_avg"],
            rtol=1e-5,
            atol=0.0,
        )


# --- one rank -------------------------------------------------------------------------------------


@needs_torchrec
class TestOneRank:
    def test_a_lookup_without_backward_is_no_step(self, alone: None) -> None:
        table = make_table()
        before = state_of(table)
        with torch.no_grad():
            assert not table(torch.tensor([3, 3])).requires_grad
        table(torch.tensor([5]))
        assert_identical(state_of(table), before)

    def test_two_lookups_and_one_backward_are_one_step(self, alone: None) -> None:
        table, other = make_table(), make_table()
        (table(torch.tensor([3])).sum() + table(torch.tensor([4, 3])).sum()).backward()
        other(torch.tensor([3, 4, 3])).sum().backward()
        assert_identical(state_of(table), state_of(other))
        assert int(table.local_state()["step"]) == 1

    def test_a_batch_without_users_is_a_step_that_changes_no_row(self, alone: None) -> None:
        table = make_table()
        before = state_of(table)
        u = table(torch.empty(0, dtype=torch.int64))
        assert u.shape == (0, DIM)
        u.sum().backward()
        assert_identical(state_of(table), {**before, "step": torch.tensor(1)})

    def test_the_table_is_not_a_parameter_of_the_module(self, alone: None) -> None:
        table = make_table()
        assert not list(table.parameters())
        assert not table.state_dict()
        assert table.double().local_weight.dtype == torch.float32

    def test_initial_rows_come_from_the_default_generator(self, alone: None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            table = ShardedUsers(NUM_USERS, DIM, lr=LR, init_std=STD)
            after = torch.rand(1)
            torch.manual_seed(3)
            weight = nn.init.normal_(torch.empty(NUM_USERS, DIM), std=STD)
            assert torch.equal(table.local_weight, weight)
            assert torch.equal(after, torch.rand(1))

    def test_invalid_users_are_errors(self, alone: None) -> None:
        table = make_table()
        with pytest.raises(TypeError, match=r"int64, got torch\.int32"):
            table(torch.tensor([1], dtype=torch.int32))
        with pytest.raises(ValueError, match=r"\(1, 1\)"):
            table(torch.tensor([[1]]))
        for user in (-1, NUM_USERS):
            with pytest.raises(IndexError, match="0 to 100"):
                table(torch.tensor([1, user]))

    def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing(self, alone: None) -> None:
        table = make_table()
        before = state_of(table)
        with pytest.raises(KeyError, match="exp_avg_sq"):
            table.load_local_state(
                {name: before[name] + 1 for name in ("weight", "exp_avg", "step")}
            )
        with pytest.raises(ValueError, match="load_rows"):
            table.load_local_state(
                {**before, "weight": before["weight"] + 1, "exp_avg": before["exp_avg"][1:]}
            )
        assert_identical(state_of(table), before)
        with pytest.raises(ValueError, match=r"rows 0 to 101 of 'weight'"):
            table.load_rows(lambda name, start, stop: before[name][start : stop - 1], 0)
        with pytest.raises(KeyError, match="no tensor 'bias'"):
            next(table.stream_rows("bias"))
