"""Pools in coroutines of asyncio and trio, items that are kept ready, and warm-up."""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
from typing import Any

import numpy as np
import pytest

from lifecycle import BufferPool, LifecycleError, ObjectPool, SafetyManager
from lifecycle._core import facts
from lifecycle.errors import ClosedError, ConfigError, PoolError, PoolExhaustedError, PoolTimeoutError
from tests.support import eventually


class Item:
    """Something that is lent."""


def test_a_loan_for_a_block_of_a_coroutine(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=1)

    async def main() -> None:
        async with pool.get_async() as handle:
            with handle.lease() as first:
                pass
            assert pool.stats().items == {"idle": 0, "in_use": 1}
        assert pool.stats().items == {"idle": 1, "in_use": 0}
        handle = await pool.get_async(timeout=0)
        with handle.lease() as second:
            assert second is first
        assert str(handle)
        assert "test_coroutines.py" in str(pool.loans()[0])
        assert pool.put(handle)

    asyncio.run(main())
    assert pool.stats().results["reused"] == 1
    pool.close()


def test_the_loop_goes_on_while_one_waits(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 1, timeout=30, exhausted="refuse")

    async def main() -> list[str]:
        told: list[str] = []
        held = pool.get()

        async def borrow(name: str) -> None:
            async with pool.get_async(100) as buffer:
                np.frombuffer(buffer.view(), np.uint8)[:] = 1
                told.append(name)

        tasks = [asyncio.create_task(borrow("first")), asyncio.create_task(borrow("second"))]
        while pool.stats().waiters < 2:
            await asyncio.sleep(0)
        told.append("given back")
        held.close()
        await asyncio.gather(*tasks)
        return told

    assert asyncio.run(main()) == ["given back", "first", "second"]
    assert pool.stats().items == {"idle": 1, "in_use": 0}
    pool.close()


