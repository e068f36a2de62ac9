"""Rules that all imputers share: broken, absent and integer input, failed fits, states."""

import copy
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from invmod._scale import scale_or_one, standard_deviation
from invmod.imputation import (
    KNNImputer,
    LearnedTokens,
    LinearMapImputer,
    MeanImputer,
    PPCAImputer,
    RidgeImputer,
    ZeroImputer,
)
from invmod.imputation.joint import JointImputer
from tests.strategies import NAN, generators, laws, normal, random_mask, seeded

NAMES = ("text", "image")
DIMS = {"text": (3,), "image": (2, 2)}
JOINT = {
    "knn": lambda names=NAMES: KNNImputer(names, num_neighbours=2),
    "ridge": lambda names=NAMES: RidgeImputer(names, ridge=0.5),
    "ppca": lambda names=NAMES: PPCAImputer(names, num_components=2, max_iterations=5),
}
FITTED = JOINT | {
    "zero": lambda names=NAMES: ZeroImputer(names),
    "mean": lambda names=NAMES: MeanImputer(names),
}
KINDS = [*FITTED, "ridge maps", "ppca maps", "tokens"]


def draw(generator, num_rows=10, dtype=torch.float64):
    """Return correlated features with NaN in masked cells, and the mask.

    The first three rows are complete.
    """
    mask = random_mask(generator, num_rows, 2)
    mask[:3] = True
    hidden = normal(generator, num_rows, 2)
    features = {
        name: (hidden @ normal(generator, 2, d) + 0.1 * normal(generator, num_rows, d) + 1)
        .reshape(num_rows, *DIMS[name])
        .to(dtype)
        for name, d in (("text", 3), ("image", 4))
    }
    for index, name in enumerate(NAMES):
        features[name][~mask[:, index]] = NAN
    return features, mask


def build(kind, features, mask, names=NAMES):
    """Return a fitted imputer of any kind."""
    if kind == "tokens":
        tokens = LearnedTokens({name: DIMS[name] for name in names}).double()
        for token in tokens.parameters():
            token.data.copy_(normal(seeded(9), *token.shape))
        return tokens
    fitted = FITTED[kind.removesuffix(" maps")](names).fit(features, mask)
    return fitted.linear_maps() if kind.endswith(" maps") else fitted


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key].nan_to_num(7.5), b[key].nan_to_num(7.5))
        for key in a
    )


