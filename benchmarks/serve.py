"""Measure the server: seconds of one customer's list among 20,000 new items, with 16 clients.

python -m benchmarks.serve --seconds 60

KEEP is fitted on generated data and saved, and `milk-recsys serve` is started on it in a process
of its own, with one thread for matrix products. Clients (threads of this process, with a connection
each) ask for the lists of one customer at a time, and each asks again when it has its answer. In
the same run, while the server is idle, three other ways are timed on one thread: a plain matrix
product of one customer's vector and all items in float32 with `torch.topk`, and the two kinds of
index that `milk-recsys export --index` writes, with their recall.

The times of requests include waiting for the other clients: with 16 clients and one core, a
request takes about 16 times as long as its work.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.machine import versions
from milk_recsys import Recommender, load_run
from milk_recsys.exporting.index import write_index

USERS, ITEMS, PER_USER = 2000, 1500, 30
DIMS = {"text": 64, "image": 32}
MISSING = 0.25  # Share of the new items without an image.


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the results as a table; return 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of requests, per section")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--items", type=int, default=20_000, help="number of new items")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--known-items", type=int, default=ITEMS)
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    print_table(result)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(row["errors"] for row in result["requests"]))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of a product, and of requests by one client and by all."""
    run, items = make_shop(folder, options.users, options.known_items, options.items)
    users = [f"u{u}" for u in range(options.users)]
    seconds = min(options.seconds, 5.0)
    vectors, queries = stored_vectors(run, items)
    product = times_of(lambda k: torch.topk(queries[k] @ vectors.T, 20), len(queries), seconds)
    indices = [time_index(folder, kind, vectors, queries, seconds) for kind in ("exact", "hnsw")]
    with started(run, items) as (pid, port):
        ask(port, users[:50], 20)  # Until caches and connections are warm.
        rows = []
        for clients, warm in ((1, False), (options.clients, False), (options.clients, True)):
            before = memory(pid)
            times, errors = load(port, users, clients, options.seconds, include_warm=warm)
            rows.append(
                {
                    "clients": clients,
                    "known items": warm,
                    "requests": len(times),
                    "per second": len(times) / options.seconds,
                    **{f"p{q} ms": float(np.percentile(times, q)) * 1e3 for q in (50, 99)},
                    "errors": errors,
                    "memory before MiB": before,
                    "memory after MiB": memory(pid),
                }
            )
    return {
        "versions": versions(),
        "data": {
            "users": options.users,
            "known items": options.known_items,
            "width": vectors.shape[1],
            "new items": options.items,
        },
        "product": product,
        "indices": indices,
        "requests": rows,
    }


def make_shop(folder: Path, users: int, items: int, new: int) -> tuple[Path, Path]:
    """Write a saved recommender and a folder of new items."""
    rng = np.random.default_rng(0)
    taste, kind = rng.standard_normal((users, 8)), rng.standard_normal((items + new, 8))
    noise = rng.gumbel(size=(users, items))
    liked = np.argsort(-(taste @ kind[:items].T + noise), axis=1)[:, :PER_USER]
    pairs = {
        "user": [f"u{u}" for u in range(users) for _ in range(PER_USER)],
        "item": [f"i{i}" for i in liked.ravel()],
    }
    ids, features = [f"i{i}" for i in range(items)], {}
    (folder / "new/features").mkdir(parents=True)
    for name, width in DIMS.items():
        x = kind @ rng.standard_normal((8, width)) + 0.3 * rng.standard_normal((items + new, width))
        features[name] = (ids, x[:items])
        rows = x[items:].astype(np.float32)
        if name == "image":
            rows[rng.random(new) < MISSING] = np.nan
        np.save(folder / f"new/features/{name}.npy", rows)
    lines = ["item\tname", *(f"{k}\tn{k}" for k in range(new))]
    (folder / "new/items.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Recommender("keep", device="cpu").fit(pairs, features).save(folder / "run")
    return folder / "run", folder / "new"


def stored_vectors(run: Path, items: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 vectors of the new items (n, D), and of 500 users (500, D)."""
    scorer = load_run(run, device="cpu")
    rows = {path.stem: np.load(path) for path in sorted((items / "features").glob("*.npy"))}
    users = torch.arange(min(500, scorer.num_users))
    return scorer.embed(rows).float().contiguous(), scorer.user_vectors(users).float()


def time_index(
    folder: Path,
    kind: Literal["exact", "hnsw"],
    vectors: torch.Tensor,
    queries: torch.Tensor,
    seconds: float,
) -> dict[str, Any]:
    """Return the recall of an index, and the times of one query on one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    path = folder / f"{kind}.faiss"
    begun = time.perf_counter()
    facts = write_index(path, vectors.numpy(), queries.numpy(), kind)
    built, index = time.perf_counter() - begun, faiss.read_index(str(path))
    rows = queries.numpy()
    times = times_of(lambda k: index.search(rows[k : k + 1], 20), len(rows), seconds)
    found = {"recall@20": facts.recall_at_20, "efSearch": facts.search_depth, "built s": built}
    return {"index": kind, **found, **times}


def times_of(query: Callable[[int], object], count: int, seconds: float) -> dict[str, float]:
    """Return the times of queries, which are called by their number for `seconds` seconds."""
    times, end, number = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        begun = time.perf_counter()
        query(number % count)
        times.append(time.perf_counter() - begun)
        number += 1
    return {f"p{q} ms": float(np.percentile(times, q)) * 1e3 for q in (50, 99)}


@contextmanager
def started(run: Path, items: Path) -> Iterator[tuple[int, int]]:
    """Start a server; yield its process id and its port."""
    words = ["serve", "--run", str(run), "--items", str(items), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "milk_recsys", *words],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("serving ")), "")
        found = re.search(r":(\d+);", line)
        if found is None:
            raise RuntimeError("the server did not start")
        yield process.pid, int(found[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def load(
    port: int, users: Sequence[str], clients: int, seconds: float, *, include_warm: bool
) -> tuple[list[float], int]:
    """Return the seconds of each request by all clients, and the number of errors."""
    end = time.perf_counter() + seconds
    times: list[list[float]] = [[] for _ in range(clients)]
    errors = [0] * clients

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            user = users[int(rng.integers(len(users)))]
            begun = time.perf_counter()
            try:
                found = request(connection, user, 20, include_warm=include_warm)
                errors[number] += len(found) != 20
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                errors[number] += 1
                connection.close()
            times[number].append(time.perf_counter() - begun)
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [second for own in times for second in own], sum(errors)


def ask(port: int, users: Sequence[str], k: int) -> None:
    """Ask for the list of each user."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for user in users:
        request(connection, user, k, include_warm=True)
    connection.close()


def request(
    connection: http.client.HTTPConnection, user: str, k: int, *, include_warm: bool
) -> list[Any]:
    """Return the list of a user."""
    body = json.dumps({"users": [user], "k": k, "include_warm": include_warm})
    connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    found: list[Any] = json.loads(content)["lists"][0]["items"]
    return found


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def print_table(result: dict[str, Any]) -> None:
    """Print the results in Markdown."""
    print(", ".join(f"{value:,} {name}" for name, value in result["data"].items()))
    product = result["product"]
    print(
        f"plain product and topk: p50 {product['p50 ms']:.2f} ms, p99 {product['p99 ms']:.2f} ms\n"
    )
    for rows in (result["indices"], result["requests"]):
        print(f"| {' | '.join(rows[0])} |\n| {' | '.join(['---'] * len(rows[0]))} |")
        for row in rows:
            cells = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values())
            print(f"| {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    sys.exit(main())
