"""Hand-over: nothing is lost between two who let go, give up, close or wait at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import ClosedError, Handle, ObjectPool, SafetyManager
from lifecycle._core import runtime
from lifecycle.errors import PoolError, PoolTimeoutError
from lifecycle.pools import waiting
from lifecycle.pools.pool import Pool
from lifecycle.pools.waiting import GAVE_UP, FreeList, Slot, Waiter
from tests.core.adversary import Standing
from tests.core.natives import Native
from tests.support import eventually

gil = pytest.mark.skipif(
    runtime.free_threaded,
    reason="without the GIL a loan of another thread comes back when that thread next runs Python",
)


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is woken or is not: no look around helps. Without the GIL what dies on another thread than it
    was made on may have to be looked for."""
    if not runtime.free_threaded:
        monkeypatch.setattr(waiting, "SLICE", 1000.0)


class Natives:
    def __init__(self) -> None:
        self.made: list[Native] = []

    def __call__(self) -> Native:
        self.made.append(Native())
        return self.made[-1]

    def destroyed(self) -> bool:
        return [native.released for native in self.made] == [1] * len(self.made)


@pytest.fixture
def make() -> Natives:
    return Natives()


@pytest.fixture
def pool(manager: SafetyManager, make: Natives) -> Iterator[ObjectPool[Native]]:
    with ObjectPool(manager, make, size=1, destroy=Native.free, timeout=20) as pool:
        yield pool
    eventually(make.destroyed, timeout=20)


def waits(pool: ObjectPool[Native], function: Callable[[], Any]) -> threading.Thread:
    """A thread that has called `function` and waits in it."""
    thread = threading.Thread(target=function, daemon=True)
    before = len(pool.free_list.waiters)
    thread.start()
    eventually(lambda: len(pool.free_list.waiters) > before, timeout=20)
    return thread


def ends(thread: threading.Thread) -> None:
    eventually(
        lambda: not thread.is_alive(), timeout=20
    )  # running Python: without the GIL that lets objects die


def is_whole(pool: ObjectPool[Native]) -> None:
    eventually(lambda: pool.stats().items["in_use"] == 0, timeout=20)
    with pool.get(timeout=0):
        with pytest.raises(PoolError):
            pool.get(timeout=0)


# -- return against wait -------------------------------------------------------------------------------------


@gil
@pytest.mark.parametrize(
    "line", ["row = self.row(slot.key)", "row[slot] = None", "if not (self.waiters or self.closed"]
)
def test_a_return_that_saw_no_waiter_wakes_one_who_came_since(pool: ObjectPool[Native], line: str) -> None:
    handle = pool.get()
    got: list[Handle[Native]] = []
    with Standing(handle.close, FreeList.put, line) as returning:
        thread = threading.Thread(target=lambda: got.append(pool.get()), daemon=True)
        thread.start()
        eventually(lambda: pool.free_list.waiters or got, timeout=20)
        assert returning.result() is True
        ends(thread)
    got.pop().close()
    assert not got
    is_whole(pool)


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (FreeList.wait, "self.waiters[waiter] = None"),
        (FreeList._answered, "elif not waiter.box and find(waiter):"),
    ],
)
def test_one_who_is_about_to_wait_sees_what_came_back(
    pool: ObjectPool[Native], function: Any, line: str
) -> None:
    handle = pool.get()
    with Standing(pool.get, function, line) as getting:
        handle.close()
        getting.result().close()
    is_whole(pool)


@gil
def test_two_returns_and_one_waiter(manager: SafetyManager, make: Natives) -> None:
    """The second return finds the waiter served already, and puts it among the idle ones."""
    with ObjectPool(manager, make, size=2, destroy=Native.free, timeout=20) as pool:
        one, two = pool.get(), pool.get()
        got: list[Handle[Native]] = []
        thread = waits(pool, lambda: got.append(pool.get()))
        with Standing(one.close, FreeList.put, "if waiter.offer(slot):") as returning:
            two.close()
            ends(thread)
            returning.result()
        eventually(lambda: pool.stats().items == {"idle": 1, "in_use": 1}, timeout=20)
        got[0].close()
    eventually(make.destroyed, timeout=20)


# -- timeout against hand-over -------------------------------------------------------------------------------


def test_what_is_handed_over_at_the_moment_of_the_timeout_is_taken(pool: ObjectPool[Native]) -> None:
    handle = pool.get()
    with Standing(lambda: pool.get(timeout=0.01), Pool._obtain, "waiter.answer()") as giving_up:
        handle.close()  # finds nobody waiting any more
        with pytest.raises(PoolTimeoutError):
            giving_up.result()
    is_whole(pool)
    handle = pool.get()
    with Standing(
        lambda: pool.get(timeout=0.01), FreeList.wait, "self.waiters.pop(waiter, None)"
    ) as giving_up:
        handle.close()  # finds one who waits, though his time is up
        giving_up.result().close()
    is_whole(pool)


@gil
def test_one_who_gave_up_is_passed_over(pool: ObjectPool[Native]) -> None:
    handle = pool.get()
    impatient: list[BaseException] = []

    def hurry() -> None:
        try:
            pool.get(timeout=0.2)
        except PoolTimeoutError as error:
            impatient.append(error)

    first = waits(pool, hurry)
    second = waits(pool, lambda: pool.get().close())
    with Standing(handle.close, FreeList.put, "if waiter.offer(slot):") as returning:
        ends(first)
        assert impatient
        returning.result()
        ends(second)
    is_whole(pool)


