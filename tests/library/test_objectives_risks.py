"""Laws of the objectives of risks and losses: closed forms, loops and finite differences."""

import math
import re
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from invmod import GroupDRO, worst_case_objective
from invmod.objectives import (
    constant_schedule,
    cvar_objective,
    eqrm_objective,
    exponential_schedule,
    linear_schedule,
    mmrex_objective,
    step_schedule,
)
from tests.strategies import NAN, generators, laws, normal, seeded

SIZES = st.integers(1, 8)
INF = float("inf")


def spread(generator, num_envs):
    """Risks with gaps larger than the step of a finite difference, so that none crosses a tie."""
    return torch.randperm(num_envs, generator=generator).double() + 0.3 * torch.rand(
        num_envs, generator=generator, dtype=torch.float64
    )


# --- minimax


@laws
@given(generators(), SIZES, st.floats(-5, 1))
def test_mmrex_is_the_largest_affine_combination_of_the_risks(generator, num_envs, share):
    risks, lambda_min = normal(generator, num_envs), share / num_envs
    corners = [
        sum(
            (1 - (num_envs - 1) * lambda_min if f == e else lambda_min) * float(r)
            for f, r in enumerate(risks)
        )
        for e in range(num_envs)
    ]
    assert mmrex_objective(risks, lambda_min=lambda_min).item() == pytest.approx(
        max(corners), abs=1e-12
    )


@laws
@given(generators(), SIZES)
def test_mmrex_at_its_limits_is_the_worst_case_and_the_mean(generator, num_envs):
    risks = normal(generator, num_envs)
    assert mmrex_objective(risks, lambda_min=0.0) == worst_case_objective(risks) == risks.max()
    torch.testing.assert_close(mmrex_objective(risks, lambda_min=1 / num_envs), risks.mean())


@laws
@given(generators(), SIZES)
def test_minimax_gradients_agree_with_finite_differences_and_ties_share_them(generator, num_envs):
    risks = spread(generator, num_envs).requires_grad_()
    assert gradcheck(worst_case_objective, (risks,))
    assert gradcheck(lambda r: mmrex_objective(r, lambda_min=-1.0), (risks,))
    tied = torch.ones(num_envs, requires_grad=True)
    worst_case_objective(tied).backward()
    torch.testing.assert_close(tied.grad, torch.full((num_envs,), 1 / num_envs))


@pytest.mark.parametrize("lambda_min", [0.34, NAN, -INF, INF])
def test_mmrex_rejects_an_infeasible_lambda_min(lambda_min):
    with pytest.raises(
        ValueError,
        match=re.escape("mmrex_objective: `lambda_min` must be finite and at most 1 / E ="),
    ):
        mmrex_objective(torch.ones(3), lambda_min=lambda_min)


# --- CVaR


def cvar_loop(losses, fraction):
    remaining, total = max(fraction * len(losses), 1.0), 0.0
    tail = remaining
    for loss in sorted(map(float, losses), reverse=True):
        total += min(remaining, 1.0) * loss
        remaining = max(remaining - 1.0, 0.0)
    return total / tail


@laws
@given(generators(), SIZES, st.floats(0.001, 1))
def test_cvar_is_the_mean_of_the_worst_losses_and_the_minimum_over_thresholds(
    generator, num_samples, fraction
):
    losses = normal(generator, num_samples)
    value = cvar_objective(losses, tail_fraction=fraction)
    assert value.item() == pytest.approx(cvar_loop(losses, fraction), abs=1e-12)
    over = [eta + np.maximum(losses.numpy() - eta, 0).mean() / fraction for eta in losses.numpy()]
    assert value.item() == pytest.approx(min(over), abs=1e-9)  # the minimum is at a loss
    assert cvar_objective(losses.flip(0), tail_fraction=fraction).item() == pytest.approx(
        value.item(), abs=1e-12
    )


@laws
@given(generators(), SIZES, st.floats(0.05, 1))
def test_cvar_gradients_agree_with_finite_differences_and_sum_to_one(
    generator, num_samples, fraction
):
    losses = spread(generator, num_samples).requires_grad_()
    assert gradcheck(lambda x: cvar_objective(x, tail_fraction=fraction), (losses,))
    (gradient,) = torch.autograd.grad(cvar_objective(losses, tail_fraction=fraction), losses)
    assert gradient.sum().item() == pytest.approx(1, abs=1e-12)
    assert (gradient >= 0).all()


def test_cvar_at_its_limits_is_the_mean_and_the_largest_loss():
    losses = normal(seeded(0), 7)
    torch.testing.assert_close(cvar_objective(losses, tail_fraction=1.0), losses.mean())
    assert cvar_objective(losses, tail_fraction=1e-9) == losses.max()


