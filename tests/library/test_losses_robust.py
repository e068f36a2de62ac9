"""Laws of all losses, penalties and objectives: NaN, arrays of NumPy, and the meta device.

NaN in a value that counts must come out, because a finite loss would hide a broken batch. NaN in a
value that does not count (hidden by a mask, or an ignored target) must change neither the result
nor a gradient. An array of NumPy is an error that says how to convert it. On the meta device,
which has no values, the results have their shape and dtype.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from invmod import alignment, environments, objectives, penalties
from tests.library.torch_versions import needs_torch
from tests.strategies import NAN, gradients, normal, random_mask, seeded

Z = normal(seeded(0), 6, 3, 4, dtype=torch.float32)
MASK = random_mask(seeded(1), 6, 3, share=0.7)
MASK[0] = True
MASK[1] = torch.tensor([False, True, True])
RISKS = normal(seeded(2), 4, dtype=torch.float32)
LOSSES = normal(seeded(3), 2, 6, dtype=torch.float32)
LOGITS = normal(seeded(4), 8, 3, dtype=torch.float32)
FEATURES = normal(seeded(5), 8, 3, dtype=torch.float32)
ENV = torch.arange(8) % 2
CLASSES = torch.arange(8) % 3
KEEP = torch.tensor([True, True, True, True, True, False, True, False])
IGNORED = torch.where(KEEP, CLASSES, -100)
# Masks with more and with fewer modalities, which differ in the rows that count.
DIFFERING = (torch.ones(4, 2, dtype=torch.bool), ~torch.stack([KEEP[4:], KEEP[4:] & False], 1))
BINARY = (LOGITS > 0).float()
BINARY_IGNORED = torch.where(KEEP[:, None], BINARY, -100.0)


def estimate(losses: Tensor, paired: bool, estimator: str) -> Tensor:
    """Sum of all functions of additive statistics."""
    statistics = objectives.environment_statistics(
        losses,
        derivatives=losses,
        halves=torch.arange(losses.shape[1]) % 2 == 0,
        paired=paired,
    )
    return (
        objectives.risks_from_statistics(statistics).sum()
        + objectives.irm_penalty_from_statistics(statistics, estimator=estimator)
        + objectives.vrex_penalty_debiased_from_statistics(statistics)
    )


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


# name -> (function of one tensor, the tensor); the function returns a scalar
CASES = {
    "pairwise": (alignment.pairwise_alignment_loss, Z),
    "pairwise, anchor": (lambda z: alignment.pairwise_alignment_loss(z, anchor=1), Z),
    "pairwise, two": (alignment.pairwise_alignment_loss, Z[:, :2]),
    "cosine": (alignment.cosine_alignment_loss, Z),
    "cosine, anchor": (lambda z: alignment.cosine_alignment_loss(z, anchor=1), Z),
    "infonce": (alignment.infonce_alignment_loss, Z),
    "infonce, anchor": (lambda z: alignment.infonce_alignment_loss(z, anchor=1), Z),
    "coral": (alignment.coral_alignment_loss, Z),
    "singular values": (alignment.singular_value_alignment_loss, Z),
    "stack by id": (
        lambda x: alignment.stack_by_id({"a": x}, {"a": list(range(8))})[0].sum(),
        LOGITS,
    ),
    "vrex": (penalties.vrex_penalty, RISKS),
    "vrex, ddof 1": (lambda r: penalties.vrex_penalty(r, correction=1), RISKS),
    "vrex debiased": (lambda x: penalties.vrex_penalty_debiased(x, paired=False), LOSSES),
    "vrex debiased, paired": (lambda x: penalties.vrex_penalty_debiased(x, paired=True), LOSSES),
    "vrex debiased, rows": (
        lambda x: penalties.vrex_penalty_debiased(list(x), paired=False),
        LOSSES,
    ),
    "irm bce": (lambda z: penalties.irm_penalty(z, BINARY), LOGITS),
    "irm mse": (lambda z: penalties.irm_penalty(z, BINARY, loss="mse"), LOGITS),
    "irm ce": (lambda z: penalties.irm_penalty(z, CLASSES, loss="ce"), LOGITS),
    "irm bpr": (lambda d: penalties.irm_penalty(d, None, loss="bpr"), LOGITS),
    "irm callable": (
        lambda z: penalties.irm_penalty(z, None, loss=lambda z, _: z.square().mean()),
        LOGITS,
    ),
    "irm derivatives": (lambda z: penalties.irm_derivatives(z, BINARY).sum(), LOGITS),
    "irm derivatives bpr": (lambda d: penalties.irm_derivatives_bpr(d).sum(), RISKS),
    "irm square": (penalties.irm_penalty_from_derivatives, LOSSES),
    "irm split": (
        lambda h: penalties.irm_penalty_from_derivatives(h, estimator="split"),
        LOSSES,
    ),
    "irm ustat": (
        lambda h: penalties.irm_penalty_from_derivatives(h, estimator="ustat"),
        LOSSES,
    ),
    "iga": (penalties.iga_penalty, FEATURES),
    "fishr": (lambda g: penalties.fishr_penalty(g, ENV, num_envs=2), FEATURES),
    "fishr linear, features": (
        lambda f: penalties.fishr_penalty_linear(f, LOGITS, CLASSES, ENV, num_envs=2),
        FEATURES,
    ),
    "fishr linear, logits": (
        lambda z: penalties.fishr_penalty_linear(FEATURES, z, CLASSES, ENV, num_envs=2),
        LOGITS,
    ),
    "bottleneck": (
        lambda v: penalties.information_bottleneck_penalty(v, ENV, num_envs=2),
        FEATURES,
    ),
    "coral penalty": (lambda f: penalties.coral_penalty(f, FEATURES), FEATURES + 1),
    "mmd": (lambda f: penalties.mmd_penalty(f, FEATURES, gammas=[0.1, 1.0]), FEATURES + 1),
    "decoupling": (penalties.spectral_decoupling_penalty, LOGITS),
    "per-sample gradients": (
        lambda x: penalties.per_sample_gradients(
            lambda p, x: (p["w"] @ x).square(), {"w": torch.ones(3)}, x
        ).sum(),
        FEATURES,
    ),
    "invariant": (
        lambda r: objectives.invariant_objective(
            r, penalty=penalties.vrex_penalty, penalty_weight=0.0
        ),
        RISKS,
    ),
    "invariant, penalty": (
        lambda x: objectives.invariant_objective(RISKS, penalty=x.sum(), penalty_weight=0.0),
        RISKS,
    ),
    "mmrex": (lambda r: objectives.mmrex_objective(r, lambda_min=0.0), RISKS),
    "worst case": (objectives.worst_case_objective, RISKS),
    "cvar": (lambda r: objectives.cvar_objective(r, tail_fraction=0.3), RISKS),
    "eqrm": (lambda r: objectives.eqrm_objective(r, quantile=0.3), RISKS),
    "eqrm, upper": (lambda r: objectives.eqrm_objective(r, quantile=0.9), RISKS),
    "group dro": (lambda r: objectives.GroupDRO(4, step_size=0.1)(r), RISKS),
    "group dro, eval": (lambda r: objectives.GroupDRO(4, step_size=0.1).eval()(r), RISKS),
    "more vs fewer": (lambda x: objectives.more_vs_fewer_loss(x, RISKS - 1), RISKS),
    "more vs fewer, fewer": (lambda x: objectives.more_vs_fewer_loss(RISKS + 1, x), RISKS),
    "counter-intuitive rate": (lambda x: objectives.counter_intuitive_rate(x, RISKS - 1), RISKS),
    "learning index": (penalties.modality_learning_index, LOGITS.abs()),
    "environment risks": (
        lambda z: objectives.environment_risks(
            lambda z, mask: torch.where(mask[..., None], z, 0.0),
            z,
            torch.ones(z.shape[:2], dtype=torch.bool, device=z.device),
            environments.LeaveOneOutEnvs(3),
            lambda out: out.mean(),
        ).sum(),
        Z,
    ),
    "statistics": (lambda x: estimate(x, paired=False, estimator="square"), LOSSES),
    "statistics, paired": (lambda x: estimate(x, paired=True, estimator="ustat"), LOSSES),
    "statistics, halves": (lambda x: estimate(x, paired=True, estimator="split"), LOSSES),
}


@pytest.mark.parametrize("name", CASES)
def test_nan_in_a_value_that_counts_comes_out(name):
    function, x = CASES[name]
    assert function(x).isfinite()
    for position in (0, x.numel() // 2, x.numel() - 1):
        broken = x.clone()
        broken.view(-1)[position] = NAN
        assert function(broken.requires_grad_()).isnan(), position


# name -> (function of a tensor, the tensor, bool of the entries that count)
HIDDEN = {
    "pairwise": (lambda z: alignment.pairwise_alignment_loss(z, MASK), Z, MASK),
    "pairwise, anchor": (lambda z: alignment.pairwise_alignment_loss(z, MASK, anchor=1), Z, MASK),
    "cosine": (lambda z: alignment.cosine_alignment_loss(z, MASK), Z, MASK),
    "cosine, anchor": (lambda z: alignment.cosine_alignment_loss(z, MASK, anchor=1), Z, MASK),
    "infonce": (lambda z: alignment.infonce_alignment_loss(z, MASK), Z, MASK),
    "infonce, anchor": (lambda z: alignment.infonce_alignment_loss(z, MASK, anchor=1), Z, MASK),
    "coral": (lambda z: alignment.coral_alignment_loss(z, MASK, means=True), Z, MASK),
    "singular values": (
        lambda z: alignment.singular_value_alignment_loss(z, MASK),
        Z,
        MASK,
    ),
    "more vs fewer": (
        lambda x: objectives.more_vs_fewer_loss(x, RISKS - 1, *DIFFERING),
        RISKS,
        KEEP[4:],
    ),
    "more vs fewer, fewer": (
        lambda x: objectives.more_vs_fewer_loss(RISKS + 1, x, *DIFFERING),
        RISKS,
        KEEP[4:],
    ),
    "group dro": (
        lambda r: objectives.GroupDRO(4, step_size=0.1)(r, present=KEEP[4:]),
        RISKS,
        KEEP[4:],
    ),
    "statistics": (
        lambda x: torch.stack(
            list(objectives.environment_statistics(x, ENV, num_envs=2, mask=KEEP).values())
        ),
        LOGITS[:, 0],
        KEEP,
    ),
    "statistics, weights": (
        lambda x: torch.stack(
            list(
                objectives.environment_statistics(
                    x, ENV, num_envs=2, weights=KEEP.float(), derivatives=x
                ).values()
            )
        ),
        LOGITS[:, 0],
        KEEP,
    ),
    "irm ce": (
        lambda z: penalties.irm_penalty(z, IGNORED, loss="ce", ignore_index=-100),
        LOGITS,
        KEEP,
    ),
    "irm bce": (
        lambda z: penalties.irm_penalty(z, BINARY_IGNORED, ignore_index=-100),
        LOGITS,
        KEEP,
    ),
    "irm mse": (
        lambda z: penalties.irm_penalty(z, BINARY_IGNORED, loss="mse", ignore_index=-100),
        LOGITS,
        KEEP,
    ),
    "irm derivatives": (
        lambda z: penalties.irm_derivatives(z, IGNORED, loss="ce", ignore_index=-100),
        LOGITS,
        KEEP,
    ),
    "fishr linear, features": (
        lambda f: penalties.fishr_penalty_linear(
            f, LOGITS, IGNORED, ENV, num_envs=2, ignore_index=-100
        ),
        FEATURES,
        KEEP,
    ),
    "fishr linear, logits": (
        lambda z: penalties.fishr_penalty_linear(
            FEATURES, z, IGNORED, ENV, num_envs=2, ignore_index=-100
        ),
        LOGITS,
        KEEP,
    ),
}


@pytest.mark.parametrize("value", [NAN, float("inf"), 1e9])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_value_that_does_not_count_changes_neither_the_result_nor_a_gradient(name, value):
    function, x, counts = HIDDEN[name]
    results = []
    for tensor in (x.clone(), x.clone()):
        if results:
            tensor[~counts] = value
        output = function(tensor.requires_grad_())
        results.append((output.detach(), *gradients(output, tensor)))
    (expected, expected_gradient), (result, gradient) = results
    assert expected.isfinite().all()
    assert torch.equal(result, expected)
    assert torch.equal(gradient, expected_gradient)
    assert not gradient[~counts].any()


@pytest.mark.parametrize("name", HIDDEN)
def test_nan_in_an_available_value_comes_out_through_a_mask(name):
    function, x, counts = HIDDEN[name]
    broken = x.clone()
    broken[0] = NAN
    assert counts[0].all()
    assert function(broken).isnan().any()


# --- arrays of NumPy


def numpy_calls():
    """Every function with an array of NumPy for each of its tensors in turn."""
    mask, bits = MASK.numpy(), KEEP.numpy()
    for loss in ("pairwise", "cosine", "infonce", "coral"):
        function = getattr(alignment, f"{loss}_alignment_loss")
        yield f"{loss}: z", lambda f=function: f(Z.numpy())
        yield f"{loss}: mask", lambda f=function: f(Z, mask)
    yield "weights", lambda: alignment.pairwise_alignment_loss(Z, weights=RISKS.numpy())
    for name, (function, x) in CASES.items():
        if name not in (
            "vrex debiased, rows",
            "invariant, penalty",
            "irm callable",
            "environment risks",  # its features may be anything
        ):
            yield name, lambda f=function, x=x: f(x.numpy())
    yield "irm bce: targets", lambda: penalties.irm_penalty(LOGITS, BINARY.numpy())
    yield "irm ce: targets", lambda: penalties.irm_derivatives(LOGITS, CLASSES.numpy(), loss="ce")
    yield (
        "fishr linear: targets",
        lambda: penalties.fishr_penalty_linear(FEATURES, LOGITS, CLASSES.numpy(), ENV),
    )
    yield "fishr: env", lambda: penalties.fishr_penalty(FEATURES, ENV.numpy())
    yield (
        "per-sample gradients: parameters",
        lambda: penalties.per_sample_gradients(lambda p, x: x, {"w": np.ones(3)}, FEATURES),
    )
    yield "present", lambda: objectives.GroupDRO(4, step_size=0.1)(RISKS, present=bits[4:])
    yield "mask", lambda: objectives.environment_statistics(LOSSES, mask=bits[:6])
    yield "env", lambda: objectives.environment_statistics(RISKS, np.zeros(4, int))
    for function in (
        objectives.merge_statistics,
        objectives.risks_from_statistics,
        lambda s: objectives.statistics_coefficients(s, lambda s: s["loss"].sum()),
        lambda s: objectives.statistics_surrogate(s, s),
    ):
        yield (
            "statistics as arrays",
            lambda f=function: f({"weight": np.ones(2), "loss": np.ones(2)}),
        )
    yield "vrex coefficients", lambda: objectives.vrex_coefficients(np.ones(3), penalty_weight=1.0)
    yield "risk coefficients", lambda: objectives.risk_coefficients(np.ones(3), lambda r: r.mean())
    yield "dominance", lambda: environments.dominance(np.eye(3))
    yield "infer", lambda: environments.infer_environments(np.ones(3))


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in numpy_calls()])
def test_an_array_of_numpy_is_an_error_that_says_how_to_convert_it(call):
    with pytest.raises(TypeError, match=r": .*ndarray\.( Convert it with `torch\.as_tensor)?"):
        call()


# --- the meta device


@pytest.mark.parametrize("name", CASES)
def test_results_on_the_meta_device_have_their_shape_and_dtype(name, monkeypatch):
    function, x = CASES[name]
    expected = function(x)
    for constant in ("LOGITS", "FEATURES", "ENV", "CLASSES", "BINARY", "RISKS"):
        monkeypatch.setitem(globals(), constant, globals()[constant].to("meta"))
    with torch.device("meta"):
        result = function(x.to("meta"))
    assert result.is_meta
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


def test_masks_on_the_meta_device_need_no_values():
    z, mask, risks = Z.to("meta"), MASK.to("meta"), RISKS.to("meta")
    for loss in ("pairwise", "cosine", "infonce", "coral"):
        assert getattr(alignment, f"{loss}_alignment_loss")(z, mask).is_meta
    dro = objectives.GroupDRO(4, step_size=0.1).to("meta")
    assert dro(risks, present=KEEP[4:].to("meta")).is_meta
    env = (torch.arange(4) % 2).to("meta")
    statistics = objectives.environment_statistics(
        risks, env, num_envs=2, mask=env == 0, weights=risks
    )
    assert objectives.risks_from_statistics(statistics).is_meta
    assert environments.infer_environments(risks).is_meta
    assert environments.dominance(risks).share.is_meta
    with pytest.raises(
        ValueError, match=r"meta device and has no values to count\. Pass `num_envs`"
    ):
        objectives.environment_statistics(risks, env)


@needs_torch("2.8", "a default device in every function")
@pytest.mark.parametrize(
    "envs",
    [
        environments.CyclicMixupEnvs(3),
        environments.DirichletEnvs(3),
        environments.OneHotEnvs(3),
        environments.RandomSubsetEnvs(3, num_envs=2),
        environments.KOfAvailableEnvs(3, k=2),
        environments.UnionEnvs(environments.UniformEnvs(3), environments.OneHotEnvs(3)),
    ],
    ids=repr,
)
def test_environments_are_drawn_where_the_meta_device_is_the_default(envs):
    with torch.device("meta"):
        assert envs.sample((2,)).is_meta
        if hasattr(envs, "sample_masks") and "Uniform" not in repr(envs):
            assert envs.sample_masks((2,)).is_meta
