"""What a frame can tell of itself without looking into its memory: what its caps say, and its times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from lifecycle.integrations.gstreamer._native import (
    CLOCK_TIME_NONE,
    BufferHead,
    Gst,
    buffer_size,
    np,
    sample_buffer,
)
from lifecycle.integrations.gstreamer.errors import FormatError, FrameClosedError, SampleError
from lifecycle.integrations.gstreamer.frames.formats import Layout, frame_of
from lifecycle.integrations.gstreamer.frames.metas import (
    Area,
    MemoryFacts,
    Region,
    VideoPlanes,
    crop_of,
    custom_of,
    memories_of,
    names_of_metas,
    regions_of,
    video_planes_of,
)
from lifecycle.lowlevel import Uncopied, about

__all__ = ["FrameFacts"]

T = TypeVar("T")

FLAGS: Final = {
    1 << (4 + place): name
    for place, name in enumerate(
        (
            "live",
            "decode-only",
            "discont",
            "resync",
            "corrupted",
            "marker",
            "header",
            "gap",
            "droppable",
            "delta-unit",
            "tag-memory",
            "sync-after",
            "non-droppable",
        )
    )
}
"""`GstBufferFlags`, in their order; the four bits before them are every mini object's."""

VIDEO_FLAGS: Final = {
    1 << (20 + place): name
    for place, name in enumerate(
        (
            "interlaced",
            "top-field-first",
            "repeat-first-field",
            "one-field",
            "multiple-view",
            "first-in-bundle",
        )
    )
}
"""`GstVideoBufferFlags`, which raw video has beside the others."""


def _some(value: int) -> int | None:
    """A time or an offset; None where the buffer has none."""
    return None if value == CLOCK_TIME_NONE else value


