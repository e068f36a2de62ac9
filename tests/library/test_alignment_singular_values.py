"""Laws of alignment by singular values, and its use on representations filled by PPCA."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.alignment import singular_value_alignment_loss
from invmod.imputation import PPCAImputer
from invmod.testing import (
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_permutation_invariant,
)
from tests.strategies import (
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    laws,
    normal,
    random_mask,
    seeded,
)


def reference(z, mask, temperature, reduction, weights=None):
    """The equation, with NumPy's singular value decomposition of each sample."""
    losses, compared = np.zeros(len(z)), np.zeros(len(z))
    for j, (rows, available) in enumerate(zip(z, mask, strict=True)):
        if available.sum() < 2:
            continue
        lengths = np.linalg.norm(rows[available], axis=1, keepdims=True)
        sigma = np.linalg.svd(rows[available] / lengths, compute_uv=False)
        logits = np.sqrt(sigma**2 + 1e-6) / temperature
        losses[j] = np.log(np.exp(logits - logits[0]).sum())
        compared[j] = 1
    w = np.ones(len(z)) if weights is None else weights
    if reduction == "none":
        return w * losses
    return (w * losses).sum() / (((w * compared).sum() or 1) if reduction == "mean" else 1)


@laws
@given(
    generators(),
    NUM_ROWS,
    NUM_MODALITIES,
    st.integers(1, 5),
    st.sampled_from(["none", "sum", "mean"]),
    st.booleans(),
)
def test_the_loss_is_that_of_numpy(generator, num_rows, num_modalities, width, reduction, weighted):
    z = normal(generator, num_rows, num_modalities, width)
    mask = random_mask(generator, num_rows, num_modalities)
    weights = torch.rand(num_rows, generator=generator).double() if weighted else None
    loss = singular_value_alignment_loss(
        z, mask, temperature=0.4, weights=weights, reduction=reduction
    )
    expected = reference(
        z.numpy(), mask.numpy(), 0.4, reduction, None if weights is None else weights.numpy()
    )
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-7, atol=1e-7)


@laws
@given(generators(), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_masks_orders_lengths_signs_and_rotations(generator, num_rows, num_modalities, masked):
    z = normal(generator, num_rows, num_modalities, 4)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    loss = singular_value_alignment_loss(z, mask)
    scale = normal(generator, num_rows, num_modalities, 1).abs() + 0.1
    sign = torch.where(normal(generator, num_rows, num_modalities, 1) > 0, 1.0, -1.0)
    rotation = torch.linalg.qr(normal(generator, 4, 4)).Q
    for other in (scale * z, sign * z, z @ rotation):
        torch.testing.assert_close(singular_value_alignment_loss(other, mask), loss)
    assert_full_mask_equals_no_mask(singular_value_alignment_loss, z)
    assert_mask_honoured(
        singular_value_alignment_loss, z, random_mask(generator, num_rows, num_modalities)
    )
    assert_permutation_invariant(singular_value_alignment_loss, z, dim=1)


def test_equal_rows_have_the_smallest_loss_without_a_gradient_and_orthogonal_ones_the_largest():
    equal = torch.ones(2, 3, 4, dtype=torch.float64).requires_grad_()
    smallest = singular_value_alignment_loss(equal, temperature=1.0)
    assert smallest.item() == pytest.approx(math.log(1 + 2 * math.exp(-math.sqrt(3))), abs=1e-3)
    (gradient,) = torch.autograd.grad(smallest, equal)
    assert gradient.abs().max() < 1e-9
    orthogonal = torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4)
    largest = singular_value_alignment_loss(orthogonal, temperature=1.0)
    assert largest.item() == pytest.approx(math.log(3))
    between = [
        singular_value_alignment_loss(normal(seeded(s), 1, 3, 4), temperature=1.0)
        for s in range(20)
    ]
    assert all(smallest < loss < largest for loss in between)


def test_gradients_agree_with_finite_differences():
    z = normal(seeded(0), 4, 3, 5).requires_grad_()
    mask = random_mask(seeded(1), 4, 3, share=0.8)
    assert torch.autograd.gradcheck(
        lambda z: singular_value_alignment_loss(z, mask, temperature=0.5, reduction="none"), z
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 3, 4), (0, 3, 4), (2, 4, 2), (2, 3, 0)])
def test_single_modalities_and_rows_of_zeros_or_ones_have_finite_gradients(shape, value):
    z = torch.full(shape, value, requires_grad=True)
    loss = singular_value_alignment_loss(z)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    if 1 in shape[:2] or 0 in shape:
        assert loss == 0


def test_descent_on_the_loss_aligns_the_modalities_of_each_sample():
    z = normal(seeded(0), 16, 3, 8).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        singular_value_alignment_loss(z, temperature=1.0).backward()
        optimiser.step()
    sigma = torch.linalg.svdvals(torch.nn.functional.normalize(z, dim=2))
    assert (sigma[:, 0] > 0.99 * math.sqrt(3)).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "`temperature` must be positive, got 0.0."),
        ({"reduction": "item_mean"}, ValueError, "must be 'none', 'sum' or 'mean'"),
        ({"weights": torch.ones(3)}, ValueError, "`weights` must have shape (N,) = (2,)"),
        ({"mask": torch.ones(2, 2).bool()}, ValueError, "`mask` must have shape (N, M) = (2, 3)"),
    ],
)
def test_invalid_arguments_are_an_error(options, error, message):
    with pytest.raises(error, match="singular_value_alignment_loss: .*" + re.escape(message)):
        singular_value_alignment_loss(torch.ones(2, 3, 4), **options)


# --- the recipe of the page on alignment: representations filled by probabilistic PCA


def test_filled_representations_pull_on_the_observed_ones_alone():
    generator = seeded(0)
    factors = normal(generator, 80, 2)
    z = torch.stack([factors @ normal(generator, 2, 4) for _ in range(3)], dim=1)
    z = (z + 0.05 * normal(generator, 80, 3, 4)).requires_grad_()
    observed = random_mask(generator, 80, 3, share=0.7)
    names = ["a", "b", "c"]
    imputer = PPCAImputer(names, num_components=2, noise="modality", standardize=False)
    detached = dict(zip(names, z.detach().unbind(1), strict=True))
    filled, usable = imputer.fit(detached, observed)(detached, observed)
    fills = torch.stack([filled[name] for name in names], dim=1)
    loss = singular_value_alignment_loss(torch.where(observed[..., None], z, fills), usable)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient[observed].any()
    assert not gradient[~observed].any()
    # The fills of rows with two modalities or more are close to the missing representations.
    missing = ~observed & (observed.sum(dim=1) >= 2)[:, None]
    assert missing.sum() > 20
    error = (fills - z.detach())[missing].square().mean()
    assert error < 0.1 * z.detach()[missing].square().mean()
