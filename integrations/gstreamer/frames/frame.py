"""Frames: the picture in a GStreamer sample, used without a copy, for as long as it is needed.

**The problem.** A mapping of a buffer is valid until it is unmapped, a NumPy array over it knows nothing of
that, and the buffer goes back to its pool the moment GStreamer's last reference is dropped. A crash, or
silently another picture, is one kept array away.

**The idea.** What a frame registers is a `Mapping`: a reference on the buffer and its one read mapping. Every
memory view and every array made from it holds the pin of that registration. So the buffer is unmapped and
given back when the frame is closed *and* the last array is gone, whichever comes later, and neither earlier
nor twice.

**Lazily.** A frame that nobody looks into is a Python object that holds a sample, and nothing else: there is
nothing to release that a dropped reference does not release. Registration and mapping come together, at the
first `data`, `array`, `handle` or `share`.

**Once.** GStreamer's memory takes 256 mappings at a time and breaks at the next, so a memory that is mapped
already is shared: a table finds the mapping by the memory's address. That is sound because the mapping holds
the memory: while there is a live entry, no other object can have the address. The table holds weak references
and belongs to the manager.

Frames may be used and closed on any thread; the release is two C calls and runs wherever the last holder
goes.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from ctypes import addressof
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from lifecycle import ANY_THREAD, Handle
from lifecycle.integrations.gstreamer._buffers import new_buffer, own_reference
from lifecycle.integrations.gstreamer._native import (
    ANY,
    MAP_READ,
    Gst,
    buffer_size,
    find_memory,
    is_fd_memory,
    map_foreign,
    map_plain,
    memory_count,
    memory_of,
    np,
    sample_buffer,
    unmap_foreign,
    unmap_plain,
    video_meta,
)
from lifecycle.integrations.gstreamer.errors import FormatError, MapError, ShortMemoryError
from lifecycle.integrations.gstreamer.frames.facts import FrameFacts
from lifecycle.integrations.gstreamer.frames.formats import Layout, Plane, plain_caps
from lifecycle.integrations.gstreamer.frames.gl import FrameTexture, texture_of
from lifecycle.integrations.gstreamer.frames.held import (
    Held,
    check_memories,
    end_held,
    no_mapping,
    open_memory,
)
from lifecycle.integrations.gstreamer.frames.pictures import to_pil
from lifecycle.integrations.gstreamer.frames.writable import WritableFrame, copy_times

if TYPE_CHECKING:
    from PIL.Image import Image

    from lifecycle.integrations.gstreamer.frames.adapter import SampleAdapter

__all__ = ["TYPE_NAME", "Frame"]

T = TypeVar("T")

TYPE_NAME: Final = "gst.Sample"
"""The type under which frames are registered."""

_NOTHING: Final = memoryview(b"")


class Frame(FrameFacts):
    """One picture (or any other buffer) of a sample; made by `SampleAdapter.frame`. Use it as a context
    manager.

    Closing gives the frame back; views and arrays made before stay valid, and the buffer is unmapped after
    the last of them. All methods may be called on any thread.
    """

    __slots__ = (
        "__weakref__",
        "_actual",
        "_adapter",
        "_closed",
        "_handles",
        "_native",
        "_parts",
        "_view",
    )

    def __init__(self, adapter: SampleAdapter, sample: Any, layout: Layout) -> None:
        self._adapter = adapter
        self._sample = sample
        self._layout = layout
        self._closed = False
        self._actual = layout
        self._view: memoryview | None = None
        self._handles: list[Handle[Held]] = []
        self._native: list[Handle[Any]] | None = None
        self._parts: dict[int, tuple[Handle[Held], memoryview]] | None = None

    # -- the picture -----------------------------------------------------------------------------------------

    def data(self) -> memoryview:
        """The whole buffer, read-only, as bytes, whatever its format.

        Valid as long as it (or a slice of it, or an array over it) lives. Raises `MapError` when the memory
        cannot be mapped, `ShortMemoryError` when the file behind it is shorter than it says,
        `FrameClosedError` after close.
        """
        return self._view_now()[:]

    def array(self) -> np.ndarray[Any, Any]:
        """The picture as a read-only ndarray, zero-copy: height × width × channels, or height × width for one
        component. Sound as frames × channels.

        The dtype is uint8 or uint16 (of the format's byte order), for sound that of its format; strides are
        the buffer's own, so rows may be padded. Valid as long as it, or any array made from it, lives. Raises
        `FormatError` for a format that is not one such array, and what `data` raises.
        """
        layout = self._layout
        if layout.image is None and not layout.varies:
            layout.image_plane()  # says why
        view = self._view
        try:
            if view is None:
                view = self._open()
            elif not self._handles[0].valid:
                self._refuse()
            plane = self._actual.image
            if plane is None:
                plane = self._actual.image_plane()
            return plane.over(view)
        except (TypeError, ValueError):
            if view is None or plane is None:  # not for want of bytes
                raise
            size = len(view)
            raise self._too_short(size, plane) from None
        finally:
            view = None  # a kept traceback must keep no memory

    def planes(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The planes as read-only ndarrays, zero-copy, in the order in which they lie in memory: one for
        packed formats, (Y, UV) for NV12, (Y, U, V) for I420, (Y, V, U) for YV12; the table of shapes stands
        in `planes.py`. Sound: frames × channels, or one array a channel where it is planar.

        Where the buffer has several memories and no plane lies across two, each is mapped where it is,
        without a copy. Raises `FormatError` for a format with planes that are no ndarrays, and what `data`
        raises.
        """
        layout = self._layout
        if not layout.varies:
            layout.all_planes()  # says why not
        view, parts = _NOTHING, None
        try:
            parts = None if layout.varies else self._memories_now()
            if parts is None:
                view = self._view_now()
            planes = self._actual.all_planes()
            try:
                if parts is not None:
                    return tuple(map(Plane.over, *parts))
                return tuple(map(Plane.over, planes, itertools.repeat(view)))
            except (TypeError, ValueError):
                size = len(view)
                raise self._too_short(size, max(planes, key=lambda plane: plane.end)) from None
        finally:
            view, parts = _NOTHING, None  # a kept traceback must keep no memory

    def copy(self, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """A writable copy of `array` that is yours alone: no mapping, no padding, nothing to close.

        `out`, an array of the same shape and dtype, is filled and returned instead of a new one: for a
        picture of some megabytes that saves the pages of a new array, which cost more than the copying.
        Raises what `array` raises, `FormatError` where `out` does not fit.
        """
        if out is None:
            copy: np.ndarray[Any, Any] = self.array().copy()
            return copy
        array = self.array()
        try:
            if not isinstance(out, np.ndarray) or out.shape != array.shape or out.dtype != array.dtype:
                given = f"{out.shape} {out.dtype}" if isinstance(out, np.ndarray) else repr(out)
                raise FormatError(
                    f"{self!r}: copy(out=) takes an array of shape {array.shape} and dtype {array.dtype}, "
                    f"not {given}"
                )
            np.copyto(out, array)
            return out
        finally:
            del array

    def cropped(self) -> np.ndarray[Any, Any]:
        """`array`, but only the part that `crop` says is to be shown; the whole picture where nothing says
        so. Raises what `array` raises, `FormatError` for a part that is not within the picture."""
        array = self.array()
        try:
            area = self.crop
            if area is None:
                return array
            right, lower = area.x + area.width, area.y + area.height
            if not (area.width and area.height and right <= array.shape[1] and lower <= array.shape[0]):
                raise FormatError(
                    f"{self!r}: its crop meta says {area.width}×{area.height} pixels from ({area.x}, "
                    f"{area.y}) on, which is no part of the picture; use array(), and see who wrote it"
                )
            return array[area.y : lower, area.x : right]
        finally:
            array = None  # type: ignore[assignment]  # a kept traceback must keep no memory

    def to_pil(self) -> Image:
        """The part that is to be shown (`cropped`) as a `PIL.Image.Image` of its own: mode ``RGB``,
        ``RGBA``, ``L`` or ``I;16``.

        Raises `MissingGStreamerError` without Pillow, `FormatError` for a format that Pillow has no mode for
        (put «videoconvert ! video/x-raw,format=RGB» before the sink), and what `cropped` raises."""
        return to_pil(self, self.cropped())

    def download(self) -> Frame:
        """A frame of the same picture in system memory, yours to close: a copy, whatever memory this one lies
        in (a GLMemory is read back from the GPU, which takes its time).

        Its pts, dts, duration, offset, segment and flags are this one's. Raises `MapError` where the memory
        cannot be mapped, and what `data` raises.
        """
        view = writable = target = owned = other = None
        try:
            sample = self._sample_now()
            # Not by the frame itself, whose mapping would stay as long as it does.
            other = self.share() if self._view is not None else Frame(self._adapter, sample, self._layout)
            view = other.data()
            buffer = self._buffer_of(sample)
            adapter = self._adapter
            caps = plain_caps(self._layout.caps)
            owned = new_buffer(max(1, len(view)))
            if not owned.value:
                raise MapError(f"{self!r}: there is no memory for a copy of {len(view)} bytes")
            writable = WritableFrame(adapter.manager, owned, adapter.layout(caps), copied=True)
            target = writable.data()
            target[: len(view)] = view
            target = None
            copied = writable.take()
            if not view.nbytes:  # GStreamer makes no buffer of no bytes that could be written to
                copied.set_size(0)
            copy_times(copied, buffer)
            segment = sample.get_segment()
            return adapter.frame(Gst.Sample.new(copied, caps, segment, sample.get_info()))
        finally:
            view = target = sample = owned = None
            if other is not None:
                other.close()
            if writable is not None:
                writable.close()
            writable = other = None

    def texture(self, context: Any = None, *, plane: int = 0) -> FrameTexture:
        """The picture as an OpenGL texture, where it lies (``video/x-raw(memory:GLMemory)``): ``with
        frame.texture(context) as texture``.

        Parameters
        ----------
        context:
            A `GstGL.GLContext` that shares with GStreamer's: what is drawn in it from now on waits until the
            picture is there. A wrapped one is current on this thread. None: this thread waits.
        plane:
            Which of several, for formats of several planes.

        The frame may be closed meanwhile: the texture keeps the buffer. Raises `FormatError` for other
        memories and planes, `MapError` where the context does not share, `GuardError` for a wrapped context
        that is not current here, `FrameClosedError` after close.
        """
        sample = None
        try:
            sample = self._sample_now()
            return texture_of(self, self._buffer_of(sample), context, plane, self._register_texture)
        finally:
            sample = None

    def _register_texture(self, name: int) -> Handle[int]:
        return self._adapter.manager.register(
            name,
            TYPE_NAME + ".texture",
            parent=self._held_handle(),
            release=None,
            release_on=ANY_THREAD,
            name=self._adapter._name,
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.array()
        try:
            wanted = array.dtype if dtype is None else np.dtype(dtype)
            if wanted == array.dtype:
                return array.copy() if copy else array
            if copy is False:
                raise ValueError(
                    f"{self!r} has dtype {array.dtype}: as {wanted} it must be copied, which copy=False "
                    "forbids"
                )
            return array.astype(wanted)
        finally:
            del array

    # -- ownership -------------------------------------------------------------------------------------------

    @property
    def handle(self) -> Handle[Held]:
        """The frame's share of the registered object: for `safe_access`, `invalidate`, cleanups. Maps the
        frame if need be."""
        if not self._handles:
            try:
                self._open()
            except MapError:
                self._open(mapped=False)  # what cannot be mapped can still be held
        return self._handles[0]

    def _held_handle(self) -> Handle[Held]:
        """The frame's share of the registered object, which is held but not mapped where nobody asked for
        that yet."""
        if not self._handles:
            self._open(mapped=False)
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
                parent=self._held_handle(),
                release=None,
                release_on=ANY_THREAD,
                name=self._adapter._name,
            )
            natives.append(child)
            if natives[0] is not child or self._closed:
                child.close()
        return natives[0]

    def share(self) -> Frame:
        """Another frame over the same mapping, with a share of its own: for a second consumer, thread or
        queue."""
        view = other = None
        try:
            view = None if self._parts and self._view is None else self._view_now()
            other = Frame(self._adapter, self._sample_now(), self._layout)
            other._handles.append(self._held_handle().share())
            other._view = view
            other._actual = self._actual
            return other
        finally:
            view = other = None  # a kept traceback must keep nothing alive

    def writable(self) -> WritableFrame:
        """Return the frame for writing, and close this one.

        If the frame was the last to hold its buffer, the buffer itself: nobody else can see it. Otherwise
        (another branch of a tee, an array or a sample that is kept, memory that is read-only) a copy;
        `WritableFrame.copied` says which. Raises `MapError` when neither can be mapped, and what `data`
        raises.
        """
        sample = owned = None
        try:
            sample = self._sample_now()
            owned = own_reference(self._buffer_of(sample))
            sample = None
            self.close()
            return WritableFrame.over(self._adapter.manager, owned, self._layout)
        except BaseException:
            if owned is not None:
                owned.drop()
            raise
        finally:
            sample = owned = None  # a kept traceback must keep no buffer

    def close(self) -> bool:
        """Give the frame back. True when the buffer is unmapped and given back already, False when a view, an
        array or another share still holds it (the release follows the last of them). Closing again gives the
        answer as it is then."""
        self._closed = True
        self._view = None
        self._sample = None
        if self._native or self._parts:
            self._close_children()
        released = True
        for handle in self._handles:
            released = handle.close() and released
        return released

    @property
    def closed(self) -> bool:
        """True if the frame was closed."""
        return self._closed

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True  # as `close`, without its answer
        self._view = self._sample = None
        if self._native is not None or self._parts is not None:
            self._close_children()
        for handle in self._handles:
            handle.close()

    def __repr__(self) -> str:
        handles = self._handles
        state = str(handles[0].state) if handles else "closed" if self._closed else "not mapped"
        whose = f" of {self._layout.whose!r}," if self._layout.whose else ""
        return f"<Frame{whose} {self._layout}: {state}>"

    # -- inside ----------------------------------------------------------------------------------------------

    def _close_children(self) -> None:
        for child in self._native or ():
            child.close()
        parts = self._parts
        if parts is not None:
            part = None
            try:
                for index in list(parts):
                    part = parts.get(index)
                    if part is not None:
                        part[0].close()  # before it goes: closing again goes on where an interrupt struck
                    parts.pop(index, None)
            finally:
                part = None

    def _show(self, _: Held, fn: Callable[[Any], T]) -> T:
        """Call `fn` with the array, without keeping that in a frame of ours."""
        return fn(self.array())

    def _view_now(self) -> memoryview:
        """The view, made now if need be; refused once the object is shut."""
        view = self._view
        try:
            if view is None:
                return self._open()
            if not self._handles[0].valid:
                self._refuse()
            return view
        finally:
            view = None  # a kept traceback must keep no memory

    def _refuse(self) -> NoReturn:
        """Another holder of the object has shut it (invalidate, unregister, a panic): say so, as the core
        says it."""
        with self._handles[0].lease():
            raise self._refusal()

    def _open(self, mapped: bool = True) -> memoryview:  # noqa: C901  # in one piece: every frame comes through it
        """Register the frame's native and map it; the view of it. Of several threads that do this at once one
        wins; the others' registrations are closed again, and their views stay good. With ``mapped=False`` the
        buffer is only held.
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
                        held.__del__ = partial(next, map(unmap_plain, ANY, (addressof(held),)), None)
                        done = map_plain(buffer, held, MAP_READ)
                    else:
                        check_memories(self, buffer)
                        held.__del__ = partial(next, map(unmap_foreign, ANY, (addressof(held),)), None)
                        done = map_foreign(buffer, held, MAP_READ)
                    if not done:
                        raise no_mapping(self)
                if layout.sound is None:
                    meta = video_meta(buffer)
                    if meta is not None:
                        self._actual = layout.of_meta(meta)
                else:
                    self._actual = layout.of_buffer(buffer, buffer_size(buffer))
            handle = adapter._register(held, buffer, layout.size or buffer_size(buffer))
            if owner is not None:
                view = memoryview(owner).cast("B")[: buffer_size(buffer)].toreadonly()
            elif mapped and held.size and held.data is not None:  # a memory may have no bytes
                view = handle.view(held.data, held.size)
                live[key] = weakref.ref(view.obj)
                held.live = live
        except BaseException:
            view = owner = None
            if handle is not None:
                handle.close()
            end_held(held)
            raise
        else:
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
        finally:
            held = handle = view = owner = None  # type: ignore[assignment]  # a kept traceback must keep nothing

    def _memories_now(self) -> tuple[list[Plane], list[memoryview]] | None:
        """The planes, and for each the view of the one memory that it lies in; None where the whole buffer
        has to be mapped."""
        sample = self._sample_now()
        buffer = self._buffer_of(sample)
        if self._view is not None or memory_count(buffer) < 2:
            return None
        self._actual = layout = self._layout.of_buffer(buffer, 0)
        found = []
        for plane in layout.all_planes():
            where = find_memory(buffer, plane.start, plane.end - plane.start)
            if where is None or where[1] != 1:
                return None
            found.append((plane, where[0], where[2] - plane.start))
        parent = self._held_handle()
        if not parent.valid:
            self._refuse()
        check_memories(self, buffer)
        parts = self._parts
        if parts is None:
            parts = self._parts = {}
        placed: list[Plane] = []
        views: list[memoryview] = []
        try:
            for plane, index, shift in found:
                part = parts.get(index)
                if part is None:
                    adapter = self._adapter
                    part = open_memory(
                        adapter.manager, adapter._live, self, parent, sample, buffer, index, TYPE_NAME
                    )
                    if parts.setdefault(index, part) is not part:
                        part[0].close()
                placed.append(Plane(plane.shape, plane.dtype, plane.offset + shift, plane.strides))
                views.append(part[1])
            if self._closed:
                self._close_children()
                raise self._refusal()
            return placed, views
        except BaseException:
            views.clear()
            raise
        finally:
            part = None

    def _too_short(self, size: int, plane: Plane) -> ShortMemoryError:
        return ShortMemoryError(
            f"{self!r} has {size} bytes and its caps ({self._layout}) need {plane.end}: the buffer is "
            "truncated, or the caps are not its own; use data() for the bytes that are there"
        )
