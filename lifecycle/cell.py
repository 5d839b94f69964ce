"""The cell: one registered object, its door, and the reference count that decides everything.

**The problem.** A native object must be released once, by one party, when nobody uses it any more, while users come and go on
many threads, interrupts strike between any two bytecodes and the collector runs whenever it likes.

**The idea.** A lease is a reference. Each object has a private `Pin`; whoever needs the native object holds the pin, and
CPython's own count says when the last is gone. ::

    Handle ─► Cell (the door) ─► Pin ◄─ lease, view, child's record, fence entry
                                 │ ▲
                                 ▼ ·weakref
                                 Core ···weakref··· Record (facts, the raw object)

Access is one load (``pin = cell.pin``), closing one store (``cell.pin = None``).

**From death to ticket without a bytecode.** `Record` is itself a weak reference on the core, and its callback is the C method
that appends it to its place's mailbox: the ticket *is* the record. Nothing can interrupt that.

**Why pin and core.** In a garbage cycle the collector fires weakref callbacks *before* the cycle's ``__del__`` methods, which may
still read a view. So the core is never part of garbage: `Registry.roots` refers to it until the pin is garbage or dead, and the
pin until it is really taken apart. The core is itself the weak reference on the pin whose callback, a C method, takes it out of
the roots; and it dies by count alone, after the last ``__del__``.

**One claim.** A release belongs to whoever wins ``claims.setdefault(id, me)``. (Not ``live.pop(id)``: an interrupt between the
pop's return and the store of its result loses the object for good, and no handler can know whether it won. After an interrupted
`setdefault` the handler still can: it asks whether the entry is its own.)

**Shares.** An object that was never shared has no entry in `Registry.shared`, and its only handle closes it by entering `SHUT`
there: one indivisible step. Otherwise the entry lists one positive token for each open share. A new share is first announced
by its negative token and becomes positive only if a share that it came from is still open *after* the announcement; whoever
takes the last token out shuts the door. So no share can be born into a shutting door, and none is shut with it, without a lock.

Relied on: single operations of dicts, sets and deques on keys that are compared in C are indivisible, with and without the GIL
(``in`` and ``remove`` of a *list* are not, without it: they walk);
CPython checks for signals after calls and on backward jumps, not between a ``FOR_ITER`` or a load and the store that follows.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle import _world
from lifecycle._world import Site, monotonic
from lifecycle.config import SafetyConfig
from lifecycle.errors import LimitError
from lifecycle.states import (
    BY_CLOSE,
    BY_DROP,
    CLOSING,
    DUE,
    ENDED,
    INVALID,
    POISONED,
    VALID,
    Cause,
    ObjectState,
)

if TYPE_CHECKING:
    from lifecycle.stats import TypeCount


class Pin:
    """What every holder holds. Refers to the core, and to the record for the raw object."""

    __slots__ = ("__weakref__", "core", "record")
    core: Core
    record: Record


class Core(weakref.ref[Pin]):
    """Dies by reference count alone; its death is the object's. Lives in `Registry.roots`, out of every garbage cycle that its
    pin gets into, and its callback takes it out."""

    __slots__ = ("__weakref__",)


class Cell:
    """The door. `pin` is None once it is shut, and never anything else again (I1)."""

    __slots__ = ("__weakref__", "pin")
    pin: Pin | None


raw_pin: Callable[[Cell], Pin | None] = Cell.__dict__["pin"].__get__
"""The door itself: the pin even while somebody uses the object exclusively (`exclusive.py`), None once it is shut."""
set_raw_pin: Callable[[Cell, Pin | None], None] = Cell.__dict__["pin"].__set__


class ObservedRef(weakref.ref[Any]):
    """`Record.obj` of an observed object, which is owned elsewhere. Its callback posts it as an event when the object is gone."""

    __slots__ = ("alive", "id")
    id: int
    alive: (
        Callable[[Any], object] | None
    )  # False once its owner has ended the native, as far as that can be asked


class DoorRef(weakref.ref[Cell]):
    """How an id finds its door; its callback posts it as an event, when the last handle is gone and nobody had closed."""

    __slots__ = ("id",)
    id: int


SHUT_CELL = Cell()
"""The door of every closed handle."""
SHUT_CELL.pin = None


class Extra:
    """The facts that few objects need."""

    __slots__ = (
        "accesses",
        "attempts",
        "cleanups",
        "failure",
        "fence_polls",
        "fences",
        "line",
        "not_before",
        "parent_id",
        "reason",
        "retry_on",
        "slot",
        "trace",
        "turn_order",
        "turns",
        "unlimited",
    )

    def __init__(self) -> None:
        self.accesses: deque[tuple[int, float, Site | None]] | None = (
            None  # the last ones, where they are noted
        )
        self.attempts = 0
        self.failure = "error"  # what a failed release is counted as
        self.cleanups: list[Callable[[], object]] = []
        self.fences: list[Any] = []  # all must have signalled before the release
        self.fence_polls = 0
        self.line: Any = None  # timelines.Line: where it waits for its turn to ask
        self.not_before = 0.0  # no earlier than this (monotonic) is it tried again
        self.parent_id = 0
        self.reason = ""
        self.retry_on: tuple[type[BaseException], ...] = ()
        self.slot: tuple[dict[object, None], object] | None = (
            None  # the object's entry among those its factory counts
        )
        self.trace = ""
        self.turns: dict[None, list[int]] = {}  # who uses the object exclusively
        self.turn_order: Any = None
        self.unlimited = False  # past every limit of its type


class Record(weakref.ref[Core]):
    """The facts of one object and the library's only reference to it. As a weak reference on the core it is also the ticket."""

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
        "shut_site",
        "site",
        "size",
    )
    id: int
    kind: Kind
    obj: Any  # moved out, and its last reference dropped, by the place alone (I4)
    release: Callable[[Any], object] | None
    place: Any  # queues.Place
    parent: Pin | None  # held until the release is done, so that no parent goes before its children (I2)
    door: DoorRef | None
    cause: Cause | None
    phase: ObjectState | None  # what was decided; None while the core and the door decide
    outcome: Any  # how the release itself came out, before anything is tidied: a state, or what it raised
    owning: int  # -1 observed, 0 borrowed, 1 it has (or had) a release, so to forget it leaks, 2 it is in `owners` as well
    born: float
    shut: float
    begun: float
    ended: float
    site: Site | None
    shut_site: Site | None
    name: str | None
    native: Any
    size: int
    extra: Extra | None
    counted: int  # written by the keeper alone; 0 not yet

    def more(self) -> Extra:
        """The record's `Extra`, made when first needed."""
        extra = self.extra
        if extra is None:
            made = Extra()
            with _extras:
                if self.extra is None:
                    self.extra = made
            extra = self.extra
        return extra


