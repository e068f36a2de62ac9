"""Errors reported to the user."""

__all__ = ["DataError", "OptionError", "plural"]


class DataError(ValueError):
    """Bad input; a command prints `error: <message>` and exits with status 2."""


class OptionError(ValueError):
    """An option whose value makes no sense; a command prints it and exits with status 2."""


def plural(count: int, one: str, many: str) -> str:
    """The count and the words that go with it: `plural(1, "item was", "items were")`."""
    return f"{count} {one if count == 1 else many}"
