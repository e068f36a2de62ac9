"""DGMRec's task on a small random folder: both tables against NumPy, and what is refused."""

import json

import numpy as np
import pytest
import torch

from benchmarks import dgmrec_task
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.dgmrec import read_dgmrec_task
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from tests.recsys.catalogue.dgmrec_files import write_task

USERS, ITEMS = 40, 30
MISSING = {"t": [0], "v": [1, 20], "a": [2, 21], "va": [3], "all": [22]}


pytestmark = pytest.mark.usefixtures("same_threads")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write the task and the data set; items 20 to 25 are new."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        taken = rng.permutation(ITEMS)[:9].tolist()
        # Items from 26 on have no training pair.
        rows += [(user, item, 1 if item >= 26 else 0) for item in taken[:8]]
        rows.append((user, taken[8], 2))
    removed = {row for row in rows if row[2] == 0 and 20 <= row[1] < 26}
    files = write_task(tmp_path_factory.mktemp("files"), tuple(rows), removed, MISSING)
    data = tmp_path_factory.mktemp("tiny")
    pairs = [f"{user}\t{item}" for user, item, _ in sorted(rows)]
    (data / "interactions.tsv").write_text("\n".join(["user\titem", *pairs]) + "\n")
    dims = {"visual": 4, "acoustic": 3}
    for name, dim in dims.items():
        np.save(data / f"{name}.npy", rng.standard_normal((ITEMS, dim)).astype(np.float32))
    manifest = {
        "name": "tiny",
        "num_users": USERS,
        "num_items": ITEMS,
        "modalities": {name: {"file": f"{name}.npy", "dim": dim} for name, dim in dims.items()},
    }
    (data / "dataset.json").write_text(json.dumps(manifest))
    return files, data


def metrics_by_hand(scores, positives, candidates, excluded, k):
    """Return recall, NDCG and their number of users from dense scores (U, N)."""
    recall, ndcg = [], []
    for user in sorted({u for u, _ in positives}):
        own = {i for u, i in positives if u == user}
        left = [i for i in candidates if (user, i) not in excluded]
        order = sorted(left, key=lambda i: -scores[user, i])[:k]
        hits = [place for place, i in enumerate(order) if i in own]
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(own))))
        recall.append(len(hits) / len(own))
        ndcg.append(sum(1 / np.log2(place + 2) for place in hits) / ideal)
    return np.mean(recall), np.mean(ndcg), len(recall)


@pytest.mark.parametrize("warm", ["as_new", "donor"])
def test_both_tables_match_numpy(folders, warm):
    files, data = folders
    task = read_dgmrec_task(files)
    assert task.new.tolist() == [20, 21, 22, 23, 24, 25]
    dataset, split = task.apply(read_dataset(data))
    options = Options.of("linmap", compare="none", setting="mtmt", device="cpu", dtype="float64")
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    learner = make_learner(options, tables)
    learner.prepare()
    with torch.no_grad():
        block = learner.scorer(tables.features, torch.arange(ITEMS), tables.mask)
        scores = block(torch.arange(USERS)).numpy().copy()
    clean = dgmrec_task.evaluate_clean(learner, tables, task)
    recall, ndcg, users = metrics_by_hand(
        scores, list(map(tuple, task.clean.tolist())), task.new, set(), 5
    )
    assert clean["users"] == users
    assert (clean["recall@5"], clean["ndcg@5"]) == pytest.approx((recall, ndcg))
    assert clean["share"] == 1
    if warm == "donor":
        scores[:, task.warm] = learner.model.donor_scorer()(torch.arange(USERS)).numpy()
    mixed = dgmrec_task.evaluate_mixed(learner, tables, task, options if warm == "donor" else None)
    training = set(map(tuple, task.training.tolist()))
    positives = list(map(tuple, task.test.tolist()))
    recall, ndcg, users = metrics_by_hand(scores, positives, range(ITEMS), training, 10)
    assert mixed["users"] == users
    assert (mixed["recall@10"], mixed["ndcg@10"]) == pytest.approx((recall, ndcg))
    assert 0 < mixed["share"] < 1


def test_the_donor_scale_is_that_of_keep(folders):
    """KEEP's vectors of training items at full rank give the donor's scores."""
    files, data = folders
    task = read_dgmrec_task(files)
    dataset, split = task.apply(read_dataset(data))
    options = Options.of("keep", compare="none", setting="mtmt", device="cpu", dtype="float64")
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    zeros = dgmrec_task.with_donor(
        lambda users: torch.zeros(len(users), ITEMS, dtype=torch.float64), tables, options, 0.7
    )(torch.arange(USERS))
    pairs = np.zeros((USERS, ITEMS))
    pairs[tuple(task.training.T)] = 1
    x = pairs / np.maximum(np.outer(pairs.sum(1), pairs.sum(0)), 1) ** options.method.popularity
    a, s, b = np.linalg.svd(x, full_matrices=False)
    shrunk = s**2 + 0.7 * (s[: min(50, len(task.warm))] ** 2).mean()
    np.testing.assert_allclose(zeros.numpy(), a * (s**3 / shrunk) @ b, rtol=1e-8, atol=1e-12)


def test_the_command(folders, tmp_path, monkeypatch, capsys):
    files, data = folders
    counts = read_dgmrec_task(files).counts()
    monkeypatch.setattr(dgmrec_task, "TIKTOK_COUNTS", counts)
    out = tmp_path / "table.md"
    given = ["--files", str(files), "--data", str(data), "--threads", "1"]
    models = ["keep", "fease", "graph_imputation"]
    arguments = [*given, "--models", *models, "--set", "width=2.0", "--out", str(out)]
    assert dgmrec_task.main(arguments) == 0
    text = out.read_text()
    assert text.count("| `keep` |") == text.count("| `fease` |") == 2
    assert text.index("**clean**") < text.index("**mixed**")
    assert capsys.readouterr().out.strip() in text
    assert dgmrec_task.main([*given, "--models", "keep", "linmap", "--warm", "donor"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "fease", "--warm", "donor"], "scores of fease are on another scale"),
        (["--models", "kepe"], "there is no such method. Did you mean keep?"),
        (["--set", "width"], "--set width: must be NAME=VALUE"),
        (["--set", "width=-1"], "--width must be finite, above 0"),
    ],
)
def test_wrong_options_are_refused(folders, monkeypatch, capsys, arguments, message):
    files, data = folders
    monkeypatch.setattr(dgmrec_task, "TIKTOK_COUNTS", {})
    given = ["--files", str(files), "--data", str(data), "--threads", "1"]
    assert dgmrec_task.main([*given, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_files_of_another_revision_are_refused(folders, capsys):
    files, data = folders
    assert dgmrec_task.main(["--files", str(files), "--data", str(data), "--threads", "1"]) == 2
    assert "360 pairs instead of 68,722" in capsys.readouterr().err
