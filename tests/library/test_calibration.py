"""Conformal prediction by pattern: oracles in plain loops, laws, and refused arguments."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.calibration import (
    CalibrationReport,
    ConformalPredictor,
    PatternCalibration,
    calibrate_by_pattern,
)
from invmod.calibration.ranks import combined_ends, conformal_rank, rows_needed
from invmod.calibration.scores import class_scores
from tests.strategies import laws

NAMES = ("a", "b", "c")
SCORES = ("absolute", "quantiles", "probability", "cumulative")
RULES = ("mondrian", "masked_down", "nested")
NUM_CLASSES = 4


def stacked(features, mask):
    """Features (N, M) with 0 in the hidden cells."""
    return np.where(mask, np.stack([x[:, 0] for x in features.values()], axis=1), 0.0)


def model(score):
    """Some model of arrays for each score; it uses the values and the mask."""

    def predict(features, mask):
        x = stacked(features, mask)
        total = x.sum(axis=1)
        if score == "absolute":
            return total
        if score == "quantiles":
            half = 0.1 + (~mask).sum(axis=1)
            return np.stack([total - half, total + 0.5 * half], axis=1)
        exponents = np.exp(class_logits(total))
        return exponents / exponents.sum(axis=1, keepdims=True)

    return predict


def class_logits(total):
    return 4 * np.stack([np.sin(total + c) + 0.3 * c for c in range(NUM_CLASSES)], axis=1)


def draw(seed, num_rows, num_modalities=3, score="absolute", share=0.6):
    """Features with NaN where missing, their mask, and targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_modalities))
    mask = rng.random((num_rows, num_modalities)) < share
    if score in ("absolute", "quantiles"):
        targets = x.sum(axis=1) + 0.3 * rng.normal(size=num_rows)
    else:
        noise = rng.gumbel(size=(num_rows, NUM_CLASSES))
        targets = (class_logits(x.sum(axis=1)) + noise).argmax(axis=1)
    names = [chr(ord("a") + index) for index in range(num_modalities)]
    features = {
        name: np.where(mask[:, [index]], x[:, [index]], np.nan) for index, name in enumerate(names)
    }
    return features, mask, targets


def results(predictor, features, mask=None):
    call = predictor.sets if predictor.num_classes else predictor.intervals
    return call(features, mask)


# --- an oracle in plain loops


def score_of(score, output, target):
    if score == "absolute":
        return abs(target - output)
    if score == "quantiles":
        return max(output[0] - target, target - output[1])
    if score == "probability":
        return 1 - output[target]
    return 1 - sum(sorted(p for p in output if p < output[target]))


def output_of(score, features, row, pattern):
    """The model's output for one row, of which the modalities of a pattern are shown."""
    one = {
        name: x[row : row + 1] if has else np.full((1, 1), np.nan)
        for (name, x), has in zip(features.items(), pattern, strict=True)
    }
    return model(score)(one, np.array([pattern]))[0]


def oracle(rule, score, coverage, calibration, tests):
    """Intervals or sets, row by row, from the definitions."""
    features, mask, targets = calibration
    test_features, test_mask, _ = tests
    expected = []
    for row, pattern in enumerate(test_mask):
        pairs = []  # the pattern under which a calibration row is scored, and its score
        for i, own in enumerate(mask):
            shared = tuple((own & pattern).tolist())
            used = {
                "mondrian": (own == pattern).all(),
                "masked_down": shared == tuple(pattern.tolist()),
                "nested": any(shared),
            }[rule]
            if used and any(shared):
                output = output_of(score, features, i, shared)
                pairs.append((shared, score_of(score, output, targets[i])))
        n = len(pairs)
        k = math.ceil(Fraction(str(coverage)) * (n + 1))
        if score in ("absolute", "quantiles"):
            if k > n:
                expected.append((-math.inf, math.inf))
                continue
            lows, highs = [], []
            for u, s in pairs:
                output = output_of(score, test_features, row, u)
                low, high = (output, output) if score == "absolute" else output
                lows.append(low - s)
                highs.append(high + s)
            expected.append((sorted(lows)[n - k], sorted(highs)[k - 1]))
        else:
            miss = 1 - Fraction(str(coverage))
            kept = []
            for c in range(NUM_CLASSES):
                at_least = sum(
                    s >= score_of(score, output_of(score, test_features, row, u), c)
                    for u, s in pairs
                )
                kept.append(at_least + 1 > miss * (n + 1))
            expected.append(kept)
    return np.array(expected)


