"""Captures: an appsink whose frames reach Python without taking the pipeline, or the program, down with them.

**The problem.** In plain Python a new-sample callback runs on GStreamer's streaming thread: what it raises goes to
`sys.excepthook` and is forgotten, `set_state(NULL)` from it deadlocks, thread-locals are empty at each call, and an appsink that
nobody drains any more grows by gigabytes or freezes the pipeline.

**The idea.** One thread of the capture's own pulls. It has the same latency as the signal and costs less, exceptions have a
caller, and the pipeline may be stopped from the callback. The callback runs inside the panic boundary: declared errors are
counted, anything else (also `SystemExit`, also a `BaseException` class of its own) is a panic that is counted and reported, and
the flow goes on or stops as chosen. ``for frame in capture.frames()`` pulls on the caller's own thread instead.

**Waiting.** A pull cannot be woken by anything but a frame, the end of the stream or the pipeline's stop, so it waits in slices
of `SLICE` seconds and looks around in between: closing takes one slice at most, beyond what the callback itself takes.

**Closing** leaves the appsink behind with ``max-buffers=1 drop=true``: a live pipeline flows on, and nothing piles up.

The queue between pipeline and callback is the appsink's own: bound it there (``max-buffers``, ``drop``).
"""

from __future__ import annotations

import inspect
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeVar

import attrs

from integrations.gstreamer._native import Gst, GstApp
from integrations.gstreamer.adapter import SampleAdapter
from integrations.gstreamer.errors import CaptureError, NoFrames
from integrations.gstreamer.frame import TYPE_NAME, Frame
from lifecycle import CallbackError, ClosedError, Histogram, ObjectState, SafetyManager

__all__ = ["Capture", "CaptureStats"]

F = TypeVar("F", bound=Callable[[Frame], object])

SLICE: Final = 0.05
"""Seconds for which a pull waits before it looks around."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds for which `Capture.close` waits for a callback that is running, unless told otherwise."""
BOUNDS: Final = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Buckets of the callback's duration, in seconds."""
STALE: Final = 1000
"""How many frames that were queued before a streaming capture began are dropped at most, where the queue is unbounded."""
HELD_SLACK: Final = 64
"""How many frames beyond the last count are noted as held before the note is tidied."""

LIVE: Final = frozenset(
    {ObjectState.VALID, ObjectState.CLOSING, ObjectState.INVALID, ObjectState.DUE, ObjectState.RELEASING}
)


@attrs.frozen
class CaptureStats:
    """A capture's figures at one moment."""

    name: str
    results: dict[str, int]
    """Frames by what became of them: ``ok``, ``error`` (declared, or no frame could be made), ``panic``, ``dropped`` (pulled
    when nobody was to have it any more)."""
    last_frame: float
    """Unix time of the last frame, 0.0 before the first."""
    callback_duration: Histogram
    """How long the callback (or the body of the loop) took, in seconds."""
    frames_held: int
    """Frames whose memory is still held after their callback: by arrays, views or shares."""


