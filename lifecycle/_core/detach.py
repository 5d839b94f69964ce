"""Ownership moves out: the raw object back to the caller, when nothing else can use or release it any
more."""

from __future__ import annotations

import sys
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.access import refuse
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.describe import about, describe
from lifecycle._core.doors import stand_ins
from lifecycle._core.dropped import referred_to
from lifecycle._core.exports import exported, sweep_of
from lifecycle._core.fence import PENDING, ask
from lifecycle._core.holders import (
    SOLE_REFERENCES,
    fence_in_words,
    held,
    held_error,
    holders_of,
    in_words,
    pin_references,
    raw_references,
)
from lifecycle._core.record import Cell, Pin, Record, raw_pin, shut, silence
from lifecycle._core.release import finish
from lifecycle._core.shares import SHUT
from lifecycle._core.waiting import poll
from lifecycle.errors import HeldError, OwnershipError
from lifecycle.states import DETACHED, ENDED, Cause

getrefcount = sys.getrefcount

PAUSE = 0.0005
"""Seconds between the first two looks for a lease that began while the door fell shut."""


def check_transferable(record: Record) -> None:
    """Raise `OwnershipError` for an object that cannot change hands."""
    if record.owning <= 0:
        raise about(
            record,
            OwnershipError(
                f"{describe(record)} is not owned here (it was registered without release=, or is observed): "
                "there is no ownership to hand out. Close the handle and use the object you have."
            ),
        )


def _references_to_door(share: Any) -> int:
    """As `pin_references`: never a local variable."""
    return getrefcount(share._cell)


def _sole_references_to_door() -> int:
    class Share:
        def __init__(self) -> None:
            self._cell = Cell()

    return _references_to_door(Share())


SOLE_SHARE = _sole_references_to_door()
"""What `_references_to_door` says of the only handle."""


def refuse_if_held(record: Record, share: Any, otherwise: str) -> None:
    """Raise `HeldError` when the object has a holder beside the handle `share`; `otherwise` is what to do
    instead of ending that. Counted while the door is open, so nothing has to be undone. Of other shares those
    count that live: one that was dropped without being closed holds nothing."""
    if exported:
        sweep_of(record)
    tokens = record.kind.registry.shared.get(record.id)
    others = min(len(tokens) - 1, _references_to_door(share) - SOLE_SHARE) if tokens else 0
    if others <= 0 and (not held(record, share._cell) or kept_by_collector(record, share)):
        return
    pin = raw_pin(share._cell)
    try:
        if pin is not None:
            shares = (f"{others} other share(s)",) if others > 0 else ()
            names = in_words(pin, kept=True) or holders_of(pin)
            raise held_error(record, (*shares, *names), f"It stays open: end those, or {otherwise}.")
    finally:
        pin = share = None


def kept_by_collector(record: Record, share: Any) -> bool:
    """Return True if the object is in garbage whose ``__del__``s run on this thread right now, and only the
    collector holds it. Without the GIL the collector has a reference of its own to each object in its
    garbage, the pin and the door among them, whose weak references it has cleared by then."""
    if not (runtime.free_threaded and runtime.collecting and runtime.in_collector()):
        return False
    core = record()
    pin = None
    try:
        if core is None or core() is not None or _references_to_door(share) <= SOLE_SHARE:
            return False
        if pin_references(share._cell) > SOLE_REFERENCES + 1 or stand_ins(record):
            return False
        pin = raw_pin(share._cell)
        return pin is None or not holders_of(pin)
    finally:
        core = pin = share = None


