"""One scale: what both methods measure of a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.large.watch import Memory


@dataclasses.dataclass(frozen=True)
class Opened:
    """A data set that was read, with its split.

    Attributes:
        memory: watches the phases.
        options, dataset, tables: as in `train.py`.
        fingerprint: of the data set.
    """

    memory: Memory
    options: Any
    dataset: Any
    tables: Any
    fingerprint: str

    def results(self) -> dict[str, Any]:
        """Return the sizes, and what was watched; this stops the watch."""
        self.memory.stop()
        return {
            "fingerprint": self.fingerprint,
            "users": self.dataset.num_users,
            "items": self.dataset.num_items,
            "pairs": len(self.dataset.interactions),
            "training_pairs": self.tables.num_pairs,
            "peak_gb": max(self.memory.peaks.values()),
            "peak_gb_by_phase": self.memory.peaks,
            "seconds_by_phase": self.memory.seconds,
        }


def opened(data: Path, threads: int, world: Any = None, **options: Any) -> Opened:
    """Import, read and split; each of these is a phase.

    Arguments:
        data: folder of the data set.
        threads: number of CPU threads.
        world: the processes, which may divide the pairs; None for a single process.
        options: of the run.
    """
    memory = Memory()
    # torch is imported here and not above, so that its memory is a phase of its own.
    with memory.phase("imports"):
        import torch

        from milk_recsys.base.distributed import SINGLE_PROCESS
        from milk_recsys.catalogue.dataset import read_dataset
        from milk_recsys.catalogue.split import draw_split
        from milk_recsys.catalogue.tables import build_tables
        from milk_recsys.config.options import Options

        torch.set_num_threads(threads)
    chosen = Options.of(data=data, device="cpu", **options)
    with memory.phase("read"):
        dataset = read_dataset(data)
    with memory.phase("fingerprint"):
        fingerprint = dataset.fingerprint
    with memory.phase("split and tables"):
        split, _ = draw_split(dataset, chosen.data)
        device = torch.device("cpu")
        tables = build_tables(dataset, split, chosen, device, world or SINGLE_PROCESS)
    return Opened(memory, chosen, dataset, tables, fingerprint)
