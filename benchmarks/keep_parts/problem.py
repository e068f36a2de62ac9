"""A fitted KEEP on one split, whose regression on content can be changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Group, build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.closed_form import ContentRows, interactions, patterns
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.learner import make_learner
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks

MAX_SCORES = 2**22  # Number of scores in memory.
Pattern = tuple[int, ...]


class Kernel(NamedTuple):
    """The kernel of a pattern, sum over m of mu_m exp(gamma_m (cos_m - 1)), and its ridge.

    Attributes:
        weights: mu (P,).
        widths: gamma (P,).
        ridge: l.
    """

    weights: Sequence[float] | Tensor
    widths: Sequence[float] | Tensor
    ridge: float | Tensor


class Rows(NamedTuple):
    """Unit rows (N, d_m) of each modality, 0 where it is missing, and the mask (N, M)."""

    x: list[Tensor]
    mask: Tensor

    def of(self, rows: Tensor) -> Rows:
        """Return some of the rows."""
        return Rows([part[rows] for part in self.x], self.mask[rows])


def kernel_between(a: Rows, b: Rows, pattern: Pattern, kernel: Kernel) -> Tensor:
    """Return the kernel of a pattern (N, n) between rows; 0 where either lacks a modality."""
    total = a.x[0].new_zeros(len(a.mask), len(b.mask))
    for m, weight, width in zip(pattern, kernel.weights, kernel.widths, strict=True):
        own, other = a.mask[:, m, None].to(total), b.mask[:, m].to(total)
        total = total + weight * (own * (width * (a.x[m] @ b.x[m].T - 1)).exp() * other)
    return total


def regularised(rows: Rows, pattern: Pattern, kernel: Kernel) -> Tensor:
    """Return K + N + l I (n, n), where N has the weights of the modalities that a row lacks."""
    k = kernel_between(rows, rows, pattern, kernel)
    noise = torch.stack(
        [w * (~rows.mask[:, m]).to(k) for m, w in zip(pattern, kernel.weights, strict=True)]
    ).sum(dim=0)
    return k + torch.diag(noise + kernel.ridge)


@dataclass(frozen=True)
class Problem:
    """A fitted KEEP on one split, with what its regression was fitted on.

    Arguments:
        net: the fitted model.
        warm: rows of the n warm items.
        pairs: R (U, n), sparse.
        popularity: the exponent b.
        groups: ``validation`` and ``test`` -> pairs, and rows of the candidates.
    """

    net: KeepModel
    warm: Rows
    pairs: Tensor
    popularity: float
    groups: Mapping[str, tuple[Group, Rows]]

    def kernels(self) -> dict[Pattern, Kernel]:
        """Return what KEEP chose: pattern -> kernel and ridge."""
        names = self.net.regression.modalities
        widths = {name: k.width for name, k in self.net.regression.kernels.items() if k}
        return {
            tuple(names.index(name) for name in chosen): Kernel(
                choice.weights, [widths[name] for name in chosen], choice.ridge
            )
            for chosen, choice in self.net.regression.choices.items()
        }

    def ndcg(
        self,
        part: str,
        kernels: Mapping[Pattern, Kernel],
        *,
        targets: Tensor | None = None,
        change: Callable[[Rows], Rows] = lambda rows: rows,
        exponent: float | None = None,
    ) -> float:
        """Return NDCG@20 of a group with other kernels, targets, rows or another exponent.

        Arguments:
            part: ``validation`` or ``test``.
            kernels: pattern -> kernel and ridge.
            targets: (n, U) scores of the warm items by all users; None: A E'.
            change: maps rows of features.
            exponent: of the predicted popularity; None: the chosen one.
        """
        net, (group, new) = self.net, self.groups[part]
        warm, rows = change(self.warm), change(new)
        logs = net.counts.clamp(min=1).log()
        logs = (logs - logs.mean())[:, None]
        values = net.items if targets is None else targets
        exponent = float(net.exponent) if exponent is None else exponent
        vectors = net.items.new_zeros(len(rows.mask), values.shape[1])
        for pattern, items in patterns(rows.mask):
            kernel = kernels[pattern]
            root = torch.linalg.cholesky(regularised(warm, pattern, kernel))
            h = torch.cholesky_solve(kernel_between(warm, rows.of(items), pattern, kernel), root).T
            vectors[items] = (h @ values) * (exponent * (h @ logs)).exp()
        users = net.users.weight

        def score(u: Tensor) -> Tensor:
            return users[u] @ vectors.T if targets is None else vectors.T[u]

        return ndcg(score, group)


def fit(data: Path, seed: int) -> Problem:
    """Fit KEEP on one split under FTMT.

    Raises:
        ValueError: there are more than 10,000 warm items, so that KEEP is not exact.
        RuntimeError: the equations of this file do not give the NDCG of the fitted model.
    """
    options = Options.of("keep", split_seed=seed, seed=seed, setting="ftmt", empty_items="drop")
    dataset = read_dataset(data, empty_items="drop")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    learner = make_learner(options, tables)
    learner.prepare()
    if not learner.model.net.regression.is_exact:
        raise ValueError(f"{data}: has more than 10,000 warm items, for which KEEP is not exact.")
    warm = WarmData.of_tables(tables, options)
    content = ContentRows(warm, unit=True)
    groups = {}
    for part in ("validation", "test"):
        group: Group = getattr(tables, part)
        mask = tables.mask[group.candidates]
        rows = content(tables.features.rows(group.candidates), mask)
        groups[part] = (group, Rows(rows, mask))
    problem = Problem(
        learner.model.net,
        Rows(content.warm, warm.mask),
        interactions(warm, torch.float32),
        options.method.popularity,
        groups,
    )
    items = tables.test.candidates
    expected = ndcg(learner.scorer(tables.features, items, tables.mask), tables.test)
    found = problem.ndcg("test", problem.kernels())
    if abs(expected - found) > 1e-4:
        raise RuntimeError(f"KEEP has an NDCG@20 of {expected:.5f}, these equations {found:.5f}.")
    return problem


def ndcg(score: ScoreBlock, group: Group) -> float:
    """Return the mean NDCG@20 of a group; `score` returns scores of its candidates (u, C)."""
    ranks = positive_ranks(
        score,
        group.users,
        group.positions,
        num_candidates=len(group.candidates),
        max_elements=MAX_SCORES,
    )
    return float(mean_metrics(per_user_metrics(group.users, ranks))["ndcg@20"])
