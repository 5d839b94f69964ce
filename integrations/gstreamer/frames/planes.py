"""Planes: the parts of a picture (or of a piece of sound) that are one ndarray each.

GStreamer describes a format by components (depth, shift, pixel stride, subsampling) that lie in planes
(offset, stride). Its description decides, not a list of names, so a format that is new to us works. What
comes of it, for W × H pixels (a chroma plane has half of them, rounded up, as the format's subsampling says):

=====================================  ======================================================================
format                                 planes, in the order in which they lie in memory
=====================================  ======================================================================
RGB, BGR, RGBA, BGRx, ARGB, … v308     (H, W, bytes per pixel), one plane
GRAY8, GRAY16_LE, GRAY16_BE            (H, W), one plane
I420, Y42B, Y444, GBR, A420, …         (H, W) and a chroma plane for each further component
YV12                                   (H, W), V, U
NV12, NV16, P010_10LE, …               (H, W), then (H/2, W/2, 2) with U and V side by side
NV21, NV61                             the same, with V and U
YUY2, UYVY, Y210, …                    (H, W rounded up to 2, 2), one plane: luma and chroma side by side
=====================================  ======================================================================

The dtype is uint8, or uint16 for depths above 8 in the format's byte order. Values keep their place in it:
those of P010_10LE are left-aligned (``>> 6`` gives ten bits), those of I420_10LE are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from lifecycle.integrations.gstreamer._native import np

__all__ = ["Plane", "image_of", "planes_of", "why_no_image", "why_no_planes"]

PALETTE: Final = 1 << 5
COMPLEX: Final = 1 << 6
TILED: Final = 1 << 8
LITTLE_ENDIAN: Final = 1 << 4
NATIVE_ORDER: Final = frozenset({"ARGB64", "AYUV64"})
"""Formats in the machine's own byte order, whatever their flags say."""

CONVERT: Final = (
    "use frame.data() for its bytes, or put «videoconvert ! video/x-raw,format=RGB» before the sink"
)

_frombuffer: Any = np.frombuffer


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
        """The array over `view`, zero-copy, and read-only if the view is. Raises `ValueError` or `TypeError`
        when the view is too short.

        By way of `frombuffer`, whose arrays stay read-only: one that `ndarray` makes of the view directly
        could be made writeable, and writing through a mapping made for reading is a SIGSEGV.
        """
        array: np.ndarray[Any, Any]
        try:
            if self.count:
                array = _frombuffer(view, self.dtype, self.count, self.offset)
                return array.reshape(self.shape)
            array = np.ndarray(self.shape, self.dtype, _frombuffer(view, np.uint8), self.offset, self.strides)
            return array
        finally:
            view = array = None  # type: ignore[assignment]  # a kept traceback must keep no memory

    @property
    def start(self) -> int:
        """The first byte of the plane: before its offset where rows go backwards."""
        return self.offset + sum(
            min(0, (count - 1) * step) for count, step in zip(self.shape, self.strides, strict=True)
        )

    @property
    def end(self) -> int:
        """The first byte after the last element: how long the buffer must be."""
        last = sum(max(0, (count - 1) * step) for count, step in zip(self.shape, self.strides, strict=True))
        return self.offset + last + self.dtype.itemsize

    @property
    def row(self) -> int:
        """Bytes in a row, without what pads it."""
        return self.strides[1] * self.shape[1] if len(self.shape) > 1 else self.dtype.itemsize * self.shape[0]


def why_no_planes(info: Any) -> str:
    """Why the planes of this `GstVideo.VideoInfo` are no ndarrays, or an empty string when they are."""
    finfo = info.finfo
    flags = int(finfo.flags)
    for flag, kind in (
        (PALETTE, "has a palette"),
        (TILED, "is tiled"),
        (COMPLEX, "packs its pixels in its own way"),
    ):
        if flags & flag:
            return f"the format {kind}, which an ndarray cannot express; {CONVERT}"
    for members in _members(finfo):
        steps = [int(finfo.pixel_stride[i]) for i in members]
        if not all(steps) or any(max(steps) % step for step in steps):
            return f"its components do not lie at equal steps, which an ndarray cannot express; {CONVERT}"
        wide = {_container(finfo, i) for i in members}
        taken = sum(max(steps) // step for step in steps)
        if len(wide) != 1 or wide - {1, 2} or max(steps) < taken * max(wide):
            depths = "/".join(str(finfo.depth[i]) for i in range(finfo.n_components))
            return f"its components are not whole bytes ({depths} bits); {CONVERT}"
    return ""


def why_no_image(info: Any) -> str:
    """Why the format is no single array of height × width × channels, or an empty string when it is one."""
    problem = why_no_planes(info)
    if problem:
        return problem
    finfo = info.finfo
    used = range(finfo.n_components)
    advice = f"use frame.planes() for its planes, {CONVERT}"
    if any(finfo.w_sub[i] or finfo.h_sub[i] for i in used):
        return f"its colour is subsampled, so it is not one array of height × width × channels; {advice}"
    if finfo.n_planes != 1:
        return f"its {finfo.n_planes} planes are not one array of height × width × channels; {advice}"
    return ""


def planes_of(
    info: Any, width: int, height: int, offsets: Sequence[int], strides: Sequence[int]
) -> tuple[Plane, ...]:
    """The planes of a picture of `width` × `height` in the format of `info`, which `why_no_planes` has
    nothing against."""
    finfo = info.finfo
    order = _byte_order(finfo)
    planes = []
    for plane, members in enumerate(_members(finfo)):
        steps = [int(finfo.pixel_stride[i]) for i in members]
        item = _container(finfo, members[0])
        dtype = np.dtype(f"{order}u{item}" if item > 1 else "u1")
        step = min(steps)
        # Where luma and chroma lie side by side the last, odd pixel has its chroma to itself.
        group = max(steps) // step
        columns = -(-_subsampled(width, min(int(finfo.w_sub[i]) for i in members)) // group) * group
        rows = _subsampled(height, int(finfo.h_sub[members[0]]))
        stride = int(strides[plane])
        if step == item:
            planes.append(Plane((rows, columns), dtype, int(offsets[plane]), (stride, step)))
        else:
            shape = (rows, columns, step // item)
            planes.append(Plane(shape, dtype, int(offsets[plane]), (stride, step, item)))
    return tuple(planes)


def image_of(planes: tuple[Plane, ...], problem: str) -> Plane | None:
    """The plane that is the whole picture, if there is one."""
    return planes[0] if planes and not problem else None


def _members(finfo: Any) -> list[list[int]]:
    """The components that lie in each plane."""
    return [
        [i for i in range(finfo.n_components) if finfo.plane[i] == plane] for plane in range(finfo.n_planes)
    ]


def _container(finfo: Any, component: int) -> int:
    """Bytes of one value of a component."""
    return (int(finfo.depth[component]) + int(finfo.shift[component]) + 7) // 8


def _subsampled(size: int, shift: int) -> int:
    return -(-size >> shift)


def _byte_order(finfo: Any) -> str:
    name = str(finfo.name)
    if name in NATIVE_ORDER:
        return "="
    return ">" if name.endswith("BE") and not int(finfo.flags) & LITTLE_ENDIAN else "<"
