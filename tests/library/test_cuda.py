"""On a GPU, the parts equal their values on the CPU and return tensors on the input's device."""

import pytest
import torch

import invmod
from invmod import (
    CyclicMixupEnvs,
    GroupDRO,
    MeanImputer,
    ModalityEncoders,
    ZeroImputer,
    collate,
    fuse,
    hide_features,
    invariant_objective,
    irm_penalty,
    mask_from_features,
    pairwise_alignment_loss,
    risk_coefficients,
    simulate_mcar,
    simulate_missing,
    vrex_penalty,
)
from invmod.missingness import rows_by_pattern, simulate_k_available, simulate_mar, simulate_mnar
from invmod.objectives import (
    cvar_objective,
    environment_statistics,
    eqrm_objective,
    mmrex_objective,
    statistics_coefficients,
    vrex_coefficients,
    vrex_penalty_debiased_from_statistics,
)
from invmod.penalties import irm_derivatives, irm_penalty_from_derivatives, vrex_penalty_debiased
from tests.strategies import NAN, gradients, normal, poison, random_mask, seeded, simplex_rows

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU: torch.cuda.is_available() is False"
    ),
]

Z = normal(seeded(0), 50, 3, 16)
WEIGHTS = simplex_rows(seeded(1), 4, 3)
MASK = random_mask(seeded(2), 50, 3)
RISKS = normal(seeded(3), 4)
LOGITS = normal(seeded(4), 6, 3)
TARGETS = (LOGITS > 0.3).double()


def objective(risks):
    return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=5.0)


CASES = {
    "cvar": (lambda r: cvar_objective(r, tail_fraction=0.6), (RISKS,), ()),
    "eqrm": (lambda r: eqrm_objective(r, quantile=0.8), (RISKS,), ()),
    "mmrex": (lambda r: mmrex_objective(r, lambda_min=-1.0), (RISKS,), ()),
    "debiased paired": (lambda x: vrex_penalty_debiased(x, paired=True), (LOGITS,), ()),
    "derivatives": (
        lambda z, y: irm_penalty_from_derivatives(irm_derivatives(z, y), estimator="ustat"),
        (LOGITS,),
        (TARGETS,),
    ),
    "fuse": (fuse, (Z, WEIGHTS), ()),
    "fuse with a mask": (fuse, (poison(Z, MASK, NAN), WEIGHTS), (MASK,)),
    "align": (pairwise_alignment_loss, (poison(Z, MASK, NAN),), (MASK,)),
    "align angles": (invmod.alignment.cosine_alignment_loss, (poison(Z, MASK, NAN),), (MASK,)),
    "align by contrast": (invmod.infonce_alignment_loss, (poison(Z, MASK, NAN),), (MASK,)),
    "align covariances": (invmod.alignment.coral_alignment_loss, (poison(Z, MASK, NAN),), (MASK,)),
    "fuse by mean": (invmod.masked_mean, (poison(Z, MASK, NAN),), (MASK,)),
    "fuse experts": (
        lambda z, a: invmod.fusion.product_of_experts(z, -z, a).mean,
        (poison(Z, MASK, NAN),),
        (MASK,),
    ),
    "vrex": (vrex_penalty, (RISKS,), ()),
    "objective": (objective, (RISKS,), ()),
    "irm bce": (irm_penalty, (LOGITS,), (TARGETS,)),
    "irm mse": (lambda z, y: irm_penalty(z, y, loss="mse"), (LOGITS,), (TARGETS,)),
    "irm bpr": (lambda z: irm_penalty(z, None, loss="bpr"), (LOGITS,), ()),
    "irm ce": (lambda z, y: irm_penalty(z, y, loss="ce"), (LOGITS,), (torch.arange(6) % 3,)),
    "irm callable": (
        lambda z, y: irm_penalty(z, y, loss=torch.nn.functional.mse_loss),
        (LOGITS,),
        (TARGETS,),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_those_on_the_cpu(case):
    function, inputs, constants = CASES[case]
    here = [x.clone().requires_grad_() for x in inputs]
    there = [x.cuda().requires_grad_() for x in inputs]
    expected, got = function(*here, *constants), function(*there, *(x.cuda() for x in constants))
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), expected)
    for g, e in zip(gradients(got, *there), gradients(expected, *here), strict=True):
        torch.testing.assert_close(g.cpu(), e)


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_float32_under_autocast(case):
    function, inputs, constants = CASES[case]
    inputs = [x.cuda().float() for x in inputs]
    constants = [x.cuda().float() if x.is_floating_point() else x.cuda() for x in constants]
    expected = function(*inputs, *constants)
    with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
        got = function(*inputs, *constants)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)


