"""Files, errors, processes, checkpoints, random numbers and statistics.

This package imports nothing from the other packages of milk_recsys.
"""
