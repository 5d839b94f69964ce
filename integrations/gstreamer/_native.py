"""GStreamer's C interface, as far as a frame needs it: which functions, with which types, and what may be
relied on.

PyGObject's own mapping differs by version, copies without gst-python's overrides, and has no owner where it
does not copy. The C functions are the same everywhere, and cost a tenth. What stands on what:

- **A boxed wrapper's hash is its C pointer** (samples, buffers, caps). The pointer lives as long as the
  wrapper, so whoever calls with it holds the wrapper over the call.
- **Two kinds of call.** Getters go through `PyDLL`: they neither block nor run foreign code, and keep the
  interpreter's lock, which a busy process would otherwise take milliseconds to give back. So does mapping
  plain system memory, which hands out a pointer. Mapping any other memory may wait for a device, and goes
  through `CDLL`, without the lock.
- **Mapping and knowing it are one C call**: `gst_buffer_map` writes into a structure that is already owned.
  So no interrupt can fall between having a mapping and having a record of it.
- **While a mapping lives, its memory is used for nothing else**: it holds a reference on the memory, whose
  address cannot be reused.
- **What holds the buffer is the sample's wrapper.** But the only owner of a sample may exchange its buffer.
  What is mapped stays: the mapping holds the memory. Only the call that ends it needs a buffer, of which it
  asks nothing but its type (1.20 to 1.28, tested), so it is always given the same one, `ANY`.
- **A mapping is ended once because it is an iterator.** ``map(unmap, ANY, (address,))`` calls once, in C,
  when it is advanced first; advancing it again does nothing. So no interrupt falls between deciding and
  doing. Advanced where nothing was mapped it does nothing either: GStreamer ends a mapping of no memory that
  way.
- **Its death ends it, in C.** ``__del__`` is a slot of each object, and in it lies a C function with its
  arguments: the interpreter calls it as the object dies, by its count or in a garbage cycle (where a weak
  reference of its own would be dropped unheard), and no bytecode runs in which an interrupt could fall.

Importing this module loads GStreamer's libraries but does not initialise GStreamer; that stays the program's
own ``Gst.init``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import stat
import sys
from collections.abc import Callable
from typing import Any, Final

from lifecycle.integrations.gstreamer.errors import MissingGStreamerError

try:
    import gi
    import numpy as np

    gi.require_version("Gst", "1.0")
    gi.require_version("GstVideo", "1.0")
    gi.require_version("GstApp", "1.0")  # known before any appsink is made: it is made with its methods
    from gi.repository import Gst, GstApp, GstVideo
except (ImportError, ValueError) as error:
    raise MissingGStreamerError(
        "lifecycle.integrations.gstreamer needs NumPy, PyGObject and GStreamer 1.20 or newer, and this "
        f"Python does not have all of them ({error}); on Debian or Ubuntu, as root: apt-get update && "
        "apt-get install python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 "
        "gstreamer1.0-plugins-base; then make the virtual environment by /usr/bin/python3 -m venv "
        "--system-site-packages, which lets it see them, and in it: pip install numpy"
    ) from error

__all__ = [
    "ANY",
    "CLOCK_TIME_NONE",
    "MAP_READ",
    "AudioMeta",
    "BufferHead",
    "Gst",
    "GstApp",
    "GstVideo",
    "Mapping",
    "VideoMeta",
    "audio_meta",
    "buffer_size",
    "deserialize",
    "fd_of",
    "find_memory",
    "int_field",
    "is_fd_memory",
    "map_foreign",
    "map_one_memory",
    "map_plain",
    "media_type",
    "memory_count",
    "memory_of",
    "memory_place",
    "memory_size",
    "np",
    "pointer_of",
    "ready",
    "sample_buffer",
    "sample_caps",
    "short_fd_memory",
    "text_field",
    "unmap",
    "unmap_foreign",
    "unmap_plain",
    "video_meta",
    "video_meta_key",
]

CLOCK_TIME_NONE: Final = 2**64 - 1
MAP_READ: Final = 1


class MapInfo(ctypes.Structure):
    """`GstMapInfo` (104 bytes on 64-bit machines)."""

    __slots__ = ()
    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("_reserved", ctypes.c_void_p * 4),
    )


class Mapping(MapInfo):
    """A buffer that is held and, where `memory` is set, its one read mapping.

    `data` (None for a buffer of no bytes) and `size` say where the bytes are; `sample` is the wrapper that
    keeps the buffer; `__del__` ends the mapping when it is called first, at the latest as this dies.
    """

    __slots__ = ("__del__", "buffer", "sample")

    memory: int | None
    data: int | None
    size: int
    sample: Any
    buffer: int
    __del__: Callable[[], object]


class MiniObject(ctypes.Structure):
    """`GstMiniObject`, the head of buffers, samples, caps and memories."""

    _fields_ = (
        ("type", ctypes.c_size_t),
        ("refcount", ctypes.c_int),
        ("lockstate", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("copy", ctypes.c_void_p),
        ("dispose", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
        ("priv_uint", ctypes.c_uint),
        ("priv_pointer", ctypes.c_void_p),
    )


class BufferHead(ctypes.Structure):
    """The public part of `GstBuffer`. Make one with ``BufferHead.from_address(pointer)`` and keep the buffer
    alive over it."""

    _fields_ = (
        ("mini_object", MiniObject),
        ("pool", ctypes.c_void_p),
        ("pts", ctypes.c_uint64),
        ("dts", ctypes.c_uint64),
        ("duration", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("offset_end", ctypes.c_uint64),
    )

    pool: int | None
    mini_object: MiniObject
    pts: int
    dts: int
    duration: int
    offset: int


class VideoMeta(ctypes.Structure):
    """The head of `GstVideoMeta`: where this very buffer's planes lie, whatever its caps say."""

    _fields_ = (
        ("meta_flags", ctypes.c_uint),
        ("meta_info", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("format", ctypes.c_int),
        ("id", ctypes.c_int),
        ("width", ctypes.c_uint),
        ("height", ctypes.c_uint),
        ("n_planes", ctypes.c_uint),
        ("offset", ctypes.c_size_t * 4),
        ("stride", ctypes.c_int * 4),
    )

    width: int
    height: int
    n_planes: int
    offset: Any
    stride: Any


class AudioInfo(ctypes.Structure):
    """`GstAudioInfo`."""

    _fields_ = (
        ("finfo", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("layout", ctypes.c_int),
        ("rate", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("bpf", ctypes.c_int),
        ("position", ctypes.c_int * 64),
        ("_reserved", ctypes.c_void_p * 4),
    )


class AudioMeta(ctypes.Structure):
    """The head of `GstAudioMeta`: how many samples this very buffer has, and where each channel's begin."""

    _fields_ = (
        ("meta_flags", ctypes.c_uint),
        ("meta_info", ctypes.c_void_p),
        ("info", AudioInfo),
        ("samples", ctypes.c_size_t),
        ("offsets", ctypes.POINTER(ctypes.c_size_t)),
    )

    samples: int
    offsets: Any


def _names(stem: str) -> tuple[str, ...]:
    """What the library is called here, the likeliest first: the very file that PyGObject has loaded
    already."""
    if sys.platform == "darwin":
        return (f"lib{stem}-1.0.0.dylib", f"lib{stem}-1.0.dylib")
    if sys.platform == "win32":
        return (f"{stem}-1.0-0.dll", f"lib{stem}-1.0-0.dll")
    return (f"lib{stem}-1.0.so.0", f"lib{stem}-1.0.so")


def _open(kind: type[ctypes.CDLL], stem: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(f"{stem}-1.0") if sys.platform in ("darwin", "win32") else None
    for name in (*_names(stem), *((found,) if found else ())):
        try:
            return kind(name)
        except OSError:
            continue
    raise MissingGStreamerError(
        f"lifecycle.integrations.gstreamer found GStreamer's Python bindings but not its library {stem}-1.0 "
        f"(tried {', '.join(_names(stem))}); install GStreamer's base plugins from the same place as the "
        "bindings"
    )


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


_p = ctypes.c_void_p
_getters = _open(ctypes.PyDLL, "gstreamer")
_actions = _open(ctypes.CDLL, "gstreamer")
_video = _open(ctypes.PyDLL, "gstvideo")
_audio = _open(ctypes.PyDLL, "gstaudio")
_allocators = _open(ctypes.PyDLL, "gstallocators")

sample_buffer: Callable[[int], int | None] = _function(_getters, "gst_sample_get_buffer", _p, _p)
sample_caps: Callable[[int], int | None] = _function(_getters, "gst_sample_get_caps", _p, _p)
memory_count: Callable[[int], int] = _function(_getters, "gst_buffer_n_memory", ctypes.c_uint, _p)
memory_of: Callable[[int, int], int] = _function(_getters, "gst_buffer_peek_memory", _p, _p, ctypes.c_uint)
buffer_size: Callable[[int], int] = _function(_getters, "gst_buffer_get_size", ctypes.c_size_t, _p)
is_fd_memory: Callable[[int], int] = _function(_allocators, "gst_is_fd_memory", ctypes.c_int, _p)
_structure = _function(_getters, "gst_caps_get_structure", _p, _p, ctypes.c_uint)
_structure_name = _function(_getters, "gst_structure_get_name", ctypes.c_char_p, _p)
_structure_text = _function(_getters, "gst_structure_get_string", ctypes.c_char_p, _p, ctypes.c_char_p)
_memory_sizes = _function(_getters, "gst_memory_get_sizes", ctypes.c_size_t, _p, _p, _p)
fd_of: Callable[[int], int] = _function(_allocators, "gst_fd_memory_get_fd", ctypes.c_int, _p)
video_meta: Callable[[int], int | None] = _function(_video, "gst_buffer_get_video_meta", _p, _p)
_meta_of = _function(_getters, "gst_buffer_get_meta", _p, _p, ctypes.c_size_t)
_audio_meta_type = _function(_audio, "gst_audio_meta_api_get_type", ctypes.c_size_t)
_structure_int = _function(
    _getters, "gst_structure_get_int", ctypes.c_int, _p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)
)
_find_memory = _function(
    _getters,
    "gst_buffer_find_memory",
    ctypes.c_int,
    _p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    *(ctypes.POINTER(kind) for kind in (ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t)),
)
_map_types = (_p, ctypes.POINTER(MapInfo), ctypes.c_int)
_unmap_types = (_p, _p)
MapCall = Callable[[int, MapInfo, int], int]
UnmapCall = Callable[[int, int], None]
map_plain: MapCall = _function(_getters, "gst_buffer_map", ctypes.c_int, *_map_types)
map_foreign: MapCall = _function(_actions, "gst_buffer_map", ctypes.c_int, *_map_types)
unmap_plain: UnmapCall = _function(_getters, "gst_buffer_unmap", None, *_unmap_types)
unmap_foreign: UnmapCall = _function(_actions, "gst_buffer_unmap", None, *_unmap_types)
_map_range = _function(
    _actions,
    "gst_buffer_map_range",
    ctypes.c_int,
    _p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.POINTER(MapInfo),
    ctypes.c_int,
)
_new_buffer: Callable[[], int] = _function(_getters, "gst_buffer_new", _p)
deserialize: Callable[[int, bytes], int] = _function(
    _getters, "gst_value_deserialize", ctypes.c_int, _p, ctypes.c_char_p
)
"""Give a `GObject.Value` at an address what a text says; whether that says anything for its type."""
_byref = ctypes.byref


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def pointer_of(obj: Any) -> int:
    """The address of a GObject."""
    address: int = _pointer(obj.__gpointer__, None)
    return address


def media_type(caps: Any) -> str:
    """The name of the first structure of a `Gst.Caps`. (What its wrapper gives for a structure differs by
    version.)"""
    name: bytes = _structure_name(_structure(hash(caps), 0))
    return name.decode()


def text_field(caps: Any, field: str) -> str:
    """A text in the first structure of a `Gst.Caps`, empty where there is none."""
    value: bytes | None = _structure_text(_structure(hash(caps), 0), field.encode())
    return value.decode() if value else ""


def int_field(caps: Any, field: str) -> int:
    """A whole number in the first structure of a `Gst.Caps`, 0 where there is none."""
    value = ctypes.c_int(0)
    _structure_int(_structure(hash(caps), 0), field.encode(), _byref(value))
    return value.value


def video_meta_key(address: int) -> bytes:
    """What a video meta says of where its picture lies, as one value to compare by."""
    return ctypes.string_at(address + _META_FROM, _META_BYTES)


_META_FROM: Final = int(VideoMeta.__dict__["width"].offset)
_META_BYTES: Final = int(VideoMeta.__dict__["stride"].offset) + 4 * ctypes.sizeof(ctypes.c_int) - _META_FROM


def audio_meta(buffer: int) -> AudioMeta | None:
    """The buffer's audio meta, read in place: keep the buffer alive over its use."""
    address = _meta_of(buffer, _audio_meta_type())
    return AudioMeta.from_address(address) if address else None


def find_memory(buffer: int, offset: int, size: int) -> tuple[int, int, int] | None:
    """Which memories of the buffer hold `size` bytes from `offset` on: the first's index, how many, and where
    in the first."""
    index, length, skip = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_size_t()
    if not _find_memory(buffer, offset, size, _byref(index), _byref(length), _byref(skip)):
        return None
    return index.value, length.value, skip.value


def map_one_memory(buffer: int, index: int, info: MapInfo, flags: int) -> int:
    """`gst_buffer_map` of one of several memories, without putting them together into one, which would copy
    them."""
    done: int = _map_range(buffer, index, 1, info, flags)
    return done


ANY: Final[list[int]] = []
"""A buffer that stands for whichever was mapped where a mapping is ended. There once `ready` was called."""
MAY_BE_LEAKED: Final = 1 << 2


def ready() -> None:
    """See that `ANY` is there. GStreamer is initialised by now: there is a sample."""
    if not ANY:
        buffer = _new_buffer()
        # It stays for good, and the leaks tracer is told so.
        MiniObject.from_address(buffer).flags |= MAY_BE_LEAKED
        ANY.append(buffer)
        del ANY[1:]  # another thread has made one too


def unmap(mapping: Mapping) -> None:
    """End a mapping, if there is one: calling twice does it once. On any thread."""
    if mapping.memory is not None:
        mapping.__del__()


def memory_size(memory: int) -> int:
    """How many bytes a memory has."""
    size: int = _memory_sizes(memory, None, None)
    return size


def memory_place(memory: int) -> tuple[int, int]:
    """Where in its memory (or its file) the bytes begin, and how many there are."""
    offset = ctypes.c_size_t()
    size: int = _memory_sizes(memory, _byref(offset), None)
    return offset.value, size


def short_fd_memory(memory: int) -> tuple[int, int, int] | None:
    """``(fd, bytes needed, bytes there)`` when the file behind an fd memory is too short to be read whole,
    else None.

    Only a file that knows its length is judged; an fd that cannot be asked counts as long enough.
    """
    offset = ctypes.c_size_t()
    size = _memory_sizes(memory, _byref(offset), None)
    fd = fd_of(memory)
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    needed = offset.value + size
    if status.st_size < needed and (stat.S_ISREG(status.st_mode) or status.st_size > 0):
        return fd, needed, status.st_size
    return None
