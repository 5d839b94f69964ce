"""What elements have written beside a buffer: its metas, and in which memories its bytes lie.

Metas are read in place through C, for as long as the buffer is held, and what is given out is a copy: it may
be kept, whatever becomes of the frame.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from lifecycle.integrations.gstreamer._native import (
    Gst,
    VideoMeta,
    _function,
    _getters,
    _open,
    fd_of,
    is_fd_memory,
    memory_count,
    memory_of,
    memory_place,
    video_meta,
)

__all__ = [
    "Area",
    "MemoryFacts",
    "Region",
    "VideoPlanes",
    "crop_of",
    "custom_of",
    "memories_of",
    "names_of_metas",
    "regions_of",
    "video_planes_of",
]

_p = ctypes.c_void_p
_unsigned = ctypes.c_uint


@attrs.frozen
class Area:
    """A part of a picture, in pixels from its upper left corner."""

    x: int
    """How far it is from the left."""
    y: int
    """How far it is from the top."""
    width: int
    """Pixels in a row."""
    height: int
    """Rows."""


@attrs.frozen
class Region:
    """A region of interest: what a detector has found, or what an encoder is to do well."""

    kind: str
    """Its type, as the element that wrote it names it, such as ``"face"``."""
    area: Area
    """Where."""
    id: int
    """Its number, -1 where nobody gave it one."""
    parent: int
    """The number of the region that it lies in, -1 where in none."""
    details: Mapping[str, Mapping[str, Any]]
    """What else was said of it: fields by the name of the structure that they are in."""


@attrs.frozen
class VideoPlanes:
    """Where the planes of this very buffer lie, as its video meta says."""

    width: int
    """Pixels in a row."""
    height: int
    """Rows."""
    offsets: tuple[int, ...]
    """Bytes from the beginning of the buffer, for each plane."""
    strides: tuple[int, ...]
    """Bytes from one row to the next, for each plane."""


@attrs.frozen
class MemoryFacts:
    """One of the memories that a buffer's bytes lie in."""

    kind: str
    """What its allocator calls it: ``"SystemMemory"``, ``"dmabuf"``, ``"fd"``, ``"GLMemory"``, …"""
    size: int
    """Its bytes."""
    offset: int
    """Where in the memory, or in the file, they begin."""
    fd: int | None
    """The file that they lie in. It is GStreamer's, and open as long as the frame: ``os.dup`` it to keep
    it."""


class _MetaInfo(ctypes.Structure):
    """The head of `GstMetaInfo`."""

    _fields_ = (("api", ctypes.c_size_t), ("type", ctypes.c_size_t), ("size", ctypes.c_size_t))


class _Meta(ctypes.Structure):
    """`GstMeta`."""

    _fields_ = (("flags", _unsigned), ("info", ctypes.POINTER(_MetaInfo)))


class _CropMeta(ctypes.Structure):
    """`GstVideoCropMeta`."""

    _fields_ = (("meta", _Meta), *((name, _unsigned) for name in ("x", "y", "width", "height")))


class _List(ctypes.Structure):
    """`GList`."""


_List._fields_ = (("data", _p), ("next", ctypes.POINTER(_List)), ("prev", ctypes.POINTER(_List)))


class _RegionMeta(ctypes.Structure):
    """`GstVideoRegionOfInterestMeta`."""

    _fields_ = (
        ("meta", _Meta),
        ("roi_type", ctypes.c_uint32),
        ("id", ctypes.c_int),
        ("parent_id", ctypes.c_int),
        *((name, _unsigned) for name in ("x", "y", "width", "height")),
        ("params", ctypes.POINTER(_List)),
    )


class _CustomMeta(ctypes.Structure):
    """`GstCustomMeta`."""

    _fields_ = (("meta", _Meta), ("structure", _p))


