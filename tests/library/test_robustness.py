"""The robustness report: inputs of the models, patterns, queries and errors."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from invmod.missingness import pattern_name
from tests.library.robustness_cases import (
    NAMES,
    accuracy,
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
)
from tests.strategies import NAN, generators, laws, normal, random_mask, seeded


@laws
@given(generators(), st.integers(1, 4), st.integers(1, 6))
def test_a_pattern_is_imposed_on_all_rows_in_addition_to_the_natural_mask(
    generator, num_modalities, num_rows
):
    names = [f"m{index}" for index in range(num_modalities)]
    features = {name: normal(generator, num_rows, 2, 3) for name in names}
    natural = random_mask(generator, num_rows, num_modalities)
    seen = []

    def watch(hidden, mask):
        seen.append(mask.clone())
        assert list(hidden) == names
        for index, name in enumerate(names):
            there = mask[:, index]
            assert torch.equal(hidden[name][there], features[name][there])
            assert hidden[name][~there].isnan().all()
        return mask.double().sum(dim=1)

    report = quick(watch, features, torch.zeros(num_rows), mean, mask=natural)
    patterns = [result.pattern for result in report.patterns]
    assert len(set(patterns)) == len(patterns) == 2**num_modalities - 1
    assert all(patterns[0])
    assert [sum(p) for p in patterns] == sorted((sum(p) for p in patterns), reverse=True)
    for mask, result in zip(seen, report.patterns, strict=True):
        assert torch.equal(mask, natural & torch.tensor(result.pattern))
        assert result.value == pytest.approx(mask.double().sum(dim=1).mean().item())
        assert result.empty_rows == (~mask.any(dim=1)).sum()
        assert result.name == pattern_name(result.pattern, names)


def test_rows_of_nan_are_missing_if_no_mask_is_given():
    features, targets = made_up()
    features["text"][:10] = NAN
    sums = quick(lambda _, mask: mask.double().sum(dim=1), features, targets, mean).complete().value
    assert sums == pytest.approx((50 * 3 + 10 * 2) / 60)
    assert quick(by_mean, features, targets, patterns=[("text",)]).worst().empty_rows == 10


def test_the_drop_of_a_model_that_ignores_the_mask_is_reported():
    """The model reads only the first modality, so hiding it must reduce the metric."""
    report = quick(by_first)
    assert report.complete().value > 0.8
    for result in report.patterns:
        assert (result.value == report.complete().value) == result.pattern[0]
        if not result.pattern[0]:
            assert result.drop > 0.3
    original, _ = made_up()
    peeking = quick(lambda features, mask: by_first(original, mask))
    # A model that reads the original features is not affected by any pattern.
    assert len({result.value for result in peeking.patterns}) == 1


def test_integers_and_bools_are_hidden_by_a_stated_value():
    ids = torch.arange(12).reshape(6, 2)
    flags = torch.ones(6, 1, dtype=torch.bool)
    seen = {}

    def predict(features, mask):
        seen[tuple(mask[0].tolist())] = {name: x.clone() for name, x in features.items()}
        return torch.zeros(6)

    fills = {"words": -1, "flags": 0}
    quick(predict, {"words": ids, "flags": flags}, torch.zeros(6), mean, integer_fill=fills)
    assert torch.equal(seen[True, True]["words"], ids)
    assert (seen[False, True]["words"] == -1).all()
    assert seen[False, True]["words"].dtype == torch.int64
    assert not seen[True, False]["flags"].any()
    quick(predict, {"words": ids}, torch.zeros(6), mean, integer_fill=-7, rates=(0.9,))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] for torch.bool, got -1"):
        quick(predict, {"flags": flags}, torch.zeros(6), mean, integer_fill=-1)
    # By default each dtype has the sentinel of `hide_features`.
    quick(predict, {"words": ids, "flags": flags}, torch.zeros(6), mean)
    assert (seen[False, True]["words"] == -1).all()
    assert not seen[True, False]["flags"].any()


@pytest.mark.parametrize(("integer_fill", "missing"), [("auto", 2), (-7, 3), (None, None)])
def test_rows_of_integers_are_naturally_missing_by_the_rule_that_hides_them(integer_fill, missing):
    ids = torch.arange(12).reshape(6, 2)
    ids[2], ids[3] = -1, -7
    masks = []

    def predict(features, mask):
        masks.append(mask[:, 0].tolist())
        return torch.zeros(6)

    features = {"words": ids, "x": torch.ones(6, 1)}
    quick(predict, features, torch.zeros(6), mean, integer_fill=integer_fill, rates=())
    assert masks[0] == [row != missing for row in range(6)]


def test_a_model_cannot_change_the_given_features():
    features, targets = made_up()
    before = {name: x.clone() for name, x in features.items()}

    def vandal(given, mask):
        for x in given.values():
            x.fill_(7.0)
        mask.fill_(False)
        given.clear()
        return torch.zeros(60)

    quick({"a": vandal, "b": by_mean}, features, targets, rates=(0.5,))
    honest = quick(by_mean, features, targets)
    assert all(torch.equal(features[name], x) for name, x in before.items())
    assert honest.complete().value > 0.9


def test_models_are_called_without_gradients():
    layer = nn.Linear(6, 1, dtype=torch.float64)
    quick(lambda x, _: (layer(torch.cat(list(x.values()), dim=1).nan_to_num())[:, 0] > 0).long())

    def check(x, _):
        out = layer(torch.cat(list(x.values()), dim=1).nan_to_num())
        assert not out.requires_grad
        return out[:, 0]

    quick(check, metric=mean)


def test_the_patterns_of_every_option():
    assert {r.name for r in quick(patterns="one_missing").patterns} == {
        "text+image+audio",
        "text+image",
        "text+audio",
        "image+audio",
    }
    assert {r.name for r in quick(patterns="one_left").patterns} == {"text+image+audio", *NAMES}
    assert [r.name for r in quick(patterns=[("audio", "text"), {"image"}]).patterns] == [
        "text+image+audio",
        "text+audio",
        "image",
    ]
    single, targets = {"text": made_up()[0]["text"]}, made_up()[1]
    for patterns in ("all", "one_missing", "one_left"):
        assert len(quick(by_mean, single, targets, patterns=patterns).patterns) == 1


def test_beyond_eight_modalities_the_patterns_are_a_seeded_sample_and_marked_as_such():
    names = [f"m{index}" for index in range(10)]
    features, targets = made_up(8, names)
    reports = [quick(by_mean, features, targets, generator=seeded(s)) for s in (0, 0, 1)]
    patterns = [{result.pattern for result in report.patterns} for report in reports]
    assert len(patterns[0]) == 255
    assert patterns[0] == patterns[1] != patterns[2]
    assert {(True,) * 10} | {tuple(j != i for j in range(10)) for i in range(10)} <= patterns[0]
    assert {tuple(j == i for j in range(10)) for i in range(10)} <= patterns[0]
    assert set(map(sum, patterns[0])) == set(range(1, 11))
    assert reports[0].patterns_sampled
    assert "255 of 1023 patterns were evaluated" in str(reports[0])
    assert not quick().patterns_sampled


def test_the_summary_equals_one_in_plain_python():
    report = quick({"mean": by_mean, "first": by_first})
    for model in ("mean", "first"):
        values = {result.pattern: result.value for result in report.results(model)}
        assert report.worst(model).value == min(values.values())
        for count, value in report.by_num_missing(model).items():
            assert value == pytest.approx(
                np.mean([v for p, v in values.items() if p.count(False) == count])
            )
        complete = values[True, True, True]
        for result in report.results(model):
            assert result.drop == pytest.approx((complete - result.value) / complete)
    with pytest.raises(KeyError, match="no model 'last' among"):
        report.results("last")


def test_if_lower_is_better_a_positive_drop_is_still_a_loss():
    def error_rate(predictions, targets):
        return 1 - accuracy(predictions, targets)

    report = quick(by_first, metric=error_rate, higher_is_better=False)
    assert report.worst().value == max(result.value for result in report.patterns)
    assert report.worst().drop > 0
    assert "lower is better" in str(report)


def test_a_drop_from_zero_is_undefined():
    report = quick(lambda x, mask: torch.zeros(60), metric=mean)
    assert {result.drop for result in report.patterns} == {None}
    assert "undefined" in str(report)


def test_equal_seeds_give_equal_reports():
    options = {"predict": {"a": by_mean, "b": by_first}, "rates": (0.5,), "num_resamples": 20}
    state = torch.get_rng_state()
    first = quick(**options)
    assert quick(**options) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert quick(**options, generator=seeded(1)) != first
    with torch.random.fork_rng():
        torch.manual_seed(3)
        by_default = quick(**options, generator=None)
        torch.manual_seed(3)
        assert quick(**options, generator=None) == by_default


def test_a_scikit_learn_predictor_receives_arrays():
    features, targets = made_up(200)
    arrays = {name: x.numpy() for name, x in features.items()}
    model = HistGradientBoostingClassifier(max_iter=10).fit(
        np.concatenate(list(arrays.values()), axis=1), targets.numpy()
    )

    def predict(x, mask):
        assert isinstance(mask, np.ndarray)
        return model.predict(np.concatenate(list(x.values()), axis=1))

    mask = np.ones((200, 3), dtype=bool)
    report = quick(predict, arrays, targets.numpy(), mask=mask, num_resamples=10, rates=(0.5,))
    assert report.complete().value > 0.95
    assert report.worst().value < 0.9
    assert mask.all()
    assert all(not np.isnan(x).any() for x in arrays.values())


class Trained(nn.Module):
    def forward(self, features, mask):
        return by_mean(features, mask)


def failing(features, mask):
    if not mask[0, 1]:
        raise RuntimeError("index out of range")
    return by_mean(features, mask)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"predict": {}}, ValueError, "`predict` must have at least one model"),
        ({"predict": {"a": 3}}, TypeError, "the model 'a' must be callable, got int"),
        (
            {"predict": Trained()},
            ValueError,
            "the model 'model' is in training mode. Call its `eval()` first",
        ),
        (
            {"predict": lambda x, m: x["image"][:, 0]},
            ValueError,
            "predictions of 'model' have NaN under the pattern text+audio",
        ),
        (
            {"predict": lambda x, m: x["text"][:, 0].nan_to_num(), "metric": lambda p, t: NAN},
            ValueError,
            "the metric of 'model' is nan under the pattern text+image+audio",
        ),
        (
            {"predict": lambda x, m: 1.0},
            TypeError,
            "predictions of 'model' must be a tensor or an array, got float under",
        ),
        (
            {"predict": lambda x, m: torch.zeros(3)},
            ValueError,
            "must have the first axis of `targets`, 60 units, got shape (3,)",
        ),
        (
            {"features": {}},
            TypeError,
            "all tensors or all NumPy arrays, at least one of them not None, got {}",
        ),
        (
            {"features": {"a": torch.zeros(2), "b": np.zeros(2)}},
            TypeError,
            "got {'a': 'Tensor', 'b': 'ndarray'}",
        ),
        (
            {"features": {"a": [0.0]}},
            TypeError,
            "feature of 'a' must be a tensor or an array, got list. Pass",
        ),
        ({"targets": [0, 1]}, TypeError, "`targets` must be a tensor or an array, got list"),
        (
            {"targets": torch.zeros(0)},
            ValueError,
            "`targets` must have at least one unit, got (0,)",
        ),
        ({"mask": [[True]]}, TypeError, "`mask` must be a tensor or an array, got list"),
        ({"mask": torch.ones(60, 2, dtype=torch.bool)}, ValueError, "(60, 3)"),
        ({"mask": torch.ones(60, 3)}, TypeError, "bool"),
        ({"rates": (1.0,)}, ValueError, "`rates` must lie in [0, 1), got 1.0"),
        ({"rates": (-0.1,)}, ValueError, "`rates` must lie in [0, 1), got -0.1"),
        ({"num_draws": 0}, ValueError, "`num_draws` must be at least 1, got 0"),
        ({"num_resamples": -1}, ValueError, "`num_resamples` must not be negative, got -1"),
        ({"confidence": 1.0}, ValueError, "`confidence` must lie in (0, 1), got 1.0"),
        (
            {"patterns": "some"},
            ValueError,
            "`patterns` must be 'all', 'one_missing', 'one_left' or",
        ),
        ({"patterns": ["text"]}, TypeError, "got the string 'text'. Write ('text',)"),
        ({"patterns": [("video",)]}, ValueError, "`patterns` names ['video'], which are not among"),
        ({"patterns": [()]}, ValueError, "each of `patterns` must leave at least one modality"),
        (
            {"per_unit": lambda p, t: torch.zeros(3)},
            ValueError,
            "`per_unit` must return (60,) values, one per unit, got (3,)",
        ),
        (
            {"per_unit": lambda p, t: torch.zeros(60)},
            ValueError,
            "the mean of `per_unit` must be the metric, got 0 and",
        ),
        ({"integer_fill": {"video": 0}}, KeyError, "video"),
    ],
)
def test_invalid_input_is_rejected_with_the_reason(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        quick(**options)


def test_an_error_of_a_model_names_the_model_and_the_condition():
    with pytest.raises(RuntimeError, match="index out of range") as caught:
        quick({"good": by_mean, "bad": failing})
    assert caught.value.__notes__ == [
        "robustness_report: raised by the model 'bad' under the pattern text+audio."
    ]
