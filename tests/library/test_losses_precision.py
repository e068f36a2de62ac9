"""Extreme values: a mean far above the deviations, quantiles far in the tail, infinite logits."""

import math

import numpy as np
import pytest
import torch

from invmod import alignment, objectives, penalties
from tests.strategies import NAN, normal, seeded

INF = math.inf
ENV = torch.arange(600) % 2
PAIRS = [0, 1]


def with_mean(ratio: float) -> torch.Tensor:
    """Samples (600, 4) of two environments in float32, with mean / deviation = `ratio`."""
    deviations = normal(seeded(0), 600, 4) * (1 + 0.3 * ENV[:, None])
    return (deviations + ratio).float()


CENTRED = {
    "fishr": lambda x: penalties.fishr_penalty(x, ENV, num_envs=2),
    "bottleneck": lambda x: penalties.information_bottleneck_penalty(x, ENV, num_envs=2),
    "iga": penalties.iga_penalty,
    "coral penalty": lambda x: penalties.coral_penalty(x[ENV == 0], x[ENV == 1]),
    "coral alignment": lambda x: alignment.coral_alignment_loss(
        x[:, :2, None] * torch.tensor([[1.0], [2.0]])
    ),
    "mmd": lambda x: penalties.mmd_penalty(x[:300], 1.5 + x[300:], gammas=[0.3]),
    "vrex debiased": lambda x: penalties.vrex_penalty_debiased(x.T, paired=False),
    "vrex debiased, paired": lambda x: penalties.vrex_penalty_debiased(x.T, paired=True),
    "vrex debiased, rows": lambda x: penalties.vrex_penalty_debiased(list(x.T), paired=False),
    "ustat": lambda x: penalties.irm_penalty_from_derivatives(x.T, estimator="ustat"),
}


@pytest.mark.parametrize("ratio", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("name", CENTRED)
def test_a_large_mean_costs_no_digits_of_a_variance(name, ratio):
    x = with_mean(ratio)
    result, expected = CENTRED[name](x), CENTRED[name](x.double())
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(expected.item(), rel=1e-5)


def exact_fishr_linear(features, logits, targets):
    """The definition, in extended precision."""
    z = np.asarray(logits, dtype=np.longdouble)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    a = p / p.sum(axis=1, keepdims=True) - np.eye(z.shape[1])[targets]
    f = np.concatenate([np.asarray(features, dtype=np.longdouble), np.ones((len(z), 1))], axis=1)
    gradients = (a[:, :, None] * f[:, None, :]).reshape(len(z), -1)
    v = np.stack([gradients[ENV.numpy() == e].var(axis=0) for e in PAIRS])
    return float(((v - v.mean(axis=0)) ** 2).mean())


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("ratio", [0.0, 1e4, 1e6])
def test_fishr_of_a_linear_head_keeps_its_digits_for_features_with_a_large_mean(ratio, spread):
    features = with_mean(ratio).double()
    logits = spread * normal(seeded(1), 600, 3)
    targets = torch.zeros(600, dtype=torch.int64)
    result = penalties.fishr_penalty_linear(features, logits, targets, ENV, num_envs=2)
    expected = exact_fishr_linear(features.numpy(), logits.numpy(), targets.numpy())
    assert result.item() == pytest.approx(expected, rel=1e-8)


# --- quantiles far in the tail


@pytest.mark.parametrize("quantile", [1e-17, 1e-30, 1e-100, 1e-300, 1 - 1e-16])
def test_eqrm_far_in_the_tail_has_a_gradient_that_sums_to_1(quantile):
    for risks in (torch.tensor([0.0, 1.0]), torch.linspace(0, 1, 20).square()):
        risks = risks.double().requires_grad_()
        (gradient,) = torch.autograd.grad(
            objectives.eqrm_objective(risks, quantile=quantile), risks
        )
        assert gradient.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("quantile", [1e-9, 1e-17, 1e-30])
def test_eqrm_far_in_the_tail_solves_its_equation(quantile):
    risks = np.array([0.0, 1.0])
    bandwidth = 1.06 * risks.std(ddof=1) * 2 ** (-1 / 5)
    q = objectives.eqrm_objective(torch.tensor(risks), quantile=quantile).item()
    mean = sum(math.erfc(-(q - risk) / bandwidth / math.sqrt(2)) / 2 for risk in risks) / 2
    assert mean == pytest.approx(quantile, rel=1e-9)


# --- infinite logits


@pytest.mark.parametrize(
    ("logit", "target", "right"), [(INF, 1.0, True), (-INF, 0.0, True), (INF, 0.0, False)]
)
def test_an_infinite_logit_gives_0_where_it_is_right_and_infinity_where_it_is_wrong(
    logit, target, right
):
    """One rule for all losses: the limit of the finite ones."""
    logits = torch.tensor([0.3, logit], requires_grad=True)
    targets = torch.tensor([1.0, target])
    classes = torch.tensor([0, 0 if target else 1])
    rows = torch.stack([torch.tensor([0.3, -0.2]), torch.tensor([logit, 0.0])])
    margin = logits if target else -logits
    for h, penalty in (
        (
            penalties.irm_derivatives(logits, targets),
            penalties.irm_penalty(logits, targets),
        ),
        (
            penalties.irm_derivatives(rows, classes, loss="ce"),
            penalties.irm_penalty(rows, classes, loss="ce"),
        ),
        (
            penalties.irm_derivatives_bpr(margin),
            penalties.irm_penalty(margin, None, loss="bpr"),
        ),
    ):
        if right:
            assert h[1] == 0
            assert penalty == (h[0] / 2).square()
        else:
            assert h[1] == torch.finfo(h.dtype).max
            assert penalty == INF
    (gradient,) = torch.autograd.grad(penalties.irm_derivatives(logits, targets).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


def test_classes_that_are_excluded_by_minus_infinity_do_not_count():
    logits = normal(seeded(2), 5, 4).requires_grad_()
    targets = torch.tensor([0, 1, 2, 0, 1])
    excluded = torch.where(torch.tensor([False, False, False, True]), -INF, logits)
    result = penalties.irm_penalty(excluded, targets, loss="ce")
    expected = penalties.irm_penalty(logits[:, :3], targets, loss="ce")
    assert torch.equal(result, expected)
    for penalty in (result, expected):
        (gradient,) = torch.autograd.grad(penalty, logits, retain_graph=True)
        assert gradient.isfinite().all()
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (result, expected)))


def test_a_squared_error_of_an_infinite_prediction_is_infinite_and_nan_is_nan():
    targets = torch.tensor([1.0, 0.0])
    assert penalties.irm_penalty(torch.tensor([INF, 0.0]), targets, loss="mse") == INF
    for logits in (torch.tensor([NAN, 0.0]), torch.tensor([NAN, INF])):
        for loss in ("bce", "mse"):
            assert penalties.irm_penalty(logits, targets, loss=loss).isnan()
