"""Laws of the pairwise alignment loss: sums over the pairs of available modalities."""

import re
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from invmod import pairwise_alignment_loss
from invmod.testing import assert_mask_honoured, assert_permutation_invariant
from tests.library.torch_versions import needs_torch
from tests.strategies import (
    NAN,
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    gradients,
    laws,
    normal,
    poison,
    random_mask,
    seeded,
)

REDUCTIONS = ["none", "sum", "item_mean", "mean", "element_mean"]


def reference(z, mask, reduction):
    """The definition as a loop over samples and pairs."""
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
def test_loss_equals_a_loop_over_pairs(
    reduction, generator, num_rows, num_modalities, num_dims, masked
):
    z = normal(generator, num_rows, num_modalities, num_dims)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    everything = torch.ones(num_rows, num_modalities, dtype=torch.bool)
    loss = pairwise_alignment_loss(z, mask, reduction=reduction)
    torch.testing.assert_close(
        loss, reference(z, everything if mask is None else mask, reduction), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_content_of_masked_cells_changes_neither_output_nor_gradient(
    reduction, generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    assert_mask_honoured(
        lambda z, mask: pairwise_alignment_loss(z, mask, reduction=reduction), z, mask
    )


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
def test_without_a_pair_the_loss_is_an_attached_zero_with_zero_gradient(reduction, shape, mask):
    z = torch.full(shape, 7.0, requires_grad=True)
    loss = pairwise_alignment_loss(
        z, None if mask is None else torch.tensor(mask), reduction=reduction
    )
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


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(("num_modalities", "masked"), [(1, True), (2, False), (3, True)])
# torch's forward mode raises this warning itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_second_derivatives_and_forward_mode_are_correct(reduction, num_modalities, masked):
    z = normal(seeded(0), 3, num_modalities, 2).requires_grad_()
    mask = random_mask(seeded(1), 3, num_modalities) if masked else None

    def loss(z):
        return pairwise_alignment_loss(z, mask, reduction=reduction)

    assert gradgradcheck(loss, (z,))
    assert gradcheck(loss, (z,), check_forward_ad=True)


def test_gradient_of_the_gradient_norm_is_correct():
    """The loss is a quadratic form in z, so both derivatives have a closed form."""
    z = normal(seeded(0), 3, 3, 2).requires_grad_()
    mask = random_mask(seeded(1), 3, 3)
    (gradient,) = torch.autograd.grad(
        pairwise_alignment_loss(z, mask, reduction="sum"), z, create_graph=True
    )
    (curvature,) = torch.autograd.grad(gradient.square().sum(), z)
    laplacian = (
        torch.diag_embed(mask.sum(dim=1, keepdim=True) * mask)
        - 1.0 * mask[:, :, None] * mask[:, None, :]
    )
    torch.testing.assert_close(gradient, 2 * laplacian.double() @ z)
    torch.testing.assert_close(curvature, 8 * laplacian.double() @ laplacian.double() @ z)


@needs_torch("2.13", "vmap of the loss")
def test_functional_transforms_work():
    z = normal(seeded(2), 4, 3, 2)
    masks = torch.stack([random_mask(seeded(seed), 4, 3) for seed in range(5)])
    vmapped = torch.func.vmap(torch.func.grad(pairwise_alignment_loss))(
        z.expand(5, -1, -1, -1), masks
    )
    for got, mask in zip(vmapped, masks, strict=True):
        torch.testing.assert_close(got, torch.func.grad(pairwise_alignment_loss)(z, mask))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), st.integers(0, 4), st.integers(1, 4), st.booleans())
def test_a_row_of_weight_k_counts_as_k_copies(
    reduction, generator, num_rows, num_modalities, masked
):
    z = normal(generator, num_rows, num_modalities, 2).requires_grad_()
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    copies = torch.randint(0, 4, (num_rows,), generator=generator)
    got = pairwise_alignment_loss(z, mask, weights=copies, reduction=reduction)
    if reduction == "none":
        torch.testing.assert_close(
            got, copies * pairwise_alignment_loss(z, mask, reduction=reduction)
        )
        return
    rows = torch.repeat_interleave(torch.arange(num_rows), copies)
    expected = pairwise_alignment_loss(
        z[rows], None if mask is None else mask[rows], reduction=reduction
    )
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients(got, z), gradients(expected, z))