def test_coefficients_are_on_the_device_of_the_risks():
    with torch.no_grad():
        coefficients = risk_coefficients(RISKS.cuda(), objective)
    assert coefficients.is_cuda
    torch.testing.assert_close(coefficients.cpu(), risk_coefficients(RISKS, objective))


def test_vrex_coefficients_can_be_captured_in_a_cuda_graph():
    risks = torch.zeros_like(RISKS, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        coefficients = vrex_coefficients(risks, penalty_weight=5.0)
    risks.copy_(RISKS)
    graph.replay()
    torch.testing.assert_close(coefficients.cpu(), vrex_coefficients(RISKS, penalty_weight=5.0))


def test_group_dro_keeps_its_state_on_the_device():
    here, there = GroupDRO(4, step_size=0.5), GroupDRO(4, step_size=0.5).cuda()
    present = torch.tensor([True, False, True, True])
    for _ in range(3):
        loss = there(RISKS.cuda(), present=present.cuda())
        assert loss.is_cuda
        torch.testing.assert_close(loss.cpu(), here(RISKS, present=present))
    assert there.log_weights.is_cuda
    torch.testing.assert_close(there.weights.cpu(), here.weights)
    assert there.half().log_weights.dtype == torch.float64


@pytest.mark.parametrize("paired", [False, True])
def test_statistics_and_their_coefficients_are_on_the_device_of_the_losses(paired):
    def results(losses):
        s = environment_statistics(
            losses, paired=paired, weights=losses.new_ones(losses.shape[1:]) / 2
        )
        return s, *statistics_coefficients(s, vrex_penalty_debiased_from_statistics)

    statistics, value, coefficients = results(LOGITS.cuda())
    expected, expected_value, expected_coefficients = results(LOGITS)
    torch.testing.assert_close(value.cpu(), expected_value)
    for name in expected:
        assert statistics[name].is_cuda
        torch.testing.assert_close(statistics[name].cpu(), expected[name])
        torch.testing.assert_close(coefficients[name].cpu(), expected_coefficients[name])


def test_one_generator_gives_the_same_weights_on_every_device():
    envs = CyclicMixupEnvs(3, 0.1, num_draws=2)
    weights = envs.sample((4,), generator=seeded(0), device="cuda")
    assert weights.is_cuda
    assert torch.equal(weights.cpu(), envs.sample((4,), generator=seeded(0)))


def test_a_generator_of_the_device_works_and_leaves_the_global_ones_untouched():
    def generator():
        return torch.Generator(device="cuda").manual_seed(3)

    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    envs = CyclicMixupEnvs(3, 0.1)
    weights = envs.sample(generator=generator(), device="cuda")
    masks = [simulate_missing(MASK.cuda(), 0.5, generator=generator()).mask for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    assert torch.equal(weights, envs.sample(generator=generator(), device="cuda"))
    assert torch.equal(*masks)


def test_simulated_masks_are_equal_on_both_devices():
    here = simulate_missing(MASK, 0.5, generator=seeded(0))
    there = simulate_missing(MASK.cuda(), 0.5, rows=torch.arange(50), generator=seeded(0))
    assert there.mask.is_cuda
    assert there.shortfall == here.shortfall
    assert torch.equal(there.mask.cpu(), here.mask)
    patterns = rows_by_pattern(MASK.cuda())
    assert list(patterns) == list(rows_by_pattern(MASK))
    assert all(rows.is_cuda for rows in patterns.values())


@pytest.mark.parametrize("imputer", [ZeroImputer, MeanImputer])
def test_features_are_masked_imputed_and_encoded_on_the_device(imputer):
    names, mask = ("a", "b", "c"), MASK.cuda()
    features = {
        name: poison(normal(seeded(index), 50, 4), MASK[:, index], NAN)
        for index, name in enumerate(names)
    }
    on_device = {name: x.cuda() for name, x in features.items()}
    assert torch.equal(mask_from_features(on_device, names), mask)
    assert mask_from_features({"a": None, "b": on_device["b"]}, names).is_cuda

    fitted = imputer(names).fit(on_device, mask, rows=torch.arange(30))
    filled, usable = fitted(on_device, mask)
    expected, _ = imputer(names).fit(features, MASK, rows=torch.arange(30))(features, MASK)
    assert usable.is_cuda
    for name in names:
        torch.testing.assert_close(filled[name].cpu(), expected[name])

    encoders = ModalityEncoders.linear(dict.fromkeys(names, 4), 2).double()
    z = encoders(features, MASK)
    torch.testing.assert_close(encoders.cuda()(on_device, mask).cpu(), z)


def test_random_simulators_hide_the_same_cells_on_both_devices():
    names = ("a", "b", "c")
    features = {
        name: poison(normal(seeded(index), 50, 4), MASK[:, index], NAN)
        for index, name in enumerate(names)
    }
    there = {name: x.cuda() for name, x in features.items()}
    options = {"modalities": names, "strength": 1.5}
    for simulate in (
        lambda x, mask, g: simulate_k_available(mask, 1, generator=g),
        lambda x, mask, g: simulate_mcar(mask, (0.2, 0.5, 0.7), generator=g),
        lambda x, mask, g: simulate_mar(x, mask, 0.5, driver="a", generator=g, **options),
        lambda x, mask, g: simulate_mnar(x, mask, 0.5, generator=g, **options),
    ):
        here = simulate(features, MASK, seeded(0))
        on_device = simulate(there, MASK.cuda(), seeded(0))
        assert on_device.mask.is_cuda
        assert torch.equal(on_device.mask.cpu(), here.mask)
        torch.testing.assert_close(on_device.expected_rates.cpu(), here.expected_rates)
        torch.testing.assert_close(on_device.rates.cpu(), here.rates)
        own = torch.Generator(device="cuda").manual_seed(0)
        assert not simulate(there, MASK.cuda(), own).simulated.all()


@pytest.mark.parametrize("skip_missing", [False, True])
def test_images_and_words_are_collated_hidden_and_encoded_on_the_device(skip_missing):
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(9, 3)

        def forward(self, ids):
            return self.table(ids).mean(dim=1)

    conv = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    encoders = ModalityEncoders(
        {"image": conv, "words": Words()}, skip_missing=skip_missing
    ).double()
    samples = [
        {"image": normal(seeded(n), 1, 5, 5)} | ({"words": torch.arange(4)} if n % 2 else {})
        for n in range(6)
    ]
    features, mask, _ = collate(samples, modalities=encoders.modalities)
    mask = simulate_mcar(mask, 0.3, generator=seeded(0)).mask
    expected = encoders(features, mask)
    moved = hide_features(
        {name: x.cuda() for name, x in features.items()}, mask.cuda(), encoders.modalities
    )
    z = encoders.cuda()(moved, mask.cuda())
    assert z.is_cuda
    torch.testing.assert_close(z.cpu(), expected)
    assert collate([{"image": torch.ones(2).cuda()}, {}], modalities=["image"]).mask.is_cuda


@pytest.mark.parametrize(
    "make", [lambda: invmod.GatedFusion(3, 16), lambda: invmod.AttentionFusion(3, 16, num_heads=2)]
)
def test_learned_fusion(make):
    fusion = make().double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    z = poison(Z, MASK, NAN)
    expected = fusion(z, MASK)
    got = fusion.cuda()(z.cuda(), MASK.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), expected)


def test_environments_are_on_the_requested_device_with_the_values_of_the_cpu():
    for envs in (
        invmod.DirichletEnvs(3),
        invmod.RandomSubsetEnvs(3, num_envs=4),
        invmod.environments.OneHotEnvs(3),
    ):
        got = envs.sample((5,), generator=seeded(0), device="cuda")
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), envs.sample((5,), generator=seeded(0)))
    mask = MASK.cuda()
    masks = invmod.environments.KOfAvailableEnvs(3, k=2).sample_masks(
        mask=mask, generator=seeded(0)
    )
    assert masks.is_cuda
    assert torch.equal(
        masks.cpu(),
        invmod.environments.KOfAvailableEnvs(3, k=2).sample_masks(mask=MASK, generator=seeded(0)),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: invmod.KNNImputer(["a", "b"], num_neighbours=2),
        lambda: invmod.RidgeImputer(["a", "b"]),
        lambda: invmod.PPCAImputer(["a", "b"], num_components=1),
    ],
)
def test_imputers_that_use_other_modalities_of_a_row(make):
    mask = random_mask(seeded(0), 20, 2)
    mask[0] = True
    features = {"a": normal(seeded(1), 20, 3), "b": normal(seeded(2), 20, 2)}
    expected, _ = make().fit(features, mask)(features, mask)
    moved = {name: x.cuda() for name, x in features.items()}
    got, usable = make().fit(moved, mask.cuda())(moved, mask.cuda())
    assert usable.is_cuda
    for name in features:
        assert got[name].is_cuda
        torch.testing.assert_close(got[name].cpu(), expected[name], rtol=1e-6, atol=1e-6)