def refuse_if_awaited(record: Record) -> None:
    """Raise `HeldError` while a fence of the object is pending. One that this thread may not ask is taken for
    pending, as it is asked at the object's place alone."""
    extra = record.extra
    if extra is None or not extra.fences:
        return
    place = record.place
    may_ask = getattr(place, "may_run_here", None)
    here = may_ask is None or may_ask()
    pending = tuple(
        fence_in_words(fence)
        for fence in list(extra.fences)
        if not here or ask(fence, "ignore" if place.fence_mode == "ignore" else "poll", 0.0) is PENDING
    )
    if pending:
        raise held_error(
            record,
            pending,
            'It stays open: wait for those, or close() without held="refuse" and let it follow.',
        )


def refuse_if_referred_to(record: Record) -> None:
    """Raise `HeldError` when others refer to an object that is released by its own deallocation."""
    if referred_to(record):
        names = tuple(map(str, raw_references(record, True)))
        raise held_error(
            record,
            names,
            'It stays open: let go of those, or close() without held="refuse" and let it follow.',
        )


def begin_detach(
    record: Record, share: Any, me: list[object], timeout: float | Default | None, site: Any
) -> None:
    """The first half of `Handle.detach`: afterwards the claim is `me`, so no release begins, the door is
    shut, and nobody holds the object any more. Whatever is raised in here, `undo_detach` puts right."""
    pin = cell = None
    box: list[Pin | None] = []
    try:
        least = SOLE_BOXED + kept_by_collector(record, share)
        check_transferable(record)
        if record.extra is not None and record.extra.fences:
            raise held_error(record, ("a fence",), "Detach it once that has signalled.")
        refuse_if_held(record, share, "use it through a lease")
        cell = share._cell
        if raw_pin(cell) is None or record.cause is not None:
            refuse(record)
        registry = record.kind.registry
        if registry.claims.setdefault(record.id, me) is not me or record.phase in ENDED:
            refuse(record)
        box.append(raw_pin(cell))
        registry.shared[record.id] = SHUT  # nobody else had a share; one that is made now finds a shut door
        if not shut(record, cell, Cause.DETACH, site):
            refuse(record)  # another thread closed it meanwhile, and it ends that way
        if not poll(lambda: not _still_held(record, box, least), _seconds(record, timeout), first=PAUSE):
            pin = box[0]
            holders = holders_of(pin) if pin is not None else ()
            raise about(
                record,
                HeldError(
                    f"{describe(record)} was taken by {', '.join(holders) or 'an access'} at the very "
                    "moment it was detached, and was not given back in time. It is closed, stays the "
                    "manager's, and is released when that ends.",
                    holders,
                ),
                holders,
            )
        # Nobody holds it: a worker woken by a view's bell would find nothing to do.
        silence(record)
    finally:
        pin = cell = share = None  # a kept traceback must keep nothing alive
        box.clear()


def _still_held(record: Record, box: list[Pin | None], least: int) -> bool:
    """Return True if the pin of an object, which its cell has dropped, has a holder beside `box`; `least`:
    the references to it where it has none. Another thread may have closed the object first, and then the box
    has nothing to hold."""
    if box[0] is None:
        return record() is not None
    return getrefcount(box[0]) > least or stand_ins(record) > 0


SOLE_BOXED = getrefcount([Pin()][0]) + 1
"""What `getrefcount(box[0])` is when only the box holds the pin."""


def undo_detach(record: Record, me: list[object], obj: Any, release: Any, parent: Any) -> None:
    """Something was raised: what was to be handed out goes back to its place, what was claimed is free
    again."""
    registry = record.kind.registry
    try:
        if release is not None and record.outcome is DETACHED:  # not what an earlier call did
            finish(record)
            registry.abandon(record.kind, record.place, obj, release, parent, None)
        elif registry.claims.get(record.id) is me:
            registry.claims.pop(record.id, None)
            if record() is None and record.phase not in ENDED:
                record.place.put(record)  # its ticket may have come, and gone, while it was ours
    finally:
        obj = parent = None


def _seconds(record: Record, timeout: float | Default | None) -> float | None:
    if timeout is DEFAULT:
        timeout = record.kind.registry.config.finalizer_timeout
    return timeout
