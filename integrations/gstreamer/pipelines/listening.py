"""The listener: reads the errors of a pipeline without taking them from other readers.

A bus has one reader, which is the program's own business. What is posted can be heard beside it, on the
thread that posts it. So a thread that waits for frames, or for room, learns at once that none will come.

An error belongs to the run of the pipeline in which it came (`Errors`), and to the branch of a tee in which
it happened, if it did in one (`scopes`).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import filterfalse
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.errors import PipelineError
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.integrations.gstreamer.pipelines.guard import path_of
from lifecycle.integrations.gstreamer.pipelines.scopes import concerns
from lifecycle.integrations.gstreamer.pipelines.threads import contained
from lifecycle.lowlevel import snapshot

__all__ = [
    "KEPT_ERRORS",
    "ErrorListener",
    "Errors",
    "error_of",
    "tell_listeners",
    "tell_run_begins",
]

KEPT_ERRORS: Final = 16
"""How many errors are kept: the last ones."""


def error_of(message: Any) -> PipelineError:
    """The error in a bus message, as an exception that names element, text and debug text."""
    error, debug = message.parse_error()
    element = message.src.get_name()
    place = (debug or "").split("\n")[-1].strip()
    return PipelineError(
        f"element {element!r} ({path_of(message.src)}) failed: "
        f"{error.message}{f' ({place})' if place else ''}",
        element=element,
        text=error.message,
        debug=debug or "",
    )


class Errors:
    """The last errors of a pipeline's run: from one NULL→READY, or READY→PAUSED, to the next. The pipeline
    itself says PAUSED only when its sinks have had something; the first of its elements that does so begins
    the run.

    Nothing else clears them. The start of a stream does not: with several sinks it is told when the last of
    them has seen it, and the first may have failed by then.
    """

    def __init__(self) -> None:
        self._all: deque[PipelineError] = deque(maxlen=KEPT_ERRORS)
        self._past = 0  # how many of these are of runs before, once the next has begun
        self._idle = False  # the pipeline has gone back to READY

    def add(self, error: PipelineError) -> None:
        """An element has failed."""
        if len(self._all) == KEPT_ERRORS:
            self._past = max(0, self._past - 1)
        self._all.append(error)

    def changed(self, before: Any, state: Any, whole: bool) -> bool:
        """The pipeline (`whole`) or an element of it has gone from one state to the next; whether a run has
        begun by that."""
        if whole and state == Gst.State.READY:
            if before != Gst.State.NULL:
                self._past = len(self._all)
                self._idle = True
                return False
            self.clear()
            return True
        if self._idle and before == Gst.State.READY and state == Gst.State.PAUSED:
            self._idle = False
            past, self._past = self._past, 0
            for _ in range(min(past, len(self._all))):
                self._all.popleft()
            return True
        return False

    def clear(self) -> None:
        """They are history."""
        self._idle = False
        self._past = 0
        self._all.clear()

    def now(self) -> tuple[PipelineError, ...]:
        """The errors of this run, oldest first. (A list first: others change it meanwhile.)"""
        return tuple(snapshot(self._all))

    def __bool__(self) -> bool:
        return bool(self._all)


_of_bus: dict[tuple[int, int], weakref.ref[ErrorListener]] = {}
"""The connected listeners, by bus and listener."""


def tell_listeners(bus: Any, message: Any) -> None:
    """Have an error of `bus` heard before anything is done about it. What ends a failed part may wake whoever
    waits for its frames, and that is to find the error; the listeners' own handlers are called too late."""
    number = pointer_of(bus)
    for (of, _), each in snapshot(_of_bus.items()):
        listener = each() if of == number else None
        if listener is not None:
            listener.hear(message)


def tell_run_begins(bus: Any) -> None:
    """A guard of the pipeline with that bus is about to have it run. What is asked of a capture from here on
    is about that run, though none of the elements has begun."""
    number = pointer_of(bus)
    for (of, _), each in snapshot(_of_bus.items()):
        listener = each() if of == number else None
        if listener is not None:
            listener.on_run()


class ErrorListener:
    """Hears the errors of the pipeline that `element` is in, from `listen` until `close`. Callable on any
    thread."""

    def __init__(self, element: Any) -> None:
        self._element = element
        self._bus: Any = None
        self._listening: list[int] = []  # its handlers of ours
        self._emitting: list[Any] = []  # it, as often as it was asked to emit
        self._errors = Errors()
        self._heard = 0  # the number of the last message
        self._key = (0, id(self))
        self.on_playing: Callable[[], object] = int
        """Called when the pipeline has reached PLAYING, on whatever thread that is."""
        self.on_run: Callable[[], object] = int
        """Called when a run of the pipeline begins, or is asked of its guard; again where both."""

    def listen(self) -> None:
        """Begin, if the element is in a pipeline by now; does nothing where it listens already."""
        if self._bus is not None:
            return
        top = self._element
        while top is not None and (parent := top.get_parent()) is not None:
            top = parent
        bus = top.get_bus() if top is not None and top is not self._element else None
        if bus is None:
            return
        me = weakref.ref(self)
        pipeline = pointer_of(top)
        self._bus = bus

        @contained()
        def heard(bus: Any, message: Any) -> None:
            listener = me()
            if listener is not None:
                listener.hear(message)

        @contained()
        def changed(bus: Any, message: Any) -> None:
            listener = me()
            if listener is not None:
                whole = pointer_of(message.src) == pipeline
                before, state, _ = message.parse_state_changed()
                if listener._errors.changed(before, state, whole):
                    listener.on_run()
                if whole and state == Gst.State.PLAYING:
                    listener.on_playing()

        self._key = key = (pointer_of(bus), id(self))
        _of_bus[key] = weakref.ref(self, partial(_of_bus.pop, key))
        for signal, handler in (("error", heard), ("state-changed", changed)):
            # Each is done and known in one call into C: no interrupt falls between.
            self._emitting.extend(filterfalse(Gst.Bus.enable_sync_message_emission, (bus,)))
            self._listening.extend(map(bus.connect, (f"sync-message::{signal}",), (handler,)))

    def hear(self, message: Any) -> None:
        """Note the error `message`, if it concerns the element, once."""
        number = message.get_seqnum()
        if number != self._heard and concerns(message.src, self._element):
            self._heard = number
            self._errors.add(error_of(message))

    @property
    def error(self) -> PipelineError | None:
        """The first error since the pipeline was started, if there was one. A new one each time: it keeps no
        traceback."""
        for first in self._errors.now()[:1]:
            return first.again()
        return None

    def close(self) -> None:
        """Listen no more. What was heard stays known. Calling twice is calling once."""
        _of_bus.pop(self._key, None)
        if self._bus is not None:
            once_each(self._bus.disconnect, self._listening)
            once_each(Gst.Bus.disable_sync_message_emission, self._emitting)
        self._element = None
