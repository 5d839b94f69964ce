"""The cell: one registered object, its door, and the reference count that decides everything.

**The problem.** A native object must be released once, by one thread, when it is no longer used, while users
come and go on many threads, interrupts strike between any two bytecodes and the collector runs whenever it
likes.

**The idea.** A lease is a reference. Each object has a private `Pin`; each user of the native object holds
the pin, and CPython's own count says when the last one is gone. ::

    Handle ─► Cell (the door) ─► Pin ◄─ lease, view, child's record, fence entry
                                 │ ▲
                                 ▼ ·weakref
                                 Core ···weakref··· Record (facts, the raw object)

Access is one load (``pin = cell.pin``) and a look at `Record.cause`, closing two stores: the cause, and
``cell.pin = None``.

**From death to ticket without a bytecode.** `Record` is itself a weak reference on the core, and its callback
is the C method that appends it to its place's mailbox: the ticket *is* the record. Nothing can interrupt
that.

**Why pin and core.** In a garbage cycle the collector fires weakref callbacks *before* the cycle's
``__del__`` methods, which may still read a view. So the core is never part of garbage: `Registry.roots`
refers to it until the pin is garbage or dead, and the pin until it is really taken apart. The core is itself
the weak reference on the pin whose callback, a C method, takes it out of the roots; and it dies by count
alone, after the last ``__del__``.

**One claim.** A release belongs to the thread that wins ``claims.setdefault(id, me)``. (Not ``live.pop(id)``:
an interrupt between the pop's return and the store of its result loses the object for good, and no handler
can know whether it won. After an interrupted `setdefault` the handler still can: it asks whether the entry is
its own.)

Relied on: single operations of dicts, sets and deques on keys that are compared in C are indivisible, with
and without the GIL (``in`` and ``remove`` of a *list* are not, without it: they walk); CPython checks for
signals after calls and on backward jumps, not between a ``FOR_ITER`` or a load and the store that follows.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime
from lifecycle._core.runtime import Site, monotonic
from lifecycle.states import Cause, ObjectState

if TYPE_CHECKING:
    from lifecycle._core.tables import ObjectType


class Pin:
    """What every holder holds. Refers to the core, and to the record for the raw object."""

    __slots__ = ("__weakref__", "core", "record")
    core: Core
    record: Record


class Pins(tuple[Pin, ...]):
    """What a record holds of several parents."""

    __slots__ = ()


class Held(tuple[Any, ...]):
    """What a view of a buffer holds: pin, site and the buffer's own export. A tuple lets go of its last item
    first, so the release that follows the pin finds no export."""

    __slots__ = ()


class Core(weakref.ref[Pin]):
    """Dies by reference count alone; its death is the object's. Lives in `Registry.roots`, out of every
    garbage cycle that its pin gets into, and its callback takes it out."""

    __slots__ = ("__weakref__",)


class Cell:
    """The door. `pin` is None once it is shut, and never anything else again (I1)."""

    __slots__ = ("__weakref__", "life", "pin")
    life: float  # the very float that is `Record.born`: while this cell lives, two refer to it (`doors.py`)
    pin: Pin | None
    behind: Pin | None
    """The same slot under a second name, which no subclass has for anything else: what `raw_pin` returns, in
    one load."""


Cell.behind = Cell.__dict__["pin"]
raw_pin: Callable[[Cell], Pin | None] = Cell.__dict__["pin"].__get__
"""The door itself: the pin even while the object is in exclusive use (`_core/exclusive.py`), None once it is
shut."""
set_raw_pin: Callable[[Cell, Pin | None], None] = Cell.__dict__["pin"].__set__


class ObservedRef(weakref.ref[Any]):
    """`Record.obj` of an observed object, which is owned elsewhere. Its callback posts it as an event when
    the object is gone."""

    __slots__ = ("alive", "id")
    id: int
    # False once its owner has ended the native, as far as that can be asked.
    alive: Callable[[Any], object] | None


class DoorRef(weakref.ref[Cell]):
    """How an id finds its door; its callback posts it as an event, when the last handle is gone without a
    close."""

    __slots__ = ("id",)
    id: int


SHUT_CELL = Cell()
"""The door of every closed handle."""
SHUT_CELL.pin = None


class Bell(weakref.ref[Core]):
    """Tells a worker of the death of an object that any thread may release: its callback is the `put` of the
    workers' queue, a method of C that wakes a thread.

    It is for promptness alone. The ticket is in its place's mailbox with or without it, a moment later
    perhaps without the GIL: so it names the object by its id, and does not keep the record.
    """

    __slots__ = ("id",)
    id: int


def silence(record: Record) -> None:
    """Take the bell of `record` off: a thread that drops its object now checks itself."""
    record.kind.registry.bells.pop(record.id, None)


def arm(record: Record) -> bool:
    """Have a worker woken as soon as nobody holds the object of `record` any more. False: nobody does.
    Callable on any thread, inside a collection too."""
    registry = record.kind.registry
    core = record()
    try:
        if core is not None and record.id not in registry.bells:
            bell = Bell(core, registry.ring)
            bell.id = record.id
            registry.bells[record.id] = bell
    finally:
        core = None  # K3; if it dies here, both callbacks are called
    return record() is not None


NONE_YET: Any = ()
"""A container of `Extra` that nobody has needed so far; `Record.made` makes it. Of each of the thousands of
objects that wait for fences the collector would look at three more."""


class Extra:
    """The facts that few objects need."""

    __slots__ = (
        "accesses",
        "attempts",
        "cleanups",
        "dropped",
        "failure",
        "fence_polls",
        "fences",
        "keep_alive",
        "let_go",
        "line",
        "not_before",
        "panic",
        "parent_ids",
        "quiet",
        "reason",
        "retry_for",
        "retry_on",
        "retry_until",
        "root",
        "slot",
        "stand_ins",
        "struck",
        "trace",
        "turn_line",
        "turn_order",
        "turns",
        "unlimited",
    )

    @property
    def parent_id(self) -> int:
        """The first parent, 0 without one."""
        return self.parent_ids[0] if self.parent_ids else 0

    def __init__(self) -> None:
        # The last ones, where they are noted.
        self.accesses: deque[tuple[int, float, Site | None]] | None = None
        self.attempts: int = 0
        self.failure: str = "error"  # what a failed release is counted as
        self.cleanups: list[Callable[[], object]] = NONE_YET
        self.dropped: Any = None  # dropped.Dropping, of an object whose own deallocation is its release
        self.fences: list[Any] = []  # all must have signalled before the release
        self.fence_polls: int = 0
        self.keep_alive: tuple[Any, ...] = ()
        self.let_go: bool = False
        """Without the GIL: nobody holds the object any more, though its core waits for the thread that made
        it, to die."""
        self.line: Any = None  # timelines.Line: where it waits for its turn to ask
        self.not_before: float = 0.0  # no earlier than this (monotonic) is it tried again
        self.panic: str = ""  # of what type the exception was that made it invalid
        self.parent_ids: tuple[int, ...] = ()
        self.quiet: bool = False  # to drop it is no leak: it belongs to a proxy that others hold
        self.reason: str = ""
        self.retry_on: tuple[type[BaseException], ...] = ()
        self.retry_for: float | None = (
            None  # seconds from the first failure on; None: as long as there is time
        )
        self.retry_until: float = 0.0  # (monotonic)
        self.root: Callable[[], Any] | None = None  # the way to its `doors.Root`
        # The object's entry among those its factory counts, or its facade keeps: what has the `pop` of a
        # dict, and the key.
        self.slot: tuple[Any, object] | None = None
        self.stand_ins: list[weakref.ref[Pin]] = NONE_YET  # pins beside that of the cell (`doors.py`)
        # A cleanup and what it raised, until it is decided what that means.
        self.struck: tuple[Callable[[], object], BaseException] | None = None
        self.trace: str = ""
        self.turns: dict[None, list[int]] = NONE_YET  # who uses the object exclusively
        self.turn_line: Any = None  # waiting.Line: who waits for that to end
        self.turn_order: Any = None
        self.unlimited: bool = False  # past every limit of its type


PLAIN: Any = object()
"""`Record.outcome` of a plain end, one that a single count is enough for: closed as the last share, and
released then and there. Stored by `Handle.close` alone, while it has the claim and after the record is in
`Registry.plain_ends`."""


class Record(weakref.ref[Core]):
    """The facts of one object and the library's only reference to it. As a weak reference on the core it is
    also the ticket."""

    __slots__ = (
        "begun",
        "born",
        "cause",
        "counted",
        "door",
        "ended",
        "extra",
        "id",
        "kind",
        "name",
        "native",
        "obj",
        "outcome",
        "owning",
        "parent",
        "phase",
        "place",
        "release",
        "shut",
        "shut_at",
        "shut_code",
        "site",
        "size",
    )
    id: int
    kind: ObjectType
    obj: Any  # moved out, and its last reference dropped, by the place alone (I4)
    release: Callable[[Any], object] | None
    place: Any  # places.place.Place
    parent: (
        Pin | Pins | None
    )  # held until the release is done, so that no parent goes before its children (I2)
    door: DoorRef | None
    cause: Cause | None
    phase: ObjectState | None  # what was decided; None while the core and the door decide
    outcome: Any  # how the release itself came out, before anything is tidied: a state, or what it raised
    # -1 observed, 0 borrowed, 1 it has (or had) a release, so to forget it leaks, 2 it is in `owners` as
    # well, above that and is a number itself, or has an address (`tables.BY_NUMBER` and the next).
    owning: int
    born: float
    shut: float
    begun: float
    ended: float
    site: Site | None
    # Where it was closed, in two slots: a tuple would be one object more for the collector to track.
    shut_code: CodeType | None
    shut_at: int
    name: str | None
    native: Any
    size: int
    extra: Extra | None
    counted: int  # written by the keeper alone; 0 not yet

    @property
    def shut_site(self) -> Site | None:
        """Where the door was shut."""
        code = self.shut_code
        return None if code is None else (code, self.shut_at)

    def more(self) -> Extra:
        """The record's `Extra`, made when first needed."""
        extra = self.extra
        if extra is None:
            made = _making.setdefault(self.id, Extra())
            if self.extra is None:
                self.extra = made
            _making.pop(self.id, None)
            extra = self.extra
        return extra

    def made(self, field: str, kind: Callable[[], Any]) -> Any:
        """The container `field` of the record's `Extra`, made when first needed."""
        extra = self.more()
        if getattr(extra, field) is NONE_YET:
            key = (self.id, field)
            made = _making.setdefault(key, kind())
            if getattr(extra, field) is NONE_YET:
                setattr(extra, field, made)
            _making.pop(key, None)
        return getattr(extra, field)


