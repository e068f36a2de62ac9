"""Handwritten digits of which quadrants may be hidden: seven ways to train, compared."""
