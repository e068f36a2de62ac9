"""Tests of `milk_recsys`, in the folders of its rooms."""
