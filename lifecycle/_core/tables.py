"""The tables of one manager, the types of its objects, and the owner of each native object in this process.

Data only: what acts on it stands in the layers above.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime
from lifecycle._core.numbers import NO_IDENTITY, as_number, function_address
from lifecycle._core.record import Bell, Pin, Record
from lifecycle._core.waiting import WaitTable
from lifecycle.errors import LimitError
from lifecycle.states import ENDED

if TYPE_CHECKING:
    from lifecycle._core.counters import TypeCount
    from lifecycle.config import SafetyConfig


class ObjectType:
    """A type's name within one manager, with its policy. Written by the manager, read on every access.

    What other threads may change is read once and then used: ``timer = kind.timer``, and not ``kind.timer``
    twice.
    """

    __slots__ = (
        "alive",
        "budget",
        "closer",
        "component",
        "count",
        "errors",
        "first_sites",
        "forked",
        "gone",
        "held",
        "left",
        "max_age",
        "max_bytes",
        "max_live",
        "next_look",
        "note",
        "plain",
        "planned",
        "registry",
        "reserving",
        "site_mask",
        "timer",
        "type_name",
        "validate",
        "validator",
    )

    def __init__(self, registry: Registry, type_name: str, count: TypeCount) -> None:
        self.registry: Registry = registry
        self.type_name: str = type_name
        self.count: TypeCount = count
        self.component: bool = False  # what it counts are components (`manager/components.py`)
        self.errors: tuple[type[BaseException], ...] = ()
        self.validator: Callable[[Any], object] | None = None
        """The policy's. What accesses ask is `validate`."""
        self.validate: Callable[[Any], object] | None = None
        self.note: Callable[[Record], None] | None = None  # told of accesses, where `validate` is not None
        self.timer: Any = None  # profiling.Profiler
        self.forked: bool = False  # its objects are kept for ever in a forked child
        self.max_age: float | None = None
        self.max_live: int | None = None
        self.max_bytes: int | None = None
        self.alive: dict[int, int] | None = None
        """What counts against the limits: bytes by id, kept only while a limit is set. Changed under
        `budget`."""
        self.gone: deque[int] = deque()
        """The ids of what has ended and may still be in `alive`. The thread that ends an object puts its id
        in, perhaps twice."""
        self.held: int | None = 0
        """The sum of `alive`; None where an interrupt left it unknown. Changed under `budget`."""
        self.reserving: object = None
        """The reservation that runs now. Another one, on the same thread, may come in between: in a handler
        or in ``__del__``."""
        self.budget: Any = runtime.RLock()
        self.left: int = 1
        """Registrations up to the next that calls `look`, that one included. Not exact, with threads."""
        self.next_look: int = 1  # which that will be, counted from the first of all
        self.site_mask: int = -1
        self.first_sites: int = 0
        self.planned: CodeType | None = None
        """The code of the last release that was found to be a plain function of one argument."""
        self.closer: object = 0  # the code that closed last, known to be no code of ours
        # The registry while no validator is set: one comparison clears an access.
        self.plain: Registry | None = registry

    def look(self) -> bool:
        """Called by the registration at which `left` comes to 0: have it count what is to be counted, and say
        when the next is to call. Return True if its site is to be kept."""
        at, mask = self.next_look, self.site_mask
        if at < self.first_sites or not mask:
            step = 1
        else:
            every = mask + 1 if 0 < mask < COUNT_EVERY else COUNT_EVERY
            step = every - at % every
        self.next_look = at + step
        self.left = step
        if not at % COUNT_EVERY:
            registry = self.registry
            if not runtime.collecting:
                registry.count_here()
            if len(registry.entered) > HIGH_WATER:
                registry.tend()
        return not at & mask or at <= self.first_sites

    def watch(self) -> None:
        """Have accesses take the way of validators if there is one, or if they are noted or timed. Called
        after `validator`, `note` or `timer` was changed."""
        with self.budget:
            watched = self.note is not None or self.timer is not None
            self.validate = self.validator or (always_valid if watched else None)
            self.plain = self.registry if self.validate is None else None

    def limit(self, records: Iterable[Record]) -> None:
        """Have the limits hold, or not, after they were changed. `records` are those that have not ended, the
        oldest first."""
        with self.budget:
            self.reserving = self.held = None
            if (
                self.max_live is None and self.max_bytes is None
            ) or not self.registry.config.enable_state_checking:
                self.alive = None
                self.gone.clear()
            elif self.alive is None:
                # At once, so that whatever ends from here on is noted; and None again if it is not filled.
                self.alive = alive = {}
                try:
                    for record in records:
                        if record.kind is self:
                            alive[record.id] = record.size
                            if record.phase in ENDED:
                                self.gone.append(record.id)
                except BaseException:
                    self.alive = None
                    raise

    def reserve(self, id: int, size: int, again_with_room: bool = True) -> None:
        """Count object `id` of `size` bytes against the limits, or raise `LimitError` and leave them as they
        were. What nobody holds any more is released first (`room.py`).

        Exact with threads and interrupts: `held` is unknown (None) from the first change to the last, and
        between the last look at what is held and the entry nothing is called. Costs the same with any number
        alive.
        """
        with self.budget:
            for again in RETRIES:
                try:
                    alive, held = self.alive, self.held
                    if alive is None:
                        return None
                    self.held = None
                    self.reserving = me = object()
                    number = len(self.gone)
                    if number:
                        # One call: nothing falls between what is taken out of the one and out of the other.
                        gone = itertools.islice(iter(self.gone.popleft, None), number)
                        freed = sum(map(alive.pop, gone, itertools.repeat(0)))
                        held = None if held is None else held - freed
                    if held is None:
                        held = sum(runtime.snapshot(alive.values()))
                    live = len(alive)
                    max_live, max_bytes = self.max_live, self.max_bytes
                    if self.reserving is me or not again:
                        over_live = max_live is not None and live >= max_live
                        over = over_live or (max_bytes is not None and held + size > max_bytes)
                        if not over:
                            alive[id] = size
                            if self.reserving is me:
                                self.held = held + size
                                return None
                            if not again:
                                self.held = None
                                return None
                            # Up to 3.10 an interrupt may fall on a jump as well.
                            alive.pop(id, None)
                        elif self.reserving is me:
                            self.held = held
                            break
                        elif not again:
                            self.held = None
                            break
                    self.held = None
                except IndexError:
                    # Another one on this thread has emptied `gone`.
                    self.held = None
                    if not again:
                        return None
                except BaseException:
                    self.held = None
                    raise
        if again_with_room:
            self.registry.make_room(self)
            return self.reserve(id, size, False)  # whoever made it: others may have ended theirs by now
        raise self._refusal(max_live if over_live else None, max_bytes, live, held, size)

    def _refusal(
        self, max_live: int | None, max_bytes: int | None, live: int, held: int | None, size: int
    ) -> LimitError:
        over_live = max_live is not None
        limit = f"max_live={max_live}" if over_live else f"max_bytes={max_bytes}"
        asked = "" if over_live else f" and {size} more were asked for"
        holders = self.registry.in_the_way(self)
        out = f": {', '.join(holders)}{', …' if len(holders) < live else ''}" if holders else ""
        never = not over_live and max_bytes is not None and size > max_bytes
        error = LimitError(
            f"type {self.type_name!r} is at its limit {limit}: {live} objects with {held} bytes are "
            f"out{asked}{out}. {'It can never be taken' if never else 'Close one'}"
            f"{': raise' if never else ', or raise'} the limit with policy(). The object was not taken."
        )
        error.type_name = self.type_name
        error.holders = holders
        return error


