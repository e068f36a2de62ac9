"""Measured rates of the machine, and the lower bound on time that follows from them.

The rates are measured in this process, with its number of threads.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

# (rows, inner, columns) of matrix products: a square one, an encoder, the gradient of an encoder.
SHAPES = (
    (1024, 1024, 1024),
    (2048, 2048, 64),
    (64, 2048, 2048),
)
GPU_SHAPES = ((8192, 8192, 8192), *SHAPES)
CPU = torch.device("cpu")
COPIED = 2**26  # bytes; much larger than a cache, so that the copy measures main memory
TRIES = 7


class Work(NamedTuple):
    """Numbers of floating-point operations and of bytes that are read or written."""

    flops: float
    bytes: float

    def __add__(self, other: object) -> Work:
        """Add the operations and the bytes of another `Work`."""
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> Work:
        """Multiply the operations and the bytes by a count."""
        return Work(count * self.flops, count * self.bytes)


class Rates(NamedTuple):
    """Measured rates: floating-point operations per second and bytes per second."""

    matrix: float
    bandwidth: float

    def best(self, other: Rates) -> Rates:
        """Return the higher of the two measurements, for each rate."""
        return Rates(max(self.matrix, other.matrix), max(self.bandwidth, other.bandwidth))

    def floor(self, work: Work) -> float:
        """Return the seconds for the operations plus the seconds for the bytes.

        This is a lower bound for code that does not overlap computation with memory traffic.
        """
        return work.flops / self.matrix + work.bytes / self.bandwidth


def measure_rates(device: torch.device = CPU) -> Rates:
    """Measure the best rates of a few runs of `torch.mm` in float32 and of `Tensor.copy_`.

    The matrix rate is the highest over `SHAPES`. The bandwidth counts bytes read and bytes written.
    """
    rates = []
    for rows, inner, columns in SHAPES if device.type == "cpu" else GPU_SHAPES:
        a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
        out = torch.empty(rows, columns, device=device)
        rates.append(
            2 * rows * inner * columns / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
        )  # type: ignore[misc]
    source, target = torch.ones(COPIED // 4, device=device), torch.empty(COPIED // 4, device=device)
    return Rates(max(rates), 2 * COPIED / _best(lambda: target.copy_(source)))


def _best(run: Callable[[], Any]) -> float:
    run()
    return min(_seconds(run) for _ in range(TRIES))


def _seconds(run: Callable[[], Any]) -> float:
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def wait() -> None:
    """Wait until the GPU has finished, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def facts(rates: Rates, device: torch.device = CPU) -> dict[str, Any]:
    """Return the conditions of a measurement: those of `versions`, and the rates."""
    return {
        **({"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "matrix_gflops": rates.matrix / 1e9,
        "bandwidth_gb_per_s": rates.bandwidth / 1e9,
        **versions(),
    }


def versions() -> dict[str, Any]:
    """Return the machine, the number of threads, the versions and the date."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
