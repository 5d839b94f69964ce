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
    return () if held is None else (held,) if type(held) is Pin else tuple(held)


def together(pins: tuple[Pin, ...]) -> Pin | Pins | None:
    """What `Record.parent` holds for these."""
    return None if not pins else pins[0] if len(pins) == 1 else Pins(pins)


def give_parents(record: Record, ids: tuple[int, ...], pins: Pin | Pins | None) -> None:
    """Have `record`, which the caller holds, keep `pins` from now on, in place of what it keeps. Raises
    `RegistrationError` where one of them is the object itself or a descendant of it; nothing has changed
    then."""
    before: list[Any] = []
    pin = None
    try:
        with _order:  # of two that would make each other a parent the second finds the first
            for pin in pins_of(pins):
                _refuse_descendant(record, pin)
            extra = record.more()
            before.append(record.parent)
            record.parent = pins  # taken before the old ones are let go
            extra.parent_ids = ids
    finally:
        pins = pin = None
        before.clear()  # outside the lock: what is let go here may be released


def _refuse_descendant(record: Record, pin: Pin) -> None:
    waiting = [pin]
    seen: set[int] = set()
    try:
        while waiting:
            pin = waiting.pop()
            above = pin.record
            if above is record:
                raise about(
                    record,
                    RegistrationError(
                        f"{describe(record)} cannot have itself or one of its descendants as a parent: "
                        "neither would ever be released."
                    ),
                )
            if above.id not in seen:
                seen.add(above.id)
                waiting += pins_of(above.parent)
    finally:
        waiting.clear()
        pin = None  # type: ignore[assignment]
