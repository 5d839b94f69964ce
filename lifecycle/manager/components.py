"""Components: what is made over a manager, opens something of its own and has to be closed, such as captures
and pools.

**The problem.** A component that its manager can call back is kept by that callback. Nobody could drop it
then: one that was forgotten would live for ever, with its thread and its native objects, and nobody would be
told.

**The idea.** The callback knows the component weakly (`keeping.weakly`). What the component has opened is
ended by a function that does not refer to it, and that function is the release of a record, whose only handle
the component holds. So a component that is dropped drops a last handle: it is reported as a leak, with the
place where it was made, and what it opened is ended once, at a place, with a claim, also at exit. No code of
ours runs as it dies.

**Not an object of the program's.** Until it is dropped the record is not counted and `SafetyManager.objects`
does not show it. A component that was closed leaves no trace. From the drop on it is an object like any
other: the event of the drop counts its registration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.handle import Handle
from lifecycle._core.keeping import Uncopied
from lifecycle._core.record import SHUT_CELL, Cell, Core, DoorRef, Pin, Record
from lifecycle._core.release import end_without_release
from lifecycle._core.shares import FIRST_SHARE
from lifecycle._core.tables import ObjectType
from lifecycle.states import BY_CLOSE, DETACHED, ENDED


class Membership(Uncopied):
    """What a component holds of its manager: dropped without `leave`, it is reported, and what the component
    has opened is ended. All methods may be called on any thread and at any moment."""

    __slots__ = ("__weakref__", "_handle")

    _remedy = "a component has one membership"

    def __init__(self, handle: Handle[Any]) -> None:
        self._handle = handle

    def leave(self) -> None:
        """The component has been closed: nothing is reported and nothing is called. Leaving twice is leaving
        once."""
        handle = self._handle
        record = handle._record
        registry = record.kind.registry
        me: list[object] = []
        if record.phase in ENDED:
            return
        if record.cause is not None:  # its manager was closing before it: then it is counted, so its end is
            end_without_release(record, DETACHED, BY_CLOSE, "")
            return
        try:
            if registry.claims.setdefault(record.id, me) is not me or record.phase in ENDED:
                return
            # Said before anything is called: its ticket means nothing.
            record.cause = BY_CLOSE
            record.phase = DETACHED
            record.door = record.obj = record.release = None
            handle._cell = SHUT_CELL
            registry.records.pop(record.id, None)
        finally:
            # Nothing is called here: an interrupt finds it undone or done.
            try:
                if registry.claims[record.id] is me:
                    del registry.claims[record.id]
            except KeyError:  # another's, which has gone meanwhile
                me = []

    def __repr__(self) -> str:
        return f"<Membership of {self._handle!r}>"


def enter_component(
    kind: ObjectType, place: Any, end: Callable[[], object], name: str | None, start: bool
) -> Membership:
    """Enter what ends a component, as `registration.enter` does an object, but without counting it. `start`:
    see that the manager's threads run, by which its drop is noticed at once. Without them the next
    registration or question notices it."""
    registry = kind.registry
    kind.component = True
    core = record = pin = cell = handle = None
    id = 0
    try:
        if start and not registry.started:
            registry.tend()
        site = None if registry.config.leak_level == "off" else runtime.site_of(runtime.caller())
        id = runtime.next_id()
        now = runtime.monotonic()
        pin = Pin()
        core = Core(pin, registry.unroot)
        registry.roots.add(core)
        record = Record(core, place.put)
        # Filled in before anything else is called, so that no interrupt leaves a ticket without facts.
        record.id = id
        record.kind = kind
        record.obj = end
        record.release = _call
        record.place = place
        record.parent = None
        record.door = record.cause = record.phase = record.outcome = record.shut_code = None
        record.born = now
        record.shut = record.begun = record.ended = 0.0
        record.site = site
        record.name = name
        record.native = record.extra = None
        record.size = record.counted = 0
        record.owning = 1
        pin.core = core
        pin.record = record
        cell = Cell()
        cell.life = record.born
        cell.pin = pin
        door = DoorRef(cell, registry.tell_drop)
        door.id = id
        record.door = door
        handle = object.__new__(Handle)
        handle._cell = cell
        handle._record = record
        handle._token = FIRST_SHARE
        registry.records[id] = record
        return Membership(handle)
    except BaseException:
        if record is not None and id not in registry.records:
            record.phase = DETACHED  # it was not entered: its ticket must mean nothing
        raise
    finally:
        core = pin = cell = handle = None  # a kept traceback must keep nothing alive


def _call(end: Callable[[], object]) -> None:
    """The release."""
    end()
