"""What is fuzzed: each target makes one damaged input, and runs it in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field
from pathlib import Path
from random import Random
from typing import Any, get_args

import torch

from milk_recsys import load, prepare, train
from milk_recsys.__main__ import main
from milk_recsys.base.terminal import reporting_errors
from milk_recsys.catalogue.importers.command_line import parse_source
from milk_recsys.config.method import BUILT_IN, Method, find_method
from milk_recsys.config.options import Options, common_fields, common_names
from milk_recsys.report.page import write_report
from milk_recsys.run.begin import open_run
from milk_recsys.run.progress import Progress
from milk_recsys.study.bench import standings
from milk_recsys.study.store import main as compact
from tests.fuzz.mutations import mutate_bytes, mutate_folder
from tests.fuzz.raw_files import write_raw
from tests.recsys.conftest import _write_dataset
from tests.recsys.study.test_store import LINES, make_line, write

Input = Callable[[], object]
"""Runs an input and returns its exit status; None is 0."""


class Targets:
    """Undamaged files, made once, and the folder `work` in which each input is made anew.

    The paths of an input are always the same, so that a command line is parsed only once.
    """

    def __init__(self, root: Path) -> None:
        self.clean, self.work = root / "clean", root / "work"
        self.clean.mkdir(parents=True)
        _write_dataset(self.clean / "data", users=12, items=40, pairs_per_user=14)
        _write_dataset(self.clean / "items", users=2, items=8, pairs_per_user=2)
        for name in ("interactions.tsv", "users.tsv", "dataset.json"):
            (self.clean / "items" / name).unlink()
        for name, values in (("keep", {}), ("milk", {"epochs": 2, "eval_every": 1})):
            self._train(name, values)
        raw = write_raw(self.clean / "raw")
        self.sources = {name: self._source(words) for name, words in raw.items()}
        self._results()

    def make(self, name: str, random: Random) -> Input:
        """Make an input of a target in the folder `work`, and return what runs it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        torch.set_num_threads(1)  # An earlier input may have set another number.
        make: Callable[[Random], Input] = getattr(self, f"_make_{name}")
        return make(random)

    # --- the undamaged files ---

    def _train(self, model: str, values: dict[str, object]) -> None:
        options = Options.of(
            model, data=self.clean / "data", out=self.clean / model, device="cpu",
            compare="none", **values,
        )  # fmt: skip
        train.run(*open_run(options), Progress(quiet=True))

    def _source(self, words: list[str]) -> object:
        out = str(self.work / "out")
        words = [word.replace("{}", str(self.work / "in")) for word in words]
        return parse_source([*words, "--out", out], prepare.SOURCES, prog="", description=None)

    def _results(self) -> None:
        folder = self.clean / "results"
        folder.mkdir()
        write(folder).compact()
        write(folder, [*LINES, make_line(9, seconds=1.0)])

    def _copy(self, name: str, to: str) -> Path:
        return Path(shutil.copytree(self.clean / name, self.work / to))

    # --- the targets ---

    def _make_data(self, random: Random) -> Input:
        """Damage a data set; open it as `train` does, and fit the fastest model."""
        mutate_folder(random, self._copy("data", "data"))
        empty = random.choice(["error", "drop"])
        options = Options.of(
            "content_knn", data=self.work / "data", out=self.work / "out", device="cpu",
            compare="none", empty_items=empty,
            setting=random.choice(["ftft", "ftmt", "mtmt"]),
        )  # fmt: skip
        return lambda: _train_and_report(options)

    def _make_options(self, random: Random) -> Input:
        """Run a line of odd options of a method on a good data set."""
        names = [name for name in BUILT_IN if name != "gorec"]
        method = find_method(random.choice(["keep", "milk", random.choice(names)]))
        words = ["train", "--data", str(self.clean / "data"), "--out", str(self.work / "out")]
        words += ["--model", method.name, "--device", "cpu"]
        options = {*method.fields, *common_names(method)}
        for name in {"epochs", "factor_epochs"} & options:
            words += ["--" + name.replace("_", "-"), "1"]
        for _ in range(random.choice([1, 1, 2, 3])):
            words += _option(random, method)
        return lambda: main(words)

    def _make_run(self, random: Random) -> Input:
        """Damage a finished run; recommend, resume, load, or make its report again."""
        model = random.choice(["keep", "milk"])
        run = self._copy(model, "run")
        uses = [self._recommend, self._resume, self._resume, self._load, self._report]
        use = random.choice(uses)
        ignored = {"report.html", "curves.png", "robustness.png"}
        names = [p.name for p in run.iterdir() if p.name not in ignored]
        mutate_folder(random, run, names)
        return use(random, run)

    def _make_items(self, random: Random) -> Input:
        """Damage the folder of new items."""
        mutate_folder(random, self._copy("items", "items"))
        return self._recommend(random, self._copy("keep", "run"))

    def _make_results(self, random: Random) -> Input:
        """Damage a results file and its journal, or an entry of the benchmark."""
        among_others = random.random() < 0.2
        folder = self._copy("results", "all/lfm2k" if among_others else "results")
        mutate_folder(random, folder)
        if among_others:
            return lambda: _standings(self.work)
        return lambda: compact([str(folder)])

    def _make_prepare(self, random: Random) -> Input:
        """Damage raw files."""
        name = random.choice(sorted(self.sources))
        shutil.copytree(self.clean / "raw" / name, self.work / "in")
        mutate_folder(random, self.work / "in")
        source = self.sources[name]
        return lambda: _guarded(lambda: prepare.run_command(source))  # type: ignore[arg-type]

    # --- uses of a run ---

    def _recommend(self, random: Random, run: Path) -> Input:
        items = self.work / "items"
        items = items if items.exists() else self.clean / "items"
        words = ["recommend", "--run", str(run), "--items", str(items), "--device", "cpu"]
        words += ["--out", str(self.work / "out"), "--format", random.choice(["tsv", "parquet"])]
        words += ["--top", str(random.choice([1, 3, 100, 10**30]))]
        return lambda: main(words)

    def _resume(self, random: Random, run: Path) -> Input:
        for name in random.choice([["report.html"], ["report.html", "metrics.json"]]):
            (run / name).unlink(missing_ok=True)
        return lambda: main(["train", "--resume", "--out", str(run)])

    def _load(self, random: Random, run: Path) -> Input:
        return lambda: load(run).recommend is None

    def _report(self, random: Random, run: Path) -> Input:
        return lambda: _guarded(lambda: write_report(run) and 0)


