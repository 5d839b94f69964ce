"""Objects that free their native in their own deallocation, as wrappers of SWIG, pybind11 and Cython do: to
release one is to let go of the last reference to it.

**The problem.** Others may refer to the object: a variable that outlives its ``with`` block is enough. If the
library dropped its own reference and reported *released*, that would be wrong: the native would be freed
wherever the last reference goes. A weak reference alone does not help: many of these types cannot be referred
to weakly.

**The idea.** Python's own count says whether others refer to the object. While they do it is *kept*: we keep
our reference as well and ask again, after a millisecond, then after twice the time, so that the last one is
ours and dies where it should. Where any thread may release, and the type allows it, ours is let go at once
and a weak reference tells of the end. An object that only refers to itself is found by counting the
references from within, as the collector does.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final, final

from lifecycle._core import runtime
from lifecycle._core.budget import Budget
from lifecycle._core.record import Bell, Core, Extra, Pin, Record
from lifecycle._core.selfkept import only_from_within
from lifecycle._core.waiting import poll

getrefcount = sys.getrefcount

FIRST_LOOK, LAST_LOOK = 0.001, 0.25
"""Seconds from one look to the next: doubled each time, up to the second."""


@final
class Dropped:
    """The type of `DROPPED`."""

    __slots__ = ()

    def __call__(self, obj: object, /) -> None:
        """Do nothing: the caller of this release drops its own reference to `obj`."""

    def __repr__(self) -> str:
        return "DROPPED"

    def __reduce__(self) -> str:
        return "DROPPED"


DROPPED: Final = Dropped()
"""In ``release=``: the object frees its native in its own deallocation, so to release it is to let go of the
last reference to it. While others refer to it, it is closed and ``kept``; it is ``released`` when it is
gone."""


class Dropping:
    """How far the release of such an object has come."""

    __slots__ = ("asked", "inside", "kept", "keys", "let_go", "looks", "since", "told", "witness")

    def __init__(self) -> None:
        self.asked: bool = False  # the collector was run for it
        self.inside: bool = False  # it refers to itself: only the collector can free it
        self.kept: bool = False  # others refer to it
        self.keys: list[object] | None = None  # `tables.keys_of`, from before it was let go
        self.let_go: bool = False  # we do not refer to it any more
        self.looks: int = 0
        self.since: float = 0.0  # since when it is kept (monotonic)
        self.told: tuple[str, ...] | None = None  # who kept it when that was reported
        self.witness: Bell | None = None  # tells when it is gone

    def lives(self) -> bool:
        """Return True if it is known to be there."""
        return self.witness is not None and not runtime.is_dead(self.witness)

    def gone(self) -> bool:
        """Return True if it is known to be gone."""
        return self.let_go and self.witness is not None and runtime.is_dead(self.witness)


def extra_for(release: object, extra: Extra | None) -> Extra | None:
    """`extra`, made where `release` is `DROPPED`: each registration that may be one calls this."""
    if release is DROPPED:
        extra = extra or Extra()
        extra.dropped = extra.dropped or Dropping()
    return extra


def is_kept(record: Record) -> bool:
    """Return True if the object is closed, and others refer to it."""
    extra = record.extra
    return extra is not None and extra.dropped is not None and extra.dropped.kept


def has_died(record: Record) -> bool:
    """Return True if the object is known to be gone although its end is still to be told."""
    extra = record.extra
    return extra is not None and extra.dropped is not None and extra.dropped.gone()


def references(record: Record) -> int:
    """What `getrefcount` says of the object, this question's own included. Never a local variable: see
    `holders.pin_references`."""
    return getrefcount(record.obj)


def _sole() -> int:
    record = Record(Core(Pin()))
    record.obj = Pin()
    return references(record)


SOLE = _sole()
"""What `references` returns when only the record refers to the object. Differs between Python versions."""


def referred_to(record: Record) -> bool:
    """Return True if the object has another referrer. Asked twice: without the GIL the count may be torn
    while a reference goes from one thread to another."""
    return references(record) > SOLE and references(record) > SOLE


budget = Budget()
"""For looking whether an object only refers to itself, and for the collections that free it."""


def may_go(record: Record, dropped: Dropping) -> bool:
    """Return True if the object has no other referrer any more, except what it refers to itself."""
    if not referred_to(record):
        return True
    looks = dropped.looks
    # On the first look and then ever more seldom: it looks through all that the object reaches.
    if not looks & (looks - 1) and budget.allows():
        began = runtime.monotonic()
        dropped.inside = only_from_within(record, references(record) - SOLE)
        budget.spend(began)
    return dropped.inside


def watch(record: Record, dropped: Dropping, *, ring: bool) -> bool:
    """Have it known once the object is gone, and with `ring` a worker woken. False where its type cannot be
    referred to weakly."""
    obj = raw_object(record)
    try:
        witness = Bell(obj, record.kind.registry.ring if ring else None)
        witness.id = record.id
        # K4: it is not gone before the worker that is woken can be told which it was.
        dropped.witness = witness
    except TypeError:
        return False
    finally:
        obj = None  # K3
    return True


MOMENT, OWNER_COMES = 0.0003, 0.05
"""Seconds that the thread which made an object has to let it die, without the GIL: before a collection is
asked for, and after it."""


def dies(dropped: Dropping) -> bool:
    """Return True if an object that we do not refer to any more is gone, or is so in a moment: in a cycle the
    collector frees it, without the GIL the thread that made it."""
    if _is_gone(dropped):
        return True
    if not (dropped.inside or runtime.free_threaded) or dropped.kept:
        return False
    gone = partial(_is_gone, dropped)
    if runtime.free_threaded and not dropped.inside and poll(gone, MOMENT, first=MOMENT / 10):
        return True
    collect()
    return gone() or (runtime.free_threaded and poll(gone, OWNER_COMES, first=0.001))


def _is_gone(dropped: Dropping) -> bool:
    """As `Dropping.gone`. Without the GIL it looks so for a moment on its way into ``__del__``, which may yet
    save it."""
    return dropped.gone() and not (runtime.free_threaded and poll(dropped.lives, MOMENT, first=MOMENT / 10))


def raw_object(record: Record) -> Any:
    """The object, for whoever looks for those who refer to it; None when it is gone."""
    extra = record.extra
    if extra is None or extra.dropped is None or not extra.dropped.let_go:
        return record.obj
    return None if extra.dropped.witness is None else extra.dropped.witness()


def collect() -> None:
    """Have the collector free what only itself or garbage refers to, unless that took too much time
    already."""
    if budget.allows():
        began = runtime.monotonic()
        runtime.collect()
        budget.spend(began)