# --- broken, absent and integer input


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_broken_available_cell_stays_visible_and_changes_no_other_row(kind, value):
    features, mask = draw(seeded(0))
    mask[4], mask[5] = torch.tensor([True, False]), torch.tensor([True, True])
    for name in NAMES:
        features[name][4:6] = 0.5
    imputer = build(kind, features, mask)
    whole, _ = imputer(features, mask)
    assert all(x.isfinite().all() for x in whole.values())
    broken = {name: x.clone() for name, x in features.items()}
    broken["text"][4:6, 1] = value
    filled, usable = imputer(broken, mask)
    assert usable.all()
    others = torch.arange(len(mask)) != 4
    for row in (4, 5):
        assert torch.equal(filled["text"][row].nan_to_num(7.5), broken["text"][row].nan_to_num(7.5))
    assert equal({"x": filled["image"][others]}, {"x": whole["image"][others]})
    if kind in ("zero", "mean", "tokens"):  # their fills do not depend on the row
        assert torch.equal(filled["image"][4], whole["image"][4])
    else:
        assert filled["image"][4].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_an_error_where_fills_would_be_rounded(kind, dtype):
    features, mask = draw(seeded(0))
    imputer = build(kind, features, mask)
    integers = features | {"text": torch.ones(10, 3).to(dtype)}
    if kind == "zero":
        filled, _ = imputer(integers, mask)
        assert filled["text"].dtype == dtype
        assert torch.equal(filled["text"].any(dim=1), mask[:, 0])
        return
    with pytest.raises(
        TypeError,
        match=rf"the feature of 'text' must be floating point.*, got {dtype}, .*`x\.float\(\)`",
    ):
        imputer(integers, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_modality_is_missing_in_all_rows(kind):
    features, mask = draw(seeded(1))
    imputer = build(kind, features, mask)
    without = mask & torch.tensor([True, False])
    expected, _ = imputer(features | {"image": torch.full((10, 2, 2), NAN).double()}, without)
    for given_features in ({"text": features["text"]}, {"text": features["text"], "image": None}):
        filled, usable = imputer(given_features, without)
        assert usable.all()
        torch.testing.assert_close(
            filled["image"].double(), expected["image"], rtol=1e-6, atol=1e-6
        )
        assert equal({"text": filled["text"]}, {"text": expected["text"]})
        with pytest.raises(
            ValueError, match="the mask marks 'image' as available, but `features` lacks it"
        ):
            imputer(given_features, mask)
        with pytest.raises(KeyError, match=r"has modalities \['sound'\] that are not among"):
            imputer(given_features | {"sound": None}, without)


def test_a_block_may_lack_a_modality():
    features, mask = draw(seeded(2))
    whole = MeanImputer(NAMES).fit(features, mask)
    none = torch.zeros(10, 1, dtype=torch.bool)
    parts = MeanImputer(NAMES)
    parts.partial_fit({"text": features["text"]}, torch.cat([mask[:, :1], none], dim=1))
    parts.partial_fit(
        {"image": features["image"], "text": None}, torch.cat([none, mask[:, 1:]], dim=1)
    )
    assert equal(parts.state_dict(), whole.state_dict())


# --- failed fits


@pytest.mark.parametrize("kind", JOINT)
def test_a_failed_fit_changes_nothing(kind, monkeypatch):
    features, mask = draw(seeded(3))
    fitted, unfitted = JOINT[kind]().fit(features, mask), JOINT[kind]()
    state, filled = copy.deepcopy(fitted.state_dict()), fitted(features, mask)[0]
    others = {name: 2 * x + 1 for name, x in features.items()}

    def fail(*_):
        raise RuntimeError("no solution")

    monkeypatch.setattr(type(fitted), "_fit_table", fail)
    for imputer in (fitted, unfitted):
        with pytest.raises(RuntimeError, match="no solution"):
            imputer.fit(others, mask)
    assert equal(fitted.state_dict(), state)
    assert equal(fitted(features, mask)[0], filled)
    assert unfitted.state_dict() == {}
    with pytest.raises(RuntimeError, match=f"{type(unfitted).__name__}: not fitted yet"):
        unfitted(features, mask)


def test_too_many_components_leave_the_imputer_unfitted():
    imputer = PPCAImputer(["a"], num_components=2)
    with pytest.raises(ValueError, match="must be below the 2 entries"):
        imputer.fit({"a": torch.ones(3, 2)}, torch.ones(3, 1).bool())
    assert imputer.state_dict() == {}
    assert imputer.log_likelihoods == []


# --- states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_other_modalities_is_an_error_and_changes_nothing(kind, strict, tmp_path):
    # Equal shapes, so that only the names differ.
    features = {"text": normal(seeded(4), 10, 3), "image": normal(seeded(5), 10, 3)}
    mask = torch.ones(10, 2, dtype=torch.bool)
    dims = DIMS | {"image": (3,)}
    saved = build(kind, features, mask) if kind != "tokens" else LearnedTokens(dims)
    swapped = {"image": features["text"], "text": features["image"]}
    names = NAMES[::-1]
    other = (
        build(kind, swapped, mask, names)
        if kind != "tokens"
        else LearnedTokens({name: dims[name] for name in names})
    )
    before = copy.deepcopy(other.state_dict())
    message = re.escape("of the modalities ['text', 'image'], this one has ['image', 'text']")
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict(saved.state_dict(), strict=strict)
    assert equal(other.state_dict(), before)
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=strict)
    if kind in FITTED:
        with pytest.raises(RuntimeError, match=message):
            FITTED[kind](names).load_state_dict(saved.state_dict())
    # The message names the key in the state of the whole model.
    model, nested = nn.ModuleDict({"fill": other}), nn.ModuleDict({"fill": saved}).state_dict()
    with pytest.raises(RuntimeError, match=r"remove 'fill\.modality_names' from the state"):
        model.load_state_dict(nested, strict=strict)
    # A state without names, of an older version, cannot be compared and is loaded.
    older = {key: x for key, x in saved.state_dict().items() if key != "modality_names"}
    other.load_state_dict(older)
    assert other.state_dict()["modality_names"].equal(before["modality_names"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("assign", [False, True])
def test_states_of_older_versions_are_loaded(kind, assign):
    """They have bool masks and patterns, fills in the dtype of the features, and no names."""
    features, mask = draw(seeded(5))
    fitted = build(kind, features, mask)
    older = {
        key: x.bool() if key in ("donor_mask", "patterns") else x.clone()
        for key, x in fitted.state_dict().items()
        if key not in ("modality_names", "dtypes")
    }
    for target in (build(kind, {n: x + 1 for n, x in features.items()}, mask), new(kind)):
        target.load_state_dict(older, assign=assign)
        assert equal(target(features, mask)[0], fitted(features, mask)[0])
        assert not any(x.dtype == torch.bool for x in target.buffers())


def new(kind):
    """Return an unfitted imputer."""
    if kind == "tokens":
        return LearnedTokens(DIMS).double()
    return LinearMapImputer(NAMES) if kind.endswith(" maps") else FITTED[kind]()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_zeros_of_integers_are_restored_in_their_dtype(dtype):
    features = {"text": torch.ones(2, 3).to(dtype), "image": torch.ones(2, 2, 2)}
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    fitted = ZeroImputer(NAMES).fit(features, ~nothing)
    assert all(x.is_floating_point() for x in (fitted.fill_0, fitted.fill_1))
    current, older = ZeroImputer(NAMES), ZeroImputer(NAMES)
    current.load_state_dict(fitted.state_dict())
    older.load_state_dict({"fill_0": torch.zeros(3, dtype=dtype), "fill_1": torch.zeros(2, 2)})
    for imputer in (fitted, current, older):
        filled, _ = imputer({}, nothing)
        assert filled["text"].dtype == dtype
        assert not filled["text"].any()
        assert filled["image"].dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.7)])
