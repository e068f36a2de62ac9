"""The same inputs, chosen by atheris, which prefers those that reach new lines of the recommender.

    pip install atheris
    python -m tests.fuzz.guided prepare -max_total_time=600 corpus/

The first word is a target; the others are options of libFuzzer and folders of its corpus. The first
failure ends the process and is written to a file. atheris is no dependency of the project.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any


class BytesRandom(Random):
    """A generator whose draws are given bytes, and 0 after them."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0
        super().__init__(0)

    def seed(self, *_: Any, **__: Any) -> None:
        """Do nothing: the bytes are all that there is."""

    def getrandbits(self, count: int) -> int:
        """Return the next bytes as a number of `count` bits."""
        size = -(-count // 8)
        taken = self._content[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken.ljust(size, b"\0"), "little") & ((1 << count) - 1)

    def random(self) -> float:
        """Return a number from 0 to 1."""
        return self.getrandbits(16) / (1 << 16)


def main(arguments: list[str]) -> None:
    """Fuzz a target until a failure or the end of the time."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["milk_recsys"]):
        from tests.fuzz.outcomes import outcome_of
        from tests.fuzz.targets import Targets, without_reports

    name, *options = arguments
    with tempfile.TemporaryDirectory() as folder, without_reports():
        targets = Targets(Path(folder))

        def run(content: bytes) -> None:
            outcome = outcome_of(targets.make(name, BytesRandom(content)), seconds=60)
            if outcome.failed:
                print(outcome.details, file=sys.stderr, flush=True)
                raise AssertionError(outcome.status)

        atheris.Setup([sys.argv[0], *options], run)
        atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
