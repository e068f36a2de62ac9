"""The summary of missing modalities, and the tests of missingness completely at random."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from invmod.missingness import (
    McarTest,
    MissingnessSummary,
    ModalityTest,
    PatternCount,
    hide_features,
    mask_from_features,
    mcar_test,
    missingness_summary,
    summary_table,
)
from invmod.missingness.cells import missing_cells
from invmod.missingness.little import little_statistic
from invmod.missingness.mcar import MAX_ROWS
from invmod.missingness.mcar_results import shown_p
from invmod.missingness.permutation import holm
from tests.strategies import NAN, generators, laws, random_mask, seeded

NAMES = ["image", "text", "audio"]


# --- counts


@laws
@given(generators(), st.integers(1, 5), st.integers(1, 30))
def test_the_counts_are_those_of_the_mask(generator, num_modalities, num_rows):
    names = [f"m{index}" for index in range(num_modalities)]
    mask = random_mask(generator, num_rows, num_modalities)
    summary = missingness_summary(mask, names)
    assert summary.num_rows == num_rows
    assert summary.missing == tuple((~mask).sum(dim=0).tolist())
    assert summary.rates == pytest.approx((~mask).double().mean(dim=0).tolist())
    assert summary.cell_rate == pytest.approx((~mask).double().mean().item())
    assert summary.complete_rows == int(mask.all(dim=1).sum())
    assert sum(entry.count for entry in summary.patterns) == num_rows
    assert sum(entry.rate for entry in summary.patterns) == pytest.approx(1)
    counts = [entry.count for entry in summary.patterns]
    assert counts == sorted(counts, reverse=True)
    for entry in summary.patterns:
        assert entry.count == int((mask == torch.tensor(entry.pattern)).all(dim=1).sum())
        assert entry.missing == tuple(
            name for name, has in zip(names, entry.pattern, strict=True) if not has
        )
    for a, b in itertools.product(range(num_modalities), repeat=2):
        assert summary.both_missing[a][b] == int((~mask[:, a] & ~mask[:, b]).sum())
    assert json.loads(summary.to_json())["missing"] == list(summary.missing)


@laws
@given(generators(), st.integers(2, 40))
def test_a_pair_has_the_correlation_and_odds_of_its_two_columns(generator, num_rows):
    mask = random_mask(generator, num_rows, 3)
    missing = (~mask).double().numpy()
    summary = missingness_summary(mask, NAMES)
    pairs = {(pair.first, pair.second): pair for pair in summary.pairs()}
    strengths = [abs(pair.correlation or 0) for pair in summary.pairs()]
    assert strengths == sorted(strengths, reverse=True)
    for a, b in itertools.combinations(range(3), 2):
        x, y = missing[:, a], missing[:, b]
        if not x.any() or not y.any():
            assert (NAMES[a], NAMES[b]) not in pairs
            continue
        pair = pairs[NAMES[a], NAMES[b]]
        assert pair.both == (x * y).sum()
        assert pair.expected == pytest.approx(num_rows * x.mean() * y.mean())
        if x.all() or y.all():
            assert pair.correlation is None
        else:
            assert pair.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
        table = [[((x == i) & (y == j)).sum() + 0.5 for j in (1, 0)] for i in (1, 0)]
        odds = (table[0][0] * table[1][1]) / (table[0][1] * table[1][0])
        assert pair.odds_ratio == pytest.approx(odds)


def test_a_mask_has_four_equal_forms():
    mask = random_mask(seeded(0), 9, 3)
    forms = [
        mask,
        mask.numpy(),
        {name: mask[:, column] for column, name in enumerate(NAMES)},
        {name: mask[:, NAMES.index(name)].numpy() for name in reversed(NAMES)},
    ]
    assert len({missingness_summary(form, NAMES) for form in forms}) == 1


def test_values_are_missing_by_the_stated_rule():
    features = {
        "numbers": np.array([1.0, NAN, math.inf, 0.0, NAN]),
        "counts": np.array([0, -1, 2, 0, 0]),
        "text": np.array(["a", "", "  \t", "nan", "0"]),
        "objects": np.array([None, NAN, "", 0, False], dtype=object),
        "days": np.array(["2020-01-01", "NaT", "2020-01-01", "NaT", "2020-01-02"], "datetime64[D]"),
        "bytes": np.array([b"a", b"", b" ", b"b", b"c"]),
        "none": None,
        "rows": torch.tensor([[1.0, NAN], [NAN, NAN], [1.0, 2.0], [NAN, NAN], [NAN, 3.0]]),
        "half": torch.tensor([1.0, NAN, 1.0, 1.0, 1.0], dtype=torch.bfloat16),
        "empty rows": np.zeros((5, 0)),
    }
    summary = missingness_summary(features, [*features, "absent"])
    missing = dict(zip(summary.modalities, summary.missing, strict=True))
    assert missing == {
        "numbers": 2, "counts": 1, "text": 2, "objects": 3, "days": 2, "bytes": 2, "none": 5,
        "rows": 2, "half": 1, "empty rows": 0, "absent": 5,
    }  # fmt: skip
    assert dict(zip(summary.modalities, summary.partial, strict=True))["rows"] == 2
    assert sum(summary.partial) == 2


@laws
@given(generators())
def test_features_that_a_mask_can_be_derived_from_have_the_same_missing_rows(generator):
    mask = random_mask(generator, 8, 4)
    names = ["float", "ids", "tokens", "bytes"]
    features = {
        "float": torch.ones(8, 3),
        "ids": torch.zeros(8, dtype=torch.int16),
        "tokens": {"input": torch.ones(8, 2, dtype=torch.int64), "weight": torch.ones(8)},
        "bytes": torch.zeros(8, 2, 2, dtype=torch.uint8),
    }
    for fill in ("auto", {"ids": 5, "bytes": 7}, None):
        hidden = hide_features(features, mask, names, integer_fill=fill)
        expected = mask_from_features(hidden, names, integer_fill=fill)
        summary = missingness_summary(hidden, names, integer_fill=fill)
        assert summary == missingness_summary(expected, names)
    # Padding of an available row with the sentinel is no missing value.
    padded = missingness_summary({"ids": torch.tensor([[3, -1], [-1, -1]])}, ["ids"])
    assert (padded.missing, padded.partial) == ((1,), (0,))


def test_mappings_define_patterns_but_are_not_tested():
    x = np.arange(40.0)
    tokens = {"input": np.where(x > 20, -1, 5).astype(int)}
    result = mcar_test({"x": x, "tokens": tokens}, ["x", "tokens"], method="permutation")
    assert (result.tested, result.left_out) == (("x",), ("tokens",))
    assert result.p_value < 0.01
    # A row of the sentinel is no value of the test.
    counts = np.where(x > 20, -1, x).astype(int)
    result = mcar_test({"x": x, "n": counts}, ["x", "n"], integer_fill=None, method="permutation")
    assert result.reason == "no value is missing."
    assert mcar_test({"x": x, "n": counts}, ["x", "n"], method="permutation").p_value < 0.01


def test_the_missing_values_of_pandas_are_missing():
    pd = pytest.importorskip("pandas")
    column = pd.array([1, pd.NA, 3], dtype="Int64").astype(object)
    assert missing_cells(np.asarray(column))[:, 0].tolist() == [False, True, False]


@pytest.mark.parametrize("num_rows", [0, 1])
def test_no_row_or_one_row_has_a_summary(num_rows):
    summary = missingness_summary(torch.zeros(num_rows, 2, dtype=torch.bool), ["a", "b"])
    assert summary.num_rows == num_rows
    assert summary.rates == (float(num_rows), float(num_rows))
    assert str(summary).startswith(("0 rows, 2 modalities", "1 row, 2 modalities")[num_rows])
    assert json.loads(summary.to_json())["complete_rows"] == 0


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.ones(3, 3), TypeError, "must have dtype bool, got float32"),
        (torch.ones(3, 2, dtype=torch.bool), ValueError, "(N, M) = (N, 3), got (3, 2)"),
        ({"video": torch.ones(3)}, KeyError, "['video']"),
        ({"image": torch.ones(3), "text": torch.ones(2)}, ValueError, "equal numbers of rows"),
        ({}, ValueError, "at least one given"),
        ({"image": [1.0]}, TypeError, "key -> tensor or None, got list"),
        ({"image": torch.tensor(1.0)}, ValueError, "(N, ...), got a scalar"),
        ({"image": {}}, ValueError, "the arrays of 'image' must have equal numbers of rows"),
        ({"image": torch.ones(3, dtype=torch.bool)}, KeyError, "without the modalities"),
    ],
)
def test_invalid_data_are_rejected_with_the_reason(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        missingness_summary(data, NAMES)


# --- table


def test_the_table_is_short_for_wide_data_and_states_the_rest():
    mask = torch.ones(100, 60, dtype=torch.bool)
    for column in range(40):
        mask[column : column + 2, column] = False
    text = str(missingness_summary(mask, [f"c{column}" for column in range(60)]))
    assert "20 more with a lower rate. 20 more without a missing value." in text
    assert "22 more patterns with 22 rows." in text
    assert f"{40 * 39 // 2 - 20} more pairs with a weaker correlation." in text
    assert max(len(line) for line in text.splitlines()) < 100


def test_the_table_names_patterns_by_what_is_missing():
    names = [f"m{index}" for index in range(9)]
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[1] = False
    mask[2, 1:] = False
    mask[3, :7] = False
    lines = str(missingness_summary(mask, names)).splitlines()
    for shown in ("(none)", "(all 9)", "(all except m0)", "(all except m7, m8)"):
        assert any(line.startswith(f"{shown} ") for line in lines), shown


def test_names_that_look_like_several_are_quoted():
    names = ["a, b", "a", "b", "(none)", "line\nbreak"]
    mask = torch.tensor([[False, True, True, True, True], [True, False, False, True, True]])
    text = summary_table(missingness_summary(mask, names))
    assert '"a, b"' in text
    assert '"line\\nbreak"' in text
    assert any(line.startswith("a, b  ") for line in text.splitlines())


def test_values_missing_in_part_have_a_column_of_their_own():
    features = {"x": torch.tensor([[1.0, NAN], [1.0, 2.0]])}
    assert "missing in part" in str(missingness_summary(features, ["x"]))
    assert "in part" not in str(missingness_summary(torch.ones(2, 1, dtype=torch.bool), ["x"]))


# --- Little's test


def test_little_equals_the_closed_form_of_two_columns():
    """With one complete column the statistic is that of its group means, by its factored form."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(5, 3, 50)
        y = 2 * x + rng.normal(0, 1, 50)
        y[rng.random(50) < 0.4] = NAN
        has = ~np.isnan(y)
        between = sum(
            part.sum() * (x[part].mean() - x.mean()) ** 2 / x.var(ddof=1) for part in (has, ~has)
        )
        statistic, degrees, rows = little_statistic(np.stack([x, y], axis=1), ("x", "y"))
        assert statistic == pytest.approx(between, rel=1e-6)
        assert (degrees, rows) == (1, 50)


