"""Compare methods that are newer than MILK, or contemporary with it, with NumPy.

Properties and past errors of these methods are tested too.
"""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import optimize

from invmod.regression.least_squares import non_negative_least_squares
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods import closed_form as closed
from milk_recsys.methods.closed_form import (
    Smoother,
    conjugate_gradients,
    interactions,
    patterns,
)
from milk_recsys.methods.graph_imputation import DIFFUSIONS
from milk_recsys.methods.learner import build
from tests.recsys.methods.tiny_baselines import (
    ITEMS,
    NEG,
    POS,
    USERS,
    U,
    arrays,
    batch_norm,
    centred_by_hand,
    content_by_hand,
    graph_by_hand,
    graphs_by_hand,
    linear,
    make,
    make_data,
    make_factors,
    make_options,
    matrix,
    neighbour_scores_by_hand,
    new_items,
    running_norm,
    scores,
    softplus,
    symmetric,
    unit,
)

CLOSED = (
    "knn",
    "marec",
    "ridge",
    "keep",
    "fease",
    "fease_u",
    "linmap",
    "graph_imputation",
)


# --- closed forms ---------------------------------------------------------------------------------


def test_knn_scores_match_numpy():
    data, b = make_data(), make("knn", neighbours=6)
    new, mask = new_items()
    mu = b.neighbour_scores.weights.numpy()
    assert (mu >= 0).all()
    expected = matrix(data) @ neighbour_scores_by_hand(data, new, mask, mu, 6)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-9, atol=1e-12)


def test_knn_weights_solve_least_squares_on_warm_items_without_self_similarity():
    data, b = make_data(), make("knn", neighbours=6)
    r, columns = matrix(data), []
    for x, _ in centred_by_hand(data, *new_items()):
        g = np.maximum(unit(x) @ unit(x).T, 0)
        # An item must not be its own neighbour.
        np.fill_diagonal(g, 0)
        for c in range(ITEMS):
            g[np.argsort(-g[:, c])[6:], c] = 0
        columns.append((r @ g).ravel())
    root_weights = np.where(r.ravel() > 0, 1, 0.2**0.5)
    expected = optimize.nnls(
        root_weights[:, None] * np.stack(columns, 1), root_weights * r.ravel()
    )[0]
    np.testing.assert_allclose(b.neighbour_scores.weights.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_marec_solves_the_least_squares_problem_of_a_new_item():
    """Minimise |R b|^2 + l1 |b|^2 + d |R b - alpha t|^2 and compare scores up to a factor.

    The column of a new item in R is 0, so that |r - R b|^2 is |R b|^2.
    """
    data, new, mask = make_data(), *new_items()
    l1, d, alpha = 3.0, 4.0, 0.7
    b = make("marec", neighbours=6, smoothing=l1 / (1 + d))
    r = matrix(data)
    t = neighbour_scores_by_hand(data, new, mask, b.neighbour_scores.weights.numpy(), 6)
    # Stack the three squared terms into one ordinary least squares problem.
    tall = np.concatenate([r, l1**0.5 * np.eye(ITEMS), d**0.5 * r])
    target = np.concatenate([np.zeros((USERS + ITEMS, 5)), d**0.5 * alpha * r @ t])
    expected = r @ np.linalg.lstsq(tall, target, rcond=None)[0] * (1 + d) / (alpha * d)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_ridge_is_one_regression_per_pattern(smoothing):
    data, new, mask = make_data(), *new_items()
    b = make("ridge", ridge=0.7, smoothing=smoothing)
    scaled = dataclasses.replace(
        data, features={k: torch.from_numpy(unit(x.numpy())) for k, x in data.features.items()}
    )
    parts = centred_by_hand(
        scaled, {k: torch.from_numpy(unit(x.numpy())) for k, x in new.items()}, mask
    )
    r, expected = matrix(data), np.zeros((USERS, 5))
    for c in range(5):
        available = np.flatnonzero(mask[c].numpy())
        warm, row = (np.concatenate([parts[m][side] for m in available], axis=1) for side in (0, 1))
        weights = np.linalg.solve(warm.T @ warm + 0.7 * np.eye(warm.shape[1]), warm.T @ r.T)
        expected[:, c] = row[c] @ weights
    if smoothing:
        k = r @ r.T
        expected = k @ np.linalg.solve(k + 2.0 * np.eye(USERS), expected)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-8, atol=1e-10)


