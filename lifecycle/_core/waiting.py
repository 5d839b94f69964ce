"""Waiting until something is true: `WaitList`, a table of them, and a flag.

**The problem.** "Change, then wake" is two steps. An interrupt between them leaves a waiter asleep beside a
condition that is true. And whoever gives up and tidies away must not take along the place at which another
has just begun to wait.

**The idea.** A *bell* is a lock, taken, whose ``release`` lies in a dict. The first waiter hangs it, and it
is rung once. `wake` is no Python function but one call into C that takes the bell out of the dict and rings
it: CPython looks for signals after a call and on entering a function, so between a store and such a call
there is no place for an interrupt. The thread that the lock wakes lets it go again, for the next one at the
same bell. So threads sleep without a slice.

**Why no wake-up is lost.**

1. A waiter hangs or finds the bell, *then* asks; the changer stores, *then* takes the bell out and rings it.
   One of the two sees the other. A waiter whose bell hangs no more does not sleep.
2. A waiter that gives up takes no bell away. A rung bell is a lock that lies open until the next waiter takes
   it, and whoever took it lets it go in ``finally``: a wake-up is never given to one waiter who could take it
   along.
3. In a `WaitTable` whatever takes a list out wakes it, and a waiter also asks if its list is still the one in
   the table. So the leaver may take an empty list out while another is about to enter it: that one sees it,
   and goes to the new list.
4. `wake` and `Flag.set` are one step for signals. ``self.state = new; self.waiters.wake()`` in one function
   has no interrupt point between the two; for a change that is a call write ``try: change() finally:
   waiters.wake()``.

**What is not exact.** ``loop.call_soon_threadsafe`` is Python code: an interrupt in it costs a coroutine's
wake-up. It is tried again up to `ATTEMPTS` times, and each loop looks at its waiting coroutines every
`LOOP_SLICE` seconds while there are any. Without the GIL iterators must not be shared by threads, so `wake`
is a Python function there, and threads look again in slices.

Relied on: ``dict.pop``, ``dict.setdefault`` and ``lock.release`` are single steps, on keys that are compared
in C; ``for x in iterator`` takes and stores in one step.
"""

from __future__ import annotations

import _thread
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lifecycle._core import runtime

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

SLICE: float | None = 0.02 if runtime.free_threaded else 0.25 if os.name == "nt" else None
"""Seconds after which a sleeping thread asks again unasked, doubled up to `LONGEST_SLICE`; None: never.
Without the GIL an object that this thread made may wait for it to run Python, to die. On Windows a sleeping
lock hears no Ctrl-C."""
LONGEST_SLICE = 0.25
LOOP_SLICE = 0.25
"""Seconds between two looks of an event loop at its waiting coroutines: an interrupt may have lost the call
that wakes the loop."""
LOOK = 0.1
"""Seconds between two calls of ``look``, unless it says otherwise."""
ATTEMPTS = 4
"""Calls that ring the loops, at most, when interrupts strike in them."""

_THREADS, _LOOPS = 0, 1
_noop = int
_call: Callable[[Callable[[], Any]], Any] = getattr(operator, "call", None) or operator.methodcaller(
    "__call__"
)


def _new_bell() -> Callable[[], None]:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock.release


def _ring(bells: dict[int, Callable[[], Any]]) -> None:
    """`WaitList.wake` without the GIL."""
    bell = bells.pop(_THREADS, None)
    if bell is not None:
        bell()
    bell = bells.get(_LOOPS)
    if bell is not None:
        bell()