@pytest.mark.parametrize("coverage", [0.6, 0.75])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rule", RULES)
def test_results_equal_those_of_plain_loops(rule, score, coverage):
    calibration, tests = draw(0, 70, score=score), draw(1, 20, score=score)
    features, _, targets = calibration
    predictor = calibrate_by_pattern(
        model(score), features, targets, score, coverage=coverage, rule=rule
    )
    found = results(predictor, tests[0])
    expected = oracle(rule, score, coverage, calibration, tests)
    if score in ("absolute", "quantiles"):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert np.isfinite(expected).all(axis=1).any()
    else:
        np.testing.assert_array_equal(found, expected)
        assert 0 < expected.sum() < expected.size


def test_a_large_nested_calibration_is_computed_in_blocks(monkeypatch):
    features, _, targets = draw(0, 60)
    tests = draw(1, 30)[0]
    whole = calibrate_by_pattern(model("absolute"), features, targets, "absolute", rule="nested")
    expected = whole.intervals(tests)
    monkeypatch.setattr("invmod.calibration.ranks.NUMBERS_AT_ONCE", 150)
    np.testing.assert_array_equal(whole.intervals(tests), expected)


def test_nested_ends_of_many_rows_are_order_statistics():
    """Parts of this size are not sorted whole, so the order statistics depend on the rank."""
    rng = np.random.default_rng(0)
    scores = [np.sort(rng.random(3000)), np.sort(rng.random(2000))]
    ends = [(rng.normal(size=20), rng.normal(size=20) + 1) for _ in scores]
    lower, upper = combined_ends(ends, scores, 0.8)
    rank = conformal_rank(5000, 0.8)
    for row in range(20):
        lows = [low[row] - s for (low, _), group in zip(ends, scores, strict=True) for s in group]
        highs = [
            high[row] + s for (_, high), group in zip(ends, scores, strict=True) for s in group
        ]
        assert lower[row] == sorted(lows)[5000 - rank]
        assert upper[row] == sorted(highs)[rank - 1]


def test_certain_predictions_are_probabilities():
    certain = np.eye(3)
    predictor = calibrate_by_pattern(
        lambda features, mask: certain[np.arange(len(mask)) % 3],
        {"a": np.ones((30, 1))},
        np.arange(30) % 3,
        "probability",
    )
    assert predictor.sets({"a": np.ones((3, 1))}).tolist() == certain.astype(bool).tolist()


def test_predictors_are_compared_by_identity():
    one, other = call(), call()
    assert len({one, other}) == 2


# --- ranks


def test_the_rank_is_exact_where_floating_point_is_not():
    # In floating point 10 * 0.7 is 7.000000000000001, and its ceiling is 8.
    assert math.ceil(10 * 0.7000000000000001) == 8
    for n, hundredths in itertools.product(range(200), range(1, 100)):
        assert conformal_rank(n, hundredths / 100) == -(-(n + 1) * hundredths // 100)
    assert conformal_rank(10, 1 - 1e-12) == 11
    assert conformal_rank(10, 1e-12) == 1
    assert [rows_needed(c) for c in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]


@pytest.mark.parametrize(("num_rows", "infinite"), [(8, True), (9, False)])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rule", [*RULES, "auto"])
def test_too_few_rows_give_infinite_results_that_are_reported(num_rows, infinite, score, rule):
    features, _, targets = draw(3, num_rows, score=score, share=1.1)
    predictor = calibrate_by_pattern(model(score), features, targets, score, rule=rule)
    tests, _, test_targets = draw(4, 30, score=score, share=1.1)
    found = results(predictor, tests)
    if score in ("absolute", "quantiles"):
        assert found.shape == (30, 2)
        assert (np.isinf(found) == infinite).all()
    elif infinite:
        assert found.all()
    result = next(r for r in predictor.report(tests, test_targets).patterns if all(r.pattern))
    assert result.num_rows == num_rows
    assert (result.quantile == math.inf) == infinite
    assert result.num_infinite == (30 if infinite else 0)
    assert (result.mean_size is None) == infinite
    assert not infinite or result.coverage == 1


def test_ties_cover_at_least_as_often():
    features = {"a": np.zeros((99, 1))}
    targets = np.repeat([0.0, 1.0, 2.0], 33)
    predictor = calibrate_by_pattern(
        lambda features, mask: features["a"][:, 0], features, targets, "absolute", coverage=0.5
    )
    assert predictor.report().patterns[0].quantile == 1.0
    report = predictor.report(features, targets)
    assert report.patterns[0].num_covered == 66


def test_sets_keep_classes_whose_score_equals_the_quantile():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]] * 10)
    predictor = calibrate_by_pattern(
        lambda features, mask: probabilities[: len(mask)],
        {"a": np.ones((20, 1))},
        np.tile([0, 1], 10),
        "probability",
    )
    # The scores are .5 and .25 in equal numbers, so the quantile is .5, and both classes of an
    # even row are kept.
    assert predictor.sets({"a": np.ones((2, 1))}).tolist() == [[True, True], [False, True]]


