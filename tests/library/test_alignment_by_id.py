"""Laws of `stack_by_id`, which brings rows of several modalities together by their ids."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.alignment import infonce_alignment_loss, pairwise_alignment_loss, stack_by_id
from tests.strategies import generators, gradients, laws, normal, random_mask, seeded

NAMES = ("text", "image", "audio")


@laws
@given(generators(), st.integers(1, 8), st.integers(1, 3), st.booleans())
def test_rows_in_any_order_give_the_loss_of_the_aligned_ones(
    generator, num_rows, num_modalities, text_ids
):
    """Take aligned rows with a mask apart, shuffle each modality, and put them together again."""
    z = normal(generator, num_rows, num_modalities, 4).requires_grad_()
    mask = random_mask(generator, num_rows, num_modalities)
    rows, ids, indices = {}, {}, {}
    for m, name in enumerate(NAMES[:num_modalities]):
        kept = mask[:, m].nonzero()[:, 0]
        kept = kept[torch.randperm(len(kept), generator=generator)]
        rows[name], indices[name] = z[kept, m], kept
        ids[name] = [f"item {i}" for i in kept.tolist()] if text_ids else kept
    stacked, available, order = stack_by_id(rows, ids)
    numbers = [int(str(i).removeprefix("item ")) for i in order]
    assert sorted(numbers) == mask.any(dim=1).nonzero()[:, 0].tolist()
    assert torch.equal(available, mask[numbers])
    assert torch.equal(stacked[available], z[numbers][available])
    assert not stacked[~available].any()
    for loss in (pairwise_alignment_loss, infonce_alignment_loss):
        rows = {name: z[index, m] for m, (name, index) in enumerate(indices.items())}
        stacked, available, _ = stack_by_id(rows, ids)
        result, expected = loss(stacked, available), loss(z, mask)
        torch.testing.assert_close(result, expected)
        for got, wanted in zip(gradients(result, z), gradients(expected, z), strict=True):
            torch.testing.assert_close(got, wanted)


def test_ids_are_in_the_order_of_their_first_row():
    z = {"a": torch.ones(2, 1), "b": torch.ones(3, 1)}
    _, mask, order = stack_by_id(z, {"a": torch.tensor([9, 2]), "b": torch.tensor([7, 2, 1])})
    assert order == [9, 2, 7, 1]
    assert mask.tolist() == [[True, False], [True, True], [False, True], [False, True]]


def test_a_modality_may_be_absent_from_a_batch():
    z, mask, order = stack_by_id(
        {"a": torch.ones(2, 3), "b": torch.zeros(0, 3)}, {"a": ["x", "y"], "b": []}
    )
    assert (z.shape, mask.tolist(), order) == ((2, 2, 3), [[True, False]] * 2, ["x", "y"])
    z, mask, order = stack_by_id({"a": torch.zeros(0, 3)}, {"a": []})
    assert (z.shape, mask.shape, order) == ((0, 1, 3), (0, 1), [])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([3, 4], np.array([4, 5]), [3, 4, 5]),
        (np.array([3, 4], dtype=np.uint8), torch.tensor([4, 5]), [3, 4, 5]),
        (["3", "4"], np.array(["4", "5"]), ["3", "4", "5"]),
        (np.array(["3", "4"], dtype=object), [np.str_("4"), "5"], ["3", "4", "5"]),
        ((np.int64(3), 4), [4, np.int32(5)], [3, 4, 5]),
    ],
)
def test_ids_of_one_kind_match_and_are_plain_values(first, second, expected):
    z = {"a": torch.ones(2, 1), "b": torch.ones(2, 1)}
    _, mask, order = stack_by_id(z, {"a": first, "b": second})
    assert order == expected
    assert {type(row_id) for row_id in order} == {type(expected[0])}
    assert mask.tolist() == [[True, False], [True, True], [False, True]]


@pytest.mark.parametrize("wrong", [None, 1.5, float("nan"), True, np.float32(1), ("a", 1), b"a"])
def test_ids_of_another_kind_are_an_error(wrong):
    with pytest.raises(TypeError, match=r"`ids\['a'\]` must be strings or integers, got "):
        stack_by_id({"a": ROWS}, {"a": ["x", wrong]})


@pytest.mark.parametrize("second", [["1", "3"], np.array(["1", "3"])])
@pytest.mark.parametrize("first", [[1, 2], torch.tensor([1, 2]), np.array([1, 2])])
def test_strings_and_integers_together_are_an_error(first, second):
    z = {"a": ROWS, "b": ROWS}
    with pytest.raises(TypeError, match=r"one kind, .*'a': 'integers', 'b': 'strings'"):
        stack_by_id(z, {"a": first, "b": second})
    with pytest.raises(TypeError, match=r"all strings or all integers, got 1 and '1'"):
        stack_by_id(
            {"a": ROWS}, {"a": [first[0], second[0]] if isinstance(first, list) else [1, "1"]}
        )
    # A modality without rows has no kind.
    assert stack_by_id({"a": ROWS, "b": ROWS[:0]}, {"a": second, "b": []})[2] == ["1", "3"]


ROWS = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("z", "ids", "error", "message"),
    [
        ({}, {}, ValueError, "`z` is empty"),
        ({"a": ROWS}, {"b": [1, 2]}, KeyError, "same names, got ['a'] and ['b']"),
        ({"a": ROWS.long()}, {"a": [1, 2]}, TypeError, "`z['a']` must be a floating-point tensor"),
        ({"a": ROWS}, {"a": [1]}, ValueError, "one row for each of its 1 ids, got (2, 3)"),
        ({"a": ROWS[0]}, {"a": [1, 2, 3]}, ValueError, "`z['a']` must have shape (n, D)"),
        ({"a": ROWS}, {"a": [5, 5]}, ValueError, "must be distinct, but 5 occurs more than once"),
        ({"a": ROWS}, {"a": "ab"}, TypeError, "`ids['a']` must be a sequence of ids, got str"),
        ({"a": ROWS}, {"a": 3}, TypeError, "must be a sequence of ids, got int."),
        ({"a": ROWS}, {"a": torch.ones(2)}, TypeError, "tensor of integers (n,), got torch.float"),
        ({"a": ROWS}, {"a": torch.ones(2) > 0}, TypeError, "tensor of integers (n,), got torch.bo"),
        (
            {"a": ROWS, "b": torch.ones(1, 4)},
            {"a": [1, 2], "b": [1]},
            ValueError,
            "the same width D, got [3, 4]",
        ),
    ],
)
def test_invalid_arguments_are_an_error(z, ids, error, message):
    with pytest.raises(error, match="stack_by_id: .*" + re.escape(message)):
        stack_by_id(z, ids)


def test_an_id_that_occurs_in_several_modalities_is_one_sample():
    z, mask, _ = stack_by_id(
        {name: normal(seeded(i), 3, 2) for i, name in enumerate(NAMES)},
        {name: torch.arange(3).roll(i) for i, name in enumerate(NAMES)},
    )
    assert mask.all()
    assert z.shape == (3, 3, 2)
