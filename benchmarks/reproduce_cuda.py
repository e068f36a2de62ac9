"""Run everything that needs a GPU: tests, times, and metrics of KEEP, MILK and large batches.

make reproduce-cuda                            # in .venv/
make reproduce-cuda PYTHON=/path/to/python     # in an existing environment; nothing is installed
make reproduce-cuda CUDA_ARGS="--parts tests times"
python -m benchmarks.reproduce_cuda --device cpu --repeats 1 --epochs 2   # a trial without a GPU

The parts are:

tests    the tests that need a GPU
times    benchmark cases: MILK's epochs, replays, compiled steps, evaluation, and KEEP's fit
runs     KEEP, MILK and its ablations on lfm2k and tiktok
batches  MILK with batches of 2,048, 8,192 and 65,536 and three rules for the learning rate

It writes into runs/cuda: tests.xml, times.json, and for each data set a results file and a table of
`runs` and of `batches`; parts.json has the seconds and the exit status of the parts. Results are
written as soon as they are there. Training runs that are in a results file are not repeated; tests
and times are. A part that fails does not stop the others. The environment variable INVMOD_DATA must
name the folder of the data sets.
"""

import argparse
import importlib.metadata
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
# Part -> the seconds that it is expected to take on an H100. They are estimates: of an earlier
# version, the tests took 100 seconds, the times 60 and the runs 137.
PARTS = {"tests": 200, "times": 150, "runs": 140, "batches": 160}
CASES = (
    "tiktok-training",
    "tiktok-replays",
    "tiktok-evaluation",
    "baby-training",
    "large-batch",
    "64-environments",
    "8-modalities",
    "keep-fit-lfm2k",
    "keep-fit-tiktok",
    # The last ones, because they need a compiler.
    "tiktok-compiled",
    "large-batch-compiled",
)
TUNED_BATCH = 2048  # The batch size with which the studies chose the learning rates.
BATCHES = (8192, 65_536)
# Rule -> the factor of the learning rate for batches that are k times as large.
RULES: dict[str, Callable[[float], float]] = {
    "same": lambda k: 1.0,  # noqa: ARG005
    "sqrt": math.sqrt,
    "linear": lambda k: k,
}
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the chosen parts in turn.

    Returns:
        the exit status: 0, that of the first command that failed, or 2 if the environment lacks
        something.
    """
    arguments = parse()
    problems = problems_of_environment(arguments.device)
    if problems:
        print("error: " + "\n       ".join(problems), file=sys.stderr)
        return 2
    expected = {part: PARTS[part] for part in arguments.parts}
    print(f"expected on an H100: {times_of(expected)}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}
    statuses: dict[str, int] = {}
    for part in arguments.parts:
        begun = time.monotonic()
        statuses[part] = run_part(commands(part, arguments))
        took[part] = time.monotonic() - begun
        facts = {name: {"seconds": took[name], "status": statuses[name]} for name in took}
        write_parts(arguments.out / "parts.json", facts)
    print(f"took: {times_of(took)}; the results are in {arguments.out}")
    failed = {part: status for part, status in statuses.items() if status}
    for part, status in failed.items():
        print(f"error: {part} ended with exit status {status}", file=sys.stderr)
    return next(iter(failed.values()), 0)


def run_part(part: Sequence[Sequence[str]]) -> int:
    """Run all commands of a part; return 0, or the exit status of the first that failed."""
    statuses = []
    for command in part:
        print(f"== {shlex.join(command)}", flush=True)
        statuses.append(subprocess.run([sys.executable, *command]).returncode)
    return next((status for status in statuses if status), 0)


def times_of(seconds: Mapping[str, float]) -> str:
    """List the seconds of parts, and their sum in minutes."""
    each = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    return f"{each}, together {sum(seconds.values()) / 60:.1f} minutes"


def write_parts(path: Path, facts: Mapping[str, Mapping[str, float]]) -> None:
    """Write seconds and statuses of parts; those of parts that another call ran are kept."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**before, **facts}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


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
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"parts to run; default: all. Choices: {', '.join(PARTS)}",
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


def commands(part: str, arguments: argparse.Namespace) -> list[Sequence[str]]:
    """Return the commands of a part as lists of arguments for the Python interpreter."""
    match part:
        case "tests":
            report = f"--junitxml={arguments.out / 'tests.xml'}"
            return [["-m", "pytest", "-q", "-m", "cuda", "--durations=10", report, "tests"]]
        case "times":
            where = ["--device", arguments.device, "--out", str(arguments.out / "times.json")]
            # The first epochs record graphs, so more rounds than usual are measured.
            return [["-m", "benchmarks", *where, "--rounds", "15", "--cases", *CASES]]
        case "runs":
            return [quality(name, name, chosen(name, arguments.epochs), arguments) for name in SETS]
        case _:
            return [
                quality(name, f"batches_{name}", large_batches(name, arguments.epochs), arguments)
                for name in SETS
            ]


def quality(
    name: str, results: str, variants: Mapping[str, str], arguments: argparse.Namespace
) -> list[str]:
    """Return the command that trains variants on a data set and compares them.

    Arguments:
        name: the data set.
        results: name of the results file, without its suffix.
        variants: name of a variant -> its options; the first one is the baseline.
        arguments: the command line.
    """
    return [
        *("-m", "benchmarks.quality", "--data", str(Path(os.environ["INVMOD_DATA"]) / name)),
        *("--out", str(arguments.out / f"{results}.jsonl"), "--repeats", str(arguments.repeats)),
        f"--fixed=--device {arguments.device}",
        *(f"--variant={variant}={words}" for variant, words in variants.items()),
    ]


def large_batches(name: str, epochs: int) -> dict[str, str]:
    """Return the options of MILK with the chosen ones, and with larger batches."""
    tuned = chosen(name, epochs)["milk"]
    words = shlex.split(tuned)
    rate = float(words[words.index("--lr") + 1])
    variants = {f"{TUNED_BATCH}": f"{tuned} --batch-size {TUNED_BATCH}"}
    for size in BATCHES:
        for rule, factor in RULES.items():
            words[words.index("--lr") + 1] = f"{rate * factor(size / TUNED_BATCH):.3g}"
            variants[f"{size} {rule}"] = f"{shlex.join(words)} --batch-size {size}"
    return variants


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
