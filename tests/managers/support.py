"""What the tests of the facades share."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

from lifecycle._core import runtime

RARELY = 25
"""Without the GIL there are no young collections, and each takes its time: then every 25th line has to do."""


def collector() -> Callable[[], object]:
    """A collection, for `every_line`."""
    turn = itertools.count()

    def collect() -> None:
        if not runtime.free_threaded or next(turn) % RARELY == 0:
            gc.collect(1)

    return collect
