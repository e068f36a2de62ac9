"""What the machine can do, measured in this process with its threads, and the least time that some work takes."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

SHAPES = (
    (1024, 1024, 1024),
    (2048, 2048, 64),
    (64, 2048, 2048),
)  # rows, inner, columns: square, encoder, its gradient
GPU_SHAPES = ((8192, 8192, 8192), *SHAPES)
CPU = torch.device("cpu")
COPIED = 2**26  # bytes, several times a cache
TRIES = 7


class Work(NamedTuple):
    """What has to be done: floating-point operations, and bytes to be read or written."""

    flops: float
    bytes: float

    def __add__(self, other: object) -> Work:
        """Do both."""
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> Work:
        """Do it again and again."""
        return Work(count * self.flops, count * self.bytes)


class Rates(NamedTuple):
    """Measured rates: floating-point operations and bytes a second."""

    matrix: float
    bandwidth: float

    def best(self, other: Rates) -> Rates:
        """Return the higher of each: what the machine could do at the one time or the other."""
        return Rates(max(self.matrix, other.matrix), max(self.bandwidth, other.bandwidth))

    def floor(self, work: Work) -> float:
        """Return the seconds that the work takes at these rates, the two one after the other."""
        return work.flops / self.matrix + work.bytes / self.bandwidth


def measure_rates(device: torch.device = CPU) -> Rates:
    """Take the best of a few runs: of `torch.mm` in float32 over `SHAPES`, and of `copy_` (bytes read and written)."""
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
    """Wait for the GPU, where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def facts(rates: Rates, device: torch.device = CPU) -> dict[str, Any]:
    """Return what figures depend on."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **({"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "matrix_gflops": rates.matrix / 1e9,
        "bandwidth_gb_per_s": rates.bandwidth / 1e9,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
