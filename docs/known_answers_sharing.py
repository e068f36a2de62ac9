"""Statements of docs/theory.md about sharing rows between patterns, with known expected errors.

Three modalities of four independent standard normal numbers each, which contribute separately: y is
the sum of their scaled sums (variance 1 per modality) and of noise with variance 0.25. In the rows
with the pattern "ab" y is larger by a shift. With a shift, being in this pattern is informative.
Predictions are for new rows of this pattern. There are 100 training rows of each of the patterns
"abc", "ac" and "bc". The script docs/known_answers.py calls `sharing_numbers`.
"""

from typing import Any

import torch
from known_answers_patterns import NAMES, linear_regression
from torch import Tensor

from invmod.regression.training_rows import RowRule

SIZES = (10, 20, 40, 80, 160, 320)
SHIFTS = (0.0, 1.0)
WIDTH = 4  # numbers per modality of the sharing problem
OTHERS = {"abc": 100, "ac": 100, "bc": 100}  # rows of the other patterns
TAUS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
RIDGES = tuple(10.0**exponent for exponent in (-3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))


def sharing_rows(
    patterns: dict[str, int], shift: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw x (N, 3, WIDTH), mask (N, 3), y (N,) and E[y | x_p, p] (N,).

    Modalities are independent and contribute separately, y = sum_m mean_d x_md + noise, and y is
    larger by `shift` in the rows with the pattern "ab": being in this pattern is informative.
    """
    names = [name for name, count in patterns.items() for _ in range(count)]
    x = torch.randn(len(names), 3, WIDTH, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(len(names), generator=generator, dtype=torch.float64)
    mask = torch.tensor([[m in name for m in NAMES] for name in names])
    parts = x.sum(dim=2) / WIDTH**0.5
    move = shift * torch.tensor([name == "ab" for name in names]).double()
    return x, mask, parts.sum(dim=1) + noise + move, (parts * mask).sum(dim=1) + move


def sharing_errors(num_rows: int, shift: float, seed: int) -> dict[str, float]:
    """Return the excess error on new rows of pattern "ab", by the training rows that are used."""
    generator = torch.Generator().manual_seed(seed)
    x, mask, y, _ = sharing_rows({**OTHERS, "ab": num_rows}, shift, generator)
    new, new_mask, _, best = sharing_rows({"ab": 1000}, shift, generator)
    features, new_features = (
        {name: values[:, m] for m, name in enumerate(NAMES)} for values in (x, new)
    )
    own = (mask == new_mask[0]).all(dim=1)
    errors = {}
    rules: dict[str, tuple[RowRule, Tensor]] = {
        # "exact" would take supersets below 50 rows, so its rows are given.
        "exact": ("superset", own.nonzero()[:, 0]),
        "superset": ("superset", torch.arange(len(x))),
        "all": ("all", torch.arange(len(x))),
    }
    for name, (rule, rows) in rules.items():
        used = NAMES[:2]
        model = linear_regression(used, rule)
        model.fit({key: features[key] for key in used}, y, mask[:, :2], rows=rows)
        predictions = model.predict({key: new_features[key] for key in used}, new_mask[:, :2])
        errors[name] = float((predictions - best).square().mean())
    both = mask[:, :2].all(dim=1)
    shared = shared_kernel_prediction(
        x[both, :2].flatten(1), own[both], y[both], new[:, :2].flatten(1)
    )
    return errors | {"shared kernel": float((shared - best).square().mean())}


def shared_kernel_prediction(x: Tensor, own: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Predict new rows of a pattern by kernel ridge regression with k + tau k 1[same pattern].

    k is 1 + x'z / d, whose 1 is an intercept. tau and the ridge minimise the leave-one-out error of
    the pattern's own rows, e_i = alpha_i / Q_ii with Q = (K + l I)^-1 and alpha = Q y.

    Arguments:
        x: rows that have all modalities of the pattern, (n, d).
        own: those that have no others, bool (n,).
        y: targets (n,).
        new: rows of the pattern, (N, d).
    """
    k, to_new = (1 + z @ x.T / x.shape[1] for z in (x, new))
    same = (own[:, None] == own).to(k)
    best, prediction = float("inf"), y.new_zeros(len(new))
    for tau in TAUS:
        for ridge in RIDGES:
            inverse = torch.linalg.inv(k * (1 + tau * same) + ridge * torch.eye(len(x)).to(k))
            alpha = inverse @ y
            error = float((alpha / inverse.diagonal())[own].square().mean())
            if error < best:
                best, prediction = error, (to_new * (1 + tau * own.to(k))) @ alpha
    return prediction


def least_squares_error(num_rows: int, shift: float, others: int) -> float | None:
    """Return the expected excess error of least squares on rows of "ab" and of supersets.

    With n Gaussian rows of d numbers and an intercept it is the variance of the residuals times
    (n + 1)(n - 2) / (n (n - d - 2)) - 1. The intercept takes in the share num_rows / n of the
    shift. The rest is a bias, and the shift is further noise of the rows, correlated with nothing.

    Arguments:
        num_rows: rows of the pattern "ab".
        shift: mean of y in these rows minus that in the others.
        others: rows that have a and b and are not of the pattern; 0 for the rule "exact".

    Returns:
        the error; None if there are too few rows for a finite expectation.
    """
    n, d = num_rows + others, 2 * WIDTH
    if n <= d + 2:
        return None
    share = num_rows / n
    residual = 1 + 0.25 + shift**2 * share * (1 - share)  # modality c, noise, shift
    return (shift * (1 - share)) ** 2 + residual * ((n + 1) * (n - 2) / (n * (n - d - 2)) - 1)


def crossing(shift: float) -> int | None:
    """Return the least number of rows for which least squares on exact rows is the better one.

    The number is at most 999. None means that more are needed, or that supersets are always better.
    """
    for size in range(2 * WIDTH + 3, 1000):
        exact, superset = (least_squares_error(size, shift, n) for n in (0, OTHERS["abc"]))
        if exact is not None and superset is not None and exact < superset:
            return size
    return None


def sharing_numbers(*, draws: int = 10) -> dict[str, Any]:
    """Return mean excess errors over draws: shift -> number of rows -> rule -> error."""
    results: dict[str, Any] = {}
    for shift in SHIFTS:
        results[str(shift)] = {"crossing": crossing(shift)}
        for size in SIZES:
            errors = [sharing_errors(size, shift, seed) for seed in range(draws)]
            means: dict[str, float | None] = {
                rule: sum(e[rule] for e in errors) / draws for rule in errors[0]
            }
            means["exact, least squares"] = least_squares_error(size, shift, 0)
            means["superset, least squares"] = least_squares_error(size, shift, OTHERS["abc"])
            results[str(shift)][str(size)] = means
    return results
