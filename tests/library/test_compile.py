"""The parts compile without graph breaks and equal their eager values and gradients."""

import pytest
import torch
from torch import Tensor, nn

import invmod
from invmod import (
    GroupDRO,
    ModalityEncoders,
    fuse,
    invariant_objective,
    irm_penalty,
    pairwise_alignment_loss,
    vrex_penalty,
    worst_case_objective,
)
from invmod.alignment import singular_value_alignment_loss
from invmod.objectives import (
    cvar_objective,
    environment_statistics,
    eqrm_objective,
    irm_penalty_from_statistics,
    mmrex_objective,
    more_vs_fewer_loss,
    risks_from_statistics,
    vrex_coefficients,
    vrex_penalty_debiased_from_statistics,
)
from invmod.penalties import (
    fishr_penalty_linear,
    irm_derivatives,
    irm_derivatives_bpr,
    irm_penalty_from_derivatives,
    modality_learning_index,
    vrex_penalty_debiased,
)
from tests.strategies import NAN, gradients, normal, poison, random_mask, seeded, simplex_rows

Z = normal(seeded(0), 5, 3, 4, dtype=torch.float32)
WEIGHTS = simplex_rows(seeded(1), 4, 3, dtype=torch.float32)
MASK = random_mask(seeded(2), 5, 3)
RISKS = normal(seeded(3), 4, dtype=torch.float32)
LOGITS = normal(seeded(4), 6, dtype=torch.float32)
TARGETS = (LOGITS > 0.3).float()
GATES = invmod.GatedFusion(3, 4)
ATTENTION = invmod.AttentionFusion(3, 4, num_heads=2, generator=seeded(5))
for parameter in (GATES.weight, ATTENTION.query):
    nn.init.normal_(parameter, generator=seeded(6))


def vrex_objective(risks: Tensor) -> Tensor:
    return invariant_objective(risks, penalty=vrex_penalty, penalty_weight=5.0)


def statistics(losses: Tensor, **options) -> dict[str, Tensor]:
    env = torch.tensor([0, 1, 0, 1, 0, 1])
    return environment_statistics(
        losses, env, num_envs=2, derivatives=losses * 2, mask=losses > -9, **options
    )


