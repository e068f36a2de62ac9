"""Under bfloat16 autocast, statistics are computed in float32 and bitwise equal to eager ones."""

import pytest
import torch
from torch import nn

import invmod
from invmod import (
    GroupDRO,
    ModalityEncoders,
    fuse,
    invariant_objective,
    irm_penalty,
    pairwise_alignment_loss,
    risk_coefficients,
    vrex_penalty,
    worst_case_objective,
)
from invmod.alignment import singular_value_alignment_loss
from invmod.missingness import simulate_mar, simulate_mnar
from invmod.objectives import (
    cvar_objective,
    environment_statistics,
    eqrm_objective,
    mmrex_objective,
    more_vs_fewer_loss,
    vrex_penalty_debiased_from_statistics,
)
from invmod.penalties import (
    fishr_penalty_linear,
    irm_derivatives,
    irm_penalty_from_derivatives,
    vrex_penalty_debiased,
)
from tests.strategies import NAN, gradients, normal, poison, random_mask, seeded, simplex_rows

Z = normal(seeded(0), 5, 3, 4, dtype=torch.float32)
WEIGHTS = simplex_rows(seeded(1), 4, 3, dtype=torch.float32)
MASK = random_mask(seeded(2), 5, 3)
RISKS = normal(seeded(3), 4, dtype=torch.float32)
LOGITS = normal(seeded(4), 6, 3, dtype=torch.float32)
TARGETS = (LOGITS > 0.3).float()
GATES = invmod.GatedFusion(3, 4)
ATTENTION = invmod.AttentionFusion(3, 4, num_heads=2, generator=seeded(5))
for parameter in (GATES.weight, ATTENTION.query):
    nn.init.normal_(parameter, generator=seeded(6))

CASES = {
    "fuse": (lambda z: fuse(z, WEIGHTS), Z),
    "fuse with a mask": (lambda z: fuse(z, WEIGHTS, MASK), Z),
    "align": (lambda z: pairwise_alignment_loss(z, MASK), Z),
    "align to an anchor": (lambda z: pairwise_alignment_loss(z, MASK, anchor=1), Z),
    "align angles": (lambda z: invmod.alignment.cosine_alignment_loss(z, MASK), Z),
    "align by contrast": (lambda z: invmod.infonce_alignment_loss(z, MASK), Z),
    "align singular values": (lambda z: singular_value_alignment_loss(z, MASK), Z),
    "more versus fewer": (lambda r: more_vs_fewer_loss(r, RISKS.flip(0)), RISKS),
    "irm with ignored targets": (
        lambda z: irm_penalty(z, torch.where(TARGETS > 0, TARGETS, -100.0), ignore_index=-100),
        LOGITS,
    ),
    "fishr with ignored targets": (
        lambda z: fishr_penalty_linear(
            z,
            z,
            torch.tensor([0, 1, -100, 2, 0, 1]),
            torch.arange(6) % 2,
            ignore_index=-100,
        ),
        LOGITS,
    ),
    "align covariances": (lambda z: invmod.alignment.coral_alignment_loss(z, MASK, means=True), Z),
    "fuse own weights": (lambda z: fuse(z, WEIGHTS.expand(5, 4, 3), MASK), Z),
    "fuse by mean": (lambda z: invmod.masked_mean(z, MASK), Z),
    "fuse by gates": (lambda z: GATES(z, MASK), Z),
    "fuse by attention": (lambda z: ATTENTION(z, MASK), Z),
    "fuse experts": (lambda z: invmod.fusion.product_of_experts(z, -z, MASK).mean, Z),
    "vrex": (vrex_penalty, RISKS),
    "objective": (
        lambda r: invariant_objective(r, penalty=vrex_penalty, penalty_weight=5.0),
        RISKS,
    ),
    "irm bce": (lambda z: irm_penalty(z, TARGETS), LOGITS),
    "irm mse": (lambda z: irm_penalty(z, TARGETS, loss="mse"), LOGITS),
    "irm bpr": (lambda z: irm_penalty(z, None, loss="bpr"), LOGITS),
    "irm ce": (lambda z: irm_penalty(z, torch.arange(6) % 3, loss="ce"), LOGITS),
    "mmrex": (lambda r: mmrex_objective(r, lambda_min=-1.0), RISKS),
    "worst case": (worst_case_objective, RISKS),
    "cvar": (lambda r: cvar_objective(r, tail_fraction=0.6), RISKS),
    "eqrm": (lambda r: eqrm_objective(r, quantile=0.8), RISKS),
    "group dro": (lambda r: GroupDRO(4, step_size=0.5)(r), RISKS),
    "debiased": (lambda x: vrex_penalty_debiased(x, paired=True), LOGITS),
    "derivatives ce": (
        lambda z: irm_penalty_from_derivatives(
            irm_derivatives(z, torch.arange(6) % 3, loss="ce"), estimator="ustat"
        ),
        LOGITS,
    ),
    "derivatives callable": (
        lambda z: irm_penalty_from_derivatives(
            irm_derivatives(z, None, loss=lambda z, _: (z @ z.T).diagonal())
        ),
        LOGITS,
    ),
    "irm callable": (
        lambda z: irm_penalty(z, TARGETS, loss=lambda s, y: ((s @ s.T).sum() - y.sum()) / 6),
        LOGITS,
    ),
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


def test_statistics_and_estimates_from_them_are_the_same_under_autocast():
    """Products between environments are a matrix product, which autocast would run in bfloat16."""
    losses = LOGITS.T.clone().requires_grad_()
    expected = environment_statistics(losses, paired=True)
    with autocast():
        got = environment_statistics(losses, paired=True)
        value = vrex_penalty_debiased_from_statistics(got)
    for name, entry in got.items():
        assert entry.dtype == torch.float64
        assert torch.equal(entry, expected[name])
    (gradient,) = torch.autograd.grad(value, losses)
    assert torch.equal(
        gradient, torch.autograd.grad(vrex_penalty_debiased_from_statistics(expected), losses)[0]
    )


def test_coefficients_are_the_same_under_autocast():
    def objective(risks):
        return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=5.0)

    with autocast():
        got = risk_coefficients(RISKS, objective)
    assert torch.equal(got, risk_coefficients(RISKS, objective))


