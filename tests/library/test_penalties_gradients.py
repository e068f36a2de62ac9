"""Laws of the penalties of gradients: NumPy oracles, closed forms, precision and edge cases."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from invmod.penalties import (
    fishr_penalty,
    fishr_penalty_linear,
    iga_penalty,
    information_bottleneck_penalty,
    per_sample_gradients,
)
from tests.strategies import generators, gradients, laws, normal, randomised, seeded

SIZES = st.integers(1, 5)
REDUCTIONS = st.sampled_from(["mean", "sum"])
ENV = torch.tensor([1, 0, 1, 0, 0, 2, 2])
LABELS = ENV.clone()


def numpy_spread(rows, reduction):
    """The mean squared distance of the rows from their mean, computed row by row."""
    mean = sum(rows) / len(rows)
    return sum(float(getattr((row - mean) ** 2, reduction)()) for row in rows) / len(rows)


def numpy_fishr(g, env, reduction):
    g, env = g.detach().numpy(), env.numpy()
    return numpy_spread([g[env == e].var(axis=0) for e in range(env.max() + 1)], reduction)


def draw_env(generator, num_envs, extra=4):
    """At least two samples in each environment, in any order."""
    env = torch.cat(
        [torch.arange(num_envs).repeat(2), torch.randint(num_envs, (extra,), generator=generator)]
    )
    return env[torch.randperm(len(env), generator=generator)]


# --- IGA


@laws
@given(generators(), SIZES, SIZES, REDUCTIONS)
def test_iga_is_the_mean_squared_distance_to_the_mean_gradient(
    generator, num_envs, width, reduction
):
    g = normal(generator, num_envs, width)
    expected = numpy_spread(list(g.numpy()), reduction)
    np.testing.assert_allclose(
        iga_penalty(g, reduction=reduction), expected, rtol=1e-12, atol=1e-15
    )


@laws
@given(generators(), SIZES, REDUCTIONS)
def test_iga_ignores_order_and_common_shifts_and_squares_the_scale(generator, num_envs, reduction):
    g = normal(generator, num_envs, 3)
    penalty = iga_penalty(g, reduction=reduction)
    torch.testing.assert_close(iga_penalty(g.flip(0) + 7.0, reduction=reduction), penalty)
    torch.testing.assert_close(iga_penalty(-2 * g, reduction=reduction), 4 * penalty)
    torch.testing.assert_close(iga_penalty(torch.cat([g, g]), reduction=reduction), penalty)
    torch.testing.assert_close(
        iga_penalty(torch.cat([g, g], dim=1), reduction="mean"), iga_penalty(g)
    )


def test_iga_is_differentiable_through_gradients_with_a_graph():
    """The risks are quadratic with different curvatures, so the penalty depends on theta."""
    theta = torch.tensor([3.0, -1.0], requires_grad=True)
    curvature = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    risks = [0.5 * (k * theta.square()).sum() for k in curvature]
    g = torch.stack([torch.autograd.grad(risk, theta, create_graph=True)[0] for risk in risks])
    penalty = iga_penalty(g, reduction="sum")
    # The gradients are k theta, at squared distances (1 - 2)^2 and (3 - 2)^2 times theta^2.
    torch.testing.assert_close(penalty, theta[0].square())
    torch.testing.assert_close(torch.autograd.grad(penalty, theta)[0], torch.tensor([6.0, 0.0]))


# --- Fishr


@laws
@given(generators(), SIZES, SIZES, REDUCTIONS, st.booleans())
def test_fishr_is_the_spread_of_numpys_variances(generator, num_envs, width, reduction, given_envs):
    env = draw_env(generator, num_envs)
    g = normal(generator, len(env), width)
    value = fishr_penalty(g, env, num_envs=num_envs if given_envs else None, reduction=reduction)
    np.testing.assert_allclose(value, numpy_fishr(g, env, reduction), rtol=1e-12, atol=1e-15)


@laws
@given(generators(), SIZES)
def test_fishr_ignores_order_labels_copies_and_shifts_of_each_environment(generator, num_envs):
    env = draw_env(generator, num_envs)
    g = normal(generator, len(env), 3)
    penalty = fishr_penalty(g, env)
    order = torch.randperm(len(env), generator=generator)
    torch.testing.assert_close(fishr_penalty(g[order], env[order]), penalty)
    torch.testing.assert_close(
        fishr_penalty(g, torch.randperm(num_envs, generator=generator)[env]), penalty
    )
    torch.testing.assert_close(fishr_penalty(torch.cat([g, g]), torch.cat([env, env])), penalty)
    torch.testing.assert_close(
        fishr_penalty(g + 10 * normal(generator, num_envs, 3)[env], env), penalty
    )
    torch.testing.assert_close(fishr_penalty(-2 * g, env), 16 * penalty)


def linear_case(generator, env, num_classes=3, width=4, *, offset=0.0):
    head = randomised(nn.Linear(width, num_classes).double(), generator)
    features = (normal(generator, len(env), width) + offset).requires_grad_()
    targets = torch.randint(num_classes, env.shape, generator=generator)
    return head, features, targets


def loop_gradients(head, features, targets):
    """Per-sample gradients by definition: one backward pass for each sample."""
    rows = []
    for x, y in zip(features, targets, strict=True):
        loss = F.cross_entropy(head(x[None]), y[None])
        rows.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, head.parameters(), create_graph=True)
                ]
            )
        )
    return torch.stack(rows)


def head_loss(head):
    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(head, parameters, (x[None],)), y[None])

    return loss


@laws
@given(generators(), SIZES, st.integers(2, 4), REDUCTIONS)
def test_closed_form_per_sample_gradients_and_a_loop_agree_with_their_gradients(
    generator, num_envs, num_classes, reduction
):
    env = draw_env(generator, num_envs)
    head, features, targets = linear_case(generator, env, num_classes)
    inputs = (features, *head.parameters())
    loop = loop_gradients(head, features, targets)
    rows = per_sample_gradients(head_loss(head), dict(head.named_parameters()), features, targets)
    torch.testing.assert_close(rows, loop)
    expected = numpy_fishr(loop, env, reduction)
    closed = fishr_penalty_linear(features, head(features), targets, env, reduction=reduction)
    general = fishr_penalty(rows, env, reduction=reduction)
    np.testing.assert_allclose(closed.item(), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(general.item(), expected, rtol=1e-9, atol=1e-15)
    by_loop = gradients(fishr_penalty(loop, env, reduction=reduction), *inputs)
    torch.testing.assert_close(gradients(closed, *inputs), by_loop, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(gradients(general, *inputs), by_loop, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_agree_with_finite_differences(reduction):
    assert gradcheck(
        lambda g: iga_penalty(g, reduction=reduction), (normal(seeded(0), 3, 2).requires_grad_(),)
    )
    g = normal(seeded(1), 7, 2).requires_grad_()
    assert gradcheck(lambda g: fishr_penalty(g, ENV, reduction=reduction), (g,))
    assert gradgradcheck(lambda g: fishr_penalty(g, ENV, reduction=reduction), (g,))
    f, z = normal(seeded(2), 7, 2).requires_grad_(), normal(seeded(3), 7, 3).requires_grad_()
    assert gradcheck(lambda f, z: fishr_penalty_linear(f, z, ENV, ENV, reduction=reduction), (f, z))


def test_a_class_out_of_range_is_an_error():
    with pytest.raises(ValueError, match=r"`targets` must lie in \[0, K\) = \[0, 3\), got 3"):
        fishr_penalty_linear(torch.ones(7, 2), torch.ones(7, 3), ENV + 1, ENV)


def test_nearly_constant_gradients_do_not_cancel_in_float32():
    """With features of mean 30 and nearly constant logits, E[g^2] - E[g]^2 fails in float32."""
    env = torch.arange(4).repeat(50)
    features = (30 + 3e-3 * normal(seeded(0), 200, 5)).float().double()
    logits = (1e-4 * normal(seeded(1), 200, 3)).float().double()
    targets = torch.zeros(200, dtype=torch.int64)
    a = F.softmax(logits, dim=1) - F.one_hot(targets, 3)
    g = torch.cat([(a[:, :, None] * features[:, None]).flatten(1), a], dim=1)
    expected = numpy_fishr(g, env, "sum")
    naive = [
        g[env == e].float().square().mean(0) - g[env == e].float().mean(0).square()
        for e in range(4)
    ]
    assert abs(numpy_spread([v.numpy() for v in naive], "sum") / expected - 1) > 10
    closed = fishr_penalty_linear(features.float(), logits.float(), targets, env, reduction="sum")
    general = fishr_penalty(g.float(), env, reduction="sum")
    assert closed.item() == pytest.approx(expected, rel=1e-6)
    # The tolerance is larger here, because the rows themselves are rounded by 1e-6 of 30.
    assert general.item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_float32(dtype):
    g = normal(seeded(0), 7, 3).to(dtype)
    for function in (
        iga_penalty,
        lambda g: fishr_penalty(g, ENV),
        lambda g: fishr_penalty_linear(g, g, ENV, ENV),
    ):
        assert function(g).dtype == torch.float32
        torch.testing.assert_close(function(g), function(g.float()))
    big = torch.full((7, 3), 3e4, dtype=torch.float16)  # its square overflows in float16
    big[0] = 2e4
    assert fishr_penalty(big, ENV).isfinite()


def test_one_environment_and_equal_environments_have_penalty_0_with_gradient_0():
    x = normal(seeded(0), 4, 3).requires_grad_()
    twice, env = torch.cat([x, x]), torch.arange(2).repeat_interleave(4)
    targets = torch.tensor([0, 1, 2, 0])
    for value in (
        iga_penalty(x[:1]),
        fishr_penalty(x, torch.zeros(4, dtype=torch.int64)),
        fishr_penalty_linear(x, x, targets, torch.zeros(4, dtype=torch.int64)),
        iga_penalty(torch.cat([x[:1], x[:1]])),
        fishr_penalty(twice, env),
        fishr_penalty_linear(twice, twice, targets.repeat(2), env),
    ):
        assert abs(value.item()) < 1e-20
        assert gradients(value, x)[0].abs().max() < 1e-14


def test_any_integer_dtype_is_accepted_as_index():
    g = normal(seeded(0), 7, 2)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(fishr_penalty(g, ENV.to(dtype)), fishr_penalty(g, ENV))


@pytest.mark.parametrize(
    ("env", "num_envs", "expected"),
    [
        (ENV, 3, None),
        (ENV, 4, math.nan),
        (ENV, 2, math.nan),
        (ENV - 1, 3, math.nan),
        (ENV.clamp(min=1) - 1, 2, None),
    ],
)
def test_under_compilation_invalid_values_give_nan_and_all_others_are_unchanged(
    monkeypatch, env, num_envs, expected
):
    g = normal(seeded(0), 7, 2)
    functions = (
        lambda: fishr_penalty(g, env, num_envs=num_envs),
        lambda: fishr_penalty_linear(g, g, LABELS % 2, env, num_envs=num_envs),
        lambda: information_bottleneck_penalty(g, env, num_envs=num_envs),
    )
    for function in functions:
        value = torch.tensor(expected, dtype=g.dtype) if expected else function()
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            # A compiled kernel may read any row for an index out of range.
            patch.setattr(Tensor, "index_select", lambda x, dim, index: x[index % len(x)])
            torch.testing.assert_close(function(), value, rtol=0, atol=0, equal_nan=True)


# --- per-sample gradients


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 7])
def test_per_sample_gradients_follow_the_order_of_the_parameters_also_in_chunks(chunk_size):
    head, features, targets = linear_case(seeded(0), ENV)
    parameters = dict(reversed(list(head.named_parameters())))
    assert list(parameters) == ["bias", "weight"]
    rows = per_sample_gradients(
        head_loss(head), parameters, features, targets, chunk_size=chunk_size
    )
    loop = loop_gradients(head, features, targets)
    torch.testing.assert_close(rows, torch.cat([loop[:, -3:], loop[:, :-3]], dim=1))
    assert rows.requires_grad


def test_per_sample_gradients_work_without_a_graph_and_for_some_of_the_parameters():
    head, features, targets = linear_case(seeded(0), ENV)
    with torch.no_grad():
        rows = per_sample_gradients(head_loss(head), {"bias": head.bias}, features, targets)
    assert not rows.requires_grad
    torch.testing.assert_close(rows, loop_gradients(head, features, targets)[:, -3:].detach())


def test_an_empty_batch_has_no_rows_and_all_columns():
    head, features, targets = linear_case(seeded(0), ENV)
    rows = per_sample_gradients(
        head_loss(head), dict(head.named_parameters()), features[:0], targets[:0]
    )
    assert rows.shape == (0, 15)
    rows.sum().backward()
    assert (head.weight.grad == 0).all()


# --- edges

G = torch.ones(7, 2)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "error", "message"),
    [
        (
            iga_penalty,
            (G.long(),),
            {},
            TypeError,
            "`gradients` must be a floating-point tensor, got torch.int64.",
        ),
        (
            iga_penalty,
            ([1.0],),
            {},
            TypeError,
            "`gradients` must be a floating-point tensor, got list.",
        ),
        (iga_penalty, (G[0],), {}, ValueError, "shape (E, P) with E >= 1 and P >= 1, got (2,)."),
        (iga_penalty, (G[:0],), {}, ValueError, "with E >= 1 and P >= 1, got (0, 2)."),
        (iga_penalty, (G[:, :0],), {}, ValueError, "with E >= 1 and P >= 1, got (7, 0)."),
        (
            iga_penalty,
            (G,),
            {"reduction": "max"},
            ValueError,
            "`reduction` must be 'mean' or 'sum', got 'max'.",
        ),
        (
            fishr_penalty,
            (G[:0], ENV[:0]),
            {},
            ValueError,
            "shape (n, P) with n >= 1 and P >= 1, got (0, 2).",
        ),
        (
            fishr_penalty,
            (G, ENV.float()),
            {},
            TypeError,
            "`env` must be a tensor of integers, got torch.float32.",
        ),
        (
            fishr_penalty,
            (G, ENV > 0),
            {},
            TypeError,
            "`env` must be a tensor of integers, got torch.bool.",
        ),
        (
            fishr_penalty,
            (G, [0, 1]),
            {},
            TypeError,
            "`env` must be a tensor of integers, got list.",
        ),
        (
            fishr_penalty,
            (G, ENV[:3]),
            {},
            ValueError,
            "must have shape (n,) = (7,), the environment of each sample",
        ),
        (
            fishr_penalty,
            (G, ENV),
            {"num_envs": 0},
            ValueError,
            "`num_envs` must be at least 1, got 0.",
        ),
        (
            fishr_penalty,
            (G, ENV),
            {"num_envs": 2},
            ValueError,
            "`env` must be in 0..1, got 0 to 2. Number the",
        ),
        (fishr_penalty, (G, ENV - 1), {}, ValueError, "`env` must be in 0..1, got -1 to 1."),
        (
            fishr_penalty,
            (G, ENV),
            {"num_envs": 4},
            ValueError,
            "at least 2 samples, got [3, 2, 2, 0]. Leave an absent",
        ),
        (fishr_penalty, (G, 2 * ENV), {}, ValueError, "at least 2 samples, got [3, 0, 2, 0, 2]."),
        (fishr_penalty, (G[:6], ENV[:6]), {}, ValueError, "at least 2 samples, got [3, 2, 1]."),
        (
            fishr_penalty,
            (G, ENV),
            {"reduction": "none"},
            ValueError,
            "`reduction` must be 'mean' or 'sum'",
        ),
        (
            fishr_penalty_linear,
            (G.long(), G, LABELS, ENV),
            {},
            TypeError,
            "`features` must be a floating-point tensor",
        ),
        (
            fishr_penalty_linear,
            (G, G.long(), LABELS, ENV),
            {},
            TypeError,
            "`logits` must be a floating-point tensor",
        ),
        (
            fishr_penalty_linear,
            (G, G[:, 0], LABELS, ENV),
            {},
            ValueError,
            "`logits` must have shape (n, K)",
        ),
        (
            fishr_penalty_linear,
            (G, G[:, :1], LABELS, ENV),
            {},
            ValueError,
            "at least two columns. For one logit z",
        ),
        (
            fishr_penalty_linear,
            (G[:5], G, LABELS, ENV),
            {},
            ValueError,
            "must have the same n, got (5, 2), (7, 2)",
        ),
        (fishr_penalty_linear, (G, G, LABELS[:5], ENV), {}, ValueError, "(7, 2) and (5,)."),
        (
            fishr_penalty_linear,
            (G, G, G[:, 0], ENV),
            {},
            TypeError,
            "`targets` must be classes in int64, got torch.fl",
        ),
        (
            fishr_penalty_linear,
            (G, G, LABELS % 2, ENV),
            {"num_envs": 4},
            ValueError,
            "got [3, 2, 2, 0].",
        ),
        (per_sample_gradients, (torch.sum, {}, G), {}, ValueError, "`parameters` is empty"),
        (
            per_sample_gradients,
            (torch.sum, {"a": G}),
            {},
            ValueError,
            "(n, ...) of one length, got shapes [].",
        ),
        (
            per_sample_gradients,
            (torch.sum, {"a": G}, G, G[:2]),
            {},
            ValueError,
            "got shapes [(7, 2), (2, 2)].",
        ),
        (per_sample_gradients, (torch.sum, {"a": G}, G.sum()), {}, ValueError, "got shapes [()]."),
    ],
)
def test_invalid_arguments_are_an_error(function, arguments, options, error, message):
    with pytest.raises(error, match=f"{function.__name__}: .*{re.escape(message)}"):
        function(*arguments, **options)


# --- ignored targets


@laws
@given(generators(), REDUCTIONS)
def test_ignored_targets_count_as_if_their_samples_were_not_there(generator, reduction):
    features, logits = normal(generator, 14, 3), normal(generator, 14, 4)
    targets, env = torch.randint(4, (14,), generator=generator), torch.arange(14) % 2
    keep = torch.rand(14, generator=generator) < 0.6
    keep[:4] = True
    ignored = torch.where(keep, targets, -100)
    features.requires_grad_()
    result = fishr_penalty_linear(
        features, logits, ignored, env, num_envs=2, reduction=reduction, ignore_index=-100
    )
    expected = fishr_penalty_linear(
        features[keep], logits[keep], targets[keep], env[keep], num_envs=2, reduction=reduction
    )
    torch.testing.assert_close(result, expected)
    for got, wanted in zip(
        *(torch.autograd.grad(x, features) for x in (result, expected)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_an_environment_without_two_targets_that_count_is_an_error():
    x, env = normal(seeded(0), 6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    targets = torch.tensor([0, 1, 2, 0, -100, -100])
    with pytest.raises(ValueError, match=r"at least 2 samples, got \[3, 1\]"):
        fishr_penalty_linear(x, x, targets, env, num_envs=2, ignore_index=-100)