def test_littles_estimates_maximize_the_likelihood():
    """The gradient of the observed likelihood is zero at the estimates of EM."""
    from invmod.missingness.little import _normal_estimates

    rng = np.random.default_rng(1)
    y = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    y[rng.random(y.shape) < 0.3] = NAN
    y = y[~np.isnan(y).all(axis=1)]
    patterns, group = np.unique(~np.isnan(y), axis=0, return_inverse=True)
    groups = [(has, y[group.reshape(-1) == j][:, has]) for j, has in enumerate(patterns)]
    fitted = _normal_estimates(groups, len(y), 4)
    mean, covariance = (torch.tensor(x, requires_grad=True) for x in fitted)
    total = torch.zeros((), dtype=torch.float64)
    for has, rows in groups:
        index = torch.tensor(np.flatnonzero(has))
        normal = torch.distributions.MultivariateNormal(
            mean[index], covariance[index][:, index], validate_args=False
        )
        total = total + normal.log_prob(torch.tensor(rows)).sum()
    for gradient in torch.autograd.grad(total, [mean, covariance]):
        assert gradient.abs().max() < 1e-4 * len(y)


def test_littles_p_value_is_that_of_scipy_and_ignores_units_and_order():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(80, 3))
    y[:, 1] += y[:, 0]
    y[rng.random(y.shape) < 0.2] = NAN
    features = {name: y[:, column] for column, name in enumerate(NAMES)}
    result = mcar_test(features, NAMES)
    assert result.method == "little"
    assert result.p_value == pytest.approx(
        scipy.stats.chi2.sf(result.statistic, result.degrees_of_freedom), rel=1e-9
    )
    moved = {name: 1e4 + 1e-3 * x[::-1] for name, x in reversed(features.items())}
    again = mcar_test(moved, NAMES[::-1])
    assert again.statistic == pytest.approx(result.statistic, rel=1e-4)
    assert again.degrees_of_freedom == result.degrees_of_freedom
    # A row without any value has no influence.
    empty = {name: np.append(x, NAN) for name, x in features.items()}
    assert mcar_test(empty, NAMES).statistic == pytest.approx(result.statistic, rel=1e-9)
    assert mcar_test(empty, NAMES).num_rows == int((~np.isnan(y).all(axis=1)).sum())


