"""The audit of functions from outside accepts honest ones and names each planted leak."""

import subprocess
import sys

import numpy as np
import pytest

import bench_entry
from milk_recsys import bench
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.study.bench.fit_audit import audit_fit, load_fit
from milk_recsys.study.bench.fit_inputs import inputs_of
from milk_recsys.study.bench.names import Task
from milk_recsys.study.bench.tasks import instances, open_dataset
from milk_recsys.study.records import Leak

DATASET = tiny_dataset()
(FTMT,) = instances(Task.parse("tiny/ftmt/0"), DATASET)
(MTMT,) = instances(Task.parse("tiny/mtmt/0"), DATASET)


def honest(**given):
    return bench_entry.content_knn(**given)


def lists(**given):
    """Return the best cold items as lists of their rows."""
    return np.argsort(-honest(**given), axis=1, kind="stable")[:, :20]


def random_init(seed, **given):
    """Add noise to the user profiles that depends on the seed alone."""
    noise = np.random.default_rng(seed).normal(size=(80, 1))
    return honest(seed=seed, **given) + noise[given["users"]]


# --- honest functions -----------------------------------------------------------------------------


@pytest.mark.parametrize("instance", [FTMT, MTMT], ids=["ftmt", "mtmt"])
@pytest.mark.parametrize("fit", [bench_entry.content_knn, bench_entry.ridge, lists, random_init])
def test_an_honest_function_passes(fit, instance):
    passed = audit_fit(fit, instance, None)
    assert passed == (
        "repeatability",
        "hidden cells",
        "order of the cold items",
        "other cold items",
        "other users",
    )


def test_without_hidden_cells_there_is_nothing_to_reveal():
    (complete,) = instances(Task.parse("tiny/ftft/0"), DATASET)
    assert "hidden cells" not in audit_fit(honest, complete, None)


def test_a_function_may_change_its_arguments():
    def destructive(**given):
        scores = honest(**given)
        for x in (*given["features"].values(), *given["cold_features"].values()):
            x[:] = 0
        given["pairs"][:] = 0
        given["mask"][:] = True
        return scores

    assert audit_fit(destructive, MTMT, None)


def test_the_arguments_hold_training_pairs_and_no_hidden_cell():
    given = inputs_of(MTMT)
    warm, test = MTMT.split.warm, MTMT.split.test
    pairs = np.column_stack([given.pairs[:, 0], warm[given.pairs[:, 1]]])
    whole = DATASET.interactions
    assert np.array_equal(pairs, whole[np.isin(whole[:, 1], warm)])
    assert np.array_equal(given.users, np.unique(whole[np.isin(whole[:, 1], test), 0]))
    for m, (name, x) in enumerate(DATASET.features.items()):
        for items, rows, mask in (
            (warm, given.features[name], given.mask),
            (test, given.cold_features[name], given.cold_mask),
        ):
            assert np.isnan(rows[~mask[:, m]]).all()
            assert np.array_equal(rows[mask[:, m]], x[items][mask[:, m]])
    assert not given.mask.all()
    revealed = inputs_of(MTMT, reveal=True)
    assert np.array_equal(revealed.features["text"], DATASET.features["text"][warm])


# --- leaks ----------------------------------------------------------------------------------------

TEST_PAIRS = np.zeros((80, len(FTMT.split.test)), dtype=bool)
TEST_PAIRS[FTMT.tables.test.users.numpy(), FTMT.tables.test.positions.numpy()] = True


def knows_test_pairs(**given):
    """Add to the score of each test pair, identified by the position of the item."""
    scores = honest(**given)
    return scores + TEST_PAIRS[given["users"], : scores.shape[1]]


def lists_with_test_pairs(**given):
    return np.argsort(-knows_test_pairs(**given), axis=1, kind="stable")[:, :20]


def reads_hidden_cells(**given):
    """Take every cell that has a value as available."""
    given["cold_mask"] = np.column_stack(
        [np.isfinite(x).all(axis=1) for x in given["cold_features"].values()]
    )
    return honest(**given)


def imputes_from_all_cells(**given):
    """Fill hidden cells with the mean of all values, hidden or not."""
    for name, x in given["features"].items():
        whole = np.concatenate([x, given["cold_features"][name]])
        mean = np.nanmean(whole, axis=0)
        hidden = ~given["cold_mask"][:, list(given["features"]).index(name)]
        given["cold_features"][name][hidden] = mean
    given["cold_mask"][:] = True
    return honest(**given)


def centres_on_cold_items(**given):
    """Fit the mean of the features on warm and cold items together."""
    for m, (name, x) in enumerate(given["features"].items()):
        cold, known = given["cold_features"][name], given["cold_mask"][:, m]
        shift = np.concatenate([x[given["mask"][:, m]], cold[known]]).mean(axis=0)
        given["features"][name] = x - shift
        given["cold_features"][name] = cold - 5 * cold[known].mean(axis=0)
    return honest(**given)


def counts_test_users(**given):
    return honest(**given) * len(given["users"])


def draws_without_the_seed(**given):
    scores = honest(**given)
    return scores + 0.1 * np.random.default_rng().normal(size=scores.shape)


LEAKS = {
    knows_test_pairs: "leak: test pairs: with the cold items in another order",
    lists_with_test_pairs: "leak: test pairs: with the cold items in another order",
    reads_hidden_cells: "leak: hidden cells: the result changes with the values of cells where",
    imputes_from_all_cells: "leak: hidden cells",
    centres_on_cold_items: "leak: cold items' features: the score of an item changes with the",
    counts_test_users: "leak: test users: the scores of a user change with the other users",
    draws_without_the_seed: "leak: nondeterminism: two calls with the same arguments return",
}


