"""Everything that needs a GPU, in one command: tests, times, and what KEEP, MILK and its ablations are worth.

make reproduce-cuda                            # in .venv/
make reproduce-cuda PYTHON=/path/to/python     # in an environment that is there, as it is; nothing is installed
python -m benchmarks.reproduce_cuda --device cpu --repeats 1 --epochs 2   # what it does, without a GPU

Writes into runs/cuda: times.json, and a store and a table for each data set. What is there already is not done again,
but for the tests and the times. Needs INVMOD_DATA, the folder of the data sets.
"""

import argparse
import importlib.metadata
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NEEDED = {
    "test": ("pytest", "hypothesis", "ir_measures"),
    "examples": (
        "tyro",
        "rich",
        "safetensors",
        "optuna",
        "matplotlib",
        "polars",
        "pyarrow",
        "jinja2",
        "scipy",
    ),
    "invmod itself": ("torch", "numpy", "einops", "typing_extensions"),
}
BOUNDS = {
    "torch": (2, 6),
    "numpy": (2, 0),
    "einops": (0, 8),
    "scipy": (1, 15),
    "optuna": (4, 3),
    "polars": (1, 30),
}
SETS = ("lfm2k", "tiktok")
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run all parts; the exit status is that of the first one that failed, or 2 where something is absent."""
    arguments = parse()
    problems = problems_of_environment(arguments.device)
    if problems:
        print("error: " + "\n       ".join(problems), file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for command in commands(arguments):
        print(f"== {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command]).returncode
        if status:
            return status
    print(
        f"done in {(time.monotonic() - begun) / 60:.1f} minutes; the results are in {arguments.out}"
    )
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce_cuda", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: to see that the command works",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=300, help="most epochs of a run, as in the studies"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cuda"))
    return parser.parse_args()


def problems_of_environment(device: str) -> list[str]:
    """Say what this environment lacks."""
    found = []
    for extra, names in NEEDED.items():
        absent = [name for name in names if _version(name) is None]
        if absent:
            how = "pip install ." if extra == "invmod itself" else f"pip install '.[{extra}]'"
            found.append(f"{', '.join(absent)}: not installed here. They are of {extra}: {how}")
    for name, least in BOUNDS.items():
        version = _version(name)
        if version is not None and version < least:
            found.append(
                f"{name} is {'.'.join(map(str, version))}; at least {'.'.join(map(str, least))} is needed."
            )
    if not os.environ.get("INVMOD_DATA"):
        found.append(
            "INVMOD_DATA is not set: it names the folder of the data sets lfm2k and tiktok."
        )
    if device == "cuda" and not found:
        import torch

        if not torch.cuda.is_available():
            found.append("torch can use no GPU here: torch.cuda.is_available() is False.")
    return found


def _version(name: str) -> tuple[int, int] | None:
    try:
        major, minor, *_ = importlib.metadata.version(name.replace("_", "-")).split(".")
    except importlib.metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def commands(arguments: argparse.Namespace) -> list[Sequence[str]]:
    """Return the parts, as arguments of Python."""
    times = [
        "--device",
        arguments.device,
        "--out",
        str(arguments.out / "times.json"),
        "--cases",
        "tiktok-training",
    ]
    times += [
        "tiktok-evaluation",
        "baby-training",
        "large-batch",
        "64-environments",
        "8-modalities",
    ]
    parts: list[Sequence[str]] = [
        ["-m", "pytest", "-q", "-m", "cuda", "tests"],
        ["-m", "benchmarks", *times],
    ]
    for name in SETS:
        given = [
            f"--variant={model}={words}" for model, words in chosen(name, arguments.epochs).items()
        ]
        data = Path(os.environ["INVMOD_DATA"]) / name
        fixed = f"--fixed=--device {arguments.device}"
        store = arguments.out / f"{name}.jsonl"
        parts.append(
            [
                *("-m", "benchmarks.quality", "--data", str(data), "--out", str(store)),
                *("--repeats", str(arguments.repeats), fixed, *given),
            ]
        )
    return parts


def chosen(name: str, epochs: int) -> dict[str, str]:
    """Return the options of MILK, its ablations and KEEP that the studies of docs/results chose on validation."""
    from milk_recsys.config.method import find_method
    from milk_recsys.config.options import flag
    from milk_recsys.study.plan import best_trial
    from milk_recsys.study.spaces import ABLATIONS, WINNER
    from milk_recsys.study.store import Store

    store = Store(ROOT / "docs/results" / name)
    found = {}
    for model in (*ABLATIONS, WINNER):
        tuned = best_trial(store.of("trial", model))["tuned"]
        words = [f"{flag(option)} {value:.3g}" for option, value in tuned.items()]
        if find_method(model).trains:
            words.append(f"--epochs {epochs}")
        found[model] = " ".join([f"--model {model}", *words])
    return found


if __name__ == "__main__":
    sys.exit(main())
