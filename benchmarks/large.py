"""Measure time and memory of training on generated catalogues that are larger than memory.

python -m benchmarks.large --out FILE                       # scales 1/25, 1/5 and 1, in turn
python -m benchmarks.large --out FILE --scale 1/25 --folder DIR
python -m benchmarks.large --out FILE --model keep --threads 2

Scale 1 has 5,000,000 users, 1,000,000 items with 512 float16 features each, and about 50,000,000
interactions, all in files. Each scale is measured in a process of its own, which calls the
functions that train.py calls: it reads and checks the data, builds the tables, trains, writes a
checkpoint and the best weights, reads both back, and validates. KEEP is fitted, written and read
back, and ranks the test items, half of which lose a modality, for some users.

Meanwhile a thread samples the anonymous memory of the process (RssAnon of /proc/self/status). Pages
of mapped files do not count as anonymous memory, since the system may drop them at any time.

Training is timed over a number of steps after a warm-up. Negatives are sampled in chunks for many
steps at once, so the default number of steps is large enough to contain such a chunk. The time per
triple includes the permutation of the epoch, divided by the number of triples.
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
DIMS = {"visual": 384, "text": 128}  # 512 values per item
PAIRS_PER_USER = 10.0
POPULARITY = 0.6  # the probability of an item is proportional to 1 / rank ** POPULARITY
HIDDEN_DIM = 16
MISSING = 0.1  # share of the items that lack `text`
USERS_AT_ONCE, ITEMS_AT_ONCE = 2**18, 2**14
# Entropy in addition to the seed. Otherwise the generator would shuffle the items exactly as the
# split of the same seed does, and popularity would decide which items are cold.
SALT = 20_240
SCALES = ("1/25", "1/5", "1")


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a generated data set, and its seed."""

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
        """Approximate size of all files of the data and of a run.

        A run takes up to five times a table of 64 float32 values per user: the checkpoint holds
        three (vectors and Adam's two moments), the weights hold one, and one is a reserve.
        """
        return (
            self.items * sum(DIMS.values()) * 2
            + self.users * int(PAIRS_PER_USER * 8)
            + 5 * self.users * 64 * 4
        )


# --- the data -------------------------------------------------------------------------------------


def generate(folder: Path, size: Size) -> None:
    """Write a data set in the layout of docs/data.md, some rows at a time.

    dataset.json is written last: a folder that has it is complete.
    """
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
    """Write sorted distinct pairs, and return their number.

    Each user has a Poisson number of items, sampled by popularity.
    """
    # Inverse transform sampling: `edges` is the cumulative distribution of the popularity ranks.
    weights = np.arange(1, size.items + 1) ** -POPULARITY
    edges = np.cumsum(weights / weights.sum())
    # A random id for each rank, so that popularity is independent of the id.
    order = rng.permutation(size.items).astype(np.int32)
    with replacing(path) as temporary, temporary.open("w+b") as file:
        _write_header(file, 0)  # a placeholder, until the number of pairs is known
        count = 0
        for start in range(0, size.users, USERS_AT_ONCE):
            users = np.arange(start, min(start + USERS_AT_ONCE, size.users))
            owners = np.repeat(
                users, np.minimum(rng.poisson(PAIRS_PER_USER, len(users)), size.items // 2)
            )
            # Rounding may leave the last edge below 1, hence the minimum.
            ranks = np.minimum(np.searchsorted(edges, rng.random(len(owners))), size.items - 1)
            # One integer for each pair, user * num_items + item: sorted integers are sorted pairs,
            # and a pair that was sampled twice is next to its copy.
            keys = np.sort(owners * size.items + order[ranks])
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
            file.write(np.stack(np.divmod(keys, size.items), axis=1).astype(np.int32).tobytes())
            count += len(keys)
        file.seek(0)
        _write_header(file, count)
    return count


def _write_header(file: Any, count: int) -> None:
    """Write the header of an npy file.

    Its length does not depend on `count`, since numpy reserves room for the shape to grow. So it
    can be overwritten in place when the number of pairs is known.
    """
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i4", "fortran_order": False, "shape": (count, 2)}
    )


