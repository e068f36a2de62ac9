"""One run: its start, the training loop, evaluation, progress, and scoring with a finished run."""
