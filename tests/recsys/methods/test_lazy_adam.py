"""The lazy optimiser makes the steps of SparseAdam, and changes no other row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.methods.milk.lazy_adam import LazyAdam

N, D = 12, 3


def batches(seed: int, steps: int, size: int = 9) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(N - 2, (size,), generator=generator),
            torch.randn(size, D, generator=generator, dtype=torch.float64),
        )
        for _ in range(steps)
    ]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 6), size=st.integers(0, 20))
def test_steps_equal_those_of_sparse_adam(seed: int, steps: int, size: int) -> None:
    start = torch.randn(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    table = torch.nn.Embedding(N, D, sparse=True, _weight=start.clone())
    oracle = torch.optim.SparseAdam(table.parameters(), lr=0.05)
    optimisers = [LazyAdam(start.clone(), 0.05, compiled=compiled) for compiled in (False, True)]
    for rows, grad in batches(seed, steps, size):
        oracle.zero_grad()
        table(rows).backward(grad)
        oracle.step()
        for lazy in optimisers:
            lazy.update(rows, grad)
            assert torch.allclose(lazy.weight, table.weight, rtol=1e-12, atol=1e-14)
    for lazy in optimisers:
        assert torch.equal(lazy.weight[N - 2 :], start[N - 2 :])  # No batch looked these rows up.


def test_sums_of_sorted_rows_make_the_same_step() -> None:
    """A GPU sums sorted rows instead of computing the distinct rows."""
    start = torch.randn(N, D, dtype=torch.float64)
    distinct, by_sorting = LazyAdam(start.clone(), 0.05), LazyAdam(start.clone(), 0.05)
    by_sorting.static = True
    for rows, grad in batches(0, 5):
        distinct.update(rows, grad)
        by_sorting.update(rows, grad)
    for name, tensor in distinct.tensors().items():
        assert torch.allclose(tensor, by_sorting.tensors()[name], rtol=1e-12, atol=1e-15), name


def test_rows_outside_the_batch_do_not_move_unlike_in_adam() -> None:
    """After a first step on all rows, Adam still moves a row without gradient by its moments."""
    start = torch.zeros(2, 1, dtype=torch.float64)
    dense = start.clone().requires_grad_()
    adam, lazy = torch.optim.Adam([dense], lr=0.1), LazyAdam(start.clone(), 0.1)
    for rows in (torch.tensor([0, 1]), torch.tensor([1])):
        dense.grad = torch.zeros_like(start).index_add_(
            0, rows, torch.ones(len(rows), 1, dtype=torch.float64)
        )
        adam.step()
        lazy.update(rows, torch.ones(len(rows), 1, dtype=torch.float64))
    # Equal up to epsilon, which Adam adds after the correction of the second moment.
    assert lazy.weight[1].item() == pytest.approx(dense[1].item(), rel=1e-6)
    assert lazy.weight[0].item() == pytest.approx(-0.1, rel=1e-6)
    assert dense[0].item() < -0.16
