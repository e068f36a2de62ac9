"""Benchmark cases of the library: each part against its most direct implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.floors import FLOAT
from benchmarks.machine import Work
from benchmarks.reference import reference_alignment
from benchmarks.timing import Case
from invmod import CyclicMixupEnvs, fuse, irm_penalty, pairwise_alignment_loss, vrex_penalty
from invmod.penalties import fishr_penalty, fishr_penalty_linear, per_sample_gradients

ROWS, DIM = 2600, 64  # ROWS is the number of distinct items in a batch of 2,048 triples
SAMPLES, CLASSES = 65_536, 10
DRAWS, SINGLE_DRAWS = 100_000, 200

IrmLoss = Literal["bce", "ce", "mse", "bpr"]


def _backward(loss: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.grad(loss(), inputs)

    return run


def alignment(quick: bool, *, num_modalities: int) -> Case:  # noqa: ARG001
    """Alignment loss and its gradient, against a loop over the pairs of modalities."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, num_modalities, DIM, generator=generator).requires_grad_()
    mask = torch.rand(ROWS, num_modalities, generator=generator) < 0.8
    cells, everything = z.numel(), torch.arange(ROWS)
    return Case(
        _backward(lambda: pairwise_alignment_loss(z, mask, reduction="element_mean"), z),
        _backward(lambda: reference_alignment(z.unbind(1), mask, everything), z),
        "forward and backward",
        "loop over pairs",
        floor=Work(6 * cells, 2 * FLOAT * cells + mask.numel()),
    )


