"""Deprecation warnings for public names that were renamed or removed.

A subpackage keeps the old names of functions, classes and constants through a `__getattr__` of the
module. Type checkers accept any name of a module that has one, so it is hidden from them::

    import typing as _typing

    from invmod._deprecation import deprecated_names as _deprecated_names

    if not _typing.TYPE_CHECKING:
        __getattr__ = _deprecated_names(
            __name__,
            {"old_name": ("invmod.package.file:new_name", "use `invmod.new_name`")},
            ends_in="0.3",
        )

A renamed keyword argument keeps working as an additional argument with the default None::

    def function(x: Tensor, *, new: float = 1.0, old: float | None = None) -> Tensor:
        if old is not None:
            warn_renamed("function(old=...)", "function(new=...)", ends_in="0.3")
            new = old
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module

# The second entry of a deprecated name that nobody outside the library was meant to use.
INTERNAL = "it was never meant for use outside invmod and has no replacement"


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


def deprecated_names(
    module: str, names: Mapping[str, tuple[str, str]], *, ends_in: str
) -> Callable[[str], object]:
    """Return a `__getattr__` for a module, which still finds its old names and warns.

    The warning is reported at the line that uses the old name. `dir` and a star import leave the
    old names out, because they are not in the module's namespace.

    Arguments:
        module: the `__name__` of the module that had the names.
        names: old name -> (home, advice). The home is "module:attribute", where the object is
            now; it is imported on the first use. The advice is a clause that completes the warning.
        ends_in: the first version of invmod without the old names.
    """

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, advice = names[name]
        warnings.warn(
            f"`{module}.{name}` is deprecated and will be removed in invmod {ends_in}: {advice}.",
            DeprecationWarning,
            stacklevel=2,
        )
        file, attribute = home.split(":")
        return getattr(import_module(file), attribute)

    return find
