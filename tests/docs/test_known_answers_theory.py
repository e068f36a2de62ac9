"""Tests of the statements of docs/theory.md, and of the numbers that the page shows."""

import itertools
import json
from pathlib import Path

import known_answers as study
import known_answers_patterns as patterns
import known_answers_sharing as sharing
import pytest
import torch

from tests.strategies import seeded

DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = json.loads((DOCS / "known_answers.json").read_text(encoding="utf-8"))["theory"]
PAGE = (DOCS / "theory.md").read_text(encoding="utf-8")
NOISE = study.EMBEDDING_NOISE
EXACT, SUPERSET, MEAN, MEAN_AND_MASK, CONDITIONAL = patterns.METHODS


# --- the optimum of a pattern


@pytest.mark.parametrize("mechanism", patterns.MECHANISMS)
@pytest.mark.parametrize("hidden", [(1,), (2,), (1, 2)], ids=str)
def test_the_optimum_agrees_with_an_integral_over_the_missing_values(mechanism, hidden):
    """The density of the missing values given x_p and p, on a grid, by Bayes' rule."""
    x = torch.tensor([[0.7, -0.4, 1.3]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    mask[0, list(hidden)] = False
    grid = torch.linspace(-8, 9, 500, dtype=torch.float64)
    values = torch.cartesian_prod(*[grid] * len(hidden)).reshape(-1, len(hidden))
    full = x.repeat(len(values), 1)
    full[:, list(hidden)] = values
    density = torch.exp(-(full @ torch.linalg.inv(patterns.COVARIANCE) * full).sum(dim=1) / 2)
    if mechanism == "MNAR":
        density *= torch.exp(-(values - patterns.CENTRE).square().sum(dim=1) / 2)
    density /= density.sum()
    y = full @ patterns.BETA
    mean = density @ y
    variance = density @ (y - mean).square() + patterns.NOISE
    expected = torch.stack([mean, variance])
    torch.testing.assert_close(torch.cat(patterns.optimum(x, mask, mechanism)), expected)


@pytest.mark.parametrize("mechanism", patterns.MECHANISMS)
def test_the_optimum_is_calibrated_and_of_the_stated_error_in_every_pattern(mechanism):
    drawn = patterns.sample(mechanism, 100_000, seeded(1))
    for pattern, (difference, slope) in patterns.calibration(drawn, drawn.mean).items():
        assert difference == pytest.approx(0, abs=0.04), pattern
        assert slope == pytest.approx(1, abs=0.04), pattern
        rows = drawn.rows(pattern)
        error = float((drawn.y - drawn.mean)[rows].square().mean())
        assert error == pytest.approx(float(drawn.variance[rows].mean()), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", patterns.MECHANISMS)
def test_more_rows_bring_only_the_regression_of_each_pattern_to_the_optimum(mechanism):
    test = patterns.sample(mechanism, 4000, seeded(3))
    excess = {}
    for size in (300, 2400):
        train = patterns.sample(mechanism, size, seeded(2))
        for method in ("exact", "mean"):
            error = patterns.predicted(train, test, method) - test.mean
            excess[method, size] = float(error.square().mean())
    assert excess["exact", 2400] < 0.02
    assert excess["exact", 2400] < excess["exact", 300]
    assert excess["mean", 2400] > 0.1


def test_hidden_values_do_not_change_a_prediction():
    """All methods read x of the model only where the mask allows."""
    train, test = (patterns.sample("MNAR", 200, seeded(seed)) for seed in (4, 5))
    for method in patterns.METHODS.values():
        expected = patterns.predicted(train, test, method)
        for each in (train, test):
            each.x[~each.mask] = 1e3
        torch.testing.assert_close(patterns.predicted(train, test, method), expected)


# --- lists


def test_no_order_of_a_list_has_a_larger_expected_dcg_than_the_descending_one():
    best = torch.randn(6, generator=seeded(0), dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(6))), dtype=torch.float64)
    gains = [patterns.expected_dcg(best, -order, 6) for order in orders]
    assert patterns.expected_dcg(best, best, 6) == pytest.approx(max(gains))
    assert min(gains) < max(gains) - 0.5


def test_standardized_scores_keep_the_order_within_a_pattern():
    drawn = patterns.sample("MAR", 500, seeded(6))
    scores = patterns.standardized_by_pattern(drawn.mean, drawn.mask)
    for pattern in patterns.PATTERNS:
        rows = drawn.rows(pattern)
        assert torch.equal(scores[rows].argsort(), drawn.mean[rows].argsort())
        assert scores[rows].mean() == pytest.approx(0, abs=1e-12)


# --- sharing


@pytest.mark.parametrize(
    ("num_rows", "others", "shift"), [(40, 0, 1.0), (40, 100, 1.0), (20, 20, 3.0)]
)
def test_the_expected_error_of_least_squares_agrees_with_a_simulation(num_rows, others, shift):
    errors = []
    for seed in range(300):
        counts = {"ab": num_rows, "abc": others}
        x, _, y, _ = sharing.sharing_rows(counts, shift, seeded(seed))
        new, _, _, best = sharing.sharing_rows({"ab": 200}, shift, seeded(1000 + seed))
        inputs, targets = (
            torch.cat([torch.ones(len(v), 1).double(), v[:, :2].flatten(1)], dim=1)
            for v in (x, new)
        )
        coefficients = torch.linalg.lstsq(inputs, y[:, None]).solution[:, 0]
        errors.append((targets @ coefficients - best).square().mean())
    expected = sharing.least_squares_error(num_rows, shift, others)
    assert torch.stack(errors).mean() == pytest.approx(expected, rel=0.08)


def test_exact_rows_pay_from_fewer_rows_on_where_the_shift_is_larger():
    assert sharing.crossing(0.0) is None
    assert sharing.crossing(2.0) < sharing.crossing(1.0) < sharing.crossing(0.5)
    assert sharing.least_squares_error(10, 1.0, 0) is None


def test_the_shared_kernel_is_chosen_by_the_errors_of_refits_without_each_row(monkeypatch):
    x = torch.randn(12, 2, generator=seeded(0), dtype=torch.float64)
    y = x.sum(dim=1) + torch.randn(12, generator=seeded(1), dtype=torch.float64)
    own = torch.arange(12) < 6

    def fit(rows, new, new_own, tau, ridge):
        same = own[rows][:, None] == own[rows]
        k = (1 + x[rows] @ x[rows].T / 2) * (1 + tau * same) + ridge * torch.eye(len(rows))
        to_new = (1 + new @ x[rows].T / 2) * (1 + tau * (new_own == own[rows]))
        return to_new @ torch.linalg.solve(k, y[rows])

    choices = list(itertools.product((0.0, 1.0, 10.0), (0.1, 1.0, 10.0)))
    errors = []
    for choice in choices:
        others = [torch.tensor([j for j in range(12) if j != i]) for i in range(6)]
        left_out = [fit(rows, x[[i]], own[i], *choice) for i, rows in enumerate(others)]
        errors.append(float((torch.cat(left_out) - y[:6]).square().mean()))
    chosen = choices[errors.index(min(errors))]
    monkeypatch.setattr(sharing, "TAUS", (0.0, 1.0, 10.0))
    monkeypatch.setattr(sharing, "RIDGES", (0.1, 1.0, 10.0))
    new = torch.randn(5, 2, generator=seeded(2), dtype=torch.float64)
    expected = fit(torch.arange(12), new, torch.tensor(True), *chosen)
    torch.testing.assert_close(sharing.shared_kernel_prediction(x, own, y, new), expected)


# --- fusion weights


def test_the_slope_of_the_target_on_the_fused_embedding_depends_on_the_pattern():
    drawn = study.sampled_fusion(100_000, seeded(0))
    for name, weights in study.FUSION_PATTERNS.items():
        h, y = drawn[name]
        slope = float(study.fusion_slopes(torch.tensor(weights, dtype=torch.float64)))
        assert float(h @ y / (h @ h)) == pytest.approx(slope, abs=0.01)
        # E[y | h] is linear: the residual has no correlation with another function of h.
        assert float(((y - slope * h) * h.tanh()).mean()) == pytest.approx(0, abs=0.01)
    y, noise = torch.randn(2, 100_000, generator=seeded(1), dtype=torch.float64)
    filled = (y + NOISE[1].sqrt() * noise) / 2  # z_1 is filled with its mean 0
    slope = study.fusion_slopes(torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert float(filled @ y / (filled @ filled)) == pytest.approx(float(slope), abs=0.01)


def test_the_risk_is_curved_in_the_weights_unless_both_scales_are_zero():
    """So risks are equal in three different environments only for the scales 0."""
    step = torch.linspace(0, 1, 3, dtype=torch.float64)
    risks_and_penalty = study.fusion_risks(tuple((float(t), 1 - float(t)) for t in step))
    for u in torch.randn(20, 2, generator=seeded(0), dtype=torch.float64):
        risks, penalty = risks_and_penalty(u)
        curvature = (risks[0] - 2 * risks[1] + risks[2]) / 0.5
        closed_form = (u[0] - u[1]).square() + u.square() @ NOISE
        assert float(curvature) == pytest.approx(float(closed_form))
        assert penalty > 0
    assert risks_and_penalty(torch.zeros(2, dtype=torch.float64))[1] == 0


def test_the_global_minimum_with_a_penalty_is_no_worse_than_a_grid():
    risks_and_penalty = study.fusion_risks(study.FUSION_ENVS)
    axis = torch.linspace(0, 1.6, 33, dtype=torch.float64)
    for weight in (0.0, 10.0, 1e3):
        _, *u, risk, deviation = study.best_scales(weight)
        values = [risks_and_penalty(w) for w in torch.cartesian_prod(axis, axis)]
        lowest = min(float(risks.mean() + weight * penalty) for risks, penalty in values)
        assert risk + weight * deviation**2 <= lowest + 1e-9
        assert all(scale > 0 for scale in u)


# --- the page


def cells(*values):
    """Return the row of a table, with three decimals for numbers."""
    return "| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values) + " |"


def table_rows():
    """Yield the rows of all tables of numbers on the page."""
    by_mechanism = [NUMBERS["patterns"][name] for name in patterns.MECHANISMS]
    for method in patterns.METHODS:
        yield cells(method, *(each["excess error"][method] for each in by_mechanism))
    for method in by_mechanism[0]["dcg"]:
        yield cells(method, *(each["dcg"][method] for each in by_mechanism))
    for method, by_pattern in by_mechanism[2]["calibration"].items():
        if method in (EXACT, MEAN, "optimum"):
            for pattern, (difference, slope) in by_pattern.items():
                yield cells(method, pattern, difference, slope)
    for sizes in NUMBERS["sharing"].values():
        for size in map(str, sharing.SIZES):
            formulas = [sizes[size][f"{rule}, least squares"] for rule in ("exact", "superset")]
            rules = [sizes[size][rule] for rule in ("exact", "superset", "all", "shared kernel")]
            shown = ["infinite" if value is None else value for value in formulas]
            yield cells(size, *shown, *rules)
    for name, row in NUMBERS["fusion"]["patterns"].items():
        yield cells(name, *row.values())
    for weight, *row in NUMBERS["fusion"]["V-REx"]:
        yield cells(f"{weight:,.0f}", *row)


def test_the_page_shows_the_committed_numbers():
    lines = PAGE.splitlines()
    missing = [row for row in table_rows() if row not in lines]
    assert missing == []
    prose = " ".join(lines)
    errors = [f"{NUMBERS['patterns'][name]['optimal error']:.3f}" for name in patterns.MECHANISMS]
    assert "itself is {}, {} and {}".format(*errors) in prose
    assert f"better from {NUMBERS['sharing']['1.0']['crossing']} rows on" in prose
    fusion = NUMBERS["fusion"]
    assert f"This slope is {fusion['one slope']:.3f}, which" in prose
    assert all(f"{value:.3f}" in prose for value in fusion["dcg"].values())
    assert NUMBERS["made"].split(",")[0] in PAGE


def test_the_committed_numbers_support_the_statements_of_the_page():
    for mechanism in patterns.MECHANISMS:
        numbers = NUMBERS["patterns"][mechanism]
        excess, dcg = numbers["excess error"], numbers["dcg"]
        assert excess[EXACT] < 0.01
        assert min(excess[MEAN], excess[MEAN_AND_MASK]) > 10 * excess[EXACT]
        assert (excess[CONDITIONAL] > 0.1) == (excess[SUPERSET] > 0.1) == (mechanism == "MNAR")
        optimum = dcg.pop("optimum")
        assert all(value < optimum for value in dcg.values())
        assert dcg[EXACT] > 0.999 * optimum
        assert dcg[MEAN] < 0.985 * optimum
    informative, uninformative = NUMBERS["sharing"]["1.0"], NUMBERS["sharing"]["0.0"]
    for size in map(str, sharing.SIZES):
        row = informative[size]
        assert (row["exact"] < row["superset"]) == (int(size) > informative["crossing"])
        assert uninformative[size]["superset"] < uninformative[size]["exact"]
        if int(size) > 10:
            assert row["shared kernel"] < min(row["exact"], row["superset"], row["all"])
    shrinking = [row for row in NUMBERS["fusion"]["V-REx"] if row[0] >= 100]
    assert all(a[1] > b[1] and a[2] > b[2] for a, b in itertools.pairwise(shrinking))
    assert NUMBERS["fusion"]["dcg"]["one slope"] < NUMBERS["fusion"]["dcg"]["own slopes"]
