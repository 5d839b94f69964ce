"""From caps to layout: what lies where in a buffer, worked out once per caps and then found by pointer.

Parsing caps costs tens of microseconds, a look-up a twentieth of one. The cache holds a reference to each
caps it knows, so no pointer in it can come to mean other caps; it is bounded, and what falls out is parsed
again. So a stream may change its format at any frame: each frame is laid out by its own caps.

A picture has planes (`planes.py`) and, where they are one array of height × width × channels, an *image
plane*; sound has frames × channels (`audio.py`); anything else has bytes.

A buffer may carry a meta that says otherwise than its caps (padding by a camera or decoder; where the
channels of planar audio begin). The meta wins: `Layout.of_buffer` gives the layout with its figures, for
pictures cached as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import attrs

from lifecycle.integrations.gstreamer._native import (
    GstVideo,
    VideoMeta,
    media_type,
    text_field,
    video_meta,
    video_meta_key,
)
from lifecycle.integrations.gstreamer.errors import FormatError, SampleError
from lifecycle.integrations.gstreamer.frames.audio import Sound, sound_of
from lifecycle.integrations.gstreamer.frames.planes import (
    Plane,
    image_of,
    planes_of,
    why_no_image,
    why_no_planes,
)

__all__ = ["Layout", "LayoutCache", "Plane", "frame_of", "parse", "plain_caps"]

PLAIN: Final = "memory:SystemMemory"
MAPPABLE_FEATURES: Final = frozenset({PLAIN, "memory:DMABuf"})
"""Memories whose mapping is the picture itself; of any other kind the mapping may be a descriptor, or a slow
download."""

META_VARIANTS: Final = 16
"""How many layouts that differ by video meta one caps keeps."""


@attrs.define(eq=False)
class Layout:
    """What caps say about a buffer; `caps` is held as long as the layout."""

    caps: Any
    media_type: str
    format: str = ""
    width: int = 0
    height: int = 0
    size: int = 0
    image: Plane | None = None
    """The one plane that is the whole picture (or sound), if there is one; `problem` says why there is none.
    """
    problem: str = ""
    planes: tuple[Plane, ...] = ()
    """All planes; `planes_problem` says why there are none."""
    planes_problem: str = ""
    plain: bool = True
    """True if the caps promise system memory."""
    sound: Sound | None = None
    whose: str = ""
    """The name of the capture (or adapter) that the frames are of, for messages."""
    _info: Any = attrs.field(default=None, repr=False)
    _variants: dict[Any, Layout] = attrs.field(factory=dict, repr=False)

    @property
    def varies(self) -> bool:
        """True if only a buffer can say what there is: sound, whose length is the buffer's own."""
        return self.sound is not None

    @property
    def seconds(self) -> float:
        """How long a picture is shown, 0.0 where that is not said or differs."""
        info = self._info
        return info.fps_d / info.fps_n if info is not None and info.fps_n > 0 else 0.0

    def image_plane(self) -> Plane:
        """The plane that `Frame.array` shows; raises `FormatError` for what an ndarray cannot express."""
        if self.image is None:
            self._refuse(self.problem)
        return self.image

    def all_planes(self) -> tuple[Plane, ...]:
        """The planes that `Frame.planes` shows; raises `FormatError` where one of them is no ndarray."""
        if not self.planes:
            self._refuse(self.planes_problem)
        return self.planes

    def _refuse(self, problem: str) -> NoReturn:
        raise FormatError(f"{frame_of(self.whose)}{self}: {problem}")

    def of_buffer(self, buffer: int, size: int) -> Layout:
        """This layout with what a buffer's own meta says; `size` is how many bytes the buffer has."""
        if self.sound is not None:
            image, planes, problem = self.sound.planes(buffer, size)
            return attrs.evolve(
                self, image=image, planes=planes, problem=problem, planes_problem=problem, variants={}
            )
        address = video_meta(buffer)
        return self if address is None else self.of_meta(address)

    def of_meta(self, address: int) -> Layout:
        """This layout with the figures of a buffer's own video meta, which is at `address`."""
        if self._info is None:
            return self
        variant = self._variants.get(video_meta_key(address))
        return self._new_variant(address) if variant is None else variant

    def _new_variant(self, address: int) -> Layout:
        meta = VideoMeta.from_address(address)
        count = min(meta.n_planes, 4)
        info = self._info
        key = (meta.width, meta.height, tuple(meta.offset[:count]), tuple(meta.stride[:count]))
        own = info.finfo.n_planes
        if key == (info.width, field_height(info), tuple(info.offset[:own]), tuple(info.stride[:own])):
            variant = self
        else:
            variant = _video_layout(self.caps, self.media_type, info, *key)
            variant.whose = self.whose
        _bound(self._variants, META_VARIANTS)
        self._variants[video_meta_key(address)] = variant
        return variant

    def __str__(self) -> str:
        if self.sound is not None:
            return f"{self.media_type} {self.format} {self.sound.channels} × {self.sound.rate} Hz"
        if self.format:
            return f"{self.media_type} {self.format} {self.width}×{self.height}"
        return self.media_type


