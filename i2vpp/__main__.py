"""`python -m i2vpp` is the `i2vpp` command, of the interpreter that runs it."""

import sys

from i2vpp.cli import main

if __name__ == "__main__":
    sys.exit(main())
