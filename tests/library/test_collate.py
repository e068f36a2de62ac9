"""Laws of `collate`: the batch contains all samples, and errors name the sample and the key."""

import re
from functools import partial
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from invmod import Batch, ModalityEncoders, collate, hide_features, mask_from_features
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

SHAPES = st.sampled_from([(), (3,), (2, 0), (1, 4, 4), (2, 1, 3, 2)])
DTYPES = st.sampled_from(
    [torch.float16, torch.float32, torch.float64, torch.complex64, torch.int64, torch.uint8]
)


@laws
@given(st.data(), generators(), st.integers(0, 6), NUM_MODALITIES, st.booleans())
def test_a_batch_contains_the_samples_unchanged(data, generator, num_rows, num_modalities, absent):
    names = [f"m{index}" for index in range(num_modalities)]
    shapes, dtypes = (data.draw(st.lists(s, min_size=8, max_size=8)) for s in (SHAPES, DTYPES))
    like = {
        name: torch.empty(s, dtype=t) for name, s, t in zip(names, shapes, dtypes, strict=False)
    }
    mask = random_mask(generator, num_rows, num_modalities)
    samples = []
    for n in range(num_rows):
        sample = {
            name: normal(generator, *like[name].shape).abs().to(like[name].dtype) for name in names
        }
        for name, there in zip(names, mask[n].tolist(), strict=True):
            if not there and absent:
                del sample[name]
            elif not there:
                sample[name] = None
        samples.append(dict(data.draw(st.permutations(list(sample.items())))))
    batch = collate(samples, modalities=names, like=like, integer_fill=99)
    assert isinstance(batch, Batch)
    assert torch.equal(batch.mask, mask)
    assert list(batch.features) == names
    assert batch.extras == {}
    for m, name in enumerate(names):
        x = batch.features[name]
        assert (x.shape, x.dtype) == ((num_rows, *like[name].shape), like[name].dtype)
        for n in range(num_rows):
            if mask[n, m]:
                assert torch.equal(x[n], samples[n][name])
            else:
                assert (
                    x[n].isnan() if x.is_floating_point() or x.is_complex() else x[n] == 99
                ).all()
    hidden = hide_features(batch.features, mask, names, integer_fill=99)
    for name, x in batch.features.items():
        # `collate` and `hide_features` use the same fill values.
        assert torch.equal(hidden[name].nan_to_num(7.0), x.nan_to_num(7.0))
    if all(0 not in tensor.shape for tensor in like.values()):
        assert torch.equal(mask_from_features(batch.features, names, integer_fill=99), mask)


@laws
@given(generators(), st.integers(1, 6), st.permutations(["a", "b", "c"]))
def test_the_mask_columns_follow_the_given_order_of_modalities(generator, num_rows, order):
    mask = random_mask(generator, num_rows, 3)
    samples = [
        {name: torch.tensor([n, m]) for m, name in enumerate("abc") if mask[n, m]}
        for n in range(num_rows)
    ]
    like = {name: torch.empty(2, dtype=torch.int64) for name in "abc"}
    batch = collate(samples, modalities=order, like=like)
    assert torch.equal(batch.mask, mask[:, ["abc".index(name) for name in order]])


def test_a_sample_of_only_nan_lacks_the_modality():
    batch = collate([{"a": torch.full((2,), NAN)}, {"a": torch.ones(2)}], modalities=["a"])
    assert batch.mask.tolist() == [[False], [True]]


def test_missing_integers_hold_their_fill_value_and_are_false_in_the_mask():
    samples = [{"ids": torch.tensor([0, 0]), "flag": True}, {"more": torch.tensor([5])}]
    batch = collate(samples, modalities=["ids", "more", "flag"], integer_fill={"more": -7})
    assert batch.features["ids"].tolist() == [[0, 0], [-1, -1]]
    assert batch.features["more"].tolist() == [[-7], [5]]
    assert batch.features["flag"].tolist() == [True, False]
    assert batch.mask.tolist() == [[True, False, True], [False, True, False]]


def test_arrays_and_numbers_become_tensors_and_read_only_arrays_raise_no_warning():
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    samples = [
        {"x": frozen, "y": 1.5, "z": np.float32(2)},
        {"x": np.ones(3), "y": None, "z": np.float32(3)},
    ]
    features, mask, _ = collate(samples, modalities=["x", "y", "z"])
    assert features["x"].tolist() == [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]
    assert features["x"].dtype == torch.float64
    assert features["y"].nan_to_num(7.0).tolist() == [1.5, 7.0]
    assert features["z"].dtype == torch.float32
    assert mask.tolist() == [[True, True, True], [True, False, True]]
    features["x"][0, 0] = 5.0
    assert frozen[0] == 0.0


