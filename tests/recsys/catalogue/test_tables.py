"""The tables of training: features in memory or in files, pairs by number, evaluated users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milk_recsys import train
from milk_recsys.base.checkpoint import load_state
from milk_recsys.catalogue import features
from milk_recsys.catalogue import tables as catalogue_tables
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Group, Tables, build_tables, keep_features_on_disk
from milk_recsys.config.options import DataOptions, Options
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("data") / "tiny"
    return write_dataset(root, users=40, items=120, pairs_per_user=20, dtype=np.float16)


@pytest.fixture(scope="module")
def binary(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path], folder: Path
) -> Path:
    """The same data with interactions.npy."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(root, users=40, items=120, pairs_per_user=20, dtype=np.float16)
    (root / "interactions.tsv").unlink()
    np.save(root / "interactions.npy", read_dataset(folder).interactions)
    return root


def tables_of(dataset: Dataset, **values: Any) -> Tables:
    options = Options.of(model="milk", **values)
    return build_tables(dataset, draw_split(dataset, options.data)[0], options, CPU)


def pairs_of(group: Group) -> set[tuple[int, int]]:
    return set(zip(group.users.tolist(), group.candidates[group.positions].tolist(), strict=True))


# --- features -------------------------------------------------------------------------------------


def test_mapped_rows_equal_the_rows_in_memory(folder: Path) -> None:
    dataset = read_dataset(folder)
    mapped, held = (ItemFeatures(dataset.features, CPU, mapped=mapped) for mapped in (True, False))
    items = torch.tensor([3, 119, 0, 3])
    assert mapped.mapped
    assert not held.mapped
    for name, x in mapped.rows(items).items():
        assert x.dtype == torch.float16
        assert torch.equal(x.nan_to_num(99), held.rows(items)[name].nan_to_num(99))
        x.zero_()  # This changes a copy, not the file.
    blocks = list(mapped.blocks(torch.arange(120)))
    assert torch.equal(blocks[0][0], torch.arange(120))
    assert dataset.features["text"][3].all()


def test_masked_rows_of_mapped_features_are_in_temporary_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 16)
    made: list[Any] = []
    mapped_array = np.memmap
    monkeypatch.setattr(
        np, "memmap", lambda *args, **kwargs: made.append(mapped_array(*args, **kwargs)) or made[-1]
    )
    dataset = read_dataset(folder)
    mapped, held = (ItemFeatures(dataset.features, CPU, mapped=mapped) for mapped in (True, False))
    items = torch.arange(119, 20, -1)
    mask = torch.rand(len(items), len(dataset.modalities)) < 0.7
    expected = held.masked(items, mask)
    for m, (name, x) in enumerate(mapped.masked(items, mask).items()):
        assert x.dtype == expected[name].dtype == torch.float16
        assert torch.equal(x.nan_to_num(99), expected[name].nan_to_num(99))
        assert x[~mask[:, m]].isnan().all()
        assert x.data_ptr() in {array.ctypes.data for array in made}
    assert all(len(x) == 0 for x in mapped.masked(items[:0], mask[:0]).values())


def test_auto_leaves_large_features_in_their_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(folder)
    values = 120 * 13
    for dtype, size in (("float32", 4), ("float64", 8)):
        options = Options.of(model="milk", dtype=dtype)  # type: ignore[arg-type]
        for limit, leaves in ((values * size, False), (values * size - 1, True)):
            monkeypatch.setattr(catalogue_tables, "CPU_FEATURE_BYTES", limit)
            assert keep_features_on_disk(dataset, "auto", options.run.dtype, CPU) is leaves
            assert keep_features_on_disk(dataset, "mapped", "float32", CPU)
            assert not keep_features_on_disk(dataset, "memory", "float32", CPU)
            assert tables_of(dataset, dtype=dtype).features.mapped is leaves


