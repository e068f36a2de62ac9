"""The parser of the command ``invmod``, and its exit status.

Modules that import torch are imported only when a command runs, so that ``--help`` and wrong
options are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from invmod.cli.errors import UsageError

DESCRIPTION = (
    "What is missing from a data set, and how good a model is when modalities are missing."
)
MANUAL = "docs/commands.md in the source of invmod"
WIDTH = 78  # of texts, in characters
EXIT_STATUS = "Exit status: 0 on success, 1 if a gate of `report` fails, 2 for wrong usage."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``invmod`` and return its exit status.

    Arguments:
        argv: the words after ``invmod``; None means the arguments of the process.

    Returns:
        0 on success, 1 if a gate fails, 2 for wrong usage.

    Example:
        >>> import contextlib, io
        >>> with contextlib.redirect_stderr(io.StringIO()) as errors:
        ...     main(["missing", "absent.csv"])
        2
        >>> errors.getvalue()
        'invmod missing: absent.csv: there is no such file.\\n'
    """
    if argv is None and isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot show must not stop the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        options = parser.parse_args(argv)
    except SystemExit as error:  # argparse exits after --help, and after a wrong option
        return error.code if isinstance(error.code, int) else 2
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except UsageError as error:
        if getattr(options, "traceback", False):
            traceback.print_exc()
        print(f"invmod {options.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Without a new target for stdout, the
        # interpreter would print a second error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as shells report it


class _Parser(argparse.ArgumentParser):
    """A parser that suggests what a mistyped command, option or choice may have meant."""

    @override
    def error(self, message: str) -> NoReturn:
        found = re.search(r"unrecognized arguments: ([^\s=]+)|invalid choice: '(.*?)'", message)
        wrong = found[1] or found[2] if found else ""
        close = difflib.get_close_matches(wrong, self._words(), n=1)
        super().error(f"{message}. Did you mean {close[0]}?" if close else message)

    def _words(self) -> list[str]:
        """Return the options, choices and commands of this parser and of its commands."""
        words: list[str] = []
        for action in self._actions:
            words += [*action.option_strings, *(action.choices or ())]
            if isinstance(action.choices, dict):
                for parser in action.choices.values():
                    words += parser._words()
        return words


class _Once(argparse.Action):
    """Store a value; refuse a second one, which would replace the first, a gate for example."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string  # argparse passes them to every action
        given = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "may be given only once.")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"a seed must lie in [0, 2^63), got {text}.")
    return seed


def _run(options: argparse.Namespace) -> int:
    if options.command == "missing":
        from invmod.cli.missing import missing

        return missing(options)
    from invmod.cli.report import report

    return report(options)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="invmod",
        **_texts(DESCRIPTION, "invmod missing data.parquet", EXIT_STATUS),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_missing(commands)
    _add_report(commands)
    return parser


def _texts(about: str, example: str, end: str) -> dict[str, Any]:
    """Return the arguments of a parser whose help begins with an example and ends with the manual.

    The lines are wrapped here, since argparse would join the example with the text before it.
    """
    return {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "description": f"{textwrap.fill(f'{about[0].upper()}{about[1:]}'.rstrip('.') + '.', WIDTH)}"
        f"\n\n  {example}",
        "epilog": f"{textwrap.fill(end, WIDTH)}\n\nManual: {MANUAL}",
        "allow_abbrev": False,
    }


def _add_missing(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = (
        "show patterns and rates of missing data, and test whether data are missing completely at "
        "random (MCAR)"
    )
    parser = commands.add_parser(
        "missing",
        help=text,
        **_texts(
            text,
            "invmod missing data.parquet --modality 'image=img_*' --exclude id",
            "A value is missing if it is null, NaN or blank text. A modality is missing from a row "
            "if all of its columns are.",
        ),
    )
    parser.register("action", None, _Once)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a .parquet, .csv, .tsv or .npz file, or a folder of .npy files",
    )
    parser.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME=COLUMNS",
        help="treat several columns as one modality: names or patterns with * and ?, separated by "
        "commas, as in --modality 'image=img_*'; may be repeated. Any other column is a modality "
        "of its own",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="COLUMNS",
        help="leave out columns such as ids and targets: names or patterns, separated by commas",
    )
    parser.add_argument(
        "--missing-value",
        action="append",
        default=[],
        metavar="VALUE",
        help="values that also mean missing, separated by commas, such as NA,-9 (with an "
        "equals sign if the first begins with a minus: --missing-value=-9,NA); may be repeated",
    )
    parser.add_argument(
        "--test",
        choices=("auto", "little", "permutation", "none"),
        default="auto",
        help="test of MCAR: Little's for single numeric columns, a permutation test for wide "
        "modalities (default: auto chooses between these two)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of the permutations (default: 0)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--png", metavar="FILE", help="write a picture of patterns and pairs")
    parser.add_argument("--html", metavar="FILE", help="write a page that needs no other file")


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "evaluate a model under every pattern of missing modalities, with a gate"
    parser = commands.add_parser(
        "report",
        help=text,
        **_texts(
            text,
            "invmod report my_model:predict --data test.npz --metric accuracy "
            "--fail-under worst=0.6",
            "MODEL is called with features (name -> array, NaN in hidden cells) and a mask, and "
            f"returns one prediction per target. {EXIT_STATUS}",
        ),
    )
    parser.register("action", None, _Once)
    parser.add_argument(
        "model",
        metavar="MODULE:NAME",
        help="a function predict(features, mask) in a module that can be imported from here",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="an .npz file with one array per modality, `targets`, and optionally a `mask`",
    )
    parser.add_argument(
        "--metric",
        required=True,
        metavar="METRIC",
        help="accuracy, balanced_accuracy, f1, f1_macro, auroc, r2, mse or mae, or MODULE:NAME of "
        "a function of predictions and targets",
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--lower-is-better",
        action="store_true",
        help="for an error of your own; mse, mae and the errors and losses of sklearn.metrics have "
        "it by themselves",
    )
    direction.add_argument(
        "--higher-is-better",
        action="store_true",
        help="for a function of sklearn.metrics whose name does not show its direction",
    )
    parser.add_argument(
        "--patterns",
        choices=("all", "one_missing", "one_left"),
        default="all",
        help="patterns to evaluate (default: all)",
    )
    parser.add_argument(
        "--rates",
        metavar="R,R,...",
        help="missing rates of the curves, from 0 to below 1; an empty text for no curves",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="B",
        help="0 for no intervals (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of draws and resamples (default: 0)"
    )
    parser.add_argument(
        "--fail-under",
        action="append",
        default=[],
        metavar="WHAT=VALUE",
        help="fail if the metric is worse than a value: complete=VALUE, worst=VALUE or "
        "PATTERN=VALUE, such as text+image=0.7, with names as in the table; may be repeated, with "
        "one bound of each",
    )
    parser.add_argument(
        "--fail-over-drop",
        metavar="SHARE",
        help="fail if the worst pattern loses more than this share of the complete value: 0.2 is "
        "20%%",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the traceback of an error, to debug a model"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
