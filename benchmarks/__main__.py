"""Time the recommender and the library against plain references and a lower bound on the time.

make bench                      # all cases, on all cores
make bench-quick                # a short form of each case; exits with 1 if a ratio has halved
python -m benchmarks --threads 1 --cases tiktok-training alignment-8
"""

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases_gpu, cases_library, cases_training
from benchmarks.machine import Rates, facts, measure_rates
from benchmarks.timing import add_floors, fallen, measure, table
from milk_recsys.base.files import write_json

CASES = {**cases_training.CASES, **cases_library.CASES, **cases_gpu.CASES}
QUICK_ROUNDS = 3


def main(arguments: argparse.Namespace) -> int:
    """Run the cases, print the table, and write the results to the JSON file.

    With --quick the results are compared with those of the JSON file, which stays as it is.
    """
    torch.set_num_threads(arguments.threads)
    # glibc raises its mmap threshold to the size of the largest block that was freed. After this
    # allocation, blocks of up to 31 MiB are reused instead of requested from the system each time.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    device = torch.device(arguments.device)
    cases_training.OPTIONS = cases_training.OPTIONS.replace(device=arguments.device)
    rates, kept = measure_rates(device), _read(arguments.out)
    setting = str(arguments.threads) if device.type == "cpu" else arguments.device
    before = kept.get(setting, {}).get("cases", {})
    results: dict[str, Any] = {}
    for name in arguments.cases or _default_cases(device):
        if reason := _obstacle(name, device):
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        rounds = QUICK_ROUNDS if arguments.quick else arguments.rounds
        results[name] = measure(CASES[name](arguments.quick), rounds=rounds)
        gc.collect()
        # Another process that was busy during a measurement makes the rates too low. The highest
        # rates of all measurements are the closest to those of the machine.
        rates = rates.best(measure_rates(device))
        if not arguments.quick:  # A command that is stopped keeps the cases that it measured.
            _write(arguments.out, kept, setting, results, rates, device)
    add_floors(results, rates)
    conditions = facts(rates, device)
    print(table(results))
    print(
        "\nMedians (minimum to maximum); ours and the reference run alternately. "
        + "; ".join(f"{name} {_short(x)}" for name, x in conditions.items())
    )
    if arguments.quick:
        return _compare(results, before, setting)
    return 0


def _default_cases(device: torch.device) -> list[str]:
    """Return the cases of a device: on a CPU all of `make bench`, on a GPU those of training."""
    if device.type == "cpu":
        return [name for name in CASES if name not in cases_gpu.CASES]
    return [name for name in CASES if name not in cases_library.CASES]


def _obstacle(name: str, device: torch.device) -> str | None:
    """Return why a case cannot run here, or None."""
    if name.startswith(("tiktok", "keep")) and "INVMOD_DATA" not in os.environ:
        return "INVMOD_DATA is not set"
    if name in cases_gpu.GPU_ONLY and device.type == "cpu":
        return "it needs --device cuda"
    return None


def _write(
    path: Path,
    kept: dict[str, Any],
    setting: str,
    results: dict[str, Any],
    rates: Rates,
    device: torch.device,
) -> None:
    """Write the results so far, with those of other settings and of cases that were not run."""
    add_floors(results, rates)
    before = kept.get(setting, {}).get("cases", {})
    kept[setting] = {**facts(rates, device), "cases": {**before, **results}}
    write_json(path, kept)


def _compare(results: dict[str, Any], before: dict[str, Any], setting: str) -> int:
    """Print the cases whose ratio has halved; return the exit status."""
    if not before:
        print(
            f"nothing to compare with: no results at {setting} (threads or device)", file=sys.stderr
        )
        return 0
    problems = fallen(results, before)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    text, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=text,
        epilog=examples,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        metavar="NAME",
        help=f"cases to run; default: all of the device. Choices: {', '.join(CASES)}",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="device for all cases"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="number of CPU threads; default: all cores",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="maximum number of timed runs of each side after a warm-up",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run a short form of each case and compare with --out, without changing that file",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("results.json"),
        help="JSON file of the results",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