# --- the rule


def test_the_rule_is_chosen_by_the_number_of_rows_and_stated():
    patterns = [(True, True)] * 5 + [(True, False)] * 6 + [(False, True)] * 3
    mask = np.array(patterns)
    x = np.random.default_rng(0).normal(size=(14, 2))
    features = {"a": x[:, :1], "b": x[:, 1:]}
    rules = {}
    for min_rows in (5, 6, 200):
        predictor = calibrate_by_pattern(
            model("absolute"),
            features,
            x.sum(axis=1),
            "absolute",
            mask=mask,
            coverage=0.8,  # needs four rows
            min_rows=min_rows,
        )
        rules[min_rows] = {r.name: (r.rule, r.num_rows) for r in predictor.report().patterns}
    assert rules[5] == {"a+b": ("mondrian", 5), "a": ("mondrian", 6), "b": ("masked_down", 8)}
    assert rules[6] == {"a+b": ("masked_down", 5), "a": ("mondrian", 6), "b": ("masked_down", 8)}
    assert rules[200]["a"] == ("masked_down", 11)
    # 13 of the 14 rows are needed for 92%, so the complete pattern takes all rows, nested.
    wide = calibrate_by_pattern(
        model("absolute"), features, x.sum(axis=1), "absolute", mask=mask, coverage=0.92
    )
    nested = wide.report().patterns[0]
    assert (nested.rule, nested.num_rows, nested.quantile) == ("nested", 14, None)
    # With a coverage near 1, `min_rows` rows would not be enough for a finite quantile.
    few = calibrate_by_pattern(
        model("absolute"), features, x.sum(axis=1), "absolute", mask=mask, coverage=0.92, min_rows=5
    )
    assert few.report().patterns[0].rule == "nested"


# --- laws


@laws
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCORES), st.sampled_from([*RULES, "auto"]))
def test_the_order_of_calibration_rows_changes_nothing(seed, score, rule):
    features, _, targets = draw(seed, 40, score=score)
    tests = draw(seed + 1, 10, score=score)[0]
    order = np.random.default_rng(seed).permutation(40)
    shuffled = {name: x[order] for name, x in features.items()}
    first = calibrate_by_pattern(model(score), features, targets, score, rule=rule)
    second = calibrate_by_pattern(model(score), shuffled, targets[order], score, rule=rule)
    np.testing.assert_array_equal(results(first, tests), results(second, tests))


@laws
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCORES), st.sampled_from(RULES))
def test_more_coverage_gives_larger_results(seed, score, rule):
    features, _, targets = draw(seed, 60, score=score)
    tests = draw(seed + 1, 10, score=score)[0]
    small, large = (
        results(
            calibrate_by_pattern(
                model(score), features, targets, score, coverage=coverage, rule=rule
            ),
            tests,
        )
        for coverage in (0.6, 0.85)
    )
    if score in ("absolute", "quantiles"):
        assert (large[:, 0] <= small[:, 0]).all()
        assert (large[:, 1] >= small[:, 1]).all()
        assert (large != small).any()
    else:
        assert (small <= large).all()


