"""Captures: an appsink whose frames reach Python without taking the pipeline, or the program, down with them.

**The problem.** In plain Python a new-sample callback runs on GStreamer's streaming thread: what it raises
goes to `sys.excepthook` and is forgotten, `set_state(NULL)` from it deadlocks, thread-locals are empty at
each call, and an appsink that nobody drains any more grows by gigabytes or freezes the pipeline.

**The idea.** One thread of the capture's own pulls. It has the same latency as the signal and costs less,
exceptions have a caller, and the pipeline may be stopped from the callback. The callback runs inside the
panic boundary: declared errors are counted, anything else (also `SystemExit`, also a `BaseException` class of
its own) is a panic that is counted and reported, and the flow goes on or stops as chosen. ``for frame in
capture.frames()`` pulls on the caller's own thread instead.

**Waiting.** A pull cannot be woken by anything but a frame, the end of the stream or the pipeline's stop, so
it waits in slices of `SLICE` seconds and looks around in between: closing takes one slice at most, beyond
what the callback itself takes.

**When no frame comes** there is a reason, and the waiting call raises it: the stream's end, an error on the
bus (`PipelineError`), frames that are held from a bounded pool (`Starved`, with their holders), the manager's
end (`ClosedError`), or none of these (`NoFrames`).

**Closing** leaves the appsink behind with ``max-buffers=1 drop=true``: a live pipeline flows on, and nothing
piles up.

The queue between pipeline and callback is the appsink's own: bound it there (``max-buffers``, ``drop``).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import attrs

from lifecycle import ClosedError, SafetyManager
from lifecycle.config import exception_types
from lifecycle.integrations.gstreamer.captures.appsink import an_appsink, flow_of, in_pipeline, puller
from lifecycle.integrations.gstreamer.captures.iteration import Frames, Turn
from lifecycle.integrations.gstreamer.captures.runs import Opened, Run
from lifecycle.integrations.gstreamer.captures.starving import HeldFrames, Stall
from lifecycle.integrations.gstreamer.errors import CaptureError, NoFrames, Starved
from lifecycle.integrations.gstreamer.frames.adapter import SampleAdapter
from lifecycle.integrations.gstreamer.frames.formats import Layout
from lifecycle.integrations.gstreamer.frames.frame import TYPE_NAME, Frame
from lifecycle.integrations.gstreamer.pipelines.callbacks import check_function, forget_frames
from lifecycle.integrations.gstreamer.pipelines.guard import check_manager, end_opened, or_nothing, state_name
from lifecycle.integrations.gstreamer.pipelines.listening import ErrorListener
from lifecycle.integrations.gstreamer.pipelines.threads import refuse_forked
from lifecycle.lowlevel import Uncopied, check_facts, check_timeout, weakly
from lifecycle.stats import Histogram

__all__ = ["Capture", "CaptureStats"]

F = TypeVar("F", bound=Callable[[Frame], object])

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for which `Capture.close` waits for a callback that is running, unless told otherwise."""
BOUNDS: Final = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Buckets of the callback's duration, in seconds."""
STALL_AFTER: Final = 1.0
"""Seconds, and `STALL_DURATIONS` frames' durations, without a frame after which a capture counts as stalled.
"""
STALL_DURATIONS: Final = 5

G = TypeVar("G", bound=Callable[[Stall], object])


@attrs.frozen
class CaptureStats:
    """A capture's figures at one moment."""

    name: str
    """The capture's name."""
    results: dict[str, int]
    """Frames by what became of them: ``ok``, ``error`` (declared, or no frame could be made), ``panic``,
    ``dropped`` (pulled when it was no longer wanted)."""
    last_frame: float
    """Unix time of the last frame, 0.0 before the first."""
    callback_duration: Histogram
    """How long the callback (or the body of the loop) took, in seconds."""
    frames_held: int
    """Frames whose memory is still held after their callback: by arrays, views or shares."""


def _nothing(flow: str) -> None:
    """Nobody wants to know."""


