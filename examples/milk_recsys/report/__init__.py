"""The report of a run: findings, figures, page."""