@pytest.mark.parametrize("reduction", ["item_mean", "mean", "element_mean"])
@pytest.mark.parametrize("share", [1e-12, 0.01, 0.3, 7.5])
@laws
@given(generators(), st.integers(1, 4), st.integers(2, 4))
def test_a_mean_does_not_depend_on_the_scale_of_the_weights(
    reduction, share, generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 2)
    mask = random_mask(generator, num_rows, num_modalities)
    weights = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    got = pairwise_alignment_loss(z, mask, weights=share * weights, reduction=reduction)
    torch.testing.assert_close(
        got, pairwise_alignment_loss(z, mask, weights=weights, reduction=reduction)
    )


@laws
@given(generators(), st.integers(1, 5), st.integers(2, 4))
def test_parts_weighted_by_one_over_the_copies_sum_to_the_whole(
    generator, num_rows, num_modalities
):
    """Two ranks have rows in common; with weights of one over the copies each row counts once."""
    z = normal(generator, num_rows, num_modalities, 2)
    mask = random_mask(generator, num_rows, num_modalities)
    rows_of_ranks = torch.rand((2, num_rows), generator=generator) < 0.7
    copies = rows_of_ranks.sum(dim=0)
    parts = [
        pairwise_alignment_loss(
            z[rank], mask[rank], weights=1 / copies[rank].double(), reduction="sum"
        )
        for rank in rows_of_ranks
    ]
    whole = pairwise_alignment_loss(z[copies > 0], mask[copies > 0], reduction="sum")
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_zero_weights_give_zero_with_zero_gradient(reduction):
    z = normal(seeded(0), 3, 2, 2).requires_grad_()
    loss = pairwise_alignment_loss(z, weights=torch.zeros(3), reduction=reduction)
    assert (loss == 0).all()
    loss.sum().backward()
    assert (z.grad == 0).all()


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_loss_is_invariant_to_order_and_shift_and_quadratic_in_scale(
    generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    for dim in (0, 1):  # samples, modalities
        assert_permutation_invariant(pairwise_alignment_loss, z, mask, dim=dim)
    loss = pairwise_alignment_loss(z, mask)
    torch.testing.assert_close(
        pairwise_alignment_loss(z + normal(generator, num_rows, 1, 3), mask), loss
    )
    torch.testing.assert_close(pairwise_alignment_loss(3 * z, mask), 9 * loss)


def test_equal_modalities_have_loss_zero():
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
        (
            torch.ones(2, 3, 4).long(),
            None,
            {},
            TypeError,
            "`z` must be a floating-point tensor, got torch.int64.",
        ),
        (
            torch.ones(2, 3),
            None,
            {},
            ValueError,
            "with at least one modality, got (2, 3).",
        ),
        (
            torch.ones(2, 3, 4),
            torch.ones(2, 3),
            {},
            TypeError,
            "`mask` must have dtype torch.bool, got torch.float32.",
        ),
        (
            torch.ones(2, 3, 4),
            torch.ones(3, 3).bool(),
            {},
            ValueError,
            "shape (N, M) = (2, 3), got (3, 3).",
        ),
        (
            torch.ones(2, 3, 4),
            None,
            {"weights": [1.0, 1.0]},
            TypeError,
            "`weights` must be a tensor of real numbers, got list",
        ),
        (
            torch.ones(2, 3, 4),
            None,
            {"weights": torch.ones(2).cfloat()},
            TypeError,
            "real numbers, got torch.complex64.",
        ),
        (
            torch.ones(2, 3, 4),
            None,
            {"weights": torch.ones(3)},
            ValueError,
            "`weights` must have shape (N,) = (2,), got (3,).",
        ),
        (
            torch.ones(2, 3, 4),
            None,
            {"reduction": "max"},
            ValueError,
            "'mean', 'element_mean', got 'max'.",
        ),
    ],
)
def test_invalid_input_is_an_error(z, mask, options, error, message):
    with pytest.raises(error, match=f"pairwise_alignment_loss: .*{re.escape(message)}"):
        pairwise_alignment_loss(z, mask, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_modality_gives_an_attached_zero_even_for_nan(reduction):
    z = torch.tensor([[[torch.inf, 1.0]], [[NAN, -torch.inf]]], requires_grad=True)
    loss = pairwise_alignment_loss(z, reduction=reduction)
    assert (loss == 0).all()
    loss.sum().backward()
    assert (z.grad == 0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_formula_for_compilers_equals_the_autograd_function(
    reduction, generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    z = poison(z, mask, NAN).requires_grad_()
    closed = pairwise_alignment_loss(z, mask, reduction=reduction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        plain = pairwise_alignment_loss(z, mask, reduction=reduction)
    torch.testing.assert_close(plain, closed)
    torch.testing.assert_close(gradients(plain, z), gradients(closed, z))
