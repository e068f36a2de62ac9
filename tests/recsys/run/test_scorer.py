"""Scoring new items with a finished run: inner products, missing modalities, errors and lists."""

import json
import linecache
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from milk_recsys import load_run
from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.catalogue.dataset import DataError, read_dataset
from milk_recsys.catalogue.split_file import read_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import OptionError
from milk_recsys.methods.milk.learner import milk_learner
from milk_recsys.methods.milk.model import Recommender
from milk_recsys.ranking.metrics import positive_ranks
from milk_recsys.run import begin
from milk_recsys.run.evaluation import rank_group
from milk_recsys.run.progress import Progress
from milk_recsys.run.scorer import Best, Scorer
from milk_recsys.train import run


@pytest.fixture(scope="module")
def scorer(trained_run) -> Scorer:
    return load_run(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def model(trained_run) -> Recommender:
    """The model of the run, built from its files without the scorer."""
    return build_model(trained_run.folder, trained_run.dataset, trained_run.options)


def build_model(folder, dataset, options) -> Recommender:
    tensors, _ = load_state(folder / "model.safetensors")
    model = Recommender(
        {name: x.shape[1] for name, x in dataset.features.items()},
        dataset.num_users,
        options.method,
        options.preparation,
    )
    model.to(tensors["users.weight"].dtype).load_state_dict(tensors)
    return model.eval()


@pytest.fixture(scope="module")
def tables(trained_run):
    split, _ = read_split(
        trained_run.folder / "split.npz", trained_run.dataset, trained_run.options.data.setting
    )
    return build_tables(trained_run.dataset, split, trained_run.options, torch.device("cpu"))


def masked_features(dataset, mask, rows) -> dict[str, np.ndarray]:
    """Features of some items, with NaN in the rows that the mask marks as missing."""
    features = {}
    for column, (name, x) in enumerate(dataset.features.items()):
        features[name] = np.array(x[rows])
        features[name][~np.asarray(mask)[rows, column]] = np.nan
    return features


# --- scores ---------------------------------------------------------------------------------------


def test_attributes_of_a_scorer(scorer, trained_run):
    assert isinstance(scorer, Scorer)
    assert scorer.modalities == ("text", "image", "audio")
    assert scorer.dims == {"text": 6, "image": 4, "audio": 3}
    assert scorer.num_users == 30
    assert scorer.user_names == trained_run.dataset.user_names
    assert scorer.user_names[3] == 'user "3", né'
    assert scorer.dtype == torch.float32
    assert not scorer.trained_users[28:].any()
    assert scorer.trained_users[:28].all()


@pytest.mark.parametrize("mask_name", ["natural_mask", "mask"])
def test_scores_are_the_models_inner_products(scorer, model, tables, trained_run, mask_name):
    mask, rows = getattr(tables, mask_name), tables.test.candidates
    scores = scorer.score(None, masked_features(trained_run.dataset, mask, rows.numpy()))
    with torch.no_grad():
        items = model.embed_items(tables.features.rows(rows), mask[rows])
        expected = model.users.weight @ items.T
    assert scores.shape == (30, len(rows))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)


def test_scores_rank_as_evaluation_does(scorer, model, tables, trained_run):
    assert not tables.mask[tables.test.candidates].all()
    scores = scorer.score(
        None, masked_features(trained_run.dataset, tables.mask, tables.test.candidates.numpy())
    )
    ranks = positive_ranks(
        lambda users: scores[users],
        tables.test.users,
        tables.test.positions,
        num_candidates=scores.shape[1],
    )
    learner = SimpleNamespace(scorer=model.scorer, user_starts=None)
    assert ranks.tolist() == rank_group(learner, tables, tables.test, tables.mask).tolist()


def test_a_run_without_names_of_modalities_loads_and_one_with_other_names_does_not(
    scorer, tables, trained_run, tmp_path
):
    """Versions before the names were saved wrote no names; swapped encoders must not load."""
    shutil.copytree(trained_run.folder, tmp_path / "run")
    tensors, facts = load_state(tmp_path / "run/model.safetensors")
    saved = {f"{part}.modality_names" for part in ("encoders", "imputer")}
    names = {name: tensors.pop(name) for name in saved}
    save_state(tmp_path / "run/model.safetensors", tensors, facts)
    features = masked_features(trained_run.dataset, trained_run.dataset.natural_mask, [1, 2, 3])
    older = load_run(tmp_path / "run", device="cpu")
    assert torch.equal(older.score([3], features), scorer.score([3], features))
    learner = milk_learner(trained_run.options, tables)
    assert learner.load(tmp_path / "run/model.safetensors", weights_only=True) == facts
    for name, codes in names.items():
        assert torch.equal(learner.model.state_dict()[name], codes)
        save_state(tmp_path / "run/model.safetensors", {**tensors, name: codes.flip(0)}, facts)
        with pytest.raises(ValueError, match=r"the loaded state (has|is of) the modalities None"):
            load_run(tmp_path / "run", device="cpu")


