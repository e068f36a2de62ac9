"""Metrics of new items alone and of all items, and the worth of first pairs."""

import numpy as np
import polars as pl
import pytest

from milk_recsys import Recommender
from milk_recsys.base.errors import DataError
from tests.recsys.estimator.conftest import (
    GIVEN,
    ITEMS,
    NEW,
    features,
    fit,
    frame,
    make_shop,
    number,
)


def recall_of_lists(found, held, k):
    """Mean over users of the share of their held-out items in the first k places."""
    by_user = {}
    for user, item in held:
        by_user.setdefault(user, set()).add(item)
    top = found.filter(pl.col("rank") <= k)
    hits = [
        len(own & set(top.filter(pl.col("user") == u)["item"])) / len(own)
        for u, own in by_user.items()
    ]
    return float(np.mean(hits))


def test_both_metrics_are_those_of_the_lists(shop):
    held = [pair for k, pair in enumerate(shop.known) if k % 7 == 0]
    some = [pair for pair in shop.known if pair not in set(held)]
    rec = fit(shop, some)
    held = [pair for pair in held if pair[1] in rec.items]
    result = rec.evaluate(frame(held + shop.later + some[:9] + [("w", "i50")]), shop.new_items)
    new_only = rec.recommend(shop.new_items, k=NEW)
    both = rec.recommend(shop.new_items, k=ITEMS + NEW, include_warm=True)
    assert result["new_only"]["recall@10"] == pytest.approx(
        recall_of_lists(new_only, shop.later, 10)
    )
    expected = recall_of_lists(both, held + shop.later, 20)
    assert result["overall"]["recall@20"] == pytest.approx(expected)
    share = (~both.filter(pl.col("rank") <= 20)["known"]).mean()
    assert result["overall"]["share_of_new"] == pytest.approx(share, abs=0.02)
    assert result["overall"]["recall@20"] < result["new_only"]["recall@20"]
    with pytest.raises(DataError, match="none of the pairs"):
        rec.evaluate({"user": ["nobody"], "item": ["i50"]}, shop.new_items)


@pytest.mark.slow
def test_content_and_first_pairs_together_lose_to_neither():
    """On generated shops, with 1, 3 and 8 first pairs for each new item."""
    gains = {1: [], 3: [], 8: []}
    for seed in range(3):
        shop = make_shop(seed, users=150, items=90, new=40, per_user=14)
        known = [pair for pair in shop.pairs if number(pair[1]) < 90]
        later = [pair for pair in shop.pairs if number(pair[1]) >= 90]
        items = {item for _, item in known}
        at = [k for k in range(90) if f"i{k}" in items]
        content = {n: ([f"i{k}" for k in at], x[at]) for n, x in shop.rows.items()}
        new = features(shop, 90, 130)
        rec = Recommender("keep", **{k: v for k, v in GIVEN.items() if k in ("dtype", "device")})
        rec.fit(frame(known), content)
        rng = np.random.default_rng(seed)
        order = [later[k] for k in rng.permutation(len(later))]
        for count, gain in gains.items():
            first, seen = [], {}
            for user, item in order:
                if seen.setdefault(item, 0) < count:
                    seen[item] += 1
                    first.append((user, item))
            rest = frame([pair for pair in later if pair not in set(first)])
            both = rec.evaluate(rest, rec.prepare(new, first_pairs=frame(first)))
            alone = rec.evaluate(rest, new)
            copy = Recommender("keep", dtype="float64", device="cpu").fit(frame(known), content)
            copy.update(frame(first), new)
            pairs_only = copy.recommend(k=200, include_warm=True, where=list(new["text"][0]))
            mixed = rec.recommend(rec.prepare(new, first_pairs=frame(first)), k=200)
            held = list(zip(rest["user"], rest["item"], strict=True))
            gain.append(
                (
                    both["new_only"]["ndcg@20"] - alone["new_only"]["ndcg@20"],
                    recall_of_lists(mixed, held, 10) - recall_of_lists(pairs_only, held, 10),
                )
            )
    for count, gain in gains.items():
        over_content, over_pairs = np.mean(gain, axis=0)
        assert over_content > -0.002, count
        assert over_pairs > -0.002, count
    assert np.mean(gains[8], axis=0)[0] > 0
