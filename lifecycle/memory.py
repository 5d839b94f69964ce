"""`MemoryManager`: native bytes that the collector cannot see, counted, limited, and given back under pressure.

**Counting.** An object counts from before it is registered until the step that ends it, so the figures never lag behind what is
allocated. Ends are noted in a mailbox, since they happen at any place and any moment; whoever looks next settles them, under
a lock that is held for arithmetic alone. An object is counted and uncounted by straight lines without a call, in which no
interrupt can fall, and each entry says whether it is counted; so live figures and peaks are exact, whatever strikes where.

**Limits.** A budget is a number of bytes, of objects, or both, for one type or for all together. Above the high-water mark the
pressure callbacks run, until the low-water mark is reached: pools trim themselves, and a collection may free what only garbage
holds. What would pass a limit even so is refused with the holders' names, waits for its turn, or is reported, as configured.

**Relied on**: `dict` and `deque` operations are indivisible; every callback runs without a lock of ours.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from lifecycle import _world
from lifecycle.cell.fates import describe
from lifecycle.checks import check_callback, check_facts, check_timeout
from lifecycle.errors import BudgetError, ConfigError, RegistrationError
from lifecycle.facades import Facade
from lifecycle.manager.manager import SafetyManager
from lifecycle.manager.policies import UNSET, Unset
from lifecycle.manager.shutdown import info_of
from lifecycle.places.place import BACKGROUND, DEFAULT, WhenDue
from lifecycle.places.queues import PlaceLike
from lifecycle.places.releases import nesting
from lifecycle.states import ENDED
from lifecycle.stats import ObjectInfo

T = TypeVar("T")

OVER = ("refuse", "block", "report")
NAMED_HOLDERS = 3
"""How many holders a refusal names: the largest."""
RELIEF_WAIT = 0.5
"""Seconds for which a refusal is put off while releases run or wait for a worker: what was given up may be among them."""
LOOK_AGAIN = 0.5
"""Seconds after which a caller that waits for room looks by itself, should a wake-up have been lost to an interrupt."""


def _flag(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"MemoryConfig.{attribute.name} is True or False, not {value!r}")


def _limit(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
        raise ConfigError(f"MemoryConfig.{attribute.name} is a whole number above 0 or None, not {value!r}")


def _share(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigError(
            f"MemoryConfig.{attribute.name} is a share of the budget, above 0 and up to 1, not {value!r}"
        )


def _choice(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in OVER:
        raise ConfigError(f"MemoryConfig.{attribute.name} is one of {', '.join(OVER)}, not {value!r}")


@attrs.frozen(kw_only=True)
class MemoryConfig:
    """How a `MemoryManager` behaves. Impossible values raise `ConfigError`."""

    track_object_lifecycle: bool = attrs.field(default=True, validator=_flag)
    """False: objects are registered and released all the same, but not counted, and no budget holds."""
    max_bytes: int | None = attrs.field(default=None, validator=_limit)
    """Native bytes that may be unreleased at a time, all types together; None for no limit."""
    max_live: int | None = attrs.field(default=None, validator=_limit)
    """Objects that may be unreleased at a time, all types together; None for no limit."""
    over: str = attrs.field(default="refuse", validator=_choice)
    """What becomes of an object over budget: ``refuse`` (`BudgetError`), ``block`` (it waits for room, first come first
    served), or ``report`` (it is taken, and an ``over_budget`` event is told)."""
    block_timeout: float | None = attrs.field(default=5.0)
    """Seconds for which ``block`` waits before it refuses; None for ever."""
    high_water: float = attrs.field(default=0.9, validator=_share)
    """The share of a budget from which on the pressure callbacks run."""
    low_water: float = attrs.field(default=0.7, validator=_share)
    """The share of a budget at which they have done enough."""
    collect: bool = attrs.field(default=False, validator=_flag)
    """Run the garbage collector as the last pressure callback: it cannot know what native memory its garbage holds."""

    def __attrs_post_init__(self) -> None:
        if self.block_timeout is not None:
            check_timeout(self.block_timeout)
        if self.low_water > self.high_water:
            raise ConfigError(
                f"MemoryConfig.low_water ({self.low_water!r}) lies above high_water ({self.high_water!r})"
            )


@attrs.frozen
class MemoryTypeStats:
    """The figures of one type, or of all together."""

    bytes: int
    objects: int
    peak_bytes: int
    peak_objects: int
    total_objects: int
    """Tracked since the beginning."""
    bytes_limit: int | None
    objects_limit: int | None


@attrs.frozen
class MemoryStats:
    """The figures of a `MemoryManager` at one moment, exact for what is tracked through it."""

    name: str
    all: MemoryTypeStats
    types: Mapping[str, MemoryTypeStats]
    waiting: int
    """Callers that wait for room now."""
    refused: int
    reported: int
    """Objects taken over budget, by ``over="report"``."""
    pressure_runs: int
    """How often the pressure callbacks were run."""
    resident: int | None
    """Bytes of the process in physical memory, tracked or not; None where that cannot be known."""


class _Account:
    """What one type, or all together, holds and may hold. Written under the lock."""

    __slots__ = ("bytes", "max_bytes", "max_live", "name", "objects", "peak_bytes", "peak_objects", "total")

    def __init__(self, name: str, max_bytes: int | None = None, max_live: int | None = None) -> None:
        self.name = name
        self.bytes = self.objects = self.peak_bytes = self.peak_objects = self.total = 0
        self.max_bytes = max_bytes
        self.max_live = max_live

    def over(self, nbytes: int, objects: int, share: float = 1.0) -> str:
        """The limit of which more than `share` would be used with so much more, in words; empty when none would."""
        if self.max_bytes is not None and self.bytes + nbytes > self.max_bytes * share:
            return f"max_bytes={self.max_bytes}"
        if self.max_live is not None and self.objects + objects > self.max_live * share:
            return f"max_live={self.max_live}"
        return ""

    def stats(self) -> MemoryTypeStats:
        return MemoryTypeStats(
            self.bytes,
            self.objects,
            self.peak_bytes,
            self.peak_objects,
            self.total,
            self.max_bytes,
            self.max_live,
        )


class _Entry:
    """One object's part in the accounts."""

    __slots__ = ("account", "counted", "id", "size")

    def __init__(self, account: _Account, size: int) -> None:
        self.account = account
        self.size = size
        self.counted = False
        self.id = 0


