"""Every example in the library's docstrings runs and prints the output that it states."""

import doctest
import importlib
import pkgutil

import pytest

import invmod

MODULES = ["invmod", *(module.name for module in pkgutil.walk_packages(invmod.__path__, "invmod."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0


@pytest.mark.parametrize(
    "name", sorted({name.split(".")[1] for name in MODULES[1:] if "._" not in name})
)
def test_every_subpackage_has_examples(name):
    inside = [module for module in MODULES if f"{module}.".startswith(f"invmod.{name}.")]
    finder = doctest.DocTestFinder()
    assert any(
        test.examples for module in inside for test in finder.find(importlib.import_module(module))
    )
