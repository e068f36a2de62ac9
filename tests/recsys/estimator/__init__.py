"""Tests of `milk_recsys.run`."""
