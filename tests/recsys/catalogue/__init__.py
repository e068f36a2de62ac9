"""Tests of `milk_recsys.catalogue`."""
