"""The gradients of a step, compiled to few kernels by `torch.compile`.

The functions that are compiled are compositions of the same parts as everywhere else. They are
traced once, gradients included, so that the compiler sees one graph of tensor operations with
fixed shapes.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import PreparedRows, gather_static
from milk_recsys.methods.milk.model import Recommender
from milk_recsys.methods.milk.objective import batch_sums, coefficients

__all__ = ["CompiledFunction", "check_compiler", "step_gradients"]

BACKEND = "inductor"  # Backend of torch.compile. Tests without a compiler replace it.

Function = Callable[..., tuple[Tensor, ...]]


def check_compiler(options: MilkOptions, device: torch.device, world: World) -> None:
    """Check that steps can be compiled on the device (--kernels compiled).

    Raises:
        DataError: the device is not a GPU, the options are not supported, or the environment has
            no compiler.
    """
    c_compilers = [os.environ.get("CC", ""), "gcc", "clang"]
    by_torchrec = options.user_table == "sharded" and options.user_blocks is None
    problems = {
        f"it needs a GPU, and the device is {device.type}": device.type != "cuda",
        f"it works in one process only, and there are {world.size}": world.size > 1,
        f"it does not support --regulariser {options.regulariser}": options.regulariser
        == "parameters",
        "it does not support a table that TorchRec shards": by_torchrec,
        "Triton is not installed (pip install triton)": find_spec("triton") is None,
        "Triton needs a C compiler, and neither gcc nor clang is on the path (or set CC)": not any(
            shutil.which(name) for name in c_compilers if name
        ),
    }
    for problem, holds in problems.items():
        if holds:
            raise DataError(f"--kernels compiled cannot be used: {problem}. Use auto or torch.")


class CompiledFunction:
    """A pure function of tensors, compiled for the shapes of its first call.

    A call with other shapes, such as an epoch's last batch, runs the function as it is: compiling
    takes longer than many such calls.

    Arguments:
        function: returns a tuple of tensors, and neither changes its arguments nor branches on
            their values. Tensors that it reads from elsewhere (weights, features) must keep their
            addresses.
        backend: of `torch.compile`; None for `BACKEND`.
    """

    def __init__(self, function: Function, *, backend: str | None = None) -> None:
        self.function, self.backend = function, BACKEND if backend is None else backend
        self.shapes: list[torch.Size] = []
        self.compiled: Function = function

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the function's result, without a graph of autograd."""
        shapes = [x.shape for x in inputs]
        with torch.no_grad():
            if not self.shapes:
                self.shapes = shapes
                return self._compile(inputs)
            return self.compiled(*inputs) if shapes == self.shapes else self.function(*inputs)

    def _compile(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compile the function, and return the result of its first call.

        Raises:
            DataError: the compiler failed.
        """
        # These imports take seconds, which runs without the compiler should not wait for.
        from torch._dynamo.exc import TorchDynamoException
        from torch.fx.experimental.proxy_tensor import make_fx

        # Tracing runs the function once and records its operations, those of the backward pass
        # included. The engine of autograd would run these in another thread.
        with torch.autograd.set_multithreading_enabled(False):
            traced = make_fx(lambda *given: self.function(*given))(*inputs)
        self.compiled = torch.compile(traced, backend=self.backend, fullgraph=True, dynamic=False)
        try:
            with warnings.catch_warnings():
                # The compiler recommends TF32, which is an option of the run (--tf32).
                warnings.simplefilter("ignore")
                return self.compiled(*inputs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise DataError(
                f"--kernels compiled: torch.compile failed ({reason}). Use --kernels torch."
            ) from error


def step_gradients(
    model: Recommender, tables: Tables, prepared: PreparedRows, options: MilkOptions, autocast: bool
) -> Function:
    """Return the function that computes a step's terms and gradients, and changes nothing.

    Arguments:
        model: its encoders and precision.
        tables: the training data on the model's device.
        prepared: returns the features of items, in memory of its own.
        options: the objective; its regulariser is not "parameters".
        autocast: whether to multiply in bfloat16.

    Returns:
        a function of the table of users (N, D), the triples' rows of it (B,), their positive and
        negative items (B,) and the fusion weights (E, M). It returns the terms (5,) in float64,
        the gradient by the users of the triples (B, D), and those by the encoders' parameters.

    Raises:
        DataError: the features are not in memory.
    """
    if tables.features.mapped:
        raise DataError(
            "--kernels compiled cannot be used: it needs the features in memory. Use --features "
            "memory, or --kernels torch."
        )
    parameters = list(model.encoders.parameters())

    def gradients(
        table: Tensor, rows: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor
    ) -> tuple[Tensor, ...]:
        batch = gather_static(tables, prepared, positives, negatives)
        u = table.detach().index_select(0, rows).requires_grad_()
        with torch.enable_grad(), torch.autocast(u.device.type, torch.bfloat16, enabled=autocast):
            sums = batch_sums(model, u, batch, weights, options)
        terms, by_sums = coefficients(sums.detach(), len(rows), options)
        # Fused Adam needs gradients with the strides of the parameters.
        grads = (g.contiguous() for g in torch.autograd.grad(sums, [u, *parameters], by_sums))
        return terms.double(), *grads

    return gradients
