"""A tiny data set, baselines fitted on it, and parts of their equations in NumPy."""

import numpy as np
import torch

from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.method import BUILT_IN, find_method
from milk_recsys.config.options import Options
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.learner import build
from milk_recsys.methods.warm import WarmData

ABLATIONS = ("milk", "align", "envs", "erm")
BASELINES = {name: find_method(name).options for name in BUILT_IN if name not in ABLATIONS}
UNTRAINED = frozenset(name for name in BASELINES if not find_method(name).trains)
NEEDS_FACTORS = frozenset(name for name in BASELINES if find_method(name).needs_factors)

USERS, ITEMS, D = 12, 20, 6
DIMS = {"text": 7, "image": 4}


def make_data(seed=0, *, missing=True, users=USERS, items=ITEMS):
    rng = np.random.default_rng(seed)
    features = {name: torch.from_numpy(rng.standard_normal((items, d))) for name, d in DIMS.items()}
    mask = torch.ones(items, len(DIMS), dtype=torch.bool)
    if missing:
        mask[::5, 1] = False
    for m, x in enumerate(features.values()):
        x[~mask[:, m]] = torch.nan
    pairs = torch.from_numpy(np.argwhere(rng.random((users, items)) < 0.35))
    rows = build_user_rows(pairs, users, torch.arange(items))
    return WarmData(tuple(DIMS), users, features, mask, rows, dtype=torch.float64)


def make_factors(data, seed=1):
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randn(n, D, generator=generator, dtype=torch.float64)
        for n in (data.num_users, data.num_items)
    )
    items[3] = 0
    return Factors(users, items)


def make_options(name, **method):
    width = {"embedding_dim": D} if "embedding_dim" in find_method(name).fields else {}
    return Options.of(name, **width, **method, dtype="float64", compare="none", device="cpu")


def make(name, data=None, **method):
    data = make_data() if data is None else data
    return build(
        data, make_options(name, **method), make_factors(data) if name in NEEDS_FACTORS else None
    )


def arrays(baseline):
    return {name: x.detach().numpy() for name, x in baseline.net.state_dict().items()}


# --- NumPy ----------------------------------------------------------------------------------------


def softplus(x):
    return np.logaddexp(0, x)


def linear(a, name, x):
    return x @ a[f"{name}.weight"].T + a.get(f"{name}.bias", 0)


def batch_norm(a, name, x, eps=1e-3):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps) * a[f"{name}.weight"] + a[f"{name}.bias"]


def running_norm(a, name, x, eps=1e-3):
    scaled = (x - a[f"{name}.running_mean"]) / np.sqrt(a[f"{name}.running_var"] + eps)
    return scaled * a[f"{name}.weight"] + a[f"{name}.bias"]


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def content_by_hand(data):
    """Unit rows of each modality, missing rows filled with the mean row, concatenated."""
    parts = []
    for m, x in enumerate(data.features.values()):
        known = data.mask[:, m].numpy()
        scaled = unit(x.numpy()[known])
        full = np.tile(scaled.mean(0), (len(x), 1))
        full[known] = scaled
        parts.append(full)
    return np.concatenate(parts, axis=1)


# A batch of triples: users, positives and negatives. User 3 and item 2 occur twice.
U = torch.tensor([0, 3, 3, 7])
POS = torch.tensor([2, 5, 1, 2])
NEG = torch.tensor([4, 9, 12, 0])


def graph_by_hand(x, y, here, known, k):
    """Keep the k largest cosines of each row, including itself; imputed rows have no edge."""
    cosines = unit(x) @ unit(y).T
    a = np.zeros_like(cosines)
    for i in np.flatnonzero(here):
        order = [j for j in np.argsort(-cosines[i]) if known[j]][:k]
        a[i, order] = cosines[i, order]
    return a


def symmetric(a):
    """Return D^-1/2 A D^-1/2, with 0 for rows whose sum is not positive."""
    s = a.sum(1)
    root = np.where(s > 1e-12, 1 / np.sqrt(np.maximum(s, 1e-12)), 0)
    return root[:, None] * a * root


# --- new items and their scores ------------------------------------------------------------------


def new_items(count=5, seed=3):
    rng = np.random.default_rng(seed)
    new = {name: torch.from_numpy(rng.standard_normal((count, d))) for name, d in DIMS.items()}
    mask = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, True]])[
        :count
    ]
    for m, x in enumerate(new.values()):
        x[~mask[:, m]] = torch.nan
    return new, mask


def matrix(data):
    """Return the 0/1 matrix R (U, n) of training pairs."""
    r = np.zeros((data.num_users, data.num_items))
    r[tuple(t.numpy() for t in data.pairs)] = 1
    return r


def centred_by_hand(data, new, mask):
    """Return per modality the warm and the new rows, centred, and 0 where missing.

    The mean is over the warm items that have the modality.
    """
    parts = []
    for m, (name, x) in enumerate(data.features.items()):
        known = data.mask[:, m].numpy()
        mean = x.numpy()[known].mean(0)
        warm = np.where(known[:, None], x.numpy() - mean, 0)
        parts.append((warm, np.where(mask[:, [m]].numpy(), new[name].numpy() - mean, 0)))
    return parts


def graphs_by_hand(data, new, mask, k):
    graphs = []
    for warm, rows in centred_by_hand(data, new, mask):
        g = np.maximum(unit(warm) @ unit(rows).T, 0)
        for c in range(g.shape[1]):
            g[np.argsort(-g[:, c])[k:], c] = 0
        graphs.append(g)
    return graphs


def neighbour_scores_by_hand(data, new, mask, mu, k):
    graphs = graphs_by_hand(data, new, mask, k)
    t = sum(w * g for w, g in zip(mu, graphs, strict=True))
    return t / (mask.numpy() @ mu)


def scores(baseline, new, mask):
    with torch.no_grad():
        return baseline.scorer(new, mask)(torch.arange(USERS)).numpy()