class Capture:
    """Frames from an appsink, by callback or by iteration.

    Parameters
    ----------
    manager:
        Whose objects the frames become. Closing it closes the capture first.
    appsink:
        The element. Its ``max-buffers`` and ``drop`` are the queue; the capture changes them only when it stops.
    name:
        Shown in metrics and reports; the element's own name by default.
    streaming:
        Run the callback on GStreamer's streaming thread (new-sample) instead of the capture's own. Frames that were queued
        before are dropped then.
    errors:
        Exception types that the callback may raise: they are counted as errors and nothing else. Those of the manager's policy
        for ``"gst.Sample"``, or else of its configuration, where none are given.
    on_error:
        ``"continue"``: the next frame follows whatever the callback raised. ``"stop"``: the capture stops (the pipeline flows
        on), and `wait` raises what it was.

    ::

        with Capture(manager, appsink) as capture:

            @capture.on_frame
            def look(frame):
                print(frame.array().mean())

            capture.wait(10)

    All methods may be called on any thread, also from the callback.
    """

    kind: Final = "capture"

    def __init__(
        self,
        manager: SafetyManager,
        appsink: Any,
        *,
        name: str | None = None,
        streaming: bool = False,
        errors: tuple[type[BaseException], ...] = (),
        on_error: Literal["continue", "stop"] = "continue",
    ) -> None:
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no capture; make a new manager"
            )
        self._sink: Any = _an_appsink(
            appsink
        )  # let go when the capture is closed: it keeps buffers of its own
        self.name = str(name or appsink.get_name())
        self.manager = manager
        self._errors = _error_types(errors)
        if on_error not in ("continue", "stop"):
            raise CaptureError(
                f"capture {self.name!r}: on_error= takes 'continue' or 'stop', not {on_error!r}"
            )
        self._stops_on_error = on_error == "stop"
        self._streaming = streaming
        self._adapter = SampleAdapter(manager, name=self.name)
        self._try_pull = _puller(appsink)
        self._callback: Callable[[Frame], object] | None = None
        self._run: _Run | None = None
        self._iterating = False
        self._closed = False
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._results = {"ok": 0, "error": 0, "panic": 0, "dropped": 0}
        self._last_frame = 0.0
        self._durations = [0] * (len(BOUNDS) + 1)
        self._duration_sum = 0.0
        self._held: list[Frame] = []
        self._held_limit = HELD_SLACK
        self._leave_manager = manager.on_close(self.close)
        manager.add_component(self)

    # -- by callback --------------------------------------------------------------------------------------------------------

    def on_frame(self, callback: F) -> F:
        """Decorator: call ``callback(frame)`` for every frame, from now on. The frame is closed when it returns: arrays may be
        kept, the frame itself by ``frame.share()``.

        Raises `CallbackError` for a coroutine or generator function, whose body would run after the frame is closed, and
        `CaptureError` when there is a callback already or the capture is being iterated.
        """
        if not callable(callback):
            raise CallbackError(f"capture {self.name!r}: on_frame takes a function, not {callback!r}")
        if (
            inspect.iscoroutinefunction(callback)
            or inspect.isgeneratorfunction(callback)
            or inspect.isasyncgenfunction(callback)
        ):
            raise CallbackError(
                f"capture {self.name!r}: {callback.__qualname__} is a coroutine or generator function, whose body would "
                "run after its frame is closed; give a plain function that hands the frame's array or share() on"
            )
        if self._callback is not None or self._iterating:
            raise CaptureError(
                f"capture {self.name!r} has {'a callback' if self._callback else 'a loop over frames()'} already; call several "
                "functions from one callback, or tee the pipeline to a second appsink"
            )
        self._callback = callback
        self.start()
        return callback

    def start(self) -> None:
        """Begin, or begin again after `stop`. Does nothing while running. `on_frame` has called it already."""
        self._refuse_closed()
        if self._callback is None:
            raise CaptureError(
                f"capture {self.name!r} has nothing to call; register a function with @capture.on_frame"
            )
        run = self._run
        if run is not None and not run.stopped.is_set():
            return
        self._error = None
        self._ended.clear()
        self._run = run = _Run(self)
        run.begin(self._streaming)

    def stop(self, timeout: float | None = CLOSE_TIMEOUT) -> bool:
        """Call the callback no more; the pipeline flows on and its frames are dropped. `start` begins again.

        Waits up to `timeout` seconds for a callback that is running (not when called from it). True when none runs any more.
        """
        run = self._run
        return run is None or run.end(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the stream ends or the capture stops, `timeout` seconds at most; whether it has.

        With ``on_error="stop"`` raises what the callback raised when that was the reason.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(0.1 if until is None else max(0.0, min(0.1, until - time.monotonic()))):
            if until is not None and time.monotonic() >= until:
                return False
        error = self._error
        if error is not None and self._stops_on_error:
            raise CaptureError(
                f"capture {self.name!r} stopped because its callback raised {type(error).__name__}: {error}"
            ) from error
        return True

    @property
    def error(self) -> BaseException | None:
        """The last exception out of the callback, without its traceback (which would keep its frames alive)."""
        return self._error

    # -- by iteration -------------------------------------------------------------------------------------------------------

    def frames(self, timeout: float | None = None) -> Iterator[Frame]:
        """Iterate over frames on this thread: ``for frame in capture.frames(timeout=5)``. Each frame is closed when the next one
        is asked for, and when the loop ends.

        Ends with the stream, when the pipeline is stopped, and when the capture is closed. Raises `NoFrames` when nothing comes
        for `timeout` seconds (None: waits for ever), `CaptureError` when a callback is registered.
        """
        self._refuse_closed()
        if self._callback is not None or self._iterating:
            raise CaptureError(
                f"capture {self.name!r} gives its frames to {'its callback' if self._callback else 'another loop'} already; "
                "tee the pipeline to a second appsink for a second consumer"
            )
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0
        ):
            raise CaptureError(
                f"capture {self.name!r}: timeout= takes seconds above 0 or None, not {timeout!r}"
            )
        return self._iterate(timeout)

    def _iterate(self, timeout: float | None) -> Iterator[Frame]:
        self._iterating = True
        self._ended.clear()
        try:
            while True:
                sample = self._next_sample(timeout)
                if sample is None:
                    return
                began = time.perf_counter()
                frame = None
                result = "error"
                try:
                    frame = self._adapter.frame(sample)
                    sample = None
                    result = "ok"
                    yield frame
                finally:
                    self._count(result, began, frame)
                    frame = None
        finally:
            self._iterating = False
            self._ended.set()

    def _next_sample(self, timeout: float | None) -> Any:
        """The next sample, None at the end of the stream."""
        began = time.monotonic()
        while not self._closed:
            sink = self._sink
            if sink is None:
                break
            left = SLICE if timeout is None else min(SLICE, began + timeout - time.monotonic())
            sample = self._try_pull(sink, max(1, int(left * 1e9))) if left > 0 else None
            if sample is not None:
                return sample
            if left <= 0:
                raise NoFrames(
                    f"capture {self.name!r}: no frame within {timeout} s; the appsink is {_state_name(sink)}"
                    f"{' and has seen no frame yet' if not self._last_frame else ''}: see that the pipeline is PLAYING, ask its "
                    "bus for errors, and look for frames that are held from a bounded pool"
                )
            flow = _flow(sink)
            if flow == "eos" or (flow == "idle" and self._last_frame > 0.0):
                return None
            if flow == "idle":
                time.sleep(max(0.001, min(0.01, left)))
        return None

    # -- the end ------------------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> bool:
        """Stop for good, leaving the appsink dropping. Waits like `stop`; closing again gives the answer as it is then.

        Frames and arrays that are still held stay valid.
        """
        self._closed = True
        run = self._run
        done = run is None or run.end(timeout)
        sink = self._sink
        if done and sink is not None:
            _let_flow(sink)
            self._sink = None
        self._ended.set()
        self._leave_manager()
        return done

    @property
    def closed(self) -> bool:
        """Whether the capture was closed."""
        return self._closed

    def __enter__(self) -> Capture:
        self._refuse_closed()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def stats(self) -> CaptureStats:
        """The figures, as a frozen snapshot. Callable on any thread."""
        held = sum(1 for frame in list(self._held) if _is_held(frame))
        durations = Histogram(bounds=BOUNDS, counts=tuple(self._durations), sum=self._duration_sum)
        return CaptureStats(self.name, dict(self._results), self._last_frame, durations, held)

    def __repr__(self) -> str:
        run = self._run
        running = run is not None and not run.stopped.is_set()
        state = (
            "closed"
            if self._closed
            else "running"
            if running
            else "iterating"
            if self._iterating
            else "stopped"
        )
        return f"<Capture {self.name!r}: {state}, {sum(self._results.values())} frames>"

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError(f"capture {self.name!r} is closed; make a new one for its appsink")

    def _deliver(self, sample: Any) -> None:
        """Give one sample to the callback. Nothing that the callback does, or that the sample is, leaves this."""
        callback = self._callback
        if callback is None or self._closed:
            self._results["dropped"] += 1
            return
        began = time.perf_counter()
        frame = None
        result = "ok"
        try:
            frame = self._adapter.frame(sample)
            callback(frame)
        except BaseException as error:  # the boundary: what is not declared is a panic, whatever its class
            result = self._contain(error, frame is None)
        self._count(result, began, frame)

    def _contain(self, error: BaseException, no_frame: bool) -> str:
        """Report what left the callback (or that there was no frame to give it), and let go of everything its traceback holds."""
        errors = (*self._errors, type(error)) if no_frame else self._errors
        expected = self.manager.report_error(self.name, error, type_name=TYPE_NAME, errors=errors)
        _forget_frames(error)
        self._error = error
        if self._stops_on_error and self._run is not None:
            self._run.stopped.set()
        return "error" if expected else "panic"

    def _count(self, result: str, began: float, frame: Frame | None) -> None:
        """Note how a frame ended, and close it. Called by the one thread that delivers."""
        seconds = time.perf_counter() - began
        self._results[result] += 1
        self._durations[bisect_left(BOUNDS, seconds)] += 1
        self._duration_sum += seconds
        self._last_frame = time.time()
        if frame is not None and not frame.close():
            held = self._held
            held.append(frame)
            if len(held) > self._held_limit:
                self._held = held = [kept for kept in held if _is_held(kept)]
                self._held_limit = 2 * len(held) + HELD_SLACK


