"""Loans: frames that are being written, in the memory in which others will read them."""

from __future__ import annotations

import ctypes
from typing import Any

from lifecycle import Handle
from lifecycle.integrations.across.header import SIZE, Form, array_over, pack_into
from lifecycle.lowlevel import Uncopied, pin

__all__ = ["Lent", "Loan", "write_header"]

_header_at = (ctypes.c_char * SIZE).from_address


def write_header(address: int, form: Form, seq: int, epoch: int, published_ns: int, key: bool) -> None:
    """Write what stands in front of a frame."""
    pack_into(_header_at(address), form, seq, epoch, published_ns, key)


class Lent:
    """What `Publisher.copy` fills: nobody else has it, so it is no object of the manager's. Dropped, the
    engine has it back."""

    __slots__ = ("__weakref__", "raw")

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def fill(self, source: Any, form: Form) -> None:
        """Copy `source` into it."""
        if form.nbytes:
            memory = (ctypes.c_char * form.nbytes).from_address(self.raw.payload_ptr)
            array_over(memoryview(memory).cast("B"), form.shape, form.dtype)[...] = source


class Loan(Uncopied):
    """A frame that is being written; made by `Publisher.loan`. A context manager that gives it back at the
    end of its block unless `Publisher.publish` has sent it. Closed or dropped, it was never published."""

    _remedy = "ask for another loan"

    __slots__ = ("__weakref__", "_address", "_form", "_handle", "_header", "_owner")

    def __init__(self, handle: Handle[Any], form: Form, address: int, header: int, owner: object) -> None:
        self._handle = handle
        self._form = form
        self._address = address
        self._header = header
        self._owner = owner

    def array(self) -> Any:
        """The frame as a NumPy array to be written, in place. While it, or a slice of it, lives, the frame
        cannot be published. What it holds at first is not defined. Raises `AccessRefusedError` once the loan
        was published or closed."""
        form = self._form
        return array_over(self.data(), form.shape, form.dtype)

    def data(self) -> memoryview:
        """The frame's bytes, to be written, as `array`."""
        return self._handle.view(self._address, self._form.nbytes, readonly=False)

    def close(self) -> bool:
        """Give it back unpublished. Arrays made before stay valid, and the memory goes back after the last of
        them. Closing again, or after it was published, changes nothing."""
        return self._handle.close(timeout=0)

    @property
    def handle(self) -> Handle[Any]:
        """The handle behind it."""
        return self._handle

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its array."""
        return self._form.shape

    @property
    def dtype(self) -> Any:
        """The NumPy type of its elements."""
        return self._form.dtype

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self._form.nbytes

    def _write_header(self, seq: int, epoch: int, published_ns: int, key: bool) -> None:
        """Write what stands in front of the frame. Raises `AccessRefusedError` once it is closed."""
        held = pin(self._handle)
        try:
            write_header(self._header, self._form, seq, epoch, published_ns, key)
        finally:
            held = None  # type: ignore[assignment]  # noqa: F841 - K3

    def __enter__(self) -> Loan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Loan: {self.shape} of {self.dtype}, {self._handle!r}>"
