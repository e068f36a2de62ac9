"""Vectors of new users and of items with first pairs, and the parts of a score, in all forms."""

import itertools

import pytest
import torch

from milk_recsys.methods.keep import model as keep
from milk_recsys.methods.keep.explanation import modality_weights
from milk_recsys.methods.keep.model import Keep
from milk_recsys.methods.keep.update import update_model
from milk_recsys.methods.keep.user_map import UserMap, warm_vectors
from tests.recsys.methods.test_keep_update import FORMS, GIVEN, everything
from tests.recsys.methods.tiny_baselines import make_options, new_items

NEAR = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(params=FORMS)
def case(request, monkeypatch):
    """A fitted model of each form, and its data."""
    limit, options = FORMS[request.param]
    monkeypatch.setattr(keep, "MAX_DIRECT", limit)
    monkeypatch.setattr(keep, "MAX_ROWS", 20 if request.param == "projected" else 10_000)
    data = everything(request.param)
    fitted = Keep(data, make_options("keep", **{**GIVEN, **options}).method, 0)
    return fitted.net, data


def damped_pairs(users):
    """X (U, n)."""
    x = torch.zeros(len(users.offsets) - 1, len(users.model.counts), dtype=torch.float64)
    for user, (start, end) in enumerate(itertools.pairwise(users.offsets)):
        x[user, users.items[start:end]] = users.weights(users.items[start:end])
    return x


def smoothing(x, shrinkage):
    """T = (X'X + lambda)^-1 X'X (n, n), by a solution of the system."""
    products, rank = x.T @ x, min(x.shape)
    unit = torch.linalg.eigvalsh(products).flip(0)[:rank][:50].mean()
    shifted = products + float(shrinkage) * unit * torch.eye(len(products), dtype=torch.float64)
    return torch.linalg.solve(shifted, products)


def test_a_new_user_with_the_pairs_of_a_user_has_the_vector_of_this_user(case):
    net, _ = case
    users = UserMap(net)
    folded = users.vectors(users.offsets, users.items)
    torch.testing.assert_close(folded, net.user_vectors(None), **NEAR)


def test_a_new_user_has_the_vector_of_an_update_with_frozen_counts(case):
    """One more user changes the counts of the items; with these frozen only X gets a row."""
    net, _ = case
    items = torch.tensor([0, 3, 5])
    users = UserMap(net)
    vector = users.vectors(torch.tensor([0, 3]), items)
    x = torch.zeros(len(net.counts), dtype=torch.float64)
    x[items] = (3 * net.counts[items]) ** -net.options.popularity
    known = damped_pairs(users)
    smoothed = smoothing(known, net.shrinkage)
    new, mask = new_items()
    h = torch.cat(
        [
            net.regression.smoother(
                {name: v[rows] for name, v in new.items()}, mask[rows], pattern=pattern
            )
            for pattern, rows in net.patterns(mask)
        ]
    )
    order = torch.cat([rows for _, rows in net.patterns(mask)])
    factor = (net.exponent * (h @ net.centred_logs())).exp()
    expected = x @ smoothed @ (h * factor).T
    scores = (vector @ net.embed_items(new, mask)[order].T)[0]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)


def test_items_without_pairs_count_nothing(case):
    net, data = case
    rows = {name: x[:1] for name, x in data.features.items()}
    update_model(net, torch.zeros(0, 2, dtype=torch.int64), features=rows, mask=data.mask[:1])
    users, last = UserMap(net), len(net.counts) - 1
    with_it = users.vectors(torch.tensor([0, 3]), torch.tensor([0, 3, last]))
    without = users.vectors(torch.tensor([0, 2]), torch.tensor([0, 3]))
    torch.testing.assert_close(with_it, without, **NEAR)
    assert users.weights(torch.tensor([0, 3, last]))[-1] == 0
    assert users.vectors(torch.tensor([0, 1]), torch.tensor([last])).eq(0).all()


def test_parts_of_a_score_sum_to_it_by_modality_and_item(case):
    net, _ = case
    users = UserMap(net)
    new, mask = new_items()
    assert not mask.all()
    new = {name: x.masked_fill(~mask[:, [m]], torch.nan) for m, (name, x) in enumerate(new.items())}
    weights = modality_weights(users, new, mask)
    scores = net.user_vectors(None) @ net.embed_items(new, mask).T
    for user, (start, end) in enumerate(itertools.pairwise(users.offsets)):
        own = users.items[start:end]
        parts = users.weights(own) * weights[:, :, own]
        torch.testing.assert_close(parts.sum(dim=(0, 2)), scores[user], **NEAR)
    assert all(weights[m, ~mask[:, m]].eq(0).all() for m in range(mask.shape[1]))
    assert (weights < 0).any()


def test_an_item_with_the_pairs_of_a_warm_item_has_its_vector(case):
    net, _data = case
    users = UserMap(net)
    x = damped_pairs(users)
    vectors = users.item_vectors(x.to_sparse())
    own = warm_vectors(net) / (net.exponent * net.centred_logs()).exp()
    # Vectors may differ where no user has a component; scores are equal.
    a = net.user_vectors(None)
    torch.testing.assert_close(a @ vectors.T, a @ own.T, **NEAR)


def test_warm_vectors_have_the_factor_of_the_popularity(case):
    net, _ = case
    vectors = warm_vectors(net)
    factors = (net.counts.log() - net.counts.log().mean()) * net.exponent
    scores = net.user_vectors(None) @ vectors.T / factors.exp()
    users = UserMap(net)
    x = damped_pairs(users)
    torch.testing.assert_close(scores, x @ smoothing(x, net.shrinkage), rtol=0, atol=1e-9)
