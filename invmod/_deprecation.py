"""Deprecation warnings for public names that were renamed.

An old name of a function or class keeps working through the module's `__getattr__`::

    def __getattr__(name: str) -> object:
        if name == "old_name":
            warn_renamed("invmod.old_name", "invmod.new_name", ends_in="0.3")
            return new_name
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

A renamed keyword argument keeps working as an additional argument with the default None::

    def function(x: Tensor, *, new: float = 1.0, old: float | None = None) -> Tensor:
        if old is not None:
            warn_renamed("function(old=...)", "function(new=...)", ends_in="0.3")
            new = old
"""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str, *, ends_in: str) -> None:
    """Emit a DeprecationWarning for a public name that was renamed.

    The warning is reported at the line that uses the old name, two frames above this function.

    Arguments:
        old, new: the names as the caller would write them.
        ends_in: the first version of invmod without the old name.
    """
    warnings.warn(
        f"`{old}` is now `{new}`. The old name will be removed in invmod {ends_in}.",
        DeprecationWarning,
        stacklevel=3,
    )
