r"""Compare the ranking quality of variants of training on the same splits and seeds.

python -m benchmarks.quality --data $INVMOD_DATA/lfm2k --repeats 5 \
    --out benchmarks/quality/lfm2k.jsonl --fixed "--lr 0.003" \
    --variant "base=" --variant "large batch=--batch-size 8192"

A variant is a name and options of train.py. The first variant is the baseline, with which the
others are compared. A repeat is a pair of a split seed and a training seed. It trains every variant
in turn, so that a machine that becomes slower slows down all variants.

Every run is a line of the results file --out. A command that was killed resumes from that file,
with the same result as a command that was not. The table is written next to the results file.
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
from milk_recsys.study.records import MONITOR, mean_sd
from milk_recsys.study.runs import train_once

METRICS = (MONITOR, "recall@20")
OURS = ("data", "empty_items", "split", "split_seed", "seed", "compare", "out", "resume", "threads")
"""Options of train.py that this command sets itself."""
TASK = ("setting", "missing_rate", "train_missing_rate", "missing_in_validation", "candidates")
"""Options that must be equal, since they decide on which items the variants are evaluated."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of training.

    Attributes:
        name: name in the table.
        arguments: options on the command line, the fixed ones included.
        options: `arguments` after parsing.
    """

    name: str
    arguments: str
    options: Options


def main(argv: Sequence[str] | None = None) -> int:
    """Train the runs that the results file lacks, then write and print the table.

    Returns:
        the exit status: 0; 1 if a run diverged; 2 if the options, the data or the results file
        cannot be used.
    """
    arguments = parse(sys.argv[1:] if argv is None else argv)
    torch.set_num_threads(arguments.threads)
    try:
        variants = read_variants(arguments.fixed, arguments.variant)
        dataset = read_dataset(arguments.data, empty_items="drop")
        journal = open_journal(arguments.out, variants, dataset)
        for number in range(arguments.repeats):
            for variant in variants:
                if not any(line["number"] == number for line in runs_of(journal, variant)):
                    journal.append(run(variant, number, dataset))
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Diverged, NonFiniteScores) as error:
        print(f"error: {variant.name}, repeat {number}: {error}", file=sys.stderr)
        return 1
    runs = {variant.name: runs_of(journal, variant)[: arguments.repeats] for variant in variants}
    text = table(runs)
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
        "--out",
        type=Path,
        required=True,
        help="results file, FILE.jsonl; the table is written to FILE.md",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="number of repeats; repeat number i has split seed i and training seed i",
    )
    parser.add_argument(
        "--fixed", default="", metavar="OPTIONS", help="options of train.py for all variants"
    )
    parser.add_argument(
        "--variant",
        action="append",
        required=True,
        metavar="NAME=OPTIONS",
        help="name and options of a variant; the first variant is the baseline",
    )
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    arguments = parser.parse_args(joined(argv))
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if arguments.out.suffix != ".jsonl":
        parser.error(f"--out must name a file that ends in .jsonl, got {arguments.out}")
    return arguments


def joined(argv: Sequence[str]) -> list[str]:
    """Join an option and a value that begins with a dash: ``--fixed --lr=1`` to ``--fixed=--lr=1``.

    argparse would take a separate ``--lr=1`` for an option of this command.
    """
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--fixed", "--variant"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def read_variants(fixed: str, texts: Sequence[str]) -> list[Variant]:
    """Parse the variants with the command line of train.py.

    Raises:
        OptionError: a variant has no name, two variants have the same name, a variant sets an
            option of `OURS`, or the variants would not be evaluated on the same items.
        SystemExit: train.py has no such option, or not with that value; the status is 2.
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
        # Without --model a variant trains MILK; the default of train.py is KEEP.
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
                    f"--variant {variant.name}: {flag(option)} is {mine}, but {first} for "
                    f"{variants[0].name}. Compare variants on the same task."
                )
    return variants


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{where}: {text!r} cannot be read ({error}).") from None


# --- the results file -----------------------------------------------------------------------------


