"""Errors reported to the user."""

__all__ = ["DataError", "OptionError", "plural"]


class DataError(ValueError):
    """Invalid input data. A command prints `error: <message>` and exits with status 2."""


class OptionError(ValueError):
    """An invalid value of an option. A command prints the message and exits with status 2."""


def plural(count: int, singular: str, plural_form: str) -> str:
    """Return the count and the singular or plural words: `plural(1, "item was", "items were")`."""
    return f"{count} {singular if count == 1 else plural_form}"
