"""The command ``invmod``: a summary of missing data, and a robustness report with a gate."""

from invmod.cli.command import main

__all__ = ["main"]