_extras = _world.process_lock()
"""Two threads must not make two. Held for one store; whoever waits for it, in the collector too, waits for no longer."""


REGISTERED, ENDED_TOO, LISTED = 1, 2, 3
"""What `Record.counted` says: registration counted; its end too; registration counted, and listed among the live ones."""


class Kind:
    """A type's name within one manager, with its policy. Written by the manager, read on every access."""

    __slots__ = (
        "alive",
        "budget",
        "count",
        "errors",
        "first_sites",
        "max_age",
        "max_bytes",
        "max_live",
        "no_validator",
        "note",
        "plain",
        "registry",
        "sampled",
        "site_mask",
        "timer",
        "type_name",
        "validate",
    )

    def __init__(self, registry: Registry, type_name: str, count: TypeCount) -> None:
        self.registry = registry
        self.type_name = type_name
        self.count = count
        self.errors: tuple[type[BaseException], ...] = ()
        self.validate: Callable[[Any], object] | None = None
        self.no_validator: Callable[[Any], object] | None = None  # what `validate` is when nobody has set one
        self.note: Callable[[Record], None] | None = None  # told of accesses, where `validate` is not None
        self.timer: Any = None  # profiling.Profiler
        self.max_age: float | None = None
        self.max_live: int | None = None
        self.max_bytes: int | None = None
        self.alive: dict[int, int] | None = None  # id -> bytes, kept only while a limit is set
        self.budget = _world.RLock()
        self.sampled = 0  # registrations seen, as far as sampling cares: not exact
        self.site_mask = -1
        self.first_sites = 0
        self.plain: Registry | None = (
            registry  # the registry while no validator is set: one comparison clears an access
        )

    def watch(self) -> None:
        """Have accesses take the way of validators, where they are noted or timed, or not if nobody wants that any more."""
        watched = self.note is not None or self.timer is not None
        self.no_validator = always_valid if watched else None
        if self.validate is None or self.validate is always_valid:
            self.validate = self.no_validator
        self.plain = self.registry if self.validate is None else None

    def reserve(self, id: int, size: int) -> None:
        """Count object `id` of `size` bytes against the limits, or raise `LimitError` and leave them as they were."""
        alive = self.alive
        if alive is None:
            return
        with self.budget:
            alive[id] = size
            over_live = self.max_live is not None and len(alive) > self.max_live
            over_bytes = self.max_bytes is not None and sum(_world.snapshot(alive.values())) > self.max_bytes
            if over_live or over_bytes:
                del alive[id]
                held = sum(_world.snapshot(alive.values()))
                limit = f"max_live={self.max_live}" if over_live else f"max_bytes={self.max_bytes}"
                raise LimitError(
                    f"type {self.type_name!r} is at its limit {limit}: {len(alive)} objects with {held} bytes are not released "
                    f"yet and {size} more were asked for; close some (the oldest is object "
                    f"{min(_world.snapshot(alive), default=0)}) or raise the "
                    "limit with policy(). The object was not taken"
                )


