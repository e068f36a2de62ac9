"""Scores of the benchmark: lists from outside have the numbers and p-values of runs inside."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import bench_entry
from milk_recsys import bench
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.ranking.metrics import per_user_metrics, positive_ranks
from milk_recsys.study import claims
from milk_recsys.study.bench import score
from milk_recsys.study.bench.entry import measure, read_lists
from milk_recsys.study.bench.export import export
from milk_recsys.study.bench.names import Task
from milk_recsys.study.bench.report import report_of
from milk_recsys.study.bench.score import compare, rivals_of, systems
from milk_recsys.study.bench.tasks import instances, open_dataset
from milk_recsys.study.records import Run
from milk_recsys.study.runs import execute
from milk_recsys.study.store import Store, user_values

ROOT = Path(__file__).parents[2]
DATASET = tiny_dataset()
TASK = Task.parse("tiny/ftmt/0..2")
METHODS = ("content_knn", "ridge", "random")


def options_of(method, seed, setting="ftmt"):
    # In float64, as the methods from outside, so that no two scores change places by rounding.
    values = {"setting": setting, "seed": seed, "split_seed": seed, "dtype": "float64"}
    return Options.of(method, compare="none", device="cpu", **values)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results with runs of three methods, made as `reproduce` makes them."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "tiny").mkdir()
    store = Store(folder / "tiny")
    for method in METHODS:
        for number, seed in enumerate(TASK.seeds):
            run = Run("fresh", method, number, options_of(method, seed), {})
            store.add(execute(run, DATASET, folder / ".factors"))
    store.compact()
    return folder


@pytest.fixture(scope="module")
def drawn():
    return {x.seed: x for x in instances(TASK, DATASET)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("exported")
    export(drawn.values(), folder, "csv")
    return folder / "tiny/ftmt"


@pytest.fixture(scope="module")
def scores(drawn):
    """The scores of the package's own content kNN for all test users, as a table."""
    return pl.concat([own_scores("content_knn", x) for x in drawn.values()])


def own_scores(method, instance, setting="ftmt"):
    learner = make_learner(options_of(method, instance.seed, setting), instance.tables)
    learner.prepare()
    test = instance.tables.test
    users = test.users.unique()
    score_block = learner.scorer(instance.tables.features, test.candidates, instance.tables.mask)
    x = score_block(users).numpy()
    return pl.DataFrame(
        {
            "seed": np.full(x.size, instance.seed),
            "user": users.numpy().repeat(len(test.candidates)),
            "item": np.tile(test.candidates.numpy(), len(users)),
            "score": x.ravel(),
        }
    )


def ranked(table, length=20):
    """Turn a table of scores into lists."""
    table = table.sort("seed", "user", "score", "item", descending=[False, False, True, False])
    ranks = (pl.int_range(pl.len()).over("seed", "user") + 1).alias("rank")
    return table.with_columns(ranks).drop("score").filter(pl.col("rank") <= length)


def measured(table, tmp_path, drawn, name="x", task=TASK):
    path = tmp_path / "lists.parquet"
    table.write_parquet(path)
    lists = read_lists(path, task)
    both = [measure(lists[seed], drawn[seed], name) for seed in task.seeds]
    return [line for line, _ in both], [note for _, notes in both for note in notes]


def assert_same(lines, others):
    for a, b in zip(lines, others, strict=True):
        assert a["test"] == b["test"]
        assert np.array_equal(a["per_user"], b["per_user"])


# --- the numbers of runs inside -------------------------------------------------------------------


def test_the_packages_own_scores_have_the_numbers_of_its_own_runs(scores, tmp_path, drawn, results):
    lines, notes = measured(scores, tmp_path, drawn)
    runs = Store(results / "tiny").of("fresh", "content_knn")
    for line, run in zip(lines, runs, strict=True):
        assert (line["split"], line["candidates"]) == (run["split"], run["candidates"])
        assert np.array_equal(line["per_user"], run["per_user"])
        for name, value in line["test"].items():
            assert value == run["test"][name], name
    # Users without a training pair have the score 0 for all items.
    assert all("equal scores" in note for note in notes)


