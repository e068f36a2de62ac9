"""Laws of masks: derived from features, reduced by an exact share, grouped by pattern."""

import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod import (
    SimulatedMissing,
    mask_from_features,
    missingness,
    pattern_name,
    rows_by_pattern,
    simulate_missing,
)
from tests.strategies import NAN, NUM_MODALITIES, generators, laws, normal, random_mask, seeded

RATES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.5, 1.0]))


@laws
@given(
    generators(),
    st.integers(0, 9),
    NUM_MODALITIES,
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
)
def test_rows_of_only_nan_are_missing_in_the_mask(generator, num_rows, num_modalities, dtype):
    mask = random_mask(generator, num_rows, num_modalities)
    names = [f"m{index}" for index in range(num_modalities)]
    features = {name: normal(generator, num_rows, 2, 3, dtype=dtype) for name in names}
    for index, name in enumerate(names):
        features[name][~mask[:, index]] = NAN
    assert torch.equal(mask_from_features(features, names), mask)
    assert torch.equal(mask_from_features(features, names[::-1]), mask.flip(1))
    shuffled = dict(reversed(features.items()))
    assert torch.equal(mask_from_features(shuffled, names), mask)


def test_none_and_absent_names_are_missing_everywhere_and_integers_are_all_available():
    features = {"a": None, "b": torch.tensor([1.0, NAN]), "c": torch.tensor([[1], [0]])}
    expected = [[False, True, False, True], [False, False, False, True]]
    assert mask_from_features(features, ["a", "b", "absent", "c"]).tolist() == expected
    assert mask_from_features({}, ["a", "b"], num_rows=2).tolist() == [
        [False, False],
        [False, False],
    ]
    assert mask_from_features({"a": None}, ["a"], num_rows=0).shape == (0, 1)
    assert mask_from_features({"a": torch.zeros(2, 0)}, ["a"]).tolist() == [[True], [True]]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
def test_blocks_of_rows_change_nothing_and_errors_name_the_row_of_the_table(
    monkeypatch, rows_at_once
):
    monkeypatch.setattr(missingness.arrays, "ROWS_AT_ONCE", rows_at_once)
    x = normal(seeded(0), 5, 2)
    x[[1, 4]] = NAN
    assert mask_from_features({"a": x}, ["a"])[:, 0].tolist() == [True, False, True, True, False]
    x[3, 1] = NAN
    with pytest.raises(
        ValueError,
        match=r"modality 'a' has NaN in part of a row, first in row 3\. A missing modality",
    ):
        mask_from_features({"a": x}, ["a"])


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_an_infinity_is_an_error(value):
    x = torch.zeros(4, 2)
    x[2, 0] = value
    with pytest.raises(
        ValueError, match=r"modality 'a' has an infinity, first in row 2\. Clip or drop it first\."
    ):
        mask_from_features({"a": x}, ["a"])


@pytest.mark.parametrize(
    ("features", "modalities", "options", "error", "message"),
    [
        (
            {"x": None},
            ["a"],
            {},
            KeyError,
            "`features` has modalities ['x'] that are not among ('a',). Add them",
        ),
        (
            {"a": None},
            ["a"],
            {},
            ValueError,
            "no modality is given, so the number of rows is unknown. Pass `num_rows`",
        ),
        (
            {"a": torch.ones(2), "b": torch.ones(3)},
            ["a", "b"],
            {},
            ValueError,
            "rows, got {'a': 2, 'b': 3}.",
        ),
        (
            {"a": torch.ones(2)},
            ["a"],
            {"num_rows": 3},
            ValueError,
            "rows, got {'a': 2} (num_rows=3).",
        ),
        (
            {"a": [1.0]},
            ["a"],
            {},
            TypeError,
            "the feature of 'a' must be a tensor (N, ...) or None, got list.",
        ),
        (
            {"a": torch.tensor(1.0)},
            ["a"],
            {},
            TypeError,
            "must be a tensor (N, ...) or None, got a scalar.",
        ),
        (
            {},
            "text",
            {},
            TypeError,
            "must be a sequence of names, got the string 'text'. Use `['text']` for one",
        ),
        ({}, [], {}, ValueError, "`modalities` must name at least one modality, got none."),
        ({}, [3], {}, TypeError, "modality names must be strings, got 3."),
        ({}, ["a", "a"], {}, ValueError, "modality names must be distinct, got ('a', 'a')."),
    ],
)
def test_invalid_features_are_an_error(features, modalities, options, error, message):
    with pytest.raises(error, match=f"mask_from_features: .*{re.escape(message)}"):
        mask_from_features(features, modalities, **options)