def test_the_first_answer_is_the_answer() -> None:
    waiter = Waiter()
    slot = Slot(None)
    assert waiter.offer(slot)
    assert not waiter.offer(Slot(None))
    assert waiter.answer() is slot
    late = Waiter()
    assert late.answer() is GAVE_UP
    assert not late.offer(slot)


# -- return against close ------------------------------------------------------------------------------------


@gil
@pytest.mark.parametrize(
    "line",
    [
        "if self.closed or len(self.slots)",
        "row = self.row(slot.key)",
        "row[slot] = None",
        "if not (self.waiters or self.closed",
    ],
)
def test_what_comes_back_while_the_pool_closes_is_destroyed(
    manager: SafetyManager, make: Natives, line: str
) -> None:
    pool = ObjectPool(manager, make, size=2, destroy=Native.free)
    handle = pool.get()
    with Standing(handle.close, FreeList.put, line) as returning:
        closer = threading.Thread(target=pool.close, daemon=True)
        closer.start()
        eventually(lambda: pool.closed, timeout=20)
        ends(closer)
        returning.result()
    eventually(make.destroyed, timeout=20)
    eventually(lambda: pool.stats().items == {"idle": 0, "in_use": 0}, timeout=20)
    assert pool.free_list.slots == {}


@pytest.mark.parametrize("line", ["self.tell_all(CLOSED)", "while self.take_any(waiter):", "self.put(slot)"])
def test_what_comes_back_while_it_is_being_closed_is_destroyed(
    manager: SafetyManager, make: Natives, line: str
) -> None:
    pool = ObjectPool(manager, make, size=2, destroy=Native.free)
    one, two = pool.get(), pool.get()
    one.close()
    with Standing(pool.close, FreeList.shut, line) as closing:
        two.close()
        closing.result()
    eventually(make.destroyed, timeout=20)
    eventually(lambda: pool.free_list.slots == {}, timeout=20)


def test_one_who_comes_to_wait_while_it_closes_is_told(manager: SafetyManager, make: Natives) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=Native.free, timeout=None)
    with pool.get():
        with Standing(pool.get, FreeList.wait, "self.waiters[waiter] = None") as getting:
            pool.close()
            with pytest.raises(ClosedError):
                getting.result()


def test_a_hand_over_beats_a_close(manager: SafetyManager, make: Natives) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=Native.free, timeout=None)
    handle = pool.get()
    got: list[Handle[Native]] = []
    thread = waits(pool, lambda: got.append(pool.get()))
    with Standing(pool.close, FreeList.tell_all, "waiter.offer(sign)") as closing:
        pool.free_list.closed = False  # it looks once more at where it stood
        handle.close()
        ends(thread)
        pool.free_list.closed = True
        closing.result()
    assert got[0].valid
    got[0].close()
    eventually(make.destroyed, timeout=20)


# -- resizes -------------------------------------------------------------------------------------------------


@gil
def test_shrinking_while_something_comes_back(manager: SafetyManager, make: Natives) -> None:
    pool = ObjectPool(manager, make, size=3, destroy=Native.free)
    handles = [pool.get() for _ in range(3)]
    with Standing(handles[0].close, FreeList.put, "row[slot] = None") as returning:
        with Standing(handles[1].close, FreeList.put, "if self.closed or len(self.slots)") as other:
            pool.resize(1)
            handles[2].close()
            other.result()
        returning.result()
    eventually(lambda: pool.stats().items == {"idle": 1, "in_use": 0}, timeout=20)
    assert len(pool.free_list.slots) == 1
    pool.close()
    eventually(make.destroyed, timeout=20)


@gil
def test_two_that_go_at_once_are_not_one_too_many(manager: SafetyManager, make: Natives) -> None:
    pool = ObjectPool(manager, make, size=2, destroy=Native.free)
    one, two = pool.get(), pool.get()
    pool.resize(1)
    with Standing(one.close, FreeList._retire, "ours = self.slots.pop(slot, self) is None") as first:
        two.close()
        first.result()
    eventually(lambda: len(pool.free_list.slots) == 1, timeout=20)
    is_whole(pool)
    pool.close()


# -- what an interrupt loses ---------------------------------------------------------------------------------


def test_a_slot_that_nobody_has_is_found(pool: ObjectPool[Native], monkeypatch: pytest.MonkeyPatch) -> None:
    pool.get().close()
    waiter = Waiter()
    assert pool.free_list.take_any(waiter)
    assert pool.free_list.find_lost() == 0  # somebody has it
    waiter.hand = None
    eventually(lambda: pool.free_list.find_lost() == 1, timeout=20)
    assert pool.free_list.find_lost() == 0
    is_whole(pool)


def test_a_slot_that_is_lent_shelved_or_handed_over_is_not_lost(pool: ObjectPool[Native]) -> None:
    handle = pool.get()
    assert pool.free_list.find_lost() == 0
    view = handle.lease()
    handle.close()
    assert pool.free_list.find_lost() == 0
    del view
    eventually(lambda: pool.stats().items["idle"] == 1, timeout=20)
    assert pool.free_list.find_lost() == 0


def test_one_who_starves_finds_it(pool: ObjectPool[Native], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SLICE", 0.02)
    waiter = Waiter()
    assert pool.free_list.take_any(waiter)
    thread = waits(pool, lambda: pool.get(timeout=None).close())
    waiter.hand = None
    ends(thread)
