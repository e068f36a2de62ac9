"""Laws of the additive statistics: equal to a loop, for any micro-batches, ranks and masks."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed
from torch.autograd import gradcheck

from invmod import (
    GroupDRO,
    invariant_objective,
    risk_coefficients,
    vrex_penalty,
    worst_case_objective,
)
from invmod.objectives import (
    all_reduce_statistics,
    cvar_objective,
    environment_statistics,
    eqrm_objective,
    irm_penalty_from_statistics,
    merge_statistics,
    mmrex_objective,
    risks_from_statistics,
    statistics_coefficients,
    statistics_surrogate,
    vrex_penalty_debiased_from_statistics,
)
from invmod.penalties import irm_derivatives, irm_penalty_from_derivatives, vrex_penalty_debiased
from tests.strategies import NAN, generators, laws, normal, seeded

SIZES = st.integers(0, 8)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def loop(losses, env, num_envs, h, halves, mask, weights):
    """The sums of samples with an environment index, computed one sample at a time."""
    names = ("weight", "weight_square", "loss", "loss_square", "derivative", "derivative_square")
    sums = {name: np.zeros(num_envs) for name in (*names, "half_weight", "half_derivative")}
    for i, e in enumerate(env.tolist()):
        if not mask[i]:
            continue
        w, x, d = float(weights[i]), float(losses[i]), float(h[i])
        for name, value in zip(
            names, (w, w * w, w * x, (w * x) ** 2, w * d, (w * d) ** 2), strict=True
        ):
            sums[name][e] += value
        if halves[i]:
            sums["half_weight"][e] += w
            sums["half_derivative"][e] += w * d
    return sums


def sample(generator, num_samples, num_envs):
    """Losses with NaN and 1e9 where the mask is False, environments, and options."""
    mask = torch.rand(num_samples, generator=generator) < 0.7
    losses, h = normal(generator, num_samples), normal(generator, num_samples)
    bad = torch.tensor([NAN, 1e9]).double()[torch.arange(num_samples) % 2]
    env = torch.randint(num_envs, (num_samples,), generator=generator)
    halves = torch.rand(num_samples, generator=generator) < 0.5
    weights = torch.rand(num_samples, generator=generator, dtype=torch.float64)
    return (
        torch.where(mask, losses, bad),
        env,
        {
            "num_envs": num_envs,
            "derivatives": torch.where(mask, h, bad),
            "halves": halves,
            "mask": mask,
            "weights": torch.where(mask, weights, bad),
        },
    )


@laws
@given(generators(), SIZES, st.integers(1, 5))
def test_sums_of_samples_with_an_index_equal_those_of_the_loop(generator, num_samples, num_envs):
    losses, env, options = sample(generator, num_samples, num_envs)
    expected = loop(
        losses, env, num_envs, *(options[k] for k in ("derivatives", "halves", "mask", "weights"))
    )
    got = environment_statistics(losses, env, **options)
    assert list(got) == list(expected)
    for name, entry in got.items():
        assert entry.dtype == torch.float64
        np.testing.assert_allclose(entry, expected[name], atol=1e-12)


@laws
@given(generators(), SIZES, st.integers(1, 5), st.booleans())
def test_losses_of_every_environment_equal_samples_with_an_index(
    generator, num_samples, num_envs, own_mask
):
    losses, h = normal(generator, num_envs, num_samples), normal(generator, num_envs, num_samples)
    shape = (num_envs, num_samples) if own_mask else (num_samples,)
    mask = torch.rand(shape, generator=generator) < 0.7
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    halves = torch.rand(shape, generator=generator) < 0.5
    got = environment_statistics(losses, derivatives=h, halves=halves, mask=mask, weights=weights)
    env = torch.arange(num_envs).repeat_interleave(num_samples)
    flat = {
        "derivatives": h.flatten(),
        "halves": halves.expand_as(h).flatten(),
        "mask": mask.expand_as(h).flatten(),
        "weights": weights.expand_as(h).flatten(),
    }
    expected = environment_statistics(losses.flatten(), env, num_envs=num_envs, **flat)
    torch.testing.assert_close(got, expected, **EXACT)
    if not own_mask:
        paired = environment_statistics(losses, paired=True, mask=mask, weights=weights)
        products = sum(
            (w * m * w) * torch.outer(x, x) for x, w, m in zip(losses.T, weights, mask, strict=True)
        ) + torch.zeros(num_envs, num_envs, dtype=torch.float64)
        torch.testing.assert_close(paired["loss_product"], products, **EXACT)
        torch.testing.assert_close(paired["loss_product"].diagonal(), got["loss_square"], **EXACT)


@laws
@given(generators(), st.integers(1, 8), st.integers(1, 4))
def test_masked_cells_have_no_gradient_and_the_others_the_right_one(
    generator, num_samples, num_envs
):
    losses, env, options = sample(generator, num_samples, num_envs)
    losses.requires_grad_()
    options["derivatives"].requires_grad_()
    statistics = environment_statistics(losses, env, **options)
    inputs = [losses, options["derivatives"]]
    for gradient in torch.autograd.grad(sum(entry.sum() for entry in statistics.values()), inputs):
        assert gradient.isfinite().all()
        assert (gradient[~options["mask"]] == 0).all()
    clean = [torch.where(options["mask"], x.detach(), 0.5).requires_grad_() for x in inputs]
    fixed = {name: value for name, value in options.items() if name != "derivatives"}
    fixed["weights"] = torch.where(options["mask"], options["weights"], 1.0)
    assert gradcheck(
        lambda x, h: tuple(environment_statistics(x, env, derivatives=h, **fixed).values()), clean
    )


# --- estimates from the statistics


@laws
@given(generators(), st.integers(1, 4), st.integers(2, 7))
def test_estimates_from_statistics_equal_those_from_the_samples(generator, num_envs, num_samples):
    losses, h = normal(generator, num_envs, num_samples), normal(generator, num_envs, num_samples)
    statistics = environment_statistics(
        losses, derivatives=h, halves=torch.arange(num_samples) % 2 == 0
    )
    torch.testing.assert_close(risks_from_statistics(statistics), losses.mean(dim=1), **EXACT)
    for estimator in ("square", "split", "ustat"):
        got = irm_penalty_from_statistics(statistics, estimator=estimator)
        torch.testing.assert_close(
            got, irm_penalty_from_derivatives(h, estimator=estimator), **EXACT
        )
    if num_envs > 1:
        for paired in (False, True):
            got = vrex_penalty_debiased_from_statistics(
                environment_statistics(losses, paired=paired)
            )
            torch.testing.assert_close(got, vrex_penalty_debiased(losses, paired=paired), **EXACT)


def test_statistics_of_unequal_environments_equal_the_estimate_from_a_list():
    rows = [normal(seeded(e), n) for e, n in enumerate((2, 5, 3))]
    env = torch.tensor([0] * 2 + [1] * 5 + [2] * 3)
    got = vrex_penalty_debiased_from_statistics(
        environment_statistics(torch.cat(rows), env, num_envs=3)
    )
    torch.testing.assert_close(got, vrex_penalty_debiased(rows, paired=False), **EXACT)


WEIGHTS = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)


def mean_over(samples, estimate):
    return float(torch.stack([estimate(x) for x in samples]).mean())


def test_weighted_estimates_are_unbiased_over_every_sample_of_a_small_population():
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    samples = [torch.stack(x)[None] for x in itertools.product(values, repeat=3)]

    def irm(h, estimator):
        halves = torch.tensor([True, False, True])
        statistics = environment_statistics(h, derivatives=h, halves=halves, weights=WEIGHTS)
        return irm_penalty_from_statistics(statistics, estimator=estimator)

    truth = float(values.mean().square())
    assert mean_over(samples, lambda h: irm(h, "ustat")) == pytest.approx(truth, abs=1e-12)
    assert mean_over(samples, lambda h: irm(h, "split")) == pytest.approx(truth, abs=1e-12)
    assert mean_over(samples, lambda h: irm(h, "square")) > truth + 0.1


@pytest.mark.parametrize("paired", [False, True])
def test_weighted_debiased_variances_are_unbiased_over_every_sample_of_a_small_population(paired):
    risks = torch.tensor([0.0, 0.4], dtype=torch.float64)
    if paired:
        columns = torch.tensor([[3.0, 3.4], [-1.0, -1.5], [0.5, 0.2]]).double()
        columns = columns - columns.mean(dim=0) + risks
        samples = [torch.stack(x, dim=1) for x in itertools.product(columns, repeat=3)]
    else:
        signs = itertools.product((-1.0, 1.0), repeat=6)
        samples = [risks[:, None] + torch.tensor(x).double().reshape(2, 3) for x in signs]

    def estimate(x):
        return vrex_penalty_debiased_from_statistics(
            environment_statistics(x, paired=paired, weights=WEIGHTS)
        )

    assert mean_over(samples, estimate) == pytest.approx(0.08, abs=1e-12)


# --- micro-batches and ranks

OBJECTIVES = {
    "vrex": lambda s: invariant_objective(
        risks_from_statistics(s), penalty=vrex_penalty, penalty_weight=50.0
    ),
    "mmrex": lambda s: mmrex_objective(risks_from_statistics(s), lambda_min=-1.0),
    "worst case": lambda s: worst_case_objective(risks_from_statistics(s)),
    "cvar of environments": lambda s: cvar_objective(risks_from_statistics(s), tail_fraction=0.5),
    "eqrm": lambda s: eqrm_objective(risks_from_statistics(s), quantile=0.8),
    "group dro": lambda s: GroupDRO(3, step_size=0.5)(risks_from_statistics(s)),
    "irm square": lambda s: irm_penalty_from_statistics(s),
    "irm split": lambda s: irm_penalty_from_statistics(s, estimator="split"),
    "irm ustat": lambda s: irm_penalty_from_statistics(s, estimator="ustat"),
    "debiased": lambda s: vrex_penalty_debiased_from_statistics(s),
    "vrex and irm": lambda s: invariant_objective(
        risks_from_statistics(s),
        penalty=irm_penalty_from_statistics(s, estimator="ustat"),
        penalty_weight=20.0,
    ),
}
X, Y = normal(seeded(0), 24, 4), (normal(seeded(1), 24) > 0).double()
ENV, HALVES = torch.arange(24) % 3, torch.arange(24) // 3 % 2 == 0
KEPT = torch.arange(24) != 5
IMPORTANCE = torch.rand(24, generator=seeded(2), dtype=torch.float64) + 0.1


def statistics_of(theta, rows, paired=False):
    if paired:  # three environments score every sample
        logits = torch.stack([X[rows].roll(e, dims=1) @ theta for e in range(3)])
        y, env, num_envs = Y[rows].expand(3, -1), None, None
    else:
        logits, y, env, num_envs = X[rows] @ theta, Y[rows], ENV[rows], 3
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return environment_statistics(
        losses,
        env,
        num_envs=num_envs,
        derivatives=irm_derivatives(logits, y),
        halves=HALVES[rows],
        paired=paired,
        mask=KEPT[rows],
        weights=IMPORTANCE[rows],
    )


def theta():
    return normal(seeded(3), 4).requires_grad_()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_have_the_value_and_the_gradient_of_the_whole_batch(name, paired):
    objective = OBJECTIVES[name]
    whole, split = theta(), theta()
    expected = objective(statistics_of(whole, torch.arange(24), paired))
    expected.backward()

    parts = torch.randperm(24, generator=seeded(4)).split([1, 10, 6, 7])
    with torch.no_grad():
        total = merge_statistics(*(statistics_of(split, rows, paired) for rows in parts))
    value, coefficients = statistics_coefficients(total, objective)
    for rows in parts:
        statistics_surrogate(coefficients, statistics_of(split, rows, paired)).backward()
    torch.testing.assert_close(value, expected.detach(), **EXACT)
    torch.testing.assert_close(split.grad, whole.grad, **EXACT)
    assert whole.grad.abs().sum() > 0.01
    assert not value.requires_grad
    assert not any(c.requires_grad for c in coefficients.values())


def work(rank, store, out):
    """Run one of two ranks on its share of the rows; the gradient is averaged as in DDP."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rows = torch.arange(24).split([17, 7])[rank]
    results = {}
    for name, objective in OBJECTIVES.items():
        own = theta()
        parts = rows.split(5)
        with torch.no_grad():
            local = merge_statistics(*(statistics_of(own, part) for part in parts))
        value, coefficients = statistics_coefficients(all_reduce_statistics(local), objective)
        for part in parts:
            (2 * statistics_surrogate(coefficients, statistics_of(own, part))).backward()
        distributed.all_reduce(own.grad)
        results[name] = value, own.grad / 2
    torch.save(results, f"{out}{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_value_and_the_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path / "store"), str(tmp_path / "rank")), nprocs=2)
    results = [torch.load(tmp_path / f"rank{rank}") for rank in range(2)]
    for name, objective in OBJECTIVES.items():
        whole = theta()
        expected = objective(statistics_of(whole, torch.arange(24)))
        expected.backward()
        for result in results:
            torch.testing.assert_close(result[name], (expected.detach(), whole.grad), **EXACT)


def test_an_all_reduce_without_a_process_group_is_an_error():
    with pytest.raises(RuntimeError, match="all_reduce_statistics: there is no process group"):
        all_reduce_statistics({"loss": torch.ones(2)})
    with pytest.raises(ValueError, match="all_reduce_statistics: `statistics` has no entry"):
        all_reduce_statistics({})


@laws
@given(generators(), st.integers(1, 6))
def test_risk_coefficients_are_the_special_case_of_one_statistic(generator, num_envs):
    risks = normal(generator, num_envs)
    value, coefficients = statistics_coefficients(
        {"risks": risks}, lambda s: vrex_penalty(s["risks"])
    )
    assert torch.equal(coefficients["risks"], risk_coefficients(risks, vrex_penalty))
    assert torch.equal(value, vrex_penalty(risks))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_coefficients_are_the_same_in_every_mode_and_zero_for_an_unused_entry(mode):
    with mode():
        statistics = environment_statistics(normal(seeded(0), 2, 3))
        _, coefficients = statistics_coefficients(statistics, OBJECTIVES["vrex"])
    assert list(coefficients) == list(statistics)
    assert (coefficients["loss_square"] == 0).all()
    assert (coefficients["weight"] != 0).all()


def test_the_objective_is_called_once():
    dro = GroupDRO(3, step_size=1.0)
    statistics = statistics_of(theta().detach(), torch.arange(24))
    value, _ = statistics_coefficients(statistics, lambda s: dro(risks_from_statistics(s)))
    risks, once = risks_from_statistics(statistics), GroupDRO(3, step_size=1.0)
    torch.testing.assert_close(value, once(risks))
    assert torch.equal(dro.weights, once.weights)


# --- edges


def test_an_absent_environment_has_zero_sums_and_a_risk_that_raises_or_is_nan():
    losses = torch.tensor([1.0, 3.0], requires_grad=True)
    statistics = environment_statistics(losses, torch.tensor([0, 2]), num_envs=3)
    assert statistics["weight"].tolist() == [1, 0, 1]
    with pytest.raises(
        ValueError,
        match=re.escape("each environment needs a sample, but environments [1] lack it."),
    ):
        risks_from_statistics(statistics)
    risks = risks_from_statistics(statistics, absent="nan")
    assert risks.isnan().tolist() == [False, True, False]
    GroupDRO(3, step_size=0.0)(risks, present=~risks.isnan()).backward()
    torch.testing.assert_close(losses.grad, torch.full((2,), 1 / 3))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.0]), torch.tensor([0.1, 1e-12])])
