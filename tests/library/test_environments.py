"""Laws of cyclic mixup environments: rows on the simplex, cycles, and the Dirichlet draw."""

import itertools
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from invmod import CyclicMixupEnvs
from invmod.testing import assert_on_simplex
from tests.strategies import generators, laws, seeded

ALPHAS = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
DTYPES = st.sampled_from([torch.float32, torch.float64])


@laws
@given(generators(), st.integers(1, 64), ALPHAS, st.integers(1, 3), st.booleans(), DTYPES)
def test_rows_lie_on_the_simplex(
    generator, num_modalities, alpha, num_draws, include_uniform, dtype
):
    envs = CyclicMixupEnvs(
        num_modalities, alpha, num_draws=num_draws, include_uniform=include_uniform
    )
    weights = envs.sample((4, 2), generator=generator, dtype=dtype)
    assert weights.dtype == dtype
    assert weights.shape == (4, 2, envs.num_envs, num_modalities)
    assert envs.num_envs == include_uniform + num_draws * num_modalities
    assert envs.num_modalities == num_modalities
    assert_on_simplex(weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 64])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.01, 1e6])
def test_many_draws_at_the_ends_of_alpha_are_never_nan(alpha, num_modalities, dtype):
    weights = CyclicMixupEnvs(num_modalities, alpha).sample(
        (500,), generator=seeded(1), dtype=dtype
    )
    assert_on_simplex(weights)


@laws
@given(generators(), st.integers(1, 64), ALPHAS, st.integers(1, 3))
def test_the_mean_of_a_cycle_is_uniform(generator, num_modalities, alpha, num_draws):
    envs = CyclicMixupEnvs(num_modalities, alpha, num_draws=num_draws, include_uniform=False)
    cycles = envs.sample(generator=generator, dtype=torch.float64).unflatten(
        0, (num_draws, num_modalities)
    )
    expected = torch.full((num_draws, num_modalities), 1 / num_modalities, dtype=torch.float64)
    torch.testing.assert_close(cycles.mean(dim=1), expected, rtol=0, atol=1e-12)


@laws
@given(generators(), st.integers(1, 8), st.integers(1, 3), st.booleans())
def test_each_row_is_the_previous_one_shifted_to_the_right(
    generator, num_modalities, num_draws, uniform
):
    envs = CyclicMixupEnvs(num_modalities, 1.0, num_draws=num_draws, include_uniform=uniform)
    weights = envs.sample(generator=generator)
    if uniform:
        assert torch.equal(weights[0], torch.full((num_modalities,), 1 / num_modalities))
    for cycle in weights[int(uniform) :].unflatten(0, (num_draws, num_modalities)):
        for before, row in itertools.pairwise(cycle):
            assert row[0] == before[-1]
            assert torch.equal(row[1:], before[:-1])


@laws
@given(generators(), st.integers(1, 16), ALPHAS, st.floats(0, 1, exclude_max=True))
def test_no_weight_lies_below_min_weight(generator, num_modalities, alpha, share):
    floor = share / num_modalities
    if floor >= 1 / num_modalities:
        return
    weights = CyclicMixupEnvs(num_modalities, alpha, min_weight=floor).sample(
        generator=generator, dtype=torch.float64
    )
    assert (weights >= floor).all()
    assert_on_simplex(weights, atol=1e-12)


@laws
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3))
def test_min_weight_is_an_affine_map_of_the_same_draw(seed, floor):
    plain = CyclicMixupEnvs(3, 0.5).sample(generator=seeded(seed), dtype=torch.float64)
    floored = CyclicMixupEnvs(3, 0.5, min_weight=floor).sample(
        generator=seeded(seed), dtype=torch.float64
    )
    torch.testing.assert_close(floored, floor + (1 - 3 * floor) * plain)


