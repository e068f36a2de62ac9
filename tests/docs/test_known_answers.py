"""Tests of the objectives on problems with known solutions, and of the page that shows them."""

import json
import re
from itertools import pairwise
from pathlib import Path

import known_answers as study
import pytest
import torch
from matplotlib import pyplot as plt
from scipy import optimize

from tests.strategies import seeded

DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = json.loads((DOCS / "known_answers.json").read_text(encoding="utf-8"))
# (alpha, betas) -> weights of the predictor by ERM, and by IRMv1 and V-REx with a large weight.
ANSWERS = {
    (0.25, (0.1, 0.2)): ((0.29060, 0.59829), (0.5, 0.0), (0.5, 0.0)),
    (0.1, (0.11, 0.4)): ((0.71830, 0.20843), (0.625, 0.33072), (0.8, 0.0)),
    (0.05, (0.1, 0.2)): ((0.76107, 0.22053), (0.9, 0.0), (0.9, 0.0)),
}
FEW = tuple(10.0**exponent for exponent in range(-2, 7))


@pytest.mark.parametrize(("problem", "answers"), ANSWERS.items(), ids=str)
def test_two_bits_have_the_known_minima_in_expectation(problem, answers):
    erm, *large = answers
    for penalty, expected in zip(("IRMv1", "V-REx"), large, strict=True):
        points = study.path(study.two_bit(*problem, penalty), FEW)
        assert points[0][1:] == pytest.approx(erm, abs=1e-5)
        assert points[-1][1:] == pytest.approx(expected, abs=3e-4)


def test_two_bits_have_the_known_risks_at_the_minima():
    """In the second problem IRMv1 ends at a predictor that uses X2.

    Its risk is smaller than that of the invariant predictor.
    """
    for problem, penalty, w, risk in (
        ((0.25, (0.1, 0.2)), "IRMv1", (0.5, 0.0), 0.75),
        ((0.1, (0.11, 0.4)), "IRMv1", (0.625, 0.3307189), 0.337948),
        ((0.1, (0.11, 0.4)), "V-REx", (0.8, 0.0), 0.36),
        ((0.05, (0.1, 0.2)), "V-REx", (0.9, 0.0), 0.19),
    ):
        risks, value = study.two_bit(*problem, penalty)(torch.tensor(w, dtype=torch.float64))
        assert risks.mean().item() == pytest.approx(risk, abs=1e-5)
        assert value.item() == pytest.approx(0, abs=1e-8)


def test_irm_with_a_large_weight_stays_at_zero_if_it_starts_there():
    risks_and_penalty = study.two_bit(0.25, (0.1, 0.2), "IRMv1")
    assert (
        study.minimise(risks_and_penalty, 1e6, torch.zeros(2, dtype=torch.float64)).abs().max()
        < 0.01
    )


@pytest.mark.parametrize("penalty", ["IRMv1", "V-REx"])
def test_two_bits_estimated_from_samples_have_the_same_risks_and_minima(penalty):
    for problem, answers in ANSWERS.items():
        sampled = study.sampled_two_bit(*problem, penalty, samples=40_000, generator=seeded(0))
        expected = study.two_bit(*problem, penalty)
        for w in ((0.3, 0.6), (0.5, 0.0)):
            estimate, exact = sampled(torch.tensor(w).double()), expected(torch.tensor(w).double())
            torch.testing.assert_close(estimate[0], exact[0], atol=0.03, rtol=0)
            torch.testing.assert_close(estimate[1], exact[1], atol=0.01, rtol=0)
        assert study.path(sampled, ())[0][1:] == pytest.approx(answers[0], abs=0.02)
    penalised = study.path(
        study.sampled_two_bit(0.25, (0.1, 0.2), penalty, samples=40_000, generator=seeded(1)),
        FEW[:7],
    )
    assert penalised[-1][1:] == pytest.approx((0.5, 0.0), abs=0.08)


def test_vrex_uses_the_effect_where_the_noise_of_the_label_differs_between_environments():
    erm, *_, last = study.path(study.linear_model((0.04, 4.0), "V-REx"), (*FEW[:-1], 4e5))
    assert last[1:] == pytest.approx((0.0085, 0.9915), abs=2e-3)
    assert study.path(study.linear_model((10.0, 20.0), "V-REx"), ())[0][1:] == pytest.approx(
        (0.0625, 0.9375), abs=1e-4
    )
    for s in (0.5, 3.0):
        assert study.path(study.linear_model((s, s), "V-REx"), ())[0][1:] == pytest.approx(
            (1 / (s + 1), s / (s + 1))
        )
    assert erm[2] < 0.7


