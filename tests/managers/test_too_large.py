"""What a budget can never serve is refused at once, and `get(timeout=)` keeps its own timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import ANY_THREAD, BufferPool, LifecycleError, MemoryConfig, MemoryManager, SafetyManager
from lifecycle.errors import BudgetError
from tests.support import eventually


def tracked(memory: MemoryManager, size: int, **how: Any) -> int:
    return memory.track_object([], "frame", size, release=list.clear, release_on=ANY_THREAD, **how)


ASKS: dict[str, Callable[[MemoryManager], object]] = {
    "track": lambda memory: tracked(memory, 20_000),
    "reserve": lambda memory: memory.reserve(20_000, "frame"),
    "pool": lambda memory: pooled(memory).get(),
    "pool, timeout": lambda memory: pooled(memory).get(timeout=0.5),
    "pool, for ever": lambda memory: pooled(memory).get(timeout=None),
}


def pooled(memory: MemoryManager) -> BufferPool:
    return BufferPool(memory.manager, 20_000, 2, memory=memory, type_name="frame", name="large")


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("over", ["block", "refuse"])
@pytest.mark.parametrize("of_type", [True, False])
def test_more_than_the_whole_budget_is_refused_at_once(
    manager: SafetyManager, ask: str, over: str, of_type: bool
) -> None:
    limit: dict[str, Any] = {} if of_type else {"max_bytes": 8192}
    memory = MemoryManager(manager, MemoryConfig(over=over, block_timeout=None, **limit), name="cards")
    if of_type:
        memory.set_budget("frame", max_bytes=8192)
    with pytest.raises(
        BudgetError, match=r"cards.*max_bytes=8192 is less than that.*Ask for less, or.*set_budget"
    ):
        ASKS[ask](memory)
    assert memory.stats().all.bytes == 0


def test_a_report_only_budget_takes_it(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=10, over="report"))
    tracked(memory, 20)
    assert memory.stats().reported == 1
    memory.close()


def test_who_waits_is_told_when_the_budget_shrinks_below_what_it_asks_for(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=None))
    held = memory.reserve(60)
    told: list[BudgetError] = []

    def ask() -> None:
        with pytest.raises(BudgetError) as caught:
            memory.reserve(80)
        told.append(caught.value)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    eventually(lambda: memory.stats().waiting == 1)
    memory.set_budget(max_bytes=70)
    thread.join(20)
    assert len(told) == 1
    held.release()


@pytest.mark.parametrize("over", ["block", "refuse"])
def test_get_keeps_its_own_timeout(manager: SafetyManager, over: str) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=8192, over=over, block_timeout=None))
    pool = BufferPool(manager, 8192, 2, memory=memory)
    held = memory.reserve(4096)
    for timeout in (0, 0.2):
        began = time.monotonic()
        with pytest.raises(BudgetError):
            pool.get(timeout=timeout)
        assert time.monotonic() - began < 10
    held.release()
    pool.get(timeout=0).close()
    pool.close()


def test_a_timeout_that_is_none_is_refused(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 8192, 2)
    with pytest.raises(LifecycleError, match="timeout="):
        pool.get(timeout=-1)
    pool.close()


# -- pressure ----------------------------------------------------------------------------------------------------


class Panic(BaseException):
    """As PyO3's PanicException: no `Exception`."""


@pytest.mark.parametrize("error", [ValueError, Panic])
def test_a_pressure_callback_may_raise_anything(manager: SafetyManager, error: type[BaseException]) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1000, high_water=0.5, low_water=0.3))
    ran: list[int] = []

    def trim() -> None:
        raise error("trim")

    memory.add_pressure_callback(trim)
    memory.add_pressure_callback(lambda: ran.append(1))
    for _ in range(4):
        tracked(memory, 200)
    assert ran
    assert len(memory) == 4
    assert manager.stats().panics == len(ran)
    memory.close()


def test_control_flow_leaves_a_pressure_callback(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1000, high_water=0.5, low_water=0.3))

    def leave() -> None:
        raise SystemExit

    memory.add_pressure_callback(leave)
    with pytest.raises(SystemExit):
        memory.relieve()
    assert memory.stats().all.bytes == 0
