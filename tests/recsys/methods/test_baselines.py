"""Compare each baseline with its equations in NumPy, and test what all baselines share."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils import deterministic

from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.method import find_method, problem_of
from milk_recsys.config.options import OptionError, Options, validate
from milk_recsys.methods import graphs
from milk_recsys.methods.clcrec import model as clcrec
from milk_recsys.methods.clcrec.model import distinct_negatives
from milk_recsys.methods.factors import Factorisation
from milk_recsys.methods.gorec import model as gorec
from milk_recsys.methods.learner import ClosedFormLearner, TrainedLearner
from milk_recsys.methods.micro import model as micro
from milk_recsys.methods.scaling import Columns, standardise_nonzero_rows
from milk_recsys.methods.warm import Content, WarmData
from milk_recsys.run.loop import check_learner
from tests.recsys.methods.tiny_baselines import (
    BASELINES,
    DIMS,
    ITEMS,
    NEEDS_FACTORS,
    NEG,
    POS,
    UNTRAINED,
    USERS,
    D,
    U,
    arrays,
    batch_norm,
    content_by_hand,
    graph_by_hand,
    linear,
    make,
    make_data,
    make_factors,
    make_options,
    running_norm,
    softplus,
    symmetric,
    unit,
)

TRAINED = sorted(set(BASELINES) - UNTRAINED)
CPU = torch.device("cpu")


def test_content_is_scaled_and_imputed_from_warm_rows():
    data = make_data()
    content = Content(data)
    np.testing.assert_allclose(content.warm.numpy(), content_by_hand(data), rtol=1e-12)
    new = {name: torch.full((2, d), 1e9, dtype=torch.float64) for name, d in DIMS.items()}
    imputed = content(new, torch.zeros(2, 2, dtype=torch.bool))
    np.testing.assert_allclose(
        imputed[0].numpy(), content_by_hand(data)[0, :0].tolist() + imputed[1].tolist()
    )


def test_duif_loss_matches_numpy():
    data, b = make_data(), make("duif", l2=0.03)
    a, x = arrays(b), content_by_hand(data)
    total = 0.0
    for u, i, j in zip(U, POS, NEG, strict=True):
        p, v, w = a["user.weight"][u], a["item.weight"] @ x[i], a["item.weight"] @ x[j]
        total += softplus(p @ w - p @ v) + 0.03 * (p @ p + v @ v + w @ w)
    assert b.loss(U, POS, NEG).item() == pytest.approx(total / 4, rel=1e-10)


def test_mtpr_loss_matches_numpy():
    data, b = make_data(), make("mtpr", decay=0.05, embedding_decay=0.02, batch_size=4)
    # Initial weights are so small that all scores are near 0. Scale them up.
    with torch.no_grad():
        for p in b.net.parameters():
            p.mul_(30)
    a, x = arrays(b), content_by_hand(data)
    total = 0.0
    for u, i, j in zip(U, POS, NEG, strict=True):
        p, q, r = a["user"][u], a["item"][i], a["item"][j]
        user, zero = p @ a["user_map"], np.zeros(D)
        # Normal (n) and counterfactual (c) scores of the positive (+) and the negative (-).
        n, c = {}, {}
        for k, item, vector in (("+", i, q), ("-", j, r)):
            content = x[item] @ a["content"]
            n[k] = user @ (np.concatenate([vector, content]) @ a["item_map"])
            c[k] = user @ (np.concatenate([zero, content]) @ a["item_map"])
        for positive, negative in ((n, n), (c, c), (n, c), (c, n)):
            total += softplus(negative["-"] - positive["+"])
        total += 0.02 * (p @ p + q @ q + r @ r)
    total += 0.05 * sum((a[name] ** 2).sum() for name in ("content", "user_map", "item_map"))
    assert b.loss(U, POS, NEG).item() == pytest.approx(total / 4, rel=1e-10)


@pytest.mark.parametrize("max_dense_rows", [0, clcrec.MAX_DENSE_ROWS])
def test_clcrec_loss_matches_numpy(max_dense_rows, monkeypatch):
    # 0 gathers the candidates of each row; the default takes products with all candidates.
    monkeypatch.setattr(clcrec, "MAX_DENSE_ROWS", max_dense_rows)
    data, b = make_data(), make("clcrec", tau=0.7, content_share=0.3, norm_weight=0.2, hidden=5)
    a, x = arrays(b), content_by_hand(data)
    candidates = torch.tensor([[2, 4, 9], [5, 9, 0], [1, 2, 3], [2, 0, 19]])
    replaced = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    hidden = linear(a, "encoder.0", x)
    encoded = linear(a, "encoder.2", np.where(hidden > 0, hidden, 0.01 * hidden))
    total, q_norms = 0.0, []
    for u, row, takes_content in zip(U, candidates.numpy(), replaced.numpy(), strict=True):
        p, q = a["vectors.weight"][u], a["vectors.weight"][USERS + row]
        # L1 contrasts the item vector with content, L2 the user with vectors or content.
        first = np.array([unit(q[0]) @ unit(encoded[c]) for c in row]) / 0.7
        second = (
            np.array(
                [
                    p @ (encoded[c] if r else v)
                    for c, v, r in zip(row, q, takes_content, strict=True)
                ]
            )
            / 0.7
        )
        for scores, share in ((first, 0.3), (second, 0.7)):
            total += share * (np.log(np.exp(scores).sum()) - scores[0]) / 4
        total += 0.2 * np.linalg.norm(p) / 2 / 4
        q_norms += np.linalg.norm(q, axis=1).tolist()
    total += 0.2 * np.mean(q_norms) / 2
    assert b.loss(U, candidates, replaced).item() == pytest.approx(total, rel=1e-10)


def test_ccfcrec_loss_matches_numpy():
    data, b = make_data(), make("ccfcrec", tau=0.4, contrast_share=0.6)
    a, x = arrays(b), content_by_hand(data)
    k = torch.tensor([1, 2, 4, 5])
    positives = torch.tensor([[2, 6], [5, 1], [8, 8], [0, 2]])
    negatives = torch.randint(ITEMS, (4, 3, 5))
    parts = np.split(x, [7], axis=1)
    hidden = linear(
        a,
        "head.0",
        np.concatenate([part @ a[f"maps.{m}.weight"].T for m, part in enumerate(parts)], 1),
    )
    q = linear(a, "head.2", np.where(hidden > 0, hidden, 0.01 * hidden))

    def e(a_row, b_row):
        return math.exp(unit(a_row) @ unit(b_row) / 0.4)

    total, items, users = 0.0, a["item.weight"], a["user.weight"]
    for row in range(4):
        u, i = int(U[row]), int(POS[row])
        # The last row of negatives belongs to the item itself.
        contrasts = []
        for place, p in enumerate([*positives[row].tolist(), i]):
            negative_sum = sum(e(q[i], items[n]) for n in negatives[row, place].tolist())
            contrasts.append(-math.log(e(q[i], items[p]) / (e(q[i], items[p]) + negative_sum)))
        ranking = sum(softplus(v @ users[k[row]] - v @ users[u]) for v in (items[i], q[i]))
        total += 0.6 * (np.mean(contrasts[:-1]) + contrasts[-1]) + 0.4 * ranking
    assert b.loss(U, POS, k, positives, negatives).item() == pytest.approx(total / 4, rel=1e-10)


def scaled_factors(x, clip):
    known = (x != 0).any(1)
    scaled = np.clip((x - x[known].mean(0)) / x[known].std(0), -clip, clip)
    return np.where(known[:, None], scaled, 0)


def test_heater_loss_matches_numpy():
    data, b = make_data(), make("heater", similarity_weight=0.2, l2=0.01, experts=3)
    factors = make_factors(data)
    # Initial weights are so small that all scores are near 0. Scale them up.
    with torch.no_grad():
        for p in b.net.parameters():
            p.mul_(20)
    a, x = arrays(b), content_by_hand(data)
    x = np.clip((x - x.mean(0)) / x.std(0), -5, 5)
    np.testing.assert_allclose(a["P"], scaled_factors(factors.users.numpy(), 5), rtol=1e-10)
    np.testing.assert_allclose(a["Q"], scaled_factors(factors.items.numpy(), 1), rtol=1e-10)
    experts, gates = np.tanh(linear(a, "experts", x)), np.tanh(linear(a, "gate", x))
    c = np.tanh(sum(gates[:, [e]] * experts[:, e * D : (e + 1) * D] for e in range(3)))
    items = torch.tensor([3, 5, 1, 2])
    q = a["Q"][items].copy()
    q[[0, 2]] = c[items[[0, 2]]]

    def tower(side, v):
        return linear(
            a, f"{side}.3", np.tanh(batch_norm(a, f"{side}.1", linear(a, f"{side}.0", v)))
        )

    labels = np.array([1.0, 0, 1, 0])
    scores = (tower("user", a["P"][U]) * tower("item", q)).sum(1)
    squares = sum(
        (v**2).sum()
        for n, v in a.items()
        if n.split(".")[0] in ("experts", "gate")
        or n[-8:] in ("0.weight", "3.weight")
        or n[-6:] in ("0.bias", "3.bias")
    )
    expected = (
        ((scores - labels) ** 2).mean()
        + 0.2 * ((c[items] - a["Q"][items]) ** 2).sum(1).mean()
        + 0.01 * squares
    )
    loss = b.loss(U, items, torch.from_numpy(labels), torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_dropoutnet_loss_matches_numpy():
    data, b = make_data(), make("dropoutnet", hidden=9)
    factors = make_factors(data)
    # Initial weights are so small that all scores are near 0. Scale them up.
    with torch.no_grad():
        for p in b.net.parameters():
            p.mul_(20)
    a, x = arrays(b), content_by_hand(data)
    p, q = (scaled_factors(v.numpy(), 5) for v in factors)
    p, q = p[U], q[POS]
    q[[1, 3]], p[[0, 3]] = 0, 0

    def tower(side, v):
        return linear(
            a, f"{side}.3", np.tanh(batch_norm(a, f"{side}.1", linear(a, f"{side}.0", v)))
        )

    scores = (tower("user", p) * tower("item", np.concatenate([q, x[POS]], 1))).sum(1)
    # The inputs of the towers are scaled factors, but the targets use the unscaled ones.
    targets = (factors.users[U] * factors.items[POS]).sum(1).numpy()
    loss = b.loss(U, POS, torch.tensor([1, 3]), torch.tensor([0, 3]))
    assert loss.item() == pytest.approx(((scores - targets) ** 2).mean(), rel=1e-10)


def test_dropoutnet_trains_on_the_best_items_and_the_same_number_of_random_items():
    b = make("dropoutnet", targets=4)
    users, items = b.targets(torch.tensor([5, 2]), torch.Generator().manual_seed(0))
    factors = make_factors(make_data())
    assert users.tolist() == [5] * 8 + [2] * 8
    for start, user in ((0, 5), (8, 2)):
        best = np.argsort(-(factors.users[user] @ factors.items.T).numpy())[:4]
        assert items[start : start + 4].tolist() == best.tolist()


def test_gar_losses_match_numpy(monkeypatch):
    # Without dropout the losses are deterministic functions of the weights.
    monkeypatch.setattr(F, "dropout", lambda x, *_, **__: x)
    data, b = make_data(), make("gar", similarity_share=0.3, real_share=0.2, l2=0.05, hidden=8)
    factors = make_factors(data)
    b.train_epoch(0)  # Otherwise running means are 0 and running variances 1.
    a, x = arrays(b), content_by_hand(data)

    def layers(name, v, norm):
        return linear(a, f"{name}.4", np.tanh(norm(a, f"{name}.1", linear(a, f"{name}.0", v))))

    def tower(side, v, norm):
        first = norm(a, f"{side}.0", v)
        hidden = np.tanh(norm(a, f"{side}.2", linear(a, f"{side}.1", first)))
        return linear(a, f"{side}.5", hidden)

    kernels = {"d": ("user.1", "user.5", "item.1", "item.5"), "g": ("generator.0", "generator.4")}
    half = {
        k: 0.5 * sum((a[f"{n}.weight"] ** 2).sum() for n in names) for k, names in kernels.items()
    }
    p, q = factors.users.numpy(), factors.items.numpy()
    generated = layers("generator", x[POS], running_norm)
    u = tower("user", p[U], batch_norm)
    real, negative, fake = np.split(
        tower("item", np.concatenate([q[POS], q[NEG], generated]), batch_norm), 3
    )
    margin = (u * (real - 0.8 * fake - 0.2 * negative)).sum(1)
    # The first loss updates running statistics. Restore them before the second loss.
    state = {k: v.clone() for k, v in b.net.state_dict().items()}
    assert b.recommender_loss(U, POS, NEG).item() == pytest.approx(
        softplus(-margin).mean() + 0.05 * half["d"], rel=1e-9
    )
    b.net.load_state_dict(state)
    generated = layers("generator", x[POS], batch_norm)
    u = tower("user", p[U], running_norm)
    gap = (u * (tower("item", q[POS], running_norm) - tower("item", generated, running_norm))).sum(
        1
    )
    expected = (
        0.7 * softplus(gap).mean() + 0.3 * np.abs(generated - q[POS]).mean() + 0.05 * half["g"]
    )
    assert b.generator_loss(U, POS).item() == pytest.approx(expected, rel=1e-9)


def test_gorec_loss_matches_numpy():
    data, b = make_data(), make("gorec", uniformity_weight=0.3, kl_weight=0.2, dropout=0.0)
    a, x = arrays(b), unit(content_by_hand(data))
    items, noise = torch.tensor([2, 5, 1, 9, 0]), torch.randn(5, D, dtype=torch.float64)
    x, q = x[items], make_factors(data).items.numpy()[items]

    def hidden(name, v):
        return np.tanh(batch_norm(a, f"{name}.1", v @ a[f"{name}.0.weight"].T, eps=1e-5))

    mu, log_var = np.split(
        linear(a, "posterior", hidden("encoder", np.concatenate([x, q], 1))), 2, axis=1
    )
    prior_mu, prior_log_var = np.split(linear(a, "prior", x), 2, axis=1)
    z = mu + np.exp(log_var / 2) * noise.numpy()
    decoded = linear(a, "head.1", linear(a, "head.0", hidden("decoder", np.concatenate([x, z], 1))))
    pairs = [
        np.exp(-2 * ((unit(mu)[i] - unit(mu)[j]) ** 2).sum()) for i in range(5) for j in range(i)
    ]
    posterior, prior = (
        torch.distributions.Normal(torch.from_numpy(m), torch.from_numpy(np.exp(v / 2)))
        for m, v in ((mu, log_var), (prior_mu, prior_log_var))
    )
    kl = torch.distributions.kl_divergence(posterior, prior).sum(1).mean().item()
    expected = ((decoded - q) ** 2).mean() + 0.3 * np.log(np.mean(pairs)) + 0.2 * kl
    assert b.loss(items, noise).item() == pytest.approx(expected, rel=1e-9)


def test_gorec_gives_a_new_item_the_mean_factors_of_its_cluster():
    data, b = make_data(missing=False), make("gorec", make_data(missing=False), cluster_items=5)
    b.net.eval()
    a, x = arrays(b), unit(content_by_hand(data))
    labels = ((x[:, None] - a["centres"][None]) ** 2).sum(2).argmin(1)
    for k in range(len(a["centres"])):
        np.testing.assert_allclose(a["centres"][k], x[labels == k].mean(0), atol=1e-9)
        np.testing.assert_allclose(
            a["means"][k], make_factors(data).items.numpy()[labels == k].mean(0), atol=1e-9
        )

    def hidden(name, v):
        return np.tanh(running_norm(a, f"{name}.1", v @ a[f"{name}.0.weight"].T, eps=1e-5))

    mu = np.split(
        linear(a, "posterior", hidden("encoder", np.concatenate([x, a["means"][labels]], 1))),
        2,
        axis=1,
    )[0]
    v = linear(a, "head.1", linear(a, "head.0", hidden("decoder", np.concatenate([x, mu], 1))))
    with torch.no_grad():
        scores = b.scorer(data.features, data.mask)(torch.arange(USERS))
    np.testing.assert_allclose(scores.numpy(), a["P"] @ v.T, rtol=1e-8, atol=1e-10)


def test_micro_loss_matches_numpy():
    data, b = make_data(), make("micro", neighbours=4, l2=0.1, contrast_weight=0.2, tau=0.6)
    a, x = arrays(b), content_by_hand(data)
    known, parts = data.mask.numpy(), np.split(x, [7], axis=1)
    single = []
    for m, part in enumerate(parts):
        learned = linear(a, f"maps.{m}", part)
        fixed, learned_graph = (
            symmetric(graph_by_hand(v, v, known[:, m], known[:, m], 4)) for v in (part, learned)
        )
        single.append((0.9 * fixed + 0.1 * learned_graph) @ a["item.weight"])
    h = np.stack(single, 1)
    query = np.tanh(h @ a["query.0.weight"].T + a["query.0.bias"]) @ a["query.2.weight"].T
    weights = np.exp(query) / np.exp(query).sum(1, keepdims=True)
    fused = (weights * h).sum(1)
    users, items = (t.numpy() for t in data.pairs)
    adjacency = np.eye(USERS + ITEMS)
    adjacency[users, USERS + items] = adjacency[USERS + items, users] = 1
    # D^-1 (B + I): the diagonal of the adjacency matrix is 1.
    walk = adjacency / adjacency.sum(1, keepdims=True)
    start = np.concatenate([a["user.weight"], a["item.weight"]])
    mean = (start + walk @ start + walk @ walk @ start) / 3
    p, v = mean[:USERS], mean[USERS:] + unit(fused)
    total = 0.0
    for u, i, j in zip(U, POS, NEG, strict=True):
        total += softplus(p[u] @ v[j] - p[u] @ v[i]) / 4
        total += 0.1 * (p[u] @ p[u] + v[i] @ v[i] + v[j] @ v[j]) / 2 / 4
    anchors = torch.tensor([1, 7, 9])
    for h_m in single:
        for n in anchors:
            # Candidates: all rows of h, and all rows of h_m except the anchor itself.
            across, within = unit(h_m)[n] @ unit(fused).T / 0.6, unit(h_m)[n] @ unit(h_m).T / 0.6
            below = np.exp(across).sum() + np.exp(np.delete(within, n)).sum()
            total += 0.2 * (np.log(below) - across[n]) / 3
    assert b.loss(U, POS, NEG, b._graphs(), anchors).item() == pytest.approx(total, rel=1e-9)


def test_micro_gives_a_new_item_the_vectors_of_its_nearest_warm_items():
    data, b = make_data(), make("micro", neighbours=3)
    a, x = arrays(b), content_by_hand(data)
    rng = np.random.default_rng(5)
    new = {name: torch.from_numpy(rng.standard_normal((4, d))) for name, d in DIMS.items()}
    mask = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    y = b.content(new, mask).numpy()
    known = data.mask.numpy()
    parts = np.split(x, [7], axis=1)
    single = []
    for m, (warm_part, new_part) in enumerate(zip(parts, np.split(y, [7], axis=1), strict=True)):
        sides = []
        for x_new, x_warm in (
            (new_part, warm_part),
            (linear(a, f"maps.{m}", new_part), linear(a, f"maps.{m}", warm_part)),
        ):
            graph = graph_by_hand(x_new, x_warm, mask[:, m].numpy(), known[:, m], 3)
            s = graph.sum(1, keepdims=True)
            sides.append(np.where(s > 0, graph / np.where(s > 0, s, 1), 0) @ a["item.weight"])
        single.append(0.9 * sides[0] + 0.1 * sides[1])
    h = np.stack(single, 1)
    query = np.tanh(h @ a["query.0.weight"].T + a["query.0.bias"]) @ a["query.2.weight"].T
    v = unit((np.exp(query) / np.exp(query).sum(1, keepdims=True) * h).sum(1))
    users, items = (t.numpy() for t in data.pairs)
    adjacency = np.eye(USERS + ITEMS)
    adjacency[users, USERS + items] = adjacency[USERS + items, users] = 1
    walk = adjacency / adjacency.sum(1, keepdims=True)
    start = np.concatenate([a["user.weight"], a["item.weight"]])
    p = ((start + walk @ start + walk @ walk @ start) / 3)[:USERS]
    with torch.no_grad():
        scores = b.scorer(new, mask)(torch.arange(USERS))
    np.testing.assert_allclose(scores.numpy(), p @ v.T, rtol=1e-8, atol=1e-10)


def test_micro_gives_imputed_and_zero_rows_no_edges_and_no_nan():
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 0.0], [0.5, 0.5]])
    known = torch.tensor([True, True, True, False])
    values, places = micro.neighbours(x, x, known, known, 3)
    assert (values[2:] == 0).all()
    assert {int(p) for p, v in zip(places[0], values[0], strict=True) if v > 0} == {0, 1}
    assert torch.isfinite(micro.normalised_graph(values, places).to_dense()).all()


def test_content_knn_scores_match_numpy():
    data, b = make_data(), make("content_knn")
    rng = np.random.default_rng(3)
    new = {name: torch.from_numpy(rng.standard_normal((5, d))) for name, d in DIMS.items()}
    mask = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, True]])
    new["image"][1] = torch.nan
    expected = np.zeros((USERS, 5))
    users, items = (t.numpy() for t in data.pairs)
    for c in range(5):
        for m, (name, x) in enumerate(data.features.items()):
            known = data.mask[:, m].numpy()
            mean = x.numpy()[known].mean(0)
            for u, i in zip(users, items, strict=True):
                if mask[c, m] and known[i]:
                    similarity = max(
                        unit(x.numpy()[i] - mean) @ unit(new[name][c].numpy() - mean), 0
                    )
                    expected[u, c] += similarity / mask[c].sum().item()
    scores = b.scorer(new, mask)(torch.tensor([11, 0, 4]))
    np.testing.assert_allclose(scores.numpy(), expected[[11, 0, 4]], rtol=1e-9, atol=1e-12)


def test_random_scores_do_not_depend_on_the_other_users_in_the_call():
    data, b = make_data(), make("random")
    score = b.scorer(data.features, data.mask)
    all_scores = score(torch.arange(USERS))
    assert torch.equal(all_scores[[3, 7]], score(torch.tensor([3, 7])))
    assert 0.4 < all_scores.mean() < 0.6
    assert len(torch.unique(all_scores)) == all_scores.numel()


def test_scaling_is_fitted_on_nonzero_rows():
    x = torch.tensor([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]])
    assert standardise_nonzero_rows(x, clip=5.0).tolist() == [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert Columns(x[:2], clip=0.5)(torch.tensor([[9.0, 9.0]])).tolist() == [[0.5, 0.0]]


# --- the factorisation ----------------------------------------------------------------------------


def test_factors_are_zero_for_users_and_items_without_training_pairs():
    data = make_data(2, users=40, items=30)
    pairs = torch.stack(data.pairs, dim=1)
    pairs = pairs[(pairs[:, 0] != 5) & (pairs[:, 1] != 6)]
    data = dataclasses.replace(data, rows=build_user_rows(pairs, 40, torch.arange(30)))
    f = Factorisation(
        data, make_options("gar", factor_epochs=7, factor_batch_size=64, factor_lr=0.05).method, 0
    )
    first_loss = f.train_epoch()
    while not f.done:
        last_loss = f.train_epoch()
    users, items = f.result()
    assert last_loss < first_loss
    assert (users[5] == 0).all()
    assert (items[6] == 0).all()
    assert (users != 0).any(dim=1).sum() == 39
    assert f.epoch == 7


def test_the_held_out_pairs_are_not_trained_on():
    data = make_data(2, users=40, items=30)
    f = Factorisation(data, make_options("gar").method, 0)
    held = set(zip(*(t.tolist() for t in f._held), strict=True))
    kept = set(zip(*(t.tolist() for t in data.rows.pairs_at(f._kept)), strict=True))
    assert len(held) == int(0.05 * data.num_pairs) > 0
    assert not held & kept
    assert len(held | kept) == data.num_pairs


# --- properties of all baselines ------------------------------------------------------------------


def quick(name):
    sizes = {"batch_size": 16}
    if find_method(name).needs_factors:
        sizes |= {"factor_epochs": 3, "factor_batch_size": 32}
    return make_options(
        name,
        **{
            k: v
            for k, v in sizes.items()
            if k in {f.name for f in dataclasses.fields(find_method(name).options)}
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_resumes_bit_for_bit_from_a_file(name, tmp_path):
    data = make_data()
    uninterrupted = TrainedLearner(data, quick(name))
    uninterrupted.prepare()
    losses = [uninterrupted.train_epoch(epoch)["loss"] for epoch in range(3)]
    interrupted = TrainedLearner(data, quick(name))
    interrupted.prepare()
    assert interrupted.train_epoch(0)["loss"] == losses[0]
    interrupted.save(tmp_path / "state.safetensors", {"epoch": 0})
    torch.rand(7)  # The state of the global generator must not matter.
    resumed = TrainedLearner(data, quick(name))
    assert resumed.load(tmp_path / "state.safetensors") == {"epoch": 0}
    assert [resumed.train_epoch(epoch)["loss"] for epoch in (1, 2)] == losses[1:]
    for key, x in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], x), key


def test_training_resumes_in_the_stage_of_the_factors(tmp_path):
    data, options = make_data(), quick("heater")
    uninterrupted, interrupted = TrainedLearner(data, options), TrainedLearner(data, options)
    uninterrupted.prepare()
    interrupted.factorisation.train_epoch()
    assert interrupted.stage == "factors"
    interrupted.save(tmp_path / "state.safetensors", {})
    resumed = TrainedLearner(data, options)
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.factorisation.epoch == 1
    resumed.prepare()
    assert resumed.stage == uninterrupted.stage == "model"
    assert resumed.train_epoch(0) == uninterrupted.train_epoch(0)


@pytest.mark.parametrize("name", sorted(NEEDS_FACTORS))
def test_training_does_not_change_frozen_factors(name):
    learner = TrainedLearner(make_data(), quick(name))
    learner.prepare()
    before = {
        k: x.clone()
        for k, x in learner.model.net.named_buffers()
        if "running" not in k and "num_batches" not in k
    }
    assert {"P", "Q"} <= set(before)
    learner.train_epoch(0)
    after = dict(learner.model.net.named_buffers())
    assert all(torch.equal(after[k], x) for k, x in before.items())
    assert not any(k in ("P", "Q") for k, _ in learner.model.net.named_parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_training_changes_every_parameter(name):
    learner = TrainedLearner(make_data(), quick(name))
    learner.prepare()
    before = {
        k: p.detach().clone() for k, p in learner.model.net.named_parameters() if p.requires_grad
    }
    for epoch in range(2):
        learner.train_epoch(epoch)
    for k, p in learner.model.net.named_parameters():
        assert not p.requires_grad or not torch.equal(before[k], p), k


# Tensors with a row per warm item, or of that shape, that scores of new items depend on by design.
READ_BY_NEW_ITEMS = {
    "micro": {"item.weight"},  # A new item averages the vectors of its nearest warm items.
    "duif": {"item.weight"},  # This is the linear map of content, not a table of items.
    "dgmrec": {"item.weight"},  # Users are propagated over warm items.
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_new_item_is_scored_without_a_vector_of_its_own(name):
    data, learner = make_data(), TrainedLearner(make_data(), quick(name))
    learner.prepare()
    learner.train_epoch(0)
    net = learner.model.net
    sizes = {x.shape[0] for k, x in net.state_dict().items() if x.ndim == 2}
    # No table has a row for anything except users and warm items.
    assert max(sizes & {ITEMS, USERS + ITEMS}, default=ITEMS) in (ITEMS, USERS + ITEMS)
    new = {k: x[:6] + 0.1 for k, x in data.features.items()}
    with torch.no_grad():
        expected = learner.model.scorer(new, data.mask[:6])(torch.arange(USERS)).clone()
        # If a score read a warm item's own vector, it would become NaN.
        for k, x in net.state_dict().items():
            per_item = k in ("Q", "target_Q") or (
                k in ("item", "item.weight") and x.shape[0] == ITEMS
            )
            if per_item and k not in READ_BY_NEW_ITEMS.get(name, ()):
                x.fill_(torch.nan)
            if k == "vectors.weight":
                x[USERS:] = torch.nan
        scores = learner.model.scorer(new, data.mask[:6])(torch.arange(USERS))
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"random"}))
def test_scores_depend_neither_on_missing_features_nor_on_the_other_items_in_the_call(name):
    learner_class = TrainedLearner if name in TRAINED else ClosedFormLearner
    data, learner = make_data(), learner_class(make_data(), quick(name))
    learner.prepare()
    if name in TRAINED:
        learner.train_epoch(0)
    new = {k: x.nan_to_num(0.3)[:8] + 0.1 for k, x in data.features.items()}
    mask = torch.ones(8, 2, dtype=torch.bool)
    mask[2, 0] = mask[5, 1] = False
    with torch.no_grad():
        expected = learner.model.scorer(new, mask)(torch.arange(USERS)).clone()
        for fill in (torch.nan, 1e9):
            filled = {k: x.masked_fill(~mask[:, [m]], fill) for m, (k, x) in enumerate(new.items())}
            assert torch.equal(learner.model.scorer(filled, mask)(torch.arange(USERS)), expected)
        subset = learner.model.scorer({k: x[1:6] for k, x in new.items()}, mask[1:6])(
            torch.tensor([2, 9])
        )
    torch.testing.assert_close(subset, expected[[2, 9], 1:6], rtol=1e-9, atol=1e-12)


OVERFITS = {
    "duif": (60, {"lr": 0.03, "l2": 0.0}),
    "micro": (30, {"lr": 0.01, "neighbours": 4, "l2": 0.0}),
    "dropoutnet": (60, {"lr": 0.003, "targets": 16, "decay_groups": 1000}),
    "mtpr": (60, {"lr": 0.02, "decay": 0.0}),
    "heater": (60, {"lr": 0.02, "l2": 0.0, "decay_epochs": 100}),
    "clcrec": (60, {"num_negatives": 5, "norm_weight": 0.0, "lr": 0.01}),
    "ccfcrec": (30, {"lr": 0.02, "weight_decay": 0.0}),
    "gar": (60, {"lr": 0.003, "l2": 0.0}),
    "sibrar": (60, {"lr": 0.01, "num_negatives": 5, "width": 16}),
    "i3mrec": (60, {"lr": 0.03, "l2": 0.0, "dropout": 0.0, "penalty_weight": 1.0}),
    "dgmrec": (60, {"lr": 0.02, "neighbours": 4, "fused_l2": 0.0}),
    "aldi": (80, {"lr": 0.01, "hidden": 16}),
    "gorec": (
        200,
        {
            "lr": 0.01,
            "uniformity_weight": 0.0,
            "kl_weight": 0.01,
            "dropout": 0.0,
            "cluster_items": 8,
        },
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_each_trained_method_overfits_a_tiny_set(name):
    """Rank the preferred kind first, if users like one of two kinds of items.

    Content shows the kind of an item, and user u likes kind u % 2.
    """
    users, items = 12, 16
    rng = np.random.default_rng(0)
    kinds = np.arange(items) % 2
    features = {
        k: torch.from_numpy(
            np.eye(2)[kinds].repeat(2, axis=1) + 0.1 * rng.standard_normal((items, 4))
        )
        for k in DIMS
    }
    liked = (kinds[None] == (np.arange(users) % 2)[:, None]) & (rng.random((users, items)) < 0.8)
    rows = build_user_rows(torch.from_numpy(np.argwhere(liked)), users, torch.arange(items))
    data = WarmData(tuple(DIMS), users, features, torch.ones(items, 2, dtype=torch.bool), rows)
    epochs, method = OVERFITS[name]
    if find_method(name).needs_factors:
        method = method | {"factor_epochs": 200, "factor_lr": 0.05, "factor_batch_size": 32}
    learner = TrainedLearner(data, make_options(name, batch_size=32, **method))
    learner.prepare()
    for epoch in range(epochs):
        learner.train_epoch(epoch)
    with torch.no_grad():
        scores = learner.model.scorer(features, data.mask)(torch.arange(users))
    preferred = torch.from_numpy(kinds[None] == (np.arange(users) % 2)[:, None])
    correct = (scores[:, :, None] > scores[:, None, :])[
        preferred[:, :, None] & ~preferred[:, None, :]
    ]
    assert correct.double().mean() > 0.97


def test_distinct_negatives_are_uniform_and_exclude_the_items_of_the_user():
    data = make_data()
    users = torch.arange(USERS).repeat(4000)
    drawn = distinct_negatives(data.rows, users, 3, torch.Generator().manual_seed(0))
    assert (drawn.sort(dim=1).values.diff(dim=1) > 0).all()
    owned = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    owned[data.pairs] = True
    assert not owned[users[:, None], drawn].any()
    counts = torch.zeros(USERS, ITEMS).index_put(
        (users[:, None].expand_as(drawn), drawn), torch.ones(()), accumulate=True
    )
    expected = 4000 * 3 / data.rows.free
    assert ((counts - expected[:, None]).abs()[~owned] < 6 * expected.max() ** 0.5).all()


def test_distinct_negatives_may_be_all_items_that_a_user_does_not_have():
    data = make_data()
    count = int(data.rows.free.min())
    user = data.rows.free.argmin()
    drawn = distinct_negatives(data.rows, user[None], count, torch.Generator().manual_seed(1))
    assert len(torch.unique(drawn)) == count


def test_the_sparse_product_has_the_gradient_of_the_dense_product():
    a = torch.rand(5, 5, dtype=torch.float64).mul(torch.rand(5, 5) < 0.5)
    x = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    csr_pair = graphs.csr_and_transpose(a.to_sparse())
    assert torch.autograd.gradcheck(lambda v: graphs.Product.apply(v, *csr_pair), (x,))
    torch.testing.assert_close(graphs.Product.apply(x, *csr_pair), a @ x)


def test_each_gorec_cluster_contains_warm_items():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 4)))
    q = torch.from_numpy(np.random.default_rng(1).standard_normal((30, 3)))
    centres, means = gorec.cluster_means(torch.cat([x, x]), torch.cat([q, q]), 2, 0)
    assert len(centres) == len(means) <= 30
    assert not (means == 0).all(dim=1).any()


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_defaults_are_valid_and_only_trained_methods_have_a_loop(name):
    validate(Options.of(model=name, compare="none"))
    assert problem_of(Options.of(model=name).method) is None
    untrained = {"content_knn", "random", "knn", "marec", "ridge", "keep"}
    untrained |= {"fease", "fease_u", "linmap", "graph_imputation"}
    assert find_method(name).trains == (name not in untrained)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        ("gar", {"tau": 1.0}, "--tau"),
        ("gar", {"similarity_share": 1.5}, "--similarity-share must be"),
        ("gar", {"lr": 0.0}, "--lr must be finite, above 0"),
        ("gar", {"hidden": 2.5}, "--hidden must be a whole number"),
        ("gar", {"alpha": 2.0}, "has no option --alpha"),
        ("duif", {"negatives": "all"}, "does not use --negatives, got all"),
        (
            "duif",
            {"dtype": "bfloat16"},
            "must be float32 or float64 for --model duif, got bfloat16",
        ),
        ("knn", {"epochs": 5}, "does not use --epochs, got 5"),
        ("gorek", {}, "there is no such method. Did you mean gorec?"),
    ],
)
def test_an_invalid_option_is_an_error(model, values, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        validate(Options.of(model, **values))


def test_several_processes_are_refused():
    with pytest.raises(OptionError, match="one process"):
        check_learner(Options.of(model="gar"), CPU, World(0, 2))
    check_learner(Options.of(model="gar"), CPU, World(0, 1))


def test_a_file_of_another_model_is_an_error(tmp_path):
    data = make_data()
    duif = TrainedLearner(data, quick("duif"))
    duif.save(tmp_path / "state.safetensors", {})
    with pytest.raises(DataError, match="does not fit the run"):
        TrainedLearner(data, quick("mtpr")).load(tmp_path / "state.safetensors")


def test_each_seed_and_epoch_has_its_own_random_stream():
    draws = []
    for key in ((0,), (0, 1), (0, 1, 0), (0, 1, 1), (1, 1, 0)):
        with seeded(*key, device=CPU) as generator:
            draws.append((torch.rand(1).item(), torch.rand(1, generator=generator).item()))
    assert len(set(draws)) == 5


def test_seeded_does_not_fill_empty_memory_and_restores_the_setting():
    before = deterministic.fill_uninitialized_memory
    with seeded(0, device=CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not deterministic.fill_uninitialized_memory
    assert deterministic.fill_uninitialized_memory == before
    assert not torch.are_deterministic_algorithms_enabled()
    # On a GPU deterministic algorithms cost time, and some sums have none.
    with seeded(0, device=torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()