@pytest.mark.parametrize(
    "alpha",
    [
        (0.01, 0.01, 0.01),
        (0.1, 0.1, 0.1),
        (1.0, 1.0),
        (5.0, 5.0, 5.0, 5.0),
        (0.01, 0.5, 2.0),
        (1e-3, 3.0),
        (1e3, 2e3),
    ],
)
def test_the_draw_is_dirichlet(alpha):
    """Marginals, means and covariances are those of the Dirichlet distribution.

    Marginals are compared with scipy's beta distribution, within the bound of Dvoretzky, Kiefer and
    Wolfowitz. The comparison uses thresholds, because at small alpha much of the mass rounds to
    exactly 1.
    """
    n = 100_000
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * n))
    a, a0 = np.array(alpha), sum(alpha)
    envs = CyclicMixupEnvs(len(alpha), alpha, include_uniform=False)
    first = envs.sample((n,), generator=seeded(7), dtype=torch.float64)[:, 0].numpy()
    for column, concentration in zip(first.T, alpha, strict=True):
        marginal = stats.beta(concentration, a0 - concentration)
        thresholds = np.concatenate(
            [[1e-100, 1e-30, 1e-10, 1e-3, 0.5, 0.9], marginal.ppf(np.linspace(0.05, 0.95, 19))]
        )
        thresholds = thresholds[(thresholds > 1e-300) & (thresholds < 1 - 1e-9)]
        empirical = (column[:, None] <= thresholds).mean(axis=0)
        assert np.abs(empirical - marginal.cdf(thresholds)).max() < bound

    covariance = (np.diag(a / a0) - np.outer(a, a) / a0**2) / (a0 + 1)
    deviation = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(first.mean(axis=0) - a / a0) < 5 * deviation).all()
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(first.T) - covariance) < 0.05 * scale).all()


def test_small_alpha_makes_nearly_one_hot_rows_and_large_alpha_nearly_uniform_ones():
    one_hot = CyclicMixupEnvs(3, 1e-6).sample((1000,), generator=seeded(0))[:, 1]
    assert (one_hot.max(dim=-1).values == 1).all()
    assert (one_hot.argmax(dim=-1).bincount(minlength=3) > 280).all()
    uniform = CyclicMixupEnvs(3, 1e6).sample((1000,), generator=seeded(0))
    assert (uniform - 1 / 3).abs().max() < 5e-3


def test_draws_and_samples_are_independent():
    envs = CyclicMixupEnvs(2, 1.0, num_draws=2, include_uniform=False)
    weights = envs.sample((20_000,), generator=seeded(3), dtype=torch.float64)
    first, second = weights[:, 0, 0], weights[:, 2, 0]
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]) < 0.03


