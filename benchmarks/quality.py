"""Say what a faster variant of the example costs in quality: the same splits and seeds for all, paired over repeats.

python -m benchmarks.quality --data $INVMOD_DATA/lfm2k --repeats 5 --out benchmarks/quality/lfm2k.jsonl \
    --fixed "--lr 0.003" --variant "base=" --variant "large batch=--batch-size 8192"

A variant is a name and options of train.py; the first one is what the others are compared with. A repeat is a pair of a
split seed and a training seed, and trains every variant in turn, so that a machine that becomes slower does so for all.
Every run is a line of the store; a command that was killed goes on where it stopped, with the same result as one that
was not. The table lies beside the store.
"""

import argparse
import dataclasses
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import Journal, replacing
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.config.command_line import given_options, parse_options
from milk_recsys.config.options import OptionError, Options, flag
from milk_recsys.ranking.metrics import NonFiniteScores
from milk_recsys.run.begin import dataset_facts
from milk_recsys.run.loop import Diverged
from milk_recsys.study.runs import MONITOR, mean_sd, train_once

METRICS = (MONITOR, "recall@20")
OURS = ("data", "empty_items", "split", "split_seed", "seed", "compare", "out", "resume", "threads")
"""Options of train.py that this command sets itself."""
TASK = ("setting", "missing_rate", "train_missing_rate", "missing_in_validation", "candidates")
"""Options that must be alike, or the variants would not be measured on the same items."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compared: a name, the options given for it, and what they mean."""

    name: str
    given: str
    options: Options


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the store lacks, and write and print the table.

    Returns:
        the exit status: 0, 1 where a run diverged, 2 where the options, the data or the store cannot be used.
    """
    arguments = parse(sys.argv[1:] if argv is None else argv)
    torch.set_num_threads(arguments.threads)
    try:
        variants = read_variants(arguments.fixed, arguments.variant)
        dataset = read_dataset(arguments.data, empty_items="drop")
        store = open_store(arguments.out, variants, dataset)
        for number in range(arguments.repeats):
            for variant in variants:
                if not any(line["number"] == number for line in runs_of(store, variant)):
                    store.append(run(variant, number, dataset))
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Diverged, NonFiniteScores) as error:
        print(f"error: {variant.name}, repeat {number}: {error}", file=sys.stderr)
        return 1
    found = {variant.name: runs_of(store, variant)[: arguments.repeats] for variant in variants}
    text = table(found)
    with replacing(arguments.out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument(
        "--out", type=Path, required=True, help="the store, FILE.jsonl; the table becomes FILE.md"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="pairs of split seed and training seed: (0, 0), (1, 1)",
    )
    parser.add_argument(
        "--fixed", default="", metavar="OPTIONS", help="options of train.py that all variants get"
    )
    parser.add_argument(
        "--variant",
        action="append",
        required=True,
        metavar="NAME=OPTIONS",
        help="a variant; the first is the baseline",
    )
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    arguments = parser.parse_args(joined(argv))
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if arguments.out.suffix != ".jsonl":
        parser.error(f"--out must name a file that ends in .jsonl, got {arguments.out}")
    return arguments


def joined(argv: Sequence[str]) -> list[str]:
    """Bind a value that begins with a dash to its option: ``--fixed --lr=1`` becomes ``--fixed=--lr=1``."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--fixed", "--variant"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def read_variants(fixed: str, texts: Sequence[str]) -> list[Variant]:
    """Parse the variants by the command line of train.py, which exits with status 2 where it knows an option not.

    Raises:
        OptionError: a variant without a name, two of one name, an option that is not a variant's to set, or variants
            that would not be measured on the same items.
    """
    variants: list[Variant] = []
    for text in texts:
        name, equals, own = text.partition("=")
        if not equals or not name.strip() or name.startswith("-") or "|" in name:
            raise OptionError(
                f"--variant must be NAME=OPTIONS, with no | in the name, got {text!r}."
            )
        words = _words(fixed, "--fixed") + _words(own, f"--variant {name}")
        for option in OURS:
            if option in given_options(words):
                raise OptionError(
                    f"--variant {name}: {flag(option)} is set by this command. Leave it out."
                )
        full = words if "model" in given_options(words) else ["--model", "milk", *words]
        variants.append(
            Variant(name.strip(), shlex.join(words), parse_options(full, prog=f"variant {name!r}"))
        )
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise OptionError(f"--variant: names must differ, got {', '.join(names)}.")
    for variant in variants:
        for option in TASK:
            mine, first = variant.options.value(option), variants[0].options.value(option)
            if mine != first:
                raise OptionError(
                    f"--variant {variant.name}: {flag(option)} is {mine}, but {first} for {variants[0].name}. Compare "
                    "variants on the same task."
                )
    return variants


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{where}: {text!r} cannot be read ({error}).") from None