@laws
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_an_added_row_moves_the_quantile_towards_its_score(seed, num_rows):
    rng = np.random.default_rng(seed)

    def quantile(scores, coverage=0.8):
        predictor = calibrate_by_pattern(
            lambda features, mask: np.zeros(len(mask)),
            {"a": np.ones((len(scores), 1))},
            scores,
            "absolute",
            coverage=coverage,
        )
        return predictor.report().patterns[0].quantile

    scores = rng.random(num_rows)
    before = quantile(scores)
    assert quantile(np.append(scores, 2.0)) >= min(before, 2.0)
    assert quantile(np.append(scores, 0.0)) <= before


def test_a_row_of_another_pattern_changes_no_mondrian_quantile():
    features, _, targets = draw(0, 80)
    extra = {
        name: np.append(x, [[5.0 if name == "a" else np.nan]], 0) for name, x in features.items()
    }
    before, after = (
        {
            r.name: r.quantile
            for r in calibrate_by_pattern(
                model("absolute"), f, t, "absolute", coverage=0.7, rule="mondrian"
            )
            .report()
            .patterns
        }
        for f, t in ((features, targets), (extra, np.append(targets, 99.0)))
    )
    assert [name for name in before if before[name] != after[name]] == ["a"]


@laws
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from(RULES))
def test_the_order_of_modalities_changes_nothing(seed, num_modalities, rule):
    features, _, targets = draw(seed, 40, num_modalities)
    tests, test_mask, _ = draw(seed + 1, 5, num_modalities)
    order = np.random.default_rng(seed).permutation(num_modalities)
    names = [list(features)[index] for index in order]
    options = {"rule": rule, "patterns": "observed"}
    # Every pattern of the test rows must occur in calibration.
    features = {name: np.concatenate([x, tests[name]]) for name, x in features.items()}
    targets = np.append(targets, np.zeros(5))
    one = calibrate_by_pattern(model("absolute"), features, targets, "absolute", **options)
    other = calibrate_by_pattern(
        model("absolute"), {name: features[name] for name in names}, targets, "absolute", **options
    )
    shuffled = {name: tests[name] for name in names}
    expected = one.intervals(tests, test_mask)
    np.testing.assert_allclose(other.intervals(shuffled, test_mask[:, order]), expected, atol=1e-12)
    # Features are matched by name, so a mask has the order of the calibration's modalities.
    np.testing.assert_allclose(one.intervals(shuffled, test_mask), expected, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [1e9, np.inf, -1.0])
def test_the_content_of_unavailable_cells_changes_nothing(rule, value):
    features, mask, targets = draw(0, 60)
    tests, test_mask, _ = draw(1, 20)
    dirty, dirty_tests = (
        {name: np.where(m[:, [i]], x, value) for i, (name, x) in enumerate(f.items())}
        for f, m in ((features, mask), (tests, test_mask))
    )
    clean = calibrate_by_pattern(model("absolute"), features, targets, "absolute", rule=rule)
    other = calibrate_by_pattern(
        model("absolute"), dirty, targets, "absolute", rule=rule, mask=mask
    )
    np.testing.assert_array_equal(clean.intervals(tests), other.intervals(dirty_tests, test_mask))


def test_arrays_and_tensors_give_the_same_and_keep_their_kind():
    features, mask, targets = draw(0, 60)
    tests, test_mask, test_targets = draw(1, 20)

    def of_tensors(features, mask):
        assert mask.dtype == torch.bool
        assert not torch.is_grad_enabled()
        return torch.from_numpy(
            model("absolute")({k: x.numpy() for k, x in features.items()}, mask.numpy())
        )

    as_tensors, as_test_tensors = (
        {name: torch.from_numpy(x) for name, x in f.items()} for f in (features, tests)
    )
    arrays = calibrate_by_pattern(model("absolute"), features, targets, "absolute", mask=mask)
    tensors = calibrate_by_pattern(
        of_tensors, as_tensors, torch.from_numpy(targets), "absolute", mask=torch.from_numpy(mask)
    )
    expected = arrays.intervals(tests)
    found = tensors.intervals(as_test_tensors)
    assert isinstance(expected, np.ndarray)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), expected)
    assert arrays.report(tests, test_targets, test_mask) == tensors.report(
        as_test_tensors, torch.from_numpy(test_targets), torch.from_numpy(test_mask)
    )


