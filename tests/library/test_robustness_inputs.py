"""Inputs of the robustness report: kinds of arrays, models that write, order of arguments."""

import functools
import json
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import sklearn.metrics
import torch

from invmod.robustness import RobustnessError, RobustnessReport
from invmod.robustness.metrics import checked_direction
from tests.library.robustness_cases import (
    NAMES,
    accuracy,
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
    right,
)
from tests.strategies import NAN


def arrays_of(features):
    return {name: x.numpy() for name, x in features.items()}


def fill_in_place(features, mask):
    """Impute NaN by 0 in place, as many models do, and then vote."""
    for x in features.values():
        x[x != x] = 0.0
    z = sum(x.mean(1) for x in features.values())
    mask[:] = True  # a model may write into its mask as well
    return (z > 0).long() if isinstance(z, torch.Tensor) else (z > 0).astype(np.int64)


def count_nan(features, mask):
    """Return the number of entries of each row that are NaN and that the mask calls hidden."""
    counts = sum((x != x).sum(1) * ~mask[:, m] for m, x in enumerate(features.values()))
    return counts.double() if isinstance(counts, torch.Tensor) else counts.astype(float)


@pytest.mark.parametrize("as_arrays", [False, True])
def test_a_model_that_writes_into_its_input_changes_nothing_for_the_next(as_arrays):
    features, targets = made_up()
    if as_arrays:
        features, targets = arrays_of(features), targets.numpy()
    before = {name: np.asarray(x).copy() for name, x in features.items()}
    options = {"rates": (0.0, 0.5), "num_draws": 2}

    def measure(predictions, targets):
        return float(predictions.mean()) if predictions.dtype.is_floating_point else 0.0

    def measure_array(predictions, targets):
        return float(predictions.mean()) if predictions.dtype.kind == "f" else 0.0

    metric = measure_array if as_arrays else measure
    alone = quick(count_nan, features, targets, metric, **options)
    both = quick({"fill": fill_in_place, "count": count_nan}, features, targets, metric, **options)
    assert [r.value for r in both.results("count")] == [r.value for r in alone.results()]
    assert both.worst("count").value == 0.0  # nothing is hidden in the complete pattern
    assert max(r.value for r in both.results("count")) == 4.0  # two hidden modalities of width 2
    assert [p.value for p in both.rates if p.model == "count"] == [p.value for p in alone.rates]
    for name, x in features.items():
        np.testing.assert_array_equal(np.asarray(x), before[name])


def test_a_model_may_return_a_buffer_and_a_metric_may_write_into_its_arguments():
    """The buffer is overwritten by the second model before the first one's swaps are drawn."""
    buffer = torch.zeros(60)

    def fills_buffer(predict):
        def call(features, mask):
            buffer.copy_(predict(features, mask))
            return buffer

        return call

    def sorts(predictions, targets):
        value = accuracy(predictions, targets)
        predictions.fill_(0)
        targets.fill_(0)
        return value

    options = {"num_resamples": 30}
    plain = quick({"a": by_mean, "b": by_first}, **options)
    shared = quick({"a": fills_buffer(by_mean), "b": fills_buffer(by_first)}, **options)
    assert shared.differences == plain.differences

    def balanced(predictions, targets):
        return sum(float((predictions[targets == c] == c).double().mean()) for c in (0, 1)) / 2

    def writes(predictions, targets):
        value = balanced(predictions, targets)
        predictions.fill_(0)
        targets.fill_(0)
        return value

    features, targets = made_up()
    kept = targets.clone()
    for careful, careless in ((accuracy, sorts), (balanced, writes)):
        models = {"a": by_mean, "b": by_first}
        plain = quick(models, features, targets, careful, **options)
        written = quick(models, features, targets, careless, **options)
        assert written.patterns == plain.patterns
        assert written.differences == plain.differences
        assert written.worse_with_more == plain.worse_with_more
        assert torch.equal(targets, kept)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def field_of_structure(x):
    """Return the values as a field whose strides are no multiple of its item size."""
    table = np.zeros(x.shape, dtype=[("values", x.dtype), ("flag", "u1")])
    table["values"] = x
    return table["values"]


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.asfortranarray(x),
        read_only,
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.float64)[:, ::-1],
        field_of_structure,
    ],
    ids=["big-endian", "negative stride", "fortran", "read-only", "float32", "reversed", "field"],
)
def test_arrays_of_any_layout_work(convert):
    features, targets = made_up()
    given = {name: convert(x) for name, x in arrays_of(features).items()}

    def vote(hidden, mask):
        for column, (name, x) in enumerate(hidden.items()):
            assert x.dtype.isnative
            there = mask[:, column]
            np.testing.assert_array_equal(x[there], given[name][there])
            x[~there] = 0.0  # the array may be written
        return (sum(x.mean(axis=1) for x in hidden.values()) > 0).astype(int)

    mask = np.ones((60, 3), dtype=bool)[::-1]
    report = quick(vote, given, read_only(targets.numpy()), mask=read_only(mask))
    assert [r.value for r in report.patterns] == [r.value for r in quick().patterns]


