"""Every example in a docstring of the library runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import invmod

MODULES = ["invmod", *(f"invmod.{module.name}" for module in pkgutil.iter_modules(invmod.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 0 or name == "invmod"
