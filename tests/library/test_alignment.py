"""Laws of the alignment loss: sums over pairs, of what is available."""

import re
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod import pairwise_alignment_loss
from tests.strategies import NAN, NUM_MODALITIES, NUM_ROWS, generators, gradients, laws, normal, poison, random_mask

REDUCTIONS = ["none", "sum", "item_mean", "mean", "element_mean"]


def reference(z, mask, reduction):
    """A loop over samples and pairs, to the letter."""
    num_rows, num_modalities, num_dims = z.shape
    s, pairs = [], 0
    for c, available in zip(z.tolist(), mask.tolist(), strict=True):
        total = 0.0
        for m, other in combinations(range(num_modalities), 2):
            if available[m] and available[other]:
                pairs += 1
                total += sum((x - y) ** 2 for x, y in zip(c[m], c[other], strict=True))
        s.append(total)
    if reduction == "none":
        return torch.tensor(s, dtype=torch.float64)
    divisor = {
        "sum": 1,
        "item_mean": max(num_rows, 1),
        "mean": max(pairs, 1),
        "element_mean": max(pairs, 1) * num_dims,
    }
    return torch.tensor(sum(s) / divisor[reduction], dtype=torch.float64)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.integers(1, 4), st.booleans())
def test_it_is_the_loop_over_pairs(reduction, generator, num_rows, num_modalities, num_dims, masked):
    z = normal(generator, num_rows, num_modalities, num_dims)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    everything = torch.ones(num_rows, num_modalities, dtype=torch.bool)
    loss = pairwise_alignment_loss(z, mask, reduction=reduction)
    torch.testing.assert_close(loss, reference(z, everything if mask is None else mask, reduction), atol=1e-10, rtol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.sampled_from([NAN, 1e9, float("inf")]))
def test_what_lies_in_a_masked_cell_changes_neither_output_nor_gradient(
    reduction, generator, num_rows, num_modalities, value
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    clean, dirty = z.clone().requires_grad_(), poison(z, mask, value).requires_grad_()
    losses = [pairwise_alignment_loss(x, mask, reduction=reduction) for x in (clean, dirty)]
    assert torch.equal(*losses)
    expected, got = gradients(losses[0], clean)[0], gradients(losses[1], dirty)[0]
    assert torch.equal(expected, got)
    assert (got[~mask] == 0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((0, 3, 2), None),
        ((4, 1, 2), None),
        ((3, 2, 2), [[True, False], [False, True], [False, False]]),
        ((2, 3, 0), None),
    ],
)
def test_without_a_pair_it_is_a_zero_on_the_graph_with_zero_gradient(reduction, shape, mask):
    z = torch.full(shape, 7.0, requires_grad=True)
    loss = pairwise_alignment_loss(z, None if mask is None else torch.tensor(mask), reduction=reduction)
    assert loss.requires_grad
    assert (loss == 0).all()
    loss.sum().backward()
    assert z.grad is not None
    assert (z.grad == 0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), st.integers(1, 3), st.integers(1, 4))
def test_gradients_agree_with_finite_differences(reduction, generator, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, 2).requires_grad_()
    mask = random_mask(generator, num_rows, num_modalities)
    assert gradcheck(lambda z: pairwise_alignment_loss(z, mask, reduction=reduction), (z,))


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_order_and_a_common_shift_do_not_matter_and_scale_does(generator, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    order = torch.randperm(num_modalities, generator=generator)
    loss = pairwise_alignment_loss(z, mask)
    torch.testing.assert_close(pairwise_alignment_loss(z[:, order], mask[:, order]), loss)
    torch.testing.assert_close(pairwise_alignment_loss(z + normal(generator, num_rows, 1, 3), mask), loss)
    torch.testing.assert_close(pairwise_alignment_loss(3 * z, mask), 9 * loss)


def test_equal_modalities_are_aligned():
    assert pairwise_alignment_loss(torch.randn(5, 1, 3).expand(-1, 2, -1)) == 0


def test_at_two_modalities_element_mean_is_the_mean_squared_error():
    z = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = torch.nn.functional.mse_loss(z[:, 0], z[:, 1])
    torch.testing.assert_close(pairwise_alignment_loss(z, reduction="element_mean"), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    z = torch.zeros(2, 2, 4, dtype=dtype)
    z[:, 0] = 300.0  # 300^2 overflows float16
    loss = pairwise_alignment_loss(z, reduction="sum")
    assert loss.dtype == torch.float32
    assert loss.item() == 2 * 4 * 300.0**2


@pytest.mark.parametrize(
    ("z", "mask", "options", "error", "message"),
    [
        (torch.ones(2, 3, 4).long(), None, {}, TypeError, "`z` must be floating point, got torch.int64."),
        (torch.ones(2, 3), None, {}, ValueError, "`z` must have shape (N, M, D) with M >= 1, got (2, 3)."),
        (torch.ones(2, 3, 4), torch.ones(2, 3), {}, TypeError, "`mask` must have dtype torch.bool, got torch.float32."),
        (torch.ones(2, 3, 4), torch.ones(3, 3).bool(), {}, ValueError, "shape (N, M) = (2, 3), got (3, 3)."),
        (torch.ones(2, 3, 4), None, {"reduction": "max"}, ValueError, "'mean', 'element_mean', got 'max'."),
    ],
)
def test_what_does_not_fit_is_an_error(z, mask, options, error, message):
    with pytest.raises(error, match=f"pairwise_alignment_loss: .*{re.escape(message)}"):
        pairwise_alignment_loss(z, mask, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_modality_gives_an_attached_zero_whatever_it_holds(reduction):
    z = torch.tensor([[[torch.inf, 1.0]], [[NAN, -torch.inf]]], requires_grad=True)
    loss = pairwise_alignment_loss(z, reduction=reduction)
    assert (loss == 0).all()
    loss.sum().backward()
    assert (z.grad == 0).all()
