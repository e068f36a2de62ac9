"""Laws of IRM derivatives and of the debiased variance, with exact expectations."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod import irm_penalty, vrex_penalty
from invmod.penalties import (
    fishr_penalty_linear,
    irm_derivatives,
    irm_derivatives_bpr,
    irm_penalty_from_derivatives,
    vrex_penalty_debiased,
)
from tests.strategies import NAN, generators, laws, normal, seeded

SIZES = st.integers(0, 6)
ESTIMATORS = ["square", "split", "ustat"]


def bce(z, y):
    return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), reduction="none")


def ce(z, y):
    return F.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="none").reshape(y.shape)


def mse(z, y):
    return (z - y).square()


def bpr(z, _):
    return -F.logsigmoid(z)


LOSSES = {"bce": bce, "ce": ce, "mse": mse}


def draw(loss, generator, *shape):
    if loss == "ce":
        return 2 * normal(generator, *shape, 4), torch.randint(4, shape, generator=generator)
    return 2 * normal(generator, *shape), torch.rand(
        shape, generator=generator, dtype=torch.float64
    )


def one_by_one(z, y, loss):
    """The derivative of each sample's loss by its own scale, from its own backward pass."""
    rows = []
    for index in np.ndindex(*y.shape):
        scale = torch.ones((), dtype=z.dtype, requires_grad=True)
        value = loss((scale * z[index])[None], y[index][None]).sum()
        rows.append(torch.autograd.grad(value, scale, create_graph=True)[0])
    return torch.stack(rows).reshape(y.shape) if rows else z.new_zeros(y.shape)


@pytest.mark.parametrize("loss", LOSSES)
@laws
@given(generators(), SIZES, st.booleans())
def test_closed_forms_and_callables_give_the_derivative_of_each_sample(
    loss, generator, num_samples, several
):
    z, y = draw(loss, generator, *((2, num_samples) if several else (num_samples,)))
    z.requires_grad_()
    expected = one_by_one(z, y, LOSSES[loss])
    for way in (loss, LOSSES[loss]):
        h = irm_derivatives(z, y, loss=way)
        torch.testing.assert_close(h, expected)
        if num_samples:
            scale = torch.linspace(0.5, 2, h.numel(), dtype=h.dtype).reshape(h.shape)
            (got,), (want,) = (
                torch.autograd.grad((x * scale).sum(), z, allow_unused=True, retain_graph=True)
                for x in (h, expected)
            )
            torch.testing.assert_close(got, want)


@laws
@given(generators(), SIZES)
def test_bpr_gives_the_derivative_of_each_margin(generator, num_samples):
    d = normal(generator, num_samples)
    torch.testing.assert_close(irm_derivatives_bpr(d), one_by_one(d, d, bpr))
    torch.testing.assert_close(irm_derivatives_bpr(d), irm_derivatives(d, None, loss=bpr))


def test_a_loss_per_row_of_logits_has_one_derivative_per_row():
    z = normal(seeded(0), 5, 3).requires_grad_()
    h = irm_derivatives(z, None, loss=lambda z, _: z.prod(dim=1))
    torch.testing.assert_close(h, 3 * z.prod(dim=1))  # homogeneous of degree 3


@pytest.mark.parametrize("loss", LOSSES)
def test_the_squared_mean_of_the_derivatives_is_irm_penalty(loss):
    z, y = draw(loss, seeded(2), 6)
    torch.testing.assert_close(
        irm_penalty_from_derivatives(irm_derivatives(z, y, loss=loss)), irm_penalty(z, y, loss=loss)
    )
    assert gradcheck(lambda z: irm_derivatives(z, y, loss=loss), (z.requires_grad_(),))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callables_work_without_gradients(mode):
    z, y = draw("mse", seeded(0), 4)
    with mode():
        h = irm_derivatives(z.clone(), y.clone(), loss=mse)
    assert not h.requires_grad
    torch.testing.assert_close(h.clone(), irm_derivatives(z, y, loss="mse"))


# --- estimators


