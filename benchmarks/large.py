"""Train on a generated catalogue beyond memory, each size in a process of its own, and say what it took.

python -m benchmarks.large --out FILE                       # 1/25, 1/5 and all of the size below, one after the other
python -m benchmarks.large --out FILE --scale 1/25 --folder DIR

The whole size is 5,000,000 users, 1,000,000 items with 512 float16 features each, in files, and some 50,000,000
interactions. A process reads and checks the data, builds the tables, trains, writes a checkpoint and the best weights,
reads both back and validates, by calling what train.py calls. Its anonymous memory (RssAnon of /proc/self/status) is
looked at all the while; pages of mapped files are not in it, as the system may drop them at any time. Training is timed
over a stretch of steps after a warm-up, long enough to hold one drawing of negatives for the steps ahead; the time per
triple adds the epoch's permutation, spread over all of its triples.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.files import read_json, replacing, write_json

USERS, ITEMS = 5_000_000, 1_000_000
DIMS = {"visual": 384, "text": 128}  # 512 values an item
PAIRS_PER_USER = 10.0
POPULARITY = 0.6  # an item's chance is 1 / rank ** this
HIDDEN_DIM = 16
MISSING = 0.1  # of the items lack `text`
USERS_AT_ONCE, ITEMS_AT_ONCE = 2**18, 2**14
SALT = 20_240  # a seed alone would shuffle the items as the split of the same seed does
SCALES = ("1/25", "1/5", "1")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is generated."""

    users: int
    items: int
    seed: int = 0

    @classmethod
    def of(cls, scale: str) -> "Size":
        """Return the size at a scale such as 1/25."""
        share = Fraction(scale)
        return cls(max(20, int(USERS * share)), max(20, int(ITEMS * share)))

    @property
    def bytes(self) -> int:
        """About how much the files of the data and of a run take: the checkpoint has three user tables, weights one."""
        return (
            self.items * sum(DIMS.values()) * 2
            + self.users * int(PAIRS_PER_USER * 8)
            + 5 * self.users * 64 * 4
        )


# --- the data -------------------------------------------------------------------------------------------------------


def generate(folder: Path, size: Size) -> None:
    """Write a data set in the layout of docs/data.md, some rows at a time; dataset.json comes last."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([size.seed, SALT]).spawn(2)]
    count = _write_pairs(folder / "interactions.npy", size, streams[0])
    _write_features(folder / "features", size, streams[1])
    modalities = {name: {"file": f"features/{name}.npy", "dim": dim} for name, dim in DIMS.items()}
    write_json(
        folder / "dataset.json",
        {
            "name": f"generated, {size.users} users",
            "num_users": size.users,
            "num_items": size.items,
            "num_interactions": count,
            "modalities": modalities,
            "source": f"benchmarks.large, {size}",
        },
    )


def _write_pairs(path: Path, size: Size, rng: np.random.Generator) -> int:
    """Write sorted distinct pairs: a Poisson number of items for each user, drawn by popularity."""
    weights = np.arange(1, size.items + 1) ** -POPULARITY
    edges = np.cumsum(weights / weights.sum())
    order = rng.permutation(size.items).astype(np.int32)  # an id says nothing of the popularity
    with replacing(path) as temporary, temporary.open("w+b") as file:
        _write_header(file, 0)
        count = 0
        for start in range(0, size.users, USERS_AT_ONCE):
            users = np.arange(start, min(start + USERS_AT_ONCE, size.users))
            owners = np.repeat(
                users, np.minimum(rng.poisson(PAIRS_PER_USER, len(users)), size.items // 2)
            )
            ranks = np.minimum(np.searchsorted(edges, rng.random(len(owners))), size.items - 1)
            keys = np.sort(owners * size.items + order[ranks])
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
            file.write(np.stack(np.divmod(keys, size.items), axis=1).astype(np.int32).tobytes())
            count += len(keys)
        file.seek(0)
        _write_header(file, count)
    return count


def _write_header(file: Any, count: int) -> None:
    """Write a npy header of a fixed length: numpy leaves room for the shape to grow."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i4", "fortran_order": False, "shape": (count, 2)}
    )


