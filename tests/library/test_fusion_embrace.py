"""Laws of EmbraceNet fusion: which modalities are drawn, how often, and what evaluation returns."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.fusion import EmbraceNetFusion, fuse, masked_mean
from invmod.fusion.embrace import _draw
from invmod.testing import assert_mask_honoured, assert_on_simplex
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
    simplex_rows,
)

D = 5


def reference(mask, weights):
    """The documented probabilities, row by row."""
    p = np.zeros(mask.shape)
    for n, available in enumerate(mask):
        w = np.where(available, weights if weights.ndim == 1 else weights[n], 0.0)
        w = w if w.sum() > 0 else available.astype(float)
        p[n] = w / w.sum() if available.any() else 0.0
    return p


@pytest.mark.parametrize("per_row", [False, True])
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_probabilities_and_the_expectation_equal_a_loop(
    per_row, generator, num_rows, num_modalities
):
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    shape = (num_rows, num_modalities) if per_row else (num_modalities,)
    weights = simplex_rows(generator, *shape) * 7
    fusion = EmbraceNetFusion().eval()
    expected = reference(mask.numpy(), weights.numpy())
    p = fusion.probabilities(z, mask, weights)
    np.testing.assert_allclose(p, expected, atol=1e-12)
    assert_on_simplex(p[mask.any(dim=1)], atol=1e-12)
    h = fusion(z, mask, weights)
    np.testing.assert_allclose(h, np.einsum("nm,nmd->nd", expected, z.numpy()), atol=1e-12)
    rows = weights[:, None] if per_row else weights[None]
    np.testing.assert_allclose(h, fuse(z, rows / rows.sum(-1, keepdim=True), mask)[0], atol=1e-12)


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.booleans())
def test_every_coordinate_is_that_of_an_available_modality(
    generator, num_rows, num_modalities, masked
):
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    h = EmbraceNetFusion()(z, mask, generator=generator)
    assert h.shape == (num_rows, D)
    available = torch.ones(z.shape[:2], dtype=torch.bool) if mask is None else mask
    drawn = ((h[:, None] == z) & available[..., None]).any(dim=1)
    assert (drawn | (~available.any(dim=1)[:, None] & (h == 0))).all()


def test_the_mean_of_many_draws_is_the_output_in_evaluation_mode():
    z, mask = normal(seeded(0), 20, 3, D), random_mask(seeded(1), 20, 3)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    fusion, generator = EmbraceNetFusion(), seeded(2)
    draws = torch.stack([fusion(z, mask, weights, generator=generator) for _ in range(2000)])
    expected = EmbraceNetFusion().eval()(z, mask, weights)
    # Five standard errors of the mean of each entry.
    assert ((draws.mean(dim=0) - expected).abs() <= 5 * draws.std(dim=0) / 2000**0.5 + 1e-12).all()
    # Coordinates of a row are drawn independently: their draws do not correlate.
    centred = draws[:, mask.sum(dim=1) == 3] - draws[:, mask.sum(dim=1) == 3].mean(dim=0)
    unit = centred / centred.norm(dim=0)
    assert ((unit[..., 0] * unit[..., 1]).sum(dim=0).abs() < 5 / 2000**0.5).all()


def test_equal_weights_are_the_masked_mean_and_vanishing_weights_are_equal():
    z, mask = normal(seeded(0), 8, 3, D), random_mask(seeded(1), 8, 3)
    fusion = EmbraceNetFusion().eval()
    torch.testing.assert_close(fusion(z, mask), masked_mean(z, mask))
    for tiny in (0.0, 1e-300):
        weights = torch.full((3,), tiny, dtype=torch.float64)
        torch.testing.assert_close(fusion(z, mask, weights), masked_mean(z, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_impossible_modality_is_never_drawn_even_at_the_ends_of_the_range(dtype, monkeypatch):
    p = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]], dtype=dtype)
    for u in (0.0, 0.3, 1 - 2**-53):
        ends = torch.full((2, 4), u, dtype=torch.float64)
        monkeypatch.setattr(torch, "rand", lambda *a, ends=ends, **k: ends)
        drawn = _draw(p, 4, None)
        assert (p.gather(1, drawn) > 0).all()
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.ones(2, 4, dtype=torch.float64))
    assert _draw(p, 4, None).tolist() == [[3] * 4, [2] * 4]  # as if rounding had given 1


@laws
@given(generators(), st.integers(0, 6), NUM_MODALITIES)
def test_hidden_cells_change_neither_draws_nor_gradients(generator, num_rows, num_modalities):
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    fusion = EmbraceNetFusion()
    assert_mask_honoured(lambda z, mask: fusion(z, mask, generator=seeded(3)), z, mask)
    weights = poison(simplex_rows(generator, num_rows, num_modalities), mask, NAN)
    assert fusion(z, mask, weights, generator=seeded(3)).isfinite().all()


def test_the_gradient_reaches_only_the_cells_that_were_drawn():
    z = normal(seeded(0), 6, 3, D).requires_grad_()
    h = EmbraceNetFusion()(z, generator=seeded(1))
    (gradient,) = gradients(h, z)
    drawn = h.detach()[:, None] == z
    assert ((gradient != 0) == drawn).all()
    assert (drawn.sum(dim=1) == 1).all()


def test_the_generator_decides_the_draws_and_the_global_one_is_left_alone():
    z, fusion = normal(seeded(0), 6, 3, D), EmbraceNetFusion()
    state = torch.get_rng_state()
    first, again = fusion(z, generator=seeded(1)), fusion(z, generator=seeded(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, fusion(z, generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        one = fusion(z)
        assert not torch.equal(one, fusion(z))


def test_nan_of_any_available_cell_or_weight_is_not_lost_by_the_draw():
    z = normal(seeded(0), 50, 2, D)
    z[:, 1, 3] = NAN
    h = EmbraceNetFusion()(z, weights=torch.tensor([0.99, 0.01]), generator=seeded(1))
    assert h[:, 3].isnan().all()
    assert not h[:, :3].isnan().any()
    weights = torch.tensor([0.5, NAN])
    z = normal(seeded(0), 50, 2, D)
    assert EmbraceNetFusion()(z, weights=weights, generator=seeded(1)).isnan().all()
    assert EmbraceNetFusion().eval()(z, weights=weights).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_the_same_values(dtype):
    z, mask = normal(seeded(0), 6, 3, D).to(dtype), random_mask(seeded(1), 6, 3)
    h = EmbraceNetFusion()(z, mask, generator=seeded(2))
    assert h.dtype == dtype
    assert torch.equal(h, EmbraceNetFusion()(z.float(), mask, generator=seeded(2)).to(dtype))


def test_meta_tensors_pass_in_both_modes():
    z = torch.zeros(4, 3, D, device="meta")
    mask = torch.ones(4, 3, dtype=torch.bool, device="meta")
    for fusion in (EmbraceNetFusion(), EmbraceNetFusion().eval()):
        assert fusion(z, mask).shape == (4, D)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f(torch.zeros(3, 2)),
            ValueError,
            "EmbraceNetFusion: `z` must have shape (N, M, D)",
        ),
        (lambda f: f(torch.zeros(3, 2, 4).long()), TypeError, "must be a floating-point tensor"),
        (
            lambda f: f(torch.zeros(3, 2, 4), weights=torch.ones(3)),
            ValueError,
            "`weights` must have shape (M,) or (N, M) = (3, 2), got (3,).",
        ),
        (
            lambda f: f(torch.zeros(3, 2, 4), weights=torch.ones(1, 2)),
            ValueError,
            "`weights` must have shape (M,) or (N, M) = (3, 2), got (1, 2).",
        ),
        (
            lambda f: f(torch.zeros(3, 2, 4), weights=[1.0, 2.0]),
            TypeError,
            "EmbraceNetFusion: `weights` must be a floating-point tensor, got list.",
        ),
    ],
)
def test_invalid_input_is_an_error(call, error, message):
    for fusion in (EmbraceNetFusion(), EmbraceNetFusion().eval()):
        with pytest.raises(error, match=re.escape(message)):
            call(fusion)
