"""The books: what each type, and all together, hold and may hold.

An object counts from before it is registered until the step that ends it, so the figures never lag behind
what is allocated. Ends are noted in a mailbox, since they happen at any place and any moment; whoever looks
next settles them, under a lock that is held for arithmetic alone. An object is counted and uncounted by
straight lines without a call, in which no interrupt can fall, and each entry says whether it is counted; so
live figures and peaks are exact, whatever strikes where.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from threading import RLock

from lifecycle.lowlevel import is_dead, next_id, snapshot
from lifecycle.memory.config import MemoryConfig
from lifecycle.memory.reservation import Reservation, ReservationRef
from lifecycle.stats import MemoryTypeStats


class Account:
    """What one type, or all together, holds and may hold. Written under the lock."""

    __slots__ = ("bytes", "max_bytes", "max_live", "name", "objects", "peak_bytes", "peak_objects", "total")

    def __init__(self, name: str, max_bytes: int | None = None, max_live: int | None = None) -> None:
        self.name: str = name
        self.bytes: int = 0
        self.objects: int = 0
        self.peak_bytes: int = 0
        self.peak_objects: int = 0
        self.total: int = 0
        self.max_bytes: int | None = max_bytes
        self.max_live: int | None = max_live

    def over(self, nbytes: int, objects: int, share: float = 1.0) -> str:
        """The limit of which more than `share` would be used with so much more, in words; empty when none
        would."""
        if self.max_bytes is not None and self.bytes + nbytes > self.max_bytes * share:
            return f"max_bytes={self.max_bytes}"
        if self.max_live is not None and self.objects + objects > self.max_live * share:
            return f"max_live={self.max_live}"
        return ""

    def never(self, nbytes: int) -> str:
        """The limit that so much would pass by itself, in words: it can never be served."""
        return f"max_bytes={self.max_bytes}" if self.max_bytes is not None and nbytes > self.max_bytes else ""

    def stats(self) -> MemoryTypeStats:
        """Its figures now."""
        return MemoryTypeStats(
            self.bytes,
            self.objects,
            self.peak_bytes,
            self.peak_objects,
            self.total,
            self.max_bytes,
            self.max_live,
        )


class Entry:
    """One object's part in the accounts; or a reservation's, which is no object."""

    __slots__ = ("account", "counted", "id", "objects", "ref", "size")

    def __init__(self, account: Account, size: int, objects: int = 1) -> None:
        self.account: Account = account
        self.size: int = size
        self.objects: int = objects
        self.counted: bool = False
        self.id: int = 0
        self.ref: ReservationRef | None = None


class Books:
    """The accounts of one `MemoryManager`. What is written is written under `lock`."""

    def __init__(self, config: MemoryConfig) -> None:
        self._low_water = config.low_water
        self.lock: RLock = RLock()
        self.entries: dict[int, Entry] = {}
        """Of the objects that have not ended, and of reservations, by their ids."""
        self.gone: deque[int | ReservationRef] = deque()
        """The mailbox of ends."""
        self.all: Account = Account("all types", config.max_bytes, config.max_live)
        self._accounts: dict[str, Account] = {}
        self.counting: object = None
        """The search for room that runs now: another one, on the same thread, may come in between."""
        self.pressed: bool = False
        """True if the high-water mark was passed, and the low-water mark not reached since."""

    def known(self, type_name: str) -> Account | None:
        """The account of that type, None before it is first needed."""
        return self._accounts.get(type_name)

    def account(self, type_name: str) -> Account:
        """The account of that type, made when first needed."""
        return self._accounts.get(type_name) or self._accounts.setdefault(type_name, Account(type_name))

    def count(self, entry: Entry, counting: object = None) -> bool:
        """Enter an object in its account and in that of all. False, and nothing is done, where `counting` has
        looked for room and another one has come in between."""
        account, everything, size = entry.account, self.all, entry.size
        if counting is not None and self.counting is not counting:
            return False
        entry.counted = True
        account.bytes += size
        account.objects += entry.objects
        account.total += entry.objects
        everything.bytes += size
        everything.objects += entry.objects
        everything.total += entry.objects
        for one in (account, everything):
            if one.bytes > one.peak_bytes:
                one.peak_bytes = one.bytes
            if one.objects > one.peak_objects:
                one.peak_objects = one.objects
        return True

    def over(self, entry: Entry) -> str:
        """The limit that `entry` would pass, in words; empty when none."""
        return entry.account.over(entry.size, entry.objects) or self.all.over(entry.size, entry.objects)

    def never(self, entry: Entry) -> str:
        """The limit that is smaller than `entry` alone, in words; empty when none."""
        return entry.account.never(entry.size) or self.all.never(entry.size)

    def reservation(
        self, account: Account, size: int, leave: Callable[[int], object]
    ) -> tuple[Entry, Reservation]:
        """An entry that is not counted yet, and what it belongs to: when that goes it is uncounted, whatever
        happens."""
        entry = Entry(account, size, objects=0)
        entry.id = next_id()
        reservation = Reservation(entry.id, size, leave)
        entry.ref = ReservationRef(reservation, self.gone.append)
        entry.ref.id = entry.id
        self.entries[entry.id] = entry
        return entry, reservation

    def uncount(self, entry: Entry) -> None:
        """Take it out of both; doing that twice is doing it once."""
        account, everything, size = entry.account, self.all, entry.size
        if not entry.counted:
            return
        entry.counted = False
        account.bytes -= size
        account.objects -= entry.objects
        everything.bytes -= size
        everything.objects -= entry.objects

    def settle(self) -> None:
        """Uncount what has ended. Under the lock, but a handler or ``__del__`` on this thread may come in
        between; what it takes out is uncounted by it, and doing that twice is doing it once."""
        id: int | ReservationRef = 0
        try:
            number = len(self.gone)  # and not those that come meanwhile, which may be without end
            if number:
                for id in itertools.islice(
                    iter(self.gone.popleft, 0), number
                ):  # taken and stored in one step
                    key = id if isinstance(id, int) else id.id
                    entry = self.entries.get(key)
                    if entry is not None:
                        self.uncount(entry)
                        self.entries.pop(key, None)
        except IndexError:
            id = 0  # none is left
        except BaseException:
            self.gone.append(id)
            raise
        if self.pressed and not self.above(self._low_water):
            self.pressed = False

    def find_lost(self) -> bool:
        """Note the ends of reservations that were dropped at the recursion limit, where CPython could not
        post them; whether there were any. Under the lock. Costs what is tracked, so it is asked only before
        something is refused."""
        found = False
        for entry in snapshot(self.entries.values()):
            if entry.ref is not None and is_dead(entry.ref):
                self.gone.append(entry.ref)
                found = True
        return found

    def above(self, share: float) -> bool:
        """Return True if more than `share` of some limit is used."""
        return any(account.over(0, 0, share) for account in (self.all, *snapshot(self._accounts.values())))

    def figures(self) -> dict[str, MemoryTypeStats]:
        """What is held now, by type. Under the lock, when `settle` was called."""
        return {name: account.stats() for name, account in snapshot(self._accounts.items())}

    def after_fork(self) -> None:
        """In the child: everything was the parent's, and what other threads had half tracked is never
        told."""
        self.lock = RLock()
        self.entries.clear()
        self.gone.clear()
        for account in (self.all, *self._accounts.values()):
            account.bytes = account.objects = 0