RETRIES = range(16, -1, -1)
"""How often a registration counts anew because another one on its thread came in between. The last attempt
believes what it sees: a handler that registers before every line may not keep the other for ever."""


def always_valid(obj: object) -> None:
    """A validator that refuses nothing."""


class Registry:
    """The tables of one manager. Data only: what acts on them stands in the layers above."""

    __slots__ = (
        "__weakref__",
        "abandon",
        "bells",
        "claims",
        "closed",
        "config",
        "count_here",
        "delayed",
        "ended",
        "entered",
        "events",
        "in_the_way",
        "kept",
        "kinds",
        "last_kind",
        "later",
        "make_room",
        "name",
        "plain_ends",
        "records",
        "refuse_closed",
        "relieve",
        "ring",
        "roots",
        "shared",
        "show",
        "started",
        "still",
        "tell_drop",
        "tell_plain_end",
        "tend",
        "timer",
        "unroot",
        "waiters",
        "waiting",
        "wake",
    )

    def __init__(self, name: str, config: SafetyConfig) -> None:
        self.name = name
        self.config = config
        self.records: dict[int, Record] = {}  # live and, until retention ends, ended ones
        self.claims: dict[int, object] = {}
        self.roots: set[weakref.ref[Pin]] = set()  # cores, and `doors.Root`
        self.shared: dict[int, Any] = {}  # by id: `shares.Tokens`
        self.kinds: dict[str, ObjectType] = {}
        self.last_kind: ObjectType | None = None  # of what `register` took last
        self.waiters: WaitTable = WaitTable()  # for the end of an object, by its id
        self.kept: dict[int, Any] = {}  # handles that the manager keeps
        # Registrations and ends to be counted, and whatever else happens.
        self.entered: deque[Record] = deque()
        self.ended: deque[Record] = deque()
        self.plain_ends: deque[Record] = deque()  # see `record.PLAIN`
        self.tell_plain_end: Callable[[Record], None] = self.plain_ends.append
        self.events: deque[Any] = deque()
        # The callbacks of weak references, made once: each object would carry its own of 72 bytes otherwise.
        self.unroot: Callable[[weakref.ref[Pin]], None] = self.roots.discard
        self.tell_drop: Callable[[Any], None] = self.events.append
        # Retries and unsignalled fences, put back by the keeper.
        self.delayed: deque[tuple[float, Record]] = deque()
        self.waiting: deque[Record | None] = deque()  # tickets that any thread may run
        # By id, of objects that any thread may release: what tells a worker of their death (`record.Bell`).
        self.bells: dict[int, Bell] = {}
        self.ring: Callable[[Any], None] = _nothing  # the `put` of the workers' queue
        # By id: what is released by its own deallocation, and is still referred to (`dropped.py`).
        self.still: dict[int, Record] = {}
        # What the recursion limit left no call for, as function and arguments: the keeper calls it. Entered
        # by assigning to ``later[0:0]``, which is no call.
        self.later: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.timer: Any = None  # for the kinds that come
        self.started = False
        self.closed = False
        # Called by a registration that sees work waiting, see `enter`.
        self.tend: Callable[[], None] = _nothing
        self.refuse_closed: Callable[[Any], None] = _nothing
        self.wake: Callable[[], None] = _nothing
        self.count_here: Callable[[], None] = _nothing  # called by one registration in `COUNT_EVERY`
        self.abandon: Callable[..., None] = _nothing  # have an object released that nobody will own
        self.relieve: Callable[[], None] = _nothing
        # By a registration at the limit of its type: release what is due; who holds the rest.
        self.make_room: Callable[[ObjectType], bool] = _no_room
        self.show: Callable[[Any], None] = _nothing  # have a component appear in metrics
        self.in_the_way: Callable[[ObjectType], tuple[str, ...]] = _nobody

    def pending(self) -> int:
        """Events that wait to be counted."""
        return len(self.entered) + len(self.ended) + len(self.plain_ends) + len(self.events)


