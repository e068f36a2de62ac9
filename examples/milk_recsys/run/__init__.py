"""One run: its beginning, the training loop, evaluation, progress, and the scorer of a finished run."""
