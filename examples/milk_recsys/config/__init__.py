"""Options and the command line. Importing this subpackage does not import torch."""
