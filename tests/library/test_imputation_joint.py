"""Laws of the joint imputers and of learned tokens, against loops, scikit-learn and likelihoods."""

import itertools
import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn import impute
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from invmod import (
    KNNImputer,
    LearnedTokens,
    MeanImputer,
    PPCAImputer,
    RidgeImputer,
    ZeroImputer,
    imputation,
)
from tests.strategies import NAN, generators, gradients, laws, normal, random_mask, seeded

NAMES = ("text", "image", "audio")
DIMS = {"text": (3,), "image": (2, 2), "audio": (1,)}
JOINT = {
    "knn": lambda **o: KNNImputer(NAMES, num_neighbours=3, **o),
    "ridge": lambda **o: RidgeImputer(NAMES, ridge=0.5, **o),
    "ppca": lambda **o: PPCAImputer(NAMES, num_components=2, max_iterations=8, **o),
    "ppca of shared noise": lambda **o: PPCAImputer(
        NAMES, num_components=2, noise="shared", max_iterations=8, **o
    ),
}
ALL = JOINT | {"zero": lambda: ZeroImputer(NAMES), "mean": lambda: MeanImputer(NAMES)}


def draw(generator, num_rows, share=0.6, dtype=torch.float64):
    """Return correlated features with NaN in masked cells, and the mask.

    The first three rows are complete.
    """
    hidden = normal(generator, num_rows, 2)
    mask = random_mask(generator, num_rows, 3, share)
    mask[:3] = True
    features = {}
    for index, (name, dims) in enumerate(DIMS.items()):
        flat = (
            hidden @ normal(generator, 2, math.prod(dims))
            + 0.3 * normal(generator, num_rows, math.prod(dims))
            + 2
        )
        features[name] = flat.reshape(num_rows, *dims).to(dtype)
        features[name][~mask[:, index]] = NAN
    return features, mask


def table(features, mask):
    """Return all entries as a table (N, D) with NaN where missing, and each column's modality."""
    x = np.concatenate([features[name].reshape(len(mask), -1).numpy() for name in NAMES], axis=1)
    modality = np.repeat(np.arange(3), [math.prod(DIMS[name]) for name in NAMES])
    return np.where(mask.numpy()[:, modality], x, NAN), modality


def flat(filled):
    return np.concatenate(
        [filled[name].detach().reshape(len(filled[name]), -1).numpy() for name in NAMES], axis=1
    )


# --- laws of all joint imputers


@pytest.mark.parametrize("kind", JOINT)
@pytest.mark.parametrize("standardize", [False, True])
@laws
@given(generators(), st.integers(3, 10))
def test_missing_cells_are_filled_and_observed_cells_stay_identical(
    kind, standardize, generator, num_rows
):
    features, mask = draw(generator, num_rows)
    kept = {name: x.clone() for name, x in features.items()}
    filled, usable = JOINT[kind](standardize=standardize).fit(features, mask)(features, mask)
    assert usable.all()
    assert usable.shape == mask.shape
    assert list(filled) == list(NAMES)
    for index, name in enumerate(NAMES):
        assert filled[name].shape == features[name].shape
        assert filled[name].dtype == features[name].dtype
        assert filled[name].isfinite().all()
        assert torch.equal(filled[name][mask[:, index]], features[name][mask[:, index]])
        assert torch.equal(features[name].nan_to_num(7.0), kept[name].nan_to_num(7.0))


@pytest.mark.parametrize("kind", JOINT)
def test_rows_outside_training_and_masked_cells_do_not_change_the_fit(kind):
    features, mask = draw(seeded(0), 12)
    rows = torch.arange(6)
    fitted = JOINT[kind]().fit(features, mask, rows).state_dict()
    changed, other = {name: x.clone() for name, x in features.items()}, mask.clone()
    for index, name in enumerate(NAMES):
        changed[name][6:] = 1e9
        changed[name][~mask[:, index]] = -7e8
    other[6:] = ~other[6:]
    again = JOINT[kind]().fit(changed, other, rows).state_dict()
    assert fitted.keys() == again.keys()
    assert all(torch.equal(fitted[key], again[key]) for key in fitted)


