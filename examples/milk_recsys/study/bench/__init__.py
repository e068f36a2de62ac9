"""The benchmark for methods outside of the package: tasks, lists, scores, audit and standings."""
