"""Entering an object: from the moment its record is in the table it will be released, whatever happens after
(I3).

One function, since every frame of a camera comes through it. `SafetyManager.register` is a copy of it, for
objects that are registered one by one; `enter` serves those who have checked everything before. Its order is
its correctness:

1. Pin and core; then the record is made on the core and filled in. Nothing is called in between, so no
   interrupt falls there and there is no ticket without facts.
2. It becomes the owner of its native object in one step, or the registration is refused with nothing entered.
3. It enters the table. From here on every exception, in this function or in its caller, takes the pin down
   with the frame's locals, which makes the object due at its place.
4. Door, handle; and the event that counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.ends import wait_for_end
from lifecycle._core.handle import Handle
from lifecycle._core.record import Cell, Core, DoorRef, Extra, Pin, Pins, Record
from lifecycle._core.release import releases_here
from lifecycle._core.runtime import caller, monotonic, next_id, site_of
from lifecycle._core.sentences import duplicate
from lifecycle._core.shares import FIRST_SHARE
from lifecycle._core.tables import HIGH_WATER, NO_IDENTITY, NOT_COUNTING, Kind, native_key, owners
from lifecycle.errors import ClosedError, LifecycleError, RegistrationError, shown
from lifecycle.states import BY_CLOSE, DETACHED, ENDED, RELEASING, STUCK

RESCUES = range(32)
"""How often an interrupted registration tries to save its object, should the attempts be interrupted too."""


def enter(  # noqa: C901 - in one piece: every call more is a point where an interrupt may fall
    kind: Kind,
    place: Any,
    obj: Any,
    release: Callable[[Any], object] | None,
    name: str | None,
    native: Any,
    size: int,
    parent: Pin | Pins | None,
    extra: Extra | None,
    unique: bool,
    begun: list[bool] | None = None,
) -> Handle[Any]:
    """Enter `obj` and return the first share of it. `unique`: see that nobody owns it already. Raises
    `DuplicateError` and `LimitError`, and then has not taken the object; whatever else is raised in here
    (`ClosedError` too), the object is released."""
    registry = kind.registry
    entered = registry.entered
    record = site = None
    try:
        if begun is not None:
            # From here on the object is not lost: an interrupt before that is the caller's to deal with.
            begun[0] = True
        if registry.waiting or not registry.started:
            registry.tend()
        kind.sampled = sampled = kind.sampled + 1
        if not sampled & NOT_COUNTING:
            if not runtime.collecting:
                registry.count_here()
            if len(entered) > HIGH_WATER:
                registry.tend()
        if not sampled & kind.site_mask or sampled <= kind.first_sites:
            site = site_of(caller())
        id = next_id()
        now = monotonic()
        pin = Pin()
        core = Core(pin, registry.unroot)
        registry.roots.add(core)  # at once: only now it has the hash by which its callback takes it out
        record = Record(core, place.put)
        record.id = id
        record.kind = kind
        record.obj = obj
        record.release = release
        record.place = place
        record.parent = parent
        record.door = record.cause = record.phase = record.outcome = record.shut_code = None
        record.born = now
        record.shut = record.begun = record.ended = 0.0
        record.site = site
        record.name = name
        record.native = native
        record.size = size
        record.extra = extra
        record.counted = 0
        if kind.alive is not None and (extra is None or not extra.unlimited):
            kind.reserve(id, size)
        if release is None:
            record.owning = 0
        elif unique:
            record.owning = 2
            if type(obj) not in NO_IDENTITY and owners.setdefault(_identity(obj), record) is not record:
                supersede(_identity(obj), record)
            if native is not None and owners.setdefault(native_key(record), record) is not record:
                supersede(native_key(record), record)
        else:
            record.owning = 1
        registry.records[id] = record
        pin.core = core
        pin.record = record
        cell = Cell()
        cell.life = now
        cell.pin = pin
        door = DoorRef(cell, registry.tell_drop)
        door.id = id
        record.door = door
        entered.append(record)
        handle: Handle[Any] = Handle()
        handle._cell = cell
        handle._record = record
        handle._token = FIRST_SHARE
        if registry.closed:
            raise ClosedError
        # K3: an exception of a release that ran on behalf of others in here, kept by somebody, keeps this
        # frame.
        try:
            return handle
        finally:
            del core, pin, cell, handle, now
    except BaseException as error:
        try:
            if record is None or record.id not in registry.records:
                if record is not None:
                    record.phase = DETACHED  # said before the core goes: its ticket must mean nothing
                if begun is not None:
                    begun[0] = False  # until it has been entered after all, below
                handle = cell = pin = core = now = None  # type: ignore[assignment]  # K3
                if begun is None:
                    begun = [False]
                try:
                    if record is not None:
                        try:
                            withdraw(record)
                        except BaseException:
                            # K6: an owner's entry would keep the object for ever.
                            registry.later[0:0] = [(withdraw, (record,))]
                            raise
                    _not_entered(kind, place, obj, release, native, parent, extra, error, begun)
                except RecursionError:
                    # No call may be possible here, so it is left to the keeper without one.
                    if not begun[0]:
                        begun[0] = True
                        registry.later[0:0] = [(abandon, (kind, place, obj, release, parent, extra))]
            else:
                handle = cell = pin = core = now = None  # type: ignore[assignment]  # noqa: F841 - K3
                record.cause = BY_CLOSE
                registry.events.append(("shut", record))
                if isinstance(error, ClosedError):
                    registry.refuse_closed(record)
            raise
        finally:  # K3
            parent = obj = None


_identity = id


def supersede(key: object, record: Record) -> None:
    """Somebody is in `owners` under `key`: let go one that can be let go here, wait for one whose release has
    begun, take the place of one that has let go, refuse otherwise.

    A number (a descriptor, an address) is free, and given out again, *inside* the release, and its owner's
    entry goes after that.
    """
    first = owners.get(key)
    if first is not None and first is not record:
        _make_way(first)
    with _ownership:
        first = owners.get(key)
        if first is None or _has_let_go(first):
            # In one step: an entry that is not its own its predecessor leaves alone.
            owners[key] = first = record
    if first is record:
        return
    raise duplicate(record, first)


HANDED_ON_WITHIN = 0.05
"""Seconds for which a newcomer waits for the release of its predecessor, which has begun. Then it takes over
all the same."""


def _has_let_go(first: Record) -> bool:
    """Whether an owner no longer has its native: its release was called. (A stuck one keeps it: nobody knows
    what it holds.)"""
    phase = first.phase
    return phase is RELEASING or (phase in ENDED and phase is not STUCK)


def _make_way(first: Record) -> None:
    """Have an owner end that is about to: here if it may be released here, otherwise by waiting for who does
    it. Nobody waits for himself, in the collector, or where waiting is not allowed."""
    if first.phase in ENDED or (first.cause is None and first() is not None):
        return
    if runtime.collecting and runtime.in_collector():
        return
    if first.phase is not RELEASING:
        # Waits for a collection on another thread where `close` does not: otherwise the owner would be
        # refused.
        runtime.await_collection()
        first.place.serve(first)
    begun = first.phase is RELEASING or first.id in first.kind.registry.claims
    if begun and not runtime.must_not_wait() and not any(first is one for one in releases_here()):
        wait_for_end(first, monotonic() + HANDED_ON_WITHIN, None, insist=False)


_ownership = runtime.process_lock()


def withdraw(record: Record) -> None:
    """Make a record that was not entered mean nothing: not to its place, not in `owners`, not to whoever
    keeps the traceback."""
    record.phase = DETACHED
    keys: list[object] = [_identity(record.obj)]
    if record.native is not None and _hashable(record.native):
        keys.append(native_key(record))
    with _ownership:  # whoever finds it ended may be putting another owner in its place
        for key in keys:
            if owners.get(key) is record:
                owners.pop(key, None)
    if record.kind.alive is not None:
        record.kind.gone.append(record.id)
    record.obj = record.release = record.parent = None


def _not_entered(
    kind: Kind,
    place: Any,
    obj: Any,
    release: Callable[[Any], object] | None,
    native: Any,
    parent: Pin | Pins | None,
    extra: Extra | None,
    error: BaseException,
    begun: list[bool] | None,
) -> None:
    """Something was raised before the object was entered. A refusal leaves it to the caller; an interrupt may
    not lose it."""
    try:
        wrong = unhashable(native, error)
        if wrong is not None:
            raise wrong from None
        if not isinstance(error, LifecycleError):
            abandon(kind, place, obj, release, parent, extra, begun)
    finally:
        parent = obj = None


def unhashable(native: Any, error: BaseException) -> RegistrationError | None:
    """What `error` means where it comes from a native name that cannot be looked up."""
    if isinstance(error, TypeError) and native is not None and not _hashable(native):
        return RegistrationError(
            f"native= must be hashable, such as an address or a GL name, not {shown(native)}"
        )
    return None


def abandon(
    kind: Kind,
    place: Any,
    obj: Any,
    release: Callable[[Any], object] | None,
    parent: Pin | Pins | None,
    extra: Extra | None,
    begun: list[bool] | None = None,
) -> None:
    """Have `obj` released at its place at once, past every limit: nobody will own it."""
    extra = extra or Extra()
    extra.unlimited = True
    record = enter(kind, place, obj, release, None, None, 0, parent, extra, False, begun)._record
    record.cause = BY_CLOSE
    record.kind.registry.events.append(("shut", record))


def insist(attempt: Callable[[], bool]) -> None:
    """Call `attempt` through interrupts until it says that nothing is left to do. Not more than `RESCUES`
    times; an `Exception` passes. An interrupt may still fall on the way in here, or on the jump back after
    another: whoever cannot lose anything calls it again then, in handlers within handlers, where nothing
    looks for signals in between."""
    for _ in RESCUES:
        try:
            if attempt():
                return
        except Exception:
            raise
        except BaseException:  # noqa: S112 - the first interrupt is what the caller raises in the end
            continue


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


__all__ = ["enter"]
