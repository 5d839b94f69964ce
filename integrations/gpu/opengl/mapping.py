"""Mapped memory of a buffer: views that cannot outlive the mapping.

A mapping is a child of its buffer, and a view holds the mapping. So an array over mapped memory keeps the
buffer mapped, and closing either while it lives is deferred, or refused with its holders' names.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lifecycle import Handle
from lifecycle.integrations.gpu._native import UINT, function, integer
from lifecycle.integrations.gpu.errors import GLError, TransferError
from lifecycle.integrations.gpu.opengl.names import KINDS, check_leased

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain

ACCESS: Final = {"read": 1, "write": 2, "read_write": 3}
_PERSISTENT_COHERENT: Final = 0x40 | 0x80
_BUFFER_SIZE, _BUFFER_MAPPED = 0x8764, 0x88BC
_COPY_WRITE: Final = 0x8F37


class Mapping:
    """A part of a buffer in the host's memory. Made by `Domain.map`; a ``with`` block unmaps it at its end.

    ::

        with domain.map(buffer, 0, 4096) as mapping:
            total = sum(mapping.view)
    """

    __slots__ = ("_address", "_handle", "_readonly", "nbytes", "offset")

    def __init__(self, handle: Handle[int], address: int, offset: int, nbytes: int, readonly: bool) -> None:
        self._handle = handle
        self._address = address
        self._readonly = readonly
        self.offset: int = offset
        self.nbytes: int = nbytes

    @property
    def handle(self) -> Handle[int]:
        """The mapping as an object of the manager, for `holders` and `submission().use`."""
        return self._handle

    @property
    def address(self) -> int:
        """Where the memory begins. It says nothing of how long: hold the mapping, or a view of it."""
        return self._address

    @property
    def view(self) -> memoryview:
        """The memory, without a copy; read-only where it was mapped for reading. Everything made from it
        keeps the buffer mapped. Raises `AccessRefusedError` once the mapping is closed."""
        return self._handle.view(self._address, self.nbytes, self._readonly)

    def close(self) -> bool:
        """Unmap. Raises `HeldError`, naming them, while slices or arrays of the memory live, or a device uses
        it; nothing has changed then. On another thread, or with another context current, the unmapping
        follows at the next drain, and the answer is False."""
        return self._handle.close(held="refuse")

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        if error_type is None:
            self.close()
        else:  # the frames of the exception hold what was made of the view
            self._handle.close()

    def __repr__(self) -> str:
        return f"<Mapping of {self.nbytes} bytes from {self.offset} on: {self._handle.state}>"


def map_buffer(domain: Domain, buffer: Handle[int], offset: int, nbytes: int, access: str) -> Mapping:
    """What `Domain.map` returns."""
    domain.check_here("map()")
    domain.check_handle(buffer, "buffer", "map()")
    if not isinstance(access, str) or access not in ACCESS:
        raise TransferError(f"map(access=) takes one of {', '.join(map(repr, ACCESS))}, not {access!r}")
    return map_with(domain, buffer, offset, nbytes, ACCESS[access], "gl.mapping")


def map_with(
    domain: Domain, buffer: Handle[int], offset: int, nbytes: int, flags: int, type_name: str
) -> Mapping:
    """Map with the flags of OpenGL, and register the mapping as a child of its buffer."""
    with buffer.lease() as name:
        check_leased(KINDS["buffer"], name, buffer, GLError)
        check_range(buffer, offset, nbytes, buffer_parameter(domain, name, _BUFFER_SIZE))
        if buffer_parameter(domain, name, _BUFFER_MAPPED):
            raise GLError(
                f"{buffer!r} is mapped already: a buffer has one mapping at a time; close that first"
            )
        box: list[int | None] = []
        try:
            address = _map(domain, name, offset, nbytes, flags, box)
            if not address:
                raise GLError(
                    f"the driver did not map {nbytes} bytes of {buffer!r} from {offset} on (error "
                    f"0x{function('glGetError')():04x}): its storage does not allow that access"
                )
            handle = domain.manager.register(
                name,
                type_name,
                release=_unmapper(domain, name),
                release_on=domain.shared_queue,
                native=address,
                size=0,
                parent=buffer,
            )
        except BaseException:
            if box and box[0] and not _registered(domain, type_name, box[0]):
                _unmapper(domain, name)(name)
            raise
    domain.mappings.add(handle.id)
    return Mapping(handle, address, offset, nbytes, flags & 2 == 0)


def _registered(domain: Domain, type_name: str, address: int | None) -> bool:
    """Return True if a mapping at that address is the manager's, which then unmaps it."""
    return any(info.type_name == type_name and info.native == address for info in domain.manager.objects())


def check_range(buffer: object, offset: Any, nbytes: Any, size: int) -> None:
    """Raise `TransferError` unless the range is one of the buffer's."""
    for what, value in (("offset", offset), ("nbytes", nbytes)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TransferError(f"{what} takes a whole number of bytes, not {value!r}")
    if offset < 0 or nbytes <= 0 or offset + nbytes > size:
        raise TransferError(
            f"{nbytes} bytes from {offset} on are not within the {size} bytes of {buffer!r}: a range "
            "begins at 0 "
            "or later, has at least one byte, and ends with the buffer"
        )


def buffer_parameter(domain: Domain, name: int, parameter: int) -> int:
    """One number that OpenGL knows of a buffer."""
    value = ctypes.c_int64()
    if domain.facts.direct:
        function("glGetNamedBufferParameteri64v")(name, parameter, ctypes.byref(value))
    else:
        with Bound(name):
            function("glGetBufferParameteri64v")(_COPY_WRITE, parameter, ctypes.byref(value))
    return value.value


class Bound:
    """For drivers that change only what is bound: a buffer at the binding for copies, and what was there
    afterwards."""

    __slots__ = ("_before", "_name")

    def __init__(self, name: int) -> None:
        self._name = name
        self._before = integer(_COPY_WRITE)

    def __enter__(self) -> int:
        function("glBindBuffer")(_COPY_WRITE, self._name)
        return _COPY_WRITE

    def __exit__(self, *_: object) -> None:
        function("glBindBuffer")(_COPY_WRITE, self._before)


def _map(
    domain: Domain, name: int, offset: int, nbytes: int, flags: int, box: list[int | None]
) -> int | None:
    """The address, noted in `box` in the same step."""
    if domain.facts.direct:
        box.extend(map(function("glMapNamedBufferRange"), (name,), (offset,), (nbytes,), (flags,)))
    else:
        with Bound(name) as target:
            box.extend(map(function("glMapBufferRange"), (target,), (offset,), (nbytes,), (flags,)))
    return box[0]


def _unmapper(domain: Domain, name: int) -> Callable[[Any], object]:
    """The release of a mapping."""
    if domain.facts.direct:
        return functools.partial(function("glUnmapNamedBuffer"), UINT(name))

    def unmap(_: Any) -> None:
        with Bound(name) as target:
            function("glUnmapBuffer")(target)

    return unmap


def persistent(access: str) -> int:
    """The flags of a mapping that stays while the device uses the buffer."""
    return ACCESS[access] | _PERSISTENT_COHERENT
