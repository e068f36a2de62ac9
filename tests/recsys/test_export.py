"""export: vectors that give the scores, their reduction, an index, an item tower, and errors."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from milk_recsys import load_run
from milk_recsys.base.errors import DataError
from milk_recsys.export import ExportOptions, export, main
from milk_recsys.exporting.reduction import fit_reduction
from tests.recsys.test_recommend import DIMS, some_features, write_items
from tests.recsys.test_recommend_options import keep_run  # noqa: F401 (a fixture)


def exported(run, items, out: Path, **options):
    """Return the vectors of users and of items, the content of export.json and the notes."""
    lines: list[str] = []
    given = ExportOptions(run=run, items=items, out=out, device="cpu", **options)
    result = export(given, lines.append)
    assert json.loads((out / "export.json").read_text()) == result
    tables = [pl.read_parquet(out / f"{name}.parquet") for name in ("users", "items")]
    return *tables, result, lines


@pytest.fixture
def items(tmp_path):
    features = some_features(25)
    features["image"][[2, 5]] = np.nan
    return write_items(tmp_path / "new", features, [f"new {k}" for k in range(25)])


def loaded(items: Path) -> dict[str, np.ndarray]:
    return {name: np.load(items / f"features/{name}.npy") for name in DIMS}


def products(users: pl.DataFrame, items: pl.DataFrame) -> np.ndarray:
    a, b = (table["vector"].to_numpy().astype(np.float64) for table in (users, items))
    return a @ b.T


def test_inner_products_are_the_scores_of_the_scorer(trained_run, keep_run, items, tmp_path):  # noqa: F811
    for name, run in (("milk", trained_run.folder), ("keep", keep_run.folder)):
        users, new, result, _ = exported(run, items, tmp_path / name)
        scores = load_run(run, device="cpu").score(users["user"].to_numpy(), loaded(items))
        np.testing.assert_allclose(products(users, new), scores, atol=1e-6)
        assert users["user"].to_list() == list(range(28))  # The others have no training pair.
        assert users["user_name"][3] == 'user "3", né'
        assert new["item_name"].to_list() == [f"new {k}" for k in range(25)]
        assert not new["known"].any()
        assert result["vectors"]["width"] == new["vector"].dtype.size
        assert not (tmp_path / name / "reduction.safetensors").exists()


def test_known_items_of_a_file_are_exported(keep_run, tmp_path):  # noqa: F811
    users, known, _, _ = exported(keep_run.folder, None, tmp_path / "a", include_warm=True)
    assert known["known"].all()
    (tmp_path / "stock.txt").write_text("\n".join(known["item_name"][3:6]), encoding="utf-8")
    (tmp_path / "users.txt").write_text('user "4", né\n', encoding="utf-8")
    files = {"available": tmp_path / "stock.txt", "users": tmp_path / "users.txt"}
    one, some, _, _ = exported(keep_run.folder, None, tmp_path / "b", include_warm=True, **files)
    assert some.equals(known[3:6])
    assert one.equals(users.filter(user=4))


def test_the_reduction_is_the_best_of_its_rank():
    """Against the singular value decomposition of all scores, for each width."""
    rng = torch.Generator().manual_seed(0)
    users = torch.randn(40, 7, generator=rng, dtype=torch.float64)
    items = torch.randn(30, 7, generator=rng, dtype=torch.float64)
    users[:, 6] = users[:, 0]  # One direction is missing in the users, one in the items.
    items[:, 5] = 0
    scores = users @ items.T
    left, s, right = torch.linalg.svd(scores, full_matrices=False)
    for width in range(1, 8):
        best = (left[:, :width] * s[:width]) @ right[:width]
        found = fit_reduction(users, items, width)
        torch.testing.assert_close((users @ found.users) @ (items @ found.items).T, best)
        share = float(s[:width].square().sum() / s.square().sum())
        assert found.kept == pytest.approx(share, abs=1e-12)


def test_fewer_dimensions_state_what_they_lose(keep_run, items, tmp_path):  # noqa: F811
    users, new, result, lines = exported(keep_run.folder, items, tmp_path / "out", width=4)
    facts = result["vectors"]
    assert new["vector"].dtype.size == facts["width"] == 4
    scores = load_run(keep_run.folder, device="cpu").score(users["user"].to_numpy(), loaded(items))
    s = np.linalg.svd(scores.double().numpy(), compute_uv=False)
    assert facts["squared_norm_kept"] == pytest.approx((s[:4] ** 2).sum() / (s**2).sum(), abs=1e-5)
    found, best = (np.argsort(-x, axis=1)[:, :20] for x in (products(users, new), scores.numpy()))
    shares = [len(set(a) & set(b)) / 20 for a, b in zip(found, best, strict=True)]
    assert facts["recall_at_20"] == pytest.approx(np.mean(shares), abs=0.01)
    assert any("4 of " in line and "of the squared norm" in line for line in lines)
    # The maps reduce vectors that are made later.
    from safetensors.numpy import load_file

    maps = load_file(tmp_path / "out/reduction.safetensors")
    vectors = load_run(keep_run.folder, device="cpu").embed(loaded(items)).numpy()
    np.testing.assert_allclose(vectors @ maps["items"], new["vector"].to_numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_an_index_finds_the_best_items(trained_run, items, tmp_path, kind):
    faiss = pytest.importorskip("faiss", reason="needs the extra `index`")
    users, new, result, lines = exported(trained_run.folder, items, tmp_path / "out", index=kind)
    index = faiss.read_index(str(tmp_path / "out/items.faiss"))
    assert index.ntotal == 25
    _, found = index.search(np.ascontiguousarray(users["vector"].to_numpy()), 5)
    assert (found == np.argsort(-products(users, new), axis=1)[:, :5]).mean() > 0.99
    assert result["index"]["recall_at_20"] >= 0.99
    assert result["index"]["kind"] == kind
    assert any(f"the {kind} index has recall@20" in line for line in lines)
    assert not any("warning" in line for line in lines)


def test_a_low_recall_is_a_warning(trained_run, items, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="needs the extra `index`")
    from milk_recsys.exporting import index

    monkeypatch.setattr(index, "recall", lambda found, best: 0.5)
    _, _, result, lines = exported(trained_run.folder, items, tmp_path / "out", index="hnsw")
    assert result["index"]["search_depth"] == index.SEARCH_DEPTHS[-1]
    assert any("warning: the recall of the index is below 0.99" in line for line in lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the tracer and the converter about themselves.
def test_the_item_tower_in_onnx_gives_the_vectors(trained_run, items, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    _, new, result, _ = exported(trained_run.folder, items, tmp_path / "out", onnx=True)
    session = runtime.InferenceSession(
        str(tmp_path / "out/item_tower.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in session.get_inputs()] == result["onnx"]["inputs"]
    given = loaded(items)
    mask = np.stack([~np.isnan(x).all(axis=1) for x in given.values()], axis=1)
    inputs = {name: np.nan_to_num(x) for name, x in given.items()}
    (vectors,) = session.run(["vectors"], {**inputs, "mask": mask})
    np.testing.assert_allclose(vectors, new["vector"].to_numpy(), atol=1e-5)


def test_a_method_without_an_item_tower_says_so(keep_run, items, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match="keep has no item tower"):
        exported(keep_run.folder, items, tmp_path / "out", onnx=True)
    assert not list(tmp_path.glob("*out*"))


def test_an_existing_folder_is_refused_and_a_failure_leaves_none(
    trained_run, items, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already and is never overwritten"):
        exported(trained_run.folder, items, tmp_path / "out")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milk_recsys.exporting.folder.write_json", fails)
    with pytest.raises(DataError, match=r"cannot be written \(No space left"):
        exported(trained_run.folder, items, tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))
    words = ["--run", str(trained_run.folder), "--out", str(tmp_path / "x")]
    assert main([*words, "--width", "0"]) == 2
    assert "--width must be at least 1, got 0" in capsys.readouterr().err
