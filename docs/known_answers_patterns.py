"""Statements of docs/theory.md about patterns of modalities, in a model with a known optimum.

Three modalities of one number each, x ~ N(0, S) with variances 1 and correlations 0.6, and the
target y = beta'x + N(0, 0.25). The first modality is always observed. The other two are missing by
one of three mechanisms:

* MCAR: with probability 0.5.
* MAR: with probability sigmoid(2 x_1) and sigmoid(-2 x_1).
* MNAR: with probability 0.9 exp(-(x_m - 1)^2 / 2), Gaussian self-masking (Le Morvan et al. 2020).

In all three E[y | x_p, p] is linear in x_p within each pattern p, and known in closed form. The
script docs/known_answers.py calls `pattern_numbers`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invmod import PatternKernelRidge
from invmod.imputation import MeanImputer
from invmod.regression.training_rows import RowRule

NAMES = ("a", "b", "c")
PATTERNS = ("abc", "ab", "ac", "a")
MECHANISMS = ("MCAR", "MAR", "MNAR")
BETA = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)
COVARIANCE = torch.full((3, 3), 0.6, dtype=torch.float64).fill_diagonal_(1.0)
NOISE = 0.25  # variance of y given x
CENTRE = 1.0  # the value that Gaussian self-masking hides most often
TOP = 10  # places of a list that count


@dataclass(frozen=True)
class Sample:
    """Rows of the model.

    Arguments:
        x: (N, 3), with values in masked cells too, which no method may read.
        mask: bool (N, 3), True where observed.
        y: (N,).
        mean: E[y | x_p, p] of each row, (N,).
        variance: Var[y | x_p, p] of each row, (N,).
    """

    x: Tensor
    mask: Tensor
    y: Tensor
    mean: Tensor
    variance: Tensor

    def rows(self, pattern: str) -> Tensor:
        """Return where the available modalities are those of `pattern`, bool (N,)."""
        return (self.mask == torch.tensor([name in pattern for name in NAMES])).all(dim=1)


def sample(mechanism: str, num_rows: int, generator: torch.Generator) -> Sample:
    """Draw rows, their masks, and the optimal predictions."""
    normal = torch.randn(num_rows, 4, generator=generator, dtype=torch.float64)
    x = normal[:, :3] @ torch.linalg.cholesky(COVARIANCE).T
    y = x @ BETA + NOISE**0.5 * normal[:, 3]
    missing = {
        "MCAR": torch.full_like(x[:, 1:], 0.5),
        "MAR": torch.sigmoid(x[:, :1] * torch.tensor([2.0, -2.0])),
        "MNAR": 0.9 * torch.exp(-(x[:, 1:] - CENTRE).square() / 2),
    }[mechanism]
    mask = torch.ones(num_rows, 3, dtype=torch.bool)
    mask[:, 1:] = torch.rand(missing.shape, generator=generator, dtype=torch.float64) >= missing
    return Sample(x, mask, y, *optimum(x, mask, mechanism))


def optimum(x: Tensor, mask: Tensor, mechanism: str) -> tuple[Tensor, Tensor]:
    """Return E[y | x_p, p] and Var[y | x_p, p], (N,) each.

    Given x_p, the missing values are Gaussian with the usual conditional mean and covariance under
    MCAR and MAR. Under self-masking their density is multiplied by exp(-(x_m - 1)^2 / 2), the
    probability of being missing up to a factor, and stays Gaussian.
    """
    fill, covariances = conditional(x, mask, self_masked=mechanism == "MNAR")
    return fill @ BETA, NOISE + torch.einsum("i,nij,j->n", BETA, covariances, BETA)


def conditional(x: Tensor, mask: Tensor, *, self_masked: bool) -> tuple[Tensor, Tensor]:
    """Return x with masked cells replaced by their conditional mean, and covariances (N, 3, 3)."""
    filled, covariances = x.clone(), x.new_zeros(len(x), 3, 3)
    for pattern in torch.unique(mask, dim=0):
        if pattern.all():
            continue
        rows = (mask == pattern).all(dim=1).nonzero()[:, 0]
        seen, hidden = pattern.nonzero()[:, 0], (~pattern).nonzero()[:, 0]
        gain = torch.linalg.solve(COVARIANCE[seen][:, seen], COVARIANCE[seen][:, hidden])
        mean = x[rows][:, seen] @ gain
        covariance = COVARIANCE[hidden][:, hidden] - COVARIANCE[hidden][:, seen] @ gain
        if self_masked:
            precision = torch.linalg.inv(covariance)
            covariance = torch.linalg.inv(precision + torch.eye(len(hidden), dtype=x.dtype))
            mean = (mean @ precision + CENTRE) @ covariance
        filled[rows[:, None], hidden] = mean
        covariances[rows[:, None, None], hidden[:, None], hidden] = covariance
    return filled, covariances


# --- one regression for each pattern, and one for all ---------------------------------------------

METHODS = {
    "regression per pattern, exact rows": "exact",
    "regression per pattern, superset rows": "superset",
    "single regression, mean imputation": "mean",
    "single regression, mean imputation, with the mask": "mean and mask",
    "single regression, conditional mean imputation": "conditional",
}


ROWS: dict[str, RowRule] = {"exact": "exact", "superset": "superset"}


def predicted(train: Sample, test: Sample, method: str) -> Tensor:
    """Fit a linear regression on the training rows, and predict y of the test rows, (N,)."""
    if method in ROWS:
        model = linear_regression(NAMES, ROWS[method])
        return model.fit(columns(train.x), train.y, train.mask).predict(columns(test.x), test.mask)
    names: tuple[str, ...] = NAMES
    if method == "conditional":
        x, new = (conditional(s.x, s.mask, self_masked=False)[0] for s in (train, test))
    else:
        imputer = MeanImputer(NAMES).fit(columns(train.x), train.mask)
        filled = (imputer(columns(s.x), s.mask)[0] for s in (train, test))
        x, new = (torch.cat([features[name] for name in NAMES], dim=1) for features in filled)
    if method == "mean and mask":
        names = (*NAMES, "mask of b", "mask of c")
        x, new = (
            torch.cat([values, s.mask[:, 1:].double()], dim=1)
            for values, s in ((x, train), (new, test))
        )
    model = linear_regression(names, "all").fit(columns(x, names), train.y)
    return model.predict(columns(new, names))


def linear_regression(names: tuple[str, ...], rule: RowRule) -> PatternKernelRidge:
    """Return a regression that is linear in each pattern, with the ridge from leave-one-out."""
    return PatternKernelRidge(
        names, kernel="linear", rows=rule, weights="equal", standardize=False, choice_rows=500
    )


def columns(x: Tensor, names: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    """Return the columns of x as modalities of one number each."""
    return {name: x[:, [m]] for m, name in enumerate(names)}


def expected_dcg(best: Tensor, scores: Tensor, list_length: int) -> float:
    """Return the mean over lists of E[DCG at TOP | what is known], sorted by scores.

    Arguments:
        best: E[y | x_p, p], the expected gain of each row, (N,).
        scores: (N,), sorted in descending order within each list.
        list_length: rows per list. The lists are consecutive rows.
    """
    order = scores.reshape(-1, list_length).argsort(dim=1, descending=True)[:, :TOP]
    gains = best.reshape(-1, list_length).gather(1, order)
    discounts = 1 / torch.arange(2, 2 + gains.shape[1], dtype=gains.dtype).log2()
    return float((gains @ discounts).mean())


def standardized_by_pattern(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores with mean 0 and variance 1 among the rows of each pattern, (N,)."""
    result = scores.clone()
    for pattern in torch.unique(mask, dim=0):
        rows = (mask == pattern).all(dim=1)
        result[rows] = (scores[rows] - scores[rows].mean()) / scores[rows].std()
    return result


