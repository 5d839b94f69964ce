"""MemoryManager: exact figures, budgets, pressure."""

from __future__ import annotations

import gc
import re
import threading
import time
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    ClosedError,
    LifecycleError,
    MemoryConfig,
    MemoryManager,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle._core import facts
from lifecycle._core.budget import Budget
from lifecycle.errors import BudgetError, ConfigError, LimitError, UnknownObjectError
from lifecycle.memory import manager as manager_module
from lifecycle.memory.figures import resident_memory
from lifecycle.testing import code_of
from tests.core.adversary import (
    STORM,
    Interrupt,
    assert_nothing_left,
    at_once,
    each_interrupt,
    every_line,
    switching,
)
from tests.core.natives import Native
from tests.managers.support import collector
from tests.support import eventually, run_python

LONG = 30.0


def track(memory: MemoryManager, size: int = 10, type_name: str = "native", **more: Any) -> int:
    return memory.track_object(Native(), type_name, size, release=Native.free, release_on=ANY_THREAD, **more)


def test_bytes_and_counts_live_peak_and_per_type(manager: SafetyManager) -> None:
    with MemoryManager(manager) as memory:
        a, b = track(memory, 100), track(memory, 50, "other")
        c = track(memory, 30)
        stats = memory.stats()
        assert (stats.all.bytes, stats.all.objects, stats.all.peak_bytes) == (180, 3, 180)
        assert stats.types["native"].bytes == 130
        assert stats.types["other"].objects == 1
        assert memory.release_object(a)
        assert memory.safe_object_access(c, Native.use) == ""
        stats = memory.stats()
        assert (stats.all.bytes, stats.all.objects, stats.all.peak_bytes, stats.all.peak_objects) == (
            80,
            2,
            180,
            3,
        )
        assert (stats.types["native"].peak_bytes, stats.types["native"].total_objects) == (130, 2)
        assert [info.id for info in memory.holders()] == [b, c]
        with pytest.raises(UnknownObjectError):
            memory.release_object(10**12)
    assert memory.stats().all.bytes == 0
    assert manager.stats().types["native"].bytes == 0


def test_what_is_held_counts_until_it_is_released(manager: SafetyManager) -> None:
    memory = MemoryManager(manager)
    queue = ReleaseQueue("gl", thread="current")
    id = memory.track_object(Native(), "native", 64, release=Native.free, release_on=queue)
    with manager.safe_access(id):
        assert not memory.release_object(id)
        assert memory.stats().all.bytes == 64
    thread = threading.Thread(target=lambda: memory.release_object(id))
    thread.start()
    thread.join()
    assert memory.stats().all.bytes == 64  # its queue has not drained
    queue.drain()
    assert memory.stats().all.bytes == 0
    memory.close()


def test_over_budget_is_refused_with_the_holders(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1000))
    big = track(memory, 600, name="big")
    small = track(memory, 300)
    with pytest.raises(BudgetError) as caught:
        track(memory, 200)
    assert isinstance(caught.value, LimitError)
    assert f'native "big" (object {big}) with 600 bytes' in str(caught.value)
    assert "max_bytes=1000" in str(caught.value)
    assert [info.id for info in caught.value.holders] == [big, small]
    assert memory.stats().refused == 1
    assert manager.stats().types["native"].registered == 2
    memory.release_object(small)
    assert track(memory, 400)
    memory.close()


@pytest.mark.parametrize("rule", ["max_bytes", "max_live"])
def test_budgets_of_a_type(manager: SafetyManager, rule: str) -> None:
    memory = MemoryManager(manager)
    memory.set_budget("native", **{rule: 20 if rule == "max_bytes" else 2})
    track(memory, 10)
    last = track(memory, 10)
    other = track(memory, 10_000, "other")
    with pytest.raises(BudgetError, match=rule):
        track(memory, 10)
    memory.set_budget("native", **{rule: None})
    track(memory, 10)
    memory.set_budget("native", **{rule: 1})
    with pytest.raises(BudgetError):
        track(memory, 10)
    assert memory.stats().types["native"].bytes == 30
    assert {last, other} <= set(memory._index)
    memory.close()


def test_who_waited_in_vain_is_told_who_holds_the_largest(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that no other test has spent.
    monkeypatch.setattr(facts, "walks", Budget(30.0))
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=0.02))
    id = memory.track_object([], "picture", 80, release=list.clear)
    with pytest.raises(BudgetError) as mine:
        memory.track_object([], "picture", 80, release=list.clear)
    assert "held by" not in str(mine.value), "only by its memory manager"
    with manager.handle(id) as share, share.lease(), pytest.raises(BudgetError) as found:
        memory.track_object([], "picture", 80, release=list.clear)
    assert re.search(r"with 80 bytes held by lease of thread \"MainThread\"", str(found.value)), found.value
    assert memory.release_object(id)
    memory.close()