def _bound(cache: dict[Any, Any], limit: int) -> None:
    """Make room in an insertion-ordered cache; safe against other threads that do the same."""
    if len(cache) >= limit:
        for key in list(cache)[: max(1, limit // 4)]:
            cache.pop(key, None)


def field_height(info: Any) -> int:
    """Rows in one buffer: half a picture where each field has a buffer of its own."""
    height = int(info.height)
    if info.interlace_mode == GstVideo.VideoInterlaceMode.ALTERNATE:
        return (height + 1) // 2
    return height


def _memory_feature(caps: Any) -> str:
    """In which kind of memory the caps' buffers lie."""
    features = caps.get_features(0)
    if features is not None:
        for index in range(features.get_size()):
            feature = features.get_nth(index)
            if feature.startswith("memory:"):
                return str(feature)
    return PLAIN


def frame_of(name: str | None) -> str:
    """How a message about a frame of the capture or adapter `name` begins; empty where it has no name."""
    return f"frame of {name!r}: " if name else ""


def plain_caps(caps: Any) -> Any:
    """`caps`, but in system memory."""
    plain = caps.copy()
    plain.set_features_simple(None)
    return plain


def _no_access(memory: str) -> str:
    return (
        f"it lies in {memory}, which is not this process's memory; take frame.download(), a copy that is, or "
        "download it before the sink (glcolorconvert ! gldownload, cudadownload, nvvideoconvert, vapostproc, "
        "as the memory demands), or use frame.data() for what a mapping of it gives"
    )


def _video_layout(
    caps: Any,
    media_type: str,
    info: Any,
    width: int,
    height: int,
    offsets: Sequence[int],
    strides: Sequence[int],
) -> Layout:
    memory = _memory_feature(caps)
    planes: tuple[Plane, ...] = ()
    problem = planes_problem = "" if memory in MAPPABLE_FEATURES else _no_access(memory)
    if not problem:
        planes_problem = why_no_planes(info)
        problem = why_no_image(info)
    if not planes_problem and len(offsets) < info.finfo.n_planes:
        planes_problem = problem = (
            f"the buffer's own video meta has {len(offsets)} planes, its format {info.finfo.n_planes}; use "
            "frame.data()"
        )
    if not planes_problem:
        planes = planes_of(info, width, height, offsets, strides)
        for number, plane in enumerate(planes):
            if plane.shape[0] > 1 and abs(plane.strides[0]) < plane.row:
                planes_problem = problem = (
                    f"the rows of its plane {number} have {plane.row} bytes and begin "
                    f"{abs(plane.strides[0])} apart, so they overlap: the buffer's video meta is not the "
                    "picture's own; use frame.data() for its bytes"
                )
                planes = ()
                break
    return Layout(
        caps,
        media_type,
        str(info.finfo.name),
        width,
        height,
        int(info.size),
        image_of(planes, problem),
        problem,
        planes,
        planes_problem,
        memory == PLAIN,
        info=info,
    )


def parse(caps: Any, whose: str = "") -> Layout:
    """Work out the layout of `caps` (a `Gst.Caps`). Raises `SampleError` for caps that describe nothing in
    particular; `whose`: the capture or adapter that they came to."""
    if caps.get_size() == 0 or not caps.is_fixed():
        raise SampleError(
            f"{frame_of(whose)}caps «{caps.to_string()}» do not describe one format; a sample needs fixed "
            "caps: pull it from a running appsink, or give Gst.Sample.new the caps that the buffer really has"
        )
    kind = media_type(caps)
    if kind == "audio/x-raw":
        return Layout(
            caps,
            kind,
            text_field(caps, "format"),
            plain=_memory_feature(caps) == PLAIN,
            sound=sound_of(caps),
        )

    def bytes_only(problem: str, name: str = "") -> Layout:
        """No arrays, for the reason given."""
        plain = _memory_feature(caps) == PLAIN
        return Layout(caps, kind, name, problem=problem, planes_problem=problem, plain=plain)

    if kind != "video/x-raw":
        return bytes_only(
            "it is neither raw video nor raw audio, so it has no array; use frame.data() for its bytes"
        )
    name = text_field(caps, "format")
    unknown = bytes_only(
        "this GStreamer cannot tell how its pixels lie; use frame.data() for its bytes, or put "
        "«videoconvert ! video/x-raw,format=RGB» before the sink",
        name,
    )
    try:
        info = GstVideo.VideoInfo.new_from_caps(caps)
    except TypeError:  # how PyGObject says that the constructor returned NULL
        return unknown
    if info is None or not info.finfo.n_components:
        return unknown
    width, height = int(info.width), int(info.height)
    if width < 1 or height < 1:
        return bytes_only(
            f"its caps say {width}×{height} pixels, which is no picture; give the element that makes it a "
            "size («video/x-raw,width=…,height=…» behind it), or use frame.data() for its bytes",
            name,
        )
    return _video_layout(caps, kind, info, width, field_height(info), info.offset, info.stride)


class LayoutCache:
    """Layouts by the pointer of their caps. Callable on any thread; a race costs one more parse."""

    __slots__ = ("_limit", "_whose", "known")

    def __init__(self, limit: int = 64, whose: str = "") -> None:
        self._limit = limit
        self._whose = whose
        self.known: dict[int, Layout] = {}
        """The layouts known, by pointer: a frame looks here first."""

    def add(self, caps: Any) -> Layout:
        """The layout of `caps`, a wrapper, which is parsed and kept."""
        layout = parse(caps, self._whose)
        layout.whose = self._whose
        _bound(self.known, self._limit)
        self.known[hash(caps)] = layout
        return layout
