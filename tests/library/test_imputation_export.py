"""Imputers of a fixed rule in one graph for all numbers of rows: export, ONNX and compilation."""

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from invmod.imputation import (
    KNNImputer,
    LearnedTokens,
    LinearMapImputer,
    MeanImputer,
    PPCAImputer,
    RidgeImputer,
    ZeroImputer,
)
from tests.library.torch_versions import ANY_NUMBER, REFUSAL
from tests.strategies import NAN, normal, random_mask, seeded

NAMES = ("text", "image")
DIMS = {"text": (3,), "image": (2, 2)}
KINDS = ["zero", "mean", "tokens", "tokens per pattern", "ridge", "ppca"]


def draw(seed, num_rows):
    """Return float32 features with NaN in masked cells, and the mask."""
    generator = seeded(seed)
    features = {name: normal(generator, num_rows, *d).float() for name, d in DIMS.items()}
    mask = random_mask(generator, num_rows, 2)
    for index, name in enumerate(NAMES):
        features[name][~mask[:, index]] = NAN
    return features, mask


def build(kind):
    """Return an imputer that fills by a fixed rule."""
    if kind.startswith("tokens"):
        tokens = LearnedTokens(DIMS, per="pattern" if "pattern" in kind else "modality")
        for index, token in enumerate(tokens.parameters()):
            nn.init.normal_(token, generator=seeded(index))
        return tokens.eval()
    imputers = {
        "zero": ZeroImputer(NAMES),
        "mean": MeanImputer(NAMES),
        "ridge": RidgeImputer(NAMES),
        "ppca": PPCAImputer(NAMES, num_components=2, max_iterations=5),
    }
    features, mask = draw(0, 30)
    fitted = imputers[kind].fit(features, mask).eval()
    return fitted.linear_maps() if kind in ("ridge", "ppca") else fitted


class Filled(nn.Module):
    """The filled features as a tuple, which every export format has."""

    def __init__(self, imputer, absent=False):
        super().__init__()
        self.imputer, self.absent = imputer, absent

    def forward(self, text, image, mask):
        features = {"text": text} if self.absent else {"text": text, "image": image}
        filled, usable = self.imputer(features, mask)
        return filled["text"], filled["image"], usable


def inputs(seed, num_rows):
    features, mask = draw(seed, num_rows)
    return features["text"], features["image"], mask


def check(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-5, atol=1e-5)


@ANY_NUMBER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dim", ["named", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize("absent", [False, True])
def test_an_exported_imputer_takes_any_number_of_rows(kind, strict, dim, absent):
    model = Filled(build(kind), absent).eval()
    batch = Dim("batch") if dim == "named" else Dim.AUTO
    example = inputs(1, 4)
    if absent:
        example[2][:, 1] = False
    # The image of an absent modality is an argument that nothing reads.
    shapes = ({0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(model, example, dynamic_shapes=shapes, strict=strict).module()
    for num_rows in (4, 7, 1, 0):
        given = inputs(num_rows, num_rows)
        if absent:
            given[2][:, 1] = False
        check(program(*given), model(*given))


@ANY_NUMBER
@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_modality_is_missing_in_traced_code_whatever_its_mask(kind):
    model, batch = Filled(build(kind), absent=True).eval(), Dim("batch")
    shapes = ({0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(model, inputs(1, 4), dynamic_shapes=shapes, strict=False)
    text, image, mask = inputs(7, 7)
    mask[:4, 1], without = True, mask & torch.tensor([True, False])
    check(program.module()(text, image, mask), model(text, image, without))


@ANY_NUMBER
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_imputer_runs_in_onnx_with_holes_in_the_batch(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Filled(build(kind)).eval()
    batch = Dim("batch")
    with warnings.catch_warnings():
        # The exporter warns of changes in its own dependencies.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            inputs(1, 4),
            str(tmp_path / "imputer.onnx"),
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            verbose=False,
        )
    session = onnxruntime.InferenceSession(
        str(tmp_path / "imputer.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [argument.name for argument in session.get_inputs()]
    for num_rows in (4, 7, 1):
        given = inputs(num_rows, num_rows)
        arrays = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        check(session.run(None, arrays), model(*given))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_imputer_has_one_graph_for_all_numbers_of_rows(kind):
    model, graphs = Filled(build(kind)), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for num_rows in range(2, 14):
        given = inputs(num_rows, num_rows)
        check(compiled(*given), model(*given))
    assert len(graphs) <= 2


def test_tokens_get_their_gradients_in_a_compiled_graph():
    tokens = build("tokens per pattern")
    compiled = torch.compile(Filled(tokens), fullgraph=True, dynamic=True, backend="aot_eager")
    gradients = []
    for run in (compiled, Filled(tokens)):
        tokens.zero_grad()
        text, image, _ = run(*inputs(3, 9))
        (text.square().sum() + image.square().sum()).backward()
        gradients.append([token.grad.clone() for token in tokens.parameters()])
    check(*gradients)
    assert all(g.any() for g in gradients[0])


@pytest.mark.parametrize("kind", ["ridge", "ppca"])
def test_maps_fill_as_the_imputer_that_they_store(kind):
    names = ("a", "b", "c")
    generator = seeded(3)
    hidden = normal(generator, 40, 2)
    features = {
        name: (hidden @ normal(generator, 2, d) + 0.1 * normal(generator, 40, d)).reshape(40, *s)
        for name, d, s in (("a", 2, (2,)), ("b", 4, (2, 2)), ("c", 1, ()))
    }
    mask = random_mask(generator, 40, 3)
    imputer = (
        RidgeImputer(names, ridge=0.3)
        if kind == "ridge"
        else PPCAImputer(names, num_components=2, max_iterations=5)
    ).fit(features, mask)
    maps = imputer.linear_maps()
    assert isinstance(maps, LinearMapImputer)
    for index, name in enumerate(names):
        features[name][~mask[:, index]] = NAN
    expected, got = imputer(features, mask), maps(features, mask)
    restored = LinearMapImputer(names)
    restored.load_state_dict(maps.state_dict())
    for name in names:
        torch.testing.assert_close(got[0][name], expected[0][name], rtol=1e-9, atol=1e-9)
        assert torch.equal(restored(features, mask)[0][name], got[0][name])
    assert torch.equal(got[1], expected[1])
    before = got[0]["a"].clone()
    for buffer in imputer.buffers():
        buffer.zero_()
    assert torch.equal(maps(features, mask)[0]["a"], before)
    imputer.fit({name: 2 * x for name, x in features.items()}, mask)
    assert torch.equal(maps(features, mask)[0]["a"], before)


@REFUSAL
def test_neighbours_cannot_be_exported():
    features, mask = draw(0, 20)
    model = Filled(KNNImputer(NAMES).fit(features, mask))
    with pytest.raises(Exception, match=r"data-dependent|nonzero|u0|unbacked"):
        torch.export.export(model, inputs(1, 4), strict=False)
