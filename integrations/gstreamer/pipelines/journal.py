"""What is heard of a pipeline: errors, warnings, the end of the stream, and its streaming threads.

`Journal` is what the handlers of a bus know: small, and without a way to the pipeline, so that a pipeline
that is no longer referred to is gone at once. Written on whatever thread posts, read on any; takes no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.errors import PipelineError
from lifecycle.integrations.gstreamer.pipelines.drain import sweep
from lifecycle.integrations.gstreamer.pipelines.finishing import Part
from lifecycle.integrations.gstreamer.pipelines.guard import path_of
from lifecycle.integrations.gstreamer.pipelines.listening import (
    KEPT_ERRORS,
    Errors,
    error_of,
    tell_listeners,
)
from lifecycle.integrations.gstreamer.pipelines.scopes import scope_name
from lifecycle.integrations.gstreamer.pipelines.threads import StreamingThreads, contained
from lifecycle.lowlevel import WaitList, snapshot, wall_time

__all__ = ["BusMessage", "Journal"]


KEPT: Final = 256
"""How many of the other messages are kept: the last ones."""
KEPT_ENDS: Final = 16
SHOWN: Final = 400
"""Characters of a message that are kept."""


@attrs.frozen
class BusMessage:
    """One message of a pipeline, as it was heard."""

    kind: str
    """``"error"``, ``"warning"``, ``"eos"``, ``"segment-done"``, … as GStreamer calls it."""
    source: str
    """Who posted it: ``pipeline0/branch1/queue``."""
    text: str
    """What it says, in words or as GStreamer writes its structure."""
    scope: str
    """The branch of a tee in which it happened; empty where it is the pipeline's own."""
    run: int
    """In which run of the pipeline: 0 before the first, one more each time that it leaves READY or NULL."""
    time: float
    """Unix time in seconds."""


