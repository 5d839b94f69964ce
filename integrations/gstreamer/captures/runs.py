"""One run of a capture: its thread or its signals, from start to stop, and an appsink left so that the pipeline flows on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from integrations.gstreamer._native import Gst, GstApp
from integrations.gstreamer.errors import CaptureError, SampleError

if TYPE_CHECKING:
    from integrations.gstreamer.captures.capture import Capture

__all__ = ["SLICE", "Quiet", "Run", "an_appsink", "flow_of", "let_flow", "puller"]

SLICE: Final = 0.05
"""Seconds for which a pull waits before it looks around."""
STALE: Final = 1000
"""How many frames that were queued before a streaming capture began are dropped at most, where the queue is unbounded."""


class Quiet:
    """How long nothing has come, and whether that was told already."""

    __slots__ = ("_since", "_told")

    def __init__(self) -> None:
        self.over()

    def over(self) -> None:
        """Something has come, or nothing is to be expected."""
        self._since = time.monotonic()
        self._told = False

    @property
    def seconds(self) -> float:
        """For how long."""
        return time.monotonic() - self._since

    def told_after(self, limit: float) -> bool:
        """True once, when it has been quiet for `limit` seconds."""
        if self._told or self.seconds < limit:
            return False
        self._told = True
        return True


class Run:
    """One run of a capture, from start to stop, on its own thread or on the streaming thread."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.stopped = threading.Event()
        self.idle = threading.Event()
        self.idle.set()
        self._threads: set[int] = set()
        self._thread: threading.Thread | None = None
        self._signals: list[int] = []
        self._sink = sink = capture._sink
        before = capture._run
        self._queue: dict[str, Any] = (
            {key: sink.get_property(key) for key in ("max-buffers", "drop")}
            if before is None
            else before._queue
        )
        self._emitted = sink.get_property("emit-signals")

    def begin(self, streaming: bool) -> None:
        """Start the thread, or connect the signals."""
        capture = self.capture
        sink = self._sink
        for key, value in self._queue.items():  # what the run before has left behind
            sink.set_property(key, value)
        if streaming:
            self._signals = [sink.connect("new-sample", self._on_sample), sink.connect("eos", self._on_eos)]
            sink.set_property("emit-signals", True)
            self._drop_what_waits()
        else:
            self._thread = threading.Thread(target=self._pull, name=f"capture-{capture.name}", daemon=True)
            self._thread.start()

    def _drop_what_waits(self) -> None:
        """A full queue emits no new-sample: it would wait for us for ever, as we for it."""
        capture, sink = self.capture, self._sink
        for _ in range(sink.get_property("max-buffers") or STALE):
            if capture._try_pull(sink, 0) is None:
                break
            capture._results["dropped"] += 1
        if flow_of(sink) == "eos":
            capture._ended.set()

    def end(self, timeout: float | None) -> bool:
        """Stop; True when no callback runs any more."""
        self.stopped.set()
        thread = self._thread
        if thread is None:
            self._leave()
        me = threading.get_ident()
        if me in self._threads or (thread is not None and thread.ident == me):
            return False  # called from the callback: the run ends as soon as it returns
        if thread is not None:
            thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
            return not thread.is_alive()
        return self.idle.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def _pull(self) -> None:
        """The pull thread."""
        capture = self.capture
        sink, pull, stopped = self._sink, capture._pull_frame, self.stopped
        wait = int(SLICE * 1e9)
        quiet = Quiet()
        try:
            while not stopped.is_set():
                try:
                    frame = pull(sink, wait)
                except SampleError as error:
                    capture._count(capture._contain(error, True), time.perf_counter(), None)
                    continue
                if frame is not None:
                    quiet.over()
                    capture._deliver(frame)
                    frame = None
                    continue
                capture._held.look_around()
                flow = flow_of(sink)
                if flow == "eos":
                    capture._ended.set()
                if flow != "flowing":
                    quiet.over()
                    stopped.wait(SLICE)
                elif capture._on_stall is not None and quiet.told_after(capture._stall_after()):
                    capture._tell_stall(quiet.seconds)
        finally:
            sink = frame = None
            self._leave()

    def _on_sample(self, sink: Any) -> Any:
        """new-sample, on the streaming thread. Pulls first, so that no failure of ours can stall the queue."""
        me = threading.get_ident()
        self.idle.clear()
        self._threads.add(me)
        try:
            frame = self.capture._pull_frame(sink, 0)
            if frame is not None and not self.stopped.is_set():
                self.capture._deliver(frame)
            if self.stopped.is_set():
                self._leave()
        except SampleError as error:
            self.capture._count(self.capture._contain(error, True), time.perf_counter(), None)
        finally:
            frame = None
            self._threads.discard(me)
            self.idle.set()
        return Gst.FlowReturn.OK

    def _on_eos(self, sink: Any) -> None:
        self.capture._ended.set()

    def _leave(self) -> None:
        """Let the pipeline flow on without us."""
        capture = self.capture
        sink, self._sink = self._sink, None
        if sink is None:
            return
        signals, self._signals = self._signals, []
        for signal in signals:
            sink.disconnect(signal)
        if signals:
            sink.set_property("emit-signals", self._emitted)
        let_flow(sink)
        if capture._closed:
            capture._sink = None
        capture._ended.set()


def let_flow(sink: Any) -> None:
    """Neither growth nor a freeze in an appsink that nobody drains."""
    sink.set_property("drop", True)
    sink.set_property("max-buffers", 1)


def flow_of(sink: Any) -> str:
    """Why a pull gave nothing: ``flowing`` (nothing there yet), ``eos``, or ``idle`` (the element is not running)."""
    if not sink.get_property("eos"):
        return "flowing"
    state = sink.get_state(0)[1]
    return "eos" if state >= Gst.State.PAUSED else "idle"


def an_appsink(element: Any) -> Any:
    """`element`, if it is an appsink. Raises `CaptureError`."""
    factory = element.get_factory() if isinstance(element, Gst.Element) else None
    if not isinstance(element, GstApp.AppSink) and (factory is None or factory.get_name() != "appsink"):
        raise CaptureError(
            f"a capture pulls from an appsink, not from {element!r}; end the branch in «appsink name=capture» and "
            "give that element"
        )
    return element


def puller(element: Any) -> Callable[[Any, int], Any]:
    """How to pull from this element: its method, or the action where it was made before GstApp was known."""
    if isinstance(element, GstApp.AppSink):
        pull: Callable[[Any, int], Any] = GstApp.AppSink.try_pull_sample
        return pull
    return lambda sink, nanoseconds: sink.emit("try-pull-sample", nanoseconds)
