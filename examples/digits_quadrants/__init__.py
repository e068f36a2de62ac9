"""Training methods and kernel regressions on digits whose quadrants may be hidden."""