def test_an_explicit_generator_is_reproducible_and_leaves_every_global_one_untouched():
    envs = CyclicMixupEnvs(3, 0.1, num_draws=2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    generator = seeded(5)
    first, second = envs.sample((3,), generator=generator), envs.sample((3,), generator=generator)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    assert torch.equal(first, envs.sample((3,), generator=seeded(5)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, envs.sample((3,), generator=seeded(6)))


def test_without_a_generator_the_global_seed_decides():
    envs = CyclicMixupEnvs(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        first, second = envs.sample(), envs.sample()
        torch.manual_seed(11)
        assert torch.equal(envs.sample(), first)
    assert not torch.equal(first, second)


def test_dtype_changes_only_rounding():
    envs = CyclicMixupEnvs(4, 0.3)
    wide = envs.sample((10,), generator=seeded(2), dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-7), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)):
        narrow = envs.sample((10,), generator=seeded(2), dtype=dtype)
        assert narrow.dtype == dtype
        assert (narrow.double() - wide).abs().max() < tolerance


def test_defaults_follow_torch():
    envs = CyclicMixupEnvs(2)
    assert envs.alpha.tolist() == [1.0, 1.0]
    assert envs.sample().dtype == torch.get_default_dtype()
    assert envs.sample(device="cpu").device.type == "cpu"
    with torch.device("meta"):
        assert envs.sample(generator=seeded(0)).device.type == "meta"
        assert envs.sample().device.type == "meta"


def test_sample_shape_may_be_an_int_or_zero():
    envs = CyclicMixupEnvs(3)
    assert envs.sample(5).shape == (5, 4, 3)
    assert envs.sample((0,)).shape == (0, 4, 3)


def test_one_modality_has_weight_one():
    assert torch.equal(CyclicMixupEnvs(1, num_draws=2).sample(), torch.ones(3, 1))


def test_repr_can_be_read_back():
    envs = CyclicMixupEnvs(3, 0.5, num_draws=2, include_uniform=False, min_weight=0.1)
    text = "CyclicMixupEnvs(3, alpha=0.5, num_draws=2, include_uniform=False, min_weight=0.1)"
    assert repr(envs) == text
    assert repr(eval(text)) == text
    assert "alpha=[1.0, 2.0]" in repr(CyclicMixupEnvs(2, [1.0, 2.0]))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0,), {}, ValueError, "`num_modalities` must be at least 1, got 0."),
        ((2.0,), {}, TypeError, "`num_modalities` must be an int, got 2.0."),
        ((True,), {}, TypeError, "`num_modalities` must be an int, got True."),
        ((3,), {"num_draws": 0}, ValueError, "`num_draws` must be at least 1, got 0."),
        ((3,), {"num_draws": "1"}, TypeError, "`num_draws` must be an int, got '1'."),
        ((3, 0.0), {}, ValueError, "`alpha` must be finite and positive, got 0.0."),
        ((3, -1.0), {}, ValueError, "`alpha` must be finite and positive, got -1.0."),
        ((3, math.nan), {}, ValueError, "`alpha` must be finite and positive, got nan."),
        ((3, math.inf), {}, ValueError, "`alpha` must be finite and positive, got inf."),
        ((2, [1.0, 0.0]), {}, ValueError, "`alpha` must be finite and positive, got [1.0, 0.0]."),
        (
            (3, [1.0, 2.0]),
            {},
            ValueError,
            "`alpha` must be one number or 3 of them, got [1.0, 2.0].",
        ),
        (
            (2, [[1.0, 2.0]]),
            {},
            ValueError,
            "`alpha` must be one number or 2 of them, got [[1.0, 2.0]].",
        ),
        (
            (4,),
            {"min_weight": 0.25},
            ValueError,
            "`min_weight` must lie in [0, 1/M) = [0, 0.25), got 0.25.",
        ),
        (
            (4,),
            {"min_weight": -0.1},
            ValueError,
            "`min_weight` must lie in [0, 1/M) = [0, 0.25), got -0.1.",
        ),
        (
            (4,),
            {"min_weight": math.nan},
            ValueError,
            "`min_weight` must lie in [0, 1/M) = [0, 0.25), got nan.",
        ),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(f"CyclicMixupEnvs: {message}")):
        CyclicMixupEnvs(*arguments, **options)


def test_an_integer_dtype_is_an_error():
    with pytest.raises(
        TypeError, match=r"CyclicMixupEnvs.sample: `dtype` must be floating point, got torch.int64"
    ):
        CyclicMixupEnvs(2).sample(dtype=torch.int64)


@pytest.mark.parametrize(
    "alpha", ["0.1", None, True, [True, False], [[1.0], [1.0, 2.0]], {"a": 1.0}]
)
def test_an_alpha_that_is_not_a_number_is_an_error(alpha):
    message = f"CyclicMixupEnvs: `alpha` must be a number or a sequence of them, got {alpha!r}."
    with pytest.raises(TypeError, match=re.escape(message)):
        CyclicMixupEnvs(2, alpha)


@pytest.mark.parametrize("min_weight", ["0.1", None, False])
def test_a_min_weight_that_is_not_a_number_is_an_error(min_weight):
    with pytest.raises(
        TypeError, match=f"CyclicMixupEnvs: `min_weight` must be a number, got {min_weight!r}."
    ):
        CyclicMixupEnvs(2, min_weight=min_weight)


@pytest.mark.parametrize("sample_shape", [-1, (2, -1)])
def test_a_negative_sample_shape_is_an_error(sample_shape):
    message = f"CyclicMixupEnvs.sample: `sample_shape` must not be negative, got {sample_shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        CyclicMixupEnvs(2).sample(sample_shape)
