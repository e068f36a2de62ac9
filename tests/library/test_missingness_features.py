"""Conversion between features and masks, for vectors, images and token ids."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod import hide_features, mask_from_features, missingness
from tests.strategies import (
    NAN,
    NUM_MODALITIES,
    generators,
    gradients,
    laws,
    normal,
    random_mask,
    seeded,
)

SHAPES = st.sampled_from([(), (3,), (2, 3), (1, 4, 4), (2, 1, 3, 2)])
DTYPES = st.sampled_from(
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.int64,
        torch.int8,
    ]
)


def draw_features(generator, shapes, dtypes, num_rows):
    """Features without NaN and without the value -1."""
    features = {}
    for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        features[f"m{index}"] = (
            normal(generator, num_rows, *shape).abs().mul(10).clamp(max=100).to(dtype)
        )
    return features


@laws
@given(st.data(), generators(), st.integers(0, 6), NUM_MODALITIES)
def test_hide_features_and_mask_from_features_are_inverse_for_any_shape_and_dtype(
    data, generator, num_rows, num_modalities
):
    shapes = data.draw(st.lists(SHAPES, min_size=num_modalities, max_size=num_modalities))
    dtypes = data.draw(st.lists(DTYPES, min_size=num_modalities, max_size=num_modalities))
    features = draw_features(generator, shapes, dtypes, num_rows)
    names, mask = list(features), random_mask(generator, num_rows, num_modalities)
    before = {name: x.clone() for name, x in features.items()}
    hidden = hide_features(features, mask, names, integer_fill=-1)
    assert torch.equal(mask_from_features(hidden, names, integer_fill=-1), mask)
    for index, (name, x) in enumerate(hidden.items()):
        column = mask[:, index]
        assert torch.equal(features[name], before[name])
        assert (x.shape, x.dtype) == (before[name].shape, before[name].dtype)
        assert torch.equal(x[column], before[name][column])
        gone = x[~column]
        assert (gone.isnan() if gone.is_floating_point() or gone.is_complex() else gone == -1).all()
    columns = dict(zip(names[::-1], mask.flip(1).unbind(1), strict=True))
    again = hide_features(features, columns, names, integer_fill=dict.fromkeys(names, -1))
    assert all(
        torch.equal(again[name].nan_to_num(7.0), hidden[name].nan_to_num(7.0)) for name in names
    )


def test_integers_are_missing_only_in_rows_that_consist_of_the_fill_value():
    ids = torch.tensor([[-1, -1], [3, -1], [0, 0]])
    alone = {"a": ids}
    assert mask_from_features(alone, ["a"], integer_fill=None)[:, 0].tolist() == [True, True, True]
    assert mask_from_features(alone, ["a"])[:, 0].tolist() == [False, True, True]
    assert mask_from_features({"a": ids}, ["a"], integer_fill=-1)[:, 0].tolist() == [
        False,
        True,
        True,
    ]
    assert mask_from_features({"a": ids}, ["a"], integer_fill=0)[:, 0].tolist() == [
        True,
        True,
        False,
    ]
    both = mask_from_features({"a": ids, "b": ids}, ["a", "b"], integer_fill={"b": 0})
    assert both.tolist() == [[False, True], [True, True], [True, False]]
    assert mask_from_features({"a": torch.zeros(2, 0).long()}, ["a"], integer_fill=0).tolist() == [
        [True],
        [True],
    ]
    assert mask_from_features({"a": torch.zeros(0, 2).long()}, ["a"], integer_fill=0).shape == (
        0,
        1,
    )
    assert mask_from_features({"a": torch.tensor([7.0])}, ["a"], integer_fill=7).tolist() == [
        [True]
    ]


def test_a_name_without_a_fill_value_follows_the_rule_and_absent_names_stay_absent():
    features = {
        "a": torch.tensor([5, 6]),
        "b": torch.tensor([5, 6]),
        "c": None,
        "d": torch.tensor([True, True]),
    }
    hidden = hide_features(
        features, torch.zeros(2, 5).bool(), [*features, "e"], integer_fill={"a": 9}
    )
    assert {name: x.tolist() for name, x in hidden.items()} == {
        "a": [9, 9],
        "b": [-1, -1],
        "d": [False, False],
    }
    by_none = hide_features(features, torch.zeros(2, 5).bool(), [*features, "e"], integer_fill=None)
    assert by_none["a"].tolist() == by_none["b"].tolist() == [0, 0]


@laws
@given(generators(), st.integers(1, 5))
def test_hidden_cells_have_no_gradient(generator, num_rows):
    x = normal(generator, num_rows, 2, 3).requires_grad_()
    mask = random_mask(generator, num_rows, 1)
    (gradient,) = gradients(hide_features({"a": x}, mask, ["a"])["a"].nan_to_num(0.0), x)
    assert (gradient[~mask[:, 0]] == 0).all()
    assert (gradient[mask[:, 0]] != 0).all()


@pytest.mark.parametrize("entries", [1, 6, 7, 30, 10_000])
def test_reading_long_rows_in_blocks_gives_the_same_mask(monkeypatch, entries):
    x, ids = normal(seeded(0), 5, 2, 3), torch.arange(30).reshape(5, 2, 3)
    x[[1, 4]], ids[[0, 2]] = NAN, -1
    read = []
    monkeypatch.setattr(missingness.arrays, "ENTRIES_AT_ONCE", entries)
    isnan = torch.Tensor.isnan
    monkeypatch.setattr(torch.Tensor, "isnan", lambda t: (read.append(t.numel()), isnan(t))[1])
    mask = mask_from_features({"x": x, "ids": ids}, ["x", "ids"], integer_fill=-1)
    assert mask[:, 0].tolist() == [True, False, True, True, False]
    assert mask[:, 1].tolist() == [False, True, False, True, True]
    assert max(read) <= max(entries, 6)
    x[3, 1, 1] = NAN
    with pytest.raises(ValueError, match="modality 'x' has NaN in part of a row, first in row 3"):
        mask_from_features({"x": x}, ["x"])


X = {"a": torch.ones(2, 3), "b": torch.ones(2).long()}
M = torch.ones(2, 2).bool()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: hide_features({**X, "c": X["a"]}, M, ["a", "b"]),
            KeyError,
            "`features` has modalities ['c'] that",
        ),
        (
            lambda: hide_features({"a": [1.0]}, M, ["a", "b"]),
            TypeError,
            "the feature of 'a' must be a tensor (N, ...)",
        ),
        (
            lambda: hide_features({}, M, ["a", "b"]),
            ValueError,
            "equal numbers of rows, at least one given, got {}.",
        ),
        (
            lambda: hide_features({**X, "b": torch.ones(3)}, M, ["a", "b"]),
            ValueError,
            "got {'a': 2, 'b': 3}.",
        ),
        (
            lambda: hide_features(X, M[:1], ["a", "b"]),
            ValueError,
            "`mask` must have shape (N, M) = (2, 2), got (1, 2).",
        ),
        (
            lambda: hide_features(X, M.int(), ["a", "b"]),
            TypeError,
            "`mask` must have dtype torch.bool",
        ),
        (
            lambda: hide_features(X, {"a": M[:, 0]}, ["a", "b"]),
            KeyError,
            "unknown: [], absent: ['b'].",
        ),
        (
            lambda: hide_features(X, M, ["a", "b"], integer_fill=0.5),
            TypeError,
            "must be 'auto', None, an int or name -> int, got 0.5.",
        ),
        (
            lambda: hide_features(X, M, ["a", "b"], integer_fill=True),
            TypeError,
            "must be 'auto', None, an int or name -> int, got True.",
        ),
        (
            lambda: hide_features(X, M, ["a", "b"], integer_fill={"c": 1}),
            KeyError,
            "`integer_fill` has modalities ['c']",
        ),
        (
            lambda: hide_features({"a": torch.ones(2).byte()}, M[:, :1], ["a"], integer_fill=-1),
            ValueError,
            "hide_features, modality 'a': `integer_fill` must lie in [0, 255] for torch.uint8, "
            "got -1. Pass a value",
        ),
        (
            lambda: hide_features({"a": torch.ones(2).bool()}, M[:, :1], ["a"], integer_fill=2),
            ValueError,
            "hide_features, modality 'a': `integer_fill` must lie in [0, 1] for torch.bool, got 2.",
        ),
        (
            lambda: mask_from_features({"a": torch.full((2,), 255).byte()}, ["a"], integer_fill=-1),
            ValueError,
            "mask_from_features, modality 'a': `integer_fill` must lie in [0, 255] for "
            "torch.uint8, got -1.",
        ),
        (
            lambda: mask_from_features(X, ["a", "b"], integer_fill={"b": None}),
            TypeError,
            "mask_from_features: `integer_fill` must be 'auto', None, an int or name -> int, got "
            "None.",
        ),
        (
            lambda: mask_from_features(X, ["a", "b"], integer_fill={"x": 1}),
            KeyError,
            "mask_from_features: `integer_fill` has modalities ['x'] that are not among "
            "('a', 'b').",
        ),
    ],
)
def test_invalid_arguments_raise_an_error_with_the_value(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
