"""Iterating over a capture: ``for frame in capture.frames()`` and ``async for frame in capture.frames()``.

**Who has the frames.** One loop at a time. The claim is the iterator itself: another loop begins where it is
dropped or over, or where the task that waited for it was cancelled. So nothing has to be given back, and no
interrupt can keep a capture from the next loop.

One frame at a time: each is closed when the next one is asked for, when the loop ends, and when the iterator
is dropped. The asynchronous loop, of asyncio or trio, looks for a frame without waiting first, and waits on a
thread of the event loop's pool otherwise, in slices; what such a wait brings after its task was cancelled is
the next one's.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lifecycle.integrations.gstreamer.captures.appsink import answers_at_once, flow_of
from lifecycle.integrations.gstreamer.captures.runs import REST, SLICE, Opened, Quiet
from lifecycle.integrations.gstreamer.errors import CaptureError
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.pipelines.threads import has_forked, refuse_forked
from lifecycle.lowlevel import Claim, Uncopied

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer.captures.capture import Capture

__all__ = ["Frames"]


class Turn:
    """The frames of a capture, given to one loop: the last of a chain, in which each follows one that was
    over. Refers weakly to the loop, and to none at its beginning."""

    __slots__ = ("_frames", "_next", "over")

    def __init__(self, frames: Frames | None = None) -> None:
        self._frames = None if frames is None else weakref.ref(frames)
        self._next: Claim[Turn] = Claim()
        self.over: bool = frames is None

    def last(self) -> Turn:
        """The one that has the frames now, or had them last."""
        turn = self
        while (following := turn._next.holder) is not None:
            turn = following
        return turn

    def follow(self, turn: Turn) -> bool:
        """Have `turn` come after this one, which is over; False where another does already."""
        return self._next.take(turn)

    def give_up(self, frames: Frames) -> None:
        """Another loop may follow, though `frames` is not over."""
        if self.is_of(frames):
            self.over = True

    def is_of(self, frames: Frames) -> bool:
        """Return True if `frames` has it now."""
        return not self.over and self._frames is not None and self._frames() is frames

    def lives(self) -> bool:
        """Return True if its loop may still ask for frames."""
        if self.over or self._frames is None:
            return False
        frames = self._frames()
        return frames is not None and not frames._over


class Frames(Uncopied):
    """Iterator and asynchronous iterator over the frames of a capture. Made by `Capture.frames`; used by one
    loop."""

    _remedy = "ask capture.frames() for another loop"

    __slots__ = (
        "__weakref__",
        "_began",
        "_capture",
        "_frame",
        "_given",
        "_over",
        "_started",
        "_timeout",
        "_witnessed",
    )

    def __init__(self, capture: Capture, timeout: float | None) -> None:
        self._capture = capture
        self._timeout = timeout
        self._frame: Frame | None = None
        self._began = 0.0
        self._over = False
        self._started = False
        self._given = False  # a frame
        self._witnessed = ""  # how the stream was last, before its end

    def __iter__(self) -> Frames:
        return self

    def __aiter__(self) -> Frames:
        return self

    def __next__(self) -> Frame:
        """The next frame; the one before is closed. Raises as `Capture.frames` says."""
        sample = sink = None
        try:
            self._next_turn()
            began, quiet = time.monotonic(), Quiet()
            early = self._capture._opened.early
            while True:
                sink = self._sink()
                if sink is None:
                    break
                segment_over = self._capture._opened.segment_over
                sample = early.popleft() if early else self._capture._try_pull(sink, self._slice(began))
                if sample is not None and self._admitted():
                    return self._give(sample)
                came, sample = sample is not None, None
                if self._ended(sink, began, quiet, segment_over):
                    break
                if not came:
                    _rest(sink)
            raise StopIteration
        except BaseException as error:
            if self._started or not isinstance(error, CaptureError):  # else it was refused, and may ask again
                self._over = True
                self.close()
            raise
        finally:
            sample = sink = None

    async def __anext__(self) -> Frame:
        """The same turns as `__next__`. Only the wait differs: without blocking the event loop."""
        sample = sink = None
        try:
            self._next_turn()
            began, quiet = time.monotonic(), Quiet()
            early = self._capture._opened.early
            while True:
                sink = self._sink()
                if sink is None:
                    break
                segment_over = self._capture._opened.segment_over
                sample = early.popleft() if early else self._capture._try_pull(sink, 0)
                if sample is not None and self._admitted():
                    return self._give(sample)
                sample = None
                if self._ended(sink, began, quiet, segment_over):
                    break
                if not early:
                    # Without `self`: the loop's end must not wait for a thread to let go of it.
                    await _on_a_thread(
                        partial(
                            _wait, self._capture._try_pull, self._capture._opened, sink, self._slice(began)
                        )
                    )
            raise StopAsyncIteration
        except BaseException as error:
            if _is_cancelled(error):
                # Of one wait: the loop over the frames may go on, unless another has begun meanwhile.
                self._capture._turn.last().give_up(self)
            elif self._started or not isinstance(error, CaptureError):
                # Else it was refused, and may ask again.
                self._over = True
                self.close()
            raise
        finally:
            sample = sink = None

    def close(self) -> None:
        """End the loop, closing its frame. Calling twice is calling once."""
        self._over = True
        self._finish()
        if self._started:
            self._capture._loop_ended()

    async def aclose(self) -> None:
        """As `close`, for ``contextlib.aclosing``."""
        self.close()

    def __del__(self) -> None:
        # Interrupted in its making it has neither.
        if getattr(self, "_started", False) and (not self._over or self._frame is not None):
            self.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _next_turn(self) -> None:
        self._finish()
        if self._over:
            return
        if not self._capture._turn.is_of(self):
            self._capture._loop_begins(self)
            self._started = True

    def _finish(self) -> None:
        """Close the frame that was given last."""
        frame, self._frame = self._frame, None
        if frame is not None:
            self._capture._count("ok", self._began, frame)

    def _sink(self) -> Any:
        """The appsink, None where there is none any more. Raises `ClosedError` when the manager has closed
        the capture."""
        if has_forked():
            refuse_forked(f"capture {self._capture.name!r}")
        self._capture._raise_if_manager_closed()
        return None if self._over or self._capture._closed else self._capture._sink

    def _slice(self, began: float) -> int:
        left = SLICE if self._timeout is None else min(SLICE, began + self._timeout - time.monotonic())
        return max(1, int(left * 1e9))

    def _admitted(self) -> bool:
        """Return True if one more frame may be out; else what has come is dropped."""
        if self._capture._held.room():
            return True
        self._capture._results["dropped"] += 1
        return False

    def _give(self, sample: Any) -> Frame:
        self._began = time.perf_counter()
        try:
            self._frame = frame = self._capture._adapter.frame(sample)
            self._given = True
            self._capture._opened.look_if_live()
            return frame
        except BaseException:
            self._capture._count("error", self._began, None)
            raise

    def _ended(self, sink: Any, began: float, quiet: Quiet, segment_over: bool) -> bool:
        """Nothing has come that could be given: whether nothing will. Raises what there is to be said of it.
        `segment_over`: a segment that was sought had come to its end before.

        A loop ends without a word only after frames, or at an end that it has seen come. An appsink at its
        end from the start has nothing to tell of what it was: frames that others took, an error, or nothing
        at all.
        """
        capture = self._capture
        capture._held.look_around()
        flow = flow_of(sink)
        capture._raise_pipeline_error()
        if flow == "eos" or (flow == "flowing" and segment_over):
            if capture._opened.waits or capture._opened.early:
                return False  # the wait of a cancelled turn may have the last frame
            if not (self._given or self._witnessed or capture._last_frame > 0.0):
                raise capture._ended_before()
            return True
        if flow == "idle" and (self._given or (self._witnessed == "flowing" and capture._last_frame > 0.0)):
            return True
        if flow == "flowing" or not self._witnessed:
            self._witnessed = flow
        if self._timeout is not None and time.monotonic() >= began + self._timeout:
            raise capture._nothing_came(self._timeout)
        if flow == "flowing" and capture._on_stall is not None and quiet.told_after(capture._stall_after()):
            capture._tell_stall(quiet.seconds)
        return False


def _rest(sink: Any) -> None:
    """Where a pull does not wait."""
    if answers_at_once(sink):
        time.sleep(REST)


async def _on_a_thread(function: Callable[[], object]) -> None:
    """Call it on a thread of the pool of asyncio's or trio's loop. Cancelled, the call goes on."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        trio: Any = sys.modules.get("trio")
        if trio is None:
            raise
        await trio.to_thread.run_sync(function, abandon_on_cancel=True)
        return
    await loop.run_in_executor(None, function)


def _is_cancelled(error: BaseException) -> bool:
    """Return True if a task of asyncio or trio was cancelled."""
    cancelled: Any = getattr(sys.modules.get("trio"), "Cancelled", asyncio.CancelledError)
    return isinstance(error, (asyncio.CancelledError, cancelled))


def _wait(try_pull: Any, opened: Opened, sink: Any, nanoseconds: int) -> None:
    """On a thread of the pool: put what comes where the next turn finds it."""
    opened.waits.append(None)
    try:
        sample = try_pull(sink, nanoseconds)
        if sample is not None:
            opened.early.append(sample)
    finally:
        opened.waits.pop()
    if sample is None:
        _rest(sink)