def test_an_effective_sample_size_of_one_is_too_small_for_an_unbiased_estimate(weights):
    x = torch.ones(2, 1) if weights is None else torch.ones(2, 2)
    for paired in (False, True):
        statistics = environment_statistics(x, derivatives=x, paired=paired, weights=weights)
        for estimate in (
            irm_penalty_from_statistics,
            lambda s: irm_penalty_from_statistics(s, estimator="ustat"),
            vrex_penalty_debiased_from_statistics,
        ):
            with pytest.raises(
                ValueError,
                match=re.escape("at least two samples, but environments [0, 1] lack it."),
            ):
                estimate(statistics)


@pytest.mark.parametrize("halves", [[True, True, True], [False, False, False]])
def test_an_empty_half_is_an_error(halves):
    statistics = environment_statistics(
        torch.ones(1, 3), derivatives=torch.ones(1, 3), halves=torch.tensor(halves)
    )
    with pytest.raises(ValueError, match="each environment needs a sample in each half"):
        irm_penalty_from_statistics(statistics, estimator="split")


def test_a_fully_masked_and_an_empty_batch_have_zero_sums():
    masked = environment_statistics(
        torch.full((2, 3), NAN), mask=torch.zeros(3).bool(), paired=True
    )
    empty = environment_statistics(torch.ones(2, 0), paired=True)
    for statistics in (masked, empty):
        assert all((entry == 0).all() for entry in statistics.values())
    with pytest.raises(ValueError, match=re.escape("environments [0, 1] lack it.")):
        risks_from_statistics(masked)


