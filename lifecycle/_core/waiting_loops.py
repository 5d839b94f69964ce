"""The half of `waiting` that belongs to coroutines: asyncio, uvloop and trio.

**What is not exact.** ``loop.call_soon_threadsafe`` is Python code: an interrupt in it costs the coroutines
of that loop their wake-up. So the loops are rung up to `ATTEMPTS` times through interrupts, and each loop of
asyncio looks at those of its coroutines that wait every `LOOP_SLICE` seconds, while there are any: one timer
a loop. It asks ``ready``, and wakes no coroutine in vain. A task of trio looks by itself as often.

A wait is undone by its coroutine, in ``finally``, on the thread of the loop: a task that is cancelled takes
no wake-up along, since all coroutines of a loop are woken by one call.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lifecycle._core import runtime

if TYPE_CHECKING:
    import asyncio

    from lifecycle._core.waiting import Line, WaitList

T = TypeVar("T")

LOOP_SLICE = 0.25
"""Seconds between two looks of an event loop at its waiting coroutines: an interrupt may have lost the call
that wakes the loop."""
ATTEMPTS = 4
"""Calls that ring the loops, at most, when interrupts strike in them."""

LOOPS = 1
"""The key of the loops' bell in `WaitList.hung`."""

standing: dict[object, tuple[WaitList | Line, int]] = {}
"""All waiting coroutines of this process, and their threads: for the child of a fork, in which the others are
not."""


def _set(future: asyncio.Future[None]) -> None:
    """On the thread of its loop."""
    if not future.done():
        future.set_result(None)


class LoopBell:
    """The coroutines of one event loop at one list. Used on the loop's thread alone, but for `ring`."""

    __slots__ = ("__weakref__", "post", "posted", "standing")

    def __init__(self, post: Callable[[Callable[[], None]], object]) -> None:
        self.post = post
        self.posted = False
        self.standing: dict[Callable[[], object], Callable[[], Any]] = {}
        """What wakes each, and what it waits for."""

    def ring(self) -> None:
        """Have the loop wake its coroutines. Callable on any thread."""
        if self.posted:
            return
        try:
            self.posted = True
            self.post(self.wake)
        except RuntimeError:
            # The loop is closed: its coroutines never run again.
            self.standing.clear()
        except BaseException:
            self.posted = False
            raise

    def wake(self) -> None:
        """On the loop's thread."""
        self.posted = False
        for wake in list(self.standing):
            wake()


def ring_loops(loops: dict[Any, LoopBell], attempts: int = ATTEMPTS) -> None:
    """Ring the bell of each loop."""
    try:
        for bell in runtime.snapshot(loops.values()):
            bell.ring()
    except BaseException:
        if attempts > 1:
            ring_loops(loops, attempts - 1)
        raise


class _Ticker:
    """Looks, for one loop, for coroutines whose wake-up an interrupt has lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.bells: weakref.WeakKeyDictionary[LoopBell, None] = weakref.WeakKeyDictionary()
        self.timer: object | None = None

    def tick(self) -> None:
        loop = self.loop()
        some = False
        for bell in list(self.bells):
            for wake, ready in list(bell.standing.items()):
                some = True
                try:
                    if ready():
                        wake()
                except BaseException:
                    # It asks for itself, and is told.
                    wake()
        self.timer = loop.call_later(LOOP_SLICE, self.tick) if some and loop is not None else None


_tickers: weakref.WeakKeyDictionary[Any, _Ticker] = weakref.WeakKeyDictionary()


def _bell_of(loop: asyncio.AbstractEventLoop) -> LoopBell:
    """A new one, looked after by the ticker of its loop."""
    bell = LoopBell(loop.call_soon_threadsafe)
    ticker = _tickers.get(loop)
    if ticker is None:
        ticker = _tickers[loop] = _Ticker(loop)
    if ticker.timer is None:
        ticker.timer = loop.call_later(LOOP_SLICE, ticker.tick)
    ticker.bells[bell] = None
    return bell


async def wait(
    waiters: WaitList,
    ready: Callable[[], T],
    timeout: float | None,
    look: Callable[[], float | None] | None,
    every: float,
) -> T:
    """`WaitList.wait_async`."""
    result = ready()
    if result or (timeout is not None and timeout <= 0):
        return result
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        if "trio" not in sys.modules:
            raise
        return await _wait_in_trio(waiters, ready, timeout, look, every)
    until = None if timeout is None else runtime.monotonic() + timeout
    look_at = runtime.monotonic() + every if look is not None else None
    loops = waiters.loops
    me = object()
    bell = None
    try:
        standing[me] = (waiters, runtime.get_ident())
        waiters.here[me] = None
        while True:
            bell = loops.get(loop) or loops.setdefault(loop, _bell_of(loop))
            if LOOPS not in waiters.hung:
                waiters.hung[LOOPS] = partial(ring_loops, loops)
            future = loop.create_future()
            wake = partial(_set, future)
            try:
                bell.standing[wake] = ready
                result = ready()
                now = runtime.monotonic()
                if result or (until is not None and now >= until):
                    return result
                ends = [end - now for end in (until, look_at) if end is not None]
                timer = loop.call_later(max(0.0, min(ends)), wake) if ends else None
                try:
                    await future
                finally:
                    if timer is not None:
                        timer.cancel()
            finally:
                bell.standing.pop(wake, None)
            if look_at is not None and look is not None and runtime.monotonic() >= look_at:
                every = look() or every
                look_at = runtime.monotonic() + every
    finally:
        _leave(waiters, me, loop, bell)


async def _wait_in_trio(
    waiters: WaitList,
    ready: Callable[[], T],
    timeout: float | None,
    look: Callable[[], float | None] | None,
    every: float,
) -> T:
    trio: Any = importlib.import_module("trio")
    token = trio.lowlevel.current_trio_token()
    until = None if timeout is None else runtime.monotonic() + timeout
    look_at = runtime.monotonic() + every if look is not None else None
    loops = waiters.loops
    me = object()
    bell = None
    try:
        standing[me] = (waiters, runtime.get_ident())
        waiters.here[me] = None
        while True:
            bell = loops.get(token) or loops.setdefault(token, LoopBell(token.run_sync_soon))
            if LOOPS not in waiters.hung:
                waiters.hung[LOOPS] = partial(ring_loops, loops)
            event = trio.Event()
            wake = partial(event.set)
            try:
                bell.standing[wake] = ready
                result = ready()
                now = runtime.monotonic()
                if result or (until is not None and now >= until):
                    return result
                ends = [end - now for end in (until, look_at) if end is not None]
                with trio.move_on_after(max(0.0, min([LOOP_SLICE, *ends]))):
                    await event.wait()
            finally:
                bell.standing.pop(wake, None)
            if look_at is not None and look is not None and runtime.monotonic() >= look_at:
                every = look() or every
                look_at = runtime.monotonic() + every
    finally:
        _leave(waiters, me, token, bell)


def _leave(waiters: WaitList, me: object, loop: Any, bell: LoopBell | None) -> None:
    try:
        standing.pop(me, None)
    finally:
        waiters.here.pop(me, None)
        if bell is not None and not bell.standing and waiters.loops.get(loop) is bell:
            waiters.loops.pop(loop, None)


def after_fork(loops: dict[Any, LoopBell], mine: bool) -> None:
    """In a forked child: forget loops that run on threads of the parent. To ring one would write into its
    socket. Those of the thread that forked look."""
    for loop, bell in list(loops.items()):
        if mine:
            bell.wake()
        else:
            loops.pop(loop, None)
