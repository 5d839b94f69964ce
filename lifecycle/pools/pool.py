"""What both pools are: a free list of slots whose contents are lent under handles of the manager.

**A loan is an object like any other.** `get` registers what it lends with the manager, for this once, and the
release of that registration is giving the slot back. So a loan ends when its last holder goes (leases, views,
arrays), on whatever thread, exactly once; a borrower who forgets to close is reported by the manager, with
the place where it borrowed, and the item comes back all the same; the manager's exit, its reports and its
figures know every loan.

**Getting** takes a slot from the free list, or waits for one, sees that there is an item in it that is fit
(and makes one if not), and enters the loan. Whatever is raised on the way, from the user's own functions
too, the slot goes back and wakes the next waiter.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Coroutine, Generator
from threading import RLock, get_ident
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final, Generic, TypeVar

from lifecycle.errors import (
    AccessRefusedError,
    ClosedError,
    ConfigError,
    NotLentError,
    PoolError,
    PoolExhaustedError,
    PoolTimeoutError,
    ReturnedTwiceError,
    shown,
)
from lifecycle.lowlevel import (
    DEFAULT,
    CollectorNudge,
    Default,
    Facts,
    Uncopied,
    about,
    after_fork,
    check_facts,
    check_timeout,
    describe,
    facts,
    is_closed,
    is_control_flow,
    monotonic,
    must_not_wait,
    pin,
    poll,
    recipe,
    refuse_near_limit,
    snapshot,
    tend,
    whole,
)
from lifecycle.lowlevel import holders as holders_of
from lifecycle.manager import ANY_THREAD, Handle, SafetyManager
from lifecycle.pools.figures import Counts, loan_of
from lifecycle.pools.filling import Filler
from lifecycle.pools.waiting import CLOSED, EMPTY, GAVE_UP, FreeList, Sign, Slot, Waiter
from lifecycle.states import BY_DROP
from lifecycle.stats import Loan, PoolReport, PoolStats

Self = TypeVar("Self", bound="Pool")
H = TypeVar("H", bound=Handle[Any])

MOST_SLOTS = 1_000_000
"""A pool makes its slots at once, some 200 bytes each."""

NAMED_HOLDERS = 3
"""The number of holders that an error names."""

_getframe = sys._getframe


class Borrowing(Uncopied, Generic[H]):
    """A loan that a coroutine of asyncio or trio waits for: ``handle = await pool.get_async()``, or ``async
    with pool.get_async() as handle``, which closes it at the end of the block. For one use."""

    _remedy = "ask the pool for another loan"

    __slots__ = ("_handle", "_lend")

    def __init__(self, lend: Callable[[], Coroutine[Any, Any, H]]) -> None:
        self._lend = lend
        self._handle: H | None = None

    def __await__(self) -> Generator[Any, Any, H]:
        return self._lend().__await__()

    async def __aenter__(self) -> H:
        handle = None
        try:
            self._handle = handle = await self._lend()
            return handle
        finally:
            handle = None  # K3

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, None
        try:
            if handle is not None:
                handle.__exit__(kind, error, trace)
        finally:
            handle = None  # K3


class LentBy(str):
    """The name under which a pool lends: a text for messages, that knows the pool."""

    __slots__ = ("pool",)
    pool: weakref.ref[Pool]


class Pool(Uncopied):
    """The base of `BufferPool` and `ObjectPool`. All methods may be called on any thread and at any moment,
    also from ``__del__``, callbacks and signal handlers; where waiting is forbidden (inside a garbage
    collection, on threads marked with `never_wait`) every timeout is 0."""

    _remedy = "pass the pool itself, or make another with its own buffers or items"

    kind: Final = "pool"

    _handle: ClassVar[type[Handle[Any]]] = Handle
    """The class of its loans."""

    def __init__(
        self,
        manager: SafetyManager,
        *,
        name: str,
        limit: int,
        timeout: float | None,
        exhausted: str,
        choices: tuple[str, ...],
        type_name: str,
        collect: bool,
        min_idle: int = 0,
    ) -> None:
        what = type(self).__name__
        if not isinstance(manager, SafetyManager):
            raise ConfigError(f"{what}(manager=) takes a SafetyManager, not {manager!r}")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{what}(name=) takes a text of one letter or more, not {name!r}")
        if exhausted not in choices:
            raise ConfigError(
                f"pool {name!r}: exhausted= takes {', '.join(map(repr, choices))}, not {exhausted!r}"
            )
        if not isinstance(collect, bool):
            raise ConfigError(f"pool {name!r}: collect= takes True or False, not {collect!r}")
        check_facts(name, 0)
        check_timeout(timeout)
        if isinstance(min_idle, bool) or not isinstance(min_idle, int) or min_idle < 0:
            raise ConfigError(f"pool {name!r}: min_idle= takes a whole number, 0 or more, not {min_idle!r}")
        if manager.closed:
            raise ClosedError(f"manager {manager.name!r} is closed, so it takes no pool; make a new manager")
        self.name = name
        self.manager = manager
        self._timeout = timeout
        self._exhausted = exhausted
        self._type_name = type_name
        self._label = LentBy(name)
        self._label.pool = weakref.ref(self)
        self._counts = Counts()
        self._starving = CollectorNudge() if collect else None
        self._min_idle = min_idle
        self._filler: Filler | None = None
        self._careful = False  # an item has to be looked at before it is lent again
        self.looks_after = False  # and when it comes back
        self._loans = recipe(manager, type_name, release=None, release_on=ANY_THREAD)
        self._tend = functools.partial(tend, manager)
        self.free_list: FreeList = FreeList(self, self._check_limit(limit, "size"), self._empty, self._gone)
        me = weakref.ref(self)

        def manager_closes() -> None:
            pool = me()
            if pool is not None:
                pool.free_list.shut()
                if pool._filler is not None:
                    pool._filler.wake()

        self._leave_manager = manager.on_close(manager_closes)
        weakref.finalize(self, self._leave_manager).atexit = False
        manager.add_component(self)
        after_fork(self._after_fork)

    def _check_limit(self, limit: Any, what: str) -> int:
        number = whole(limit)
        if number is None or not 1 <= number <= MOST_SLOTS:
            raise ConfigError(
                f"pool {self.name!r}: {what}= takes a whole number from 1 to {MOST_SLOTS}, not {shown(limit)}"
            )
        return number

    # -- what the two kinds do differently -------------------------------------------------------------------

    def _find(self, waiter: Waiter) -> bool:
        """Take an idle slot for ``waiter.want`` from the free list, the best first."""
        raise NotImplementedError

    def _fit(self, slot: Slot, want: int, patience: float | Default | None) -> str:
        """See that there is an item in `slot` that serves `want` and is fit; ``reused`` or ``created``.
        `patience`: seconds that are left of the timeout that `get` was given, `DEFAULT` where it was not."""
        raise NotImplementedError

    def _clean(self, slot: Slot, known: Facts) -> None:
        """`slot` has come back from the loan `known`: make its item fit to be lent again, or empty it, or
        leave it dirty: then `_fit` sees to it."""
        raise NotImplementedError

    def _empty(self, slot: Slot, why: str) -> None:
        """Throw the item of `slot` away. Nothing of it is left on the slot when anything is called."""
        raise NotImplementedError

    def _instead(self, answer: Sign) -> str:
        """There is no slot: the result under which something plain is served, or empty."""
        raise NotImplementedError

    # -- lending ---------------------------------------------------------------------------------------------

    def _get(  # noqa: C901  # in one piece: every loan comes through it
        self,
        want: int,
        nbytes: int,
        timeout: float | Default | None,
        frame: FrameType | None,
        plain: str = "",
        given: Waiter | None = None,
    ) -> Handle[Any]:
        """The loan of an item of `want`; with `plain`, of one from outside the pool, counted as that; with
        `given`, of what that waiter was answered with."""
        # What was taken could not be given back.
        refuse_near_limit("get() of a pool")
        slot = waiter = answer = parent = handle = None
        began = waited = 0.0
        result = plain
        begun = [False]
        try:
            takes = self.free_list.takes.get(want) if given is None else None
            if takes is not None and not plain:
                try:
                    for slot, _ in takes:  # noqa: B007 - taken and stored in one step
                        break
                except KeyError:
                    pass  # none is idle
            if slot is None:
                began = monotonic()
                if not plain:
                    waiter = given or Waiter(want)
                    if given is None:
                        waiter.waited = self._obtain(waiter, timeout)
                    waited = waiter.waited
                    answer = waiter.box[0]
                    if isinstance(answer, Slot):
                        slot = answer
                        answer = None
                    else:
                        result = self._instead(answer) or self._refuse(answer, timeout, waited)
                if slot is None:
                    slot = Slot(self)
                    self.free_list.extras[slot] = None
            handle = slot.handle
            if handle is not None:
                try:
                    parent = pin(handle)
                except AccessRefusedError:
                    # It was invalidated: another is made in its place.
                    parent = None
            if slot.dirty or self._careful or slot.key != want or (parent is None and handle is not None):
                handle = parent = None
                began = began or monotonic()
                fitted = self._fit(slot, want, _left_of(timeout, began))
                result = result or fitted
                handle = slot.handle
                if handle is not None:
                    parent = pin(handle)
            handle = self._loans.register(
                slot.item,
                slot.native,
                nbytes,
                self._label,
                parent,
                self._handle,
                slot.came_back,
                frame,
                begun,
            )
            slot.loan = facts(handle)
            slot.borrower = get_ident()
            slot.dirty = True
            if began:
                self._counts.got(result or "reused", monotonic() - began, waited)
            else:
                slot.at_once += 1
            if self._filler is not None:
                self._filler.wake()
            return handle
        except BaseException:
            if not begun[0]:
                self._undo(slot, waiter)
            raise
        finally:
            slot = waiter = given = answer = parent = handle = frame = None  # K3

    def _undo(self, slot: Slot | None, waiter: Waiter | None) -> None:
        """Nothing was lent: the slot goes to the next."""
        try:
            if slot is not None:
                self.free_list.put(slot)
            elif waiter is not None:
                waiter.take_back(self.free_list)
        finally:
            slot = waiter = None

    def _obtain(self, waiter: Waiter, timeout: float | Default | None) -> float:
        """Have ``waiter.box`` filled: from the free list, by whoever gives something back, or with what says
        that nobody did. For how long it waited, in seconds."""
        if timeout is not DEFAULT:
            check_timeout(timeout)
        if self._found_at_once(waiter):
            return 0.0
        if timeout is DEFAULT:
            timeout = self._timeout
        if self.free_list.closed or must_not_wait() or (timeout == 0 and self._filler is None):
            waiter.box.setdefault(0, CLOSED if self.free_list.closed else GAVE_UP)
            return 0.0
        began = monotonic()
        self.free_list.wait(waiter, *self._until(timeout), self._look_around)
        waiter.answer()
        return max(monotonic() - began, 1e-9)

    def _found_at_once(self, waiter: Waiter) -> bool:
        """Have ``waiter.box`` filled from the free list, or by what can be had without waiting; False where
        there is nothing."""
        for again in (self._tend, self.free_list.find_lost, self._ask_the_collector, None):
            if self._find(waiter):
                waiter.box[0], waiter.hand = waiter.hand, None  # type: ignore[assignment]
                return True
            if again is not None:
                again()
        return False

    def _borrow(
        self, want: int, nbytes: int, timeout: float | Default | None, plain: str = ""
    ) -> Borrowing[Any]:
        """`_get` for coroutines."""
        if timeout is not DEFAULT:
            check_timeout(timeout)
        return Borrowing(functools.partial(self._lend, want, nbytes, timeout, plain))

    async def _lend(self, want: int, nbytes: int, timeout: float | Default | None, plain: str) -> Handle[Any]:
        waiter = None
        try:
            if not plain:
                waiter = Waiter(want)
                try:
                    await self._obtain_async(waiter, timeout)
                except BaseException:
                    # Cancelled, perhaps as it was handed something.
                    waiter.take_back(self.free_list)
                    raise
            # Nothing is waited for from here on: that would block the event loop.
            return self._get(want, nbytes, 0.0, _getframe(1), plain, waiter)
        finally:
            waiter = None  # K3

    async def _obtain_async(self, waiter: Waiter, timeout: float | Default | None) -> None:
        """`_obtain` in a coroutine."""
        if self._found_at_once(waiter):
            return
        if timeout is DEFAULT:
            timeout = self._timeout
        if self.free_list.closed or (timeout == 0 and self._filler is None):
            waiter.box.setdefault(0, CLOSED if self.free_list.closed else GAVE_UP)
            return
        began = monotonic()
        await self.free_list.wait_async(waiter, *self._until(timeout), self._look_around)
        waiter.answer()
        waiter.waited = max(monotonic() - began, 1e-9)

    def _until(self, timeout: float | None) -> tuple[float | None, Callable[[Waiter], bool]]:
        """How long a waiter waits, and how it finds what suits. Without a timeout it waits for what is being
        made all the same: it would have to make that itself."""
        return (None, self._find_made) if timeout == 0 else (timeout, self._find)

    def _find_made(self, waiter: Waiter) -> bool:
        """`_find`, that gives up where the pool's own thread makes nothing either."""
        filler = self._filler
        # Asked first: it says so after what it made is on the free list.
        making = filler is not None and filler.making
        found = self._find(waiter)
        if not found and not making:
            waiter.offer(GAVE_UP)
        return found

    def _look_around(self) -> None:
        """Have what may come back do so."""
        self._tend()
        self.free_list.find_lost()
        self._ask_the_collector()

    def _ask_the_collector(self) -> None:
        if self._starving is not None:
            self._starving.look(self._lent)

    def _lent(self) -> list[int]:
        """The loans of now: equal as long as nothing comes back."""
        return [0 if (loan := slot.loan) is None else loan.id for slot in snapshot(self.free_list.slots)]

    def _refuse(self, answer: Sign, timeout: float | Default | None, waited: float) -> str:
        if answer is CLOSED:
            self._counts.got("closed", waited, waited)
            who = f"manager {self.manager.name!r}" if self.manager.closed else f"pool {self.name!r}"
            raise ClosedError(f"{who} is closed: pool {self.name!r} lends nothing any more; make a new one")
        self._counts.got("timeout" if waited else "refused", waited, waited)
        holders = tuple(str(loan) for loan in self.loans())
        told = "; ".join(self._kept() if waited else holders[:NAMED_HOLDERS])
        if len(holders) > NAMED_HOLDERS:
            told += f"; and {len(holders) - NAMED_HOLDERS} more"
        time = f"nothing came back within {waited:.3g} s" if waited else "get() was not to wait (timeout=0)"
        error = PoolTimeoutError if waited else PoolExhaustedError
        raise error(
            f"pool {self.name!r} is exhausted: all {self.free_list.limit} are in use, and {time}. Held "
            f"longest: {told or 'not known'}. Close them earlier, wait longer (timeout=), or make the pool "
            "larger (resize)",
            holders,
        )

    def _kept(self) -> list[str]:
        """The longest loans in words, with who keeps each: the variables and attributes that refer to its
        handle, as far as the budget for that goes. Walks the heap, so it is only for a wait that timed
        out."""
        slots = [*snapshot(self.free_list.slots), *snapshot(self.free_list.extras)]
        known = sorted((slot.loan for slot in slots if slot.loan is not None), key=lambda loan: loan.born)
        borrowers = {slot.loan: slot.borrower for slot in slots if slot.loan is not None}
        told = []
        for loan in known[:NAMED_HOLDERS]:
            text = str(loan_of(loan, borrowers.get(loan, 0)))
            keepers = holders_of(loan, within_budget=True)
            told.append(f"{text}, held by {' and '.join(map(str, keepers))}" if keepers else text)
        return told

    # -- giving back -----------------------------------------------------------------------------------------

    def look_after(self, slot: Slot, known: Facts | None) -> None:
        """`slot` has come back from the loan `known` (None: it was interrupted before anybody had it), and
        was not simply closed, or this pool looks at everything that comes back."""
        try:
            if known is not None and (known.cause is None or known.cause is BY_DROP):
                self._counts.was_dropped()
            if (
                slot.dirty
                and known is not None
                and not self.free_list.closed
                and slot in self.free_list.slots
            ):
                self._clean(slot, known)
        finally:
            slot = known = None  # type: ignore[assignment]  # K3

    def put(self, handle: Handle[Any]) -> bool:
        """Give back a handle of `get`, as ``handle.close(timeout=0)`` does, and check that this pool lent it.
        Return True if the item is back; False while a share, a lease or a view still holds it.

        Raises `NotLentError`, naming the pool that it came from, and `ReturnedTwiceError`.
        """
        try:
            if not isinstance(handle, Handle):
                raise NotLentError(
                    f"pool {self.name!r} is given back the handle that get() gave, not {handle!r}"
                )
            label = handle.name
            if not isinstance(label, LentBy):
                raise about(
                    handle,
                    NotLentError(
                        f"{describe(handle)} was never lent by a pool, so pool {self.name!r} does not take "
                        "it. close() its handle."
                    ),
                )
            if label is not self._label:
                raise about(
                    handle,
                    NotLentError(
                        f"{describe(handle)} was lent by another pool, {str(label)!r}, not by {self.name!r}. "
                        "Give it back there, or just close() its handle."
                    ),
                )
            if is_closed(handle):
                raise about(
                    handle,
                    ReturnedTwiceError(
                        f"{describe(handle)} was given back to pool {self.name!r} already: "
                        f"{facts(handle).fate}. Every share and every loan is closed once."
                    ),
                )
            return handle.close(timeout=0)
        finally:
            handle = None  # type: ignore[assignment]  # K3

    def give_away(self, slot: Slot, why: str) -> bool:
        """The item of `slot` belongs to another owner for good: empty the slot and release nothing. False:
        that cannot be done yet."""
        self._empty(slot, why)
        return True

    def _contained(self, what: str, error: BaseException) -> None:
        """What a function of the user's raised is counted and reported, and goes no further, but for control
        flow."""
        if is_control_flow(error):
            raise error
        self.manager.report_error(f"pool {self.name}: {what}", error, type_name=self._type_name)

    def _gone(self, slot: Slot) -> None:
        self._counts.at_once(slot.at_once)

    # -- size and memory -------------------------------------------------------------------------------------

    def drain(self) -> int:
        """Run the work that is due on this thread, and return the number of items. Only a pool whose items
        belong to threads has such work."""
        return 0

    def _resize(self, limit: int, what: str) -> None:
        limit = self._check_limit(limit, what)
        if self.closed:
            raise PoolError(f"pool {self.name!r} is closed and cannot be resized; make a new one")
        self.free_list.limit = limit
        self.free_list.adjust()

    def warm_up(self, count: int | None = None) -> int:
        """Make items now, on this thread, until there are `count` of them, idle or lent (None: `min_idle`, or
        all if that is 0). Return the number of items made. The first borrowers then do not wait for `create`,
        or for the memory's pages.

        Raises what making an item raises, and `PoolError` on a closed pool. Callable on any thread; it takes
        as long as making the items takes.
        """
        if count is None:
            count = self._min_idle or self.free_list.limit
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise PoolError(
                f"pool {self.name!r}: warm_up(count=) takes a whole number, 0 or more, not {count!r}"
            )
        if self.closed:
            raise PoolError(f"pool {self.name!r} is closed and makes nothing more; make a new one")
        want, made = self._want(), 0
        while self._there() < count and self._make_one(want):
            made += 1
        return made

    def _there(self) -> int:
        """How many slots have an item, idle or lent."""
        return len(self.free_list.slots) - self.free_list.count_idle()[1]

    def _want(self) -> int:
        """The key of the items that `warm_up` makes."""
        raise NotImplementedError

    def _make_one(self, want: int) -> bool:
        """Make one more item of `want`, idle; False where there is no empty slot, or the pool is closed."""
        waiter = Waiter(want)
        slot = None
        try:
            if self.free_list.closed or not self.free_list.take(EMPTY, waiter):
                return False
            slot, waiter.hand = waiter.hand, None
            self._fit(slot, want, 0.0)  # type: ignore[arg-type]
            return True
        finally:
            taken, waiter.hand = waiter.hand, None
            try:
                self.free_list.put(slot if slot is not None else taken)
            finally:
                slot = taken = None  # K3

    def _begin_to_fill(self) -> None:
        """Keep `min_idle` items ready from now on. The last step of making a pool."""
        if self._min_idle:
            self._filler = Filler(self)

    def _trim(self, keep: int, idle_for: float, freed: Callable[[Slot], int]) -> int:
        """Throw away idle items, the least recently used first, until `keep` are left; the sum of what
        `freed` says of each."""
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise PoolError(f"pool {self.name!r}: trim(keep=) takes a whole number, 0 or more, not {keep!r}")
        check_timeout(idle_for)
        free_list = self.free_list
        free_list.find_lost()
        rows = [row for key, row in snapshot(free_list.idle.items()) if key != EMPTY]
        idle = [(slot.idle_since, number, slot) for row in rows for number, slot in enumerate(snapshot(row))]
        idle.sort(key=lambda entry: entry[:2])
        keep = max(keep, self._min_idle)
        now = monotonic()
        total = 0
        slot = None
        try:
            for since, _, slot in idle[: max(0, len(idle) - keep)]:
                row = free_list.idle.get(slot.key)
                if now - since < idle_for or row is None or row.pop(slot, self) is not None:
                    continue
                try:
                    total += freed(slot)
                    self._empty(slot, "trimmed")
                finally:
                    free_list.put(slot)
            return total
        finally:
            idle.clear()
            slot = None

    # -- knowing ---------------------------------------------------------------------------------------------

    def loans(self) -> tuple[Loan, ...]:
        """Return the present loans, longest first. The time grows with the pool's size."""
        self._tend()  # what its last holder has let go may wait for somebody to run its release
        found = []
        for slots in (self.free_list.slots, self.free_list.extras):
            for slot in snapshot(slots):
                known = slot.loan
                if known is not None:
                    found.append(loan_of(known, slot.borrower))
        return tuple(sorted(found, key=lambda loan: -loan.seconds))

    def stats(self) -> PoolStats:
        """The figures of this moment. Costs what the pool's size is."""
        free_list = self.free_list
        loans = self.loans()
        free_list.find_lost()
        idle, empty = free_list.count_idle()
        slots = snapshot(free_list.slots)
        counted = self._counts.snapshot(sum(slot.at_once for slot in slots))
        in_use = max(0, len(slots) - idle - empty) + len(self.free_list.extras)
        return PoolStats(
            name=self.name,
            items={"idle": idle, "in_use": in_use},
            items_limit=free_list.limit,
            item_bytes=self._bytes_of(slots),
            waiters=len(free_list.waiters),
            longest=loans[0] if loans else None,
            **counted,
        )

    def _bytes_of(self, slots: list[Slot]) -> int:
        return 0

    @property
    def closed(self) -> bool:
        """True if the pool was closed, by `close` or with its manager."""
        return self.free_list.closed

    def __repr__(self) -> str:
        idle, empty = self.free_list.count_idle()
        in_use = len(self.free_list.slots) - idle - empty + len(self.free_list.extras)
        state = "closed" if self.closed else f"{idle} idle"
        return (
            f"<{type(self).__name__} {self.name!r}: {in_use} in use, {state}, {self.free_list.limit} at most>"
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = 0.0) -> PoolReport:
        """Stop lending items of the pool. Idle items are destroyed now, lent ones when they come back.
        Waiting calls end.

        Waits up to `timeout` seconds (None: for ever) for the loans; the report names those that have not
        come back. Borrowers keep their loans. A second call returns a new report.
        """
        check_timeout(timeout)
        handles = [slot.handle for slot in snapshot(self.free_list.slots) if slot.handle is not None]
        self.free_list.shut()
        if self._filler is not None:
            self._filler.wake()
        self._leave_manager()
        self.drain()
        if not must_not_wait():
            poll(lambda: not self.loans(), timeout)
            for handle in handles:
                # It was idle, or has come back: wait for its end.
                if is_closed(handle):
                    handle.close()
        return PoolReport(self.name, self.loans())

    def __enter__(self: Self) -> Self:
        if self.closed:
            raise ClosedError(f"pool {self.name!r} is closed; make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In the child: what was made belongs to the parent, and other threads may have been anywhere. It
        begins with nothing."""
        old = self.free_list
        self._filler = None
        self._counts.lock = RLock()
        self.free_list = FreeList(self, old.limit, self._empty, self._gone)
        if old.closed:
            self.free_list.shut()


def _left_of(timeout: float | Default | None, began: float) -> float | Default | None:
    """Seconds that are left of the timeout that `get` was given; `DEFAULT` where it was not."""
    if timeout is DEFAULT:
        return DEFAULT
    check_timeout(timeout)
    return None if timeout is None else max(0.0, timeout - (monotonic() - began))