class MemoryManager(Facade):
    """Tracks native memory: objects known by their ids, bytes and counts, budgets.

    Parameters
    ----------
    manager:
        The `SafetyManager` to register with; None makes one, which is closed with this.
    config:
        A `MemoryConfig`; None takes the defaults, which have no limit.
    name:
        Its name; the manager's by default.

    A context manager that closes itself. All methods may be called on any thread and at any moment; on threads that must not wait
    (`never_wait`, the collector) nothing blocks, and pressure callbacks run on a thread of their own.
    """

    kind = "memory"

    def __init__(
        self,
        manager: SafetyManager | None = None,
        config: MemoryConfig | None = None,
        *,
        name: str | None = None,
    ) -> None:
        if config is not None and not isinstance(config, MemoryConfig):
            raise ConfigError(f"MemoryManager(config=) takes a MemoryConfig, not {config!r}")
        self._config = config or MemoryConfig()
        self._lock = _world.RLock()
        self._entries: dict[int, _Entry] = {}
        self._gone: deque[int] = deque()
        self._all = _Account("all types", self._config.max_bytes, self._config.max_live)
        self._accounts: dict[str, _Account] = {}
        self._waiters: dict[int, _world.TimedQueue[None]] = {}
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._relieving: dict[None, object] = {}
        self._pressed = False
        self._refused = self._reported = self._runs = 0
        super().__init__(manager, name)

    @property
    def config(self) -> MemoryConfig:
        """The configuration it was made with."""
        return self._config

    # -- objects ------------------------------------------------------------------------------------------------------------

    def track_object(
        self,
        obj: T,
        type_name: str | None = None,
        size: int = 0,
        *,
        name: str | None = None,
        release: Callable[[T], object] | None = None,
        release_on: PlaceLike = BACKGROUND,
        native: Any = None,
        parent: Any = None,
        timeout: float | WhenDue | None = DEFAULT,
    ) -> int:
        """Take ownership of `obj`, which holds `size` native bytes, and return its id. Everything else as in
        `SafetyManager.register`; `parent` may also be an id that was given here.

        Raises `BudgetError` when it does not fit, with ``over="block"`` after `timeout` seconds
        (`MemoryConfig.block_timeout` unless given; None for ever), `ClosedError` when this or the manager is closed, also
        while it waits, and what `register` raises. In all these cases but one the object is still yours: what came too late
        for a `close` has been released.
        """
        check_facts(name, size)
        if timeout is not DEFAULT:
            check_timeout(timeout)
        if not self._config.track_object_lifecycle:
            return self._register(obj, type_name, name, size, release, release_on, native, parent, _nothing)
        if type_name is None:
            type_name = self._manager._kinds.name_of(obj)
        entry = _Entry(self._account(type_name), size)

        def noted(id: int) -> None:
            entry.id = id
            self._entries[id] = entry

        try:
            self._reserve(entry, timeout)
            return self._register(obj, type_name, name, size, release, release_on, native, parent, noted)
        except BaseException:
            if not entry.id:  # otherwise it leaves at its end
                with self._lock:
                    self._uncount(entry)
                self._wake()
            raise
        finally:
            obj = parent = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def release_object(self, id: int, *, timeout: float | WhenDue | None = DEFAULT) -> bool:
        """Shut the object for everybody and release it; True means released. With `timeout` those who hold it are waited for.
        Raises `UnknownObjectError` for an id that was not given here."""
        return self._unregister(id, timeout)

    # -- budgets ------------------------------------------------------------------------------------------------------------

    def set_budget(
        self,
        type_name: str | None = None,
        *,
        max_bytes: int | Unset | None = UNSET,
        max_live: int | Unset | None = UNSET,
    ) -> None:
        """Limit the bytes and objects of a type, or, without one, of all together; what is not given stays, None takes a limit
        away. What is live already stays live. Raises `RegistrationError` for a limit that is no number above 0."""
        for rule, value in (("max_bytes", max_bytes), ("max_live", max_live)):
            if value is None or isinstance(value, Unset):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise RegistrationError(
                    f"set_budget({rule}=) takes a whole number above 0 or None, not {value!r}; to take nothing "
                    "more, close() it"
                )
        account = self._all if type_name is None else self._account(type_name)
        with self._lock:
            if not isinstance(max_bytes, Unset):
                account.max_bytes = max_bytes
            if not isinstance(max_live, Unset):
                account.max_live = max_live
        self._wake()

    def add_pressure_callback(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Have ``fn()`` called when a budget passes its high-water mark, or would pass its limit: to close what can be
        spared, such as the idle items of a pool. In the order in which they were added, until the low-water marks are
        reached; on the thread that tracks the object. One that raises is counted as a panic. Returns a function that takes
        it back."""
        check_callback(fn, "pressure callback")
        key = _world.next_id()
        self._callbacks[key] = fn

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def relieve(self) -> int:
        """Run the pressure callbacks now, whatever the marks say; how many bytes were released meanwhile."""
        before = self.stats_of_all().bytes
        self._relieve(to_low_water=False)
        return max(0, before - self.stats_of_all().bytes)

    # -- knowing ------------------------------------------------------------------------------------------------------------

    def stats(self) -> MemoryStats:
        """Exact figures of this moment. Costs what types there are."""
        with self._lock:
            self._settle()
            figures = {name: account.stats() for name, account in _world.snapshot(self._accounts.items())}
            everything = self._all.stats()
        return MemoryStats(
            name=self._name,
            all=everything,
            types=MappingProxyType(figures),
            waiting=len(self._waiters),
            refused=self._refused,
            reported=self._reported,
            pressure_runs=self._runs,
            resident=resident_memory(),
        )

    def stats_of_all(self) -> MemoryTypeStats:
        """`stats` of all types together alone, for hot paths."""
        with self._lock:
            self._settle()
            return self._all.stats()

    def holders(self, type_name: str | None = None, limit: int | None = None) -> tuple[ObjectInfo, ...]:
        """What holds the memory, the largest first; of one type or of all, up to `limit`. Costs what is tracked."""
        entries = [
            entry
            for entry in _world.snapshot(self._entries.values())
            if entry.counted and (type_name is None or entry.account.name == type_name)
        ]
        entries.sort(key=lambda entry: (-entry.size, entry.id))
        found: list[ObjectInfo] = []
        for entry in entries:
            record = self._manager._registry.records.get(entry.id)
            if record is not None and record.phase not in ENDED and (limit is None or len(found) < limit):
                found.append(info_of(record))
        return tuple(found)

    # -- counting -----------------------------------------------------------------------------------------------------------

    def _account(self, type_name: Any) -> _Account:
        self._manager._kinds.named(type_name)  # refuses what is no type name
        return self._accounts.get(type_name) or self._accounts.setdefault(type_name, _Account(type_name))

    def _count(self, entry: _Entry) -> None:
        account, everything, size = entry.account, self._all, entry.size
        entry.counted = True
        account.bytes += size
        account.objects += 1
        account.total += 1
        everything.bytes += size
        everything.objects += 1
        everything.total += 1
        for one in (account, everything):
            if one.bytes > one.peak_bytes:
                one.peak_bytes = one.bytes
            if one.objects > one.peak_objects:
                one.peak_objects = one.objects

    def _uncount(self, entry: _Entry) -> None:
        account, everything, size = entry.account, self._all, entry.size
        if not entry.counted:
            return
        entry.counted = False
        account.bytes -= size
        account.objects -= 1
        everything.bytes -= size
        everything.objects -= 1

    def _settle(self) -> None:
        """Uncount what has ended. Under the lock, but a handler or ``__del__`` on this thread may come in between; what it
        takes out is uncounted by it, and doing that twice is doing it once."""
        id = 0
        try:
            number = len(self._gone)  # and not those that come meanwhile, which may be without end
            if number:
                for id in itertools.islice(
                    iter(self._gone.popleft, 0), number
                ):  # taken and stored in one step
                    entry = self._entries.get(id)
                    if entry is not None:
                        self._uncount(entry)
                        self._entries.pop(id, None)
        except IndexError:
            id = 0  # none is left
        except BaseException:
            self._gone.append(id)
            raise
        if self._pressed and not self._above(self._config.low_water):
            self._pressed = False

    def _left(self, id: int) -> None:
        self._gone.append(id)
        self._wake()

    def _wake(self) -> None:
        """Have whoever waits for room look again."""
        if self._waiters:
            for waiter in _world.snapshot(self._waiters.values()):
                waiter.put(None)

    def _above(self, share: float) -> bool:
        return any(
            account.over(0, 0, share) for account in (self._all, *_world.snapshot(self._accounts.values()))
        )

    # -- room ---------------------------------------------------------------------------------------------------------------

    def _reserve(self, entry: _Entry, timeout: float | WhenDue | None) -> None:
        """Count `entry`, as soon as it may be; or raise."""
        relieved = False
        while True:
            self._refuse_closed()
            problem, pressed = self._try(entry, None, take_anyhow=relieved and self._config.over == "report")
            if entry.counted:
                break
            if not relieved:
                relieved = True
                self._relieve()
            elif _world.must_not_wait() or not (self._config.over == "block" or self._on_the_way()):
                raise self._refusal(entry, problem)
            else:
                patience: float | None = RELIEF_WAIT
                if self._config.over == "block":
                    patience = self._config.block_timeout if isinstance(timeout, WhenDue) else timeout
                answer = self._await_room(entry, patience)
                if isinstance(answer, str):
                    raise self._refusal(entry, f"{answer}, and {patience:g} s have passed")
                pressed = answer
                break
        if problem and self._config.over == "report":
            self._reported += 1
            self._manager.report(
                "over_budget", memory=self._name, type=entry.account.name, size=entry.size, limit=problem
            )
        if pressed:
            self._press()

    def _try(self, entry: _Entry, turn: int | None, take_anyhow: bool = False) -> tuple[str, bool]:
        """Count `entry` if it fits and nobody waits who came before: what is in the way otherwise, and whether the
        high-water mark was passed."""
        with self._lock:
            self._settle()
            problem = entry.account.over(entry.size, 1) or self._all.over(entry.size, 1)
            first = next(iter(_world.snapshot(self._waiters)), turn)
            if not problem and first != turn:
                problem = "others that wait for room"
            if not problem or take_anyhow:
                self._count(entry)
            pressed = entry.counted and not self._pressed and self._above(self._config.high_water)
            self._pressed = self._pressed or pressed
        return problem, pressed

    def _on_the_way(self) -> bool:
        """Whether a release runs or waits for a worker, such as of what a pool has just given up."""
        workers = self._manager._machinery.workers
        return bool(len(workers) or any(worker.busy_since for worker in _world.snapshot(workers.healthy)))

    def _await_room(self, entry: _Entry, timeout: float | None) -> bool | str:
        """Wait for our turn and for room: whether the high-water mark was passed by that, or what was still in the way at the
        end. First come, first served, so that a large one is not
        passed by small ones for ever."""
        until = None if timeout is None else _world.monotonic() + timeout
        turn = _world.next_id()
        waiter: _world.TimedQueue[None] = _world.TimedQueue()
        step = 0.02 if _world.free_threaded else LOOK_AGAIN
        try:
            self._waiters[turn] = waiter
            while True:
                self._refuse_closed()
                problem, pressed = self._try(entry, turn)
                if entry.counted:
                    return pressed
                left = step if until is None else min(step, until - _world.monotonic())
                if left <= 0:
                    return problem
                try:
                    waiter.get(timeout=left)
                except _world.Empty:
                    continue
        finally:
            self._waiters.pop(turn, None)
            self._wake()

    def _refusal(self, entry: _Entry, problem: str) -> BudgetError:
        self._refused += 1
        account = entry.account if entry.account.over(entry.size, 1) else self._all
        holders = self.holders(None if account is self._all else account.name, NAMED_HOLDERS)
        records = self._manager._registry.records
        named = [
            f"{describe(records[info.id])} with {info.size} bytes" for info in holders if info.id in records
        ]
        more = account.objects - len(named)
        return BudgetError(
            f"no room for {entry.size} bytes of type {entry.account.name!r} in {self!r}: {problem}, and {account.objects} "
            f"objects with {account.bytes} bytes are not released ({account.name}). The largest: {', '.join(named) or 'none'}"
            f"{f', and {more} more' if more > 0 and named else ''}. Release some, raise the budget with set_budget(), or "
            'choose over="block". The object was not taken',
            holders,
        )

    # -- pressure -----------------------------------------------------------------------------------------------------------

    def _press(self) -> None:
        """The high-water mark was passed."""
        figures = self.stats_of_all()
        self._manager.report("pressure", memory=self._name, bytes=figures.bytes, objects=figures.objects)
        self._relieve()

    def _relieve(self, to_low_water: bool = True) -> None:
        """Run the pressure callbacks, on one thread at a time, as far as they are needed; apart, if this one must not wait."""
        if _world.must_not_wait():
            if (self._callbacks or self._config.collect) and not self._relieving:
                _world.run_apart(self._relieve)
            return
        mine = object()
        try:
            if self._relieving.setdefault(None, mine) is not mine:
                return
            self._runs += 1
            steps = [*_world.snapshot(self._callbacks.values())]
            if self._config.collect:
                steps.append(self._collect)
            for step in steps:
                if to_low_water and not self._above_now():
                    break
                try:
                    step()
                except Exception as error:
                    self._manager.report_panic("memory pressure callback", error)
        finally:
            if self._relieving.get(None) is mine:
                self._relieving.pop(None, None)

    def _collect(self) -> None:
        """Run the collector, and what it has made due as far as that may run here. What belongs elsewhere is released there."""
        _world.collect()
        if not nesting():
            self._manager._any_thread.run_some(None)

    def _above_now(self) -> bool:
        with self._lock:
            self._settle()
            return self._above(self._config.low_water)

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _stopped(self) -> None:
        self._wake()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._lock = _world.RLock()
        self._entries.clear()
        self._gone.clear()
        for account in (
            self._all,
            *self._accounts.values(),
        ):  # what other threads had half tracked is never told
            account.bytes = account.objects = 0
        self._waiters.clear()
        self._relieving.clear()


def _nothing(id: int) -> None:
    """Nothing is counted."""


def resident_memory() -> int | None:
    """Bytes of this process in physical memory: as ``/proc`` says, else as psutil does (``pip install
    native-lifecycle[memory]``), else None.

    In this order, since an import may hang: in a child that was forked while another thread was importing the same module.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        try:
            import psutil
        except ImportError:
            return None
        return int(psutil.Process().memory_info().rss)