@laws
@given(st.data(), generators(), st.integers(0, 12), NUM_MODALITIES, RATES, st.integers(1, 4))
def test_simulated_missingness_is_exact(
    data, generator, num_rows, num_modalities, rate, num_missing
):
    before = random_mask(generator, num_rows, num_modalities, 0.7)
    chosen = data.draw(
        st.one_of(st.none(), st.permutations(range(num_rows)).map(lambda p: p[: num_rows // 2 + 1]))
    )
    rows = None if chosen is None else torch.tensor(chosen, dtype=torch.int64)
    kept = before.clone()
    after, shortfall = simulate_missing(
        before, rate, rows=rows, num_missing=num_missing, generator=generator
    )
    assert torch.equal(before, kept)
    assert not (after & ~before).any()

    given_rows = range(num_rows) if chosen is None else chosen
    eligible = [n for n in given_rows if before[n].sum() > num_missing]
    wanted = math.floor(rate * len(given_rows) + 0.5)
    lost = (before & ~after).sum(dim=1)
    changed = lost.nonzero()[:, 0].tolist()
    assert set(changed) <= set(eligible)
    assert len(changed) == min(wanted, len(eligible))
    assert shortfall == wanted - len(changed)
    assert set(lost[changed].tolist()) <= {num_missing}
    assert (after.any(dim=1) == before.any(dim=1)).all()


@pytest.mark.parametrize(
    ("num_rows", "rate", "count"),
    [(1, 0.5, 1), (5, 0.5, 3), (3, 0.5, 2), (10, 0.25, 3), (10, 0.24, 2), (7, 0.0, 0), (7, 1.0, 7)],
)
def test_half_a_row_is_rounded_up(num_rows, rate, count):
    before = torch.ones(num_rows, 2, dtype=torch.bool)
    assert (~simulate_missing(before, rate, generator=seeded(0)).mask).sum() == count


def test_lost_rows_and_modalities_are_drawn_uniformly():
    """Each of 4 eligible rows is drawn with probability 1/2 and loses a uniform modality."""
    before = torch.tensor(
        [[True, True, True], [True, True, False], [False, True, True], [True, True, True]]
    )
    before = torch.cat([before, torch.tensor([[True, False, False]])])
    generator, trials = seeded(0), 4000
    lost = Counter()
    for _ in range(trials):
        after, shortfall = simulate_missing(before, 0.4, generator=generator)
        assert shortfall == 0
        lost.update((int(n), int(m)) for n, m in (before & ~after).nonzero())
    assert sum(lost.values()) == 2 * trials
    assert {n for n, _ in lost} == {0, 1, 2, 3}
    for n in range(4):
        for m in range(3):
            expected = 0.5 / before[n].sum().item() if before[n, m] else 0.0
            assert abs(lost[n, m] / trials - expected) < 5 * math.sqrt(0.25 / trials)


def test_pairs_of_modalities_are_lost_uniformly():
    before = torch.ones(6000, 4, dtype=torch.bool)
    after, _ = simulate_missing(before, 1.0, num_missing=2, generator=seeded(1))
    counts = Counter(map(tuple, after.tolist()))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_if_too_few_rows_are_eligible_all_lose_and_the_shortfall_is_returned():
    before = torch.tensor([[True, True], [True, False], [False, True], [True, False]])
    result = simulate_missing(before, 1.0, generator=seeded(0))
    assert isinstance(result, SimulatedMissing)
    assert result.shortfall == 3
    assert result.mask.sum(dim=1).tolist() == [1, 1, 1, 1]
    nothing = simulate_missing(torch.ones(5, 1, dtype=torch.bool), 0.5)
    assert nothing.mask.all()
    assert nothing.shortfall == 3
    assert simulate_missing(before, 1.0, rows=torch.zeros(0, dtype=torch.int64)).shortfall == 0


def test_an_explicit_generator_is_reproducible_and_leaves_the_global_one_untouched():
    before = torch.ones(50, 3, dtype=torch.bool)
    state = torch.get_rng_state()
    masks = [simulate_missing(before, 0.5, generator=seeded(seed)).mask for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


FULL = torch.ones(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("mask", "rate", "options", "error", "message"),
    [
        ([[True]], 0.5, {}, TypeError, "`mask` must be a tensor, got list."),
        (FULL[0], 0.5, {}, ValueError, "`mask` must have shape (N, M), got (3,)."),
        (
            FULL.float(),
            0.5,
            {},
            TypeError,
            "`mask` must have dtype torch.bool, got torch.float32. Use `mask.bool()`",
        ),
        (FULL, 1.5, {}, ValueError, "`rate` must lie in [0, 1], got 1.5."),
        (FULL, -0.1, {}, ValueError, "`rate` must lie in [0, 1], got -0.1."),
        (FULL, NAN, {}, ValueError, "`rate` must lie in [0, 1], got nan."),
        (FULL, 0.5, {"num_missing": 0}, ValueError, "`num_missing` must be at least 1, got 0."),
        (
            FULL,
            0.5,
            {"rows": torch.tensor([0.0])},
            TypeError,
            "int64 of shape (n,), got torch.float32 of shape (1,).",
        ),
        (
            FULL,
            0.5,
            {"rows": torch.tensor([[0]])},
            TypeError,
            "int64 of shape (n,), got torch.int64 of shape (1, 1).",
        ),
        (
            FULL,
            0.5,
            {"rows": torch.tensor([0, 4])},
            ValueError,
            "must lie in [0, 4), got values from 0 to 4.",
        ),
        (
            FULL,
            0.5,
            {"rows": torch.tensor([-1, 2])},
            ValueError,
            "must lie in [0, 4), got values from -1 to 2.",
        ),
        (
            FULL,
            0.5,
            {"rows": torch.tensor([1, 1])},
            ValueError,
            "`rows` must be distinct, got some twice.",
        ),
    ],
)
def test_invalid_arguments_of_simulate_missing_are_an_error(mask, rate, options, error, message):
    with pytest.raises(error, match=f"simulate_missing: .*{re.escape(message)}"):
        simulate_missing(mask, rate, **options)


@laws
@given(generators(), st.integers(0, 20), st.integers(1, 4))
def test_patterns_partition_the_rows(generator, num_rows, num_modalities):
    mask = random_mask(generator, num_rows, num_modalities, 0.5)
    groups = rows_by_pattern(mask)
    assert sorted(n for rows in groups.values() for n in rows.tolist()) == list(range(num_rows))
    for pattern, rows in groups.items():
        assert len(rows) > 0
        assert rows.dtype == torch.int64
        assert rows.tolist() == sorted(rows.tolist())
        assert all(tuple(mask[n].tolist()) == pattern for n in rows)
    sizes = [sum(pattern) for pattern in groups]
    assert sizes == sorted(sizes, reverse=True)


def test_patterns_are_sorted_by_size_then_by_the_earlier_modality():
    mask = torch.tensor([[False, False], [False, True], [True, False], [True, True]])
    assert list(rows_by_pattern(mask)) == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]
    with pytest.raises(
        ValueError, match=r"rows_by_pattern: `mask` must have shape \(N, M\), got \(2,\)\."
    ):
        rows_by_pattern(mask[0])
    with pytest.raises(TypeError, match=r"rows_by_pattern: `mask` must have dtype torch\.bool"):
        rows_by_pattern(mask.int())


def test_a_pattern_is_named_by_its_available_modalities():
    names = ["text", "image", "audio"]
    assert pattern_name((True, True, True), names) == "text+image+audio"
    assert pattern_name((False, True, False), names) == "image"
    assert pattern_name((False, False, False), names) == "none"
    with pytest.raises(
        ValueError, match=r"pattern_name: `pattern` has 2 entries for 3 modalities\."
    ):
        pattern_name((True, False), names)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: simulate_missing(torch.ones(2, 2).bool(), 0.5, rows=[0]),
            TypeError,
            "simulate_missing: `rows` must be row numbers, an int64 tensor of shape (n,), got "
            "list.",
        ),
        (
            lambda: simulate_missing(torch.ones(2, 2).bool(), 0.5, num_missing=1.0),
            TypeError,
            "simulate_missing: `num_missing` must be an int, got 1.0.",
        ),
        (
            lambda: simulate_missing(torch.ones(2, 2).bool(), 0.5, num_missing=True),
            TypeError,
            "simulate_missing: `num_missing` must be an int, got True.",
        ),
        (
            lambda: mask_from_features({}, ["text"], num_rows=-1),
            ValueError,
            "mask_from_features: `num_rows` must not be negative, got -1.",
        ),
        (
            lambda: rows_by_pattern(torch.ones(3, 0).bool()),
            ValueError,
            "rows_by_pattern: `mask` must have shape (N, M) with at least one modality, got (3, "
            "0).",
        ),
    ],
)
def test_a_wrong_type_or_size_is_an_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
