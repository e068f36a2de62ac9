"""Laws of the sizes of gradients of modality modules and of their index of dispersion."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invmod.penalties import modality_gradient_norms, modality_learning_index
from tests.strategies import NAN, generators, laws, normal, seeded


@laws
@given(generators(), st.integers(1, 6), st.integers(1, 6))
def test_the_index_is_the_mean_coefficient_of_variation(generator, num_steps, num_modalities):
    norms = torch.rand(num_steps, num_modalities, generator=generator, dtype=torch.float64) + 0.1
    expected = (norms.numpy().std(axis=1) / norms.numpy().mean(axis=1)).mean()
    index = modality_learning_index(norms)
    assert index.item() == pytest.approx(expected)
    assert modality_learning_index(2 * norms).item() == pytest.approx(expected)
    order = torch.randperm(num_modalities, generator=generator)
    assert modality_learning_index(norms[:, order]).item() == pytest.approx(expected)
    assert modality_learning_index(norms[0]) == modality_learning_index(norms[:1])


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 8])
def test_equal_learning_gives_0_and_one_that_learns_alone_the_largest_value(num_modalities):
    assert modality_learning_index(torch.full((4, num_modalities), 0.5)) == 0
    alone = modality_learning_index(torch.eye(num_modalities))
    assert alone.item() == pytest.approx(math.sqrt(num_modalities - 1))


def test_steps_without_any_gradient_do_not_count():
    norms = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert modality_learning_index(norms) == modality_learning_index(norms[:1]) == 0.5
    assert modality_learning_index(torch.zeros(2, 3)).isnan()
    assert modality_learning_index(torch.tensor([[1.0, 3.0], [NAN, 1.0]])).isnan()


def test_norms_are_root_mean_squares_of_the_gradients_of_a_module():
    generator = seeded(0)
    modules = {"wide": nn.Linear(7, 5), "deep": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))}
    modules["deep"][0].requires_grad_(False)
    total = modules["wide"](normal(generator, 4, 7).float()).square().sum()
    total = total + modules["deep"](normal(generator, 4, 3).float()).square().sum()
    total.backward()
    expected = [
        torch.cat([p.grad.flatten() for p in m.parameters() if p.requires_grad]).square().mean()
        for m in modules.values()
    ]
    torch.testing.assert_close(modality_gradient_norms(modules), torch.stack(expected).sqrt())


def test_copies_of_a_module_side_by_side_have_the_size_of_one():
    """The size does not grow with the number of parameters."""
    one, many = nn.Linear(4, 1), nn.Linear(4, 6)
    x = torch.ones(2, 4)
    (one(x).sum() + many(x).sum()).backward()
    sizes = modality_gradient_norms({"one": one, "many": many})
    assert sizes[0].item() == pytest.approx(sizes[1].item())


def test_a_module_without_a_gradient_has_size_0_and_nan_stays():
    modules = {"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1)}
    modules["a"].weight.grad = torch.tensor([[3.0, NAN]])
    sizes = modality_gradient_norms(modules)
    assert sizes[0].isnan()
    assert sizes[1] == 0


def test_invalid_arguments_are_an_error():
    with pytest.raises(ValueError, match="`modules` is empty"):
        modality_gradient_norms({})
    with pytest.raises(ValueError, match="module of 'a' has no parameter that requires a gradient"):
        modality_gradient_norms({"a": nn.Linear(2, 1).requires_grad_(False)})
    for norms in (torch.zeros(0, 2), torch.zeros(()), torch.zeros(2, 2, 2)):
        with pytest.raises(ValueError, match=r"`norms` must have shape \(T, M\) or \(M,\)"):
            modality_learning_index(norms)
    with pytest.raises(TypeError, match=r"`norms` must be a floating-point tensor, got list"):
        modality_learning_index([1.0, 2.0])
