"""Tests of `milk_recsys.report`."""
