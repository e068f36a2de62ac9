"""Deprecated names still work, with a warning at the line that uses them."""

import importlib
import linecache
import re
import sys
import types
import warnings

import pytest

from invmod._deprecation import warn_renamed

MESSAGE = (
    r"^`old_module\.old` is now `old_module\.new`\. The old name will be removed in invmod 0\.3\.$"
)


def lines(caught):
    """The source lines that the warnings point at."""
    return {linecache.getline(warning.filename, warning.lineno).strip() for warning in caught}


@pytest.fixture
def old_module(monkeypatch):
    """A module whose `old` was renamed to `new`."""
    module = types.ModuleType("old_module")
    module.new = object()

    def __getattr__(name):
        if name == "old":
            warn_renamed("old_module.old", "old_module.new", ends_in="0.3")
            return module.new
        raise AttributeError(name)

    module.__getattr__ = __getattr__
    monkeypatch.setitem(sys.modules, "old_module", module)
    return module


def scale(x, *, factor=2.0, weight=None):
    """A function whose `weight` was renamed to `factor`."""
    if weight is not None:
        warn_renamed("scale(weight=...)", "scale(factor=...)", ends_in="0.3")
        factor = weight
    return factor * x


def test_an_old_attribute_is_the_new_one_and_warns_at_the_line_that_uses_it(old_module):
    with pytest.warns(DeprecationWarning, match=MESSAGE) as caught:
        assert old_module.old is old_module.new
    assert lines(caught) == {"assert old_module.old is old_module.new"}


def test_an_import_of_an_old_name_warns_at_the_line_of_the_import(old_module):
    with pytest.warns(DeprecationWarning, match=MESSAGE) as caught:
        from old_module import old
    assert old is old_module.new
    assert lines(caught) == {"from old_module import old"}


def test_an_old_keyword_works_and_warns_at_the_line_of_the_call():
    with pytest.warns(
        DeprecationWarning, match=r"^`scale\(weight=\.\.\.\)` is now `scale\(factor=\.\.\.\)`\."
    ) as caught:
        assert scale(1.0, weight=3.0) == 3.0
    assert lines(caught) == {"assert scale(1.0, weight=3.0) == 3.0"}


def test_new_names_do_not_warn(old_module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert old_module.new is not None
        assert scale(1.0, factor=3.0) == 3.0
    with pytest.raises(AttributeError):
        _ = old_module.other


# Old name -> module that has the object now, and the end of the warning.
INTERNAL = "it was never meant for use outside invmod and has no replacement."
OLD_NAMES = {
    "invmod.missingness.MaskLike": (
        "invmod.missingness.masks",
        "annotate with `torch.Tensor | Mapping[str, torch.Tensor]`.",
    ),
    "invmod.missingness.ROWS_AT_ONCE": ("invmod.missingness.masks", INTERNAL),
    "invmod.missingness.append_axes": ("invmod.missingness.masks", INTERNAL),
    "invmod.missingness.check_any_mask": ("invmod.missingness.masks", INTERNAL),
    "invmod.missingness.check_count": ("invmod._checks", INTERNAL),
    "invmod.missingness.check_mask": ("invmod.missingness.masks", INTERNAL),
    "invmod.missingness.check_names": ("invmod._checks", INTERNAL),
    "invmod.missingness.checked_rows": ("invmod._checks", INTERNAL),
    "invmod.missingness.mask_columns": ("invmod.missingness.masks", INTERNAL),
    "invmod.penalties.check_risks": ("invmod._checks", INTERNAL),
}


@pytest.mark.parametrize("full_name", OLD_NAMES)
def test_an_old_name_of_a_subpackage_is_the_same_object_and_warns_at_the_callers_line(full_name):
    subpackage, _, name = full_name.rpartition(".")
    home, advice = OLD_NAMES[full_name]
    module = importlib.import_module(subpackage)
    message = f"`{full_name}` is deprecated and will be removed in invmod 0.3: {advice}"

    with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$") as caught:
        value = getattr(module, name)
    assert value is vars(importlib.import_module(home))[name]
    assert lines(caught) == {"value = getattr(module, name)"}

    # A `from` import is compiled under a file name of its own, at which the warning must point.
    namespace = {}
    statement = compile(f"from {subpackage} import {name}", "caller.py", "exec")
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$") as caught:
        exec(statement, namespace)
    assert namespace[name] is value
    assert {(warning.filename, warning.lineno) for warning in caught} == {("caller.py", 1)}

    assert name not in dir(module)
    assert name not in module.__all__
    assert name not in vars(module)


@pytest.mark.parametrize("subpackage", ["invmod.missingness", "invmod.penalties"])
def test_a_subpackage_with_old_names_still_refuses_unknown_names(subpackage):
    module = importlib.import_module(subpackage)
    message = f"module '{subpackage}' has no attribute 'no_such_name'"
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        _ = module.no_such_name
    with pytest.raises(ImportError):
        exec(f"from {subpackage} import no_such_name", {})


def test_a_star_import_gives_no_old_names_and_no_warning():
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from invmod.missingness import *", namespace)
    assert set(importlib.import_module("invmod.missingness").__all__) <= set(namespace)
    assert "check_mask" not in namespace
