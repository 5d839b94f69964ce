"""What an error says of an object: one sentence about its state and one about what to do.

Every text of a refusal stands here, so that they can be read one after the other as a new user would. Looking
for the holders of an object goes through the whole heap; `holders.in_words` does that within a budget.
"""

from __future__ import annotations

from collections.abc import Callable

from lifecycle._core import runtime
from lifecycle._core.describe import about, ago, describe, since, state_of
from lifecycle._core.holders import in_words, raw_references
from lifecycle._core.numbers import NO_IDENTITY
from lifecycle._core.record import Pin, Record
from lifecycle._core.release import releases_here
from lifecycle.errors import AccessRefusedError, ClosedAccessError, DuplicateError, shown
from lifecycle.states import (
    BY_CLOSE,
    BY_DROP,
    CLOSING,
    DETACHED,
    DUE,
    FAILED,
    KEPT,
    ORPHANED,
    POISONED,
    RELEASED,
    RELEASING,
    STUCK,
    VALID,
    Cause,
    ObjectState,
)


def refusal(record: Record, share: object) -> AccessRefusedError:
    """What an access to the object is told, through the handle `share` or by id."""
    what = describe(record)
    state = state_of(record)
    if state is VALID and share is not None:
        return about(
            record,
            AccessRefusedError(
                f"this share of {what} is closed; the object itself is still valid through its other shares. "
                "Call share() before closing, or keep the handle open."
            ),
        )
    made = ClosedAccessError if record.cause in (Cause.EXIT, Cause.FORK) else AccessRefusedError
    holders = who_holds(record) if state is CLOSING else ()
    if record.id in record.kind.registry.claims and any(record is one for one in releases_here()):
        text = (
            f"{what} is {state} by this very call. Give the cleanup or release what it needs, not the handle."
        )
    else:
        text = f"{what} {_sentence(record, state, holders)}"
        text = text.replace("handle.share()", getattr(share, "_to_share", "handle.share()"))
    return about(record, made(text), holders)


def who_holds(record: Record) -> tuple[str, ...]:
    """The holders of a closed object, in words; empty where there was no time to look."""
    core = record()
    pin: Pin | None = None if core is None else core()
    core = None
    try:
        return () if pin is None else in_words(pin)
    finally:
        pin = None


def _sentence(record: Record, state: ObjectState, holders: tuple[str, ...]) -> str:
    """What became of the object, and what to do."""
    cause = record.cause or BY_DROP
    if state is VALID:
        return (
            "is being dropped with its last handle, in a garbage cycle. Keep a handle for as long as you use "
            "it."
        )
    if state in (ORPHANED, DETACHED, FAILED, STUCK):
        return _ENDS[state](record)
    if cause in POISONED:
        return _invalid(record, state)
    if cause is Cause.OWNER:
        return f"was let go {_when(record, state)}: {_reason(record)}. Ask the owner for a new one."
    if cause is Cause.EXIT:
        name = record.kind.registry.name
        return f'was {_closed(state)} {_when(record, state)}, with its manager "{name}". Make a new manager.'
    if cause is BY_DROP:
        return (
            f"was {_closed(state)} {_when(record, state)}, as its last handle was dropped. Keep a handle for "
            "as long as you use it."
        )
    if state is CLOSING:
        users = f"; held by {', '.join(holders)}" if holders else ""
        return (
            f"was closed{_at(record)} and is released when nothing holds it any more{users}. New accesses "
            "are refused."
        )
    if state is DUE:
        return f"was closed{_at(record)} and waits for its release{_why(record)}. Use it before that line."
    if state is KEPT:
        return (
            f"was closed{_at(record)} and is released when nothing refers to it any more: holders() names "
            "what does. Use it before that line."
        )
    if state is RELEASING:
        return f"was closed{_at(record)} and is being released. Use it before that line."
    return (
        f"was released {_when(record, state)}{_by(record, cause)}. Use it before that line, or keep a share "
        "of your own: handle.share()."
    )


def _closed(state: ObjectState) -> str:
    return "released" if state is RELEASED else "closed"


def _when(record: Record, state: ObjectState) -> str:
    return ago(since(record, state))


def _at(record: Record) -> str:
    site = runtime.describe_site(record.shut_site)
    return f" at {site}" if site else f" {ago(record.shut or record.born + 0.0)}"