def _write_features(folder: Path, size: Size, rng: np.random.Generator) -> None:
    """Write float16 features: every modality shows the same hidden values in its own way, with noise."""
    maps = {
        name: rng.standard_normal((HIDDEN_DIM, dim), dtype=np.float32) for name, dim in DIMS.items()
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (size.items, dim))
        for name, dim in DIMS.items()
    }
    for start in range(0, size.items, ITEMS_AT_ONCE):
        rows = slice(start, min(start + ITEMS_AT_ONCE, size.items))
        hidden = rng.standard_normal((rows.stop - start, HIDDEN_DIM), dtype=np.float32)
        missing = rng.random(len(hidden)) < MISSING
        for name, mixing in maps.items():
            x = hidden @ mixing + rng.standard_normal(
                (len(hidden), mixing.shape[1]), dtype=np.float32
            )
            if name == "text":
                x[missing] = np.nan
            files[name][rows] = x
    for file in files.values():
        file.flush()


def prepared_folder(root: Path, scale: str) -> Path:
    """Return the folder with the data of a scale, generated now where it is not there yet."""
    size = Size.of(scale)
    folder = root / f"users-{size.users}"
    if (folder / "dataset.json").exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < 1.1 * size.bytes:
        raise SystemExit(
            f"error: {root} has {free / 1e9:.1f} GB free, but scale {scale} takes {size.bytes / 1e9:.1f}."
        )
    begun = time.perf_counter()
    generate(folder, size)
    print(f"{folder}: generated in {time.perf_counter() - begun:.0f} s", flush=True)
    return folder


# --- one size, in a process of its own ------------------------------------------------------------------------------


class Enough(Exception):
    """The steps that were asked for are made."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """What one clock says of training: of the wall, or of the processor, which other processes disturb less.

    Attributes:
        setup_s: the epoch's permutation, and the first drawing of negatives.
        step_ms: the mean over the timed steps, which hold the later drawings; median_ms: their median.
        triple_us: mean time per triple of an epoch.
    """

    steps: int
    setup_s: float
    step_ms: float
    median_ms: float
    triple_us: float

    @classmethod
    def of(cls, marks: list[float], warm_up: int, per_epoch: int, batch_size: int) -> "Clock":
        """Read a clock that was looked at before the epoch and after each of its steps."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(marks[warm_up:])]
        step = sum(gaps) / len(gaps)
        setup = max(0.0, marks[1] - marks[0] - statistics.median(gaps))
        triple = (setup / per_epoch + step) / batch_size
        return cls(len(gaps), setup, 1e3 * step, 1e3 * statistics.median(gaps), 1e6 * triple)


