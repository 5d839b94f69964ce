"""Streams of whatever library, their fences, and timelines of them."""

from __future__ import annotations

import ctypes
from collections import deque
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar
from weakref import ref

from lifecycle import Handle, Submission, Timeline
from lifecycle.errors import shown
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.devices import device as device_of
from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.integrations.cuda.memory import Memory, refuse_range
from lifecycle.integrations.gpu.errors import TransferError
from lifecycle.lowlevel import Uncopied, forgets, next_id, pin, raw, taking

__all__ = ["CUDAFence", "CUDASubmission", "CUDATimeline", "Stream", "stream_of", "timeline"]

LEGACY, PER_THREAD = 1, 2
"""Numbers of the default streams. 0 is one of the two, by how a program was compiled: the driver takes it as
the first."""


class Stream(Uncopied):
    """A stream: its address, and the context that it is of. Made by `stream_of`, and by `Device.stream`."""

    _remedy = "pass the stream itself"

    __slots__ = ("_box", "_kept", "context")
    _box: ctypes.c_void_p
    _kept: Any
    context: int
    """The driver's address of it."""

    @property
    def number(self) -> int:
        """The driver's address of it; 0, 1 and 2 are default streams."""
        return self._box.value or 0

    def query(self) -> bool:
        """Return True if all that it was given is done. Raises `CUDAError` where something has failed."""
        code = _driver.run_in(self.context, partial(_driver.function("cuStreamQuery"), self.number))
        if code == _driver.NOT_READY:
            return False
        _driver.checked(code, f"{self!r} was asked")
        return True

    def synchronize(self) -> None:
        """Wait for all that it was given, however long. Raises `CUDAError` where something has failed."""
        code = _driver.run_in(self.context, partial(_driver.function("cuStreamSynchronize"), self.number))
        _driver.checked(code, f"{self!r} was waited for")

    @forgets
    def let_wait(self, consumer: Any) -> None:
        """Make another stream wait, on the device, for all that this one was given so far."""
        other = stream_of(consumer, context=self.context)
        if other.number == self.number and other.context == self.context:
            return
        fence = CUDAFence(self)
        try:
            wait = partial(_driver.function("cuStreamWaitEvent"), other.number, fence.event, 0)
            _driver.checked(_driver.run_in(other.context, wait), f"{other!r} was to wait for {self!r}")
        finally:
            fence.delete()  # the driver itself keeps what is waited for

    def __repr__(self) -> str:
        name = {0: "the default one", LEGACY: "the default one", PER_THREAD: "the thread's default one"}
        return f"<Stream {name.get(self.number) or hex(self.number)}>"


def stream_of(stream: Any, *, context: int = 0) -> Stream:
    """Any library's stream as a `Stream`, which keeps it alive.

    Takes streams of PyTorch, CuPy and Numba, whatever has ``__cuda_stream__``, a `Stream`, a handle of one
    (which it then holds), and an address; 0 and 1 are the legacy default stream, 2 is the thread's. `context`
    is for default streams: the one that is current, unless given.
    """
    if isinstance(stream, Stream):
        return stream
    if isinstance(stream, CUDATimeline):
        return stream.stream
    made = Stream()
    held = None
    try:
        if isinstance(stream, Handle):
            held = pin(stream)
            owned = raw(held)
            if not isinstance(owned, Stream):
                raise CUDAError(f"{stream!r} is no handle of a stream: make one with Device.stream()")
            made._box, made._kept, made.context = owned._box, held, owned.context
            return made
        number, ordinal, of = _said_by(stream)
        if not 0 <= number < 1 << 64:
            # ctypes would cut it off, to the default stream's number perhaps.
            raise CUDAError(f"a stream's address is 0 or more, of 64 bits, not {number}")
        made._box = ctypes.c_void_p(number)
        made._kept = stream
        made.context = of or _context_of(number, ordinal, context)
        return made
    finally:
        held = owned = stream = None  # K3


def _said_by(stream: Any) -> tuple[int, int | None, int]:
    """``(address, device or None, context or 0)`` of a stream, as its library tells it."""
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream, None, 0
    ordinal = getattr(getattr(stream, "device", None), "index", None)
    if not isinstance(ordinal, int):
        ordinal = getattr(stream, "device_id", None)
    if not isinstance(ordinal, int) or ordinal < 0:
        ordinal = None
    of = getattr(getattr(stream, "context", None), "handle", None)
    context = 0 if of is None else _number(of)
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        said = protocol() if callable(protocol) else protocol
        if not isinstance(said, (tuple, list)) or len(said) != 2:
            raise CUDAError(f"__cuda_stream__ of {shown(stream)} says {shown(said)}, not (version, address)")
        return _number(said[1]), ordinal, context
    for name in ("cuda_stream", "ptr", "handle"):
        found = getattr(stream, name, None)
        if found is not None:
            return _number(found), ordinal, context
    raise CUDAError(
        f"timeline() takes a stream of PyTorch, CuPy or Numba, what has __cuda_stream__, or an address, not "
        f"{shown(stream)}"
    )


