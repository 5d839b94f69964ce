"""The one wait of threads and coroutines, in its forms: `WaitList` and what is built on it.

=============  ===============================================================================================
`WaitList`     all wake, each asks for itself
`WaitTable`    a `WaitList` for each key, while somebody waits for it
`Line`         turns: only the first is asked
`Flag`         set once, for good
`Reply`        one answer to one question
`Inbox`        items for a thread that lives from them
`poll` for what wakes no waiter; `await_thread` for the end of a thread =============
===============================================================================================

Why no wake-up is lost is said in `waiting_list`, and here where a form adds to it.
"""

from __future__ import annotations

import bisect
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lifecycle._core import runtime, waiting_list, waiting_loops
from lifecycle._core.waiting_list import LOOK, WaitList, noop, ring

__all__ = ["Flag", "Inbox", "Line", "Reply", "WaitList", "WaitTable", "await_thread", "poll"]

T = TypeVar("T")


class _Never:
    """What no iterator yields. Equal to nothing, and says so in C: `iter` compares each item with it."""

    __slots__ = ()
    __eq__ = ().__contains__
    __hash__ = None  # type: ignore[assignment]


_NEVER: Any = _Never()


class Flag:
    """Set once, for good. All methods may be called on any thread, `set` in any context."""

    set: Callable[..., object]
    """Set it and wake all who wait. One step for signals, as `WaitList.wake`. Takes the argument that a
    callback is given: ``weakref.ref(obj, flag.set)``."""
    state: dict[int, bool]
    """Empty until it is set. A dict: to ask it runs no Python."""
    waiters: WaitList

    if TYPE_CHECKING or not runtime.free_threaded:
        __slots__ = ("__weakref__", "set", "state", "waiters")

        def __init__(self) -> None:
            self.state = {}
            self.waiters = WaitList()
            self.set = partial(
                next,
                zip(iter(partial(self.state.setdefault, 0, True), None), *self.waiters.rings(), strict=False),
            )

    else:
        __slots__ = ("__weakref__", "state", "waiters")

        def __init__(self) -> None:
            self.state = {}
            self.waiters = WaitList()

        def set(self, *_: object) -> None:
            self.state[0] = True
            self.waiters.wake()

    @property
    def is_set(self) -> bool:
        """True once it is set."""
        return bool(self.state)

    def __bool__(self) -> bool:
        return bool(self.state)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, or for `timeout` seconds (None: for ever). Return if it is."""
        return bool(self.state) or self.waiters.wait(self.__bool__, timeout)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """`wait` in a coroutine."""
        return bool(self.state) or await self.waiters.wait_async(self.__bool__, timeout)


_GAVE_UP = ("gave up",)


class Reply(Generic[T]):
    """One answer to one question: the first answer is kept, and giving up is an answer too."""

    __slots__ = ("_box", "_waiters")

    def __init__(self) -> None:
        self._box: dict[int, tuple[Any, ...]] = {}
        self._waiters = WaitList()

    def offer(self, value: T) -> bool:
        """Give the answer. Return False if there is an answer already, or the waiter has given up. If an
        interrupt is raised here, `has` says if the answer is `value`."""
        mine = (value,)
        try:
            return self._box.setdefault(0, mine) is mine
        finally:
            self._waiters.wake()

    def has(self, value: T) -> bool:
        """Return True if the answer is this very object."""
        answer = self._box.get(0, _GAVE_UP)
        return answer is not _GAVE_UP and answer[0] is value

    def get(self, timeout: float | None = None) -> T:
        """Block until there is an answer, or for `timeout` seconds (None: for ever), and return it. It stays.
        Raises `queue.Empty`."""
        answer = self._waiters.wait(partial(self._box.get, 0), timeout)
        if answer is None or answer is _GAVE_UP:
            raise Empty
        return answer[0]  # type: ignore[no-any-return]

    def give_up(self) -> T | None:
        """Take no answer from now on. Return the one that was there, or None."""
        try:
            answer = self._box.setdefault(0, _GAVE_UP)
        finally:
            self._waiters.wake()
        return None if answer is _GAVE_UP else answer[0]


class Inbox(Generic[T]):
    """Items for a thread that lives from them: first in, first out, unbounded. Any thread may put and get.

    `put` is one step into C and callable in any context. It may be the callback of a weak reference: there is
    no Python code between a death and its arrival here.
    """

    __slots__ = ("_items", "_waiters", "put", "takes")

    put: Callable[[T], object]
    """Add one, and wake the waiting threads."""
    takes: Iterator[T]
    """Takes the oldest at each step, so that ``for item in takes`` also stores it. Ends by raising
    `queue.Empty`, or `IndexError`."""

    if sys.version_info >= (3, 13):

        def __init__(self) -> None:
            self._items: SimpleQueue[T] = SimpleQueue()
            self.put = self._items.put
            self.takes = iter(self._items.get_nowait, _NEVER)

        def __len__(self) -> int:
            return self._items.qsize()

        def get(self, timeout: float | None = None) -> T:
            """Block until there is an item, or for `timeout` seconds (None: for ever), and return the oldest.
            Raises `queue.Empty`. On a thread that must not wait every timeout is 0."""
            if (timeout is not None and timeout <= 0) or runtime.must_not_wait():
                return next(self.takes)
            left = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            return next(iter(partial(self._items.get, True, left), _NEVER))

    else:
        # There `SimpleQueue.get` with a timeout may wait for ever (`runtime.TimedQueue`).

        def __init__(self) -> None:
            self._items: deque[T] = deque()
            self._waiters = WaitList()
            # A put and a ring in one call: `insort_right` calls its key for the item, then inserts that at 0.
            # The GIL is not let go between the two, so the order is no matter.
            self.put = partial(
                bisect.insort_right,
                self._items,
                lo=0,
                hi=0,
                key=partial(next, zip(*self._waiters.rings(), strict=False)),
            )
            self.takes = iter(self._items.pop, _NEVER)

        def __len__(self) -> int:
            return len(self._items)

        def get(self, timeout: float | None = None) -> T:
            """Block until there is an item, or for `timeout` seconds (None: for ever), and return the oldest.
            Raises `queue.Empty`. On a thread that must not wait every timeout is 0."""
            until = None if timeout is None else runtime.monotonic() + timeout
            while True:
                try:
                    return next(self.takes)
                except IndexError:
                    left = None if until is None else until - runtime.monotonic()
                if not self._waiters.wait(partial(len, self._items), left):
                    raise Empty

    def take(self, into: deque[T], limit: int | None = None) -> None:
        """Move what is there to the end of `into`, `limit` items at most: an interrupt falls before or behind
        it, and loses none."""
        try:
            into.extend(self.takes if limit is None else itertools.islice(self.takes, limit))
        except (IndexError, Empty):
            return


class WaitTable(dict[Any, WaitList]):
    """A `WaitList` for each key that is waited for. It is a dict: if it is empty there is no waiter, and that
    check runs no Python code. Change it by the methods of this class only.

    Whatever takes a list out wakes it, and a waiter also asks if its list is still the one in the table. So
    the leaver may take an empty list out while another is about to enter it: that one sees it, and goes to
    the new list.
    """

    __slots__ = ()

    def wait(
        self,
        key: Any,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
        entered: Callable[[WaitList], object] | None = None,
    ) -> T:
        """As `WaitList.wait`, at the list of `key`. `entered` is called with that list before the first
        question, and what it returns is kept until the wait is over: a weak reference with ``wake`` as its
        callback, for a death that is waited for as well."""
        until = None if timeout is None else runtime.monotonic() + timeout
        kept = None
        while True:
            waiters = self._list(key)
            try:
                if entered is not None:
                    kept = entered(waiters)
                left = None if until is None else until - runtime.monotonic()
                waiters.wait(partial(self._stirs, key, waiters, ready), left, look=look, every=every)
            finally:
                kept = None  # noqa: F841
                self._leave(key, waiters)
            result = ready()
            if result or (until is not None and runtime.monotonic() >= until) or runtime.must_not_wait():
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

    def wake(self, key: Any) -> None:
        """Wake all who wait at `key`. Callable on any thread."""
        waiters = self.get(key)
        if waiters is not None:
            waiters.wake()

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


class Line:
    """A queue of waiting threads: only the first is asked if it is ready, so no thread overtakes another, and
    `wake` wakes one.

    A thread that leaves, with or without success, wakes the thread that is then the first, which asks again:
    so no wake-up is lost with a thread that gives up. If several threads could go on, the next one is the
    first as soon as the one before it has left.
    """

    __slots__ = ("__weakref__", "_era", "_heads", "_row", "first", "wake")

    wake: Callable[[], object]
    """Wake the first. As `WaitList.wake`."""
    first: WaitList
    """Where the first one waits. Others may wait there too, who want no turn but are woken with it."""

    def __init__(self) -> None:
        self.first = WaitList()
        self.wake = self.first.wake
        self._renew()

    def _renew(self) -> None:
        self._era = waiting_list.era
        self._row: dict[object, Callable[[], Any]] = {}
        # Each step wakes who is first then.
        heads = map(next, map(iter, itertools.repeat(self._row.values())), itertools.repeat(noop))
        self._heads: Iterator[Any] = map(ring, heads)

    def __len__(self) -> int:
        return len(self._row)

    def wait(
        self,
        ready: Callable[[], T],
        timeout: float | None = None,
        *,
        look: Callable[[], float | None] | None = None,
        every: float = LOOK,
    ) -> T | None:
        """As `WaitList.wait`, but `ready` is asked only while this thread is the first. Return its last
        answer, None if it was not asked."""
        if runtime.free_threaded and self._era is not waiting_list.era:
            self._renew()
        row = self._row
        if not row:
            result = ready()
            if result:
                return result
        else:
            result = None
        if (timeout is not None and timeout <= 0) or runtime.must_not_wait():
            return result
        until = None if timeout is None else runtime.monotonic() + timeout
        me = object()
        mine = WaitList()
        leave = self._leaving(me)
        try:
            try:
                waiting_loops.standing[me] = (self, runtime.get_ident())
                row[me] = mine.wake
                if not mine.wait(partial(_is_first, row, me), timeout):
                    return None
                return self.first.wait(
                    ready, None if until is None else until - runtime.monotonic(), look=look, every=every
                )
            finally:
                leave()
        finally:
            # Again, for an interrupt in the other.
            leave()

    def _leaving(self, me: object) -> Callable[[], object]:
        """What takes `me` out and wakes the next, in one step for signals. May be called twice."""
        if runtime.free_threaded:
            return partial(_leave, self._row, me)
        standing = waiting_loops.standing
        return partial(
            next,
            zip(
                iter(partial(self._row.pop, me, noop), None),
                iter(partial(standing.pop, me, noop), None),
                self._heads,
                strict=False,
            ),
        )

    def _after_fork(self, me: object, mine: bool) -> None:
        """As `WaitList._after_fork`. One of the thread that forked looks at its own list."""
        if not mine:
            self._row.pop(me, None)


def _leave(row: dict[object, Callable[[], Any]], me: object) -> None:
    row.pop(me, None)
    waiting_loops.standing.pop(me, None)
    for wake in runtime.snapshot(row.values()):
        wake()
        return


def _is_first(row: dict[object, Callable[[], Any]], me: object) -> bool:
    while True:
        try:
            return next(iter(row), me) is me
        except RuntimeError:
            # It changed between the two steps.
            continue


def ending_with(over: Flag, target: Callable[[], object]) -> Callable[[], None]:
    """What a thread is to run whose end is waited for with `await_thread`."""

    def run() -> None:
        try:
            target()
        finally:
            over.set()

    return run


def await_thread(thread: threading.Thread, over: Flag, timeout: float) -> bool:
    """Block until `thread`, whose last act sets `over`, has ended, or for `timeout` seconds: if it has.
    One that ends without its last act is seen to as well."""
    until = runtime.monotonic() + timeout
    ended = partial(runtime.has_ended, thread)
    over.waiters.wait(lambda: over.is_set or ended(), timeout, look=_noop_look)
    return poll(ended, until - runtime.monotonic())


def _noop_look() -> None:
    """That it is called has `ready` asked again."""


def poll(ready: Callable[[], T], timeout: float | None, *, first: float = 0.0005, longest: float = 0.02) -> T:
    """Block until ``ready()`` is true or `timeout` seconds are over (None: for ever), and return its last
    answer: for what can tell nobody. Asked again after `first` seconds, then ever more rarely, up to
    `longest`. On a thread that must not wait every timeout is 0."""
    until = None if timeout is None else runtime.monotonic() + timeout
    pause = first
    while True:
        result = ready()
        if result or runtime.must_not_wait():
            return result
        left = pause if until is None else min(pause, until - runtime.monotonic())
        if left <= 0:
            return result
        runtime.sleep(left)
        pause = min(2 * pause, longest)