def test_vrex_finds_the_cause_where_only_the_noise_of_the_effect_differs():
    risks_and_penalty = study.linear_model((0.04, 4.0), "V-REx", noise_of_y=False)
    assert study.path(risks_and_penalty, FEW)[-1][1:] == pytest.approx((1.0, 0.0), abs=2e-2)


@pytest.mark.parametrize(
    ("spreads", "local"), [((0.04, 4.0), (0.444, 0.664)), ((10.0, 20.0), (0.114, 0.915))]
)
def test_irm_has_its_global_minimum_at_the_cause_and_ends_in_a_local_one(spreads, local):
    risks_and_penalty = study.linear_model(spreads, "IRMv1")
    assert risks_and_penalty(torch.tensor([1.0, 0.0], dtype=torch.float64))[1] == 0
    from_erm = study.path(risks_and_penalty, FEW)[-1][1:]
    assert from_erm == pytest.approx(local, abs=1e-3)
    assert study.minimise(
        risks_and_penalty, 1e6, torch.tensor([0.5, 0.5], dtype=torch.float64)
    ).tolist() == pytest.approx(local, abs=2e-3)
    assert risks_and_penalty(torch.tensor(from_erm, dtype=torch.float64))[1] > 1e-4
    if spreads == (0.04, 4.0):
        minimum = study.minimise_in_long_steps(risks_and_penalty, 1e6, (1.0, 1.0))
        assert minimum == pytest.approx((1.0, 0.0), abs=1e-3)


def test_every_point_of_a_path_has_a_gradient_of_zero():
    risks_and_penalty = study.two_bit(0.1, (0.11, 0.4), "IRMv1")
    for weight, *w in study.path(risks_and_penalty, FEW[:6]):
        x = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        risks, penalty = risks_and_penalty(x)
        (gradient,) = torch.autograd.grad((risks.mean() + weight * penalty) / (1 + weight), x)
        assert gradient.abs().max() < 1e-7
        assert optimize.approx_fprime(
            w, lambda v: risks_and_penalty(torch.tensor(v))[0].mean().item()
        ).shape == (2,)


@pytest.mark.slow
def test_training_with_a_penalty_depends_less_on_colour_than_erm():
    """One seed, with a margin of 0.1 in accuracy; the figure of the page has four seeds."""
    accuracy = {method: study.train_on_colours(method, 1) for method in study.METHODS}
    assert accuracy["ERM"][0] > 0.98
    assert accuracy["ERM"][1] < 0.35
    for method in ("IRMv1", "V-REx"):
        assert accuracy[method][0] < 0.9
        assert accuracy[method][1] > accuracy["ERM"][1] + 0.1


# --- the page


def test_the_committed_numbers_agree_with_the_known_solutions_and_the_page():
    for (alpha, betas), (erm, irm, vrex) in ANSWERS.items():
        paths = NUMBERS["two_bits"][f"{alpha}; {', '.join(map(str, betas))}"]
        for method, large in (("IRMv1", irm), ("V-REx", vrex)):
            assert paths[method][0][1:] == pytest.approx(erm, abs=1e-4)
            assert paths[method][-1][1:] == pytest.approx(large, abs=1e-3)
    means = {
        method: [sum(column) / 4 for column in zip(*rows, strict=True)]
        for method, rows in NUMBERS["digits"].items()
    }
    assert all(b[1] > a[1] for a, b in pairwise(means[method] for method in study.METHODS))
    assert means["IRMv1"][1] > means["ERM"][1] + 0.1
    page = (DOCS / "parts/objectives.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| (ERM|IRMv1|V-REx) \| (\d\.\d+ \| \d\.\d+) \|$", page, re.MULTILINE)
    )
    assert rows == {method: f"{train:.2f} | {test:.2f}" for method, (train, test) in means.items()}
    assert NUMBERS["made"].split(",")[0] in page


@pytest.mark.slow
def test_the_page_shows_the_figures_that_the_script_draws():
    page = (DOCS / "parts/objectives.md").read_text(encoding="utf-8")
    assert re.findall(r"images/(\w+)\.png", page) == list(study.PICTURES)
    for name, draw in study.PICTURES.items():
        assert (DOCS / "images" / f"{name}.png").stat().st_size > 1000
        plt.close(draw(NUMBERS))
