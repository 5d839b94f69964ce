"""`MemoryManager`: objects and their bytes, budgets, and who waits for room.

A budget is a number of bytes, of objects, or both, for one type or for all together. Above the high-water
mark the pressure callbacks run, until the low-water mark is reached: pools trim themselves, and a collection
may free what only garbage holds. What would pass a limit even so is refused with the holders' names, waits
for its turn, or is reported, as configured.

**Relied on**: `dict` and `deque` operations are indivisible; every callback runs without a lock of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from lifecycle.errors import BudgetError, ConfigError, RegistrationError, shown
from lifecycle.facades import Facade
from lifecycle.lowlevel import (
    DEFAULT,
    Default,
    Facts,
    Line,
    PlaceLike,
    check_callback,
    check_facts,
    check_timeout,
    collect,
    describe,
    must_not_wait,
    releasing,
    snapshot,
    tend,
    type_name_of,
    weakly,
    whole,
)
from lifecycle.lowlevel import holders as holders_of
from lifecycle.manager import BACKGROUND, SafetyManager
from lifecycle.memory.books import Account, Books, Entry
from lifecycle.memory.config import MemoryConfig
from lifecycle.memory.figures import resident_memory
from lifecycle.memory.pressure import Pressure
from lifecycle.memory.reservation import Reservation
from lifecycle.stats import MemoryStats, MemoryTypeStats, ObjectInfo

T = TypeVar("T")

OTHERS = "others that wait for room"
"""What is in the way of one that came later."""
NAMED_HOLDERS = 3
"""How many holders a refusal names: the largest."""
RELIEF_WAIT = 0.5
"""Seconds for which a refusal is put off while releases run or wait for a worker: what was given up may be
among them."""
LOOK_AGAIN = 0.5
"""Seconds after which the first who waits for room looks by itself, since a reservation that is dropped tells
nobody, and asks once more whether something can be spared."""
RETRIES = range(16, -1, -1)
"""How often room is looked for anew because a handler on the same thread has taken some of it. The last
attempt believes what it sees: a handler that tracks an object before every line may not keep the other for
ever."""


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

    A context manager that closes itself. All methods may be called on any thread and at any moment; on
    threads that must not wait (`never_wait`, the collector) nothing blocks, and pressure callbacks run on a
    thread of their own.
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
        self._books = Books(self._config)
        self._waiting = Line()
        self._pressure = Pressure(
            weakly(self._low_enough, otherwise=True),
            weakly(self._panicked),
            weakly(self._collect) if self._config.collect else None,
        )
        self._refused = self._reported = 0
        super().__init__(manager, name)

    @property
    def config(self) -> MemoryConfig:
        """The configuration it was made with."""
        return self._config

    # -- objects ---------------------------------------------------------------------------------------------

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
        timeout: float | Default | None = DEFAULT,
    ) -> int:
        """Take ownership of `obj`, which holds `size` native bytes, and return its id. Everything else as in
        `SafetyManager.register`; `parent` may also be an id that was given here.

        Raises `BudgetError` when it does not fit, with ``over="block"`` after `timeout` seconds
        (`MemoryConfig.block_timeout` unless given; None for ever), and at once where the budget is smaller
        than `size`; `ClosedError` when this or the manager is
        closed, also while it waits, and what `register` raises. In all these cases but one the object is
        still yours: what came too late for a `close` has been released.
        """
        size = check_facts(name, size)
        if timeout is not DEFAULT:
            check_timeout(timeout)
        if not self._config.track_object_lifecycle:
            return self._register(obj, type_name, name, size, release, release_on, native, parent, None)
        if type_name is None:
            type_name = type_name_of(self._manager, obj)
        entry = Entry(self._account(type_name), size)

        def noted(id: int) -> None:
            entry.id = id
            self._books.entries[id] = entry

        try:
            self._reserve(entry, timeout)
            return self._register(obj, type_name, name, size, release, release_on, native, parent, noted)
        except BaseException:
            # Otherwise it leaves at its end.
            if not entry.id:
                try:
                    with self._books.lock:
                        self._books.uncount(entry)
                finally:
                    self._waiting.wake()
            raise
        finally:
            obj = parent = None  # type: ignore[assignment]  # K3

    def release_object(self, id: int, *, timeout: float | Default | None = DEFAULT) -> bool:
        """Close the object for all its shares and release it; return True if it is released. With `timeout`
        it waits so many seconds for holders. Raises `UnknownObjectError` for an id that this manager did not
        give."""
        return self._unregister(id, timeout)

    def reserve(
        self, size: int, type_name: str = "memory", *, timeout: float | Default | None = DEFAULT
    ) -> Reservation:
        """Count `size` bytes that are no object of the manager's, such as what a cache keeps ready, for as
        long as the `Reservation` is there. They count against the budgets in bytes of `type_name` and of all
        types, and not as an object.

        Raises `RegistrationError` for a size that is none, and, as `track_object` does, `BudgetError` and
        `ClosedError`.
        """
        size = check_facts(None, size)
        if timeout is not DEFAULT:
            check_timeout(timeout)
        entry, reservation = self._books.reservation(self._account(type_name), size, self._left)
        try:
            if self._config.track_object_lifecycle:
                self._reserve(entry, timeout)
            return reservation
        finally:
            reservation = None  # type: ignore[assignment]  # K3

    # -- budgets ---------------------------------------------------------------------------------------------

    def set_budget(
        self,
        type_name: str | None = None,
        *,
        max_bytes: int | Default | None = DEFAULT,
        max_live: int | Default | None = DEFAULT,
    ) -> None:
        """Limit the bytes and objects of a type, or, without one, of all together; what is not given stays,
        None takes a limit away. What is live already stays live. Raises `RegistrationError` for a limit that
        is no number above 0."""
        for rule, value in (("max_bytes", max_bytes), ("max_live", max_live)):
            if value is None or value is DEFAULT:
                continue
            if (whole(value) or 0) <= 0:
                raise RegistrationError(
                    f"set_budget({rule}=) takes a whole number above 0 or None, not {value!r}; to take "
                    "nothing more, close() it"
                )
        account = self._books.all if type_name is None else self._account(type_name)
        try:
            with self._books.lock:
                if max_bytes is not DEFAULT:
                    account.max_bytes = whole(max_bytes)
                if max_live is not DEFAULT:
                    account.max_live = whole(max_live)
        finally:
            self._waiting.wake()

    def add_pressure_callback(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Call ``fn()`` when a budget passes its high-water mark, or would pass its limit, to close objects
        that are not needed, such as the idle items of a pool. The callbacks run in the order in which they
        were added, until the low-water marks are reached, on the thread that tracks the object. A callback
        that raises is counted as a panic. Returns a function that removes it."""
        check_callback(fn, "pressure callback")
        return self._pressure.add(fn)

    def relieve(self) -> int:
        """Run the pressure callbacks now, also below the marks. Return the number of bytes released
        meanwhile."""
        before = self.stats_of_all().bytes
        self._pressure.relieve(to_low_water=False)
        return max(0, before - self.stats_of_all().bytes)

    # -- knowing ---------------------------------------------------------------------------------------------

    def stats(self) -> MemoryStats:
        """Exact figures of this moment. Costs what types there are."""
        with self._books.lock:
            self._books.settle()
            figures = self._books.figures()
            everything = self._books.all.stats()
        return MemoryStats(
            name=self._name,
            all=everything,
            types=MappingProxyType(figures),
            waiting=len(self._waiting),
            refused=self._refused,
            reported=self._reported,
            pressure_runs=self._pressure.runs,
            resident=resident_memory(),
        )

    def stats_of_all(self) -> MemoryTypeStats:
        """`stats` of all types together alone, for hot paths."""
        with self._books.lock:
            self._books.settle()
            return self._books.all.stats()

    def holders(self, type_name: str | None = None, limit: int | None = None) -> tuple[ObjectInfo, ...]:
        """Return the objects that hold the memory, the largest first; of one type or of all, up to `limit`.
        The time grows with the number of tracked objects."""
        entries = [
            entry
            for entry in snapshot(self._books.entries.values())
            if entry.counted and (type_name is None or entry.account.name == type_name)
        ]
        entries.sort(key=lambda entry: (-entry.size, entry.id))
        found: list[ObjectInfo] = []
        for entry in entries:
            if limit is not None and len(found) >= limit:
                break
            known = self._known(entry.id)
            if known is not None and not known.has_ended:
                found.append(known.info())
        return tuple(found)

    # -- counting --------------------------------------------------------------------------------------------

    def _account(self, type_name: Any) -> Account:
        account = self._books.known(type_name) if isinstance(type_name, str) else None
        if account is None:
            # Refuses what is no name of a type.
            self._manager.policy(type_name)
            account = self._books.account(type_name)
        return account

    def _left(self, id: int) -> None:
        try:
            self._books.gone.append(id)
        finally:
            self._waiting.wake()

    # -- room ------------------------------------------------------------------------------------------------

    def _reserve(self, entry: Entry, timeout: float | Default | None) -> None:
        """Count `entry`, as soon as it may be; or raise."""
        relieved = False
        while True:
            self._refuse_closed()
            if self._config.over != "report" and (never := self._books.never(entry)):
                raise self._refusal(entry, f"{never} is less than that, so it can never be served")
            problem, pressed = self._try(entry, take_anyhow=relieved and self._config.over == "report")
            if entry.counted:
                break
            if not relieved:
                relieved = True
                self._pressure.relieve()
            elif must_not_wait() or not (self._config.over == "block" or releasing(self._manager)):
                raise self._refusal(entry, problem)
            else:
                patience: float | None = RELIEF_WAIT
                if self._config.over == "block":
                    patience = self._config.block_timeout if timeout is DEFAULT else timeout
                elif timeout is not DEFAULT and timeout is not None:
                    patience = min(RELIEF_WAIT, timeout)
                answer = self._await_room(entry, patience)
                if isinstance(answer, str):
                    if not self._books.never(entry):
                        waited = f"{answer}, and {patience or 0:g} s have passed"
                        raise self._refusal(entry, waited, in_vain=True)
                    continue
                pressed = answer
                break
        if problem and self._config.over == "report":
            self._reported += 1
            self._manager.report(
                "over_budget", memory=self._name, type=entry.account.name, size=entry.size, limit=problem
            )
        if pressed:
            self._press()

    def _try(self, entry: Entry, first: bool = False, take_anyhow: bool = False) -> tuple[str, bool]:
        """Count `entry` if it fits and nobody waits who came before (`first`: nobody does): what is in the
        way otherwise, and whether the high-water mark was passed."""
        with self._books.lock:
            for again in RETRIES:
                self._books.counting = me = object()
                self._books.settle()
                problem = self._books.over(entry)
                if problem and self._books.find_lost():
                    self._books.settle()
                    problem = self._books.over(entry)
                if not problem and not first and len(self._waiting):
                    problem = OTHERS
                if not (problem and not take_anyhow) and not self._books.count(entry, me if again else None):
                    continue  # a handler on this thread has taken some of the room that was seen
                break
            pressed = entry.counted and not self._books.pressed and self._books.above(self._config.high_water)
            self._books.pressed = self._books.pressed or pressed
        return problem, pressed

    def _await_room(self, entry: Entry, timeout: float | None) -> bool | str:
        """Wait for our turn and for room: whether the high-water mark was passed by that, or what was still
        in the way at the end. First come, first served, so that a large one is not passed by small ones for
        ever."""
        # One that is not asked in time stands behind others.
        problem, pressed = OTHERS, False

        def counted() -> bool:
            nonlocal problem, pressed
            if self.closed or self._books.never(entry):
                return True
            problem, pressed = self._try(entry, first=True)
            return entry.counted

        # More can be spared by and by, perhaps.
        self._waiting.wait(counted, timeout, look=self._pressure.relieve, every=LOOK_AGAIN)
        if entry.counted:
            return pressed
        self._refuse_closed()
        return problem

    def _refusal(self, entry: Entry, problem: str, in_vain: bool = False) -> BudgetError:
        """`in_vain`: it has waited, and is told who holds the largest, which walks the heap."""
        self._refused += 1
        account = entry.account if entry.account.over(entry.size, entry.objects) else self._books.all
        holders = self.holders(None if account is self._books.all else account.name, NAMED_HOLDERS)
        named = [
            f"{describe(known)} with {info.size} bytes{self._kept_by(known) if in_vain else ''}"
            for info in holders
            if (known := self._known(info.id)) is not None
        ]
        more = account.objects - len(named)
        reserved = sum(
            one.size
            for one in snapshot(self._books.entries.values())
            if one.counted and not one.objects and account in (one.account, self._books.all)
        )
        if self._books.never(entry):
            remedy = "Ask for less, or raise the budget with set_budget()."
        elif self._config.over == "block":
            remedy = "Release some, raise the budget with set_budget(), or wait longer: timeout=."
        else:
            remedy = 'Release some, raise the budget with set_budget(), or choose over="block".'
        return BudgetError(
            f"no room for {entry.size} bytes of type {entry.account.name!r} in {self!r}: {problem}, and "
            f"{account.objects} objects with {account.bytes} bytes are not released ({account.name}"
            f"{f'; {reserved} bytes of them are reserved' if reserved else ''}). "
            f"The largest: {', '.join(named) or 'none'}{f', and {more} more' if more > 0 and named else ''}. "
            f"{remedy} {'The object was not taken' if entry.objects else 'Nothing was reserved'}",
            tuple(attrs.evolve(info, native=_plain(info.native)) for info in holders),
        )

    def _kept_by(self, known: Facts) -> str:
        """The holders of an object beside this manager, as far as the budget for that goes."""
        mine = self._index.get(known.id)
        try:
            keepers = holders_of(mine or known, within_budget=True)
            return f" held by {' and '.join(map(str, keepers))}" if keepers else ""
        finally:
            mine = None  # K3

    # -- pressure --------------------------------------------------------------------------------------------

    def _press(self) -> None:
        """The high-water mark was passed."""
        figures = self.stats_of_all()
        self._manager.report("pressure", memory=self._name, bytes=figures.bytes, objects=figures.objects)
        self._pressure.relieve()

    def _collect(self) -> None:
        """Run the collector, and what it has made due as far as that may run here. What belongs elsewhere is
        released there."""
        collect()
        tend(self._manager, everything=True)

    def _low_enough(self) -> bool:
        with self._books.lock:
            self._books.settle()
            return not self._books.above(self._config.low_water)

    def _panicked(self, error: BaseException) -> None:
        self._manager.report_panic("memory pressure callback", error)

    # -- the end ---------------------------------------------------------------------------------------------

    def _stopped(self) -> None:
        self._waiting.wake()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._books.after_fork()
        self._pressure.after_fork()


def _plain(native: Any) -> Any:
    """`native` as what keeps nothing alive."""
    return native if type(native) in (int, str, bytes, type(None)) else shown(native)