def test_a_mask_may_be_a_mapping_of_names():
    columns = torch.ones(60, 3, dtype=torch.bool)
    columns[:10, 1] = False
    by_name = {name: columns[:, NAMES.index(name)] for name in reversed(NAMES)}
    assert quick(mask=by_name) == quick(mask=columns)
    assert quick(mask=columns) != quick()
    with pytest.raises(KeyError, match=r"exactly the modalities .*absent: \['audio'\]"):
        quick(mask={name: by_name[name] for name in ("text", "image")})


def with_feature(x):
    return {"features": {"a": x}}


FRAME = pd.DataFrame({"x": [0.0] * 60})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            with_feature(FRAME),
            TypeError,
            "the feature of 'a' must be a tensor or an array, got DataFrame. Pass `x.to_numpy()`",
        ),
        (with_feature(pl.from_pandas(FRAME)), TypeError, "got DataFrame. Pass `x.to_numpy()`"),
        (with_feature(pl.LazyFrame()), TypeError, "got LazyFrame. Pass `x.collect().to_numpy()`"),
        (with_feature(scipy.sparse.csr_array(np.eye(60))), TypeError, "Pass `x.toarray()`"),
        (with_feature(scipy.sparse.coo_matrix(np.eye(60))), TypeError, "Pass `x.toarray()`"),
        (
            with_feature(torch.eye(60).to_sparse()),
            TypeError,
            "must be dense, got a tensor with the layout torch.sparse_coo. Pass `x.to_dense()`",
        ),
        (with_feature(np.array(["a", "b"] * 30)), TypeError, "got <U1. Encode them as numbers"),
        (with_feature(np.array([object()] * 60)), TypeError, "got object. Encode them as numbers"),
        (with_feature(np.zeros(60, dtype=np.longdouble)), TypeError, "`x.astype(numpy.float64)`"),
        (with_feature(np.ma.masked_invalid(np.zeros(60))), TypeError, "`x.filled(numpy.nan)`"),
        (with_feature("text"), TypeError, "must be a tensor or an array, got str"),
        (with_feature([[0.0]] * 60), TypeError, "got list. Pass `numpy.asarray(x)`"),
        (with_feature(torch.zeros(0, 2)), ValueError, "at least one row, got shape (0, 2)"),
        (with_feature(torch.tensor(1.0)), ValueError, "at least one row, got shape ()"),
        ({"features": [1, 2]}, TypeError, "`features` must be a mapping of names"),
        ({"features": {3: torch.zeros(60)}}, TypeError, "modality names must be strings, got 3"),
        (
            {"targets": FRAME["x"]},
            TypeError,
            "`targets` must be a tensor or an array, got Series. Pass `x.to_numpy()`",
        ),
        ({"targets": list(range(60))}, TypeError, "got list. Pass `numpy.asarray(x)`"),
        (
            {"predict": lambda x, m: FRAME["x"]},
            TypeError,
            "predictions of 'model' must be a tensor "
            "or an array, got Series under the pattern text+image+audio. Pass `x.to_numpy()`",
        ),
        ({"mask": FRAME}, TypeError, "`mask` must be a tensor or an array, got DataFrame"),
        ({"num_draws": 1.5}, TypeError, "`num_draws` must be an int, got 1.5"),
        ({"num_draws": True}, TypeError, "`num_draws` must be an int, got True"),
        ({"num_resamples": 10.0}, TypeError, "`num_resamples` must be an int, got 10.0"),
        ({"confidence": 0}, ValueError, "`confidence` must lie in (0, 1), got 0"),
        ({"confidence": NAN}, ValueError, "`confidence` must lie in (0, 1), got nan"),
        ({"metric": "accuracy"}, TypeError, "`metric` must be callable, got str"),
        ({"per_unit": 3}, TypeError, "`per_unit` must be callable, got int"),
        ({"metric": sklearn.metrics.get_scorer("accuracy")}, TypeError, "got a scorer of scikit"),
    ],
)
def test_inputs_that_do_not_work_have_one_clear_error(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        quick(**options)


def test_strings_work_as_targets_and_predictions():
    features, targets = made_up()
    words = np.array(["no", "yes"])

    def predict(x, mask):
        return words[by_mean({n: torch.as_tensor(a) for n, a in x.items()}, torch.as_tensor(mask))]

    report = quick(predict, arrays_of(features), words[targets], accuracy, num_resamples=30)
    assert report.complete().value == quick().complete().value


def test_numpy_scalars_are_accepted_and_the_report_is_still_json():
    report = quick(
        {"a": by_mean, "b": by_first},
        num_draws=np.int64(2),
        num_resamples=np.int32(20),
        confidence=np.float32(0.9),
        higher_is_better=np.bool_(True),
        rates=np.array([0.0, 0.5], dtype=np.float32),
    )
    assert RobustnessReport.from_json(report.to_json()) == report
    assert (report.num_draws, report.num_resamples, report.higher_is_better) == (2, 20, True)
    assert type(report.num_draws) is type(report.num_resamples) is int
    assert json.loads(report.to_json())["higher_is_better"] is True


# --- order of a metric's arguments


def regression(features, mask):
    """A biased prediction of the target, so that the order of the arguments matters."""
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    return torch.where(mask, z, 0.0).sum(dim=1) * 0.2 + 0.4


def test_metrics_of_scikit_learn_get_targets_first():
    features, targets = made_up()
    predictions = regression(features, torch.ones(60, 3, dtype=torch.bool))
    right_order = sklearn.metrics.r2_score(targets.numpy(), predictions.numpy())
    wrong_order = sklearn.metrics.r2_score(predictions.numpy(), targets.numpy())
    assert abs(right_order - wrong_order) > 0.05

    def complete(metric, **options):
        report = quick(regression, features, targets, metric, patterns=[], **options)
        return report.metric, report.complete().value

    def wrapper(y, p):
        return sklearn.metrics.r2_score(y, p)

    score = sklearn.metrics.r2_score
    assert complete(score) == ("r2_score", pytest.approx(right_order))
    assert complete(functools.partial(score, force_finite=False)) == (
        "r2_score",
        pytest.approx(right_order),
    )
    assert complete(score, targets_first=False)[1] == pytest.approx(wrong_order)
    assert complete(wrapper)[1] == pytest.approx(wrong_order)
    assert complete(wrapper, targets_first=True)[1] == pytest.approx(right_order)


def test_per_unit_follows_the_order_of_the_metric():
    def signed(targets, predictions):
        return float((targets - predictions).double().mean())

    def per_unit(targets, predictions):
        return (targets - predictions).double()

    options = {"targets_first": True, "num_resamples": 10, "patterns": []}
    report = quick(by_mean, None, None, signed, per_unit=per_unit, **options)
    _, targets = made_up()
    expected = (targets - by_mean(made_up()[0], torch.ones(60, 3, dtype=torch.bool))).double()
    assert report.complete().value == pytest.approx(expected.mean().item())
    with pytest.raises(ValueError, match="the mean of `per_unit` must be the metric"):
        quick(
            lambda x, m: torch.zeros(60),
            None,
            None,
            signed,
            per_unit=lambda t, p: (p - t).double(),
            targets_first=True,
        )
    assert quick(per_unit=right, num_resamples=10).patterns == quick(num_resamples=10).patterns


def test_directions_of_sklearn_metrics_are_those_of_its_scorers():
    """The scorers state by their sign whether a lower value of their metric is better."""
    scorers = [sklearn.metrics.get_scorer(name) for name in sklearn.metrics.get_scorer_names()]
    known = {(scorer._score_func, scorer._sign) for scorer in scorers}
    assert {sign for _, sign in known} == {1, -1}
    for function, sign in known:
        for metric in (function, functools.partial(function, sample_weight=None)):
            try:
                found = checked_direction("f", metric, None)
            except ValueError:
                # The scorers of likelihood ratios have private functions.
                assert function.__name__.endswith("_likelihood_ratio"), function
            else:
                assert found == (sign == 1), function


def test_a_report_of_an_error_of_sklearn_takes_lower_as_better():
    def scores(features, mask):
        return 0.1 + 0.8 * by_mean(features, mask).double()

    error = sklearn.metrics.mean_squared_error
    for metric in (error, functools.partial(error, sample_weight=None)):
        report = quick(scores, metric=metric)
        assert not report.higher_is_better
        assert report.worst().value > report.complete().value
        assert report.worst().drop > 0
        with pytest.raises(RobustnessError, match=r"must be at most 0\.0010"):
            report.require(worst=0.001)
    assert quick(scores, metric=error, higher_is_better=True).higher_is_better
    # A function that is not of scikit-learn keeps its direction, whatever its name.

    def own_error(predictions, targets):
        return float((predictions - targets).abs().mean())

    assert quick(scores, metric=own_error).higher_is_better
    assert not quick(scores, metric=own_error, higher_is_better=False).higher_is_better


def test_a_function_of_sklearn_without_a_known_direction_needs_it_stated():
    class Curve:
        __module__ = "sklearn.metrics._ranking"
        __name__ = "curve"

        def __call__(self, targets, predictions):
            return 1.0

    with pytest.raises(ValueError, match=r"higher curve is better is not known\. State `higher_is"):
        quick(metric=Curve())
    assert not quick(metric=Curve(), higher_is_better=False).higher_is_better

    class Other(Curve):
        __module__ = "sklearn.metrics_of_us"

    assert quick(metric=Other()).higher_is_better


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (right, "shape (60,)"),
        (lambda p, t: right(p, t).numpy(), "shape (60,)"),
        (lambda p, t: None, "NoneType"),
        (lambda p, t: "0.5", "str"),
        (lambda p, t: [0.5], "list"),
        (lambda p, t: torch.zeros(0), "shape (0,)"),
        (lambda p, t: np.zeros(1, dtype=complex), "shape (1,)"),
    ],
)
def test_a_metric_that_returns_no_number_is_named_with_its_condition(metric, got):
    with pytest.raises(TypeError) as caught:
        quick({"votes": by_mean}, metric=metric)
    assert str(caught.value).startswith(
        f"robustness_report: the metric must return one number, got {got} from 'votes' under the "
        "pattern text+image+audio."
    )


