"""`MemoryManager.reserve`: bytes in a budget that are no object's."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    ClosedError,
    LifecycleError,
    MemoryConfig,
    MemoryManager,
    RegistrationError,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle.errors import BudgetError
from lifecycle.memory import Reservation
from tests.core.adversary import Interrupt, at_once, each_interrupt, every_line, switching
from tests.managers.support import collector
from tests.support import eventually

LONG = 30.0


def test_it_counts_as_bytes_and_not_as_an_object(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, max_live=1))
    with memory.reserve(60, "cache") as first:
        assert first.size == 60
        assert repr(first).endswith(": 60 bytes>")
        second = memory.reserve(10)
        stats = memory.stats()
        assert (stats.all.bytes, stats.all.objects, stats.all.total_objects) == (70, 0, 0)
        assert (stats.types["cache"].bytes, stats.types["memory"].bytes) == (60, 10)
        id = memory.track_object([], "list", 30, release=list.clear, release_on=ANY_THREAD)
        assert memory.stats().all.bytes == 100
        assert [info.id for info in memory.holders()] == [id]
    assert memory.stats().all.bytes == 40
    first.release()
    second.release()
    second.release()
    assert memory.stats().all.bytes == 30
    assert memory.stats().all.peak_bytes == 100
    memory.close()


def test_dropped_it_counts_no_more(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    reservation: Reservation | None = memory.reserve(5)
    assert memory.stats().all.bytes == 5
    reservation = None
    assert memory.stats().all.bytes == 0
    circle: list[Any] = [memory.reserve(7)]
    circle.append(circle)
    del circle
    gc.collect()
    assert memory.stats().all.bytes == 0
    assert not memory._books.entries
    assert reservation is None


def test_a_refusal_counts_nothing_and_names_who_holds(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100))
    id = memory.track_object([], "list", 50, name="left", release=list.clear, release_on=ANY_THREAD)
    kept = memory.reserve(30, "cache")
    with pytest.raises(
        BudgetError, match=r"no room for 40 bytes of type 'cache'.*\"left\".*Nothing was reserved"
    ) as caught:
        memory.reserve(40, "cache")
    assert caught.value.__traceback__ is not None  # kept, and keeps nothing counted
    assert memory.stats().all.bytes == 80
    memory.set_budget("cache", max_bytes=35)
    with pytest.raises(BudgetError, match="max_bytes=35"):
        memory.reserve(10, "cache")
    assert memory.reserve(5, "cache").size == 5
    kept.release()
    assert memory.release_object(id)
    assert memory.stats().all.bytes == 0


def test_blocked_until_one_is_released_and_until_one_is_dropped(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=LONG))
    for give_back in (Reservation.release, lambda _: None):
        held = [memory.reserve(80)]
        got: list[Reservation] = []
        thread = threading.Thread(target=lambda got=got: got.append(memory.reserve(50)))  # type: ignore[misc]
        thread.start()
        eventually(lambda: memory.stats().waiting == 1, timeout=20)
        give_back(held.pop())
        thread.join(LONG)
        assert [one.size for one in got] == [50]
        got.clear()
    kept = memory.reserve(80)
    with pytest.raises(BudgetError, match=r"0\.05 s have passed"):
        memory.reserve(50, timeout=0.05)
    with never_wait(), pytest.raises(BudgetError):
        memory.reserve(50, timeout=None)
    assert memory.stats().all.bytes == kept.size


def test_who_is_blocked_asks_again_what_can_be_spared(manager: SafetyManager) -> None:
    """What is idle by then was in use when it was asked first."""
    memory = MemoryManager(
        manager, MemoryConfig(max_bytes=100, over="block", block_timeout=LONG, collect=False)
    )
    in_use = [memory.reserve(80)]
    idle: list[Reservation] = []
    memory.add_pressure_callback(idle.clear)
    got: list[Reservation] = []
    thread = threading.Thread(target=lambda: got.append(memory.reserve(50)))
    thread.start()
    eventually(lambda: memory.stats().waiting == 1, timeout=20)
    idle.append(in_use.pop())
    eventually(
        lambda: not thread.is_alive(), timeout=LONG
    )  # and not join: without the GIL ours die when we run Python
    assert [one.size for one in got] == [50]


@pytest.mark.parametrize("size", [-1, 1.5, "1", None, True])
def test_a_size_that_is_none(manager: SafetyManager, size: Any) -> None:
    memory = MemoryManager(manager)
    with pytest.raises(RegistrationError, match="number of native bytes"):
        memory.reserve(size)
    assert not memory._books.entries


def test_other_bad_input(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    with pytest.raises(LifecycleError):
        memory.reserve(1, "")
    with pytest.raises(LifecycleError, match="timeout="):
        memory.reserve(1, timeout=-1)
    kept = memory.reserve(1)
    memory.close()
    with pytest.raises(ClosedError):
        memory.reserve(1)
    kept.release()
    assert memory.stats().all.bytes == 0
    assert not memory._books.entries


def test_where_nothing_is_tracked_nothing_is_counted(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1, track_object_lifecycle=False))
    with memory.reserve(10):
        assert memory.stats().all.bytes == 0


def test_an_interrupt_anywhere_leaves_the_figures_exact() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="interrupted")
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, collect=False))
    kept: list[Reservation] = []
    struck = 0

    def run() -> None:
        kept.append(memory.reserve(40))
        kept.pop().release()
        kept.append(memory.reserve(50))

    for strike in each_interrupt(run):
        assert strike.error is None or isinstance(strike.error, Interrupt), strike.error
        struck += strike.error is not None
        if strike.error is not None:
            strike.error.__traceback__ = None
        assert memory.stats().all.bytes in ({one.size for one in kept} or {0}), strike.place
        kept.clear()
        assert memory.stats().all.bytes == 0, strike.place
        assert not memory._books.entries, strike.place
    assert struck > 100
    manager.close()


def test_the_collector_at_every_line(manager: SafetyManager) -> None:
    """Reservations die in the middle of others."""
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100_000))
    collect = collector()

    def drop_one() -> None:
        circle: list[Any] = [memory.reserve(3)]
        circle.append(circle)
        collect()

    with every_line(drop_one) as struck:
        with memory.reserve(10):
            assert memory.stats().all.bytes >= 10
        memory.reserve(20)
    assert struck.strikes > 30
    gc.collect()
    assert memory.stats().all.bytes == 0
    assert not memory._books.entries


def test_from_many_threads(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1_000, collect=False))

    kept = memory.reserve(600)

    def work(number: int) -> None:
        for turn in range(200):
            try:
                reservation = memory.reserve(1 + (turn * number) % 300, f"kind {number % 2}")
            except BudgetError:
                continue
            if turn % 3:
                reservation.release()
            del reservation

    with switching(1e-5):
        at_once(*(lambda number=number: work(number) for number in range(4)))  # type: ignore[misc]
    stats = memory.stats()
    assert (stats.all.bytes, stats.types["kind 0"].bytes, stats.types["kind 1"].bytes) == (600, 0, 0)
    assert 700 < stats.all.peak_bytes <= 1_000
    kept.release()
    assert memory.stats().all.bytes == 0
    assert not memory._books.entries


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_begins_with_nothing(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100))
    kept = memory.reserve(80)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fine = memory.stats().all.bytes == 0
            other = memory.reserve(90)
            kept.release()
            fine = fine and memory.stats().all.bytes == 90
            other.release()
            status = int(not (fine and memory.stats().all.bytes == 0))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert memory.stats().all.bytes == 80
    kept.release()