@pytest.mark.parametrize(
    ("losses", "fraction", "error", "message"),
    [
        ([1.0], 0.5, TypeError, "got list."),
        (torch.ones(3).long(), 0.5, TypeError, "got torch.int64."),
        (torch.ones(2, 2), 0.5, ValueError, "shape (n,) with n >= 1, got (2, 2)."),
        (torch.ones(0), 0.5, ValueError, "got (0,)."),
        (torch.ones(3), 0.0, ValueError, "above 0 and at most 1, got 0.0."),
        (torch.ones(3), 1.1, ValueError, "above 0 and at most 1, got 1.1."),
        (torch.ones(3), NAN, ValueError, "above 0 and at most 1, got nan."),
    ],
)
def test_invalid_arguments_of_cvar_are_an_error(losses, fraction, error, message):
    with pytest.raises(error, match=f"cvar_objective: .*{re.escape(message)}"):
        cvar_objective(losses, tail_fraction=fraction)


# --- EQRM


def eqrm_loop(risks, p):
    """The quantile by bisection in plain Python, and the gradient of the implicit function."""
    risks, num_envs = [float(r) for r in risks], len(risks)
    mean = sum(risks) / num_envs
    s = math.sqrt(sum((r - mean) ** 2 for r in risks) / (num_envs - 1))
    h = 1.06 * s * num_envs**-0.2
    normal_cdf, low, high = NormalDist().cdf, min(risks) - 40 * h, max(risks) + 40 * h
    for _ in range(200):
        middle = (low + high) / 2
        below = sum(normal_cdf((middle - r) / h) for r in risks) / num_envs < p
        low, high = (middle, high) if below else (low, middle)
    u = [(low - r) / h for r in risks]
    phi = [math.exp(-x * x / 2) for x in u]
    moved = sum(a * b for a, b in zip(phi, u, strict=True))
    per_env = [1.06 * num_envs**-0.2 * (r - mean) / ((num_envs - 1) * s) for r in risks]
    return low, [(f + moved * dh) / sum(phi) for f, dh in zip(phi, per_env, strict=True)]


@laws
@given(generators(), st.integers(2, 8), st.floats(0.001, 0.999))
def test_eqrm_and_its_gradient_equal_those_of_the_kernel_density(generator, num_envs, p):
    risks = normal(generator, num_envs).requires_grad_()
    value = eqrm_objective(risks, quantile=p)
    expected, slope = eqrm_loop(risks.detach(), p)
    assert value.item() == pytest.approx(expected, abs=1e-9)
    (gradient,) = torch.autograd.grad(value, risks)
    np.testing.assert_allclose(gradient, slope, atol=1e-7)
    assert gradient.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 1 - 1e-9])
def test_eqrm_gradients_agree_with_finite_differences_twice(p):
    risks = normal(seeded(1), 4).requires_grad_()
    assert gradcheck(lambda r: eqrm_objective(r, quantile=p), (risks,))
    if p < 0.99:  # for larger p the finite differences of the gradient are too inaccurate
        assert gradgradcheck(lambda r: eqrm_objective(r, quantile=p), (risks,))


@laws
@given(
    generators(),
    st.integers(2, 8),
    st.floats(0.01, 0.99),
    st.floats(-100, 100),
    st.floats(1e-3, 1e3),
)
def test_eqrm_is_equivariant_to_shift_and_scale_and_ignores_order(
    generator, num_envs, p, shift, scale
):
    risks = normal(generator, num_envs)
    value = eqrm_objective(risks, quantile=p)
    torch.testing.assert_close(
        eqrm_objective(scale * risks.flip(0) + shift, quantile=p), scale * value + shift
    )
    assert eqrm_objective(risks, quantile=min(p + 0.005, 0.995)) >= value


@pytest.mark.parametrize("risk", [0.1, 0.0, -3.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_quantile_of_equal_risks_is_that_risk_with_equal_gradients(risk, dtype):
    risks = torch.full((3,), risk, dtype=dtype, requires_grad=True)
    value = eqrm_objective(risks, quantile=0.99)
    value.backward()
    torch.testing.assert_close(value, risks[0].detach())
    torch.testing.assert_close(risks.grad, torch.full((3,), 1 / 3, dtype=dtype))


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12])
def test_eqrm_of_very_large_or_small_risks_is_exact(scale):
    risks = (scale * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).requires_grad_()
    value = eqrm_objective(risks, quantile=0.8)
    value.backward()
    expected, slope = eqrm_loop([1.0, 2.0, 4.0], 0.8)
    assert value.item() / scale == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(risks.grad, slope, atol=1e-8)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_eqrm_of_a_risk_that_is_not_finite_is_nan(bad):
    assert eqrm_objective(torch.tensor([1.0, 2.0, bad]), quantile=0.5).isnan()


