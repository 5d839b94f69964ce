"""The stop token: how closing a manager reaches every producer.

A producer (a capture, a receiver, a pool, a loop, a thread of the user's) that still makes objects while its
manager closes would leak them or be refused in the middle of its work. The token tells it before a single
door is shut: it can be asked, waited for, and called back from; and closing waits, within its budget, for the
threads that were attached to it.

Setting is one step, for signals too: no lock, so a signal handler may close its manager anywhere, and an
interrupt that strikes the closing thread leaves no waiter asleep.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable

from lifecycle._core import runtime
from lifecycle._core.checks import check_callback, check_timeout
from lifecycle._core.idioms import struck_on_entry, taking
from lifecycle._core.keeping import Uncopied
from lifecycle._core.waiting import Flag, poll
from lifecycle.errors import ClosedError, RegistrationError, text_of

LOOK = 0.02
"""Seconds between two looks at a thread of the program's, at most."""


def _runs(thread: threading.Thread) -> bool:
    """Return True if `thread` runs Python. One that Python did not start says for ever that it is alive:
    between two callbacks, and once it has ended, the interpreter has no frames of it."""
    if isinstance(thread, threading._DummyThread):
        return thread.ident in sys._current_frames()
    return not runtime.has_ended(thread)


class StopToken(Uncopied):
    """It is set when its manager begins to close: `SafetyManager.stopping`. All methods may be called on any
    thread, at any moment.

    The order is: the token is set, and all that wait for it wake; the callbacks are called, the last added
    first; the close waits for the attached threads, within its timeout. Only then are objects closed.
    """

    _remedy = "pass the token itself"

    __slots__ = ("__weakref__", "_callbacks", "_flag", "_owner", "_threads", "set")

    set: Callable[[], object]
    """Set the token and wake the waiting threads: the manager does, when it begins to close. Setting twice is
    setting once."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._flag = Flag()
        self.set = self._flag.set
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    @property
    def is_set(self) -> bool:
        """True if the manager closes or is closed."""
        return bool(self._flag.state)

    def __bool__(self) -> bool:
        """As `is_set`: ``while not manager.stopping``."""
        return bool(self._flag.state)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the manager begins to close, or for `timeout` seconds (None: for ever). Returns whether
        it does. Where waiting is not allowed (`never_wait`, inside a collection) it answers at once."""
        check_timeout(timeout)
        if self._flag.state or timeout == 0 or runtime.must_not_wait():
            return bool(self._flag.state)
        return self._flag.wait(timeout)

    def check(self) -> None:
        """Raise `ClosedError` once the manager closes: for the head of a loop."""
        if self._flag.state:
            raise ClosedError(f"{self._owner} is closing: stop producing; make a new manager to go on")

    def on_stop(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Have ``fn()`` called when the manager begins to close, at once if it does already. The latest added
        is called first; what it raises is collected in the `ShutdownReport`. Returns a function that takes it
        back."""
        check_callback(fn, "on_stop callback")
        key = runtime.next_id()
        self._callbacks[key] = fn
        if self._flag.state and self._callbacks.pop(key, None) is not None:
            fn()

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def attach(self, thread: threading.Thread | None = None) -> None:
        """Have `close` wait for `thread` (None: this one), which is to end once the token is set. Kept
        weakly. A thread that outlives the budget is named in the report's `running`. One that Python did not
        start, as those of a C library, is waited for while it runs Python."""
        thread = threading.current_thread() if thread is None else thread
        if not isinstance(thread, threading.Thread):
            raise RegistrationError(f"attach() takes a threading.Thread or None for this one, not {thread!r}")
        self._threads.add(thread)

    # -- the manager's side ----------------------------------------------------------------------------------

    def call_back(
        self, call: Callable[[Callable[[], object]], object] | None = None
    ) -> tuple[list[str], KeyboardInterrupt | None]:
        """Call the callbacks, each by way of `call` where that is given. What they raised, as texts; and the
        first Ctrl-C that struck in one, which is for the user and stops none of the others."""
        errors: list[str] = []
        interrupt = None
        tried: set[int] = set()
        # Taken and not called yet; called, and what was raised.
        entry: tuple[int, Callable[[], object]] | None = None
        struck: tuple[int, Callable[[], object], BaseException] | None = None
        try:
            while self._callbacks:
                try:
                    for entry in taking(self._callbacks.popitem):  # noqa: B007 - K2
                        break
                except KeyError:
                    break
                key, fn = entry  # type: ignore[misc]
                entry = None
                try:
                    fn() if call is None else call(fn)
                except BaseException as error:
                    struck = key, fn, error
                    if key not in tried and struck_on_entry(error, fn, None):
                        # Nothing of it ran: it is called again, once.
                        tried.add(key)
                        self._callbacks[key] = fn
                    else:
                        errors.append(f"{fn!r}: {text_of(error)}")
                    if isinstance(error, KeyboardInterrupt) and runtime.on_main_thread():
                        interrupt = interrupt or error
                    struck = None
        except BaseException:
            # The next close of the manager calls the rest.
            if entry is not None:
                self._callbacks[entry[0]] = entry[1]
            if struck is not None and struck_on_entry(struck[2], struck[1], None):
                self._callbacks[struck[0]] = struck[1]
            raise
        finally:
            struck = None  # its traceback keeps this frame
        return errors, interrupt

    def join(self, until: float) -> tuple[str, ...]:
        """Wait for the attached threads until the clock says `until`; the names of those that still run."""
        running = []
        for thread in runtime.snapshot(self._threads):
            if thread is threading.current_thread() or not _runs(thread):
                continue
            # Not joined: up to 3.12 a Ctrl-C in there makes a thread that runs say that it has ended.
            if not poll(lambda thread=thread: not _runs(thread), until - runtime.monotonic(), longest=LOOK):  # type: ignore[misc]
                running.append(thread.name)
        return tuple(sorted(running))

    def after_fork(self) -> None:
        """In the child: the threads belong to the parent."""
        self._threads = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<StopToken of {self._owner}: {'set' if self._flag.state else 'not set'}>"
