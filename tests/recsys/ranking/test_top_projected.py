"""Lists from a few dimensions are those of `top_items`, bit for bit."""

import pytest
import torch

from milk_recsys.ranking import top_projected
from milk_recsys.ranking.top import top_items
from milk_recsys.ranking.top_projected import ProjectedCandidates, find_basis


def near_subspace(count, dim, rank, noise, seed=0):
    rng = torch.Generator().manual_seed(seed)
    decay = torch.linspace(1, 0.1, rank, dtype=torch.float64)
    inner = torch.randn(count, rank, generator=rng, dtype=torch.float64) * decay
    items = inner @ torch.randn(rank, dim, generator=rng, dtype=torch.float64)
    return items + noise * torch.randn(count, dim, generator=rng, dtype=torch.float64), rng


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e12])
def test_lists_are_those_of_all_dimensions(monkeypatch, dtype, scale):
    monkeypatch.setattr(top_projected, "WIDTHS", (8, 16))
    monkeypatch.setattr(top_projected, "WORTH_FROM", 1)
    items, rng = near_subspace(700, 64, 12, 0.01)
    items[350:360] = items[3:13]  # Equal scores.
    items[20] = 0
    items *= scale
    basis = find_basis(items)
    assert basis is not None
    prepared = ProjectedCandidates(items, basis, dtype)
    users = torch.randn(40, 64, generator=rng, dtype=torch.float64)
    users[:20] = items[:20] / scale + 0.01 * users[:20]  # Near the subspace, unlike the others.
    users[5] = 0
    counts = torch.arange(40) % 5 * 40
    offsets = torch.cat([torch.zeros(1), counts.cumsum(0)]).long()
    positions = torch.cat([torch.randperm(700, generator=rng)[:n] for n in counts.tolist()])
    for exclude in (None, (offsets, positions)):
        for k in (1, 20, 699, 700, 900):
            expected = top_items(users, items, k, exclude=exclude, dtype=dtype)
            found = prepared.top(users, k, exclude=exclude)
            assert torch.equal(found.positions, expected.positions)
            assert torch.equal(found.scores, expected.scores)


def test_most_lists_need_few_items(monkeypatch):
    monkeypatch.setattr(top_projected, "WIDTHS", (16,))
    monkeypatch.setattr(top_projected, "WORTH_FROM", 1)
    items, rng = near_subspace(3000, 64, 12, 0.001)
    prepared = ProjectedCandidates(items, find_basis(items), torch.float32)
    calls = []
    monkeypatch.setattr(prepared.exact, "top", lambda *_, **__: calls.append(1))
    prepared.top(torch.randn(30, 64, generator=rng, dtype=torch.float64), 20)
    assert not calls


def test_there_is_no_basis_where_none_is_near(monkeypatch):
    monkeypatch.setattr(top_projected, "WORTH_FROM", 1)
    monkeypatch.setattr(top_projected, "WIDTHS", (8, 16, 64))
    items, _ = near_subspace(500, 64, 64, 1.0)
    assert find_basis(items) is None
    plain = ProjectedCandidates(items, None, torch.float32)
    expected = top_items(items[:3], items, 5)
    assert torch.equal(plain.top(items[:3], 5).positions, expected.positions)


def test_all_but_a_few_items_excluded(monkeypatch):
    monkeypatch.setattr(top_projected, "WIDTHS", (16,))
    monkeypatch.setattr(top_projected, "WORTH_FROM", 1)
    items, rng = near_subspace(300, 64, 12, 0.01)
    prepared = ProjectedCandidates(items, find_basis(items), torch.float32)
    user = torch.randn(1, 64, generator=rng, dtype=torch.float64)
    exclude = torch.tensor([0, 297]), torch.arange(297)
    expected = top_items(user, items, 10, exclude=exclude)
    found = prepared.top(user, 10, exclude=exclude)
    assert torch.equal(found.positions, expected.positions)
    assert found.positions[0, 3:].tolist() == [-1] * 7
