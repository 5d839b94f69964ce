"""The tables of one manager, the kinds of its objects, and who owns which native object in this process.

Data only: what acts on it stands in the layers above.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lifecycle import _world
from lifecycle._waiting import WaitTable
from lifecycle.cell.cell import Core, Record
from lifecycle.config import SafetyConfig
from lifecycle.errors import LimitError
from lifecycle.states import ENDED

if TYPE_CHECKING:
    from lifecycle.stats import TypeCount


class Kind:
    """A type's name within one manager, with its policy. Written by the manager, read on every access."""

    __slots__ = (
        "alive",
        "budget",
        "component",
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
        self.component = False  # what it counts are components (`manager/components.py`)
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
        self.waiters = WaitTable()  # for the end of an object, by its id
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
        # What the recursion limit left no call for, as function and arguments: the keeper calls it. Entered by assigning to
        # ``later[0:0]``, which is no call.
        self.later: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
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


def open_records(registry: Registry) -> list[Record]:
    """The records that have not ended, newest first: children before their parents."""
    return [
        record for record in reversed(_world.snapshot(registry.records.values())) if record.phase not in ENDED
    ]