def calibration(test: Sample, scores: Tensor) -> dict[str, list[float]]:
    """Return for each pattern the mean of y minus the prediction, and the slope of y on it."""
    result = {}
    for pattern in PATTERNS:
        rows = test.rows(pattern)
        covariance = torch.stack([scores[rows], test.y[rows]]).cov()
        difference = float((test.y - scores)[rows].mean())
        result[pattern] = [difference, float(covariance[0, 1] / covariance[0, 0])]
    return result


def pattern_numbers(
    *, num_train: int = 4000, num_test: int = 20_000, list_length: int = 50, seed: int = 0
) -> dict[str, Any]:
    """Compute excess errors, expected DCG and calibration under each mechanism."""
    results: dict[str, Any] = {}
    for mechanism in MECHANISMS:
        generator = torch.Generator().manual_seed(seed)
        train = sample(mechanism, num_train, generator)
        test = sample(mechanism, num_test, generator)
        scores = {name: predicted(train, test, method) for name, method in METHODS.items()}
        optimal = {"optimum": test.mean}
        standardized = standardized_by_pattern(test.mean, test.mask)
        lists = optimal | scores | {"optimum, standardised by pattern": standardized}
        results[mechanism] = {
            "share": [float(test.rows(pattern).double().mean()) for pattern in PATTERNS],
            "optimal error": float(test.variance.mean()),
            "excess error": {
                name: float((values - test.mean).square().mean()) for name, values in scores.items()
            },
            "dcg": {
                name: expected_dcg(test.mean, values, list_length) for name, values in lists.items()
            },
            "calibration": {
                name: calibration(test, values) for name, values in (optimal | scores).items()
            },
        }
    return results
