"""Pools under a memory budget: what they keep idle is given back before anything is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lifecycle import ANY_THREAD, BudgetError, MemoryConfig, MemoryManager, ObjectPool, SafetyManager


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
    assert memory.stats().all.bytes == 60
    pool.close()
    memory.close()
