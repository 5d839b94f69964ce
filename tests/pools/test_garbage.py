"""Loans that only garbage holds: the pool that starves for them asks the collector."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lifecycle import BufferPool, Handle, ObjectPool, SafetyConfig, SafetyManager, never_wait
from lifecycle._core import nudge as starving
from lifecycle._core import runtime
from lifecycle.errors import ConfigError, PoolExhaustedError, PoolTimeoutError
from tests.support import Circle, eventually

pytestmark = pytest.mark.usefixtures("no_collection_by_itself")


@pytest.fixture
def quiet() -> Iterator[SafetyManager]:
    """A manager that does not warn of what was never closed: that is what these tests are about."""
    with SafetyManager(SafetyConfig(leak_level="off"), name="quiet") as manager:
        yield manager


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The generations that were collected for the library."""
    seen: list[int] = []
    collect = runtime.collect

    def noted(generation: int = 2) -> None:
        seen.append(generation)
        collect(generation)

    monkeypatch.setattr(runtime, "collect", noted)
    return seen


def objects(manager: SafetyManager, size: int, **more: Any) -> ObjectPool[list[int]]:
    return ObjectPool(manager, list, size=size, name="items", **more)


def waste(pool: Any, number: int) -> None:
    for _ in range(number):
        Circle(pool.get())


def test_who_waits_gets_what_garbage_held(quiet: SafetyManager, collections: list[int]) -> None:
    pool = objects(quiet, 2)
    waste(pool, 2)
    with pool.get(timeout=30):
        assert collections == [starving.YOUNG]
    assert pool.stats().dropped == 2


def test_who_waits_for_ever_gets_what_old_garbage_held(quiet: SafetyManager, collections: list[int]) -> None:
    """It has survived the young generations."""
    pool = objects(quiet, 2)
    holders = [Circle(pool.get()) for _ in range(2)]
    gc.collect()
    holders.clear()
    with pool.get(timeout=None):
        assert collections == ([starving.YOUNG, starving.ALL] if old_garbage_is_left() else [starving.YOUNG])


def old_garbage_is_left() -> bool:
    """Whether a collection of the young generations leaves old garbage here."""
    return not runtime.free_threaded


def test_who_does_not_wait_gets_it_when_he_has_asked_for_a_while(quiet: SafetyManager) -> None:
    pool = objects(quiet, 2)
    waste(pool, 2)
    refused = 0
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            pool.get(timeout=0).close()
            break
        except PoolExhaustedError:
            refused += 1
            time.sleep(0.01)
    else:
        pytest.fail("it was refused for 30 s")
    assert refused


def test_a_pool_that_falls_back_lends_its_own_again(quiet: SafetyManager) -> None:
    pool = BufferPool(quiet, 4096, 2)
    waste(pool, 2)
    eventually(lambda: pool.get().close() and pool.stats().items["idle"], timeout=30)
    assert pool.stats().results["fallback"]
    assert pool.stats().items == {"idle": 2, "in_use": 0}


def test_on_a_thread_that_must_not_wait_another_one_collects(quiet: SafetyManager) -> None:
    pool = objects(quiet, 1)
    waste(pool, 1)
    mine = threading.get_ident()
    on: set[int] = set()
    gc.callbacks.append(note := lambda phase, info: on.add(threading.get_ident()))
    try:
        with never_wait():
            until = time.monotonic() + 30
            while time.monotonic() < until:
                try:
                    handle: Handle[Any] = pool.get(timeout=0)
                except PoolExhaustedError:
                    time.sleep(0.01)
                else:
                    handle.close()
                    break
            else:
                pytest.fail("it was refused for 30 s")
    finally:
        gc.callbacks.remove(note)
    assert on
    assert mine not in on


def test_whoever_holds_them_is_left_alone_and_the_collector_asked_ever_more_rarely(
    manager: SafetyManager, collections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(runtime, "monotonic", lambda: now[0])
    lent = [1, 2]
    watch = starving.CollectorNudge()
    times: list[float] = []
    for _ in range(10_000):  # 100 s
        number = len(collections)
        watch.look(lambda: list(lent))
        if len(collections) > number:
            times.append(round(now[0] - 1000, 2))
        now[0] += 0.01
    assert [round(time, 0) for time in times] == [0, 1, 3, 7, 15, 30, 45, 60, 75, 90]
    assert collections == [starving.YOUNG] + [starving.ALL] * (len(times) - 1)
    lent[0] = 3  # one has come back, and was lent again
    collections.clear()
    watch.look(lambda: list(lent))
    now[0] += 15
    watch.look(lambda: list(lent))
    assert not collections
    now[0] += 0.11
    watch.look(lambda: list(lent))
    assert collections == [starving.YOUNG]


def test_as_long_as_something_comes_back_the_collector_is_not_asked(
    collections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small pool that is in use all the time starves often, and never for long."""
    now = [1000.0]
    monkeypatch.setattr(runtime, "monotonic", lambda: now[0])
    watch = starving.CollectorNudge()
    for loan in range(1_000):
        for _ in range(9):
            watch.look(lambda loan=loan: [loan])  # type: ignore[misc]
            now[0] += 0.01
    assert not collections


@pytest.mark.parametrize("why", ["collect=False", "gc.disable()"])
def test_nobody_is_asked_where_that_is_not_wanted(
    quiet: SafetyManager, collections: list[int], why: str
) -> None:
    pool = objects(quiet, 1, collect=why != "collect=False")
    waste(pool, 1)
    try:
        if why == "gc.disable()":
            gc.disable()
        with pytest.raises(PoolTimeoutError, match="exhausted"):
            pool.get(timeout=0.5)
    finally:
        gc.enable()
    assert not collections
    gc.collect()
    pool.get(timeout=30).close()


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_neither_true_nor_false(manager: SafetyManager, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="collect="):
        objects(manager, 1, collect=wrong)
    with pytest.raises(ConfigError, match="collect="):
        BufferPool(manager, 4096, 1, collect=wrong)
