"""The free list: a fixed number of slots, lent again and again, and those who wait for one.

**The problem.** Items go back from anywhere: a `close`, the death of the last array, a drain on another
thread, a signal handler in the middle of a `get`. So no lock may be held here. And nothing may be lost: not
to a waiter that gives up at the moment it is handed something, not to a Ctrl-C between taking and lending,
not to an item that turned out to be broken.

**The idea.** What is lent is a *slot*, the right to have one item, and not the item. A slot whose item was
thrown away is an empty one, and goes the same way: to the first waiter, else to the free list. So whoever
waits learns of it, whatever became of the item, and the number of slots never changes but by `resize`.

**One owner.** A slot is in exactly one of: the free list (`idle`), a waiter's box, a loan's record, a local
variable. It moves between them by single steps with no call in between, after which CPython looks for
signals: it is taken from the free list by ``for slot, _ in takes`` (the iterator's step and the store are
one) and put there by a store into a dict.

**Hand-over is a handshake** (psycopg_pool's ``WaitingClient.set``): `Waiter.offer` and the waiter's giving
up are the same ``box.setdefault``, so one of them decides and both know it. A waiter is entered first and
looks at the free list after; a slot is put on the free list first and its giver looks for waiters
after: one of the two always sees the other.

**What is not to be lent again.** A loan may end without its release: the fence that it waited for is lost,
and whoever used the item then may use it for ever; or its borrower has detached it, and owns it. The slot
comes back then, and not the item: `FreeList.find_lost` sees by the loan's end what became of it.

**What an interrupt loses is found.** A slot that nobody has is referred to by the table of slots alone, so
its reference count says so: `FreeList.find_lost` puts it back. It is looked at when a caller waits in vain,
and by `stats`. Without the GIL a count is exact only when nothing moves, so a slot must be found lost twice,
`SURE_AFTER` seconds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from sys import getrefcount
from typing import Any

from lifecycle.lowlevel import Facts, WaitList, free_threaded, monotonic, snapshot
from lifecycle.states import BY_CLOSE, ObjectState

EMPTY = 0
"""The key of slots without an item. Others are the pool's: sizes, threads."""

EXTRA = "extra"
"""Why a slot is emptied that never was the free list's."""

GIVEN_AWAY = {ObjectState.ORPHANED: "orphaned", ObjectState.DETACHED: "detached"}
"""The ends of loans whose items do not come back, and why a slot is emptied then."""

SLICE = 0.1
"""Seconds for which a waiter sleeps at most before it looks around: for what an interrupt lost, for releases
nobody has run, for what only garbage holds."""

SURE_AFTER = 0.02
"""Seconds between the two looks at a lost slot where there is no GIL."""


class Slot:
    """The right to have one item. `pool` is who lends it."""

    __slots__ = (
        "__weakref__",
        "at_once",
        "borrower",
        "dirty",
        "handle",
        "idle_since",
        "item",
        "key",
        "loan",
        "made",
        "missed",
        "native",
        "pool",
    )

    def __init__(self, pool: Any) -> None:
        self.pool: Any = pool
        self.key: int = EMPTY
        self.item: Any = None
        self.native: int | None = None  # the item's native name
        self.handle: Any = None  # of the item itself, where it is registered
        self.loan: Facts | None = None
        self.dirty: bool = False  # it was lent since it was last reset
        self.borrower: int = 0  # the thread it is lent to
        self.at_once: int = 0  # loans that were served without a wait
        self.made: float = 0.0
        self.idle_since: float = 0.0
        self.missed: float = 0.0  # when it was seen to be lost

    def came_back(self, item: object) -> None:
        """The release of every loan, run once by the thread that drops it last, or for that thread."""
        pool = self.pool
        try:
            known, self.loan = self.loan, None
            if pool.looks_after or known is None or known.cause is not BY_CLOSE:
                pool.look_after(self, known)
            else:
                self.dirty = False
        finally:
            try:
                pool.free_list.put(self)
            finally:
                self = known = None  # type: ignore[assignment]  # K3


