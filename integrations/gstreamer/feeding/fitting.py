"""What fits: whether an array is the picture that the caps describe, or would be another one without an
error.

Only shape and dtype decide. How an array lies in memory does not matter here: what lies otherwise can be
copied into place.
"""

from __future__ import annotations

from typing import Any, NoReturn

from lifecycle.integrations.gstreamer._native import np
from lifecycle.integrations.gstreamer.errors import FeederError, FormatError
from lifecycle.integrations.gstreamer.frames.formats import Layout

__all__ = ["fitting", "fitting_planes"]

Array = np.ndarray[Any, Any]


def fitting(feeder: str, layout: Layout | None, what: Any) -> Array:
    """`what`, bytes or anything that NumPy shows as an array, as an array that `layout` can be filled with.

    Raises `FormatError` for what would be another picture, `FeederError` where no caps say what it would be.
    """
    layout = _known(feeder, layout, what)
    array = _array_of(feeder, what)
    if array.dtype.kind not in "uif" or isinstance(array, np.ma.MaskedArray):
        _refuse(feeder, layout, f"a {type(array).__name__} of {array.dtype}")
    flat = array.ndim == 1 and array.dtype == np.uint8
    if flat and array.size and array.size == (layout.size or array.size):
        if layout.sound is not None and layout.sound.dtype is not None:
            step = layout.sound.dtype.itemsize * layout.sound.channels
            if array.size % step or not layout.sound.interleaved:
                _refuse(feeder, layout, f"{array.size} bytes")
        return array
    if not _is(layout, array):
        _refuse(feeder, layout, _shown(array))
    return array


def _is(layout: Layout, array: Array) -> bool:
    """Return True if the array is the picture (or sound) by shape and dtype."""
    sound, image = layout.sound, layout.image
    if sound is not None:
        shaped = sound.interleaved and array.ndim == 2 and array.size > 0
        return bool(shaped and array.shape[1] == sound.channels and array.dtype == sound.dtype)
    if image is not None:
        return bool(array.shape == image.shape and array.dtype == image.dtype)
    # The planes below each other, as OpenCV has them, where GStreamer pads nothing.
    stacked = len(layout.planes) > 1 and array.ndim == 2 and array.dtype == np.uint8
    return bool(stacked and array.shape[1] == layout.width and array.size == layout.size)


def fitting_planes(feeder: str, layout: Layout | None, what: Any) -> tuple[Array, ...]:
    """`what` as one array for each plane of `layout`. Raises as `fitting` does, and for a layout without
    planes."""
    layout = _known(feeder, layout, what)
    planes = layout.all_planes()
    arrays = tuple(_array_of(feeder, one) for one in what)
    if layout.sound is not None or [(one.shape, one.dtype) for one in arrays] != [
        (plane.shape, plane.dtype) for plane in planes
    ]:
        _refuse(feeder, layout, "planes of " + (", ".join(map(_shown, arrays)) or "nothing"))
    return arrays


def _known(feeder: str, layout: Layout | None, what: Any) -> Layout:
    if layout is None:
        raise FeederError(
            f"feeder {feeder!r} has no caps, so it cannot tell the format of this {type(what).__name__}; "
            "give caps= when you make the feeder"
        )
    return layout


def _array_of(feeder: str, what: Any) -> Array:
    if isinstance(what, np.ndarray):
        return what
    if isinstance(what, (bytes, bytearray, memoryview)):
        if isinstance(what, memoryview) and not what.c_contiguous:
            raise FormatError(
                f"feeder {feeder!r}: bytes are pushed from memory without gaps; give bytes(view) instead"
            )
        return np.frombuffer(what, np.uint8)
    try:
        return np.asarray(what)
    except Exception as error:
        raise FormatError(
            f"feeder {feeder!r}: {type(what).__name__} is no array ({type(error).__name__}: {error})"
        ) from None


def _refuse(feeder: str, layout: Layout, given: str) -> NoReturn:
    raise FormatError(
        f"feeder {feeder!r} feeds {layout}: it takes {_wanted(layout)}, not {given}, which would be another "
        "picture or sound"
    )


def _wanted(layout: Layout) -> str:
    sound = layout.sound
    if sound is not None:
        if not sound.interleaved:
            return "sound from frames or buffers only (layout=interleaved takes arrays)"
        return f"an array of (frames, {sound.channels}) {sound.dtype}, or its bytes"
    if layout.image is not None:
        return f"an array of {layout.image.shape} {layout.image.dtype}, or {layout.size} bytes"
    if layout.planes:
        planes = ", ".join(f"{plane.shape} {plane.dtype}" for plane in layout.planes)
        return f"planes of {planes}, or {layout.size} bytes"
    return f"{layout.size} bytes" if layout.size else "bytes"


def _shown(array: Array) -> str:
    return f"{array.shape} {array.dtype}"
