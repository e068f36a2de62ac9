"""Laws of all kinds of fusion: masks are honoured, and documented cases equal the masked mean."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from invmod.fusion import (
    AttentionFusion,
    EmbraceNetFusion,
    GatedFusion,
    ProxyTokens,
    fuse,
    masked_mean,
    product_of_experts,
)
from invmod.testing import (
    assert_constant_preserved,
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_nan_propagates,
    assert_on_simplex,
    assert_permutation_equivariant,
    assert_permutation_invariant,
)
from tests.strategies import (
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    laws,
    normal,
    random_mask,
    randomised,
    seeded,
)

D = 4


def random_double(module, generator):
    """Return the module in float64 with random parameters."""
    return randomised(module.double(), generator)


def experts(prior):
    """Return the product of experts as a function of one tensor of means and log variances."""
    return lambda z, mask=None: torch.cat(
        list(product_of_experts(*z.chunk(2, dim=-1), mask, prior=prior)), dim=-1
    )


KINDS = {
    "mean": lambda m, generator: masked_mean,
    "uniform environment": lambda m, generator: (
        lambda z, mask=None: fuse(z, torch.full((1, m), 1 / m), mask)[0]
    ),
    "gates": lambda m, generator: random_double(GatedFusion(m, D), generator),
    "attention": lambda m, generator: random_double(AttentionFusion(m, D), generator),
    "two heads": lambda m, generator: random_double(AttentionFusion(m, D, num_heads=2), generator),
    "three queries": lambda m, generator: random_double(
        AttentionFusion(m, D, num_heads=2, num_queries=3), generator
    ),
    "expected draws": lambda m, generator: EmbraceNetFusion().eval(),
    "experts": lambda m, generator: experts(False),
    "experts with a prior": lambda m, generator: experts(True),
}
EQUAL_TO_MEAN = [
    "mean",
    "uniform environment",
    "gates at first",
    "attention at first",
    "experts of equal variance",
    "expected draws",
]


def fusion_equal_to_mean(kind, m):
    return {
        "mean": lambda: masked_mean,
        "uniform environment": lambda: KINDS["uniform environment"](m, None),
        "gates at first": lambda: GatedFusion(m, D).double(),
        "attention at first": lambda: AttentionFusion(
            m, D, num_heads=2, generator=seeded(0)
        ).double(),
        "expected draws": lambda: EmbraceNetFusion().eval(),
        "experts of equal variance": lambda: (
            lambda z, mask=None: (
                product_of_experts(z, torch.full_like(z, 0.7), mask, prior=False).mean
            )
        ),
    }[kind]()


# --- reference implementations


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.sampled_from([(), (3,), (2, 3)]))
def test_masked_mean_is_the_mean_of_the_available_modalities(
    generator, num_rows, num_modalities, trailing
):
    z = normal(generator, num_rows, num_modalities, *trailing)
    mask = random_mask(generator, num_rows, num_modalities)
    expected = [
        row[available].mean(axis=0) if available.any() else np.zeros(trailing)
        for row, available in zip(z.numpy(), mask.numpy(), strict=True)
    ]
    h = masked_mean(z, mask)
    assert h.shape == (num_rows, *trailing)
    np.testing.assert_allclose(h, np.array(expected).reshape(h.shape), atol=1e-12)


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_gates_equal_a_loop(generator, num_rows, num_modalities):
    fusion = random_double(GatedFusion(num_modalities, D), generator)
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    v, b = fusion.weight.detach().numpy(), fusion.bias.detach().numpy()
    expected, gates = np.zeros((num_rows, D)), np.zeros((num_rows, num_modalities))
    for n, (row, available) in enumerate(zip(z.numpy(), mask.numpy(), strict=True)):
        weights = np.exp([v[m] @ row[m] + b[m] for m in range(num_modalities)]) * available
        if available.any():
            gates[n] = weights / weights.sum()
            expected[n] = gates[n] @ row
    np.testing.assert_allclose(fusion(z, mask).detach(), expected, atol=1e-12)
    np.testing.assert_allclose(fusion.gates(z, mask).detach(), gates, atol=1e-12)
    assert_on_simplex(fusion.gates(z, mask)[mask.any(dim=1)], atol=1e-12)
    # Gates are one environment per sample, with weights (N, 1, M).
    torch.testing.assert_close(fuse(z, fusion.gates(z, mask)[:, None], mask)[0], fusion(z, mask))


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_attention_equals_a_loop(generator, num_rows, num_modalities, num_heads, num_queries):
    fusion = random_double(
        AttentionFusion(num_modalities, D, num_heads=num_heads, num_queries=num_queries), generator
    )
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    query, key, modality = (p.detach().numpy() for p in (fusion.query, fusion.key, fusion.modality))
    d = D // num_heads
    expected = np.zeros((num_rows, num_queries, D))
    for n, (row, available) in enumerate(zip(z.numpy(), mask.numpy(), strict=True)):
        keys = row @ key.T + modality
        for q in range(num_queries):
            for head in range(num_heads):
                part = slice(head * d, (head + 1) * d)
                weights = (
                    np.exp([query[q, part] @ keys[m, part] / d**0.5 for m in range(num_modalities)])
                    * available
                )
                if available.any():
                    expected[n, q, part] = weights / weights.sum() @ row[:, part]
    h = fusion(z, mask).detach()
    np.testing.assert_allclose(h, expected[:, 0] if num_queries == 1 else expected, atol=1e-10)
    attention, has_modality = fusion.attention(z, mask).detach(), mask.any(dim=1)
    assert_on_simplex(attention[has_modality], atol=1e-12)
    assert (attention[~has_modality] == 0).all()


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.booleans())
def test_product_of_experts_equals_a_product_of_densities(
    generator, num_rows, num_modalities, prior
):
    mean = normal(generator, num_rows, num_modalities, 2)
    log_variance = normal(generator, num_rows, num_modalities, 2)
    mask = random_mask(generator, num_rows, num_modalities)
    fused = product_of_experts(mean, log_variance, mask, prior=prior)
    for n in range(num_rows):
        precision = float(prior) + np.exp(-log_variance[n][mask[n]].numpy()).sum(axis=0)
        weighted = (mean[n][mask[n]].numpy() * np.exp(-log_variance[n][mask[n]].numpy())).sum(
            axis=0
        )
        if not prior and not mask[n].any():
            assert (fused.mean[n] == 0).all()
            assert (fused.log_variance[n] == torch.inf).all()
            continue
        np.testing.assert_allclose(fused.log_variance[n], -np.log(precision), atol=1e-12)
        np.testing.assert_allclose(fused.mean[n], weighted / precision, atol=1e-12)
    if prior:
        standard = torch.distributions.Normal(0.0, 1.0)
        x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        # The normalised density differs from the product of densities by a constant factor.
        for n in range(num_rows):
            product = standard.log_prob(x) + sum(
                (
                    torch.distributions.Normal(mean[n, m], (log_variance[n, m] / 2).exp()).log_prob(
                        x
                    )
                    for m in range(num_modalities)
                    if mask[n, m]
                ),
                torch.zeros_like(x),
            )
            whole = torch.distributions.Normal(
                fused.mean[n], (fused.log_variance[n] / 2).exp()
            ).log_prob(x)
            constant = product - whole
            torch.testing.assert_close(
                constant, constant[:1].expand_as(constant), atol=1e-9, rtol=1e-9
            )


# --- cases that equal the masked mean


@pytest.mark.parametrize("kind", EQUAL_TO_MEAN)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.booleans())
def test_fusion_equals_the_masked_mean_in_the_documented_cases(
    kind, generator, num_rows, num_modalities, masked
):
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities) if masked else None
    torch.testing.assert_close(
        fusion_equal_to_mean(kind, num_modalities)(z, mask).double(),
        masked_mean(z, mask),
        rtol=0,
        atol=1e-7,
    )


# --- masks


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_content_of_masked_cells_changes_neither_output_nor_gradient(
    kind, generator, num_rows, num_modalities
):
    fusion = KINDS[kind](num_modalities, generator)
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    mask[:1] = False  # a row without modalities
    assert_mask_honoured(fusion, z, mask)


def fused_proxies(m, generator):
    proxies = random_double(ProxyTokens(m, D, rank=2), generator)
    return lambda z, mask=None: masked_mean(*proxies(z, mask))


def mean_and_variance(prior, part):
    return lambda m, generator: (
        lambda z, mask: product_of_experts(*z.chunk(2, dim=-1), mask, prior=prior)[part]
    )


NAN_KINDS = {
    **KINDS,
    "mean of experts": mean_and_variance(False, 0),
    "variance of experts with a prior": mean_and_variance(True, 1),
    "one-hot environments": lambda m, generator: lambda z, mask: fuse(z, torch.eye(m), mask),
    "own weights": lambda m, generator: (
        lambda z, mask: fuse(z, torch.full((len(z), 2, m), 1 / m), mask)
    ),
    "draws": lambda m, generator: lambda z, mask: EmbraceNetFusion()(z, mask, generator=seeded(0)),
    "proxies": fused_proxies,
    "alignment of proxies": lambda m, generator: (
        lambda z, mask: random_double(ProxyTokens(m, D), seeded(0)).alignment_loss(z, mask)
    ),
}


@pytest.mark.parametrize("kind", NAN_KINDS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_nan_in_an_available_cell_comes_out_as_nan(kind, generator, num_rows, num_modalities):
    mask = random_mask(generator, num_rows, num_modalities)
    if kind == "alignment of proxies":
        mask = mask & (mask.sum(dim=1, keepdim=True) > 1)  # rows with a pair
    z = normal(generator, num_rows, num_modalities, D)
    if kind in ("mean of experts", "variance of experts with a prior"):
        # NaN in the mean alone, or in the variance alone, reaches the mean or the variance.
        part = slice(0, D // 2) if kind == "mean of experts" else slice(D // 2, D)
        half = NAN_KINDS[kind](num_modalities, generator)

        def fusion(z_part, mask):
            whole = torch.zeros(*z_part.shape[:2], D, dtype=z_part.dtype)
            whole[..., part] = z_part
            return half(whole, mask)

        assert_nan_propagates(fusion, z[..., part], mask)
        return
    assert_nan_propagates(NAN_KINDS[kind](num_modalities, generator), z, mask)


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_an_all_true_mask_equals_none_and_samples_keep_their_order(
    kind, generator, num_rows, num_modalities
):
    fusion = KINDS[kind](num_modalities, generator)
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    assert_full_mask_equals_no_mask(fusion, z)
    assert_permutation_equivariant(fusion, z, mask, dim=0)


@pytest.mark.parametrize(
    "kind",
    ["mean", "uniform environment", "gates", "attention", "two heads", "expected draws"],
)
@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_a_constant_is_preserved(kind, generator, num_rows, num_modalities):
    constant = normal(generator, num_rows, D)
    mask = random_mask(generator, num_rows, num_modalities)
    assert_constant_preserved(
        KINDS[kind](num_modalities, generator), constant, num_modalities, mask, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(generators(), st.integers(1, 6), NUM_MODALITIES)
def test_a_masked_modality_is_equivalent_to_an_absent_one(
    kind, generator, num_rows, num_modalities
):
    """Masking the last of M + 1 modalities gives the same result as the first M modalities."""
    fusion = KINDS[kind](num_modalities + 1, generator)
    z = normal(generator, num_rows, num_modalities + 1, D)
    mask = torch.ones(num_rows, num_modalities + 1, dtype=torch.bool)
    mask[:, -1] = False
    if isinstance(fusion, nn.Module):
        smaller = KINDS[kind](num_modalities, generator)
        rows = {
            name: p[:num_modalities]
            if p.shape[0] == num_modalities + 1 and name in ("weight", "bias", "modality")
            else p
            for name, p in fusion.state_dict().items()
        }
        smaller.load_state_dict(rows)
    else:
        smaller = KINDS[kind](num_modalities, generator)
    torch.testing.assert_close(fusion(z, mask), smaller(z[:, :-1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_modalities_has_the_documented_value(kind):
    z = normal(seeded(0), 2, 3, D)
    h = KINDS[kind](3, seeded(1))(z, torch.zeros(2, 3, dtype=torch.bool))
    expected = torch.zeros_like(h)
    if kind == "experts":
        expected[:, D // 2 :] = torch.inf
    assert torch.equal(h, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind):
    z, mask = normal(seeded(1), 4, 3, D).requires_grad_(), random_mask(seeded(2), 4, 3, 0.7)
    fusion = KINDS[kind](3, seeded(3))
    if isinstance(fusion, nn.Module):
        names = [name for name, _ in fusion.named_parameters()]
        parameters = [p.detach().clone().requires_grad_() for p in fusion.parameters()]

        def call(z, *values):
            return torch.func.functional_call(
                fusion, dict(zip(names, values, strict=True)), (z, mask)
            )

        assert gradcheck(call, (z, *parameters))
    else:
        assert gradcheck(
            lambda z: torch.where((h := fusion(z, mask)).isfinite(), h, 0.0),
            (z,),
            atol=1e-4,
            eps=1e-4,
        )


@pytest.mark.parametrize("kind", ["mean", "expected draws", "experts", "experts with a prior"])
def test_the_order_of_modalities_does_not_matter(kind):
    z, mask = normal(seeded(0), 5, 4, D), random_mask(seeded(1), 5, 4)
    assert_permutation_invariant(KINDS[kind](4, seeded(2)), z, mask, dim=1)


# --- experts


def test_more_modalities_lower_the_variance_and_small_variances_weigh_more():
    mean, log_variance = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [-3.0]]])
    both = product_of_experts(mean, log_variance)
    first_only = product_of_experts(mean, log_variance, torch.tensor([[True, False]]))
    assert both.log_variance < first_only.log_variance < 0
    assert both.mean > 0.8


@pytest.mark.parametrize("size", [-200.0, 200.0])
def test_variances_beyond_the_range_of_a_float_do_not_overflow(size):
    mean, log_variance = torch.tensor([[[1.0], [3.0]]]), torch.full((1, 2, 1), size)
    fused = product_of_experts(mean, log_variance, prior=False)
    torch.testing.assert_close(fused.mean, torch.tensor([[2.0]]))
    torch.testing.assert_close(fused.log_variance, torch.tensor([[size]]) - torch.tensor(2.0).log())


# --- modules


@pytest.mark.parametrize(
    "make",
    [
        lambda g: GatedFusion(3, D),
        lambda g: AttentionFusion(3, D, num_heads=2, num_queries=2, generator=g),
    ],
)
def test_a_module_can_be_saved_and_its_start_depends_on_the_seed(make):
    state = torch.get_rng_state()
    first, again = make(seeded(1)), make(seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    z, mask = normal(seeded(0), 5, 3, D), random_mask(seeded(1), 5, 3)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    trained = random_double(first, seeded(2))
    fresh = make(seeded(3)).double()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(z, mask), trained(z, mask))
    assert "num_modalities=3, embedding_dim=4" in repr(fresh)


def test_the_first_steps_of_training_change_the_fusion():
    z = normal(seeded(0), 64, 3, D, dtype=torch.float32)
    targets = normal(seeded(1), 64, D, dtype=torch.float32)
    targets = z[:, 1] + 0.1 * targets  # only the second modality is informative
    for fusion in (GatedFusion(3, D), AttentionFusion(3, D, generator=seeded(0))):
        optimiser = torch.optim.Adam(fusion.parameters(), lr=0.1)
        losses = []
        for _ in range(30):
            loss = (fusion(z) - targets).square().mean()
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_pass(kind):
    fusion = KINDS[kind](3, seeded(0))
    if isinstance(fusion, nn.Module):
        fusion = fusion.to("meta")
    if kind == "uniform environment":
        weights = torch.full((1, 3), 1 / 3, device="meta")
        fusion = lambda z, mask=None: fuse(z, weights, mask)[0]  # noqa: E731
    z = torch.zeros(5, 3, D, device="meta")
    mask = torch.ones(5, 3, dtype=torch.bool, device="meta")
    for h in (fusion(z), fusion(z, mask)):
        assert h.is_meta
        assert h.shape[0] == 5


def test_sizes_may_be_integers_of_numpy():
    m, d, two = np.int64(3), np.int32(D), np.uint8(2)
    z = normal(seeded(0), 5, 3, D, dtype=torch.float32)
    attention = AttentionFusion(m, d, num_heads=two, num_queries=two, generator=seeded(1))
    same = AttentionFusion(3, D, num_heads=2, num_queries=2, generator=seeded(1))
    assert torch.equal(attention(z), same(z))
    assert type(attention.num_heads) is int
    assert torch.equal(GatedFusion(m, d)(z), GatedFusion(3, D)(z))
    assert ProxyTokens(m, d, rank=two).substitutes(z).shape == (5, 6, D)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    z, mask = normal(seeded(0), 5, 3, D).to(dtype), random_mask(seeded(1), 5, 3)
    fusion = KINDS[kind](3, seeded(2))
    if isinstance(fusion, nn.Module):
        fusion = fusion.float()
    h = fusion(z, mask)
    assert h.dtype == dtype
    assert torch.equal(h, fusion(z.float(), mask).to(dtype))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: masked_mean(torch.ones(2, 3).long()),
            TypeError,
            "masked_mean: `z` must be a floating-point tensor, got torch.int64",
        ),
        (
            lambda: masked_mean([1.0]),
            TypeError,
            "masked_mean: `z` must be a floating-point tensor, got list",
        ),
        (
            lambda: masked_mean(torch.ones(2)),
            ValueError,
            "masked_mean: `z` must have shape (N, M, ...) with at least one",
        ),
        (
            lambda: masked_mean(torch.ones(2, 0)),
            ValueError,
            "with at least one modality, got (2, 0)",
        ),
        (
            lambda: masked_mean(torch.ones(2, 3), torch.ones(2, 4).bool()),
            ValueError,
            "masked_mean: `mask` must have shape",
        ),
        (
            lambda: GatedFusion(0, 3),
            ValueError,
            "GatedFusion: `num_modalities` must be at least 1, got 0",
        ),
        (
            lambda: GatedFusion(2, 3.0),
            TypeError,
            "GatedFusion: `embedding_dim` must be an int, got 3.0",
        ),
        (
            lambda: AttentionFusion(2, 3, num_heads=2),
            ValueError,
            "`num_heads` must divide `embedding_dim` = 3, got 2",
        ),
        (
            lambda: AttentionFusion(2, 3, num_queries=0),
            ValueError,
            "AttentionFusion: `num_queries` must be at least 1",
        ),
        (
            lambda: AttentionFusion(2, True),
            TypeError,
            "AttentionFusion: `embedding_dim` must be an int, got True",
        ),
        (
            lambda: GatedFusion(2, 3)(torch.ones(4, 3, 3)),
            ValueError,
            "GatedFusion: `z` must have shape (N, 2, 3), got (4, 3, 3)",
        ),
        (
            lambda: GatedFusion(2, 3).gates(torch.ones(4, 2)),
            ValueError,
            "GatedFusion: `z` must have shape (N, M, D) with at",
        ),
        (
            lambda: AttentionFusion(2, 3).attention(torch.ones(4, 2, 4)),
            ValueError,
            "`z` must have shape (N, 2, 3), got (4, 2, 4)",
        ),
        (
            lambda: product_of_experts(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            "product_of_experts: `z` must have shape (N, M, D)",
        ),
        (
            lambda: product_of_experts(torch.ones(2, 3, 1), torch.ones(2, 3)),
            ValueError,
            "`log_variance` must have the shape (2, 3, 1) of `mean`, got (2, 3)",
        ),
        (
            lambda: product_of_experts(torch.ones(2, 3, 1), torch.ones(2, 3, 1).int()),
            TypeError,
            "`log_variance` must be a floating-point tensor, got torch.int32",
        ),
    ],
)
def test_invalid_input_is_an_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
