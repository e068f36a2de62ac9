"""The imputers as transformers of scikit-learn."""

import io

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from invmod import imputation
from invmod.integrations.sklearn import (
    ModalityKNNImputer,
    ModalityMeanImputer,
    ModalityPPCAImputer,
    ModalityRidgeImputer,
    ModalityZeroImputer,
)
from invmod.missingness import mask_from_features

nan = float("nan")
GROUPS = {"image": slice(0, 2), "text": ["t1"], "sound": 3}
IMPUTERS = (
    ModalityMeanImputer,
    ModalityZeroImputer,
    ModalityKNNImputer,
    ModalityRidgeImputer,
    ModalityPPCAImputer,
)
# The factor model converges slowly on the small tables here, and few steps show the same.
OPTIONS = {ModalityPPCAImputer: {"max_iterations": 20}}


def made(kind):
    return kind(GROUPS, **OPTIONS.get(kind, {}))


def table(num_rows=40, seed=0):
    """A frame (N, 5) of two factors; each modality is missing as a whole in some rows."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(num_rows, 2))
    X = factors @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(num_rows, 5))
    missing = rng.random((num_rows, 3)) < 0.3
    missing[:3] = False
    X[missing[:, 0], :2] = nan
    X[missing[:, 1], 2] = nan
    X[missing[:, 2], 3] = nan
    return pd.DataFrame(X, columns=["i1", "i2", "t1", "s1", "age"])


@parametrize_with_checks([kind(**OPTIONS.get(kind, {})) for kind in IMPUTERS])
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", IMPUTERS)
def test_a_group_is_filled_as_by_the_imputer_of_the_library(kind):
    """The transformer only converts: a table with groups gives what features with a mask give."""
    frame = table()
    X = frame.to_numpy()
    filled = made(kind).fit(frame).transform(frame)
    features = {
        "image": torch.from_numpy(X[:, :2].copy()),
        "text": torch.from_numpy(X[:, 2:3].copy()),
        "sound": torch.from_numpy(X[:, 3:4].copy()),
    }
    names = list(features)
    options = {"num_components": 1, "max_iterations": 20} if kind is ModalityPPCAImputer else {}
    imputer = getattr(imputation, kind.__name__.removeprefix("Modality"))(names, **options)
    mask = mask_from_features(features, names)
    expected, _ = imputer.fit(features, mask)(features, mask)
    np.testing.assert_array_equal(filled[:, :4], torch.cat(list(expected.values()), 1).numpy())
    # A column in no group stays as it is, and so does every observed entry.
    np.testing.assert_array_equal(filled[:, 4], X[:, 4])
    observed = ~np.isnan(X)
    np.testing.assert_array_equal(filled[observed], X[observed])
    assert np.isnan(frame.to_numpy()).any()  # the caller's table has not changed


def test_columns_as_modalities_agree_with_the_imputers_of_scikit_learn():
    X = np.random.default_rng(1).normal(size=(30, 4))
    X[np.random.default_rng(2).random(X.shape) < 0.2] = nan
    np.testing.assert_allclose(
        ModalityMeanImputer().fit_transform(X), SimpleImputer().fit_transform(X)
    )
    ours = ModalityKNNImputer(num_neighbours=3, standardize=False).fit_transform(X)
    np.testing.assert_allclose(ours, KNNImputer(n_neighbors=3).fit_transform(X))


def test_a_partly_missing_group_is_missing_or_an_error():
    X = np.array([[1.0, 10.0], [3.0, 30.0], [50.0, nan]])
    imputer = ModalityMeanImputer({"pair": slice(0, 2)})
    # The 50 is in no mean, because its row lacks a part of the group, but it stays in the table.
    np.testing.assert_array_equal(imputer.fit_transform(X), [[1.0, 10.0], [3.0, 30.0], [50.0, 20]])
    np.testing.assert_array_equal(imputer.transform([[nan, nan]]), [[2.0, 20.0]])
    strict = ModalityMeanImputer({"pair": slice(0, 2)}, partial="raise")
    with pytest.raises(ValueError, match=r"1 rows have NaN in some columns of 'pair'.*row 2"):
        strict.fit(X)
    strict.fit(X[:2])
    with pytest.raises(ValueError, match="partial='missing'"):
        strict.transform(X)
    np.testing.assert_array_equal(strict.transform([[nan, nan]]), [[2.0, 20.0]])
    with pytest.raises(ValueError, match=r"`partial` must be 'missing' or 'raise', got 'keep'"):
        ModalityMeanImputer(partial="keep").fit(X)


def test_an_error_in_fit_leaves_an_earlier_fit():
    imputer = ModalityMeanImputer().fit([[1.0, 2.0]])
    with pytest.raises(ValueError, match="observed in none"):
        imputer.fit([[nan, 2.0]])
    np.testing.assert_array_equal(imputer.transform([[nan, nan]]), [[1.0, 2.0]])


@pytest.mark.parametrize("kind", IMPUTERS)
def test_frames_of_pandas_and_polars_give_the_same(kind):
    frame = table()
    polars_frame = pl.from_pandas(frame)  # NaN become nulls
    assert polars_frame["t1"].null_count()
    filled = made(kind).fit(frame).transform(frame)
    imputer = made(kind).set_output(transform="polars").fit(polars_frame)
    out = imputer.transform(polars_frame)
    assert isinstance(out, pl.DataFrame)
    assert out.columns == list(frame.columns) == list(imputer.get_feature_names_out())
    np.testing.assert_array_equal(out.to_numpy(), filled)
    out = made(kind).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == list(frame.columns)
    np.testing.assert_array_equal(out.to_numpy(), filled)


@pytest.mark.parametrize("kind", IMPUTERS)
def test_an_imputer_works_in_pipelines_searches_and_files(kind):
    frame = table(60)
    y = np.where(frame["age"] > 0, "old", "young")
    model = make_pipeline(made(kind), LogisticRegression()).fit(frame, y)
    assert model.score(frame, y) > 0.9
    search = GridSearchCV(model, {f"{kind.__name__.lower()}__partial": ["missing"]}, cv=2)
    assert search.fit(frame, y).best_score_ > 0.8
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    again = joblib.load(file)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    copy = clone(model[0])
    assert copy.groups is not None
    assert not hasattr(copy, "imputer_")


FRAME = {"p": [1, nan, 3], "q": [1.0, nan, 2.0]}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["A", "B", None], "text"),
        (pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"]), "dates or times"),
        (pd.Categorical(["A", "B", "A"]), "text"),
        ([{"a": 1}, {}, {}], "dict"),
    ],
)
@pytest.mark.parametrize("number", [1, 1.5])
def test_a_column_without_numbers_is_named(column, kind, number):
    frame = pd.DataFrame({**FRAME, "city": column, "n": [number] * 3})
    for given in (frame, pl.from_pandas(frame)):
        with pytest.raises((TypeError, ValueError)) as caught:
            ModalityMeanImputer({"x": ["p", "q"]}).fit_transform(given)
        if isinstance(given, pl.DataFrame) and kind == "dict":
            continue  # polars holds structs, whose values are numbers
        assert f"column 'city' contains {kind}. Select the numeric" in str(caught.value)
    array = frame.to_numpy(dtype=object)
    with pytest.raises((TypeError, ValueError), match=r"column 2 contains .*ColumnTransformer"):
        ModalityMeanImputer({"x": [0, 1]}).fit_transform(array)


def test_an_array_of_dates_is_no_table_of_numbers():
    dates = np.array([["2026-01-01"], ["NaT"]], dtype="datetime64[D]")
    with pytest.raises(TypeError, match="column 0 contains dates or times"):
        ModalityMeanImputer().fit(dates)


def test_a_column_in_no_group_keeps_its_values_as_floats():
    frame = pd.DataFrame({**FRAME, "count": [7, 8, 9]})
    imputer = ModalityMeanImputer({"x": ["p", "q"]}).set_output(transform="pandas")
    filled = imputer.fit_transform(frame)
    assert filled["count"].tolist() == [7.0, 8.0, 9.0]
    assert filled["count"].dtype == np.float64
    with pytest.raises(ValueError, match="column 'count' contains text"):
        imputer.transform(frame.assign(count=["7", "eight", "9"]))


@pytest.mark.parametrize("kind", IMPUTERS)
def test_a_lazy_frame_must_be_collected(kind):
    frame = pl.from_pandas(table())
    with pytest.raises(TypeError, match=rf"{kind.__name__}: `X` .* got LazyFrame. Call `.collect"):
        made(kind).fit(frame.lazy())
    fitted = made(kind).fit(frame)
    with pytest.raises(TypeError, match=r"Call `\.collect\(\)` first"):
        fitted.transform(frame.lazy())


def test_float32_stays_float32_and_integers_become_float64():
    X = np.array([[1.0, 2.0], [nan, 4.0]], dtype=np.float32)
    assert ModalityMeanImputer().fit_transform(X).dtype == np.float32
    assert ModalityRidgeImputer().fit_transform(X).dtype == np.float32
    filled = ModalityMeanImputer().fit(np.array([[1], [2]])).transform([[nan], [1]])
    np.testing.assert_array_equal(filled, [[1.5], [1.0]])


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"a": slice(0, 9)}, ValueError, r"groups\['a'\]` is slice.*the table has 5 columns"),
        ({"a": slice("i1", "t1")}, TypeError, "must be a slice of positions"),
        ({"a": 5}, ValueError, "has column 5, but the table has 5 columns"),
        ({"a": "t2"}, KeyError, "there is no column 't2'"),
        ({"a": []}, ValueError, "at least one column, got none"),
        ({"a": [0, 1], "b": [1]}, ValueError, "column 1 is in 'a' and 'b'"),
        ({"a": [0, -5]}, ValueError, r"groups\['a'\]` has column 0 twice"),
        ({"a": [1.5]}, TypeError, "names or positions of columns, got 1.5"),
        ({"a": [True, False]}, TypeError, "names or positions of columns, got True"),
        ({"a": np.array([True, False])}, ValueError, "one bool for each of the 5 columns"),
        ({"a": {1, 2}}, TypeError, "got set"),
        ({}, ValueError, "at least one modality"),
        ({1: [0]}, TypeError, "modality names must be strings"),
        ([0, 1], TypeError, "`groups` must be a mapping"),
    ],
)
def test_groups_that_do_not_fit_are_errors(groups, error, message):
    with pytest.raises(error, match=message):
        ModalityMeanImputer(groups).fit(table())


def test_groups_can_be_given_in_many_ways():
    frame = table()
    bools = np.array([False, False, True, False, False])
    for columns in ("t1", 2, -3, ["t1"], [2], np.array([2]), slice(2, 3), bools):
        imputer = ModalityMeanImputer({"text": columns}).fit(frame)
        assert imputer.groups_["text"].tolist() == [2]
    with pytest.raises(ValueError, match="the columns of the table have no names"):
        ModalityMeanImputer({"text": "t1"}).fit(frame.to_numpy())
    assert list(ModalityMeanImputer().fit(frame).groups_) == list(frame.columns)
    assert list(ModalityMeanImputer().fit(frame.to_numpy()).groups_)[:2] == ["x0", "x1"]


def test_too_many_components_are_an_error_that_states_the_number_of_features():
    imputer = ModalityPPCAImputer({"a": [0, 1]}, num_components=2)
    with pytest.raises(ValueError, match=r"got 2 with n_features = 2"):
        imputer.fit(table())
