"""The command `milk-recsys`, or `python -m milk_recsys`, which runs one of the commands.

A command's module is imported only when the command is known, so that `--help` and the error for a
misspelt command appear at once.
"""

import difflib
import sys
from collections.abc import Callable, Sequence

from milk_recsys.base.extras import extra_needed, missing_packages
from milk_recsys.base.manual import manual
from milk_recsys.base.terminal import (
    one_line_interrupts,
    print_error,
    refuse_empty_values,
    reporting_errors,
)

__all__ = ["main"]

PROG = "milk-recsys"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Arguments:
        argv: the name of a command and its options; None means the arguments of the process.

    Returns:
        The exit status of the command, or 2 if the command is unknown or a package is missing.
        (Errors of files and memory, and interruptions, exit at once with a status of their own.)
    """
    if argv is None:
        one_line_interrupts()
    with reporting_errors():
        return _run(sys.argv[1:] if argv is None else list(argv))


def _run(words: list[str]) -> int:
    if words[:1] in (["-h"], ["--help"]):
        print(_help())
        return 0
    if not words or words[0] not in COMMANDS:
        return _error(_unknown(words))
    missing = missing_packages()
    if missing:
        return _error(extra_needed(f"{PROG} {words[0]}", missing))
    refuse_empty_values(words[1:])
    command, _ = COMMANDS[words[0]]
    return command(words[1:], f"{PROG} {words[0]}")


def _train(argv: Sequence[str], prog: str) -> int:
    from milk_recsys.run.begin import begin

    # `train` imports torch, which takes seconds, so options and data are checked before.
    options, dataset = begin(argv, prog=prog)
    from milk_recsys import train

    return train.run_command(options, dataset)


def _recommend(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import recommend

    return recommend.main(argv, prog=prog)


def _export(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import export

    return export.main(argv, prog=prog)


def _serve(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import serve

    return serve.main(argv, prog=prog)


def _prepare(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import prepare

    return prepare.main(argv, prog=prog)


def _reproduce(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import reproduce

    return reproduce.main(argv, prog=prog)


def _bench(argv: Sequence[str], prog: str) -> int:
    from milk_recsys import bench

    return bench.main(argv, prog=prog)


# Name -> the function that runs the command, and its line in the help text.
COMMANDS: dict[str, tuple[Callable[[Sequence[str], str], int], str]] = {
    "train": (_train, "Train a recommender, evaluate it on new items, and write a report."),
    "recommend": (_recommend, "Recommend new and known items with a finished run."),
    "export": (_export, "Export vectors, an index and an item tower of a finished run."),
    "serve": (_serve, "Answer requests for lists over HTTP with a finished run."),
    "prepare": (
        _prepare,
        "Convert published data sets, or your own tables, to the layout that train reads.",
    ),
    "reproduce": (
        _reproduce,
        "Reproduce the paper's tables and figures, or compare all systems, on one data set.",
    ),
    "bench": (
        _bench,
        "Enter your own method into the benchmark: tasks, scores, leak audit, standings.",
    ),
}


def _help() -> str:
    return "\n".join(
        [
            f"usage: {PROG} COMMAND [OPTIONS]",
            "",
            "Recommend new items whose modalities may be missing.",
            "",
            f"  {PROG} train --out runs/first",
            "",
            "commands:",
            *(f"  {name:<11}{text}" for name, (_, text) in COMMANDS.items()),
            "",
            f"{PROG} COMMAND --help lists the options of a command.",
            f"Manual: {manual('milk')}",
        ]
    )


def _unknown(words: Sequence[str]) -> str:
    choose = f"Choose from {', '.join(COMMANDS)}, or see {PROG} --help."
    if not words:
        return f"a command is needed. {choose}"
    close = difflib.get_close_matches(words[0], COMMANDS, n=1)
    return (
        f"{words[0]!r} is not a command. "
        + (f"Did you mean {close[0]}? " if close else "")
        + choose
    )


def _error(message: str) -> int:
    print_error(message)
    return 2


if __name__ == "__main__":
    sys.exit(main())
