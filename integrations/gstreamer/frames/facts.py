"""What a frame can tell of itself without looking into its memory: what its caps say, and its times."""

from __future__ import annotations

from typing import Any, NoReturn

from lifecycle.integrations.gstreamer._native import CLOCK_TIME_NONE, BufferHead, sample_buffer
from lifecycle.integrations.gstreamer.errors import FormatError, FrameClosedError, SampleError
from lifecycle.integrations.gstreamer.frames.formats import Layout
from lifecycle.lowlevel import Uncopied, about

__all__ = ["FrameFacts"]


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
        sample = self._sample_now()
        pts = BufferHead.from_address(self._buffer_of(sample)).pts
        return None if pts == CLOCK_TIME_NONE else pts

    @property
    def duration(self) -> int | None:
        """Duration in nanoseconds, None when the buffer has none."""
        sample = self._sample_now()
        duration = BufferHead.from_address(self._buffer_of(sample)).duration
        return None if duration == CLOCK_TIME_NONE else duration

    # -- inside ----------------------------------------------------------------------------------------------

    def _no_picture(self, what: str) -> NoReturn:
        layout = self._layout
        raise FormatError(f"{layout} has no {what}: {layout.problem or f'its caps are {layout.media_type}'}")

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