def test_entries_that_are_not_modalities_are_stacked_as_extras():
    samples = [
        {
            "x": torch.ones(2),
            "target": 3,
            "id": "u1",
            "box": np.zeros(2),
            "weight": torch.tensor(0.5),
            7: {"deep": 1},
        },
        {
            "x": None,
            "target": 4,
            "id": "u2",
            "box": np.ones(2),
            "weight": torch.tensor(1.5),
            7: {"deep": 2},
        },
    ]
    _, _, extras = collate(samples, modalities=["x"])
    assert extras["target"].tolist() == [3, 4]
    assert extras["id"] == ["u1", "u2"]
    assert extras["box"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert extras["weight"].tolist() == [0.5, 1.5]
    assert extras[7]["deep"].tolist() == [1, 2]


def test_a_modality_that_no_sample_has_takes_its_shape_from_like():
    meta = torch.empty(3, 2, device="meta")
    samples = [{"y": 1}, {"y": 2}]
    options = {
        "modalities": ["image", "ids"],
        "like": {"image": meta, "ids": torch.empty(4, dtype=torch.int32)},
    }
    features, mask, extras = collate(samples, **options)
    assert features["image"].shape == (2, 3, 2)
    assert features["image"].isnan().all()
    assert features["ids"].equal(torch.full((2, 4), -1, dtype=torch.int32))
    assert not mask.any()
    assert extras["y"].tolist() == [1, 2]
    empty = collate([], **options)
    assert empty.mask.shape == (0, 2)
    assert empty.features["image"].shape == (0, 3, 2)
    assert empty.extras == {}
    given_once = collate([{"image": torch.ones(3, 2)}], **options)
    assert given_once.mask.tolist() == [[True, False]]


def test_gradients_flow_to_the_available_samples():
    x = [normal(seeded(n), 2).requires_grad_() for n in range(2)]
    features, _, _ = collate([{"x": x[0]}, {}, {"x": x[1]}], modalities=["x"])
    for gradient in gradients(features["x"].nan_to_num(0.0), *x):
        assert (gradient != 0).all()


SAMPLES = [
    {"index": n, "target": float(n % 2)}
    | ({"image": torch.full((1, 6, 6), float(n))} if n % 3 else {})
    | ({"words": torch.tensor([n, n + 1, 0])} if n % 2 else {"words": None})
    for n in range(10)
]
COLLATE = partial(
    collate,
    modalities=("words", "image"),
    like={"image": torch.empty(1, 6, 6), "words": torch.empty(3, dtype=torch.int64)},
)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])  # more than the usable CPUs raise a warning
def test_collate_works_in_a_data_loader_with_and_without_workers(num_workers):
    loader = DataLoader(
        SAMPLES, batch_size=1 + 2 * (num_workers > 0), collate_fn=COLLATE, num_workers=num_workers
    )
    rows = 0
    for batch in loader:
        assert isinstance(batch, Batch)
        for row, n in enumerate(batch.extras["index"].tolist()):
            assert batch.mask[row].tolist() == [n % 2 == 1, n % 3 != 0]
            if n % 3:
                assert (batch.features["image"][row] == n).all()
            else:
                assert batch.features["image"][row].isnan().all()
            assert batch.features["words"][row].tolist() == (
                [n, n + 1, 0] if n % 2 else [-1, -1, -1]
            )
            rows += 1
    assert rows == len(SAMPLES)


def test_collate_and_its_batches_can_be_sent_to_worker_processes():
    assert ForkingPickler.dumps(COLLATE)
    assert ForkingPickler.dumps(COLLATE(SAMPLES))


def test_a_batch_of_images_and_words_goes_through_encoders():
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(20, 4)

        def forward(self, ids):
            return self.table(ids).mean(dim=1)

    conv = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    encoders = ModalityEncoders({"words": Words(), "image": conv})
    features, mask, _ = COLLATE(SAMPLES)
    z = encoders(features, mask)
    assert z.isfinite().all()
    assert (z[~mask] == 0).all()
    assert (z[mask] != 0).any(dim=1).all()


