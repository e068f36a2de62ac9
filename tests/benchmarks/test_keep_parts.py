"""Parts that KEEP does not have: their equations against autograd, and the command."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.keep_parts import __main__ as command
from benchmarks.keep_parts import problem as problems
from benchmarks.keep_parts.parts import PARTS, gradient_products, likelihood_kernel
from benchmarks.keep_parts.problem import Kernel, Rows, kernel_between, regularised
from milk_recsys.methods.keep import left_out
from tests.recsys.conftest import _write_dataset
from tests.strategies import seeded

F64 = torch.float64
KERNEL = Kernel([0.7, 0.3], [1.5, 0.4], 0.2)


pytestmark = pytest.mark.usefixtures("same_threads")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "tiny"
    return _write_dataset(folder, users=40, items=120, pairs_per_user=20)


@pytest.fixture(scope="module")
def rows():
    g = seeded(0)
    mask = torch.tensor([[True, True]] * 20 + [[True, False]] * 5 + [[False, True]] * 5)
    x = [F.normalize(torch.randn(30, d, generator=g, dtype=F64), dim=1) for d in (4, 3)]
    return Rows([part * mask[:, m, None] for m, part in enumerate(x)], mask)


def test_gradient_products_are_those_of_autograd(rows):
    items = torch.randn(30, 6, generator=seeded(1), dtype=F64)
    found = gradient_products(rows, (0, 1), KERNEL, items)
    coefficients = torch.linalg.solve(regularised(rows, (0, 1), KERNEL), items)
    for m, width in enumerate(KERNEL.widths):

        def predictions(z, m=m, width=width):
            k = (width * (rows.x[m] @ z - 1)).exp() * rows.mask[:, m]
            return k @ coefficients

        expected = torch.zeros_like(found[m])
        for z in rows.x[m][rows.mask[:, m]]:
            jacobian = torch.autograd.functional.jacobian(predictions, z)
            expected += jacobian.T @ jacobian
        torch.testing.assert_close(found[m] * KERNEL.widths[m] ** 2, expected)


def test_the_likelihood_is_that_of_a_gaussian_and_rises(rows):
    k = kernel_between(rows, rows, (0, 1), Kernel([0.5, 0.5], [3.0, 0.5], 0.0))
    noise = torch.diag(0.5 * (~rows.mask).sum(dim=1).to(F64) + 0.05)
    draws = torch.linalg.cholesky(k + noise) @ torch.randn(30, 200, generator=seeded(2), dtype=F64)

    def likelihood(kernel):
        covariance = regularised(rows, (0, 1), kernel)
        scale = (draws * torch.linalg.solve(covariance, draws)).sum() / draws.numel()
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(30, dtype=F64), scale * covariance
        )
        return float(normal.log_prob(draws.T).sum())

    found = likelihood_kernel(rows, (0, 1), Kernel([0.5, 0.5], [1.0, 1.0], 1.0), draws)
    true = Kernel([0.5, 0.5], [3.0, 0.5], 0.05)
    assert likelihood(found) >= likelihood(true) - 1.0
    assert likelihood(found) > likelihood(KERNEL)
    assert sum(found.weights) == pytest.approx(1.0)


def test_all_parts_are_measured_once_and_compared(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(left_out, "MIN_LENGTH", 5)
    arguments = ["--data", str(data), "--seeds", "300", "301", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "tiny.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [300, 301]
    for line in lines:
        assert list(line["ndcg@20"]) == list(PARTS)
        assert len({round(value, 6) for value in line["ndcg@20"].values()}) > 2
    printed = capsys.readouterr().out
    assert all(f"| tiny | {name} | " in printed for name in PARTS)
    assert (tmp_path / "table.md").read_text() in printed
    mean = np.mean([line["ndcg@20"]["gradient metric"] for line in lines])
    assert f"| tiny | gradient metric | {mean:.4f} | " in printed
    monkeypatch.setattr(command, "fit", None)  # Nothing is measured again.
    assert command.main(arguments) == 0


def test_equations_that_are_not_those_of_keep_are_refused(data, monkeypatch):

    def other(rows, pattern, kernel):
        return regularised(rows, pattern, kernel._replace(ridge=30.0))

    monkeypatch.setattr(problems, "regularised", other)
    with pytest.raises(RuntimeError, match="these equations"):
        problems.fit(data, 300)
