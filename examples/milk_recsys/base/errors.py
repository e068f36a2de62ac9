"""What a command says of bad input."""

__all__ = ["DataError", "plural"]


class DataError(ValueError):
    """Bad input; a command prints `error: <message>` and exits with status 2."""


def plural(count: int, one: str, many: str) -> str:
    """The count and the words that go with it: `plural(1, "item was", "items were")`."""
    return f"{count} {one if count == 1 else many}"