def _irm_loss(name: IrmLoss) -> Callable[[Tensor, Tensor | None], Tensor]:
    def loss(z: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return F.softplus(-z).mean()
        return {
            "bce": F.binary_cross_entropy_with_logits,
            "ce": F.cross_entropy,
            "mse": F.mse_loss,
        }[name](z, y)

    return loss


def irm(quick: bool, *, loss: IrmLoss) -> Case:  # noqa: ARG001
    """IRMv1 in closed form and its gradient, against a dummy scale and a double backward pass."""
    generator = torch.Generator().manual_seed(0)
    shape = (SAMPLES // CLASSES, CLASSES) if loss == "ce" else (SAMPLES,)
    z = torch.randn(shape, generator=generator).requires_grad_()
    targets: dict[str, Tensor | None] = {
        "bce": (torch.rand(shape, generator=generator) < 0.5).float(),
        "ce": torch.randint(CLASSES, shape[:1], generator=generator),
        "mse": torch.randn(shape, generator=generator),
        "bpr": None,
    }
    y, plain = targets[loss], _irm_loss(loss)

    def dummy_scale() -> Tensor:
        # IRMv1 is the squared derivative of the risk by a scale s of the logits, at s = 1.
        scale = torch.ones((), requires_grad=True)
        (derivative,) = torch.autograd.grad(plain(scale * z, y), scale, create_graph=True)
        return derivative.square()

    target_bytes = 0 if y is None else y.numel() * y.element_size()
    return Case(
        _backward(lambda: irm_penalty(z, y, loss=loss), z),
        _backward(dummy_scale, z),
        "forward and backward",
        "dummy scale, double backward",
        floor=Work(4 * z.numel(), 2 * FLOAT * z.numel() + target_bytes),
    )


def sampling(quick: bool, *, num_modalities: int, alpha: float) -> Case:  # noqa: ARG001
    """Many environments sampled in one call, against one call for each sample."""
    envs, generator = CyclicMixupEnvs(num_modalities, alpha), torch.Generator().manual_seed(0)

    def single() -> None:
        for _ in range(SINGLE_DRAWS):
            envs.sample(generator=generator)

    return Case(
        lambda: envs.sample((DRAWS,), generator=generator),
        single,
        "draw",
        "loop of single draws",
        units=DRAWS,
        reference_units=SINGLE_DRAWS,
        floor=Work(0, FLOAT * envs.num_envs * num_modalities),
    )


def vrex(quick: bool) -> Case:  # noqa: ARG001
    """V-REx penalty of 64 risks and its gradient, against a loop over the risks."""
    risks = torch.rand(64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def loop() -> Tensor:
        mean = risks.mean()
        return torch.stack([(risk - mean).square() for risk in risks]).mean()

    return Case(
        _backward(lambda: vrex_penalty(risks), risks),
        _backward(loop, risks),
        "forward and backward",
        "a loop",
    )


def fishr(quick: bool, *, closed: bool) -> Case:  # noqa: ARG001
    """Fishr penalty of a linear head and its gradient, against one autograd call per sample.

    With `closed` the penalty is `fishr_penalty_linear`, else `fishr_penalty` of gradients that
    `per_sample_gradients` computes with `torch.func`.
    """
    generator, samples = torch.Generator().manual_seed(0), 256
    f, env = torch.randn(samples, DIM, generator=generator), torch.arange(samples) % 4
    y = torch.randint(CLASSES, (samples,), generator=generator)
    head = {
        "weight": torch.randn(CLASSES, DIM, generator=generator).requires_grad_(),
        "bias": torch.zeros(CLASSES).requires_grad_(),
    }
    parameters = tuple(head.values())

    def loss(p: Mapping[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, p["weight"], p["bias"]), target)

    def by_samples() -> Tensor:
        return fishr_penalty(per_sample_gradients(loss, head, f, y), env, num_envs=4)

    def by_formula() -> Tensor:
        logits = F.linear(f, head["weight"], head["bias"])
        return fishr_penalty_linear(f, logits, y, env, num_envs=4)

    def loop() -> Tensor:
        rows = [
            torch.autograd.grad(loss(head, f[i], y[i]), parameters, create_graph=True)
            for i in range(samples)
        ]
        gradients = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        variances = torch.stack([gradients[env == e].var(dim=0, correction=0) for e in range(4)])
        return (variances - variances.mean(dim=0)).square().mean()

    ours = by_formula if closed else by_samples
    return Case(
        _backward(ours, *parameters),
        _backward(loop, *parameters),
        "forward and backward",
        "loop over samples",
    )


def fused_scores(quick: bool) -> Case:  # noqa: ARG001
    """Scores fused in 64 environments, against fused embeddings that are scored afterwards."""
    generator, num_modalities, num_envs = torch.Generator().manual_seed(0), 3, 64
    # 512 triples make 8 MB of fused embeddings. From 32 MB on, malloc would request the memory from
    # the system in every call, and the case would time page faults.
    triples = 512
    z = torch.randn(triples, num_modalities, DIM, generator=generator).requires_grad_()
    u = torch.randn(triples, DIM, generator=generator).requires_grad_()
    weights = torch.softmax(torch.randn(num_envs, num_modalities, generator=generator), dim=1)
    work = Work(
        6 * triples * num_modalities * (DIM + num_envs),
        2 * FLOAT * (z.numel() + u.numel()) + FLOAT * weights.numel(),
    )
    return Case(
        _backward(lambda: fuse((z * u[:, None, :]).sum(dim=2), weights).sum(), z, u),
        _backward(lambda: (fuse(z, weights) * u).sum(dim=2).sum(), z, u),
        "forward and backward",
        "fused embeddings",
        floor=work,
    )


CASES: dict[str, Callable[[bool], Case]] = {
    **{f"alignment-{m}": partial(alignment, num_modalities=m) for m in (2, 8)},
    "irm-bce": partial(irm, loss="bce"),
    "irm-ce": partial(irm, loss="ce"),
    "irm-mse": partial(irm, loss="mse"),
    "irm-bpr": partial(irm, loss="bpr"),
    **{
        f"sample-{m}-alpha-{a}": partial(sampling, num_modalities=m, alpha=a)
        for m in (2, 3, 8)
        for a in (0.1, 1.0)
    },
    "fishr": partial(fishr, closed=False),
    "fishr-linear": partial(fishr, closed=True),
    "vrex": vrex,
    "fused-scores": fused_scores,
}
