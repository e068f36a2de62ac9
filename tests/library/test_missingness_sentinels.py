"""One rule for the content of missing cells, for every dtype and in every function."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.missingness import collate, hide_features, mask_from_features, simulate_mnar
from invmod.robustness import robustness_report
from tests.strategies import NAN, generators, gradients, laws, normal, random_mask, seeded

FLOATING = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
]
SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]


def ones(dtype, num_rows=4):
    return torch.ones(num_rows, 2, 3).to(dtype)


MASK = torch.tensor([[True], [False], [True], [False]])


@pytest.mark.parametrize("dtype", FLOATING + SIGNED + UNSIGNED, ids=str)
def test_the_content_of_hidden_cells_and_what_can_be_recognised_of_them(dtype):
    x = ones(dtype)
    hidden = hide_features({"a": x}, MASK, ["a"])["a"]
    assert (hidden.dtype, hidden.shape) == (x.dtype, x.shape)
    values = hidden.to(torch.complex128)
    kept, gone = values[[0, 2]], values[[1, 3]]
    assert (kept == 1).all()
    if dtype in FLOATING:
        assert gone.isnan().all()
    else:
        assert (gone == (-1 if dtype in SIGNED else 0)).all()
    expected = torch.ones_like(MASK) if dtype in UNSIGNED else MASK
    assert torch.equal(mask_from_features({"a": hidden}, ["a"]), expected)
    # The sentinel of `collate` is the same one, and a sample may state it itself.
    samples = [{"a": hidden[n]} if n % 2 else {"a": x[n]} for n in range(3)] + [{}]
    batch = collate(samples, modalities=["a"])
    assert torch.equal(
        batch.features["a"].to(torch.complex128).nan_to_num(7),
        hidden.to(torch.complex128).nan_to_num(7),
    )
    assert batch.mask[:, 0].tolist() == [True, dtype in UNSIGNED, True, False]


@pytest.mark.parametrize("dtype", SIGNED + UNSIGNED, ids=str)
def test_an_explicit_value_is_written_and_recognised_and_none_switches_recognition_off(dtype):
    x, value = ones(dtype), 0 if dtype == torch.bool else 5
    hidden = hide_features({"a": x}, MASK, ["a"], integer_fill=value)
    assert (hidden["a"].long()[[1, 3]] == value).all()
    assert torch.equal(mask_from_features(hidden, ["a"], integer_fill={"a": value}), MASK)
    unmarked = hide_features({"a": x}, MASK, ["a"], integer_fill=None)
    assert (unmarked["a"].long()[[1, 3]] == 0).all()
    for integer_fill in (None, "auto"):
        assert mask_from_features(unmarked, ["a"], integer_fill=integer_fill).all()
    marked = hide_features({"a": x}, MASK, ["a"])
    assert mask_from_features(marked, ["a"], integer_fill=None).all()


@pytest.mark.parametrize(
    "function", [mask_from_features, hide_features, collate, robustness_report]
)
def test_all_functions_have_the_same_default(function):
    assert inspect.signature(function).parameters["integer_fill"].default == "auto"


def test_another_string_is_an_error():
    with pytest.raises(TypeError, match="`integer_fill` must be 'auto', None, an int or name"):
        mask_from_features({"a": ones(torch.int64)}, ["a"], integer_fill="none")


# --- NumPy


@laws
@given(generators(), st.integers(0, 5), st.sampled_from(["float32", "float64", "int64", "uint8"]))
def test_arrays_of_any_layout_equal_their_tensors(generator, num_rows, dtype):
    mask = random_mask(generator, num_rows, 1)
    x = normal(generator, num_rows, 3, 2).mul(20).abs().to(getattr(torch, dtype))
    tensors = {"a": hide_features({"a": x}, mask, ["a"])["a"]}
    expected = mask_from_features(tensors, ["a"])
    plain = tensors["a"].numpy()
    frozen, parted = plain.copy(), np.zeros(num_rows, [("pad", "u1"), ("x", dtype, (3, 2))])
    frozen.flags.writeable = False
    parted["x"] = plain
    for array in (
        plain,
        frozen,
        np.ascontiguousarray(plain[::-1])[::-1],
        np.asfortranarray(plain),
        plain.astype(plain.dtype.newbyteorder(">")),
        parted["x"],
    ):
        assert torch.equal(mask_from_features({"a": array}, ["a"]), expected)
        got = hide_features({"a": array}, mask, ["a"])["a"]
        assert got.dtype == x.dtype
        assert torch.equal(got.double().nan_to_num(7.0), tensors["a"].double().nan_to_num(7.0))
        batch = collate(
            [{"a": row} for row in array], modalities=["a"], like={"a": x.new_empty(3, 2)}
        )
        assert torch.equal(batch.mask, expected)
        assert batch.features["a"].dtype == x.dtype


def test_a_file_in_memory_is_read_in_blocks(tmp_path, monkeypatch):
    copied = []
    monkeypatch.setattr("invmod.missingness.arrays.ROWS_AT_ONCE", 3)
    from invmod.missingness import arrays

    plain = arrays.as_tensor
    monkeypatch.setattr(arrays, "as_tensor", lambda w, x: (copied.append(len(x)), plain(w, x))[1])
    np.save(tmp_path / "x.npy", np.array([[1.0], [NAN], [2.0], [3.0], [NAN]]))
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert mask_from_features({"a": array}, ["a"])[:, 0].tolist() == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert max(copied) == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["x", "y"]), "has dtype <U1, which is not a number"),
        (np.array([1.0, None]), "has dtype object, which is not a number"),
        (np.ma.masked_equal([1.0, 2.0], 2.0), "is a masked array, whose mask a tensor cannot hold"),
        (np.array([1.0, 2.0], dtype=np.longdouble), "which torch does not have"),
    ],
)
def test_an_array_that_torch_cannot_hold_is_an_error(array, message):
    for call in (
        lambda: mask_from_features({"a": array}, ["a"]),
        lambda: hide_features({"a": array}, torch.ones(2, 1).bool(), ["a"]),
        lambda: collate([{"a": array}], modalities=["a"]),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_the_number_of_rows_may_be_of_numpy():
    assert mask_from_features({}, ["a"], num_rows=np.int64(3)).shape == (3, 1)
    for num_rows in (2.0, True):
        with pytest.raises(TypeError, match="`num_rows` must be an int"):
            mask_from_features({}, ["a"], num_rows=num_rows)


# --- mappings


def words(num_rows=4):
    ids = torch.arange(1, 3 * num_rows + 1).reshape(num_rows, 3)
    return {"input_ids": ids, "attention_mask": torch.ones(num_rows, 3, dtype=torch.bool)}


def test_a_mapping_is_hidden_in_all_its_entries_and_recognised_by_one_of_them():
    features = {"text": words(), "image": torch.ones(4, 2)}
    mask = torch.cat([MASK, ~MASK], dim=1)
    hidden = hide_features(features, mask, ["text", "image"])
    assert hidden["text"]["input_ids"].tolist() == [[1, 2, 3], [-1] * 3, [7, 8, 9], [-1] * 3]
    assert hidden["text"]["attention_mask"].any(dim=1).tolist() == [True, False, True, False]
    assert torch.equal(mask_from_features(hidden, ["text", "image"]), mask)
    alone = {"text": {"attention_mask": hidden["text"]["attention_mask"]}}
    assert mask_from_features(alone, ["text"]).all()
    arrays = {"text": {key: x.numpy() for key, x in hidden["text"].items()}}
    assert torch.equal(mask_from_features(arrays, ["text"]), MASK)
    by_none = hide_features(features, mask, ["text", "image"], integer_fill={"text": 0})
    assert (by_none["text"]["input_ids"][1] == 0).all()


def test_hidden_cells_of_a_mapping_have_no_gradient():
    x = normal(seeded(0), 4, 2).requires_grad_()
    hidden = hide_features({"a": {"x": x}}, MASK, ["a"])["a"]["x"]
    (gradient,) = gradients(hidden.nan_to_num(0.0), x)
    assert ((gradient != 0).all(dim=1) == MASK[:, 0]).all()


def test_a_mapping_can_drive_missingness_through_a_score():
    features = {"text": words(200), "image": torch.ones(200, 2)}
    full = torch.ones(200, 2, dtype=torch.bool)
    options = {"modalities": ["text", "image"], "strength": 1e3, "generator": seeded(0)}
    result = simulate_mnar(
        features, full, {"text": 0.5}, score=lambda x: x["input_ids"].sum(1), **options
    )
    assert result.mask[:100, 0].all()
    assert not result.mask[100:, 0].any()
    with pytest.raises(TypeError, match="modality 'text': mappings need a `score`"):
        simulate_mnar(features, full, {"text": 0.5}, **options)


def test_arrays_can_drive_missingness_and_hold_the_rates():
    x = torch.arange(100.0)
    full = torch.ones(100, 2, dtype=torch.bool)
    tensors, arrays = {"a": x, "b": x}, {"a": x.numpy()[::-1][::-1], "b": None}
    for rates in (torch.tensor([0.5, 0.0]), np.array([0.5, 0.0]), {"a": np.float32(0.5)}):
        masks = [
            simulate_mnar(
                features, full, rates, modalities=["a", "b"], strength=np.float64(2), generator=g
            ).mask
            for features, g in ((tensors, seeded(0)), (arrays, seeded(0)))
        ]
        assert torch.equal(*masks)
        assert 30 < (~masks[0][:, 0]).sum() < 70


@pytest.mark.parametrize(
    ("feature", "error", "message"),
    [
        ({}, ValueError, "the mapping of 'a' is empty. Use None for a missing modality"),
        ({"x": [1.0]}, TypeError, "the feature of 'a', key 'x', must be a tensor"),
        ({"x": torch.ones(2), "y": torch.ones(3)}, ValueError, r"got {'a\[x\]': 2, 'a\[y\]': 3}"),
        (
            {"x": torch.ones(2, 1), "y": torch.tensor([[1.0, 1.0], [1.0, NAN]])},
            ValueError,
            "modality 'a', key 'y' has NaN in part of a row, first in row 1",
        ),
    ],
)
def test_an_invalid_mapping_is_an_error(feature, error, message):
    with pytest.raises(error, match=f"mask_from_features: .*{message}"):
        mask_from_features({"a": feature}, ["a"])


def test_scores_that_differ_by_rounding_only_are_equal():
    x = torch.full((10,), 0.3, dtype=torch.float64)
    x[3] = 0.1 + 0.2  # one rounding step above 0.3
    assert x[3] != x[0]
    with pytest.raises(ValueError, match=r"the scores are all 0\.3 up to rounding"):
        simulate_mnar(
            {"a": x},
            torch.ones(10, 1).bool(),
            0.5,
            modalities=["a"],
            strength=1.0,
            allow_empty=True,
        )


# --- one graph for all batch sizes


def test_hiding_works_in_one_graph_for_all_numbers_of_rows():
    def hide(x, ids, mask):
        hidden = hide_features({"x": x, "ids": ids}, mask, ["x", "ids"])
        return hidden["x"], hidden["ids"]

    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(hide, fullgraph=True, dynamic=True, backend=backend)
    # Starting from a number that no other axis has, because equal sizes share a symbol.
    for num_rows in range(5, 17):
        mask = random_mask(seeded(num_rows), num_rows, 2)
        x, ids = torch.ones(num_rows, 2), torch.ones(num_rows, 3).long()
        for got, expected in zip(compiled(x, ids, mask), hide(x, ids, mask), strict=True):
            assert torch.equal(got.double().nan_to_num(7), expected.double().nan_to_num(7))
    assert len(graphs) == 1
