"""Tests of `milk_recsys.methods`."""
