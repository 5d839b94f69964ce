"""Refusing: what is asked before an access, and what an access through a shut door is told."""

from __future__ import annotations

from typing import Any, NoReturn

from lifecycle._core.checks import is_control_flow, refuses
from lifecycle._core.describe import state_of
from lifecycle._core.doors import cell_of, is_open
from lifecycle._core.record import Cell, Pin, Record, raw_pin, shut
from lifecycle._core.sentences import refusal
from lifecycle._core.tables import HIGH_WATER
from lifecycle.states import CLOSING, ENDED, VALID, Cause


def refuse(record: Record, share: object = None) -> NoReturn:
    """Count and raise the refusal of an access, through the handle `share` or by id."""
    __tracebackhide__ = True
    try:
        registry = record.kind.registry
        state = state_of(record)
        error = refusal(record, share)
        if state is not VALID or share is None:
            registry.events.append(("refused", record.kind, state if state is not VALID else CLOSING))
            if len(registry.events) > HIGH_WATER:
                registry.relieve()
        raise error
    finally:
        share = error = None  # type: ignore[assignment]  # a kept error keeps nothing alive


def checked(pin: Pin) -> Pin:
    """Ask the type's validator; a refusal invalidates the object, with the reason, and raises
    `AccessRefusedError`."""
    record = pin.record
    try:
        note = record.kind.note
        if note is not None:
            note(record)
        validate = record.kind.validate
        if validate is None or not record.kind.registry.config.enable_state_checking:
            return pin
        try:
            reason = "its validator refused it" if refuses(validate(record.obj)) else ""
        except BaseException as error:
            # An extension's own panic too. What is not about the object goes on to the caller.
            if is_control_flow(error):
                raise
            reason = f"its validator raised {type(error).__name__}: {error}"
        if not reason:
            return pin
        invalidate_record(record, Cause.INVALIDATE, reason, None)
    finally:
        pin = None  # type: ignore[assignment]
    refuse(record)


def invalidate_record(record: Record, cause: Cause, reason: str, site: Any, cell: Cell | None = None) -> bool:
    """Close an object to all new accesses; False when it was shut already. The release follows when nobody
    holds it. `cell`: that of a handle, where one is at hand."""
    try:
        cell = cell_of(record, cell)
        shows = cell is not None and raw_pin(cell) is not None
        fresh = record.cause is None and (
            shows if cell is not None else record() is not None and is_open(record)
        )
        if fresh and reason:
            record.more().reason = reason
        if fresh or shows:
            shut(record, cell, cause, site)
        if fresh:
            record.kind.registry.events.append(("shut", record))
        return fresh
    except BaseException:  # shut, but not told: it is told twice rather than never, and counts once
        if record.cause is not None and record.phase not in ENDED:
            record.kind.registry.events.append(("shut", record))
        raise
    finally:
        cell = None  # a kept traceback must keep nothing alive
