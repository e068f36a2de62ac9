"""Every module of `invmod.integrations` names its extra where its framework is not installed."""

import importlib
import sys

import pytest

MODULES = {"sklearn": "scikit-learn", "transformers": "Transformers", "lightning": "Lightning"}


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_framework_is_an_error_that_names_the_extra(name, monkeypatch):
    """None in `sys.modules` makes the import system report a module as not installed."""
    for framework in ("sklearn", "transformers", "pytorch_lightning", "lightning"):
        monkeypatch.setitem(sys.modules, framework, None)
    module = f"invmod.integrations.{name}"
    for loaded in [loaded for loaded in sys.modules if f"{loaded}.".startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(
        ImportError, match=rf"{module}: needs {MODULES[name]}: .*'invmod\[{name}\]'"
    ):
        importlib.import_module(module)
