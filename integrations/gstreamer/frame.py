"""Frames: the picture in a GStreamer sample, used where it lies, for as long as anybody needs it.

**The problem.** A mapping of a buffer is valid until it is unmapped, a NumPy array over it knows nothing of that, and the buffer
goes back to its pool the moment GStreamer's last reference is dropped. A crash, or silently another picture, is one kept array
away.

**The idea.** What a frame registers is a `Mapping`: a reference on the buffer and its one read mapping. Every memory view and
every array made from it holds the pin of that registration. So the buffer is unmapped and given back when the frame is closed
*and* the last array is gone, whichever comes later, and neither earlier nor twice.

**Lazily.** A frame that nobody looks into is a Python object that holds a sample, and nothing else: there is nothing to release
that a dropped reference does not release. Registration and mapping come together, at the first `data`, `array`, `handle` or
`share`.

**Once.** GStreamer's memory takes 256 mappings at a time and breaks at the next, so a memory that is mapped already is shared:
a table finds the mapping by the memory's address. That is sound because the mapping holds the memory: while there is an entry
that is alive, the address can be nobody else's. The table holds weak references and belongs to the manager.

Frames may be used and closed on any thread; the release is two C calls and runs wherever the last holder goes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from integrations.gstreamer._native import (
    CLOCK_TIME_NONE,
    MAP_READ,
    BufferHead,
    Gst,
    Mapping,
    buffer_size,
    is_fd_memory,
    map_foreign,
    map_plain,
    memory_count,
    memory_of,
    np,
    sample_buffer,
    sample_caps,
    short_fd_memory,
    unmap,
    unmap_foreign,
    unmap_plain,
    video_meta,
)
from integrations.gstreamer.errors import (
    FormatError,
    FrameClosedError,
    MapError,
    SampleError,
    ShortMemoryError,
)
from integrations.gstreamer.formats import Layout, LayoutCache, Plane
from lifecycle import ANY_THREAD, Handle, SafetyManager

__all__ = ["Frame", "SampleAdapter"]

T = TypeVar("T")
Live = dict[int, "weakref.ref[Any]"]

TYPE_NAME: Final = "gst.Sample"
"""The type under which frames are registered."""


_NOTHING: Final = memoryview(b"")


class Held(Mapping):
    """The native object of a frame: the mapping, and its entry ``live[key]`` in the table of live ones."""

    __slots__ = ("key", "live")
    live: Live | None
    key: int


def _end(held: Held) -> None:
    """The release function of every frame: leave the table and unmap. The sample goes with `held` itself."""
    live = held.live
    if live is not None:
        live.pop(held.key, None)
    unmap(held)


_Sample = Gst.Sample
_tables: weakref.WeakKeyDictionary[SafetyManager, Live] = weakref.WeakKeyDictionary()


class SampleAdapter:
    """Makes frames of samples.

    Parameters
    ----------
    manager:
        Whose objects the frames become.
    name:
        Shown in messages and reports as the name of every frame made here.

    One adapter serves any number of threads and of formats; what it knows of caps is cached, so keep it.
    """

    __slots__ = ("_known", "_layouts", "_live", "_name", "_register", "manager")

    def __init__(self, manager: SafetyManager, *, name: str | None = None) -> None:
        self.manager = manager
        self._name = name
        self._register = manager.registrar(TYPE_NAME, release=_end, release_on=ANY_THREAD)
        self._live = _tables.setdefault(manager, {})
        self._layouts = LayoutCache()
        self._known = self._layouts.known

    def frame(self, sample: Any) -> Frame:
        """The frame of a `Gst.Sample`. Nothing is mapped or copied yet; callable on any thread.

        Raises `SampleError` for what is no sample, or one without a buffer or without fixed caps.
        """
        if not isinstance(sample, _Sample):
            raise SampleError(
                f"a frame is made of a Gst.Sample, not of {type(sample).__name__} ({sample!r}); pull one from an appsink "
                "(None there means end of stream, or nothing within the timeout), or wrap a buffer: Gst.Sample.new(buffer, caps)"
            )
        pointer = hash(sample)
        layout = self._known.get(sample_caps(pointer))  # type: ignore[arg-type]  # None is in no table
        if layout is None:
            layout = self._learn(sample)
        if sample_buffer(pointer) is None:
            raise SampleError(
                f"the sample at {pointer:#x} ({layout}) has no buffer; skip it, it carries caps or a buffer list only"
            )
        return Frame(self, sample, layout)

    def convert(self, sample: Any, fn: Callable[[Any], T]) -> T:
        """What ``fn(array)`` returns for the sample's picture, in one call: frame, panic boundary and close.

        The array is the read-only one of `Frame.array`; it may be kept, or be part of the result. What `fn` raises and nobody
        declared is a panic: `AccessPanicError`, from it. Raises what `frame` and `Frame.array` raise.
        """
        with self.frame(sample) as frame:
            frame.array()  # what the sample or its format cannot give is no panic of fn's
            result: T = self.manager.safe_access(frame.handle, frame._show, fn)
            return result

    def _learn(self, sample: Any) -> Layout:
        caps = sample.get_caps()
        if caps is None:
            raise SampleError(
                f"the sample at {hash(sample):#x} has no caps, so nobody can say what its bytes are; pull it from a running "
                "appsink, or give Gst.Sample.new its caps"
            )
        return self._layouts.add(caps)

    def __repr__(self) -> str:
        return f"<SampleAdapter {self._name or TYPE_NAME!r} of manager {self.manager.name!r}: {len(self._known)} formats known>"


class Frame:
    """One picture (or any other buffer) of a sample; made by `SampleAdapter.frame`. Use it as a context manager.

    Closing gives the frame back; views and arrays made before stay valid, and the buffer is unmapped after the last of them.
    All methods may be called on any thread.
    """

    __slots__ = (
        "__weakref__",
        "_adapter",
        "_closed",
        "_handles",
        "_layout",
        "_native",
        "_plane",
        "_sample",
        "_view",
    )

    def __init__(self, adapter: SampleAdapter, sample: Any, layout: Layout) -> None:
        self._adapter = adapter
        self._sample = sample
        self._layout = layout
        self._closed = False
        self._view: memoryview | None = None
        self._plane: Plane | None = None
        self._handles: list[Handle[Held]] = []
        self._native: list[Handle[Any]] | None = None

    # -- the picture --------------------------------------------------------------------------------------------------------

    def data(self) -> memoryview:
        """The whole buffer, read-only, as bytes, whatever its format.

        Valid as long as it (or a slice of it, or an array over it) lives. Raises `MapError` when the memory cannot be mapped,
        `ShortMemoryError` when the file behind it is shorter than it says, `FrameClosedError` after close.
        """
        return self._view_now()[:]

    def array(self) -> np.ndarray[Any, Any]:
        """The picture as a read-only ndarray, zero-copy: height × width × channels, or height × width for one component.

        The dtype is uint8 or uint16 (of the format's byte order); strides are the buffer's own, so rows may be padded. Valid as
        long as it, or any array made from it, lives. Raises `FormatError` for a format that is not one such array, and what
        `data` raises.
        """
        if self._layout.image is None:
            self._layout.image_plane()  # says why
        view = self._view
        if view is None or not self._handles[0].valid:
            view = self._view_now()
        plane = self._plane
        assert plane is not None  # set by whoever mapped
        try:
            return plane.over(view)
        except (TypeError, ValueError):
            size, view = len(view), _NOTHING  # a kept traceback must keep no memory
            raise ShortMemoryError(
                f"{self!r} has {size} bytes and its caps ({self._layout}) need {plane.end}: the buffer is truncated, or the "
                "caps are not its own; use data() for the bytes that are there"
            ) from None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.array()
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if wanted == array.dtype:
            return array.copy() if copy else array
        if copy is False:
            raise ValueError(
                f"{self!r} has dtype {array.dtype}: as {wanted} it must be copied, which copy=False forbids"
            )
        return array.astype(wanted)

    # -- facts --------------------------------------------------------------------------------------------------------------

    @property
    def caps(self) -> Any:
        """The `Gst.Caps` of the sample."""
        return self._layout.caps

    @property
    def width(self) -> int:
        """Pixels in a row. Raises `FormatError` where the caps are not raw video."""
        return self._layout.width or self._no_picture("width")

    @property
    def height(self) -> int:
        """Rows. Raises `FormatError` where the caps are not raw video."""
        return self._layout.height or self._no_picture("height")

    @property
    def format(self) -> str:
        """GStreamer's name of the pixel format, such as ``"RGB"``; the media type where the caps are not raw video."""
        return self._layout.format or self._layout.media_type

    @property
    def pts(self) -> int | None:
        """Presentation time in nanoseconds, None when the buffer has none."""
        sample = self._sample_now()
        pts = BufferHead.from_address(self._buffer_of(sample)).pts
        return None if pts == CLOCK_TIME_NONE else pts

    @property
    def duration(self) -> int | None:
        """Duration in nanoseconds, None when the buffer has none."""
        sample = self._sample_now()
        duration = BufferHead.from_address(self._buffer_of(sample)).duration
        return None if duration == CLOCK_TIME_NONE else duration

    # -- ownership ----------------------------------------------------------------------------------------------------------

    @property
    def handle(self) -> Handle[Held]:
        """The frame's share of the registered object: for `safe_access`, `invalidate`, cleanups. Maps the frame if need be."""
        if not self._handles:
            try:
                self._open()
            except MapError:
                self._open(mapped=False)  # what cannot be mapped can still be held
        return self._handles[0]

    @property
    def native(self) -> Handle[Any]:
        """A child handle whose object is the `Gst.Sample` itself: ``with frame.native.lease() as sample``.

        The buffer stays the frame's for as long as such a lease lives. Closed with the frame.
        """
        natives = self._native
        if natives is None:
            natives = self._native = []
        if not natives:
            sample = self._sample_now()
            child = self._adapter.manager.register(
                sample,
                TYPE_NAME + ".native",
                parent=self.handle,
                release=None,
                release_on=ANY_THREAD,
                name=self._adapter._name,
            )
            natives.append(child)
            if natives[0] is not child or self._closed:
                child.close()
        return natives[0]

    def share(self) -> Frame:
        """Another frame over the same mapping, with a share of its own: for a second consumer, thread or queue."""
        view = self._view_now()
        other = Frame(self._adapter, self._sample_now(), self._layout)
        other._handles.append(self.handle.share())
        other._view = view
        other._plane = self._plane
        return other

    def close(self) -> bool:
        """Give the frame back. True when the buffer is unmapped and given back already, False when a view, an array or another
        share still holds it (the release follows the last of them). Closing again gives the answer as it is then."""
        self._closed = True
        self._view = None
        self._sample = None
        if self._native:
            for child in self._native:
                child.close()
        released = True
        for handle in self._handles:
            released = handle.close() and released
        return released

    @property
    def closed(self) -> bool:
        """Whether the frame was closed."""
        return self._closed

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True  # as `close`, without its answer
        self._view = self._sample = None
        if self._native is not None:
            self.close()
        for handle in self._handles:
            handle.close()

    def __repr__(self) -> str:
        handles = self._handles
        state = str(handles[0].state) if handles else "closed" if self._closed else "not mapped"
        return f"<Frame {self._layout}: {state}>"

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _show(self, _: Held, fn: Callable[[Any], T]) -> T:
        """Call `fn` with the array, without keeping that in a frame of ours."""
        return fn(self.array())

    def _view_now(self) -> memoryview:
        """The view, made now if need be; refused once the object is shut."""
        view = self._view
        if view is None:
            return self._open()
        if not self._handles[0].valid:
            self._refuse()
        return view

    def _refuse(self) -> NoReturn:
        """Another holder of the object has shut it (invalidate, unregister, a panic): say so, as the core says it."""
        with self._handles[0].lease():
            raise self._refusal()

    def _open(self, mapped: bool = True) -> memoryview:  # noqa: C901  # in one piece: every frame comes through it
        """Register the frame's native and map it; the view of it. Of several threads that do this at once one wins; the others'
        registrations are closed again, and their views stay good. With ``mapped=False`` the buffer is only held.
        """
        sample = self._sample
        if sample is None:
            raise self._refusal()
        buffer = sample_buffer(hash(sample))
        if buffer is None:
            raise self._lost_buffer(sample)
        layout = self._layout
        adapter = self._adapter
        held = Held()
        held.sample = sample
        held.buffer = buffer
        held.live = None
        held.unmap = unmap_plain
        handle = owner = None
        view: memoryview | None = None
        try:
            if mapped:
                if memory_count(buffer) == 1:
                    held.key = key = memory_of(buffer, 0)
                    plain = layout.plain and not is_fd_memory(key)
                else:
                    held.key = key = buffer
                    plain = False
                live = adapter._live
                known = live.get(key)
                if known is not None:
                    owner = known()
                if owner is None:
                    if plain:
                        done = map_plain(buffer, held, MAP_READ)
                    else:
                        self._check_memories(buffer)
                        held.unmap = unmap_foreign
                        done = map_foreign(buffer, held, MAP_READ)
                    if not done:
                        raise self._no_mapping()
                meta = video_meta(buffer)
                self._plane = layout.image if meta is None else layout.of_meta(meta).image
            handle = adapter._register(held, buffer, layout.size or buffer_size(buffer))
            if owner is not None:
                view = memoryview(owner).cast("B")[: buffer_size(buffer)].toreadonly()
            elif mapped and held.data is not None:
                view = handle.view(held.data, held.size)
                live[key] = weakref.ref(view.obj)
                held.live = live
        except BaseException:
            view = owner = None
            if handle is not None:
                handle.close()
            _end(held)
            raise
        if view is None:
            view = _NOTHING
        if mapped:
            self._view = view
        handles = self._handles
        handles.append(handle)
        if handles[0] is not handle:
            handle.close()
        if self._closed:
            self.close()
            raise self._refusal()
        return view

    def _check_memories(self, buffer: int) -> None:
        """Refuse memory of a file that is shorter than it says: a mapping reaches past the end of a short file without an error,
        and reading there (several memories are read by mapping them) kills the process."""
        for index in range(memory_count(buffer)):
            memory = memory_of(buffer, index)
            short = short_fd_memory(memory) if is_fd_memory(memory) else None
            if short is not None:
                fd, needed, there = short
                raise ShortMemoryError(
                    f"{self!r}: its memory is fd {fd} and says it has {needed} bytes, but the file has {there}, and reading on "
                    "would be a SIGBUS; the producer must size the file (ftruncate) before it pushes the buffer, and never "
                    "shrink it"
                )

    def _no_mapping(self) -> MapError:
        return MapError(
            f"{self!r}: GStreamer cannot map this memory for reading; take a sample from system memory (a converter or download "
            "element before the sink), or use frame.native for the memory's own interface"
        )

    def _sample_now(self) -> Any:
        sample = self._sample
        if sample is None:
            raise self._refusal()
        return sample

    def _buffer_of(self, sample: Any) -> int:
        """The sample's buffer, asked anew each time: whoever owns the sample alone may exchange it."""
        buffer = sample_buffer(hash(sample))
        if buffer is None:
            raise self._lost_buffer(sample)
        return buffer

    def _lost_buffer(self, sample: Any) -> SampleError:
        return SampleError(
            f"the sample at {hash(sample):#x} ({self._layout}) has lost its buffer since the frame was made"
        )

    def _refusal(self) -> FrameClosedError:
        return FrameClosedError(
            f"{self!r} was closed: make arrays before the end of its block (they outlive it), or take share() for another user"
        )

    def _no_picture(self, what: str) -> NoReturn:
        raise FormatError(f"{self._layout} has no {what}: {self._layout.problem or 'it is not a picture'}")
