"""A queue whose timed ``get`` ends in time on every CPython. `lifecycle._core.runtime` is where the package
takes it from.

**What is wrong with the standard one.** Up to CPython 3.12 ``queue.SimpleQueue.get(timeout=…)`` waits for
ever if its deadline is past when it goes round its loop a second time: it works out what is left as a
negative number, which its lock takes for «no limit» (``_queuemodule.c``; 3.13 looks at the sign first). It
goes round after taking the lock of a queue on which nobody has waited since the last ``put``, and after a
signal whose handler did not raise. So one preemption at the wrong moment is enough.

**The idea.** The items lie in a deque, beside a lock that is taken while there is nothing to wake for.
``put`` lets it go, a waiter takes it: ``lock.acquire(timeout=…)`` has the sign right. Nothing else here
waits, so ``put`` may be called wherever ``SimpleQueue.put`` may be: in the collector, in a signal handler, in
the middle of another call of it on the same thread. What it is not is a single step: an interrupt between the
item and the call delays the waiting thread by a part of `SLICE`.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

__all__ = ["TimedQueue"]

T = TypeVar("T")

SLICE = 0.25
"""Seconds after which a waiting thread looks again by itself."""


class LockQueue(Generic[T]):
    """First in, first out, unbounded; any number of threads may put and get."""

    __slots__ = ("_items", "_sleep")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._sleep = _thread.allocate_lock()
        self._sleep.acquire()

    def qsize(self) -> int:
        """How many are in it."""
        return len(self._items)

    def empty(self) -> bool:
        """Return True if none is in it."""
        return not self._items

    def put(self, item: T) -> None:
        """Add one. Callable in any context."""
        self._items.append(item)
        self._wake()

    def _wake(self) -> None:
        try:
            self._sleep.release()
        except RuntimeError:
            return  # whoever comes next need not wait anyway

    def get_nowait(self) -> T:
        """The oldest. Raises `queue.Empty`."""
        try:
            item = self._items.popleft()
        except IndexError:
            raise Empty from None
        if self._items:
            self._wake()  # two puts wake once: the next in the row is woken by who was
        return item

    def get(self, timeout: float | None = None) -> T:
        """The oldest; waits for one, up to `timeout` seconds. Raises `queue.Empty`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self.get_nowait()
            except Empty:
                left = SLICE if until is None else until - time.monotonic()
                if left <= 0:
                    raise
            self._sleep.acquire(timeout=min(left, SLICE))


if TYPE_CHECKING or sys.version_info >= (3, 13):
    TimedQueue = SimpleQueue
else:
    TimedQueue = LockQueue