def test_a_mask_may_be_given_by_name_in_any_order():
    features, mask, targets = draw(0, 60)
    by_name = {name: mask[:, index] for index, name in reversed(list(enumerate(NAMES)))}
    expected = calibrate_by_pattern(model("absolute"), features, targets, "absolute", mask=mask)
    found = calibrate_by_pattern(model("absolute"), features, targets, "absolute", mask=by_name)
    assert found.report() == expected.report()
    np.testing.assert_array_equal(
        found.intervals(features, by_name), expected.intervals(features, mask)
    )
    assert expected.report(features, targets, by_name) == expected.report(features, targets, mask)


@pytest.mark.parametrize("kind", ["reversed", "big endian", "read only"])
def test_unusual_arrays_are_accepted(kind):
    features, _, targets = draw(0, 60)
    usual = calibrate_by_pattern(model("absolute"), features, targets, "absolute").report()
    unusual = {}
    for name, x in features.items():
        unusual[name] = {
            "reversed": x[::-1].copy()[::-1],
            "big endian": x.astype(">f8"),
            "read only": x.copy(),
        }[kind]
        unusual[name].setflags(write=kind != "read only")
    assert calibrate_by_pattern(model("absolute"), unusual, targets, "absolute").report() == usual


def test_a_model_that_writes_into_its_input_changes_nothing():
    features, mask, targets = draw(0, 60)
    before = {name: x.copy() for name, x in features.items()}

    def writes(features, mask):
        outputs = model("absolute")(features, mask)
        for x in features.values():
            x[...] = 7.0
        mask[...] = False
        return outputs

    clean = calibrate_by_pattern(model("absolute"), features, targets, "absolute", mask=mask)
    other = calibrate_by_pattern(writes, features, targets, "absolute", mask=mask)
    assert clean.report() == other.report()
    np.testing.assert_array_equal(other.intervals(features), clean.intervals(features))
    for name, x in features.items():
        np.testing.assert_array_equal(x, before[name])


def test_the_model_is_called_once_per_pattern_with_rows_of_that_pattern():
    features, _, targets = draw(0, 60)
    seen = []

    def predict(features, mask):
        (pattern,) = {tuple(row) for row in mask.tolist()}
        hidden = np.stack([np.isnan(x).all(axis=1) for x in features.values()], axis=1)
        np.testing.assert_array_equal(hidden, ~mask)
        seen.append(pattern)
        return model("absolute")(features, mask)

    calibrate_by_pattern(predict, features, targets, "absolute", rule="nested")
    assert len(seen) == len(set(seen)) == 7


def test_integers_are_hidden_by_the_fill_value():
    words = np.arange(40)[:, None]
    features = {"words": words, "x": words.astype(float)}

    def predict(features, mask):
        np.testing.assert_array_equal((features["words"] == -7)[:, 0], ~mask[:, 0])
        return np.zeros(len(mask))

    predictor = calibrate_by_pattern(
        predict, features, np.arange(40.0), "absolute", integer_fill=-7
    )
    # A row with the fill value is missing.
    hidden = {"words": np.full((1, 1), -7), "x": np.ones((1, 1))}
    assert predictor.report(hidden, np.zeros(1)).tested[0].name == "x"


def test_bools_and_integers_are_hidden_by_the_sentinel_of_their_type():
    mask = np.random.default_rng(0).random((40, 3)) < 0.6
    features = {
        "flag": np.ones((40, 1), dtype=bool),
        "byte": np.full((40, 1), 7, dtype=np.uint8),
        "word": np.full((40, 1), 7),
    }

    def predict(features, mask):
        for (name, hidden), column in zip(
            {"flag": False, "byte": 0, "word": -1}.items(), mask.T, strict=True
        ):
            np.testing.assert_array_equal((features[name] == hidden)[:, 0], ~column)
        return np.zeros(len(mask))

    predictor = calibrate_by_pattern(predict, features, np.arange(40.0), "absolute", mask=mask)
    assert predictor.intervals(features, mask).shape == (40, 2)