def _write_features(folder: Path, size: Size, rng: np.random.Generator) -> None:
    """Write float16 features: noise plus a linear map of values that all modalities share."""
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
    """Return the folder with the data of a scale; generate the data if the folder lacks them."""
    size = Size.of(scale)
    folder = root / f"users-{size.users}"
    if (folder / "dataset.json").exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < 1.1 * size.bytes:
        raise SystemExit(
            f"error: {root} has {free / 1e9:.1f} GB free, but scale {scale} takes "
            f"{size.bytes / 1e9:.1f} GB. Choose another --folder or a smaller --scale."
        )
    begun = time.perf_counter()
    generate(folder, size)
    print(f"{folder}: generated in {time.perf_counter() - begun:.0f} s", flush=True)
    return folder


# --- one size, in a process of its own ------------------------------------------------------------


class Enough(Exception):
    """Ends training after the requested number of steps."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Times of training by one clock: wall-clock time, or CPU time of the process.

    Other processes on the machine disturb CPU time less than wall-clock time.

    Attributes:
        steps: number of timed steps.
        setup_s: seconds for the permutation of the epoch and for sampling the first negatives.
        step_ms: mean over the timed steps, some of which sample further negatives; milliseconds.
        median_ms: median over the timed steps; milliseconds.
        triple_us: mean time per triple of an epoch; microseconds.
    """

    steps: int
    setup_s: float
    step_ms: float
    median_ms: float
    triple_us: float

    @classmethod
    def of(cls, marks: list[float], warm_up: int, per_epoch: int, batch_size: int) -> "Clock":
        """Compute the times from readings of a clock, before the epoch and after each step."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(marks[warm_up:])]
        step = sum(gaps) / len(gaps)
        # The first interval holds the set-up and one step; its duration is estimated by the median.
        setup = max(0.0, marks[1] - marks[0] - statistics.median(gaps))
        triple = (setup / per_epoch + step) / batch_size
        return cls(len(gaps), setup, 1e3 * step, 1e3 * statistics.median(gaps), 1e6 * triple)


class Memory:
    """Samples the anonymous memory of this process in a thread; keeps the peak of each phase."""

    def __init__(self, every: float = 0.01) -> None:
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._phase, self._begun = "start", time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(every,), daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record time and peak memory of the block under a name."""
        self._phase, begun = name, time.perf_counter()
        yield
        self._sample()  # a block that is shorter than the interval of the thread has one sample
        self.seconds[name] = time.perf_counter() - begun

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _watch(self, every: float) -> None:
        while not self._stop.wait(every):
            self._sample()

    def _sample(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), anonymous_gb())


def anonymous_gb() -> float:
    """Return RssAnon of this process in GB (10**9 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise SystemExit("error: /proc/self/status has no RssAnon. This benchmark needs Linux.")


def measure_keep(data: Path, eval_users: int, threads: int) -> dict[str, Any]:
    """Read, fit KEEP, save, restore and rank the test items; return times and peaks of memory."""
    memory = Memory()
    with memory.phase("imports"):
        import torch

        from milk_recsys.catalogue.dataset import read_dataset
        from milk_recsys.catalogue.split import draw_split
        from milk_recsys.catalogue.tables import build_tables
        from milk_recsys.config.options import Options
        from milk_recsys.methods.keep.model import keep_learner
        from milk_recsys.run.evaluation import evaluate_group

        torch.set_num_threads(threads)
    options = Options.of(
        model="keep", data=data, eval_users=eval_users, setting="ftmt", empty_items="drop",
        device="cpu", compare="none",
    )  # fmt: skip
    with memory.phase("read"):
        dataset = read_dataset(data)
    with memory.phase("fingerprint"):
        fingerprint = dataset.fingerprint
    with memory.phase("split and tables"):
        split, _ = draw_split(dataset, options.data)
        tables = build_tables(dataset, split, options, torch.device("cpu"))
        learner = keep_learner(options, tables)
    busy = time.process_time()
    with memory.phase("fit"):
        learner.prepare()
    fit_cpu_s = time.process_time() - busy
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        weights = Path(folder) / "model.safetensors"
        with memory.phase("save"):
            learner.save(weights, {}, weights_only=True)
        with memory.phase("restore"):
            learner.load(weights, weights_only=True)
    busy = time.process_time()
    with memory.phase("rank"):
        means, _ = evaluate_group(learner, tables, tables.test, tables.mask)
    memory.stop()
    return {
        "model": "keep",
        "fingerprint": fingerprint,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "pairs": len(dataset.interactions),
        "training_pairs": tables.num_pairs,
        "test_items": len(tables.test.candidates),
        "complete_test_items": int(tables.mask[tables.test.candidates].all(dim=1).sum()),
        "chosen": learner.chosen,
        "fit_cpu_s": fit_cpu_s,
        "rank_cpu_s": time.process_time() - busy,
        "peak_gb": max(memory.peaks.values()),
        "peak_gb_by_phase": memory.peaks,
        "seconds_by_phase": memory.seconds,
        "test": {"users": means["users"], "ndcg@20": means["ndcg@20"]},
    }


def measure(
    data: Path, steps: int, warm_up: int, eval_users: int, optimiser: str, threads: int
) -> dict[str, Any]:
    """Read, build, train, save, restore and validate; return times and peaks of memory."""
    memory = Memory()
    # torch is imported here and not above, so that its memory is a phase of its own.
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
        weights = Path(folder) / "model.safetensors"
        checkpoint = Path(folder) / "checkpoint.safetensors"
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


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each scale in turn, print the table and write the JSON file."""
    arguments = parse(argv)
    if arguments.measure is not None:  # this is the process of one scale: see `measure_apart`
        case = (
            measure_keep(arguments.measure, arguments.eval_users, arguments.threads)
            if arguments.model == "keep"
            else measure(
                arguments.measure,
                arguments.steps,
                arguments.warm_up,
                arguments.eval_users,
                arguments.optimiser,
                arguments.threads,
            )
        )
        write_json(arguments.out, case)
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
    print(keep_table(cases) if arguments.model == "keep" else table(cases))
    write_json(arguments.out, {**facts, "cases": cases})
    return 0