@pytest.mark.parametrize("p", [0.0, 1.0, NAN])
def test_eqrm_rejects_an_invalid_quantile(p):
    with pytest.raises(
        ValueError, match="eqrm_objective: `quantile` must be strictly between 0 and 1"
    ):
        eqrm_objective(torch.ones(3), quantile=p)


def test_eqrm_rejects_a_single_environment():
    with pytest.raises(ValueError, match="eqrm_objective: needs at least two environments, got 1"):
        eqrm_objective(torch.ones(1), quantile=0.5)


# --- group DRO


def dro_loop(q, risks, present, step_size):
    """One step in plain Python: present environments share their total weight by q exp(eta R)."""
    present_envs = [e for e, is_present in enumerate(present) if is_present]
    grown = {e: q[e] * math.exp(step_size * risks[e]) for e in present_envs}
    total = sum(q[e] for e in present_envs)
    return [total * grown[e] / sum(grown.values()) if e in grown else q[e] for e in range(len(q))]


@laws
@given(generators(), SIZES, st.floats(0, 3), st.booleans())
def test_group_dro_follows_the_loop_step_after_step(generator, num_envs, step_size, some_absent):
    dro, q = GroupDRO(num_envs, step_size=step_size), [1 / num_envs] * num_envs
    for _ in range(4):
        risks = normal(generator, num_envs).requires_grad_()
        present = (
            torch.rand(num_envs, generator=generator) < 0.6
            if some_absent
            else torch.ones(num_envs).bool()
        )
        present[0] = True
        q = dro_loop(q, risks.tolist(), present.tolist(), step_size)
        # The risk of an absent environment must not matter.
        given_risks = torch.where(present, risks, NAN) if some_absent else risks
        loss = dro(given_risks, present=present if some_absent else None)
        np.testing.assert_allclose(dro.weights, q, atol=1e-12)
        weights = present.double() * torch.tensor(q, dtype=torch.float64)
        torch.testing.assert_close(loss, (weights * risks).sum())
        # The gradient equals the weights, because q itself has no gradient.
        torch.testing.assert_close(torch.autograd.grad(loss, risks)[0], weights)
        assert dro.weights.sum().item() == pytest.approx(1, abs=1e-12)


def test_group_dro_is_constant_in_eval_mode_and_is_saved_with_the_model():
    dro = GroupDRO(3, step_size=1.0)
    dro(torch.tensor([0.0, 1.0, 2.0]))
    other = GroupDRO(3, step_size=1.0)
    other.load_state_dict(dro.state_dict())
    before = dro.weights
    dro.eval()
    risks = torch.tensor([5.0, 1.0, 0.0])
    torch.testing.assert_close(dro(risks), (before.float() * risks).sum())
    assert torch.equal(dro.weights, before)
    assert torch.equal(other.weights, before)
    assert "3, step_size=1.0" in repr(dro)


def test_group_dro_recovers_a_tiny_weight_and_keeps_its_precision_under_half():
    dro = GroupDRO(2, step_size=1.0)
    for _ in range(20):
        dro(torch.tensor([0.0, 50.0]))
    assert dro.log_weights[0].item() == pytest.approx(-1000)
    dro(torch.tensor([0.0, 0.1]))
    dro(torch.tensor([0.1, 0.0]))
    dro.log_weights += 1 / 3  # needs the precision of float64
    exact = dro.log_weights.clone()
    for convert in (dro.half, dro.float, dro.bfloat16):
        convert()
        assert dro.log_weights.dtype == torch.float64
        assert torch.equal(dro.log_weights, exact)
    for _ in range(20):
        dro(torch.tensor([50.0, 0.0]))
    torch.testing.assert_close(dro.weights, torch.full((2,), 0.5, dtype=torch.float64))
    assert dro.to("meta").log_weights.dtype == torch.float64
    assert dro.to_empty(device="cpu").log_weights.device.type == "cpu"


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_risk_that_is_not_finite_leaves_the_weights_unchanged(bad):
    dro = GroupDRO(2, step_size=1.0)
    assert not dro(torch.tensor([bad, 1.0])).isfinite()
    torch.testing.assert_close(dro.weights, torch.full((2,), 0.5, dtype=torch.float64))


def test_two_steps_before_one_backward_pass_work():
    dro = GroupDRO(2, step_size=1.0)
    risks = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    total = dro(risks) + dro(risks)
    total.backward()
    first = torch.tensor(dro_loop([0.5, 0.5], [0, 1], [1, 1], 1.0))
    second = torch.tensor(dro_loop(first.tolist(), [0, 1], [1, 1], 1.0))
    torch.testing.assert_close(risks.grad, (first + second).double())


