"""Top items, negative samples and ranking metrics, as functions of tensors."""
