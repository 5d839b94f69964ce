"""From caps to layout: what lies where in a buffer, worked out once per caps and then found by pointer.

Parsing caps costs tens of microseconds, a look-up a twentieth of one. The cache holds a reference to each caps it knows, so no
pointer in it can come to mean other caps; it is bounded, and what falls out is parsed again.

GStreamer describes a format by components (depth, shift, pixel stride, subsampling) and planes (stride, offset). `Plane` is one
ndarray's worth of that. A format whose pixels are one plane of equal, byte-aligned components has an *image plane* and can be an
array of height × width × channels (height × width for one component); formats of several planes or with subsampling have none
yet, and say so. GStreamer's own description decides, not a list of names, so a packed format that is new to us works.

A buffer may carry a video meta whose strides and offsets differ from its caps (padding by a camera or decoder). The meta wins:
`Layout.of_meta` gives the layout with its figures, cached as well.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from integrations.gstreamer._native import GstVideo, VideoMeta, media_type, np, text_field
from integrations.gstreamer.errors import FormatError, SampleError

__all__ = ["Layout", "LayoutCache", "Plane"]

PALETTE: Final = 1 << 5
COMPLEX: Final = 1 << 6
TILED: Final = 1 << 8
LITTLE_ENDIAN: Final = 1 << 4

PLAIN: Final = "memory:SystemMemory"
MAPPABLE_FEATURES: Final = frozenset({PLAIN, "memory:DMABuf"})
"""Memories whose mapping is the picture itself; of any other kind the mapping may be a descriptor, or a slow download."""

_frombuffer: Any = np.frombuffer

META_VARIANTS: Final = 16
"""How many layouts that differ by video meta one caps keeps."""


@attrs.frozen
class Plane:
    """One ndarray's worth of a buffer: where it starts, its shape and its steps in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    strides: tuple[int, ...]
    count: int = attrs.field(init=False)
    """How many elements lie one after the other without a gap, or 0 where there are gaps."""

    @count.default
    def _without_gaps(self) -> int:
        step = self.dtype.itemsize
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if stride != step:
                return 0
            step *= size
        return step // self.dtype.itemsize

    def over(self, view: memoryview) -> np.ndarray[Any, Any]:
        """The array over a read-only `view`, zero-copy. Raises `ValueError` or `TypeError` when the view is too short.

        By way of `frombuffer`, whose arrays stay read-only: one that `ndarray` makes of the view directly could be made
        writeable, and writing through a mapping made for reading is a SIGSEGV.
        """
        array: np.ndarray[Any, Any]
        if self.count:
            array = _frombuffer(view, self.dtype, self.count, self.offset)
            return array.reshape(self.shape)
        array = np.ndarray(self.shape, self.dtype, _frombuffer(view, np.uint8), self.offset, self.strides)
        return array

    @property
    def end(self) -> int:
        """The first byte after the last element: how long the buffer must be."""
        last = sum((count - 1) * step for count, step in zip(self.shape, self.strides, strict=True))
        return self.offset + last + self.dtype.itemsize


@attrs.define(eq=False)
class Layout:
    """What caps say about a buffer. `problem` names why there is no image plane; `caps` is held as long as the layout."""

    caps: Any
    media_type: str
    format: str
    width: int
    height: int
    size: int
    image: Plane | None
    problem: str
    plain: bool = True
    """Whether the caps promise system memory."""
    _info: Any = attrs.field(default=None, repr=False)
    _variants: dict[tuple[int, ...], Layout] = attrs.field(factory=dict, repr=False)

    def image_plane(self) -> Plane:
        """The plane that `Frame.array` shows; raises `FormatError` for what an ndarray cannot express."""
        if self.image is None:
            raise FormatError(f"{self}: {self.problem}")
        return self.image

    def of_meta(self, address: int) -> Layout:
        """This layout with the figures of a buffer's own video meta, which is at `address`."""
        if self._info is None:
            return self
        meta = VideoMeta.from_address(address)
        count = min(meta.n_planes, 4)
        key = (meta.width, meta.height, *meta.offset[:count], *meta.stride[:count])
        variant = self._variants.get(key)
        if variant is None:
            info = self._info
            own = (info.width, _field_height(info), *info.offset[:count], *info.stride[:count])
            if key == own:
                variant = self
            else:
                variant = _video_layout(
                    self.caps,
                    self.media_type,
                    info,
                    meta.width,
                    meta.height,
                    meta.offset[:count],
                    meta.stride[:count],
                )
            _bound(self._variants, META_VARIANTS)
            self._variants[key] = variant
        return variant

    def __str__(self) -> str:
        if self.format:
            return f"{self.media_type} {self.format} {self.width}×{self.height}"
        return self.media_type