def test_rows_of_scores_are_in_the_order_of_the_given_users(scorer, trained_run):
    features = masked_features(trained_run.dataset, trained_run.dataset.natural_mask, [1, 2, 3])
    all_scores = scorer.score(None, features)
    for users in (
        [5, 0, 5],
        (5, 0, 5),
        np.array([5, 0, 5], dtype=np.uint8),
        torch.tensor([5, 0, 5]),
    ):
        assert torch.equal(scorer.score(users, features), all_scores[[5, 0, 5]])
    assert scorer.score([], features).shape == (0, 3)


def test_an_absent_modality_is_missing_for_all(scorer, trained_run):
    features = masked_features(trained_run.dataset, trained_run.dataset.natural_mask, [1, 2, 3])
    with_nan = features | {"audio": np.full((3, 3), np.nan), "image": np.full((3, 4), np.nan)}
    expected = scorer.score(None, with_nan)
    assert torch.equal(scorer.score(None, {"text": features["text"]}), expected)
    assert torch.equal(
        scorer.score(None, {"audio": None, "text": features["text"], "image": None}), expected
    )


def test_features_may_be_arrays_tensors_or_lists_of_any_numeric_dtype(scorer):
    integers = np.arange(1, 13).reshape(2, 6)
    expected = scorer.score(None, {"text": integers.astype(np.float64)})
    read_only = integers.astype(np.float32)
    read_only.flags.writeable = False
    variants = (
        integers,
        read_only,
        torch.from_numpy(integers).half(),
        integers.astype(">f4"),
        integers[::-1].copy()[::-1],
        integers.tolist(),
    )
    for x in variants:
        assert torch.equal(scorer.score(None, {"text": x}), expected)


def test_no_items(scorer):
    vectors = scorer.embed({"text": np.zeros((0, 6))})
    assert scorer.score(None, {"text": np.zeros((0, 6))}).shape == (30, 0)
    assert [tuple(best.indices.shape) for best in scorer.best_items(vectors, 5)] == [(30, 0)]
    assert list(scorer.best_users(vectors, 5)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"inference": "available_mean"}, torch.float32),
        ({"scale_before_impute": False}, torch.float32),
        ({"scale_features": False}, torch.float32),
        ({"dtype": "float64", "setting": "mtmt"}, torch.float64),
    ],
    ids=str,
)
def test_runs_with_other_options_score_as_their_models(trained_run, tmp_path, changes, dtype):
    changed = trained_run.options.replace(out=tmp_path / "run", epochs=1, **changes)
    options, dataset = begin.open_run(changed)
    run(options, dataset, Progress(quiet=True))
    opened = load_run(tmp_path / "run", device="cpu")
    model = build_model(tmp_path / "run", dataset, options)
    split, _ = read_split(tmp_path / "run/split.npz", dataset, options.data.setting)
    rows = split.cold
    with torch.no_grad():
        features = {name: torch.from_numpy(x[rows]) for name, x in dataset.features.items()}
        expected = (
            model.users.weight @ model.embed_items(features, torch.from_numpy(split.mask[rows])).T
        )
    scores = opened.score(None, masked_features(dataset, split.mask, rows))
    assert scores.dtype == dtype
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)


