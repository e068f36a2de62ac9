"""`PatternKernelRidge` as a classifier and a regressor of scikit-learn."""

import io

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from invmod.integrations.sklearn import (
    PatternKernelClassifier,
    PatternKernelRegressor,
    estimator_report,
)
from invmod.regression import PatternKernelRidge

nan = float("nan")
GROUPS = {"image": slice(0, 2), "text": ["t1"]}
KINDS = (PatternKernelClassifier, PatternKernelRegressor)
GIVEN = {"kernel": "gaussian", "width": 0.5, "weights": "equal", "ridge": 0.3, "standardize": False}


def table(num_rows=60, seed=0):
    """A frame (N, 4), in which modalities are missing as a whole, and the targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_rows, 4))
    y = X[:, 0] + np.sin(X[:, 2]) + 0.1 * rng.normal(size=num_rows)
    missing = rng.random((num_rows, 2)) < 0.25
    missing[:3] = False
    X[missing[:, 0], :2] = nan
    X[missing[:, 1], 2] = nan
    return pd.DataFrame(X, columns=["i1", "i2", "t1", "unused"]), y


def features_of(frame):
    X = torch.tensor(frame.to_numpy())
    return {"image": X[:, :2], "text": X[:, 2:3]}


def targets_for(kind, y):
    return np.where(y > 0, "up", "down") if kind is PatternKernelClassifier else y


@parametrize_with_checks([kind() for kind in KINDS])
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


def test_a_table_gives_what_features_with_a_mask_give():
    frame, y = table()
    new, _ = table(seed=1)
    new.iloc[0, :3] = nan
    model = PatternKernelRidge(["image", "text"]).fit(features_of(frame), torch.tensor(y))
    expected = model.predict(features_of(new)).numpy()
    for given, test in ((frame, new), (pl.from_pandas(frame), pl.from_pandas(new))):
        estimator = PatternKernelRegressor(GROUPS).fit(given, y)
        np.testing.assert_array_equal(estimator.predict(test), expected)
        assert estimator.model_.choices == model.choices
    # A column in no group has no part.
    np.testing.assert_array_equal(estimator.predict(new.assign(unused=nan)), expected)
    several = PatternKernelRegressor(GROUPS).fit(frame, np.stack([y, -2 * y], axis=1))
    assert several.predict(new).shape == (60, 2)
    np.testing.assert_allclose(several.predict(new)[:, 1], -2 * several.predict(new)[:, 0])

    labels = np.where(y > 0.5, "high", np.where(y < -0.5, "low", "middle"))
    classifier = PatternKernelClassifier(GROUPS).fit(frame, labels)
    numbers = torch.tensor(np.unique(labels, return_inverse=True)[1])
    model = PatternKernelRidge(["image", "text"]).fit(features_of(frame), numbers)
    assert classifier.classes_.tolist() == ["high", "low", "middle"]
    np.testing.assert_array_equal(
        classifier.predict_proba(new), model.probabilities(features_of(new)).numpy()
    )
    np.testing.assert_array_equal(
        classifier.predict(new), classifier.classes_[classifier.predict_proba(new).argmax(axis=1)]
    )


def test_options_reach_the_model():
    frame, y = table()
    options = {
        "kernel": {"image": "angle", "text": "linear"},
        "width": 2.0,
        "weights": {"image": 1.0, "text": 3.0},
        "ridge": 0.2,
        "rows": "superset",
        "intercept": False,
        "standardize": True,
    }
    model = PatternKernelRidge(["image", "text"], **options)
    model.fit(features_of(frame), torch.tensor(y))
    estimator = PatternKernelRegressor(GROUPS, **options).fit(frame, y)
    np.testing.assert_array_equal(estimator.predict(frame), model.predict(features_of(frame)))
    gcv = PatternKernelRegressor(GROUPS, criterion="gcv").fit(frame, y)
    assert gcv.model_.criterion == "gcv"
    with pytest.raises(ValueError, match="`criterion` must be 'loo' or 'gcv', got 'aic'"):
        PatternKernelRegressor(GROUPS, criterion="aic").fit(frame, y)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_repeated_rows(kind):
    """A weight of 0 leaves a row out, and repeated rows of one cluster are left out together."""
    frame, y = table(40)
    y = targets_for(kind, y)
    weights = np.random.default_rng(0).integers(0, 4, size=40)
    repeated = np.arange(40).repeat(weights)
    one = kind(GROUPS).fit(frame, y, sample_weight=weights)
    two = kind(GROUPS).fit(frame.iloc[repeated], y[repeated], row_groups=repeated)
    for method in ("predict", "predict_proba")[: 2 if kind is PatternKernelClassifier else 1]:
        first, second = (getattr(model, method)(frame) for model in (one, two))
        if first.dtype.kind == "f":
            np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-8)
        else:
            np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        kind(GROUPS).fit(frame, y, sample_weight=weights - 1.0)


def test_folds_are_groups_of_rows_that_are_left_out_together():
    frame, y = table()
    patients = np.array([f"p{i // 3}" for i in range(60)])
    by_name = PatternKernelRegressor(GROUPS).fit(frame, y, row_groups=patients)
    splits = [(np.flatnonzero(patients != p), np.flatnonzero(patients == p)) for p in set(patients)]
    by_splits = PatternKernelRegressor(GROUPS, cv=splits).fit(frame, y)
    folds = PatternKernelRegressor(GROUPS, cv=GroupKFold(20)).fit(frame, y, row_groups=patients)
    model = PatternKernelRidge(["image", "text"])
    model.fit(features_of(frame), torch.tensor(y), groups=torch.arange(60) // 3)
    expected = model.predict(features_of(frame)).numpy()
    for estimator in (by_name, by_splits, folds):
        np.testing.assert_allclose(estimator.predict(frame), expected, rtol=1e-9)
        assert estimator.model_.get_buffer("groups").unique().shape == (20,)
    # A number of folds for a classifier is stratified, so every fold has both classes.
    labels = targets_for(PatternKernelClassifier, np.sort(y))
    classifier = PatternKernelClassifier(GROUPS, cv=3).fit(frame, labels)
    numbers = classifier.model_.get_buffer("groups").numpy()
    assert [set(labels[numbers == fold]) for fold in range(3)] == [{"up", "down"}] * 3
    for cv in (ShuffleSplit(3, random_state=0), [(np.arange(10), np.arange(60))]):
        with pytest.raises(ValueError, match="`cv` must leave out every row exactly once"):
            PatternKernelRegressor(GROUPS, cv=cv).fit(frame, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        PatternKernelRegressor(GROUPS).fit(frame, y, row_groups=patients[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_works_in_searches_reports_and_files(kind):
    frame, y = table(90)
    y = targets_for(kind, y)
    assert cross_val_score(kind(GROUPS), frame, y, cv=KFold(3)).mean() > 0.5
    model = kind(GROUPS).fit(frame, y)
    report = estimator_report(model, frame, y, groups=GROUPS, rates=(), num_resamples=0)
    assert report.complete().value > report.worst().value
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict(frame), model.predict(frame))
    copy = clone(model)
    assert copy.groups == GROUPS
    assert not hasattr(copy, "model_")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_fit_leaves_an_earlier_fit(kind):
    frame, y = table()
    y = targets_for(kind, y)
    model = kind(GROUPS).fit(frame, y)
    before = model.predict(frame)
    for broken, message in (
        (frame.assign(t1=nan), "'text' is observed in none"),
        (frame.assign(i1="x"), "column 'i1' contains text"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(broken, y)
        np.testing.assert_array_equal(model.predict(frame), before)
    with pytest.raises(ValueError, match=r"1 rows have NaN in some columns of 'image'"):
        kind(GROUPS, partial="raise").fit(frame.assign(i1=[nan, *frame["i1"][1:]]), y)
    with pytest.raises(ValueError, match="`partial` must be 'missing' or 'raise', got 'keep'"):
        kind(GROUPS, partial="keep").fit(frame, y)


def test_a_classifier_refuses_numbers_that_are_no_classes():
    frame, y = table()
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        PatternKernelClassifier(GROUPS).fit(frame, y)


def test_every_column_is_a_modality_without_groups():
    frame, y = table()
    model = PatternKernelRegressor(**GIVEN).fit(frame, y)
    assert list(model.groups_) == list(frame.columns)
    assert model.model_.modalities == tuple(frame.columns)
    assert np.isfinite(model.predict(frame)).all()
