"""Objects that are costly to make, lent again and again: connections, encoders, contexts.

An item is registered with the manager for its whole life, with `destroy` as its release; each loan of it is
an object of its own that has the item as its parent. So whatever becomes of the pool, the item is destroyed
once, at its place, and never while somebody still uses it.

**Fit to be lent.** `reset` runs when an item comes back, `check` when it is lent; one that is refused by
either, is older than `max_age`, or was invalidated while it was lent (a panic in `safe_access`) is destroyed,
and its slot goes on empty: the next borrower makes a new one in it. The user's functions run on the thread of
whoever borrows or gives back, and under no lock.

**Thread affinity.** Some natives may be touched by the thread that made them alone. With ``affinity=True`` an
item is lent only there, and checked, reset and destroyed there: each thread has a `ReleaseQueue`, drained
whenever it borrows or calls `drain`. The items of a thread that has ended cannot be reached any more: their
queue is lost, and they are counted as orphaned.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Generic, TypeVar

from lifecycle.errors import (
    AccessRefusedError,
    CallbackError,
    ConfigError,
    DuplicateError,
    HeldError,
    LifecycleError,
    OwnershipError,
    RegistrationError,
)
from lifecycle.lowlevel import (
    DEFAULT,
    Default,
    Facts,
    PlaceLike,
    caller,
    check_callback,
    check_release,
    monotonic,
    pin,
    raw,
    refuses,
    snapshot,
)
from lifecycle.manager import BACKGROUND, Handle, ReleaseQueue, SafetyManager
from lifecycle.pools.pool import Borrowing, Pool
from lifecycle.pools.waiting import CLOSED, EMPTY, EXTRA, Sign, Slot, Waiter
from lifecycle.states import POISONED

T = TypeVar("T")

ANYONE = 1
"""The key of items that may be lent to every thread."""

_getframe = sys._getframe
_next_key = itertools.count(ANYONE + 1).__next__


class LostWithLoan:
    """The fence of an item whose loan has lost its own."""

    def signalled(self) -> bool:
        """Raise: it is not known."""
        raise LifecycleError("the fence of its last loan was lost, so it may be in use for ever")


class Home:
    """A thread that items belong to. Referred to by the thread's own locals alone, so it dies with the
    thread."""

    __slots__ = ("__weakref__", "key", "make", "queue")
    key: int
    queue: ReleaseQueue
    make: Callable[[], Handle[Any]]


class ObjectPool(Pool, Generic[T]):
    """Lends objects that are costly to make.

    Parameters
    ----------
    manager:
        Owns the items and their loans. When it closes, so does the pool.
    create:
        Makes an item, another one each time; called without arguments, on the thread that borrows. `get`
        raises what it raises, `CallbackError` where it gives None, and `DuplicateError` where it gives an
        item that the pool has already: two borrowers would have the same.
    size:
        How many items there are at most. They are made when first needed.
    reset:
        Called with an item that came back; False (whatever is false but None) or an exception destroys it.
    check:
        Called with an item before it is lent again; False, as with `reset`, or an exception destroys it, and
        a new one is made.
    destroy:
        Called with each item once, when it is no longer needed, at the place `release_on`. None: nothing is
        called.
    timeout:
        Seconds that `get` waits when all are in use; None: for ever.
    exhausted:
        What happens then: ``"refuse"``, `PoolTimeoutError` or `PoolExhaustedError`, naming the longest
        holders; ``"fallback"``: one more is made, lent once and destroyed when it comes back.
    max_age:
        Seconds after which an item is not lent again.
    min_idle:
        How many items are kept ready, as far as `size` allows: they are made on a thread of the pool's own,
        from the beginning on and whenever fewer are idle, and `trim` leaves them. What `create` raises there
        is reported. One that is being made there is waited for even with ``timeout=0``, as long as `create`
        takes. A forked child has no such thread. Not with `affinity`: call `warm_up` on the thread that is to
        have them.
    affinity:
        True: an item is lent, checked, reset and destroyed only on the thread that made it. `release_on` is
        then the pool's own.
    release_on:
        Where `destroy` runs: `BACKGROUND` (timed workers), `ANY_THREAD`, or a `ReleaseQueue`.
    name:
        Shown in messages and metrics.
    type_name:
        The type of its loans in the manager's figures and policies (None: the pool's name); that of its items
        has ``.item`` after.
    collect:
        Where nothing comes back, run the garbage collector now and then: perhaps only garbage holds what is
        lent (see `CollectorNudge` of `lifecycle.lowlevel`). A program that has disabled the collector is left
        alone.

    Raises `ConfigError` for sizes and times that are not possible, `CallbackError` for functions that cannot
    be called as needed.
    """

    def __init__(
        self,
        manager: SafetyManager,
        create: Callable[[], T],
        *,
        size: int,
        reset: Callable[[T], object] | None = None,
        check: Callable[[T], object] | None = None,
        destroy: Callable[[T], object] | None = None,
        timeout: float | None = 30.0,
        exhausted: str = "refuse",
        max_age: float | None = None,
        affinity: bool = False,
        release_on: PlaceLike = BACKGROUND,
        name: str = "objects",
        type_name: str | None = None,
        collect: bool = True,
        min_idle: int = 0,
    ) -> None:
        check_callback(create, f"pool {name!r}: create")
        for fn, what in ((reset, "reset"), (check, "check"), (destroy, "destroy")):
            if fn is not None:
                check_callback(fn, f"pool {name!r}: {what}")
                check_release(fn, what=what)
        if max_age is not None and (
            isinstance(max_age, bool)
            or not isinstance(max_age, (int, float))
            or not 0 < max_age < float("inf")
        ):
            raise ConfigError(f"pool {name!r}: max_age= takes seconds above 0, or None, not {max_age!r}")
        if affinity and release_on is not BACKGROUND:
            raise ConfigError(
                f"pool {name!r}: with affinity=True items are destroyed on their own threads; leave "
                "release_on= out"
            )
        if affinity and min_idle:
            raise ConfigError(
                f"pool {name!r}: with affinity=True items are made on the threads that they belong to; leave "
                "min_idle= out, and call warm_up() there"
            )
        self._create = create
        self._reset = reset
        self._check = check
        self._destroy = destroy
        self._max_age = max_age
        self._affine = bool(affinity)
        self._homes = threading.local()
        self._queues: dict[int, tuple[weakref.ref[Home], ReleaseQueue]] = {}
        # By an item's address, the slot that has it, weakly: a slot is found lost by its reference count.
        # What is left of an item whose slot has another counts for nothing.
        self._slot_of: dict[int, weakref.ref[Slot]] = {}
        super().__init__(
            manager,
            name=name,
            limit=size,
            timeout=timeout,
            exhausted=exhausted,
            choices=("refuse", "fallback"),
            type_name=type_name or name,
            collect=collect,
            min_idle=min_idle,
        )
        self._careful = check is not None or max_age is not None
        self.looks_after: bool = reset is not None or max_age is not None
        self._make = manager.factory(
            create, f"{self._type_name}.item", release=destroy, release_on=release_on
        )
        self._begin_to_fill()

    @property
    def size(self) -> int:
        """How many items there are at most."""
        return self.free_list.limit

    def get(self, *, timeout: float | Default | None = DEFAULT) -> Handle[T]:
        """Return an item, as a handle: ``with pool.get() as handle, handle.lease() as item``. It comes back
        when the handle is closed and its last holder has let go.

        Raises `PoolTimeoutError` (nothing came back within `timeout` seconds) and `PoolExhaustedError` (all
        are in use, and `timeout` is 0), both naming the longest holders, `ClosedError` when the pool or its
        manager is closed, also while it waits, and whatever `create` raises.
        """
        want = ANYONE if not self._affine else self._home().key
        try:
            frame: FrameType | None = _getframe(1)
        except ValueError:
            # C called it, and no Python frame is below.
            frame = None
        return self._get(want, 0, timeout, frame)

    def get_async(self, *, timeout: float | Default | None = DEFAULT) -> Borrowing[Handle[T]]:
        """`get` for coroutines of asyncio or trio: ``async with pool.get_async() as handle``, or ``handle =
        await pool.get_async()``. The event loop goes on while it waits; `create`, `check` and `reset` run on
        the loop's thread. Cancelling it loses no item. Raises as `get`, when it is awaited."""
        return self._borrow(self._want(), 0, timeout)

    @contextmanager
    def item(self, *, timeout: float | Default | None = DEFAULT) -> Iterator[T]:
        """An item for a block: ``with pool.item() as item``. Raises as `get`."""
        handle = self._get(ANYONE if not self._affine else self._home().key, 0, timeout, caller())
        try:
            with handle, handle.lease() as item:
                yield item
        finally:
            handle = item = None  # type: ignore[assignment]  # K3

    def trim(self, keep: int = 0, *, idle_for: float = 0.0) -> int:
        """Destroy idle items, the least recently used first, until `keep` are left; of those only that have
        been idle for `idle_for` seconds. Returns how many. What is lent is not touched, and `min_idle` stay
        in any case."""
        return self._trim(keep, idle_for, _one)

    def resize(self, size: int) -> None:
        """Change the largest number of items. If there are too many, idle ones are destroyed at once, lent
        ones when they come back. Raises `ConfigError`, and `PoolError` on a closed pool."""
        self._resize(size, "size")

    def drain(self) -> int:
        """With ``affinity=True``: destroy what waits to be destroyed on this thread; how many. `get` does it
        too."""
        home = getattr(self._homes, "home", None)
        return 0 if home is None else home.queue.drain()

    # -- threads ---------------------------------------------------------------------------------------------

    def _home(self) -> Home:
        """This thread, as one that items belong to."""
        home: Home | None = getattr(self._homes, "home", None)
        if home is None:
            home = Home()
            home.key = _next_key()
            home.queue = ReleaseQueue(self.name, thread="current")
            home.make = self.manager.factory(
                self._create, f"{self._type_name}.item", release=self._destroy, release_on=home.queue
            )
            self._queues[home.key] = (weakref.ref(home), home.queue)
            self._homes.home = home
        if home.queue.backlog:
            home.queue.drain()
        return home

    def _bury(self) -> None:
        """Give up the items of threads that have ended: they may not be used any more."""
        for key, (home, queue) in snapshot(self._queues.items()):
            if home() is None:
                queue.lost("its thread has ended")
                self.free_list.forget_row(key)
                if not any(slot.key == key for slot in snapshot(self.free_list.slots)):
                    self._queues.pop(key, None)

    # -- how a pool of objects works -------------------------------------------------------------------------

    def _want(self) -> int:
        return ANYONE if not self._affine else self._home().key

    def _find(self, waiter: Waiter) -> bool:
        free_list = self.free_list
        if free_list.take(waiter.want, waiter) or free_list.take(EMPTY, waiter):
            return True
        if not self._affine:
            return False
        self._bury()
        return free_list.take(EMPTY, waiter) or free_list.take_any(waiter)  # another thread's makes room

    def _fit(self, slot: Slot, want: int, patience: float | Default | None) -> str:
        handle = item = None
        try:
            if slot.key not in (EMPTY, want):
                self._empty(slot, "evicted")
            if slot.key != EMPTY:
                why = self._unfit(slot)
                if not why:
                    return "reused"
                self._empty(slot, why)
            handle = self._one_more()
            item = self._raw(handle)
            self._refuse_misfit(slot, item, handle)
            # K4: with the key it is the slot's.
            slot.item = item
            slot.handle = handle
            slot.dirty = False
            slot.key = want
            slot.made = monotonic()
            return "created"
        finally:
            slot = handle = item = None  # type: ignore[assignment]  # K3

    def _one_more(self) -> Handle[T]:
        """What `create` makes."""
        try:
            return self._homes.home.make() if self._affine else self._make()
        except RegistrationError as error:
            # Of None, if there is a `destroy`; a duplicate has an error of its own.
            if type(error) is not RegistrationError or error.type_name != f"{self._type_name}.item":
                raise
        raise self._nothing_made()

    def _refuse_misfit(self, slot: Slot, item: Any, handle: Handle[T]) -> None:
        """Raise where what was made for `slot` cannot be lent beside the others. Nothing is called for it: it
        is no item of the pool's, or another slot's."""
        other = None
        try:
            if item is None:
                error: LifecycleError = self._nothing_made()
            else:
                mine = weakref.ref(slot)
                other = self._slot_of.setdefault(id(item), mine)()
                if other is slot:
                    return
                if other is None or other.item is not item:
                    self._slot_of[id(item)] = mine
                    return
                error = DuplicateError(
                    f"pool {self.name!r}: create returned an object that is an item of the pool already "
                    f"({other.handle!r}): two borrowers would have the same; have it make another each time"
                )
            self._give_up(handle)
            raise error
        finally:
            other = handle = item = slot = error = None  # type: ignore[assignment]  # K3

    def _nothing_made(self) -> CallbackError:
        return CallbackError(
            f"pool {self.name!r}: create returned None, so there is nothing to lend; have it return "
            "what it makes"
        )

    def _give_up(self, handle: Handle[T] | None) -> None:
        """Have nothing called for an item any more. Raises `HeldError` while somebody uses it."""
        try:
            if handle is not None:
                # Nor is there anything to be called where it has no release, which is what the error says.
                with suppress(OwnershipError):
                    handle.detach(timeout=0)
        finally:
            handle = None  # K3

    def _raw(self, handle: Handle[T]) -> Any:
        """The item that was just made. Raises `ClosedError` where the manager was closed meanwhile."""
        held = None
        try:
            held = pin(handle)
            return raw(held)
        except AccessRefusedError:
            if self.manager.closed:
                self._refuse(CLOSED, None, 0.0)
            raise
        finally:
            held = handle = None  # type: ignore[assignment]  # K3

    def _unfit(self, slot: Slot) -> str:
        """Why the item of an idle slot is not to be lent; empty when it is fit."""
        handle = slot.handle
        if handle is None or not handle.valid:
            return "panic"
        if self._max_age is not None and monotonic() - slot.made > self._max_age:
            return "aged"
        if slot.dirty and not self._passes(self._reset, slot.item, "reset"):
            return "reset"
        slot.dirty = False
        return "" if self._passes(self._check, slot.item, "check") else "check"

    def _clean(self, slot: Slot, known: Facts) -> None:
        if known.cause in POISONED:
            self._empty(slot, "panic")
        elif self._max_age is not None and monotonic() - slot.made > self._max_age:
            self._empty(slot, "aged")
        elif self._reset is None:
            slot.dirty = False
        elif not self._affine or self._is_home(slot.key):
            if self._passes(self._reset, slot.item, "reset"):
                slot.dirty = False
            else:
                self._empty(slot, "reset")

    def _is_home(self, key: int) -> bool:
        home = getattr(self._homes, "home", None)
        return home is not None and home.key == key

    def _passes(self, fn: Callable[[T], object] | None, item: T, what: str) -> bool:
        if fn is None:
            return True
        try:
            return not refuses(fn(item))
        except BaseException as error:
            self._contained(what, error)
            return False
        finally:
            item = None  # type: ignore[assignment]

    def _empty(self, slot: Slot, why: str) -> None:
        handle = slot.handle
        known = self._slot_of.get(id(slot.item))
        if known is not None and known() is slot:
            self._slot_of.pop(id(slot.item), None)
        slot.handle = slot.item = None
        slot.key = EMPTY
        slot.dirty = False
        try:
            if why == EXTRA:
                self.free_list.extras.pop(slot, None)
            else:
                self._counts.lost(why)
        finally:
            try:
                if handle is not None:
                    handle.close(timeout=0)
            finally:
                handle = None  # K3

    def give_away(self, slot: Slot, why: str) -> bool:
        """As `Pool.give_away`."""
        handle = slot.handle
        try:
            if handle is not None and handle.valid:
                if why == "detached":
                    # Its borrower owns it: nothing is called for it any more.
                    self._give_up(handle)
                else:
                    # Somebody may use it for ever: it is not destroyed, and kept.
                    handle.close(timeout=0, after=LostWithLoan())
        except (HeldError, AccessRefusedError):
            if handle.valid:
                return False  # without the GIL its loan may hold it for a moment longer
        finally:
            handle = None  # K3
        self._empty(slot, why)
        return True

    def _instead(self, answer: Sign) -> str:
        return "" if answer is CLOSED or self._exhausted == "refuse" else "fallback"

    def _after_fork(self) -> None:
        self._homes = threading.local()
        self._queues = {}
        self._slot_of = {}
        super()._after_fork()


def _one(slot: Slot) -> int:
    return 1
