"""The study: its runs, resuming, leaks, tests of the claims, tables and committed results."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from milk_recsys import reproduce
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.config import method as methods
from milk_recsys.config.method import find_method
from milk_recsys.config.options import DataOptions, Options
from milk_recsys.methods.milk import PRESETS
from milk_recsys.study import claims, paper, records, runs
from milk_recsys.study.plan import NAMES, Plan, best_trial, strongest
from milk_recsys.study.proposals import propose
from milk_recsys.study.records import Run
from milk_recsys.study.runs import execute, missing_none_one_two
from milk_recsys.study.spaces import FIELD, METHODS, SPACES
from milk_recsys.study.store import Store, user_values
from milk_recsys.study.tables import table_popular, write_table
from tests.recsys.methods.tiny_baselines import UNTRAINED

DATASET = tiny_dataset()
FIVE_METHODS = ("milk", "erm", "duif", "gorec", "random")


def make_plan(names=("table2",), **values):
    fixed = {
        "data": None,
        "trials": 2,
        "repeats": 2,
        "methods": FIVE_METHODS,
        "settings": ("ftmt",),
        "threads": 1,
        "quick": True,
    }
    return Plan(names=names, **{**fixed, **values})


def run_plan(plan, folder, dataset=DATASET):
    folder.mkdir(exist_ok=True)
    store = Store(folder)
    reproduce.run_all(plan, store, dataset, folder / ".factors", 1)
    return store


def untimed(line):
    """Return a line without the values that differ between equal runs, such as times."""
    dropped = ("seconds", "seconds_per_epoch", "factor_seconds", "date", "versions", "audit")
    kept = {k: v for k, v in line.items() if k not in dropped}
    return kept | ({"per_user": line["per_user"].tolist()} if "per_user" in line else {})


def write_store(folder, lines):
    store = Store(folder)
    for line in lines:
        store.add(line)
    return store


def table_of(path):
    """Return the rows of a Markdown table."""
    lines = [
        line[2:-2]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    names, _, *rows = (line.split(" | ") for line in lines)
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return run_plan(make_plan(), folder)


# --- running --------------------------------------------------------------------------------------


def test_every_planned_run_is_made_once(finished):
    keys = [(x["phase"], x["method"], x["setting"], x["number"]) for x in finished.lines]
    assert len(keys) == len(set(keys)) == make_plan().total() == make_plan().done(finished)
    assert not list(make_plan().with_factors(finished).ready(finished))
    for method in FIVE_METHODS:
        assert len(finished.of("trial", method)) == (2 if SPACES[method] else 0)
        deciding = (
            method in ("milk", "erm") or method == strongest(finished, ("duif", "gorec"), 2)[0]
        )
        assert len(finished.of("repeat", method)) == (4 if deciding else 2)


def test_a_trial_has_a_split_of_its_own_and_no_test_metrics(finished):
    splits = {x["split"] for x in finished.lines if x["phase"] == "repeat"}
    for line in finished.lines:
        if line["phase"] in ("trial", "factors"):
            assert not any(key.startswith("test") for key in line)
            assert line["split"] not in splits
    assert len(splits) == 4


def test_a_line_contains_everything_that_a_result_depends_on(finished):
    line = finished.of("repeat", "gorec")[0]
    assert (
        line["options"]["method"]["factor_lr"]
        == finished.of("repeat", "gorec")[1]["options"]["method"]["factor_lr"]
    )
    assert line["options"]["split_seed"] == line["options"]["seed"] == 0
    assert line["audit"]["compared"] > 20
    assert {"torch", "numpy", "invmod", "python", "device"} <= set(line["versions"])
    assert line["triples"] > 0
    assert len(user_values(line)) == line["test"]["users"]
    assert user_values(line).mean() == pytest.approx(line["test"]["ndcg@20"], abs=1e-6)
    assert "data" not in line["options"]


def test_the_chosen_options_are_those_of_the_best_trial(finished):
    for method in ("milk", "duif", "gorec"):
        best = max(finished.of("trial", method), key=lambda x: x["validation"]["ndcg@20"])
        assert all(x["tuned"] == best["tuned"] for x in finished.of("repeat", method))
    best = max(finished.of("factors", "factors"), key=lambda x: x["held_out"]["ndcg@20"])["tuned"]
    used = finished.of("repeat", "gorec")[0]["options"]["method"]
    assert {k: used[k] for k in best} == best


def test_a_killed_study_resumes_to_the_same_result(finished, tmp_path, monkeypatch):
    real, calls = runs.execute, []

    def dies(*given):
        calls.append(given)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(runs, "execute", dies)
    with pytest.raises(KeyboardInterrupt):
        run_plan(make_plan(), tmp_path)
    with (tmp_path / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"phase": "trial", "meth')  # The kill interrupted the writing of a line.
    monkeypatch.setattr(runs, "execute", real)
    store = run_plan(make_plan(), tmp_path)
    assert [untimed(x) for x in store.lines] == [untimed(x) for x in finished.lines]


@pytest.mark.slow
def test_several_jobs_make_the_same_runs(finished, tmp_path):
    plan = make_plan(methods=("erm", "random"), decide=False)
    store = Store(tmp_path)
    reproduce.run_all(plan, store, DATASET, tmp_path / ".factors", 2)
    runs_of_jobs = {(x["phase"], x["method"], x["number"]): untimed(x) for x in store.lines}
    assert len(runs_of_jobs) == plan.total()
    for line in finished.lines:
        key = (line["phase"], line["method"], line["number"])
        assert key not in runs_of_jobs or runs_of_jobs[key] == untimed(line)


def test_tables_share_their_runs(finished, tmp_path):
    """Figure 5 needs no run in addition to those of Table 2."""
    plan = make_plan(("figure5",), methods=("milk", "erm"))
    store = write_store(tmp_path, finished.lines)
    assert not list(plan.ready(store))


def test_a_run_is_limited_in_epochs_only():
    assert {m for m in FIELD if find_method(m).limits} == set(FIELD) - UNTRAINED
    assert all(
        "seconds" not in limit and limit["epochs"] >= 1
        for limit in (find_method(m).limits for m in FIELD)
        if limit
    )


# --- leaks and failures ---------------------------------------------------------------------------


def make_run(**options):
    given = {"compare": "none", "epochs": 1, "eval_every": 1, "embedding_dim": 8, **options}
    return Run("repeat", "milk", 0, Options.of(model="milk", **given), {})


def test_a_run_that_leaks_by_option_is_stored_but_not_ranked(tmp_path):
    values = {k: v for k, v in PRESETS["authors_code"].items() if k not in ("eval_every",)}
    line = execute(make_run(preset="authors_code", **values), DATASET, tmp_path)
    assert "negatives are drawn from all items" in line["leaky"]
    store = Store(tmp_path)
    store.add(line)
    assert store.of("repeat", "milk")
    assert not store.ranked("repeat", "milk")
    assert not strongest(store, ["milk"], 5)


def test_a_method_with_missing_repeats_is_not_the_strongest(finished, tmp_path):
    best = strongest(finished, ("duif", "gorec"), 2)[0]
    kept = [
        x
        for x in finished.lines
        if (x["phase"], x["method"], x["number"]) not in {("repeat", best, k) for k in (1, 2, 3)}
    ]
    assert strongest(write_store(tmp_path, kept), ("duif", "gorec"), 2) == [
        m for m in ("duif", "gorec") if m != best
    ]


def test_a_run_that_leaks_is_not_stored(tmp_path, monkeypatch, capsys):
    def leaks(*_given):
        raise reproduce.Leak("leak: `x` is fitted on test items.")

    monkeypatch.setattr(runs, "audit", leaks)
    monkeypatch.setattr(runs, "_AUDITED", {})
    command = reproduce.Reproduce("table2", smoke=True, out=tmp_path, methods=("erm",))
    assert reproduce.run_command(command) == 1
    assert "leak: `x`" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs.*"))


def test_a_run_that_diverges_is_the_worst_result_and_does_not_end_the_study(tmp_path):
    run = make_run(lr=1e30, kernels="torch")
    line = execute(dataclasses.replace(run, phase="trial"), DATASET, tmp_path)
    assert line["diverged"]
    assert line["validation"]["ndcg@20"] == 0.0
    assert "diverged" in reproduce.describe(line)


def test_other_candidates_under_the_same_split_are_an_error(finished, tmp_path):
    store = Store(tmp_path)
    line = finished.of("repeat", "milk")[0]
    store.add(line)
    with pytest.raises(DataError, match="were not measured on the same candidates"):
        store.add({**line, "method": "erm", "candidates": "other"})
    assert len(store.lines) == 1


# --- tuning ---------------------------------------------------------------------------------------


def test_a_proposal_depends_only_on_the_trials_before_it():
    space = SPACES["gorec"]
    before = []
    for number in range(8):
        tuned = propose(space, (3, number), before, "validation")
        assert tuned == propose(space, (3, number), list(before), "validation")
        assert set(tuned) == set(space)
        assert tuned["cluster_items"] in (4, 8, 20)
        before.append(
            {"tuned": tuned, "validation": {"ndcg@20": -abs(math.log(tuned["lr"] / 1e-3))}}
        )
    assert len({x["tuned"]["lr"] for x in before}) == 8
    assert best_trial([*before, before[0]])["validation"]["ndcg@20"] == max(
        x["validation"]["ndcg@20"] for x in before
    )


# --- statistics -----------------------------------------------------------------------------------


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.5, 0.02]
    order = np.argsort(p)
    expected = np.empty(5)
    for place in range(5):
        expected[order[place]] = max(min(1, (5 - k) * p[order[k]]) for k in range(place + 1))
    assert claims.holm(p) == pytest.approx(expected.tolist())
    assert claims.holm([]) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.12, 0.09, 0.11, 0.1], "holds"),
        ([-0.1, -0.12, -0.09, -0.11, -0.1], "does not hold"),
        ([0.1, -0.12, 0.05, -0.02, 0.03], "no significant difference"),
        ([0.3], "no significant difference"),
        ([0.0, 0.0, 0.0], "no significant difference"),
        ([0.2] * 10, "holds"),
        ([-0.2] * 6, "does not hold"),
        ([0.2] * 5, "no significant difference"),
        ([0.1 + 0.2, 0.3] * 5, "holds"),
    ],
)
def test_a_verdict_follows_the_t_test(values, expected):
    claim = claims.Claim("it is better", "5", np.array(values))
    if not np.allclose(values, values[0]):
        assert claim.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    low, high = claim.interval
    assert (low > 0 or high < 0) == (claim.p < 0.05)
    assert claims.verdict(claim, claim.p) == expected


def test_equal_differences_have_the_p_value_of_the_sign_test():
    """The t statistic of ten equal differences is undefined, but they are not a tie."""
    for count in range(1, 12):
        claim = claims.Claim("it is better", "5", np.full(count, 0.2))
        assert claim.p == pytest.approx(stats.binomtest(count, count).pvalue)
        bounded = (pytest.approx(0.2), pytest.approx(0.2))
        assert claim.interval == (bounded if count > 5 else (-np.inf, np.inf))
    assert claims.Claim("it is better", "5", np.zeros(10)).p == 1.0
    assert claims.Claim("it is better", "5", np.zeros(10)).interval == (0.0, 0.0)
    assert claims.Claim("it is better", "5", np.array([])).p == 1.0


def test_counts_of_splits_with_a_significant_difference_over_users():
    rng = np.random.default_rng(0)
    base = rng.random(400)
    lines = [
        {"per_user": v.astype(np.float32)}
        for v in (base + 0.2, base - 0.2, base + rng.normal(0, 1, 400) * 0.01)
    ]
    same = [{"per_user": base.astype(np.float32)}] * 3
    above, below = claims.users_agree(lines, same)
    assert above in (1, 2)
    assert below in (1, 2)
    assert above + below <= 3
    assert claims.users_agree(same, same) == (0, 0)


def test_equal_differences_of_all_users_count_as_a_significant_split():
    more, less = ([{"per_user": np.full(400, v)}] for v in (0.7, 0.5))
    assert claims.users_agree(more, less) == (1, 0)
    assert claims.users_agree(less, more) == (0, 1)
    few, fewer = ([{"per_user": np.full(5, v)}] for v in (0.7, 0.5))
    assert claims.users_agree(few, fewer) == (0, 0)


def test_claims_use_the_runs_of_the_store(finished):
    texts = {claim.text for claim in claims.claims_of(make_plan(), finished)}
    assert any("strongest baseline" in text for text in texts)
    assert any("DUIF" in text for text in texts)
    assert any("Both modules" in text for text in texts)
    assert not any("Alignment alone" in text for text in texts)  # This ablation was not run.
    assert not any("MTMT" in text for text in texts)
    both = next(c for c in claims.claims_of(make_plan(), finished) if "Both modules" in c.text)
    a, b = (finished.of("repeat", m) for m in ("milk", "erm"))
    expected = [
        math.log(x["test"]["ndcg@20"] / y["test"]["ndcg@20"]) for x, y in zip(a, b, strict=True)
    ]
    assert both.values.tolist() == pytest.approx(expected)


# --- Figure 3's mask, the paper's numbers, tables -------------------------------------------------


def test_test_items_miss_none_one_or_two():
    split, _ = draw_split(DATASET, DataOptions())
    mask = missing_none_one_two(DATASET, split, 0)
    missing = (DATASET.natural_mask & ~mask).sum(axis=1)
    counts = np.bincount(missing[split.test], minlength=3)
    assert counts.tolist() == [3, 12, 11]
    assert (missing[np.concatenate([split.warm, split.validation])] == 0).all()
    assert mask.any(axis=1).all()
    one_each = dataclasses.replace(DATASET, natural_mask=np.eye(3, dtype=bool)[np.arange(300) % 3])
    assert missing_none_one_two(one_each, split, 0).any(axis=1).all()


def test_the_papers_numbers():
    """Spot checks against the text, and the relative gains that section 5.2 states."""
    assert paper.TABLE_2["milk", "ftmt", "baby", "ndcg@20"] == 0.0277
    assert paper.TABLE_2["gorec", "mtmt", "clothing", "recall@10"] == 0.0430
    assert paper.TABLE_2["duif", "mtmt", "tiktok", "recall@20"] == 0.1804
    assert len(paper.TABLE_2) == 9 * 2 * 3 * 4

    def gain(data, setting, rival):
        return (
            paper.TABLE_2["milk", setting, data, "ndcg@20"]
            / paper.TABLE_2[rival, setting, data, "ndcg@20"]
            - 1
        )

    assert gain("baby", "ftmt", "gorec") == pytest.approx(0.112, abs=6e-4)
    assert gain("baby", "ftmt", "duif") == pytest.approx(0.699, abs=6e-4)
    assert gain("baby", "mtmt", "duif") == pytest.approx(0.872, abs=6e-4)
    # The text of the paper states 14.0%, which its own table contradicts.
    assert gain("clothing", "ftmt", "gorec") == pytest.approx(0.175, abs=6e-4)
    assert paper.in_paper("TikTok (no titles)") == "tiktok"
    assert paper.in_paper("lfm2k") is None


def test_a_table_is_the_same_in_three_formats(tmp_path):
    rows = [{"method": "a_b", "x": "1 ± 2"}, {"method": "c%", "x": "3"}]
    paths = write_table(rows, tmp_path / "t", "50% of & it.")
    assert [p.suffix for p in paths] == [".md", ".csv", ".tex"]
    assert "| a_b | 1 ± 2 |" in paths[0].read_text()
    assert pl.read_csv(paths[1]).to_dicts() == rows
    assert r"a\_b & 1 $\pm$ 2 \\" in paths[2].read_text()
    assert r"50\% of \& it." in paths[2].read_text()
    assert write_table([], tmp_path / "none", "") == []


def test_the_users_of_the_most_popular_item_are_separated(finished, tmp_path):
    """Users of the most popular test item have the value 3 and all others 1, in every split.

    The test finds these users from the pairs, independently of the code of the table.
    """
    store = Store(tmp_path)
    for line in finished.of("repeat", "milk", limit=2):
        test = set(draw_split(DATASET, DataOptions(split_seed=line["number"]))[0].test.tolist())
        users_of: dict[int, list[int]] = {}
        for user, item in DATASET.interactions.tolist():
            if item in test:
                users_of.setdefault(item, []).append(user)
        largest = max(map(len, users_of.values()))
        popular = next(
            users_of[item] for item in sorted(users_of) if len(users_of[item]) == largest
        )
        everybody = sorted({user for users in users_of.values() for user in users})
        values = np.array([3.0 if user in popular else 1.0 for user in everybody], dtype=np.float32)
        store.add({**line, "per_user": values})
    (row,) = table_popular(make_plan(), store, DATASET)
    assert row["users who have it"] == "3.000 ± 0.000"
    assert row["highest of a split"] == "3.000"
    assert row["all others"] == "1.000 ± 0.000"


def test_results_are_written_from_the_store(finished, tmp_path):
    from milk_recsys.study.results import write_results

    paths = write_results(make_plan(NAMES), finished, DATASET, tmp_path)
    assert {p.name for p in paths} == {p.name for p in tmp_path.iterdir()}
    table = list(csv.DictReader((tmp_path / "table2.csv").read_text().splitlines()))
    assert [row["method"] for row in table] == list(FIVE_METHODS)
    mean = np.mean([x["test"]["ndcg@20"] for x in finished.of("repeat", "milk", limit=2)])
    assert table[0]["ftmt ndcg@20"].startswith(f"{mean:.3f} ±")
    assert (tmp_path / "figure5.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "figure5.pdf").read_bytes()[:4] == b"%PDF"
    assert not (tmp_path / "figure6.png").exists()  # Its runs were not made.
    verdicts = (tmp_path / "verdicts.txt").read_text()
    assert "no significant difference" in verdicts or "holds" in verdicts


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--data is needed"),
        ({"smoke": True, "data": "x"}, "--smoke generates its own data"),
        ({"smoke": True, "methods": ("nobody",)}, "nobody is unknown"),
        ({"smoke": True, "trials": 0}, "--trials must be at least 1"),
        ({"data": "/no/such/folder"}, "no such folder"),
    ],
)
def test_a_bad_command_ends_with_status_2(values, message, capsys, tmp_path):
    values = {k: Path(v) if k == "data" else v for k, v in values.items()}
    assert reproduce.run_command(reproduce.Reproduce("table2", out=tmp_path / "out", **values)) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def own_method(monkeypatch):
    """A registered method: DUIF under another name, without limits for a study."""
    monkeypatch.setattr(methods, "_REGISTERED", {})
    method = dataclasses.replace(find_method("duif"), name="mine", search_seed=101, limits={})
    methods.register(method)
    return method


def test_a_method_of_your_own_is_studied(own_method, tmp_path):
    command = reproduce.Reproduce(
        "field", smoke=True, settings=("ftmt",), out=tmp_path, methods=("mine", "knn")
    )
    assert reproduce.run_command(command) == 0
    store = Store(tmp_path)
    for method, phase, number in (
        ("mine", "trial", 2),
        ("mine", "repeat", 2),
        ("mine", "timing", 1),
        ("knn", "repeat", 2),
    ):
        assert len(store.of(phase, method)) == number
    line = store.of("repeat", "mine")[0]
    assert set(line["tuned"]) == set(own_method.space)
    assert line["epochs"] == 2  # as in all runs of --smoke
    assert line["audit"]["compared"] > 0
    rows = {row["method"] for row in table_of(tmp_path / "field.md")}
    assert rows == {"mine", "knn"}
    assert "mine" in {row["method"] for row in table_of(tmp_path / "search.md")}


def test_a_method_of_your_own_is_no_default_and_in_no_table_of_the_paper(own_method, capsys):
    assert own_method.name not in {*FIELD, *METHODS, *SPACES}
    command = reproduce.Reproduce("table2", smoke=True, methods=("milk", "mine"))
    assert reproduce.run_command(command) == 2
    assert "mine is not a method of the paper, so it is not in table2" in capsys.readouterr().err
    command = reproduce.Reproduce("field", smoke=True, methods=("mien",))
    assert reproduce.run_command(command) == 2
    error = capsys.readouterr().err
    assert "mien is unknown. Choose from milk, align, " in error
    assert ", keep, " in error
    assert error.endswith(", mine.\n")


def test_a_store_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "runs.jsonl").write_text(json.dumps({"phase": "trial", "model": "milk"}) + "\n")
    with pytest.raises(DataError, match="not a line of a study"):
        Store(tmp_path)


# --- committed results ----------------------------------------------------------------------------

RESULTS = Path(__file__).parents[2] / "docs/results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/verdicts.md"))


@pytest.mark.results
@pytest.mark.parametrize("name", STUDIES)
def test_committed_tables_are_those_of_their_store(name):
    """Means, standard deviations and verdicts in the tables follow from the committed results."""
    store = Store(RESULTS / name)
    assert not any("leaky" in line for line in store.lines)
    assert all(
        line["phase"] == "factors" or "audit" in line or "diverged" in line for line in store.lines
    )
    table = table_of(RESULTS / name / "table2.md")
    assert [row["method"] for row in table] == store.methods(METHODS)
    for row in table:
        lines = store.ranked("repeat", row["method"], limit=5)
        assert row["ftmt ndcg@20"] == records.mean_sd([line["test"]["ndcg@20"] for line in lines])
    stated = {row["claim"]: row for row in table_of(RESULTS / name / "verdicts.md")}
    both = next(text for text in stated if text.startswith("Both modules"))
    a, b = (
        {x["number"]: x["test"]["ndcg@20"] for x in store.ranked("repeat", m)}
        for m in ("milk", "erm")
    )
    ratios = [math.log(a[k] / b[k]) for k in sorted(set(a) & set(b))]
    assert stated[both]["repeats"] == str(len(ratios))
    assert stated[both]["mean log ratio [95%]"].startswith(f"{np.mean(ratios):+.3f}")


def test_no_run_only_writes_tables_and_figures(finished, tmp_path):
    before = [untimed(x) for x in write_store(tmp_path, finished.lines[:20]).lines]
    command = reproduce.Reproduce(
        "table2", smoke=True, out=tmp_path, methods=FIVE_METHODS, run=False
    )
    assert reproduce.run_command(command) == 0
    assert [untimed(x) for x in Store(tmp_path).lines] == before
    # The command has compacted the journal.
    assert {path.name for path in tmp_path.glob("runs.*")} == {"runs.parquet"}
    assert (tmp_path / "search.png").exists()
    for row in csv.DictReader((tmp_path / "search.csv").read_text("utf-8").splitlines()):
        best = best_trial(Store(tmp_path).of("trial", row["method"]))
        assert row["validation ndcg@20"] == f"{best['validation']['ndcg@20']:.3f}"
        assert row["the best"] == str(best["number"] + 1)
