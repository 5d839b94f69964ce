"""An action before every line: the collector, or whatever else may come at the worst moment."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from lifecycle.testing.where import Chooses, library, place_of


class EveryLine:
    """What `every_line` gives: how often it struck, and where."""

    def __init__(self) -> None:
        self.passed = 0
        self.strikes = 0
        self.places: set[str] = set()


@contextlib.contextmanager
def every_line(
    action: Callable[[], object], *, of: Chooses = library, threads: bool = False, step: int = 1
) -> Iterator[EveryLine]:
    """Within the block, run ``action()`` before every line of the code that `of` chooses, on this thread;
    with `threads`, also on every thread that starts in the block. With `step`, before every so many lines
    only. What the action itself calls is not traced, so it may call the library. An exception of the action
    leaves the line it was run at.

    ``every_line(gc.collect)`` is the collector at every line. Uses `sys.settrace`: a debugger or a coverage
    tool sees nothing of the block.
    """
    struck = EveryLine()

    def local(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            struck.passed += 1
            if struck.passed % step == 0:
                struck.strikes += 1
                struck.places.add(place_of(frame))
                action()
        return local

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        return local if of(frame.f_code) else None

    before = sys.gettrace()
    if threads:
        threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield struck
    finally:
        sys.settrace(before)
        if threads:
            threading.settrace(before)