_making: dict[object, Any] = {}
"""By object: the `Extra`, or the container in it, that is being stored. Of two threads that make one, the one
that comes before the entry is taken out gets that of the other; who comes later finds it stored. So there is
never a second, and no lock, which CPython 3.14 would leave taken where a signal strikes at the entry of its
block (cpython#148874)."""


stores_meet = runtime.free_threaded
"""True if another thread may come between a look and a store behind it. With the GIL only while stores are
watched, which makes calls of them (`lifecycle.testing.check_transitions`)."""
_first: dict[int, Cause] = {}
"""By object: the cause that is being stored. Of two causes at one moment the first stays, as with `_making`.
"""


REGISTERED, ENDED_TOO, LISTED = 1, 2, 3
"""What `Record.counted` says: registration counted; its end too; registration counted, and listed among the
live ones."""


def shut(record: Record, cell: Cell | None, cause: Cause, site: Site | None) -> bool:
    """Shut the door: no access starts from here on (I1). The first cause stays; calling again changes
    nothing. Without the cell (`doors.py`) nobody gets in any more, either; its pin is let go once it is
    found, or when its last handle goes. True when `cause` is what it was shut by."""
    try:
        if record.cause is None:
            now = monotonic()
            if stores_meet:
                first = _first.setdefault(record.id, cause)
                if record.cause is None:
                    record.cause = first
                    record.shut = now
                _first.pop(record.id, None)
            elif record.cause is None:  # asked again: nothing is called between this and the store
                record.cause = cause
                record.shut = now
        if record.shut_code is None and site is not None:
            record.shut_at = site[1]
            record.shut_code = site[0]
        if cell is None:
            return record.cause is cause
        record.door = None  # the cell's death tells nothing new now
        cell.pin = None
        if runtime.free_threaded and record.extra is not None and record.extra.root is not None:
            # It was made on another thread, where it dies when that runs Python again: nobody is to wait for
            # that.
            root = record.extra.root()
            if root is not None:
                root.core = None
        return record.cause is cause
    except BaseException:
        cell = None  # a kept traceback must keep nothing alive
        raise