class WaitList:
    """Threads and coroutines that wait until something is true. All wake, each asks for itself. A waiter may
    be at several lists."""

    __slots__ = ("_bells", "_loops", "here", "hung", "wake")

    wake: Callable[[], object]
    """Wake all. One step for signals, raises nothing, callable in any context: the collector, ``__del__``, a
    signal handler. An attribute and no method, so that no Python code lies between a change and the ring."""
    hung: Mapping[int, object]
    """Empty if nobody waits: ``if waiters.hung: waiters.wake()``. A dict: to ask it runs no Python either."""
    here: dict[object, None]
    """One entry for each waiter."""

    def __init__(self) -> None:
        self._bells: dict[int, Callable[[], Any]] = {}
        self.hung = self._bells
        self._loops: dict[asyncio.AbstractEventLoop, _LoopBell] = {}
        self.here = {}
        self.wake = (
            partial(_ring, self._bells)
            if runtime.free_threaded
            else partial(next, zip(*self.rings(), strict=False))
        )

    def rings(self) -> tuple[Iterator[Any], Iterator[Any]]:
        """Iterators, in C from end to end, each step of which rings once: the threads' bell, and the
        loops'."""
        bells = self._bells
        return (
            map(_call, iter(partial(bells.pop, _THREADS, _noop), None)),
            map(_call, iter(partial(bells.get, _LOOPS, _noop), None)),
        )

    def __len__(self) -> int:
        return len(self.here)

    def wait(
        self,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> T:
        """Block until ``ready()`` is true or `timeout` seconds are over (None: for ever; 0 or less: not at
        all). Return its last answer.

        `ready` is asked on this thread, at any time. It must not take anything that an interrupt could lose.
        `look` is called when `every` seconds were slept in vain; it returns the seconds until it is called
        again (None: as before).
        """
        result = ready()
        if result or (timeout is not None and timeout <= 0):
            return result
        until = None if timeout is None else runtime.monotonic() + timeout
        look_at = runtime.monotonic() + every if look is not None else None
        pause = SLICE
        bells = self._bells
        me = object()
        try:
            self.here[me] = None
            while True:
                bell = bells.get(_THREADS) or bells.setdefault(_THREADS, _new_bell())
                result = ready()
                if result:
                    return result
                left = -1.0
                if pause is not None:
                    left, pause = pause, min(2 * pause, LONGEST_SLICE)
                if until is not None or look_at is not None:
                    now = runtime.monotonic()
                    if until is not None:
                        if now >= until:
                            return result
                        left = _sooner(left, until - now)
                    if look_at is not None and look is not None:
                        if now >= look_at:
                            every = look() or every
                            look_at = runtime.monotonic() + every
                            # It may have brought about what is waited for.
                            continue
                        left = _sooner(left, look_at - now)
                # Rung meanwhile: the lock may have been passed on to nobody.
                if bells.get(_THREADS) is not bell:
                    continue
                rung = False
                try:
                    # What `acquire` said is stored in the step that took the lock.
                    for rung in iter(partial(bell.__self__.acquire, True, left), None):  # type: ignore[attr-defined]  # noqa: B007
                        break
                finally:
                    if rung:
                        # For the next one at this bell.
                        bell()
                # Asked before a new bell is hung: whoever is content leaves none behind.
                result = ready()
                if result:
                    return result
        finally:
            self.here.pop(me, None)

    async def wait_async(
        self,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> T:
        """`wait` in a coroutine of asyncio (also on uvloop): blocks the task and not the loop."""
        result = ready()
        if result or (timeout is not None and timeout <= 0):
            return result
        import asyncio

        loop = asyncio.get_running_loop()
        until = None if timeout is None else runtime.monotonic() + timeout
        look_at = runtime.monotonic() + every if look is not None else None
        loops = self._loops
        me = object()
        bell = None
        try:
            self.here[me] = None
            while True:
                bell = loops.get(loop) or loops.setdefault(loop, _LoopBell(loop))
                if _LOOPS not in self._bells:
                    self._bells[_LOOPS] = partial(_ring_loops, loops)
                future = loop.create_future()
                try:
                    bell.standing[future] = ready
                    result = ready()
                    now = runtime.monotonic()
                    if result or (until is not None and now >= until):
                        return result
                    ends = [end - now for end in (until, look_at) if end is not None]
                    timer = loop.call_later(max(0.0, min(ends)), _set, future) if ends else None
                    try:
                        await future
                    finally:
                        if timer is not None:
                            timer.cancel()
                finally:
                    bell.standing.pop(future, None)
                if look_at is not None and look is not None and runtime.monotonic() >= look_at:
                    every = look() or every
                    look_at = runtime.monotonic() + every
        finally:
            self.here.pop(me, None)
            if bell is not None and not bell.standing and loops.get(loop) is bell:
                loops.pop(loop, None)


def _sooner(left: float, other: float) -> float:
    """The shorter of two times to sleep, of which a negative `left` has no end; not more than the platform
    takes."""
    other = min(other, threading.TIMEOUT_MAX)
    return other if left < 0 else min(left, other)


# -- coroutines ----------------------------------------------------------------------------------------------


def _set(future: asyncio.Future[None]) -> None:
    """On the thread of its loop."""
    if not future.done():
        future.set_result(None)


class _LoopBell:
    """The coroutines of one event loop at one list. Used on the loop's thread alone, but for `ring`."""

    __slots__ = ("__weakref__", "loop", "posted", "standing")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.posted = False
        self.standing: dict[asyncio.Future[None], Callable[[], Any]] = {}
        _ticker(loop).bells[self] = None

    def ring(self) -> None:
        """Have the loop wake its coroutines. Callable on any thread."""
        if self.posted:
            return
        try:
            self.posted = True
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            # The loop is closed: its coroutines never run again.
            self.standing.clear()
        except BaseException:
            self.posted = False
            raise

    def _wake(self) -> None:
        self.posted = False
        for future in list(self.standing):
            _set(future)


def _ring_loops(loops: dict[asyncio.AbstractEventLoop, _LoopBell], attempts: int = ATTEMPTS) -> None:
    try:
        for bell in runtime.snapshot(loops.values()):
            bell.ring()
    except BaseException:
        if attempts > 1:
            _ring_loops(loops, attempts - 1)
        raise


class _Ticker:
    """Looks, for one loop, for coroutines whose wake-up an interrupt has lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.bells: weakref.WeakKeyDictionary[_LoopBell, None] = weakref.WeakKeyDictionary()
        self.timer: object | None = None

    def tick(self) -> None:
        loop = self.loop()
        some = False
        for bell in list(self.bells):
            for future, ready in list(bell.standing.items()):
                some = True
                try:
                    if ready():
                        _set(future)
                except BaseException:
                    # It asks for itself, and is told.
                    _set(future)
        self.timer = loop.call_later(LOOP_SLICE, self.tick) if some and loop is not None else None


_tickers: weakref.WeakKeyDictionary[Any, _Ticker] = weakref.WeakKeyDictionary()


def _ticker(loop: asyncio.AbstractEventLoop) -> _Ticker:
    ticker = _tickers.get(loop)
    if ticker is None:
        ticker = _tickers[loop] = _Ticker(loop)
    if ticker.timer is None:
        ticker.timer = loop.call_later(LOOP_SLICE, ticker.tick)
    return ticker


# -- what is built on it -------------------------------------------------------------------------------------


def _set_and_ring(state: dict[int, bool], bells: dict[int, Callable[[], Any]]) -> None:
    """`Flag.set` without the GIL."""
    state[0] = True
    _ring(bells)


class Flag:
    """Set once, for good. All methods may be called on any thread, `set` in any context."""

    __slots__ = ("set", "state", "waiters")

    set: Callable[[], object]
    """Set it and wake all who wait. One step for signals, as `WaitList.wake`."""
    state: dict[int, bool]
    """Empty until it is set. A dict: to ask it runs no Python."""

    def __init__(self) -> None:
        self.state = {}
        self.waiters = WaitList()
        self.set = (
            partial(_set_and_ring, self.state, self.waiters._bells)
            if runtime.free_threaded
            else partial(
                next,
                zip(iter(partial(self.state.setdefault, 0, True), None), *self.waiters.rings(), strict=False),
            )
        )

    def __bool__(self) -> bool:
        return bool(self.state)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, or for `timeout` seconds (None: for ever). Return if it is."""
        return bool(self.state) or bool(self.waiters.wait(lambda: bool(self.state), timeout))


class WaitTable(dict[Any, WaitList]):
    """A `WaitList` for each of many keys, while somebody waits for it. A dict: if it is empty nobody waits,
    and to ask that runs no Python. Only what stands here may change it."""

    __slots__ = ()

    def wait(
        self,
        key: Any,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> T:
        """As `WaitList.wait`, at the list of `key`."""
        until = None if timeout is None else runtime.monotonic() + timeout
        while True:
            waiters = self._list(key)
            try:
                left = None if until is None else until - runtime.monotonic()
                waiters.wait(partial(self._stirs, key, waiters, ready), left, look=look, every=every)
            finally:
                self._leave(key, waiters)
            result = ready()
            if result or (until is not None and runtime.monotonic() >= until):
                return result

    async def wait_async(
        self,
        key: Any,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> T:
        """As `WaitList.wait_async`, at the list of `key`."""
        until = None if timeout is None else runtime.monotonic() + timeout
        while True:
            waiters = self._list(key)
            try:
                left = None if until is None else until - runtime.monotonic()
                await waiters.wait_async(
                    partial(self._stirs, key, waiters, ready), left, look=look, every=every
                )
            finally:
                self._leave(key, waiters)
            result = ready()
            if result or (until is not None and runtime.monotonic() >= until):
                return result

    def end(self, key: Any) -> None:
        """What is waited for at `key` is so for good: wake all, and take their list out, also one that an
        interrupted wait has left empty. Callable on any thread; may be repeated."""
        waiters = self.get(key)
        if waiters is not None:
            # Before it is taken out, so that an interrupt leaves it where the next call finds it.
            waiters.wake()
            self.pop(key, None)

    def after_fork(self) -> WaitTable:
        """The table of a forked child, where the threads that wait are not. The one that forked, in a signal
        handler in the middle of a wait, is woken; without the GIL it looks by itself, and the locks of these
        dicts may have been taken in the parent."""
        if not runtime.free_threaded:
            for waiters in list(self.values()):
                waiters.wake()
        return WaitTable()

    def _list(self, key: Any) -> WaitList:
        found = self.get(key)
        return self.setdefault(key, WaitList()) if found is None else found

    def _stirs(self, key: Any, waiters: WaitList, ready: Callable[[], object]) -> bool:
        return bool(ready()) or self.get(key) is not waiters

    def _leave(self, key: Any, waiters: WaitList) -> None:
        """An interrupt in here leaves an empty list, which goes when the next one leaves, or with `end`."""
        if not waiters.here:
            # It may be another by now: then who waits there goes on to the next. Nothing looks for signals
            # between the two steps.
            for out in iter(partial(self.pop, key, waiters), None):
                out.wake()
                break