# --- the store ------------------------------------------------------------------------------------------------------


def open_store(path: Path, variants: Sequence[Variant], dataset: Dataset) -> Journal:
    """Open the store, less a last line that a kill has cut, and check that it goes with what is asked for.

    Raises:
        DataError: a damaged line, lines of another command, or runs on other data.
        OptionError: a variant that the store holds with other options.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    store, data = Journal(path), data_of(dataset)
    lines = store.read()
    for line in lines:
        if not {"variant", "number", "options", "data"} <= set(line):
            raise DataError(f"{path}: is not a store of this command. Choose another --out.")
        if line["data"] != data:
            raise DataError(
                f"{path}: holds runs on {line['data']}, not on {data}. Choose another --out."
            )
        for variant in variants:
            if line["variant"] == variant.name and line["options"] != variant.given:
                raise OptionError(
                    f"--variant {variant.name}: {path} holds it with the options {line['options']!r}, not "
                    f"{variant.given!r}. Give it another name, or choose another --out."
                )
    store.repair()
    return store


def data_of(dataset: Dataset) -> str:
    """Name and fingerprint of the data."""
    return f"{dataset.name} {dataset_facts(dataset)['fingerprint']}"


def runs_of(store: Journal, variant: Variant) -> list[dict[str, Any]]:
    """Return the runs of a variant by number."""
    return sorted(
        (line for line in store.read() if line["variant"] == variant.name),
        key=lambda line: line["number"],
    )


def run(variant: Variant, number: int, dataset: Dataset) -> dict[str, Any]:
    """Train and evaluate once; return the line of the store."""
    options = variant.options.but(seed=number, split_seed=number, compare="none")
    record, sections, facts = train_once(options, dataset)
    line = {
        "variant": variant.name,
        "number": number,
        "options": variant.given,
        "data": data_of(dataset),
        "test": {name: sections["test"][name] for name in METRICS},
        "test_complete": {MONITOR: sections["test_complete"][MONITOR]},
        **{name: record[name] for name in ("best_epoch", "epochs", "seconds_per_epoch")},
        **facts,
    }
    print(
        f"repeat {number}, {variant.name}: test {MONITOR} {line['test'][MONITOR]:.4f}, "
        f"{line['epochs']} epochs, {line['seconds']:.1f} s",
        flush=True,
    )
    return line


# --- the table ------------------------------------------------------------------------------------------------------


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Tabulate the variants in their order, each paired with the first one."""
    lines = [
        "| variant | NDCG@20 | less the baseline's [95% interval], p | Recall@20 | seconds an epoch | epochs | a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base, *_ = found.values()
    for name, runs in found.items():
        cells = [
            mean_sd([line["test"][MONITOR] for line in runs]),
            "" if runs is base else difference(runs, base),
            mean_sd([line["test"]["recall@20"] for line in runs]),
            f"{np.median([line['seconds_per_epoch'] for line in runs]):.4g}",
            f"{np.mean([line['epochs'] for line in runs]):.1f}",
            f"{np.median([line['seconds'] for line in runs]):.3g}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    every = [line for runs in found.values() for line in runs]
    machines = sorted(
        {f"torch {line['versions']['torch']}, {line['versions']['device']}" for line in every}
    )
    lines += [
        "",
        f"{base[0]['data'].rpartition(' ')[0]}, {len(base)} repeats, each with a split seed and a training seed of its "
        "own, the same for all variants; mean ± standard deviation. The difference is paired over repeats, with a t "
        "interval and the p of a two-sided t test. Seconds are medians over repeats: of a run's median epoch, and of a "
        f"whole run. {max(line['date'] for line in every)}, {platform.machine()}, {'; '.join(machines)}.",
        "",
        "| variant | options |",
        "| --- | --- |",
        *(f"| {name} | `{runs[0]['options']}` |" for name, runs in found.items()),
        "",
    ]
    return "\n".join(lines)


def difference(runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    """Write the mean paired difference of the metric, with its t interval over repeats and its p."""
    values = np.array(
        [a["test"][MONITOR] - b["test"][MONITOR] for a, b in zip(runs, base, strict=True)]
    )
    mean = values.mean()
    if len(values) < 2:
        return f"{mean:+.4f}"
    if (values == values[0]).all():  # no spread: scipy would divide by 0
        return f"{mean:+.4f} [{mean:+.4f}, {mean:+.4f}], p {float(mean == 0):.3g}"
    tested = stats.ttest_1samp(values, 0.0)
    low, high = tested.confidence_interval(0.95)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}], p {tested.pvalue:.3g}"


if __name__ == "__main__":
    sys.exit(main())