def _by(record: Record, cause: Cause) -> str:
    site = runtime.describe_site(record.shut_site)
    at = f" at {site}" if site else ""
    return f", by {cause}(){at}" if cause in (BY_CLOSE, Cause.UNREGISTER) else f", by {cause}{at}"


def _reason(record: Record) -> str:
    return record.extra.reason if record.extra is not None and record.extra.reason else "no reason is known"


def _why(record: Record) -> str:
    reason = record.extra.reason if record.extra is not None else ""
    return f" ({reason})" if reason else ""


def _invalid(record: Record, state: ObjectState) -> str:
    """After a panic or `invalidate`."""
    when = ago(record.shut or record.born + 0.0)
    how = "is invalid" if state is not RELEASED else "is invalid, and released,"
    if record.cause is Cause.PANIC:
        extra = record.extra
        error = extra.panic if extra is not None else ""
        declare = f"If that error is harmless, declare it: errors=({error},)." if error else ""
        reason = _reason(record).removeprefix("panic: ")
        return f"{how} since a panic {when}: {reason}. {declare}".rstrip()
    return f"{how} since invalidate(){_at_only(record)} {when}: {_reason(record)}. Make a new one."


def _at_only(record: Record) -> str:
    site = runtime.describe_site(record.shut_site)
    return f" at {site}" if site else ""


def _orphaned(record: Record) -> str:
    when = _when(record, ORPHANED)
    if record.cause is Cause.FORK:
        return (
            f"belongs to the parent process, which forked {when}. It is never released here; make a new one "
            "in this process."
        )
    if record.place.lost_reason is not None:
        return (
            f'was lost with queue "{record.place.name}" {when} ({record.place.lost_reason}). It is never '
            "released; make a new one on the queue's new generation."
        )
    return f"was orphaned {when} ({_reason(record)}). It is never released; make a new one."


def _detached(record: Record) -> str:
    if record.cause is Cause.DETACH:
        return f"was handed out by detach(){_at(record)}: use what that returned."
    if record.owning > 0 and record.cause is None:
        return "was never registered: register() was interrupted, and the object has been released."
    return f"was taken out of the manager{_at(record)}: it is no object of the manager any more."


def _failed(record: Record) -> str:
    return (
        f"could not be released {_when(record, FAILED)}: {_reason(record)}. Whether its native is gone is "
        "not known; make a new one."
    )


def _stuck(record: Record) -> str:
    return f"was closed{_at(record)}, and {_reason(record)}. What it holds is not known; make a new one."


_ENDS: dict[ObjectState, Callable[[Record], str]] = {
    ORPHANED: _orphaned,
    DETACHED: _detached,
    FAILED: _failed,
    STUCK: _stuck,
}


# -- other errors about an object ----------------------------------------------------------------------------


def duplicate(record: Record, first: Record) -> DuplicateError:
    """What the registration of `record` is told, whose native `first` owns."""
    same = first.obj is record.obj and type(record.obj) not in NO_IDENTITY
    native = record.native if record.native is not None else record.obj
    what = "this Python object" if same else f"native {native:#x}" if type(native) is int else shown(native)
    state = state_of(first)
    site = runtime.describe_site(first.site)
    made = f", from {site}" if site else ""
    text = f"{what} is owned by {describe(first)}, {state}{made}. "
    holders: tuple[str, ...] = ()
    if state is CLOSING:
        holders = who_holds(first)
        waits = f" and waits for {', '.join(holders)}" if holders else " and waits for its users"
        text += f"It was closed{_at(first)}{waits}; close(timeout=1) waits for that."
    elif state is KEPT:
        holders = tuple(map(str, raw_references(first, True)))
        waits = f": {', '.join(holders)}" if holders else ""
        text += (
            f"It was closed{_at(first)} and is released when nothing refers to it any more{waits}; "
            "close(timeout=1) waits for that."
        )
    elif state is STUCK:
        text += f"It was closed{_at(first)}, and {_reason(first)}. What it holds is not known."
    else:
        text += (
            "A second release would free it twice. For another user of the object: share() on its handle. "
            "For a part of it: parent=its handle. If it counts references, or is no native: unique=False."
        )
    return about(first, DuplicateError(text), holders)