class _Run:
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
        if _flow(sink) == "eos":
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
            thread.join(timeout)
            return not thread.is_alive()
        return self.idle.wait(timeout)

    def _pull(self) -> None:
        """The pull thread."""
        capture = self.capture
        sink, pull, stopped = self._sink, capture._try_pull, self.stopped
        wait = int(SLICE * 1e9)
        try:
            while not stopped.is_set():
                sample = pull(sink, wait)
                if sample is not None:
                    capture._deliver(sample)
                    sample = None
                    continue
                flow = _flow(sink)
                if flow == "eos":
                    capture._ended.set()
                if flow != "flowing":
                    stopped.wait(SLICE)
        finally:
            sink = None
            self._leave()

    def _on_sample(self, sink: Any) -> Any:
        """new-sample, on the streaming thread. Pulls first, so that no failure of ours can stall the queue."""
        me = threading.get_ident()
        self.idle.clear()
        self._threads.add(me)
        try:
            sample = self.capture._try_pull(sink, 0)
            if sample is not None and not self.stopped.is_set():
                self.capture._deliver(sample)
            if self.stopped.is_set():
                self._leave()
        finally:
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
        _let_flow(sink)
        if capture._closed:
            capture._sink = None
        capture._ended.set()


def _let_flow(sink: Any) -> None:
    """Neither growth nor a freeze in an appsink that nobody drains."""
    sink.set_property("drop", True)
    sink.set_property("max-buffers", 1)


