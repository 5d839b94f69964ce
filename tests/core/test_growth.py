"""What is over leaves nothing, and what an object costs does not grow with what there is besides (I8)."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from lifecycle._core.counters import COMPACT_AT
from lifecycle._core.handle import Handle
from lifecycle._core.record import Record
from lifecycle._core.tables import owners
from lifecycle.observe import leaks
from lifecycle.places.queues import losses
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


def test_the_list_of_what_lives_is_not_walked_for_each_end(forgetful: SafetyManager) -> None:
    kept = [
        forgetful.register(number, "thing", release=lambda _: None, release_on=ANY_THREAD)
        for number in range(500)
    ]
    forgetful.stats()
    count = kept[0]._record.kind.count
    order = count.order
    for _ in range(200):
        forgetful.register(object(), "thing", release=lambda _: None, release_on=ANY_THREAD).close()
        forgetful.stats()
    assert count.order is order, "made anew although the most in it live"
    for handle in kept:
        handle.close()


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
    before = forgetful._keeper.last_run
    eventually(lambda: forgetful._keeper.last_run > before + 0.1)
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
        reports = manager._machinery.keeper.ledger.leaks
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
