"""Training steps recorded as CUDA graphs and replayed, several steps with one call of the driver.

A replay launches the hundreds of small kernels of its steps at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["CapturedSteps"]

WARM_UP = 3  # Number of steps on a side stream before a capture, which CUDA graphs require.
STEPS = 8  # Number of steps in a graph.
MAX_SHAPES = 2  # An epoch has full batches and a shorter last one.

Inputs = tuple[Tensor, ...]
Step = Callable[..., object]
Shapes = tuple[torch.Size, ...]


def _call_on_side_stream(function: Step, inputs: Inputs) -> None:
    """Call the function on a side stream, ordered with the work on the current one."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)


class _Recorder:
    """Records calls as CUDA graphs that share their memory.

    Sharing is safe because the graphs run one after the other and none reads a result that another
    one has in this memory.
    """

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, function: Step, inputs: Inputs) -> Callable[[], object]:
        """Record a call without running it.

        Returns:
            a function that runs the recorded call on the present contents of `inputs`.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            function(*inputs)
        self.pool = graph.pool()
        return graph.replay


class CapturedSteps:
    """Steps on a GPU that are replayed as CUDA graphs, after three calls of the function.

    There is a graph of `steps` consecutive steps and one of a single step, for those that are left
    at the end of an epoch. A graph has the kernels of its steps in their order, so the results do
    not depend on `steps`. The memory of a step's intermediate results is reused by the next step of
    the graph, so a graph of many steps needs about as much as one of a single step, besides the
    inputs of all its steps.

    Every list of shapes has graphs of its own, up to `MAX_SHAPES` of them: full batches and the
    shorter last batch of an epoch. Calls with further shapes run without a graph.

    Arguments:
        function: makes a step from tensors and returns nothing. It must neither wait for the GPU
            nor branch on values of tensors. What it changes (weights, states of optimisers, sums of
            losses) must keep its addresses.
        steps: number of steps in a graph.
        aside: runs a warm-up call; record: records a graph. Tests without a GPU replace them.
    """

    def __init__(
        self,
        function: Step,
        *,
        steps: int = STEPS,
        aside: Callable[[Step, Inputs], object] = _call_on_side_stream,
        record: Callable[[Step, Inputs], Callable[[], object]] | None = None,
    ) -> None:
        self.function, self.steps, self.aside = function, steps, aside
        self.record = record or _Recorder()
        self.graphs: dict[Shapes, _Graphs] = {}

    def __call__(self, calls: Iterable[Inputs]) -> Iterator[None]:
        """Make a step for each tuple of inputs, in order.

        Yields:
            None for every step after it was made. The steps of a graph are made together.
        """
        for shapes, equal in itertools.groupby(calls, key=_shapes):
            if shapes not in self.graphs and len(self.graphs) < MAX_SHAPES:
                self.graphs[shapes] = _Graphs(self)
            graphs, waiting = self.graphs.get(shapes), iter(equal)
            while group := list(itertools.islice(waiting, self.steps)):
                if graphs is None:
                    for inputs in group:
                        self.function(*inputs)
                        yield
                else:
                    yield from graphs.run(group)


def _shapes(inputs: Inputs) -> Shapes:
    return tuple(x.shape for x in inputs)


class _Graphs:
    """The graphs of steps with the same shapes.

    Attributes:
        warm: number of calls of the function so far.
        recorded: number of steps -> their inputs, with a leading axis for the steps, and the
            function that replays the graph on them.
    """

    def __init__(self, own: CapturedSteps) -> None:
        self.own, self.warm = own, 0
        self.recorded: dict[int, tuple[Inputs, Callable[[], object]]] = {}

    def run(self, group: Sequence[Inputs]) -> Iterator[None]:
        """Make the steps of a group: together if it is full and warm, else one by one."""
        if len(group) == self.own.steps and self.warm >= WARM_UP:
            self._replay(group)
            yield from (None for _ in group)
            return
        for inputs in group:
            if self.warm < WARM_UP:
                self.warm += 1
                self.own.aside(self.own.function, inputs)
            else:
                self._replay([inputs])
            yield

    def _replay(self, group: Sequence[Inputs]) -> None:
        columns = list(zip(*group, strict=True))
        if len(group) not in self.recorded:
            inputs = tuple(torch.stack(column) for column in columns)
            self.recorded[len(group)] = inputs, self.own.record(self._consecutive, inputs)
        else:
            # A graph reads fixed addresses, so the inputs are copied to those it recorded.
            for column, recorded in zip(columns, self.recorded[len(group)][0], strict=True):
                torch.stack(column, out=recorded)
        self.recorded[len(group)][1]()

    def _consecutive(self, *columns: Tensor) -> None:
        for inputs in zip(*columns, strict=True):
            self.own.function(*inputs)