@contextmanager
def without_reports() -> Iterator[None]:
    """Leave out the report of a run, which takes most of the time; the target `run` makes some."""
    original = train.write_report
    train.write_report = _touch  # type: ignore[assignment]
    try:
        yield
    finally:
        train.write_report = original


def _touch(run: Path) -> Path:
    (run / "report.html").touch()
    return run / "report.html"


NAMES = ("data", "options", "run", "items", "results", "prepare")


def _guarded(command: Callable[[], object]) -> object:
    with reporting_errors():
        return command()


def _train_and_report(options: Options) -> int:
    with reporting_errors():
        opened, dataset = open_run(options)
        return train.run_command(opened, dataset)


def _standings(work: Path) -> object:
    with reporting_errors():
        return standings.write_standings(work / "all", work / "entries", work / "page.md") and 0


EPOCHS = ("epochs", "factor_epochs", "eval_every", "patience")
NUMBERS = ["0", "-1", "1", "2", "3", "1e-30", "1e30", "1e38", "1e308", "nan", "inf", "-inf", "0.5",
           "2147483647", "2147483648", "9223372036854775807", "1" * 40, "64"]  # fmt: skip
TEXTS = ["", "a", "é", "\x1b[31m", "\ud800", "../..", "/", ".", "--", "-h", "None", "true"]


def _option(random: Random, method: Method) -> list[str]:
    # A training of many epochs, or with more threads than CPUs, takes long but is no fault.
    names = sorted(
        {*method.fields, *common_names(method)} - {"out", "device", "data", "threads", *EPOCHS}
    )
    name = random.choice(names)
    word = "--" + random.choice([name, name.replace("_", "-")])
    field = method.fields.get(name) or common_fields()[name][1]
    kind = random.random()
    if kind < 0.6:
        return _fitting(random, name, field)
    if kind < 0.63:
        word = mutate_bytes(random, word.encode()).decode("utf-8", "replace").replace("\x00", "")
    if kind < 0.7:
        return [word]
    value = random.choice(NUMBERS if random.random() < 0.85 else TEXTS)
    return [f"{word}={value}"] if kind < 0.8 else [word, value]


def _fitting(random: Random, name: str, field: Field[Any]) -> list[str]:
    """Return an option with a value of its type, of any size."""
    word, kind = "--" + name.replace("_", "-"), field.type
    choices = get_args(kind)
    if bool in (kind, *choices):
        return [random.choice([word, f"--no-{word[2:]}"])]
    literals = [value for part in (kind, *choices) for value in get_args(part)] or list(choices)
    texts = [value for value in (*literals, *choices) if isinstance(value, str)]
    if texts:
        return [word, random.choice(texts)]
    if int in (kind, *choices):
        values = [0, 1, 2, 3, 5, 17, 200, 10**9, 2**31 - 1]
        return [word, str(random.choice(values))]
    return [word, f"{random.choice([0.0, 1.0, 10 ** random.uniform(-40, 40)]):g}"]