@pytest.mark.parametrize(
    "convert",
    [np.array, np.float32, torch.tensor, lambda x: np.array([x]), lambda x: torch.tensor([[x]])],
)
def test_a_metric_may_return_its_number_in_an_array(convert):
    wrapped = quick(metric=lambda p, t: convert(accuracy(p, t)), num_resamples=20)
    plain = quick(num_resamples=20)
    for ours, theirs in zip(wrapped.patterns, plain.patterns, strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert ours.interval == pytest.approx(theirs.interval)


def test_per_unit_must_return_numbers():
    for values in ("text", ["a"] * 60):
        with pytest.raises(TypeError, match=r"`per_unit` must return \(60,\) numbers"):
            quick(per_unit=lambda p, t, values=values: values, num_resamples=5)
    with_gradient = quick(per_unit=lambda p, t: right(p, t).requires_grad_(), num_resamples=5)
    assert with_gradient.patterns == quick(per_unit=right, num_resamples=5).patterns


def test_a_pattern_given_as_text_is_answered_with_the_tuple_to_write():
    for text, written in (
        ("text+image", "('text', 'image')"),
        ("text", "('text',)"),
        ("video", "a tuple of names such as ('text', 'image')"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"Write {written}.")):
            quick(patterns=[text])
        with pytest.raises(TypeError, match=re.escape(f"Write {written}.")):
            quick().result(text)


def test_modalities_whose_names_hold_a_plus_are_told_apart():
    names = ("a", "b", "a+b")
    features, targets = made_up(names=names)
    report = quick({"m": by_mean, "n": by_first}, features, targets, num_resamples=20)
    shown = [result.name for result in report.results()]
    assert shown == [
        'a+b+"a+b"',
        "a+b",
        'a+"a+b"',
        'b+"a+b"',
        "a",
        "b",
        '"a+b"',
    ]
    assert report.result(("a", "b")).pattern == (True, True, False)
    assert report.result(("a+b",)).pattern == (False, False, True)
    for difference in report.differences:
        value = (
            report.result(difference.pattern, "n").value
            - report.result(difference.pattern, "m").value
        )
        assert difference.value == pytest.approx(value)
    lines = str(report).splitlines()
    for name, result in zip(shown, report.results(), strict=True):
        (line, *_) = [line for line in lines if line.split("  ")[0] == name]
        assert f"{result.value:.4f}" in line
    assert quick(lambda x, m: torch.zeros(60), metric=mean).complete().value == 0.0
