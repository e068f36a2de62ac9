"""Tests of `milk_recsys.config`."""
