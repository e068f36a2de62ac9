r"""Train the same runs in two checkouts of the project, and compare their metrics.

python -m benchmarks.compare_checkouts OTHER_CHECKOUT --data $INVMOD_DATA/lfm2k \
    --out benchmarks/quality/checkouts.md

Each run is ``train.py`` with the same options in both checkouts, on one thread. The table has the
largest absolute difference of all numbers of metrics.json except times; 0 means that they are equal
bit for bit. A number that only one of the checkouts writes, and one that is NaN in only one of
them, count as a difference, and their names are printed.
"""

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
RUNS = {
    "milk, compiled loops": "--model milk --epochs 8 --eval-every 4",
    "milk, torch": "--model milk --epochs 3 --eval-every 2 --kernels torch",
    "milk, Adam": "--model milk --epochs 3 --eval-every 2 --optimiser adam",
    "align": "--model align --epochs 4 --eval-every 2",
    "envs": "--model envs --epochs 4 --eval-every 2",
    "erm": "--model erm --epochs 4 --eval-every 2",
    "keep": "--model keep",
    "knn": "--model knn",
    "ridge": "--model ridge",
    "duif": "--model duif --epochs 4 --eval-every 2",
    "clcrec": "--model clcrec --epochs 2",
    "gar": "--model gar --epochs 2 --factor-epochs 5",
    "sibrar": "--model sibrar --epochs 2",
}
TOLERANCE = 1e-6
TIMES = {"seconds", "seconds_per_epoch", "triples_per_second", "versions"}


def main(argv: list[str] | None = None) -> int:
    """Train all runs in both checkouts, and write the table.

    Returns:
        the exit status: 0, or 1 if a run failed, if numbers differ by more than `TOLERANCE`, or if
        only one checkout has a number.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_checkouts", description=__doc__
    )
    parser.add_argument("other", type=Path, help="folder of the other checkout of the project")
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument(
        "--runs",
        nargs="+",
        default=list(RUNS),
        choices=list(RUNS),
        help="names of the runs; default: all",
    )
    parser.add_argument("--out", type=Path, help="file for the table, which is printed in any case")
    arguments = parser.parse_args(argv)
    lines = ["| run | options | NDCG@20 | largest difference |", "| --- | --- | --- | --- |"]
    differ = False
    for name in arguments.runs:
        metrics = [
            measure(checkout, arguments.data, RUNS[name])
            for checkout in (arguments.other.resolve(), HERE)
        ]
        if any(content is None for content in metrics):
            return 1
        before, after = (dict(numbers(content)) for content in metrics)
        largest, unpaired = compare(before, after)
        # The negated comparison is also true for NaN.
        differ |= not largest <= TOLERANCE or bool(unpaired)
        if unpaired:
            print(f"{name}: in one checkout only: {', '.join(unpaired)}", file=sys.stderr)
        lines.append(f"| {name} | `{RUNS[name]}` | {after['test.ndcg@20']:.4f} | {largest:.2g} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"{arguments.data.name}, one thread; {time.strftime('%Y-%m-%d')}, {platform.machine()}.",
        "",
    ]
    if arguments.out:
        arguments.out.write_text("\n".join(lines), encoding="utf-8")
    return int(differ)


def compare(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, list[str]]:
    """Compare two sets of numbers by their names.

    Returns:
        the largest absolute difference, and the names of the numbers that only one of the two has,
        or that are NaN in only one of them. A number that is NaN in both does not differ. Without a
        common number the difference is NaN.
    """
    unpaired = sorted(before.keys() ^ after.keys())
    differences = []
    for key in sorted(before.keys() & after.keys()):
        a, b = before[key], after[key]
        if math.isnan(a) != math.isnan(b):
            unpaired.append(key)
        else:
            # Equal infinities and two NaN have no finite difference, but they do not differ.
            same = a == b or math.isnan(a)
            differences.append(0.0 if same else abs(a - b))
    return max(differences, default=math.nan), unpaired


def measure(checkout: Path, data: Path, options: str) -> Any:
    """Train in a checkout; return the content of metrics.json.

    If training fails, print its error output and return None.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            str(checkout / "examples/milk_recsys/train.py"),
            *shlex.split(options),
        ]
        command += [
            "--data",
            str(data),
            "--empty-items",
            "drop",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--out",
            str(out),
        ]
        # PYTHONPATH comes before site-packages: an installed `invmod` must not replace that of the
        # checkout.
        paths = os.pathsep.join([str(checkout), str(checkout / "examples")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, cwd=checkout, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{checkout}: {options}: {done.stderr}", file=sys.stderr)
            return None
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a JSON value with their dotted paths, except times."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in TIMES:
                yield from numbers(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        yield from numbers({str(place): part for place, part in enumerate(value)}, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


if __name__ == "__main__":
    sys.exit(main())
