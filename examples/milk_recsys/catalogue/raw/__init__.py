"""Reading of raw files: which format, which separator and encoding, and what the cells mean."""
