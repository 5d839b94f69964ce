"""Textures: the picture of a frame in OpenGL's memory, used where it lies.

**The problem.** GStreamer draws into a texture from a thread of its own, and gives out the buffer before the
GPU has done so: another context that samples the texture at once sees half a picture, or the last one. And
the texture goes back to its pool, to be drawn into again, as the last reference on its buffer goes.

**The idea.** A `FrameTexture` holds the buffer as a child of its frame, and there is none before the drawing
was waited for: by the GPU, in a context that is given, or by this thread. Its handle is an object of the
manager: closed after a fence, or leased by a submission, it keeps the texture until the GPU has read it.

What is let go is a reference on a buffer, and a GL memory keeps its own context and deletes on that one's
thread: so a texture may be closed anywhere, also when its pipeline is gone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lifecycle import Handle
from lifecycle.integrations.gstreamer._buffers import new_buffer, nothing_owned
from lifecycle.integrations.gstreamer._native import (
    ANY,
    Mapping,
    _function,
    _getters,
    _open,
    map_one_memory,
    memory_count,
    memory_of,
    pointer_of,
    ready,
    unmap_foreign,
)
from lifecycle.integrations.gstreamer.errors import FormatError, GuardError, MapError
from lifecycle.lowlevel import Uncopied

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer.frames.frame import Frame

__all__ = ["FrameTexture", "texture_of"]

_p = ctypes.c_void_p
MAP_READ_GL: Final = 1 | 1 << 17
_CONTEXT_OF: Final = 112
"""Where in a `GstGLBaseMemory` its context is."""
WRAPPED: Final = "GstGLWrappedContext"
TARGETS: Final = {1: "2D", 2: "rectangle", 3: "external-oes"}
"""`GstGLTextureTarget`."""


class _Calls:
    """The functions of GStreamer's GL library, which may wait for its threads: without the interpreter's
    lock."""

    def __init__(self) -> None:
        slow = _open(ctypes.CDLL, "gstgl")
        quick = _open(ctypes.PyDLL, "gstgl")
        self.is_gl_memory = _function(quick, "gst_is_gl_memory", ctypes.c_int, _p)
        self.texture_id = _function(quick, "gst_gl_memory_get_texture_id", ctypes.c_uint, _p)
        self.target = _function(quick, "gst_gl_memory_get_texture_target", ctypes.c_int, _p)
        self.width = _function(quick, "gst_gl_memory_get_texture_width", ctypes.c_int, _p)
        self.height = _function(quick, "gst_gl_memory_get_texture_height", ctypes.c_int, _p)
        self.format = _function(quick, "gst_gl_memory_get_texture_format", ctypes.c_int, _p)
        self.can_share = _function(quick, "gst_gl_context_can_share", ctypes.c_int, _p, _p)
        self.current = _function(quick, "gst_gl_context_get_current", _p)
        self.is_a = _function(_getters, "g_type_check_instance_is_a", ctypes.c_int, _p, ctypes.c_size_t)
        self.is_context = _function(quick, "gst_gl_context_get_type", ctypes.c_size_t)
        self.sync_api = _function(quick, "gst_gl_sync_meta_api_get_type", ctypes.c_size_t)
        self.meta_of = _function(_getters, "gst_buffer_get_meta", _p, _p, ctypes.c_size_t)
        self.add_sync = _function(slow, "gst_buffer_add_gl_sync_meta", _p, _p, _p)
        self.set_sync = _function(slow, "gst_gl_sync_meta_set_sync_point", None, _p, _p)
        self.wait = _function(slow, "gst_gl_sync_meta_wait", None, _p, _p)
        self.wait_cpu = _function(slow, "gst_gl_sync_meta_wait_cpu", None, _p, _p)


@functools.cache
def _calls() -> _Calls:
    return _Calls()


class FrameTexture(Uncopied):
    """A plane of a frame as a texture. Made by `Frame.texture`; a context manager that lets go of it.

    `close` (on any thread) gives it back to GStreamer, which may draw into it again at once. What the GPU has
    been asked to do with it must be done by then: ``close(after=fence)``, or lease `handle` to a submission.
    """

    _remedy = "take frame.texture() again"

    __slots__ = ("handle", "height", "internal_format", "name", "target", "width")

    def __init__(
        self, handle: Handle[int], name: int, target: str, width: int, height: int, internal_format: int
    ) -> None:
        self.handle: Handle[int] = handle
        """The registered object, whose native is the texture's name: for submissions, leases and fences."""
        self.name: int = name
        """OpenGL's name of the texture, in the contexts that share with GStreamer's."""
        self.target: str = target
        """``"2D"``, ``"rectangle"`` or ``"external-oes"``."""
        self.width: int = width
        """Texels in a row."""
        self.height: int = height
        """Rows."""
        self.internal_format: int = internal_format
        """OpenGL's number of its format, such as ``GL_RGBA8``."""

    def close(self, *, after: Any = None) -> bool:
        """Let go of it, once `after` (a fence) has signalled, where one is given. True when that is done
        already."""
        return self.handle.close() if after is None else self.handle.close(timeout=0, after=after)

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return not self.handle.valid

    def __enter__(self) -> FrameTexture:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.handle.close()

    def __repr__(self) -> str:
        return f"<FrameTexture {self.name} ({self.target}, {self.width}×{self.height}): {self.handle.state}>"