def loop(h, estimator):
    n = len(h)
    if estimator == "square":
        return (sum(h) / n) ** 2
    if estimator == "split":
        even, odd = h[::2], h[1::2]
        return sum(even) / len(even) * sum(odd) / len(odd)
    return sum(a * b for i, a in enumerate(h) for j, b in enumerate(h) if i != j) / (n * (n - 1))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@laws
@given(generators(), st.integers(1, 4), st.integers(2, 7))
def test_estimators_equal_the_loop_averaged_over_environments(
    estimator, generator, num_envs, num_samples
):
    h = normal(generator, num_envs, num_samples)
    per_env = [loop(row.tolist(), estimator) for row in h]
    assert irm_penalty_from_derivatives(h, estimator=estimator).item() == pytest.approx(
        np.mean(per_env), abs=1e-12
    )
    one = irm_penalty_from_derivatives(h[0], estimator=estimator)
    assert one.item() == pytest.approx(per_env[0], abs=1e-12)
    assert gradcheck(
        lambda h: irm_penalty_from_derivatives(h, estimator=estimator), (h.requires_grad_(),)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_expectations_over_every_sample_of_a_small_population(estimator):
    """The mean over all 3^4 equally likely samples of size four is the exact expectation."""
    population, n = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64), 4
    samples = [torch.stack(x) for x in itertools.product(population, repeat=n)]
    values = torch.stack([irm_penalty_from_derivatives(h, estimator=estimator) for h in samples])
    bias = population.var(correction=0) / n if estimator == "square" else 0.0
    assert values.mean().item() == pytest.approx(
        float(population.mean().square() + bias), abs=1e-12
    )
    assert (values.min() < 0) == (estimator != "square")  # the unbiased ones are not clamped


def test_the_ustatistic_has_half_the_variance_of_the_split_at_mean_zero():
    samples = [
        torch.stack(x) for x in itertools.product(torch.tensor([-1.0, 1.0]).double(), repeat=8)
    ]
    variance = {
        e: torch.stack([irm_penalty_from_derivatives(h, estimator=e) for h in samples]).var(
            correction=0
        )
        for e in ("split", "ustat")
    }
    # The split averages 16 products of pairs, the U-statistic all 28.
    torch.testing.assert_close(variance["split"], torch.tensor(1 / 16).double())
    torch.testing.assert_close(variance["ustat"], torch.tensor(1 / 28).double())


# --- debiased variance

RISKS = np.array([0.0, 0.1, 0.4])


def expectation(samples, *, paired):
    return float(torch.stack([vrex_penalty_debiased(x, paired=paired) for x in samples]).mean())


def test_the_debiased_variance_of_independent_samples_is_unbiased():
    """Two samples for each of three environments from two equally likely losses: 4^3 outcomes."""
    noise = [torch.tensor(x).double() for x in itertools.product((-1.0, 1.0), repeat=6)]
    samples = [torch.from_numpy(RISKS)[:, None] + x.reshape(3, 2) for x in noise]
    assert expectation(samples, paired=False) == pytest.approx(RISKS.var(ddof=1), abs=1e-12)
    plain = float(torch.stack([vrex_penalty(x.mean(dim=1), correction=1) for x in samples]).mean())
    # The noise of a mean of two losses adds 1 / 2.
    assert plain == pytest.approx(RISKS.var(ddof=1) + 1 / 2, abs=1e-12)


def test_the_debiased_variance_of_paired_samples_is_unbiased_only_when_paired():
    """Each of two samples draws one of four columns of losses, so there are 16 outcomes."""
    columns = torch.tensor(
        [[3.0, 3.0, 3.2], [-3.0, -3.2, -3.0], [1.0, 1.3, 0.9], [-1.0, -1.1, -1.1]]
    ).double()
    columns = columns - columns.mean(dim=0) + torch.from_numpy(RISKS)
    samples = [torch.stack(x, dim=1) for x in itertools.product(columns, repeat=2)]
    assert expectation(samples, paired=True) == pytest.approx(RISKS.var(ddof=1), abs=1e-12)
    # The unpaired correction also subtracts shared noise, which does not add to the variance.
    assert expectation(samples, paired=False) < -1


