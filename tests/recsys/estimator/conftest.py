"""A small shop in frames, with items and customers that appear later."""

from types import SimpleNamespace

import numpy as np
import pytest

from milk_recsys import Recommender

DIMS = {"text": 6, "image": 4}
USERS, ITEMS, NEW = 40, 50, 12
GIVEN = {
    "width": 1.0,
    "ridge": 0.5,
    "shrinkage": 0.5,
    "predicted_popularity": 0.2,
    "fit_weights": False,
    "dtype": "float64",
    "device": "cpu",
}


def make_shop(seed=0, users=USERS, items=ITEMS, new=NEW, per_user=10):
    """Taste and content share two dimensions; every fourth item lacks its image."""
    rng = np.random.default_rng(seed)
    taste, kind = rng.standard_normal((users, 2)), rng.standard_normal((items + new, 2))
    noise = rng.gumbel(size=(users, items + new))
    liked = np.argsort(-(3 * taste @ kind.T + noise), axis=1)[:, :per_user]
    rows = {
        name: (kind @ rng.standard_normal((2, d)) + 0.3 * rng.standard_normal((items + new, d)))
        for name, d in DIMS.items()
    }
    rows["image"][::4] = np.nan
    pairs = [(f"u{u}", f"i{i}") for u in range(users) for i in sorted(liked[u])]
    profile = taste @ rng.standard_normal((2, 3)) + 0.1 * rng.standard_normal((users, 3))
    return SimpleNamespace(rows=rows, pairs=pairs, items=items, new=new, profile=profile)


def frame(pairs):
    return {"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}


def number(name):
    return int(name[1:])


def features(shop, start, stop):
    ids = [f"i{i}" for i in range(start, stop)]
    return {name: (ids, x[start:stop].copy()) for name, x in shop.rows.items()}


@pytest.fixture(scope="session")
def shop():
    made = make_shop()
    made.known = [pair for pair in made.pairs if number(pair[1]) < ITEMS]
    made.later = [pair for pair in made.pairs if number(pair[1]) >= ITEMS]
    made.features = features(made, 0, ITEMS)
    made.new_items = features(made, ITEMS, ITEMS + NEW)
    return made


@pytest.fixture(scope="session")
def fitted(shop):
    """A recommender that no test changes."""
    profile = ([f"u{u}" for u in range(USERS)], shop.profile)
    rec = Recommender("keep", **GIVEN)
    return rec.fit(frame(shop.known), shop.features, user_features={"profile": profile})


def fit(shop, pairs=None, **options):
    """A recommender that a test may change."""
    known = shop.known if pairs is None else pairs
    items = {item for _, item in known}
    kept = {
        name: ([i for i in ids if i in items], x[[k for k, i in enumerate(ids) if i in items]])
        for name, (ids, x) in shop.features.items()
    }
    return Recommender(**{"model": "keep", **GIVEN, **options}).fit(frame(known), kept)
