"""Waking those who wait, all of them for the price of one.

A bell is made by the first who waits and rung once. Threads stand before it in a row: the first one that is
woken wakes the next, so whoever rings pays for one thread, however many there are. Coroutines of one event
loop are woken by one call into that loop.

No wake-up is lost, if whoever waits takes the bell first and looks again after that, and whoever rings has
changed things first. An interrupt between those two steps of a ringer would lose one, so nobody waits for
longer than `SLICE` without looking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime

if TYPE_CHECKING:
    import asyncio

SLICE = 0.25
"""Seconds for which somebody waits before it looks again."""


class ThreadBell:
    """For any number of threads."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn: runtime.TimedQueue[None] = runtime.TimedQueue()

    def ring(self) -> None:
        """Wake them all. Callable in any context."""
        self._turn.put(None)

    def wait(self, seconds: float) -> None:
        """Stand before the bell for up to so many seconds."""
        try:
            self._turn.get(timeout=seconds)
        except runtime.Empty:
            return
        self._turn.put(None)  # the next in the row


class LoopBell:
    """For the coroutines of one event loop."""

    __slots__ = ("_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake them all. Callable in any context, on any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            self._futures.clear()  # the loop is closed: nobody waits there any more

    def _wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for up to so many seconds. To be called on the loop's own thread."""
        future = self._loop.create_future()
        self._futures.append(future)
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await future
        finally:
            timer.cancel()
            self._futures.remove(future)


class Bells:
    """One bell for all threads and one for each event loop, while somebody waits."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[object, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ring(self) -> None:
        """Wake everybody who waits now. Callable in any context."""
        waiting = self._waiting
        while waiting:
            try:
                bell = waiting.popitem()[1]
            except KeyError:  # another thread was quicker
                return
            bell.ring()

    def for_threads(self) -> ThreadBell:
        """The bell to wait at. Take it, look again, then wait."""
        bell: ThreadBell = self._waiting.get(None) or self._waiting.setdefault(None, ThreadBell())
        return bell

    def for_loop(self, loop: asyncio.AbstractEventLoop) -> LoopBell:
        """The bell of an event loop."""
        bell: LoopBell = self._waiting.get(loop) or self._waiting.setdefault(loop, LoopBell(loop))
        return bell

    def forget(self) -> None:
        """Nobody waits any more: in a forked child."""
        self._waiting.clear()


def until(timeout: float | None) -> Callable[[], float]:
    """How many seconds are left of `timeout`, from now on; None is for ever. Never more than one `SLICE`, 0
    or less when over."""
    if timeout is None:
        return lambda: SLICE
    end = runtime.monotonic() + timeout
    return lambda: min(SLICE, end - runtime.monotonic())
