"""What is over leaves nothing, and what an object costs does not grow with what there is besides (I8)."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import counters, runtime
from lifecycle._core.counters import COMPACT_AT, Living
from lifecycle._core.handle import Handle
from lifecycle._core.record import Record
from lifecycle._core.tables import owners
from lifecycle.observe import leaks
from lifecycle.places.queues import losses
from lifecycle.states import RELEASED
from lifecycle.testing import each_interrupt
from tests.core.test_limits import every_opcode
from tests.support import eventually

RETAINED = 10


@pytest.fixture
def forgetful() -> Any:
    """A manager that remembers little of what has ended."""
    with SafetyManager(SafetyConfig(leak_level="off", max_retained=RETAINED)) as manager:
        yield manager


def records(manager: SafetyManager) -> int:
    """How many records of it there are in memory."""
    gc.collect()
    return sum(type(one) is Record and one.kind.registry is manager._registry for one in gc.get_objects())


def left(manager: SafetyManager, most: int, active: int = 0) -> None:
    eventually(lambda: manager.stats().active_objects == active, timeout=20)
    eventually(lambda: records(manager) <= most + active, timeout=20)


class Session:
    pass


def done() -> None:
    pass


def test_finalizers_that_are_over_leave_nothing(forgetful: SafetyManager) -> None:
    before = len(owners)
    sessions = [Session() for _ in range(300)]
    for session in sessions:
        forgetful.set_safe_finalizer(session, done)
    del session
    sessions.clear()
    left(forgetful, RETAINED + COMPACT_AT)
    for _ in range(300):
        forgetful.set_safe_finalizer(Session(), done).cancel()
        session = Session()
        forgetful.set_safe_finalizer(session, done).cancel()
    left(forgetful, RETAINED + COMPACT_AT)
    assert len(owners) <= before
    assert not forgetful._finalizers._table


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_objects_of_which_many_lived_at_once_leave_nothing(forgetful: SafetyManager, place: Any) -> None:
    """Also when no other object of their type comes after them."""
    oldest = forgetful.register(object(), "thing", release=None)
    handles = [
        forgetful.register(object(), "thing", native=number, release=lambda _: None, release_on=place)
        for number in range(1000)
    ]
    eventually(lambda: forgetful.stats().types["thing"].live == 1001)
    for handle in handles:
        handle.close(timeout=0)
    del handle
    handles.clear()
    eventually(lambda: forgetful.stats().types["thing"].live == 1, timeout=20)
    left(forgetful, RETAINED + COMPACT_AT, active=1)
    oldest.close()


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of functions written in Python ``work()`` makes on this thread."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("of", ["kept", "counted", "bytes", "max_live", "max_bytes", "max_age", "two types"])
def test_who_asks_makes_no_call_for_each_object_that_was_closed(of: str) -> None:
    """A scrape right after a million of them costs what types there are."""

    def cost(number: int) -> int:
        limit = {"max_live": 10**6, "max_bytes": 10**9, "max_age": 3600.0}
        with SafetyManager(SafetyConfig(max_retained=RETAINED)) as manager:
            for name in {"thing", "other"} if of == "two types" else {"thing"}:
                manager.policy(name, **{of: limit[of]} if of in limit else {})  # type: ignore[arg-type]
            manager.register(object(), "first", release=None).close()
            manager._maintenance.stop(20)  # so that nobody else counts
            handles = [
                manager.register(
                    object(),
                    "other" if of == "two types" and each % 2 else "thing",
                    size=10,
                    release=lambda _: None,
                    release_on=ANY_THREAD,
                )
                for each in range(number)
            ]
            if of != "kept":
                figures = manager.stats()
                assert figures.active_objects == number
                assert sum(each.bytes for each in figures.types.values()) == 10 * number
            for handle in handles:
                assert handle.close()
            assert manager._registry.pending() >= number
            calls = calls_of(manager.stats)
            stats = manager.stats()
            assert (stats.total_objects, stats.released, stats.active_objects) == (number + 1, number + 1, 0)
            for figures in stats.types.values():
                assert (figures.bytes, figures.held_too_long, figures.oldest) == (0, 0, 0.0)
                assert sum(figures.states.values()) == 0
                assert figures.closed["close"] == figures.registered == figures.release_duration.count
        return calls

    few, many = cost(300), cost(3000)
    assert many < few + 100, f"{few} calls for 300 objects, {many} for 3000"


def test_what_lives_is_looked_through_a_few_blocks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has ended among it: a pass of the keeper takes a bounded number of steps, and who asks none.
    An interrupt loses no record, and doubles none."""
    monkeypatch.setattr(counters, "BLOCK", 8)
    monkeypatch.setattr(counters, "BLOCKS_A_SWEEP", 2)

    class Fact:
        def __init__(self, number: int) -> None:
            self.number, self.phase = number, None

    for order in ("oldest first", "latest first", "every other", "all but the oldest"):
        facts: list[Any] = [Fact(number) for number in range(1000)]
        living = Living()
        for fact in facts:
            living.newest().append(fact)
        assert list(living) == facts
        assert living.oldest() is facts[0]
        ending = {
            "oldest first": facts[:-1],
            "latest first": facts[:0:-1],
            "every other": facts[::2] + facts[1:-1:2],
            "all but the oldest": facts[1:],
        }[order]
        struck = iter(each_interrupt(living.sweep))
        for number, fact in enumerate(ending):
            fact.phase = RELEASED
            living.gone += 1
            if number % 40 == 0:
                next(struck, None)
                left = [each for each in living if each.phase is None]
                assert left == [each for each in facts if each.phase is None], order
                assert living.oldest() is left[0]
                assert sum(1 for _ in living) == len(living)
        for _ in range(1000):
            living.sweep()
        assert len(living) <= COMPACT_AT + 2, order
        assert living.oldest() is (facts[-1] if order in ("oldest first", "every other") else facts[0])
        assert len(living.blocks) < 20