def test_who_waits_in_vain_is_told_who_has_it(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of its own: the tests before may have spent the other.
    monkeypatch.setattr(facts, "walks", type(facts.walks)())
    pool = ObjectPool(manager, Item, size=1, timeout=30)

    async def main() -> None:
        held = pool.get()
        with pytest.raises(PoolTimeoutError, match=r"local 'held' of .*main\(\) at test_coroutines.py"):
            await pool.get_async(timeout=0.05)
        with pytest.raises(PoolExhaustedError):
            await pool.get_async(timeout=0)
        with pytest.raises(LifecycleError, match="timeout"):
            await pool.get_async(timeout=float("nan"))
        held.close()
        pool.close()
        with pytest.raises(ClosedError):
            await pool.get_async()

    asyncio.run(main())


def test_closing_tells_who_waits(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=1, timeout=None)

    async def main() -> None:
        held = pool.get()
        waiting = asyncio.create_task(pool.get_async().__aenter__())
        while not pool.stats().waiters:
            await asyncio.sleep(0)
        pool.close()
        with pytest.raises(ClosedError):
            await waiting
        held.close()

    asyncio.run(main())


def test_cancelled_at_any_moment_no_item_is_lost(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=1, timeout=None)

    async def main() -> None:
        for turns in range(40):
            held = pool.get(timeout=0)
            waiting = asyncio.create_task(pool.get_async().__aenter__())
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            held.close()
            for _ in range(turns // 5):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                (await waiting).close()
            except asyncio.CancelledError:
                pass
            del waiting, held
            assert pool.stats().items["in_use"] == 0, turns
            assert pool.stats().waiters == 0

    asyncio.run(main())
    with pool.item(timeout=0):
        pass
    pool.close()


def test_a_loan_that_was_never_awaited_is_none(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=1)
    pool.get_async()
    with pool.item(timeout=0):
        pass
    pool.close()


@pytest.mark.needs("trio")
def test_in_trio(manager: SafetyManager) -> None:
    trio: Any = importlib.import_module("trio")
    pool = BufferPool(manager, 4096, 1, timeout=None, exhausted="refuse")
    told: list[str] = []

    async def borrow(name: str) -> None:
        async with pool.get_async() as buffer:
            assert buffer.nbytes == 4096
            told.append(name)

    async def main() -> None:
        held = pool.get()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrow, "waits")
            while not pool.stats().waiters:
                await trio.sleep(0)
            with trio.move_on_after(0.02) as scope:
                await pool.get_async()
            assert scope.cancelled_caught
            told.append("given back")
            # From another thread, as a pipeline's.
            threading.Thread(target=held.close).start()

    trio.run(main)
    assert told == ["given back", "waits"]
    assert pool.stats().items == {"idle": 1, "in_use": 0}
    pool.close()


# -- kept ready ----------------------------------------------------------------------------------------------


def test_so_many_are_kept_ready(manager: SafetyManager) -> None:
    made: list[str] = []

    def create() -> Item:
        made.append(threading.current_thread().name)
        return Item()

    pool = ObjectPool(manager, create, size=4, min_idle=2, name="ready")
    eventually(lambda: pool.stats().items["idle"] == 2)
    first, second = pool.get(), pool.get()
    eventually(lambda: pool.stats().items == {"idle": 2, "in_use": 2})
    assert set(made) == {"pool-ready"}, "nobody who borrowed has made one"
    third = pool.get()
    assert pool.stats().items == {"idle": 1, "in_use": 3}, "there are no more slots"
    for handle in (first, second, third):
        handle.close()
    assert pool.trim() == 2
    assert pool.stats().items["idle"] == 2, "as many as are kept ready"
    pool.close()
    eventually(lambda: "pool-ready" not in [thread.name for thread in threading.enumerate()])


def test_buffers_are_kept_ready(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 8192, 3, min_idle=2, name="blocks")
    eventually(lambda: pool.stats().items["idle"] == 2)
    pool.resize(size=16384)
    with pool.get() as buffer:
        assert buffer.nbytes == 16384
    eventually(lambda: pool.stats().items["idle"] >= 2)
    pool.close()


@pytest.mark.parametrize("how", ["get", "get_async"])
def test_what_is_being_made_is_not_taken_for_lent(manager: SafetyManager, how: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def create() -> Item:
        begun.set()
        assert go_on.wait(20)
        return Item()

    def borrow() -> object:
        return pool.get(timeout=0) if how == "get" else asyncio.run(waiting())

    async def waiting() -> object:
        return await pool.get_async(timeout=0)

    pool = ObjectPool(manager, create, size=1, min_idle=1)
    assert begun.wait(20)
    threading.Timer(0.05, go_on.set).start()
    loan: Any = borrow()
    assert pool.stats().items == {"idle": 0, "in_use": 1}
    with pytest.raises(PoolExhaustedError, match="all 1 are in use"):
        borrow()
    loan.close()
    pool.close()


def test_who_waits_for_what_cannot_be_made_makes_it(manager: SafetyManager) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def create() -> Item:
        if threading.current_thread().name == "pool-objects":
            begun.set()
            assert go_on.wait(20)
            raise OSError("not there")
        return Item()

    pool = ObjectPool(manager, create, size=1, min_idle=1)
    assert begun.wait(20)
    threading.Timer(0.05, go_on.set).start()
    pool.get(timeout=0).close()
    pool.close()


def test_what_cannot_be_made_is_reported_and_tried_again(manager: SafetyManager) -> None:
    fails = [OSError("not yet")]

    def create() -> Item:
        if fails:
            raise fails.pop()
        return Item()

    pool = ObjectPool(manager, create, size=2, min_idle=1)
    eventually(lambda: pool.stats().items["idle"] == 1)
    assert manager.stats().types["objects"].panics == 1
    pool.close()


def test_a_pool_that_is_dropped_or_whose_manager_closes_has_no_thread() -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("pool-gone")]

    with SafetyManager(name="m") as manager:
        pool = ObjectPool(manager, Item, size=2, min_idle=1, name="gone-a")
        other = ObjectPool(manager, Item, size=2, min_idle=1, name="gone-b")
        eventually(lambda: other.stats().items["idle"] == 1)
        eventually(lambda: pool.stats().items["idle"] == 1)
        del pool
        gc.collect()
        eventually(lambda: threads() == ["pool-gone-b"])
    eventually(lambda: threads() == [])


def test_warm_up(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=3)
    assert pool.warm_up(2) == 2
    assert pool.warm_up(2) == 0
    held = pool.get()
    assert pool.warm_up(2) == 0, "one is idle and one lent"
    assert pool.warm_up() == 1
    assert pool.warm_up(99) == 0
    assert pool.stats().items == {"idle": 2, "in_use": 1}
    held.close()
    for wrong in (-1, 1.5, True, "two"):
        with pytest.raises(PoolError, match="warm_up"):
            pool.warm_up(wrong)  # type: ignore[arg-type]
    pool.close()
    with pytest.raises(PoolError, match="closed"):
        pool.warm_up()


def test_warm_up_on_the_thread_that_is_to_have_them(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Item, size=2, affinity=True, check=lambda _: True)
    assert pool.warm_up(1) == 1
    with pool.item(timeout=0):
        assert pool.stats().results["created"] == 0
    with pytest.raises(ConfigError, match="warm_up"):
        ObjectPool(manager, Item, size=2, affinity=True, min_idle=1)
    pool.close()


def test_what_a_warm_up_raises_comes_out_and_costs_no_slot(manager: SafetyManager) -> None:
    def create() -> Item:
        raise OSError("no")

    pool = ObjectPool(manager, create, size=1)
    with pytest.raises(OSError, match="no"):
        pool.warm_up()
    assert pool.stats().items == {"idle": 0, "in_use": 0}
    assert len(pool.free_list.idle[0]) == 1
    pool.close()


@pytest.mark.parametrize("wrong", [-1, 1.5, True, None])
def test_numbers_that_are_none(manager: SafetyManager, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="min_idle"):
        ObjectPool(manager, Item, size=1, min_idle=wrong)
    with pytest.raises(ConfigError, match="min_idle"):
        BufferPool(manager, 4096, 1, min_idle=wrong)