def _number(value: Any) -> int:
    """An address, however it is wrapped."""
    if isinstance(value, int):
        return value
    if isinstance(value, ctypes._SimpleCData):
        value = value.value or 0
    inner = getattr(value, "value", None)
    try:
        return inner if isinstance(inner, int) else int(value)
    except (TypeError, ValueError):
        raise CUDAError(f"a stream tells its address as a number, not as {shown(value)}") from None


def _context_of(number: int, ordinal: int | None, context: int) -> int:
    """The context of a stream."""
    if ordinal is not None:
        return device_of(ordinal).context
    if number > PER_THREAD:
        found = ctypes.c_void_p()
        code = _driver.function("cuStreamGetCtx")(number, ctypes.byref(found))
        _driver.checked(code, f"stream {number:#x} was asked for its context")
        return found.value or 0
    context = context or _driver.current_context()
    if not context:
        raise CUDAError(
            "a default stream belongs to the context that is current, and none is on this thread: give a "
            "stream of your own, or use `with device(0).current():`"
        )
    return context


class CUDAFence(Uncopied):
    """An event behind all that a stream was given. It may be asked and deleted on any thread. The event of a
    fence that was dropped undeleted is destroyed as the next fence is made."""

    _remedy = "make another fence of its stream"

    __slots__ = ("__weakref__", "_number", "stream", "timeline")

    def __init__(self, stream: Stream, timeline: Timeline | None = None) -> None:
        _driver.refuse_in_child("an event was to be recorded")
        _destroy_dropped()
        self.stream: Stream = stream
        if timeline is not None:
            self.timeline: Timeline = timeline
        self._number = next_id()
        event = _Event(self, _dropped.append)
        event.number, event.context, event.box = self._number, stream.context, ctypes.c_void_p()
        # Known before it is made: what the driver writes into the box is not lost.
        _events[self._number] = event
        create, record = _driver.function("cuEventCreate"), _driver.function("cuEventRecord")
        try:
            make = partial(create, ctypes.byref(event.box), _driver.NO_TIMING)
            _driver.checked(_driver.run_in(event.context, make), "an event was to be made")
            # An event that was never recorded says that it is done: it is recorded before anybody asks it.
            code = _driver.run_in(event.context, partial(record, event.box, stream.number))
            _driver.checked(code, f"an event was to be recorded on {stream!r}")
        except BaseException:
            event.destroy()
            raise

    @property
    def event(self) -> int:
        """The driver's address of the event; 0 once it was deleted."""
        event = _events.get(self._number)
        return 0 if event is None else event.box.value or 0

    def signalled(self) -> bool:
        """Return True if the stream has come so far. Raises `CUDAError` for any other answer: then it is not
        known."""
        event = _events.get(self._number)
        if event is None:
            raise CUDAError("this fence was deleted")
        code = _driver.run_in(event.context, partial(_driver.function("cuEventQuery"), event.box))
        if code == _driver.NOT_READY:
            return False
        _driver.checked(code, f"an event of {self.stream!r} was asked")
        return True

    def delete(self) -> None:
        """Destroy the event, once. The driver keeps it as long as the device needs it."""
        event = _events.get(self._number)
        if event is not None:
            event.destroy()

    def __repr__(self) -> str:
        return f"<CUDAFence of {self.stream!r}>" if self._number in _events else "<CUDAFence: deleted>"


class _Event(ref[CUDAFence]):
    """The event of one fence. The fence's death puts it among those that were dropped, by a call of C (K5):
    the driver is called by no collector, on whatever thread that runs."""

    __slots__ = ("box", "context", "number")
    box: ctypes.c_void_p
    context: int
    number: int

    def destroy(self) -> None:
        """Destroy it, once: taken out of the table and destroyed in one step. May be repeated."""
        if _driver.in_a_child():
            _events.pop(self.number, None)
            return
        boxes = map(_box_of, iter(partial(_events.pop, self.number, None), None))
        # `filter`: one that could not be made has nothing in its box.
        destroyed = map(_driver.function("cuEventDestroy_v2"), filter(None, boxes))
        _driver.run_in(self.context, partial(next, destroyed, _driver.SUCCESS))


_box_of: Any = attrgetter("box")
_events: dict[int, _Event] = {}
"""The events that are not destroyed."""
_dropped: deque[_Event] = deque()
"""Those whose fences were dropped undeleted, until the next fence is made."""


def _destroy_dropped() -> None:
    event: _Event | None = None
    try:
        for event in taking(_dropped.popleft):  # K2
            event.destroy()
    except IndexError:
        # None is left.
        pass
    except BaseException:
        if event is not None:
            _dropped.append(event)
        raise