@pytest.mark.parametrize("method", ["content_knn", "ridge"])
def test_a_method_that_is_run_outside_has_the_p_values_of_a_run_inside(
    method, exported, results, tmp_path, capsys
):
    """The files of the export, a script that needs only NumPy, and the command, nothing else."""
    lists, page, numbers = (tmp_path / name for name in ("lists.csv", "page.md", "numbers.json"))
    bench_entry.main([method, str(exported), str(lists)])
    rivals = [m for m in METHODS if m != method]
    words = ["score", str(lists), "--task", str(TASK), "--name", "outside", "--against"]
    words += [",".join(rivals), "--results", str(results)]
    assert bench.main([*words, "--json", str(numbers), "--page", str(page)]) == 0
    shown = capsys.readouterr().out

    store = Store(results / "tiny")
    inside = [
        claims.better(store, "", "", (method, rival), "ftmt", "fresh", claims.OVERLAP)
        for rival in rivals
    ]
    entry = json.loads(numbers.read_text())
    for run in store.of("fresh", method):
        for name, value in entry["seeds"][str(run["options"]["split_seed"])].items():
            if name not in ("split", "candidates", "users"):
                assert value == pytest.approx(run["test"][name], abs=1e-9), name
    corrected = claims.holm([claim.p for claim in inside])
    for rival, claim, p in zip(rivals, inside, corrected, strict=True):
        found = entry["against"][rival]
        assert found["p"] == pytest.approx(claim.p, abs=1e-9)
        assert found["p_holm"] == pytest.approx(p, abs=1e-9)
        assert found["mean_log_ratio"] == pytest.approx(claim.values.mean(), abs=1e-9)
        assert found["users_for_against"] == list(claim.users)
        assert 0 < claim.p < 1
        assert f"outside ranks new items better than {rival}" in shown
    text = page.read_text()
    assert f"# outside on {TASK}" in text
    for line in store.of("fresh", method):
        assert f"| {line['split']} | {line['candidates']} |" in text


@pytest.mark.data
@pytest.mark.results
def test_the_ridge_from_outside_has_the_p_values_of_the_committed_runs(data_root, tmp_path):
    task, store = Task.parse("lfm2k/ftmt/200..202"), Store(ROOT / "docs/results/lfm2k")
    dataset, _ = open_dataset("lfm2k", data_root)
    export(instances(task, dataset), tmp_path, "csv")
    strength = store.of("fresh", "ridge")[0]["tuned"]["ridge"]
    lists, numbers = tmp_path / "lists.csv", tmp_path / "numbers.json"
    bench_entry.main(
        ["ridge", str(tmp_path / "lfm2k/ftmt"), str(lists), "--strength", str(strength)]
    )
    words = ["score", str(lists), "--task", str(task), "--name", "outside", "--against", "keep"]
    words += ["--results", str(ROOT / "docs/results"), "--json", str(numbers)]
    assert bench.main([*words, "--data", str(data_root)]) == 0
    ours, theirs = claims.pairs_of(store, ("ridge", "keep"), phase="fresh", limit=3)
    claim = claims.ranks_better("", "", ours, theirs, claims.OVERLAP)
    # The committed runs are in float32, so that two items may change places.
    assert json.loads(numbers.read_text())["against"]["keep"]["p"] == pytest.approx(
        claim.p, rel=1e-3
    )


# --- laws of measuring ----------------------------------------------------------------------------


def test_lists_and_scores_have_the_same_numbers(scores, tmp_path, drawn):
    lines, _ = measured(scores, tmp_path, drawn)
    for length in (20, 26):
        assert_same(measured(ranked(scores, length), tmp_path, drawn)[0], lines)


def test_the_order_of_rows_and_increasing_functions_of_scores_change_nothing(
    scores, tmp_path, drawn
):
    lines, _ = measured(scores, tmp_path, drawn)
    assert_same(
        measured(scores.sample(fraction=1, shuffle=True, seed=1), tmp_path, drawn)[0], lines
    )
    larger = scores.with_columns(3 * pl.col("score") - 7)
    assert_same(measured(larger, tmp_path, drawn)[0], lines)


def test_equal_scores_are_ordered_by_item_id_as_inside(scores, tmp_path, drawn):
    lines, notes = measured(scores.with_columns(score=0.0), tmp_path, drawn)
    for line, instance in zip(lines, drawn.values(), strict=True):
        test = instance.tables.test
        count = len(test.candidates)
        ranks = positive_ranks(
            lambda users, count=count: torch.zeros(len(users), count),
            test.users,
            test.positions,
            num_candidates=count,
        )
        expected = per_user_metrics(test.users, ranks)["ndcg@20"].numpy().astype(np.float32)
        assert np.array_equal(line["per_user"], expected)
    assert len(notes) == 3
    assert "of equal scores the lower item id is first" in notes[0]


