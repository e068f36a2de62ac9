"""Marks of tests of what older versions of torch, which the library allows, cannot do."""

import pytest
import torch

VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])


def needs_torch(version: str, what: str) -> pytest.MarkDecorator:
    """Skip a test before a version of torch, which is named in the reason with `what`."""
    old = tuple(int(number) for number in version.split(".")) > VERSION
    return pytest.mark.skipif(old, reason=f"{what} needs torch {version}")


ANY_NUMBER = needs_torch("2.8", "export with any number of rows")
REFUSAL = needs_torch("2.10", "this refusal of a compiler")
