"""Laws of all alignment losses: loops over pairs, masks, anchors, and detached anchors."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod import infonce_alignment_loss, pairwise_alignment_loss
from invmod.alignment import coral_alignment_loss, cosine_alignment_loss
from invmod.testing import (
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_permutation_invariant,
)
from tests.strategies import (
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    gradients,
    laws,
    normal,
    random_mask,
    seeded,
)

TEMPERATURE = 0.4
LOSSES = {
    "squared": pairwise_alignment_loss,
    "cosine": cosine_alignment_loss,
    "infonce": lambda z, mask=None, **options: infonce_alignment_loss(
        z, mask, **{"temperature": TEMPERATURE} | options
    ),
    "coral": coral_alignment_loss,
    "coral with means": lambda z, mask=None, **options: coral_alignment_loss(
        z, mask, means=True, **options
    ),
}
BY_SAMPLE = ["squared", "cosine", "infonce"]


# --- reference implementations: plain loops


def pair_list(num_modalities, anchor):
    return (
        list(combinations(range(num_modalities), 2))
        if anchor is None
        else [(anchor, m) for m in range(num_modalities) if m != anchor]
    )


def unit(x):
    return x / np.linalg.norm(x) if np.linalg.norm(x) > 0 else np.zeros_like(x)


def pair_loss(kind, z, mask, j, m, other):
    if kind == "squared":
        return ((z[j, m] - z[j, other]) ** 2).sum()
    if kind == "cosine":
        return 1 - unit(z[j, m]) @ unit(z[j, other])
    directions = []
    for a, b in ((m, other), (other, m)):
        scores = [unit(z[j, a]) @ unit(z[i, b]) / TEMPERATURE for i in range(len(z)) if mask[i, b]]
        directions.append(
            math.log(sum(map(math.exp, scores))) - unit(z[j, a]) @ unit(z[j, b]) / TEMPERATURE
        )
    return sum(directions) / 2


def reference(kind, z, mask, anchor, reduction, weights=None):
    """Reduce the losses (N,) and numbers of pairs (N,) of a plain loop."""
    num_rows, num_modalities, _ = z.shape
    s, p = np.zeros(num_rows), np.zeros(num_rows)
    for j in range(num_rows):
        for m, other in pair_list(num_modalities, anchor):
            if mask[j, m] and mask[j, other]:
                p[j] += 1
                s[j] += pair_loss(kind, z, mask, j, m, other)
    w = np.ones(num_rows) if weights is None else weights
    if reduction == "none":
        return w * s
    divisor = {"sum": 1, "item_mean": w.sum(), "mean": (w * p).sum()}[reduction]
    return (w * s).sum() / (divisor or 1)


def coral_reference(z, mask, anchor, means, normalisation, reduction):
    dim, losses = z.shape[2], []
    for m, other in pair_list(z.shape[1], anchor):
        rows = mask[:, m] & mask[:, other]
        if rows.sum() < 2:
            continue
        a, b = z[rows, m], z[rows, other]
        difference = np.cov(a.T).reshape(dim, dim) - np.cov(b.T).reshape(dim, dim)
        loss = (difference**2).sum() / dim**2 / (4 if normalisation == "paper" else 1)
        losses.append(loss + (means and ((a.mean(axis=0) - b.mean(axis=0)) ** 2).mean()))
    return sum(losses) if reduction == "sum" else sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize("kind", BY_SAMPLE)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.integers(1, 4), st.data())
def test_loss_equals_a_loop_over_pairs(kind, generator, num_rows, num_modalities, num_dims, data):
    z = normal(generator, num_rows, num_modalities, num_dims)
    mask = random_mask(generator, num_rows, num_modalities)
    anchor = data.draw(st.sampled_from([None, *range(num_modalities)]))
    reduction = data.draw(st.sampled_from(["none", "sum", "item_mean", "mean"]))
    weights = data.draw(
        st.sampled_from([None, torch.rand(num_rows, generator=generator, dtype=torch.float64)])
    )
    loss = LOSSES[kind](z, mask, anchor=anchor, reduction=reduction, weights=weights)
    expected = reference(
        kind,
        z.numpy(),
        mask.numpy(),
        anchor,
        reduction,
        None if weights is None else weights.numpy(),
    )
    np.testing.assert_allclose(loss, expected, atol=1e-10)


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.integers(1, 4), st.data())
def test_coral_equals_a_loop_over_pairs_of_covariances(
    generator, num_rows, num_modalities, num_dims, data
):
    z = normal(generator, num_rows, num_modalities, num_dims) + 3
    mask = random_mask(generator, num_rows, num_modalities, 0.8)
    options = {
        "anchor": data.draw(st.sampled_from([None, *range(num_modalities)])),
        "means": data.draw(st.booleans()),
        "normalisation": data.draw(st.sampled_from(["paper", "mean"])),
        "reduction": data.draw(st.sampled_from(["sum", "mean"])),
    }
    np.testing.assert_allclose(
        coral_alignment_loss(z, mask, **options),
        coral_reference(z.numpy(), mask.numpy(), **options),
        atol=1e-10,
    )


# --- masks


@pytest.mark.parametrize("kind", LOSSES)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.sampled_from([None, 0]))
def test_content_of_masked_cells_changes_neither_output_nor_gradient(
    kind, generator, num_rows, num_modalities, anchor
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    assert_mask_honoured(lambda z, mask: LOSSES[kind](z, mask, anchor=anchor), z, mask)


@pytest.mark.parametrize("kind", LOSSES)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.sampled_from([None, 0]))
def test_an_all_true_mask_equals_none(kind, generator, num_rows, num_modalities, anchor):
    z = normal(generator, num_rows, num_modalities, 3)
    assert_full_mask_equals_no_mask(lambda z, mask: LOSSES[kind](z, mask, anchor=anchor), z)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("anchor", [None, 0])
@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((0, 3, 2), None),
        ((4, 1, 2), None),
        ((1, 2, 0), None),
        ((2, 3, 2), torch.zeros(2, 3, dtype=torch.bool)),
        ((3, 3, 2), torch.eye(3, dtype=torch.bool)),
    ],
)
def test_without_a_pair_the_loss_is_an_attached_zero(kind, anchor, shape, mask):
    z = normal(seeded(0), *shape).requires_grad_()
    loss = LOSSES[kind](z, mask, anchor=anchor)
    assert loss.shape == ()
    if shape[2]:
        assert loss == 0
    assert loss.requires_grad
    assert (gradients(loss, z)[0] == 0).all()


def test_one_sample_has_no_candidates_and_no_covariance():
    z = normal(seeded(0), 1, 3, 2).requires_grad_()
    for kind in ("infonce", "coral", "coral with means"):
        loss = LOSSES[kind](z)
        assert loss == 0
        assert (gradients(loss, z)[0] == 0).all()
    assert cosine_alignment_loss(z) > 0


@pytest.mark.parametrize("kind", LOSSES)
@laws
@given(generators(), st.integers(2, 6), st.integers(2, 6))
def test_loss_is_invariant_to_the_order_of_modalities_and_samples(
    kind, generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    loss = LOSSES[kind]
    for dim in (0, 1):
        assert_permutation_invariant(loss, z, mask, dim=dim)
    columns = torch.randperm(num_modalities, generator=generator)
    moved = int((columns == 0).nonzero())
    torch.testing.assert_close(
        loss(z[:, columns], mask[:, columns], anchor=moved), loss(z, mask, anchor=0)
    )


# --- gradients


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("anchor", [None, 1])
def test_gradients_agree_with_finite_differences(kind, anchor):
    z, mask = normal(seeded(1), 5, 3, 2).requires_grad_(), random_mask(seeded(2), 5, 3, 0.8)
    assert gradcheck(lambda z: LOSSES[kind](z, mask, anchor=anchor), (z,))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_detached_anchor_gets_no_gradient_and_the_others_keep_theirs(kind):
    z, mask = normal(seeded(1), 6, 3, 2).requires_grad_(), random_mask(seeded(2), 6, 3, 0.8)
    free, stopped = (LOSSES[kind](z, mask, anchor=1, stop_gradient=stop) for stop in (False, True))
    assert torch.equal(free, stopped)
    free_gradient, stopped_gradient = gradients(free, z)[0], gradients(stopped, z)[0]
    assert (stopped_gradient[:, 1] == 0).all()
    assert free_gradient[:, 1].abs().sum() > 0
    torch.testing.assert_close(stopped_gradient[:, [0, 2]], free_gradient[:, [0, 2]])
    assert stopped_gradient[:, [0, 2]].abs().sum() > 0


def test_losses_accept_views_of_an_item_under_masks():
    """A linear model under three masks. The view under the full mask, the first, is the teacher."""
    x, weight = normal(seeded(0), 8, 4), normal(seeded(1), 4, 2).requires_grad_()
    masks = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.float64)
    for loss in LOSSES.values():
        views = torch.stack([(x * mask) @ weight for mask in masks], dim=1)
        held = torch.stack([views[:, 0].detach(), views[:, 1], views[:, 2]], dim=1)
        (expected,) = torch.autograd.grad(loss(held, anchor=0), weight, retain_graph=True)
        (gradient,) = torch.autograd.grad(loss(views, anchor=0, stop_gradient=True), weight)
        torch.testing.assert_close(gradient, expected)


# --- properties that distinguish the losses


@laws
@given(generators(), st.floats(0.1, 10))
def test_angular_losses_ignore_the_lengths_of_vectors(generator, factor):
    z = normal(generator, 4, 3, 2)
    scaled = z * (1 + torch.rand(4, 3, 1, generator=generator, dtype=torch.float64) * factor)
    for kind in ("cosine", "infonce"):
        torch.testing.assert_close(LOSSES[kind](scaled), LOSSES[kind](z))


@pytest.mark.parametrize("kind", ["cosine", "infonce"])
def test_a_vector_of_length_zero_has_no_direction_and_no_gradient(kind):
    z = normal(seeded(0), 3, 2, 2, dtype=torch.float32)
    z[0, 0] = 0
    z = z.requires_grad_()
    (gradient,) = gradients(LOSSES[kind](z), z)
    assert gradient.isfinite().all()
    assert (gradient[0, 0] == 0).all()
    assert cosine_alignment_loss(z[:1]) == 1


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_angular_losses_are_accurate_for_tiny_and_huge_vectors(size):
    z = normal(seeded(0), 4, 3, 2, dtype=torch.float32)
    large = (z * size).requires_grad_()
    for kind in ("cosine", "infonce"):
        loss = LOSSES[kind](large)
        torch.testing.assert_close(loss, LOSSES[kind](z), rtol=1e-4, atol=1e-5)
        assert gradients(loss, large)[0].isfinite().all()


def test_collapsed_embeddings_minimise_distances_but_not_infonce():
    collapsed, apart = torch.ones(4, 2, 4), torch.eye(4)[:, None].repeat(1, 2, 1)
    for kind in ("squared", "cosine"):
        torch.testing.assert_close(LOSSES[kind](collapsed), torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(infonce_alignment_loss(collapsed), torch.tensor(math.log(4)))
    assert infonce_alignment_loss(apart) < 1e-3


def test_candidates_are_all_samples_that_have_the_other_modality():
    z = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[5.0, 5.0], [0.0, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [False, True]])
    # Sample 0 has two candidates in one direction and one, itself, in the other.
    forward, reverse = math.log(1 + math.exp(-1 / 0.5)), 0.0
    loss = infonce_alignment_loss(z, mask, temperature=0.5)
    torch.testing.assert_close(loss, torch.tensor((forward + reverse) / 2, dtype=torch.float64))


def test_small_temperatures_do_not_overflow():
    z = normal(seeded(0), 5, 2, 3, dtype=torch.float32).requires_grad_()
    loss = infonce_alignment_loss(z, temperature=1e-4)
    assert loss.isfinite()
    assert gradients(loss, z)[0].isfinite().all()


def test_coral_ignores_means_unless_asked():
    x = normal(seeded(0), 50, 3)
    z = torch.stack([x, x.flip(0) + 2], dim=1)
    torch.testing.assert_close(
        coral_alignment_loss(z), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        coral_alignment_loss(z, means=True), torch.tensor(4.0, dtype=torch.float64)
    )


# --- types and errors


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    z = normal(seeded(0), 6, 3, 4).to(dtype)
    loss = LOSSES[kind](z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[kind](z.float()))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("z", "options", "error", "message"),
    [
        (
            torch.ones(2, 3, 4).long(),
            {},
            TypeError,
            "`z` must be a floating-point tensor, got torch.int64",
        ),
        ([[1.0]], {}, TypeError, "`z` must be a floating-point tensor, got list"),
        (
            torch.ones(2, 3),
            {},
            ValueError,
            "`z` must have shape (N, M, D) with at least one modality, got (2, 3)",
        ),
        (
            torch.ones(2, 0, 3),
            {},
            ValueError,
            "with at least one modality, got (2, 0, 3)",
        ),
        (torch.ones(2, 3, 4), {"anchor": 3}, ValueError, "`anchor` must lie in [0, 3), got 3"),
        (
            torch.ones(2, 3, 4),
            {"anchor": "text"},
            TypeError,
            "`anchor` must be the position of a modality or None, got 'text'",
        ),
        (
            torch.ones(2, 3, 4),
            {"anchor": True},
            TypeError,
            "`anchor` must be the position of a modality or None, got True",
        ),
        (
            torch.ones(2, 3, 4),
            {"stop_gradient": True},
            ValueError,
            "`stop_gradient` detaches the `anchor`; give one",
        ),
        (
            torch.ones(2, 3, 4),
            {"mask": torch.ones(2, 4).bool()},
            ValueError,
            "`mask` must have shape (N, M) = (2, 3), got (2, 4)",
        ),
        (torch.ones(2, 3, 4), {"reduction": "median"}, ValueError, "`reduction` must be"),
    ],
)
def test_invalid_input_is_an_error(kind, z, options, error, message):
    with pytest.raises(error, match=rf"\w+_alignment_loss: .*{re.escape(message)}"):
        LOSSES[kind](z, **options)


def test_invalid_options_of_single_losses_are_errors():
    z = torch.ones(2, 3, 4)
    with pytest.raises(
        ValueError, match=r"infonce_alignment_loss: `temperature` must be positive, got 0"
    ):
        infonce_alignment_loss(z, temperature=0)
    with pytest.raises(
        ValueError,
        match=r"coral_alignment_loss: `normalisation` must be 'paper' or 'mean', got 'sum'",
    ):
        coral_alignment_loss(z, normalisation="sum")
    for kind in BY_SAMPLE:
        with pytest.raises(
            ValueError, match=re.escape("`weights` must have shape (N,) = (2,), got (3,)")
        ):
            LOSSES[kind](z, weights=torch.ones(3))
        with pytest.raises(TypeError, match="`weights` must be a tensor of real numbers, got list"):
            LOSSES[kind](z, weights=[1.0, 1.0])


@pytest.mark.parametrize("reduction", ["none", "sum", "item_mean", "mean"])
@pytest.mark.parametrize("kind", BY_SAMPLE)
def test_a_gradient_reaches_the_weights_of_rows(kind, reduction):
    """The weights may be learned, so every reduction must differentiate both of their uses."""
    z, mask = normal(seeded(0), 5, 3, 4), random_mask(seeded(1), 5, 3, share=0.8)
    weights = (torch.rand(5, generator=seeded(2)).double() + 0.1).requires_grad_()

    def loss(weights):
        return LOSSES[kind](z, mask, weights=weights, reduction=reduction)

    assert gradcheck(loss, weights)
    assert gradients(loss(weights), weights)[0].any()


def test_the_anchor_may_be_an_integer_of_numpy():
    z = normal(seeded(0), 5, 3, 4)
    for loss in LOSSES.values():
        for stop_gradient in (False, True):
            options = {"stop_gradient": stop_gradient}
            assert torch.equal(loss(z, anchor=np.int64(1), **options), loss(z, anchor=1, **options))