def test_with_one_pattern_ridge_is_multi_output_ridge():
    from sklearn.linear_model import Ridge

    data = make_data(missing=False)
    b, new = make("ridge", data, ridge=0.7, smoothing=0.0), new_items()[0]
    new = {k: x.nan_to_num(0.5) for k, x in new.items()}
    parts = [
        np.concatenate([unit(x.numpy()) for x in rows.values()], axis=1)
        for rows in (data.features, new)
    ]
    mean = parts[0].mean(0)
    model = Ridge(alpha=0.7, fit_intercept=False).fit(parts[0] - mean, matrix(data).T)
    predicted = scores(b, new, torch.ones(5, 2, dtype=torch.bool))
    np.testing.assert_allclose(predicted, model.predict(parts[1] - mean).T, rtol=1e-8, atol=1e-10)


def test_ridge_solves_the_smaller_system(monkeypatch):
    new, mask = new_items()
    few, many = make_data(items=8), make_data(items=40)  # Fewer and more rows than columns.
    for data in (few, many):
        b = make("ridge", data, ridge=0.5, smoothing=0.0)
        x = [
            torch.cat([b.rows.warm[m] for m in (0, 1)], dim=1),
            torch.cat(b.rows(new, mask), dim=1)[[0, 3]],
        ]
        gram = x[0].T @ x[0] + 0.5 * torch.eye(x[0].shape[1])
        expected = x[0] @ torch.linalg.solve(gram, x[1].T)
        torch.testing.assert_close(b.regress(new, mask)[:, [0, 3]], expected)


@pytest.mark.parametrize(("users", "items"), [(12, 20), (30, 9)])
def test_the_smoother_is_kernel_ridge_over_users_for_every_solver(users, items, monkeypatch):
    data = make_data(1, users=users, items=items)
    r, t = matrix(data), np.random.default_rng(0).standard_normal((items, 4))
    k = r @ r.T
    expected = k @ np.linalg.solve(k + 1.5 * np.eye(users), r @ t)
    for limit in (closed.MAX_DENSE_ROWS, 0):
        monkeypatch.setattr(closed, "MAX_DENSE_ROWS", limit)
        z = Smoother(interactions(data, torch.float64), 1.5)(torch.from_numpy(t))
        np.testing.assert_allclose(
            r @ z.numpy(), expected, rtol=1e-4 if limit == 0 else 1e-9, atol=1e-4
        )


def test_conjugate_gradients_that_do_not_converge_are_an_error():
    a = torch.diag(torch.logspace(-8, 8, 20, dtype=torch.float64))
    with pytest.raises(DataError, match="did not converge"):
        conjugate_gradients(
            lambda x: a @ x, torch.ones(20, 1, dtype=torch.float64), max_iterations=3
        )


def nnls(products, right):
    return non_negative_least_squares(torch.from_numpy(products), torch.from_numpy(right))


def test_non_negative_least_squares_from_products():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50, 4)), rng.standard_normal(50)
    a[:, 3] = a[:, 2]  # Rank-deficient.
    expected = a @ optimize.nnls(a, b)[0]
    solution = nnls(a.T @ a, a.T @ b).numpy()
    assert (solution >= 0).all()
    np.testing.assert_allclose(a @ solution, expected, atol=1e-6)
    assert nnls(np.zeros((2, 2)), np.zeros(2)).tolist() == [0, 0]


def test_patterns_contain_all_rows_except_the_empty_ones():
    mask = torch.tensor([[True, False], [False, False], [True, True], [True, False]])
    assert {p: rows.tolist() for p, rows in patterns(mask)} == {(0,): [0, 3], (0, 1): [2]}


@pytest.mark.parametrize("name", ["knn", "marec"])
def test_modalities_of_weight_0_count_equally_if_an_item_has_no_other(name):
    data, b = make_data(), make(name, neighbours=6)
    new, mask = new_items()
    b.neighbour_scores.weights = torch.tensor([0.3, 0.0], dtype=torch.float64)
    similarities = b.neighbour_scores(new, mask).numpy()
    graphs = graphs_by_hand(data, new, mask, 6)
    only_image = 2
    assert mask[only_image].tolist() == [False, True]
    np.testing.assert_allclose(similarities[:, only_image], graphs[1][:, only_image], rtol=1e-9)
    np.testing.assert_allclose(similarities[:, [0, 1]], graphs[0][:, [0, 1]], rtol=1e-9)
    b.neighbour_scores.weights = torch.zeros(2, dtype=torch.float64)
    np.testing.assert_allclose(
        b.neighbour_scores(new, mask)[:, 0], (graphs[0] + graphs[1])[:, 0] / 2, rtol=1e-9
    )
    assert b.neighbour_scores(new, torch.zeros_like(mask)).abs().max() == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CLOSED)