@pytest.mark.slow
def test_the_tests_reject_true_hypotheses_at_their_level_and_find_false_ones():
    rng = np.random.default_rng(3)
    rejected = {"little": 0, "permutation": 0}
    found = {"little": 0, "permutation": 0}
    repeats = 200
    for repeat in range(repeats):
        y = rng.normal(size=(120, 3))
        y[:, 1] += y[:, 0]
        at_random, by_value = y.copy(), y.copy()
        at_random[rng.random(y.shape) < 0.2] = NAN
        by_value[y[:, 0] > 0.8, 1] = NAN
        for method in rejected:
            for counts, rows in ((rejected, at_random), (found, by_value)):
                features = {name: rows[:, column] for column, name in enumerate(NAMES)}
                result = mcar_test(
                    features, NAMES, method=method, num_permutations=99, generator=seeded(repeat)
                )
                counts[method] += result.p_value <= 0.05
    # Three standard errors of a share of 5% among 200 are 4.6%.
    assert all(count <= 0.096 * repeats for count in rejected.values()), rejected
    assert all(count >= 0.95 * repeats for count in found.values()), found


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 0.0, 2.0, 1.0]}, "no value is missing"),
        ({"a": [1.0, NAN, 3.0, NAN], "b": [NAN, 0.0, NAN, 1.0]}, "at least two patterns"),
        ({"a": [1.0, 1.0, 1.0, 1.0], "b": [1.0, NAN, 2.0, 1.0]}, "'a' is constant"),
        ({"a": [1.0, 2.0, 3.0, 5.0, 4.0], "b": [2.0, 4.0, 6.0, NAN, NAN]}, "collinear"),
        ({"a": [1.0, 2.0], "b": [2.0, NAN]}, "more rows than columns, got 2 rows and 2 columns"),
        ({"a": [NAN, NAN], "b": [NAN, NAN]}, "no column has numbers"),
        ({"a": ["x", ""]}, "no column has numbers"),
    ],
)  # fmt: skip
def test_little_states_why_it_cannot_be_computed(features, reason):
    arrays = {name: np.array(values) for name, values in features.items()}
    result = mcar_test(arrays, list(arrays), method="little")
    assert result.p_value is None
    assert result.statistic is None
    assert reason in result.reason
    assert f"not computed, because {result.reason}" in str(result)