@pytest.mark.parametrize(
    ("risks", "present", "error", "message"),
    [
        (torch.ones(3), None, ValueError, "`risks` must have E = 2 entries, got 3."),
        (torch.ones(2).long(), None, TypeError, "`risks` must be a floating-point tensor"),
        (
            torch.ones(2),
            torch.ones(2),
            TypeError,
            "`present` must be a bool tensor, got torch.float32.",
        ),
        (
            torch.ones(2),
            torch.ones(3).bool(),
            ValueError,
            "`present` must have shape (E,) = (2,), got (3,).",
        ),
        (torch.ones(2), torch.zeros(2).bool(), ValueError, "no environment is present."),
    ],
)
def test_invalid_arguments_of_group_dro_are_an_error_and_keep_its_state(
    risks, present, error, message
):
    dro = GroupDRO(2, step_size=1.0)
    before = dro.weights
    with pytest.raises(error, match=f"GroupDRO: .*{re.escape(message)}"):
        dro(risks, present=present)
    assert torch.equal(dro.weights, before)


@pytest.mark.parametrize(
    ("num_envs", "error"),
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_group_dro_rejects_an_invalid_number_of_environments(num_envs, error):
    with pytest.raises(error, match="GroupDRO: `num_envs` must be"):
        GroupDRO(num_envs, step_size=1.0)


@pytest.mark.parametrize("step_size", [-1.0, NAN, INF])
def test_group_dro_rejects_an_invalid_step_size(step_size):
    with pytest.raises(ValueError, match="GroupDRO: `step_size` must be finite and not negative"):
        GroupDRO(2, step_size=step_size)


# --- schedules


@laws
@given(
    st.integers(0, 60),
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 1e6),
    st.integers(1, 20),
    st.integers(0, 20),
)
def test_schedules_have_the_given_first_and_last_weight_and_are_monotone(
    step, first, last, num_steps, begin
):
    options = {"first": first, "last": last, "num_steps": num_steps, "begin": begin}
    for schedule in (linear_schedule, exponential_schedule):
        value, following = schedule(step, **options), schedule(step + 1, **options)
        assert min(first, last) * (1 - 1e-12) <= value <= max(first, last) * (1 + 1e-12)
        assert (following - value) * (last - first) >= -1e-9 * max(first, last) ** 2
        assert schedule(begin, **options) == first
        assert (
            schedule(begin + num_steps, **options)
            == schedule(begin + num_steps + 9, **options)
            == last
        )
    x = min(max((step - begin) / num_steps, 0), 1)
    assert linear_schedule(step, **options) == pytest.approx(
        first + x * (last - first), rel=1e-9, abs=1e-9
    )
    assert math.log(exponential_schedule(step, **options)) == pytest.approx(
        math.log(first) + x * (math.log(last) - math.log(first))
    )
    assert constant_schedule(step, value=first) == first
    assert step_schedule(step, first=first, last=last, at=begin) == (
        first if step < begin else last
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: constant_schedule(-1, value=1.0),
            "constant_schedule: `step` must be finite and not negative",
        ),
        (lambda: constant_schedule(1, value=NAN), "constant_schedule: `value` must be finite"),
        (
            lambda: step_schedule(1, first=-1.0, last=1.0, at=2),
            "step_schedule: `first` must be finite",
        ),
        (
            lambda: step_schedule(1, first=1.0, last=1.0, at=-2),
            "step_schedule: `at` must be finite",
        ),
        (
            lambda: linear_schedule(1, first=0, last=INF, num_steps=1),
            "linear_schedule: `last` must be finite",
        ),
        (
            lambda: linear_schedule(1, first=0, last=1, num_steps=0),
            "linear_schedule: `num_steps` must be at least 1",
        ),
        (
            lambda: linear_schedule(1, first=0, last=1, num_steps=1, begin=-1),
            "linear_schedule: `begin` must be",
        ),
        (
            lambda: exponential_schedule(1, first=0, last=1, num_steps=1),
            "exponential_schedule: weights must be above 0",
        ),
        (
            lambda: exponential_schedule(1, first=1, last=0, num_steps=1),
            "exponential_schedule: weights must be above 0",
        ),
    ],
)
def test_invalid_arguments_of_schedules_are_an_error(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_group_dro_accepts_an_integer_of_numpy():
    dro = GroupDRO(np.int64(3), step_size=1.0)
    assert type(dro.num_envs) is int
    assert dro.weights.shape == (3,)
