"""The ear: what a pipeline reports as an error, heard without taking it from anybody.

A bus has one reader, which is the program's own business. What is posted can be heard beside it, on the
thread that posts it. So whoever waits for frames, or for room, learns at once that none will come.

An error belongs to the run of the pipeline in which it came, and is known until the next one streams. The
start of a stream alone says nothing of that: with several sinks it is told when the last of them has seen it,
and the first may have failed by then.
"""

from __future__ import annotations

import weakref
from itertools import filterfalse
from typing import Any

from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import PipelineError
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.integrations.gstreamer.pipelines.guard import pointer_of
from lifecycle.integrations.gstreamer.pipelines.news import error_of
from lifecycle.integrations.gstreamer.pipelines.threads import contained

__all__ = ["Ear"]


class Ear:
    """Hears the errors of the pipeline that `element` is in, from `listen` until `close`. Callable on any
    thread."""

    def __init__(self, element: Any) -> None:
        self._element = element
        self._bus: Any = None
        self._listening: list[int] = []  # its handlers of ours
        self._emitting: list[Any] = []  # it, as often as it was asked to emit
        self._errors: list[PipelineError] = []
        self._past = 0  # how many of these are of runs before

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
            ear = me()
            if ear is not None:
                ear._errors.append(error_of(message))

        @contained()
        def changed(bus: Any, message: Any) -> None:
            ear = me()
            if (
                ear is not None
                and pointer_of(message.src) == pipeline
                and message.parse_state_changed()[1] == Gst.State.READY  # stopped, or about to start
            ):
                ear._past = len(ear._errors)

        @contained()
        def started_anew(bus: Any, message: Any) -> None:
            ear = me()
            if ear is not None:
                past, ear._past = ear._past, 0
                del ear._errors[:past]

        for signal, handler in (("error", heard), ("state-changed", changed), ("stream-start", started_anew)):
            # Each is done and known in one call into C: no interrupt falls between.
            self._emitting.extend(filterfalse(Gst.Bus.enable_sync_message_emission, (bus,)))
            self._listening.extend(map(bus.connect, (f"sync-message::{signal}",), (handler,)))

    @property
    def error(self) -> PipelineError | None:
        """The first error since the pipeline was started, if there was one. A new one each time: it keeps no
        traceback."""
        for first in self._errors[:1]:  # once: another thread may clear them
            return PipelineError(str(first), element=first.element, text=first.text, debug=first.debug)
        return None

    def close(self) -> None:
        """Listen no more. What was heard stays known. Calling twice is calling once."""
        if self._bus is not None:
            once_each(self._bus.disconnect, self._listening)
            once_each(Gst.Bus.disable_sync_message_emission, self._emitting)
        self._element = None
