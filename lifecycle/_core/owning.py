"""One native, one owner, in this process: which record may own what is registered, and which one follows it.

An owner is in `tables.owners` from its registration until its release has run. Whoever registers the same
native meanwhile is refused: released twice it would be freed twice. But what looks the same may not be the
same, and a false alarm is as bad as a second free: so what is compared is chosen with care (`keys_of`), and a
registration during the first one's release waits for it.
"""

from __future__ import annotations

from lifecycle._core import runtime
from lifecycle._core.dropped import has_died, is_kept
from lifecycle._core.ends import wait_for_end
from lifecycle._core.keeping import ProxyType
from lifecycle._core.numbers import NO_IDENTITY, as_number, is_address, learn, number_of
from lifecycle._core.parents import pins_of
from lifecycle._core.record import Pin, Record
from lifecycle._core.release import ownership, releases_here
from lifecycle._core.room import comes_by_itself
from lifecycle._core.runtime import monotonic
from lifecycle._core.sentences import duplicate
from lifecycle._core.tables import BY_ADDRESS, BY_NUMBER, WITH_ADDRESS, Lives, keys_of, owners, owners_under
from lifecycle.errors import RegistrationError, shown
from lifecycle.states import ENDED, RELEASING, STUCK


def own(record: Record) -> None:
    """Become the owner of an object with a native name, of a number or pointer, which is one itself, or of an
    object whose type was not seen before. Raises `DuplicateError`."""
    native = record.native
    kind = type(record.obj)
    if type(kind) is ProxyType:
        raise RegistrationError(
            f"{shown(record.obj)} is a proxy, so its object has an owner already. Another share of it: "
            "handle_of(proxy).share(). What was made of it: parent=proxy."
        )
    if native is not None:
        number = as_number(native)
        if type(number) is int:
            if is_address(native, number):
                record.owning = WITH_ADDRESS  # K4: with the number it is found under
                record.native = number
            elif not isinstance(native, int):
                record.native = number  # what it was read from may have another value later
    elif record.obj is None:
        raise _nothing_there(record)
    elif kind in NO_IDENTITY and kind is not int:
        record.owning = 1  # texts and the like say nothing of any native
        return
    else:
        number = None if record.extra is not None and record.extra.dropped else number_of(record.obj)
        if number is not None:
            how = BY_ADDRESS if is_address(record.obj, number) else BY_NUMBER
            # K4: from here on it is found under its number.
            record.native = number
            record.owning = how
    if kind not in NO_IDENTITY:
        learn(kind)
    for key in keys_of(record):
        if owners.setdefault(key, record) is not record:
            supersede(key, record)


def _nothing_there(record: Record) -> RegistrationError:
    """The refusal of None. Made in here, so that the frame that raises it does not keep it."""
    error = RegistrationError(
        "the object is None: the call that makes it has perhaps failed (ctypes returns None for NULL). "
        "Check its result before it is registered. If None stands for a native: native=, or unique=False"
    )
    error.type_name = record.kind.type_name
    return error


def supersede(key: object, record: Record) -> None:
    """There is an owner in `owners` under `key`. Release it if it can be released here, wait for it if its
    release has begun, replace it if it has been released, coexist if its native is another one, and refuse
    otherwise.

    A number (a descriptor, an address) is free, and given out again, *inside* the release, and its owner's
    entry goes after that.
    """
    waited: list[Record] = []
    while True:
        for one in owners_under(key):
            if one is not record and not _side_by_side(one, record) and _make_way(one):
                waited.append(one)
        with ownership:
            first = _enter_beside(key, record, waited)
        if first is None:
            return
        if not _has_let_go(first):
            raise duplicate(record, first)
        # Its release has begun since it was looked at: it is waited for as well.


def _enter_beside(key: object, record: Record, waited: list[Record]) -> Record | None:
    """Enter `record` under `key`; or return the owner that is there, if both may not own the native, or if
    its release runs and it was not `waited` for."""
    while True:
        there = owners.setdefault(key, record)
        if there is record:
            return None
        living: list[Record] = []
        for one in owners_under(key):
            if one is record:
                continue
            let_go = _has_let_go(one)
            if not let_go:
                living.append(one)
            elif one.phase is not RELEASING or any(one is other for other in waited):
                continue
            if not _side_by_side(one, record):
                return one
        new = Lives((*living, record)) if living else record
        try:
            # One step with the GIL: an entry that is not its own its predecessor leaves alone.
            if owners[key] is there:
                owners[key] = new
                return None
        except KeyError:
            continue


BY_IDENTITY = (2, WITH_ADDRESS)
"""`Record.owning` of objects that are known by their identity, beside what their native is."""


def _side_by_side(first: Record, record: Record) -> bool:
    """Return True if both may own the object: `record` lives within `first`, its parent, as a mapping does
    within its buffer; or both said what they own of it, and it is not the same."""
    if (
        first.obj is record.obj
        and first.owning in BY_IDENTITY
        and record.owning in BY_IDENTITY
        and first.native is not None
        and record.native is not None
        and keys_of(first)[-1:] != keys_of(record)[-1:]
    ):
        return True
    above: list[Pin] = []
    seen: set[int] = set()
    try:
        above += pins_of(record.parent)
        while above:
            parent = above.pop().record
            if parent is first:
                return True
            if parent.id not in seen:
                seen.add(parent.id)
                above += pins_of(parent.parent)
        return False
    finally:
        above.clear()  # K3


HANDED_ON_WITHIN = 0.05
"""Seconds for which a newcomer waits for the release of its predecessor, which has begun. Then it takes over
all the same."""


def _has_let_go(first: Record) -> bool:
    """Return True if an owner no longer has its native: its release was called. (A stuck one keeps it: it is
    not known what it holds.)"""
    phase = first.phase
    return phase is RELEASING or (phase in ENDED and phase is not STUCK) or has_died(first)


def _make_way(first: Record) -> bool:
    """Have an owner end that is about to: here if it may be released here, otherwise by waiting for its
    release. A thread does not wait for itself, in the collector, or where waiting is not allowed. Returns
    whether its release has begun, so that nothing is left to wait for."""
    if first.phase in ENDED:
        return True
    if first.phase is not RELEASING and first.cause is None and first() is not None:
        return False
    if runtime.collecting and runtime.in_collector():
        return True
    if first.phase is not RELEASING:
        # Waits for a collection on another thread where `close` does not: otherwise the owner would be
        # refused.
        runtime.await_collection()
        first.place.run_one(first)
    begun = (
        first.phase is RELEASING
        or is_kept(first)  # it goes within its own deallocation, which tells of itself at its end
        or first.id in first.kind.registry.claims
        or (first() is None and comes_by_itself(first))
    )
    if begun and not runtime.must_not_wait() and not any(first is one for one in releases_here()):
        wait_for_end(first, monotonic() + HANDED_ON_WITHIN, None, insist=False)
    return begun or first.phase in ENDED
