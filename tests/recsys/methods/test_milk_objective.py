"""MILK's objective against Eq. 5 to 16 in NumPy, micro-batches, preparation, environments."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invmod import CyclicMixupEnvs
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import (
    gather_batch,
    gather_static,
    prepared_rows,
)
from milk_recsys.methods.milk.fused import FusedObjective, compiles
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import build_model
from milk_recsys.methods.milk.objective import (
    batch_sums,
    coefficients,
    environments,
    objective,
    scores,
)
from milk_recsys.ranking.negatives import sample_negatives
from milk_recsys.run import begin


def small(**values: Any) -> Options:
    fixed: dict[str, Any] = {"batch_size": 64, "embedding_dim": 8, "lr": 0.02}
    return Options.of(**{"model": "milk", **fixed, "device": "cpu", "compare": "none", **values})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", items=120, pairs_per_user=20)


@pytest.fixture
def first_step(data: Path) -> Callable[..., SimpleNamespace]:
    """The model, the first batch and its weights under some options."""

    def build(**values: Any) -> SimpleNamespace:
        options = small(data=data, dtype="float64", **values)
        dataset = begin.read_dataset(data)
        split, _ = draw_split(dataset, options.data)
        tables = build_tables(dataset, split, options, torch.device("cpu"))
        model = build_model(options, tables)
        prepared = prepared_rows(model, tables)
        generator = torch.Generator().manual_seed(0)
        users, positives = tables.pairs_at(torch.arange(40))
        negatives = sample_negatives(users, tables.rows, tables.pool, generator=generator)
        weights = Learner(model, tables, options).epoch_weights(1, generator)[0]
        return SimpleNamespace(
            options=options, model=model, tables=tables, weights=weights, gather=prepared,
            u=model.users(users), batch=gather_batch(tables, prepared, positives, negatives),
            prepared=prepared(torch.arange(tables.features.num_items)),
            triples=(users, positives, negatives),
        )  # fmt: skip

    return build


def numpy_terms(it: SimpleNamespace) -> dict[str, float]:
    """Eq. 5 to 16 in NumPy, with embeddings, not scores, fused in every environment."""
    own = it.options.method
    parameters = {name: p.detach().numpy() for name, p in it.model.named_parameters()}
    names = it.tables.modalities
    c = np.stack(
        [
            it.prepared[name].numpy() @ parameters[f"encoders.encoders.{k}.weight"].T
            + parameters[f"encoders.encoders.{k}.bias"]
            for k, name in enumerate(names)
        ],
        axis=1,
    )
    mask = it.tables.mask.numpy()
    users, positives, negatives = (x.numpy() for x in it.triples)
    u = parameters["users.weight"][users]

    def fused(w: np.ndarray) -> np.ndarray:
        if own.training_fusion == "imputed":
            return np.einsum("m,nmd->nd", w, c)
        weighted = w * mask
        return np.einsum("nm,nmd->nd", weighted / weighted.sum(1, keepdims=True), c)

    risks = []
    for w in it.weights.numpy():
        h = fused(w)
        risks.append(np.log1p(np.exp(-((u * (h[positives] - h[negatives])).sum(1)))).mean())
    risk = np.sum(risks) if own.risk_reduction == "sum" else np.mean(risks)
    penalty = np.var(risks, ddof=own.variance_correction) if own.has_envs else 0.0
    total, pairs, aligned = 0.0, 0, np.unique(positives)
    for j in aligned:
        available = np.flatnonzero(mask[j])
        if own.alignment_mask == "complete" and len(available) < len(names):
            continue
        for a in range(len(available)):
            for b in range(a):
                total += ((c[j, available[a]] - c[j, available[b]]) ** 2).sum()
                pairs += 1
    width = c.shape[2]
    scale = {"sum": 1, "item_mean": len(aligned), "mean": pairs, "element_mean": pairs * width}[
        own.alignment_reduction
    ]
    alignment = total / scale if own.aligns else 0.0
    h = fused(np.full(len(names), 1 / len(names)))
    if own.regulariser == "batch":
        regulariser = (
            (u**2).sum(1) + (h[positives] ** 2).sum(1) + (h[negatives] ** 2).sum(1)
        ).mean()
    elif own.regulariser == "parameters":
        regulariser = sum((p**2).sum() for p in parameters.values())
    else:
        regulariser = 0.0
    loss = (
        risk
        + own.penalty_weight * penalty
        + own.alignment_weight * alignment
        + own.regulariser_weight * regulariser
    )
    return {
        "loss": loss, "risk": float(np.mean(risks)), "penalty": penalty, "alignment": alignment,
        "regulariser": regulariser,
    }  # fmt: skip


OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"model": "align", "alignment_reduction": "mean"},
    {"model": "envs", "num_draws": 3, "alpha": 0.1, "penalty_weight": 50.0},
    {"model": "erm", "regulariser": "none"},
    {"risk_reduction": "sum", "variance_correction": 1, "alignment_mask": "complete"},
    {"setting": "mtmt", "alignment_reduction": "mean"},
    {"alignment_reduction": "item_mean", "regulariser": "parameters", "optimiser": "adam"},
    {
        "alignment_reduction": "sum",
        "training_fusion": "available",
        "setting": "mtmt",
        "min_weight": 0.1,
    },
]
each_objective = pytest.mark.parametrize(
    "values", OBJECTIVES, ids=lambda values: "-".join(values) or "default"
)


@each_objective
def test_objective_equals_its_formula(
    first_step: Callable[..., SimpleNamespace], values: dict[str, Any]
) -> None:
    it = first_step(**values)
    terms = objective(
        batch_sums(it.model, it.u, it.batch, it.weights, it.options.method),
        40,
        it.model,
        it.options.method,
    )
    expected = numpy_terms(it)
    for name, value in terms._asdict().items():
        assert value.item() == pytest.approx(expected[name], rel=1e-10, abs=1e-12), name


@each_objective
def test_the_closed_form_equals_the_composition(
    first_step: Callable[..., SimpleNamespace], values: dict[str, Any]
) -> None:
    """Terms and gradients of compiled loops, and of the coefficients of the sums."""
    it = first_step(**values)
    own = it.options.method
    composed = batch_sums(it.model, it.model.users(it.triples[0]), it.batch, it.weights, own)
    if own.regulariser != "parameters":
        leaf = composed.detach().requires_grad_()
        terms = objective(leaf, 40, it.model, own)
        values_of_terms, gradient = coefficients(leaf.detach(), 40, own)
        assert torch.allclose(values_of_terms, torch.stack(terms), rtol=1e-12, atol=1e-15)
        (expected,) = torch.autograd.grad(terms.loss, leaf)
        expected[-2] = 0  # The number of pairs does not depend on any parameter.
        assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-15)
    if not compiles(own, it.options.run.dtype, torch.device("cpu")):
        assert own.training_fusion == "available"
        return
    fused = FusedObjective(it.model, it.tables, it.gather, own)
    for order in (torch.arange(40), torch.randperm(40, generator=torch.Generator().manual_seed(1))):
        terms, by_users, batch = terms_of(it, fused, order)
        # The regulariser "parameters" is not a function of the batch; `FusedStep` adds it.
        without = dataclasses.replace(own, regulariser_weight=0.0)
        in_batch = own if own.regulariser != "parameters" else without
        reference = torch.stack(objective(composed, 40, it.model, in_batch))
        used = slice(0, 4) if own.regulariser == "parameters" else slice(0, 5)
        assert torch.allclose(terms[used], reference[used], rtol=1e-12, atol=1e-15)
        ours = [by_users]
        for by_weight, by_bias in zip(fused.by_weights, fused.by_biases, strict=True):
            ours += [by_weight, by_bias]
        expected = gradients(it, composed, in_batch)
        for x, y in zip(ours, expected, strict=True):
            assert torch.allclose(x, y, rtol=1e-10, atol=1e-14)
        assert len(batch.users) == len(it.triples[0].unique())
        assert len(batch.items) == len(torch.cat(it.triples[1:]).unique())
        assert batch.num_positives == len(it.triples[1].unique())


def terms_of(
    it: SimpleNamespace, fused: FusedObjective, part: Tensor, whole: Tensor | None = None
) -> tuple[Tensor, Tensor, Any]:
    """Return the terms of some triples, the gradient of the user table, and the grouped batch."""
    table = it.model.users.weight.detach()
    scratch = np.full(len(table), -1, np.int32)
    batch = fused.group(*(x[part] for x in it.triples), scratch, whole)
    # The scratch space is ready for the next batch.
    assert (scratch == -1).all()
    assert (fused.row_of_item == -1).all()
    users = torch.from_numpy(batch.users)
    terms, by_u = fused.terms(table[users], batch, it.weights, 40)
    return terms, torch.zeros_like(table).index_add_(0, users, torch.from_numpy(by_u)), batch


def gradients(
    it: SimpleNamespace, sums: Tensor, options: MilkOptions | None = None
) -> list[Tensor]:
    """Return the gradients of the objective by all parameters, the user table included."""
    loss = objective(sums, 40, it.model, options or it.options.method).loss
    by_parameters = torch.autograd.grad(
        loss, list(it.model.parameters()), allow_unused=True, retain_graph=True
    )
    return [torch.zeros(()) if g is None else g for g in by_parameters]


@each_objective
def test_sums_do_not_depend_on_micro_batches_or_on_the_way_of_gathering(
    first_step: Callable[..., SimpleNamespace], values: dict[str, Any]
) -> None:
    """One row per distinct item or per position, one part or three: equal sums and gradients."""
    it = first_step(**values)
    users, positives, negatives = it.triples
    whole = batch_sums(it.model, it.u, it.batch, it.weights, it.options.method)
    expected = gradients(it, whole)
    for gather in (gather_batch, gather_static):
        for parts in ([slice(0, 40)], [slice(0, 7), slice(7, 8), slice(8, 40)]):
            sums = torch.stack(
                [
                    batch_sums(
                        it.model,
                        it.model.users(users[part]),
                        gather(it.tables, it.gather, positives[part], negatives[part], positives),
                        it.weights,
                        it.options.method,
                    )
                    for part in parts
                ]
            ).sum(dim=0)
            assert torch.allclose(sums, whole, rtol=1e-12, atol=0)
            for ours, reference in zip(gradients(it, sums), expected, strict=True):
                assert torch.allclose(ours, reference, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("subtracts", [True, False])
def test_scores_and_their_gradient(subtracts: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    u, z = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((5, 3), (4, 2, 3))
    )
    rows, less = torch.tensor([0, 1, 1, 3, 0]), torch.tensor([2, 2, 1, 0, 0]) if subtracts else None
    c = z[rows] - z[less] if less is not None else z[rows]
    assert torch.allclose(scores(u, z, rows, less), torch.einsum("bd,bmd->bm", u, c))
    u, z = u.requires_grad_(), z.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, z: scores(u, z, rows, less), (u, z))


def test_a_batch_encodes_each_distinct_item_once(
    first_step: Callable[..., SimpleNamespace],
) -> None:
    it = first_step()
    _, positives, negatives = it.triples
    distinct = len(torch.unique(torch.cat([positives, negatives])))
    batch = gather_batch(it.tables, it.gather, positives, negatives)
    assert len(batch.mask) == len(batch.copies) == distinct
    assert len(batch.shares) == len(positives.unique())
    assert batch.copies.sum() == 80


def test_preparation_does_not_depend_on_cold_items(data: Path) -> None:
    """Statistics come from observed warm rows, so features of cold items do not change training."""
    options = small(data=data)
    dataset = begin.read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    spoilt = {name: np.array(x) for name, x in dataset.features.items()}
    for x in spoilt.values():
        x[split.cold] = 1e3
    other: Dataset = dataclasses.replace(dataset, features=spoilt)
    fills = []
    for source in (dataset, other):
        model = build_model(options, build_tables(source, split, options, torch.device("cpu")))
        fills.append(model.imputer.state_dict())
    for name, fill in fills[0].items():
        assert torch.equal(fill, fills[1][name])


def test_rows_near_zero_are_not_scaled_up(first_step: Callable[..., SimpleNamespace]) -> None:
    model = first_step(norm_floor=1e-3).model
    width = dict.fromkeys(model.modalities, 3)
    features = {name: torch.full((2, w), 1e-5).double() for name, w in width.items()}
    features = {
        name: torch.cat([x, torch.ones(1, x.shape[1]).double()]) for name, x in features.items()
    }
    for x in model.scaled(features).values():
        assert torch.allclose(x[:2], torch.full_like(x[:2], 1e-5))
        assert x[2].norm().item() == pytest.approx(1)


def test_compressed_features_keep_the_leading_directions(
    data: Path, first_step: Callable[..., SimpleNamespace]
) -> None:
    plain, compressed = first_step(setting="mtmt"), first_step(setting="mtmt", compress=4)
    assert {name: x.shape[1] for name, x in compressed.prepared.items()} == {
        "text": 4,
        "image": 4,
        "audio": 3,
    }
    for name in ("image", "audio"):  # Their width is 4 or less, so they are not projected.
        assert torch.equal(compressed.prepared[name], plain.prepared[name])
    x = plain.prepared["text"]
    warm = x[compressed.tables.warm]
    values, vectors = torch.linalg.eigh(warm.T @ warm)
    assert values[-4] > 1.01 * values[-5]
    projection = vectors[:, -4:] @ vectors[:, -4:].T
    projected = compressed.prepared["text"]
    assert torch.allclose(projected @ projected.T, x @ projection @ x.T, atol=1e-8)


@pytest.mark.parametrize("num_modalities", [2, 3, 4])
@pytest.mark.parametrize("draws", [1, 3])
def test_every_variant_of_the_environments_has_the_rows_of_cyclic_mixup(
    num_modalities: int, draws: int
) -> None:
    expected = CyclicMixupEnvs(num_modalities, 1.0, num_draws=draws).num_envs
    assert expected == draws * num_modalities + 1
    counts = {}
    for variant in ("cyclic_mixup", "without_uniform", "independent", "fixed"):
        envs = environments(num_modalities, MilkOptions(envs=variant, num_draws=draws), 0)
        counts[variant] = len(envs.sample(generator=torch.Generator().manual_seed(0)))
    assert counts.pop("without_uniform") == expected - 1  # "w/o e=0" in the paper's Table 4.
    assert set(counts.values()) == {expected}
