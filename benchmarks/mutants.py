"""Measure how many small faults in `invmod/` the tests of the library notice.

    python -m benchmarks.mutants [--sample 200] [--seed 0] [--workers 2]

A mutant is the library with one small change, such as `<` for `<=`, `-` for `+` or 2 for 1. It is
killed if a test fails. The command draws places in the code at random, and one mutant of each
place, so that a place with many possible changes counts once. Each worker has a copy of the
checkout. It first runs the tests of the mutated module's room, and if all of them pass, the quick
tests of the whole library. Tests of export, of compilation and of frameworks are not among them.

Results are appended to a journal, and a stopped command resumes. Survivors were read by a person,
and the file of judgements has the reason why each one is acceptable. A survivor that computes the
same results as the original is called equivalent. The score is the share of killed mutants among
those that are not equivalent. Changes of type annotations and of `@override` have no effect when
the code runs, and are not drawn.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[1]
JOURNAL = ROOT / "benchmarks/quality/mutants.jsonl"
JUDGED = ROOT / "benchmarks/quality/mutants_judged.json"
TABLE = ROOT / "benchmarks/quality/mutants.md"
# Test files of rooms that are not called test_<room>*.py. Other shared modules have no tests of
# their own, so all quick tests of the library run at once.
LAWS = ("test_losses_*.py",)
TESTS = {
    "alignment": ("test_alignment*.py", *LAWS),
    "penalties": ("test_penalties*.py", *LAWS),
    "objectives": ("test_objectives*.py", *LAWS),
    "missingness": ("test_missingness*.py", "test_collate.py"),
    "cli": ("test_cli.py", "test_missingness_summary.py"),
    "_files": ("test_files.py",),
    "_text": ("test_encoders_state.py",),
    "_distributions": ("test_robustness_intervals.py",),
    "_tables": ("test_robustness_table.py",),
    "_deprecation": ("test_deprecation.py",),
}
# Tests that take long and that a mutant of another room rarely fails.
SPECIAL = ("test_cuda.py", "*integrations*", "*export*", "test_compile.py", "test_public_names.py")
QUICK = ["-m", "not slow", *(f"--ignore-glob=*/{name}" for name in SPECIAL)]
SLOWEST = 300  # seconds after which a mutant's tests are stopped; it counts as killed


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        id: hash of the path and of the mutated source.
        path: of the file, relative to the checkout.
        line: number of the changed line.
        change: the changed lines, as in a diff without context.
    """

    id: str
    path: str
    line: int
    change: str