def texture_of(
    frame: Frame,
    buffer: int,
    context: Any,
    plane: int,
    register: Callable[[int], Handle[int]],
) -> FrameTexture:
    """The texture of a plane of `frame`, whose buffer the caller holds; registered by `register`."""
    if frame.memory != "GLMemory":
        raise FormatError(
            f"{frame!r} lies in {frame.memory} memory, which has no texture; put «glupload ! "
            "video/x-raw(memory:GLMemory)» before the sink, or upload frame.array() by yourself"
        )
    calls = _calls()
    count = memory_count(buffer)
    if isinstance(plane, bool) or not isinstance(plane, int) or not 0 <= plane < count:
        raise FormatError(f"{frame!r} has {count} texture(s), 0 to {count - 1}, and no plane {plane!r}")
    memory = memory_of(buffer, plane)
    if not calls.is_gl_memory(memory):
        raise MapError(
            f"{frame!r}: its caps say GLMemory, but its memory is none: the element that made it is wrong"
        )
    theirs: int = ctypes.c_void_p.from_address(memory + _CONTEXT_OF).value or 0
    mine = _context(frame, calls, context, theirs)
    _upload(frame, buffer, plane)
    _await_drawing(frame, calls, buffer, mine, theirs)
    name: int = calls.texture_id(memory)
    handle = register(name)
    return FrameTexture(
        handle,
        name,
        TARGETS.get(calls.target(memory), "none"),
        calls.width(memory),
        calls.height(memory),
        calls.format(memory),
    )


def _context(frame: Frame, calls: _Calls, context: Any, theirs: int) -> int | None:
    """The address of the context to wait in, None where this thread is to wait."""
    if context is None:
        return None
    try:
        mine = pointer_of(context)
    except AttributeError:
        mine = 0
    if not mine or not calls.is_a(mine, calls.is_context()):
        raise FormatError(
            f"{frame!r}: texture() takes a GstGL.GLContext that shares with GStreamer's, or None to wait for "
            f"it on this thread, not {context!r}"
        )
    if not calls.can_share(mine, theirs):
        raise MapError(
            f"{frame!r}: the context {context!r} shares nothing with the one that the texture belongs to, so "
            "its name means nothing there; give yours to the pipeline (the message need-context, context "
            "type gst.gl.app_context), or create it with GStreamer's as the other"
        )
    if context.__gtype__.name == WRAPPED and calls.current() != mine:
        raise GuardError(
            f"{frame!r}: the wrapped context {context!r} is not current on this thread, where it would wait; "
            "call context.activate(True) here, or texture() without a context"
        )
    return mine


def _upload(frame: Frame, buffer: int, plane: int) -> None:
    """Have the texture hold what was written into the memory last, by whomever."""
    mapping = Mapping()
    mapping.__del__ = functools.partial(next, map(unmap_foreign, ANY, (ctypes.addressof(mapping),)), None)
    ready()
    try:
        if not map_one_memory(buffer, plane, mapping, MAP_READ_GL):
            raise MapError(
                f"{frame!r}: GStreamer cannot give its texture; take frame.download() instead, or see what "
                "GST_DEBUG=gl*:4 says"
            )
    finally:
        if mapping.memory is not None:
            mapping.__del__()


def _await_drawing(frame: Frame, calls: _Calls, buffer: int, mine: int | None, theirs: int) -> None:
    """Have whatever was drawn into the texture up to now come first: in the context `mine`, or on this
    thread."""
    meta = calls.meta_of(buffer, calls.sync_api())
    helper = nothing_owned()
    try:
        if not meta:
            # Nobody has set a mark behind the drawing: it is set now, on a buffer of our own.
            helper = new_buffer(1)
            meta = calls.add_sync(theirs, helper.value)
            calls.set_sync(meta, theirs)
        if mine is not None:
            calls.wait(meta, mine)
        else:
            calls.wait_cpu(meta, theirs)
    finally:
        helper.drop()