@pytest.mark.parametrize("fit", LEAKS, ids=lambda fit: fit.__name__)
def test_a_leaky_function_is_refused_by_name(fit):
    with pytest.raises(Leak, match=LEAKS[fit]):
        audit_fit(fit, FTMT, None)


def test_a_transductive_function_is_accepted_where_this_is_allowed():
    passed = audit_fit(centres_on_cold_items, FTMT, None, transductive=True)
    assert "other cold items" not in passed
    with pytest.raises(Leak, match="test pairs"):
        audit_fit(knows_test_pairs, FTMT, None, transductive=True)


def test_lists_that_use_the_other_cold_items_are_a_leak():
    def best(**given):
        return np.argsort(-centres_on_cold_items(**given), axis=1, kind="stable")[:, :20]

    # With 13 of 26 cold items, a list has all 13.
    with pytest.raises(Leak, match="cold items' features"):
        audit_fit(lambda **given: best(**given), FTMT, None)


def test_a_file_of_the_data_set_must_not_be_opened(write_dataset, tmp_path):
    folder = write_dataset(tmp_path / "shop", users=60, items=300, missing=False)
    (instance,) = instances(Task.parse("shop/ftmt/0"), open_dataset("shop", tmp_path)[0])

    def reads(**given):
        assert (folder / "interactions.tsv").read_text()
        return honest(**given)

    with pytest.raises(Leak, match=r"leak: test pairs: the function opened .*interactions\.tsv"):
        audit_fit(reads, instance, folder)
    assert audit_fit(honest, instance, folder)[-1] == "files of the data set"
    # After the audit, files may be opened again.
    assert (folder / "interactions.tsv").read_text()
    assert audit_fit(honest, instance, folder)


# --- results that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :5], "fit: must return scores, float"),
        (lambda x: x.T, "fit: must return scores, float"),
        (lambda x: np.where(x == x.max(), np.nan, x), "scores must be finite, but some are NaN"),
        (lambda x: np.argsort(-x)[:, :19], "K at least 20 different rows"),
        (lambda x: np.argsort(-x)[:, :20] + 300, "lists, integers"),
        (lambda x: np.zeros((len(x), 20), dtype=int), "different rows of cold items"),
        (lambda x: x.astype(str), "must return scores"),
    ],
)
def test_a_result_that_cannot_be_used_is_an_error(change, message):
    with pytest.raises(DataError, match=message):
        audit_fit(lambda **given: change(honest(**given)), FTMT, None)


def test_nan_in_hidden_cells_that_reaches_the_scores_is_an_error():
    def ignores_the_mask(**given):
        given["cold_mask"][:] = True
        return honest(**given)

    with pytest.raises(DataError, match="Cells where the mask is False hold NaN"):
        audit_fit(ignores_the_mask, FTMT, None)


# --- the command ----------------------------------------------------------------------------------

MODULE = """
import numpy as np

def fit(pairs, features, mask, cold_features, cold_mask, users, seed):
    x, y = (
        np.hstack([np.where(known[:, m, None], v, 0) for m, v in enumerate(values.values())])
        for values, known in ((features, mask), (cold_features, cold_mask))
    )
    history = np.zeros((users.max() + 1, len(x)))
    known = pairs[:, 0] <= users.max()
    history[pairs[known, 0], pairs[known, 1]] = 1
    return history[users] @ x @ y.T

def leaky(users, **given):
    from milk_recsys.catalogue.synthetic import tiny_dataset
    hidden = tiny_dataset().interactions
    scores = fit(users=users, **given)
    for place, user in enumerate(users):
        scores[place, :5] += (hidden[:, 0] == user).sum()
    return scores
"""


@pytest.mark.slow
def test_the_command_ends_with_0_for_an_honest_and_1_for_a_leaky_function(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)

    def run(*words):
        code = "import sys; from milk_recsys.bench import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.run(
            [sys.executable, "-c", code, "audit", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    passed = run("mine:fit")
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout.startswith("mine:fit on tiny/ftmt/0: passed (repeatability, hidden cells")
    refused = run("mine:leaky")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: leak: test pairs: with the cold items in another")
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none:fit"], "none:fit: cannot be imported"),
        (["bench_entry:none"], "cannot be imported"),
        (["bench_entry"], "must be MODULE:NAME"),
        (["bench_entry:Path.cwd"], "must be MODULE:NAME"),
        (["sys:path"], "is not a function"),
        (["bench_entry:ridge", "--task", "tiny/ftmt/0..1"], "takes a single split"),
        (["bench_entry:ridge", "--task", "nowhere/ftmt/0"], "no such folder"),
    ],
)
def test_wrong_arguments_end_with_status_2(words, message, tmp_path, capsys):
    assert bench.main(["audit", *words, "--data", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_function_is_imported_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "method_of_mine.py").write_text("def fit(**given):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_fit("method_of_mine:fit")() == 1
    assert sys.path == before


@pytest.mark.data
@pytest.mark.parametrize("name", ["content_knn", "ridge"])
def test_both_methods_from_outside_pass_on_real_data(name, data_root, capsys):
    words = [f"bench_entry:{name}", "--task", "lfm2k/ftmt/0", "--data", str(data_root)]
    assert bench.main(["audit", *words]) == 0
    assert "files of the data set" in capsys.readouterr().out
