"""Run the library's tests over versions of Python and torch, each in an environment of its own.

    make matrix
    make matrix MATRIX_ARGS="--cells 3.11:2.6.0 3.13:2.14.1 --tests 'tests/library -k fusion'"

Each cell PYTHON:TORCH is an environment in .matrix/, made by uv with the newest versions of the
other packages that torch allows, and kept for the next run. The table at the end has a row for each
cell, with the result, or the step that failed, such as an interpreter that is not installed. The
exit status is 1 if tests of any cell fail, or if no cell ran.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The lowest versions that pyproject.toml states, two that have more (docs/parts/export.md), the
# pinned one, and the newest of each.
CELLS = (
    *("3.11:2.6.0", "3.11:2.8.0", "3.11:2.10.0", "3.11:2.13.0"),
    *("3.12:2.14.1", "3.13:2.14.1", "3.14:2.14.1"),
)
SKIPPED = "was not run"


def main(argv: Sequence[str] | None = None) -> int:
    """Run all cells and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="PYTHON:TORCH")
    parser.add_argument("--tests", default="tests/library", help="arguments of pytest, one text")
    parser.add_argument("--extras", default="test", help="extras to install (default: test)")
    parser.add_argument(
        "--envs", type=Path, default=ROOT / ".matrix", help="folder of environments"
    )
    options = parser.parse_args(argv)
    rows = []
    for cell in options.cells:
        python, _, torch = cell.partition(":")
        started = time.monotonic()
        result = run_cell(python, torch, options)
        rows.append((python, torch, result, f"{time.monotonic() - started:.0f} s"))
        print(f"== Python {python}, torch {torch}: {result}", flush=True)
    print("\n| Python | torch | result | time |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    ran = [row for row in rows if SKIPPED not in row[2]]
    return int(not ran or any("failed" in row[2] or "error" in row[2] for row in ran))


def run_cell(python: str, torch: str, options: argparse.Namespace) -> str:
    """Make the environment of a cell, run the tests, and return their last line."""
    env = options.envs / f"{python}-{torch}"
    interpreter = env / "bin" / "python"
    if not interpreter.exists():
        made = uv("venv", "--quiet", "--no-python-downloads", "--python", python, str(env))
        if made.returncode:
            return f"{SKIPPED}: no interpreter ({last_line(made.stderr)})"
    installed = uv(
        *("pip", "install", "--quiet", "--python", str(interpreter)),
        *(f"torch=={torch}", "--editable", f".[{options.extras}]"),
    )
    if installed.returncode:
        return f"{SKIPPED}: packages cannot be installed ({last_line(installed.stderr)})"
    words = [
        str(interpreter),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *shlex.split(options.tests),
    ]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    tests = subprocess.run(words, cwd=ROOT, env=threads, capture_output=True, text=True)
    log = options.envs / f"{env.name}.log"
    log.write_text(tests.stdout + tests.stderr, encoding="utf-8")
    failed = re.findall(r"^(?:FAILED|ERROR) .*", tests.stdout, re.MULTILINE)
    print("\n".join([*failed, f"The whole output is in {log}."]), flush=True)
    return last_line(tests.stdout) or last_line(tests.stderr) or f"exit status {tests.returncode}"


def uv(*words: str) -> subprocess.CompletedProcess[str]:
    """Run uv in the checkout."""
    command = [sys.executable, "-m", "uv", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def last_line(text: str) -> str:
    """Return the last line that is not empty, without the decoration of pytest."""
    lines = [line.strip("= ") for line in text.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[-1])[:200] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