class Memory:
    """The anonymous memory of this process, looked at by a thread; its peak in each phase."""

    def __init__(self, every: float = 0.01) -> None:
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._phase, self._begun = "start", time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every,), daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Put what follows under a name."""
        self._phase, begun = name, time.perf_counter()
        yield
        self._look()
        self.seconds[name] = time.perf_counter() - begun

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _watch(self, every: float) -> None:
        while not self._stop.wait(every):
            self._look()

    def _look(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), anonymous_gb())


def anonymous_gb() -> float:
    """Return RssAnon of this process in GB (10**9 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise SystemExit("error: /proc/self/status has no RssAnon; this needs Linux.")


def measure(
    data: Path, steps: int, warm_up: int, eval_users: int, optimiser: str, threads: int
) -> dict[str, Any]:
    """Read, build, train, save, restore and validate; return times and peaks of memory."""
    memory = Memory()
    with memory.phase("imports"):
        import torch

        from milk_recsys.catalogue.dataset import read_dataset
        from milk_recsys.catalogue.split import draw_split
        from milk_recsys.catalogue.tables import build_tables
        from milk_recsys.config.options import Options
        from milk_recsys.methods.milk.learner import Learner
        from milk_recsys.methods.milk.model import build_model
        from milk_recsys.run import loop
        from milk_recsys.run.evaluation import evaluate_group

        torch.set_num_threads(threads)
    options = Options.of(
        model="milk",
        data=data,
        features="mapped",
        eval_users=eval_users,
        optimiser=optimiser,
        device="cpu",
    )  # type: ignore[arg-type]
    with memory.phase("read"):
        dataset = read_dataset(data)
    with memory.phase("fingerprint"):
        fingerprint = dataset.fingerprint
    with memory.phase("split and tables"):
        split, _ = draw_split(dataset, options.data)
        tables = build_tables(dataset, split, options, torch.device("cpu"))
    with memory.phase("model"):
        learner = Learner(build_model(options, tables), tables, options)
    marks = [(time.perf_counter(), time.process_time())]

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))
        if len(marks) > warm_up + steps:
            raise Enough

    with memory.phase("train"), suppress(Enough):
        loop.train_epoch(learner, 0, mark)
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        weights, checkpoint = (
            Path(folder) / "model.safetensors",
            Path(folder) / "checkpoint.safetensors",
        )
        with memory.phase("save"):
            learner.save(weights, {}, weights_only=True)
            learner.save(checkpoint, {})
        with memory.phase("restore"):
            learner.load(checkpoint)
            learner.load(weights, weights_only=True)
    with memory.phase("validate"):
        means, _ = evaluate_group(learner, tables, tables.validation, tables.mask)
    memory.stop()
    per_epoch = math.ceil(tables.num_pairs / options.method.batch_size)
    wall, busy = (
        Clock.of(
            [mark[clock] for mark in marks],
            min(warm_up, len(marks) // 4),
            per_epoch,
            options.method.batch_size,
        )
        for clock in range(2)
    )
    return {
        "fingerprint": fingerprint,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "pairs": len(dataset.interactions),
        "training_pairs": tables.num_pairs,
        "optimiser": optimiser,
        "steps_timed": wall.steps,
        "steps_per_epoch": per_epoch,
        "triples_per_second": 1e6 / wall.triple_us,
        "wall": dataclasses.asdict(wall),
        "processor": dataclasses.asdict(busy),
        "peak_gb": max(memory.peaks.values()),
        "peak_gb_by_phase": memory.peaks,
        "seconds_by_phase": memory.seconds,
        "validation": {"users": means["users"], "ndcg@20": means["ndcg@20"]},
    }


# --- the command ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each size in turn, print the table and write the JSON."""
    arguments = parse(argv)
    if arguments.measure is not None:
        found = measure(
            arguments.measure,
            arguments.steps,
            arguments.warm_up,
            arguments.eval_users,
            arguments.optimiser,
            arguments.threads,
        )
        write_json(arguments.out, found)
        return 0
    facts = {
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        cases = {
            scale: measure_apart(prepared_folder(root, scale), arguments)
            for scale in arguments.scale
        }
    print(table(cases))
    write_json(arguments.out, {**facts, "cases": cases})
    return 0


def measure_apart(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one size in a new process: what another one left in memory would be counted too."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        given = {
            name: getattr(arguments, name)
            for name in ("steps", "warm_up", "eval_users", "optimiser", "threads")
        }
        words = [
            word
            for name, value in given.items()
            for word in ("--" + name.replace("_", "-"), str(value))
        ]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.large",
                "--measure",
                str(data),
                "--out",
                str(out),
                *words,
            ],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
            check=True,
        )
        return dict(read_json(out))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON")
    parser.add_argument(
        "--scale", action="append", help="a share of the whole size; may be given again"
    )
    parser.add_argument(
        "--folder", type=Path, help="where data is kept and looked for; default: a temporary folder"
    )
    parser.add_argument(
        "--steps", type=int, default=2048, help="that are timed; at most what an epoch has"
    )
    parser.add_argument("--warm-up", type=int, default=100, help="steps before those")
    parser.add_argument("--eval-users", type=int, default=1000)
    parser.add_argument("--optimiser", default="lazy_adam")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.scale = arguments.scale or list(SCALES)
    return arguments


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Tabulate sizes, memory and speed; growth is the processor's time per triple against that of the first size."""
    lines = [
        "| scale | users | items | pairs | peak RssAnon, GB | triples / s | processor, us / triple | growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = next(iter(cases.values()))["processor"]["triple_us"]
    for scale, case in cases.items():
        used = case["processor"]["triple_us"]
        lines.append(
            f"| {scale} | {case['users']:,} | {case['items']:,} | {case['pairs']:,} | {case['peak_gb']:.2f} | "
            f"{case['triples_per_second']:,.0f} | {used:.1f} | {used / first:.2f} |"
        )
    phases = {
        scale: {
            name: f"{case['peak_gb_by_phase'].get(name, 0):.2f} GB, {seconds:.1f} s"
            for name, seconds in case["seconds_by_phase"].items()
        }
        for scale, case in cases.items()
    }
    return "\n".join(
        [*lines, "", *(f"{scale}: {json.dumps(found)}" for scale, found in phases.items())]
    )


if __name__ == "__main__":
    sys.exit(main())
