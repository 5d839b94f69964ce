"""Feeders: pictures made in Python, given to an appsrc without a copy, and never more of them than it takes.

**The problem.** `Gst.Buffer.new_wrapped` copies; what wraps without a copy crashes when the array dies first;
an array that is written after its push changes the picture downstream; a picture whose rows lie otherwise
than GStreamer thinks is a wrong picture without an error; and an appsrc that is fed faster than it flows
grows until the memory is gone, or blocks in C where no Ctrl-C reaches.

**The idea.** What somebody can still write is copied; what nobody can write is lent (`loans.py`), and lives
until GStreamer has dropped it. ``with feeder.frame() as array`` lends
memory in GStreamer's own layout the other way round and pushes it at the end of the block. Anything else is
compared with the caps first (`fitting.py`): what fits is pushed as it lies, what only lies otherwise is
copied into place, what would be another picture is refused.

**Waiting.** A push waits for room in Python, in slices, and ends with an error when the time is over, the
pipeline reports an error, or the feeder or its manager is closed.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final

import attrs

from lifecycle import ClosedError, SafetyManager
from lifecycle.integrations.gstreamer._buffers import (
    Flow,
    Owned,
    add_video_meta,
    level_of,
    nothing_owned,
    push_to,
    shallow_copy,
)
from lifecycle.integrations.gstreamer._native import BufferHead, Gst, buffer_size, np, pointer_of, video_meta
from lifecycle.integrations.gstreamer.errors import FeederError, FeederFull, FormatError
from lifecycle.integrations.gstreamer.feeding.fitting import fitting, fitting_planes
from lifecycle.integrations.gstreamer.feeding.lent import (
    Checked,
    Memory,
    MemoryStore,
    address_of,
    can_be_sealed,
    in_a_row,
    is_fixed,
)
from lifecycle.integrations.gstreamer.feeding.loans import Loans
from lifecycle.integrations.gstreamer.frames.adapter import SampleAdapter
from lifecycle.integrations.gstreamer.frames.formats import Layout
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.frames.writable import WritableFrame, nanoseconds
from lifecycle.integrations.gstreamer.pipelines.guard import (
    check_manager,
    check_seconds,
    end_opened,
    or_nothing,
    state_name,
)
from lifecycle.integrations.gstreamer.pipelines.listening import ErrorListener
from lifecycle.integrations.gstreamer.pipelines.threads import has_forked, refuse_forked
from lifecycle.lowlevel import Uncopied, check_facts, weakly

__all__ = ["Feeder", "FeederStats"]

READONLY: Final = 2
"""`GST_MEMORY_FLAG_READONLY`: elements that change pictures in place make a copy first."""
WAITS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005)
"""Seconds between two looks for room: longer and longer."""


@attrs.frozen
class FeederStats:
    """A feeder's figures at one moment."""

    name: str
    """The feeder's name."""
    pushed: int
    """Buffers given to the appsrc."""
    copied: int
    """Of these, what was copied: it could still be written, or lay otherwise than GStreamer takes it."""
    waiting: int
    """Buffers in the appsrc now."""
    outstanding: int
    """Arrays that GStreamer holds now, in the appsrc and anywhere behind it. Exact."""


class _Opened:
    """What a feeder has opened, and how that ends. Refers to nothing of the feeder, which may be gone by
    then."""

    def __init__(self, listener: ErrorListener, store: MemoryStore) -> None:
        self.listener = listener
        self.store = store
        self.closed = threading.Event()
        self.leave_manager: Callable[[], object] = int

    def end(self) -> None:
        """The feeder is closed, and its listener is removed. Waits for nothing; again: nothing."""
        self.closed.set()
        if has_forked():
            return
        self.listener.close()
        self.store.most = 0
        self.store.clear()
        self.leave_manager()


