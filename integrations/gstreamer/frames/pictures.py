"""Pictures for Pillow: a copy in one of its modes, of the formats that are one array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lifecycle.integrations.gstreamer._native import np
from lifecycle.integrations.gstreamer.errors import FormatError, MissingGStreamerError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["to_pil"]

MODES: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "RGB": ("RGB", (0, 1, 2)),
    "BGR": ("RGB", (2, 1, 0)),
    "RGBx": ("RGB", (0, 1, 2)),
    "BGRx": ("RGB", (2, 1, 0)),
    "xRGB": ("RGB", (1, 2, 3)),
    "xBGR": ("RGB", (3, 2, 1)),
    "RGBA": ("RGBA", (0, 1, 2, 3)),
    "BGRA": ("RGBA", (2, 1, 0, 3)),
    "ARGB": ("RGBA", (1, 2, 3, 0)),
    "ABGR": ("RGBA", (3, 2, 1, 0)),
    "GRAY8": ("L", ()),
    "GRAY16_LE": ("I;16", ()),
    "GRAY16_BE": ("I;16", ()),
}
"""Pillow's mode, and where in a pixel its bands lie."""


def to_pil(frame: Any, array: np.ndarray[Any, Any]) -> Image:
    """`array`, a picture in the format of `frame`, as an image of its own."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingGStreamerError(
            f"Frame.to_pil needs Pillow, which this Python does not have ({error}): pip install pillow"
        ) from error
    try:
        known = MODES.get(frame.format)
        if known is None:
            raise FormatError(
                f"{frame!r}: Pillow has no mode for its format {frame.format}; put «videoconvert ! "
                "video/x-raw,format=RGB» before the sink"
            )
        mode, bands = known
        pixels = array[:, :, bands] if bands else array.astype("<u2" if mode == "I;16" else "u1")
        height, width = pixels.shape[:2]
        return Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    finally:
        array = pixels = None  # type: ignore[assignment]  # a kept traceback must keep no memory
