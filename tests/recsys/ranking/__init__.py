"""Tests of `milk_recsys.ranking`."""