@laws
@given(generators(), st.integers(2, 5), st.integers(2, 6))
def test_the_debiased_variance_equals_that_of_numpy(generator, num_envs, num_samples):
    losses = normal(generator, num_envs, num_samples)
    x = losses.numpy()
    variance = x.mean(axis=1).var(ddof=1)
    free = variance - np.mean([row.var(ddof=1) / len(row) for row in x])
    d = x - x.mean(axis=0)
    shared = variance - sum(row.var(ddof=1) for row in d) / (num_samples * (num_envs - 1))
    assert vrex_penalty_debiased(losses, paired=False).item() == pytest.approx(free, abs=1e-12)
    assert vrex_penalty_debiased(list(losses), paired=False).item() == pytest.approx(
        free, abs=1e-12
    )
    assert vrex_penalty_debiased(losses, paired=True).item() == pytest.approx(shared, abs=1e-12)


@laws
@given(generators(), st.lists(st.integers(2, 6), min_size=2, max_size=5))
def test_the_debiased_variance_of_environments_of_unequal_size(generator, sizes):
    rows = [normal(generator, n).requires_grad_() for n in sizes]
    means = np.array([row.detach().numpy().mean() for row in rows])
    noise = np.mean([row.detach().numpy().var(ddof=1) / len(row) for row in rows])
    assert vrex_penalty_debiased(rows, paired=False).item() == pytest.approx(
        means.var(ddof=1) - noise, abs=1e-12
    )
    assert gradcheck(lambda *rows: vrex_penalty_debiased(rows, paired=False), rows)


@pytest.mark.parametrize("paired", [False, True])
def test_gradients_of_the_debiased_variance_agree_with_finite_differences(paired):
    assert gradcheck(
        lambda x: vrex_penalty_debiased(x, paired=paired),
        (normal(seeded(0), 3, 4).requires_grad_(),),
    )


def test_noise_shared_by_paired_samples_changes_nothing():
    losses, shared = normal(seeded(0), 3, 5), 100 * normal(seeded(1), 5)
    shared = shared - shared.mean()
    for penalty in (
        vrex_penalty_debiased(losses + shared, paired=True),
        vrex_penalty_debiased(losses, paired=True),
    ):
        assert penalty.item() == pytest.approx(
            vrex_penalty_debiased(losses, paired=True).item(), abs=1e-9
        )
    assert vrex_penalty_debiased(losses + shared, paired=False) < -100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_in_float32(dtype):
    x = normal(seeded(0), 3, 4).to(dtype)
    for function in (
        lambda x: vrex_penalty_debiased(x, paired=True),
        lambda x: vrex_penalty_debiased(list(x), paired=False),
        lambda x: irm_penalty_from_derivatives(
            irm_derivatives(x, x.sigmoid(), loss="bce"), estimator="ustat"
        ),
        lambda x: irm_penalty_from_derivatives(irm_derivatives_bpr(x)),
    ):
        assert function(x).dtype == torch.float32
        torch.testing.assert_close(function(x), function(x.float()))


ONES = torch.ones(3)
OUTSIDE = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("logits", "targets", "loss", "error", "message"),
    [
        (
            ONES.long(),
            ONES,
            "bce",
            TypeError,
            "`logits` must be a floating-point tensor, got torch.int64.",
        ),
        (
            ONES,
            None,
            "bpr",
            ValueError,
            "`loss` must be 'bce', 'ce', 'mse' or a callable, got 'bpr'.",
        ),
        (ONES, None, "bce", ValueError, "loss='bce' needs `targets`, got None."),
        (ONES, torch.ones(2), "mse", ValueError, "the shape of `logits` (3,), got (2,)."),
        (
            ONES,
            ONES.long(),
            "ce",
            ValueError,
            "must be (n, K) and `targets` (n,), got (3,) and (3,).",
        ),
        (
            torch.ones(3, 2),
            ONES,
            "ce",
            TypeError,
            "`targets` must be classes in int64, got torch.float32.",
        ),
        (ONES, None, lambda z, y: 1.0, TypeError, "must return a tensor, got float."),
        (ONES, None, lambda z, y: z.mean(), ValueError, "without a reduction, got shape ()."),
        (ONES, None, lambda z, y: z[:2], ValueError, "without a reduction, got shape (2,)."),
        (ONES, None, lambda z, y: torch.ones(3), ValueError, "got shape (3,) without a gradient."),
        (
            ONES,
            None,
            lambda z, y: OUTSIDE * 2,
            ValueError,
            "depend on the logits passed to it. Use its argument",
        ),
    ],
)
def test_invalid_arguments_of_derivatives_are_an_error(logits, targets, loss, error, message):
    with pytest.raises(error, match=f"irm_derivatives: .*{re.escape(message)}"):
        irm_derivatives(logits, targets, loss=loss)


