"""Features of a report that are mappings of arrays, or None for a modality that is missing."""

import functools
import re

import numpy as np
import pytest
import torch

from tests.library.robustness_cases import by_mean, made_up, quick
from tests.strategies import seeded

OPTIONS = {"rates": (0.0, 0.4), "num_draws": 2, "num_resamples": 20}


def nested(features):
    """The same features, with the first one as a mapping of its two columns."""
    first, *others = features
    columns = {"left": features[first][:, :1], "right": features[first][:, 1:]}
    return {first: columns, **{name: features[name] for name in others}}


def joined(x):
    """The columns of a feature, from an array or from a mapping of two."""
    parts = list(x.values()) if isinstance(x, dict) else [x]
    return torch.cat([torch.as_tensor(part) for part in parts], dim=1)


def by_joined(features, mask):
    """Predict as `by_mean`, from features with mappings, as tensors or arrays."""
    flat = {name: joined(x) for name, x in features.items()}
    found = by_mean(flat, torch.as_tensor(mask))
    return found if isinstance(mask, torch.Tensor) else found.numpy()


@pytest.mark.parametrize("as_arrays", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_a_mapping_is_one_modality_whose_arrays_are_hidden_together(as_arrays, with_mask):
    features, targets = made_up()
    features["text"][:9] = torch.nan
    mask = torch.rand(60, 3, generator=seeded(3)) > 0.2 if with_mask else None
    flat = quick(by_mean, features, targets, mask=mask, **OPTIONS)
    given = nested(features)
    if as_arrays:
        given = {
            name: {key: part.numpy() for key, part in x.items()}
            if isinstance(x, dict)
            else x.numpy()
            for name, x in given.items()
        }
        targets = targets.numpy()
    assert quick(by_joined, given, targets, mask=mask, **OPTIONS) == flat


def test_models_get_their_own_copies_of_a_mapping():
    features, targets = made_up()
    given = nested(features)
    before = given["text"]["left"].clone()

    def writes(x, mask):
        found = by_joined(x, mask)
        for part in x["text"].values():
            part.fill_(0.0)
        x["text"].clear()
        return found

    both = quick({"a": writes, "b": by_joined}, given, targets)
    assert [r.value for r in both.results("a")] == [r.value for r in both.results("b")]
    assert torch.equal(given["text"]["left"], before)


def test_token_ids_are_hidden_with_their_attention_mask():
    ids = torch.arange(1, 61).reshape(20, 3)
    given = {"words": {"ids": ids, "kept": torch.ones(20, 3, dtype=torch.bool)}}
    given["image"] = torch.ones(20, 1)
    seen = []

    def look(features, mask):
        words = features["words"]
        seen.append((words["ids"][0, 0].item(), words["kept"][0, 0].item()))
        return torch.zeros(20)

    quick(look, given, torch.zeros(20, dtype=torch.long))
    assert seen == [(1, True), (1, True), (-1, False)]


def by_given(features, mask):
    """Predict by the mean of the features that are not None."""
    columns = {name: joined(x) for name, x in features.items() if x is not None}
    kept = torch.as_tensor(mask)[:, [x is not None for x in features.values()]]
    found = by_mean(columns, kept)
    return found if isinstance(mask, torch.Tensor) else found.numpy()


@pytest.mark.parametrize("as_arrays", [False, True])
def test_a_feature_of_none_is_missing_in_all_rows(as_arrays):
    features, targets = made_up()
    nan = {**features, "image": torch.full((60, 2), torch.nan)}
    none = {**features, "image": None}
    if as_arrays:
        targets = targets.numpy()
        nan, none = (
            {name: None if x is None else x.numpy() for name, x in given.items()}
            for given in (nan, none)
        )

    def without_image(x, mask):
        return by_given({**x, "image": None}, mask)

    expected = quick(without_image, nan, targets, **OPTIONS)
    assert quick(by_given, none, targets, **OPTIONS) == expected
    assert expected.result(("image",)).empty_rows == 60
    mask = torch.ones(60, 3, dtype=torch.bool)
    mask[:, 1] = False
    assert quick(by_given, none, targets, mask=mask, **OPTIONS) == expected


def test_a_model_receives_none_in_the_place_where_it_was_given():
    features, targets = made_up()
    given = {"text": features["text"], "image": None, "audio": features["audio"]}

    def look(x, mask):
        assert list(x) == list(given)
        assert x["image"] is None
        assert not mask[:, 1].any()
        return by_given(x, mask)

    quick(look, given, targets)


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        ({"a": None}, {}, TypeError, "at least one of them not None, got {'a': 'NoneType'}"),
        ({"a": {}}, {}, ValueError, "the mapping of 'a' is empty. Use None for a modality"),
        (
            {"a": {"ids": [1, 2]}},
            {},
            TypeError,
            "the feature of 'a', key 'ids', must be a tensor or an array, got list",
        ),
        (
            {"a": {"ids": torch.ones(60), "kept": np.ones(60)}},
            {},
            TypeError,
            "must be all tensors or all NumPy arrays",
        ),
        (
            {"a": {"ids": torch.ones(60), "kept": torch.ones(0)}},
            {},
            ValueError,
            "the feature of 'a', key 'kept', must have at least one row",
        ),
        (
            {"a": {"ids": torch.ones(60, 1), "kept": torch.ones(59, 1)}},
            {},
            ValueError,
            "a[kept]",
        ),
        (
            {"a": torch.ones(60), "b": None},
            {"mask": torch.ones(60, 2, dtype=torch.bool)},
            ValueError,
            "the feature of 'b' is None, so it is missing in all rows, but `mask` is True in 60",
        ),
    ],
)
def test_features_that_do_not_fit_are_named(features, options, error, message):
    call = functools.partial(quick, by_given, features, made_up()[1], **options)
    with pytest.raises(error, match=re.escape(message)):
        call()
