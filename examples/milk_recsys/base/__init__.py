"""Files, errors, processes, checkpoints, random numbers and statistics. Imports nothing from the other rooms."""
