"""Tests of `milk_recsys.base`."""