def test_little_refuses_wide_modalities_and_auto_permutes_them():
    features = {"a": np.ones((4, 2)), "b": np.array([1.0, NAN, 2.0, 1.0])}
    assert (
        "'a' has several values per row" in mcar_test(features, ["a", "b"], method="little").reason
    )
    assert mcar_test(features, ["a", "b"]).method == "permutation"
    many = {f"c{index}": np.append(np.arange(300.0), NAN) for index in range(201)}
    assert "201 columns, more than 200" in mcar_test(many, list(many)).reason


# --- permutation test


def test_the_permutation_p_value_is_that_of_all_permutations():
    """With six rows in groups of one, two and three, all 720 permutations can be listed."""
    x = np.array([0.0, 1.0, 3.0, 7.0, 2.0, 4.5])
    y = np.array([NAN, NAN, NAN, 2.0, 1.0, 3.0])
    w = np.array([NAN, 1.0, 2.0, 1.0, 2.0, 5.0])
    z = StandardScaler().fit_transform(x[:, None])[:, 0]
    groups = (slice(0, 1), slice(1, 3), slice(3, 6))
    values = [
        sum(z[list(order[group])].sum() ** 2 / len(order[group]) for group in groups)
        for order in itertools.permutations(range(6))
    ]
    exact = np.mean([value >= values[0] - 1e-9 for value in values])
    result = mcar_test(
        {"x": x, "y": y, "w": w}, ["x", "y", "w"], method="permutation", num_permutations=4000,
        generator=seeded(0),
    )  # fmt: skip
    tests = {entry.modality: entry for entry in result.modalities}
    assert list(tests) == ["x", "w"]  # y occurs under one pattern of the others only
    assert tests["x"].p_value == pytest.approx(exact, abs=0.02)
    assert (tests["x"].num_rows, tests["x"].num_patterns) == (6, 3)
    assert result.left_out == ("y",)
    unweighted = [
        sum(z[list(order[group])].sum() ** 2 for group in groups)
        for order in itertools.permutations(range(6))
    ]
    wrong = np.mean([value >= unweighted[0] - 1e-9 for value in unweighted])
    assert abs(wrong - exact) > 0.04  # the data tell the statistic from one without weights


