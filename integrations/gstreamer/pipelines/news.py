"""What is heard of a pipeline: errors, warnings, the end of the stream, and its streaming threads.

`News` is what the handlers of a bus know: small, and without a way to the pipeline, so that a pipeline nobody
refers to is gone at once. Written on whatever thread posts, read on any; takes no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from lifecycle._core.runtime import TimedQueue
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import PipelineError
from lifecycle.integrations.gstreamer.pipelines.drain import sweep
from lifecycle.integrations.gstreamer.pipelines.ear import Errors, error_of
from lifecycle.integrations.gstreamer.pipelines.guard import pointer_of
from lifecycle.integrations.gstreamer.pipelines.threads import StreamingThreads, contained

__all__ = ["News"]


class Part(Protocol):
    """A branch that is to be finished."""

    eos: float | None

    def begin_finish(self) -> Callable[[float], object]:
        """Send the end of the stream into it; what waits for that, until a moment of `monotonic`."""


class News:
    """What was heard of one pipeline."""

    def __init__(self) -> None:
        self.errors: Errors = Errors()
        self.pipeline = 0  # its address
        self.parts: dict[int, Part] = {}
        """Its branches that are to see the end of the stream before NULL."""
        self.warnings: deque[str] = deque(maxlen=4)
        self.ended: bool = False
        self.bus = 0  # what `drain.py` calls it
        self.threads: StreamingThreads = StreamingThreads()
        self._waiting: dict[int, TimedQueue[bool]] = {}
        self._delegates: dict[int, Callable[[PipelineError], bool]] = {}

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

    def listening(self) -> _Listening:
        """For a block: a queue that gets an entry with each piece of news: whether it is the end of
        the stream."""
        return _Listening(self._waiting)

    def _tell(self, ended: bool = False) -> None:
        for queue in list(self._waiting.values()):
            queue.put(ended)

    @contained()
    def on_error(self, bus: Any, message: Any) -> None:
        """An element failed."""
        error = error_of(message)
        part = message.src
        while part is not None and self._delegates:
            failed = self._delegates.get(pointer_of(part))
            if failed is not None and failed(error):
                return
            part = part.get_parent()
        self.errors.add(error)
        self._tell()

    @contained()
    def on_warning(self, bus: Any, message: Any) -> None:
        """An element warns."""
        error = message.parse_warning()[0]
        self.warnings.append(f"{message.src.get_name()}: {error.message}")

    @contained()
    def on_eos(self, bus: Any, message: Any) -> None:
        """Every sink has seen the end."""
        self.ended = True
        self._tell(True)  # who waits is told it, whatever undoes it meanwhile

    @contained()
    def on_reset_time(self, bus: Any, message: Any) -> None:
        """A sink was flushed by a seek, and the stream goes on from there: its end is undone. Each sink tells
        that behind the end that it may have told before."""
        self.ended = False

    @contained()
    def on_state_changed(self, bus: Any, message: Any) -> None:
        """An element has changed its state; a new run of the pipeline has neither errors nor an end."""
        before, state, _ = message.parse_state_changed()
        if self.errors.changed(before, state, pointer_of(message.src) == self.pipeline):
            self.ended = False

    @contained()
    def on_stream_status(self, bus: Any, message: Any) -> None:
        """A streaming thread begins or ends; this is that thread."""
        kind, owner = message.parse_stream_status()
        if kind == Gst.StreamStatusType.ENTER:
            self.threads.enter(owner.get_name())
        elif kind == Gst.StreamStatusType.LEAVE:
            self.threads.leave()


class _Listening:
    def __init__(self, waiting: dict[int, TimedQueue[bool]]) -> None:
        self._waiting = waiting
        self._queue: TimedQueue[bool] = TimedQueue()

    def __enter__(self) -> TimedQueue[bool]:
        self._waiting[id(self)] = self._queue
        return self._queue

    def __exit__(self, *_: object) -> None:
        self._waiting.pop(id(self), None)
