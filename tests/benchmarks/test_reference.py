"""The reference equals the formulas of the paper, and a training step of the recommender."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.reference import (
    ReferenceMilk,
    ReferenceWeights,
    reference_alignment,
    reference_environments,
    reference_epoch,
    reference_evaluate,
    reference_loss,
    reference_metrics,
    reference_negatives,
    reference_risks,
    reference_rows,
)
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.tables import Tables
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import TripleBatch, gather_batch
from milk_recsys.methods.milk.model import Recommender
from milk_recsys.methods.milk.objective import batch_sums, objective
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks
from milk_recsys.ranking.negatives import sample_negatives

NUM_USERS, NUM_ITEMS, DIM = 4, 7, 3
WIDTHS = {"text": 2, "type": 4, "audio.v2": 3}
STRENGTHS = ReferenceWeights(penalty_weight=50.0, alignment_weight=0.7, regulariser_weight=0.03)


class Case:
    """A tiny batch in float64, with missing cells and an item that occurs twice."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.features = {
            name: self.rng.normal(size=(NUM_ITEMS, width)) for name, width in WIDTHS.items()
        }
        self.observed = self.rng.random((NUM_ITEMS, len(WIDTHS))) < 0.6
        self.observed[0] = True
        self.users = np.array([0, 1, 1, 3, 2])
        self.pos = np.array([0, 2, 5, 0, 4])
        self.neg = np.array([1, 0, 6, 3, 1])
        first = self.rng.dirichlet([1.0] * len(WIDTHS))
        self.weights = np.stack([np.full(3, 1 / 3), first, np.roll(first, 1), np.roll(first, 2)])
        generator = torch.Generator().manual_seed(seed)
        self.model = ReferenceMilk(NUM_USERS, WIDTHS, DIM).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                )

    def tensors(self) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        features = {name: torch.from_numpy(x) for name, x in self.features.items()}
        rest = (self.observed, self.users, self.pos, self.neg, self.weights)
        return (features, *(torch.from_numpy(x) for x in rest))  # type: ignore[return-value]

    def loss(self) -> Tensor:
        return reference_loss(self.model, *self.tensors(), STRENGTHS)

    def risks(self) -> Tensor:
        features, _, users, pos, neg, weights = self.tensors()
        return reference_risks(self.model, features, users, pos, neg, weights)

    def encoded(self) -> np.ndarray:
        """Encode the catalogue in NumPy: (M, N, D)."""
        return np.stack(
            [
                x @ encoder.weight.detach().numpy().T + encoder.bias.detach().numpy()
                for x, encoder in zip(self.features.values(), self.model.encoders, strict=True)
            ]
        )


def numpy_risks(case: Case) -> np.ndarray:
    """Compute Eq. 15 in each environment, from scores per modality."""
    z, u = case.encoded(), case.model.users.weight.detach().numpy()[case.users]
    by_modality = np.einsum("mbd,bd->mb", z[:, case.pos] - z[:, case.neg], u)
    return np.logaddexp(0, -(case.weights @ by_modality)).mean(axis=1)


def numpy_loss(case: Case) -> float:
    """Compute Eq. 16 term by term."""
    z, u = case.encoded(), case.model.users.weight.detach().numpy()[case.users]
    risks = numpy_risks(case)
    squares, pairs = 0.0, 0
    for item in set(case.pos.tolist()):
        for m in range(len(WIDTHS)):
            for other in range(m):
                if case.observed[item, m] and case.observed[item, other]:
                    squares += float(((z[m, item] - z[other, item]) ** 2).sum())
                    pairs += 1
    fused = z.mean(axis=0)
    norms = (u**2).sum() + (fused[case.pos] ** 2).sum() + (fused[case.neg] ** 2).sum()
    return float(
        risks.mean()
        + STRENGTHS.penalty_weight * risks.var()
        + STRENGTHS.alignment_weight * squares / (pairs * DIM)
        + STRENGTHS.regulariser_weight * norms / len(case.users)
    )


def central_difference(
    function: Callable[[], float], parameter: Tensor, step: float = 1e-5
) -> Tensor:
    gradient = torch.zeros_like(parameter)
    values, slopes = parameter.data.view(-1), gradient.view(-1)
    for index in range(len(values)):
        kept = values[index].item()
        values[index] = kept + step
        above = function()
        values[index] = kept - step
        slopes[index] = (above - function()) / (2 * step)
        values[index] = kept
    return gradient


@pytest.mark.parametrize("seed", range(3))
def test_risks_and_loss_equal_the_formulas(seed: int) -> None:
    case = Case(seed)
    np.testing.assert_allclose(case.risks().detach().numpy(), numpy_risks(case), rtol=1e-12)
    assert case.loss().item() == pytest.approx(numpy_loss(case), rel=1e-12)


