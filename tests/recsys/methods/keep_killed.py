"""Run train.py with KEEP in several processes, one of which is killed once while it is fitted.

    torchrun --standalone --nproc-per-node 2 --max-restarts 1 \\
        tests/recsys/methods/keep_killed.py MARKER CALL OPTIONS...

The process of rank 1 creates the file MARKER and kills itself at its sum over processes number
CALL, unless the file already exists.
"""

import os
import signal
import sys
from pathlib import Path

from milk_recsys.run.begin import begin


def main() -> int:
    marker, fatal = Path(sys.argv[1]), int(sys.argv[2])
    options, dataset = begin(sys.argv[3:])
    from torch import Tensor

    from milk_recsys import train
    from milk_recsys.base.distributed import World

    original, count = World.sum, 0

    def counted(self: World, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count == fatal and self.rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, x)

    World.sum = counted  # type: ignore[method-assign]
    return train.run_command(options, dataset)


if __name__ == "__main__":
    sys.exit(main())
