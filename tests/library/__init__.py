"""Tests of `invmod`, named after its rooms."""