class Journal:
    """What was heard of one pipeline: its journal."""

    def __init__(self) -> None:
        self.errors: Errors = Errors()
        self.pipeline = 0  # its address
        self.parts: dict[int, Part] = {}
        """Its branches that are to see the end of the stream before NULL."""
        self.warnings: deque[str] = deque(maxlen=4)
        self.ends: int = 0
        """How often the end has come, also where a seek has undone it since."""
        self.delegated: int = 0
        """How many errors were told to the part that they belong to, and are not the pipeline's own."""
        self.waiters: WaitList = WaitList()
        self.bus = 0  # what `drain.py` calls it
        self.threads: StreamingThreads = StreamingThreads()
        self.played: bool = False
        """It has come to PLAYING since the last run began."""
        self._end = 0  # the number of the last end of this run, 0 where none has come
        # The numbers of the seeks that are under way, and of the last that was taken: an end whose number is
        # before one of them is undone.
        self._seeks: dict[int, None] = {}
        self._run = 0
        self._kept: tuple[deque[BusMessage], ...] = (
            deque(maxlen=KEPT_ERRORS),
            deque(maxlen=KEPT_ENDS),
            deque(maxlen=KEPT),
        )
        self._delegates: dict[int, Callable[[PipelineError], bool]] = {}

    @property
    def ended(self) -> bool:
        """True if the end has come, and no seek has undone it."""
        end = self._end
        return bool(end) and not any(_is_before(end, seek) for seek in snapshot(self._seeks))

    def messages(self) -> tuple[BusMessage, ...]:
        """All that is kept, oldest first."""
        kept = [message for messages in self._kept for message in snapshot(messages)]
        return tuple(sorted(kept, key=lambda message: message.time))

    def note(self, message: Any) -> None:
        """Keep what it says, without keeping the message or who posted it."""
        kind = str(Gst.MessageType.get_name(message.type))
        source = message.src
        if message.type in (Gst.MessageType.ERROR, Gst.MessageType.WARNING, Gst.MessageType.INFO):
            error, debug = getattr(message, f"parse_{kind}")()
            text = f"{error.message} ({debug})" if debug else error.message
        else:
            structure = message.get_structure()
            text = "" if structure is None else structure.to_string()
        where = 0 if message.type == Gst.MessageType.ERROR else 1 if kind in ("eos", "segment-done") else 2
        self._kept[where].append(
            BusMessage(
                kind,
                "" if source is None else path_of(source),
                text[:SHOWN],
                "" if source is None else scope_name(source),
                self._run,
                wall_time(),
            )
        )

    def seek_begins(self, number: int) -> Callable[[bool], None]:
        """A seek of this number (`GstEvent`'s seqnum) is about to flush the pipeline: what has ended so far
        goes on, and an end that was on its way is told too late. Returns what is told whether it was taken:
        if not, the end that has come by then, before the seek was begun or since, counts again."""
        ended = self.ended
        self._seeks[number] = None

        def over(taken: bool) -> None:
            if taken:
                for seek in snapshot(self._seeks):
                    if _is_before(seek, number):  # what is before it is before this one, too
                        self._seeks.pop(seek, None)
                return
            self._seeks.pop(number, None)
            if self.ended and not ended:
                self.ends += 1
            self.waiters.wake()

        return over

    def run_begins(self) -> None:
        """From here on it has neither errors nor an end."""
        self.errors.clear()
        self._end = 0
        self.played = False

    def delegate(self, part: Any, failed: Callable[[PipelineError], bool]) -> Callable[[], object]:
        """Have what fails in the bin `part` told by ``failed(error)``, on the failing thread, and not as the
        pipeline's own error where that returns True. Returns what takes it back. The part is kept alive by
        whoever asks."""
        key = pointer_of(part)
        self._delegates[key] = failed

        def back() -> None:
            self._delegates.pop(key, None)
            sweep(self.bus)  # the part's messages keep it

        return back

    @contained()
    def on_error(self, bus: Any, message: Any) -> None:
        """An element failed."""
        error = error_of(message)
        tell_listeners(bus, message)
        self.note(message)
        part = message.src
        while part is not None and self._delegates:
            failed = self._delegates.get(pointer_of(part))
            if failed is not None and failed(error):
                self.delegated += 1
                self.waiters.wake()
                return
            part = part.get_parent()
        self.errors.add(error)
        self.waiters.wake()

    @contained()
    def on_warning(self, bus: Any, message: Any) -> None:
        """An element warns."""
        error = message.parse_warning()[0]
        self.warnings.append(f"{message.src.get_name()}: {error.message}")
        self.note(message)

    @contained()
    def on_eos(self, bus: Any, message: Any) -> None:
        """Every sink has seen the end, or, after a seek to a segment, every source has come to its."""
        self.note(message)
        # Also one of before a seek, told only now since what waited in a sink had to go first: the seek may
        # yet fail.
        number = message.get_seqnum()
        if not (self._end and _is_before(number, self._end)):
            self._end = number
        if not self.ended:
            return
        # A waiting thread is told of this end, also if a seek undoes it meanwhile.
        self.ends += 1
        self.waiters.wake()

    @contained()
    def on_reset_time(self, bus: Any, message: Any) -> None:
        """A sink was flushed by a seek, and the stream goes on from there: its end is undone. Each sink tells
        that behind the end that it may have told before."""
        self._end = 0

    @contained()
    def on_state_changed(self, bus: Any, message: Any) -> None:
        """An element has changed its state; a new run of the pipeline has neither errors nor an end."""
        before, state, _ = message.parse_state_changed()
        whole = pointer_of(message.src) == self.pipeline
        if self.errors.changed(before, state, whole):
            self._run += 1
            self._end = 0
            self.played = False
        if whole and state == Gst.State.PLAYING:
            self.played = True

    @contained()
    def on_stream_status(self, bus: Any, message: Any) -> None:
        """A streaming thread begins or ends; this is that thread."""
        kind, owner = message.parse_stream_status()
        if kind == Gst.StreamStatusType.ENTER:
            self.threads.enter(owner.get_name())
        elif kind == Gst.StreamStatusType.LEAVE:
            self.threads.leave()


def _is_before(one: int, other: int) -> bool:
    """Return True if a number of GStreamer's was given before another; they begin again after 32 bits."""
    return 0 < (other - one) & 0xFFFFFFFF < 0x80000000
