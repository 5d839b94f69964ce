"""``python -m lifecycle``: the command line."""

import sys

from lifecycle.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