def test_scores_are_finite_if_one_item_has_a_modality(name, dtype):
    data, new, mask = make_data(), *new_items()
    known = data.mask.clone()
    known[1:, 1] = False
    data = dataclasses.replace(data, mask=known, dtype=getattr(torch, dtype))
    options = make_options(name).replace(dtype=dtype)
    assert np.isfinite(scores(build(data, options, None), new, mask)).all()


@pytest.mark.parametrize("name", CLOSED)
def test_scores_of_a_user_without_a_pair_are_0(name):
    data = make_data()
    pairs = torch.stack(data.pairs, dim=1)
    pairs = pairs[pairs[:, 0] != 4]
    data = dataclasses.replace(data, rows=build_user_rows(pairs, USERS, torch.arange(ITEMS)))
    all_scores = scores(make(name, data), *new_items())
    assert (all_scores[4] == 0).all()
    assert (np.abs(all_scores[[0, 1, 2]]).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize("name", CLOSED)
def test_scores_do_not_depend_on_the_order_of_modalities(name):
    data, new, mask = make_data(), *new_items()
    names = ("image", "text")
    reordered = dataclasses.replace(
        data,
        modalities=names,
        features={n: data.features[n] for n in names},
        mask=data.mask[:, [1, 0]],
    )
    expected = scores(make(name), new, mask)
    reordered_scores = scores(make(name, reordered), {n: new[n] for n in names}, mask[:, [1, 0]])
    np.testing.assert_allclose(reordered_scores, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in CLOSED),
        ("linmap", {"per_pattern": True}),
        *(("graph_imputation", {"diffusion": name}) for name in DIFFUSIONS),
    ],
)
def test_hidden_cells_change_no_score(name, options):
    data, (new, mask) = make_data(), new_items()
    expected = scores(make(name, data, **options), new, mask)
    features, hidden = (
        {key: torch.where(known[:, [m]], x, 1e9) for m, (key, x) in enumerate(rows.items())}
        for rows, known in ((data.features, data.mask), (new, mask))
    )
    b = make(name, dataclasses.replace(data, features=features), **options)
    np.testing.assert_array_equal(scores(b, hidden, mask), expected)


def test_too_many_items_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(closed, "MAX_SCORES", 50)
    for name in set(CLOSED) - {"keep"}:
        with pytest.raises(DataError, match="too many for a closed form"):
            scores(make(name), *new_items())


# --- networks -------------------------------------------------------------------------------------


def test_aldi_loss_matches_numpy():
    data = make_data()
    b = make(
        "aldi", ranking_weight=0.6, identification_weight=0.3, rating_weight=0.2, l2=0.01, hidden=9
    )
    factors, a, x = make_factors(data), arrays(b), content_by_hand(data)
    p, q = factors.users.numpy(), factors.items.numpy()

    def tower(side, v):
        return linear(
            a, f"{side}.3", np.tanh(batch_norm(a, f"{side}.1", linear(a, f"{side}.0", v), eps=1e-5))
        )

    u, (g_i, g_j) = tower("user", p[U]), np.split(tower("item", x[np.concatenate([POS, NEG])]), 2)

    def bce(logit, target):
        chance = 1 / (1 + np.exp(-target))
        return (softplus(logit) - chance * logit).mean()

    s_i, s_j, t_i, t_j = (
        (v * w).sum(1) for v, w in ((u, g_i), (u, g_j), (p[U], q[POS]), (p[U], q[NEG]))
    )
    identification = [
        (v * v).sum(1) - np.mean([[one @ other for other in w] for one in v], axis=1)
        for v, w in ((g_i, g_j), (q[POS], q[NEG]))
    ]
    expected = (
        softplus(s_j - s_i).mean() + 0.6 * bce(s_i - s_j, t_i - t_j) + 0.3 * bce(*identification)
    )
    expected += 0.2 * (np.abs(t_i - s_i) + np.abs(t_j - s_j)).mean()
    expected += 0.005 * sum(
        (a[f"{n}.weight"] ** 2).sum() for n in ("user.0", "user.3", "item.0", "item.3")
    )
    assert b.loss(U, POS, NEG).item() == pytest.approx(expected, rel=1e-9)


