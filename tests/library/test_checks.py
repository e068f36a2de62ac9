"""Checks that several rooms share: where values are unknown, and integers of every kind."""

import warnings

import numpy as np
import pytest
import torch

from invmod._checks import check_count, checked_rows, has_known_values
from invmod._precision import without_autocast


@pytest.mark.parametrize("count", [3, np.int64(3), np.uint8(3)])
def test_a_count_of_any_integer_type_becomes_an_int(count):
    assert check_count("f", "a", count) == 3
    assert type(check_count("f", "a", count)) is int


@pytest.mark.parametrize("count", [True, np.bool_(True), 3.0, "3", None, torch.tensor(3)])
def test_other_types_are_no_count(count):
    with pytest.raises(TypeError, match="f: `a` must be an int, got"):
        check_count("f", "a", count)


def test_values_are_known_only_outside_traced_code_and_off_the_meta_device():
    class Part(torch.nn.Module):
        def forward(self, x):
            return x + int(has_known_values(x))

    x = torch.zeros(2)
    assert Part()(x).tolist() == [1.0, 1.0]
    assert not has_known_values(x.to("meta"))
    torch.compiler.reset()
    compiled = torch.compile(Part(), fullgraph=True, backend="eager")
    assert compiled(x).tolist() == [0.0, 0.0]
    for strict in (False, True):
        program = torch.export.export(Part(), (x,), strict=strict)
        assert program.module()(x).tolist() == [0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        assert torch.jit.trace(Part(), (x,))(x).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "rows", [torch.tensor(1), torch.tensor([[1]]), torch.tensor([1.0]), torch.tensor([True])]
)
def test_rows_are_a_vector_of_integers(rows):
    message = r"f: `rows` must be row numbers, int64 of shape \(n,\), got torch\."
    with pytest.raises(TypeError, match=message):
        checked_rows("f", rows, 2, torch.device("cpu"))


def test_rows_on_the_meta_device_pass_without_a_check_of_their_values():
    rows = torch.zeros(3, dtype=torch.int64, device="meta")
    assert checked_rows("f", rows, 2, torch.device("meta")).shape == (3,)
    with pytest.raises(ValueError, match="f: `rows` must be distinct"):
        checked_rows("f", torch.zeros(3, dtype=torch.int64), 2, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"f: `rows` must lie in \[0, 2\)"):
        checked_rows("f", torch.tensor([0, 2]), 2, torch.device("cpu"))


def test_autocast_is_switched_off_where_the_device_has_one():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
        with without_autocast(x.to("meta")):
            assert (x.to("meta") @ x.to("meta")).is_meta
