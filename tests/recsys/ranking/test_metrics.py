"""Ranks and metrics against a plain loop, and against the library ir_measures."""

from __future__ import annotations

import math

import ir_measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG
from torch import Tensor

from milk_recsys.ranking import metrics
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks


def ranks_of(scores: Tensor, users: Tensor, items: Tensor, max_elements: int = 2**18) -> Tensor:
    return positive_ranks(
        lambda block: scores[block],
        users,
        items,
        num_candidates=scores.shape[1],
        max_elements=max_elements,
    )


@st.composite
def cases(draw: st.DrawFn, levels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with many ties, and distinct positives in any order; some users have none."""
    num_users, num_candidates = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    size = num_users * num_candidates
    values = draw(st.lists(st.integers(-levels, levels), min_size=size, max_size=size))
    cells = draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size))
    flat = torch.tensor(cells, dtype=torch.int64)
    scores = torch.tensor(values, dtype=torch.float32).reshape(num_users, num_candidates)
    return scores, flat // num_candidates, flat % num_candidates


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(40, 60, generator=generator)
    chosen = torch.rand(40, 60, generator=generator) < torch.rand(40, 1, generator=generator) ** 2
    chosen[::7] = False
    users, items = chosen.nonzero().T
    order = torch.randperm(len(users), generator=generator)
    return scores, users[order], items[order]


def brute_force(
    scores: Tensor, users: Tensor, items: Tensor, k: int
) -> dict[int, tuple[float, float, float, float]]:
    """Return recall, NDCG, hit rate and reciprocal rank of each user who has a positive."""
    per_user = {}
    for user in sorted(set(users.tolist())):
        positives = {i for u, i in zip(users.tolist(), items.tolist(), strict=True) if u == user}
        row = scores[user].tolist()
        ranking = sorted(range(len(row)), key=lambda item: (-row[item], item))
        top = [item in positives for item in ranking[:k]]
        dcg = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(top))
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(positives))))
        reciprocal = 1 / (top.index(True) + 1) if any(top) else 0.0
        per_user[user] = (sum(top) / len(positives), dcg / ideal, float(any(top)), reciprocal)
    return per_user


@settings(deadline=None)
@given(cases(), st.integers(1, 10))
def test_metrics_equal_a_loop(case: tuple[Tensor, Tensor, Tensor], k: int) -> None:
    scores, users, items = case
    per_user = per_user_metrics(users, ranks_of(scores, users, items), ks=(k, k + 3))
    for cut in (k, k + 3):
        by_loop = brute_force(scores, users, items, cut)
        assert per_user["users"].tolist() == list(by_loop)
        names = [f"{name}@{cut}" for name in ("recall", "ndcg", "hit", "mrr")]
        table = torch.stack([per_user[name] for name in names], dim=1)
        expected = torch.tensor(list(by_loop.values()), dtype=torch.float64).reshape(-1, 4)
        torch.testing.assert_close(table, expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(cases(), st.integers(1, 60), st.integers(1, 60))
def test_chunks_change_nothing(
    case: tuple[Tensor, Tensor, Tensor], max_elements: int, compared: int
) -> None:
    scores, users, items = case
    whole = ranks_of(scores, users, items)
    assert torch.equal(ranks_of(scores, users, items, max_elements), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CPU_COMPARED", compared)
        assert torch.equal(ranks_of(scores, users, items), whole)


def test_blocks_do_not_exceed_the_maximum_and_cover_all_users() -> None:
    scores, users, items = random_case(0)
    blocks: list[Tensor] = []

    def score_block(block: Tensor) -> Tensor:
        blocks.append(block)
        return scores[block]

    positive_ranks(score_block, users, items, num_candidates=60, max_elements=60 * 7 + 5)
    assert max(len(block) for block in blocks) == 7
    assert torch.equal(torch.cat(blocks), users.unique())


@settings(deadline=None)
@given(cases())
def test_all_ranks_of_a_user_are_a_permutation(case: tuple[Tensor, Tensor, Tensor]) -> None:
    """Candidates with equal scores have different ranks."""
    scores, _, _ = case
    users, items = torch.ones_like(scores).nonzero().T
    ranks = ranks_of(scores, users, items).reshape(scores.shape)
    assert torch.equal(ranks.sort(dim=1).values, torch.arange(scores.shape[1]).expand_as(ranks))


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_a_rank_does_not_depend_on_the_other_given_positives(
    case: tuple[Tensor, Tensor, Tensor], seed: int
) -> None:
    scores, users, items = case
    whole = ranks_of(scores, users, items)
    group = torch.rand(len(users), generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(ranks_of(scores, users[group], items[group]), whole[group])


def test_a_groups_recall_counts_its_own_positives() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    users, items = torch.zeros(2, dtype=torch.int64), torch.tensor([0, 3])
    ranks = ranks_of(scores, users, items)
    assert per_user_metrics(users, ranks, ks=(2,))["recall@2"].tolist() == [0.5]
    assert per_user_metrics(users[1:], ranks[1:], ks=(2,))["recall@2"].tolist() == [0.0]
    assert per_user_metrics(users[1:], ranks[1:], ks=(4,))["mrr@4"].tolist() == [0.25]


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_ir_measures(seed: int) -> None:
    scores, users, items = random_case(seed)
    # The library breaks ties in another way, so there must be none.
    assert all(len(row.unique()) == 60 for row in scores)
    qrels = [
        ir_measures.Qrel(str(user), str(item), 1)
        for user, item in zip(users.tolist(), items.tolist(), strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), score)
        for user in users.unique().tolist()
        for item, score in enumerate(scores[user].tolist())
    ]
    theirs = {
        "recall@10": R @ 10,
        "recall@20": R @ 20,
        "ndcg@10": nDCG @ 10,
        "ndcg@20": nDCG @ 20,
        "hit@10": Success @ 10,
        "hit@20": Success @ 20,
        "mrr@10": RR @ 10,
        "mrr@20": RR @ 20,
    }
    per_user = per_user_metrics(users, ranks_of(scores, users, items))
    assert set(per_user) == {"users", *theirs}
    row_of_user = {str(user): index for index, user in enumerate(per_user["users"].tolist())}
    names = {measure: name for name, measure in theirs.items()}
    checked = 0
    for metric in ir_measures.iter_calc(list(theirs.values()), qrels, run):
        ours = per_user[names[metric.measure]][row_of_user[metric.query_id]].item()
        assert ours == pytest.approx(metric.value, abs=1e-9), metric
        checked += 1
    assert checked == len(theirs) * len(row_of_user)
    means = ir_measures.calc_aggregate(list(theirs.values()), qrels, run)
    ours_mean = mean_metrics(per_user)
    assert ours_mean == pytest.approx(
        {"users": len(row_of_user), **{names[m]: v for m, v in means.items()}}
    )


def test_worked_example() -> None:
    users, ranks = torch.tensor([4, 4, 4, 2]), torch.tensor([1, 2, 30, 10])
    per_user = per_user_metrics(users, ranks)
    assert list(per_user) == [
        "users",
        *(f"{name}@{k}" for name in ("recall", "ndcg", "hit", "mrr") for k in (10, 20)),
    ]
    assert per_user["users"].tolist() == [2, 4]
    assert per_user["recall@10"].tolist() == [0.0, pytest.approx(2 / 3)]
    assert per_user["mrr@10"].tolist() == [0.0, 0.5]
    assert per_user["mrr@20"].tolist() == [pytest.approx(1 / 11), 0.5]
    gain = 1 / math.log2(3) + 1 / 2
    assert per_user["ndcg@20"][1].item() == pytest.approx(gain / (1 + gain))
    assert all(x.dtype == torch.float64 for name, x in per_user.items() if name != "users")
    means = mean_metrics(per_user)
    assert next(iter(means)) == "users"
    assert means["users"] == 2
    assert means["mrr@20"] == pytest.approx((1 / 11 + 0.5) / 2)


def test_no_positives() -> None:
    none = torch.empty(0, dtype=torch.int64)

    def never(block: Tensor) -> Tensor:
        raise AssertionError(f"no user should be scored, got {block}")

    ranks = positive_ranks(never, none, none, num_candidates=5)
    assert ranks.shape == (0,)
    assert positive_ranks(never, none, none, num_candidates=0).shape == (0,)
    per_user = per_user_metrics(none, ranks)
    assert all(values.shape == (0,) for values in per_user.values())
    means = mean_metrics(per_user)
    assert means["users"] == 0
    assert math.isnan(means["ndcg@20"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = torch.zeros(6, 4)
    scores[3, 2] = bad
    with pytest.raises(ValueError, match="must be finite, but those of user 3 hold NaN"):
        ranks_of(scores, torch.arange(6), torch.zeros(6, dtype=torch.int64))
    others = torch.tensor([0, 5])
    assert ranks_of(scores, others, torch.zeros_like(others)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_score_dtypes(dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.5, 2.0, 1.0]], dtype=dtype)
    users, items = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    assert ranks_of(scores, users, items).tolist() == [2, 0, 1]


def test_coarse_dtypes_count_exactly() -> None:
    """bfloat16 cannot represent odd numbers above 256, so ranks are counted in a wider dtype."""
    scores = torch.arange(1000, 0, -1).sqrt()[None].to(torch.bfloat16)
    users, items = torch.zeros(1000, dtype=torch.int64), torch.arange(1000)
    assert ranks_of(scores, users, items).tolist() == list(range(1000))


def test_bad_arguments_are_refused() -> None:
    scores, two = torch.zeros(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"same shape \(P,\), got \(2,\) and \(1,\)"):
        ranks_of(scores, two, two[:1])
    with pytest.raises(ValueError, match="positions in 0 to 3, got 0 to 4"):
        ranks_of(scores, two, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="got -1 to 1"):
        ranks_of(scores, two, torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match=r"return shape \(2, 5\) for 2 users, got \(2, 4\)"):
        positive_ranks(lambda block: scores[block], two, two, num_candidates=5)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(2, 1\)"):
        per_user_metrics(two, two[:, None])
    with pytest.raises(ValueError, match=r"K must be at least 1, got \(10, 0\)"):
        per_user_metrics(two, two, ks=(10, 0))
