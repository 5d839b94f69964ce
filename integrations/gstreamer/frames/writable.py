"""Writable frames: a buffer without other holders, changed in place and passed on.

**The problem.** In plain Python a view for writing outlives the block it was made in, and what is written
after the push changes the picture downstream; a write through a mapping made for reading is a SIGSEGV; and
whether a write changes other consumers' picture depends on who else holds the buffer.

**The idea.** A `WritableFrame` owns its buffer alone: it was made for it, came from a pool, was taken out of
a frame that had it to itself, or is a copy (`copied` says which). Handing it on ends the mapping, and is
refused with the holders' names (``held="refuse"``) while an array or a view of it is alive. So no write
bypasses GStreamer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, NoReturn

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle.integrations.gstreamer._buffers import (
    Own,
    Owned,
    add_video_meta,
    deep_copy,
    end_own,
    map_own,
    nothing_owned,
    own_reference,
    sole_owner,
    wrapper_of,
)
from lifecycle.integrations.gstreamer._native import (
    CLOCK_TIME_NONE,
    BufferHead,
    VideoMeta,
    memory_count,
    memory_of,
    np,
    video_meta,
)
from lifecycle.integrations.gstreamer.errors import FormatError, FrameClosedError, MapError, ShortMemoryError
from lifecycle.integrations.gstreamer.frames.formats import Layout
from lifecycle.integrations.gstreamer.frames.held import check_memories, no_mapping
from lifecycle.lowlevel import Uncopied, about

__all__ = ["WritableFrame", "copy_times"]

BUFFER_TYPE: Final = "gst.Buffer"
"""The type under which writable frames are registered."""
LATEST: Final = 2**63
BUFFER_FLAGS: Final = 0xFFFFBFF0
"""Flags that belong to what is in a buffer: not those of every mini object, nor that of its memory
(``tag-memory``)."""


_registrars: weakref.WeakKeyDictionary[SafetyManager, Callable[[Any, Any, int], Handle[Own]]] = (
    weakref.WeakKeyDictionary()
)


def registrar_of(manager: SafetyManager) -> Callable[[Any, Any, int], Handle[Own]]:
    """How writable frames are registered. Not by unique address: a buffer that goes back to its pool may be
    lent again, at the same address, before the registration that ended with it is quite over."""
    register = _registrars.get(manager)
    if register is None:
        register = manager.registrar(BUFFER_TYPE, release=end_own, release_on=ANY_THREAD)
        _registrars[manager] = register
    return register


class WritableFrame(Uncopied):
    """A picture (or sound, or bytes) to be written. Made by `Frame.writable`, `BufferPool.acquire` and
    `SampleAdapter.buffer`.

    A context manager that gives the buffer up at the end of its block unless `Feeder.push` or `take` has
    handed it on. One thread writes at a time; all methods may be called on any thread.
    """

    _remedy = "make another frame, or copy its arrays"

    __slots__ = ("__weakref__", "_closed", "_handle", "_layout", "_out", "copied")

    def __init__(self, manager: SafetyManager, owned: Owned, layout: Layout, *, copied: bool) -> None:
        own = Own()
        own.owned = owned
        try:
            address = owned.value or 0
            memory = memory_of(address, 0) if memory_count(address) == 1 else None
            if not map_own(own):
                own.owned = nothing_owned()  # the buffer stays its caller's
                raise MapError(
                    f"{layout}: GStreamer cannot map this buffer's memory for writing; take a copy in system "
                    "memory (a converter or download element before the sink)"
                )
            self._layout = layout.of_buffer(own.buffer, own.size)
            self._closed = False
            self._out: Any = None  # what its pool knows of it
            self.copied: bool = (
                copied or own.memory != memory
            )  # GStreamer copies memory that may only be read
            """True if the bytes were copied, because somebody else holds the original or it may only be read.
            """
            self._handle = registrar_of(manager)(own, own.buffer, own.size)
        except BaseException:
            end_own(own)
            raise

    @classmethod
    def over(cls, manager: SafetyManager, owned: Owned, layout: Layout) -> WritableFrame:
        """The frame over a buffer if nobody else holds it, over a copy of it otherwise. Raises `MapError`
        where neither can be mapped, `ShortMemoryError` for a file that is shorter than it says."""
        copy = None
        try:
            if sole_owner(owned):
                try:
                    return cls(manager, owned, layout, copied=False)
                except MapError:
                    pass  # memory that may only be read: a copy it is
            check_memories(layout, owned.value or 0)
            copy = deep_copy(owned)
            owned.drop()
            if not copy.value:
                raise no_mapping(layout)
            return cls(manager, copy, layout, copied=True)
        finally:
            owned = copy = None  # type: ignore[assignment]  # a kept traceback must keep no buffer

    # -- the picture -----------------------------------------------------------------------------------------

    def data(self) -> memoryview:
        """The whole buffer as writable bytes. Raises `FrameClosedError` once it was handed on or closed."""
        try:
            with self._now().lease() as own:
                if own.data is None:
                    return memoryview(bytearray())
                return self._handle.view(own.data, own.size, readonly=False)
        finally:
            own = None  # type: ignore[assignment]

    def array(self) -> np.ndarray[Any, Any]:
        """The picture (or sound) as a writable ndarray, zero-copy, in the shape of `Frame.array`.

        Raises `FormatError` for what is not one array, `ShortMemoryError` for a buffer shorter than its caps
        say, `FrameClosedError` once the frame was handed on or closed.
        """
        plane = self._layout.image_plane()
        return self._over((plane,))[0]

    def planes(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The planes as writable ndarrays, zero-copy, in the shapes of `Frame.planes`. Raises what `array`
        raises."""
        return self._over(self._layout.all_planes())

    def _over(self, planes: tuple[Any, ...]) -> tuple[np.ndarray[Any, Any], ...]:
        view = self.data()
        try:
            return tuple(plane.over(view) for plane in planes)
        except (TypeError, ValueError):
            raise ShortMemoryError(
                f"{self!r} has {len(view)} bytes and its caps need {max(plane.end for plane in planes)}: the "
                "buffer was made for other caps; use data() for the bytes that are there"
            ) from None
        finally:
            del view

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def caps(self) -> Any:
        """The `Gst.Caps` that describe it."""
        return self._layout.caps

    @property
    def format(self) -> str:
        """GStreamer's name of the format, or the media type."""
        return self._layout.format or self._layout.media_type

    @property
    def width(self) -> int:
        """Pixels in a row, 0 where it is no picture."""
        return self._layout.width

    @property
    def height(self) -> int:
        """Rows, 0 where it is no picture."""
        return self._layout.height

    @property
    def pts(self) -> int | None:
        """Presentation time in nanoseconds, None when it has none. Can be set."""
        return self._time("pts")

    @pts.setter
    def pts(self, value: int | None) -> None:
        self._set_time("pts", value)

    @property
    def duration(self) -> int | None:
        """Duration in nanoseconds, None when it has none. Can be set."""
        return self._time("duration")

    @duration.setter
    def duration(self, value: int | None) -> None:
        self._set_time("duration", value)

    def _time(self, which: str) -> int | None:
        with self._now().lease() as own:
            value = int(getattr(BufferHead.from_address(own.buffer), which))
        return None if value == CLOCK_TIME_NONE else value

    def _set_time(self, which: str, value: int | None) -> None:
        value = nanoseconds(which, value)
        with self._now().lease() as own:
            setattr(BufferHead.from_address(own.buffer), which, value)

    # -- ownership -------------------------------------------------------------------------------------------

    @property
    def handle(self) -> Handle[Own]:
        """The registered object: for `safe_access`, `invalidate`, cleanups."""
        return self._handle

    def take(self) -> Any:
        """The `Gst.Buffer` itself, to be pushed by code of yours. This frame is closed by it.

        Raises `HeldError`, naming the holders, while an array or a view of it is alive: what it wrote later
        would be seen downstream. Nothing has changed then.
        """
        return wrapper_of(self._hand_on("taken as a Gst.Buffer"))

    def _hand_on(self, where: str) -> Owned:
        """The buffer, unmapped; closed by it. Raises `HeldError` and changes nothing while something still
        holds it."""
        handle = self._now()
        owned = own = None
        try:
            with handle.lease() as own:
                owned = own_reference(own.buffer)
            own = None
            handle.close(held="refuse")
            self._closed = True
            if self._out is not None:
                self._out.where = where
            return owned
        finally:
            owned = own = None  # a kept traceback must keep no buffer

    def close(self) -> bool:
        """Give the buffer up unpushed. True when it is unmapped and gone (back in its pool) already, False
        while a view or an array still holds it (then it goes with the last of them)."""
        self._closed = True
        return self._handle.close()

    @property
    def closed(self) -> bool:
        """True if it was closed or handed on."""
        return self._closed

    def __enter__(self) -> WritableFrame:
        self._now()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        how = "a copy" if self.copied else "its own"
        return f"<WritableFrame {self._layout}, {how}: {self._handle.state}>"

    def _now(self) -> Handle[Own]:
        if self._closed:
            self._refuse()
        return self._handle

    def _refuse(self) -> NoReturn:
        raise about(
            self._handle,
            FrameClosedError(
                f"{self!r} was handed on or closed: make a new one for the next picture (frame.writable(), "
                "feeder.frame() or a pool)"
            ),
        )


def copy_times(buffer: Any, source: int) -> None:
    """Give `buffer` (a `Gst.Buffer` that nobody else holds) the times, the offsets, the flags and the video
    meta of the buffer at `source`."""
    mine, theirs = BufferHead.from_address(hash(buffer)), BufferHead.from_address(source)
    for field in ("pts", "dts", "duration", "offset", "offset_end"):
        setattr(mine, field, getattr(theirs, field))
    mine.mini_object.flags |= theirs.mini_object.flags & BUFFER_FLAGS
    address = video_meta(source)
    if address is not None:
        meta = VideoMeta.from_address(address)
        count = min(meta.n_planes, 4)
        add_video_meta(
            hash(buffer),
            meta.format,
            meta.width,
            meta.height,
            list(meta.offset[:count]),
            list(meta.stride[:count]),
        )


def nanoseconds(which: str, value: Any) -> int:
    """A time as GStreamer takes it. Raises `FormatError` for what is no whole number of nanoseconds."""
    if value is None:
        return CLOCK_TIME_NONE
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < LATEST:
        raise FormatError(
            f"{which}= takes whole nanoseconds, 0 or more (Gst.SECOND for one second), or None, not {value!r}"
        )
    return int(value)