class Sign:
    """An answer to a waiter that is no slot."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


GAVE_UP = Sign("gave up")
CLOSED = Sign("closed")


class Waiter:
    """One caller that wants a slot. `hand` is where it takes one from the free list into, `box` where one is
    given to it, `waits` where it waits for that; `waited`: for how long it has, in seconds."""

    __slots__ = ("box", "hand", "waited", "waits", "want")

    def __init__(self, want: int = EMPTY) -> None:
        self.want: int = want
        self.waited: float = 0.0
        self.hand: Slot | None = None
        self.box: dict[int, Slot | Sign] = {}
        self.waits: WaitList | None = None

    def offer(self, answer: Slot | Sign) -> bool:
        """Give it `answer`, the first wins; False: it was given another, or has given up. Callable on any
        thread."""
        try:
            return self.box.setdefault(0, answer) is answer
        finally:
            if self.waits is not None:
                self.waits.wake()

    def answer(self) -> Slot | Sign:
        """The answer, from now on final: a slot, `CLOSED`, or `GAVE_UP`."""
        return self.box.setdefault(0, GAVE_UP)

    def take_back(self, free_list: FreeList) -> None:
        """It is over: what it took or was given goes back."""
        try:
            answer = self.answer()
            if isinstance(answer, Slot):
                free_list.put(answer)
        finally:
            slot, self.hand, answer = self.hand, None, GAVE_UP
            try:
                free_list.put(slot)
            finally:
                slot = None


class FreeList:
    """Slots, idle by key, and waiters in their order. `empty(slot, why)` throws a slot's item away, whatever
    that takes, and `gone(slot)` is told of a slot that is no more. All methods may be called on any thread at
    any moment."""

    def __init__(
        self, pool: Any, limit: int, empty: Callable[[Slot, str], None], gone: Callable[[Slot], None]
    ) -> None:
        self.pool = pool
        self.limit = limit
        self.closed: bool = False
        self.slots: dict[Slot, None] = {}
        self.idle: dict[int, dict[Slot, None]] = {}
        self.takes: dict[int, Iterator[tuple[Slot, None]]] = {}
        self.waiters: dict[Waiter, None] = {}
        self.extras: dict[Slot, None] = {}  # lent, and none of `slots`: they end when they come back
        self.stray: dict[Slot, None] = {}  # whose way back was interrupted
        self.clearing: dict[int, object] = {}  # by loan: who empties the slot of one that was given away
        self._empty = empty
        self._gone = gone
        self.row(EMPTY)
        self.adjust()

    # -- the rows --------------------------------------------------------------------------------------------

    def row(self, key: int) -> dict[Slot, None]:
        """The idle slots with items of `key`, the last used at the end, and with `takes[key]` to take from
        it."""
        row = self.idle.get(key)
        if row is None or key not in self.takes:
            row = self.idle.setdefault(key, {})
            self.takes.setdefault(key, iter(row.popitem, None))
        return row

    def forget_row(self, key: int) -> None:
        """Nothing of `key` will come any more; what is idle there is emptied."""
        waiter = Waiter()
        try:
            while self.take(key, waiter):
                slot, waiter.hand = waiter.hand, None
                try:
                    if slot is not None:
                        self._empty(slot, "retired")
                finally:
                    self.put(slot)
                    slot = None
        finally:
            waiter.hand = None
        if not self.idle.get(key):
            self.takes.pop(key, None)
            self.idle.pop(key, None)

    def take(self, key: int, waiter: Waiter) -> bool:
        """Take an idle slot of `key`, the last used first, into ``waiter.hand``."""
        takes = self.takes.get(key)
        if takes is None:
            return False
        try:
            for waiter.hand, _ in takes:
                return True
        except KeyError:
            pass  # none is there
        return False

    def take_any(self, waiter: Waiter) -> bool:
        """Take any idle slot into ``waiter.hand``, an empty one first."""
        return any(self.take(key, waiter) for key in snapshot(self.takes))

    def count_idle(self) -> tuple[int, int]:
        """How many slots are idle with an item, and how many without."""
        rows = snapshot(self.idle.items())
        return sum(len(row) for key, row in rows if key != EMPTY), len(self.idle[EMPTY])

    # -- giving back -----------------------------------------------------------------------------------------

    def put(self, slot: Slot | None) -> None:
        """Give a slot to the first waiter, or to the free list, or let it go where there are too many or the
        pool is closed. From the call on it is no longer the caller's, however this ends."""
        mine = waiter = None
        try:
            while slot is not None:
                if self.closed or len(self.slots) > self.limit or slot not in self.slots:
                    self._retire(slot)
                    return
                if self.waiters:
                    for waiter in snapshot(self.waiters):
                        if waiter.offer(slot):
                            self.waiters.pop(waiter, None)
                            return
                row = self.idle.get(slot.key)
                if row is None or slot.key not in self.takes:
                    row = self.row(slot.key)
                slot.idle_since = monotonic()
                row[slot] = None
                slot = None
                if not (self.waiters or self.closed or len(self.slots) > self.limit):
                    return
                mine = mine or Waiter()  # somebody came to wait, or it was closed, after we had looked
                if self.take_any(mine):
                    slot, mine.hand = mine.hand, None
        except BaseException:
            # Nothing is called up to the store, so no second interrupt falls in here.
            if slot is not None and not (waiter is not None and 0 in waiter.box and waiter.box[0] is slot):
                self.stray[slot] = None
            raise
        finally:
            slot = mine = waiter = None  # a kept traceback must keep nothing

    def _retire(self, slot: Slot) -> None:
        """A slot that is one too many, of a closed pool, or no slot of this pool's any more (of before a
        fork)."""
        try:
            ours = self.slots.pop(slot, self) is None
            if slot.key != EMPTY or not ours:
                self._empty(slot, "retired" if ours else EXTRA)
            if ours:
                self._gone(slot)
            if not self.closed and len(self.slots) < self.limit:
                self.adjust()  # another thread let one go at the same moment
        finally:
            slot = None  # type: ignore[assignment]

    def adjust(self) -> None:
        """Make or let go slots until there are `limit`. What is lent goes when it comes back."""
        waiter = Waiter()
        slot = None
        try:
            while not self.closed and len(self.slots) != self.limit:
                if len(self.slots) < self.limit:
                    slot = Slot(self.pool)
                    self.slots[slot] = None
                    self.put(slot)
                elif self.take_any(waiter):
                    slot, waiter.hand = waiter.hand, None
                    self.put(slot)
                else:
                    return
        finally:
            slot = waiter.hand = None

    def shut(self) -> None:
        """Close: everybody who waits is told, what is idle is let go, and so is what comes back from now
        on."""
        self.closed = True
        self.tell_all(CLOSED)
        waiter = Waiter()
        try:
            while self.take_any(waiter):
                slot, waiter.hand = waiter.hand, None
                self.put(slot)
            slot = None
            self.find_lost()
        finally:
            slot = waiter.hand = None

    def tell_all(self, sign: Sign) -> None:
        """Answer all waiters with `sign`."""
        for waiter in snapshot(self.waiters):
            waiter.offer(sign)
            self.waiters.pop(waiter, None)

    # -- waiting ---------------------------------------------------------------------------------------------

    def wait(
        self,
        waiter: Waiter,
        timeout: float | None,
        find: Callable[[Waiter], bool],
        look_around: Callable[[], None],
    ) -> None:
        """Block until `waiter` has an answer or `timeout` seconds are over (None: never). `find` takes from
        the free list what suits, `look_around` is called now and then and may bring something back."""
        waiter.waits = WaitList()
        try:
            self.waiters[waiter] = None
            waiter.waits.wait(partial(self._answered, waiter, find), timeout, look=look_around, every=SLICE)
        finally:
            self.waiters.pop(waiter, None)

    async def wait_async(
        self,
        waiter: Waiter,
        timeout: float | None,
        find: Callable[[Waiter], bool],
        look_around: Callable[[], None],
    ) -> None:
        """`wait` in a coroutine of asyncio or trio. One that is cancelled may have been given an answer."""
        waiter.waits = WaitList()
        try:
            self.waiters[waiter] = None
            ready = partial(self._answered, waiter, find)
            await waiter.waits.wait_async(ready, timeout, look=look_around, every=SLICE)
        finally:
            self.waiters.pop(waiter, None)

    def _answered(self, waiter: Waiter, find: Callable[[Waiter], bool]) -> bool:
        """Return True once `waiter` has an answer. What it finds on the free list it is given."""
        slot = None
        try:
            if self.closed:
                waiter.offer(CLOSED)
            elif not waiter.box and find(waiter):
                slot, waiter.hand = waiter.hand, None
                if slot is not None and not waiter.offer(slot):
                    self.put(slot)
            return bool(waiter.box)
        finally:
            slot = None  # K3

    def find_lost(self) -> int:
        """Put right what interrupts left: slots between two owners go back; how many."""
        found = 0
        if len(self.slots) != self.limit:
            self.adjust()  # a resize was interrupted, or not everything has come back
        while self.stray:
            try:
                slot = self.stray.popitem()[0]
            except KeyError:
                break
            found += 1
            self.put(slot)
        found += self._clear_given_away()
        for slot in [*snapshot(self.slots), *snapshot(self.extras)]:
            if getrefcount(slot) > _LOST:
                slot.missed = 0.0
                continue
            if slot.loan is not None and slot.loan.state in GIVEN_AWAY:
                continue  # it has just ended so, or cannot be emptied yet
            if free_threaded and not 0 < slot.missed < monotonic() - SURE_AFTER:
                slot.missed = slot.missed or monotonic()
                continue
            slot.missed = 0.0
            slot.loan = None
            found += 1
            self.put(slot)
        return found

    def _clear_given_away(self) -> int:
        """Empty the slots whose items do not come back, and put them back; how many."""
        found = 0
        me = object()
        known = None
        for slot in [*snapshot(self.slots), *snapshot(self.extras)]:
            known = slot.loan
            if known is None or not known.has_ended or known.state not in GIVEN_AWAY:
                continue
            try:
                # K1. The loan is looked at again: another may have been through in the meantime.
                if self.clearing.setdefault(known.id, me) is not me or slot.loan is not known:
                    continue
                if not self.pool.give_away(slot, GIVEN_AWAY[known.state]):
                    continue
                found += 1
                slot.loan = None
                self.put(slot)
            finally:
                if self.clearing.get(known.id) is me:
                    self.clearing.pop(known.id, None)
                slot = known = None  # type: ignore[assignment]  # K3
        return found


def _count_of_lost() -> int:
    """What `getrefcount` says of a slot that only the table and the asking loop refer to: differs between
    Python versions."""
    slots: dict[Slot, None] = {Slot(None): None}
    for slot in [*snapshot(slots), *snapshot({})]:
        return getrefcount(slot)
    return 0


_LOST = _count_of_lost()
