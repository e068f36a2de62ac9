r"""Measure time, memory and bytes sent of KEEP in several processes on one machine.

python -m benchmarks.keep_ranks --data $INVMOD_DATA/lfm2k --out docs/results/keep_ranks
python -m benchmarks.keep_ranks --data DIR --rank 128 --user-blocks 4 --eval-users 1000 \
    --out docs/results/keep_ranks_blocks

Each number of processes is measured with `torchrun`, one thread each, with gloo. Seconds are CPU
seconds of the process that needs most. The bytes are those that the loopback device carried, of all
processes together, headers included. Peaks are of anonymous memory (RssAnon).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.journal import write_table
from benchmarks.large.case import opened
from benchmarks.machine import versions
from milk_recsys.base.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each number of processes, write the figures and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_ranks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--eval-users", type=int, help="rank test items for this number of users")
    parser.add_argument("--rank", type=int, help="number of singular vectors (KEEP's --rank)")
    parser.add_argument("--user-blocks", type=int, help="divide the pairs into this many blocks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:  # This is one of the processes.
        given = {name: getattr(arguments, name) for name in ("rank", "eval_users", "user_blocks")}
        measure(arguments.data, arguments.measure, given)
        return 0
    cases = []
    for size in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            words = sys.argv[1:] if argv is None else list(argv)
            run(size, [*words, "--measure", folder])
            ranks = [read_json(Path(folder) / f"{rank}.json") for rank in range(size)]
        cases.append({"processes": size, "ranks": ranks})
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {"data": arguments.data.name, **versions()}
    write_json(arguments.out / "figures.json", {**facts, "cases": cases})
    write_table(arguments.out / "table.md", table(cases, facts))
    return 0


def run(size: int, words: Sequence[str]) -> None:
    """Run this module in some processes."""
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={size}", "--module", "benchmarks.keep_ranks", *words),
        ],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )


def measure(data: Path, out: Path, given: dict[str, Any]) -> None:
    """Fit KEEP, write it, read it and rank the test items; each process writes its figures."""
    import torch

    from milk_recsys.base.distributed import joined_world
    from milk_recsys.methods.keep.model import keep_learner
    from milk_recsys.run.evaluation import evaluate_group

    given = {name: value for name, value in given.items() if value is not None}
    sent: dict[str, Any] = {}
    with joined_world(torch.device("cpu")) as world:
        case = opened(
            data, 1, world,
            model="keep", setting="ftmt", empty_items="drop", compare="none", **given,
        )  # fmt: skip
        tables, memory = case.tables, case.memory
        learner = keep_learner(case.options, tables, world)

        def ranked() -> None:
            means = evaluate_group(learner, tables, tables.test, tables.mask, world)[0]
            sent["ndcg@20"] = means["ndcg@20"]

        file = out / "model.safetensors"
        for name, work in (
            ("fit", learner.prepare),
            ("save", lambda: learner.save(file, {}, weights_only=True)),
            ("restore", lambda: learner.load(file, weights_only=True)),
            ("rank", ranked),
        ):
            world.barrier()
            before = loopback_bytes()
            begun = time.process_time()
            with memory.phase(name):
                work()
            sent[f"cpu_{name}"] = time.process_time() - begun
            world.barrier()
            sent[f"sent_{name}"] = loopback_bytes() - before
        rows = learner.model.net.state_dict()
        held = {name: x.nbytes for name, x in rows.items() if name.startswith("user")}
        blocks = tables.blocks
        pairs_held = tables.num_pairs if blocks is None else sum(r.num_pairs for r in blocks.rows)
        results = {**case.results(), **sent, "users_held": held, "pairs_held": pairs_held}
        write_json(out / f"{world.rank}.json", results)


def loopback_bytes() -> int:
    """Return the number of bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    raise SystemExit("error: /proc/net/dev has no loopback device. This benchmark needs Linux.")


def table(cases: Sequence[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
    """Return the lines of a table; memory is that of the process with the highest peak."""
    lines = [
        "| processes | fit, CPU s | rank, CPU s | sent while fitting, MB | sent while saving, MB "
        "| sent while ranking, MB | pairs held, each | users held, MB each | peak memory, GB each "
        "| NDCG@20 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in cases:
        first, ranks = case["ranks"][0], case["ranks"]
        held = max(sum(rank["users_held"].values()) for rank in ranks)
        sent = [f"{first[f'sent_{name}'] / 1e6:.1f}" for name in ("fit", "save", "rank")]
        cells = [
            str(case["processes"]),
            *(f"{max(rank[f'cpu_{name}'] for rank in ranks):.1f}" for name in ("fit", "rank")),
            *sent,
            f"{max(rank['pairs_held'] for rank in ranks):,}",
            f"{held / 1e6:.1f}",
            f"{max(rank['peak_gb'] for rank in ranks):.2f}",
            f"{first['ndcg@20']:.4f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"{facts['data']}, {facts['machine']}, torch {facts['torch']}, {facts['date']}."]
    return lines


if __name__ == "__main__":
    sys.exit(main())
