"""A step recorded once as a CUDA graph and replayed: hundreds of small kernels for the price of one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CapturedStep"]

WARM_UP = 3  # steps on a side stream before a capture, as CUDA graphs ask for


class CapturedStep:
    """Calls a function of tensors on a GPU; from the fourth call of the first call's shapes on, replays its graph.

    The function must neither wait for the GPU nor choose by values, and what it changes (weights, states of
    optimisers) must stay where it is in memory. Calls of other shapes, such as an epoch's last batch, run as they are.

    Arguments:
        function: from tensors to one tensor.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.calls = 0
        self.shapes: list[torch.Size] = []
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function, or replay it; the result of a replay is valid until the next one."""
        self.shapes = self.shapes or [x.shape for x in inputs]
        if [x.shape for x in inputs] != self.shapes:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(*inputs)
        if self.graph is None:
            self.inputs = [x.clone() for x in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and does not run
                self.output = self.function(*self.inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        if self.output is None:
            raise RuntimeError("CapturedStep: nothing was recorded.")
        return self.output

    def _aside(self, *inputs: Tensor) -> Tensor:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output
