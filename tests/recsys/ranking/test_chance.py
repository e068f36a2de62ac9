"""The metrics of a random order: the closed form against all orders and against simulation."""

import itertools

import pytest
import torch

from milk_recsys.ranking.chance import chance_metrics
from milk_recsys.ranking.metrics import per_user_metrics


@pytest.mark.parametrize(("candidates", "positives"), [(1, 1), (4, 1), (4, 2), (5, 3), (5, 5)])
def test_the_mean_over_all_orders_of_few_candidates(candidates: int, positives: int) -> None:
    orders = torch.tensor(list(itertools.permutations(range(candidates))))
    users = torch.arange(len(orders)).repeat_interleave(positives)
    ks = (1, 2, 4, 10)
    measured = per_user_metrics(users, orders[:, :positives].flatten(), ks)
    expected = chance_metrics(torch.tensor([positives]), candidates, ks)
    assert expected.keys() == measured.keys() - {"users"}
    for name, values in expected.items():
        assert values.item() == pytest.approx(measured[name].mean().item(), abs=1e-12), name


def test_the_mean_over_simulated_orders_of_24_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([1, 2, 5, 12, 23])
    simulated = 20_000
    expected = chance_metrics(counts, 24)
    for place, count in enumerate(counts.tolist()):
        orders = torch.rand(simulated, 24, generator=generator).argsort(dim=1)
        users = torch.arange(simulated).repeat_interleave(count)
        measured = per_user_metrics(users, orders[:, :count].flatten())
        for name, values in expected.items():
            error = measured[name].std().item() / simulated**0.5
            mean = measured[name].mean().item()
            assert abs(values[place].item() - mean) <= 5 * error + 1e-12, (name, count)


def test_at_most_k_candidates_are_all_in_the_list() -> None:
    expected = chance_metrics(torch.tensor([1, 3]), 20)
    assert expected["recall@20"].tolist() == [1, 1]
    assert expected["hit@20"].tolist() == [1, 1]
    assert expected["recall@10"].tolist() == [0.5, 0.5]
    assert (expected["ndcg@20"] < 0.7).all()


def test_no_user_and_counts_out_of_range() -> None:
    assert chance_metrics(torch.empty(0, dtype=torch.int64), 5)["ndcg@10"].shape == (0,)
    for counts in ([0], [6]):
        with pytest.raises(ValueError, match="must be from 1 to the 5 candidates"):
            chance_metrics(torch.tensor(counts), 5)
    with pytest.raises(ValueError, match="every K must be at least 1"):
        chance_metrics(torch.tensor([1]), 5, ks=(0,))
