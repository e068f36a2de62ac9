r"""Train the same runs in two checkouts of the project, and compare their metrics.

python -m benchmarks.compare_checkouts OTHER_CHECKOUT --data $INVMOD_DATA/lfm2k \
    --out benchmarks/quality/checkouts.md

Each run is ``train.py`` with the same options in both checkouts, on one thread. The table has the
largest absolute difference of all numbers of metrics.json except times; 0 means that they are equal
bit for bit.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
TIMES = {"seconds", "seconds_per_epoch", "triples_per_second", "versions"}


def main(argv: list[str] | None = None) -> int:
    """Train all runs in both checkouts, and write the table.

    Returns:
        the exit status: 0, or 1 if a run failed or if numbers differ by more than 1e-6.
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
    lines, worst = (
        ["| run | options | NDCG@20 | largest difference |", "| --- | --- | --- | --- |"],
        0.0,
    )
    for name in arguments.runs:
        metrics = [
            measure(checkout, arguments.data, RUNS[name])
            for checkout in (arguments.other.resolve(), HERE)
        ]
        if any(content is None for content in metrics):
            return 1
        before, after = (dict(numbers(content)) for content in metrics)
        # A metric that only one of the checkouts writes cannot be compared.
        largest = max(abs(before[key] - after[key]) for key in before.keys() & after.keys())
        worst = max(worst, largest)
        lines.append(f"| {name} | `{RUNS[name]}` | {after['test.ndcg@20']:.4f} | {largest:.2g} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"{arguments.data.name}, one thread; {time.strftime('%Y-%m-%d')}, {platform.machine()}.",
        "",
    ]
    if arguments.out:
        arguments.out.write_text("\n".join(lines), encoding="utf-8")
    return int(worst > 1e-6)


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
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


if __name__ == "__main__":
    sys.exit(main())
