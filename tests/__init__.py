"""Tests; a package, so that test modules can import shared helpers."""
