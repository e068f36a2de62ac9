"""Methods that recommend new items, one folder per method."""
