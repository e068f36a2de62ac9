"""MILK and its ablations."""
