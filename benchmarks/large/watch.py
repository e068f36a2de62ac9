"""Times, and peaks of anonymous memory, of the phases of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Memory:
    """Samples the anonymous memory of this process in a thread; keeps the peak of each phase."""

    def __init__(self, every: float = 0.01) -> None:
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._phase, self._begun = "start", time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every,), daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record time and peak memory of the block under a name."""
        self._phase, begun = name, time.perf_counter()
        yield
        self._sample()  # a block that is shorter than the interval of the thread has one sample
        self.seconds[name] = time.perf_counter() - begun

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _watch(self, every: float) -> None:
        while not self._stop.wait(every):
            self._sample()

    def _sample(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), anonymous_gb())


def anonymous_gb() -> float:
    """Return RssAnon of this process in GB (10**9 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise SystemExit("error: /proc/self/status has no RssAnon. This benchmark needs Linux.")