def test_irm_penalty_rejects_cross_entropy_of_several_environments():
    with pytest.raises(
        ValueError,
        match=re.escape("irm_penalty: with loss='ce' `logits` must be (n, K), got (2, 3, 4)"),
    ):
        irm_penalty(torch.ones(2, 3, 4), torch.ones(2, 3).long(), loss="ce")
    with pytest.raises(
        TypeError, match="irm_derivatives_bpr: `margins` must be a floating-point tensor"
    ):
        irm_derivatives_bpr(ONES.long())


@pytest.mark.parametrize(
    ("h", "estimator", "error", "message"),
    [
        ([1.0, 2.0], "square", TypeError, "`h` must be a floating-point tensor, got list."),
        (ONES.long(), "square", TypeError, "got torch.int64."),
        (torch.ones(1), "square", ValueError, "with n >= 2 and E >= 1, got (1,)."),
        (torch.ones(3, 1), "ustat", ValueError, "got (3, 1)."),
        (torch.ones(0, 3), "ustat", ValueError, "got (0, 3)."),
        (torch.ones(()), "ustat", ValueError, "got ()."),
        (torch.ones(2, 2, 2), "ustat", ValueError, "got (2, 2, 2)."),
        (ONES, "half", ValueError, "`estimator` must be 'square', 'split' or 'ustat', got 'half'."),
    ],
)
def test_invalid_arguments_of_estimators_are_an_error(h, estimator, error, message):
    with pytest.raises(error, match=f"irm_penalty_from_derivatives: .*{re.escape(message)}"):
        irm_penalty_from_derivatives(h, estimator=estimator)


@pytest.mark.parametrize(
    ("losses", "paired", "error", "message"),
    [
        (torch.ones(3), False, ValueError, "`losses` must have shape (E, N), got (3,)."),
        ([ONES, ONES], True, TypeError, "with paired=True `losses` must be one tensor (E, N)."),
        (torch.ones(1, 3), True, ValueError, "needs at least two environments, got 1."),
        ([], False, ValueError, "needs at least two environments, got 0."),
        (torch.ones(2, 3).long(), True, TypeError, "got for environment 0: torch.int64."),
        (
            [ONES, [1.0, 2.0]],
            False,
            TypeError,
            "got for environment 1: list. Convert it with `torch.as_tensor(...)`.",
        ),
        ([ONES, torch.ones(1)], False, ValueError, "got shape (1,) in environment 1."),
        (torch.ones(2, 1), True, ValueError, "got shape (1,) in environment 0."),
    ],
)
def test_invalid_arguments_of_the_debiased_variance_are_an_error(losses, paired, error, message):
    with pytest.raises(error, match=f"vrex_penalty_debiased: .*{re.escape(message)}"):
        vrex_penalty_debiased(losses, paired=paired)


# --- ignored targets


