"""Pools under a memory budget: what they keep idle is given back before anything is refused."""

from __future__ import annotations

import ctypes
import gc
import mmap
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    MemoryConfig,
    MemoryManager,
    ObjectPool,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import BudgetError, ConfigError
from tests.core.adversary import each_interrupt
from tests.support import eventually

PAGE = mmap.PAGESIZE


def test_a_pool_trims_itself_for_others(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, high_water=1.0, low_water=0.5))
    ids: dict[int, int] = {}

    def make() -> list[int]:
        item: list[int] = []
        ids[id(item)] = memory.track_object(
            object(), "item", 30, release=lambda _: None, release_on=ANY_THREAD
        )
        return item

    def destroy(item: list[int]) -> None:
        memory.release_object(ids.pop(id(item)))

    pool: ObjectPool[Any] = ObjectPool(manager, make, destroy=destroy, size=3, name="items")
    loans = [pool.get() for _ in range(3)]
    assert memory.stats().all.bytes == 90
    memory.add_pressure_callback(pool.trim)
    with pytest.raises(BudgetError):
        memory.track_object([], "large", 60, release=list.clear, release_on=ANY_THREAD)  # all are lent
    for loan in loans:
        loan.close()
    assert memory.stats().all.bytes == 90  # idle
    assert memory.track_object([], "large", 60, release=list.clear, release_on=ANY_THREAD)
    eventually(
        lambda: memory.stats().all.bytes == 60, timeout=20
    )  # what was spared is destroyed in the background
    pool.close()
    memory.close()


def test_what_a_pool_of_buffers_has_allocated_counts(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    pool = BufferPool(manager, PAGE, 3, memory=memory, name="small")
    loans = [pool.get() for _ in range(2)]
    assert memory.stats().types["buffer"].bytes == 2 * PAGE
    for loan in loans:
        loan.close()
    assert memory.stats().all.bytes == 2 * PAGE  # idle
    with pool.get(10 * PAGE):  # plainly, from outside the pool
        assert memory.stats().all.bytes == 12 * PAGE
    assert memory.stats().all.bytes == 2 * PAGE
    assert pool.trim(1) == PAGE
    assert memory.stats().all.bytes == PAGE
    with pool.get() as buffer:
        view = buffer.view()
    pool.close()
    assert memory.stats().all.bytes == PAGE  # read by a view yet
    del view
    eventually(lambda: memory.stats().all.bytes == 0, timeout=20)
    assert memory.stats().all.objects == 0


def test_buffers_that_are_idle_make_room_for_others(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=4 * PAGE, high_water=1.0, collect=False))
    pools = [BufferPool(manager, PAGE, 4, memory=memory, name=name) for name in ("first", "second")]
    for loan in [pools[0].get() for _ in range(4)]:
        loan.close()
    loans = [pools[1].get() for _ in range(3)]
    assert pools[0].stats().items["idle"] == 0
    assert memory.stats().all.bytes == 3 * PAGE
    id = memory.track_object([], "list", PAGE, release=list.clear, release_on=ANY_THREAD)
    with pytest.raises(BudgetError, match="buffer"):
        pools[0].get()
    assert pools[0].stats().items == {"idle": 0, "in_use": 0}
    loans.pop().close()
    with pools[0].get():
        assert memory.stats().all.bytes == 4 * PAGE
    memory.release_object(id)
    for loan in loans:
        loan.close()
    for pool in pools:
        pool.close()
    assert memory.stats().all.bytes == 0


def test_a_pool_that_is_dropped_counts_no_more(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    pool: BufferPool | None = BufferPool(manager, PAGE, 2, memory=memory)
    assert pool is not None
    pool.get().close()
    assert memory.stats().all.bytes == PAGE
    pool = None
    gc.collect()
    assert memory.stats().all.bytes == 0
    assert not memory._pressure._callbacks


def test_a_block_that_was_written_to_after_it_came_back_counts_for_ever(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    pool = BufferPool(manager, PAGE, 1, memory=memory, poison=0xDD)
    with pool.get() as buffer:
        address = buffer.address
    ctypes.memset(address, 1, 1)
    pool.get().close()
    pool.close()
    assert memory.stats().all.bytes == PAGE  # it is still mapped


def test_a_budget_that_is_none(manager: SafetyManager) -> None:
    with pytest.raises(ConfigError, match=r"memory= takes a MemoryManager or None, not 100"):
        BufferPool(manager, PAGE, 1, memory=100)  # type: ignore[arg-type]


def test_an_interrupt_anywhere_in_a_get_under_a_budget() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="interrupted")
    memory = MemoryManager(manager, MemoryConfig(max_bytes=2 * PAGE, collect=False))
    pool = BufferPool(manager, PAGE, 2, memory=memory)
    struck = 0

    def run() -> None:
        pool.get().close()

    for strike in each_interrupt(run):
        struck += strike.error is not None
        if strike.error is not None:
            strike.error.__traceback__ = None
        eventually(
            lambda: pool.stats().items["in_use"] == 0, timeout=20
        )  # without the GIL a slot is found lost twice
        assert memory.stats().all.bytes == pool.stats().items["idle"] * PAGE, strike.place
        pool.trim()
        assert memory.stats().all.bytes == 0, strike.place
    assert struck > 100
    manager.close()