class Feeder(Uncopied):
    """Gives arrays, frames and bytes to an appsrc.

    Parameters
    ----------
    manager:
        Owns the writable frames. Closing it ends every wait for room with `ClosedError`.
    appsrc:
        The element. Its ``format`` becomes time, and ``block`` false: the feeder waits itself.
    caps:
        What is fed, a `Gst.Caps` or its text; the appsrc's own where None. Where it has none either, the caps
        of the frames that are pushed, which may change.
    name:
        Shown in metrics, messages and reports; the element's own name by default.
    max_buffers:
        How many buffers may wait in the appsrc; a push waits for room.
    video_meta:
        Say where the rows lie of pictures that lie otherwise than GStreamer's own layout, instead of copying
        them into it. Right for elements that heed it (converters, encoders and sinks for raw video do; those
        that take any bytes do not).
    check_lent:
        Compare some 4096 bytes of each array that is lent by ``push(…, lend=True)`` with what they were, once
        GStreamer has let go of it, and report the push after which somebody wrote to it. For tests: it finds
        what is written through an older view, which nothing can keep from being written.

    All methods may be called on any thread.
    """

    _remedy = "pass the feeder itself, or make another for another appsrc"

    _abandon = end_opened
    kind: Final = "feeder"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        appsrc: Any,
        *,
        caps: Any = None,
        name: str | None = None,
        max_buffers: int = 4,
        video_meta: bool = False,
        check_lent: bool = False,
    ) -> None:
        check_manager(manager, "Feeder(manager, appsrc)")
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no feeder; make a new manager"
            )
        factory = appsrc.get_factory() if isinstance(appsrc, Gst.Element) else None
        if factory is None or factory.get_name() != "appsrc":
            raise FeederError(
                f"a feeder pushes into an appsrc, not into {appsrc!r}; begin the pipeline with «appsrc "
                "name=feed» and give that element"
            )
        if isinstance(max_buffers, bool) or not isinstance(max_buffers, int) or max_buffers < 1:
            raise FeederError(f"max_buffers= takes a whole number above 0, not {max_buffers!r}")
        self.manager = manager
        check_facts(name, 0)
        self.name: str = str(name or appsrc.get_name())
        self.max_buffers = max_buffers
        self._source: Any = appsrc
        self._pointer = pointer_of(appsrc)
        self._adapter = SampleAdapter(manager, name=self.name)
        self._video_meta = video_meta
        self._check_lent = check_lent
        self._layout: Layout | None = None
        self._follows = False
        self._loans = Loans()
        self._store = MemoryStore(max_buffers + 2)
        self._listener = ErrorListener(appsrc)
        self._opened = _Opened(self._listener, self._store)
        self._closed = self._opened.closed
        self._counting = threading.RLock()
        self._pushed = 0
        self._copied = 0
        given = appsrc.get_property("caps") if caps is None else caps
        if given is None:
            self._follows = True
        else:
            self._set_caps(self._adapter.layout(given))
        if appsrc.get_property("format") != Gst.Format.TIME:
            appsrc.set_property("format", Gst.Format.TIME)
        appsrc.set_property("block", False)
        self._over = manager.add_component(self, end=self._opened.end, type_name="gst.Feeder")
        self._listener.listen()
        self._opened.leave_manager = manager.on_close(weakly(self.close))

    def _set_caps(self, layout: Layout) -> None:
        self._layout = layout
        self._source.set_property("caps", layout.caps)

    # -- feeding ---------------------------------------------------------------------------------------------

    def frame(
        self, pts: int | None = None, *, duration: int | None = None, timeout: float | None = None
    ) -> FeederFrame:
        """A picture to be made: ``with feeder.frame(pts=t) as array: array[:] = …`` pushes it at the end of
        the block.

        What it gives is a writable ndarray in GStreamer's own layout (strides may pad rows), for formats of
        several planes a tuple of them. Its contents are not cleared. After the block it is read-only, and
        stays good; a slice that is still alive then keeps its memory, and what is pushed is a copy. After an
        exception nothing is pushed.

        Waits up to `timeout` seconds (None: for ever) for room as the block begins. Raises what `push`
        raises.
        """
        return FeederFrame(self, nanoseconds("pts", pts), nanoseconds("duration", duration), timeout)

    def push(
        self,
        what: Any,
        *,
        pts: int | None = None,
        duration: int | None = None,
        timeout: float | None = None,
        lend: bool = False,
    ) -> None:
        """Give `what` to the appsrc.

        Parameters
        ----------
        what:
            An ndarray in the shape and dtype of `Frame.array` (or anything that NumPy shows as one without a
            copy), a tuple of arrays in those of `Frame.planes`, bytes of the whole buffer in any buffer
            object, a `Frame`, a `WritableFrame`, or a `Gst.Buffer`. What nobody can write any more is lent,
            without a copy: bytes and their views, the arrays of a `Frame`, frames and buffers. Everything
            else is copied, so it may be filled again at once.
        pts, duration:
            Nanoseconds; those of a frame stay its own where None.
        timeout:
            Seconds to wait for room; None for ever.
        lend:
            Lend an ndarray instead of copying it, where it lies as GStreamer takes it. It, and what it is a
            view of, is read-only from here on, for good; older writable views and memoryviews of it are your
            word. `FeederError` for what cannot be made read-only (a bytearray, say, and an array over one).

        Raises `FormatError` for what would be a wrong picture, `FeederFull` when there is no room in time,
        `HeldError` for a writable frame that something still writes to, `FeederError` where the appsrc takes
        nothing (not running, or after `end_of_stream`), `PipelineError` when the pipeline reports one,
        `ClosedError` when feeder or manager is closed. What does not fit or finds no room is still yours,
        unchanged; what the appsrc itself refuses is used up.
        """
        start, length = nanoseconds("pts", pts), nanoseconds("duration", duration)
        owned = None
        try:
            if isinstance(what, (Frame, WritableFrame, Gst.Buffer)):
                self._wait_for_room(timeout)
                owned = self._of_gstreamer(what)
            elif isinstance(what, tuple):
                planes = fitting_planes(self.name, self._layout, what)
                self._wait_for_room(timeout)
                owned = self._copied_into(self._layout.all_planes(), planes)  # type: ignore[union-attr]
            else:
                array = fitting(self.name, self._layout, what)
                lent = self._may_lend(what, array, lend)
                self._wait_for_room(timeout)
                owned = self._of_array(array, lent)
            head = BufferHead.from_address(owned.value or 0)
            if pts is not None:
                head.pts = start
            if duration is not None:
                head.duration = length
            self._give(owned)
        except BaseException:
            if owned is not None:
                owned.drop()
            raise
        finally:
            owned = None  # a kept traceback must keep no buffer

    def _give(self, owned: Owned) -> None:
        try:
            flow = push_to(self._pointer, owned)
        finally:
            owned = None  # type: ignore[assignment]  # a kept traceback must keep no buffer
        if flow == Flow.OK:
            with self._counting:
                self._pushed += 1
            return
        self._raise_if_over()
        if flow == Flow.EOS:
            raise FeederError(f"feeder {self.name!r}: the appsrc takes nothing after the end of the stream")
        raise FeederError(
            f"feeder {self.name!r}: the appsrc takes nothing (flow {flow}) while it is "
            f"{state_name(self._source)}; set the pipeline to PLAYING first"
        )

    # -- what can be pushed ----------------------------------------------------------------------------------

    def _of_gstreamer(self, what: Any) -> Owned:
        """The buffer of a frame, or a `Gst.Buffer` itself."""
        if isinstance(what, Gst.Buffer):
            return self._copy_of(hash(what), what)
        layout = what._layout
        if self._follows and (self._layout is None or not layout.caps.is_equal(self._layout.caps)):
            self._set_caps(layout)
        assert self._layout is not None
        if not (layout.caps is self._layout.caps or layout.caps.is_equal(self._layout.caps)):
            raise FormatError(
                f"feeder {self.name!r} feeds {self._layout.caps.to_string()}, and this frame is "
                f"{layout.caps.to_string()}; convert it, or make the feeder without caps= to have it follow "
                "its frames"
            )
        if isinstance(what, WritableFrame):
            return what._hand_on(f"pushed by feeder {self.name!r}")
        sample = what._sample_now()
        try:
            return self._copy_of(what._buffer_of(sample), what)
        finally:
            sample = None

    def _copy_of(self, buffer: int, what: Any) -> Owned:
        """Another head over the memory of a buffer of GStreamer's. Raises `FormatError` where that is shorter
        than the caps say, and has no meta of its own: no element could read the picture."""
        layout = self._layout
        if layout is not None and layout.plain and layout.planes and not video_meta(buffer):
            size = buffer_size(buffer)
            if size < layout.size:
                raise FormatError(
                    f"feeder {self.name!r} feeds {layout}, of {layout.size} bytes, and this "
                    f"{type(what).__name__} has {size}: it is truncated, or of other caps"
                )
        return shallow_copy(buffer)

    def _may_lend(self, what: Any, array: np.ndarray[Any, Any], lend: bool) -> bool:
        """Return True if the memory of `array` is lent instead of copied."""
        if is_fixed(array):
            return True
        if lend and not can_be_sealed(array):
            raise FeederError(
                f"feeder {self.name!r}: this {type(what).__name__} cannot be lent: others can go on writing "
                "to its memory, and nothing can keep them from it; push it without lend=, which copies it"
            )
        return lend

    def _of_array(self, array: np.ndarray[Any, Any], lend: bool) -> Owned:
        """A buffer over the array's own memory, where it is to be lent and lies as GStreamer takes it; else
        over a copy in GStreamer's layout."""
        layout = self._layout
        assert layout is not None
        plane = layout.image
        shaped = plane is not None and array.ndim == len(plane.shape)
        if lend and array.flags.c_contiguous and (not shaped or array.strides == plane.strides):  # type: ignore[union-attr]
            return self._lend(array, array.nbytes)
        if plane is not None and array.ndim == len(plane.shape):
            rows = array.strides[1:] == plane.strides[1:] and array.strides[0] >= plane.row
            if lend and self._video_meta and rows:
                extent = (array.shape[0] - 1) * array.strides[0] + plane.row
                owned = self._lend(array, extent)
                try:
                    video_format = layout._info.finfo.format
                    add_video_meta(owned, video_format, layout.width, layout.height, [0], [array.strides[0]])
                    return owned
                finally:
                    owned = None  # type: ignore[assignment]  # a kept traceback must keep no buffer
            return self._copied_into((plane,), (array,))
        return self._copied_into((in_a_row(array),), (array,), array.nbytes)

    def _copied_into(
        self, planes: Any, arrays: tuple[np.ndarray[Any, Any], ...], size: int | None = None
    ) -> Owned:
        assert self._layout is not None
        memory = self._store.take(self._layout.size if size is None else size)
        targets = memory.arrays(planes)
        list(map(np.copyto, targets, arrays))
        del targets
        self._count_copy()
        return self._lend_memory(memory)

    def _count_copy(self) -> None:
        with self._counting:
            self._copied += 1

    def _lend(self, array: np.ndarray[Any, Any], size: int) -> Owned:
        """A read-only buffer over the array, which is read-only from now on, as is what it is a view of."""
        owner: Any = array
        while isinstance(owner, np.ndarray):
            if owner.flags.writeable:
                owner.flags.writeable = False
            owner = owner.base
        address = address_of(array)
        owned = nothing_owned()
        try:
            if self._check_lent:
                kept = Checked(array, size, self._pushed + 1)
                back = partial(_compare, weakref.ref(self))
                self._loans.lend(kept, owned, READONLY, address, size, self.name, back)
            else:
                self._loans.lend(array, owned, READONLY, address, size, self.name)
            return owned
        finally:
            owned = None  # type: ignore[assignment]  # a kept traceback must keep no buffer

    def _lend_memory(self, memory: Memory) -> Owned:
        """A buffer over memory of our own, read-only for GStreamer while an array of ours looks at it."""
        address, size = memory.address, memory.size
        flags = READONLY if memory.onlookers() else 0
        owned = nothing_owned()
        try:
            self._loans.lend(memory, owned, flags, address, size, self.name, self._store.put)
            return owned
        finally:
            owned = None  # type: ignore[assignment]  # a kept traceback must keep no buffer

    # -- waiting ---------------------------------------------------------------------------------------------

    def _wait_for_room(self, timeout: float | None) -> None:
        if timeout is not None:
            check_seconds(timeout, f"feeder {self.name!r}: timeout=", FeederError)
        if self._closed.is_set() or has_forked():
            self._raise_if_over()
        self._listener.listen()
        if level_of(self._pointer) < self.max_buffers:
            return
        until = None if timeout is None else time.monotonic() + timeout
        waits = iter(WAITS)
        wait = 0.0
        while True:
            self._raise_if_over()
            if level_of(self._pointer) < self.max_buffers:
                return
            if until is not None and time.monotonic() >= until:
                raise FeederFull(
                    f"feeder {self.name!r}: no room within {timeout} s: {level_of(self._pointer)} buffers "
                    f"wait in the appsrc (max_buffers={self.max_buffers}), which is "
                    f"{state_name(self._source)}; what comes after it is slower, or stands still"
                )
            wait = next(waits, wait)
            self._closed.wait(wait if until is None else max(0.0, min(wait, until - time.monotonic())))

    def _raise_if_over(self) -> None:
        refuse_forked(f"feeder {self.name!r}")
        if self._closed.is_set():
            whose = f"manager {self.manager.name!r}" if self.manager.closed else f"feeder {self.name!r}"
            raise ClosedError(
                f"{whose} is closed: feeder {self.name!r} takes nothing any more; make a new one"
            )
        error = self._listener.error
        if error is not None and self._source.get_state(0)[1] >= Gst.State.PAUSED:
            raise error

    # -- the end ---------------------------------------------------------------------------------------------

    def end_of_stream(self) -> None:
        """Tell that nothing follows. Raises `FeederError` where the appsrc does not take that, `ClosedError`
        after `close`."""
        if self._closed.is_set() or has_forked():
            self._raise_if_over()
        flow = self._source.emit("end-of-stream")
        if flow != Gst.FlowReturn.OK:
            raise FeederError(
                f"feeder {self.name!r}: the appsrc does not take the end of the stream while it is "
                f"{state_name(self._source)}"
            )

    def close(self) -> None:
        """Stop feeding; pushes that wait for room raise `ClosedError`. Pushed buffers flow on, and their
        arrays live until GStreamer has dropped them. Does not end the stream. A second call does nothing."""
        self._opened.end()
        self._over()

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._closed.is_set()

    @property
    def caps(self) -> Any:
        """The `Gst.Caps` that are fed, None before the first frame where it follows its frames."""
        return None if self._layout is None else self._layout.caps

    def stats(self) -> FeederStats:
        """The figures, as a frozen snapshot. Callable on any thread."""
        # In a forked child the appsrc is the parent's, and its lock may be held by a thread that is not here.
        waiting = 0 if has_forked() else level_of(self._pointer)
        return FeederStats(self.name, self._pushed, self._copied, waiting, len(self._loans))

    def __enter__(self) -> Feeder:
        if self._closed.is_set():
            self._raise_if_over()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        what = self._layout or "what its frames are"
        return f"<Feeder {self.name!r} of {what}: {state}, {self._pushed} pushed>"