def open_journal(path: Path, variants: Sequence[Variant], dataset: Dataset) -> Journal:
    """Open the results file, and check that its runs can be used with these variants and data.

    If the command was killed while it wrote the last line, that line is dropped.

    Raises:
        DataError: the file has a damaged line, lines of another command, or runs on other data.
        OptionError: the file has runs of a variant with other options.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    journal, data = Journal(path), data_of(dataset)
    for line in journal.read():
        if not {"variant", "number", "options", "data"} <= set(line):
            raise DataError(f"{path}: is not a results file of this command. Choose another --out.")
        if line["data"] != data:
            raise DataError(
                f"{path}: has runs on {line['data']}, not on {data}. Choose another --out."
            )
        for variant in variants:
            if line["variant"] == variant.name and line["options"] != variant.arguments:
                raise OptionError(
                    f"--variant {variant.name}: {path} has runs of it with the options "
                    f"{line['options']!r}, not {variant.arguments!r}. Choose another name for the "
                    "variant, or another --out."
                )
    # The file is changed only after the checks: it could belong to another command.
    journal.repair()
    return journal


def data_of(dataset: Dataset) -> str:
    """Return name and fingerprint of the data."""
    return f"{dataset.name} {dataset_facts(dataset)['fingerprint']}"


def runs_of(journal: Journal, variant: Variant) -> list[dict[str, Any]]:
    """Return the runs of a variant, sorted by the number of the repeat."""
    return sorted(
        (line for line in journal.read() if line["variant"] == variant.name),
        key=lambda line: line["number"],
    )


def run(variant: Variant, number: int, dataset: Dataset) -> dict[str, Any]:
    """Train and evaluate once; return the line for the results file."""
    options = variant.options.replace(seed=number, split_seed=number, compare="none")
    record, sections, facts = train_once(options, dataset)
    line = {
        "variant": variant.name,
        "number": number,
        "options": variant.arguments,
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


# --- the table ------------------------------------------------------------------------------------


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Tabulate the variants in their order, each with its difference from the first one.

    Arguments:
        runs: name of a variant -> its lines of the results file, sorted by repeat.
    """
    rows = [
        "| variant | NDCG@20 | difference from baseline [95% interval], p | Recall@20 "
        "| seconds per epoch | epochs | seconds per run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    base, *_ = runs.values()  # dictionaries keep the order of the variants
    for name, lines in runs.items():
        cells = [
            mean_sd([line["test"][MONITOR] for line in lines]),
            "" if lines is base else difference(lines, base),
            mean_sd([line["test"]["recall@20"] for line in lines]),
            f"{np.median([line['seconds_per_epoch'] for line in lines]):.4g}",
            f"{np.mean([line['epochs'] for line in lines]):.1f}",
            f"{np.median([line['seconds'] for line in lines]):.3g}",
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    all_lines = [line for lines in runs.values() for line in lines]
    machines = sorted(
        {f"torch {line['versions']['torch']}, {line['versions']['device']}" for line in all_lines}
    )
    rows += [
        "",
        f"{base[0]['data'].rpartition(' ')[0]}, {len(base)} repeats, each with its own split seed "
        "and training seed, which are the same for all variants. Metrics are mean ± standard "
        "deviation. Differences are paired over repeats, with the t interval of the mean and the p "
        "of a two-sided t test. Seconds per epoch are the median over repeats of the median epoch "
        "of a run; seconds per run are the median over repeats. "
        f"{max(line['date'] for line in all_lines)}, {platform.machine()}, {'; '.join(machines)}.",
        "",
        "| variant | options |",
        "| --- | --- |",
        *(f"| {name} | `{lines[0]['options']}` |" for name, lines in runs.items()),
        "",
    ]
    return "\n".join(rows)


def difference(runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    """Format the mean paired difference in the metric, its t interval over repeats, and its p."""
    values = np.array(
        [a["test"][MONITOR] - b["test"][MONITOR] for a, b in zip(runs, base, strict=True)]
    )
    mean = values.mean()
    if len(values) < 2:
        return f"{mean:+.4f}"
    if (values == values[0]).all():  # The variance is 0, and scipy would divide by it.
        return f"{mean:+.4f} [{mean:+.4f}, {mean:+.4f}], p {float(mean == 0):.3g}"
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}], p {test.pvalue:.3g}"


if __name__ == "__main__":
    sys.exit(main())
