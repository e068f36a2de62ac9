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


# --- missing values of a column of a table


@pytest.mark.parametrize(
    "missing",
    [None, NAN, np.nan, np.float32("nan"), np.array(NAN), torch.tensor(NAN), complex(NAN), "NA"],
    ids=repr,
)
def test_a_missing_value_of_a_table_lacks_the_modality(missing):
    if missing == "NA":
        missing = pytest.importorskip("pandas").NA
    samples = [
        {"image": torch.ones(1, 2, 2), "ids": np.array([3, 4]), "age": 7.5},
        {"image": missing, "ids": missing, "age": missing},
    ]
    batch = collate(samples, modalities=["image", "ids", "age"])
    assert batch.mask.tolist() == [[True] * 3, [False] * 3]
    assert batch.features["image"].shape == (2, 1, 2, 2)
    assert batch.features["image"][1].isnan().all()
    assert batch.features["ids"].tolist() == [[3, 4], [-1, -1]]
    assert batch.features["age"].nan_to_num(-1).tolist() == [7.5, -1.0]
    with pytest.raises(KeyError, match="no sample of the batch has 'age', so its shape and dtype"):
        collate(samples[1:], modalities=["age"])


def test_rows_of_a_data_frame_are_samples():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "age": [31.0, None, 25.0],
            "image": [np.ones(2), None, np.nan],
            "visits": pandas.array([1, pandas.NA, 3], dtype="Int64"),
            "target": [0, 1, 0],
        }
    )
    batch = collate(frame.to_dict("records"), modalities=["age", "image", "visits"])
    assert batch.mask.tolist() == [[True, True, True], [False] * 3, [True, False, True]]
    assert batch.features["visits"].tolist() == [1, -1, 3]
    assert batch.extras["target"].tolist() == [0, 1, 0]


# --- mappings and sequences


def test_mappings_are_stacked_key_by_key():
    def text(*ids):
        mask = torch.tensor([i > 0 for i in ids])
        return {"input_ids": torch.tensor(ids), "attention_mask": mask}

    samples = [{"text": text(5, 6, 0)}, {"text": None}, {}, {"text": text(7, 0, 0)}]
    batch = collate(samples, modalities=["text"])
    assert batch.mask[:, 0].tolist() == [True, False, False, True]
    ids = [[5, 6, 0], [-1] * 3, [-1] * 3, [7, 0, 0]]
    assert batch.features["text"]["input_ids"].tolist() == ids
    assert batch.features["text"]["attention_mask"].sum(dim=1).tolist() == [2, 0, 0, 1]
    assert torch.equal(mask_from_features(batch.features, ["text"]), batch.mask)
    like = {"text": text(0, 0, 0)}
    nothing = collate(samples[1:3], modalities=["text"], like=like)
    assert (nothing.features["text"]["input_ids"] == -1).all()
    assert not nothing.features["text"]["attention_mask"].any()
    assert not nothing.mask.any()
    empty = collate([], modalities=["text"], like=like).features["text"]
    assert (empty["input_ids"].shape, empty["attention_mask"].dtype) == ((0, 3), torch.bool)


def test_sequences_are_padded_to_the_longest_of_the_batch():
    samples = [
        {"sound": np.ones((2, 3), dtype=np.float32), "y": 0},
        {"y": 1},
        {"sound": torch.full((4, 3), 2.0), "y": 2},
        {"sound": torch.empty(0, 3), "y": 3},
    ]
    batch = collate(samples, modalities=["sound"], pad={"sound": 9})
    values, attention = batch.features["sound"]["values"], batch.features["sound"]["attention_mask"]
    assert list(batch.features["sound"]) == ["values", "attention_mask"]
    assert (values.shape, attention.dtype) == ((4, 4, 3), torch.bool)
    assert attention.tolist() == [[True] * 2 + [False] * 2, [False] * 4, [True] * 4, [False] * 4]
    assert batch.mask[:, 0].tolist() == [True, False, True, True]
    expected = [[1, 1, 9, 9], [7] * 4, [2] * 4, [9] * 4]
    assert values[..., 0].nan_to_num(7.0).tolist() == expected
    assert values[1].isnan().all()
    assert batch.extras["y"].tolist() == [0, 1, 2, 3]


