"""Callbacks that GStreamer calls: nothing they raise reaches C, and who ends them knows whether one still
runs.

What leaves a Python callback inside PyGObject is printed and lost, and C is given zero, which means *drop
this buffer* to a probe. So each runs inside a boundary: what is declared is an error, everything else a panic
(any `BaseException`, also `SystemExit`), both are counted, and C gets the answer that lets the data pass.
Ctrl-C that strikes in there is not the callback's: it is raised again on the main thread.

**Who keeps the function.** What GStreamer keeps it keeps in C, where the collector does not look: a function
there that leads back to its guard (a method of the object that has the guard, a closure over it) would keep
both for ever. So what GStreamer is given knows the function weakly, and the guard alone keeps it (`Kept`).
Guard, function and owner then form a circle of Python objects, which the collector takes apart; the guard is
dropped by that, which ends the callback and is reported.
"""

from __future__ import annotations

import _thread
import itertools
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from lifecycle import ClosedError, SafetyManager
from lifecycle.config import exception_types
from lifecycle.errors import CallbackError
from lifecycle.integrations.gstreamer.errors import GuardError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.guard import Core, Guard
from lifecycle.integrations.gstreamer.pipelines.threads import may_wait, stands_at
from lifecycle.lowlevel import check_callback, check_timeout, no_wait_threads

__all__ = [
    "CALLBACK_WAIT",
    "Callback",
    "CallbackCore",
    "CallbackGuard",
    "Kept",
    "check_function",
    "close_each",
    "forget_frames",
    "is_foreign_thread",
    "once_each",
]

C = TypeVar("C", bound=Core)

CALLBACK_WAIT: Final = 5.0
"""Seconds for which closing waits for a callback that is still running, unless told otherwise."""
_next: Callable[[], int] = itertools.count().__next__


