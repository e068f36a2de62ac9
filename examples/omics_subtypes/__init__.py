"""Subtypes of breast cancer from three assays, one of which no test patient has: seven ways to train, compared."""
