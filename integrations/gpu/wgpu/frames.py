"""Pictures in textures of wgpu: owned by shares, never by a flag.

::

    with VideoFrame.upload(device, frame) as picture:         # a frame of GStreamer, or an array
        texture = picture.data()                              # a share: whoever draws closes it
        with timeline(device).submission() as work:
            draw(work.use(texture))
        texture.close()

wgpu takes no memory of others in: a frame of GStreamer gets there by one explicit upload, from the memory in
which GStreamer has it. Rows that are padded are copied once before.
"""

from __future__ import annotations

from typing import Any, Final

from wgpu import classes, flags

from lifecycle import Handle, SafetyManager
from lifecycle.integrations.gpu.errors import DeviceError, TransferError
from lifecycle.integrations.gpu.wgpu.guard import state_of
from lifecycle.integrations.gpu.wgpu.owning import own
from lifecycle.lowlevel import Uncopied

# GStreamer's name of a format: wgpu's, and bytes of a pixel.
_FORMATS: Final = {
    "RGBA": ("rgba8unorm", 4),
    "RGBx": ("rgba8unorm", 4),
    "BGRA": ("bgra8unorm", 4),
    "BGRx": ("bgra8unorm", 4),
    "GRAY8": ("r8unorm", 1),
}
_PIXELS: Final = {"rgba8unorm": 4, "bgra8unorm": 4, "r8unorm": 1, "rg8unorm": 2}
_USAGE: Final = flags.TextureUsage.TEXTURE_BINDING | flags.TextureUsage.COPY_DST | flags.TextureUsage.COPY_SRC


class VideoFrame(Uncopied):
    """One picture in a texture. Made by `create_texture` or `upload`; a ``with`` block closes it.

    It holds one share of the texture. `data` gives others, which live on by themselves: the texture is
    destroyed once all are closed and no submission uses it.
    """

    _remedy = "take a share with data(), or another frame with clone_with_texture()"

    __slots__ = ("__weakref__", "_device", "_handle", "format", "height", "pts", "width")

    def __init__(self, device: Any, handle: Handle[Any], *, pts: int | None = None) -> None:
        with handle.lease() as texture:
            if not isinstance(texture, classes.GPUTexture):
                raise DeviceError(f"VideoFrame takes the handle of a texture of wgpu, not {handle!r}")
            if texture._device is not device:
                raise DeviceError(
                    f"VideoFrame: {handle!r} belongs to another device than the frame is to be of"
                )
            self.width: int = texture.size[0]
            self.height: int = texture.size[1]
            self.format: str = texture.format
        self.pts: int | None = pts
        """Presentation time in nanoseconds, None when it has none."""
        self._device = device
        self._handle = handle

    @classmethod
    def create_texture(
        cls,
        device: Any,
        width: int,
        height: int,
        format: str = "rgba8unorm",  # noqa: A002 - wgpu's own word
        *,
        usage: int = 0,
        label: str = "",
        pts: int | None = None,
        manager: SafetyManager | None = None,
        parent: Any = None,
    ) -> VideoFrame:
        """A new texture on a guarded device, that can be bound, copied to and copied from; `usage` adds to
        that. Raises `DeviceError` for a device that is not guarded, and `TransferError` for sizes that are
        none."""
        state_of(device).check("create_texture()")
        for what, value in (("width", width), ("height", height)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TransferError(f"create_texture({what}=) takes a whole number above 0, not {value!r}")
            if value > (most := device.limits["max-texture-dimension-2d"]):
                raise TransferError(f"create_texture({what}={value}): this device makes at most {most}")
        size = (width, height, 1)
        texture = device.create_texture(label=label, size=size, format=format, usage=_USAGE | usage)
        nbytes = width * height * _PIXELS.get(format, 0)
        return cls(device, own(texture, size=nbytes, parent=parent, manager=manager), pts=pts)

    @classmethod
    def upload(
        cls, device: Any, frame: Any, *, usage: int = 0, manager: SafetyManager | None = None
    ) -> VideoFrame:
        """A frame of GStreamer (RGBA, RGBx, BGRA, BGRx, GRAY8), or an array of ``(height, width, 4)`` or
        ``(height, width)`` bytes, copied into a new texture. Raises `TransferError` for any other."""
        array, wanted = _array_of(frame)
        pts = getattr(frame, "pts", None)
        height, width = array.shape[:2]
        made = cls.create_texture(device, width, height, wanted, usage=usage, pts=pts, manager=manager)
        try:
            made.write(array)
        except BaseException:
            made.close()
            raise
        return made

    def write(self, array: Any) -> None:
        """Copy an array of its size into its texture. Raises `TransferError` for one that does not fit."""
        array, wanted = _array_of(array)
        if array.shape[:2] != (self.height, self.width) or _PIXELS.get(self.format) != _PIXELS[wanted]:
            raise TransferError(
                f"an array of {array.shape} does not fit {self!r}: it takes {self.height} rows of "
                f"{self.width} pixels of {_PIXELS.get(self.format, 'an unknown number of')} byte(s)"
            )
        with self._handle.lease() as texture:
            self._device.queue.write_texture(
                {"texture": texture},
                array,
                {"bytes_per_row": self.width * _PIXELS[wanted], "rows_per_image": self.height},
                (self.width, self.height, 1),
            )

    def data(self) -> Handle[Any]:
        """A share of the texture, to be closed by whoever takes it. Raises `AccessRefusedError` once the
        frame is closed."""
        return self._handle.share()

    def clone_with_texture(self, texture: Any, *, manager: SafetyManager | None = None) -> VideoFrame:
        """A frame of the same time with another texture, such as one that was drawn from this: a handle, of
        which it takes a share, or a texture, which it owns from then on. This frame's texture is not
        destroyed before that one."""
        if callable(getattr(texture, "share", None)):
            return VideoFrame(self._device, texture.share(), pts=self.pts)
        owned = own(texture, parent=self._handle, manager=manager)
        try:
            return VideoFrame(self._device, owned, pts=self.pts)
        except BaseException:
            owned.detach()  # it stays the caller's
            raise

    @property
    def handle(self) -> Handle[Any]:
        """Its own share, for ``use`` of a submission and `holders`."""
        return self._handle

    def close(self) -> bool:
        """Give its share back; True when the texture was destroyed by that. Twice is once."""
        return self._handle.close()

    def __enter__(self) -> VideoFrame:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VideoFrame {self.width} × {self.height} {self.format}: {self._handle.state}>"


def _array_of(frame: Any) -> tuple[Any, str]:
    """Its pixels without a gap, and wgpu's name of their format."""
    import numpy as np

    name = getattr(frame, "format", None)
    if callable(getattr(frame, "array", None)):
        if name not in _FORMATS:
            raise TransferError(
                f"wgpu has no format like {name!r}: have GStreamer convert it (videoconvert) to one of "
                f"{', '.join(_FORMATS)}"
            )
        return np.ascontiguousarray(frame.array()), _FORMATS[name][0]
    try:
        array = np.asarray(frame)
    except ValueError as error:  # rows of different lengths
        raise TransferError(f"a frame is an array, and this makes none: {error}") from error
    if (
        array.dtype != np.uint8
        or 0 in array.shape
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 4))
    ):
        raise TransferError(
            "a frame is one of GStreamer, or an array of (height, width, 4) or (height, width) bytes, not "
            f"{frame!r}"[:200]
        )
    return np.ascontiguousarray(array), "rgba8unorm" if array.ndim == 3 else "r8unorm"
