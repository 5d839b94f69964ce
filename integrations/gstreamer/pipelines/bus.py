"""`BusWatch`: the bus read on a thread of its own, its handlers behind the boundary.

A bus that is not read grows, and an error on it goes unnoticed: the pipeline stands still without a message.
One watch reads one bus; handlers run on its thread, one at a time, so they may stop the pipeline and wait for
it. `PipelineGuard` hears errors without it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, Final, TypeVar

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.errors import GuardError, PipelineError
from lifecycle.integrations.gstreamer.pipelines.callbacks import Callback, Kept
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Core,
    Guard,
    check_manager,
    check_seconds,
    or_nothing,
    path_of,
)
from lifecycle.integrations.gstreamer.pipelines.listening import KEPT_ERRORS, error_of
from lifecycle.integrations.gstreamer.pipelines.pipeline import PipelineGuard
from lifecycle.lowlevel import Flag, Reply

__all__ = ["BusWatch"]

SLICE: Final = 0.05
"""Seconds for which the thread waits for a message before it looks around."""

HANDLER_WAIT: Final = 2.0
"""Seconds for which closing waits for a handler that runs: below the deadline of the release that it is part
of."""

F = TypeVar("F", bound=Callable[[Any], Any])


class _BusCore(Core):
    def __init__(self, bus: Any, name: str) -> None:
        self.bus = bus
        self.handlers: list[tuple[frozenset[str], Callback]] = []
        self.waiting: dict[int, tuple[frozenset[str], Reply[Any]]] = {}
        self.errors: deque[PipelineError] = deque(maxlen=KEPT_ERRORS)
        self.messages = 0
        self.stopped = Flag()
        self.thread = threading.Thread(target=self.run, name=f"gst-bus-{name}", daemon=True)

    def run(self) -> None:
        """The thread."""
        wait = int(SLICE * 1e9)
        while not self.stopped:
            message = self.bus.timed_pop(wait)
            if message is not None:
                self.messages += 1
                self.dispatch(message)
            message = None

    def dispatch(self, message: Any) -> None:
        """Give one message to all its receivers."""
        if message.type == Gst.MessageType.ERROR:
            self.errors.append(error_of(message))
        kind = Gst.MessageType.get_name(message.type)
        for kinds, callback in list(self.handlers):
            if (not kinds or kind in kinds) and not self.stopped:
                callback(message)
        for key, (kinds, reply) in list(self.waiting.items()):
            if not kinds or kind in kinds:
                self.waiting.pop(key, None)
                reply.offer(message)

    def release(self) -> None:
        """No further message; the thread ends (unless it is the one that closes)."""
        self.stop()
        if self.thread.ident not in (None, threading.get_ident()):
            # A handler may itself wait for this: in `SafetyManager.close`, or for who closes the watch. The
            # thread ends as it returns, and calls no other.
            self.thread.join(HANDLER_WAIT)
        self.handlers.clear()

    def stop(self) -> None:
        """Call no handler from here on. Waits for nothing."""
        self.stopped.set()
        for _, reply in list(self.waiting.values()):
            reply.offer(None)
        for _, callback in list(self.handlers):
            callback.end()


class BusWatch(Guard[_BusCore]):
    """Reads a bus until it is closed.

    ::

        watch = BusWatch(manager, pipeline)

        @watch.on("error")
        def failed(message):
            print(message.parse_error()[0].message)

    Parameters
    ----------
    manager:
        Owns the watch, and is told of panics in handlers.
    source:
        A `PipelineGuard`, a `Gst.Pipeline` or a `Gst.Bus`. One watch at a time reads a bus (`DuplicateError`
        otherwise): two would take each other's messages.
    name:
        Shown in messages and reports; the source's own name by default.
    """

    type_name: ClassVar[str] = "gst.BusWatch"

    @or_nothing
    def __init__(self, manager: SafetyManager, source: Any, *, name: str | None = None) -> None:
        check_manager(manager, "BusWatch(manager, source)")
        if isinstance(source, PipelineGuard):
            source = source.pipeline
        if isinstance(source, Gst.Element) and source.get_parent() is not None:
            raise GuardError(
                f"BusWatch: element {source.get_name()!r} is part of {path_of(source.get_parent())!r}, where "
                "its messages go; watch the pipeline, whose messages name their source"
            )
        bus = source.get_bus() if isinstance(source, Gst.Element) else source
        if not isinstance(bus, Gst.Bus):
            raise GuardError(f"BusWatch takes a PipelineGuard, a Gst.Pipeline or a Gst.Bus, not {source!r}")
        name = name or source.get_name()
        self._kept: list[Kept] = []  # the handlers' functions, which the thread knows weakly
        self._register(manager, _BusCore(bus, name), name, pointer_of(bus))
        with self._handle.lease() as core:
            core.thread.start()
            self._ident = core.thread.ident

    def on(self, *kinds: str, errors: tuple[type[BaseException], ...] = ()) -> Callable[[F], F]:
        """Decorator: call the function with every message of these kinds (``"error"``, ``"eos"``,
        ``"state-changed"``, …; all where none is given), on the watch's thread. What it raises is contained
        and reported. Raises `GuardError` for a kind that GStreamer does not know."""
        wanted = _kinds(kinds)
        name = f"bus handler of {self.name}"

        def add(function: F) -> F:
            callback = Callback(self.manager, name, self.type_name, function, errors)
            self._kept.append(callback.hand_over())
            with self._handle.lease() as core:
                core.handlers.append((wanted, callback))
            return function

        return add

    def wait(self, *kinds: str, timeout: float) -> Any:
        """The next `Gst.Message` of these kinds (any where none is given) that comes from now on, or None
        after `timeout` seconds. Not from a handler, which runs on the thread that would bring it
        (`GuardError`).

        What came before it is asked is not for it: for errors and the end of a stream that plays already use
        `PipelineGuard.wait`, which has heard of them."""
        check_seconds(timeout, f"bus watch {self.name!r}: wait(timeout=)")
        reply: Reply[Any] = Reply()
        with self._handle.lease() as core:
            if core.thread.ident == threading.get_ident():
                raise GuardError(
                    f"bus watch {self.name!r} was asked to wait in one of its handlers, which run on the "
                    "thread that reads the bus"
                )
            waiting = core.waiting
            waiting[id(reply)] = (_kinds(kinds), reply)
            if core.stopped:  # it may not have seen this one
                reply.offer(None)
        try:
            message = reply.get(timeout)
            if message is None:
                self._handle.lease()
            return message
        except Empty:
            return None
        finally:
            waiting.pop(id(reply), None)
            message = None

    def close(self) -> bool:
        """Call no handler any more, and leave the bus to others; True when that is done and no handler runs.

        A handler that runs is waited for, up to two seconds. Called in a handler, which may close its own
        watch, it calls no further handler, and the answer is False: the thread ends as that handler returns.
        """
        if threading.get_ident() != self._ident:
            return super().close()
        if self._handle.valid:
            with self._handle.lease() as core:
                core.stop()
        return self._handle.close(timeout=0)

    @property
    def errors(self) -> tuple[PipelineError, ...]:
        """The last 16 errors it has read, oldest first."""
        with self._handle.lease() as core:
            return tuple(core.errors)

    @property
    def messages(self) -> int:
        """How many messages it has read."""
        with self._handle.lease() as core:
            return core.messages


def _kinds(kinds: tuple[str, ...]) -> frozenset[str]:
    values = (getattr(Gst.MessageType, name) for name in dir(Gst.MessageType) if name.isupper())
    known = {str(Gst.MessageType.get_name(value)) for value in values if isinstance(value, Gst.MessageType)}
    for kind in kinds:
        if kind not in known:
            raise GuardError(f"there is no bus message {kind!r}; there are {', '.join(sorted(known))}")
    return frozenset(kinds)