def test_blocked_until_there_is_room(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=LONG))
    first = track(memory, 80)
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(track(memory, 50)))
    thread.start()
    eventually(lambda: memory.stats().waiting == 1, timeout=20)
    assert not done
    memory.release_object(first)
    thread.join(LONG)
    assert len(done) == 1
    assert memory.stats().all.bytes == 50
    began = time.monotonic()
    with pytest.raises(BudgetError, match=r"0\.05 s have passed"):
        track(memory, 60, timeout=0.05)
    assert time.monotonic() - began < LONG
    with never_wait(), pytest.raises(BudgetError):
        track(memory, 60, timeout=None)
    memory.close()


def test_a_large_one_is_not_passed_by_small_ones(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=LONG))
    first, second = track(memory, 50), track(memory, 40)
    order: list[str] = []

    def wait(size: int, label: str) -> None:
        track(memory, size)
        order.append(label)

    threads = []
    for size, label in ((90, "large"), (5, "small")):
        threads.append(threading.Thread(target=wait, args=(size, label)))
        threads[-1].start()
        eventually(lambda: memory.stats().waiting == len(threads), timeout=20)
    assert not order
    memory.release_object(second)
    time.sleep(0.1)
    assert not order  # the large one is first
    memory.release_object(first)
    for thread in threads:
        thread.join(LONG)
    assert order == ["large", "small"] or sorted(order) == ["large", "small"]
    assert memory.stats().all.bytes == 95
    memory.close()


@pytest.mark.parametrize("what", ["manager", "facade"])
def test_a_blocked_caller_is_told_when_it_closes(what: str) -> None:
    manager = SafetyManager(name="closing")
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="block", block_timeout=None))
    track(memory, 100)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            track(memory, 1)
        except BaseException as error:
            told.append(error)

    lease = manager.safe_access(next(iter(memory._index)))  # so that closing frees no room
    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: memory.stats().waiting == 1, timeout=20)
    (manager if what == "manager" else memory).close()
    thread.join(LONG)
    assert [type(error) for error in told] == [ClosedError]
    del lease
    manager.close()
    assert memory.stats().waiting == 0


def test_reported_and_taken_all_the_same(manager: SafetyManager) -> None:
    told: list[Any] = []
    manager.add_observer(lambda event: told.append(event) if event.kind == "over_budget" else None)
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, over="report"))
    track(memory, 80)
    track(memory, 80)
    assert memory.stats().all.bytes == 160
    assert memory.stats().reported == 1
    eventually(lambda: told, timeout=20)
    assert told[0].fields["limit"] == "max_bytes=100"
    memory.close()


def test_pressure_callbacks_run_until_the_low_water_mark(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, high_water=0.8, low_water=0.5))
    spare = [track(memory, 20) for _ in range(3)]
    ran: list[str] = []

    def trim() -> None:
        ran.append("first")
        for id in spare:
            memory.release_object(id)

    memory.add_pressure_callback(trim)
    remove = memory.add_pressure_callback(lambda: ran.append("second"))
    track(memory, 15)
    assert ran == []  # 75 of 100
    track(memory, 10)
    assert ran == ["first"]  # that was enough
    assert memory.stats().all.bytes == 25
    remove()
    for _ in range(3):
        track(memory, 18)  # 79
    assert ran == ["first"]
    with pytest.raises(BudgetError):
        track(memory, 40)
    assert ran == ["first", "first"]
    assert memory.stats().pressure_runs == 2
    assert memory.relieve() == 0
    memory.close()


def test_what_pressure_frees_makes_room(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, high_water=1.0, low_water=0.5))
    idle = track(memory, 90)
    memory.add_pressure_callback(lambda: memory.release_object(idle))
    assert track(memory, 90)
    assert memory.stats().refused == 0
    memory.close()


def test_a_collection_frees_what_only_garbage_holds(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, collect=True))
    id = track(memory, 90)
    cycle: list[Any] = [manager.safe_access(id)]
    cycle.append(cycle)
    assert not memory.release_object(id)
    gc.disable()
    try:
        del cycle
        assert track(memory, 90, timeout=1.0)
    finally:
        gc.enable()
    memory.close()


def test_a_callback_that_raises_is_counted_and_the_next_one_runs(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=10))
    ran: list[int] = []
    memory.add_pressure_callback(lambda: 1 / 0)
    memory.add_pressure_callback(lambda: ran.append(1))
    track(memory, 10)
    assert ran == [1]
    assert manager.stats().panics == 1
    memory.close()


def test_a_callback_may_track_and_ask(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100, high_water=0.5, low_water=0.1))

    def nosy() -> None:
        memory.stats()
        memory.relieve()
        track(memory, 1)

    memory.add_pressure_callback(nosy)
    track(memory, 60)
    assert memory.stats().all.bytes == 61
    memory.close()