def test_rows_without_modalities_are_infinite_and_no_rows_give_no_rows():
    features, _, targets = draw(0, 60)
    predictor = calibrate_by_pattern(model("absolute"), features, targets, "absolute")
    nothing = {name: np.full((2, 1), np.nan) for name in features}
    assert predictor.intervals(nothing).tolist() == [[-math.inf, math.inf]] * 2
    report = predictor.report(nothing, np.zeros(2))
    assert (report.tested[0].name, report.tested[0].num_infinite) == ("none", 2)
    assert predictor.intervals({name: x[:0] for name, x in features.items()}).shape == (0, 2)
    classes = draw(0, 60, score="probability")[2]
    sets = calibrate_by_pattern(model("probability"), features, classes, "probability")
    assert sets.sets(nothing).tolist() == [[True] * NUM_CLASSES] * 2
    assert sets.sets({name: x[:0] for name, x in features.items()}).shape == (0, NUM_CLASSES)


def test_half_precision_outputs_are_scored_in_double_precision():
    predictor = calibrate_by_pattern(
        lambda features, mask: features["a"][:, 0].bfloat16(),
        {"a": torch.ones(20, 1)},
        torch.arange(20) + 0.0009765625,  # 2 ** -10, which bfloat16 has no room for
        "absolute",
    )
    assert predictor.intervals({"a": torch.ones(1, 1)}).tolist() == [
        [-16.0009765625, 18.0009765625]
    ]


# --- the report


def test_the_report_counts_what_plain_loops_count():
    features, _, targets = draw(0, 200)
    tests, test_mask, test_targets = draw(1, 100)
    predictor = calibrate_by_pattern(
        model("absolute"), features, targets, "absolute", coverage=0.8, rule="masked_down"
    )
    intervals = predictor.intervals(tests)
    report = predictor.report(tests, test_targets)
    assert sum(result.num_tests for result in report.patterns) == 100
    for result in report.tested:
        rows = [i for i in range(100) if tuple(test_mask[i].tolist()) == result.pattern]
        inside = [intervals[i, 0] <= test_targets[i] <= intervals[i, 1] for i in rows]
        assert (result.num_tests, result.num_covered) == (len(rows), sum(inside))
        assert result.coverage == sum(inside) / len(rows)
        if any(result.pattern):
            widths = [intervals[i, 1] - intervals[i, 0] for i in rows]
            assert result.mean_size == pytest.approx(np.mean(widths))
    assert report.worst().coverage == min(result.coverage for result in report.tested)


@pytest.mark.parametrize("score", SCORES)
def test_the_report_survives_json_and_becomes_a_table_and_a_frame(score, tmp_path):
    features, _, targets = draw(0, 30, score=score)
    predictor = calibrate_by_pattern(model(score), features, targets, score)
    report = predictor.report(features, targets)
    assert {r.rule for r in report.patterns} >= {"masked_down", "nested"}
    assert any(result.quantile is None for result in report.patterns)
    assert CalibrationReport.from_json(report.to_json()) == report
    rare = calibrate_by_pattern(model(score), features, targets, score, rule="mondrian").report()
    assert any(result.quantile == math.inf for result in rare.patterns)
    assert "Infinity" not in rare.to_json()
    rare.save(tmp_path / "report.json")
    assert CalibrationReport.load(tmp_path / "report.json") == rare
    frame = report.to_frame()
    assert frame["coverage"].to_list() == [result.coverage for result in report.patterns]
    assert frame["pattern"].to_list() == [list(result.pattern) for result in report.patterns]
    text = str(report)
    for result in report.tested:
        assert f"\n{result.name} " in text
        assert f" {result.coverage:.3f} [" in text
    assert text.count("\nnested: ") == 1
    assert ("mean size" if score in ("probability", "cumulative") else "mean width") in text
    assert "infinite" in str(rare)
    assert "coverage  " not in str(rare)


def test_a_report_without_test_rows_has_no_worst_pattern():
    features, _, targets = draw(0, 30)
    report = calibrate_by_pattern(model("absolute"), features, targets, "absolute").report()
    with pytest.raises(ValueError, match="the report has no test rows"):
        report.worst()
    with pytest.raises(ValueError, match="does not state a format"):
        CalibrationReport.from_json("{}")


