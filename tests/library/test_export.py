"""Every part that docs/parts/export.md lists is exported and compiled with a dynamic batch.

A program that is traced with four rows runs with other numbers of rows, because an export that is
frozen to one number of rows passes every check on that number. Hidden cells hold NaN.
"""

import functools
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

import invmod.encoders
import invmod.fusion
import invmod.imputation
from tests.library.export_cases import Call, Case, make_cases, make_refused
from tests.library.torch_versions import ANY_NUMBER, REFUSAL, needs_torch

TRACED, OTHERS = 4, (7, 1, 0)
SIZES = (7, 2, 3, 4, 5, 6, 8, 9, 10, 1, 12, 13)
CASES, REFUSED = make_cases(), make_refused()
PAGE = Path(__file__).parents[2] / "docs/parts/export.md"
MODES = {
    "named": lambda: Dim("n", min=0),
    "auto": lambda: Dim.AUTO,
}
# Tracing and conversion emit warnings about the internals of torch and onnxscript.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def export(
    case: Case, mode: str = "named", *, strict: bool = False
) -> torch.export.ExportedProgram:
    inputs = case.batch(TRACED)
    dim = MODES[mode]()
    shapes = tree_map(lambda x: None if x is None else {0: dim}, inputs)
    # The tuple of the arguments of `*inputs` is one argument.
    shapes = (shapes,) if isinstance(case.model, Call) else shapes
    return torch.export.export(case.model, inputs, dynamic_shapes=shapes, strict=strict)


@functools.cache
def exported(name: str) -> torch.export.ExportedProgram:
    return export(CASES[name])


def assert_equal_outputs(got: Any, expected: Any, **tolerances: float) -> None:
    for x, y in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        torch.testing.assert_close(x, y, **tolerances)


STRICT = [
    pytest.param(False, id="not strict"),
    pytest.param(True, id="strict", marks=pytest.mark.slow),
]


@ANY_NUMBER
@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("mode", ["named", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_an_exported_part_runs_with_other_numbers_of_rows(name, mode, strict):
    case = CASES[name]
    default = mode == "named" and not strict
    program = exported(name) if default else export(case, mode, strict=strict)
    for num_rows in (TRACED, *OTHERS):
        inputs = case.batch(num_rows)
        assert_equal_outputs(program.module()(*inputs), case.model(*inputs))


@ANY_NUMBER
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_onnx_model_runs_in_onnx_runtime_with_other_numbers_of_rows(name):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    case = CASES[name]
    model = torch.onnx.export(exported(name), dynamo=True, verbose=False).model_proto
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    for num_rows in (TRACED, *OTHERS):
        inputs = case.batch(num_rows)
        given = [x for x in tree_leaves(inputs) if x is not None]
        tensors = zip(names, given, strict=True)
        outputs = session.run(None, {name: x.numpy() for name, x in tensors})
        expected = case.model(*inputs)
        assert_equal_outputs([torch.from_numpy(x) for x in outputs], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_torch("2.10", "the compilation of skipped rows"))
        if "skip_missing" in name
        else name
        for name in CASES
    ],
)
def test_a_part_compiles_to_at_most_two_graphs_for_twelve_numbers_of_rows(name):
    """One graph is for a single row, and the other for every other number of rows."""
    case, counter = CASES[name], CompileCounter()
    compiled = torch.compile(case.model, backend=counter, fullgraph=True, dynamic=True)
    for num_rows in SIZES:
        inputs = case.batch(num_rows)
        assert_equal_outputs(compiled(*inputs), case.model(*inputs))
    assert 1 <= counter.frame_count <= 2


class Together(nn.Module):
    """Parts with the same arguments, called one after the other, so that one compilation does."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, first: Any, second: Any) -> list[Any]:
        return [part(first, second) for part in self.parts]


@ANY_NUMBER
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs a C++ compiler")
@pytest.mark.parametrize("arguments", ["vectors", "embeddings", "images_and_tokens"])
def test_ahead_of_time_compilation_runs_with_other_numbers_of_rows(arguments, tmp_path):
    cases = [case for case in CASES.values() if case.batch.__name__ == arguments]
    whole = Case(Together([case.model for case in cases]).eval(), cases[0].batch)
    path = torch._inductor.aoti_compile_and_package(
        export(whole), package_path=str(tmp_path / "parts.pt2")
    )
    program = torch._inductor.aoti_load_package(path)
    for num_rows in (TRACED, *OTHERS):
        inputs = whole.batch(num_rows)
        assert_equal_outputs(program(*inputs), whole.model(*inputs), rtol=1e-5, atol=1e-6)


@REFUSAL
@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("name", REFUSED)
def test_a_part_that_selects_rows_does_not_export(name, strict):
    with pytest.raises(Exception, match=r"data-dependent|Could not guard|specialized"):
        export(REFUSED[name], strict=strict)


@REFUSAL
@pytest.mark.parametrize("name", REFUSED)
def test_a_part_that_selects_rows_does_not_compile_to_one_graph(name):
    compiled = torch.compile(
        REFUSED[name].model, backend=CompileCounter(), fullgraph=True, dynamic=True
    )
    with pytest.raises(Exception, match=r"data-dependent|Could not guard"):
        compiled(*REFUSED[name].batch(TRACED))


@pytest.mark.parametrize("name", REFUSED)
def test_the_docstring_of_a_part_that_does_not_export_names_the_form_that_does(name):
    kind = re.match(r"`(\w+)", name)[1]
    rooms = (invmod.encoders, invmod.imputation)
    part = next(getattr(room, kind) for room in rooms if hasattr(room, kind))
    text = inspect.getdoc(part)
    assert "export" in text
    form = {"ModalityEncoders": "Set ``skip_missing`` to False"}.get(kind, "`linear_maps`")
    assert form in text


# --- the page


def table(page: str) -> dict[str, list[str]]:
    """Return the rows of the page's table: the part, and the cells behind it."""
    lines = page[page.index("| part |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {part: others for part, *others in cells}


def test_the_table_of_the_page_lists_the_parts_of_these_tests():
    ahead_of_time = {"vectors", "embeddings", "images_and_tokens"}
    expected = {
        name: ["yes", "yes", "yes" if case.batch.__name__ in ahead_of_time else "not tested", "yes"]
        for name, case in CASES.items()
    }
    expected |= {name: ["no"] * 4 for name in REFUSED}
    assert table(PAGE.read_text(encoding="utf-8")) == expected


def test_every_fusion_and_imputer_is_in_the_table():
    names = {*invmod.fusion.__all__, *invmod.imputation.__all__, "ModalityEncoders"}
    listed = " ".join({*CASES, *REFUSED})
    # A result type, and the class that `linear_maps` returns, are not parts of their own.
    missing = {name for name in names if f"`{name}" not in listed}
    assert missing == {"Gaussian", "LinearMapImputer"} & names
