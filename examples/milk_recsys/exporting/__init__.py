"""Results for other programs: tables in blocks, reduced vectors, an index, an item tower."""
