"""Laws of the penalties: closed forms against definitions and against autograd."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod import irm_penalty, vrex_penalty
from tests.strategies import generators, laws, normal, seeded

SIZES = st.integers(1, 6)


@laws
@given(generators(), SIZES, st.integers(0, 2))
def test_vrex_is_the_variance(generator, num_envs, correction):
    risks = normal(generator, num_envs)
    if num_envs <= correction:
        with pytest.raises(ValueError, match="vrex_penalty: needs more than `correction` = "):
            vrex_penalty(risks, correction=correction)
        return
    np.testing.assert_allclose(
        vrex_penalty(risks, correction=correction),
        np.var(risks.numpy(), ddof=correction),
        atol=1e-12,
    )


@laws
@given(generators(), SIZES)
def test_vrex_ignores_order_and_common_shifts_and_squares_the_scale(generator, num_envs):
    risks = normal(generator, num_envs)
    penalty = vrex_penalty(risks)
    torch.testing.assert_close(vrex_penalty(risks.flip(0) + 5), penalty)
    torch.testing.assert_close(vrex_penalty(-3 * risks), 9 * penalty)
    assert penalty >= 0


@laws
@given(generators(), SIZES)
def test_vrex_gradients_agree_with_finite_differences(generator, num_envs):
    assert gradcheck(vrex_penalty, (normal(generator, num_envs).requires_grad_(),))


def test_equal_risks_and_one_environment_have_zero_penalty_and_zero_gradient():
    for risks in (
        torch.full((4,), 0.75, requires_grad=True),
        torch.tensor([3.0], requires_grad=True),
    ):
        penalty = vrex_penalty(risks)
        penalty.backward()
        assert penalty == 0
        assert (risks.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_float32(dtype):
    risks = torch.tensor([1.0, 2.0, 4.0], dtype=dtype)
    assert vrex_penalty(risks).dtype == torch.float32
    torch.testing.assert_close(vrex_penalty(risks), vrex_penalty(risks.float()))
    assert irm_penalty(risks, None, loss="bpr").dtype == torch.float32


@pytest.mark.parametrize(
    ("risks", "options", "error", "message"),
    [
        (
            torch.tensor([1, 2]),
            {},
            TypeError,
            "`risks` must be a floating-point tensor, got torch.int64.",
        ),
        ([1.0, 2.0], {}, TypeError, "`risks` must be a floating-point tensor, got list."),
        (
            torch.ones(2, 2),
            {},
            ValueError,
            "`risks` must have shape (E,), one risk per environment",
        ),
        (torch.ones(0), {}, ValueError, "and at least one, got (0,)."),
        (
            torch.ones(3),
            {"correction": -1},
            ValueError,
            "`correction` must not be negative, got -1.",
        ),
        (
            torch.ones(1),
            {"correction": 1},
            ValueError,
            "more than `correction` = 1 environments, got 1.",
        ),
    ],
)
def test_invalid_risks_are_an_error(risks, options, error, message):
    with pytest.raises(error, match=f"vrex_penalty: .*{re.escape(message)}"):
        vrex_penalty(risks, **options)


def bpr(margins, _):
    return -F.logsigmoid(margins).mean()


def bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


LOSSES = {"bce": bce, "ce": F.cross_entropy, "mse": F.mse_loss, "bpr": bpr}


def draw(loss, generator, num_samples):
    if loss == "ce":
        targets = torch.randint(4, (num_samples,), generator=generator)
        return normal(generator, num_samples, 4), targets
    logits = 3 * normal(generator, num_samples, 2)
    if loss == "bpr":
        return logits, None
    return logits, torch.rand(logits.shape, generator=generator, dtype=logits.dtype)


def double_backward(logits, targets, loss):
    scale = torch.ones((), dtype=logits.dtype, requires_grad=True)
    (derivative,) = torch.autograd.grad(loss(scale * logits, targets), scale, create_graph=True)
    return derivative.square()


@pytest.mark.parametrize("loss", LOSSES)
@laws
@given(generators(), SIZES, st.booleans())
def test_irm_closed_forms_and_callables_agree_with_a_double_backward(
    loss, generator, num_samples, as_callable
):
    logits, targets = draw(loss, generator, num_samples)
    logits.requires_grad_()
    expected = double_backward(logits, targets, LOSSES[loss])
    penalty = irm_penalty(logits, targets, loss=LOSSES[loss] if as_callable else loss)
    torch.testing.assert_close(penalty, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(penalty, logits),
        torch.autograd.grad(expected, logits),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_irm_gradients_agree_with_finite_differences(loss):
    logits, targets = draw(loss, seeded(4), 3)
    assert gradcheck(lambda z: irm_penalty(z, targets, loss=loss), (logits.requires_grad_(),))


def test_irm_values_by_hand():
    assert irm_penalty(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]), loss="mse") == 4.0
    assert irm_penalty(torch.zeros(3), torch.ones(3)) == 0  # a scale does not change logits of 0
    assert irm_penalty(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), loss="ce") == 0
    torch.testing.assert_close(
        irm_penalty(torch.tensor([2.0]), None, loss="bpr"), (2 / (1 + torch.tensor(2.0).exp())) ** 2
    )


@pytest.mark.parametrize("targets", [torch.tensor([True, False]), torch.tensor([1, 0])])
def test_irm_accepts_bool_and_integer_targets_for_bce(targets):
    logits = torch.tensor([0.3, -2.0])
    assert irm_penalty(logits, targets) == irm_penalty(logits, targets.float())


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_irm_is_finite_at_large_logits(loss):
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    penalty = irm_penalty(logits, None if loss == "bpr" else torch.tensor([0.0, 1.0]), loss=loss)
    penalty.backward()
    assert penalty.isfinite()
    assert logits.grad.isfinite().all()


def test_a_callable_works_without_gradients():
    logits, targets = draw("mse", seeded(0), 3)
    with torch.no_grad():
        penalty = irm_penalty(logits, targets, loss=F.mse_loss)
    assert not penalty.requires_grad
    torch.testing.assert_close(penalty, irm_penalty(logits, targets, loss="mse"))


def test_a_callable_works_in_inference_mode():
    logits, targets = draw("bce", seeded(0), 3)
    expected = irm_penalty(logits, targets, loss=bce)
    with torch.inference_mode():
        torch.testing.assert_close(irm_penalty(logits, targets, loss=bce), expected)
        torch.testing.assert_close(irm_penalty(logits.clone(), targets.clone(), loss=bce), expected)
        assert irm_penalty(logits.clone(), None, loss=bpr).isfinite()


ONES = torch.ones(3)
OUTSIDE = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("logits", "targets", "loss", "error", "message"),
    [
        (
            ONES.long(),
            ONES,
            "bce",
            TypeError,
            "`logits` must be a floating-point tensor, got torch.int64.",
        ),
        (
            torch.ones(0),
            torch.ones(0),
            "bce",
            ValueError,
            "`logits` is empty; an environment needs a sample.",
        ),
        (
            ONES,
            ONES,
            "bpr",
            ValueError,
            "with loss='bpr', `logits` are margins and `targets` must be None.",
        ),
        (
            ONES,
            ONES,
            "hinge",
            ValueError,
            "`loss` must be 'bce', 'ce', 'mse', 'bpr' or a callable, got 'hinge'.",
        ),
        (ONES, None, "bce", ValueError, "loss='bce' needs `targets`, got None."),
        (ONES, None, "ce", ValueError, "loss='ce' needs `targets`, got None."),
        (ONES, torch.ones(2), "mse", ValueError, "the shape of `logits` (3,), got (2,)."),
        (ONES, torch.ones(3, 1), "bce", ValueError, "the shape of `logits` (3,), got (3, 1)."),
        (
            ONES,
            ONES.long(),
            "ce",
            ValueError,
            "must be (n, K) and `targets` (n,), got (3,) and (3,).",
        ),
        (torch.ones(3, 2), ONES[:2].long(), "ce", ValueError, "got (3, 2) and (2,)."),
        (
            torch.ones(3, 2),
            ONES,
            "ce",
            TypeError,
            "`targets` must be classes in int64, got torch.float32.",
        ),
        (ONES, None, lambda z, y: z, ValueError, "the logits passed to it, got shape (3,)."),
        (
            ONES,
            None,
            lambda z, y: torch.tensor(1.0),
            ValueError,
            "got shape () without a gradient.",
        ),
        (
            ONES,
            None,
            lambda z, y: OUTSIDE.mean(),
            ValueError,
            "depends on the logits passed to it. Use its argument",
        ),
        (ONES, None, lambda z, y: 1.0, TypeError, "must return a scalar tensor, got float."),
    ],
)
def test_invalid_arguments_of_irm_are_an_error(logits, targets, loss, error, message):
    with pytest.raises(error, match=f"irm_penalty: .*{re.escape(message)}"):
        irm_penalty(logits, targets, loss=loss)