def _compare(feeder: weakref.ref[Feeder], kept: Checked) -> None:
    """What was lent is back."""
    living = feeder()
    if living is None or kept.is_as_it_was():
        return
    living.manager.report_panic(
        f"feeder {living.name}",
        FeederError(
            f"feeder {living.name!r}: the array of push {kept.number} was written to while GStreamer had it, "
            "through a view that is older than its push(lend=True): push it without lend=, or write to a copy"
        ),
        type_name="gst.Feeder",
    )


class FeederFrame(Uncopied):
    """What `Feeder.frame` gives: one picture, lent for one ``with`` block."""

    _remedy = "ask frame() for another picture"

    __slots__ = ("_arrays", "_duration", "_feeder", "_memory", "_pts", "_timeout")

    def __init__(self, feeder: Feeder, pts: int, duration: int, timeout: float | None) -> None:
        self._feeder = feeder
        self._pts = pts
        self._duration = duration
        self._timeout = timeout
        self._memory: Memory | None = None
        self._arrays: tuple[np.ndarray[Any, Any], ...] = ()

    def __enter__(self) -> Any:
        feeder = self._feeder
        layout = feeder._layout
        if layout is None:
            raise FeederError(
                f"feeder {feeder.name!r} has no caps, so there is no picture to lend; give caps= when making "
                "it"
            )
        planes = layout.all_planes()
        if self._memory is not None:
            raise FeederError(f"feeder {feeder.name!r}: a frame is lent once; ask frame() for the next")
        feeder._wait_for_room(self._timeout)
        self._memory = memory = feeder._store.take(layout.size)
        self._arrays = arrays = memory.arrays(planes)
        return arrays[0] if layout.image is not None else arrays

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        feeder, memory, arrays = self._feeder, self._memory, self._arrays
        self._arrays = ()
        if memory is None:
            return
        if error is not None:
            del arrays
            if memory.onlookers() == 0:
                feeder._store.put(memory)
            return
        if feeder._closed.is_set() or has_forked():
            feeder._raise_if_over()
        owned = None
        try:
            if memory.onlookers() > len(arrays):
                # A slice could still be written: what was pushed may not change any more.
                layout = feeder._layout
                assert layout is not None
                owned = feeder._copied_into(layout.all_planes(), arrays)
                del arrays
            else:
                memory.seal(arrays)
                del arrays
                owned = feeder._lend_memory(memory)
            head = BufferHead.from_address(owned.value or 0)
            head.pts, head.duration = self._pts, self._duration
            feeder._give(owned)
        except BaseException:
            if owned is not None:
                owned.drop()
            raise
        finally:
            owned = None  # a kept traceback must keep no buffer