def test_aldi_scores_a_new_item_by_the_student_network():
    data, b = make_data(), make("aldi", hidden=9, batch_size=7)
    assert b.train_epoch(0)["loss"] > 0  # The last batch is smaller.
    new, mask = new_items()
    a, p = arrays(b), make_factors(data).users.numpy()
    rows = b.content({name: x.clone() for name, x in new.items()}, mask).numpy()

    def tower(side, v):
        return linear(
            a,
            f"{side}.3",
            np.tanh(running_norm(a, f"{side}.1", linear(a, f"{side}.0", v), eps=1e-5)),
        )

    np.testing.assert_allclose(
        scores(b, new, mask), tower("user", p) @ tower("item", rows).T, rtol=1e-8
    )
    assert make("aldi", batch_size=1).train_epoch(0) == {"loss": 0.0}


def test_sibrar_loss_matches_numpy():
    data = make_data()
    b = make("sibrar", contrast_weight=0.2, tau=0.7, width=5, layers=2, num_negatives=2)
    a, x = arrays(b), content_by_hand(data)
    parts, r = np.split(x, [7], axis=1), matrix(data)
    users, items = (t[:4] for t in data.pairs)
    candidates = torch.stack([items, (items + 3) % ITEMS, (items + 7) % ITEMS], dim=1)
    # Modality 2 stands for the users who have the item.
    drawn = torch.tensor(
        [
            [[0, 2], [2, 0], [0, 1]],
            [[2, 1], [0, 2], [1, 2]],
            [[1, 0], [2, 1], [0, 2]],
            [[2, 0], [1, 0], [2, 1]],
        ]
    )
    pre_activations = np.zeros((4, 3, 2, 5))
    for row in range(4):
        for slot in range(3):
            i = candidates[row, slot]
            for draw in range(2):
                m = int(drawn[row, slot, draw])
                if m < 2:
                    pre_activations[row, slot, draw] = linear(a, f"maps.{m}", parts[m][i])
                else:
                    item_users = r[:, i].copy()
                    item_users[users[row]] *= slot > 0  # Remove the user of the pair.
                    pre_activations[row, slot, draw] = linear(a, "takers", item_users)
    h = linear(a, "branch.0", np.maximum(pre_activations, 0).reshape(24, 5))
    e = linear(a, "branch.3", np.maximum(batch_norm(a, "branch.1", h, eps=1e-5), 0)).reshape(
        4, 3, 2, -1
    )
    s = (a["user.weight"][users][:, None] * e.mean(2)).sum(2)
    expected = softplus(s[:, 1:] - s[:, :1]).mean()
    for row in range(4):
        products = e[row, :, 0] @ e[row, :, 1].T / 0.7
        for logits in (products, products.T):
            expected += (
                0.2
                * np.mean([np.log(np.exp(logits[k]).sum()) - logits[k, k] for k in range(3)])
                / 4
            )
    assert b.loss(users, candidates, drawn).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("contrast_weight", [0.0, 0.1])
def test_sibrar_scores_a_new_item_by_the_mean_over_its_modalities(contrast_weight):
    b = make("sibrar", contrast_weight=contrast_weight, width=5)
    b.train_epoch(0)
    new, mask = new_items()
    a = arrays(b)
    parts = []
    for m, x in enumerate(new.values()):
        h = linear(
            a, "branch.0", np.maximum(linear(a, f"maps.{m}", unit(x.nan_to_num(1).numpy())), 0)
        )
        parts.append(linear(a, "branch.3", np.maximum(running_norm(a, "branch.1", h, eps=1e-5), 0)))
    v = np.stack(
        [np.mean([parts[m][c] for m in np.flatnonzero(mask[c].numpy())], axis=0) for c in range(5)]
    )
    np.testing.assert_allclose(scores(b, new, mask), a["user.weight"] @ v.T, rtol=1e-8)


