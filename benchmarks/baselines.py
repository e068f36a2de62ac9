"""Train every baseline once with its default options, and tabulate its NDCG@20 and its time.

Each run is ``train.py --model NAME`` in a process of its own, so the time is that of the command.

python -m benchmarks.baselines --data $INVMOD_DATA/lfm2k --out benchmarks/quality/baselines_lfm2k.md
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from milk_recsys.base.files import read_json, replacing
from milk_recsys.config.method import BUILT_IN

TRAIN = Path(__file__).resolve().parents[1] / "examples/milk_recsys/train.py"

# The other built-in methods are MILK and its ablations, which `benchmarks.quality` compares.
BASELINES = [name for name in BUILT_IN if name not in ("milk", "align", "envs", "erm")]


def main(argv: Sequence[str] | None = None) -> int:
    """Train the baselines one after the other, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads")
    parser.add_argument(
        "--models",
        nargs="+",
        default=BASELINES,
        choices=BASELINES,
        help="baselines to train; default: all",
    )
    parser.add_argument("--out", type=Path, help="file for the table, which is printed in any case")
    arguments = parser.parse_args(argv)
    lines = [
        "| model | test NDCG@20 | epochs | seconds, whole command |",
        "| --- | --- | --- | --- |",
    ]
    torch = ""
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            options = [
                "--model",
                model,
                "--data",
                str(arguments.data),
                "--empty-items",
                "drop",
                "--out",
                str(out),
            ]
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(TRAIN), *options, "--threads", str(arguments.threads)],
                capture_output=True,
                text=True,
            )
            seconds = time.perf_counter() - begun
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return done.returncode
            metrics = read_json(out / "metrics.json")
        torch = metrics["versions"]["torch"]
        ndcg = metrics["test"]["ndcg@20"]
        lines.append(f"| `{model}` | {ndcg:.3f} | {metrics['epochs']} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        f"{arguments.data.name}, FTMT, split 0, default options; {time.strftime('%Y-%m-%d')}, "
        f"{platform.machine()}, {arguments.threads} threads, torch {torch}.",
        "",
    ]
    if arguments.out:
        with replacing(arguments.out) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
