"""Laws of `fuse`: a weighted sum that never uses masked cells."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod import CyclicMixupEnvs, fuse
from invmod.testing import (
    assert_constant_preserved,
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_permutation_equivariant,
    assert_permutation_invariant,
)
from tests.strategies import (
    NAN,
    NUM_ENVS,
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    gradients,
    laws,
    normal,
    poison,
    random_mask,
    seeded,
    simplex_rows,
)

TRAILING = st.sampled_from([(), (3,), (2, 3)])


def reference(z, weights, mask):
    """The documented formula with its special cases, as a loop over cells."""
    fused = np.zeros((len(weights), *z.shape[:1], *z.shape[2:]))
    for e, row in enumerate(weights):
        for n, available in enumerate(mask):
            if not available.any():
                continue
            available_weights = np.where(available, row, 0.0)
            if available_weights.sum() < 1e-290:
                available_weights = available.astype(float)
            available_weights = available_weights * (row.sum() / available_weights.sum())
            for m in np.flatnonzero(available):
                fused[e, n] += available_weights[m] * z[n, m]
    return fused


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES, TRAILING)
def test_fuse_is_the_weighted_sum(generator, num_envs, num_rows, num_modalities, trailing):
    z = normal(generator, num_rows, num_modalities, *trailing)
    weights = simplex_rows(generator, num_envs, num_modalities)
    h = fuse(z, weights)
    assert h.shape == (num_envs, num_rows, *trailing)
    np.testing.assert_allclose(h, np.einsum("em,nm...->en...", weights, z), atol=1e-12)


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES, TRAILING)
def test_fuse_with_a_mask_equals_the_reference_loop(
    generator, num_envs, num_rows, num_modalities, trailing
):
    z = normal(generator, num_rows, num_modalities, *trailing)
    weights = 3 * simplex_rows(generator, num_envs, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities, 0.4)
    h = fuse(z, weights, mask)
    assert h.shape == (num_envs, num_rows, *trailing)
    np.testing.assert_allclose(h, reference(z.numpy(), weights.numpy(), mask.numpy()), atol=1e-12)


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES)
def test_content_of_masked_cells_changes_neither_output_nor_gradient(
    generator, num_envs, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 2)
    mask = random_mask(generator, num_rows, num_modalities)
    weights = simplex_rows(generator, num_envs, num_modalities).requires_grad_()
    assert_mask_honoured(lambda z, mask: fuse(z, weights, mask), z, mask, parameters=[weights])


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES)
def test_an_all_true_mask_equals_none(generator, num_envs, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, 3)
    weights = 2 * simplex_rows(generator, num_envs, num_modalities)
    weights[0] = 0.0
    assert_full_mask_equals_no_mask(lambda z, mask: fuse(z, weights, mask), z, rtol=0, atol=1e-12)


@laws
@given(generators(), NUM_ENVS, st.integers(1, 6), NUM_MODALITIES, st.booleans())
def test_a_constant_is_preserved(generator, num_envs, num_rows, num_modalities, masked):
    constant = normal(generator, num_rows, 3)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    weights = simplex_rows(generator, num_envs, num_modalities)
    assert_constant_preserved(
        lambda z, mask: fuse(z, weights, mask), constant, num_modalities, mask, rtol=0, atol=1e-12
    )


@laws
@given(generators(), NUM_ENVS, st.integers(1, 6), NUM_MODALITIES)
def test_a_row_keeps_its_total_weight(generator, num_envs, num_rows, num_modalities):
    weights = (
        simplex_rows(generator, num_envs, num_modalities)
        * torch.linspace(0.1, 4.0, num_envs)[:, None]
    )
    mask = random_mask(generator, num_rows, num_modalities, 0.5)
    total = fuse(torch.ones(num_rows, num_modalities, dtype=torch.float64), weights, mask)
    expected = weights.sum(dim=1)[:, None] * mask.any(dim=1)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES)
def test_the_order_of_modalities_does_not_matter(generator, num_envs, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, 3)
    weights = simplex_rows(generator, num_envs, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities)
    assert_permutation_invariant(fuse, z, weights, mask, dim=1, rtol=0, atol=1e-12)


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES)
def test_samples_keep_their_order(generator, num_envs, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    weights = simplex_rows(generator, num_envs, num_modalities)
    assert_permutation_equivariant(
        lambda z, mask: fuse(z, weights, mask), z, mask, dim=0, output_dim=1, rtol=0, atol=1e-12
    )


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES, st.booleans())
def test_fuse_commutes_with_a_linear_head(generator, num_envs, num_rows, num_modalities, masked):
    z, head = normal(generator, num_rows, num_modalities, 4), normal(generator, 4, 3)
    weights = simplex_rows(generator, num_envs, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    torch.testing.assert_close(
        fuse(z @ head, weights, mask), fuse(z, weights, mask) @ head, rtol=0, atol=1e-12
    )


def test_fallback_values_are_the_documented_ones():
    z = torch.tensor([[1.0, 3.0, 8.0]])
    one_hot = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    first_missing = torch.tensor([[False, True, True]])
    assert fuse(z, one_hot, first_missing).tolist() == [[5.5], [6.0]]
    assert fuse(z, one_hot, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0], [0.0]]
    half_missing = torch.tensor([[True, False, True]])
    assert fuse(z, torch.tensor([[0.25, 0.5, 0.25]]), half_missing).tolist() == [[4.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [1.0, 0.9, 0.99, 1.01])
def test_tiny_sums_of_weights_give_finite_gradients(dtype, exponent):
    """A subnormal sum of weights counts as 0, so learned weights get neither infinity nor NaN."""
    tiny = torch.finfo(dtype).tiny ** exponent
    weights = torch.tensor(
        [[1.0, tiny, tiny], [1.0, 0.0, tiny / 8]], dtype=dtype, requires_grad=True
    )
    z = torch.tensor([[5.0, 1.0, 3.0], [9.0, 2.0, -4.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[False, True, True], [True, False, True]])
    h = fuse(z, weights, mask)
    assert h.isfinite().all()
    for gradient in gradients(h, z, weights):
        assert gradient.isfinite().all()


def test_a_sum_below_the_stated_limit_counts_as_zero_and_one_above_it_does_not():
    limits = torch.finfo(torch.float32)
    limit = limits.tiny / limits.eps
    z, mask = torch.tensor([[7.0, 1.0, 3.0]]), torch.tensor([[False, True, True]])
    below, above = (torch.tensor([[1.0, limit * factor, 0.0]]) for factor in (0.5, 2.0))
    assert fuse(z, below, mask).item() == 2.0
    assert fuse(z, above, mask).item() == 1.0


def test_environments_at_small_alpha_fuse_to_finite_values_and_gradients():
    weights = CyclicMixupEnvs(3, 0.01, num_draws=50).sample(generator=seeded(0)).requires_grad_()
    assert (weights == 0).float().mean() > 0.1
    z = normal(seeded(1), 20, 3, 4, dtype=torch.float32).requires_grad_()
    mask = random_mask(seeded(2), 20, 3)
    h = fuse(z, weights, mask)
    assert h.isfinite().all()
    assert (h.abs() <= z.abs().max() * (1 + 1e-5)).all()
    assert all(gradient.isfinite().all() for gradient in gradients(h, z, weights))


@laws
@given(generators(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_gradients_agree_with_finite_differences(
    generator, num_envs, num_rows, num_modalities, masked
):
    z = normal(generator, num_rows, num_modalities, 2).requires_grad_()
    weights = (simplex_rows(generator, num_envs, num_modalities) + 0.1).requires_grad_()
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    assert gradcheck(lambda z, weights: fuse(z, weights, mask), (z, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_returned_and_summed_in_float32(dtype):
    z = normal(seeded(0), 5, 8, 3).to(dtype)
    weights = simplex_rows(seeded(1), 4, 8, dtype=torch.float32)
    mask = random_mask(seeded(2), 5, 8)
    for chosen in (None, mask):
        h = fuse(z, weights, chosen)
        assert h.dtype == dtype
        torch.testing.assert_close(
            h.float(), fuse(z.float(), weights, chosen), rtol=2e-2, atol=2e-2
        )
    # A sum of ones in bfloat16 would stop at 256, where adding 1 no longer changes it.
    many = torch.ones(1, 4096, dtype=dtype)
    everything = torch.ones(1, 4096, dtype=torch.bool)
    assert fuse(many, torch.full((1, 4096), 1 / 4096), everything).item() == 1.0


def test_weights_are_cast_to_the_dtype_of_z():
    z, weights = torch.ones(2, 3), torch.full((1, 3), 1 / 3, dtype=torch.float64)
    assert fuse(z, weights).dtype == torch.float32
    assert fuse(z, weights, torch.ones(2, 3, dtype=torch.bool)).dtype == torch.float32


@pytest.mark.parametrize("masked", [False, True])
def test_no_rows_and_no_environments_give_empty_results(masked):
    mask = torch.zeros(0, 3, dtype=torch.bool) if masked else None
    z = torch.zeros(0, 3, 4, requires_grad=True)
    h = fuse(z, torch.ones(2, 3), mask)
    assert h.shape == (2, 0, 4)
    assert gradients(h, z)[0].shape == (0, 3, 4)
    assert fuse(torch.zeros(5, 3), torch.ones(0, 3)).shape == (0, 5)


@pytest.mark.parametrize(
    ("z", "weights", "mask", "error", "message"),
    [
        (
            torch.ones(2, 3, dtype=torch.int64),
            torch.ones(1, 3),
            None,
            TypeError,
            "`z` must be a floating-point tensor, got",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3).long(),
            None,
            TypeError,
            "`weights` must be a floating-point tensor",
        ),
        (
            torch.ones(3),
            torch.ones(1, 3),
            None,
            ValueError,
            "`z` must have shape (N, M, ...) with at least one",
        ),
        (
            torch.ones(2, 0),
            torch.ones(1, 0),
            None,
            ValueError,
            "at least one modality, got (2, 0).",
        ),
        (
            torch.ones(2, 3),
            torch.ones(3),
            None,
            ValueError,
            "`weights` must have shape (E, M), or (N, E, M) with",
        ),
        (torch.ones(2, 3), torch.ones(1, 2), None, ValueError, "M = 3 as in `z`, got (1, 2)."),
        (
            torch.ones(2, 3),
            torch.ones(3, 1, 3),
            None,
            ValueError,
            "with N = 2, and M = 3 as in `z`, got (3, 1, 3).",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            torch.ones(2, 3),
            TypeError,
            "`mask` must have dtype torch.bool, got",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            torch.ones(2, 3),
            TypeError,
            "Use `mask.bool()` (True means available).",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            torch.ones(3, 2).bool(),
            ValueError,
            "shape (N, M) = (2, 3), got (3, 2).",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            torch.ones(3).bool(),
            ValueError,
            "`mask` must have shape (N, M), got (3",
        ),
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            [[True]],
            TypeError,
            "`mask` must be a tensor, got list.",
        ),
    ],
)
def test_invalid_input_is_an_error(z, weights, mask, error, message):
    with pytest.raises(error, match=f"fuse: .*{re.escape(message)}"):
        fuse(z, weights, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_with_and_without_a_mask(dtype):
    z = normal(seeded(3), 50, 4, 3).to(dtype)
    weights = simplex_rows(seeded(4), 5, 4).float()
    without = fuse(z, weights)
    assert without.dtype == dtype
    assert torch.equal(without, fuse(z.float(), weights).to(dtype))
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(
        fuse(z, weights, torch.ones(50, 4).bool()), without, rtol=ulp, atol=1e-7
    )


@pytest.mark.parametrize(
    ("z", "weights", "name"),
    [([[1.0]], torch.ones(1, 1), "z"), (torch.ones(1, 1), [[1.0]], "weights")],
)
def test_an_argument_that_is_not_a_tensor_is_an_error(z, weights, name):
    with pytest.raises(
        TypeError, match=f"fuse: `{name}` must be a floating-point tensor, got list."
    ):
        fuse(z, weights)


# --- environments per sample


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES, TRAILING)
def test_weights_repeated_for_every_sample_are_shared_weights(
    generator, num_envs, num_rows, num_modalities, trailing
):
    z = normal(generator, num_rows, num_modalities, *trailing)
    weights = 3 * simplex_rows(generator, num_envs, num_modalities)
    own = weights.expand(num_rows, num_envs, num_modalities)
    for mask in (None, random_mask(generator, num_rows, num_modalities, 0.4)):
        h = fuse(z, own, mask)
        torch.testing.assert_close(h, fuse(z, weights, mask), rtol=0, atol=1e-12)


@laws
@given(generators(), NUM_ENVS, NUM_ROWS, NUM_MODALITIES, st.sampled_from([NAN, 1e9]))
def test_weights_per_sample_equal_the_reference_loop(
    generator, num_envs, num_rows, num_modalities, value
):
    z = normal(generator, num_rows, num_modalities, 2)
    weights = 2 * simplex_rows(generator, num_rows, num_envs, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities, 0.4)
    dirty = poison(z, mask, value).requires_grad_()
    h = fuse(dirty, weights, mask)
    expected = [
        reference(z[[n]].numpy(), weights[n].numpy(), mask[[n]].numpy())[:, 0]
        for n in range(num_rows)
    ]
    expected = np.stack(expected, axis=1) if num_rows else np.zeros((num_envs, 0, 2))
    np.testing.assert_allclose(h.detach(), expected, atol=1e-12)
    assert (gradients(h, dirty)[0][~mask] == 0).all()


def test_gradients_of_weights_per_sample_agree_with_finite_differences():
    generator = seeded(3)
    z, mask = normal(generator, 3, 4, 2).requires_grad_(), random_mask(generator, 3, 4, 0.6)
    weights = (simplex_rows(generator, 3, 2, 4) + 0.1).requires_grad_()
    assert gradcheck(lambda z, w: fuse(z, w, mask), (z, weights))
    assert gradcheck(fuse, (z, weights))
