"""`python -m pysock`: the command line, where the `pysock` command is not on the path."""

import sys

from pysock.cli import main

if __name__ == "__main__":
    sys.exit(main())
