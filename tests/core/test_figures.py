"""Numbers of other kinds where a size, a limit or a time is asked for: those of NumPy, and ones too large."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    FrameDistributor,
    LifecycleError,
    MemoryConfig,
    MemoryManager,
    ObjectPool,
    SafetyConfig,
    SafetyManager,
)

FOUR: Any = np.prod((2, 2))
HUGE: Any = 10**400


def make(manager: SafetyManager, **facts: Any) -> Any:
    return manager.register([1], "thing", release=list.clear, release_on=ANY_THREAD, **facts)


def test_numbers_of_numpy_are_numbers(manager: SafetyManager) -> None:
    """`numpy.prod` of a shape is one, and so is what is computed with it."""
    assert issubclass(type(FOUR), np.integer)
    with make(manager, size=FOUR) as thing:
        assert (thing.size, type(thing.size)) == (4, int)
        assert manager.stats().types["thing"].bytes == 4
        memory = bytearray(8)
        address = np.frombuffer(memory, np.uint8).ctypes.data
        assert thing.view(address, FOUR).nbytes == 4
    manager.policy("thing", max_live=FOUR, max_bytes=FOUR)
    assert type(manager.stats().types["thing"].bytes_limit) is int
    manager.policy("thing", max_live=None, max_bytes=None)
    manager.factory(list, "list", release=list.clear, release_on=ANY_THREAD, limit=FOUR)().close()
    memory_manager = MemoryManager(manager, MemoryConfig(max_bytes=FOUR))
    reservation = memory_manager.reserve(FOUR, "cache")
    assert memory_manager.stats().all.bytes == 4
    reservation.release()
    memory_manager.set_budget("cache", max_bytes=FOUR)
    pool = BufferPool(manager, FOUR, FOUR)
    with pool.get(FOUR) as buffer:
        assert buffer.view().nbytes == 4
    assert pool.close().ok
    assert ObjectPool(manager, list, size=FOUR).close().ok
    FrameDistributor(FOUR, manager=manager).close()


@pytest.mark.parametrize(
    "size", [True, np.True_, 1.0, np.float32(1), "1", None, decimal.Decimal(1), -1, np.int8(-1)]
)
def test_what_is_no_whole_number_is_refused(size: Any, manager: SafetyManager) -> None:
    with pytest.raises(LifecycleError, match="size="):
        make(manager, size=size)


def test_a_number_that_no_clock_takes_is_refused(manager: SafetyManager) -> None:
    for field in ("finalizer_timeout", "shutdown_timeout", "state_retention", "cleanup_interval"):
        with pytest.raises(LifecycleError, match=field):
            SafetyConfig(**{field: HUGE})
    with pytest.raises(LifecycleError, match="retry_for"):
        make(manager, retry_for=HUGE)
    with pytest.raises(LifecycleError, match="max_age"):
        manager.policy("thing", max_age=HUGE)
    with pytest.raises(LifecycleError, match="timeout="):
        FrameDistributor(1, manager=manager).subscribe().recv(timeout=HUGE)
    longest = SafetyConfig(finalizer_timeout=1e300, shutdown_timeout=1e300, state_retention=1e300)
    patient = SafetyManager(longest)
    assert patient.register([1], release=list.clear).close()
    assert patient.close().ok


@pytest.mark.parametrize("time", [np.float32(1), np.int64(1), decimal.Decimal(1)])
def test_a_time_of_another_kind_is_told_how_to_be_written(time: Any, manager: SafetyManager) -> None:
    ways: list[Callable[[], object]] = [
        lambda: SafetyConfig(finalizer_timeout=time),
        lambda: make(manager, retry_for=time),
        lambda: manager.policy("thing", max_age=time),
        lambda: manager.close(timeout=cast("Any", time)),
    ]
    for way in ways:
        with pytest.raises(LifecycleError, match=r"write float\(\.\.\.\)"):
            way()
