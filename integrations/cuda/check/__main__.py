"""``python -m lifecycle.integrations.cuda.check``."""

from __future__ import annotations

import sys

from lifecycle.integrations.cuda.check.run import main

if __name__ == "__main__":
    sys.exit(main())
