"""Under bfloat16 autocast the statistics stay in float32: the same numbers as without it, bit for bit."""

import pytest
import torch
from torch import nn

from invmod import (
    ModalityEncoders,
    fuse,
    invariant_objective,
    irm_penalty,
    pairwise_alignment_loss,
    risk_coefficients,
    vrex_penalty,
)
from tests.strategies import NAN, gradients, normal, poison, random_mask, seeded, simplex_rows

Z = normal(seeded(0), 5, 3, 4, dtype=torch.float32)
WEIGHTS = simplex_rows(seeded(1), 4, 3, dtype=torch.float32)
MASK = random_mask(seeded(2), 5, 3)
RISKS = normal(seeded(3), 4, dtype=torch.float32)
LOGITS = normal(seeded(4), 6, 3, dtype=torch.float32)
TARGETS = (LOGITS > 0.3).float()

CASES = {
    "fuse": (lambda z: fuse(z, WEIGHTS), Z),
    "fuse with a mask": (lambda z: fuse(z, WEIGHTS, MASK), Z),
    "align": (lambda z: pairwise_alignment_loss(z, MASK), Z),
    "vrex": (vrex_penalty, RISKS),
    "objective": (lambda r: invariant_objective(r, penalty=vrex_penalty, penalty_weight=5.0), RISKS),
    "irm bce": (lambda z: irm_penalty(z, TARGETS), LOGITS),
    "irm mse": (lambda z: irm_penalty(z, TARGETS, loss="mse"), LOGITS),
    "irm bpr": (lambda z: irm_penalty(z, None, loss="bpr"), LOGITS),
    "irm ce": (lambda z: irm_penalty(z, torch.arange(6) % 3, loss="ce"), LOGITS),
    "irm callable": (lambda z: irm_penalty(z, TARGETS, loss=lambda s, y: ((s @ s.T).sum() - y.sum()) / 6), LOGITS),
}


def autocast():
    return torch.autocast(device_type="cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("case", CASES)
def test_float32_in_gives_the_same_numbers_as_without_autocast(case):
    function, x = CASES[case]
    x = x.clone().requires_grad_()
    expected = function(x)
    with autocast():
        got = function(x)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    assert torch.equal(gradients(got, x)[0], gradients(expected, x)[0])


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_in_gives_statistics_in_float32(case):
    function, x = CASES[case]
    narrow = x.bfloat16()
    with autocast():
        got = function(narrow)
    assert got.dtype == (torch.bfloat16 if case.startswith("fuse") else torch.float32)
    torch.testing.assert_close(got.float(), function(narrow.float()), rtol=1e-2, atol=1e-2)


def test_coefficients_are_the_same_under_autocast():
    def objective(risks):
        return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=5.0)

    with autocast():
        got = risk_coefficients(RISKS, objective)
    assert torch.equal(got, risk_coefficients(RISKS, objective))


def test_a_training_step_runs_from_features_to_gradients():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders, head = ModalityEncoders.mlp({"a": 3, "b": 2, "c": 1}, 4), nn.Linear(4, 1, bias=False)
    mask = random_mask(seeded(0), 8, 3)
    features = {
        name: poison(normal(seeded(dim), 8, dim, dtype=torch.float32), mask[:, index], NAN)
        for index, (name, dim) in enumerate({"a": 3, "b": 2, "c": 1}.items())
    }
    with autocast():
        z = encoders(features, mask)
        assert z.dtype == torch.bfloat16
        logits = head(fuse(z, WEIGHTS, mask))[..., 0]
        risks = nn.functional.softplus(-logits).mean(dim=1)
        loss = invariant_objective(risks, penalty=vrex_penalty, penalty_weight=1.0)
        loss = loss + pairwise_alignment_loss(z, mask)
    assert loss.dtype == torch.float32
    loss.backward()
    for parameter in (*encoders.parameters(), *head.parameters()):
        assert parameter.grad.isfinite().all()
    assert head.weight.grad.abs().sum() > 0
