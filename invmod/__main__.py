"""``python -m invmod``, the same as the command ``invmod``."""

import sys

from invmod.cli import main

if __name__ == "__main__":
    sys.exit(main())