class Capture(Uncopied):
    """Frames from an appsink, by callback or by iteration.

    Parameters
    ----------
    manager:
        Owns the frames. Closing it closes the capture first.
    appsink:
        The element, which one capture at a time pulls from. Its ``max-buffers`` and ``drop`` are the queue:
        the capture changes them when it stops, and puts them back when it, or the next one, begins.
    name:
        Shown in metrics and reports; the element's own name by default.
    streaming:
        Run the callback on GStreamer's streaming thread (new-sample) instead of the capture's own. Frames
        that were queued before are dropped then. Quicker where the pipeline has a `PipelineGuard`, which
        keeps the thread's Python state from one callback to the next.
    errors:
        Exception types that the callback may raise: they are only counted as errors. If none are given: those
        of the manager's policy for ``"gst.Sample"``, or else of its configuration.
    on_error:
        ``"continue"``: after an exception of the callback the next frame follows. ``"stop"``: the capture
        stops (the pipeline goes on), and `wait` raises that exception.
    max_held:
        The number of frames that arrays, views or shares may hold after their callback or turn of the loop;
        while that many are held, new frames are dropped. None: any number.
    bound:
        ``"auto"``: an appsink without a bound of its own (``max-buffers=0``, as by default) holds 8 frames at
        most while the capture is open; beyond that a live source drops the oldest, any other waits. The log
        says so once. None leaves it as it is.

    ::

        with Capture(manager, appsink) as capture:

            @capture.on_frame
            def look(frame):
                print(frame.array().mean())

            capture.wait(10)

    All methods may be called on any thread, also from the callback.
    """

    _remedy = "tee the pipeline to a second appsink for a second capture"

    _abandon = end_opened
    kind: Final = "capture"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        appsink: Any,
        *,
        name: str | None = None,
        streaming: bool = False,
        errors: tuple[type[BaseException], ...] = (),
        on_error: Literal["continue", "stop"] = "continue",
        max_held: int | None = None,
        bound: Literal["auto"] | None = "auto",
    ) -> None:
        check_manager(manager, "Capture(manager, appsink)")
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no capture; make a new manager"
            )
        # Let go when the capture is closed: it keeps buffers of its own.
        self._sink: Any = an_appsink(appsink)
        check_facts(name, 0)
        self.name: str = str(name or appsink.get_name())
        self.manager = manager
        self._errors = exception_types(errors, f"capture {self.name!r}: errors=")
        if on_error not in ("continue", "stop"):
            raise CaptureError(
                f"capture {self.name!r}: on_error= takes 'continue' or 'stop', not {on_error!r}"
            )
        self._stops_on_error = on_error == "stop"
        if max_held is not None and (
            isinstance(max_held, bool) or not isinstance(max_held, int) or max_held < 1
        ):
            raise CaptureError(
                f"capture {self.name!r}: max_held= takes a whole number above 0 or None, not {max_held!r}"
            )
        if bound not in ("auto", None):
            raise CaptureError(f"capture {self.name!r}: bound= takes 'auto' or None, not {bound!r}")
        self._held = HeldFrames(max_held)
        self._streaming = streaming
        self._listener = ErrorListener(appsink)
        self._adapter = SampleAdapter(manager, name=self.name)
        self._try_pull = puller(appsink)
        self._callback: Callable[[Frame], object] | None = None
        self._run: Run | None = None
        self._turn = Turn()
        self._opened = Opened(self._sink, self._listener)
        self._ended = self._opened.ended
        self._error: BaseException | None = None
        self._results = {"ok": 0, "error": 0, "panic": 0, "dropped": 0}
        self._last_frame = 0.0
        self._durations = [0] * (len(BOUNDS) + 1)
        self._duration_sum = 0.0
        self._on_stall: Callable[[Stall], object] | None = None
        self._when_quiet: Callable[[str], object] = _nothing
        """Called by the capture's thread with what `flow_of` says, each time that nothing has come; raises
        nothing."""
        self._layout: Layout | None = None
        self._manager_closed = False
        # The threads are not started here, where the appsink is not drained yet and would fill up, but with
        # the first run or loop.
        self._over = manager._join(self, self._opened.end, "gst.Capture", start=False)
        try:
            self._opened.take(self.name, bound == "auto")
        except CaptureError:
            self._over()
            raise
        self._listener.listen()
        self._opened.leave_manager = manager.on_close(weakly(self._manager_closes))

    # -- by callback -----------------------------------------------------------------------------------------

    def on_frame(self, callback: F) -> F:
        """Decorator: call ``callback(frame)`` for every frame, from now on. The frame is closed when it
        returns: arrays may be kept, the frame itself by ``frame.share()``.

        Raises `CallbackError` for a coroutine or generator function, whose body would run after the frame is
        closed, and `CaptureError` when there is a callback already or the capture is being iterated.
        """
        check_function(callback, f"capture {self.name!r}: on_frame")
        self._refuse_closed()
        if self._callback is not None or self._iterating:
            raise CaptureError(
                f"capture {self.name!r} has {'a callback' if self._callback else 'a loop over frames()'} "
                "already; call several functions from one callback, or tee the pipeline to a second appsink"
            )
        self._callback = callback
        self.start()
        return callback

    def on_stall(self, callback: G) -> G:
        """Decorator: call ``callback(stall)`` with a `Stall` when nothing has come for a second (or five
        durations of a frame, if that is longer) while the pipeline runs; again only after frames have come.
        On the thread that pulls.

        Raises `CallbackError` as `on_frame` does, `CaptureError` for a streaming capture, whose thread is the
        pipeline's own.
        """
        check_function(callback, f"capture {self.name!r}: on_stall")
        self._refuse_closed()
        if self._streaming:
            raise CaptureError(
                f"capture {self.name!r} runs on the pipeline's own thread, which stands still with it; leave "
                "streaming= out"
            )
        self._on_stall = callback
        return callback

    def start(self) -> None:
        """Begin, or begin again after `stop`. Does nothing while running. `on_frame` has called it
        already."""
        self._refuse_closed()
        if self._callback is None:
            raise CaptureError(
                f"capture {self.name!r} has nothing to call; register a function with @capture.on_frame"
            )
        run = self._run
        if run is not None and not run.stopped.is_set():
            return
        self._error = None
        self._listener.listen()
        self._opened.run = self._run = run = Run(self)
        self._opened.goes_on()
        run.begin(self._streaming)
        if self._closed:  # by the callback, or on another thread, which may have seen no run
            run.halt()
            return
        self.manager._begin()

    def stop(self, timeout: float | None = CLOSE_TIMEOUT) -> bool:
        """Stop calling the callback. The pipeline goes on, and its frames are dropped. `start` begins again.

        Waits up to `timeout` seconds for a callback that is running (not when called from it). True when none
        runs any more.
        """
        check_timeout(timeout)
        run = self._run
        return run is None or run.end(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the stream ends or the capture stops, `timeout` seconds at most. Return True if it has.

        Raises `PipelineError` when the pipeline reports an error, `ClosedError` when the manager is closed
        meanwhile, and with ``on_error="stop"`` what the callback raised when that was the reason.
        """
        check_timeout(timeout)
        refuse_forked(f"capture {self.name!r}")
        until = None if timeout is None else time.monotonic() + timeout
        while not self._has_ended(0.1 if until is None else max(0.0, min(0.1, until - time.monotonic()))):
            self._raise_pipeline_error()
            if until is not None and time.monotonic() >= until:
                return False
        self._raise_if_manager_closed()
        error = self._error
        if error is not None and self._stops_on_error:
            raise CaptureError(
                f"capture {self.name!r} stopped because its callback raised {type(error).__name__}: {error}"
            ) from error
        self._raise_pipeline_error()
        return True

    def _has_ended(self, timeout: float) -> bool:
        """Wait until the stream has ended or the capture has stopped; whether it has. The end is a state: a
        seek undoes it."""
        ended, run = self._ended, self._run
        sink = self._sink
        if run is None or run.stopped.is_set() or sink is None:
            return ended.wait(timeout)
        opened = self._opened
        flow = flow_of(sink)
        if flow == "idle" and opened.flowed:
            return True  # the pipeline was stopped
        if flow == "flowing" and not opened.segment_over:
            if ended.is_set() and not run.stopped.is_set():
                opened.goes_on()
        elif flow != "idle" and self._streaming:
            ended.set()  # its signal may have come just before a clear of ours; a segment has none
        return ended.wait(timeout)

    @property
    def error(self) -> BaseException | None:
        """The last exception of the callback, without its traceback (which would keep frames alive)."""
        return self._error

    # -- by iteration ----------------------------------------------------------------------------------------

    def frames(self, timeout: float | None = None) -> Frames:
        """Iterate over frames on this thread: ``for frame in capture.frames(timeout=5)``, or in a coroutine
        of asyncio or trio: ``async for frame in capture.frames(timeout=5)``. Each frame is closed when the
        next one is asked for, and when the loop ends.

        Ends with the stream, when the pipeline is stopped, and when the capture is closed. When nothing comes
        for `timeout` seconds (None: waits for ever) it raises `Starved` if held frames are the reason,
        `NoFrames` otherwise; `NoFrames` at once where the stream had ended before the loop began and the
        capture never had a frame. Raises `PipelineError` when the pipeline reports an error, `ClosedError`
        when the manager is closed, `CaptureError` when a callback is registered.
        """
        self._refuse_second_loop()
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0
        ):
            raise CaptureError(
                f"capture {self.name!r}: timeout= takes seconds above 0 or None, not {timeout!r}"
            )
        return Frames(self, timeout)

    def _refuse_second_loop(self) -> None:
        self._refuse_closed()
        if self._callback is not None or self._iterating:
            raise CaptureError(
                f"capture {self.name!r} gives its frames to "
                f"{'its callback' if self._callback else 'another loop'} already; tee the pipeline to a "
                "second appsink for a second consumer"
            )

    @property
    def _iterating(self) -> bool:
        """True if a loop has the frames: its iterator lives, and is not over."""
        self._turn = turn = self._turn.last()
        return turn.lives()

    def _loop_begins(self, frames: Frames) -> None:
        """Give the frames to a loop. Raises `CaptureError` where another one has them. After an interrupt in
        here the capture belongs to the loop as long as its iterator lives, and is free after that."""
        self._refuse_second_loop()
        mine = Turn(frames)
        while not self._turn.last().follow(mine):
            # Another was quicker, or is over again.
            self._refuse_second_loop()
        self._turn = mine
        self._opened.goes_on()
        self._listener.listen()
        self._opened.look_if_live()
        self.manager._begin()

    def _loop_ended(self) -> None:
        if not self._turn.last().lives():
            self._ended.set()

    # -- when nothing comes ----------------------------------------------------------------------------------

    def _raise_pipeline_error(self) -> None:
        self._listener.listen()
        error = self._listener.error
        if error is not None and not self._closed:
            raise error

    def _raise_if_manager_closed(self) -> None:
        if self._manager_closed:
            raise ClosedError(
                f"manager {self.manager.name!r} was closed, and with it capture {self.name!r}: no frame "
                "follows; make new ones"
            )

    def _nothing_came(self, seconds: float) -> NoFrames:
        stall = self._stall(seconds)
        return Starved(stall.text, held=stall.held) if stall.starved else NoFrames(stall.text)

    def _ended_before(self) -> NoFrames:
        return NoFrames(
            f"capture {self.name!r}: the stream had ended before anybody looped over it, and no frame of it "
            "is left: others have pulled or dropped them, or it failed before this capture was made (the bus "
            "and PipelineGuard.errors say so); make the capture before the pipeline plays, seek back, or "
            "start the pipeline again"
        )

    def _stall(self, seconds: float) -> Stall:
        """What there is to be said of a capture to which nothing comes."""
        reason, held = self._held.starving()
        begin = f"capture {self.name!r}: no frame within {seconds:.3g} s"
        if reason:
            text = (
                f"{begin}: {reason}; close them, drop their arrays, "
                f"or keep frame.copy() instead ({'; '.join(held)})"
            )
            return Stall(self.name, seconds, True, held, text)
        sink = self._sink
        text = (
            f"{begin}; the appsink is {state_name(sink) if sink is not None else 'gone'}"
            f"{' and in no pipeline' if sink is not None and not in_pipeline(sink) else ''}"
            f"{' and has seen no frame yet' if not self._last_frame else ''}: see that the pipeline is "
            "PLAYING and that what feeds it has something to give"
        )
        return Stall(self.name, seconds, False, held, text)

    def _stall_after(self) -> float:
        """Seconds without a frame after which that is told."""
        layout = self._layout
        return max(STALL_AFTER, STALL_DURATIONS * (layout.seconds if layout is not None else 0.0))

    def _tell_stall(self, seconds: float) -> None:
        """Call `on_stall`, behind the boundary."""
        callback = self._on_stall
        if callback is not None:
            try:
                callback(self._stall(seconds))
            except BaseException as error:
                self._contain(error, False)

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> bool:
        """Stop for good; from then on the appsink drops its frames. Waits like `stop`. A second call returns
        what is so by then.

        Frames and arrays that are still held stay valid.
        """
        check_timeout(timeout)
        self._opened.closed = True
        self._results["dropped"] += len(self._opened.early)
        run = self._run
        done = run is None or run.end(timeout)
        if done:
            self._sink = None
        self._opened.end()
        self._over()
        return done

    def _manager_closes(self) -> None:
        self._manager_closed = not self._ended.is_set()
        self.close()

    @property
    def closed(self) -> bool:
        """True if the capture was closed."""
        return self._opened.closed

    @property
    def _closed(self) -> bool:
        return self._opened.closed

    def __enter__(self) -> Capture:
        self._refuse_closed()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def stats(self) -> CaptureStats:
        """The figures, as a frozen snapshot. Callable on any thread."""
        durations = Histogram(bounds=BOUNDS, counts=tuple(self._durations), sum=self._duration_sum)
        return CaptureStats(self.name, dict(self._results), self._last_frame, durations, self._held.count())

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

    # -- inside ----------------------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        refuse_forked(f"capture {self.name!r}")
        if self._closed:
            raise ClosedError(f"capture {self.name!r} is closed; make a new one for its appsink")

    def _deliver(self, frame: Frame) -> None:
        """Give one frame to the callback. Nothing that the callback does leaves this."""
        callback = self._callback
        if callback is None or self._opened.closed or (self._held.most is not None and not self._held.room()):
            self._results["dropped"] += 1
            frame.close()
            return
        began = time.perf_counter()
        result = "ok"
        try:
            callback(frame)
        except BaseException as error:  # the boundary: what is not declared is a panic, whatever its class
            result = self._contain(error, False)
        self._count(result, began, frame)

    def _contain(self, error: BaseException, no_frame: bool) -> str:
        """Report what left the callback (or that there was no frame to give it), and let go of everything its
        traceback holds."""
        errors = (*self._errors, type(error)) if no_frame else self._errors
        expected = self.manager.report_error(self.name, error, type_name=TYPE_NAME, errors=errors)
        forget_frames(error)
        self._error = error
        run = self._run
        if self._stops_on_error and run is not None:
            run.stopped.set()
        return "error" if expected else "panic"

    def _count(self, result: str, began: float, frame: Frame | None) -> None:
        """Note how a frame ended, and close it. Called by the one thread that delivers."""
        seconds = time.perf_counter() - began
        self._results[result] += 1
        self._durations[bisect_left(BOUNDS, seconds)] += 1
        self._duration_sum += seconds
        self._last_frame = time.time()
        if frame is None:
            return
        self._layout = frame._layout
        if not frame.close():
            self._held.note(frame)