def test_the_permutation_test_handles_wide_vectors_text_and_rows_missing_in_part():
    rng = np.random.default_rng(4)
    topic = rng.normal(size=90)
    image = rng.normal(size=(90, 200)) + 0.5 * topic[:, None]
    title = np.where(topic > 0, "", "cat")
    image[5, 3] = NAN
    image[6] = NAN
    constant = np.ones(90)
    features = {"image": image, "title": title, "constant": constant}
    result = mcar_test(features, list(features), generator=seeded(0))
    assert result.method == "permutation"
    assert result.p_value == pytest.approx(0.001)
    assert result.tested == ("image",)
    assert result.left_out == ("title", "constant")
    assert result.modalities[0].num_rows == 88
    assert "p <= 0.001. The data contradict MCAR" in str(result)
    assert mcar_test(features, list(features), generator=seeded(0)) == result
    features["title"] = np.where(rng.random(90) < 0.4, "", "cat")
    again = mcar_test(features, list(features), generator=seeded(0))
    assert again.p_value > 0.05
    assert "is no proof of it" in str(again)


def test_the_permutation_test_states_why_it_cannot_be_computed():
    features = {"a": np.array(["x", "", "y"]), "b": np.array([1.0, 2.0, 3.0])}
    result = mcar_test({"b": features["b"], "a": None}, ["a", "b"], method="permutation")
    assert result.p_value is None
    assert "under two or more patterns of the other modalities" in result.reason
    assert result.left_out == ("a", "b")


@pytest.mark.parametrize(("num_rows", "tested"), [(2, ()), (3, ("x",))])
def test_the_permutation_test_needs_three_rows_of_a_modality(num_rows, tested):
    x = np.arange(1.0, num_rows + 1)
    y = np.where(x > 1, 0.0, NAN)
    result = mcar_test({"x": x, "y": y}, ["x", "y"], method="permutation", num_permutations=9)
    assert result.tested == tested


def test_a_large_modality_is_sampled():
    generator = np.random.default_rng(5)
    x = generator.normal(size=MAX_ROWS + 50)
    y = np.where(x > 1, NAN, generator.normal(size=len(x)))
    result = mcar_test({"x": x, "y": y}, ["x", "y"], method="permutation", num_permutations=9)
    assert result.modalities[0].num_rows == MAX_ROWS
    assert result.p_value == pytest.approx(0.1)
    assert "p <= 0.1" in str(result)


def test_a_generator_decides_the_permutations_and_the_global_state_stays():
    x = np.arange(30.0)
    y = np.where(x % 3 == 0, NAN, x)
    before = torch.get_rng_state()
    results = [
        mcar_test({"x": x, "y": y}, ["x", "y"], method="permutation", generator=seeded(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1] != results[2]


def test_holm_equals_its_definition_and_p_values_at_the_floor_say_so():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert shown_p(0.002, 0.001) == "= 0.002"
    assert shown_p(0.0, 0.0) == "= 0"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "chi"}, ValueError, "`method` must be 'auto', 'little' or 'permutation'"),
        ({"num_permutations": 0}, ValueError, "`num_permutations` must be at least 1, got 0"),
    ],
)
def test_wrong_options_of_the_test_are_rejected(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        mcar_test({"a": np.ones(3)}, ["a"], **options)


def test_an_infinity_is_rejected_by_the_test():
    with pytest.raises(ValueError, match="'a' has an infinity"):
        mcar_test({"a": np.array([1.0, math.inf])}, ["a"])


def test_counts_of_one_are_in_the_singular():
    x = np.array([[NAN], [1.0], [2.0]])
    summary = missingness_summary({"a": x}, ["a"])
    assert str(summary).startswith("3 rows, 1 modality; 66.7%")
    one = missingness_summary({"a": x[:1]}, ["a"])
    assert str(one).startswith("1 row, 1 modality; 0.0%")
    assert "got 1 row and 1 column." in mcar_test({"a": x[:2]}, ["a"], method="little").reason
    pattern = PatternCount((False,), ("a",), 1, 1 / 21)
    many = MissingnessSummary(("a",), 21, (1,), (0,), (pattern,) * 21, ((1,),))
    assert "1 more pattern with 1 row." in str(many)
    line = str(McarTest("little", 0.2, None, 3.2, 1, 0, 90, ("a",), (), ()))
    assert "1 degree of freedom, p" in line
    tested = (ModalityTest("a", 80, 2, 0.5, 0.5),)
    line = str(McarTest("permutation", 0.5, None, None, None, 1, 90, ("a",), (), tested))
    assert "1 permutation, 1 modality, p" in line