SHUT: dict[int, None] = {}
"""The shares of an object whose only share was closed. Never changed."""

FIRST_SHARE = 1
next_share: Callable[[], int] = itertools.count(FIRST_SHARE + 1).__next__


def always_valid(obj: object) -> None:
    """A validator that refuses nothing."""


class Registry:
    """The tables of one manager. Data only: what acts on them stands in the layers above."""

    def __init__(self, name: str, config: SafetyConfig) -> None:
        self.name = name
        self.config = config
        self.records: dict[int, Record] = {}  # live and, until retention ends, ended ones
        self.claims: dict[int, object] = {}
        self.roots: set[Core] = set()
        self.shared: dict[int, dict[int, None]] = {}
        self.kinds: dict[str, Kind] = {}
        self.waiters: dict[int, list[Any]] = {}
        self.kept: dict[int, Any] = {}  # handles that the manager keeps
        self.entered: deque[Record] = (
            deque()
        )  # registrations and ends to be counted, and whatever else happens
        self.ended: deque[Record] = deque()
        self.events: deque[Any] = deque()
        # The callbacks of weak references, made once: each object would carry its own of 72 bytes otherwise.
        self.unroot: Callable[[Core], None] = self.roots.discard
        self.tell_drop: Callable[[Any], None] = self.events.append
        self.delayed: deque[tuple[float, Record]] = (
            deque()
        )  # retries and unsignalled fences, put back by the keeper
        self.waiting: deque[Record | None] = deque()  # tickets that any thread may run
        self.timer: Any = None  # for the kinds that come
        self.started = False
        self.closed = False
        self.tend: Callable[[], None] = (
            _nothing  # called by a registration that sees work waiting, see `enter`
        )
        self.refuse_closed: Callable[[Any], None] = _nothing
        self.wake: Callable[[], None] = _nothing
        self.abandon: Callable[..., None] = _nothing  # have an object released that nobody will own
        self.relieve: Callable[[], None] = _nothing

    def pending(self) -> int:
        """Events that wait to be counted."""
        return len(self.entered) + len(self.ended) + len(self.events)


def _nothing(*_: object) -> None:
    """Nobody to call yet."""


HIGH_WATER = 4096
"""Events waiting to be counted above which whoever posts one calls `Registry.relieve`."""

owners: dict[object, Record] = {}
"""Who owns a native object, in this process: by identity of the Python object, and by (place, type, native name)."""

NO_IDENTITY = frozenset({int, str, bytes, float, bool, complex, type(None), tuple, frozenset, range})
"""Types whose equal values may be one object: being the same object says nothing about being the same native."""


def native_key(record: Record) -> tuple[int, str, Any]:
    """Under what, beside the Python object's identity, a record with a native name owns it in `owners`."""
    return (id(record.place), record.kind.type_name, record.native)