@pytest.mark.parametrize("loss", LOSSES)
@laws
@given(generators(), st.integers(1, 6))
def test_ignored_targets_count_as_if_their_samples_were_not_there(loss, generator, num_samples):
    z, y = draw(loss, generator, num_samples)
    keep = torch.rand(num_samples, generator=generator) < 0.6
    keep[0] = True
    ignored = torch.where(keep, y, -100)
    z.requires_grad_()
    h = irm_derivatives(z, ignored, loss=loss, ignore_index=-100)
    assert torch.equal(h[keep], irm_derivatives(z[keep], y[keep], loss=loss))
    assert not h[~keep].any()
    result = irm_penalty(z, ignored, loss=loss, ignore_index=-100)
    expected = irm_penalty(z[keep], y[keep], loss=loss)
    torch.testing.assert_close(result, expected)
    for got, wanted in zip(*(torch.autograd.grad(x, z) for x in (result, expected)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_index_that_no_target_has_changes_nothing_and_all_ignored_targets_give_nan(loss):
    z, y = draw(loss, seeded(0), 5)
    for result, expected in (
        (irm_penalty(z, y, loss=loss, ignore_index=-100), irm_penalty(z, y, loss=loss)),
        (irm_derivatives(z, y, loss=loss, ignore_index=-1), irm_derivatives(z, y, loss=loss)),
    ):
        torch.testing.assert_close(result, expected)
    assert irm_penalty(z, torch.full_like(y, -100), loss=loss, ignore_index=-100).isnan()


def test_a_loss_that_cannot_ignore_targets_is_an_error():
    z = torch.ones(3)
    for loss, kind in (("bpr", "'bpr'"), (lambda z, y: z.sum(), "a callable")):
        with pytest.raises(ValueError, match=f"irm_penalty: `ignore_index` needs .* got {kind}"):
            irm_penalty(z, None, loss=loss, ignore_index=-100)
    with pytest.raises(ValueError, match=r"irm_derivatives: `ignore_index` needs .* a callable"):
        irm_derivatives(z, None, loss=lambda z, y: z, ignore_index=-100)


# --- targets out of range

LOGITS, GROUPS = torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
CLASS_LOSSES = {
    "irm_penalty": lambda y, **options: irm_penalty(LOGITS, y, loss="ce", **options),
    "irm_derivatives": lambda y, **options: irm_derivatives(LOGITS, y, loss="ce", **options),
    "fishr_penalty_linear": lambda y, **options: fishr_penalty_linear(
        LOGITS, LOGITS, y, GROUPS, num_envs=2, **options
    ),
}


@pytest.mark.parametrize("value", [-100, -1, 3])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_a_class_out_of_range_is_an_error_that_names_ignore_index(name, value):
    targets = torch.tensor([0, 1, 2, value])
    message = rf"{name}: `targets` must lie in \[0, K\) = \[0, 3\), got {value}. .*{value}` if"
    with pytest.raises(ValueError, match=message):
        CLASS_LOSSES[name](targets)
    with pytest.raises(ValueError, match=message):
        CLASS_LOSSES[name](targets, ignore_index=-7)
    ignored = torch.tensor([0, value, value, 2]) if name == "irm_penalty" else targets
    if name != "fishr_penalty_linear":
        assert CLASS_LOSSES[name](ignored, ignore_index=value).isfinite().all()


@pytest.mark.parametrize("value", [-100.0, 1.5])
def test_a_binary_target_out_of_range_is_an_error(value):
    targets = torch.tensor([0.0, 1.0, value])
    for function in (irm_penalty, irm_derivatives):
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: .* must lie in \[0, 1\], got {value:g}\."):
            function(torch.ones(3), targets)
        assert function(torch.ones(3), targets, ignore_index=value).isfinite().all()
        # A target may leave [0, 1] by rounding, and is not the one that the error names.
        with pytest.raises(ValueError, match=rf"got {value:g}\."):
            function(torch.ones(3), torch.tensor([-0.005, 1.005, value]))
        assert function(torch.ones(3), torch.tensor([-1e-3, 0.5, 1.001])).isfinite().all()
        # Any number is a target of the squared error, and NaN comes out as NaN.
        assert function(torch.ones(3), targets, loss="mse").isfinite().all()
        assert function(torch.ones(3), targets * NAN).isnan().any()


def test_targets_whose_values_are_unknown_are_not_checked():
    y = torch.tensor([0, 1, 2, -100])
    result = irm_derivatives(LOGITS.to("meta"), y.to("meta"), loss="ce")
    assert result.shape == (4,)
    many = torch.stack([LOGITS, 2 * LOGITS])
    classes = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1]])
    mapped = torch.func.vmap(lambda z, y: irm_penalty(z, y, loss="ce"))(many, classes)
    expected = [irm_penalty(z, y, loss="ce") for z, y in zip(many, classes, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(expected))
