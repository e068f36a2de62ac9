"""Errors that the command reports in one line."""

from __future__ import annotations


class UsageError(Exception):
    """Wrong options or wrong data; the message is one line that says what to do.

    Example:
        >>> str(UsageError("--data x.npz: there is no such file."))
        '--data x.npz: there is no such file.'
    """
