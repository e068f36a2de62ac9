"""Laws of the more-versus-fewer ranking loss and of the rate of violations."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.objectives import counter_intuitive_rate, more_vs_fewer_loss
from tests.strategies import NAN, generators, laws, normal, random_mask, seeded


def drawn(generator, num_rows, num_modalities):
    """Losses with more and with fewer modalities, and the two masks; some rows are equal."""
    more, fewer = normal(generator, num_rows), normal(generator, num_rows)
    mask_more = random_mask(generator, num_rows, num_modalities)
    mask_fewer = mask_more & random_mask(generator, num_rows, num_modalities, share=0.8)
    return more, fewer, mask_more, mask_fewer


@laws
@given(generators(), st.integers(0, 8), st.integers(1, 4))
def test_loss_and_rate_are_those_of_numpy(generator, num_rows, num_modalities):
    more, fewer, mask_more, mask_fewer = drawn(generator, num_rows, num_modalities)
    excess = [
        (more[i] - fewer[i]).item()
        for i in range(num_rows)
        if (mask_more[i] != mask_fewer[i]).any()
    ]
    loss = more_vs_fewer_loss(more, fewer, mask_more, mask_fewer)
    rate = counter_intuitive_rate(more, fewer, mask_more, mask_fewer)
    if excess:
        assert loss.item() == pytest.approx(np.maximum(excess, 0).mean())
        assert rate.item() == pytest.approx(np.mean(np.array(excess) > 0))
    else:
        assert loss == 0
        assert rate.isnan()


@laws
@given(generators(), st.integers(1, 6))
def test_the_loss_ignores_common_shifts_and_scales_with_the_losses(generator, num_rows):
    more, fewer, *masks = drawn(generator, num_rows, 3)
    loss = more_vs_fewer_loss(more, fewer, *masks)
    shift = normal(generator, num_rows)
    torch.testing.assert_close(more_vs_fewer_loss(more + shift, fewer + shift, *masks), loss)
    torch.testing.assert_close(more_vs_fewer_loss(3 * more, 3 * fewer, *masks), 3 * loss)
    order = torch.randperm(num_rows, generator=generator)
    permuted = (x[order] for x in (more, fewer, *masks))
    torch.testing.assert_close(more_vs_fewer_loss(*permuted), loss)


def test_a_model_that_gets_better_with_more_has_loss_and_rate_0():
    fewer = normal(seeded(0), 5)
    more = (fewer - 0.1).requires_grad_()
    loss = more_vs_fewer_loss(more, fewer)
    loss.backward()
    assert loss == 0
    assert not more.grad.any()
    assert counter_intuitive_rate(more, fewer) == 0
    assert counter_intuitive_rate(fewer, fewer) == 0  # equal losses are in order


@pytest.mark.parametrize("detach_fewer", [False, True])
def test_the_gradient_is_one_over_the_number_of_rows_that_count_where_the_order_is_violated(
    detach_fewer,
):
    more = torch.tensor([1.0, 3.0, 5.0, 9.0], requires_grad=True)
    fewer = torch.tensor([2.0, 1.0, 4.0, 0.0], requires_grad=True)
    masks = torch.ones(4, 2, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool)
    masks[1][:3, 0] = False  # the last row has equal masks
    loss = more_vs_fewer_loss(more, fewer, *masks, detach_fewer=detach_fewer)
    loss.backward()
    assert loss.item() == pytest.approx((2 + 1) / 3)
    torch.testing.assert_close(more.grad, torch.tensor([0.0, 1.0, 1.0, 0.0]) / 3)
    if detach_fewer:
        assert fewer.grad is None
    else:
        torch.testing.assert_close(fewer.grad, -torch.tensor([0.0, 1.0, 1.0, 0.0]) / 3)


def test_above_a_weight_of_1_the_model_is_paid_for_getting_worse_with_fewer_modalities():
    """The docstring's warning, and what detaching does about it."""
    more, fewer = torch.tensor([3.0]), torch.tensor([1.0], requires_grad=True)
    for weight, detach_fewer, sign in ((0.5, False, 1), (2.0, False, -1), (2.0, True, 1)):
        penalty = more_vs_fewer_loss(more, fewer, detach_fewer=detach_fewer)
        total = more.mean() + fewer.mean() + weight * penalty
        assert torch.autograd.grad(total, fewer)[0].sign() == sign


def test_without_a_row_that_counts_the_loss_is_a_zero_attached_to_the_graph():
    for more in (torch.zeros(0), torch.tensor([NAN, 1.0])):
        more.requires_grad_()
        masks = torch.ones(len(more), 2, dtype=torch.bool)
        loss = more_vs_fewer_loss(more, more.detach(), masks, masks)
        loss.backward()
        assert loss == 0
        assert not more.grad.any()


def test_half_precision_is_computed_in_float32():
    more, fewer = torch.tensor([1.0]).half(), torch.tensor([0.5]).bfloat16()
    assert more_vs_fewer_loss(more, fewer).dtype == torch.float32
    assert counter_intuitive_rate(more, fewer).dtype == torch.float32


MASK = torch.ones(2, 3, dtype=torch.bool)
LESS = torch.tensor([[True, False, True], [True, True, True]])


@pytest.mark.parametrize("function", [more_vs_fewer_loss, counter_intuitive_rate])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(2).long(), torch.ones(2)), TypeError, "`more` must be a floating-point"),
        ((torch.ones(2), [1.0, 1.0]), TypeError, "`fewer` must be a floating-point tensor"),
        ((torch.ones(2), torch.ones(3)), ValueError, "shape (N,), one loss per sample, got (2,)"),
        ((torch.ones(2, 1), torch.ones(2, 1)), ValueError, "shape (N,), one loss per sample"),
        ((torch.ones(2), torch.ones(2), MASK), TypeError, "give both `mask_more` and `mask_fewer`"),
        (
            (torch.ones(2), torch.ones(2), MASK, LESS.float()),
            TypeError,
            "`mask_fewer` must be a bool tensor (N, M), got torch.float32.",
        ),
        (
            (torch.ones(2), torch.ones(2), MASK, LESS[:1]),
            ValueError,
            "shape (N, M) with N = 2, got (2, 3) and (1, 3).",
        ),
        (
            (torch.ones(2), torch.ones(2), LESS, MASK),
            ValueError,
            "`mask_fewer` must be a part of `mask_more`, but 1 rows have a modality in "
            "`mask_fewer` alone, the first is row 0. Use `mask_fewer & mask_more`.",
        ),
    ],
)
def test_invalid_arguments_are_an_error(function, arguments, error, message):
    with pytest.raises(error, match=function.__name__ + ": .*" + re.escape(message)):
        function(*arguments)