def test_threads_that_must_not_wait_do_not_run_callbacks(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100))
    threads: list[int] = []
    memory.add_pressure_callback(lambda: threads.append(threading.get_ident()))
    with never_wait():
        track(memory, 95)
        eventually(lambda: threads, timeout=20)
        with pytest.raises(BudgetError):
            track(memory, 95)
        eventually(lambda: len(threads) == 2, timeout=20)
    assert threads[0] != threading.get_ident()
    memory.close()


def test_not_tracked_it_counts_nothing_and_limits_nothing(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(track_object_lifecycle=False, max_bytes=10))
    native = Native()
    id = memory.track_object(native, "native", 100, release=Native.free, release_on=ANY_THREAD)
    assert memory.stats().all.bytes == 0
    assert memory.release_object(id)
    assert native.released == 1


def test_resident_memory_with_and_without_proc_and_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    found = resident_memory()
    monkeypatch.setattr(
        "lifecycle.memory.figures.open", lambda *_: (_ for _ in ()).throw(OSError), raising=False
    )
    by_psutil = resident_memory()
    if sys.platform == "linux":
        assert found is not None
        assert by_psutil is not None
        assert 0.5 < found / by_psutil < 2
        assert found > 5_000_000
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert resident_memory() is None


def test_forked_in_the_middle_of_tracking_the_child_counts_from_nothing() -> None:
    """Threads of the parent are anywhere in both facades: the child has its own locks and none of their
    half-tracked objects."""
    out = run_python(
        """
        import os, signal, threading, warnings
        warnings.simplefilter("ignore")
        import structlog
        structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())
        from lifecycle import *
        from lifecycle.distribution import *
        from lifecycle.errors import *
        from lifecycle.fences import *

        manager = SafetyManager(SafetyConfig(leak_level="off"))
        memory = MemoryManager(manager, MemoryConfig(max_bytes=10**6, over="block"))
        objects = ObjectLifecycleManager(manager)
        stop = threading.Event()

        def once(name):
            id = memory.track_object([], "list", 10, release=list.clear, release_on=ANY_THREAD)
            figures = memory.stats().all
            memory.release_object(id)
            id = objects.register_object([], "list", name, release=list.clear, release_on=ANY_THREAD)
            found = len(objects.find(name))
            objects.unregister_object(id)
            return figures.bytes, found, len(objects), memory.stats().all.bytes

        def churn():
            while not stop.is_set():
                once("parent")

        threads = [threading.Thread(target=churn, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        statuses = []
        for _ in range(15):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                os._exit(0 if once("child") == (10, 1, 0, 0) and not objects.find("parent") else 3)
            statuses.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
        print(statuses, memory.stats().all.bytes, len(objects))
        """,
        timeout=60,
    ).check()
    assert out.strip() == f"{[0] * 15} 0 0"


def test_bad_input_is_refused_and_nothing_is_left(manager: SafetyManager) -> None:
    for wrong in (
        {"max_bytes": 0},
        {"max_live": -1},
        {"max_bytes": True},
        {"max_bytes": 1.5},
        {"high_water": 0},
        {"low_water": 2},
        {"high_water": 0.2, "low_water": 0.5},
        {"collect": 1},
        {"track_object_lifecycle": "yes"},
        {"block_timeout": -1},
    ):
        with pytest.raises(LifecycleError):
            MemoryConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="refuse, block, report"):
        MemoryConfig(over="explode")
    with pytest.raises(ConfigError):
        MemoryManager(manager, config={"max_bytes": 1})  # type: ignore[arg-type]
    memory = MemoryManager(manager)
    for value in (0, -5, True, 2.5, "1M"):
        with pytest.raises(RegistrationError, match="whole number above 0"):
            memory.set_budget("native", max_bytes=value)  # type: ignore[arg-type]
    with pytest.raises(LifecycleError):
        memory.set_budget("", max_bytes=5)
    with pytest.raises(LifecycleError):
        memory.add_pressure_callback(None)  # type: ignore[arg-type]
    for more in (
        {"size": -1},
        {"size": "5"},
        {"release": 7},
        {"timeout": -1},
        {"name": 5},
        {"parent": 10**12},
    ):
        with pytest.raises(LifecycleError):
            memory.track_object([], "list", **more)  # type: ignore[arg-type]
    mine: list[int] = []
    owned = manager.register(mine, "list", release=list.clear, release_on=ANY_THREAD)
    with owned.lease() as obj, pytest.raises(LifecycleError, match="is owned by"):
        memory.track_object(obj, "list", 50, release=list.clear, release_on=ANY_THREAD)
    owned.close()
    assert memory.stats().all.bytes == 0
    assert memory.stats().all.objects == 0
    memory.close()


