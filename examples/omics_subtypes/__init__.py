"""Seven training methods on breast cancer subtypes, where all test patients lack an assay."""
