"""Types of elements, as NumPy writes them and as DLPack does."""

from __future__ import annotations

import sys
from typing import Any, Final

from lifecycle.errors import shown
from lifecycle.integrations.dlpack.errors import DLPackError

_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_CODES: Final = {"i": _INT, "u": _UINT, "f": _FLOAT, "c": _COMPLEX, "b": _BOOL}
_SIZES: Final = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "b": (1,)}
_ORDER: Final = "<" if sys.byteorder == "little" else ">"
BFLOAT16: Final = "bfloat16"
"""The one type here that NumPy has no letters for."""


def normal(dtype: Any) -> str:
    """`dtype` as ``<f4``, ``|u1`` or ``bfloat16``. Takes what NumPy takes as short text, and objects of
    ``dtype`` of NumPy and ml_dtypes. Raises `DLPackError` for what DLPack does not have."""
    # An array in its place compares element by element.
    if getattr(dtype, "name", None) == BFLOAT16 or (dtype == BFLOAT16) is True:
        return BFLOAT16
    text = getattr(dtype, "str", dtype)
    if type(text) is str:
        order, letters = (text[0], text[1:]) if text[:1] in "<>=|" and text else ("=", text)
        letters = {"?": "b1", "bool": "b1"}.get(letters, letters)
        if letters[:1] in _SIZES and letters[1:] in map(str, _SIZES[letters[:1]]):
            if int(letters[1:]) == 1:
                return f"|{letters}"
            if order in "=|" or order == _ORDER:
                return f"{_ORDER}{letters}"
            raise DLPackError(f"DLPack has no foreign byte order: convert {text!r} first")
    raise DLPackError(
        f"DLPack has no type {shown(dtype)}: it takes the numbers of NumPy of 1 to 16 bytes, as '<f4' or "
        "'u1', and 'bfloat16'"
    )


def itemsize_of(dtype: str) -> int:
    """Bytes of one element of a `normal` type."""
    return 2 if dtype == BFLOAT16 else int(dtype[2:])


def check_size(shape: tuple[int, ...], itemsize: int) -> None:
    """Raise `DLPackError` for more elements than memory has addresses. An extent of 0 counts as 1, as NumPy
    counts it: strides are made of the others."""
    nbytes = itemsize
    for extent in shape:
        nbytes *= max(1, extent)
    if nbytes >= 1 << 63:
        raise DLPackError(
            f"a tensor of shape {shape} and {itemsize} byte(s) an element is too big for an address space: "
            "no library takes it"
        )


def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides, in bytes, of memory whose last dimension runs fastest, without gaps."""
    strides = []
    step = itemsize
    for extent in reversed(shape):
        strides.append(step)
        step *= max(1, extent)
    return tuple(reversed(strides))


def to_dlpack(dtype: str) -> tuple[int, int]:
    """``(code, bits)`` of a `normal` type."""
    return (_BFLOAT, 16) if dtype == BFLOAT16 else (_CODES[dtype[1]], 8 * int(dtype[2:]))


def from_dlpack(code: int, bits: int, lanes: int) -> str:
    """The `normal` type. Raises `DLPackError` for one that is none."""
    if lanes == 1 and bits % 8 == 0:
        if (code, bits) == (_BFLOAT, 16):
            return BFLOAT16
        for letter, number in _CODES.items():
            if number == code and bits // 8 in _SIZES[letter]:
                return normal(f"{letter}{bits // 8}")
    raise DLPackError(
        f"a tensor of type (code {code}, {bits} bits, {lanes} lane(s)) cannot be taken: only whole numbers, "
        "floats, complex numbers and booleans of 1 to 16 bytes, and bfloat16, one lane each"
    )