def test_gradient_equals_that_of_the_formulas() -> None:
    case = Case(3)
    case.loss().backward()
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is not None
        expected = central_difference(lambda: numpy_loss(case), parameter)
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_alignment_without_a_pair_is_zero_with_zero_gradient() -> None:
    case = Case(0)
    observed = torch.zeros(NUM_ITEMS, 3, dtype=torch.bool)
    observed[:, 1] = True
    features, *_ = case.tensors()
    value = reference_alignment(case.model.encode(features), observed, torch.arange(NUM_ITEMS))
    value.backward()
    assert value.item() == 0.0
    for parameter in case.model.encoders.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def example_batch(case: Case, model: Recommender) -> TripleBatch:
    """Gather the batch as the recommender does: its missing cells are imputed."""
    features, observed, _, pos, neg, _ = case.tensors()
    holes = {
        name: x.masked_fill(~observed[:, [index]], float("nan"))
        for index, (name, x) in enumerate(features.items())
    }
    arrays = {name: x.numpy() for name, x in holes.items()}
    model.fit_preparation(
        ItemFeatures(arrays, torch.device("cpu")), observed, torch.arange(NUM_ITEMS)
    )
    prepared = model.prepare(holes, observed)
    case.features = {name: x.detach().numpy() for name, x in prepared.items()}
    tables = cast(Tables, SimpleNamespace(mask=observed))  # `gather_batch` reads nothing else
    return gather_batch(
        tables, lambda items: {name: x[items] for name, x in prepared.items()}, pos, neg
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_the_recommender_equals_the_reference(seed: int) -> None:
    case = Case(seed)
    options = MilkOptions(
        embedding_dim=DIM,
        penalty_weight=STRENGTHS.penalty_weight,
        alignment_weight=STRENGTHS.alignment_weight,
        regulariser_weight=STRENGTHS.regulariser_weight,
    )
    model = Recommender(WIDTHS, NUM_USERS, options).double()
    ours, theirs = list(model.parameters()), list(case.model.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for parameter, source in zip(ours, theirs, strict=True):
            parameter.copy_(source)

    batch, weights = example_batch(case, model), torch.from_numpy(case.weights)
    size = len(case.users)
    sums = batch_sums(model, model.users(torch.from_numpy(case.users)), batch, weights, options)
    terms = objective(sums, size, model, options)
    loss = case.loss()
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    risks = case.risks()
    torch.testing.assert_close(sums[: len(risks)] / size, risks, rtol=1e-12, atol=0)
    assert terms.penalty.item() == pytest.approx(risks.var(correction=0).item(), rel=1e-10)
    gradients = torch.autograd.grad(terms.loss, ours), torch.autograd.grad(loss, theirs)
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5])
def test_environments_are_a_uniform_row_and_cyclic_shifts_of_one_draw(num_modalities: int) -> None:
    weights = reference_environments(num_modalities, 0.5, np.random.default_rng(0))
    assert weights.shape == (num_modalities + 1, num_modalities)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(num_modalities + 1))
    torch.testing.assert_close(weights[0], weights[1:].mean(dim=0))
    for row in range(2, num_modalities + 1):
        assert torch.equal(weights[row], weights[row - 1].roll(1))


def test_negatives_have_the_same_support_as_those_of_the_recommender() -> None:
    """Both draw every item of the pool that a user lacks, and no other."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((6, 10)) < 0.6)
    pairs = pairs[pairs[:, 1] != 9]
    rows, pool = reference_rows(pairs, 6), [0, 2, 3, 5, 8, 9]
    users = [user for user in range(6) for _ in range(300)]
    theirs = np.array(reference_negatives(users, rows, pool, random.Random(0))).reshape(6, 300)
    built = build_user_rows(torch.from_numpy(pairs), 6, torch.tensor(pool))
    ours = sample_negatives(torch.tensor(users), built, torch.tensor(pool)).reshape(6, 300)
    for user in range(6):
        expected = [item for item in pool if item not in rows[user]]
        assert sorted(set(theirs[user].tolist())) == expected
        assert ours[user].unique().tolist() == expected


def test_evaluation_equals_that_of_the_recommender() -> None:
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(50, width, generator=generator) for name, width in WIDTHS.items()}
    model = ReferenceMilk(30, WIDTHS, 8)
    candidates = [item for item in range(50) if item % 7]
    liked = torch.rand(30, len(candidates), generator=generator) < 0.1
    liked[4] = False
    users, places = liked.nonzero().T
    positives: dict[int, set[int]] = {}
    for user, place in zip(users.tolist(), places.tolist(), strict=True):
        positives.setdefault(user, set()).add(candidates[place])
    metrics = reference_evaluate(model, features, positives, candidates, ks=(3, 10))
    with torch.no_grad():
        items = torch.stack(model.encode(features)).mean(dim=0)[candidates]
        ranks = positive_ranks(
            lambda block: model.users.weight[block] @ items.T,
            users,
            places,
            num_candidates=len(candidates),
        )
    assert metrics == pytest.approx(mean_metrics(per_user_metrics(users, ranks, ks=(3, 10))))


def test_metrics_of_one_user() -> None:
    metrics = reference_metrics([5, 3, 9, 1], {3, 1, 7}, 2)
    ideal = 1 + 1 / np.log2(3)
    expected = {"recall@2": 1 / 3, "ndcg@2": (1 / np.log2(3)) / ideal, "hit@2": 1.0, "mrr@2": 0.5}
    assert metrics == pytest.approx(expected)
    assert set(reference_metrics([5, 3], {7}, 2).values()) == {0.0}


def test_epochs_reduce_the_loss_and_are_reproducible() -> None:
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((20, 30)) < 0.2)
    features = {
        name: torch.from_numpy(rng.normal(size=(30, width))).float()
        for name, width in WIDTHS.items()
    }
    rows, pool = reference_rows(pairs, 20), list(range(30))
    observed = torch.ones(30, 3, dtype=torch.bool)

    def train() -> list[float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ReferenceMilk(20, WIDTHS, 8)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        return [
            reference_epoch(
                model, optimiser, features, observed, pairs, rows, pool, batch_size=32, seed=epoch
            )
            for epoch in range(12)
        ]

    losses = train()
    assert losses[-1] < losses[0] - 0.05
    assert losses == train()