def test_a_sample_of_weight_zero_is_equivalent_to_a_masked_one():
    losses = torch.tensor([[1.0, NAN], [3.0, 1e9]], requires_grad=True)
    statistics = environment_statistics(
        losses, derivatives=losses, weights=torch.tensor([1.0, 0.0])
    )
    assert risks_from_statistics(statistics).tolist() == [1, 3]
    (gradient,) = torch.autograd.grad(sum(entry.sum() for entry in statistics.values()), losses)
    assert (gradient[:, 1] == 0).all()


def test_one_environment_has_a_risk_and_no_debiased_variance():
    statistics = environment_statistics(torch.tensor([1.0, 3.0]), torch.zeros(2).long())
    assert risks_from_statistics(statistics).tolist() == [2]
    with pytest.raises(
        ValueError,
        match="vrex_penalty_debiased_from_statistics: needs at least two environments, got 1",
    ):
        vrex_penalty_debiased_from_statistics(statistics)


def test_large_float32_losses_keep_their_variance():
    losses = 1000 + normal(seeded(0), 3, 50, dtype=torch.float32)
    got = vrex_penalty_debiased_from_statistics(environment_statistics(losses))
    torch.testing.assert_close(
        got, vrex_penalty_debiased(losses.double(), paired=False), rtol=1e-7, atol=1e-9
    )