def test_a_perfect_list_has_an_ndcg_of_1(drawn, scores, tmp_path):
    pairs = pl.DataFrame({"user": DATASET.interactions[:, 0], "item": DATASET.interactions[:, 1]})
    best = scores.drop("score").join(pairs.with_columns(score=1.0), ["user", "item"], "left")
    lines, _ = measured(best.with_columns(pl.col("score").fill_null(0.0)), tmp_path, drawn)
    for line in lines:
        assert line["test"]["ndcg@20"] == line["test"]["hit@10"] == 1.0
        assert (line["per_user"] == 1).all()


def test_lists_of_users_without_a_test_pair_are_ignored_and_noted(scores, tmp_path, drawn):
    lines, _ = measured(ranked(scores), tmp_path, drawn)
    idle = next(u for u in range(80) if u not in scores.filter(seed=0)["user"])
    first = ranked(scores).filter(pl.col("seed") == 0)
    extra = first.filter(pl.col("user") == first["user"][0]).with_columns(
        pl.lit(idle).cast(pl.Int64).alias("user")
    )
    both, notes = measured(pl.concat([ranked(scores), extra]), tmp_path, drawn)
    assert_same(both, lines)
    assert "seed 0: 1 user has no test pair, so the list is ignored." in notes[0]


def test_csv_tsv_and_a_single_split_without_a_seed_are_read(scores, tmp_path, drawn):
    task = dataclasses.replace(TASK, seeds=(1,))
    table = ranked(scores).filter(pl.col("seed") == 1)
    expected, _ = measured(table, tmp_path, drawn, task=task)
    table.drop("seed").write_csv(tmp_path / "a.csv")
    table.write_csv(tmp_path / "a.tsv", separator="\t")
    for name in ("a.csv", "a.tsv"):
        line, _ = measure(read_lists(tmp_path / name, task)[1], drawn[1], "x")
        assert_same([line], expected)


# --- wrong lists ----------------------------------------------------------------------------------


def set_first(table, **values):
    """Change the first row of a table."""
    columns = {
        name: pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    }
    return table.with_columns(**columns)


WRONG = {
    "unknown user": (lambda t: set_first(t, user=80), "user 80 is unknown; ids are 0 to 79"),
    "negative user": (lambda t: set_first(t, user=-1), "user -1 is unknown"),
    "unknown item": (lambda t: set_first(t, item=300), "item 300 is unknown; ids are 0 to 299"),
    "warm item": (lambda t: set_first(t, item=0), "item 0 is not a candidate, it is a warm item"),
    "item twice": (lambda t: pl.concat([t, t[:1]]), "user [0-9]+ has item [0-9]+ twice"),
    "rank twice": (lambda t: set_first(t, rank=2), "must be 1, 2, 3, ..., each once, but rank 1"),
    "rank from 0": (lambda t: t.with_columns(pl.col("rank") - 1), "Number the items of each list"),
    "short list": (lambda t: t[1:].with_columns(RERANKED), "has 19 items, and 0 other lists"),
    "short lists": (lambda t: t.filter(pl.col("rank") < 11), "has 10 items, and 39 other lists"),
    "user without a list": (lambda t: t[20:], "has no list .and 0 other users"),
    "seed without lists": (
        lambda t: t.filter(pl.col("seed") != 1),
        "has no lists for the seeds 1 of tiny/ftmt/0..2",
    ),
    "another seed": (lambda t: set_first(t, seed=9), "has seeds that are not in .*: 9"),
    "no seed": (lambda t: t.drop("seed"), "lacks the column seed, which is needed for 3 splits"),
    "no order": (lambda t: t.drop("rank"), "one of rank and score, got seed, user, item"),
    "two orders": (lambda t: t.with_columns(score=1.0), "one of rank and score"),
    "text": (lambda t: t.cast({"item": pl.String}), "column item must hold whole numbers"),
    "fractions": (lambda t: t.cast({"user": pl.Float64}), "column user must hold whole numbers"),
    "empty cells": (lambda t: set_first(t, item=None), "column item is empty in 1 row"),
    "no rows": (lambda t: t[:0], "has no rows"),
    "beyond 64 bits": (
        lambda t: set_first(t.cast({"item": pl.UInt64}), item=2**64 - 1),
        "numbers beyond 64 bits",
    ),
}
RERANKED = (pl.int_range(pl.len()).over("seed", "user") + 1).alias("rank")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lists_are_refused(name, scores, tmp_path, drawn):
    change, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        measured(change(ranked(scores)), tmp_path, drawn)