T = torch.ones


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        (
            [{"a": T(2, 3)}, {}, {"a": T(2, 4)}],
            {},
            ValueError,
            "'a' of sample 2 has shape (2, 4), but that of sample 0 has (2, 3). "
            "Give all samples one shape",
        ),
        (
            [{}, {"a": T(3)}],
            {"like": {"a": T(2)}},
            ValueError,
            "'a' of sample 1 has shape (3,), but that of `like` has (2,).",
        ),
        (
            [{"a": T(2)}, {"a": T(2).long()}],
            {},
            TypeError,
            "'a' of sample 1 has dtype torch.int64, but that of sample 0 has torch.float32. "
            "Convert them",
        ),
        (
            [{"a": T(2)}, {"a": T(2, device="meta")}],
            {},
            ValueError,
            "'a' of sample 1 is on meta, but that of sample 0 is on cpu. Leave samples on the CPU",
        ),
        (
            [{"b": 1}, {"c": 2, "b": 2}],
            {},
            KeyError,
            "no sample of the batch has 'a', so its shape and dtype are unknown; the samples' keys "
            "are ['b', 'c']. "
            "Pass `like={'a': tensor}`",
        ),
        ([], {}, KeyError, "no sample of the batch has 'a', so its shape and dtype are unknown"),
        ([{"a": T(1)}, [1]], {}, TypeError, "sample 1 must be a dictionary, got list."),
        (
            [{"a": T(1)}, {"a": [1.0]}],
            {},
            TypeError,
            "'a' of sample 1 must be a tensor, a NumPy array, a number or None",
        ),
        (
            [{"a": T(1)}, {"a": "x"}],
            {},
            TypeError,
            "'a' of sample 1 must be a tensor, a NumPy array, a number or",
        ),
        (
            [{"a": np.array(["x"])}],
            {},
            TypeError,
            "'a' of sample 0 has dtype <U1, which is not a number. Convert it",
        ),
        (
            [{"a": T(2)}, {"a": torch.tensor([1.0, NAN])}],
            {},
            ValueError,
            "modality 'a' has NaN in part of a row, first in",
        ),
        (
            [{}, {"a": torch.tensor([1.0, np.inf])}],
            {},
            ValueError,
            "modality 'a' has an infinity, first in row 1.",
        ),
        (
            [{"a": T(1), "y": 1}, {"a": T(1)}],
            {},
            KeyError,
            "sample 1 lacks 'y', which is not a modality and which another",
        ),
        (
            [{"a": T(1), "y": None}, {"a": T(1), "y": 1}],
            {},
            KeyError,
            "sample 0 lacks 'y', which is not a modality",
        ),
        (
            [{"a": T(1), "y": T(2)}, {"a": T(1), "y": T(3)}],
            {},
            ValueError,
            "'y' of sample 1 has shape (3,), but that of sample 0 has (2,).",
        ),
        (
            [{"a": T(1), "y": object()}],
            {},
            TypeError,
            "the values of 'y' cannot be stacked: default_collate: batch",
        ),
        (
            [{"a": T(1), "y": [1]}, {"a": T(1), "y": [1, 2]}],
            {},
            TypeError,
            "the values of 'y' cannot be stacked",
        ),
        (
            [{"a": T(1)}],
            {"like": {"b": T(1)}},
            KeyError,
            "`like` has modalities ['b'] that are not among ('a',).",
        ),
        (
            [{"a": T(1)}],
            {"like": {"a": (1,)}},
            TypeError,
            "`like` must map 'a' to a tensor or a mapping of tensors, got tuple.",
        ),
        (
            [{"a": T(1)}],
            {"integer_fill": {"b": 1}},
            KeyError,
            "`integer_fill` has modalities ['b'] that are not among",
        ),
        (
            [{"a": T(1)}],
            {"integer_fill": 0.5},
            TypeError,
            "`integer_fill` must be 'auto', None, an int or name -> int, got 0.5.",
        ),
        (
            [{"a": T(1).byte()}],
            {"integer_fill": -1},
            ValueError,
            "`integer_fill` must lie in [0, 255] for torch.uint8",
        ),
        (
            [{"a": T(1)}],
            {"modalities": "a"},
            TypeError,
            "`modalities` must be a sequence of names, got the string 'a'.",
        ),
    ],
)
def test_an_error_names_the_sample_and_the_key(samples, options, error, message):
    with pytest.raises(error, match=f"collate.*{re.escape(message)}"):
        collate(samples, **{"modalities": ["a"], **options})
