"""Laws of proxy tokens: which cells are filled, by which heads, and how the heads learn."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from invmod.encoders import ModalityEncoders
from invmod.fusion import GatedFusion, ProxyTokens
from invmod.testing import (
    assert_full_mask_equals_no_mask,
    assert_mask_honoured,
    assert_permutation_equivariant,
    assert_permutation_invariant,
)
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
    randomised,
    seeded,
)

D = 4


def random_proxies(num_modalities, generator, rank=2):
    return randomised(ProxyTokens(num_modalities, D, rank=rank).double(), generator)


def reference(proxies, z, mask):
    """Filled embeddings and the sum of squared distances with its number of pairs, as loops."""
    down, up, bias = (p.detach().numpy() for p in (proxies.down, proxies.up, proxies.bias))
    filled, total, count = np.zeros(z.shape), 0.0, 0
    for n, available in enumerate(mask):
        sums = np.zeros(z.shape[1:])
        for index, (source, target) in enumerate(proxies.pairs):
            if not available[source]:
                continue
            token = up[index].T @ (down[index].T @ z[n, source]) + bias[index]
            sums[target] += token
            if available[target]:
                total += ((token - z[n, target]) ** 2).sum()
                count += 1
        for target in range(z.shape[1]):
            others = available.sum() - available[target]
            filled[n, target] = sums[target] / max(others, 1)
            if available[target]:
                filled[n, target] = z[n, target]
    return filled, total, count


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES, st.integers(1, 5))
def test_substitutes_and_the_loss_equal_a_loop(generator, num_rows, num_modalities, rank):
    proxies = random_proxies(num_modalities, generator, rank)
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    expected, total, count = reference(proxies, z.numpy(), mask.numpy())
    z_hat, usable = proxies(z, mask)
    np.testing.assert_allclose(z_hat.detach(), expected, atol=1e-10)
    assert torch.equal(usable, mask.any(dim=1)[:, None].expand_as(mask))
    assert torch.equal(z_hat[mask], z[mask])
    assert (z_hat[~usable] == 0).all()
    loss = proxies.alignment_loss(z, mask)
    np.testing.assert_allclose(loss.item(), total / max(count, 1), rtol=1e-10)
    summed = proxies.alignment_loss(z, mask, reduction="sum")
    np.testing.assert_allclose(summed.item(), total, rtol=1e-10)


@laws
@given(generators(), NUM_ROWS, NUM_MODALITIES)
def test_hidden_cells_change_nothing(generator, num_rows, num_modalities):
    proxies = random_proxies(num_modalities, generator)
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    parameters = list(proxies.parameters())
    for part in (lambda z, a: proxies(z, a)[0], proxies.alignment_loss):
        assert_mask_honoured(part, z, mask, parameters=parameters)
        assert_full_mask_equals_no_mask(part, z)
    assert_permutation_equivariant(lambda z, mask: proxies(z, mask)[0], z, mask, dim=0)
    assert_permutation_invariant(proxies.alignment_loss, z, mask, dim=0)


@laws
@given(generators(), st.integers(1, 6), st.integers(2, 4))
def test_complete_rows_use_no_substitute(generator, num_rows, num_modalities):
    proxies = random_proxies(num_modalities, generator)
    z = normal(generator, num_rows, num_modalities, D).requires_grad_()
    z_hat, usable = proxies(z)
    assert torch.equal(z_hat, z)
    assert usable.all()
    assert all((g == 0).all() for g in gradients(z_hat, *proxies.parameters()))


@laws
@given(generators(), st.integers(1, 6), st.integers(2, 4))
def test_heads_follow_a_permutation_of_the_modalities(generator, num_rows, num_modalities):
    proxies, other = (random_proxies(num_modalities, generator) for _ in range(2))
    order = torch.randperm(num_modalities, generator=generator)
    position = {pair: index for index, pair in enumerate(proxies.pairs)}
    with torch.no_grad():
        for index, (source, target) in enumerate(other.pairs):
            old = position[int(order[source]), int(order[target])]
            for name, parameter in other.named_parameters():
                parameter[index] = getattr(proxies, name)[old]
    z = normal(generator, num_rows, num_modalities, D)
    mask = random_mask(generator, num_rows, num_modalities)
    torch.testing.assert_close(other(z[:, order], mask[:, order])[0], proxies(z, mask)[0][:, order])
    torch.testing.assert_close(
        other.alignment_loss(z[:, order], mask[:, order]), proxies.alignment_loss(z, mask)
    )


def test_with_one_modality_the_loss_is_0_and_nothing_is_filled():
    proxies, z = ProxyTokens(1, D), normal(seeded(0), 3, 1, D).requires_grad_()
    mask = torch.tensor([[True], [False], [True]])
    for reduction in ("mean", "sum"):
        loss = proxies.alignment_loss(poison(z, mask, NAN).requires_grad_(), mask)
        assert loss.item() == 0
        assert (
            torch.autograd.grad(proxies.alignment_loss(z, reduction=reduction), z)[0] == 0
        ).all()
    z_hat, usable = proxies(z, mask)
    assert torch.equal(z_hat, torch.where(mask[..., None], z, 0.0))
    assert torch.equal(usable, mask)
    assert proxies.alignment_loss(z[:0]).item() == 0


def test_rows_without_a_pair_give_a_loss_of_0_with_gradients_of_0():
    proxies, z = random_proxies(3, seeded(0)), normal(seeded(1), 3, 3, D)
    mask = torch.eye(3).bool()
    loss = proxies.alignment_loss(z, mask)
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, list(proxies.parameters())))


def test_the_loss_moves_the_source_and_never_the_target():
    proxies = random_proxies(2, seeded(0))
    with torch.no_grad():
        proxies.down[0] = 0.0  # the head 1 -> 0 ignores its source
    assert proxies.pairs == ((1, 0), (0, 1))
    z = normal(seeded(1), 3, 2, D).requires_grad_()
    (gradient,) = torch.autograd.grad(proxies.alignment_loss(z), z)
    assert (gradient[:, 0] != 0).all()
    assert (gradient[:, 1] == 0).all()


def test_gradients_agree_with_finite_differences():
    proxies = random_proxies(3, seeded(0))
    names = [name for name, _ in proxies.named_parameters()]
    z, mask = normal(seeded(1), 4, 3, D), random_mask(seeded(2), 4, 3)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.proxies = proxies

        def forward(self, z):
            return self.proxies(z, mask)[0], self.proxies.alignment_loss(z, mask)

    def call(*values):
        state = {f"proxies.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Both(), state, (z,))

    assert gradcheck(call, [p.detach().clone().requires_grad_() for p in proxies.parameters()])


def test_the_first_substitutes_are_0_and_the_seed_decides_the_start():
    state = torch.get_rng_state()
    first, again = (ProxyTokens(3, D, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first.down, again.down)
    assert not torch.equal(first.down, ProxyTokens(3, D, generator=seeded(2)).down)
    assert torch.equal(torch.get_rng_state(), state)
    z = normal(seeded(0), 5, 3, D, dtype=torch.float32)
    assert (first.substitutes(z) == 0).all()
    assert "num_modalities=3, embedding_dim=4, rank=4" in repr(first)


def test_heads_learn_a_linear_relation_between_modalities():
    """A modality that is a low-rank function of another is restored from it."""
    generator = seeded(0)
    first = normal(generator, 256, D)
    relation = normal(generator, D, 2) @ normal(generator, 2, D)
    z = torch.stack([first, first @ relation + 0.5], dim=1).float()
    proxies = ProxyTokens(2, D, rank=2, generator=generator)
    optimiser = torch.optim.Adam(proxies.parameters(), lr=0.05)
    for _ in range(300):
        loss = proxies.alignment_loss(z)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mask = torch.tensor([[True, False]]).expand(256, 2)
    z_hat, _ = proxies(poison(z, mask, NAN), mask)
    assert (z_hat[:, 1] - z[:, 1]).square().mean() < 1e-3 * z[:, 1].var()


def test_a_training_step_runs_from_features_to_all_gradients():
    encoders = ModalityEncoders.linear({"a": 3, "b": 2, "c": 5}, D)
    proxies, fusion = ProxyTokens(3, D), GatedFusion(3, D)
    mask = random_mask(seeded(0), 6, 3)
    features = {
        name: poison(normal(seeded(1), 6, d, dtype=torch.float32), mask[:, m], NAN)
        for m, (name, d) in enumerate({"a": 3, "b": 2, "c": 5}.items())
    }
    z = encoders(features, mask)
    z_hat, usable = proxies(z, mask)
    (fusion(z_hat, usable).square().mean() + 0.2 * proxies.alignment_loss(z, mask)).backward()
    for module in (encoders, proxies, fusion):
        assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    proxies = random_proxies(3, seeded(0)).float()
    z, mask = normal(seeded(1), 5, 3, D).to(dtype), random_mask(seeded(2), 5, 3)
    z_hat, _ = proxies(z, mask)
    assert z_hat.dtype == dtype
    assert torch.equal(z_hat, proxies(z.float(), mask)[0].to(dtype))
    assert proxies.alignment_loss(z, mask).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same, loss = proxies(z.float(), mask)[0], proxies.alignment_loss(z.float(), mask)
    assert torch.equal(same, proxies(z.float(), mask)[0])
    assert torch.equal(loss, proxies.alignment_loss(z.float(), mask))


def test_meta_tensors_pass():
    proxies = ProxyTokens(3, D).to("meta")
    z = torch.zeros(4, 3, D, device="meta")
    mask = torch.ones(4, 3, dtype=torch.bool, device="meta")
    assert [x.shape for x in proxies(z, mask)] == [(4, 3, D), (4, 3)]
    assert proxies.alignment_loss(z, mask).shape == ()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ProxyTokens(0, 3), ValueError, "`num_modalities` must be at least 1, got 0"),
        (lambda: ProxyTokens(2, 3, rank=0), ValueError, "ProxyTokens: `rank` must be at least 1"),
        (lambda: ProxyTokens(2, 3.0), TypeError, "`embedding_dim` must be an int, got 3.0"),
        (
            lambda: ProxyTokens(2, 3)(torch.zeros(4, 2, 5)),
            ValueError,
            "ProxyTokens: `z` must have shape (N, 2, 3), got (4, 2, 5).",
        ),
        (
            lambda: ProxyTokens(2, 3).alignment_loss(torch.zeros(4, 3, 3)),
            ValueError,
            "ProxyTokens: `z` must have shape (N, 2, 3), got (4, 3, 3).",
        ),
        (
            lambda: ProxyTokens(2, 3).alignment_loss(torch.zeros(4, 2, 3), reduction="none"),
            ValueError,
            "`reduction` must be 'mean' or 'sum', got 'none'.",
        ),
        (
            lambda: ProxyTokens(2, 3)(torch.zeros(4, 2, 3), torch.ones(4, 2)),
            TypeError,
            "ProxyTokens: `mask` must have dtype torch.bool",
        ),
    ],
)
def test_invalid_input_is_an_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