def test_a_validation_item_is_no_candidate(scores, tmp_path, drawn):
    wrong = set_first(ranked(scores), item=int(drawn[0].split.validation[0]))
    with pytest.raises(DataError, match="it is a validation item"):
        measured(wrong, tmp_path, drawn)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value, scores, tmp_path, drawn):
    with pytest.raises(DataError, match=r"scores must be finite, but row 1 has .*0 other rows"):
        measured(set_first(scores, score=value), tmp_path, drawn)


def test_scores_as_text_and_files_that_are_no_tables_are_refused(scores, tmp_path, drawn):
    with pytest.raises(DataError, match="column score must hold numbers"):
        measured(scores.cast({"score": pl.String}), tmp_path, drawn)
    with pytest.raises(DataError, match="no such file"):
        read_lists(tmp_path / "none.parquet", TASK)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="must be a file of the type"):
        read_lists(tmp_path / "a.txt", TASK)
    (tmp_path / "a.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_lists(tmp_path / "a.parquet", TASK)


def test_the_command_ends_with_one_line_and_status_2(scores, tmp_path, results, capsys):
    path = tmp_path / "lists.parquet"
    set_first(ranked(scores), item=300).write_parquet(path)
    words = ["score", str(path), "--task", str(TASK), "--results", str(results)]
    assert bench.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {path}, seed 0: item 300 is unknown")
    assert output.err.count("\n") == 1


# --- pairing --------------------------------------------------------------------------------------


def changed_results(results, folder, change):
    """Copy a results file, with lines that `change` may alter or, by None, remove."""
    folder.mkdir()
    store = Store(folder)
    for line in Store(results / "tiny").lines:
        other = change(dict(line))
        if other is not None:
            store.add(other)
    return folder


@pytest.fixture(scope="module")
def entry(scores, tmp_path_factory, drawn):
    return measured(scores, tmp_path_factory.mktemp("entry"), drawn)[0]


def test_without_names_all_systems_are_rivals_except_ablations(results, tmp_path, entry):
    def ablation(line):
        return line | {"method": "not shrunk"} if line["method"] == "random" else line

    folder = changed_results(results, tmp_path / "a", ablation)
    rivals, notes = rivals_of(folder, TASK, ())
    assert list(rivals) == ["content_knn", "ridge"]
    assert notes == []
    assert list(rivals_of(folder, TASK, ("not shrunk",))[0]) == ["not shrunk"]
    with pytest.raises(DataError, match="compared with a system of this name"):
        compare(TASK, "ridge", entry, rivals)


def test_a_system_that_lacks_a_split_is_compared_on_the_others_and_noted(results, tmp_path, entry):
    def fewer(line):
        return None if line["method"] == "ridge" and line["number"] == 1 else line

    folder = changed_results(results, tmp_path / "a", fewer)
    rivals, notes = rivals_of(folder, TASK, ("ridge", "random"))
    assert notes == ["ridge: the results file has no run on the splits 1; it is compared on 0,2."]
    compared = compare(TASK, "x", entry, rivals)
    assert [len(claim.values) for claim in compared.claims] == [2, 3]
    assert compared.means()[1]["splits"] == "0,2"


def test_a_system_without_the_values_of_users_is_compared_by_means_and_noted(
    results, tmp_path, entry
):
    def without(line):
        if line["method"] == "ridge" or (line["method"] == "random" and line["number"] == 2):
            line.pop("per_user")
        return line

    folder = changed_results(results, tmp_path / "a", without)
    compared = compare(TASK, "x", entry, rivals_of(folder, TASK, ("ridge", "random"))[0])
    whole = compare(TASK, "x", entry, rivals_of(results / "tiny", TASK, ("ridge", "random"))[0])
    assert [c.p for c in compared.claims] == [c.p for c in whole.claims]
    assert "ridge: the results file has no values of users on the splits 0..2" in compared.notes[0]
    assert "random: the results file has no values of users on the splits 2" in compared.notes[1]
    ridge, other = compared.tests()
    assert ridge["splits significant over users"] == ""
    assert other["splits significant over users"].endswith("of 2")
    assert whole.tests()[1]["splits significant over users"].endswith("of 3")


def test_a_run_on_another_split_is_not_compared(results, tmp_path, entry):
    for key in ("split", "candidates"):
        folder = changed_results(results, tmp_path / key, lambda line, k=key: line | {k: "0" * 16})
        with pytest.raises(DataError, match=f"has the {key} hash 0000000000000000, but the task"):
            compare(TASK, "x", entry, rivals_of(folder, TASK, ("ridge",))[0])


def test_leaky_diverged_swept_and_partial_runs_are_no_systems(results, tmp_path):
    marks = {
        "leaky": {"leaky": "negatives"},
        "diverged": {"diverged": "NaN"},
        "swept": {"phase": "sweep alpha=1"},
    }
    for name, mark in marks.items():
        folder = changed_results(results, tmp_path / name, lambda line, m=mark: line | m)
        assert systems(Store(folder), "ftmt") == {}
    partial = [{"candidates": "all_cold"}, {"eval_users": 5}]
    for place, option in enumerate(partial):
        folder = changed_results(
            results,
            tmp_path / f"partial{place}",
            lambda line, o=option: line | {"options": line["options"] | o},
        )
        assert systems(Store(folder), "ftmt") == {}


def test_a_second_run_on_a_split_is_a_system_of_its_own(results, tmp_path):
    folder = tmp_path / "twice"
    shutil.copytree(results / "tiny", folder)
    store = Store(folder)
    for line in store.of("fresh", "ridge"):
        store.add(line | {"phase": "later"})
    assert sorted(systems(Store(folder), "ftmt")) == sorted([*METHODS, "ridge@later"])


def test_an_unknown_system_and_a_folder_without_results(results, tmp_path, entry):
    with pytest.raises(
        DataError, match=r"no system of this name\. It has: content_knn, random, rid"
    ):
        rivals_of(results / "tiny", TASK, ("nobody",))
    with pytest.raises(DataError, match=r"Did you mean ridge\?"):
        rivals_of(results / "tiny", TASK, ("rigde",))
    later = dataclasses.replace(TASK, seeds=(7,))
    with pytest.raises(DataError, match=r"no run of it on a split of tiny/ftmt/7, only on 0\.\.2"):
        rivals_of(results / "tiny", later, ("ridge",))
    rivals, notes = rivals_of(tmp_path / "none", TASK, ())
    assert rivals == {}
    assert "so nothing is compared" in notes[0]
    compared = compare(TASK, "x", entry, rivals)
    assert compared.tests() == []
    assert report_of(compared)[2].startswith("x")


def test_a_single_split_has_no_t_test(results, entry):
    task = dataclasses.replace(TASK, seeds=(1,))
    compared = compare(task, "x", entry[1:2], rivals_of(results / "tiny", task, ("random",))[0])
    assert compared.claims[0].p == 1
    assert "a single split allows no t test" in compared.notes[0]
    assert compared.to_json()["against"]["random"]["interval"] == [None, None]


def test_ftft_is_compared_with_the_complete_test_items_of_ftmt_runs(results, tmp_path):
    """The package's own method, trained on complete items, is compared with its FTMT runs."""
    task = Task.parse("tiny/ftft/0..2")
    drawn = {x.seed: x for x in instances(task, DATASET)}
    table = pl.concat([own_scores("content_knn", x, "ftft") for x in drawn.values()])
    lines, _ = measured(table, tmp_path, drawn, task=task)
    rivals, _ = rivals_of(results / "tiny", task, ("content_knn",))
    compared = compare(task, "x", lines, rivals)
    for line in lines:
        run = rivals["content_knn"][line["number"]]
        assert line["test"]["ndcg@20"] == pytest.approx(run["test_complete"]["ndcg@20"], abs=1e-12)
    assert compared.claims[0].p == 1
    assert compared.claims[0].users is None
    assert "no values of users" in compared.notes[0]


def test_the_bootstrap_is_over_the_users_of_each_split(results, entry):
    rivals, _ = rivals_of(results / "tiny", TASK, ("random",))
    (claim,) = compare(TASK, "x", entry, rivals).claims
    expected = claims.users_agree(entry, list(rivals["random"].values()))
    assert claim.users == expected
    assert expected[0] >= 1
    for line, seed in zip(entry, TASK.seeds, strict=True):
        assert len(user_values(line)) == len(user_values(rivals["random"][seed]))
    assert score.seed_of(entry[2]) == 2
