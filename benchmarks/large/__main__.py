"""Measure time and memory of training on generated catalogues that are larger than memory.

python -m benchmarks.large --out FILE                       # scales 1/25, 1/5 and 1, in turn
python -m benchmarks.large --out FILE --scale 1/25 --folder DIR
python -m benchmarks.large --out FILE --model keep --threads 2 --table TABLE.md
python -m benchmarks.large --out FILE --model keep --rank 167 --scale 1/25 --scale 1/5

Scale 1 has 5,000,000 users, 1,000,000 items with 512 float16 features each, and about 50,000,000
interactions, all in files. Each scale is measured in a process of its own, which calls the
functions that train.py calls: it reads and checks the data, builds the tables, trains, writes a
checkpoint and the best weights, reads both back, and validates. KEEP is fitted, written and read
back, and ranks the test items, half of which lose a modality, for some users.

Meanwhile a thread samples the anonymous memory of the process (RssAnon of /proc/self/status). Pages
of mapped files do not count as anonymous memory, since the system may drop them at any time.

Training is timed over a number of steps after a warm-up. Negatives are sampled in chunks for many
steps at once, so the default number of steps is large enough to contain such a chunk. The time per
triple includes the permutation of the epoch, divided by the number of triples.

A scale that FILE has already is not measured again, so a command that was killed resumes. FILE must
have the same options.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.journal import write_table
from benchmarks.large import keep, milk
from benchmarks.large.generated import prepared_folder
from milk_recsys.base.files import read_json, write_json

SCALES = ("1/25", "1/5", "1")
METHODS = {"milk": milk, "keep": keep}
OPTIONS = ("model", "steps", "warm_up", "eval_users", "rank", "optimiser", "threads")
"""Options that decide about the figures of a scale."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each scale in turn, print the table and write the JSON file."""
    arguments = parse(argv)
    if arguments.measure is not None:  # this is the process of one scale: see `measure_apart`
        case = (
            keep.measure(arguments.measure, arguments.eval_users, arguments.threads, arguments.rank)
            if arguments.model == "keep"
            else milk.measure(
                arguments.measure,
                arguments.steps,
                arguments.warm_up,
                arguments.eval_users,
                arguments.optimiser,
                arguments.threads,
            )
        )
        write_json(arguments.out, case)
        return 0
    options = {name: getattr(arguments, name) for name in OPTIONS}
    cases = read_cases(arguments.out, options)
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        for scale in arguments.scale:
            if scale not in cases:
                case = measure_apart(prepared_folder(root, scale), options)
                cases[scale] = {**facts(), **case}
                write_json(arguments.out, {"options": options, "cases": cases})
    cases = {scale: cases[scale] for scale in arguments.scale}
    rows = METHODS[arguments.model].table(cases)
    print("\n".join(["", *phases(cases), ""]))
    if arguments.table is None:
        print("\n".join(rows))
    else:
        # Scales of a command that was resumed may have different dates.
        seen = dict.fromkeys((case["machine"], case["date"]) for case in cases.values())
        measured = "; ".join(f"{m}, {arguments.threads} threads, {date}" for m, date in seen)
        write_table(arguments.table, [*rows, "", f"{measured}."])
    return 0


def facts() -> dict[str, Any]:
    """Return the machine and the date."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def read_cases(path: Path, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the cases of a results file by their scale; none if there is no file.

    Raises:
        SystemExit: the file has cases of other options.
    """
    if not path.exists():
        return {}
    given = read_json(path)
    if given.get("options") != options:
        raise SystemExit(
            f"error: {path} has cases of other options, {given.get('options')} instead of "
            f"{options}. Give another --out."
        )
    return dict(given["cases"])


def measure_apart(data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Measure one scale in a new process, whose memory holds nothing of the scales before."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "case.json"
        words = [
            word
            for name, value in options.items()
            if value is not None
            for word in ("--" + name.replace("_", "-"), str(value))
        ]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.large",
                "--measure",
                str(data),
                "--out",
                str(out),
                *words,
            ],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "OMP_NUM_THREADS": str(options["threads"])},
            check=True,
        )
        return dict(read_json(out))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument(
        "--scale",
        action="append",
        help="scale such as 1/25; repeat the option for several; default: 1/25, 1/5 and 1",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of generated data, which is used again; default: a temporary folder",
    )
    parser.add_argument("--table", type=Path, help="Markdown file of the table")
    parser.add_argument(
        "--steps",
        type=int,
        default=2048,
        help="number of timed steps; those of one epoch at most",
    )
    parser.add_argument(
        "--warm-up", type=int, default=100, help="number of steps before the timed ones"
    )
    parser.add_argument(
        "--eval-users", type=int, default=1000, help="number of users for validation"
    )
    parser.add_argument("--model", choices=tuple(METHODS), default="milk", help="the method")
    parser.add_argument(
        "--rank", type=int, help="number of KEEP's singular vectors; default: as many as it takes"
    )
    parser.add_argument("--optimiser", default="lazy_adam", help="optimiser of the user table")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.scale = arguments.scale or list(SCALES)
    return arguments


def phases(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each scale with memory and time of its phases."""
    return [
        f"{scale}: "
        + json.dumps(
            {
                name: f"{case['peak_gb_by_phase'].get(name, 0):.2f} GB, {seconds:.1f} s"
                for name, seconds in case["seconds_by_phase"].items()
            }
        )
        for scale, case in cases.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
