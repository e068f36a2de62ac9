"""Benchmark cases for a GPU: replays of several steps, compiled steps, and the fit of KEEP."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks import cases_training
from benchmarks.adapter import Training, random_dataset, reference_setup, training_setup
from benchmarks.timing import Case
from milk_recsys.base.device import choose_device
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.methods.milk.captured import CapturedSteps


def _dataset(name: str) -> Dataset:
    """Read a real data set.

    Raises:
        KeyError: the environment variable INVMOD_DATA is not set.
    """
    return read_dataset(Path(os.environ["INVMOD_DATA"]) / name, empty_items="drop")


def _compiled(dataset: Dataset, batch_size: int) -> Training:
    options = cases_training.OPTIONS.replace(kernels="compiled", batch_size=batch_size)
    return training_setup(dataset, options)


def replays(quick: bool) -> Case:  # noqa: ARG001
    """Training epoch on TikTok with eight steps in a CUDA graph, against one step in a graph."""
    ours, other = (training_setup(_dataset("tiktok"), cases_training.OPTIONS) for _ in range(2))
    other.learner.steps = CapturedSteps(other.learner.add_step, steps=1)
    return Case(
        ours.epoch,
        other.epoch,
        "epoch",
        "one step in a graph",
        floor=ours.epoch_floor,
        steps=ours.steps,
    )


def tiktok_compiled(quick: bool) -> Case:  # noqa: ARG001
    """Training epoch on TikTok with compiled gradients, against the plain reference."""
    training = _compiled(_dataset("tiktok"), 2048)
    return Case(
        training.epoch,
        reference_setup(training)[0],
        "epoch",
        "benchmarks/reference.py",
        floor=training.epoch_floor,
        wanted=50,
        steps=training.steps,
    )


def large_batch_compiled(quick: bool) -> Case:  # noqa: ARG001
    """Compiled steps on batches of 65,536 triples, against steps of torch operations."""
    size = 65_536
    num_pairs = round(4 * size / cases_training.TRAINED_SHARE)
    dataset = random_dataset(100_000, 50_000, num_pairs, {"m0": 256, "m1": 256})
    ours = _compiled(dataset, size)
    other = training_setup(dataset, cases_training.OPTIONS.replace(batch_size=size))
    triples = ours.learner.tables.num_pairs
    return Case(
        ours.epoch,
        other.epoch,
        "triple",
        "torch operations",
        units=triples,
        reference_units=triples,
        floor=ours.epoch_floor.times(1 / triples),
    )


def _keep_fit(name: str) -> Case:
    """Fit KEEP, against one factorisation and one product of the size of its equations."""
    options = Options.of(model="keep", device=cases_training.OPTIONS.run.device)
    dataset, device = _dataset(name), choose_device(options.run.device)
    tables = build_tables(dataset, draw_split(dataset, options.data)[0], options, device)
    size = len(tables.warm)
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device)
    products = root @ root.T + size * torch.eye(size, device=device)

    def plain() -> None:
        torch.linalg.cholesky(products)
        root @ products

    return Case(
        lambda: make_learner(options, tables).prepare(),
        plain,
        "fit",
        f"a Cholesky factorisation and a product, {size:,} x {size:,}",
        max_rounds=3,
    )


def keep_fit_lfm2k(quick: bool) -> Case:  # noqa: ARG001
    """Fit of KEEP on lfm2k."""
    return _keep_fit("lfm2k")


def keep_fit_tiktok(quick: bool) -> Case:  # noqa: ARG001
    """Fit of KEEP on TikTok."""
    return _keep_fit("tiktok")


COMPILED = {"tiktok-compiled": tiktok_compiled, "large-batch-compiled": large_batch_compiled}
CASES = {
    "tiktok-replays": replays,
    **COMPILED,
    "keep-fit-lfm2k": keep_fit_lfm2k,
    "keep-fit-tiktok": keep_fit_tiktok,
}
# These cannot run on a CPU.
GPU_ONLY = ("tiktok-replays", *COMPILED)
