"""Parents: what an object must not outlive, one or several, and giving it others."""

from __future__ import annotations

from typing import Any

from lifecycle._core import runtime
from lifecycle._core.describe import about, describe
from lifecycle._core.record import Pin, Pins, Record
from lifecycle.errors import RegistrationError

_order = runtime.process_lock()


def pins_of(held: Any) -> tuple[Pin, ...]:
    """The pins in `Record.parent`."""
    try:
        return () if held is None else (held,) if type(held) is Pin else tuple(held)
    finally:
        held = None  # K3


def together(pins: tuple[Pin, ...]) -> Pin | Pins | None:
    """What `Record.parent` holds for these."""
    try:
        return None if not pins else pins[0] if len(pins) == 1 else Pins(pins)
    finally:
        pins = ()  # K3


def give_parents(record: Record, ids: tuple[int, ...], pins: Pin | Pins | None) -> None:
    """Have `record`, which the caller holds, keep `pins` from now on, in place of what it keeps. Raises
    `RegistrationError` where one of them is the object itself or a descendant of it; nothing has changed
    then."""
    before: list[Any] = []
    above: list[Pin] = []
    try:
        with _order:  # of two that would make each other a parent the second finds the first
            above += pins_of(pins)
            _refuse_descendant(record, above)
            extra = record.more()
            before.append(record.parent)
            record.parent = pins  # taken before the old ones are let go
            extra.parent_ids = ids
    finally:
        pins = None  # K3
        del above[:]  # no call: an interrupt behind one would leave the other
        del before[:]  # outside the lock: what is let go here may be released


def _refuse_descendant(record: Record, above: list[Pin]) -> None:
    """`above` is emptied; the caller empties it whatever happens here (K3)."""
    seen: set[int] = set()
    while above:
        one = above.pop().record
        if one is record:
            raise about(
                record,
                RegistrationError(
                    f"{describe(record)} cannot have itself or one of its descendants as a parent: "
                    "neither would ever be released."
                ),
            )
        if one.id not in seen:
            seen.add(one.id)
            above += pins_of(one.parent)