@pytest.mark.parametrize(
    "values", [{}, {"scale_before_impute": False}, {"optimiser": "lazy_adam", "setting": "mtmt"}]
)
def test_training_is_the_same_from_files_and_from_memory(
    tmp_path: Path,
    folder: Path,
    binary: Path,
    values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "write_report", lambda folder: None)
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 17)
    fixed: dict[str, Any] = {
        "compare": "none",
        "epochs": 3,
        "eval_every": 1,
        "batch_size": 64,
        "device": "cpu",
    }
    results = []
    for data, where in ((folder, "memory"), (folder, "mapped"), (binary, "mapped")):
        out = tmp_path / f"{len(results)}"
        options, dataset = begin.open_run(
            Options.of(model="milk", data=data, out=out, features=where, lr=0.02, **fixed, **values)
        )  # type: ignore[arg-type]
        metrics = train.run(options, dataset, Progress(quiet=True))
        results.append(
            (
                load_state(out / "checkpoint.safetensors"),
                metrics["test"],
                begin.dataset_facts(dataset),
            )
        )
    (tensors, state), test, facts = results[0]
    for (other_tensors, other_state), other_test, other_facts in results[1:]:
        assert other_state == state
        assert other_test == test
        assert other_facts == facts
        assert set(other_tensors) == set(tensors)
        for name, x in tensors.items():
            assert torch.equal(other_tensors[name], x), name


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["warm", "all"])
@pytest.mark.parametrize("candidates", ["test", "all_cold"])
def test_tables_hold_the_pairs_of_the_split(binary: Path, negatives: str, candidates: str) -> None:
    dataset = read_dataset(binary)
    split, _ = draw_split(dataset, DataOptions())
    tables = tables_of(dataset, negatives=negatives, candidates=candidates)
    item = dataset.interactions[:, 1]
    assert tables.pairs.tolist() == dataset.interactions[np.isin(item, split.warm)].tolist()
    assert tables.num_pairs == len(tables.pairs)
    numbers = torch.tensor([5, 0, tables.num_pairs - 1])
    assert torch.equal(torch.stack(tables.pairs_at(numbers), dim=1), tables.pairs[numbers])
    assert tables.trained_users.nonzero()[:, 0].tolist() == tables.pairs[:, 0].unique().tolist()
    assert tables.pool.tolist() == sorted(
        {*split.warm, *(split.cold if negatives == "all" else ())}
    )
    for name, items in (
        ("validation", split.validation),
        ("test", split.test),
        ("all_cold", split.test),
    ):
        group = getattr(tables, name)
        wide = candidates == "all_cold" or name == "all_cold"
        assert group.candidates.tolist() == (split.cold if wide else items).tolist()
        expected = dataset.interactions[np.isin(item, items)].tolist()
        assert (
            torch.stack([group.users, group.candidates[group.positions]], dim=1).tolist()
            == expected
        )
        assert group.users.dtype == group.positions.dtype == torch.int64


# --- evaluated users ------------------------------------------------------------------------------


def test_evaluation_on_some_users(binary: Path) -> None:
    dataset = read_dataset(binary)
    whole = tables_of(dataset)
    drawn = []
    for seed in range(3):
        some, more = (tables_of(dataset, split_seed=0, eval_users=n) for n in (7, 20))
        for name in ("validation", "test", "all_cold"):
            every, of_7, of_20 = (pairs_of(getattr(tables, name)) for tables in (whole, some, more))
            users = {user for user, _ in of_7}
            assert len(users) == 7
            # An evaluated user keeps all positives.
            assert of_7 == {pair for pair in every if pair[0] in users}
            assert users < {user for user, _ in of_20}
            assert torch.equal(getattr(some, name).candidates, getattr(whole, name).candidates)
        assert pairs_of(some.test) == pairs_of(some.all_cold)
        assert torch.equal(some.pairs, whole.pairs)
        split = draw_split(dataset, DataOptions())[0]
        other = build_tables(
            dataset, split, Options.of(model="milk", split_seed=seed, eval_users=7), CPU
        )
        drawn.append(tuple(other.test.users.unique().tolist()))
    assert drawn[0] == tuple(some.test.users.unique().tolist())
    assert len(set(drawn)) == 3
    assert pairs_of(tables_of(dataset, eval_users=1000).test) == pairs_of(whole.test)


def test_a_run_reports_its_number_of_evaluated_users(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "write_report", lambda folder: None)
    options, dataset = begin.open_run(
        Options.of(
            model="milk",
            data=binary,
            out=tmp_path / "run",
            compare="none",
            epochs=1,
            eval_users=5,
            device="cpu",
        )
    )
    metrics = train.run(options, dataset, Progress(quiet=True))
    assert [
        metrics[name]["users"] for name in ("validation", "test", "test_complete", "test_all_cold")
    ] == [5] * 4
