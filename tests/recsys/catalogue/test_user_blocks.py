"""Blocks of users divide the training pairs nearly equally, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.catalogue import pairs as pair_files
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.catalogue.user_blocks import UserBlocks, build_user_blocks
from milk_recsys.config.options import Options

USERS, ITEMS = 12, 9
ALL_WARM = np.ones(ITEMS, dtype=np.bool_)


def build(
    pairs: list[tuple[int, int]],
    num_blocks: int,
    world: World = SINGLE_PROCESS,
    is_warm: npt.NDArray[np.bool_] = ALL_WARM,
) -> UserBlocks:
    array, pool = np.array(pairs, dtype=np.int32).reshape(-1, 2), torch.arange(ITEMS)
    return build_user_blocks(array, USERS, pool, num_blocks, is_warm=is_warm, world=world)


def pairs_of(blocks: UserBlocks) -> list[list[int]]:
    """Return the pairs that the rows of a process's own blocks have."""
    pairs = []
    for block, rows in zip(blocks.own, blocks.rows, strict=True):
        users, items = rows.pairs_at(torch.arange(rows.num_pairs))
        pairs += torch.stack([users + int(blocks.starts[block]), items], dim=1).tolist()
    return pairs


def num_bytes(blocks: UserBlocks) -> int:
    """Return the size of the tensors that hold the pairs."""
    return sum(x.nbytes for rows in blocks.rows for x in (rows.keys, rows.offsets, rows.free))


@st.composite
def sorted_pairs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Distinct pairs in order, of which no user has all items; some users may have none."""
    cells = st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 2))
    return sorted(draw(st.sets(cells, max_size=USERS * (ITEMS - 1))))


@settings(deadline=None)
@given(sorted_pairs(), st.integers(1, USERS), st.integers(1, 5))
def test_every_pair_is_in_one_block_of_one_process(
    pairs: list[tuple[int, int]], num_blocks: int, size: int
) -> None:
    size = min(size, num_blocks)
    whole = build(pairs, num_blocks)
    assert pairs_of(whole) == [list(pair) for pair in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_files, "PAIRS_AT_ONCE", 3)
        parts = [build(pairs, num_blocks, World(rank, size)) for rank in range(size)]
    assert [pair for part in parts for pair in pairs_of(part)] == pairs_of(whole)
    assert [block for part in parts for block in part.own] == list(range(num_blocks))
    for part in parts:
        assert part.starts.tolist() == whole.starts.tolist()
        assert part.sizes.tolist() == whole.sizes.tolist()
        assert part.num_pairs == len(pairs)
        assert part.user_starts == [int(part.starts[first]) for first in part.rank_starts]
        assert part.has_pairs.nonzero()[:, 0].tolist() == sorted({user for user, _ in pairs})
        assert [rows.num_pairs for rows in part.rows] == part.sizes[part.own].tolist()


def test_pairs_of_cold_items_are_left_out() -> None:
    pairs = [(0, 1), (0, 2), (3, 2), (4, 0), (11, 8)]
    is_warm = np.isin(np.arange(ITEMS), [1, 8])
    blocks = build(pairs, 3, is_warm=is_warm)
    assert pairs_of(blocks) == [[0, 1], [11, 8]]
    assert blocks.has_pairs.nonzero()[:, 0].tolist() == [0, 11]
    assert blocks.rows[0].free[0] == ITEMS - 1


def test_memory_of_pairs_falls_with_the_number_of_processes() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 30, 4_000)
    pairs = np.stack([np.repeat(np.arange(4_000), counts), rng.integers(0, 500, counts.sum())], 1)
    pairs = np.unique(pairs, axis=0).astype(np.int32)
    held = {
        size: [
            num_bytes(
                build_user_blocks(
                    pairs,
                    4_000,
                    torch.arange(500),
                    16,
                    is_warm=np.ones(500, dtype=np.bool_),
                    world=World(rank, size),
                )
            )
            for rank in range(size)
        ]
        for size in (1, 2, 4, 16)
    }
    assert held[1][0] > 8 * len(pairs)
    for size, of_ranks in held.items():
        assert sum(of_ranks) == held[1][0]
        assert max(of_ranks) < 1.02 * held[1][0] / size


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="at most the number of users, 12, got 13"):
        build([(0, 1)], 13)
    with pytest.raises(OptionError, match=r"at least the number of processes, 3, .* got 2"):
        build([(0, 1)], 2, World(0, 3))
    with pytest.raises(ValueError, match="sorted by user"):
        build([(1, 1), (0, 1)], 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_names_a_user_with_all_items(rank: int) -> None:
    pairs = [(0, 1), *((9, item) for item in range(ITEMS))]
    with pytest.raises(DataError, match=r"user 9 has all 9 items"):
        build(pairs, 2, World(rank, 2))


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("blocks") / "tiny", users=40, items=120)


def tables_of(folder: Path, world: World = SINGLE_PROCESS, **values: Any) -> Tables:
    options, dataset = Options.of("milk", **values), read_dataset(folder)
    split, _ = draw_split(dataset, options.data)
    return build_tables(dataset, split, options, torch.device("cpu"), world)


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_tables_with_blocks_have_the_pairs_of_tables_without(folder: Path, negatives: str) -> None:
    whole = tables_of(folder, negatives=negatives)
    parts = [
        tables_of(folder, World(rank, 3), negatives=negatives, user_blocks=7) for rank in range(3)
    ]
    assert whole.blocks is None
    pairs = [pair for part in parts if part.blocks for pair in pairs_of(part.blocks)]
    assert pairs == whole.pairs.tolist()
    for part in parts:
        assert part.num_pairs == whole.num_pairs
        assert torch.equal(part.pool, whole.pool)
        assert torch.equal(part.trained_users, whole.trained_users)
        view = part.training_view()
        assert view.blocks is part.blocks
        with pytest.raises(ValueError, match="divided into blocks of users"):
            _ = view.pairs