CASES = {
    "mmrex": (lambda r: mmrex_objective(r, lambda_min=-1.0), (RISKS,)),
    "worst case": (worst_case_objective, (RISKS,)),
    "cvar": (lambda r: cvar_objective(r, tail_fraction=0.6), (RISKS,)),
    "eqrm": (lambda r: eqrm_objective(r, quantile=0.8), (RISKS,)),
    "debiased paired": (lambda x: vrex_penalty_debiased(x, paired=True), (LOGITS.reshape(2, 3),)),
    "derivatives": (
        lambda z: irm_penalty_from_derivatives(irm_derivatives(z, TARGETS), estimator="ustat"),
        (LOGITS,),
    ),
    "derivatives bpr": (
        lambda z: irm_penalty_from_derivatives(irm_derivatives_bpr(z), estimator="split"),
        (LOGITS,),
    ),
    "risks of statistics": (
        lambda x: vrex_objective(risks_from_statistics(statistics(x))),
        (LOGITS,),
    ),
    "irm of statistics": (
        lambda x: irm_penalty_from_statistics(
            statistics(x, weights=TARGETS + 1), estimator="ustat"
        ),
        (LOGITS,),
    ),
    "split of statistics": (
        lambda x: irm_penalty_from_statistics(
            statistics(x, halves=torch.arange(6) < 3), estimator="split"
        ),
        (LOGITS,),
    ),
    "debiased of statistics": (
        lambda x: vrex_penalty_debiased_from_statistics(statistics(x)),
        (LOGITS,),
    ),
    "debiased of paired statistics": (
        lambda x: vrex_penalty_debiased_from_statistics(environment_statistics(x, paired=True)),
        (LOGITS.reshape(2, 3),),
    ),
    "fuse": (fuse, (Z, WEIGHTS)),
    "fuse scores": (fuse, (Z[..., 0], WEIGHTS)),
    "fuse with a mask": (lambda z, w: fuse(z, w, MASK), (poison(Z, MASK, NAN), WEIGHTS)),
    "fuse with a mask where nothing is available": (
        lambda z, w: fuse(z, w, torch.zeros_like(MASK)),
        (Z, WEIGHTS),
    ),
    "align none": (lambda z: pairwise_alignment_loss(z, MASK, reduction="none"), (Z,)),
    "align sum": (lambda z: pairwise_alignment_loss(z, MASK, reduction="sum"), (Z,)),
    "align item_mean": (lambda z: pairwise_alignment_loss(z, MASK, reduction="item_mean"), (Z,)),
    "align mean": (lambda z: pairwise_alignment_loss(z, MASK), (poison(Z, MASK, NAN),)),
    "align without a mask": (pairwise_alignment_loss, (Z,)),
    "align element_mean": (
        lambda z: pairwise_alignment_loss(z, MASK, reduction="element_mean"),
        (Z,),
    ),
    "align with weights": (
        lambda z: pairwise_alignment_loss(z, MASK, weights=torch.arange(5) / 4),
        (Z,),
    ),
    "align to an anchor": (
        lambda z: pairwise_alignment_loss(z, MASK, anchor=1, stop_gradient=True),
        (Z,),
    ),
    "align angles": (
        lambda z: invmod.alignment.cosine_alignment_loss(z, MASK),
        (poison(Z, MASK, NAN),),
    ),
    "align singular values": (
        lambda z: singular_value_alignment_loss(z, MASK),
        (poison(Z, MASK, NAN),),
    ),
    "more versus fewer": (
        lambda r: more_vs_fewer_loss(r, RISKS.flip(0), MASK[:4] | True, MASK[:4]),
        (RISKS,),
    ),
    "irm with ignored targets": (
        lambda z: irm_penalty(z, torch.where(TARGETS > 0, TARGETS, -100.0), ignore_index=-100),
        (LOGITS,),
    ),
    "fishr with ignored targets": (
        lambda z: fishr_penalty_linear(
            z[:, None],
            torch.stack([z, -z, 2 * z], dim=1),
            torch.tensor([0, 1, -100, 2, 0, 1]),
            torch.tensor([0, 1, 0, 1, 0, 1]),
            num_envs=2,
            ignore_index=-100,
        ),
        (LOGITS,),
    ),
    "learning index": (lambda r: modality_learning_index(r.square()), (RISKS,)),
    "align by contrast": (
        lambda z: invmod.infonce_alignment_loss(z, MASK),
        (poison(Z, MASK, NAN),),
    ),
    "align covariances": (
        lambda z: invmod.alignment.coral_alignment_loss(z, MASK, means=True),
        (poison(Z, MASK, NAN),),
    ),
    "fuse own weights": (
        lambda z, w: fuse(z, w, MASK),
        (poison(Z, MASK, NAN), WEIGHTS.expand(5, 4, 3)),
    ),
    "fuse by mean": (lambda z: invmod.masked_mean(z, MASK), (poison(Z, MASK, NAN),)),
    "fuse by gates": (lambda z: GATES(z, MASK), (poison(Z, MASK, NAN),)),
    "fuse by attention": (lambda z: ATTENTION(z, MASK), (poison(Z, MASK, NAN),)),
    "fuse experts": (
        lambda z: invmod.fusion.product_of_experts(z, -z, MASK).mean,
        (poison(Z, MASK, NAN),),
    ),
    "vrex": (vrex_penalty, (RISKS,)),
    "vrex unbiased": (lambda risks: vrex_penalty(risks, correction=1), (RISKS,)),
    "objective": (vrex_objective, (RISKS,)),
    "irm bce": (lambda z: irm_penalty(z, TARGETS), (LOGITS,)),
    "irm mse": (lambda z: irm_penalty(z, TARGETS, loss="mse"), (LOGITS,)),
    "irm bpr": (lambda z: irm_penalty(z, None, loss="bpr"), (LOGITS,)),
    "irm ce": (lambda z: irm_penalty(z, torch.tensor([0, 2]), loss="ce"), (LOGITS.reshape(2, 3),)),
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_compiles_without_graph_breaks(case):
    function, tensors = CASES[case]
    inputs = [x.clone().requires_grad_() for x in tensors]
    expected = function(*inputs)
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(got, expected)
    for g, e in zip(gradients(got, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(g, e)
        assert g.isfinite().all()


def test_vrex_coefficients_compile_without_graph_breaks():
    def coefficients(risks: Tensor) -> Tensor:
        return vrex_coefficients(risks, penalty_weight=5.0, correction=1)

    got = torch.compile(coefficients, fullgraph=True, backend="aot_eager")(RISKS)
    torch.testing.assert_close(got, coefficients(RISKS))


def test_group_dro_updates_its_state_when_compiled():
    eager, traced = GroupDRO(4, step_size=0.5), GroupDRO(4, step_size=0.5)
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    present = torch.tensor([True, True, False, True])
    for _ in range(3):
        torch.testing.assert_close(compiled(RISKS, present=present), eager(RISKS, present=present))
    torch.testing.assert_close(traced.weights, eager.weights)
    assert not torch.equal(traced.weights, torch.full((4,), 0.25).double())


@pytest.mark.parametrize("error", ["index", "weight", "absent", "one sample"])
def test_compiled_statistics_give_nan_where_eager_ones_raise(error):
    env = torch.tensor(
        {"index": [0, 1, 2], "weight": [0, 0, 1], "absent": [0, 0, 0], "one sample": [0, 0, 1]}[
            error
        ]
    )
    weights = torch.tensor([1.0, -1.0, 1.0]) if error == "weight" else None

    def function(x):
        s = environment_statistics(x, env, num_envs=2, derivatives=x, weights=weights)
        return (
            irm_penalty_from_statistics(s)
            if error == "one sample"
            else risks_from_statistics(s).sum()
        )

    assert torch.compile(function, fullgraph=True, backend="aot_eager")(RISKS[:3]).isnan()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_whole_training_objective_compiles_at_several_batch_sizes(masked):
    def step(z: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
        risks = fuse(z, weights, mask).square().mean(dim=(1, 2))
        return vrex_objective(risks) + pairwise_alignment_loss(z, mask)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_rows in (5, 3, 8):
        z = normal(seeded(num_rows), num_rows, 3, 4, dtype=torch.float32).requires_grad_()
        mask = random_mask(seeded(num_rows), num_rows, 3) if masked else None
        expected, got = step(z, WEIGHTS, mask), compiled(z, WEIGHTS, mask)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(gradients(got, z), gradients(expected, z))


class Words(nn.Module):
    """The mean of the embeddings of token ids (N, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(dim=1)


def test_encoders_of_images_and_words_compile_with_nan_and_ids_out_of_range_in_masked_cells():
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoders = ModalityEncoders({"image": conv, "words": Words()})
    mask = random_mask(seeded(0), 6, 2)
    image = poison(
        normal(seeded(1), 6, 2, 5, 5, dtype=torch.float32), mask[:, 0], NAN
    ).requires_grad_()
    ids = poison(torch.arange(30).reshape(6, 5) % 9, mask[:, 1], -7)
    inputs = [image, *encoders.parameters()]
    expected = encoders({"image": image, "words": ids}, mask)
    got = torch.compile(encoders, fullgraph=True, backend="aot_eager")(
        {"image": image, "words": ids}, mask
    )
    torch.testing.assert_close(got, expected)
    for g, e in zip(gradients(got, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(g, e)
        assert g.isfinite().all()
