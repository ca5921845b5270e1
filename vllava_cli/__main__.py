"""`python -m vllava_cli` is `vllava`."""

import sys

from vllava_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
