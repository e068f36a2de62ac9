"""Measure memory and drawing of each process when training pairs are divided over processes.

python -m benchmarks.processes --model milk --out benchmarks/processes.json
python -m benchmarks.processes --model milk --out FILE --scale 1/50 --folder DIR

Scale 1 has about 50,000,000 pairs of 5,000,000 users, generated as by benchmarks.large. For each
number of processes, torch.distributed.run starts them on this machine (gloo, one thread each).
Every process builds its tables as train.py does with --user-blocks, and draws one epoch: the
permutations of its blocks and their negatives, without training. For comparison, one process does
the same without the option, as each process then would.

A process reports the bytes of the tensors that hold its pairs and users, its anonymous memory, and
its CPU seconds. CPU seconds do not depend on whether the processes share cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.large.generated import prepared_folder
from benchmarks.large.watch import anonymous_gb
from benchmarks.machine import versions
from milk_recsys.base.files import read_json, write_json

WITHOUT = "without --user-blocks"
MEASURES = ("pairs_bytes", "users_bytes", "order_bytes", "tables_gb", "peak_gb", "cpu_s", "triples")
BATCH_SIZE = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each number of processes in turn, print the table and write the JSON file."""
    arguments = parse(argv)
    if arguments.measure is not None:  # This is one of the processes of a case.
        measure(arguments.measure, arguments.user_blocks or None, arguments.out)
        return 0
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = prepared_folder(arguments.folder or Path(temporary), arguments.scale)
        cases[WITHOUT] = measure_case(data, 1, 0)
        for size in arguments.processes:
            cases[str(size)] = measure_case(data, size, arguments.user_blocks)
    print("\n".join(table(cases)))
    # Results of other models remain in the file.
    results = read_json(arguments.out) if arguments.out.exists() else {}
    facts = {"scale": arguments.scale, "user_blocks": arguments.user_blocks, **versions()}
    facts["threads"] = 1  # Of each process, not of this one.
    write_json(arguments.out, {**results, arguments.model: {**facts, "cases": cases}})
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--model", choices=("milk",), default="milk", help="the method")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes"
    )
    parser.add_argument("--user-blocks", type=int, default=64, help="number of blocks of users")
    parser.add_argument("--scale", default="1", help="share of 50,000,000 pairs, such as 1/50")
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of generated data, which is used again; default: a temporary folder",
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure_case(data: Path, size: int, user_blocks: int) -> dict[str, Any]:
    """Measure the given number of new processes; 0 blocks stand for none of them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "case.json"
        words = ["--measure", str(data), "--out", str(out), "--user-blocks", str(user_blocks)]
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m"]
        subprocess.run(
            [sys.executable, "-m", *launcher, "benchmarks.processes", *words],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
        )
        case = dict(read_json(out))
    print(f"{size} processes, {user_blocks} blocks: {json.dumps(case)}", flush=True)
    return case


def measure(data: Path, user_blocks: int | None, out: Path) -> None:
    """Build the tables of this process and draw an epoch; rank 0 writes the results of all."""
    import torch

    from milk_recsys.base.distributed import joined_world
    from milk_recsys.base.random_state import epoch_seed
    from milk_recsys.catalogue.dataset import read_dataset
    from milk_recsys.catalogue.split import draw_split
    from milk_recsys.catalogue.tables import build_tables
    from milk_recsys.config.options import Options
    from milk_recsys.methods.milk.triples import epoch_triples

    torch.set_num_threads(1)
    options = Options.of(
        "milk",
        data=data,
        device="cpu",
        features="mapped",
        eval_users=1000,
        user_blocks=user_blocks,
        batch_size=BATCH_SIZE,
    )
    with joined_world(torch.device("cpu")) as world:
        dataset = read_dataset(data)
        split, _ = draw_split(dataset, options.data)
        before = anonymous_gb()
        tables = build_tables(dataset, split, options, torch.device("cpu"), world)
        held = table_bytes(tables)
        held["tables_gb"] = held["peak_gb"] = anonymous_gb() - before
        begun, count = time.process_time(), 0
        host = torch.Generator().manual_seed(epoch_seed(0, 0))
        for chunk in epoch_triples(tables, BATCH_SIZE, 0, 0, host):
            count += sum(len(triples.users) for triples in chunk)
            held["peak_gb"] = max(held["peak_gb"], anonymous_gb() - before)
        held |= {"cpu_s": time.process_time() - begun, "triples": count}
        row = torch.tensor([[held[name] for name in MEASURES]], dtype=torch.float64)
        rows = world.all_gather(row, [1] * world.size).tolist()
        if world.is_main:
            ranks = [dict(zip(MEASURES, each, strict=True)) for each in rows]
            sizes = {"users": dataset.num_users, "training_pairs": tables.num_pairs}
            write_json(out, {**sizes, "ranks": ranks})


def table_bytes(tables: Any) -> dict[str, Any]:
    """Return the bytes of the tensors that this process holds of the pairs, and in an epoch."""
    all_rows = [tables.rows] if tables.blocks is None else tables.blocks.rows
    return {
        "pairs_bytes": sum(rows.keys.nbytes for rows in all_rows),
        "users_bytes": sum(rows.offsets.nbytes + rows.free.nbytes for rows in all_rows),
        # The permutation of an epoch: int32, as long as a block has fewer than 2^31 pairs.
        "order_bytes": sum(4 * rows.num_pairs for rows in all_rows),
    }


def table(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Tabulate the largest value of any process."""
    lines = [
        "| processes | training pairs | pairs, MB each | users, MB each | order, MB each "
        "| anonymous memory, MB each | drawing, CPU s each |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in cases.items():
        most = {key: max(rank[key] for rank in case["ranks"]) for key in MEASURES}
        label = f"any number, {name}" if name == WITHOUT else name
        lines.append(
            f"| {label} | {case['training_pairs']:,} | {most['pairs_bytes'] / 1e6:.1f} "
            f"| {most['users_bytes'] / 1e6:.1f} | {most['order_bytes'] / 1e6:.1f} "
            f"| {1e3 * most['peak_gb']:.0f} | {most['cpu_s']:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
