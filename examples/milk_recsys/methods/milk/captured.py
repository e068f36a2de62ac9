"""A step recorded once as a CUDA graph and replayed: hundreds of small kernels for the price of one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CapturedStep"]

WARM_UP = 3  # steps on a side stream before a capture, as CUDA graphs ask for

Step = Callable[..., Tensor]
Replay = Callable[[], Tensor]


def _aside(function: Step, inputs: tuple[Tensor, ...]) -> Tensor:
    """Call on a side stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return output


def _record(function: Step, inputs: tuple[Tensor, ...]) -> Replay:
    """Record a call, without running it, and return what runs it on what the inputs then hold."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*inputs)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class CapturedStep:
    """Calls a function of tensors on a GPU; from the fourth call of the first call's shapes on, replays its graph.

    The function must neither wait for the GPU nor choose by values, and what it changes (weights, states of
    optimisers) must stay where it is in memory. Calls of other shapes, such as an epoch's last batch, run as they are.

    Arguments:
        function: from tensors to one tensor.
        aside, record: how a warm-up and a recording are made.
    """

    def __init__(
        self,
        function: Step,
        *,
        aside: Callable[[Step, tuple[Tensor, ...]], Tensor] = _aside,
        record: Callable[[Step, tuple[Tensor, ...]], Replay] = _record,
    ) -> None:
        self.function, self.aside, self.record = function, aside, record
        self.calls = 0
        self.shapes: list[torch.Size] = []
        self.inputs: tuple[Tensor, ...] = ()
        self.replay: Replay | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function, or replay it; the result of a replay holds until the next one."""
        self.shapes = self.shapes or [x.shape for x in inputs]
        if [x.shape for x in inputs] != self.shapes:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.aside(self.function, inputs)
        if self.replay is None:
            self.inputs = tuple(x.clone() for x in inputs)
            self.replay = self.record(self.function, self.inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        return self.replay()
