"""Laws of the penalties of features and logits, and of inferred environments."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch.autograd import gradcheck, gradgradcheck

from invmod.environments import infer_environments
from invmod.penalties import (
    coral_penalty,
    information_bottleneck_penalty,
    irm_derivatives,
    mmd_penalty,
    spectral_decoupling_penalty,
)
from tests.strategies import generators, laws, normal, seeded

SIZES = st.integers(2, 6)
WIDTHS = st.integers(1, 5)
GAMMAS = (0.1, 1.0, 10.0)


def numpy_covariance(f):
    """The covariance with ddof 1, computed entry by entry."""
    n, width = f.shape
    mean = f.sum(axis=0) / n
    return np.array(
        [
            [
                sum((f[i, j] - mean[j]) * (f[i, k] - mean[k]) for i in range(n)) / (n - 1)
                for k in range(width)
            ]
            for j in range(width)
        ]
    )


def numpy_coral(a, b, means, normalisation):
    a, b = a.numpy(), b.numpy()
    squares = ((numpy_covariance(a) - numpy_covariance(b)) ** 2).sum() / a.shape[1] ** 2
    extra = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).mean() if means else 0.0
    return squares / (4 if normalisation == "paper" else 1) + extra


def numpy_mmd(a, b, gammas):
    def kernel(x, y):
        return sum(np.exp(-gamma * cdist(x, y, "sqeuclidean")) for gamma in gammas).mean()

    a, b = a.numpy(), b.numpy()
    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def pair(generator, num_a, num_b, width):
    return normal(generator, num_a, width), 1.5 * normal(generator, num_b, width) + 0.5


# --- CORAL


@laws
@given(generators(), SIZES, SIZES, WIDTHS, st.booleans(), st.sampled_from(["paper", "mean"]))
def test_coral_is_the_distance_of_covariances(generator, num_a, num_b, width, means, normalisation):
    a, b = pair(generator, num_a, num_b, width)
    value = coral_penalty(a, b, means=means, normalisation=normalisation)
    np.testing.assert_allclose(value, numpy_coral(a, b, means, normalisation), rtol=1e-10)
    torch.testing.assert_close(coral_penalty(b, a, means=means, normalisation=normalisation), value)


@laws
@given(generators(), SIZES, WIDTHS)
def test_coral_ignores_a_shift_without_means_and_measures_only_it_with_them(
    generator, num_samples, width
):
    a = normal(generator, num_samples, width)
    shift = normal(generator, width)
    for normalisation in ("paper", "mean"):
        assert abs(coral_penalty(a, a + shift, normalisation=normalisation).item()) < 1e-24
        value = coral_penalty(a, a + shift, means=True, normalisation=normalisation)
        torch.testing.assert_close(value, shift.square().mean())
    torch.testing.assert_close(coral_penalty(a, 2 * a), coral_penalty(a, torch.zeros_like(a)) * 9)


# --- MMD


@laws
@given(generators(), st.integers(1, 6), st.integers(1, 6), WIDTHS)
def test_mmd_is_the_v_statistic(generator, num_a, num_b, width):
    a, b = pair(generator, num_a, num_b, width)
    value = mmd_penalty(a, b, gammas=GAMMAS)
    np.testing.assert_allclose(value, numpy_mmd(a, b, GAMMAS), rtol=1e-9, atol=1e-13)
    assert value > -1e-13
    torch.testing.assert_close(mmd_penalty(b, a, gammas=GAMMAS), value)
    torch.testing.assert_close(mmd_penalty(a + 3, b + 3, gammas=GAMMAS), value)
    parts = sum(mmd_penalty(a, b, gammas=[gamma]) for gamma in GAMMAS)
    torch.testing.assert_close(parts, value)


@laws
@given(generators(), st.integers(1, 6), WIDTHS)
def test_mmd_of_equal_features_and_of_copies_is_0(generator, num_samples, width):
    a = normal(generator, num_samples, width)
    assert abs(mmd_penalty(a, a.flip(0), gammas=GAMMAS).item()) < 1e-12
    assert abs(mmd_penalty(a, torch.cat([a, a]), gammas=GAMMAS).item()) < 1e-12


def test_mmd_detects_a_different_mean_and_a_different_variance():
    a = normal(seeded(0), 200, 2)
    same = mmd_penalty(a, normal(seeded(1), 200, 2), gammas=[0.5])
    assert 0 < same < 0.02  # the estimate is biased, so it is above 0 for equal distributions
    assert mmd_penalty(a, normal(seeded(1), 200, 2) + 1, gammas=[0.5]) > 5 * same
    assert mmd_penalty(a, 3 * normal(seeded(1), 200, 2), gammas=[0.5]) > 5 * same


def test_mmd_of_two_distant_points_is_twice_the_number_of_kernels():
    a, b = torch.zeros(1, 3, dtype=torch.float64), torch.full((1, 3), 1e3, dtype=torch.float64)
    assert mmd_penalty(a, b, gammas=GAMMAS) == 2 * len(GAMMAS)
    d = 2.0
    value = mmd_penalty(torch.tensor([[0.0]]), torch.tensor([[d]]), gammas=[0.3])
    assert value.item() == pytest.approx(2 * (1 - math.exp(-0.3 * d * d)), rel=1e-6)


def test_a_common_offset_costs_no_precision_in_float32():
    a, b = (x.float() for x in pair(seeded(0), 40, 50, 8))
    for function in (
        lambda x, y: coral_penalty(x, y, means=True),
        lambda x, y: mmd_penalty(x, y, gammas=[0.1]),
        lambda x, y: information_bottleneck_penalty(torch.cat([x, y]), torch.arange(90) // 45),
    ):
        far_a, far_b = a + 1000, b + 1000  # the offset rounds the features themselves by 3e-5
        expected = function(far_a.double(), far_b.double()).item()
        assert function(far_a, far_b).item() == pytest.approx(expected, rel=1e-4)


# --- information bottleneck


@laws
@given(
    generators(), st.integers(1, 4), st.integers(0, 4), st.sampled_from([0, 1, 2]), st.booleans()
)
def test_the_bottleneck_is_the_mean_of_numpys_variances(
    generator, num_envs, width, correction, given_envs
):
    """Width 0 means a vector (n,)."""
    env = torch.cat(
        [torch.arange(num_envs).repeat(3), torch.randint(num_envs, (4,), generator=generator)]
    )
    values = normal(generator, len(env), *((width,) if width else ()))
    value = information_bottleneck_penalty(
        values, env, num_envs=num_envs if given_envs else None, correction=correction
    )
    each = [
        values.numpy()[env.numpy() == e].var(axis=0, ddof=correction).mean()
        for e in range(num_envs)
    ]
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-12)
    order = torch.randperm(len(env), generator=generator)
    shifted = values[order] + env[order].reshape(-1, *(1 for _ in range(values.ndim - 1)))
    torch.testing.assert_close(
        information_bottleneck_penalty(shifted, env[order], correction=correction), value
    )
    torch.testing.assert_close(
        information_bottleneck_penalty(-3 * values, env, correction=correction), 9 * value
    )


def test_constant_values_have_no_variance_and_no_gradient():
    values = torch.full((6, 2), 0.7, dtype=torch.float64, requires_grad=True)
    value = information_bottleneck_penalty(values, torch.arange(6) % 2)
    value.backward()
    assert abs(value.item()) < 1e-30
    assert values.grad.abs().max() < 1e-15


# --- spectral decoupling


@laws
@given(generators(), st.lists(st.integers(1, 4), max_size=3))
def test_spectral_decoupling_is_the_mean_square(generator, shape):
    logits = normal(generator, *shape)
    np.testing.assert_allclose(
        spectral_decoupling_penalty(logits), (logits.numpy() ** 2).mean(), rtol=1e-12
    )


# --- gradients and precision


def test_gradients_agree_with_finite_differences():
    a, b = (x.requires_grad_() for x in pair(seeded(0), 4, 3, 2))
    env = torch.tensor([0, 1, 1, 0])
    for means, normalisation in itertools.product([False, True], ["paper", "mean"]):
        assert gradcheck(
            lambda a, b, m=means, n=normalisation: coral_penalty(a, b, means=m, normalisation=n),
            (a, b),
        )
    assert gradcheck(lambda a, b: mmd_penalty(a, b, gammas=GAMMAS), (a, b))
    assert gradgradcheck(lambda a, b: mmd_penalty(a, b, gammas=[0.5]), (a, b))
    assert gradcheck(lambda a: information_bottleneck_penalty(a, env), (a,))
    assert gradcheck(spectral_decoupling_penalty, (a,))


HALF = {
    "coral": lambda f: coral_penalty(f[:3], f[3:], means=True),
    "mmd": lambda f: mmd_penalty(f[:3], f[3:], gammas=GAMMAS),
    "bottleneck": lambda f: information_bottleneck_penalty(f, torch.arange(6) % 2),
    "spectral": spectral_decoupling_penalty,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", HALF)
def test_statistics_of_half_precision_are_float32(case, dtype):
    f = normal(seeded(0), 6, 3).to(dtype)
    assert HALF[case](f).dtype == torch.float32
    torch.testing.assert_close(HALF[case](f), HALF[case](f.float()))
    assert HALF[case](1000 * f).isfinite()  # the squares would overflow in float16


def test_two_dtypes_give_the_wider_one():
    a, b = pair(seeded(0), 4, 3, 2)
    assert coral_penalty(a, b.half()).dtype == torch.float64
    assert mmd_penalty(a.half(), b.bfloat16(), gammas=[1.0]).dtype == torch.float32


# --- inferred environments


@laws
@given(generators(), st.integers(0, 8))
def test_inferred_environments_are_the_best_of_all_labellings(generator, num_samples):
    h = normal(generator, num_samples)
    env = infer_environments(h)
    assert env.dtype == torch.int64
    assert torch.equal(env, (h > 0).long())

    def objective(q):
        return (q * h).mean() ** 2 + ((1 - q) * h).mean() ** 2

    if num_samples:
        labellings = [torch.tensor(bits) for bits in itertools.product([0, 1], repeat=num_samples)]
        best = max(objective(q) for q in labellings)
        torch.testing.assert_close(objective(env), best)
        # Swapping the two labels gives the same objective.
        torch.testing.assert_close(objective(1 - env), best)
        assert (
            objective(torch.rand(num_samples, generator=generator, dtype=h.dtype)) <= best + 1e-12
        )


def test_environments_are_inferred_from_a_spurious_feature():
    """The reference model uses a feature that agrees with the target in 85% of the samples."""
    y = torch.tensor([1.0, 0.0]).repeat(100)
    agrees = torch.arange(200) % 20 < 17
    logits = torch.where(agrees, 1, -1) * (2 * y - 1)
    env = infer_environments(irm_derivatives(logits, y, loss="bce"))
    assert torch.equal(env == 1, ~agrees)


def test_a_derivative_of_0_is_in_environment_0_and_one_sign_gives_one_environment():
    assert infer_environments(torch.tensor([0.0, -0.0, 1e-30, -1.0])).tolist() == [0, 0, 1, 0]
    assert infer_environments(torch.tensor([-1.0, -2.0], dtype=torch.bfloat16)).tolist() == [0, 0]
    assert infer_environments(torch.tensor([float("inf"), -float("inf")])).tolist() == [1, 0]


# --- edges

F, ENV = torch.ones(4, 2), torch.tensor([0, 1, 1, 0])
BOTTLENECK = information_bottleneck_penalty


@pytest.mark.parametrize(
    ("function", "arguments", "options", "error", "message"),
    [
        (
            coral_penalty,
            (F.long(), F),
            {},
            TypeError,
            "`features_a` must be a floating-point tensor, got torch.int64.",
        ),
        (
            coral_penalty,
            (F, None),
            {},
            TypeError,
            "`features_b` must be a floating-point tensor, got NoneType.",
        ),
        (
            coral_penalty,
            (F[0], F),
            {},
            ValueError,
            "`features_a` must have shape (n, D) with n >= 2 and D >= 1, got ",
        ),
        (
            coral_penalty,
            (F, F[:1]),
            {},
            ValueError,
            "`features_b` must have shape (n, D) with n >= 2 and D >= 1",
        ),
        (coral_penalty, (F[:, :0], F[:, :0]), {}, ValueError, "got (4, 0)."),
        (
            coral_penalty,
            (F, F[:, :1]),
            {},
            ValueError,
            "must have the same width, got (4, 2) and (4, 1).",
        ),
        (
            coral_penalty,
            (F, F),
            {"normalisation": "sum"},
            ValueError,
            "must be 'paper' or 'mean', got 'sum'.",
        ),
        (
            mmd_penalty,
            (F, F[:0]),
            {"gammas": [1.0]},
            ValueError,
            "with n >= 1 and D >= 1, got (0, 2).",
        ),
        (mmd_penalty, (F, F[:, :1]), {"gammas": [1.0]}, ValueError, "must have the same width"),
        (
            mmd_penalty,
            (F, F),
            {"gammas": []},
            ValueError,
            "`gammas` must be one or more positive numbers, got [].",
        ),
        (
            mmd_penalty,
            (F, F),
            {"gammas": [1.0, 0.0]},
            ValueError,
            "positive numbers, got [1.0, 0.0].",
        ),
        (mmd_penalty, (F, F), {"gammas": [math.nan]}, ValueError, "positive numbers, got [nan]."),
        (mmd_penalty, (F, F), {"gammas": [math.inf]}, ValueError, "positive numbers, got [inf]."),
        (
            BOTTLENECK,
            (F, ENV),
            {"correction": -1},
            ValueError,
            "`correction` must not be negative, got -1.",
        ),
        (
            BOTTLENECK,
            (ENV, ENV),
            {},
            TypeError,
            "`values` must be a floating-point tensor, got torch.int64.",
        ),
        (
            BOTTLENECK,
            ([1.0], ENV),
            {},
            TypeError,
            "`values` must be a floating-point tensor, got list.",
        ),
        (
            BOTTLENECK,
            (F[:0], ENV[:0]),
            {},
            ValueError,
            "`values` must have shape (n, D) with n >= 1 and D >= 1",
        ),
        (BOTTLENECK, (F[None], ENV), {}, ValueError, "got (1, 4, 2)."),
        (
            BOTTLENECK,
            (F, ENV),
            {"num_envs": 3},
            ValueError,
            "each environment needs at least 2 samples, got [2, 2, 0]",
        ),
        (
            BOTTLENECK,
            (F[:3], ENV[:3]),
            {"correction": 0},
            ValueError,
            "at least 2 samples, got [1, 2].",
        ),
        (BOTTLENECK, (F, ENV), {"correction": 2}, ValueError, "at least 3 samples, got [2, 2]."),
        (
            spectral_decoupling_penalty,
            (ENV,),
            {},
            TypeError,
            "must be a floating-point tensor, got torch.int64.",
        ),
        (
            spectral_decoupling_penalty,
            (1.0,),
            {},
            TypeError,
            "must be a floating-point tensor, got float.",
        ),
        (
            spectral_decoupling_penalty,
            (F[:0],),
            {},
            ValueError,
            "`logits` is empty; a mean needs an entry.",
        ),
        (
            infer_environments,
            (ENV,),
            {},
            TypeError,
            "`h` must be a floating-point tensor, got torch.int64.",
        ),
        (
            infer_environments,
            ([1.0],),
            {},
            TypeError,
            "`h` must be a floating-point tensor, got list.",
        ),
        (
            infer_environments,
            (F,),
            {},
            ValueError,
            "`h` must have shape (n,), one derivative a sample, got (4, 2).",
        ),
        (
            infer_environments,
            (F[0] * math.nan,),
            {},
            ValueError,
            "`h` has a NaN, which belongs to no environment.",
        ),
    ],
)
def test_invalid_arguments_are_an_error(function, arguments, options, error, message):
    with pytest.raises(error, match=f"{function.__name__}: .*{re.escape(message)}"):
        function(*arguments, **options)
