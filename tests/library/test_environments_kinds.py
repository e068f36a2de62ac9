"""Laws of `dominance` and of the other environments: subsets, given rows and unions."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod import CyclicMixupEnvs, DirichletEnvs, RandomSubsetEnvs, UniformEnvs, fuse
from invmod.environments import (
    FixedEnvs,
    GivenEnvs,
    KOfAvailableEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    UnionEnvs,
    dominance,
)
from invmod.testing import (
    assert_on_simplex,
    assert_permutation_equivariant,
    assert_permutation_invariant,
)
from tests.library.torch_versions import needs_torch
from tests.strategies import (
    NAN,
    NUM_MODALITIES,
    NUM_ROWS,
    generators,
    laws,
    normal,
    random_mask,
    seeded,
    simplex_rows,
)

SHAPES = st.sampled_from([(), (0,), (3,), (2, 3)])
SUBSETS = {
    "one-hot": OneHotEnvs,
    "leave-one-out": LeaveOneOutEnvs,
    "random": lambda m: RandomSubsetEnvs(m, rates=[0.2 + 0.1 * j for j in range(m)], num_envs=3),
    "k of available": lambda m: KOfAvailableEnvs(m, k=(m + 1) // 2, num_envs=2),
    "union": lambda m: UnionEnvs(OneHotEnvs(m), RandomSubsetEnvs(m, num_envs=2)),
    "fixed": lambda m: FixedEnvs(RandomSubsetEnvs(m, num_envs=4), generator=seeded(m)),
}
KINDS = SUBSETS | {
    "dirichlet": lambda m: DirichletEnvs(m, 0.3, num_draws=2),
    "uniform": UniformEnvs,
    "given": lambda m: GivenEnvs(simplex_rows(seeded(m), 4, m)),
    "union of all": lambda m: UnionEnvs(CyclicMixupEnvs(m), UniformEnvs(m), LeaveOneOutEnvs(m)),
    "fixed mixup": lambda m: FixedEnvs(CyclicMixupEnvs(m), generator=seeded(m)),
}
STATE = {"fixed", "fixed mixup", "given", "uniform", "one-hot", "leave-one-out"}


# --- the protocol


@laws
@given(generators(), st.sampled_from(sorted(KINDS)), st.integers(2, 8), SHAPES)
def test_every_kind_draws_rows_on_the_simplex(generator, kind, num_modalities, shape):
    envs = KINDS[kind](num_modalities)
    assert envs.num_modalities == num_modalities
    for dtype in (torch.float32, torch.float64):
        weights = envs.sample(shape, generator=generator, dtype=dtype)
        assert weights.dtype == dtype
        assert weights.shape == (*shape, envs.num_envs, num_modalities)
        assert_on_simplex(weights)


@laws
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SUBSETS)), st.integers(2, 8), SHAPES)
def test_masks_and_weights_of_one_seed_are_the_same_subsets(seed, kind, num_modalities, shape):
    envs = SUBSETS[kind](num_modalities)
    masks = envs.sample_masks(shape, generator=seeded(seed))
    weights = envs.sample(shape, generator=seeded(seed), dtype=torch.float64)
    assert masks.dtype == torch.bool
    assert masks.shape == (*shape, envs.num_envs, num_modalities)
    assert masks.any(dim=-1).all()
    expected = masks.double() / masks.double().sum(dim=-1, keepdim=True)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_draw_depends_only_on_its_generator(kind):
    envs = KINDS[kind](3)
    state = torch.get_rng_state()
    first = envs.sample((20,), generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(envs.sample((20,), generator=seeded(1)), first)
    assert torch.equal(envs.sample((20,), generator=seeded(2)), first) == (kind in STATE)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        by_default = envs.sample((4,))
        torch.manual_seed(5)
        assert torch.equal(envs.sample((4,)), by_default)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sample_is_on_the_requested_device_and_owns_its_memory(kind):
    envs = KINDS[kind](3)
    assert envs.sample(device="meta").device.type == "meta"
    if kind in SUBSETS:
        assert envs.sample_masks((2,), device="meta").device.type == "meta"
    weights = envs.sample((2,), generator=seeded(0))
    # Writing into a sample changes neither its other entries nor the next sample.
    weights[0] = NAN
    assert not weights[1].isnan().any()
    assert not envs.sample((2,), generator=seeded(0)).isnan().any()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_rejects_wrong_shapes_and_dtypes(kind):
    envs = KINDS[kind](3)
    with pytest.raises(
        TypeError, match=r"\.sample: `dtype` must be floating point, got torch.int64"
    ):
        envs.sample(dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\.sample: `sample_shape` must not be negative"):
        envs.sample((2, -1))
    if kind in SUBSETS and kind != "fixed":
        with pytest.raises(
            ValueError, match=r"\.sample_masks: `sample_shape` must not be negative"
        ):
            envs.sample_masks((-1,))


def test_repr_of_every_kind_shows_its_arguments():
    shown = {kind: repr(make(3)) for kind, make in KINDS.items()}
    assert shown["one-hot"] == "OneHotEnvs(3)"
    assert shown["leave-one-out"] == "LeaveOneOutEnvs(3)"
    assert shown["uniform"] == "UniformEnvs(3)"
    assert shown["k of available"] == "KOfAvailableEnvs(3, k=2, num_envs=2)"
    assert shown["fixed"] == "FixedEnvs(RandomSubsetEnvs(3, rates=(0.5, 0.5, 0.5), num_envs=4))"
    assert (
        shown["union"]
        == "UnionEnvs(OneHotEnvs(3), RandomSubsetEnvs(3, rates=(0.5, 0.5, 0.5), num_envs=2))"
    )
    assert shown["dirichlet"].startswith("DirichletEnvs(3, alpha=0.3, num_draws=2")
    assert repr(GivenEnvs([[0.5, 0.5]])) == "GivenEnvs([[0.5, 0.5]])"


# --- Dirichlet, given, uniform, fixed


def test_independent_draws_match_the_number_of_cyclic_rows_without_shifts():
    for options in ({}, {"num_draws": 3}, {"include_uniform": False, "num_draws": 2}):
        cyclic, independent = CyclicMixupEnvs(4, 0.5, **options), DirichletEnvs(4, 0.5, **options)
        assert independent.num_envs == cyclic.num_envs
        rows = independent.sample((50,), generator=seeded(0), dtype=torch.float64)
        rows = rows[:, int(independent.include_uniform) :].flatten(0, 1)
        assert len(rows.sort(dim=1).values.unique(dim=0)) == len(rows)


def test_independent_draws_have_the_moments_of_a_dirichlet_with_min_weight():
    alpha, floor, n = np.array([0.5, 1.0, 2.0]), 0.05, 40_000
    envs = DirichletEnvs(3, alpha.tolist(), include_uniform=False, min_weight=floor)
    rows = envs.sample((n,), generator=seeded(3), dtype=torch.float64).flatten(0, 1).numpy()
    mean = alpha / alpha.sum()
    covariance = (np.diag(mean) - np.outer(mean, mean)) / (alpha.sum() + 1) * (1 - 3 * floor) ** 2
    sigma = np.sqrt(np.diag(covariance) / len(rows))
    assert (np.abs(rows.mean(axis=0) - (floor + (1 - 3 * floor) * mean)) < 5 * sigma).all()
    np.testing.assert_allclose(np.cov(rows.T), covariance, rtol=0.03)
    assert (rows >= floor).all()
    pairs = rows.reshape(n, 3, 3)[:, :2, 0]  # two rows of one sample are independent
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize("num_modalities", [1, 3, 8])
def test_the_uniform_row_is_exact(num_modalities):
    rows = UniformEnvs(num_modalities).sample((2,), dtype=torch.float64)
    assert torch.equal(
        rows, torch.full((2, 1, num_modalities), 1 / num_modalities, dtype=torch.float64)
    )


def test_given_rows_are_returned():
    rows = [[0.25, 0.75], [1.0, 0.0]]
    for weights in (
        rows,
        torch.tensor(rows),
        np.array(rows),
        torch.tensor(rows, dtype=torch.bfloat16),
    ):
        assert torch.equal(GivenEnvs(weights).sample(), torch.tensor(rows))
    thirds = torch.full((1, 3), 1 / 3, dtype=torch.bfloat16)  # sums to 1.002
    with pytest.raises(ValueError, match=r"rows \[0\] do not"):
        GivenEnvs(thirds)


def test_given_rows_are_divided_by_their_sums():
    """Sums within the tolerance are accepted, and the stored rows lie on the simplex exactly."""
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    scales = torch.tensor([[1 + 9e-5], [1 - 9e-5]], dtype=torch.float64)
    envs = GivenEnvs(rows * scales)
    torch.testing.assert_close(envs.weights, rows, rtol=0, atol=1e-15)
    torch.testing.assert_close(
        envs.sample(dtype=torch.float64).sum(dim=-1), torch.ones(2).double(), rtol=0, atol=1e-15
    )


def test_given_rows_are_constants_without_a_graph():
    rows = torch.tensor([[0.25, 0.75]], requires_grad=True)
    envs = GivenEnvs(rows)
    assert not envs.weights.requires_grad
    assert not envs.sample().requires_grad


def test_given_rows_are_copied():
    rows = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    envs = GivenEnvs(rows)
    rows[0, 0] = 7.0
    assert envs.weights[0, 0] == 0.25


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([[0.5, 0.6]], ValueError, "rows [0] do not, the first is [0.5, 0.6]"),
        ([[0.5, 0.5], [1.5, -0.5]], ValueError, "rows [1] do not"),
        ([[NAN, 1.0]], ValueError, "rows [0] do not"),
        ([0.5, 0.5], ValueError, "shape (E, M) with E and M at least 1, got (2,)"),
        (torch.zeros(0, 2), ValueError, "shape (E, M) with E and M at least 1, got (0, 2)"),
        ("half", TypeError, "`weights` must be (E, M) numbers"),
        ([[0.5, 0.5], [1.0]], TypeError, "`weights` must be (E, M) numbers"),
    ],
)
def test_given_rows_off_the_simplex_are_errors(weights, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GivenEnvs(weights)


def test_a_fixed_draw_is_reproducible_from_its_seed_or_its_weights():
    source = CyclicMixupEnvs(3, 0.2)
    envs = FixedEnvs(source, generator=seeded(4))
    assert torch.equal(
        envs.weights, GivenEnvs(source.sample(generator=seeded(4), dtype=torch.float64)).weights
    )
    assert torch.equal(envs.sample((5,))[3], envs.sample())
    again = FixedEnvs(source, generator=seeded(4))
    assert torch.equal(again.sample(), envs.sample())
    assert torch.equal(GivenEnvs(envs.weights).sample(), envs.sample())
    with pytest.raises(
        TypeError, match=r"FixedEnvs: `generator` must be a torch.Generator, got NoneType"
    ):
        FixedEnvs(source, generator=None)
    with pytest.raises(
        TypeError,
        match=r"FixedEnvs.sample_masks: CyclicMixupEnvs\(3, .* has weights only.*Use subsets",
    ):
        envs.sample_masks()


# --- subsets


@pytest.mark.parametrize("num_modalities", range(2, 9))
def test_one_hot_and_leave_one_out_masks_are_complements(num_modalities):
    one_hot, leave_one_out = OneHotEnvs(num_modalities), LeaveOneOutEnvs(num_modalities)
    assert torch.equal(one_hot.sample_masks(), torch.eye(num_modalities, dtype=torch.bool))
    assert torch.equal(leave_one_out.sample_masks((2,)), ~one_hot.sample_masks((2,)))


def test_the_smallest_numbers_of_modalities_work_or_are_errors():
    assert OneHotEnvs(1).sample().tolist() == [[1.0]]
    with pytest.raises(ValueError, match="LeaveOneOutEnvs: `num_modalities` must be at least 2"):
        LeaveOneOutEnvs(1)
    assert RandomSubsetEnvs(1, rates=0.99, num_envs=50).sample_masks().all()
    assert KOfAvailableEnvs(1, k=1).sample().tolist() == [[1.0]]


@pytest.mark.parametrize(
    "rates",
    [
        (0.5, 0.5, 0.5),
        (0.9, 0.8, 0.95),
        (1.0, 0.3, 1.0),
        (0.0, 0.7, 0.2),
        (0.999, 1.0, 1.0),
        (0.3,),
        (1.0, 0.9),
    ],
)
def test_random_subsets_are_bernoulli_draws_conditioned_on_not_all_missing(rates):
    """The frequency of every pattern is within five standard deviations of its probability."""
    n = 40_000
    masks = RandomSubsetEnvs(len(rates), rates=rates, num_envs=2).sample_masks(
        (n // 2,), generator=seeded(11)
    )
    counts = dict.fromkeys(itertools.product((False, True), repeat=len(rates)), 0)
    for pattern in map(tuple, masks.flatten(0, 1).tolist()):
        counts[pattern] += 1
    r = np.array(rates)
    for pattern, count in counts.items():
        kept = np.array(pattern)
        p = np.where(kept, 1 - r, r).prod() / (1 - r.prod()) if kept.any() else 0.0
        assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-9, pattern


def test_modalities_in_keep_are_always_available_and_the_others_bernoulli():
    envs = RandomSubsetEnvs(3, rates=0.8, keep=(1,), num_envs=1)
    assert envs.rates == (0.8, 0.0, 0.8)
    masks = envs.sample_masks((20_000,), generator=seeded(0))[:, 0]
    assert masks[:, 1].all()
    assert ((masks.double().mean(dim=0)[[0, 2]] - 0.2).abs() < 5 * math.sqrt(0.16 / 20_000)).all()
    assert RandomSubsetEnvs(2, rates=1.0, keep=(0,)).sample_masks().tolist() == [[True, False]]


@laws
@given(generators(), NUM_MODALITIES, NUM_ROWS, st.data())
def test_k_of_available_keeps_k_modalities_that_the_sample_has(
    generator, num_modalities, num_rows, data
):
    k = data.draw(st.integers(1, num_modalities))
    mask = random_mask(generator, num_rows, num_modalities, 0.5)
    envs = KOfAvailableEnvs(num_modalities, k=k, num_envs=3)
    masks = envs.sample_masks((2,), mask=mask, generator=generator)
    assert masks.shape == (2, num_rows, 3, num_modalities)
    assert not (masks & ~mask[:, None]).any()
    expected = mask.sum(dim=1).clamp(max=k)
    assert torch.equal(masks.sum(dim=-1), expected[:, None].expand(2, num_rows, 3))
    weights = envs.sample(mask=mask, generator=generator, dtype=torch.float64)
    assert weights.shape == (num_rows, 3, num_modalities)
    assert_on_simplex(weights, atol=1e-12)
    assert torch.equal(
        (weights > 0) & mask.any(dim=1)[:, None, None], weights.bool() & mask[:, None]
    )
    assert (weights[~mask.any(dim=1)] == 1 / num_modalities).all()


def test_k_of_available_draws_all_subsets_equally_often():
    n, mask = 30_000, torch.tensor([[True, False, True, True]])
    masks = KOfAvailableEnvs(4, k=2).sample_masks((n,), mask=mask, generator=seeded(2))[:, 0, 0]
    patterns, counts = masks.unique(dim=0, return_counts=True)
    assert len(patterns) == 3
    assert ((counts - n / 3).abs() < 5 * math.sqrt(n * 2 / 9)).all()


@needs_torch("2.8", "a default device in every function")
def test_k_of_available_returns_the_device_of_its_mask():
    mask = torch.ones(2, 3, dtype=torch.bool)
    envs = KOfAvailableEnvs(3, k=1)
    assert envs.sample(mask=mask, device="meta").device.type == "meta"
    with torch.device("meta"):
        assert envs.sample_masks(mask=mask).device.type == "cpu"
        assert envs.sample_masks().device.type == "meta"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: OneHotEnvs(0),
            ValueError,
            "OneHotEnvs: `num_modalities` must be at least 1, got 0",
        ),
        (
            lambda: UniformEnvs(2.0),
            TypeError,
            "UniformEnvs: `num_modalities` must be an int, got 2.0",
        ),
        (
            lambda: LeaveOneOutEnvs(True),
            TypeError,
            "LeaveOneOutEnvs: `num_modalities` must be an int, got True",
        ),
        (
            lambda: DirichletEnvs(3, -1.0),
            ValueError,
            "DirichletEnvs: `alpha` must be finite and positive, got -1.0",
        ),
        (
            lambda: DirichletEnvs(3, min_weight=0.4),
            ValueError,
            "DirichletEnvs: `min_weight` must lie in [0, 1/M)",
        ),
        (
            lambda: RandomSubsetEnvs(2, num_envs=0),
            ValueError,
            "RandomSubsetEnvs: `num_envs` must be at least 1",
        ),
        (
            lambda: RandomSubsetEnvs(2, rates=[0.5]),
            ValueError,
            "`rates` must be one number or 2 of them, got 1",
        ),
        (lambda: RandomSubsetEnvs(2, rates=1.5), ValueError, "`rates` must lie in [0, 1], got 1.5"),
        (lambda: RandomSubsetEnvs(2, rates=NAN), ValueError, "`rates` must lie in [0, 1], got nan"),
        (lambda: RandomSubsetEnvs(2, rates="ab"), TypeError, "`rates` must be numbers, got 'a'"),
        (
            lambda: RandomSubsetEnvs(2, rates=1.0),
            ValueError,
            "all `rates` are 1, so no modality would ever be available",
        ),
        (
            lambda: RandomSubsetEnvs(2, keep=(2,)),
            ValueError,
            "`keep` must have positions in [0, 2), got 2",
        ),
        (
            lambda: RandomSubsetEnvs(2, keep=("a",)),
            TypeError,
            "`keep` must have positions of modalities, got 'a'",
        ),
        (
            lambda: KOfAvailableEnvs(2, k=3),
            ValueError,
            "`k` must be at most `num_modalities` = 2, got 3",
        ),
        (lambda: KOfAvailableEnvs(2, k=0), ValueError, "`k` must be at least 1, got 0"),
        (
            lambda: KOfAvailableEnvs(2, k=1).sample(mask=torch.ones(3, 2)),
            TypeError,
            "KOfAvailableEnvs.sample: `mask` must be a bool tensor, got torch.float32",
        ),
        (
            lambda: KOfAvailableEnvs(2, k=1).sample_masks(mask=torch.ones(3, 4).bool()),
            ValueError,
            "KOfAvailableEnvs.sample_masks: `mask` must have shape (N, M) with M = 2, got (3, 4)",
        ),
        (lambda: UnionEnvs(), ValueError, "UnionEnvs: give at least one"),
        (
            lambda: UnionEnvs(OneHotEnvs(2)).sample(mask=torch.ones(3, 2)),
            TypeError,
            "UnionEnvs.sample: `mask` must be a bool tensor, got torch.float32.",
        ),
        (
            lambda: UnionEnvs(OneHotEnvs(2)).sample_masks(mask=torch.ones(2, 3).bool()),
            ValueError,
            "UnionEnvs.sample_masks: `mask` must have shape (N, M) with M = 2, got (2, 3).",
        ),
        (
            lambda: UnionEnvs(OneHotEnvs(2), OneHotEnvs(3)),
            ValueError,
            "the same `num_modalities`, got [2, 3]",
        ),
        (
            lambda: UnionEnvs(OneHotEnvs(2), UniformEnvs(2)).sample_masks(),
            TypeError,
            "UnionEnvs.sample_masks: UniformEnvs(2) has weights only, no masks. Use subsets such "
            "as `RandomSubsetEnvs`, or `fuse` with weights.",
        ),
    ],
)
def test_invalid_arguments_are_errors_with_a_reason(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


# --- unions, and environments of each sample


@laws
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), SHAPES)
def test_a_union_is_the_concatenation_of_its_parts(seed, num_modalities, shape):
    parts = (
        CyclicMixupEnvs(num_modalities),
        OneHotEnvs(num_modalities),
        RandomSubsetEnvs(num_modalities, num_envs=2),
    )
    generator = seeded(seed)
    expected = torch.cat([part.sample(shape, generator=generator) for part in parts], dim=-2)
    union = UnionEnvs(*parts)
    assert torch.equal(union.sample(shape, generator=seeded(seed)), expected)
    nested = UnionEnvs(UnionEnvs(*parts[:2]), parts[2])
    assert torch.equal(nested.sample(shape, generator=seeded(seed)), expected)
    assert union.num_envs == nested.num_envs == 2 * num_modalities + 3


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("method", ["sample", "sample_masks"])
def test_a_union_passes_the_mask_to_the_parts_that_take_one(method, shape):
    mask = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    available = KOfAvailableEnvs(3, k=1, num_envs=2)
    random = RandomSubsetEnvs(3, num_envs=2)
    union = UnionEnvs(random, UnionEnvs(available, OneHotEnvs(3)))
    drawn = getattr(union, method)(shape, mask=mask, generator=seeded(0))
    assert drawn.shape == (*shape, 3, 7, 3)
    # The draws are those of the parts in turn; rows that do not depend on the sample are repeated.
    generator = seeded(0)
    shared = getattr(random, method)(shape, generator=generator)
    own = getattr(available, method)(shape, mask=mask, generator=generator)
    for n in range(3):
        assert torch.equal(drawn[..., n, :2, :], shared)
        assert torch.equal(drawn[..., n, 2:4, :], own[..., n, :, :])
        assert torch.equal(drawn[..., n, 4:, :] > 0, torch.eye(3).bool().expand(*shape, 3, 3))
    assert not (own.bool() & ~mask[:, None]).any()
    assert getattr(union, method)(shape).shape == (*shape, 7, 3)


def test_a_union_follows_the_device_of_the_mask():
    mask = torch.ones(2, 3, dtype=torch.bool)
    union = UnionEnvs(UniformEnvs(3), KOfAvailableEnvs(3, k=2))
    with torch.device("meta"):
        assert union.sample(mask=mask).device.type == "cpu"
        assert union.sample(mask=mask, device="meta").is_meta


@laws
@given(generators(), st.sampled_from(sorted(KINDS)), st.integers(2, 5), NUM_ROWS)
def test_environments_per_sample_fuse_like_each_sample_alone(
    generator, kind, num_modalities, num_rows
):
    envs = KINDS[kind](num_modalities)
    z = normal(generator, num_rows, num_modalities, 3)
    mask = random_mask(generator, num_rows, num_modalities)
    weights = envs.sample((num_rows,), generator=generator, dtype=torch.float64)
    h = fuse(z, weights, mask)
    assert h.shape == (envs.num_envs, num_rows, 3)
    for n in range(num_rows):
        torch.testing.assert_close(
            h[:, n], fuse(z[n : n + 1], weights[n], mask[n : n + 1])[:, 0], rtol=0, atol=1e-12
        )


# --- dominance


@laws
@given(generators(), st.integers(1, 8), st.integers(1, 9))
def test_dominance_equals_a_loop(generator, num_modalities, num_rows):
    weights = simplex_rows(generator, num_rows, num_modalities)
    weights[0] = 1 / num_modalities  # a tie of all modalities
    share, largest, distance = np.zeros(num_modalities), 0.0, 0.0
    for row in weights.numpy():
        winners = np.flatnonzero(row == row.max())
        share[winners] += 1 / len(winners) / num_rows
        largest += row.max() / num_rows
        distance += np.abs(row - 1 / num_modalities).sum() / 2 / num_rows
    result = dominance(weights.reshape(1, num_rows, num_modalities))
    np.testing.assert_allclose(result.share, share, atol=1e-12)
    np.testing.assert_allclose(result.largest, largest, atol=1e-12)
    np.testing.assert_allclose(result.distance, distance, atol=1e-12)
    assert_permutation_equivariant(lambda weights: dominance(weights).share, weights, dim=1)
    assert_permutation_invariant(lambda weights: dominance(weights).largest, weights, dim=0)


def test_dominance_of_the_kinds_has_known_values():
    cyclic = dominance(
        CyclicMixupEnvs(4, 0.1, include_uniform=False).sample((20,), generator=seeded(0))
    )
    torch.testing.assert_close(cyclic.share, torch.full((4,), 0.25, dtype=torch.float64))
    one_hot = dominance(OneHotEnvs(4).sample())
    assert one_hot.largest == 1
    assert one_hot.distance == 0.75
    assert dominance(UniformEnvs(4).sample()).distance == 0
    assert dominance(torch.tensor([0.75, 0.25])).share.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (
            torch.ones(2, 2, dtype=torch.int64),
            TypeError,
            "must be a floating-point tensor, got torch.int64",
        ),
        ([[1.0]], TypeError, "must be a floating-point tensor, got list"),
        (torch.zeros(0, 3), ValueError, "with at least one row, got (0, 3)"),
        (torch.tensor(1.0), ValueError, "with at least one row, got ()"),
        (torch.tensor([[NAN, 1.0]]), ValueError, "contains a row with NaN"),
    ],
)
def test_dominance_of_invalid_weights_is_an_error(weights, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dominance(weights)


# --- integers and rates of NumPy


def test_integers_of_numpy_are_counts_and_positions():
    two, three = np.int64(2), np.int8(3)
    envs = (
        CyclicMixupEnvs(three, num_draws=two),
        DirichletEnvs(three, num_draws=two),
        UniformEnvs(three),
        OneHotEnvs(three),
        LeaveOneOutEnvs(three),
        RandomSubsetEnvs(three, keep=(np.int32(1),), num_envs=two),
        KOfAvailableEnvs(three, k=two, num_envs=two),
    )
    for env in envs:
        assert type(env.num_envs) is type(env.num_modalities) is int
        assert env.sample((two,)).shape == env.sample(two).shape == (2, env.num_envs, 3)
    assert CyclicMixupEnvs(np.int8(100), num_draws=np.int8(100)).num_envs == 10_001


@pytest.mark.parametrize(
    "rates", [np.array([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]), np.float32(0.5), 0.5]
)
def test_rates_may_be_a_number_a_tensor_or_an_array(rates):
    envs = RandomSubsetEnvs(3, rates=rates, num_envs=5)
    assert envs.rates in ((0.0, 0.5, 1.0), (0.5, 0.5, 0.5))
    assert all(type(rate) is float for rate in envs.rates)
    assert envs.sample_masks().shape == (5, 3)


def test_the_default_concentration_draws_uniformly_from_the_simplex():
    """Both kinds have the same default, so that they differ in the cyclic shifts alone."""
    for kind in (CyclicMixupEnvs, DirichletEnvs):
        rows = kind(3, include_uniform=False).sample((4000,), generator=seeded(0))[:, 0]
        # On a uniform simplex of three weights each has mean 1/3, variance 1/18 and the density
        # 2 (1 - w), so it exceeds 1/2 with probability 1/4.
        assert rows[:, 0].mean().item() == pytest.approx(1 / 3, abs=0.02)
        assert rows.var(dim=0).mean().item() == pytest.approx(1 / 18, abs=0.003)
        assert (rows > 0.5).float().mean().item() == pytest.approx(1 / 4, abs=0.02)
