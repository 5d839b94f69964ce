"""What a loan may end in that is no return: the item is lent to nobody any more, and another takes its place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import ANY_THREAD, BufferPool, Handle, ObjectPool, SafetyManager
from lifecycle.errors import PoolExhaustedError
from tests.core.natives import Native
from tests.support import eventually


class Lost:
    """The fence of a device that has gone wrong."""

    def signalled(self) -> bool:
        raise RuntimeError("device gone")


class Pending:
    """A fence that is lost when it is told."""

    lost = False

    def signalled(self) -> bool:
        if self.lost:
            raise RuntimeError("device gone")
        return False


def lose(loan: Handle[Any]) -> None:
    loan.close(after=Lost(), timeout=0)


def detach(loan: Handle[Any]) -> None:
    given_away.append(loan.detach())


given_away: list[Any] = []


@pytest.mark.parametrize("way", [lose, detach])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("exhausted", ["refuse", "fallback", "evict"])
def test_a_block_is_not_lent_again(
    manager: SafetyManager, way: Callable[[Handle[Any]], None], kept: bool, exhausted: str
) -> None:
    pool = BufferPool(manager, 4096, 1, exhausted=exhausted, name="blocks")
    addresses = set()
    keep = []
    for _ in range(3):
        loan = pool.get()
        addresses.add(loan.address)
        way(loan)
        if kept:
            keep.append(loan)
        del loan
        eventually(lambda: pool.stats().items["in_use"] == 0)
    assert len(addresses) == 3
    stats = pool.stats()
    assert stats.losses["orphaned" if way is lose else "detached"] == 3
    assert stats.fallbacks == 0
    pool.close()
    given_away.clear()


@pytest.mark.parametrize("exhausted", ["refuse", "fallback"])
def test_an_item_whose_fence_was_lost_is_neither_lent_again_nor_destroyed(
    manager: SafetyManager, exhausted: str
) -> None:
    pool = ObjectPool(
        manager,
        Native,
        size=1,
        destroy=Native.free,
        timeout=0,
        exhausted=exhausted,
        release_on=ANY_THREAD,
        name="contexts",
    )
    used = []
    for number in range(2 if exhausted == "fallback" else 1):
        loan = pool.get()
        with loan.lease() as item:
            used.append(item)
        if number == 0:
            first = loan
    lose(first)
    lose(loan)
    eventually(lambda: pool.stats().items["in_use"] == 0)
    with pool.item() as another:
        assert another not in used
    pool.close()
    manager.close()
    assert [native.released for native in used] == [0] * len(used)
    assert another.released == 1


def test_a_detached_item_is_its_borrowers(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Native, size=1, destroy=Native.free, timeout=5, release_on=ANY_THREAD)
    native = pool.get().detach()
    with pool.item() as another:
        assert another is not native
    assert pool.stats().losses["detached"] == 1
    pool.close()
    manager.close()
    assert (native.released, another.released) == (0, 1)


@pytest.mark.parametrize("way", [lose, detach])
@pytest.mark.parametrize("affinity", [False, True])
def test_an_item_that_nothing_is_called_for_is_given_away_too(
    manager: SafetyManager, way: Callable[[Handle[Any]], None], affinity: bool
) -> None:
    pool = ObjectPool(manager, Native, size=1, affinity=affinity, timeout=5)
    used: list[Native] = []
    for _ in range(3):
        loan = pool.get()
        with loan.lease() as item:
            used.append(item)
        way(loan)
        eventually(lambda: pool.stats().items["in_use"] == 0)
    assert len(set(map(id, used))) == 3
    assert pool.stats().losses["orphaned" if way is lose else "detached"] == 3
    pool.close()
    given_away.clear()


def test_a_detached_item_outlives_the_manager_that_closes_at_once(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Native, size=1, destroy=Native.free, timeout=5, release_on=ANY_THREAD)
    native = pool.get().detach()
    manager.close()
    assert native.released == 0
    assert pool.closed


def test_who_waits_is_given_another_when_the_fence_is_lost(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 1, exhausted="refuse", name="blocks")
    fence = Pending()
    loan = pool.get()
    address = loan.address
    loan.close(after=fence, timeout=0)
    with pytest.raises(PoolExhaustedError):
        pool.get()
    got: list[int] = []

    def borrow() -> None:
        with pool.get(timeout=20) as other:
            got.append(other.address)

    thread = threading.Thread(target=borrow)
    thread.start()
    fence.lost = True
    thread.join(20)
    assert len(got) == 1
    assert got[0] != address
    pool.close()


def test_two_who_look_at_once_put_the_slot_back_once(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 4, exhausted="refuse")
    for _ in range(20):
        for loan in [pool.get() for _ in range(4)]:
            lose(loan)
        eventually(lambda: manager.stats().active_objects == 0)
        looks = [threading.Thread(target=pool.free_list.find_lost) for _ in range(4)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
        assert sum(len(row) for row in pool.free_list.idle.values()) == 4
    assert pool.stats().losses["orphaned"] == 80
    pool.close()
