"""Laws of the risks of any model under masks: a loop by hand, masks of the data, and gradients."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invmod.environments import (
    CyclicMixupEnvs,
    KOfAvailableEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    RandomSubsetEnvs,
    UnionEnvs,
)
from invmod.objectives import environment_risks, worst_case_objective
from tests.strategies import NAN, generators, laws, normal, poison, random_mask, seeded


def model_of(generator, num_modalities):
    """A model that is not linear in its modalities, and ignores what the mask hides."""
    weight = normal(generator, num_modalities, 3, 2).requires_grad_()

    def predict(x, mask):
        hidden = torch.einsum("nmd,mdk->nk", torch.where(mask[..., None], x, 0.0), weight)
        return hidden.tanh() * mask.sum(dim=1, keepdim=True)

    return predict, weight


@laws
@given(generators(), st.integers(2, 5), st.integers(1, 6), st.booleans())
def test_risks_and_gradients_are_those_of_a_loop_by_hand(
    generator, num_modalities, num_rows, include_natural
):
    predict, weight = model_of(generator, num_modalities)
    x, y = normal(generator, num_rows, num_modalities, 3), normal(generator, num_rows, 2)
    mask = random_mask(generator, num_rows, num_modalities)
    envs = UnionEnvs(RandomSubsetEnvs(num_modalities, num_envs=2), LeaveOneOutEnvs(num_modalities))
    seed = int(torch.randint(1000, (), generator=generator))
    risks = environment_risks(
        predict,
        x,
        mask,
        envs,
        lambda out: (out - y).square().mean(),
        include_natural=include_natural,
        generator=seeded(seed),
    )
    expected = [mask] if include_natural else []
    for row in envs.sample_masks(generator=seeded(seed)):
        kept = mask & row
        kept[~kept.any(dim=1)] = mask[~kept.any(dim=1)]
        expected.append(kept)
    by_hand = torch.stack([(predict(x, kept) - y).square().mean() for kept in expected])
    assert torch.equal(risks, by_hand)
    for objective in (worst_case_objective, torch.Tensor.sum):
        (gradient,) = torch.autograd.grad(objective(risks), weight, retain_graph=True)
        (by_loop,) = torch.autograd.grad(objective(by_hand), weight, retain_graph=True)
        torch.testing.assert_close(gradient, by_loop, rtol=1e-12, atol=1e-12)


def recorded(mask, envs, **options):
    """The masks that a model is given, (E, N, M)."""
    masks = []

    def predict(_, mask):
        masks.append(mask)
        return torch.zeros(())

    environment_risks(predict, None, mask, envs, lambda out: out, **options)
    return torch.stack(masks)


def test_a_sample_keeps_only_what_it_has_and_never_nothing():
    mask = torch.tensor([[True, True, True], [False, True, False], [True, False, True]])
    masks = recorded(mask, OneHotEnvs(3), include_natural=True)
    assert torch.equal(masks[0], mask)
    # Each modality alone where the sample has it; a sample without it keeps what it has.
    assert masks[1].tolist() == [[True, False, False], [False, True, False], [True, False, False]]
    assert masks[2].tolist() == [[False, True, False], [False, True, False], [True, False, True]]
    assert masks[3].tolist() == [[False, False, True], [False, True, False], [False, False, True]]


def test_a_row_without_any_modality_stays_without_one():
    mask = torch.tensor([[False, False], [True, True]])
    masks = recorded(mask, OneHotEnvs(2))
    assert not masks[:, 0].any()


def test_environments_that_draw_from_what_a_sample_has_are_given_the_mask():
    mask = random_mask(seeded(0), 40, 4)
    masks = recorded(mask, KOfAvailableEnvs(4, k=2, num_envs=3), generator=seeded(1))
    assert masks.shape == (3, 40, 4)
    assert torch.equal(masks.sum(dim=-1), mask.sum(dim=-1).clamp(max=2).expand(3, -1))
    assert not (masks & ~mask).any()
    assert not torch.equal(masks[:, 0], masks[:, 1])  # every sample has its own


def test_values_hidden_by_the_mask_of_the_data_change_nothing():
    generator = seeded(0)
    predict, weight = model_of(generator, 3)
    x, mask = normal(generator, 6, 3, 3), random_mask(generator, 6, 3)
    results = []
    for features in (x, poison(x, mask, NAN)):
        risks = environment_risks(
            predict, features, mask, LeaveOneOutEnvs(3), lambda out: out.square().mean()
        )
        results.append((risks.detach(), torch.autograd.grad(risks.sum(), weight)[0]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_features_and_outputs_may_have_any_form():
    """A dictionary in, a dictionary out, as models of other libraries have them."""
    head = nn.Linear(4, 3)
    features = {"a": torch.ones(5, 2), "b": torch.ones(5, 2)}
    targets = torch.tensor([0, 1, 2, 0, 1])

    def predict(features, mask):
        parts = [torch.where(mask[:, i, None], x, 0.0) for i, x in enumerate(features.values())]
        return {"logits": head(torch.cat(parts, dim=1))}

    risks = environment_risks(
        predict,
        features,
        torch.ones(5, 2, dtype=torch.bool),
        OneHotEnvs(2),
        lambda out: F.cross_entropy(out["logits"], targets),
    )
    assert risks.shape == (2,)
    risks.sum().backward()
    assert head.weight.grad.any()


@pytest.mark.parametrize(
    ("mask", "envs", "loss", "error", "message"),
    [
        (torch.ones(2, 3), OneHotEnvs(3), None, TypeError, "`mask` must be a bool tensor"),
        (torch.ones(2, 2).bool(), OneHotEnvs(3), None, ValueError, "(N, M) with M = 3, got (2, 2)"),
        (
            torch.ones(2, 3).bool(),
            CyclicMixupEnvs(3),
            None,
            TypeError,
            "include_uniform=True, min_weight=0.0) has weights only, no masks. Use subsets such as "
            "`RandomSubsetEnvs`, or `fuse` with weights.",
        ),
        (torch.ones(2, 3).bool(), OneHotEnvs(3), 1.0, TypeError, "tensor, got float."),
        (
            torch.ones(2, 3).bool(),
            OneHotEnvs(3),
            torch.ones(2),
            ValueError,
            "`loss` must return a scalar, got shape (2,). Reduce it over the batch",
        ),
    ],
)
def test_invalid_arguments_are_an_error(mask, envs, loss, error, message):
    with pytest.raises(error, match="environment_risks: .*" + re.escape(message)):
        environment_risks(lambda x, mask: x, torch.ones(2), mask, envs, lambda _: loss)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "nested"])
def test_a_model_that_writes_into_its_input_changes_no_other_environment(kind):
    x = normal(seeded(0), 5, 2)
    mask = torch.ones(5, 2, dtype=torch.bool)
    columns = list(x.unbind(1)) if kind != "arrays" else [c.numpy().copy() for c in x.unbind(1)]
    features = {"batch": columns} if kind == "nested" else columns
    before = [torch.as_tensor(column).clone() for column in columns]

    def predict(features, mask):
        given = features["batch"] if kind == "nested" else features
        for m, column in enumerate(given):
            column *= mask[:, m].double().numpy() if kind == "arrays" else mask[:, m]
        total = sum(torch.as_tensor(column) for column in given)
        mask.fill_(False)
        return total

    def risks():
        return environment_risks(
            predict, features, mask, LeaveOneOutEnvs(2), torch.mean, include_natural=True
        )

    expected = torch.stack([x.sum(1).mean(), x[:, 1].mean(), x[:, 0].mean()])
    torch.testing.assert_close(risks(), expected)
    torch.testing.assert_close(risks(), expected)
    assert all(torch.as_tensor(a).equal(b) for a, b in zip(columns, before, strict=True))
    assert mask.all()
