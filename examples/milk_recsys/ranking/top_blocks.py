"""Sizes of blocks of users and of tiles, and blocks on several threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock
from typing import NamedTuple

import torch

__all__ = ["Plan", "plan_blocks", "run_blocks"]

# Target number of scores per block of users: a block fits a CPU's cache, or occupies a GPU.
CPU_ROWS, GPU_ROWS = 2**20, 2**26
# Minimum number of users per block, memory permitting: each block reads all items once.
MIN_ROWS = 256
CPU_SCORES, GPU_SCORES = 2**25, 2**28  # Maximum number of scores in memory.
COLUMNS = 2048  # Number of items in one product on a CPU, so that its result stays in the cache.
# Number of scores in one product before compiled loops: half a megabyte, a core's inner cache.
COMPILED_TILE = 2**17
COLUMN_STEP = 32  # The number of items in a tile is a multiple of it.
# Number of scores from which several threads save more time than starting them takes.
THREADED_FROM = 2**22


class Plan(NamedTuple):
    """How the users of a call are divided.

    Attributes:
        workers: number of threads.
        compiled: whether compiled loops select the scores.
        rows: number of users in a block.
        span: number of items from which a block's lists are made at once.
        columns: number of items in a tile, the result of one product.
    """

    workers: int
    compiled: bool
    rows: int
    span: int
    columns: int


def plan_blocks(
    num_users: int, num_items: int, *, on_cpu: bool, compiled: bool, scores_at_once: int | None
) -> Plan:
    """Choose the sizes of blocks, so that all blocks have nearly the same size.

    Arguments:
        compiled: whether compiled loops select the scores.
        scores_at_once: maximum number of scores in memory; None for a default of the device.
    """
    workers = 1
    if on_cpu and num_users * num_items >= THREADED_FROM:
        workers = max(1, min(torch.get_num_threads(), num_users // MIN_ROWS))
    held = max(1, (scores_at_once or (CPU_SCORES if on_cpu else GPU_SCORES)) // workers)
    if compiled:
        held = min(held, COMPILED_TILE)
    wanted = max(MIN_ROWS, (CPU_ROWS if on_cpu else GPU_ROWS) // num_items)
    rows = max(1, min(wanted, math.isqrt(held)))
    rows = _even(num_users, rows * workers, workers)
    columns = span = max(1, min(held // rows, num_items))
    if compiled:
        span = min(num_items, 2**31 - 1)  # Lists contain columns of 32 bits.
    else:
        span = _even(num_items, span)
        columns = min(COLUMNS, span) if on_cpu else span
    return Plan(workers, compiled, rows, span, columns + -columns % COLUMN_STEP)


def _even(count: int, size: int, parts: int = 1) -> int:
    """Divide a count into rounds of at most `size`, and a round into parts; return a part's size.

    All rounds have nearly the same size.
    """
    rounds = -(-count // size)
    return -(-count // (rounds * parts))


def run_blocks(
    starts: Iterable[int], workers: int, new_worker: Callable[[], Callable[[int], None]]
) -> None:
    """Run a function on each block, on `workers` threads.

    A product of few inner columns runs faster on one thread than divided between several, and the
    operations in between need no synchronisation.

    Arguments:
        starts: the first user of each block, increasing.
        workers: number of threads; with one, the caller's thread runs all blocks with the number of
            threads that torch has.
        new_worker: called once on each thread; returns the function to run, which may hold buffers.

    Raises:
        Exception: the error of the first block that has one.
    """
    if workers == 1:
        run = new_worker()
        for start in starts:
            run(start)
        return
    remaining, lock, stopped = iter(starts), Lock(), Event()
    errors: list[tuple[int, Exception]] = []
    threads, started = torch.get_num_threads(), Barrier(workers + 1)

    def work() -> None:
        # A thread takes the number of threads that was set last when it first needs the number;
        # afterwards it changes only if the thread itself sets it. So this thread asks before it
        # sets 1, and the caller sets its own number again, for threads to come.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()
        run = new_worker()
        while not stopped.is_set():
            with lock:
                start = next(remaining, None)
            if start is None:
                return
            try:
                run(start)
            except Exception as error:
                # All blocks before this one have been taken, so the first error will be known. The
                # caller's thread raises it.
                errors.append((start, error))
                stopped.set()

    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(work) for _ in range(workers)]
            started.wait()
            torch.set_num_threads(threads)
            for future in futures:
                future.result()
        finally:
            # An interrupted caller does not wait for the remaining blocks.
            stopped.set()
            started.abort()
    if errors:
        raise min(errors, key=lambda error: error[0])[1]
