"""What observers are told: one frozen class per event.

    def observe(event):
        match event:
            case Leak(type_name=name, site=site):
                print(f"{name} from {site} was forgotten")
            case Stuck() | Failed():
                page_somebody(event)

An event is made after it was counted, and reaches observers on a thread of their own
(`lifecycle.observe.observers`). An observer gets every class, also those of later versions: end a `match`
with ``case _``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from lifecycle.stats import Value

__all__ = [
    "Closed",
    "Detached",
    "Error",
    "Failed",
    "HeldTooLong",
    "Kept",
    "Late",
    "Leak",
    "ObserverFailed",
    "Orphaned",
    "OverBudget",
    "Panic",
    "Pressure",
    "Registered",
    "Released",
    "Retry",
    "Returned",
    "Shutdown",
    "Stuck",
    "ThreadInterrupted",
    "TypesCapped",
]

ALWAYS, STATES, FINALIZERS = "always", "log_state_changes", "log_finalizers"
"""When an event is logged: always, or where that switch of `SafetyConfig` is on."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event(Value):
    """Something that happened to an object or, where `id` is 0, to a manager or to several objects."""

    kind: ClassVar[str] = ""
    """Its name in the log, where it is called ``lifecycle.<kind>``."""
    level: ClassVar[str] = "info"
    """Its level in the log."""
    logged: ClassVar[str] = ALWAYS
    """When it is logged: ``always``, or the switch of `SafetyConfig` that has to be on."""
    leak: ClassVar[bool] = False
    """True if leak hooks are told of it."""

    manager: str
    """The manager's name."""
    time: float
    """When it was counted: Unix time in seconds."""
    id: int = 0
    """The object's id."""
    type_name: str = ""
    """The type of the object, or of all objects that are meant."""
    name: str | None = None
    """The object's own name."""
    details: Mapping[str, Any] = attrs.field(factory=dict)
    """What `SafetyManager.report` was given beside the fields of the class."""
    source: object = attrs.field(default=None, repr=False, eq=False)
    """Of a leak: something that was allocated at the object's registration, for
    `tracemalloc.get_object_traceback`."""

    @property
    def fields(self) -> dict[str, Any]:
        """What the event has beside the facts of every event, by name: as it stands in the log."""
        own = {name: getattr(self, name) for name in own_fields(type(self))}
        return {**{name: value for name, value in own.items() if value is not None}, **self.details}


# A class without fields of its own has its base's constructor: attrs would compile the same one again.


class Registered(Event):
    """An object was registered."""

    __slots__ = ()
    kind: ClassVar[str] = "registered"
    level: ClassVar[str] = "debug"
    logged: ClassVar[str] = STATES


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Closed(Event):
    """It was closed to new accesses while it was still held."""

    kind: ClassVar[str] = "closed"
    level: ClassVar[str] = "debug"
    logged: ClassVar[str] = STATES
    cause: str | None = None
    """What closed it: a word of `Cause`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _End(Event):
    cause: str | None = None
    """What closed it: a word of `Cause`."""
    duration: float | None = None
    """Seconds that its release took; 0.0 where none ran."""
    reason: str | None = None
    """Why it ended like this; empty where there is nothing to say."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _EndOfSeveral(_End):
    count: int | None = None
    """Where several ended at once and alike: how many."""
    types: str | None = None
    """Where several ended at once and alike: how many of which type, in words."""


class Released(_End):
    """Its release has run."""

    __slots__ = ()
    kind: ClassVar[str] = "released"
    level: ClassVar[str] = "debug"
    logged: ClassVar[str] = FINALIZERS


class Detached(_EndOfSeveral):
    """Its ownership moved out; nothing was released."""

    __slots__ = ()
    kind: ClassVar[str] = "detached"
    level: ClassVar[str] = "debug"
    logged: ClassVar[str] = STATES


class Orphaned(_EndOfSeveral):
    """Its queue or fence was lost, or it belongs to the parent of a forked process: it is never released."""

    __slots__ = ()
    kind: ClassVar[str] = "orphaned"
    level: ClassVar[str] = "warning"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failed(_EndOfSeveral):
    """A release, a cleanup or a safe finalizer raised."""

    kind: ClassVar[str] = "failed"
    level: ClassVar[str] = "error"
    traceback: str | None = None
    """Of what was raised, as Python prints it."""


