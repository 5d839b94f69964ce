"""Who holds an object: by count, which is exact, and by name, as far as names can be had."""

from __future__ import annotations

import ctypes
import gc
import sys

from lifecycle.cell import Cell, Core, Pin, Record, describe
from lifecycle.errors import HeldError
from lifecycle.leases import Lease

getrefcount = sys.getrefcount


def lease_of_thread(pin: Pin, ident: int) -> bool:
    """Whether a lease or an access block of thread `ident` holds `pin`. Looks through the whole heap."""
    try:
        return any(getattr(referrer, "_thread", None) == ident for referrer in gc.get_referrers(pin))
    finally:
        pin = None  # type: ignore[assignment]


def holders_of(pin: Pin) -> tuple[str, ...]:
    """Who refers to `pin`, in words. Looks through the whole heap: for errors and reports."""
    found: list[str] = []
    try:
        for referrer in gc.get_referrers(pin):
            if isinstance(referrer, Lease):
                found.append("a lease")
            elif isinstance(referrer, Record):
                found.append(f"its child {describe(referrer)}")
            elif isinstance(referrer, ctypes.Array) or (
                isinstance(referrer, dict) and referrer.get("pin") is pin
            ):  # from 3.13 on the array itself, before that its dict
                found.append("a view")
            elif not isinstance(referrer, (Cell, Core)) and not hasattr(referrer, "f_code"):
                found.append(f"a {type(referrer).__name__}")
    finally:
        pin = referrer = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
    return tuple(found)


def held_error(record: Record, holders: tuple[str, ...]) -> HeldError:
    """What a refused close, transfer or exclusive access raises."""
    return HeldError(
        f"{describe(record)} is still held by {', '.join(holders) or 'a holder that cannot be named'}; it stays open: end those "
        'first, or close(held="defer")',
        holders,
    )


def count_of_sole_pin() -> int:
    """What `getrefcount` says of a pin that only its cell and the asking frame hold: differs between Python versions."""
    cell = Cell()
    cell.pin = Pin()
    pin = cell.pin
    return getrefcount(pin)


SOLE_REFERENCES = count_of_sole_pin()
"""What `getrefcount(pin)` is, asked by a frame with the pin in one local variable, when nobody but its cell holds it."""
