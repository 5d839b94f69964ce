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

from lifecycle._core.dropped import extra_for
from lifecycle._core.handle import Handle
from lifecycle._core.numbers import HAS_IDENTITY
from lifecycle._core.owning import own, supersede
from lifecycle._core.record import Cell, Core, DoorRef, Extra, Pin, Pins, Record
from lifecycle._core.release import leave_owners
from lifecycle._core.runtime import caller, monotonic, next_id, site_of
from lifecycle._core.shares import FIRST_SHARE
from lifecycle._core.tables import ObjectType, keys_of, own_first
from lifecycle.errors import ClosedError, LifecycleError, RegistrationError, shown
from lifecycle.states import BY_CLOSE, DETACHED

RESCUES = range(32)
"""How often an interrupted registration tries to save its object, should the attempts be interrupted too."""


def enter(  # noqa: C901 - in one piece: every call more is a point where an interrupt may fall
    kind: ObjectType,
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
    record = site = None
    try:
        if begun is not None:
            # From here on the object is not lost: an interrupt before that is the caller's to deal with.
            begun[0] = True
        if registry.waiting or not registry.started:
            registry.tend()
        kind.left = left = kind.left - 1
        if left < 1 and kind.look():
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
            if native is not None or type(obj) not in HAS_IDENTITY:
                own(record)
            elif own_first(_identity(obj), record) is not record:
                supersede(_identity(obj), record)
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
        registry.entered.append(record)
        handle: Handle[Any] = Handle()
        handle._cell = cell
        handle._record = record
        handle._token = FIRST_SHARE
        if registry.closed:
            raise ClosedError
        # K3: if an exception of another object's release, which ran in here, is kept, it keeps this frame.
        try:
            return handle
        finally:
            del core, pin, cell, handle, now
    except BaseException as error:
        try:
            # Without an `if`: 3.10 looks for signals at each jump that is taken, and a second interrupt there
            # would find the object to be nobody's.
            (begun, [False])[begun is None][0] = record is not None  # type: ignore[index]
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


def withdraw(record: Record) -> None:
    """Make a record that was not entered mean nothing: not to its place, not in `owners`, not to a kept
    traceback."""
    record.phase = DETACHED
    # Without `owning` it had not come so far: it is over a limit.
    if getattr(record, "owning", 0) >= 2 and (record.native is None or _hashable(record.native)):
        for key in keys_of(record):
            leave_owners(key, record)
    if record.kind.alive is not None:
        record.kind.gone.append(record.id)
    record.obj = record.release = record.parent = None


def _not_entered(
    kind: ObjectType,
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
    kind: ObjectType,
    place: Any,
    obj: Any,
    release: Callable[[Any], object] | None,
    parent: Pin | Pins | None,
    extra: Extra | None,
    begun: list[bool] | None = None,
) -> None:
    """Have `obj` released at its place at once, past every limit: nobody will own it."""
    extra = extra_for(release, extra) or Extra()
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


def insist_thrice(attempt: Callable[[], bool]) -> None:
    """K6, where `Registry.later` is not at hand. `register` and factories write it out: an interrupt on
    entering this function is repeated by nothing in it, and would leave the object to the keeper.
    """
    try:
        insist(attempt)
    except BaseException:
        try:
            insist(attempt)
        except BaseException:
            insist(attempt)
    finally:
        attempt = None  # type: ignore[assignment]  # K3


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


__all__ = ["enter"]