class Stuck(_EndOfSeveral):
    """A release passed its deadline."""

    __slots__ = ()
    kind: ClassVar[str] = "stuck"
    level: ClassVar[str] = "error"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Error(Event):
    """A declared error passed the panic boundary."""

    kind: ClassVar[str] = "error"
    level: ClassVar[str] = "info"
    logged: ClassVar[str] = STATES
    reason: str | None = None
    """The error, as ``Type: message``."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Panic(Event):
    """An undeclared exception was contained."""

    kind: ClassVar[str] = "panic"
    level: ClassVar[str] = "error"
    reason: str | None = None
    """Where it came from, and the exception as ``Type: message``."""
    traceback: str | None = None
    """Its traceback, as Python prints it."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Retry(Event):
    """A release said that nothing was released; it is tried again."""

    kind: ClassVar[str] = "retry"
    level: ClassVar[str] = "info"
    logged: ClassVar[str] = FINALIZERS
    reason: str | None = None
    """What it said."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Late(Event):
    """A stuck release came back after all."""

    kind: ClassVar[str] = "late"
    level: ClassVar[str] = "warning"
    reason: str | None = None
    """With what it failed; empty if it did not."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _LeakReport(Event):
    level: ClassVar[str] = "warning"
    leak: ClassVar[bool] = True
    site: str | None = None
    """The line that registered it, as ``file.py:31``; empty where that was not noted."""
    count: int | None = None
    """How many of this type and line this report stands for."""
    accesses: tuple[str, ...] | None = None
    """The last accesses, where they are noted."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Leak(_LeakReport):
    """Its last handle was garbage-collected unclosed or never can be, since the object itself refers to it;
    or it was left at exit."""

    kind: ClassVar[str] = "leak"
    reason: str | None = None
    """How it came about: ``dropped without close()``, left at exit (what, and why), or the object refers to
    its own handle (through what)."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeldTooLong(_LeakReport):
    """It lives for longer than the ``max_age`` of its type."""

    kind: ClassVar[str] = "held_too_long"
    age: float | None = None
    """Seconds since its registration."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Returned(Event):
    """An alarm of `HeldTooLong` is withdrawn: the object has ended."""

    kind: ClassVar[str] = "returned"
    level: ClassVar[str] = "info"
    leak: ClassVar[bool] = True
    held: float | None = None
    """Seconds for which it lived."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Kept(Event):
    """It is released by its own deallocation (`DROPPED`), was closed a second ago, and others still refer to
    it."""

    kind: ClassVar[str] = "kept"
    level: ClassVar[str] = "warning"
    site: str | None = None
    """The line that registered it, as ``file.py:31``; empty where that was not noted."""
    holders: tuple[str, ...] | None = None
    """Who refers to it: variables, attributes, containers, as far as they can be found."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OverBudget(Event):
    """An object was taken over budget, by ``over="report"``."""

    kind: ClassVar[str] = "over_budget"
    level: ClassVar[str] = "warning"
    memory: str | None = None
    """The `MemoryManager`."""
    type: str | None = None
    """The type of the budget, or of all types together."""
    size: int | None = None
    """Bytes of the object."""
    limit: str | None = None
    """The limit that it passes."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Pressure(Event):
    """A `MemoryManager` passed its high-water mark."""

    kind: ClassVar[str] = "pressure"
    level: ClassVar[str] = "info"
    logged: ClassVar[str] = STATES
    memory: str | None = None
    """The `MemoryManager`."""
    bytes: int | None = None
    """Bytes tracked then."""
    objects: int | None = None
    """Objects tracked then."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Shutdown(Event):
    """What the end of the interpreter could not end in order."""

    kind: ClassVar[str] = "shutdown"
    level: ClassVar[str] = "warning"
    released: int | None = None
    """How many objects were released."""
    failed: int | None = None
    """How many releases failed."""
    stuck: int | None = None
    """How many are stuck."""
    leaked: int | None = None
    """How many are held still."""
    errors: tuple[str, ...] | None = None
    """What failed beside releases."""
    running: tuple[str, ...] | None = None
    """Threads that were told to stop and run still."""
    duration: float | None = None
    """Seconds that it took."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TypesCapped(Event):
    """There are more types than labels: the rest share ``_other_`` in the metrics."""

    kind: ClassVar[str] = "types_capped"
    level: ClassVar[str] = "warning"
    limit: int | None = None
    """How many have a label of their own."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ObserverFailed(Event):
    """An observer, or counting itself, raised."""

    kind: ClassVar[str] = "observer_failed"
    level: ClassVar[str] = "error"
    hook: str | None = None
    """The observer."""
    event_kind: str | None = None
    """The event that it was told of."""
    error: str | None = None
    """What was raised."""
    traceback: str | None = None
    """Its traceback, as Python prints it."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ThreadInterrupted(Event):
    """Another thread raised an exception in one of the library's own (``PyThreadState_SetAsyncExc``), or that
    has ended and is replaced."""

    kind: ClassVar[str] = "thread_interrupted"
    level: ClassVar[str] = "error"
    thread: str | None = None
    """The name of the library's thread."""
    error: str | None = None
    """What was raised there."""


def own_fields(cls: type[Event]) -> tuple[str, ...]:
    """The names of what a class of events has beside the facts of every event."""
    return _OWN[cls]


_COMMON = frozenset(attribute.name for attribute in attrs.fields(Event))
CLASSES: Mapping[str, type[Event]] = {globals()[name].kind: globals()[name] for name in __all__}
"""The class of each kind."""
_ALL: tuple[type[Event], ...] = (Event, *CLASSES.values())
_OWN = {
    cls: tuple(
        attribute.name for attribute in attrs.fields(cls) if attribute.name not in _COMMON and attribute.init
    )
    for cls in _ALL
}


def event_of(kind: str, fields: Mapping[str, Any], **facts: Any) -> Event:
    """An event of `kind` with the common `facts`. What of `fields` its class does not have becomes a detail,
    so no field of a program can break the making."""
    cls = CLASSES[kind]
    own = _OWN[cls]
    mine = {name: value for name, value in fields.items() if name in own}
    if len(mine) < len(fields):
        facts["details"] = {name: value for name, value in fields.items() if name not in own}
    return cls(**facts, **mine)