L, V, I3 = torch.ones(2, 3), torch.ones(3), torch.zeros(3).long()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: environment_statistics([1.0]),
            TypeError,
            "`losses` must be a floating-point tensor, got list.",
        ),
        (lambda: environment_statistics(L.long()), TypeError, "got torch.int64."),
        (
            lambda: environment_statistics(V),
            ValueError,
            "without `env`, `losses` must have shape (E, N)",
        ),
        (lambda: environment_statistics(torch.ones(0, 3)), ValueError, "E >= 1"),
        (lambda: environment_statistics(L, num_envs=3), ValueError, "got (2, 3) and 3."),
        (
            lambda: environment_statistics(V, V),
            TypeError,
            "`env` must be a tensor of integers, got torch.float32.",
        ),
        (lambda: environment_statistics(V, V > 0), TypeError, "integers, got torch.bool."),
        (lambda: environment_statistics(V, [0, 1, 2]), TypeError, "integers, got list."),
        (lambda: environment_statistics(V, I3[:2]), ValueError, "got losses (3,) and env (2,)."),
        (
            lambda: environment_statistics(L, I3),
            ValueError,
            "`losses` and `env` must have shape (n,), got losses (2, 3)",
        ),
        (
            lambda: environment_statistics(V[:0], I3[:0]),
            ValueError,
            "needs an environment, got 0 samples",
        ),
        (
            lambda: environment_statistics(V, I3, num_envs=0),
            ValueError,
            "`num_envs` must be at least 1, got 0.",
        ),
        (
            lambda: environment_statistics(V, I3 + 2, num_envs=2),
            ValueError,
            "`env` must be in 0..1, but 3 entries",
        ),
        (
            lambda: environment_statistics(V, I3 - 1, num_envs=2),
            ValueError,
            "`env` must be in 0..1, but 3 entries",
        ),
        (
            lambda: environment_statistics(V, I3, paired=True),
            ValueError,
            "needs losses (E, N) without `env`.",
        ),
        (
            lambda: environment_statistics(L, mask=V),
            TypeError,
            "`mask` must be a tensor of torch.bool, got torch.flo",
        ),
        (
            lambda: environment_statistics(L, mask=V[:2] > 0),
            ValueError,
            "must have shape (2, 3) or (3,), got (2,).",
        ),
        (
            lambda: environment_statistics(L, mask=L > 0, paired=True),
            ValueError,
            "must have shape (3,), got (2, 3).",
        ),
        (
            lambda: environment_statistics(L, weights=I3),
            TypeError,
            "`weights` must be a tensor of floating-point",
        ),
        (
            lambda: environment_statistics(L, weights=[1.0]),
            TypeError,
            "floating-point numbers, got list.",
        ),
        (
            lambda: environment_statistics(L, weights=-V),
            ValueError,
            "`weights` must be finite and not negative",
        ),
        (
            lambda: environment_statistics(L, weights=V / 0),
            ValueError,
            "`weights` must be finite and not negative",
        ),
        (
            lambda: environment_statistics(L, derivatives=V),
            ValueError,
            "`derivatives` must have shape (2, 3)",
        ),
        (
            lambda: environment_statistics(L, halves=V > 0),
            ValueError,
            "`halves` needs `derivatives`",
        ),
        (
            lambda: environment_statistics(L, derivatives=L, halves=V),
            TypeError,
            "`halves` must be a tensor of torch.b",
        ),
        (
            lambda: risks_from_statistics({"weight": V}),
            KeyError,
            "`statistics` has no entry 'loss', only ['weight'].",
        ),
        (
            lambda: risks_from_statistics({}, absent="skip"),
            ValueError,
            "`absent` must be 'raise' or 'nan', got 'skip'",
        ),
        (
            lambda: irm_penalty_from_statistics(environment_statistics(L)),
            KeyError,
            "has no entry 'derivative'",
        ),
        (
            lambda: irm_penalty_from_statistics({}, estimator="half"),
            ValueError,
            "'split' or 'ustat', got 'half'.",
        ),
        (lambda: vrex_penalty_debiased_from_statistics({}), KeyError, "has no entry 'weight'"),
        (
            lambda: merge_statistics(),
            ValueError,
            "needs one or more parts with the same entries and shapes, got []",
        ),
        (
            lambda: merge_statistics({"loss": V}, {"weight": V}),
            ValueError,
            "Pass `num_envs` for every part.",
        ),
        (
            lambda: merge_statistics({"loss": V}, {"loss": V[:2]}),
            ValueError,
            "Pass `num_envs` for every part.",
        ),
        (
            lambda: statistics_coefficients({}, lambda s: V.sum()),
            ValueError,
            "`statistics` has no entry.",
        ),
        (
            lambda: statistics_coefficients({"a": I3}, lambda s: V),
            TypeError,
            "got for 'a': torch.int64.",
        ),
        (
            lambda: statistics_coefficients({"a": 1.0}, lambda s: V),
            TypeError,
            "got for 'a': float.",
        ),
        (
            lambda: statistics_coefficients({"a": V}, lambda s: s["a"]),
            ValueError,
            "depends on the statistics passed",
        ),
        (
            lambda: statistics_surrogate({}, {}),
            ValueError,
            "must have the same names, at least one, got [] and [].",
        ),
        (lambda: statistics_surrogate({"a": V}, {"b": V}), ValueError, "got ['a'] and ['b']."),
        (
            lambda: statistics_surrogate({"a": V}, {"a": L}),
            ValueError,
            "'a' must have one shape, got (3,)",
        ),
    ],
)
def test_invalid_arguments_of_statistics_are_an_error(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


# --- one part, weights with a gradient, and integers of NumPy


def test_merging_one_part_copies_it():
    part = environment_statistics(V, I3, num_envs=2, derivatives=V)
    merged = merge_statistics(part)
    assert list(merged) == list(part)
    for name, entry in part.items():
        assert torch.equal(merged[name], entry)
        assert merged[name].shape == entry.shape
        merged[name] += 1.0
    assert part["loss"].sum() == pytest.approx(V.sum().item())


@pytest.mark.parametrize("paired", [False, True])
def test_a_gradient_reaches_the_weights_of_samples(paired):
    losses, weights = normal(seeded(0), 2, 4), torch.rand(4, generator=seeded(1)).double() + 0.1

    def estimate(weights):
        s = environment_statistics(losses, weights=weights, derivatives=losses, paired=paired)
        return (
            risks_from_statistics(s).square().sum()
            + vrex_penalty_debiased_from_statistics(s)
            + irm_penalty_from_statistics(s, estimator="ustat")
        )

    assert torch.autograd.gradcheck(estimate, weights.requires_grad_())
    (gradient,) = torch.autograd.grad(estimate(weights), weights)
    assert gradient.abs().min() > 1e-3


def test_the_number_of_environments_may_be_an_integer_of_numpy():
    expected = environment_statistics(V, I3, num_envs=4)
    result = environment_statistics(V, I3, num_envs=np.int64(4))
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    with pytest.raises(TypeError, match=r"`num_envs` must be an int, got 4.0"):
        environment_statistics(V, I3, num_envs=4.0)
