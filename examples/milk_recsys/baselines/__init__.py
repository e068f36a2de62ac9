"""Recommenders of new items to compare MILK with, one file each, in one shape (`shape.Baseline`).

Nothing here inherits from another: each file is read by itself, beside the paper that it comes from. Importing this
package, or its options, needs no torch.
"""