def test_the_interval_of_a_coverage_equals_that_of_scipy():
    from scipy.stats import binomtest

    for covered, tests in ((0, 7), (1, 7), (7, 7), (90, 100)):
        result = PatternCalibration(
            (True,), "a", "mondrian", 8, 1.0, None, num_tests=tests, num_covered=covered
        )
        expected = binomtest(covered, tests).proportion_ci(0.9)
        assert result.interval(0.9) == pytest.approx((expected.low, expected.high))
    assert PatternCalibration((True,), "a", "mondrian", 8, 1.0, None).interval() is None


def test_the_deviation_is_that_of_a_beta_distribution():
    from scipy.stats import beta

    features = {"a": np.ones((100, 1))}
    predictor = calibrate_by_pattern(
        lambda features, mask: np.zeros(len(mask)), features, np.arange(100.0), "absolute"
    )
    assert predictor.report().patterns[0].deviation == pytest.approx(beta(91, 10).std())


@pytest.mark.parametrize("score", SCORES)
def test_a_saved_calibration_gives_the_same_results(score, tmp_path):
    features, _, targets = draw(0, 30, score=score)
    predictor = calibrate_by_pattern(model(score), features, targets, score, coverage=0.8)
    predictor.save(tmp_path / "calibration.json")
    loaded = ConformalPredictor.load(tmp_path / "calibration.json", model(score))
    np.testing.assert_array_equal(results(loaded, features), results(predictor, features))
    assert loaded.report(features, targets) == predictor.report(features, targets)
    with pytest.raises(ValueError, match="does not state a format"):
        ConformalPredictor.from_json("{}", model(score))
    with pytest.raises(ValueError, match=r"from_json: `predict` is in training mode"):
        ConformalPredictor.from_json(predictor.to_json(), torch.nn.Linear(1, 1))


# --- refused arguments


def call(score="absolute", **changes):
    features, _, targets = draw(0, 30, score=score)
    arguments = {"predict": model(score), "features": features, "targets": targets, "score": score}
    return calibrate_by_pattern(**(arguments | changes))


def returning(value):
    return lambda features, mask: value(len(mask))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"coverage": 1.0}, ValueError, r"`coverage` must lie in \(0, 1\), got 1.0"),
        ({"coverage": 0.0}, ValueError, r"`coverage` must lie in \(0, 1\), got 0.0"),
        ({"score": "residual"}, ValueError, "`score` must be 'absolute'.*got 'residual'"),
        ({"rule": "exact"}, ValueError, "`rule` must be 'auto'.*got 'exact'"),
        ({"min_rows": 0}, ValueError, "`min_rows` must be at least 1"),
        ({"patterns": "some"}, ValueError, "`patterns` must be 'all' or 'observed', got 'some'"),
        ({"patterns": ["ab"]}, TypeError, "must be a collection of names, got the string 'ab'"),
        ({"patterns": [("a", "z")]}, KeyError, "`patterns` has modalities"),
        ({"patterns": [()]}, ValueError, "must have at least one modality"),
        ({"predict": 3}, TypeError, "`predict` must be callable, got int"),
        ({"predict": torch.nn.Linear(1, 1)}, ValueError, "`predict` is in training mode"),
        ({"predict": returning(lambda n: [0.0] * n)}, TypeError, "a tensor or an array, got list"),
        ({"predict": returning(lambda n: np.zeros((n, 1)))}, ValueError, r"must return \(N,\)"),
        ({"predict": returning(lambda n: np.zeros(1))}, ValueError, r"must return \(N,\)"),
        ({"predict": returning(lambda n: np.full(n, np.nan))}, ValueError, "have NaN"),
        ({"predict": returning(lambda n: np.full(n, np.inf))}, ValueError, "NaN or infinities"),
        ({"targets": np.zeros(3)}, ValueError, r"must have shape \(N,\) = \(30,\)"),
        ({"targets": [0.0] * 30}, TypeError, "`targets` must be a tensor or an array, got list"),
        ({"targets": np.full(30, np.nan)}, ValueError, "must be finite numbers.*with NaN"),
        (
            {"mask": [[True] * 3] * 30},
            TypeError,
            "`mask` must be a tensor, an array or name.*got list",
        ),
        ({"mask": np.ones((30, 2), dtype=bool)}, ValueError, r"\(N, M\) = \(30, 3\)"),
        ({"mask": np.ones((30, 3))}, TypeError, "`mask` must have dtype torch.bool"),
        ({"features": {"a": [1.0]}}, TypeError, "all tensors or all NumPy arrays"),
        (
            {"score": "quantiles", "predict": returning(lambda n: np.zeros((n, 3)))},
            ValueError,
            r"must return \(N, 2\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(changes, error, message):
    with pytest.raises(error, match=f"calibrate_by_pattern: .*{message}"):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predict": returning(lambda n: np.ones((n, 4)))}, ValueError, "sum to 1 in each row"),
        (
            {"predict": returning(lambda n: np.tile([-1.0, 2.0], (n, 1)))},
            ValueError,
            r"Use `logits.softmax\(dim=1\)`",
        ),
        ({"predict": returning(np.zeros)}, ValueError, r"must return \(N, C\)"),
        ({"targets": np.full(30, 4)}, ValueError, r"indices in \[0, 4\).*got 4 to 4"),
        ({"targets": np.full(30, -1)}, ValueError, r"indices in \[0, C\).*got -1 to -1"),
        ({"targets": np.zeros(30)}, TypeError, "integer indices of classes, got dtype float64"),
        ({"mask": np.zeros((30, 3), dtype=bool)}, ValueError, "number of classes is unknown"),
    ],
)
@pytest.mark.parametrize("score", ["probability", "cumulative"])
def test_wrong_arguments_of_classes_are_refused(score, changes, error, message):
    with pytest.raises(error, match=f"calibrate_by_pattern: .*{message}"):
        call(score, **changes)