def _bound(cache: dict[Any, Any], limit: int) -> None:
    """Make room in an insertion-ordered cache; safe against other threads that do the same."""
    if len(cache) >= limit:
        for key in list(cache)[: max(1, limit // 4)]:
            cache.pop(key, None)


def _field_height(info: Any) -> int:
    """Rows in one buffer: half a picture where each field has a buffer of its own."""
    height = int(info.height)
    if info.interlace_mode == GstVideo.VideoInterlaceMode.ALTERNATE:
        return (height + 1) // 2
    return height


def _why_no_image(info: Any) -> str:
    """Why the format is no single ndarray, or an empty string when it is one."""
    finfo = info.finfo
    flags = int(finfo.flags)
    used = range(finfo.n_components)
    advice = "use frame.data() for its bytes, or put «videoconvert ! video/x-raw,format=RGB» before the sink"
    for flag, kind in (
        (PALETTE, "has a palette"),
        (TILED, "is tiled"),
        (COMPLEX, "packs its pixels in its own way"),
    ):
        if flags & flag:
            return f"the format {kind}, which an ndarray cannot express; {advice}"
    if any(finfo.w_sub[i] or finfo.h_sub[i] for i in used):
        return f"its colour is subsampled, so it is not one array of height × width × channels; {advice}"
    if finfo.n_planes != 1:
        return f"its {finfo.n_planes} planes are not one array of height × width × channels; {advice}"
    depths = {finfo.depth[i] for i in used}
    if len(depths) != 1 or depths - {8, 16} or any(finfo.shift[i] for i in used):
        return f"its components are not whole bytes ({'/'.join(str(finfo.depth[i]) for i in used)} bits); {advice}"
    steps = {finfo.pixel_stride[i] for i in used}
    if len(steps) != 1 or min(steps) == 0:
        return f"its components do not lie at equal steps, which an ndarray cannot express; {advice}"
    return ""


def _image_plane(info: Any, width: int, height: int, offset: int, stride: int) -> Plane:
    finfo = info.finfo
    step = int(finfo.pixel_stride[0])
    wide = int(finfo.depth[0]) == 16
    order = "<" if int(finfo.flags) & LITTLE_ENDIAN else ">"
    dtype = np.dtype(order + "u2" if wide else "u1")
    if finfo.n_components == 1 and step == dtype.itemsize:
        return Plane((height, width), dtype, offset, (stride, step))
    return Plane((height, width, step // dtype.itemsize), dtype, offset, (stride, step, dtype.itemsize))


def _memory_feature(caps: Any) -> str:
    """In which kind of memory the caps' buffers lie."""
    features = caps.get_features(0)
    if features is not None:
        for index in range(features.get_size()):
            feature = features.get_nth(index)
            if feature.startswith("memory:"):
                return str(feature)
    return PLAIN


def _video_layout(
    caps: Any, media_type: str, info: Any, width: int, height: int, offsets: list[int], strides: list[int]
) -> Layout:
    problem = _why_no_image(info)
    memory = _memory_feature(caps)
    if memory not in MAPPABLE_FEATURES:
        problem = (
            f"the picture lies in {memory}, which is not this process's memory; download it before the sink "
            "(glcolorconvert ! gldownload, cudadownload, nvvideoconvert, vapostproc, as the memory demands)"
        )
    plane = None if problem else _image_plane(info, width, height, int(offsets[0]), int(strides[0]))
    name = str(info.finfo.name)
    return Layout(
        caps, media_type, name, width, height, int(info.size), plane, problem, memory == PLAIN, info
    )


def parse(caps: Any) -> Layout:
    """Work out the layout of `caps` (a `Gst.Caps`). Raises `SampleError` for caps that describe nothing in particular."""
    if caps.get_size() == 0 or not caps.is_fixed():
        raise SampleError(
            f"caps «{caps.to_string()}» do not describe one format; a sample needs fixed caps: pull it from a running "
            "appsink, or give Gst.Sample.new the caps that the buffer really has"
        )
    kind = media_type(caps)

    def without_image(problem: str, name: str = "") -> Layout:
        return Layout(caps, kind, name, 0, 0, 0, None, problem, _memory_feature(caps) == PLAIN)

    if kind != "video/x-raw":
        return without_image("it is not raw video, so it has no image; use frame.data() for its bytes")
    name = text_field(caps, "format")
    unknown = without_image(
        "this GStreamer cannot tell how its pixels lie; put «videoconvert ! video/x-raw,format=RGB» before the sink",
        name,
    )
    try:
        info = GstVideo.VideoInfo.new_from_caps(caps)
    except TypeError:  # how PyGObject says that the constructor returned NULL
        return unknown
    if info is None or not info.finfo.n_components:
        return unknown
    return _video_layout(caps, kind, info, int(info.width), _field_height(info), info.offset, info.stride)


class LayoutCache:
    """Layouts by the pointer of their caps. Callable on any thread; a race costs one more parse."""

    __slots__ = ("_limit", "known")

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self.known: dict[int, Layout] = {}
        """The layouts known, by pointer: a frame looks here first."""

    def add(self, caps: Any) -> Layout:
        """The layout of `caps`, a wrapper, which is parsed and kept."""
        layout = parse(caps)
        _bound(self.known, self._limit)
        self.known[hash(caps)] = layout
        return layout
