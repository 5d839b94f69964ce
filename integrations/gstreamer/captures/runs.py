"""One run of a capture: its thread or its signals, from start to stop, and an appsink left so that the
pipeline flows on."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.captures.appsink import answers_at_once, flow_of
from lifecycle.integrations.gstreamer.captures.queue import bound, let_flow, live, take_back
from lifecycle.integrations.gstreamer.errors import CaptureError, SampleError
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.integrations.gstreamer.pipelines.threads import contained, has_forked, may_wait
from lifecycle.lowlevel import Claim, WaitList, weakly

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer.captures.capture import Capture
    from lifecycle.integrations.gstreamer.pipelines.listening import ErrorListener

__all__ = ["REST", "SLICE", "Opened", "Quiet", "Run"]

SLICE: Final = 0.05
"""Seconds for which a pull waits before it looks around."""
SLICE_NS: Final = int(SLICE * 1e9)
REST: Final = 0.01
"""Seconds between two pulls where they do not wait."""
STALE: Final = 1000
"""How many frames that were queued before a streaming capture began are dropped at most, where the queue is
unbounded."""


NEW_SEGMENT: Final = (Gst.EventType.FLUSH_STOP, Gst.EventType.STREAM_START, Gst.EventType.SEGMENT)


class Quiet:
    """How long nothing has come, and whether that was told already."""

    __slots__ = ("_since", "_told")

    def __init__(self) -> None:
        self.over()

    def over(self) -> None:
        """Something has come, or nothing is to be expected. On the way of each frame: no clock is asked."""
        self._since = 0.0
        self._told = False

    @property
    def seconds(self) -> float:
        """For how long: from the pull on that was the first to give nothing."""
        now = time.monotonic()
        if not self._since:
            self._since = now - SLICE
        return now - self._since

    def told_after(self, limit: float) -> bool:
        """True once, when it has been quiet for `limit` seconds."""
        if self._told or self.seconds < limit:
            return False
        self._told = True
        return True


_claims: dict[int, Claim[Opened]] = {}
"""Which capture an appsink has, by the appsink's address: while there is an entry its capture holds it."""


class Opened:
    """What a capture has opened, and how that ends. Refers to nothing of the capture, which may be gone by
    then."""

    def __init__(self, sink: Any, listener: ErrorListener) -> None:
        self.sink: Any = sink
        self.listener = listener
        self.run: Run | None = None
        self.closed: bool = False
        self.ended: threading.Event = threading.Event()
        """The stream has come to its end, or its frames are not taken any more."""
        self.over: bool = False
        """It has ended for good."""
        self.leave_manager: Callable[[], object] = int
        self.early: deque[Any] = deque()
        """Samples that came after the coroutine that waited for them had been cancelled: the next loop's."""
        self.waits: deque[None] = deque()
        """One for each wait on a thread of an event loop's pool, also of a cancelled task."""
        self.flowed: bool = False
        """Frames have come to the callback in this run of the pipeline."""
        self.segment_over: bool = False
        """What was sought as a segment has come to its end; what is in the queue is before that."""
        self.begun: int = 0
        """How often a stream, or a part of one, has begun."""
        self.waiters: WaitList = WaitList()
        """Threads that wait for the next of these."""
        self._pad = sink.get_static_pad("sink")
        self._probes: list[int] = []
        self._pointer = pointer_of(sink)
        self._claim: Claim[Opened] | None = None
        self._user: dict[str, Any] | None = None
        self.bounds: bool = False
        """We have bounded the queue, and do not know yet whether it may drop."""

    def take(self, name: str, bounds: bool) -> None:
        """Make the appsink this capture's own, with the queue that the user has set. With `bounds` one that
        has no bound gets one. Raises `CaptureError` where another capture has it."""
        sink = self.sink
        if sink is None:  # the manager was closed meanwhile
            return
        self._claim = claim = _claims.setdefault(self._pointer, Claim())
        if not claim.take(self):
            self.sink = self._claim = None
            raise CaptureError(
                f"capture {name!r}: another capture pulls from its appsink already, and each would get "
                "a part of the frames; close that one first, or tee the pipeline to a second appsink"
            )
        mask = Gst.PadProbeType.EVENT_DOWNSTREAM | Gst.PadProbeType.EVENT_FLUSH
        # Added and known in one call into C: no interrupt falls between.
        self._probes.extend(map(self._pad.add_probe, (mask,), (partial(_on_event, weakref.ref(self)),)))
        take_back(sink)
        self._user = bound(sink, name) if bounds else None
        self.bounds = self._user is not None
        self.listener.on_playing = weakly(self.look_if_live)
        self.listener.on_run = weakly(self.run_begins)
        self.look_if_live()
        if self.closed:  # by another thread, which has not seen all of this
            self.sink = sink
            self.end()

    def look_if_live(self) -> None:
        """Where we have bounded the queue: a live source drops what is too much, any other waits. It can be
        asked only of an element that runs."""
        sink = self.sink if self.bounds else None
        if sink is not None:
            answer = live(sink)
            if answer is not None:
                if answer:
                    sink.set_property("drop", True)
                self.bounds = False

    def goes_on(self) -> None:
        """The end is undone: a run or a loop begins, or a seek has taken the stream back. What ends the run
        or the capture meanwhile, on another thread, stays told."""
        self.ended.clear()
        run = self.run
        if self.over or (run is not None and run.has_left):
            self.ended.set()

    def run_begins(self) -> None:
        """The pipeline has left READY or NULL: its last stream is history."""
        self.flowed = False
        run = self.run
        if run is not None and not run.stopped.is_set():
            self.goes_on()

    def end(self) -> None:
        """No further frame; the appsink is left flowing, without a listener. Waits for nothing; again:
        nothing."""
        self.closed = True
        if has_forked():
            # What was inherited is the parent's, and its locks may be held by threads that are not here.
            self.over = True
            self.ended.set()
            return
        run, sink, claim = self.run, self.sink, self._claim
        if run is not None:
            run.halt()
        if sink is not None and claim is not None and claim.held_by(self):
            let_flow(sink, self._user)
            _claims.pop(self._pointer, None)
        once_each(self._pad.remove_probe, self._probes)
        self.sink = self._claim = None
        self.early.clear()
        self.listener.close()
        self.over = True
        self.ended.set()
        self.leave_manager()