class FrameFacts(Uncopied):
    """The facts of a `Frame`. What the caps say can be asked of a closed frame too."""

    _remedy = "use share() for another share, or copy() for the pixels"

    __slots__ = ("_layout", "_sample")
    _layout: Layout
    _sample: Any

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
        """GStreamer's name of the pixel format, such as ``"RGB"``; the media type where the caps are not raw
        video."""
        return self._layout.format or self._layout.media_type

    @property
    def rate(self) -> int:
        """Frames of sound a second. Raises `FormatError` where the caps are not raw audio."""
        sound = self._layout.sound
        return sound.rate if sound is not None else self._no_picture("rate")

    @property
    def channels(self) -> int:
        """Channels of sound. Raises `FormatError` where the caps are not raw audio."""
        sound = self._layout.sound
        return sound.channels if sound is not None else self._no_picture("channels")

    @property
    def pts(self) -> int | None:
        """Presentation time in nanoseconds, None when the buffer has none."""
        return self._read(lambda buffer: _some(BufferHead.from_address(buffer).pts))

    @property
    def duration(self) -> int | None:
        """Duration in nanoseconds, None when the buffer has none."""
        return self._read(lambda buffer: _some(BufferHead.from_address(buffer).duration))

    @property
    def dts(self) -> int | None:
        """Decoding time in nanoseconds, None when the buffer has none."""
        return self._read(lambda buffer: _some(BufferHead.from_address(buffer).dts))

    @property
    def offset(self) -> int | None:
        """What the element that made it counts: bytes of a file, frames of a source; None when it has
        none."""
        return self._read(lambda buffer: _some(BufferHead.from_address(buffer).offset))

    @property
    def flags(self) -> frozenset[str]:
        """The buffer's flags, as GStreamer calls them: ``"discont"``, ``"delta-unit"``, ``"gap"``,
        ``"corrupted"``, ``"marker"``, …; of raw video also ``"interlaced"``, ``"top-field-first"``,
        ``"repeat-first-field"``, ``"one-field"``, ``"multiple-view"`` and ``"first-in-bundle"``."""
        flags = self._read(lambda buffer: BufferHead.from_address(buffer).mini_object.flags)
        found = {name for bit, name in FLAGS.items() if flags & bit}
        if self._layout.width:
            found.update(name for bit, name in VIDEO_FLAGS.items() if flags & bit)
        return frozenset(found)

    @property
    def segment(self) -> Any:
        """The `Gst.Segment` of the stream that its times are counted in; None where the sample has none."""
        segment = self._sample_now().get_segment()
        return None if segment is None or segment.format != Gst.Format.TIME else segment

    @property
    def running_time(self) -> int | None:
        """When it is to be shown, in nanoseconds of playing; None where it has no pts or lies outside its
        segment. What two branches, or two streams of a pipeline, are compared by."""
        return self._time_by("to_running_time")

    @property
    def stream_time(self) -> int | None:
        """Where in its stream (a file, a recording) it is, in nanoseconds; None where it has no pts or lies
        outside its segment. What a position bar shows."""
        return self._time_by("to_stream_time")

    # -- sound -----------------------------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        """How many frames of sound (one sample of each channel) there are. Raises `FormatError` where the
        caps are not raw audio, or do not fit the buffer."""
        self.rate  # noqa: B018 - says what is no sound
        layout = self._layout
        return self._read(lambda buffer: layout.of_buffer(buffer, buffer_size(buffer)).image_plane().shape[0])

    def times(self) -> np.ndarray[Any, Any]:
        """When each frame of sound is to be heard: an ndarray of int64, in nanoseconds as `pts`, as long as
        `Frame.array`.

        Counted from the pts by the rate, so the times of two buffers differ by a nanosecond at most where the
        stream has no gap; ``"discont" in frame.flags`` says where it has one. Raises `FormatError` where the
        caps are not raw audio, or the buffer has no pts.
        """
        rate, pts, count = self.rate, self.pts, self.samples
        if pts is None:
            raise FormatError(
                f"{self!r} has no pts, so the time of its sound is not known; put «audiorate» "
                "before the sink, or set do-timestamp=true at the source"
            )
        if rate < 1:
            raise FormatError(f"{self._layout}: its caps have no rate, so its frames have no times")
        return pts + np.arange(count, dtype=np.int64) * 1_000_000_000 // rate

    # -- what was written beside it --------------------------------------------------------------------------

    @property
    def metas(self) -> tuple[str, ...]:
        """The names of the metas that elements have attached, such as ``"GstVideoMeta"``."""
        return self._read(names_of_metas)

    @property
    def crop(self) -> Area | None:
        """The part of the picture that is to be shown, where a decoder or a camera says so; None: the whole
        picture. `Frame.cropped` gives it."""
        return self._read(crop_of)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of interest: what a detector has found, in the order in which it was written."""
        return self._read(regions_of)

    @property
    def video_planes(self) -> VideoPlanes | None:
        """Where the planes of this very buffer lie, where it has a video meta, which wins over its caps."""
        return self._read(video_planes_of)

    def custom(self, name: str) -> dict[str, Any] | None:
        """The fields of the custom meta registered as `name` (`Gst.Meta.register_custom`); None where the
        buffer has none."""
        if not isinstance(name, str):
            raise FormatError(f"a custom meta has the name it was registered under, a text, not {name!r}")
        return self._read(lambda buffer: custom_of(buffer, name))

    @property
    def memories(self) -> tuple[MemoryFacts, ...]:
        """The memories that its bytes lie in: of which kind, how large, and in which file, where it is a
        DMABuf or another fd memory."""
        return self._read(memories_of)

    @property
    def memory(self) -> str:
        """Where the bytes lie: ``"system"``, or what the caps say, such as ``"GLMemory"`` or ``"DMABuf"``."""
        features = self._layout.caps.get_features(0)
        for index in range(0 if features is None else features.get_size()):
            kind, _, name = features.get_nth(index).partition(":")
            if kind == "memory" and name != "SystemMemory":
                return str(name)
        return "system"

    # -- inside ----------------------------------------------------------------------------------------------

    def _read(self, read: Callable[[int], T]) -> T:
        """What `read` finds in the buffer at an address, which is held until it returns: another thread may
        close the frame meanwhile."""
        sample = self._sample_now()
        try:
            return read(self._buffer_of(sample))
        finally:
            sample = None  # a kept traceback must keep no buffer

    def _time_by(self, count: str) -> int | None:
        """The pts as the segment's method `count` counts it."""
        segment, pts = self.segment, self.pts
        if segment is None or pts is None:
            return None
        time = getattr(segment, count)(Gst.Format.TIME, pts)
        return None if time == -1 else _some(int(time))

    def _no_picture(self, what: str) -> NoReturn:
        layout = self._layout
        problem = layout.problem or f"its caps are {layout.media_type}"
        raise FormatError(f"{frame_of(layout.whose)}{layout} has no {what}: {problem}")

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
        error = FrameClosedError(
            f"{self!r} was closed: make arrays before the end of its block (they outlive it), or take "
            "share() for another user"
        )
        handles = getattr(self, "_handles", None)  # empty where nobody asked for more than facts
        return about(handles[0], error) if handles else error
