"""A study: plan, runs, results file, claims, tables and figures."""
