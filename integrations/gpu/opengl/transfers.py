"""Checked copies between arrays and textures.

OpenGL takes a bare address and reads from it as many bytes as its pixel state says: rows are padded to four
bytes unless told otherwise, so a tight array of three bytes a pixel is read beyond its end. And with a buffer
bound for pixels the address is an offset into that buffer.

So lengths are checked before the call, the pixel state is set to what the array is (alignment 1, nothing
skipped, no pixel buffer), and all of it is put back, whatever happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lifecycle import Handle
from lifecycle.integrations.gpu._native import INT, function, integer
from lifecycle.integrations.gpu.errors import TransferError
from lifecycle.integrations.gpu.opengl.names import KINDS, check_leased

if TYPE_CHECKING:
    import numpy as np

    from lifecycle.integrations.gpu.opengl.domain import Domain

_TYPES: Final = {
    "u1": 0x1401,
    "i1": 0x1400,
    "u2": 0x1403,
    "i2": 0x1402,
    "u4": 0x1405,
    "i4": 0x1404,
    "f2": 0x140B,
    "f4": 0x1406,
}
_FORMATS: Final = {1: 0x1903, 2: 0x8227, 3: 0x1907, 4: 0x1908}
_INTEGER_FORMATS: Final = {1: 0x8D94, 2: 0x8228, 3: 0x8D98, 4: 0x8D99}
_WIDTH, _HEIGHT, _RED_TYPE = 0x1000, 0x1001, 0x8C10
_DEPTH_SIZE, _STENCIL_SIZE, _COMPRESSED = 0x884A, 0x88F1, 0x86A1
_TEXTURE_2D, _BINDING_2D = 0x0DE1, 0x8069
_FLAT: Final = ((_TEXTURE_2D, _BINDING_2D), (0x84F5, 0x84F6))
"""Two-dimensional textures and rectangles: where each is bound, and the question for what is bound there."""
_INTEGER_TYPES: Final = (0x1404, 0x1405)

# (parameter, value): alignment, row length, skips, image height, byte order, bit order
_UNPACK: Final = (
    (0x0CF5, 1),
    (0x0CF2, 0),
    (0x0CF3, 0),
    (0x0CF4, 0),
    (0x806E, 0),
    (0x806D, 0),
    (0x0CF0, 0),
    (0x0CF1, 0),
)
_PACK: Final = (
    (0x0D05, 1),
    (0x0D02, 0),
    (0x0D03, 0),
    (0x0D04, 0),
    (0x806C, 0),
    (0x806B, 0),
    (0x0D00, 0),
    (0x0D01, 0),
)
_LARGEST = 0x0D33  # the largest width and height of a texture
_UNPACK_BUFFER, _UNPACK_BINDING = 0x88EC, 0x88EF
_PACK_BUFFER, _PACK_BINDING = 0x88EB, 0x88ED


class _Pixels:
    """The pixel state of one direction, as the array needs it, and as it was afterwards."""

    __slots__ = ("_before", "_bound", "_buffer", "_values")

    def __init__(
        self, values: tuple[tuple[int, int], ...], buffer: int, binding: int, row_length: int
    ) -> None:
        self._before = [(name, integer(name)) for name, _ in values]
        self._bound = integer(binding)
        self._buffer = buffer
        self._values = [(name, row_length if at == 1 else value) for at, (name, value) in enumerate(values)]

    def __enter__(self) -> None:
        store = function("glPixelStorei")
        function("glBindBuffer")(self._buffer, 0)
        for name, value in self._values:
            store(name, value)

    def __exit__(self, *_: object) -> None:
        store = function("glPixelStorei")
        try:
            for name, value in self._before:
                store(name, value)
        finally:
            function("glBindBuffer")(self._buffer, self._bound)


def upload(domain: Domain, texture: Handle[int], array: Any, offset: tuple[int, int], level: int) -> None:
    """What `Domain.upload` does. `array` is ``(height, width)`` or ``(height, width, channels)``, of 1 to 4
    channels of 8, 16 or 32 bits. A crop of a larger array is read where it lies; what is strided otherwise is
    copied first."""
    domain.check_here("upload()")
    domain.check_handle(texture, "texture", "upload()")
    import numpy as np

    try:
        array = np.asarray(array)
    except ValueError as error:  # rows of different lengths
        raise TransferError(f"upload() takes an array, and this makes none: {error}") from error
    kind = _kind_of(array.dtype)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in _FORMATS or 0 in array.shape:
        raise TransferError(
            f"upload() takes an array of (height, width) or (height, width, channels) with 1 to 4 channels, "
            f"not of {array.shape}"
        )
    height, width, channels = array.shape
    item = array.itemsize
    row = array.strides[0]
    if (
        array.strides[2] != item
        or array.strides[1] != item * channels
        or row < width * channels * item
        or row % (item * channels)
    ):
        array = np.ascontiguousarray(array)
        row = array.strides[0]
    x, y = _whole("offset", offset, 2)
    with texture.lease() as name:
        wide, high, integral = _shape_of(domain, texture, name, level)
        if (width, height) != (wide, high) and _level(domain, name, level, _COMPRESSED):
            raise TransferError(
                f"level {level} of {texture!r} is compressed: OpenGL takes a whole level of {wide} × {high} "
                "there, and no part of one"
            )
        if x + width > wide or y + height > high:
            raise TransferError(
                f"an array of {width} × {height} at ({x}, {y}) does not fit into level {level} of "
                f"{texture!r}, "
                f"which is {wide} × {high}"
            )
        wanted = _format(channels, kind, integral, texture)
        with _Pixels(_UNPACK, _UNPACK_BUFFER, _UNPACK_BINDING, row // (item * channels)):
            address = array.__array_interface__["data"][0]
            if domain.facts.direct:
                function("glTextureSubImage2D")(
                    name, level, x, y, width, height, wanted, _TYPES[kind], address
                )
            else:
                with _Bound(_TEXTURE_2D, _BINDING_2D, name):
                    function("glTexSubImage2D")(
                        _TEXTURE_2D, level, x, y, width, height, wanted, _TYPES[kind], address
                    )


def read_back(
    domain: Domain, texture: Handle[int], dtype: Any, channels: int, level: int
) -> np.ndarray[Any, Any]:
    """What `Domain.read_back` does."""
    domain.check_here("read_back()")
    domain.check_handle(texture, "texture", "read_back()")
    import numpy as np

    try:
        kind = _kind_of(np.dtype(dtype))
    except TypeError as error:
        raise TransferError(f"read_back(dtype=) takes a type of NumPy, not {dtype!r}") from error
    if isinstance(channels, bool) or not isinstance(channels, int) or channels not in _FORMATS:
        raise TransferError(f"read_back(channels=) takes 1 to 4, not {channels!r}")
    with texture.lease() as name:
        wide, high, integral = _shape_of(domain, texture, name, level)
        wanted = _format(channels, kind, integral, texture)
        array = np.empty((high, wide, channels), kind)
        address = array.__array_interface__["data"][0]
        with _Pixels(_PACK, _PACK_BUFFER, _PACK_BINDING, 0):
            if domain.facts.direct:
                function("glGetTextureImage")(name, level, wanted, _TYPES[kind], array.nbytes, address)
            else:
                with _Bound(_TEXTURE_2D, _BINDING_2D, name):
                    function("glGetTexImage")(_TEXTURE_2D, level, wanted, _TYPES[kind], address)
    return array


def bytes_needed(
    width: int,
    height: int,
    depth: int,
    pixel: int,
    element: int,
    *,
    alignment: int = 4,
    row_length: int = 0,
    image_height: int = 0,
    skip: tuple[int, int, int] = (0, 0, 0),
) -> int:
    """How many bytes OpenGL reads, or writes, for so many pixels of `pixel` bytes whose elements have
    `element` bytes. `skip` is in pixels, rows and images. The last row is not padded."""
    if min(width, height, depth) == 0:
        return 0
    row = (row_length or width) * pixel
    if element < alignment:
        row = -(-row // alignment) * alignment
    image = row * (image_height or height)
    skipped = skip[0] * pixel + skip[1] * row + skip[2] * image
    return skipped + (depth - 1) * image + (height - 1) * row + width * pixel


def _kind_of(dtype: Any) -> str:
    kind = f"{dtype.kind}{dtype.itemsize}"
    if kind not in _TYPES or not dtype.isnative:
        raise TransferError(
            f"OpenGL takes no elements of {dtype}: convert the array to one of {', '.join(_TYPES)} in native "
            "byte order"
        )
    return kind


def _whole(what: str, values: Any, count: int) -> list[int]:
    try:
        values = list(values)
    except TypeError:
        values = [values]
    whole: list[int] = values
    if len(values) != count or any(
        isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in values
    ):
        raise TransferError(f"{what}= takes {count} whole numbers, 0 or more, not {values!r}")
    return whole


def _format(channels: int, kind: str, integral: bool, texture: Handle[int]) -> int:
    if integral and kind[0] == "f":
        raise TransferError(f"{texture!r} holds whole numbers, and OpenGL does not convert {kind} to those")
    return (_INTEGER_FORMATS if integral else _FORMATS)[channels]


def _shape_of(domain: Domain, texture: Handle[int], name: int, level: int) -> tuple[int, int, bool]:
    """Width, height, and whether its elements are whole numbers, of one level of a texture. Refuses what
    OpenGL would not copy: it says so by its error flag alone, and an array would stay as it was made."""
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        raise TransferError(f"level= takes a whole number, 0 or more, not {level!r}")
    if level >= integer(_LARGEST).bit_length():
        raise TransferError(f"level {level}: no texture has so many here, not even the largest")
    check_leased(KINDS["texture"], name, texture, TransferError)
    if not _is_flat(domain, name):
        raise TransferError(
            f"texture {name} is not two-dimensional (it is an array, a cube map, multisampled, or of one or "
            "three dimensions): copy its parts with OpenGL"
        )
    wide, high = _level(domain, name, level, _WIDTH), _level(domain, name, level, _HEIGHT)
    if not wide or not high:
        raise TransferError(f"texture {name} has no level {level}, or no storage yet")
    if _level(domain, name, level, _DEPTH_SIZE) or _level(domain, name, level, _STENCIL_SIZE):
        raise TransferError(f"texture {name} holds depth or stencil, and only colours are copied")
    return wide, high, _level(domain, name, level, _RED_TYPE) in _INTEGER_TYPES


def _is_flat(domain: Domain, name: int) -> bool:
    """Return True if a texture is of a kind that the copies here are for. A driver binds a texture only to
    the kind that it is of; not every one answers a question for it."""
    # What has to be bound for its copy is bound as the first.
    for target, binding in _FLAT if domain.facts.direct else _FLAT[:1]:
        with _Bound(target, binding, name):
            if integer(binding) == name:
                return True
            # It has refused, and has set its error flag.
            function("glGetError")()
    return False


def _level(domain: Domain, name: int, level: int, parameter: int) -> int:
    """One number that OpenGL knows of a level of a texture."""
    value = (INT * 1)()
    if domain.facts.direct:
        function("glGetTextureLevelParameteriv")(name, level, parameter, value)
    else:
        with _Bound(_TEXTURE_2D, _BINDING_2D, name):
            function("glGetTexLevelParameteriv")(_TEXTURE_2D, level, parameter, value)
    return value[0]


class _Bound:
    """A texture bound for a block, and what was bound before behind it."""

    __slots__ = ("_before", "_name", "_target")

    def __init__(self, target: int, binding: int, name: int) -> None:
        self._target = target
        self._before = integer(binding)
        self._name = name

    def __enter__(self) -> None:
        function("glBindTexture")(self._target, self._name)

    def __exit__(self, *_: object) -> None:
        function("glBindTexture")(self._target, self._before)