_video = _open(ctypes.PyDLL, "gstvideo")
_iterate = _function(
    _getters, "gst_buffer_iterate_meta", ctypes.POINTER(_Meta), _p, ctypes.POINTER(ctypes.c_void_p)
)
_structure_name = _function(_getters, "gst_structure_get_name", ctypes.c_char_p, _p)
_structure_text = _function(_getters, "gst_structure_to_string", _p, _p)
_type_name = _function(_getters, "g_type_name", ctypes.c_char_p, ctypes.c_size_t)
_quark_text = _function(_getters, "g_quark_to_string", ctypes.c_char_p, ctypes.c_uint32)
_free = _function(_getters, "g_free", None, _p)
_allocator_of: Final = 64
"""Where in a `GstMemory` its allocator is."""
_mem_type = 88
REGION: Final = "GstVideoRegionOfInterestMeta"
CROP: Final = "GstVideoCropMeta"


def _metas(buffer: int) -> Iterator[tuple[str, int]]:
    """The name and address of each meta, in the order in which they were added."""
    state = ctypes.c_void_p()
    while True:
        meta = _iterate(buffer, ctypes.byref(state))
        if not meta:
            return
        name: bytes | None = _type_name(meta.contents.info.contents.type)
        yield name.decode() if name else "", ctypes.addressof(meta.contents)


def names_of_metas(buffer: int) -> tuple[str, ...]:
    """The names of a buffer's metas."""
    return tuple(name for name, _ in _metas(buffer))


def crop_of(buffer: int) -> Area | None:
    """The part that is to be shown, None where nothing was said."""
    for name, address in _metas(buffer):
        if name == CROP:
            crop = _CropMeta.from_address(address)
            return Area(crop.x, crop.y, crop.width, crop.height)
    return None


def regions_of(buffer: int) -> tuple[Region, ...]:
    """The regions of interest."""
    found = []
    for name, address in _metas(buffer):
        if name == REGION:
            meta = _RegionMeta.from_address(address)
            details: dict[str, dict[str, Any]] = {}
            entry = meta.params
            while entry:
                structure = entry.contents.data
                details[_structure_name(structure).decode()] = _fields(structure)
                entry = entry.contents.next
            kind: bytes | None = _quark_text(meta.roi_type)
            area = Area(meta.x, meta.y, meta.width, meta.height)
            found.append(Region(kind.decode() if kind else "", area, meta.id, meta.parent_id, details))
    return tuple(found)


def custom_of(buffer: int, name: str) -> dict[str, Any] | None:
    """The fields of the custom meta of that name, None where the buffer has none."""
    for found, address in _metas(buffer):
        if found == name:
            meta = _CustomMeta.from_address(address)
            if meta.structure and _structure_name(meta.structure) == name.encode():
                return _fields(meta.structure)
    return None


def video_planes_of(buffer: int) -> VideoPlanes | None:
    """What the buffer's video meta says, None where it has none."""
    address = video_meta(buffer)
    if address is None:
        return None
    meta = VideoMeta.from_address(address)
    count = min(meta.n_planes, 4)
    return VideoPlanes(meta.width, meta.height, tuple(meta.offset[:count]), tuple(meta.stride[:count]))


def memories_of(buffer: int) -> tuple[MemoryFacts, ...]:
    """The memories that the buffer's bytes lie in."""
    found = []
    for index in range(memory_count(buffer)):
        memory = memory_of(buffer, index)
        offset, size = memory_place(memory)
        fd = fd_of(memory) if is_fd_memory(memory) else None
        found.append(MemoryFacts(_kind_of(memory), size, offset, fd))
    return tuple(found)


def _kind_of(memory: int) -> str:
    """What the allocator of a memory calls it."""
    allocator = ctypes.c_void_p.from_address(memory + _allocator_of).value
    if not allocator:
        return ""
    name = ctypes.c_char_p.from_address(allocator + _mem_type).value
    return name.decode() if name else ""


def _fields(structure: int) -> dict[str, Any]:
    """What is in a `GstStructure`, by way of its text: what its wrapper gives differs by version."""
    address = _structure_text(structure)
    try:
        text = ctypes.string_at(address).decode()
    finally:
        _free(address)
    parsed = Gst.Structure.new_from_string(text)
    names = [parsed.nth_field_name(index) for index in range(parsed.n_fields())]
    return {name: parsed.get_value(name) for name in names}