@pytest.mark.parametrize("kind", JOINT)
def test_a_row_without_modalities_gets_the_mean_of_the_training_rows(kind):
    features, mask = draw(seeded(1), 12)
    imputer = JOINT[kind]().fit(features, mask)
    filled, _ = imputer(dict.fromkeys(NAMES), torch.zeros(2, 3, dtype=torch.bool))
    nothing, _ = imputer(
        {name: x[:2] for name, x in features.items()}, torch.zeros(2, 3, dtype=torch.bool)
    )
    for index, name in enumerate(NAMES):
        assert filled[name].dtype == torch.get_default_dtype()
        torch.testing.assert_close(filled[name].double(), nothing[name], rtol=1e-6, atol=1e-6)
        if not kind.startswith("ppca"):  # the mean of PPCA is a fitted parameter
            expected = features[name][mask[:, index]].mean(dim=0).expand_as(nothing[name])
            torch.testing.assert_close(nothing[name], expected)


@pytest.mark.parametrize("kind", JOINT)
def test_an_empty_batch_and_single_rows_work(kind):
    features, mask = draw(seeded(1), 12)
    imputer = JOINT[kind]().fit(features, mask)
    empty, usable = imputer({name: x[:0] for name, x in features.items()}, mask[:0])
    assert usable.shape == (0, 3)
    assert all(empty[name].shape == (0, *DIMS[name]) for name in NAMES)
    whole, _ = imputer(features, mask)
    for n in range(12):
        one, _ = imputer({name: x[n : n + 1] for name, x in features.items()}, mask[n : n + 1])
        for name in NAMES:
            torch.testing.assert_close(one[name], whole[name][n : n + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", JOINT)
def test_standardized_imputers_are_invariant_to_units(kind):
    features, mask = draw(seeded(2), 14)
    factor = {
        "text": torch.tensor([1e3, 1.0, 1e-3], dtype=torch.float64),
        "image": 50.0,
        "audio": 1.0,
    }
    scaled = {name: x * factor[name] + 5 for name, x in features.items()}
    plain, _ = JOINT[kind](standardize=True).fit(features, mask)(features, mask)
    other, _ = JOINT[kind](standardize=True).fit(scaled, mask)(scaled, mask)
    for name in NAMES:
        torch.testing.assert_close(
            other[name], plain[name] * factor[name] + 5, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("kind", JOINT)
def test_standardize_uses_observed_training_rows_only(kind):
    """Standardizing the features by hand, and undoing it after, equals `standardize`."""
    features, mask = draw(seeded(3), 14)
    rows = torch.arange(9)
    inside, _ = JOINT[kind](standardize=True).fit(features, mask, rows)(features, mask)
    centre, scale, by_hand = {}, {}, {}
    for index, name in enumerate(NAMES):
        observed = features[name][rows[mask[rows, index]]]
        centre[name], scale[name] = observed.mean(dim=0), observed.std(dim=0, correction=0)
        by_hand[name] = (features[name] - centre[name]) / scale[name]
    outside, _ = JOINT[kind](standardize=False).fit(by_hand, mask, rows)(by_hand, mask)
    for name in NAMES:
        torch.testing.assert_close(
            inside[name], outside[name] * scale[name] + centre[name], rtol=1e-7, atol=1e-7
        )


@pytest.mark.parametrize("kind", JOINT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_state_is_float64_for_every_dtype_of_features(kind, dtype):
    features, mask = draw(seeded(4), 12, dtype=dtype)
    imputer = JOINT[kind]().fit(features, mask)
    buffers = {name: x.dtype for name, x in imputer.named_buffers() if name != "modality_names"}
    assert set(buffers.values()) == {torch.float64}
    filled, _ = imputer(features, mask)
    wide = {name: x.double() for name, x in features.items()}
    expected, _ = JOINT[kind]().fit(wide, mask)(wide, mask)
    for name in NAMES:
        assert filled[name].dtype == dtype
        assert torch.equal(filled[name], expected[name].to(dtype))


@pytest.mark.parametrize("kind", JOINT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_casting_the_surrounding_model_does_not_change_fills(kind, dtype):
    features, mask = draw(seeded(5), 12)
    imputer = JOINT[kind]().fit(features, mask)
    expected, _ = imputer(features, mask)
    filled, _ = torch.nn.ModuleList([imputer]).to(dtype)[0](features, mask)
    for name in NAMES:
        assert torch.equal(filled[name], expected[name])


@pytest.mark.parametrize("kind", JOINT)
def test_a_constant_entry_is_filled_with_its_constant(kind):
    features, mask = draw(seeded(5), 10)
    features["audio"] = torch.where(mask[:, 2:], 4.0, NAN).double()
    filled, _ = JOINT[kind]().fit(features, mask)(features, mask)
    torch.testing.assert_close(
        filled["audio"], torch.full((10, 1), 4.0).double(), rtol=1e-6, atol=1e-6
    )


# --- nearest neighbours


def knn_reference(x, modality, donors, k):
    """Impute in a loop over rows, modalities and donors."""
    filled = x.copy()
    observed = np.array([[not np.isnan(row[modality == m]).any() for m in range(3)] for row in x])
    for n, row in enumerate(x):
        for m in range(3):
            if observed[n, m]:
                continue
            distances = []
            for r in donors:
                shared = np.isin(
                    modality, [j for j in range(3) if observed[n, j] and observed[r, j]]
                )
                if observed[r, m] and shared.any():
                    distances.append(
                        (len(modality) / shared.sum() * ((row - x[r])[shared] ** 2).sum(), r)
                    )
            chosen = [r for _, r in sorted(distances)[:k]] or [r for r in donors if observed[r, m]]
            filled[n, modality == m] = x[chosen][:, modality == m].mean(axis=0)
    return filled


@laws
@given(generators(), st.integers(3, 12), st.integers(1, 6))
def test_neighbours_equal_a_loop(generator, num_rows, k):
    features, mask = draw(generator, num_rows, 0.5)
    donors = torch.arange((num_rows + 3) // 2)
    x, modality = table(features, mask)
    imputer = KNNImputer(NAMES, num_neighbours=k, standardize=False).fit(features, mask, donors)
    np.testing.assert_allclose(
        flat(imputer(features, mask)[0]), knn_reference(x, modality, donors.tolist(), k), atol=1e-9
    )


def test_neighbours_equal_those_of_scikit_learn():
    features, mask = draw(seeded(0), 40, 0.7)
    mask[~mask.any(dim=1), 0] = True
    features["text"] = features["text"].nan_to_num()
    x, _ = table(features, mask)
    ours = KNNImputer(NAMES, num_neighbours=4, standardize=False).fit(features, mask)
    theirs = impute.KNNImputer(n_neighbors=4).fit(x)
    rows = ~mask.all(dim=1).numpy()
    np.testing.assert_allclose(
        flat(ours(features, mask)[0])[rows], theirs.transform(x)[rows], atol=1e-9
    )


def test_ties_go_to_the_lower_row_and_the_block_size_does_not_matter(monkeypatch):
    features = {
        "a": torch.tensor([[0.0], [2.0], [1.0], [1.0]]),
        "b": torch.tensor([[10.0], [20.0], [NAN], [NAN]]),
    }
    mask = torch.tensor([[True, True], [True, True], [True, False], [True, False]])
    imputer = KNNImputer(["a", "b"], num_neighbours=1).fit(features, mask)
    assert imputer(features, mask)[0]["b"][2:].tolist() == [[10.0], [10.0]]
    features, mask = draw(seeded(1), 11)
    whole = KNNImputer(NAMES).fit(features, mask)(features, mask)[0]
    monkeypatch.setattr(imputation.neighbours, "PAIRS_AT_ONCE", 25)
    blocks = KNNImputer(NAMES).fit(features, mask)(features, mask)[0]
    for name in NAMES:
        torch.testing.assert_close(blocks[name], whole[name])


# --- ridge


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_ridge_equals_scikit_learn_on_rows_with_target_and_sources(ridge):
    features, mask = draw(seeded(0), 60)
    x, modality = table(features, mask)
    filled = flat(
        RidgeImputer(NAMES, ridge=ridge, standardize=False).fit(features, mask)(features, mask)[0]
    )
    observed = mask.numpy()
    tried = 0
    for n in np.flatnonzero(~observed.all(axis=1) & observed.any(axis=1)):
        sources = np.isin(modality, np.flatnonzero(observed[n]))
        for m in np.flatnonzero(~observed[n]):
            rows = observed[:, m] & observed[:, observed[n]].all(axis=1)
            model = Ridge(alpha=ridge, solver="svd").fit(
                x[rows][:, sources], x[rows][:, modality == m]
            )
            expected = model.predict(x[n : n + 1, sources]).reshape(-1)
            np.testing.assert_allclose(filled[n, modality == m], expected, atol=1e-7)
            tried += 1
    assert tried > 20


def test_the_rarest_source_is_dropped_if_no_training_row_has_all():
    """b is a function of a in three rows and of c in two rows; no row has all three."""
    a = torch.tensor([[0.0], [1.0], [2.0], [NAN], [NAN], [3.0]])
    c = torch.tensor([[NAN], [NAN], [NAN], [0.0], [1.0], [5.0]])
    b = torch.tensor([[1.0], [3.0], [5.0], [10.0], [20.0], [NAN]])
    features = {"a": a, "b": b, "c": c}
    mask = torch.cat([~a.isnan(), ~b.isnan(), ~c.isnan()], dim=1)
    imputer = RidgeImputer(["a", "b", "c"], ridge=0.0, standardize=False).fit(features, mask)
    torch.testing.assert_close(imputer(features, mask)[0]["b"][5], torch.tensor([7.0]))
    alone = mask.clone()
    alone[5, 0] = False
    torch.testing.assert_close(imputer(features, alone)[0]["b"][5], torch.tensor([60.0]))
    apart = RidgeImputer(["a", "b"], ridge=1.0).fit(
        {"a": a[[0, 1, 3]], "b": b[[0, 1, 3]]},
        torch.tensor([[True, False], [True, False], [False, True]]),
    )
    filled, _ = apart(
        {"a": torch.tensor([[5.0]]), "b": torch.tensor([[NAN]])}, torch.tensor([[True, False]])
    )
    assert filled["b"].item() == 10.0  # no training row has both, so the fill is the mean


def test_information_in_two_modalities_is_not_counted_twice():
    features, mask = draw(seeded(3), 40, 1.0)
    features["image"] = torch.cat([features["text"], features["text"][:, :1]], dim=1).reshape(
        -1, 2, 2
    )
    hidden = mask.clone()
    hidden[:, 2] = False
    without_copy = hidden.clone()
    without_copy[:, 1] = False
    imputer = RidgeImputer(NAMES, ridge=1e-8).fit(features, mask)
    both, alone = (imputer(features, m)[0]["audio"] for m in (hidden, without_copy))
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-4)


# --- probabilistic PCA


def log_likelihood(x, modality, loadings, mean, variances):
    """The log density of the observed entries, from the covariance matrix of each row's entries."""
    total = 0.0
    for row in x:
        observed = ~np.isnan(row)
        if observed.any():
            w = loadings[observed]
            covariance = w @ w.T + np.diag(variances[modality[observed]])
            deviation = row[observed] - mean[observed]
            total -= 0.5 * (
                observed.sum() * math.log(2 * math.pi)
                + np.linalg.slogdet(covariance)[1]
                + deviation @ np.linalg.solve(covariance, deviation)
            )
    return total


def parameters(imputer):
    return [getattr(imputer, name).numpy() for name in ("loadings", "mean", "variances")]


@pytest.mark.parametrize("noise", ["modality", "shared"])
@laws
@given(generators(), st.integers(4, 15))
def test_the_likelihood_of_observed_entries_never_decreases(noise, generator, num_rows):
    features, mask = draw(generator, num_rows)
    imputer = PPCAImputer(
        NAMES, num_components=2, noise=noise, tolerance=0.0, max_iterations=15
    ).fit(features, mask)
    steps = imputer.log_likelihoods
    # The tolerance covers rounding, which is largest at the smallest noise.
    assert all(b >= a - 1e-6 * (1 + abs(a)) for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("noise", ["modality", "shared"])
def test_likelihood_and_fills_equal_those_of_the_gaussian(noise):
    """Compare with the conditional mean of the joint covariance, row by row."""
    features, mask = draw(seeded(0), 20)
    x, modality = table(features, mask)
    imputer = PPCAImputer(
        NAMES, num_components=2, noise=noise, standardize=False, max_iterations=7, tolerance=0.0
    ).fit(features, mask)
    assert len(imputer.log_likelihoods) == 8
    loadings, mean, variances = parameters(imputer)
    centre = np.concatenate([getattr(imputer, f"centre_{m}").reshape(-1).numpy() for m in range(3)])
    rows = mask.any(dim=1).sum().item()
    expected = log_likelihood(x - centre, modality, loadings, mean, variances)
    assert imputer.log_likelihoods[-1] * rows == pytest.approx(expected)
    covariance = loadings @ loadings.T + np.diag(variances[modality])
    filled = flat(imputer(features, mask)[0])
    for n, row in enumerate(x - centre):
        observed = ~np.isnan(row)
        conditional = mean + covariance[:, observed] @ np.linalg.solve(
            covariance[np.ix_(observed, observed)], row[observed] - mean[observed]
        )
        np.testing.assert_allclose(
            filled[n, ~observed], (conditional + centre)[~observed], atol=1e-8
        )
    if noise == "shared":
        assert len(set(variances.tolist())) == 1


def test_on_complete_rows_the_fit_is_probabilistic_pca():
    features, mask = draw(seeded(1), 50, 1.0)
    x, _ = table(features, mask)
    imputer = PPCAImputer(NAMES, num_components=3, noise="shared", standardize=False).fit(
        features, mask
    )
    pca = PCA(n_components=3).fit(x)
    loadings, _, variances = parameters(imputer)
    n = len(x)
    np.testing.assert_allclose(
        loadings @ loadings.T + variances[0] * np.eye(8),
        pca.get_covariance() * (n - 1) / n,
        atol=1e-8,
    )
    assert len(imputer.log_likelihoods) <= 3
    assert imputer.log_likelihoods[0] == pytest.approx(
        log_likelihood(x - x.mean(axis=0), np.zeros(8, int), loadings, np.zeros(8), variances) / n
    )


def test_fills_recover_data_generated_from_factors():
    """With 40% of the cells missing, the errors are far smaller than those of the mean."""
    generator = seeded(6)
    hidden, mask = normal(generator, 400, 2), random_mask(generator, 400, 3, 0.6)
    mask[~mask.any(dim=1), 0] = True
    truth = {
        name: (hidden @ normal(generator, 2, math.prod(dims))).reshape(400, *dims)
        for name, dims in DIMS.items()
    }
    features = {name: x + 0.05 * normal(generator, *x.shape) for name, x in truth.items()}
    imputers = {
        "ppca": PPCAImputer(NAMES, num_components=2),
        "mean": MeanImputer(NAMES),
        "ridge": RidgeImputer(NAMES, ridge=0.1),
        "knn": KNNImputer(NAMES),
    }
    errors = {}
    for kind, imputer in imputers.items():
        filled, _ = imputer.fit(features, mask)(features, mask)
        errors[kind] = sum(
            float((filled[name] - truth[name])[~mask[:, m]].square().sum())
            for m, name in enumerate(NAMES)
        )
    assert errors["ppca"] < 0.35 * errors["mean"]
    assert errors["ridge"] < 0.5 * errors["mean"]
    assert errors["knn"] < 0.6 * errors["mean"]
    assert errors["ppca"] <= 1.05 * min(errors.values())


# --- saved and restored


@pytest.mark.parametrize("kind", ALL)
def test_imputers_are_restored_from_a_state_dict_and_from_safetensors(kind, tmp_path):
    features, mask = draw(seeded(2), 12)
    fitted = ALL[kind]().fit(features, mask)
    expected = fitted(features, mask)[0]
    path = tmp_path / "imputer.safetensors"
    fitted.save(path)
    fitted.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["imputer.safetensors"]
    for restored in (ALL[kind](), ALL[kind]().fit({n: x + 1 for n, x in features.items()}, mask)):
        restored.load_state_dict(fitted.state_dict())
        got = restored(features, mask)[0]
        assert all(torch.equal(got[name], expected[name]) for name in NAMES)
    got = ALL[kind]().load(path)(features, mask)[0]
    assert all(torch.equal(got[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize("kind", ALL)
def test_using_an_unfitted_imputer_is_an_error(kind, tmp_path):
    features, mask = draw(seeded(2), 5)
    with pytest.raises(RuntimeError, match=r"not fitted yet. Call `fit` with training rows first"):
        ALL[kind]()(features, mask)
    with pytest.raises(RuntimeError, match=r"\.save: not fitted yet"):
        ALL[kind]().save(tmp_path / "imputer.safetensors")
    assert not list(tmp_path.iterdir())
    ALL[kind]().load_state_dict({})  # a state without any of its keys leaves it unfitted


@pytest.mark.parametrize("kind", JOINT)
def test_a_damaged_state_is_an_error_with_a_reason(kind):
    features, mask = draw(seeded(2), 9)
    state = JOINT[kind]().fit(features, mask).state_dict()
    for name, value in state.items():
        if name.startswith("centre") or name == "modality_names":
            continue
        with pytest.raises(RuntimeError, match=f"{name}|of the state must have"):
            JOINT[kind]().load_state_dict(
                {**state, name: torch.zeros(*value.shape, 2, dtype=value.dtype)}
            )
        with pytest.raises(RuntimeError, match=rf"Missing key\(s\) in state_dict: \"{name}\""):
            JOINT[kind]().load_state_dict({key: v for key, v in state.items() if key != name})


def test_a_file_without_a_state_is_an_error(tmp_path):
    features, mask = draw(seeded(2), 9)
    path = tmp_path / "imputer.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"MeanImputer.load: the file .*imputer.safetensors does not exist"
    ):
        MeanImputer(NAMES).load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(
        ValueError, match=r"MeanImputer.load: .*imputer.safetensors is not a file that `save` wrote"
    ):
        MeanImputer(NAMES).load(path)
    MeanImputer(NAMES).fit(features, mask).save(path)
    with pytest.raises(
        ValueError, match=r"a state for the modalities \['text', 'image', 'audio'\], not \['a'\]"
    ):
        MeanImputer(["a"]).load(path)
    with pytest.raises(ValueError, match=r"(?s)KNNImputer.load: .* does not fit: .*fill_0"):
        KNNImputer(NAMES).load(path)


@pytest.mark.parametrize("kind", sorted(ALL))
def test_a_refused_load_leaves_the_imputer_as_it_was(kind, tmp_path):
    features, mask = draw(seeded(2), 12)
    others, other_mask = draw(seeded(3), 12)
    path = tmp_path / "imputer.safetensors"
    metadata = {"modalities": json.dumps(NAMES)}
    state = ALL[kind]().fit(others, other_mask).state_dict()
    tensors = {name: value.contiguous() for name, value in state.items()}
    save_file({**tensors, "one_too_many": torch.zeros(1)}, path, metadata=metadata)
    imputer = ALL[kind]().fit(features, mask)
    before = {name: value.clone() for name, value in imputer.state_dict().items()}
    filled = imputer(features, mask)[0]
    with pytest.raises(ValueError, match=r"(?s)does not fit: .*one_too_many"):
        imputer.load(path)
    after = imputer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = imputer(features, mask)[0]
    assert all(torch.equal(again[name], filled[name]) for name in NAMES)
    if kind == "mean":
        imputer.partial_fit(others, other_mask)  # The sums behind the means are there.


def test_the_error_without_safetensors_names_the_extra(tmp_path, monkeypatch):
    features, mask = draw(seeded(2), 9)
    fitted = MeanImputer(NAMES).fit(features, mask)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (fitted.save, fitted.load):
        with pytest.raises(ImportError, match=re.escape('pip install "invmod[io]"')):
            call(tmp_path / "imputer.safetensors")
    assert not list(tmp_path.iterdir())


# --- learned tokens


@pytest.mark.parametrize("per", ["modality", "pattern"])
@laws
@given(generators(), st.integers(0, 6))
def test_tokens_equal_a_loop_and_only_used_ones_get_a_gradient(per, generator, num_rows):
    tokens = LearnedTokens(DIMS, per=per).double()
    for index, name in enumerate(NAMES):
        token = getattr(tokens, f"token_{index}")
        assert token.shape == (8 if per == "pattern" else 1, *DIMS[name])
        assert (token == 0).all()
        token.data.copy_(normal(generator, *token.shape))
    mask = random_mask(generator, num_rows, 3)
    features = {name: normal(generator, num_rows, *dims) for name, dims in DIMS.items()}
    for index, name in enumerate(NAMES):
        features[name][~mask[:, index]] = NAN
        features[name].requires_grad_()
    filled, usable = tokens(features, mask)
    assert usable.all()
    for index, name in enumerate(NAMES):
        token, used = getattr(tokens, f"token_{index}"), set()
        for n in range(num_rows):
            code = (
                sum(int(available) << m for m, available in enumerate(mask[n]))
                if per == "pattern"
                else 0
            )
            if mask[n, index]:
                assert torch.equal(filled[name][n], features[name][n])
            else:
                assert torch.equal(filled[name][n], token[code])
                used.add(code)
        by_feature, by_token = gradients(filled[name], features[name], token)
        assert (by_feature[~mask[:, index]] == 0).all()
        assert {code for code, g in enumerate(by_token) if g.any()} == used


def test_tokens_fill_absent_modalities_and_other_dtypes(tmp_path):
    tokens = LearnedTokens({"a": (2,), "b": (1, 1)})
    torch.nn.init.constant_(tokens.token_1, 3.0)
    filled, _ = tokens(
        {"a": torch.ones(2, 2, dtype=torch.float16)}, torch.tensor([[True, False], [False, False]])
    )
    assert filled["a"].dtype == torch.float16
    assert filled["b"].tolist() == [[[3.0]], [[3.0]]]
    tokens.save(tmp_path / "tokens.safetensors")
    assert (
        LearnedTokens({"a": (2,), "b": (1, 1)}).load(tmp_path / "tokens.safetensors").token_1 == 3
    ).all()


def test_a_token_is_learned():
    generator, tokens = seeded(0), LearnedTokens({"a": (1,)})
    optimiser = torch.optim.SGD(tokens.parameters(), lr=0.5)
    mask = random_mask(generator, 64, 1, 0.5)
    for _ in range(20):
        filled, _ = tokens({"a": torch.zeros(64, 1)}, mask)
        loss = (filled["a"][~mask[:, 0]] - 2.5).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(tokens.token_0.detach(), torch.tensor([[2.5]]), rtol=1e-3, atol=1e-3)


# --- errors


HERE, GONE = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.bool)
ONE = {"a": torch.ones(3, 2)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: KNNImputer(["a"], num_neighbours=0),
            ValueError,
            "KNNImputer: `num_neighbours` must be at least 1, got 0",
        ),
        (
            lambda: KNNImputer(["a"], num_neighbours=1.5),
            TypeError,
            "KNNImputer: `num_neighbours` must be an int, got 1.5",
        ),
        (
            lambda: RidgeImputer(["a"], ridge=-1.0),
            ValueError,
            "RidgeImputer: `ridge` must be a finite number of at least 0, got -1.0",
        ),
        (
            lambda: RidgeImputer(["a"], ridge=math.inf),
            ValueError,
            "RidgeImputer: `ridge` must be a finite number of at least 0, got inf",
        ),
        (
            lambda: PPCAImputer(["a"], num_components=0),
            ValueError,
            "PPCAImputer: `num_components` must be at least 1",
        ),
        (
            lambda: PPCAImputer(["a"], num_components=1, noise="none"),
            ValueError,
            "`noise` must be 'modality' or 'shared', got 'none'",
        ),
        (
            lambda: PPCAImputer(["a"], num_components=1, tolerance=-1),
            ValueError,
            "`tolerance` must not be negative, got -1",
        ),
        (
            lambda: PPCAImputer(["a"], num_components=2).fit(ONE, HERE),
            ValueError,
            "PPCAImputer.fit: `num_components` must be below the 2 entries of a row, got 2",
        ),
        (
            lambda: KNNImputer(["a"]).fit({"a": torch.ones(3, 2).long()}, HERE),
            TypeError,
            "KNNImputer.fit: modality 'a' must be floating point, got torch.int64",
        ),
        (
            lambda: RidgeImputer(["a"]).fit(ONE, GONE),
            ValueError,
            "RidgeImputer.fit: modality 'a' is observed in none of the given rows",
        ),
        (
            lambda: KNNImputer(["a"]).fit({"a": torch.full((3, 2), NAN)}, HERE),
            ValueError,
            "KNNImputer.fit: modality 'a' has NaN or an infinity in a row that the mask marks as "
            "observed",
        ),
        (
            lambda: KNNImputer(["a"]).fit({}, HERE),
            KeyError,
            "KNNImputer.fit: `features` lacks the modalities ['a']",
        ),
        (
            lambda: KNNImputer(["a"]).fit(ONE, HERE)({"a": torch.ones(3, 4)}, HERE),
            ValueError,
            "KNNImputer: the feature of 'a' must have shape (N, 2) as in `fit`, got (3, 4)",
        ),
        (
            lambda: KNNImputer(["a"]).fit(ONE, HERE)({}, HERE),
            ValueError,
            "KNNImputer: the mask marks 'a' as available, but `features` lacks it",
        ),
        (
            lambda: KNNImputer(["a"]).fit(ONE, HERE)({"b": torch.ones(3, 2)}, HERE),
            KeyError,
            "`features` has modalities ['b']",
        ),
        (
            lambda: LearnedTokens({"a": (2,)}, per="row"),
            ValueError,
            "LearnedTokens: `per` must be 'modality' or 'pattern', got 'row'",
        ),
        (
            lambda: LearnedTokens({"a": "xy"}),
            TypeError,
            "LearnedTokens: the shape of 'a' must be a sequence of ints, got 'xy'",
        ),
        (
            lambda: LearnedTokens({f"m{i}": (1,) for i in range(11)}, per="pattern"),
            ValueError,
            "there are 2^11 patterns of 11 modalities, too many",
        ),
        (
            lambda: LearnedTokens({"a": (2,)})({"a": torch.ones(3, 4)}, HERE),
            ValueError,
            "LearnedTokens: the feature of 'a' must have shape (N, 2), got (3, 4)",
        ),
        (
            lambda: LearnedTokens({"a": (2,)})({}, HERE),
            ValueError,
            "LearnedTokens: the mask marks 'a' as available, but `features` lacks it",
        ),
    ],
)
def test_invalid_input_is_an_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