class Kept:
    """Keeps a function for the owner of the guard. Takes the weak reference that functions themselves may
    not."""

    __slots__ = ("__weakref__", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function: Callable[..., Any] = function


class Callback:
    """A user's function behind the boundary. Calling it never raises. It does not keep the function: `kept`
    does, which is to be held by whoever wants it called.

    Parameters
    ----------
    manager, name, type_name:
        The manager that reports a panic, and the names in the report.
    function:
        What is called. A coroutine or generator function is refused (`CallbackError`): its body would never
        run.
    errors:
        What it may raise: counted and otherwise nothing. The manager's own where none are given.
        `ConfigError` for what are no exception classes.
    fallback:
        What C is given after an exception, and once the callback is ended.
    streams:
        Whether it is called on streaming threads alone; otherwise each call looks which kind of thread it is
        on.
    """

    def __init__(
        self,
        manager: SafetyManager,
        name: str,
        type_name: str,
        function: Callable[..., Any],
        errors: tuple[type[BaseException], ...] = (),
        fallback: Any = None,
        streams: bool = False,
    ) -> None:
        check_function(function, f"{name}: a callback")
        self.manager = manager
        self.name = name
        self.type_name = type_name
        self.errors: tuple[type[BaseException], ...] = exception_types(errors, f"{name}: errors=")
        self.fallback = fallback
        self.streams = streams
        self.calls: int = 0
        self.failures: int = 0
        self.error: BaseException | None = None
        self.kept: Kept | None = Kept(function)
        self._function: Callable[[], Kept | None] = weakref.ref(self.kept)
        self._running: dict[int, int] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns, or the fallback. Called by GStreamer, on any thread."""
        me = key = kept = None
        mark = False
        try:
            try:
                key = _next()
                self._running[key] = me = threading.get_ident()
                if me not in no_wait_threads:
                    mark = self.streams or is_foreign_thread()
                if mark:
                    no_wait_threads.add(me)
                kept = self._function()
                if kept is None:
                    return self.fallback
                self.calls += 1
                return kept.function(*arguments)
            except BaseException as error:
                self.contain(error)
                return self.fallback
            finally:
                arguments = ()
                kept = None
                self._running.pop(key, None)  # type: ignore[arg-type]
                if mark:
                    no_wait_threads.discard(me)
        except BaseException as error:  # an interrupt, of what was to be done beside the call
            self._running.pop(key, None)  # type: ignore[arg-type]
            if mark:
                no_wait_threads.discard(me)
            self.contain(error)
            return self.fallback

    def contain(self, error: BaseException) -> None:
        """Count and report what has left the function, and keep it without its frames."""
        self.failures += 1
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            _thread.interrupt_main()
        elif isinstance(error, ClosedError):  # something of the library's was closed: the end, and no panic
            self.manager.report_error(self.name, error, type_name=self.type_name)
        elif not isinstance(error, self.errors or self.manager.config.errors):
            self.manager.report_panic(self.name, error, type_name=self.type_name)
        forget_frames(error)
        self.error = error

    def end(self) -> None:
        """Call the function no more."""
        self._function = _nothing

    def hand_over(self) -> Kept:
        """What keeps the function; from here on it is the caller's to hold."""
        kept, self.kept = self.kept, None
        if kept is None:
            raise GuardError(f"{self.name}: its function has been handed over already")
        return kept

    def wait(self, timeout: float | None) -> bool:
        """Wait until no call of it runs on any other thread than this, `timeout` seconds at most; whether
        none does."""
        me = threading.get_ident()
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while any(ident != me for ident in list(self._running.values())):
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(pause)
            pause = min(0.01, pause * 2)
        return True

    @property
    def where(self) -> tuple[int, ...]:
        """The threads it runs on now."""
        return tuple(self._running.values())


class CallbackCore(Core):
    """Base of the cores that have a callback called: what they do at their end may be done twice."""

    callback: Callback

    def leave(self) -> None:
        """Have GStreamer call it no more. May be done twice, and goes on where it was interrupted."""
        raise NotImplementedError

    def release(self) -> None:
        """No further call; then GStreamer is left, whatever interrupts."""
        try:
            self.callback.end()
            self.leave()
        except BaseException:
            # K6: a release is not called again.
            self.callback.end()
            self.leave()
            raise


class CallbackGuard(Guard[C]):
    """Base of the guards that have a callback called."""

    _callback: Callback
    _kept: Kept | None = None
    """The function, which nothing else of ours keeps: dropped with the guard."""

    @property
    def calls(self) -> int:
        """How often the callback was called."""
        return self._callback.calls

    @property
    def error(self) -> BaseException | None:
        """The last exception of the callback, without its traceback."""
        return self._callback.error

    def close(self, timeout: float | None = CALLBACK_WAIT) -> bool:
        """Have it called no more; True when that is done and no call runs any more. Waits up to `timeout`
        seconds for one that runs on another thread (not on a streaming thread), which GStreamer's own
        functions do not, and raises `StateTimeout`, which says where that call stands, when it is over."""
        check_timeout(timeout)
        callback = self._callback
        try:
            done = super().close()
        finally:
            self._kept = None
        if timeout == 0 or not may_wait() or callback.wait(timeout):
            return done and not callback.where
        blocked = tuple(filter(None, map(stands_at, callback.where)))
        raise StateTimeout(
            f"{self!r}: its callback has not returned within {timeout:g} s and stands in "
            f"{', '.join(blocked)}; it is called no more",
            blocked=blocked,
        )


def _nothing() -> None:
    """The function of a callback that was ended."""


def once_each(call: Callable[[Any], object], ids: list[Any]) -> None:
    """``call(id)`` for each of `ids`, which is empty then. Whoever pops an id calls, in one step of C: once,
    however many do this at the same time, and whatever interrupts."""
    try:
        for _ in map(call, iter(ids.pop, None)):
            pass
    except IndexError:  # how `pop` says that this was all
        return


def close_each(closes: Iterable[Callable[[], bool]]) -> bool:
    """Call each of `closes`, whatever another raises and whatever interrupts; whether all are done. What was
    raised first comes out when all have been called."""
    done = True
    failed: BaseException | None = None
    try:
        for close in closes:
            try:
                done = close() and done
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed
    finally:
        failed = None  # it would keep this frame, and this frame it
    return done


def check_function(function: Any, what: str) -> None:
    """Refuse what cannot be called, and what would only make a coroutine or generator then
    (`CallbackError`)."""
    if not callable(function):
        raise CallbackError(f"{what} takes a function, not {function!r}")
    check_callback(function, what)


def is_foreign_thread() -> bool:
    """Return True if this thread was not started by Python: GStreamer's, most likely."""
    me = threading.get_ident()
    return not any(
        thread.ident == me and not isinstance(thread, threading._DummyThread)
        for thread in threading.enumerate()
    )


def forget_frames(error: BaseException) -> None:
    """Empty the frames of a handled exception and of what it came from: they would keep leases, arrays and so
    buffers alive."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        current = chain.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current.__traceback__ = None
        chain += [current.__cause__, current.__context__]