def test_wrong_calls_of_the_predictor_are_refused():
    features = draw(0, 30)[0]
    intervals, sets = call(), call("probability")
    with pytest.raises(TypeError, match=r"score 'probability' of classes. Call `sets`"):
        sets.intervals(features)
    with pytest.raises(TypeError, match=r"score 'absolute' of numbers. Call `intervals`"):
        intervals.sets(features)
    with pytest.raises(TypeError, match="`features` and `targets` must be given together"):
        intervals.report(features)
    with pytest.raises(KeyError, match=r"must have the modalities .* unknown \['z'\]"):
        intervals.intervals({"z": features["a"]})
    some = call(patterns=[("a", "b", "c")])
    with pytest.raises(ValueError, match=r"has the pattern \S+, which was not calibrated"):
        some.intervals(features)


def test_a_model_whose_outputs_are_nan_only_later_raises_later():
    late = []

    def predict(features, mask):
        outputs = model("absolute")(features, mask)
        return outputs * np.nan if late else outputs

    predictor = call(predict=predict)
    late.append(True)
    with pytest.raises(ValueError, match=r"ConformalPredictor.intervals: .* have NaN"):
        predictor.intervals(draw(1, 5)[0])


def test_numbers_of_classes_that_differ_are_refused():
    def predict(features, mask):
        width = 2 + int(mask[0].sum())
        return np.full((len(mask), width), 1 / width)

    with pytest.raises(ValueError, match="the same number of classes under all patterns"):
        call("probability", predict=predict, targets=np.zeros(30, dtype=int))


def test_nine_modalities_need_a_choice_of_patterns():
    features, _, targets = draw(0, 30, 9)
    with pytest.raises(ValueError, match=r"511 patterns of 9 modalities. Pass patterns='observed'"):
        calibrate_by_pattern(model("absolute"), features, targets, "absolute")
    predictor = calibrate_by_pattern(
        model("absolute"), features, targets, "absolute", patterns="observed"
    )
    assert predictor.intervals(features).shape == (30, 2)


def test_an_error_of_the_model_names_the_pattern():
    def predict(features, mask):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        call(predict=predict)
    assert "under the pattern a+b+c" in caught.value.__notes__[0]


def test_equally_probable_classes_are_ordered_by_their_index():
    scores = class_scores("cumulative", np.full((1, 64), 1 / 64))
    np.testing.assert_array_equal(scores[0], np.arange(1, 65) / 64)