def test_a_mapping_of_sequences_is_padded_and_keeps_its_attention_mask():
    samples = [
        {"text": {"ids": torch.tensor([1, 2]), "kind": torch.tensor([1, 1]), "language": 3}},
        {"text": {"ids": torch.tensor([4]), "kind": torch.tensor([1]), "language": 5}},
    ]
    batch = collate(samples, modalities=["text"], pad={"text": {"ids": 50}}).features["text"]
    assert batch["ids"].tolist() == [[1, 2], [4, 50]]
    assert batch["kind"].tolist() == [[1, 1], [1, 0]]
    assert batch["language"].tolist() == [3, 5]
    assert batch["attention_mask"].tolist() == [[True, True], [True, False]]
    for sample in samples:
        sample["text"]["attention_mask"] = torch.ones_like(sample["text"]["ids"])
    own = collate(samples, modalities=["text"], pad={"text": 50}).features["text"]
    assert own["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert own["kind"].tolist() == [[1, 1], [1, 50]]


@pytest.mark.parametrize("meta", [False, True])
def test_a_template_of_a_sequence_states_the_shape_of_a_position(meta):
    like = {"x": torch.empty(5, 2, device="meta" if meta else "cpu")}
    options = {"modalities": ["x"], "pad": {"x": 0.0}, "like": like}
    batch = collate([{"x": torch.ones(3, 2)}, {}], **options)
    assert batch.features["x"]["values"].shape == (2, 3, 2)
    nothing = collate([{}, {}], **options)
    assert nothing.features["x"]["values"].shape == (2, 5, 2)
    assert nothing.features["x"]["attention_mask"].tolist() == [[False] * 5] * 2
    assert not nothing.mask.any()
    assert collate([], **options).features["x"]["attention_mask"].shape == (0, 5)
    with pytest.raises(ValueError, match=r"'x\[values\]' of sample 0 has shape \(3, 4\)"):
        collate([{"x": torch.ones(3, 4)}], **options)


def test_padded_sequences_carry_gradients_and_go_through_a_module():
    class Mean(torch.nn.Module):
        def forward(self, values, attention_mask):
            return (values * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)

    x = [normal(seeded(n), n + 1, 2).requires_grad_() for n in range(3)]
    batch = collate([{"x": value} for value in x], modalities=["x"], pad={"x": 0})
    means = Mean()(**batch.features["x"])
    for n, value in enumerate(x):
        torch.testing.assert_close(means[n], value.mean(dim=0))
    for gradient in gradients(means, *x):
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
            [{"a": {"x": T(1)}}, {"a": {"y": T(1)}}],
            {},
            KeyError,
            "'a' of sample 1 has the keys ['y'], but another sample or `like` has ['x']",
        ),
        (
            [{"a": {"x": T(1)}}, {"a": T(1)}],
            {},
            KeyError,
            "'a' of sample 1 has the keys (no mapping), but another sample or `like` has ['x']",
        ),
        (
            [{"a": {"x": T(1)}}, {"a": {"x": T(2)}}],
            {},
            ValueError,
            "'a[x]' of sample 1 has shape (2,), but that of sample 0 has (1,)",
        ),
        (
            [{"a": {"x": [1.0]}}],
            {},
            TypeError,
            "'a[x]' of sample 0 must be a tensor, a NumPy array, a number or None, got list",
        ),
        ([{"a": {}}], {}, ValueError, "'a' of sample 0 is an empty mapping. Use None"),
        (
            [{"a": T(1)}],
            {"pad": {"b": 0}},
            KeyError,
            "`pad` has modalities ['b'] that are not among ('a',).",
        ),
        (
            [{"a": T(1)}],
            {"pad": {"a": "0"}},
            TypeError,
            "`pad` of 'a' must be a number, got '0'.",
        ),
        (
            [{"a": T(1)}],
            {"pad": {"a": {"values": NAN}}},
            ValueError,
            "`pad` of 'a' must be finite, got nan. NaN is the sign of a missing modality",
        ),
        (
            [{"a": T(1).long()}, {"a": T(2).long()}],
            {"pad": {"a": 0.5}},
            ValueError,
            "`pad` of 'a' must be a value of torch.int64, got 0.5.",
        ),
        (
            [{"a": T(1).byte()}, {"a": T(2).byte()}],
            {"pad": {"a": -1}},
            ValueError,
            "`pad` of 'a' must be a value of torch.uint8, got -1.",
        ),
        (
            [{"a": 1.0}],
            {"pad": {"a": 0}},
            ValueError,
            "'a' of sample 0 must be a sequence (L, ...), or a mapping whose sequences",
        ),
        (
            [{"a": {"x": T(1), "y": T(2)}}],
            {"pad": {"a": 0}},
            ValueError,
            "because `pad` has 'a'; got the lengths {'x': 1, 'y': 2}.",
        ),
        (
            [{}],
            {"pad": {"a": 0}, "like": {"a": torch.tensor(1.0)}},
            ValueError,
            "'a' of `like` must be a sequence (L, ...)",
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
