"""Options and the command line. Imports no torch."""
