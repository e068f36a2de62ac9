"""Run train.py in several processes, one of which is killed once in the middle of an epoch.

    torchrun --standalone --nproc-per-node 2 --max-restarts 1 \\
        tests/recsys/run/world_killed.py MARKER STEP OPTIONS...

The process of rank 1 creates the file MARKER and kills itself at its step number STEP, unless the
file already exists.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from milk_recsys.run.begin import begin


def main() -> int:
    marker, fatal = Path(sys.argv[1]), int(sys.argv[2])
    options, dataset = begin(sys.argv[3:])
    from milk_recsys import train
    from milk_recsys.methods.milk.step import Step

    original, count = Step.__call__, 0

    def step_on(self: Step, *batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == fatal and self.world.rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *batch)

    Step.__call__ = step_on  # type: ignore[method-assign]
    return train.run_command(options, dataset)


if __name__ == "__main__":
    sys.exit(main())