def test_sibrar_without_the_contrast_samples_one_modality(monkeypatch):
    b = make("sibrar", num_negatives=3, batch_size=16, contrast_weight=0.0)
    seen, original = set(), type(b).loss

    def record(self, users, items, drawn):
        seen.add((drawn.shape[2], *drawn.unique().tolist()))
        return original(self, users, items, drawn)

    monkeypatch.setattr(type(b), "loss", record)
    b.train_epoch(0)
    assert {shape[0] for shape in seen} == {1}
    assert {m for shape in seen for m in shape[1:]} == {0, 1, 2}


def test_sibrar_samples_two_different_modalities_that_an_item_has(monkeypatch):
    data, b = make_data(), make("sibrar", num_negatives=3, batch_size=16, contrast_weight=0.1)
    seen, original = [], type(b).loss

    def record(self, users, items, drawn):
        seen.append((items, drawn))
        return original(self, users, items, drawn)

    monkeypatch.setattr(type(b), "loss", record)
    b.train_epoch(0)
    has = torch.cat([data.mask, torch.ones(ITEMS, 1, dtype=torch.bool)], dim=1)
    for items, drawn in seen:
        assert (drawn[..., 0] != drawn[..., 1]).all()
        assert has[items[:, :, None], drawn].all()
    assert {int(v) for _, drawn in seen for v in drawn.unique()} == {0, 1, 2}


def info_nce(a, b, tau):
    products = unit(a) @ unit(b).T / tau
    return np.mean([np.log(np.exp(row).sum()) - row[k] for k, row in enumerate(products)])


def test_i3mrec_loss_matches_numpy():
    options = {
        "penalty_weight": 3.0,
        "contrast_weight": 0.2,
        "bottleneck_weight": 0.3,
        "tau": 0.6,
        "l2": 0.05,
        "dropout": 0.0,
    }
    data, b = make_data(), make("i3mrec", **options)
    a, x, known = arrays(b), content_by_hand(data), data.mask.numpy()
    parts, d = np.split(x, [7], axis=1), a["user.weight"].shape[1]
    mapped = [linear(a, f"maps.{m}", part) * known[:, [m]] for m, part in enumerate(parts)]
    single = np.stack([unit(z) for z in mapped], axis=1)
    users, items = (t.numpy() for t in data.pairs)
    adjacency = np.zeros((USERS + ITEMS,) * 2)
    adjacency[users, USERS + items] = adjacency[USERS + items, users] = 1
    root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    walk = root[:, None] * adjacency * root
    # Users: p + mean over the two modalities of the propagated vectors u_m.
    u = a["user.weight"].copy()
    for z in mapped:
        layers = [unit(np.concatenate([a["user.weight"], z]))]
        for _ in range(3):
            layers.append(walk @ layers[-1])
        u += np.mean(layers, axis=0)[:USERS] / 2

    def view(kept, divisor):
        return np.tanh((kept[:, :, None] * single).sum(1) / divisor @ a["mix.weight"].T)

    t = view(known, np.maximum(known.sum(1, keepdims=True), 1))
    expected = softplus((u[U] * (t[NEG] - t[POS])).sum(1)).mean()
    # One BPR risk per environment, over the triples whose items both have the modality.
    risks = []
    for m in range(2):
        both_known = known[POS, m] & known[NEG, m]
        risks.append(softplus((u[U] * (single[NEG, m] - single[POS, m])).sum(1))[both_known].mean())
    expected += sum(risks) + 3.0 * np.var(risks, ddof=1)
    anchors = np.unique(POS)
    for mask_a in ([1, 0], [0, 1], [1, 1]):
        for mask_b in ([1, 0], [0, 1], [1, 1]):
            kept = [known & np.array(mask, dtype=bool) for mask in (mask_a, mask_b)]
            rows = [i for i in anchors if kept[0][i].any() and kept[1][i].any()]
            if mask_a != mask_b:
                expected += 0.2 * info_nce(view(kept[0], 2)[rows], view(kept[1], 2)[rows], 0.6)
    # CLUB: log-likelihood of an item's own T minus the mean over all T of the batch.
    bounds = []
    for m, part in enumerate(parts):
        out = linear(a, f"estimators.{m}.2", np.maximum(linear(a, f"estimators.{m}.0", part), 0))
        mean, log_var = out[:, :d], np.tanh(out[:, d:])
        gaps = []
        for i in [i for i in POS.tolist() if known[i, m]]:

            def log_q(value, i=i, mean=mean, log_var=log_var):
                return -((mean[i] - value) ** 2 / np.exp(log_var[i]) / 2).sum()

            gaps.append(log_q(t[i]) - np.mean([log_q(t[j]) for j in POS.tolist()]))
        bounds.append(np.mean(gaps))
    expected += 0.3 * np.mean(bounds)
    expected += (
        0.05
        * ((a["user.weight"][U] ** 2).sum() + (t[POS] ** 2).sum() + (t[NEG] ** 2).sum())
        / 2
        / 4
    )
    b.net.eval()
    assert b.loss(U, POS, NEG, torch.from_numpy(anchors)).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_an_environment_of_i3mrec_without_a_triple_has_no_risk():
    data = make_data(missing=False)
    known = data.mask.clone()
    known[1:, 1] = False
    data = dataclasses.replace(data, mask=known)
    common = {"contrast_weight": 0.0, "bottleneck_weight": 0.0, "dropout": 0.0}
    losses = [
        make("i3mrec", data, penalty_weight=w, **common).loss(U, POS, NEG, POS).item()
        for w in (0.0, 100.0)
    ]
    assert losses[0] == losses[1] > 0