def test_weights_can_be_averaged_with_their_buffers(kind, average):
    features, mask = draw(seeded(6))
    model = torch.nn.ModuleList([build(kind, features, mask)])
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(model)
    expected, got = model[0](features, mask)[0], averaged.module[0](features, mask)[0]
    for name in NAMES:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-9, atol=1e-9)
    # An average of state dicts, in floats throughout, still states the names.
    codes = model[0].state_dict()["modality_names"]
    assert not ((codes * 0.1 + codes * 0.9).long() == codes).all()  # it must be rounded
    state = {
        key: 0.1 * a + 0.9 * b
        for (key, a), b in zip(
            model[0].state_dict().items(), averaged.module[0].state_dict().values(), strict=True
        )
    }
    for restored in (new(kind), build(kind, features, mask)):
        restored.load_state_dict(state)
        assert equal({"x": restored.modality_names}, {"x": model[0].modality_names})
        for name in NAMES:
            torch.testing.assert_close(restored(features, mask)[0][name], expected[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.9, 0.95, 0.9999])
def test_a_moving_average_that_is_saved_can_be_loaded(kind, decay):
    """A moving average of integers is rounded down at every step, here twenty times."""
    features, mask = draw(seeded(6))
    model = torch.nn.ModuleList([build(kind, features, mask)])
    average = get_ema_multi_avg_fn(decay)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in range(20):
        averaged.update_parameters(model)
    restored = new(kind)
    restored.load_state_dict(averaged.module[0].state_dict())
    assert restored.modality_names.equal(model[0].modality_names)


