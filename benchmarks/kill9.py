"""Kill trainings at random times with SIGKILL, resume them, and count equal results.

    python -m benchmarks.kill9 --sequences 10 --seed 0
    python -m benchmarks.kill9 --kinds milk reproduce --sequences 3

Each sequence starts a command, kills it after a random part of the time that an uninterrupted one
takes, and repeats that one to three times. Then it lets the command end, and compares the result
with that of the uninterrupted one: weights bit by bit, losses of all epochs and metrics of runs
(MILK, KEEP, CLCRec, GAR), and the lines of the results file of `reproduce`. Times and dates differ.
A server is killed while it answers requests and takes new items; started again, it must give the
lists of one that was never killed, from the same files.

A process is a fork of this one, which has imported the packages, so that most kills meet the
training and not the import of torch. Status 1 means that a result differed, or a command failed.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.serve import make_shop, request, started
from milk_recsys import reproduce, train  # noqa: F401  (imported here, before processes fork)
from milk_recsys.__main__ import main as command
from milk_recsys.base.checkpoint import load_state
from milk_recsys.base.files import Journal, read_json
from milk_recsys.study import results, runs  # noqa: F401
from milk_recsys.study.store import Store

TIMES = ("seconds", "seconds_per_epoch", "triples_per_second", "date", "score_seconds")
SMALL = ["--batch-size", "256", "--epochs", "10", "--eval-every", "2", "--lr", "0.01"]
FACTORS = ["--factor-epochs", "4"]
KINDS: dict[str, list[str]] = {
    "milk": ["train", "--model", "milk", "--embedding-dim", "8", *SMALL],
    "keep": ["train", "--model", "keep"],
    "clcrec": ["train", "--model", "clcrec", *SMALL],
    "gar": ["train", "--model", "gar", *SMALL, *FACTORS],
    "reproduce": ["reproduce", "table2", "--smoke", "--methods", "erm", "random", "--no-decide"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sequences of each kind, and print a line for each of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill9", description=__doc__)
    parser.add_argument("--sequences", type=int, default=10, help="sequences of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    kinds = [*KINDS, "serve"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        equal = [
            (run_server if kind == "serve" else partial(run_kind, kind))(
                Path(folder) / kind, given.sequences, Random(f"{given.seed}/{kind}")
            )
            for kind in given.kinds
        ]
    return 0 if all(equal) else 1


def run_kind(kind: str, folder: Path, sequences: int, random: Random) -> bool:
    """Run the sequences of a kind, print the counts, and return whether all results were equal."""
    result_of = _study if kind == "reproduce" else _run
    begun = time.monotonic()
    if _status(kind, folder / "whole") != 0:
        print(f"{kind}: the uninterrupted command failed")
        return False
    seconds, whole = time.monotonic() - begun, result_of(folder / "whole")
    kills, equal = 0, 0
    for number in range(sequences):
        out = folder / str(number)
        for _ in range(random.randint(1, 3)):
            kills += _status(kind, out, kill_after=random.uniform(0.02, 1.0) * seconds) is None
        if _status(kind, out) == 0 and same(result_of(out), whole):
            equal += 1
    print(f"{kind:<10} {equal} of {sequences} equal after {kills} kills ({seconds:.1f} s whole)")
    return equal == sequences


def run_server(folder: Path, sequences: int, random: Random) -> bool:
    """Kill a server at random times; return whether each one that follows gives equal lists."""
    folder.mkdir()
    run, items = make_shop(folder, users=60, items=80, new=200)
    with started(run, items) as (_, port):
        whole = _lists(port)
    files, equal = _hashes(folder), 0
    for _ in range(sequences):
        with started(run, items) as (pid, port):
            client = threading.Thread(target=_use, args=(port,))
            client.start()
            time.sleep(random.uniform(0.02, 1.0))
            os.kill(pid, signal.SIGKILL)
            client.join()
        with started(run, items) as (_, port):
            equal += _lists(port) == whole and _hashes(folder) == files
    print(f"{'serve':<10} {equal} of {sequences} equal after {sequences} kills")
    return equal == sequences


def _lists(port: int) -> list[Any]:
    """Return the lists of some users, of new and known items."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    lists = [request(connection, f"u{u}", 10, include_warm=True) for u in range(20)]
    connection.close()
    return lists


def _use(port: int) -> None:
    """Add an item and ask for a list, again and again until the server is gone."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers, number = {"Content-Type": "application/json"}, 0
    try:
        while True:
            item = {"item": f"added {number}", "features": {"text": [0.1] * 64}}
            connection.request("POST", "/items", json.dumps({"items": [item]}), headers)
            connection.getresponse().read()
            request(connection, f"u{number % 60}", 10, include_warm=False)
            number += 1
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _status(kind: str, out: Path, kill_after: float | None = None) -> int | None:
    """Run a command in a process; return its exit status, or None if it was killed."""
    words = [*KINDS[kind], "--out", str(out)]
    if words[0] == "train":
        words += ["--resume", "--device", "cpu", "--compare", "none", "--threads", "1"]
    process = multiprocessing.get_context("fork").Process(target=_child, args=(words,))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _child(words: list[str]) -> None:
    with Path(os.devnull).open("w") as null:
        for stream in (1, 2):
            os.dup2(null.fileno(), stream)
        try:
            status = command(words)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        os._exit(status)


def _run(out: Path) -> Any:
    """Return what must be equal of a run."""
    tensors, facts = load_state(out / "model.safetensors")
    lines = Journal(out / "history.jsonl").read()
    return [tensors, facts, lines, read_json(out / "metrics.json"), (out / "report.html").exists()]


def _study(out: Path) -> Any:
    """Return what must be equal of a study: its runs, in any order."""
    lines = Store(out).lines
    return sorted(lines, key=lambda line: (line["phase"], line["method"], line["number"]))


def same(first: Any, second: Any) -> bool:
    """Return whether two results are equal, except for times and dates."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            name in TIMES or same(value, second[name]) for name, value in first.items()
        )
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and same(first.numpy(), second.numpy())
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second, equal_nan=True))
    return bool(first == second)


if __name__ == "__main__":
    sys.exit(main())
