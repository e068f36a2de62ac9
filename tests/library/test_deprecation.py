"""Deprecated names still work, with a warning at the line that uses them."""

import linecache
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