def main(argv: Sequence[str] | None = None) -> int:
    """Draw mutants, test those that the journal lacks, and write the table.

    Returns:
        the exit status: 0 if the score is at least the one asked for, else 1.
    """
    options = parse(argv)
    drawn = draw(options.paths, options.sample, options.seed)
    results = read_journal(options.journal)
    judged = json.loads(options.judged.read_text(encoding="utf-8"))
    if options.retry:
        results = {
            key: entry
            for key, entry in results.items()
            if entry["outcome"] == "killed" or key in judged
        }
    pending = [mutant for mutant in drawn if mutant[0].id not in results]
    print(f"{len(drawn)} mutants drawn, {len(pending)} to be tested", flush=True)
    for entry in run(pending, options.workers):
        results[entry["id"]] = entry
        with options.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{entry['outcome']:8} {entry['seconds']:5.0f} s  {entry['path']}:{entry['line']}")
    entries = [results[mutant.id] for mutant, _ in drawn]
    text, share = summary(entries, judged, options)
    options.table.write_text(text, encoding="utf-8")
    print(text)
    return 0 if share >= options.at_least else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sample", type=int, default=200, help="number of mutants (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (2)")
    parser.add_argument("--at-least", type=float, default=0.9, help="score asked for (0.9)")
    parser.add_argument(
        "--retry", action="store_true", help="test survivors without a judgement again"
    )
    parser.add_argument("--paths", type=Path, nargs="+", help="files to mutate (all of invmod/)")
    parser.add_argument(
        "--journal", type=Path, default=JOURNAL, help="file of results (JSON lines)"
    )
    parser.add_argument("--judged", type=Path, default=JUDGED, help="file of judgements (JSON)")
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the table (Markdown)")
    options = parser.parse_args(argv)
    options.paths = options.paths or sorted((ROOT / "invmod").rglob("*.py"))
    return options


# --- mutants ------------------------------------------------------------------------------------


def draw(paths: Sequence[Path], count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Return `count` mutants, each with the source of its file; one for each place drawn.

    Every place has a random number of its own, and those with the smallest numbers are drawn. So a
    larger sample contains a smaller one, and a change of one file leaves the others' mutants.
    """
    places: dict[tuple[Path, Any], list[tuple[Any, int]]] = defaultdict(list)
    for path in paths:
        for span, operator, occurrence in mutations(path):
            places[path, span].append((operator, occurrence))
    numbers = {place: random.Random(f"{seed} {relative(place[0])} {place[1]}") for place in places}
    chosen = sorted(places, key=lambda place: (numbers[place].random(), place))[:count]
    return [
        mutant_of(path, span, *numbers[path, span].choice(places[path, span]))
        for path, span in chosen
    ]


def relative(path: Path) -> str:
    """Return the path within the checkout."""
    return str(path.resolve().relative_to(ROOT))


def mutations(path: Path) -> Iterator[tuple[tuple[tuple[int, int], tuple[int, int]], Any, int]]:
    """Iterate over the mutations of a file: span of the change, operator, number of occurrence."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    tree, excluded = get_ast(source), annotations(source)
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():  # These operators need names of variables to replace.
            continue
        operator = kind()
        spans = (span for node in ast_nodes(tree) for span in operator.mutation_positions(node))
        for occurrence, (start, end) in enumerate(spans):
            if not any(low <= start and end <= high for low, high in excluded):
                yield (start, end), operator, occurrence


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the spans of the code that only type checkers read."""
    nodes: list[Any] = []
    spans = []
    for node in ast.walk(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", ()):
            if ast.unparse(decorator) == "override":
                # The parser of the operators counts the "@" and the end of the line as well.
                spans.append(((decorator.lineno, 0), (decorator.lineno + 1, 0)))
        if isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes.append(node.returns)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes.append(node)
    return spans + [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for node in nodes
        if node is not None
    ]


def mutant_of(path: Path, span: Any, operator: Any, occurrence: int) -> tuple[Mutant, str]:
    """Return a mutant and its source."""
    from cosmic_ray.mutating import mutate_code

    source, name = path.read_text(encoding="utf-8"), relative(path)
    mutated = mutate_code(source, operator, occurrence)
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
    change = "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
    key = hashlib.sha256(f"{name}\n{mutated}".encode()).hexdigest()[:12]
    return Mutant(key, name, span[0][0], change), mutated


# --- tests --------------------------------------------------------------------------------------


def run(pending: Sequence[tuple[Mutant, str]], workers: int) -> Iterator[dict[str, Any]]:
    """Test mutants in copies of the checkout, and iterate over the results as they come."""
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(min(workers, len(pending))):
            copies.put(copy_checkout(Path(folder) / str(number)))

        def test(mutant: Mutant, source: str) -> dict[str, Any]:
            copy = copies.get()
            try:
                return tested(mutant, source, copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            for future in as_completed([pool.submit(test, *entry) for entry in pending]):
                yield future.result()


def copy_checkout(folder: Path) -> Path:
    """Copy the files that git tracks, as they are now, to a new folder."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if not name.startswith("docs/results/") and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def tested(mutant: Mutant, source: str, copy: Path) -> dict[str, Any]:
    """Test one mutant in a copy, which is as before afterwards, and return its journal entry."""
    begun = time.perf_counter()
    file = copy / mutant.path
    original = file.read_text(encoding="utf-8")
    file.write_text(source, encoding="utf-8")
    try:
        own = room_tests(mutant.path, copy)
        killed = bool(own) and tests_fail(own, copy)
        killed = killed or tests_fail([*QUICK, "tests/library"], copy)
    finally:
        file.write_text(original, encoding="utf-8")
    seconds = round(time.perf_counter() - begun, 1)
    return {**asdict(mutant), "outcome": "killed" if killed else "survived", "seconds": seconds}


def room_tests(path: str, copy: Path) -> list[str]:
    """Return the test files of a module's room, relative to the copy."""
    room = path.split("/")[1].removesuffix(".py")
    names = TESTS.get(room, (f"test_{room}*.py",))
    files = sorted(file for name in names for file in (copy / "tests/library").glob(name))
    return [str(file.relative_to(copy)) for file in files]


def tests_fail(tests: Sequence[str], copy: Path) -> bool:
    """Return whether a test fails, or the tests do not end in time.

    Arguments:
        tests: options and files of pytest.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'examples'}",
    }
    try:
        ended = subprocess.run(
            [*command, *tests], cwd=copy, env=environment, capture_output=True, timeout=SLOWEST
        )
    except subprocess.TimeoutExpired:
        return True
    return ended.returncode != 0


# --- results ------------------------------------------------------------------------------------


def read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Return id -> the last entry of each mutant; an unfinished last line is left out."""
    entries: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        entries[entry["id"]] = entry
    return entries


def summary(
    entries: Sequence[dict[str, Any]], judged: dict[str, dict[str, str]], options: Any
) -> tuple[str, float]:
    """Return the table and the score."""
    rooms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        rooms[entry["path"].split("/")[1].removesuffix(".py")].append(entry)
    lines = ["| room | mutants | killed | equivalent | score |", "| --- | --- | --- | --- | --- |"]
    for room, group in [*sorted(rooms.items()), ("all", list(entries))]:
        killed, equivalent = counts(group, judged)
        share = killed / max(len(group) - equivalent, 1)
        lines.append(f"| {room} | {len(group)} | {killed} | {equivalent} | {share:.3f} |")
    survivors = [entry for entry in entries if entry["outcome"] != "killed"]
    lines += ["", "## Survivors", ""]
    for entry in sorted(survivors, key=lambda entry: (entry["path"], entry["line"])):
        judgement = judged.get(entry["id"], {"kind": "not judged", "reason": ""})
        lines += [
            f"`{entry['path']}`, line {entry['line']} ({entry['id']}): {judgement['kind']}. "
            f"{judgement['reason']}",
            "",
            "```diff",
            entry["change"],
            "```",
            "",
        ]
    head = f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.mutants --sample {options.sample} "
    head += f"--seed {options.seed}`, {os.cpu_count()} cores."
    return "\n".join(["# Mutants of `invmod/`", "", head, "", *lines]), share


def counts(group: Sequence[dict[str, Any]], judged: dict[str, dict[str, str]]) -> tuple[int, int]:
    """Return the number of killed mutants and that of equivalent survivors."""
    killed = sum(entry["outcome"] == "killed" for entry in group)
    equivalent = sum(
        entry["outcome"] != "killed" and judged.get(entry["id"], {}).get("kind") == "equivalent"
        for entry in group
    )
    return killed, equivalent


if __name__ == "__main__":
    sys.exit(main())