class _NoFence:
    """In the place of an event that a stream would not take: it will never be known how far it came."""

    __slots__ = ("_error",)

    def __init__(self, error: CUDAError) -> None:
        self._error = (str(error), error.code)

    def signalled(self) -> bool:
        raise CUDAError(*self._error)

    def __repr__(self) -> str:
        return f"<no event: {self._error[0]}>"


def _fence_of(stream: Stream) -> CUDAFence | _NoFence:
    """What a timeline's submissions end with. Only memory may be there later; after any other error the
    stream will say nothing any more, and waiting for it would keep what it used for ever."""
    try:
        return CUDAFence(stream)
    except CUDAError as error:
        if error.code in (_driver.SUCCESS, _driver.OUT_OF_MEMORY):
            raise
        return _NoFence(error)


class CUDASubmission(Submission):
    """Work for one stream. What it is given here it holds; what other libraries are called with is passed to
    `use`."""

    __slots__ = ()

    @property
    def stream(self) -> Stream:
        """The stream."""
        timeline = self._timeline
        assert isinstance(timeline, CUDATimeline)
        return timeline.stream

    @forgets
    def copy(
        self,
        to: Handle[Memory],
        source: Handle[Memory],
        nbytes: int | None = None,
        *,
        to_offset: int = 0,
        from_offset: int = 0,
    ) -> None:
        """Have `nbytes` copied, all of the source unless given, between memory of devices and pinned memory.
        Both are held until that is done. Raises `TransferError` for a range that one of them does not have,
        with nothing copied, and what `use` raises."""
        into, out = self._memory(to), self._memory(source)
        if nbytes is None:
            nbytes = out.nbytes - (from_offset if isinstance(from_offset, int) else 0)
        refuse_range(into, to_offset, nbytes, "to")
        refuse_range(out, from_offset, nbytes, "source")
        if into.readonly:
            raise TransferError(f"copy(): {into!r} is read-only")
        if nbytes:
            step = partial(
                _driver.function("cuMemcpyAsync"),
                into.address + to_offset,
                out.address + from_offset,
                nbytes,
                self.stream.number,
            )
            _driver.checked(_driver.run_in(self.stream.context, step), f"copy of {nbytes} bytes")

    @forgets
    def fill(self, to: Handle[Memory], byte: int, nbytes: int | None = None, *, offset: int = 0) -> None:
        """Have memory filled with a byte. Raises as `copy` does."""
        into = self._memory(to)
        if isinstance(byte, bool) or not isinstance(byte, int) or not 0 <= byte <= 255:
            raise TransferError(f"fill() takes a byte from 0 to 255, not {byte!r}")
        if nbytes is None:
            nbytes = into.nbytes - (offset if isinstance(offset, int) else 0)
        refuse_range(into, offset, nbytes, "to")
        if into.readonly:
            raise TransferError(f"fill(): {into!r} is read-only")
        if nbytes:
            step = partial(
                _driver.function("cuMemsetD8Async"), into.address + offset, byte, nbytes, self.stream.number
            )
            _driver.checked(_driver.run_in(self.stream.context, step), f"fill of {nbytes} bytes")

    @forgets
    def wait_for(self, other: Any) -> None:
        """Have what follows here wait, on the device, for what another stream was given so far."""
        stream_of(other, context=self.stream.context).let_wait(self.stream)

    def _memory(self, handle: Handle[Any]) -> Memory:
        found: Any = self.use(handle)
        if not isinstance(found, Memory):
            raise TransferError(
                f"{handle!r} is no memory of CUDA: use what Device.allocate(), pinned() and borrow() gave"
            )
        return found


class CUDATimeline(Timeline):
    """The timeline of one stream. Made by `timeline`."""

    __slots__ = ("stream",)
    stream: Stream
    submission_type: ClassVar[type[Submission]] = CUDASubmission

    @property
    def number(self) -> int:
        """The driver's address of its stream."""
        return self.stream.number

    def let_wait(self, consumer: Any) -> None:
        """As `Stream.let_wait`."""
        self.stream.let_wait(consumer)


@forgets
def timeline(stream: Any, *, name: str = "cuda", waiter: bool = False) -> CUDATimeline:
    """The timeline of a stream of PyTorch, CuPy, Numba or the driver: see `stream_of`. Make one for each
    stream, and keep it.

    Its fences are events of the driver, which may be asked on any thread: with `waiter` a thread waits for
    them while something is in flight. Raises `CUDAError` where there is no driver, and for what is no stream.
    Callable on any thread.
    """
    _driver.refuse_in_child("a timeline was to be made")
    of = stream_of(stream)
    made = CUDATimeline(name, fence=partial(_fence_of, of), waiter=waiter)
    made.stream = of
    return made