def measure_apart(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one scale in a new process, whose memory holds nothing of the scales before."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "case.json"
        options = {
            name: getattr(arguments, name)
            for name in ("model", "steps", "warm_up", "eval_users", "optimiser", "threads")
        }
        words = [
            word
            for name, value in options.items()
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
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument(
        "--scale",
        action="append",
        help="scale such as 1/25; repeat the option for several; default: 1/25, 1/5 and 1",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of generated data, which is used again; default: a temporary folder",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=2048,
        help="number of timed steps; those of one epoch at most",
    )
    parser.add_argument(
        "--warm-up", type=int, default=100, help="number of steps before the timed ones"
    )
    parser.add_argument(
        "--eval-users", type=int, default=1000, help="number of users for validation"
    )
    parser.add_argument("--model", choices=("milk", "keep"), default="milk", help="the method")
    parser.add_argument("--optimiser", default="lazy_adam", help="optimiser of the user table")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.scale = arguments.scale or list(SCALES)
    return arguments


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Tabulate sizes, memory and speed.

    The column "growth" is the CPU time per triple divided by that of the first scale.
    """
    lines = [
        "| scale | users | items | pairs | peak RssAnon, GB | triples / s | CPU us / triple "
        "| growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = next(iter(cases.values()))["processor"]["triple_us"]
    for scale, case in cases.items():
        cpu_us = case["processor"]["triple_us"]
        lines.append(
            f"| {scale} | {case['users']:,} | {case['items']:,} | {case['pairs']:,} | "
            f"{case['peak_gb']:.2f} | {case['triples_per_second']:,.0f} | {cpu_us:.1f} | "
            f"{cpu_us / first:.2f} |"
        )
    return "\n".join([*lines, "", *phases(cases)])


def phases(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each scale with memory and time of its phases."""
    return [
        f"{scale}: "
        + json.dumps(
            {
                name: f"{case['peak_gb_by_phase'].get(name, 0):.2f} GB, {seconds:.1f} s"
                for name, seconds in case["seconds_by_phase"].items()
            }
        )
        for scale, case in cases.items()
    ]


def keep_table(cases: dict[str, dict[str, Any]]) -> str:
    """Tabulate sizes, memory and time of KEEP.

    The column "growth" is the CPU time of fitting and ranking per pair divided by that of the first
    scale.
    """
    lines = [
        "| scale | users | items | pairs | new items | peak RssAnon, GB | fit, s | rank, s "
        "| growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def cost(case: dict[str, Any]) -> float:
        return float((case["fit_cpu_s"] + case["rank_cpu_s"]) / case["pairs"])

    first = cost(next(iter(cases.values())))
    for scale, case in cases.items():
        seconds = case["seconds_by_phase"]
        lines.append(
            f"| {scale} | {case['users']:,} | {case['items']:,} | {case['pairs']:,} | "
            f"{case['test_items']:,} | {case['peak_gb']:.2f} | {seconds['fit']:.0f} | "
            f"{seconds['rank']:.0f} | {cost(case) / first:.2f} |"
        )
    return "\n".join([*lines, "", *phases(cases)])


if __name__ == "__main__":
    sys.exit(main())
