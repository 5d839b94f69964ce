"""`WaitList`: threads and coroutines that wait until something is true, and no wake-up that is lost.

**The problem.** "Change, then wake" is two steps. An interrupt between them leaves a waiter asleep beside a
condition that is true. And a waiter that gives up must not remove an entry at which another one has just
begun to wait.

**The idea.** A *bell* is a lock, taken, whose ``release`` lies in a dict. The first waiter hangs it, and it
is rung once. `wake` is no Python function but one call into C that takes the bell out of the dict and rings
it: CPython looks for signals after a call and on entering a function, so between a store and such a call
there is no place for an interrupt. The thread that the lock wakes lets it go again, for the next one at the
same bell. So threads sleep without a slice.

**Why it holds.** `tests/core/test_waiting.py` has a test of each.

W1, no wake-up is lost:
    A waiter hangs or finds the bell, *then* asks; the changer stores, *then* takes the bell out and rings it.
    One of the two sees the other. A waiter whose bell hangs no more does not sleep, and a waiter that gives
    up takes no bell away.
W2, a wake-up is not lost with a waiter that gives up:
    It is not given to one waiter. A rung bell is a lock that stays open until the next waiter takes it, and
    the waiter that took it lets it go in ``finally``, before CPython looks for signals.
W3, an interrupt loses nothing:
    ``self.state = new; self.waiters.wake()`` in one function has no interrupt point between the two. For a
    change that is a call write ``try: change() finally: waiters.wake()``. Coroutines may be late, see
    `waiting_loops`.
W4, `wake` waits for nothing and raises nothing, in any context:
    It is ``dict.pop`` and ``lock.release``; the bell of a loop catches what its loop raises.
W5, a fork:
    The child forgets the waiters on threads that it does not have. Those of its own thread check: they may
    have been the next at a lock that a thread of the parent was about to let go.
W6, without the GIL:
    All steps are single operations on dicts. Iterators must not be shared by threads there, so `wake` is a
    Python function, and threads look again in slices.
W7, timeouts are exact:
    ``acquire(True, left)`` with ``0 < left <= TIMEOUT_MAX``, and the clock is asked before each sleep.
W8, `wake` costs the same for any number of waiters:
    The bell is one lock, and the coroutines of a loop are one call.
W9, nothing is left behind:
    An entry goes in ``finally``. Of bells one at most is left hanging.
W10, a wait can be explained:
    `look` is called while it lasts. A `WaitTable` has a key for what is waited for.

Relied on: ``dict.pop``, ``dict.setdefault`` and ``lock.release`` are single steps, on keys that are compared
in C; ``for x in iterator`` takes and stores in one step (K2).
"""

from __future__ import annotations

import _thread
import operator
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lifecycle._core import runtime, waiting_loops
from lifecycle._core.waiting_loops import LOOPS, LoopBell

T = TypeVar("T")

SLICE: float | None = 0.02 if runtime.free_threaded else 0.25 if os.name == "nt" else None
"""Seconds after which a sleeping thread asks again unasked, doubled up to `LONGEST_SLICE`; None: never.
Without the GIL an object that this thread made may wait for it to run Python, to die. On Windows a sleeping
lock hears no Ctrl-C."""
LONGEST_SLICE = 0.25
LOOK = 0.1
"""Seconds between two calls of ``look``, unless it says otherwise."""

_THREADS = 0
noop = int
ring: Callable[[Callable[[], Any]], Any] = getattr(operator, "call", None) or operator.methodcaller(
    "__call__"
)
era: object = object()
"""Another one in each forked child, without the GIL. The locks of dicts that other threads were changing stay
taken there, so the child makes new dicts and touches none of those."""


def _new_bell() -> Callable[[], None]:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock.release


def _sooner(left: float, other: float) -> float:
    """The shorter of two times to sleep, of which a negative `left` has no end; not more than the platform
    takes."""
    other = min(other, threading.TIMEOUT_MAX)
    return other if left < 0 else min(left, other)


