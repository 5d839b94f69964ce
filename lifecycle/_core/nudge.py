"""Everything is lent and nothing comes back: perhaps only garbage holds it.

**The problem.** Python's collector runs when objects are made, not when native memory, or a pool's items, run
out; and a thread that waits for a buffer makes no objects. If unused reference cycles hold the buffers, it
waits for ever.

**The idea.** A waiting thread passes in what is lent. If that has not changed since its last call, nothing
has come back, and the collector is run: its young generations first, which takes about a millisecond, then
all of them, then again after twice the time. It is run ever more rarely, because the holders may be in use,
and every thread feels the pause of a full collection.

A program that has disabled the collector is left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from lifecycle._core import runtime

FIRST = 0.1
"""Seconds without anything coming back after which the young generations are collected."""
FULL = 1.0
"""Seconds from there to the first full collection; doubled for each that follows."""
LONGEST = 15.0
"""Seconds between two full collections at most."""

YOUNG, ALL = 1, 2


class CollectorNudge:
    """Watches one pool of anything. All methods may be called on any thread and at any moment."""

    __slots__ = ("_due", "_lent", "_pause")

    def __init__(self) -> None:
        self._lent: object = None
        self._pause = 0.0
        self._due = 0.0

    def look(self, lent: Callable[[], object]) -> bool:
        """Nothing is there: whether the collector was run. ``lent()`` says what is lent: something that is
        equal as long as nothing has come back. On threads that must not wait the collector runs on a thread
        of its own, and the answer is False."""
        now = runtime.monotonic()
        if now < self._due or not runtime.collector_enabled():
            return False
        found = lent()
        if found != self._lent:
            self._lent = found
            self._pause = 0.0
            self._due = now + FIRST
            return False
        collect = _collect_all if self._pause else _collect_young
        self._pause = min(2 * self._pause or FULL, LONGEST)
        self._due = now + self._pause
        if runtime.must_not_wait():
            runtime.run_apart(collect)
            return False
        collect()
        return True


def _collect_young() -> None:
    runtime.collect(YOUNG)


def _collect_all() -> None:
    runtime.collect(ALL)
