"""The robustness report over fitted estimators of scikit-learn."""

import functools
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    make_scorer,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from invmod.integrations.sklearn import ModalityMeanImputer, estimator_report

nan = float("nan")
GROUPS = {"image": ["i1", "i2"], "text": "t", "sound": "s"}
QUICK = {"rates": (), "num_resamples": 0}


def data(num_rows=120, seed=0):
    """A frame of three modalities that predict the class, the first one best."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=num_rows)
    noise = rng.normal(size=(num_rows, 4)) * [0.5, 0.5, 1.0, 2.0]
    frame = pd.DataFrame((2 * y - 1)[:, None] + noise, columns=["i1", "i2", "t", "s"])
    return frame, np.array(["no", "yes"])[y]


def model(X, y, estimator=None):
    return make_pipeline(ModalityMeanImputer(GROUPS), estimator or LogisticRegression()).fit(X, y)


def hidden(frame, kept):
    """The frame with NaN in the columns of all groups that are not kept."""
    columns = [c for name, cs in GROUPS.items() if name not in kept for c in np.atleast_1d(cs)]
    return frame.assign(**dict.fromkeys(columns, nan))


def unknown_metric():
    def max_of(targets, predictions):
        return float(np.max(predictions))

    max_of.__module__ = "sklearn.metrics._regression"
    return max_of


def by_name(report, model=None):
    return {result.name: result.value for result in report.results(model)}


@pytest.mark.parametrize(
    ("scoring", "score"),
    [
        (None, lambda m, X, y: accuracy_score(y, m.predict(X))),
        ("accuracy", lambda m, X, y: accuracy_score(y, m.predict(X))),
        ("roc_auc", lambda m, X, y: roc_auc_score(y, m.predict_proba(X)[:, 1])),
        ("neg_log_loss", lambda m, X, y: -log_loss(y, m.predict_proba(X))),
        (
            make_scorer(log_loss, response_method="predict_proba", greater_is_better=False),
            lambda m, X, y: -log_loss(y, m.predict_proba(X)),
        ),
        (
            lambda m, X, y: float(np.mean(m.predict_proba(X)[:, 0] * (y == "no"))),
            lambda m, X, y: float(np.mean(m.predict_proba(X)[:, 0] * (y == "no"))),
        ),
    ],
)
def test_a_value_is_the_score_of_the_table_with_hidden_columns(scoring, score):
    X, y = data()
    fitted = model(X, y)
    report = estimator_report(fitted, X, y, groups=GROUPS, scoring=scoring, **QUICK)
    assert len(report.patterns) == 7
    for result in report.patterns:
        assert result.value == pytest.approx(score(fitted, hidden(X, result.name.split("+")), y))
    assert report.worst().value < report.complete().value


def test_a_metric_takes_targets_first():
    X, _ = data()
    y = X["i1"] + X["t"]
    fitted = make_pipeline(SimpleImputer(), LinearRegression()).fit(X, y)
    by_metric = estimator_report(fitted, X, y, groups=GROUPS, metric=r2_score, **QUICK)
    by_scorer = estimator_report(fitted, X, y, groups=GROUPS, scoring="r2", **QUICK)
    by_default = estimator_report(fitted, X, y, groups=GROUPS, **QUICK)
    assert by_name(by_metric) == by_name(by_scorer) == by_name(by_default)
    text = by_name(by_metric)["text"]
    predictions = fitted.predict(hidden(X, ["text"]))
    assert text == pytest.approx(r2_score(y, predictions))
    assert text != pytest.approx(r2_score(predictions, y))
    assert by_metric.metric == "r2_score"
    errors = estimator_report(
        fitted, X, y, groups=GROUPS, metric=mean_squared_error, higher_is_better=False, **QUICK
    )
    assert errors.worst().value > errors.complete().value
    assert not errors.higher_is_better
    detected = estimator_report(fitted, X, y, groups=GROUPS, metric=mean_squared_error, **QUICK)
    assert detected == errors
    partial = functools.partial(mean_squared_error, sample_weight=None)
    assert estimator_report(fitted, X, y, groups=GROUPS, metric=partial, **QUICK) == errors
    with pytest.raises(ValueError, match="estimator_report: whether a higher max_of is better"):
        estimator_report(fitted, X, y, groups=GROUPS, metric=unknown_metric(), **QUICK)


@pytest.mark.parametrize(
    "scoring", ["accuracy", "neg_mean_squared_error", "neg_mean_absolute_error"]
)
def test_values_per_row_give_the_intervals_of_the_scorer(scoring):
    X, y = data(40)
    targets = (y == "yes") if scoring == "accuracy" else (y == "yes").astype(float)
    if scoring == "accuracy":
        fitted = model(X, targets)
    else:
        fitted = make_pipeline(SimpleImputer(), LinearRegression()).fit(X, targets)
    options = {"groups": GROUPS, "rates": (0.0, 0.5), "num_resamples": 20, "random_state": 3}
    fast = estimator_report(fitted, X, targets, scoring=scoring, **options)

    def slow(estimator, X, y):
        value = np.asarray(estimator.predict(X), dtype=float) - y
        if scoring == "accuracy":
            return float((value == 0).mean())
        return -float((np.abs(value) ** (2 if "squared" in scoring else 1)).mean())

    general = estimator_report(fitted, X, targets, scoring=slow, **options)
    for ours, theirs in zip(fast.patterns, general.patterns, strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert ours.interval == pytest.approx(theirs.interval)
    assert [point.effective_rate for point in fast.rates] == [
        point.effective_rate for point in general.rates
    ]


def test_arrays_and_frames_of_both_libraries_give_the_same_report():
    X, y = data()
    X.loc[5, "t"] = nan
    positions = {"image": slice(0, 2), "text": [2], "sound": 3}
    fitted = make_pipeline(ModalityMeanImputer(positions), LogisticRegression())
    options = {"groups": positions, "rates": (0.0, 0.4), "num_resamples": 10, "random_state": 0}
    values = fitted.fit(X.to_numpy(), y)
    first = estimator_report(values, X.to_numpy(), y, **options)
    assert first == estimator_report(values, X.to_numpy().tolist(), list(y), **options)
    for frame, targets in (
        (X, pd.Series(y)),
        (X.sample(frac=1, random_state=0).sort_index(), y),
        (pl.from_pandas(X), pl.Series(y)),
    ):
        report = estimator_report(fitted.fit(frame, y), frame, targets, **options)
        assert report == first
    # The row without text has it under no pattern.
    assert next(r for r in first.patterns if r.name == "text").empty_rows == 1


def test_hidden_text_and_categories_are_nulls_that_a_pipeline_can_take():
    X, y = data()
    X = pd.DataFrame(
        {
            "word": np.where(y == "yes", "good", "bad"),
            "kind": pd.Categorical(np.where(np.arange(len(y)) % 3, "a", "b")),
            "count": np.arange(len(y)),
            "flag": y == "yes",
        },
        index=np.arange(len(y))[::-1],
    )
    groups = {"text": ["word", "kind"], "number": ["count", "flag"]}
    for frame in (X, pl.from_pandas(X)):
        encoder = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["word", "kind"]),
            (SimpleImputer(), ["count"]),
            (OneHotEncoder(handle_unknown="ignore"), ["flag"]),
        )
        fitted = make_pipeline(encoder, DecisionTreeClassifier(random_state=0)).fit(frame, y)
        values = by_name(estimator_report(fitted, frame, y, groups=groups, **QUICK))
        assert values["text+number"] == 1.0
        assert min(values["text"], values["number"]) < 0.9
    original = X.copy()
    estimator_report(fitted, pl.from_pandas(X), y, groups=groups, **QUICK)
    pd.testing.assert_frame_equal(X, original)


def test_columns_of_a_frame_may_have_numbers_for_names():
    X, y = data()
    numbered = pd.DataFrame(X.to_numpy())
    groups = {"image": [0, 1], "text": 2, "sound": 3}
    fitted = make_pipeline(SimpleImputer(), LogisticRegression()).fit(numbered, y)
    report = estimator_report(fitted, numbered, y, groups=groups, **QUICK)
    array = estimator_report(fitted, X.to_numpy(), y, groups=groups, **QUICK)
    assert by_name(report) == by_name(array)


def test_a_column_named_like_the_helper_column_is_kept():
    X, y = data()
    X = X.rename(columns={"t": "available"})
    groups = {"image": ["i1", "i2"], "text": "available", "sound": "s"}
    fitted = make_pipeline(SimpleImputer(), LogisticRegression()).fit(X, y)
    values = by_name(estimator_report(fitted, X, y, groups=groups, **QUICK))
    Z, _ = data()
    fitted = make_pipeline(SimpleImputer(), LogisticRegression()).fit(Z, y)
    assert values == by_name(estimator_report(fitted, Z, y, groups=GROUPS, **QUICK))


def test_hidden_cells_can_have_a_value_or_an_imputer():
    X, y = data()
    plain = LogisticRegression().fit(X, y)

    def expected(values):
        filled = X.assign(**values)
        return accuracy_score(y, plain.predict(filled))

    def text_alone(fill, frame=X):
        report = estimator_report(plain, frame, y, groups=GROUPS, fill=fill, **QUICK)
        return by_name(report)["text"]

    assert text_alone(0.5) == expected({"i1": 0.5, "i2": 0.5, "s": 0.5})
    fills = {"image": -1.0, "sound": 2.0, "text": 0.0}
    assert text_alone(fills) == expected({"i1": -1.0, "i2": -1.0, "s": 2.0})
    assert text_alone(fills, pl.from_pandas(X)) == text_alone(fills)
    imputer = ModalityMeanImputer(GROUPS).set_output(transform="pandas").fit(X)
    means = X[["i1", "i2", "s"]].mean()
    imputer_report = text_alone(imputer)
    assert imputer_report == expected(dict(means))
    assert imputer_report != text_alone(fills)
    with pytest.raises(KeyError, match=r"`fill` has modalities \['smell'\]"):
        text_alone({"smell": 1})
    with pytest.raises(NotFittedError):
        text_alone(ModalityMeanImputer(GROUPS))


def test_several_estimators_are_compared():
    X, y = data()
    estimators = {
        "logistic": model(X, y),
        "trees": HistGradientBoostingClassifier(max_iter=5).fit(X, y),
    }
    report = estimator_report(
        estimators, X, y, groups=GROUPS, rates=(), num_resamples=20, random_state=0
    )
    assert report.models == ("logistic", "trees")
    assert {difference.name for difference in report.differences} == set(by_name(report))
    again = estimator_report(
        estimators, X, y, groups=GROUPS, rates=(), num_resamples=20, random_state=0
    )
    assert again == report


def test_a_score_of_several_estimators_uses_what_all_of_them_have():
    X, y = data()
    logistic, trees = model(X, y), model(X, y, DecisionTreeClassifier(max_depth=2))
    linear = model(X, y, LinearSVC())
    report = estimator_report(
        {"logistic": logistic, "trees": trees}, X, y, groups=GROUPS, scoring="roc_auc", **QUICK
    )
    for name, fitted in (("logistic", logistic), ("trees", trees)):
        expected = roc_auc_score(y, fitted.predict_proba(hidden(X, ["text"]))[:, 1])
        assert by_name(report, name)["text"] == pytest.approx(expected)
    # Without probabilities in common, the decision function is left.
    report = estimator_report(
        {"logistic": logistic, "linear": linear}, X, y, groups=GROUPS, scoring="roc_auc", **QUICK
    )
    assert by_name(report, "linear")["text"] == pytest.approx(
        roc_auc_score(y, linear.decision_function(hidden(X, ["text"])))
    )
    with pytest.raises(AttributeError, match="predict_proba"):
        estimator_report(
            {"logistic": logistic, "linear": linear},
            X,
            y,
            groups=GROUPS,
            scoring="neg_log_loss",
            **QUICK,
        )
    others = model(X, np.where(y == "no", "never", "yes"))
    with pytest.raises(ValueError, match="must have the same `classes_`"):
        estimator_report({"a": logistic, "b": others}, X, y, groups=GROUPS, **QUICK)


def test_several_estimators_are_compared_by_probabilities_where_all_have_them():
    """Decision functions have no common scale, so rows of them cannot be swapped."""
    X, y = data()
    scorer = make_scorer(
        lambda y, scores: float(np.mean(scores)),
        response_method=("decision_function", "predict_proba"),
    )
    fitted = model(X, y)
    alone = estimator_report(fitted, X, y, groups=GROUPS, scoring=scorer, **QUICK)
    assert alone.complete().value == pytest.approx(fitted.decision_function(X).mean())
    both = estimator_report(
        {"a": fitted, "b": model(X, y)}, X, y, groups=GROUPS, scoring=scorer, **QUICK
    )
    assert both.complete("b").value == pytest.approx(fitted.predict_proba(X)[:, 1].mean())


def test_a_row_of_several_labels_is_correct_if_all_are():
    X, y = data()
    labels = np.stack([y == "yes", X["t"].to_numpy() > 0], axis=1).astype(int)
    fitted = model(X, labels, DecisionTreeClassifier(max_depth=2, random_state=0))
    report = estimator_report(
        fitted, X, labels, groups=GROUPS, scoring="accuracy", rates=(), num_resamples=5
    )
    predictions = fitted.predict(hidden(X, ["text"]))
    assert by_name(report)["text"] == pytest.approx((predictions == labels).all(axis=1).mean())
    assert by_name(report)["text"] < (predictions == labels).mean()


@pytest.mark.parametrize("frame", [lambda X: X, pl.from_pandas, lambda X: X.to_numpy()])
def test_an_estimator_that_refuses_nan_gets_an_error_with_remedies(frame):
    X, y = data()
    table = frame(X)
    plain = LogisticRegression().fit(table, y)
    groups = {"image": slice(0, 2), "text": 2, "sound": 3}
    with pytest.raises(ValueError, match=r"'model' refuses NaN.*make_pipeline.*`fill`"):
        estimator_report(plain, table, y, groups=groups, **QUICK)
    report = estimator_report(plain, table, y, groups=groups, fill=0, **QUICK)
    assert report.complete().value > 0.9


def test_the_natural_mask_is_that_of_rows_without_any_column_of_a_group():
    X, y = data()
    X.loc[0, ["i1", "i2"]] = nan
    X.loc[1, "i1"] = nan  # a part is not missing: the estimator decides
    array = X.to_numpy()
    objects = array.astype(object)
    objects[0, :2] = None
    groups = {"image": slice(0, 2), "text": 2, "sound": 3}
    for table in (
        X,
        pl.from_pandas(X),
        pl.DataFrame(X.to_numpy(), list(X.columns)),
        array,
        objects,
    ):
        fitted = make_pipeline(ModalityMeanImputer(groups), LogisticRegression()).fit(table, y)
        report = estimator_report(fitted, table, y, groups=groups, **QUICK)
        assert next(r for r in report.patterns if r.name == "image").empty_rows == 1


def test_integers_have_hidden_cells_too():
    X = np.array([[0, 1], [0, 0], [1, 1], [1, 0]])
    fitted = HistGradientBoostingClassifier(min_samples_leaf=1).fit(X, X[:, 0])
    report = estimator_report(fitted, X, X[:, 0], groups={"a": 0, "b": 1}, **QUICK)
    assert by_name(report) == {"a+b": 1.0, "a": 1.0, "b": 0.5}


@pytest.mark.filterwarnings("ignore:X (does not have|has) feature names:UserWarning")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"estimator": LogisticRegression()}, NotFittedError, "not fitted"),
        ({"estimator": LogisticRegression}, TypeError, "must be a fitted estimator"),
        ({"estimator": len}, TypeError, "must be a fitted estimator"),
        ({"estimator": {}}, ValueError, "at least one"),
        ({"scoring": "accurate"}, ValueError, "accurate"),
        ({"scoring": 3}, TypeError, "must be the name of a scorer or a scorer, got int"),
        ({"scoring": accuracy_score}, ValueError, "scorer"),
        ({"scoring": lambda m, X, y: 1.0}, ValueError, r"exactly one of .* got \[\]"),
        ({"scoring": "accuracy", "metric": accuracy_score}, ValueError, "not both"),
        ({"higher_is_better": False}, ValueError, "belongs to `metric`"),
        ({"y": np.zeros(7)}, ValueError, "inconsistent numbers of samples"),
        ({"X": np.zeros(7)}, ValueError, r"must have shape \(N, C\), got \(7,\)"),
        ({"X": np.full((2, 2), "a")}, TypeError, "numbers or objects, got <U1"),
        ({"X": pl.LazyFrame({"a": [1]})}, TypeError, r"`X` .* got LazyFrame. Call `.collect\(\)`"),
        ({"y": pl.LazyFrame({"a": [1]})}, TypeError, r"`y` .* got LazyFrame. Call `.collect\(\)`"),
        ({"metric": lambda t, p: t == p}, TypeError, r"must return one number, got shape \(120,\)"),
        ({"X": object()}, TypeError, "got object"),
        ({"groups": {"image": "i3"}}, KeyError, "no column 'i3'"),
    ],
)
def test_wrong_arguments_are_errors(change, error, message):
    X, y = data()
    given = {"estimator": model(X, y), "X": X, "y": y, "groups": GROUPS, **QUICK, **change}
    with pytest.raises(error, match=message):
        estimator_report(given.pop("estimator"), given.pop("X"), given.pop("y"), **given)


def test_narwhals_is_needed_for_frames(monkeypatch):
    X, y = data()
    fitted = model(X, y)
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ImportError, match=r"data frames need narwhals: .*'invmod\[sklearn\]'"):
        estimator_report(fitted, X, y, groups=GROUPS, **QUICK)


def test_the_random_state_is_that_of_scikit_learn():
    X, y = data(40)
    fitted = model(X, y)
    options = {"groups": GROUPS, "rates": (0.3,), "num_draws": 1, "num_resamples": 5}

    def report(random_state):
        return estimator_report(fitted, X, y, random_state=random_state, **options)

    assert report(1) == report(1) == report(np.random.RandomState(1))
    assert report(1) != report(2)
