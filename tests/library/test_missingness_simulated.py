"""Laws of the simulators: exact counts, calibrated rates, and the dependence of MAR and MNAR."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from scipy.optimize import brentq

from invmod import (
    SimulatedMissing,
    simulate_k_available,
    simulate_mar,
    simulate_mcar,
    simulate_missing,
    simulate_mnar,
)
from tests.strategies import (
    NAN,
    NUM_MODALITIES,
    generators,
    laws,
    normal,
    poison,
    random_mask,
    seeded,
)

NAMES = ("a", "b", "c")
STRENGTHS = st.sampled_from([-40.0, -1.5, 0.0, 1e-6, 0.7, 3.0])


def draw_rates(generator, num_modalities):
    """Rates below 1, some of them 0."""
    rates = torch.rand(num_modalities, generator=generator, dtype=torch.float64)
    return torch.where(rates < 0.15, 0.0, rates)


def draw_features(generator, num_rows, num_modalities):
    return {f"m{index}": normal(generator, num_rows, 2, 2) for index in range(num_modalities)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- oracles in NumPy


def oracle_probabilities(scores, mask, rates, strength):
    """Probabilities p (N, M) whose mean over a modality's available rows is its rate, and 1 - p.

    1 - p is computed separately, because the subtraction loses digits if p is close to 1.
    """
    p, q = np.zeros(mask.shape), np.ones(mask.shape)
    for m, rate in enumerate(rates):
        there = mask[:, m]
        if rate == 0 or not there.any():
            continue
        logits = strength * scores[:, m]
        b = brentq(
            lambda b, x=logits[there], r=rate: sigmoid(b + x).mean() - r, -400, 400, xtol=1e-13
        )
        p[:, m], q[:, m] = sigmoid(b + logits), sigmoid(-b - logits)
    return p, q


def oracle_scores(values, mask):
    """Row means (N,) of one modality, standardised over its available rows; 0 in other rows."""
    scores, there = np.zeros(len(mask)), np.flatnonzero(mask)
    means = np.array([values[n].mean() for n in there])
    if len(there) > 1:
        scores[there] = (means - means.mean()) / means.std()
    return scores


def patterns_given_something(p, q, there):
    """Subsets that a row can lose -> probability, conditional on keeping at least one modality."""
    chances = {}
    for lost in itertools.product([False, True], repeat=len(p)):
        if all(not (gone and not has) for gone, has in zip(lost, there, strict=True)):
            own = [
                (x if gone else y) for x, y, gone, has in zip(p, q, lost, there, strict=True) if has
            ]
            if any(has and not gone for gone, has in zip(lost, there, strict=True)):
                chances[lost] = math.prod(own)
    total = sum(chances.values())
    if total == 0:  # the probabilities underflow in float64
        reject()
    return {lost: chance / total for lost, chance in chances.items()}


def oracle_expected(p, q, mask, allow_empty):
    """Mean probabilities (M,) of being hidden, over the available cells of each modality."""
    chance = np.where(mask, p, 0.0)
    if not allow_empty:
        chance = np.zeros(mask.shape)
        for n in np.flatnonzero(mask.any(axis=1)):
            for lost, weight in patterns_given_something(p[n], q[n], mask[n]).items():
                chance[n] += weight * np.array(lost)
    with np.errstate(invalid="ignore"):
        return chance.sum(axis=0) / mask.sum(axis=0)


# --- laws of all simulators


def every_simulator(features, mask, generator, **options):
    names = tuple(features)
    others = dict.fromkeys(names[1:], 0.4)
    yield simulate_missing(mask, 0.6, generator=generator, **options)
    yield simulate_k_available(mask, 1, generator=generator, **options)
    yield simulate_mcar(mask, 0.4, generator=generator, **options)
    yield simulate_mnar(
        features, mask, 0.4, modalities=names, strength=2.0, generator=generator, **options
    )
    if others:
        yield simulate_mar(
            features,
            mask,
            others,
            modalities=names,
            driver=names[0],
            strength=2.0,
            generator=generator,
            **options,
        )


@laws
@given(st.data(), generators(), st.integers(0, 12), NUM_MODALITIES)
def test_simulated_and_natural_missingness_are_kept_apart(
    data, generator, num_rows, num_modalities
):
    features = draw_features(generator, num_rows, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities)
    chosen = data.draw(
        st.one_of(st.none(), st.permutations(range(num_rows)).map(lambda p: p[: num_rows // 2 + 1]))
    )
    rows = None if chosen is None else torch.tensor(chosen, dtype=torch.int64)
    before, state = mask.clone(), torch.get_rng_state()
    for result in every_simulator(features, mask, generator, rows=rows):
        assert isinstance(result, SimulatedMissing)
        assert torch.equal(mask, before)
        assert torch.equal(result.natural, before)
        assert result.natural.data_ptr() != mask.data_ptr() or num_rows == 0
        # A cell is never missing both naturally and by simulation.
        assert (result.natural | result.simulated).all()
        assert torch.equal(result.mask, result.natural & result.simulated)
        assert torch.equal(result.mask.any(dim=1), before.any(dim=1))  # never all of a row
        unpacked, shortfall = result
        assert torch.equal(unpacked, result.mask)
        assert shortfall == result.shortfall
        given_rows = list(range(num_rows)) if chosen is None else chosen
        assert result.rows.tolist() == given_rows
        others = [n for n in range(num_rows) if n not in given_rows]
        assert result.simulated[others].all()
        for m in range(num_modalities):
            cells = [n for n in given_rows if before[n, m]]
            hidden = sum(not result.simulated[n, m] for n in cells)
            if cells:
                assert result.rates[m] == hidden / len(cells)
                assert 0 <= result.expected_rates[m] <= 1
            else:
                assert result.rates[m].isnan()
                assert result.expected_rates[m].isnan()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seeded_generator_repeats_the_masks_and_none_uses_the_global_generator():
    features, mask = draw_features(seeded(0), 40, 3), random_mask(seeded(1), 40, 3, 0.8)
    first, again, other = (
        list(every_simulator(features, mask, seeded(seed))) for seed in (1, 1, 2)
    )
    for x, y, z in zip(first, again, other, strict=True):
        assert torch.equal(x.mask, y.mask)
        assert not torch.equal(x.mask, z.mask)
    with torch.random.fork_rng(devices=[]):
        for index in range(len(first)):
            torch.manual_seed(3)
            x = list(every_simulator(features, mask, None))[index]
            torch.manual_seed(3)
            y = list(every_simulator(features, mask, None))[index]
            z = list(every_simulator(features, mask, None))[index]
            assert torch.equal(x.mask, y.mask)
            assert not torch.equal(x.mask, z.mask)


@laws
@given(
    generators(), st.integers(2, 12), st.integers(2, 6), st.sampled_from([NAN, 1e9, float("inf")])
)
def test_the_content_of_unavailable_cells_changes_nothing(
    generator, num_rows, num_modalities, value
):
    features = draw_features(generator, num_rows, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities)
    dirty = {
        name: poison(x, mask[:, index], value) for index, (name, x) in enumerate(features.items())
    }
    for x, y in zip(
        every_simulator(features, mask, seeded(0)),
        every_simulator(dirty, mask, seeded(0)),
        strict=True,
    ):
        assert torch.equal(x.mask, y.mask)
        assert torch.equal(x.expected_rates.nan_to_num(2.0), y.expected_rates.nan_to_num(2.0))


@laws
@given(st.data(), generators(), st.integers(1, 10), st.integers(2, 6), STRENGTHS)
def test_expected_rates_follow_a_permutation_of_the_modalities(
    data, generator, num_rows, num_modalities, strength
):
    features = draw_features(generator, num_rows, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities)
    order = data.draw(st.permutations(range(num_modalities)))
    names, rates = list(features), draw_rates(generator, num_modalities)
    by_name = dict(zip(names, rates.tolist(), strict=True))
    shuffled = [names[m] for m in order]
    for simulate, options in (
        (simulate_mnar, {}),
        (simulate_mar, {"driver": names[0]}),
    ):
        given_rates = {
            name: rate for name, rate in by_name.items() if name != options.get("driver")
        }
        kept = simulate(
            features, mask, given_rates, modalities=names, strength=strength, **options
        ).expected_rates
        moved = simulate(
            dict(reversed(features.items())),
            mask[:, order],
            given_rates,
            modalities=shuffled,
            strength=strength,
            **options,
        ).expected_rates
        torch.testing.assert_close(moved, kept[order], equal_nan=True, rtol=1e-9, atol=1e-12)
    moved = simulate_mcar(mask[:, order], by_name, modalities=shuffled).expected_rates
    kept = simulate_mcar(mask, rates).expected_rates
    torch.testing.assert_close(moved, kept[order], equal_nan=True, rtol=1e-12, atol=1e-12)


# --- exact counts


@laws
@given(st.data(), generators(), st.integers(0, 12), NUM_MODALITIES)
def test_every_row_keeps_exactly_k_modalities_or_all_of_its_own(
    data, generator, num_rows, num_modalities
):
    mask = random_mask(generator, num_rows, num_modalities, 0.7)
    k = data.draw(st.integers(1, num_modalities))
    result = simulate_k_available(mask, k, generator=generator)
    counts = mask.sum(dim=1)
    assert torch.equal(result.mask.sum(dim=1), counts.clamp(max=k))
    assert result.shortfall == int((counts < k).sum())
    chance = [(max(int(c) - k, 0) / int(c)) if c else 0.0 for c in counts]
    expected = [
        np.mean([chance[n] for n in range(num_rows) if mask[n, m]]) if mask[:, m].any() else NAN
        for m in range(num_modalities)
    ]
    np.testing.assert_allclose(result.expected_rates, expected, rtol=1e-12)


def test_the_kept_modalities_are_a_uniform_subset_of_those_of_a_row():
    mask = torch.tensor([[True, True, True, True], [True, False, True, True]]).repeat(6000, 1)
    kept = simulate_k_available(mask, 2, generator=seeded(0)).mask
    for rows, subsets in ((kept[::2], 6), (kept[1::2], 3)):
        patterns, counts = torch.unique(rows, dim=0, return_counts=True)
        assert len(patterns) == subsets
        chance = 1 / subsets
        assert ((counts / 6000 - chance).abs() < 5 * math.sqrt(chance * (1 - chance) / 6000)).all()


@laws
@given(generators(), st.integers(1, 10), st.integers(1, 6), st.floats(0, 1), st.integers(1, 3))
def test_the_expected_rates_of_an_exact_share_follow_its_definition(
    generator,
    num_rows,
    M,
    rate,
    num_missing,
):
    mask = random_mask(generator, num_rows, M, 0.8)
    eligible = [n for n in range(num_rows) if mask[n].sum() > num_missing]
    drawn = min(math.floor(rate * num_rows + 0.5), len(eligible))
    chance = np.zeros(num_rows)
    for n in eligible:
        chance[n] = drawn / len(eligible) * num_missing / int(mask[n].sum())
    got = simulate_missing(mask, rate, num_missing=num_missing, generator=generator).expected_rates
    expected = [chance[mask[:, m].numpy()].mean() if mask[:, m].any() else NAN for m in range(M)]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


# --- requested rates, and effective rates if a row must keep a modality


@laws
@given(generators(), st.integers(0, 10), st.integers(1, 4), STRENGTHS, st.booleans(), st.booleans())
def test_expected_rates_equal_those_of_the_oracle(
    generator, num_rows, num_modalities, strength, allow_empty, mnar
):
    features = draw_features(generator, num_rows, num_modalities)
    mask = random_mask(generator, num_rows, num_modalities)
    names, rates = list(features), draw_rates(generator, num_modalities)
    own = [oracle_scores(x.numpy(), mask[:, m].numpy()) for m, x in enumerate(features.values())]
    options = {
        "strength": strength,
        "allow_empty": allow_empty,
        "modalities": names,
        "generator": seeded(5),
    }
    if mnar or num_modalities == 1:
        result, scores = simulate_mnar(features, mask, rates, **options), np.stack(own, axis=1)
    else:
        rates[-1] = 0.0
        result = simulate_mar(features, mask, rates, driver=names[-1], **options)
        scores = np.stack([own[-1]] * num_modalities, axis=1)
    p, q = oracle_probabilities(scores, mask.numpy(), rates.numpy(), strength)
    expected = oracle_expected(p, q, mask.numpy(), allow_empty)
    np.testing.assert_allclose(result.expected_rates, expected, rtol=1e-7, atol=1e-9)
    if allow_empty:
        requested = torch.where(mask.any(dim=0), rates, NAN)
        torch.testing.assert_close(
            result.expected_rates, requested, equal_nan=True, rtol=1e-12, atol=1e-14
        )
        u = torch.rand(mask.shape, generator=seeded(5), dtype=torch.float64).numpy()
        decided = np.abs(u - p) > 1e-9  # cells in which rounding cannot change the comparison
        assert ((~result.simulated.numpy() == ((u < p) & mask.numpy())) | ~decided).all()


@laws
@given(generators(), st.integers(0, 8), st.integers(1, 5), st.booleans())
def test_expected_rates_of_mcar_equal_those_of_the_oracle(
    generator, num_rows, num_modalities, allow_empty
):
    mask = random_mask(generator, num_rows, num_modalities)
    rates = draw_rates(generator, num_modalities)
    result = simulate_mcar(mask, rates, allow_empty=allow_empty, generator=generator)
    p = np.broadcast_to(rates.numpy(), mask.shape)
    expected = oracle_expected(p, 1 - p, mask.numpy(), allow_empty)
    np.testing.assert_allclose(result.expected_rates, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("simulate", ["mcar", "mnar"])
def test_loss_patterns_follow_the_distribution_conditional_on_a_nonempty_row(simulate):
    """Each loss pattern occurs as often as its conditional probability, within five sigma."""
    draws = 6000
    kinds = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    mask, rates = kinds.repeat(draws, 1), (0.7, 0.4, 0.9)
    if simulate == "mcar":
        result, p = simulate_mcar(mask, rates, generator=seeded(0)), np.tile(rates, (3, 1))
        q = 1 - p
    else:
        values = torch.tensor([[1.0, 5.0, 2.0], [3.0, 0.0, 4.0], [0.0, 9.0, 0.0]]).repeat(draws, 1)
        features = dict(zip(NAMES, values.unbind(1), strict=True))
        result = simulate_mnar(
            features, mask, rates, modalities=NAMES, strength=1.5, generator=seeded(0)
        )
        own = [oracle_scores(values[:, m].numpy(), mask[:, m].numpy()) for m in range(3)]
        p, q = oracle_probabilities(np.stack(own, 1), mask.numpy(), rates, 1.5)
    lost = ~result.simulated
    for kind in range(3):
        for pattern, chance in patterns_given_something(
            p[kind], q[kind], kinds[kind].tolist()
        ).items():
            share = (lost[kind::3] == torch.tensor(pattern)).all(dim=1).double().mean()
            assert abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / draws)
    assert (result.rates - result.expected_rates).abs().max() < 5 * math.sqrt(0.25 / (2 * draws))


def test_the_effective_rate_equals_the_documented_one():
    full = torch.ones(20_000, 3, dtype=torch.bool)
    kept = simulate_mcar(full, 0.5, generator=seeded(0))
    torch.testing.assert_close(kept.expected_rates, torch.full((3,), 3 / 7).double())
    assert (kept.rates - 3 / 7).abs().max() < 5 * math.sqrt(0.25 / 20_000)
    lost = simulate_mcar(full, 0.5, allow_empty=True, generator=seeded(0))
    torch.testing.assert_close(lost.expected_rates, torch.full((3,), 0.5).double())
    assert (lost.rates - 0.5).abs().max() < 5 * math.sqrt(0.25 / 20_000)
    empty = (~lost.mask.any(dim=1)).double().mean()
    assert abs(empty - 1 / 8) < 5 * math.sqrt(7 / 64 / 20_000)
    assert kept.mask.any(dim=1).all()
    assert simulate_mcar(full[:, :1], 0.9).mask.all()
    extreme = simulate_mcar(full, 1 - 2**-53, generator=seeded(0))  # one of three stays
    torch.testing.assert_close(extreme.expected_rates, torch.full((3,), 2 / 3).double())
    assert (extreme.mask.sum(dim=1) == 1).all()
    assert (extreme.rates - 2 / 3).abs().max() < 5 * math.sqrt(0.25 / 20_000)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (0.0, [[True, True, True]]),
        ((1.0, 0.0, 0.0), [[False, True, True]]),
        ({"c": 1.0}, [[True, True, False]]),
        (torch.tensor([0.0, 1.0, 1.0]), [[True, False, False]]),
        (torch.tensor(0.0), [[True, True, True]]),
        (np.float32(0), [[True, True, True]]),
    ],
)
def test_rates_of_0_and_1_are_certain_in_every_mechanism(rates, expected):
    mask, features = torch.ones(1, 3, dtype=torch.bool), dict.fromkeys(NAMES)
    features["a"] = torch.zeros(1, 2)
    assert simulate_mcar(mask, rates, modalities=NAMES).mask.tolist() == expected
    options = {"modalities": NAMES, "strength": 3.0}
    result = simulate_mnar(features, mask, rates, **options)
    assert result.mask.tolist() == expected
    if expected[0][0]:
        result = simulate_mar(features, mask, rates, driver="a", **options)
        assert result.mask.tolist() == expected


def test_a_row_can_lose_everything_only_with_allow_empty():
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    features = {"a": normal(seeded(0), 3), "b": normal(seeded(1), 3)}
    for simulate in (
        lambda **options: simulate_mcar(mask, 1.0, **options),
        lambda **options: simulate_mnar(
            features, mask, 1.0, modalities=["a", "b"], strength=1.0, **options
        ),
    ):
        assert not simulate(allow_empty=True).mask.any()
        with pytest.raises(
            ValueError,
            match="row 0 loses all its modalities with certainty, but a row must keep at least one",
        ):
            simulate()
        with pytest.raises(ValueError, match="row 1 loses all"):
            simulate(rows=torch.tensor([2, 1, 0]))
        assert simulate(rows=torch.tensor([2])).mask.equal(mask)


# --- dependence of the rates on features


def two_halves(result, driver, column):
    """The hidden share in rows with a large driver minus that in the others, and five sigma."""
    hidden, large = ~result.simulated[:, column], driver > driver.median()
    difference = hidden[large].double().mean() - hidden[~large].double().mean()
    return float(difference), 5 * math.sqrt(2 * 0.25 / (len(driver) / 2))


@pytest.mark.parametrize("strength", [2.0, -2.0])
def test_mar_depends_on_the_driver_mnar_on_itself_and_mcar_on_nothing(strength):
    generator, n = seeded(0), 8000
    features = {name: normal(generator, n, 4) for name in NAMES}
    means = {name: x.mean(dim=1) for name, x in features.items()}
    mask = torch.ones(n, 3, dtype=torch.bool)
    sign = math.copysign(1.0, strength)

    mcar = simulate_mcar(mask, 0.3, generator=generator)
    options = {
        "modalities": NAMES,
        "strength": strength,
        "generator": generator,
        "allow_empty": True,
    }
    mar = simulate_mar(features, mask, {"b": 0.3}, driver="a", **options)
    mnar = simulate_mnar(features, mask, 0.3, **options)
    for driver in NAMES:
        for column, name in enumerate(NAMES):
            difference, bound = two_halves(mcar, means[driver], column)
            assert abs(difference) < bound
            difference, bound = two_halves(mar, means[driver], column)
            if (driver, name) == ("a", "b"):
                assert sign * difference > 0.3
            else:
                assert abs(difference) < bound
            difference, bound = two_halves(mnar, means[driver], column)
            if driver == name:
                assert sign * difference > 0.3
            else:
                assert abs(difference) < bound
    assert abs(mar.rates[1] - 0.3) < 5 * math.sqrt(0.21 / n)
    assert ((mnar.rates - 0.3).abs() < 5 * math.sqrt(0.21 / n)).all()
    assert mar.simulated[:, [0, 2]].all()  # the driver and modalities without a rate


@laws
@given(generators(), st.integers(1, 12))
def test_strength_0_is_completely_at_random(generator, num_rows):
    features, mask = draw_features(generator, num_rows, 3), random_mask(generator, num_rows, 3)
    constant = simulate_mcar(mask, 0.4, generator=seeded(1))
    own = simulate_mnar(
        features, mask, 0.4, modalities=list(features), strength=0.0, generator=seeded(1)
    )
    assert torch.equal(own.mask, constant.mask)
    constant = simulate_mcar(mask, (0.0, 0.4, 0.4), generator=seeded(1))
    other = simulate_mar(
        features,
        mask,
        0.4,
        modalities=list(features),
        driver="m0",
        strength=0.0,
        generator=seeded(1),
    )
    assert torch.equal(other.mask, constant.mask)


@laws
@given(
    generators(), st.integers(2, 10), st.sampled_from([1e-150, 1e-3, 1e5, 1e150]), st.floats(-5, 5)
)
def test_scores_are_free_of_scale_and_shift(generator, num_rows, scale, shift):
    """The same draw for x and for scale * (x + shift); values of 1e150 do not overflow."""
    features = {"a": normal(generator, num_rows), "b": normal(generator, num_rows)}
    mask = torch.ones(num_rows, 2, dtype=torch.bool)
    options = {"modalities": ["a", "b"], "strength": 1.5, "allow_empty": True}
    first = simulate_mnar(features, mask, 0.5, generator=seeded(2), **options)
    moved = {name: scale * (x + shift) for name, x in features.items()}
    assert torch.equal(
        first.mask, simulate_mnar(moved, mask, 0.5, generator=seeded(2), **options).mask
    )


def test_a_custom_score_is_used_for_integers_and_by_name():
    ids = torch.tensor([[1, 0, 0], [1, 2, 0], [1, 2, 3], [3, 2, 1]])
    features = {"words": ids, "x": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    mask = torch.ones(4, 2, dtype=torch.bool)
    seen = []

    def length(rows):
        seen.append(rows.shape)
        return (rows != 0).sum(dim=1)

    mask[3, 0] = False
    options = {"modalities": ["words", "x"], "strength": 1e4, "allow_empty": True}
    rates = {"words": 1 / 3, "x": 0.5}
    result = simulate_mnar(features, mask, rates, score={"words": length}, **options)
    assert seen == [(3, 3)]  # the available rows alone
    assert result.simulated.tolist() == [[True, False], [True, False], [False, True], [True, True]]
    result = simulate_mar(features, mask, {"x": 1 / 4}, driver="words", score=length, **options)
    assert result.simulated[:, 1].tolist() == [True, True, False, True]


def test_a_row_without_the_driver_counts_as_average():
    draws = 2000
    values = torch.tensor([-1.0, 1.0, NAN, NAN]).repeat(draws)
    mask = torch.stack([~values.isnan(), torch.ones(4 * draws).bool()], dim=1)
    options = {
        "modalities": ["a", "b"],
        "driver": "a",
        "strength": 3.0,
        "allow_empty": True,
        "generator": seeded(0),
    }
    hidden = ~simulate_mar({"a": values}, mask, 0.5, **options).simulated[:, 1]
    expected = torch.tensor([sigmoid(-3.0), sigmoid(3.0), 0.5, 0.5])
    shares = hidden.reshape(draws, 4).double().mean(dim=0)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_that_overflow_in_sums_are_scored_in_float64(dtype):
    x = torch.full((6, 64), 3e4).to(dtype)
    x[3:] *= 2
    mask = torch.ones(6, 1, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = simulate_mnar(
            {"a": x}, mask, 0.5, modalities=["a"], strength=1e3, allow_empty=True
        )
    assert result.mask[:, 0].tolist() == [True, True, True, False, False, False]


# --- invalid arguments


FEATURES = {
    "a": torch.tensor([1.0, 2.0, 4.0]),
    "b": torch.tensor([[3, 1], [2, 2], [1, 1]]),
    "c": torch.ones(3),
}
FULL = torch.ones(3, 3, dtype=torch.bool)


def mar(rates=0.5, features=FEATURES, mask=FULL, **options):
    return simulate_mar(
        features, mask, rates, **{"modalities": NAMES, "driver": "a", "strength": 1.0, **options}
    )


def mnar(rates=0.5, features=FEATURES, mask=FULL, **options):
    return simulate_mnar(features, mask, rates, **{"modalities": NAMES, "strength": 1.0, **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: simulate_k_available(FULL, 0),
            ValueError,
            "simulate_k_available: `k` must be at least 1, got 0.",
        ),
        (
            lambda: simulate_k_available(FULL, 4),
            ValueError,
            "simulate_k_available: `k` must be at most M = 3, got 4.",
        ),
        (
            lambda: simulate_k_available(FULL, 1.0),
            TypeError,
            "simulate_k_available: `k` must be an int, got 1.0.",
        ),
        (
            lambda: simulate_k_available(FULL, True),
            TypeError,
            "simulate_k_available: `k` must be an int, got True.",
        ),
        (
            lambda: simulate_k_available(FULL.int(), 1),
            TypeError,
            "simulate_k_available: `mask` must have dtype torch.bo",
        ),
        (
            lambda: simulate_k_available(FULL, 1, rows=[0]),
            TypeError,
            "simulate_k_available: `rows` must be row numbers",
        ),
        (
            lambda: simulate_mcar(FULL[0], 0.5),
            ValueError,
            "simulate_mcar: `mask` must have shape (N, M), got (3,).",
        ),
        (
            lambda: simulate_mcar(FULL, 1.5),
            ValueError,
            "simulate_mcar: `rates` must lie in [0, 1], got 1.5.",
        ),
        (
            lambda: simulate_mcar(FULL, (0.1, NAN, 0.1)),
            ValueError,
            "simulate_mcar: `rates` must lie in [0, 1], got nan.",
        ),
        (
            lambda: simulate_mcar(FULL, (0.1, 0.2)),
            ValueError,
            "one for each of the 3 modalities, got 2.",
        ),
        (
            lambda: simulate_mcar(FULL, ("x", 0, 0)),
            TypeError,
            "simulate_mcar: `rates` must be numbers, got 'x'.",
        ),
        (
            lambda: simulate_mcar(FULL, None),
            TypeError,
            "simulate_mcar: `rates` must be numbers, got None.",
        ),
        (
            lambda: simulate_mcar(FULL, True),
            TypeError,
            "simulate_mcar: `rates` must be numbers, got True.",
        ),
        (
            lambda: simulate_mcar(FULL, {"a": 0.5}),
            TypeError,
            "simulate_mcar: a mapping of `rates` needs `modalities`",
        ),
        (
            lambda: simulate_mcar(FULL, 0.5, modalities=["a"]),
            ValueError,
            "name the 3 columns of `mask`, got 1 names.",
        ),
        (
            lambda: simulate_mcar(FULL, {"z": 0.5}, modalities=NAMES),
            KeyError,
            "`rates` has modalities ['z'] that are",
        ),
        (
            lambda: simulate_mcar(FULL, 0.5, rows=torch.tensor([3])),
            ValueError,
            "`rows` must lie in [0, 3), got values",
        ),
        (
            lambda: mar(driver="z"),
            KeyError,
            "simulate_mar: `driver` must be one of ('a', 'b', 'c'), got 'z'.",
        ),
        (
            lambda: mar(modalities=["a"]),
            ValueError,
            "must name the driver and at least one other, got ('a',).",
        ),
        (
            lambda: mar({"a": 0.2}),
            ValueError,
            "simulate_mar: the rate of the driver 'a' must be 0, got 0.2. If the",
        ),
        (
            lambda: mar(driver="b"),
            TypeError,
            "simulate_mar, modality 'b': features of dtype torch.int64 need a `score`",
        ),
        (
            lambda: mar(driver="c"),
            ValueError,
            "modality 'c': the scores are all 1.0 up to rounding, so no rate can depend on them.",
        ),
        (
            lambda: mar(features={**FEATURES, "a": None}),
            KeyError,
            "simulate_mar: `features` lacks 'a'; the rates depend on",
        ),
        (
            lambda: mar(strength="x"),
            TypeError,
            "simulate_mar: `strength` must be a number, got 'x'.",
        ),
        (
            lambda: mnar(strength=True),
            TypeError,
            "simulate_mnar: `strength` must be a number, got True.",
        ),
        (
            lambda: mnar(strength=math.inf),
            ValueError,
            "simulate_mnar: `strength` must be finite, got inf.",
        ),
        (
            lambda: mnar(score=3),
            TypeError,
            "`score` must be a function or name -> function, got int.",
        ),
        (
            lambda: mnar(score={"z": len}),
            KeyError,
            "`score` has modalities ['z'] that are not among",
        ),
        (
            lambda: mnar(score=lambda x: x),
            ValueError,
            "modality 'b': `score` must return a tensor of shape (3,), got (3, 2)",
        ),
        (
            lambda: mnar({"a": 0.5}, score=len),
            ValueError,
            "modality 'a': `score` must return a tensor of shape (3,), got int",
        ),
        (
            lambda: mnar(
                {"a": 0.5}, {"a": torch.tensor([1.0, NAN, 2.0])}, rows=torch.tensor([2, 1])
            ),
            ValueError,
            "simulate_mnar, modality 'a': the scores must be finite, got nan first in row 1.",
        ),
        (
            lambda: mnar(features={"z": FULL}),
            KeyError,
            "simulate_mnar: `features` has modalities ['z'] that are not",
        ),
        (
            lambda: mnar(features={"a": [1]}),
            TypeError,
            "simulate_mnar: the feature of 'a' must be a tensor (N, ...) or",
        ),
        (
            lambda: mnar(features={}),
            ValueError,
            "simulate_mnar: modalities must have equal numbers of rows, at least one",
        ),
        (
            lambda: mnar(mask=FULL[:2]),
            ValueError,
            "simulate_mnar: `mask` must have shape (N, M) = (3, 3), got (2, 3).",
        ),
        (
            lambda: mnar(modalities="abc"),
            TypeError,
            "simulate_mnar: `modalities` must be a sequence of names",
        ),
    ],
)
def test_invalid_arguments_of_a_simulator_raise_an_error_with_the_value(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_mapping_is_a_mask_in_any_order_of_its_keys():
    features = {"a": normal(seeded(0), 6), "b": normal(seeded(1), 6)}
    mask = random_mask(seeded(2), 6, 2)
    columns = {"b": mask[:, 1], "a": mask[:, 0]}
    results = [
        simulate_mnar(
            features, given_mask, 0.5, modalities=["a", "b"], strength=1.0, generator=seeded(3)
        ).mask
        for given_mask in (mask, columns)
    ]
    assert torch.equal(*results)