class WaitList:
    """Threads and coroutines that wait until something is true. All wake, each asks for itself. A waiter may
    be at several lists."""

    wake: Callable[..., object]
    """Wake all. One step for signals, raises nothing, callable in any context: the collector, ``__del__``, a
    signal handler. An attribute and no method, so that no Python code lies between a change and the ring."""
    hung: dict[int, Callable[[], Any]]
    """Empty if nobody waits: ``if waiters.hung: waiters.wake()``. A dict: to ask it runs no Python either."""
    loops: dict[Any, LoopBell]
    """By event loop."""
    here: dict[object, Callable[[], None] | None]
    """One entry for each waiter: the bell at which it sleeps."""
    era: object

    if TYPE_CHECKING or not runtime.free_threaded:
        __slots__ = ("__weakref__", "era", "here", "hung", "loops", "wake")

        def __init__(self) -> None:
            self.hung = {}
            self.loops = {}
            self.here = {}
            self.wake = partial(next, zip(*self.rings(), strict=False))

        def rings(self) -> tuple[Iterator[Any], Iterator[Any]]:
            """Iterators, in C from end to end, each step of which rings once: the threads' bell, and the
            loops'."""
            hung = self.hung
            return (
                map(ring, iter(partial(hung.pop, _THREADS, noop), None)),
                map(ring, iter(partial(hung.get, LOOPS, noop), None)),
            )

    else:
        __slots__ = ("__weakref__", "era", "here", "hung", "loops")

        def __init__(self) -> None:
            self._renew()

        def wake(self, *_: object) -> None:
            if self.era is not era:
                self._renew()
            bell = self.hung.pop(_THREADS, None)
            if bell is not None:
                bell()
            bell = self.hung.get(LOOPS)
            if bell is not None:
                bell()

    def _renew(self) -> None:
        """Begin with nobody: see `era`."""
        self.era = era
        self.hung = {}
        self.loops = {}
        self.here = {}

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
        all). Return its last answer. On a thread that must not wait every timeout is 0.

        `ready` is asked on this thread, at any time. It must not take anything that an interrupt could lose,
        and what it returns must not change its truth. `look` is called when `every` seconds were slept in
        vain; it returns the seconds until it is called again (None: as before).
        """
        result = ready()
        if result or (timeout is not None and timeout <= 0) or runtime.must_not_wait():
            return result
        until = None if timeout is None else runtime.monotonic() + timeout
        look_at = runtime.monotonic() + every if look is not None else None
        pause = SLICE
        me = object()
        try:
            waiting_loops.standing[me] = (self, runtime.get_ident())
            self.here[me] = None
            while True:
                if runtime.free_threaded and self.era is not era:
                    self._renew()
                hung = self.hung
                bell = hung.get(_THREADS) or hung.setdefault(_THREADS, _new_bell())
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
                # In a child that was forked from here on `_after_fork` lets this bell go. If it was forked in
                # `ready`, the bell hangs no more, and a thread of the parent may have its lock.
                self.here[me] = bell
                if hung.get(_THREADS) is not bell:
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
                # Asked before a new bell is hung: a waiter that is done leaves none behind.
                result = ready()
                if result:
                    return result
        finally:
            # The table of all first: what an interrupt leaves in the other is one number too many.
            try:
                waiting_loops.standing.pop(me, None)
            finally:
                self.here.pop(me, None)

    def wait_async(
        self,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> Coroutine[Any, Any, T]:
        """`wait` in a coroutine of asyncio (also on uvloop) or trio: blocks the task and not the loop."""
        return waiting_loops.wait(self, ready, timeout, look, every)

    def _after_fork(self, me: object, mine: bool) -> None:
        """In a forked child, for one that waited here; `mine`: on the thread that forked. That one looks: it
        may have been the next at a lock that another thread was about to let go."""
        waiting_loops.after_fork(self.loops, mine)
        if not mine:
            self.here.pop(me, None)
            return
        self.wake()
        bell = self.here.get(me)
        if bell is not None:
            _let_go(bell)


def _let_go(bell: Callable[[], None]) -> None:
    try:
        bell()
    except RuntimeError:
        # It lies open: whoever comes next need not wait at it.
        return


def _after_fork() -> None:
    global era
    if runtime.free_threaded:
        # The one that forked in the middle of a wait looks in a moment, as it does all the time.
        waiting_loops.standing = {}
        era = object()
        return
    thread = runtime.get_ident()
    for me, (waiters, ident) in list(waiting_loops.standing.items()):
        waiters._after_fork(me, ident == thread)
        if ident != thread:
            waiting_loops.standing.pop(me, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
