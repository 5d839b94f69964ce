"""What can be said of an object: its state, its name in messages, what became of it, and the facts that an
error has of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from lifecycle._core import runtime
from lifecycle._core.doors import is_open
from lifecycle._core.record import Record
from lifecycle.errors import LifecycleError, shown
from lifecycle.states import (
    BY_CLOSE,
    BY_DROP,
    CLOSING,
    DUE,
    ENDED,
    INVALID,
    KEPT,
    POISONED,
    RELEASING,
    VALID,
    Cause,
    ObjectState,
)
from lifecycle.stats import ObjectInfo


def state_of(record: Record) -> ObjectState:
    """The state as decided (`Record.phase`) or else as core and door tell it now. Every answer about an
    object's state comes from here. Callable on any thread, inside a collection too; runs no code of users.
    """
    state = record.phase
    if state is not None:
        return state
    extra = record.extra
    if record() is None or (extra is not None and extra.let_go):
        state = DUE if extra is None or extra.dropped is None or not extra.dropped.kept else KEPT
    elif is_open(record):
        state = VALID
    else:
        state = INVALID if record.cause in POISONED else CLOSING
    phase = record.phase  # decided meanwhile: of two questions the first must not get the later state
    return state if phase is None else phase


def describe(record: Record) -> str:
    """``gst.Sample "capture" (object 7, native 0x7f3a10)``: how every message names an object."""
    name = f' "{record.name}"' if record.name else ""
    native = record.native
    try:
        told = (
            ""
            if native is None
            else f", native {native:#x}"
            if type(native) is int
            else f", native {native!r}"
        )
    except Exception:  # a message about an object must not fail because of what the user called it
        told = f", native <{type(native).__name__}>"
    return f"{record.kind.type_name}{name} (object {record.id}{told})"


def plain(value: Any) -> Any:
    """`value` as data that keeps nothing alive: numbers, texts, bytes and tuples of these as they are, of
    anything else its ``repr``."""
    kind = type(value)
    if kind in PLAIN:
        return value
    return tuple(map(plain, value)) if kind is tuple else shown(value)


PLAIN = frozenset({int, float, bool, str, bytes, type(None)})

E = TypeVar("E", bound=LifecycleError)


def about(record: Record, error: E, holders: Iterable[str] = ()) -> E:
    """`error`, with the facts of the object that it is about, as they are now."""
    state = state_of(record)
    error.id = record.id
    error.type_name = record.kind.type_name
    error.name = record.name
    error.native = plain(record.native)
    error.state = state
    if state is not VALID:
        error.cause = str(record.cause or BY_DROP)
    error.at = runtime.wall_time() - (runtime.monotonic() - since(record, state))
    error.closed_site = runtime.describe_site(record.shut_site)
    error.holders = tuple(holders)
    return error


def since(record: Record, state: ObjectState) -> float:
    """When (monotonic) an object came into `state`, the one that it is in."""
    if state in ENDED and record.ended:
        return record.ended
    # A float of its own: see `doors.py`.
    return record.begun if state is RELEASING and record.begun else record.shut or record.born + 0.0


def ago(since: float) -> str:
    """A monotonic time as «3 ms ago»."""
    seconds = max(0.0, runtime.monotonic() - since)
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms ago"
    return f"{seconds:.1f} s ago"


def fate(record: Record) -> str:
    """What became of an object, when, why and where: «released 3 ms ago by close() at app.py:31»."""
    state = state_of(record)
    if state is VALID:
        return "valid"
    site = runtime.describe_site(record.shut_site)
    cause = record.cause or BY_DROP
    by = (
        "as its last handle was dropped"
        if cause is BY_DROP
        else f"by {cause}()"
        if cause in _CALLS
        else f"by {cause}"
    )
    text = f"{state} {ago(since(record, state))} {by}"
    if site:
        text += f" at {site}"
    extra = record.extra
    if extra is not None and extra.reason:
        text += f" ({extra.reason})"
    return text


_CALLS = frozenset({BY_CLOSE, Cause.UNREGISTER, Cause.INVALIDATE, Cause.DETACH})


def info_of(record: Record) -> ObjectInfo:
    """What is known of an object now."""
    extra = record.extra
    return ObjectInfo(
        id=record.id,
        type_name=record.kind.type_name,
        name=record.name,
        native=record.native,
        state=state_of(record),
        cause=str(record.cause or ""),
        reason=extra.reason if extra is not None else "",
        size=record.size,
        parents=extra.parent_ids if extra is not None else (),
        registered_at=runtime.wall_time() - (runtime.monotonic() - record.born),
        site=runtime.describe_site(record.site),
    )
