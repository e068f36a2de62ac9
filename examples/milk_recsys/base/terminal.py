"""Printing of messages, and the end of a command: one sentence and an exit status.

Names, paths and cells come from files of others. Characters in them that control a terminal are
shown as escapes, and characters that the terminal's encoding lacks do not stop a command.
"""

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from milk_recsys.base.errors import DataError, OptionError

__all__ = [
    "INTERRUPTED",
    "INVALID",
    "one_line_interrupts",
    "print_error",
    "print_line",
    "printable",
    "refuse_empty_values",
    "reporting_errors",
]

INVALID, INTERRUPTED, CLOSED_PIPE = 2, 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells report it.

# Control characters (C0, DEL, C1), line separators, marks that change the direction of text, and
# halves of surrogate pairs, which no encoding can represent.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# Errors of torch that mean that memory is too small; they have no type of their own.
NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")

ADVICE = {
    "ENOSPC": "Free space on the disk, or name a folder on another one.",
    "EDQUOT": "Free space within your quota, or name a folder on another disk.",
    "EROFS": "The file system is read-only. Name another folder.",
    "EACCES": "Change its permissions, or name another one.",
    "EPERM": "Change its permissions, or name another one.",
    "ENAMETOOLONG": "Choose a shorter name.",
    "EMFILE": "Raise the limit on open files (ulimit -n).",
}


def printable(text: object) -> str:
    """Return a text with escapes instead of characters that control a terminal.

    Example:
        >>> printable("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def print_line(text: object) -> None:
    """Print a line on stdout."""
    print(printable(text))


def print_error(error: object) -> None:
    """Print an error as one line on stderr."""
    print(f"error: {printable(error)}", file=sys.stderr)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """End the process with one sentence and a status if the block raises a foreseeable error.

    Errors of input, of files and of memory have status 2, interruptions 130, and a reader that has
    closed the pipe, such as `head`, 141. Other exceptions are mistakes of the program; they
    propagate, and Python prints a traceback.
    """
    show_every_character()
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(CLOSED_PIPE) from None
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (DataError, OptionError, OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        try:
            sys.stdout.flush()
        except OSError:  # What was printed cannot be written, for example because a disk is full.
            _discard_output()
        print_error(sentence)
        raise SystemExit(INVALID) from None


def _discard_output() -> None:
    """Give stdout a new target; else the interpreter would print an error when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception) -> str | None:
    """Return what to print of an error; None if it is a mistake of the program."""
    if isinstance(error, (DataError, OptionError)):
        return str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    ):
        first = (str(error).splitlines() or [""])[0]
        return (
            f"memory is too small ({first or type(error).__name__:.200}). Choose smaller sizes, or "
            "give the process more memory."
        )
    return _sentence_on_file(error) if isinstance(error, OSError) else None


def _sentence_on_file(error: OSError) -> str:
    import errno

    name = errno.errorcode.get(error.errno or 0, "")
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"a file cannot be read or written ({reason}). {ADVICE.get(name, '')}".rstrip()
    where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{where}: {reason}. {ADVICE.get(name, 'Correct the path, or name another one.')}"


def show_every_character() -> None:
    """Print escapes for characters that the encoding of stdout or stderr lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def one_line_interrupts() -> None:
    """Let an interruption that nothing handles end the process with one line and status 130."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        print("\ninterrupted", file=sys.stderr, flush=True)
        # At the normal exit, Python would end the process by the signal, without this status.
        os._exit(INTERRUPTED)

    sys.excepthook = hook


def refuse_empty_values(words: Sequence[object]) -> None:
    """Raise OptionError for an option whose value is an empty text.

    A script with an unset variable gives such a value. As a path it would be the current folder.
    """
    texts = [str(word) for word in words]
    for place, word in enumerate(texts):
        flag = texts[place - 1] if place and word == "" else word.removesuffix("=")
        if flag.startswith("--") and (word == "" or (word.endswith("=") and "=" not in flag)):
            raise OptionError(f"{flag}: the value is empty. Give one, or leave the option out.")
