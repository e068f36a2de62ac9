"""Time the example and the library against plain references and against what the machine could do at best.

make bench                      # every case, with all cores
make bench-quick                # less of each; exits with 1 where a ratio has fallen by half
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

from benchmarks import cases_library, cases_training
from benchmarks.machine import facts, measure_rates
from benchmarks.timing import add_floors, fallen, measure, table
from milk_recsys.base.files import write_json

CASES = {**cases_training.CASES, **cases_library.CASES}
QUICK_ROUNDS = 3


def main(arguments: argparse.Namespace) -> int:
    """Run the cases, print the table, and write the JSON or compare with it."""
    torch.set_num_threads(arguments.threads)
    torch.empty(
        31 * 2**20, dtype=torch.uint8
    )  # once it is freed, malloc keeps blocks up to its size for the next call
    device = torch.device(arguments.device)
    cases_training.OPTIONS = cases_training.OPTIONS.but(device=arguments.device)
    rates, kept = measure_rates(device), _read(arguments.out)
    setting = str(arguments.threads) if device.type == "cpu" else arguments.device
    before = kept.get(setting, {}).get("cases", {})
    found: dict[str, Any] = {}
    for name in arguments.cases or (CASES if device.type == "cpu" else cases_training.CASES):
        if name.startswith("tiktok") and "INVMOD_DATA" not in os.environ:
            print(f"{name}: left out, INVMOD_DATA is not set", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        rounds = QUICK_ROUNDS if arguments.quick else arguments.rounds
        found[name] = measure(CASES[name](arguments.quick), rounds=rounds)
        gc.collect()
        rates = rates.best(
            measure_rates(device)
        )  # a floor is low where the machine was busy while it was measured
    add_floors(found, rates)
    stated = facts(rates, device)
    print(table(found))
    print(
        "\nMedians (least to most) of runs by turns. "
        + "; ".join(f"{name} {_short(x)}" for name, x in stated.items())
    )
    if arguments.quick:
        return _compare(found, before, setting)
    kept[setting] = {**stated, "cases": {**before, **found}}
    write_json(arguments.out, kept)
    return 0


def _compare(found: dict[str, Any], before: dict[str, Any], setting: str) -> int:
    if not before:
        print(
            f"nothing to compare with: no results at {setting} (threads or device)", file=sys.stderr
        )
        return 0
    problems = fallen(found, before)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parse(given: list[str]) -> argparse.Namespace:
    """Read the command line."""
    text, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=text,
        epilog=examples,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, metavar="NAME", help=f"some of: {', '.join(CASES)}"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="of training and evaluation"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument(
        "--rounds", type=int, default=7, help="timed runs of each side after a warm-up, at most"
    )
    parser.add_argument(
        "--quick", action="store_true", help="less of each, compared with the JSON, which is kept"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("results.json"), help="the JSON"
    )
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
