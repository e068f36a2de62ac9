"""Laws of the objective and its coefficients: micro-batches give the gradient of the batch."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from invmod import (
    CyclicMixupEnvs,
    ModalityEncoders,
    fuse,
    invariant_objective,
    irm_penalty,
    risk_coefficients,
    vrex_penalty,
)
from invmod.objectives import vrex_coefficients
from tests.strategies import NAN, generators, laws, normal, random_mask, randomised, seeded

SIZES = st.integers(1, 6)


def vrex(penalty_weight, risk_reduction="mean", correction=0):
    def objective(risks):
        return invariant_objective(
            risks,
            penalty=lambda r: vrex_penalty(r, correction=correction),
            penalty_weight=penalty_weight,
            risk_reduction=risk_reduction,
        )

    return objective


@laws
@given(generators(), SIZES, st.floats(0, 100), st.booleans())
def test_the_objective_is_risk_plus_weighted_penalty(generator, num_envs, penalty_weight, ready):
    risks = normal(generator, num_envs)
    penalty = vrex_penalty(risks) if ready else vrex_penalty
    value = invariant_objective(risks, penalty=penalty, penalty_weight=penalty_weight)
    torch.testing.assert_close(
        value, risks.mean() + penalty_weight * risks.var(correction=0) if num_envs > 1 else risks[0]
    )
    summed = invariant_objective(
        risks, penalty=penalty, penalty_weight=penalty_weight, risk_reduction="sum"
    )
    torch.testing.assert_close(summed - value, risks.sum() - risks.mean())


@laws
@given(generators(), SIZES, st.floats(0, 100), st.sampled_from(["mean", "sum"]))
def test_gradients_agree_with_finite_differences(
    generator, num_envs, penalty_weight, risk_reduction
):
    assert gradcheck(
        vrex(penalty_weight, risk_reduction), (normal(generator, num_envs).requires_grad_(),)
    )


def test_a_sum_over_envs_is_the_mean_with_weights_divided_by_their_number():
    risks = normal(seeded(0), 4)
    torch.testing.assert_close(vrex(8.0, "sum")(risks) / 4, vrex(2.0, "mean")(risks))


def test_a_penalty_may_be_a_precomputed_tensor():
    z, targets = normal(seeded(0), 3, 5).requires_grad_(), torch.ones(5, dtype=torch.float64)
    risks = torch.stack([F.binary_cross_entropy_with_logits(row, targets) for row in z])
    penalty = torch.stack([irm_penalty(row, targets) for row in z]).mean()
    value = invariant_objective(risks, penalty=penalty, penalty_weight=2.0)
    torch.testing.assert_close(value, risks.mean() + 2 * penalty)
    value.backward()
    assert z.grad.abs().sum() > 0


def test_half_precision_risks_are_reduced_in_float32():
    risks = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    assert vrex(1.0)(risks).dtype == torch.float32
    assert risk_coefficients(risks, vrex(1.0)).dtype == torch.bfloat16


@laws
@given(generators(), SIZES, st.floats(0, 50), st.sampled_from(["mean", "sum"]))
def test_coefficients_equal_the_closed_form_of_vrex(
    generator, num_envs, penalty_weight, risk_reduction
):
    risks = normal(generator, num_envs)
    coefficients = risk_coefficients(risks, vrex(penalty_weight, risk_reduction))
    base = 1 / num_envs if risk_reduction == "mean" else 1.0
    expected = base + penalty_weight * 2 / num_envs * (risks - risks.mean())
    torch.testing.assert_close(coefficients, expected, rtol=1e-12, atol=1e-12)
    assert not coefficients.requires_grad


CORRECTIONS = st.sampled_from([0, 1, 2])
REDUCTIONS = st.sampled_from(["mean", "sum"])


@laws
@given(generators(), st.integers(1, 8), st.floats(0, 50), CORRECTIONS, REDUCTIONS)
def test_vrex_coefficients_equal_the_gradient_of_the_objective(
    generator, num_envs, penalty_weight, correction, reduction
):
    num_envs = max(num_envs, correction + 1)
    risks = normal(generator, num_envs).requires_grad_()
    objective = vrex(penalty_weight, reduction, correction)
    closed = vrex_coefficients(
        risks, penalty_weight=penalty_weight, correction=correction, risk_reduction=reduction
    )
    torch.testing.assert_close(closed, risk_coefficients(risks, objective), rtol=1e-12, atol=1e-12)
    assert not closed.requires_grad
    step = 1e-3  # the objective is quadratic, so central differences are exact up to rounding
    with torch.no_grad():
        differences = [
            (objective(risks + step * unit) - objective(risks - step * unit)) / (2 * step)
            for unit in torch.eye(num_envs, dtype=risks.dtype)
        ]
    torch.testing.assert_close(closed, torch.stack(differences), rtol=1e-8, atol=1e-8)


@laws
@given(generators(), st.integers(1, 8), st.floats(0, 50), REDUCTIONS)
def test_vrex_coefficients_sum_to_the_weight_of_the_risk_and_follow_permutations(
    generator, num_envs, penalty_weight, reduction
):
    risks = normal(generator, num_envs)
    order = torch.randperm(num_envs, generator=generator)

    def coefficients(r):
        return vrex_coefficients(r, penalty_weight=penalty_weight, risk_reduction=reduction)

    total = torch.tensor(1.0 if reduction == "mean" else float(num_envs)).double()
    torch.testing.assert_close(coefficients(risks).sum(), total)
    torch.testing.assert_close(coefficients(risks[order]), coefficients(risks)[order])
    torch.testing.assert_close(coefficients(risks + 3), coefficients(risks))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_vrex_coefficients_have_the_dtype_of_the_risks_and_are_computed_in_float32_or_wider(dtype):
    risks = normal(seeded(0), 4, dtype=dtype)
    closed = vrex_coefficients(risks, penalty_weight=3.0)
    wide = risks.to(torch.promote_types(dtype, torch.float32))
    assert closed.dtype == dtype
    assert torch.equal(closed, vrex_coefficients(wide, penalty_weight=3.0).to(dtype))
    torch.testing.assert_close(closed, risk_coefficients(risks, vrex(3.0)))


def test_without_a_penalty_the_coefficients_are_those_of_the_risk_even_for_one_environment():
    for correction in (0, 1):
        closed = vrex_coefficients(torch.tensor([2.0]), penalty_weight=0.0, correction=correction)
        assert closed.tolist() == [1.0]
    assert vrex_coefficients(torch.tensor([2.0]), penalty_weight=7.0).tolist() == [1.0]
    assert vrex_coefficients(torch.tensor([2.0, NAN]), penalty_weight=0.0).isnan().all()


def test_vrex_coefficients_made_in_inference_mode_can_be_used_in_a_backward_pass():
    outside = normal(seeded(1), 4).requires_grad_()
    with torch.inference_mode():
        coefficients = vrex_coefficients(outside * 1.0, penalty_weight=3.0)
    (coefficients * outside).sum().backward()
    assert torch.equal(outside.grad, coefficients)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_coefficients_are_the_same_in_every_gradient_mode_and_the_risks_are_unchanged(mode):
    outside = normal(seeded(1), 4).requires_grad_()
    expected = risk_coefficients(outside, vrex(3.0))
    with mode():
        inside = outside * 1.0
        coefficients = risk_coefficients(inside, vrex(3.0))
    assert torch.equal(coefficients, expected)
    assert not coefficients.requires_grad
    assert outside.grad is None
    assert inside.requires_grad == (mode is torch.enable_grad)
    # The coefficients can be used in a later backward pass, even if computed in inference mode.
    (coefficients * outside).sum().backward()
    assert torch.equal(outside.grad, coefficients)


class Scorer(nn.Module):
    """A small MILK: encoders, dropout on z, fusion per environment, a bilinear score."""

    def __init__(self, generator):
        super().__init__()
        self.encoders = ModalityEncoders.mlp({"a": 3, "b": 2}, 4, hidden_dims=(5,))
        self.dropout = nn.Dropout(0.4)
        self.users = nn.Parameter(torch.empty(7, 4))
        randomised(self.double(), generator)

    def forward(self, rows, features, mask, weights, keep=None):
        """Losses (E, n); `keep` is a given dropout mask, which replaces the random one."""
        z = self.encoders({name: x[rows] for name, x in features.items()}, mask[rows])
        z = self.dropout(z) if keep is None else z * keep
        h = fuse(z, weights, mask[rows])
        return -F.logsigmoid(torch.einsum("end,nd->en", h, self.users[rows % 7]))


@st.composite
def partitions(draw, num_rows):
    """Any ordered partition of the rows, in any order, into non-empty parts."""
    order = draw(st.permutations(range(num_rows)))
    cuts = sorted(draw(st.sets(st.integers(1, num_rows - 1)))) if num_rows > 1 else []
    return [torch.tensor(order[a:b]) for a, b in zip([0, *cuts], [*cuts, num_rows], strict=True)]


@laws
@given(
    st.data(),
    generators(),
    st.integers(1, 12),
    st.floats(0, 50),
    st.sampled_from(["mean", "sum"]),
    st.sampled_from([0, 1]),
)
def test_any_partition_accumulates_the_gradient_of_the_whole_batch(
    data, generator, num_rows, penalty_weight, reduction, correction
):
    """Two passes over micro-batches with equal dropout masks equal one pass over the batch."""
    parts = data.draw(partitions(num_rows))
    model = Scorer(generator)
    features = {"a": normal(generator, num_rows, 3), "b": normal(generator, num_rows, 2)}
    mask = random_mask(generator, num_rows, 2, 0.7)
    weights = CyclicMixupEnvs(2, 0.5).sample(generator=generator, dtype=torch.float64)
    objective = vrex(penalty_weight, reduction, correction)

    risks, states = torch.zeros(len(weights), dtype=torch.float64), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        with torch.no_grad():
            for rows in parts:
                states.append(torch.get_rng_state())
                risks += model(rows, features, mask, weights).sum(dim=1) / num_rows
            coefficients = risk_coefficients(risks, objective)
        for rows, state in zip(parts, states, strict=True):
            torch.set_rng_state(state)
            (
                coefficients * model(rows, features, mask, weights).sum(dim=1) / num_rows
            ).sum().backward()
        accumulated = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])

        kept = []
        for rows, state in zip(parts, states, strict=True):
            torch.set_rng_state(state)
            kept.append(model.dropout(torch.ones(len(rows), 2, 4, dtype=torch.float64)))
    losses = model(torch.cat(parts), features, mask, weights, torch.cat(kept))
    value = objective(losses.mean(dim=1))
    whole = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    assert (accumulated - whole).norm() <= 1e-10 * whole.norm()


def test_the_mean_of_the_objectives_of_parts_differs_from_the_objective():
    """This difference is the reason for the coefficients."""
    losses = normal(seeded(0), 3, 8)
    whole = vrex(5.0)(losses.mean(dim=1))
    parts = torch.stack([vrex(5.0)(part.mean(dim=1)) for part in losses.split(2, dim=1)]).mean()
    assert abs(parts - whole) > 0.1 * abs(whole)


RISKS = torch.ones(3)


@pytest.mark.parametrize(
    ("risks", "options", "error", "message"),
    [
        (RISKS.long(), {}, TypeError, "`risks` must be a floating-point tensor, got torch.int64."),
        (torch.ones(()), {}, ValueError, "`risks` must have shape (E,)"),
        (
            RISKS,
            {"penalty_weight": -1.0},
            ValueError,
            "`penalty_weight` must not be negative, got -1.0.",
        ),
        (
            RISKS,
            {"penalty_weight": float("nan")},
            ValueError,
            "`penalty_weight` must not be negative, got nan.",
        ),
        (
            RISKS,
            {"risk_reduction": "max"},
            ValueError,
            "`risk_reduction` must be 'mean' or 'sum', got 'max'.",
        ),
        (
            RISKS,
            {"penalty": 1.0},
            TypeError,
            "a callable of the risks or a scalar tensor, got float.",
        ),
        (
            RISKS,
            {"penalty": lambda r: 1.0},
            TypeError,
            "a callable of the risks or a scalar tensor, got float.",
        ),
        (
            RISKS,
            {"penalty": lambda r: r},
            ValueError,
            "scalar tensor, got shape (3,). Reduce it over environments",
        ),
    ],
)
def test_invalid_arguments_of_the_objective_are_an_error(risks, options, error, message):
    with pytest.raises(error, match=f"invariant_objective: .*{re.escape(message)}"):
        invariant_objective(risks, **{"penalty": vrex_penalty, "penalty_weight": 1.0} | options)


@pytest.mark.parametrize(
    ("risks", "objective", "error", "message"),
    [
        (
            RISKS.long(),
            torch.sum,
            TypeError,
            "`risks` must be a floating-point tensor, got torch.int64.",
        ),
        (torch.ones(0), torch.sum, ValueError, "and at least one, got (0,)."),
        (
            RISKS,
            lambda r: r,
            ValueError,
            "`objective` must return a scalar tensor that depends on the risks",
        ),
        (
            RISKS,
            lambda r: 1.0,
            ValueError,
            "`objective` must return a scalar tensor that depends on the risks",
        ),
        (
            RISKS,
            lambda r: r.detach().sum(),
            ValueError,
            "`objective` must return a scalar tensor that depends",
        ),
        (
            RISKS,
            lambda r: torch.ones((), requires_grad=True) * 2,
            ValueError,
            "`objective` does not depend on the",
        ),
    ],
)
def test_coefficients_of_an_invalid_objective_are_an_error(risks, objective, error, message):
    with pytest.raises(error, match=f"risk_coefficients: .*{re.escape(message)}"):
        risk_coefficients(risks, objective)


@pytest.mark.parametrize(
    ("risks", "options", "error", "message"),
    [
        (RISKS.long(), {}, TypeError, "`risks` must be a floating-point tensor, got torch.int64."),
        (torch.ones(2, 2), {}, ValueError, "at least one, got (2, 2)."),
        (torch.ones(0), {}, ValueError, "and at least one, got (0,)."),
        (
            RISKS,
            {"penalty_weight": -1.0},
            ValueError,
            "`penalty_weight` must not be negative, got -1.0.",
        ),
        (
            RISKS,
            {"penalty_weight": NAN},
            ValueError,
            "`penalty_weight` must not be negative, got nan.",
        ),
        (RISKS, {"correction": -1}, ValueError, "`correction` must not be negative, got -1."),
        (
            RISKS,
            {"correction": 3},
            ValueError,
            "needs more than `correction` = 3 environments, got 3.",
        ),
        (
            RISKS,
            {"risk_reduction": "max"},
            ValueError,
            "`risk_reduction` must be 'mean' or 'sum', got 'max'.",
        ),
    ],
)
def test_invalid_arguments_of_vrex_coefficients_are_an_error(risks, options, error, message):
    with pytest.raises(error, match=f"vrex_coefficients: .*{re.escape(message)}"):
        vrex_coefficients(risks, **{"penalty_weight": 1.0} | options)
