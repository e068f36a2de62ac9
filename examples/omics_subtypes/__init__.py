"""Training methods and kernel regressions on cancer subtypes; test patients lack an assay."""