@pytest.mark.parametrize("change", ["trim", "sweep"])
def test_who_looks_in_the_middle_of_a_change_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A signal handler that asks for figures, before each instruction of a change. No record that lives is
    lost by that."""
    monkeypatch.setattr(counters, "BLOCK", 8)
    monkeypatch.setattr(counters, "COMPACT_AT", 0)

    class Fact:
        def __init__(self, number: int) -> None:
            self.number, self.phase = number, RELEASED if number < 11 or number % 2 else None

    facts: list[Any] = [Fact(number) for number in range(40)]
    alive = [fact for fact in facts if fact.phase is None]
    looks = 0
    for first in range(60):
        living = Living()
        for fact in facts:
            living.newest().append(fact)
        living.gone = len(facts) - len(alive)
        number = 0

        def look(living: Living = living, first: int = first) -> None:
            nonlocal number, looks
            number += 1
            if number > first:
                looks += 1
                assert living.oldest() is alive[0]
                assert [fact for fact in living if fact.phase is None] == alive

        with every_opcode(look, lambda code: code.co_filename == counters.__file__):
            getattr(living, change)()
        assert [fact for fact in living if fact.phase is None] == alive
        assert living.oldest() is alive[0]
    assert looks > 1000


@pytest.mark.skipif(
    runtime.free_threaded and sys.version_info < (3, 14),
    reason="CPython 3.13 without the GIL makes every class immortal",
)
def test_no_class_is_kept_for_its_name(forgetful: SafetyManager) -> None:
    def made() -> weakref.ref[type]:
        class Local:
            pass

        forgetful.register(Local(), release=lambda _: None, release_on=ANY_THREAD).close()
        forgetful.register(Local(), release=lambda _: None, release_on=ANY_THREAD).close()
        return weakref.ref(Local)

    classes = [made() for _ in range(20)]
    left(forgetful, RETAINED + COMPACT_AT)
    gc.collect()
    assert not any(cls() is not None for cls in classes)
    assert len(forgetful._kinds._names) < 5


def test_a_release_queue_costs_the_same_with_many_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [ReleaseQueue("kept") for _ in range(1000)]
    walks: list[int] = []
    snapshot = runtime.snapshot

    def counted(container: Any) -> list[Any]:
        walks.append(len(container))
        return snapshot(container)

    monkeypatch.setattr(runtime, "snapshot", counted)
    for _ in range(500):
        ReleaseQueue("dropped")
    assert sum(walks) < 20 * 500, "each walks all that live"
    monkeypatch.undo()
    for _ in range(20_000):
        ReleaseQueue("dropped")
    assert len(runtime._fork_hooks) < 6 * len(kept) + 10_000, "hooks of what was dropped stay"
    assert len(kept) == 1000


def test_the_keeper_looks_after_lost_queues_alone(
    forgetful: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[ReleaseQueue] = []
    sweep = ReleaseQueue.sweep_lost
    monkeypatch.setattr(ReleaseQueue, "sweep_lost", lambda queue: (swept.append(queue), sweep(queue)))
    queues = [ReleaseQueue(f"queue{number}") for number in range(20)]
    handles = [
        forgetful.register(object(), "thing", release=lambda _: None, release_on=queue) for queue in queues
    ]
    before = forgetful._maintenance.last_run
    eventually(lambda: forgetful._maintenance.last_run > before + 0.1)
    assert not swept
    parent = forgetful.register(object(), "parent", release=lambda _: None, release_on=ANY_THREAD)
    child = forgetful.register(object(), "thing", release=lambda _: None, release_on=queues[0], parent=parent)
    with child.lease():
        queues[0].lost("for the test")
        parent.close()
        assert queues[0] in losses, "an orphan in use keeps its parent"
    eventually(lambda: parent.state == "released" and queues[0] not in losses, timeout=20)
    for queue, handle in zip(queues[1:], handles[1:], strict=True):
        handle.close(timeout=0)
        queue.drain()
    handles[0].close(timeout=0)


def test_what_is_dropped_takes_its_hooks_along(forgetful: SafetyManager) -> None:
    """Callbacks of the stop token, finalizers' watches, claims, shares, waiters, alarms."""
    removes = [forgetful.on_close(done) for _ in range(100)]
    for remove in removes:
        remove()
    handles = [forgetful.register(object(), "thing", release=lambda _: None) for _ in range(100)]
    shares = [handle.share() for handle in handles]
    for one in (*shares, *handles):
        one.close(timeout=0)
    registry = forgetful._registry
    eventually(lambda: forgetful.stats().active_objects == 0)
    assert not forgetful.stopping._callbacks
    assert not any(
        (registry.claims, registry.shared, registry.waiters, registry.kept, registry.delayed, registry.roots)
    )