def _is_held(frame: Frame) -> bool:
    return bool(frame._handles) and frame._handles[0].state in LIVE


def _flow(sink: Any) -> str:
    """Why a pull gave nothing: ``flowing`` (nothing there yet), ``eos``, or ``idle`` (the element is not running)."""
    if not sink.get_property("eos"):
        return "flowing"
    state = sink.get_state(0)[1]
    return "eos" if state >= Gst.State.PAUSED else "idle"


def _state_name(sink: Any) -> str:
    return str(sink.get_state(0)[1].value_nick).upper()


def _an_appsink(element: Any) -> Any:
    factory = element.get_factory() if isinstance(element, Gst.Element) else None
    if not isinstance(element, GstApp.AppSink) and (factory is None or factory.get_name() != "appsink"):
        raise CaptureError(
            f"a capture pulls from an appsink, not from {element!r}; end the branch in «appsink name=capture» and "
            "give that element"
        )
    return element


def _puller(element: Any) -> Callable[[Any, int], Any]:
    """How to pull from this element: its method, or the action where it was made before GstApp was known."""
    if isinstance(element, GstApp.AppSink):
        pull: Callable[[Any, int], Any] = GstApp.AppSink.try_pull_sample
        return pull
    return lambda sink, nanoseconds: sink.emit("try-pull-sample", nanoseconds)


def _error_types(errors: Any) -> tuple[type[BaseException], ...]:
    types = errors if isinstance(errors, tuple) else (errors,)
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise CaptureError(f"errors= takes exception types, not {kind!r}")
    return types


def _forget_frames(error: BaseException) -> None:
    """Empty the frames of a handled exception and of what it came from: they would keep arrays, and so buffers, alive."""
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