@contained(lambda: Gst.PadProbeReturn.OK)
def _on_event(of: weakref.ref[Opened], pad: Any, info: Any) -> Any:
    """What comes to the appsink beside its buffers, in their order."""
    opened = of()
    if opened is not None:
        kind = info.get_event().type
        if kind == Gst.EventType.SEGMENT_DONE:
            opened.segment_over = True
        elif kind in NEW_SEGMENT:
            opened.segment_over = False
            opened.begun += 1
            opened.waiters.wake()
    return Gst.PadProbeReturn.OK


class Run:
    """One run of a capture, from start to stop, on its own thread or on the streaming thread.

    Its thread holds the capture only while there is something to be done with it, not while it waits: so a
    capture that nobody else refers to is gone within a slice, whatever its pipeline does.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = weakref.ref(capture)
        self._opened = capture._opened
        self._try_pull = capture._try_pull
        self._name = capture.name
        self.stopped: threading.Event = threading.Event()
        self._threads: set[int] = set()  # that are in a callback of ours
        self._thread: threading.Thread | None = None
        self._signals: list[int] = []
        self._streaming = False
        sink = capture._sink
        if sink is None:  # closed meanwhile
            capture._refuse_closed()
        self._sink = sink
        self._emitted = sink.get_property("emit-signals")

    def begin(self, streaming: bool) -> None:
        """Start the thread, or connect the signals."""
        sink = self._sink
        if sink is None:  # it was stopped before it began
            return
        take_back(sink)  # what the run before has left behind
        self._opened.flowed = False
        self._opened.look_if_live()
        if streaming:
            self._streaming = True
            handlers = {"new-sample": self._on_sample, "eos": self._on_eos}
            # Connected and known in one call into C: no interrupt falls between.
            self._signals.extend(map(sink.connect, handlers, handlers.values()))
            sink.set_property("emit-signals", True)
            self._drop_what_waits(sink)
            if self.stopped.is_set():  # on another thread, which may have left before there were handlers
                self._sink = sink
                self._leave()
        else:
            self._thread = threading.Thread(target=self._pull, name=f"capture-{self._name}", daemon=True)
            self._thread.start()

    def _drop_what_waits(self, sink: Any) -> None:
        """A full queue emits no new-sample: it would wait for us for ever, as we for it."""
        capture = self._capture()
        for _ in range(sink.get_property("max-buffers") or STALE):
            if self._try_pull(sink, 0) is None:
                break
            if capture is not None:
                capture._results["dropped"] += 1
        if flow_of(sink) == "eos":
            self._opened.ended.set()

    @property
    def has_left(self) -> bool:
        """True if it is over: the pipeline flows on without it."""
        return self._sink is None

    def halt(self) -> None:
        """Have it stop, without waiting for anything."""
        self.stopped.set()
        self._opened.waiters.wake()
        if self._thread is None:
            self._leave()

    def end(self, timeout: float | None) -> bool:
        """Stop; True when no callback runs any more."""
        if has_forked():
            return True  # its thread is in the process that was forked
        self.halt()
        thread = self._thread
        me = threading.get_ident()
        if me in self._threads or (thread is not None and thread.ident == me):
            return False  # called from the callback: the run ends as soon as it returns
        if thread is not None:
            if thread.ident is None:  # another thread is about to start it: it will find itself stopped
                return True
            thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
            return not thread.is_alive()
        return self._opened.waiters.wait(lambda: not self._threads, timeout)

    def _pull(self) -> None:
        """The pull thread."""
        stopped, quiet, opened = self.stopped, Quiet(), self._opened
        try:
            while not stopped.is_set():
                begun = opened.begun
                rest = self._turn(quiet)
                if rest is None:
                    break
                if rest and may_wait():
                    # Not for its whole length: the first frame of a stream that begins is not to wait for it.
                    opened.waiters.wait(partial(self._stirred, begun), rest)
                elif rest:  # its number is still that of a streaming thread whose end was missed
                    stopped.wait(rest)
        finally:
            self._leave()

    def _stirred(self, begun: int) -> bool:
        """Return True if the capture is stopped, or more than `begun` streams have begun."""
        return self.stopped.is_set() or self._opened.begun != begun

    def _turn(self, quiet: Quiet) -> float | None:
        """Wait for one frame, a slice at most, and deliver it. For how many seconds to rest then; None where
        the capture is gone. Nothing is held when this returns."""
        sink, opened = self._sink, self._opened
        segment_over = opened.segment_over
        sample = None if sink is None else self._try_pull(sink, SLICE_NS)
        capture = self._capture()
        frame = None
        try:
            if capture is None or sink is None:
                return None
            if sample is not None:
                frame = capture._adapter.frame(sample)
                sample = None  # the frame alone holds it
                if opened.bounds:
                    opened.look_if_live()
                opened.flowed = True
                quiet.over()
                capture._deliver(frame)
                return 0.0
            capture._held.look_around()
            flow = flow_of(sink)
            if flow == "eos" or (flow == "flowing" and segment_over):
                opened.ended.set()
                quiet.over()
            capture._when_quiet(flow)
            if flow != "flowing":
                quiet.over()
                return SLICE
            if answers_at_once(sink):
                return REST
            if capture._on_stall is not None and quiet.told_after(capture._stall_after()):
                capture._tell_stall(quiet.seconds)
            return 0.0
        except SampleError as error:
            if capture is not None:
                capture._count(capture._contain(error, True), time.perf_counter(), None)
            return 0.0
        finally:
            sink = sample = frame = capture = None

    @contained(lambda: Gst.FlowReturn.OK)
    def _on_sample(self, sink: Any) -> Any:
        """new-sample, on the streaming thread. Pulls first, so that no failure of ours can stall the
        queue."""
        me = threading.get_ident()
        self._threads.add(me)
        sample = self._try_pull(sink, 0)
        capture = self._capture()
        frame = None
        try:
            self._opened.flowed = True
            if sample is not None and capture is not None and not self.stopped.is_set():
                frame = capture._adapter.frame(sample)
                sample = None  # the frame alone holds it
                capture._deliver(frame)
            if capture is None or self.stopped.is_set():
                self._leave()
        except SampleError as error:
            if capture is not None:
                capture._count(capture._contain(error, True), time.perf_counter(), None)
        finally:
            sample = frame = capture = None
            self._threads.discard(me)
            if self._opened.waiters.hung:
                self._opened.waiters.wake()
        return Gst.FlowReturn.OK

    @contained()
    def _on_eos(self, sink: Any) -> None:
        self._opened.ended.set()

    def _leave(self) -> None:
        """Let the pipeline flow on without us."""
        capture = self._capture()
        sink = self._sink
        if sink is None:
            return
        # Each step may be done twice, so that whoever stops it again goes on where an interrupt struck.
        once_each(sink.disconnect, self._signals)
        if self._streaming:
            sink.set_property("emit-signals", self._emitted)
        let_flow(sink)
        self._sink = None
        if capture is not None and capture._closed:
            capture._sink = None
        self._opened.ended.set()
