"""Errors of requests. Their messages name no user."""

__all__ = ["Conflict", "NotFound"]


class NotFound(LookupError):
    """A user or an item is unknown: status 404."""


class Conflict(ValueError):
    """The request does not fit what is served at present: status 409."""