def _nothing(*_: object) -> None:
    """Placeholder until the manager installs its callback."""


def _no_room(kind: ObjectType) -> bool:
    """Placeholder until the manager installs the function that makes room."""
    return False


def _nobody(kind: ObjectType) -> tuple[str, ...]:
    """Placeholder until the manager installs the function that names the holders."""
    return ()


HIGH_WATER = 4096
"""Events waiting to be counted above which whoever posts one calls `Registry.relieve`."""

COUNT_EVERY = 128
"""Of so many registrations of a type one counts the plain ends, while what it counts is in the processor's
cache. A power of two."""


class Lives(tuple[Record, ...]):
    """Several owners of one native that may live side by side. Never changed but replaced."""

    __slots__ = ()


owners: dict[object, Any] = {}
"""Who owns a native object, in this process: a record, or `Lives`. Under which keys says `keys_of`."""
own_first = owners.setdefault
"""``own_first(key, record) is record``: it is the owner. A method of what is imported is looked up slowly."""

BY_NUMBER = 3
"""`Record.owning` of a number that was registered without a native name: it is one itself."""
BY_ADDRESS, WITH_ADDRESS = 4, 5
"""`Record.owning` of what was registered by, or with, a number that is known to be an address."""
_NAMES = frozenset({int, str, bytes, float, bool, complex, tuple, frozenset})


def keys_of(record: Record) -> list[object]:
    """Under what a record is in `owners`, as long as it has its object.

    An object with an identity is its own key, ``id(obj)``. An address is the same native in the whole
    process, whatever its type, place and manager; its key is its complement, which is no ``id``. Any other
    native name is one in the world of its place, and of a type. A number without a native name is one in
    that world, and of a release: two that are given back by the same function are the same. 0 and negative
    numbers say that there is none. What is released by its own deallocation has its keys noted before.
    """
    extra = record.extra
    if extra is not None and extra.dropped is not None and extra.dropped.keys is not None:
        return extra.dropped.keys  # type: ignore[no-any-return]
    if record.owning == BY_ADDRESS:
        return [~record.native]
    if record.owning == BY_NUMBER:
        number = record.native
        return [(record.place.world, _of_release(record.release), number)] if number > 0 else []
    keys: list[object] = []
    if type(record.obj) not in NO_IDENTITY:
        keys.append(id(record.obj))
    if record.native is not None:
        number = record.native
        if type(number) not in _NAMES:
            number = as_number(number)
        if record.owning == WITH_ADDRESS:
            keys.append(~number)
        elif type(number) is not int or number > 0:
            keys.append((record.place.world, record.kind.type_name, number))
    return keys


def _of_release(release: Any) -> object:
    # Each look-up in a library of ctypes makes a new function of the same address.
    address = function_address(release)
    if address is not None:
        return ("C", address)
    try:
        hash(release)
    except TypeError:
        return id(release)
    return release


def owners_under(key: object) -> tuple[Record, ...]:
    """Who is in `owners` under `key`."""
    there = owners.get(key)
    return () if there is None else there if type(there) is Lives else (there,)


def open_records(registry: Registry) -> list[Record]:
    """The records that have not ended, newest first: children before their parents."""
    return [
        record
        for record in reversed(runtime.snapshot(registry.records.values()))
        if record.phase not in ENDED
    ]