# -- chains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["ANY_THREAD", "BACKGROUND", "queue"])
@pytest.mark.parametrize("order", ["oldest first", "newest first"])
def test_a_long_chain_of_parents_is_released_without_a_wait_for_each(where: str, order: str) -> None:
    """The thread that made them sleeps. Without the GIL each link died on that thread, one for each time it
    woke."""
    queue = ReleaseQueue("chain")
    place: Any = {"ANY_THREAD": ANY_THREAD, "BACKGROUND": BACKGROUND, "queue": queue}[where]
    released: list[int] = []
    over = threading.Event()

    def drain() -> None:
        while not over.wait(0.001):
            queue.drain()

    drains = threading.Thread(target=drain)
    if where == "queue":
        drains.start()
    with SafetyManager(SafetyConfig(leak_level="off")) as manager:
        handles: list[Handle[int]] = []
        for number in range(1500):
            parent = handles[-1] if handles else None
            handles.append(
                manager.register(number, "link", release=released.append, release_on=place, parent=parent)
            )
        parent = None
        for handle in handles if order == "oldest first" else reversed(handles):
            handle.close(timeout=0)
        until = time.monotonic() + 15
        while len(released) < 1500 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(released) == 1500
        assert released == list(range(1499, -1, -1)), "a parent goes after its child"
        assert manager.stats().active_objects == 0
    over.set()
    if where == "queue":
        drains.join(20)


@pytest.mark.parametrize("holder", ["lease", "handle", "view", "second child"])
def test_a_parent_that_somebody_holds_is_not_taken_for_let_go(manager: SafetyManager, holder: str) -> None:
    """Its child is released on another thread."""
    released: list[str] = []
    memory = bytearray(b"abc")
    address = id(memory)
    parent = manager.register(
        memory, "parent", release=lambda _: released.append("parent"), release_on=ANY_THREAD
    )
    child = manager.register(object(), "child", release=lambda _: released.append("child"), parent=parent)
    holds: list[Any] = []
    if holder == "lease":
        holds.append(parent.lease())
    elif holder == "view":
        holds.append(parent.view(address, 8))
    elif holder == "second child":
        holds.append(manager.register(object(), "child", release=None, parent=parent))
    if holder != "handle":
        parent.close(timeout=0)
    thread = threading.Thread(target=child.close)
    thread.start()
    thread.join(20)
    eventually(lambda: "child" in released, timeout=20)
    time.sleep(0.3)
    assert released == ["child"]
    for held in holds:
        if isinstance(held, memoryview):
            held.release()
        else:
            held.close()
    del holds[:]
    held = None
    parent.close(timeout=20)
    assert released == ["child", "parent"]


def test_sites_of_code_that_is_made_as_the_program_runs_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each report stands at a site of its own; when each was told last is known for a moment only."""
    monkeypatch.setattr(leaks, "SITES_KEPT", 20)
    monkeypatch.setattr(leaks, "REPORT_EVERY", 0.01)
    with SafetyManager(SafetyConfig(leak_level="detailed")) as manager:
        reports = manager._machinery.maintenance.ledger.leaks
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for number in range(200):
                source = "made = manager.register(object(), 'thing', release=repr)\ndel made"
                exec(compile(source, f"made-{number}.py", "exec"), {"manager": manager})
                if number % 10 == 9:
                    manager.stats()
                    time.sleep(0.02)
            eventually(lambda: manager.stats().leaks == 200)
        assert len(reports._told) < 60