def test_tokens_in_memory_without_values_are_saved_with_their_names():
    with torch.device("meta"):
        tokens = LearnedTokens(DIMS)
    tokens.to_empty(device="cpu")
    LearnedTokens(DIMS).load_state_dict(tokens.state_dict())


def test_the_dtypes_of_an_averaged_zero_imputer_are_saved():
    features = {"a": torch.ones(3, 2, dtype=torch.int32)}
    zeros = ZeroImputer(["a"]).fit(features, torch.ones(3, 1, dtype=torch.bool))
    averaged = AveragedModel(zeros, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(20):
        averaged.update_parameters(zeros)
    restored = ZeroImputer(["a"])
    restored.load_state_dict(averaged.module.state_dict())
    filled, _ = restored({}, torch.zeros(1, 1, dtype=torch.bool))
    assert filled["a"].dtype == torch.int32


def test_zeros_of_bools_can_be_averaged_with_their_buffers():
    features, mask = {"a": torch.ones(3, 2).bool()}, torch.tensor([[True], [False], [True]])
    model = ZeroImputer(["a"]).fit(features, mask)
    averaged = AveragedModel(model, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(model)
    assert averaged(features, mask)[0]["a"].any(dim=1).tolist() == [True, False, True]


def test_an_incomplete_or_damaged_state_changes_nothing():
    features, mask = draw(seeded(7))
    fitted = KNNImputer(NAMES).fit(features, mask)
    before = copy.deepcopy(fitted.state_dict())
    moved = KNNImputer(NAMES).fit({n: x + 1 for n, x in features.items()}, mask).state_dict()
    for state in (
        {key: x for key, x in moved.items() if key != "donors"},
        moved | {"donors": torch.zeros(4, 3)},
    ):
        with pytest.raises(RuntimeError, match="donors"):
            fitted.load_state_dict(state)
        assert equal(fitted.state_dict(), before)


# --- counts and shapes


def test_numpy_integers_are_counts():
    features, mask = draw(seeded(8))
    two = np.int64(2)
    for ours, numpys in (
        (KNNImputer(NAMES, num_neighbours=2), KNNImputer(NAMES, num_neighbours=two)),
        (
            PPCAImputer(NAMES, num_components=2, max_iterations=2),
            PPCAImputer(NAMES, num_components=two, max_iterations=two),
        ),
    ):
        expected, got = (i.fit(features, mask)(features, mask)[0] for i in (ours, numpys))
        assert equal(expected, got)
    tokens = LearnedTokens({"a": (two, np.uint8(3)), "b": torch.Size([1])})
    assert tokens.token_0.shape == (1, 2, 3)
    with pytest.raises(TypeError, match="must be a sequence of ints, got 3"):
        LearnedTokens({"a": 3})
    with pytest.raises(TypeError, match="must be a sequence of ints"):
        LearnedTokens({"a": (True,)})
    with pytest.raises(ValueError, match=r"must not be negative, got \(-1,\)"):
        LearnedTokens({"a": (-1,)})


@pytest.mark.parametrize("kind", ["zero", "mean", "tokens", "ridge maps", "ppca maps"])
@pytest.mark.filterwarnings("ignore:.*non-meta parameter")
def test_imputers_of_a_fixed_rule_work_on_the_meta_device(kind):
    features, mask = draw(seeded(8))
    imputer = build(kind, features, mask).to("meta")
    filled, usable = imputer({n: x.to("meta") for n, x in features.items()}, mask.to("meta"))
    assert usable.device.type == "meta"
    assert {n: x.shape for n, x in filled.items()} == {n: x.shape for n, x in features.items()}
    absent, _ = imputer({"text": features["text"].to("meta")}, mask.to("meta"))
    assert absent["image"].shape == (10, 2, 2)


# --- constant entries


def test_a_column_is_constant_up_to_rounding_only():
    rounding = torch.full((9,), 0.3, dtype=torch.float64)
    assert rounding.std(correction=0) > 0
    nearly = rounding.clone()
    nearly[3] = 0.1 + 0.2
    small = torch.linspace(0, 1e-200, 9, dtype=torch.float64)
    large = torch.linspace(0, 1e200, 9, dtype=torch.float64)
    seconds = 1.7e9 + torch.linspace(0, 10, 9, dtype=torch.float64)
    x = torch.stack([rounding, nearly, torch.zeros(9).double(), small, large, seconds], dim=1)
    deviation = standard_deviation(x)
    spread = torch.linspace(0, 1, 9, dtype=torch.float64).std(correction=0)
    assert deviation[:3].tolist() == [0.0, 0.0, 0.0]
    expected = spread * torch.tensor([1e-200, 1e200, 10], dtype=torch.float64)
    torch.testing.assert_close(deviation[3:], expected, rtol=1e-6, atol=0)
    assert scale_or_one(x)[:3].tolist() == [1.0, 1.0, 1.0]
    assert scale_or_one(torch.tensor([[NAN], [1.0]])).isnan().all()
    same = torch.full((3, 1), 0.1, dtype=torch.float16)
    assert scale_or_one(same).item() == 1.0


@pytest.mark.parametrize("kind", JOINT)
@pytest.mark.parametrize("num_rows", [9, 14, 18])
def test_a_constant_entry_changes_nothing_and_is_filled_with_its_constant(kind, num_rows):
    """The rounding of its standard deviation is some 1e-17; divided by it, rounding is 1."""
    assert torch.full((num_rows,), 0.3, dtype=torch.float64).std(correction=0) > 0
    generator, names = seeded(num_rows), (*NAMES, "constant")
    features, mask = draw(generator, num_rows + 1)
    mask = torch.cat([mask, torch.ones(num_rows + 1, 1, dtype=torch.bool)], dim=1)
    mask[-1] = torch.tensor([False, True, True])
    features["image"][-1] = 1.0
    filled = {}
    # The deviation of equal values of 0.5 is exactly 0, that of 0.3 is not for these counts.
    for value in (0.5, 0.3):
        constant = torch.full((num_rows + 1, 1), value, dtype=torch.float64)
        constant[-1] += 1e-9  # outside the training rows it is a little different
        imputer = JOINT[kind](names)
        all_features = features | {"constant": constant}
        imputer.fit(all_features, mask, torch.arange(num_rows))
        filled[value], _ = imputer(all_features, mask)
        alone = mask & torch.tensor([True, True, False])
        assert (imputer(all_features, alone)[0]["constant"] == value).all()
    for name in NAMES:
        torch.testing.assert_close(filled[0.3][name], filled[0.5][name], rtol=1e-6, atol=1e-6)


# --- neighbours


def exact_neighbours(row, a, donors, donor_mask, sizes, k):
    """Return the numbers of the donors of the last modality, by exact arithmetic."""
    modality = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    distances = []
    for r, (values, theirs) in enumerate(zip(donors, donor_mask, strict=True)):
        both = (a & theirs)[modality]
        if theirs[-1] and both.any():
            squares = int((row - values)[both].square().sum())
            distances.append((Fraction(squares, int(both.sum())), r))
    return [r for _, r in sorted(distances)[:k]]


@laws
@given(generators(), st.integers(4, 30), st.integers(1, 4), st.sampled_from([1.0, 0.1, 1e-3]))
def test_ties_are_decided_by_the_index_and_not_by_rounding(generator, num_rows, k, unit):
    """Small whole numbers have many equal distances, which rounding of the centres disturbs."""
    sizes, names = [1, 2, 1], ["a", "b", "c"]
    x = torch.randint(-1, 2, (num_rows, 4), generator=generator)
    mask = random_mask(generator, num_rows, 3)
    mask[:2] = True
    # Powers of 2 in the last modality, so that a sum shows which donors were taken. Its distances
    # are not read, because the rows to fill lack it.
    x[:, 3] = 2 ** torch.arange(num_rows)
    donors = torch.arange(num_rows // 2 + 1)
    target = mask.clone()
    target[:, 2] = False
    features = dict(zip(names, (x * unit).double().split(sizes, dim=1), strict=True))
    features["c"] = x[:, 3:].double()
    imputer = KNNImputer(names, num_neighbours=k, standardize=False).fit(features, mask, donors)
    filled, _ = imputer(features, target)
    for n in range(num_rows):
        chosen = exact_neighbours(x[n], target[n], x[donors], mask[donors], sizes, k)
        if chosen:
            expected = sum(2**r for r in chosen) / len(chosen)
            assert filled["c"][n].item() == pytest.approx(expected, rel=1e-9)
        alone, _ = imputer({name: v[n : n + 1] for name, v in features.items()}, target[n : n + 1])
        assert all(torch.equal(alone[name][0], filled[name][n]) for name in names)


def test_a_tie_of_scaled_entries_goes_to_the_lower_index():
    """0.1 and 0.3 are equally far from 0.2, up to rounding."""
    for order in ([0.1, 0.3], [0.3, 0.1]):
        for offset in (0.0, 0.7, 1e3):
            a = torch.tensor([*order, 0.2, 5.0], dtype=torch.float64)[:, None] + offset
            b = torch.tensor([[1.0], [2.0], [NAN], [9.0]], dtype=torch.float64)
            mask = torch.cat([torch.ones(4, 1).bool(), ~b.isnan()], dim=1)
            imputer = KNNImputer(["a", "b"], num_neighbours=1).fit({"a": a, "b": b}, mask)
            assert imputer({"a": a, "b": b}, mask)[0]["b"][2].item() == 1.0


def test_distances_that_differ_by_a_millionth_are_not_equal():
    a = torch.tensor([1 + 1e-6, -1.0, 0.0], dtype=torch.float64)[:, None]
    b = torch.tensor([1.0, 2.0, NAN], dtype=torch.float64)[:, None]
    mask = torch.cat([torch.ones(3, 1).bool(), ~b.isnan()], dim=1)
    imputer = KNNImputer(["a", "b"], num_neighbours=1).fit({"a": a, "b": b}, mask)
    assert imputer({"a": a, "b": b}, mask)[0]["b"][2].item() == 2.0


# --- ridge


def test_least_squares_on_rows_that_are_equal_fills_their_mean():
    """Centring leaves some 1e-17, whose pseudoinverse would be some 1e17."""
    for num_rows in range(2, 12):
        a = torch.tensor([0.3] * num_rows + [0.9, 0.4], dtype=torch.float64)[:, None]
        b = torch.tensor([*range(num_rows), NAN, NAN], dtype=torch.float64)[:, None]
        features, mask = {"a": a, "b": b}, torch.cat([~a.isnan(), ~b.isnan()], dim=1)
        for standardize in (False, True):
            imputer = RidgeImputer(["a", "b"], ridge=0.0, standardize=standardize)
            filled, _ = imputer.fit(features, mask)(features, mask)
            expected = torch.full((2, 1), (num_rows - 1) / 2).double()
            torch.testing.assert_close(filled["b"][-2:], expected)


# --- probabilistic PCA


@pytest.mark.parametrize("noise", ["modality", "shared"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_equal_rows_are_filled_with_themselves(noise, standardize, num_rows):
    row = torch.tensor([0.3, -1.7, 1e3], dtype=torch.float64)
    features = {"a": row[:2].repeat(num_rows, 1), "b": row[2:].repeat(num_rows, 1)}
    mask = torch.ones(num_rows, 2, dtype=torch.bool)
    imputer = PPCAImputer(["a", "b"], num_components=1, noise=noise, standardize=standardize)
    imputer.fit(features, mask)
    for hidden in ([True, False], [False, True], [False, False]):
        filled, _ = imputer(features, mask & torch.tensor(hidden))
        for name, x in features.items():
            torch.testing.assert_close(filled[name], x)
    assert all(np.isfinite(imputer.log_likelihoods))


@pytest.mark.parametrize("noise", ["modality", "shared"])
@pytest.mark.parametrize("num_components", [1, 2])
def test_rows_of_rank_one_are_fitted_exactly_with_the_least_noise(noise, num_components):
    """Without a bound, the noise would be 0 and the likelihood infinite."""
    b = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)[:, None]
    directions = {"x": [[1.0, -2.0]], "y": [[3.0, 0.5]]}
    features = {name: b @ torch.tensor(d).double() + 1 for name, d in directions.items()}
    mask = torch.ones(6, 2, dtype=torch.bool)
    imputer = PPCAImputer(
        ["x", "y"],
        num_components=num_components,
        noise=noise,
        standardize=False,
        max_iterations=300,
        tolerance=0.0,
    ).fit(features, mask)
    centred = torch.cat(
        [features["x"] - features["x"].mean(0), features["y"] - features["y"].mean(0)], dim=1
    )
    floor = 1e-6 * float(centred.square().mean())
    torch.testing.assert_close(
        imputer.variances, torch.full((2,), floor).double(), rtol=1e-6, atol=0
    )
    assert all(np.isfinite(imputer.log_likelihoods))
    filled, _ = imputer(features, mask & torch.tensor([True, False]))
    torch.testing.assert_close(filled["y"], features["y"], rtol=1e-4, atol=1e-4)


def test_a_row_without_modalities_gets_the_mean_of_the_model_which_corrects_for_missingness():
    """The image exists where the text is large, so its observed mean is too large."""
    generator = seeded(0)
    text = normal(generator, 4000, 2)
    text[:, 1] = text[:, 0]
    text += 0.1 * normal(generator, 4000, 2)
    image = text[:, :1] + 0.3 * normal(generator, 4000, 1)
    features = {"text": text, "image": image}
    mask = torch.ones(4000, 2, dtype=torch.bool)
    mask[:, 1] = text.mean(dim=1) > 0
    imputer = PPCAImputer(["text", "image"], num_components=1).fit(features, mask)
    filled, _ = imputer({}, torch.zeros(3, 2, dtype=torch.bool))
    expected = imputer.mean[2:] * imputer.scale_1 + imputer.centre_1
    torch.testing.assert_close(
        filled["image"].double(), expected.expand(3, 1), rtol=1e-6, atol=1e-6
    )
    observed = float(image[mask[:, 1]].mean())
    assert observed > 0.7
    assert abs(filled["image"][0].item() - float(image.mean())) < 0.1
    for kind in ("knn", "ridge"):
        other = JOINT[kind](("text", "image")).fit(features, mask)
        fill = other({}, torch.zeros(1, 2, dtype=torch.bool))[0]["image"].item()
        assert fill == pytest.approx(observed)


def test_joint_imputers_have_no_buffer_that_is_not_floating_point():
    features, mask = draw(seeded(0))
    for kind in (*JOINT, "ridge maps", "ppca maps"):
        dtypes = {n: x.dtype for n, x in build(kind, features, mask).named_buffers()}
        assert dtypes.pop("modality_names") == torch.int64
        assert set(dtypes.values()) == {torch.float64}


def test_maps_need_a_fitted_imputer_and_few_modalities():
    with pytest.raises(RuntimeError, match=r"RidgeImputer.linear_maps: not fitted yet"):
        RidgeImputer(NAMES).linear_maps()
    with pytest.raises(ValueError, match=r"LinearMapImputer: there are 2\^11 patterns"):
        LinearMapImputer([str(m) for m in range(11)])
    with pytest.raises(RuntimeError, match="LinearMapImputer: not fitted yet"):
        LinearMapImputer(NAMES)({}, torch.zeros(1, 2).bool())
    assert isinstance(RidgeImputer(NAMES), JointImputer)
