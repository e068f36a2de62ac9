"""A training step recorded once as a CUDA graph and replayed.

A replay launches the step's hundreds of small kernels with one call of the driver.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CapturedStep"]

WARM_UP = 3  # Number of steps on a side stream before a capture, which CUDA graphs require.

Step = Callable[..., Tensor]
Replay = Callable[[], Tensor]


def _call_on_side_stream(function: Step, inputs: tuple[Tensor, ...]) -> Tensor:
    """Call the function on a side stream, ordered with the work on the current one."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return output


def _record(function: Step, inputs: tuple[Tensor, ...]) -> Replay:
    """Record a call without running it.

    Returns:
        a function that runs the recorded call on the present contents of `inputs`.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*inputs)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class CapturedStep:
    """A function of tensors on a GPU that is replayed as a CUDA graph from its fourth call on.

    The function must neither wait for the GPU nor branch on values of tensors, and the tensors that
    it changes (weights, states of optimisers) must keep their addresses. The graph is for the
    shapes of the first call. A call with other shapes, such as an epoch's last batch, runs without
    a graph.

    Arguments:
        function: from tensors to one tensor.
        aside: runs a warm-up call; record: records a graph. Tests without a GPU replace them.
    """

    def __init__(
        self,
        function: Step,
        *,
        aside: Callable[[Step, tuple[Tensor, ...]], Tensor] = _call_on_side_stream,
        record: Callable[[Step, tuple[Tensor, ...]], Replay] = _record,
    ) -> None:
        self.function, self.aside, self.record = function, aside, record
        self.calls = 0
        self.shapes: list[torch.Size] = []
        self.inputs: tuple[Tensor, ...] = ()
        self.replay: Replay | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function or replay its graph; the next replay overwrites the result."""
        self.shapes = self.shapes or [x.shape for x in inputs]
        if [x.shape for x in inputs] != self.shapes:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.aside(self.function, inputs)
        if self.replay is None:
            self.inputs = tuple(x.clone() for x in inputs)
            self.replay = self.record(self.function, self.inputs)
        # A graph reads and writes fixed addresses, so the arguments are copied
        # to those it recorded.
        for recorded, given in zip(self.inputs, inputs, strict=True):
            recorded.copy_(given)
        return self.replay()
