"""Tests of the other examples."""