def test_figures_are_exact_after_a_storm() -> None:
    with SafetyManager(SafetyConfig(leak_level="off"), name="storm") as manager, switching(1e-5):
        memory = MemoryManager(manager, MemoryConfig(max_bytes=2000, over="block", block_timeout=LONG))
        over: list[int] = []

        def churn(seed: int) -> None:
            import random

            dice = random.Random(seed)
            mine: list[int] = []
            for _ in range(int(60 * STORM)):
                if len(mine) > 3 or (mine and dice.random() < 0.5):
                    memory.release_object(mine.pop(dice.randrange(len(mine))))
                else:
                    mine.append(track(memory, dice.randrange(1, 100), f"type {dice.randrange(3)}"))
                figures = memory.stats().all
                if figures.bytes > 2000:
                    over.append(figures.bytes)
            for id in mine:
                memory.release_object(id)

        at_once(*[lambda seed=seed: churn(seed) for seed in range(4)])  # type: ignore[misc]
        stats = memory.stats()
        assert not over
        assert (stats.all.bytes, stats.all.objects) == (0, 0)
        assert sum(kind.total_objects for kind in stats.types.values()) == stats.all.total_objects
        assert all((kind.bytes, kind.objects) == (0, 0) for kind in stats.types.values())
        assert stats.all.peak_bytes <= 2000
        assert not memory._books.entries
        assert_nothing_left(manager)


def test_an_interrupt_anywhere_leaves_the_figures_exact() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="interrupted")
    memory = MemoryManager(manager, MemoryConfig(max_bytes=100))
    memory.track_object([], "list", 1, release=list.clear, release_on=ANY_THREAD)

    def run() -> None:
        id = track(memory, 40)
        memory.release_object(id)

    for struck in each_interrupt(run):
        assert struck.error is None or isinstance(struck.error, Interrupt), struck.error
        if struck.error is not None:
            struck.error.__traceback__ = None
        manager._any_thread.run_some(None)  # what was interrupted is taken up again
        live = [info.size for info in memory.holders()]
        figures = memory.stats().all
        assert figures.bytes == sum(live), struck.place
        assert figures.objects == len(live), struck.place
        for id in list(memory._index):
            if manager._registry.records[id].kind.type_name == "native":
                memory.release_object(id)
        gc.collect(1)
        assert memory.stats().all.bytes == 1, struck.place
        assert memory.stats().all.peak_bytes <= 100
        assert not memory._pressure._relieving
    memory.close()
    assert memory.stats().all.bytes == 0
    manager.close()


def test_the_collector_at_every_line_changes_nothing(manager: SafetyManager) -> None:
    with every_line(collector()):
        memory = MemoryManager(manager, MemoryConfig(max_bytes=100))
        id = track(memory, 95)
        with pytest.raises(BudgetError):
            track(memory, 10)
        assert memory.release_object(id)
        assert memory.close()


def test_tracked_by_a_signal_handler_or_del_in_the_middle_of_tracking(manager: SafetyManager) -> None:
    """Before every line of ours another one is tracked and released on the same thread: the figures stay
    exact."""
    memory = MemoryManager(manager, MemoryConfig(max_bytes=10_000))

    def meddle() -> None:
        memory.release_object(track(memory, 7, "meddler"))

    with every_line(meddle):
        id = track(memory, 40)
    assert memory.stats().all.bytes == 40
    with every_line(meddle):
        memory.release_object(id)
    stats = memory.stats()
    assert (stats.all.bytes, stats.all.objects) == (0, 0)
    assert 47 <= stats.all.peak_bytes <= 10_000
    memory.close()


@pytest.mark.parametrize("change", ["release", "budget"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_leaves_nobody_asleep_who_waits_for_room(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Whoever makes room wakes the first who waits in one step; nobody is helped by looking again here."""
    monkeypatch.setattr(manager_module, "LOOK_AGAIN", 4 * LONG)
    made: list[tuple[MemoryManager, threading.Thread, list[object]]] = []

    def run() -> None:
        memory = MemoryManager(config=MemoryConfig(max_bytes=10, over="block", block_timeout=None))
        first = track(memory)
        outcome: list[object] = []

        def wait() -> None:
            try:
                outcome.append(track(memory))
            except (ClosedError, BudgetError) as error:
                outcome.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        eventually(lambda: memory.stats().waiting == 1)
        made.append((memory, thread, outcome))
        if change == "release":
            memory.release_object(first)
        else:
            memory.set_budget(max_bytes=20)

    for _ in each_interrupt(run, of=code_of(MemoryManager._left, MemoryManager.set_budget)):
        memory, thread, outcome = made.pop()
        limit = memory.stats().all.bytes_limit
        if len(memory) == 0 or limit == 20:
            thread.join(LONG)
            assert outcome, "it sleeps beside the room that there is"
        memory.close()
        thread.join(LONG)
        assert not thread.is_alive()
    made.clear()
