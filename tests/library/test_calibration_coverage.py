"""Coverage in finite samples, over 400 draws of calibration and test rows.

With continuous scores the expected coverage of a pattern is exactly k / (n + 1), which lies between
the coverage c asked for and c + 1 / (n + 1).
"""

import numpy as np
import pytest

from invmod.calibration import calibrate_by_pattern
from invmod.calibration.ranks import conformal_rank

NUM_DRAWS, NUM_TESTS = 400, 60
# The number of calibration rows of each pattern: both modalities, the first, the second.
PATTERNS = {(True, True): 41, (True, False): 23, (False, True): 30}
NUM_CLASSES = 3


def rows(rng, counts):
    """Features, mask and targets of the given number of rows of each pattern.

    The patterns do not depend on the values: they are missing completely at random.
    """
    mask = np.repeat(list(counts), list(counts.values()), axis=0)
    x = rng.normal(size=mask.shape)
    numbers = x.sum(axis=1) + 0.5 * rng.standard_t(3, size=len(x))
    logits = class_logits(x) + rng.gumbel(size=(len(x), NUM_CLASSES))
    features = {name: np.where(mask[:, [i]], x[:, [i]], np.nan) for i, name in enumerate("ab")}
    return features, mask, numbers, logits.argmax(axis=1)


def class_logits(x):
    return np.stack([x[:, 0], x[:, 1], 0.5 - x[:, 0] * x[:, 1]], axis=1)


def predict(score):
    def of(features, mask):
        x = np.where(mask, np.stack([x[:, 0] for x in features.values()], axis=1), 0.0)
        total = x.sum(axis=1)
        if score == "absolute":
            return total
        if score == "quantiles":
            return np.stack([total - 0.5, total + 0.5 + 0.2 * abs(total)], axis=1)
        exponents = np.exp(class_logits(x))
        return exponents / exponents.sum(axis=1, keepdims=True)

    return of


def coverages(score, rule, counts=None, draw=rows, asked=0.9):
    """Coverage of test rows (draws, patterns), and the number of calibration rows by pattern."""
    found, used = [], {}
    for seed in range(NUM_DRAWS):
        rng = np.random.default_rng(seed)
        features, mask, numbers, classes = draw(rng, counts or PATTERNS)
        targets = numbers if score in ("absolute", "quantiles") else classes
        predictor = calibrate_by_pattern(
            predict(score), features, targets, score, mask=mask, rule=rule, coverage=asked
        )
        features, mask, numbers, classes = draw(rng, dict.fromkeys(PATTERNS, NUM_TESTS))
        targets = numbers if score in ("absolute", "quantiles") else classes
        report = predictor.report(features, targets, mask)
        found.append([result.coverage for result in report.tested])
        used = {result.pattern: result.num_rows for result in report.tested}
    return np.array(found), list(used.values())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["mondrian", "masked_down"])
@pytest.mark.parametrize("score", ["absolute", "quantiles", "probability"])
def test_every_pattern_has_the_coverage_that_was_asked_for(score, rule):
    found, num_rows = coverages(score, rule)
    assert num_rows == ([41, 23, 30] if rule == "mondrian" else [41, 64, 71])
    for column, n in enumerate(num_rows):
        mean = found[:, column].mean()
        error = found[:, column].std(ddof=1) / NUM_DRAWS**0.5
        assert 0.9 - 3 * error <= mean <= 0.9 + 1 / (n + 1) + 3 * error
        assert abs(mean - conformal_rank(n, 0.9) / (n + 1)) <= 3.5 * error
        assert error < 0.006  # small enough to notice an interpolated quantile


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["mondrian", "masked_down"])
def test_scores_with_ties_cover_at_least_as_often_as_asked(rule):
    """The least probable class always has the cumulative score 1."""
    found, _ = coverages("cumulative", rule)
    error = found.std(axis=0, ddof=1) / NUM_DRAWS**0.5
    assert (found.mean(axis=0) >= 0.9 - 3 * error).all()


def test_nested_calibration_covers_at_least_as_often_as_asked():
    found, num_rows = coverages("absolute", "nested")
    assert num_rows == [94, 64, 71]
    error = found.std(axis=0, ddof=1) / NUM_DRAWS**0.5
    assert (found.mean(axis=0) >= 0.9 - 3 * error).all()
    # With all modalities, most rows are scored with fewer of them, so the intervals are too wide.
    assert found[:, 0].mean() > 0.95


def test_one_quantile_for_all_patterns_covers_on_average_only():
    """The pooled quantile covers too seldom where modalities are missing."""
    found = []
    for seed in range(NUM_DRAWS):
        rng = np.random.default_rng(seed)
        features, mask, numbers, _ = rows(rng, PATTERNS)
        scores = np.sort(abs(numbers - predict("absolute")(features, mask)))
        quantile = scores[conformal_rank(len(scores), 0.9) - 1]
        features, mask, numbers, _ = rows(rng, dict.fromkeys(PATTERNS, NUM_TESTS))
        covered = abs(numbers - predict("absolute")(features, mask)) <= quantile
        found.append(covered.reshape(len(PATTERNS), NUM_TESTS).mean(axis=1))
    both, first, second = np.mean(found, axis=0)
    assert both > 0.94
    assert max(first, second) < 0.88


def not_at_random(rng, counts):
    """Rows whose second modality is missing where it is large: missing not at random.

    The model cannot see that, so its predictions without that modality are too low.
    """
    features, mask, numbers, classes = [], [], [], []
    for pattern, count in counts.items():
        x = rng.normal(size=(40 * count, 2))
        missing = x[:, 1] > 1.0
        chosen = np.flatnonzero(missing != pattern[1])[:count]
        assert len(chosen) == count
        x, own = x[chosen], np.tile(pattern, (count, 1))
        mask.append(own)
        features.append(np.where(own, x, np.nan))
        numbers.append(x.sum(axis=1) + 0.5 * rng.normal(size=count))
        classes.append(np.zeros(count, dtype=int))
    x = np.concatenate(features)
    return (
        {"a": x[:, :1], "b": x[:, 1:]},
        np.concatenate(mask),
        np.concatenate(numbers),
        np.concatenate(classes),
    )


@pytest.mark.slow
def test_under_missingness_not_at_random_only_mondrian_calibration_holds():
    masked_down, num_rows = coverages("absolute", "masked_down", draw=not_at_random)
    mondrian, _ = coverages("absolute", "mondrian", draw=not_at_random)
    column = 1  # the second modality is missing
    error = mondrian[:, column].std(ddof=1) / NUM_DRAWS**0.5
    assert num_rows[column] == 64
    assert abs(mondrian[:, column].mean() - conformal_rank(23, 0.9) / 24) <= 3.5 * error
    assert masked_down[:, column].mean() < 0.85
