"""Tests of `milk_recsys.study`."""
