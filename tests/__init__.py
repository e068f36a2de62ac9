"""The tests, a package so that its shared parts can be imported."""
