"""Data sets as others publish them, turned into the layout of `milk_recsys.data`."""
