"""Top items, negatives and metrics, as functions of tensors."""