def shut(record: Record, cell: Cell, cause: Cause, site: Site | None) -> None:
    """Shut the door: no access starts from here on (I1). The first cause stays; calling again changes nothing."""
    try:
        if record.cause is None:
            record.shut = monotonic()
            record.cause = cause
        if record.shut_site is None:
            record.shut_site = site
        record.door = None  # the cell's death tells nothing new now
        cell.pin = None
    except BaseException:
        cell = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise


def give_back(tokens: dict[int, None], token: int) -> bool:
    """Take one share out of an object's open ones; True when none is left, and the door is the caller's to shut. Giving back
    twice is giving back once."""
    tokens.pop(token, None)
    return not tokens


def add_share(record: Record, cell: Cell, parent: int | None, token: int) -> bool:
    """Enter one more share, `token`, made from the share `parent` (None: from any that is open); False if none was open."""
    shared = record.kind.registry.shared
    tokens = shared.get(record.id)
    if tokens is None:
        tokens = shared.setdefault(record.id, {FIRST_SHARE: None})
    if tokens is SHUT or raw_pin(cell) is None:
        if record.phase in ENDED:
            shared.pop(record.id, None)  # it had been forgotten, with all its shares
        return False
    try:
        tokens[-token] = None
        if parent in tokens if parent is not None else max(_world.snapshot(tokens)) > 0:
            tokens[token] = None
            tokens.pop(-token, None)
            return True
        drop_share(record, cell, token)
        return False
    except BaseException:
        cell = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise


def drop_share(record: Record, cell: Cell, token: int) -> None:
    """Take back a share that came to nothing, however far it had come. Whoever takes the last out shuts the door."""
    tokens = record.kind.registry.shared.get(record.id)
    if tokens is None or tokens is SHUT:
        return
    try:
        ours = tokens.pop(-token, 0) is None
        ours = tokens.pop(token, 0) is None or ours
        if ours and not tokens:
            shut(record, cell, BY_CLOSE, None)  # the closer saw our announcement and left the door to us
    finally:
        cell = None  # type: ignore[assignment]


def state_of(record: Record) -> ObjectState:
    """The state as decided (`Record.phase`) or else as core and door tell it now."""
    phase = record.phase
    if phase is not None:
        return phase
    if record() is None:
        return DUE
    door = record.door
    if record.cause is None and door is not None:
        cell = door()
        if cell is not None and raw_pin(cell) is not None:
            return VALID
    return INVALID if record.cause in POISONED else CLOSING


def describe(record: Record) -> str:
    """``object 7 (gst.Sample "capture", native 0x7f3a10)``: how every message names an object."""
    name = f' "{record.name}"' if record.name else ""
    native = record.native
    try:
        shown = (
            ""
            if native is None
            else f", native {native:#x}"
            if type(native) is int
            else f", native {native!r}"
        )
    except Exception:  # a message about an object must not fail because of what the user called it
        shown = f", native <{type(native).__name__}>"
    return f"object {record.id} ({record.kind.type_name}{name}{shown})"


def ago(since: float) -> str:
    """A monotonic time as «3 ms ago»."""
    seconds = max(0.0, _world.monotonic() - since)
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms ago"
    return f"{seconds:.1f} s ago"


def fate(record: Record) -> str:
    """What became of an object, when, why and where: «released 3 ms ago by close() at app.py:31»."""
    state = state_of(record)
    if state is VALID:
        return "valid"
    site = _world.describe_site(record.shut_site)
    cause = record.cause or BY_DROP
    by = (
        "as its last handle was dropped"
        if cause is BY_DROP
        else f"by {cause}()"
        if cause in _CALLS
        else f"by {cause}"
    )
    text = (
        f"{state} {ago(record.ended if state in ENDED and record.ended else record.shut or record.born)} {by}"
    )
    if site:
        text += f" at {site}"
    extra = record.extra
    if extra is not None and extra.reason:
        text += f" ({extra.reason})"
    return text


_CALLS = frozenset({BY_CLOSE, Cause.UNREGISTER, Cause.INVALIDATE, Cause.DETACH})