def test_a_training_step_runs_from_features_to_gradients():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = ModalityEncoders.mlp({"a": 3, "b": 2, "c": 1}, 4)
        head = nn.Linear(4, 1, bias=False)
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


def test_simulated_masks_are_the_same_under_autocast_for_any_score():
    def score(rows):
        return (rows @ torch.ones(3)) * 1.0

    features = {
        "a": normal(seeded(0), 50, 3, dtype=torch.float32),
        "b": normal(seeded(1), 50, 3, dtype=torch.float32),
    }
    mask, options = random_mask(seeded(2), 50, 2, 0.8), {"modalities": ["a", "b"], "strength": 2.0}

    def draw():
        own = simulate_mnar(features, mask, 0.5, score=score, generator=seeded(3), **options)
        other = simulate_mar(
            features, mask, 0.5, driver="a", score=score, generator=seeded(3), **options
        )
        return [own.mask, own.expected_rates, other.mask, other.expected_rates]

    expected = draw()
    with autocast():
        assert all(torch.equal(got, e) for got, e in zip(draw(), expected, strict=True))


@pytest.mark.parametrize("skip_missing", [False, True])
def test_encoders_of_images_keep_their_masked_cells_out_under_autocast(skip_missing):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
    encoders = ModalityEncoders({"image": conv}, skip_missing=skip_missing)
    mask = random_mask(seeded(0), 6, 1)
    image = poison(
        normal(seeded(1), 6, 2, 5, 5, dtype=torch.float32), mask[:, 0], NAN
    ).requires_grad_()
    expected = encoders({"image": image}, mask)
    with autocast():
        z = encoders({"image": image}, mask)
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z.float(), expected, rtol=2e-2, atol=2e-2)
    assert (z[~mask] == 0).all()
    for gradient in torch.autograd.grad(z.float().square().sum(), [image, *encoders.parameters()]):
        assert gradient.isfinite().all()
