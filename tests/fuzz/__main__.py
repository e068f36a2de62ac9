"""The command line of the fuzzer; see the package."""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz.outcomes import Outcome, outcome_of
from tests.fuzz.targets import NAMES, Targets, without_reports

ADDRESS_SPACE = 16 << 30  # Bytes that the process may reserve; more raises MemoryError.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run inputs; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0, help="seed of all inputs")
    parser.add_argument("--minutes", type=float, help="time after which no input is begun")
    parser.add_argument("--seconds", type=float, default=30, help="limit of an input")
    parser.add_argument("--mebibytes", type=int, default=1024, help="limit of memory of an input")
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=list(NAMES))
    given = parser.parse_args(arguments)
    counts: Counter[tuple[str, str]] = Counter()
    failures: dict[str, tuple[str, Outcome]] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, without_reports():
        targets = Targets(Path(folder))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        for number in range(given.first, given.first + given.inputs):
            if given.minutes and time.monotonic() - begun > 60 * given.minutes:
                break
            name = given.targets[number % len(given.targets)]
            run = targets.make(name, Random(f"{given.seed}/{name}/{number}"))
            # A loop in compiled code, which no signal interrupts, ends the whole process.
            faulthandler.dump_traceback_later(4 * given.seconds, exit=True, file=sys.__stderr__)
            outcome = outcome_of(run, seconds=given.seconds, mebibytes=given.mebibytes)
            faulthandler.cancel_dump_traceback_later()
            counts[name, str(outcome.status)] += 1
            if counts.total() % 500 == 0:
                seconds = time.monotonic() - begun
                print(f"{counts.total()} inputs in {seconds:.0f} s", file=sys.stderr, flush=True)
            if outcome.failed:
                repeat = f"--seed {given.seed} --first {number} --inputs 1 --targets"
                failures.setdefault(
                    _place(outcome), (f"{repeat} {' '.join(given.targets)}", outcome)
                )
    for (name, status), count in sorted(counts.items()):
        print(f"{name:<8} {status:>9} {count:>6}")
    for repeat, outcome in failures.values():
        print(f"\npython -m tests.fuzz {repeat}: {outcome.status}\n{outcome.details[-3000:]}")
    seconds = time.monotonic() - begun
    print(f"{counts.total()} inputs in {seconds:.0f} s, {len(failures)} kinds of failures")
    return 1 if failures else 0


def _place(outcome: Outcome) -> str:
    """Return the status, the last place in the traceback and the type of the error, as a key."""
    lines = outcome.details.strip().splitlines() or [""]
    places = [line for line in lines if line.startswith("  File ") and "/tests/fuzz/" not in line]
    return f"{outcome.status} {(places or [''])[-1]} {lines[-1].split(':')[0]}"


if __name__ == "__main__":
    sys.exit(main())
