"""The outcome of an input: its exit status, or how it failed."""

from __future__ import annotations

import contextlib
import io
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from milk_recsys.base.errors import DataError, OptionError

MEBIBYTE = 1 << 20


class Hang(BaseException):
    """The time of an input is over. No handler of `Exception` catches it."""


class Outcome(NamedTuple):
    """How an input ended.

    Attributes:
        status: the exit status, or `traceback`, `hang`, `memory` or `silent`: an invalid input
            without a sentence.
        details: the traceback, or what was printed on stderr.
    """

    status: int | str
    details: str

    @property
    def failed(self) -> bool:
        """Whether the input ended in a way that is never right."""
        return isinstance(self.status, str) or self.status not in (0, 1, 2)


def outcome_of(run: Callable[[], object], *, seconds: float = 20, mebibytes: int = 1024) -> Outcome:
    """Run a command within limits; return how it ended.

    Arguments:
        run: returns the exit status, or None for 0.
        seconds: time after which it counts as a hang.
        mebibytes: growth of the peak of the process's memory that counts as too much.
    """
    before = _peak(reset=True)
    printed, errors = io.StringIO(), io.StringIO()
    handler = signal.signal(signal.SIGALRM, _raise_hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            outcome = _run(run, errors)
    except Hang:
        outcome = Outcome("hang", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    growth = (_peak() - before) / MEBIBYTE
    if growth > mebibytes and not outcome.failed:
        return Outcome("memory", f"{growth:.0f} MiB; {outcome.details}")
    return outcome


def _peak(*, reset: bool = False) -> int:
    """Return the largest number of bytes in memory since the last reset; Linux only."""
    if reset:  # The peak is then what is in memory now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _run(run: Callable[[], object], errors: io.StringIO) -> Outcome:
    try:
        status = run() or 0
    except SystemExit as exit_:
        status = exit_.code or 0
    except (DataError, OptionError) as error:  # Of functions of the library, not of a command.
        return Outcome(2, str(error))
    except Hang:
        raise
    except BaseException:
        return Outcome("traceback", traceback.format_exc())
    if status == 2 and not errors.getvalue().strip():
        return Outcome("silent", "status 2 without a message")
    if "Traceback (most recent call last)" in errors.getvalue():
        return Outcome("traceback", errors.getvalue())
    return Outcome(status if isinstance(status, int) else "silent", errors.getvalue())


def _raise_hang(*_: object) -> None:
    raise Hang
