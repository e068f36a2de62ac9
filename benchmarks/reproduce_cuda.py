"""Run everything that needs a GPU: tests, times, and the metrics of KEEP, MILK and its ablations.

make reproduce-cuda                            # in .venv/
make reproduce-cuda PYTHON=/path/to/python     # in an existing environment; nothing is installed
python -m benchmarks.reproduce_cuda --device cpu --repeats 1 --epochs 2   # a trial without a GPU

It writes into runs/cuda: times.json, and a results file and a table for each data set. Training
runs that are in a results file are not repeated; tests and times are. The environment variable
INVMOD_DATA must name the folder of the data sets.
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

# Extra of pyproject.toml -> the packages of it that the commands import.
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
# Package -> lowest (major, minor) version.
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
    """Run all parts in turn, up to the first one that fails.

    Returns:
        the exit status: 0, that of the part that failed, or 2 if the environment lacks something.
    """
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
        help="device; use cpu only to check that the command works",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of splits on which each model is trained"
    )
    parser.add_argument(
        "--epochs", type=int, default=300, help="maximum number of epochs, as in the studies"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cuda"), help="folder of the results")
    return parser.parse_args()


def problems_of_environment(device: str) -> list[str]:
    """List what this environment lacks: packages, versions, data or a GPU."""
    problems = []
    for extra, names in NEEDED.items():
        absent = [name for name in names if _version(name) is None]
        if absent:
            how = "pip install ." if extra == "invmod itself" else f"pip install '.[{extra}]'"
            problems.append(f"not installed: {', '.join(absent)}. Install with: {how}")
    for name, minimum in BOUNDS.items():
        version = _version(name)
        if version is not None and version < minimum:
            problems.append(
                f"{name} must be at least {'.'.join(map(str, minimum))}, "
                f"got {'.'.join(map(str, version))}."
            )
    if not os.environ.get("INVMOD_DATA"):
        problems.append(
            "INVMOD_DATA is not set. Set it to the folder of the data sets lfm2k and tiktok."
        )
    # torch may be absent or too old, so it is imported only after the checks of packages.
    if device == "cuda" and not problems:
        import torch

        if not torch.cuda.is_available():
            problems.append("torch finds no GPU: torch.cuda.is_available() is False.")
    return problems


def _version(name: str) -> tuple[int, int] | None:
    try:
        major, minor, *_ = importlib.metadata.version(name.replace("_", "-")).split(".")
    except importlib.metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def commands(arguments: argparse.Namespace) -> list[Sequence[str]]:
    """Return the parts as lists of arguments for the Python interpreter."""
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
        variants = [
            f"--variant={model}={words}" for model, words in chosen(name, arguments.epochs).items()
        ]
        data = Path(os.environ["INVMOD_DATA"]) / name
        fixed = f"--fixed=--device {arguments.device}"
        results = arguments.out / f"{name}.jsonl"
        parts.append(
            [
                *("-m", "benchmarks.quality", "--data", str(data), "--out", str(results)),
                *("--repeats", str(arguments.repeats), fixed, *variants),
            ]
        )
    return parts


def chosen(name: str, epochs: int) -> dict[str, str]:
    """Return the options of MILK, its ablations and KEEP that the studies chose on validation data.

    The studies are those of docs/results. Keys are names of models, values are command lines. KEEP
    has none: it chooses its options itself, on the training items.
    """
    from milk_recsys.config.method import find_method
    from milk_recsys.config.options import flag
    from milk_recsys.study.plan import best_trial
    from milk_recsys.study.spaces import ABLATIONS, WINNER, space_of
    from milk_recsys.study.store import Store

    store = Store(ROOT / "docs/results" / name)
    options = {}
    for model in (*ABLATIONS, WINNER):
        tuned = best_trial(store.of("trial", model))["tuned"] if space_of(model) else {}
        # Three significant digits, as in the table of the study that lists these options.
        words = [f"{flag(option)} {value:.3g}" for option, value in tuned.items()]
        if find_method(model).trains:
            words.append(f"--epochs {epochs}")
        options[model] = " ".join([f"--model {model}", *words])
    return options


if __name__ == "__main__":
    sys.exit(main())
