"""Buses that nobody reads: what waits there is let go.

**The problem.** Each message on a bus keeps the element that posted it, with everything that the element
keeps. If the bus of a pipeline is never read, it keeps every part that was ever removed, and the last frame
of each. This matters for a pipeline that runs for days with parts that come and go.

**The idea.** A thread looks at the buses of guarded pipelines twice a second. Where the same message has been
first in line for `PATIENCE` seconds, nobody reads, and it goes, with all that wait behind it up to one that a
program may still come to ask for: an error, the end of the stream, what the application has posted itself.
Such a one gets `LONG_PATIENCE`; then everything goes that waits by then, so a bus holds what comes in a few
seconds at most. `PipelineGuard` has heard of errors and the end by then. A bus that is read, by a `BusWatch`,
a main loop or the program, is left alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import Gst

__all__ = ["LONG_PATIENCE", "PATIENCE", "leave_bus", "sweep", "watch_bus"]

PATIENCE: Final = 1.0
"""Seconds after which a message of passing interest that nobody fetches is dropped."""
LONG_PATIENCE: Final = 5.0
"""The same where the message first in line is one that programs wait for."""
PERIOD: Final = 0.5

AWAITED: Final[Any] = (
    Gst.MessageType.ERROR
    | Gst.MessageType.EOS
    | Gst.MessageType.SEGMENT_DONE
    | Gst.MessageType.APPLICATION
    | Gst.MessageType.REQUEST_STATE
)
HEARD: Final[Any] = (
    Gst.MessageType.ERROR | Gst.MessageType.WARNING | Gst.MessageType.EOS | Gst.MessageType.SEGMENT_DONE
)
"""What the journal has had already."""
MOST: Final = 100_000
"""How many messages are taken at a time: of a bus on which more arrive than can be taken."""


class _Bus:
    """One bus: what was first in line, and since when."""

    def __init__(self, bus: Any, note: Callable[[Any], object]) -> None:
        self.bus = bus
        self.note = note
        self.first: Any = None  # held, so that its address is nobody else's
        self.since = 0.0
        self.unread = False  # known from the last look

    def look(self, now: float) -> None:
        """Take what waits, where the same message has been first in line for too long."""
        first = self.bus.peek()
        if first is None or self.first is None or hash(first) != hash(self.first):
            self.unread = self.unread and first is None
            self.first, self.since = first, now
        elif now - self.since >= PATIENCE:
            self.unread = True
            self.drop(now)

    def drop(self, now: float) -> None:
        """Take messages up to one that is to wait, unless somebody turns out to read."""
        first = self.bus.peek()
        same = first is not None and self.first is not None and hash(first) == hash(self.first)
        everything = same and now - self.since >= LONG_PATIENCE
        for _ in range(MOST):
            if first is None or (first.type & AWAITED and not everything):
                break
            taken = self.bus.pop()
            if taken is None or hash(taken) != hash(first):
                self.unread = False
                break
            if not taken.type & HEARD:
                self.note(taken)
            first = self.bus.peek()
        if first is None or self.first is None or hash(first) != hash(self.first):
            self.first, self.since = first, now


_buses: dict[int, _Bus] = {}
_thread: list[threading.Thread] = []


def watch_bus(bus: Any, note: Callable[[Any], object]) -> int:
    """Look after a bus; returns what `leave_bus` takes. ``note(message)`` is called with what is dropped."""
    key = id(bus)
    _buses[key] = _Bus(bus, note)
    if not (_thread and _thread[0].is_alive()):
        thread = threading.Thread(target=_run, name="gst-bus-drain", daemon=True)
        _thread[:] = [thread]
        try:
            thread.start()
        except RuntimeError:  # the interpreter shuts down: nothing will pile up any more
            _thread.clear()
    return key


def leave_bus(key: int) -> None:
    """Look after it no more."""
    _buses.pop(key, None)


def sweep(key: int) -> None:
    """Where a bus is known to be read by nobody, drop what is of passing interest now: a part of the pipeline
    has just left."""
    watched = _buses.get(key)
    if watched is not None and watched.unread:
        watched.drop(time.monotonic())


def _run() -> None:
    me = threading.current_thread()
    while _thread and _thread[0] is me:
        time.sleep(PERIOD)
        for watched in list(_buses.values()):
            watched.look(time.monotonic())
        watched = None  # type: ignore[assignment]
        if not _buses:
            _thread.clear()
            if _buses:  # one came just now, and may have seen this thread alive
                _thread.append(me)