def test_opening_a_run_leaves_the_global_generator_alone(trained_run):
    before = torch.random.get_rng_state()
    load_run(str(trained_run.folder), device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


# --- errors ---------------------------------------------------------------------------------------


def test_an_item_without_any_modality(scorer):
    x = np.ones((4, 6))
    x[[1, 3]] = np.nan
    with pytest.raises(ValueError, match=r"item 1 has no modality at all \(2 such items\)"):
        scorer.score([0], {"text": x})
    scores = scorer.score([0], {"text": x}, empty_items="impute")
    assert scores.isfinite().all()
    assert scores[0, 1] == scores[0, 3] != scores[0, 0]


def with_value(value) -> np.ndarray:
    x = np.ones((3, 6))
    x[2, 4] = value
    return x


@pytest.mark.parametrize(
    ("users", "features", "error", "match"),
    [
        (
            [0],
            {"text": with_value(np.nan)},
            ValueError,
            r"'text' has NaN in part of a row, first in row 2",
        ),
        ([0], {"text": with_value(-np.inf)}, ValueError, r"'text' has an infinity, first in row 2"),
        (
            [0],
            {"smell": np.ones((3, 6))},
            KeyError,
            r"unknown modality 'smell'.*'text', 'image', 'audio'",
        ),
        (
            [0],
            {"text": np.ones((3, 5))},
            ValueError,
            r"'text' must have shape \(n, 6\).* got \(3, 5\)",
        ),
        ([0], {"text": np.ones(6)}, ValueError, r"'text' must have shape \(n, 6\).* got \(6,\)"),
        ([0], {"text": np.full((3, 6), "a")}, TypeError, r"'text' must be numbers"),
        (
            [0],
            {"text": np.ones((3, 6)), "audio": np.ones((2, 3))},
            ValueError,
            r"equal numbers of rows",
        ),
        ([0], {}, ValueError, r"gives no modality"),
        ([0], {"text": None}, ValueError, r"gives no modality"),
        (
            [3, 30],
            {"text": np.ones((3, 6))},
            ValueError,
            r"user 30 is out of range: ids go from 0 to 29",
        ),
        ([-1], {"text": np.ones((3, 6))}, ValueError, r"user -1 is out of range"),
        (
            [0.5],
            {"text": np.ones((3, 6))},
            TypeError,
            r"`users` must be whole numbers, got float64",
        ),
        ([True], {"text": np.ones((3, 6))}, TypeError, r"`users` must be whole numbers, got bool"),
        (3, {"text": np.ones((3, 6))}, ValueError, r"`users` must be ids of shape \(U,\)"),
    ],
)
def test_invalid_users_and_features_are_errors(scorer, users, features, error, match):
    with pytest.raises(error, match=match):
        scorer.score(users, features)


def test_the_length_of_a_list_is_at_least_1(scorer):
    vectors = scorer.embed({"text": np.ones((3, 6))})
    for method in (scorer.best_items, scorer.best_users):
        with pytest.raises(ValueError, match="`top` must be at least 1, got 0"):
            list(method(vectors, 0))


def test_folders_without_a_finished_run_are_errors(trained_run, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(DataError, match="is not the folder of a run"):
        load_run(trained_run.data)
    copy = shutil.copytree(trained_run.folder, tmp_path / "copy")
    (copy / "metrics.json").unlink()
    with pytest.raises(DataError, match=r"the run has not ended.*--resume --out .*copy"):
        load_run(copy)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", "{", r"config.json: is not the config of a run"),
        ("config.json", "{}", r"config.json: is not the config of a run"),
        ("model.safetensors", "nonsense", r"model.safetensors: is damaged"),
        ("model.safetensors", None, r"model.safetensors: no such file"),
        ("users.tsv", "user\tname\n0\tA\n", r"users.tsv: 29 users have no name"),
    ],
)
def test_damaged_runs(trained_run, tmp_path, name, content, match):
    copy = shutil.copytree(trained_run.folder, tmp_path / "copy")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(DataError, match=match):
        load_run(copy)


def test_weights_of_another_run(trained_run, tmp_path):
    copy = shutil.copytree(trained_run.folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["dataset"]["modalities"]["text"] = 7
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"model.safetensors: does not fit config.json"):
        load_run(copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(trained_run):
    with pytest.raises(DataError, match="no GPU that torch can use"):
        load_run(trained_run.folder, device="cuda")


# --- users' names ---------------------------------------------------------------------------------


def test_users_tsv_is_written_only_if_the_data_have_names(trained_run, write_dataset, tmp_path):
    data = write_dataset(tmp_path / "data", names=False)
    _, dataset = begin.open_run(trained_run.options.replace(data=data, out=tmp_path / "run"))
    begin.start_folder(tmp_path / "run", dataset)
    assert not (tmp_path / "run/users.tsv").exists()
    assert read_dataset(trained_run.data).user_names == load_run(trained_run.folder).user_names


def test_a_folder_with_users_tsv_is_not_used_for_a_run(trained_run):
    before = (trained_run.data / "users.tsv").read_text()
    with pytest.raises(OptionError, match=r"holds a run \(users.tsv, items.tsv\)"):
        begin.open_run(trained_run.options.replace(out=trained_run.data))
    assert (trained_run.data / "users.tsv").read_text() == before


# --- lists ----------------------------------------------------------------------------------------


def reference_best(scores: np.ndarray, top: int) -> np.ndarray:
    """Columns by decreasing score, then by increasing number."""
    return np.stack([np.lexsort((np.arange(len(row)), -row))[:top] for row in scores])


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_lists_do_not_depend_on_the_size_of_blocks(trained_run, monkeypatch, block):
    """Every item occurs three times, so scores tie; the lower id comes first in all lists."""
    monkeypatch.setattr("milk_recsys.run.scorer.ITEMS_AT_ONCE", max(1, block // 4))
    monkeypatch.setattr("milk_recsys.run.scorer.LISTS_AT_ONCE", max(1, block // 4))
    opened = load_run(trained_run.folder, device="cpu", scores_at_once=block)
    features = masked_features(
        trained_run.dataset, trained_run.dataset.natural_mask, np.tile(np.arange(0, 40, 4), 3)
    )
    vectors, scores = opened.embed(features), opened.score(None, features).numpy()
    assert (scores[:, :10] == scores[:, 10:20]).all()
    for top in (4, 50):
        lists = list(opened.best_items(vectors, top))
        assert torch.cat([best.rows for best in lists]).tolist() == list(range(30))
        items = torch.cat([best.indices for best in lists]).numpy()
        assert items.tolist() == reference_best(scores, top).tolist()
        assert np.array_equal(
            torch.cat([best.scores for best in lists]), np.take_along_axis(scores, items, 1)
        )

        lists = list(opened.best_users(vectors, top))
        assert torch.cat([best.rows for best in lists]).tolist() == list(range(30))
        users = torch.cat([best.indices for best in lists]).numpy()
        # Users 28 and 29 have no training pair and are not candidates.
        assert users.tolist() == reference_best(scores[:28].T, top).tolist()
        assert np.array_equal(
            torch.cat([best.scores for best in lists]), np.take_along_axis(scores.T, users, 1)
        )


def test_of_users_with_equal_vectors_the_lower_ids_come_first(trained_run):
    opened = load_run(trained_run.folder, device="cpu", scores_at_once=8)
    opened.model.users.weight[:] = opened.model.users.weight[0].clone()
    (best,) = opened.best_users(opened.embed({"text": np.ones((2, 6))}), 5)
    assert best.indices.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_the_old_name_of_the_indices_warns_at_the_line_that_uses_it():
    best = Best(torch.tensor([0]), torch.tensor([[2, 1]]), torch.tensor([[0.5, 0.25]]))
    message = r"^`Best\.found` is now `Best\.indices`\. The old name will be removed"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        assert best.found is best.indices
    (warning,) = caught
    line = linecache.getline(warning.filename, warning.lineno).strip()
    assert line == "assert best.found is best.indices"


def test_lists_of_chosen_users(scorer):
    rng = np.random.default_rng(1)
    features = {"text": rng.standard_normal((9, 6)), "audio": rng.standard_normal((9, 3))}
    vectors, scores = scorer.embed(features), scorer.score(None, features).numpy()
    (best,) = scorer.best_items(vectors, 3, users=[29, 4])
    assert best.rows.tolist() == [29, 4]
    assert best.indices.tolist() == reference_best(scores[[29, 4]], 3).tolist()
    (best,) = scorer.best_users(vectors, 3, users=[29, 4, 29])
    assert best.indices.tolist() == np.array([4, 29])[reference_best(scores[[4, 29]].T, 2)].tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(scorer, trained_run):
    opened = load_run(trained_run.folder, device="cuda", scores_at_once=64)
    features = masked_features(trained_run.dataset, trained_run.dataset.natural_mask, np.arange(40))
    torch.testing.assert_close(opened.score(None, features), scorer.score(None, features))
    pairs = zip(
        opened.best_users(opened.embed(features), 7),
        scorer.best_users(scorer.embed(features), 7),
        strict=True,
    )
    assert all(torch.equal(gpu.indices, cpu.indices) for gpu, cpu in pairs)