def test_i3mrec_scores_a_new_item_by_the_modalities_that_it_has():
    data, b = make_data(), make("i3mrec")
    new, _ = new_items()
    a = arrays(b)
    image_scores = scores(
        b, {k: x.nan_to_num(0.1) for k, x in new.items()}, torch.tensor([[False, True]] * 5)
    )
    rows = unit({k: x.nan_to_num(0.1) for k, x in new.items()}["image"].numpy())
    v = np.tanh(unit(linear(a, "maps.1", rows)) @ a["mix.weight"].T)
    known = data.mask[:, :, None]
    u = b.users(
        [f(x) * known[:, m] for m, (f, x) in enumerate(zip(b.net["maps"], b._x, strict=True))]
    )
    np.testing.assert_allclose(image_scores, u.detach().numpy() @ v.T, rtol=1e-9)


def test_dgmrec_loss_matches_numpy():
    options = {"contrast_weight": 0.2, "tau_general": 0.7, "tau": 0.4, "translation_weight": 0.3}
    options |= {"l2": 0.05, "fused_l2": 0.07, "neighbours": 4, "layers": 2}
    data, b = make_data(), make("dgmrec", **options)
    a, x, known = arrays(b), content_by_hand(data), data.mask.numpy()
    parts, r = np.split(x, [7], axis=1), matrix(data)
    size, users, items = USERS + ITEMS, *(t.numpy() for t in data.pairs)
    adjacency = np.zeros((size, size))
    adjacency[users, USERS + items] = adjacency[USERS + items, users] = 1
    root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    walk = root[:, None] * adjacency * root
    layers = [np.concatenate([a["user.weight"], a["item.weight"]])]
    for _ in range(3):
        layers.append(walk @ layers[-1])
    ids_u, ids_i = np.split(np.mean(layers, axis=0), [USERS])

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    general, shared, specific = [], [], []
    for m, part in enumerate(parts):
        taste = (r / r.sum(0)).T @ np.tanh(linear(a, f"taste.{m}", a["user.weight"]))
        g = sigmoid(linear(a, "shared", np.tanh(linear(a, f"maps.{m}", part)))) * known[:, [m]]
        q = sigmoid(linear(a, f"own.{m}", part)) * known[:, [m]]
        # S_m, with an edge to itself for each item that lacks the modality.
        graph = symmetric(graph_by_hand(part, part, known[:, m], known[:, m], 4))
        graph += np.diag((~known[:, m]).astype(float))
        general.append(g)
        shared.append(graph @ graph @ (taste * g))
        specific.append(graph @ graph @ (taste * q))

    def translated(m, rows):
        other_part = np.where(known[:, [1 - m]], rows[1 - m], 0)
        return linear(a, f"translate.{m}.2", np.tanh(linear(a, f"translate.{m}.0", other_part)))

    translations = [translated(m, shared) for m in range(2)]
    shared = [
        np.where(known[:, [m]], s, t)
        for m, (s, t) in enumerate(zip(shared, translations, strict=True))
    ]
    of_users = r / r.sum(1, keepdims=True)
    shared_u, specific_u = ([of_users @ v for v in part] for part in (shared, specific))
    fused_i, fused_u = (
        (sum(s) / 2 + sum(q)) / 3 for s, q in ((shared, specific), (shared_u, specific_u))
    )
    u, v = ids_u + fused_u, ids_i + fused_i
    expected = softplus((u[U] * (v[NEG] - v[POS])).sum(1)).mean()
    contrasted = np.array([0, 2, 3])
    # Contrasts of users alone, or items alone, use distinct rows; those of pairs use all pairs.
    distinct_users = np.unique(U.numpy()[contrasted])
    distinct_items = np.unique(POS.numpy()[contrasted])
    complete = [i for i in distinct_items if known[i].all()]
    contrasts = info_nce(general[1][complete], general[0][complete], 0.7) + info_nce(
        shared_u[1][distinct_users], shared_u[0][distinct_users], 0.7
    )
    for p, q in (
        (ids_u, ids_i),
        (sum(shared_u), sum(shared)),
        *zip(specific_u, specific, strict=True),
    ):
        contrasts += info_nce(p[U.numpy()[contrasted]], q[POS.numpy()[contrasted]], 0.4)
    contrasts += info_nce(ids_i[distinct_items], sum(shared)[distinct_items], 0.4) + info_nce(
        ids_u[distinct_users], sum(shared_u)[distinct_users], 0.4
    )
    expected += 0.2 * contrasts
    expected += 0.3 * sum(
        ((t - s)[complete] ** 2).mean() for t, s in zip(translations, shared, strict=True)
    )
    for weight, left, right in (
        (0.05, a["user.weight"], a["item.weight"]),
        (0.07, fused_u, fused_i),
    ):
        expected += (
            weight
            * ((left[U] ** 2).sum() + (right[POS] ** 2).sum() + (right[NEG] ** 2).sum())
            / 2
            / 4
        )
    assert b.loss(U, POS, NEG, torch.from_numpy(contrasted)).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_dgmrec_scores_a_new_item_by_its_nearest_warm_items():
    data, b = make_data(), make("dgmrec", neighbours=3)
    new, mask = new_items()
    y, x, known = b.content(new, mask).numpy(), content_by_hand(data), data.mask.numpy()
    with torch.no_grad():
        _, shared, specific = b._items()
    neighbour_means: list[list[np.ndarray]] = [[], []]
    for m, (new_part, warm_part) in enumerate(
        zip(np.split(y, [7], axis=1), np.split(x, [7], axis=1), strict=True)
    ):
        graph = graph_by_hand(new_part, warm_part, mask[:, m].numpy(), known[:, m], 3)
        total = graph.sum(1, keepdims=True)
        graph = np.where(total > 0, graph / np.where(total > 0, total, 1), 0)
        for rows, means in zip((shared, specific), neighbour_means, strict=True):
            means.append(graph @ rows[m].numpy())
    a = arrays(b)
    # Missing shared parts are translated from the other modality.
    for m in range(2):
        other = linear(
            a, f"translate.{m}.2", np.tanh(linear(a, f"translate.{m}.0", neighbour_means[0][1 - m]))
        )
        neighbour_means[0][m] = np.where(mask[:, [m]].numpy(), neighbour_means[0][m], other)
    v = (
        (neighbour_means[0][0] + neighbour_means[0][1]) / 2
        + neighbour_means[1][0]
        + neighbour_means[1][1]
    ) / 3
    r = matrix(data)
    of_users = r / r.sum(1, keepdims=True)
    fused = (
        sum(of_users @ s.numpy() for s in shared) / 2 + sum(of_users @ s.numpy() for s in specific)
    ) / 3
    with torch.no_grad():
        u = b._ids()[0].numpy() + fused
    np.testing.assert_allclose(scores(b, new, mask), u @ v.T, rtol=1e-8, atol=1e-10)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_give_the_same_scores_on_cpu_and_gpu(name):
    data, (new, mask) = make_data(), new_items()
    gpu_data = dataclasses.replace(
        data,
        features={name: x.cuda() for name, x in data.features.items()},
        mask=data.mask.cuda(),
        rows=data.rows.to("cuda"),
    )
    score = make(name, gpu_data).scorer({name: x.cuda() for name, x in new.items()}, mask.cuda())
    gpu_scores = score(torch.arange(USERS, device="cuda")).cpu().numpy()
    np.testing.assert_allclose(
        gpu_scores, scores(make(name, data), new, mask), rtol=1e-7, atol=1e-9
    )
