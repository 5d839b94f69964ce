"""Places: where releases run, with deadlines, retries, losses and fences."""

from __future__ import annotations

import collections
import gc
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    Handle,
    LifecycleError,
    NotReleased,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core.exports import Export
from lifecycle._core.record import raw_pin
from lifecycle._core.release import NEST_LIMIT
from lifecycle._core.runtime import free_threaded as FREE_THREADED
from lifecycle.errors import WrongThreadError
from tests.core.natives import Fence, Native, Panic
from tests.support import SOON, eventually

QUICK = SafetyConfig(finalizer_timeout=0.25)


def on(manager: SafetyManager, place: Any, release: Any = Native.free, **more: Any) -> Handle[Native]:
    return manager.register(Native(), "native", release=release, release_on=place, **more)


# -- ReleaseQueue --------------------------------------------------------------------------------------------


def test_a_queue_releases_when_it_is_drained_on_the_draining_thread(manager: SafetyManager) -> None:
    """I4."""
    queue = ReleaseQueue("gl")
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=queue)
    assert handle.close() is False
    assert handle.close() is False
    assert (native.released, queue.backlog) == (0, 1)
    drained: list[int] = []
    thread = threading.Thread(target=lambda: drained.append(queue.drain()))
    thread.start()
    thread.join()
    assert drained == [1]
    assert native.threads == [thread.ident]
    assert handle.close() is True
    assert queue.backlog == 0
    assert queue.drain() == 0


def test_drain_takes_no_more_than_its_limit(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handles = [on(manager, queue) for _ in range(10)]
    for handle in handles:
        handle.close()
    assert queue.backlog == 10
    assert queue.drain(3) == 3
    assert queue.backlog == 7
    assert queue.drain(100) == 7
    assert all(handle.state == "released" for handle in handles)


def test_a_release_that_fails_does_not_stop_the_drain(manager: SafetyManager) -> None:
    """I6."""
    queue = ReleaseQueue("gl")

    def bad(native: Native) -> None:
        raise Panic("driver")

    handles = [on(manager, queue, release) for release in (Native.free, bad, Native.free, bad, Native.free)]
    for handle in handles:
        handle.close()
    queue.drain()
    assert [str(handle.state) for handle in handles] == [
        "released",
        "failed",
        "released",
        "failed",
        "released",
    ]
    assert queue.backlog == 0


def test_the_owner_releases_at_once_and_others_only_post(manager: SafetyManager) -> None:
    """I4."""
    queue = ReleaseQueue("gl", thread="current")
    mine, others = on(manager, queue), on(manager, queue)
    assert mine.close() is True
    thread = threading.Thread(target=others.close)
    thread.start()
    thread.join()
    assert others.state in ("closing", "due")  # without the GIL it may not be dead yet
    eventually(lambda: queue.drain() >= 0 and others.state == "released")
    assert others.close() is True


def test_the_owners_close_serves_what_others_posted(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread=threading.current_thread())
    others = [on(manager, queue) for _ in range(5)]
    for handle in others:
        with handle.lease():
            handle.close()

    def all_gone() -> bool:
        on(manager, queue).close()
        return all(handle.state == "released" for handle in others)

    eventually(all_gone)


def test_only_the_owner_may_drain(manager: SafetyManager) -> None:
    """I4."""
    started, done = threading.Event(), threading.Event()
    owner = threading.Thread(target=lambda: (started.set(), done.wait(20)))
    owner.start()
    started.wait(20)
    queue = ReleaseQueue("gl", thread=owner)
    handle = on(manager, queue)
    handle.close()
    with pytest.raises(
        WrongThreadError,
        match=rf'"gl" belongs to thread "{re.escape(owner.name)}"; drain\(\) came from .*Call it there',
    ):
        queue.drain()
    assert handle.close(timeout=0.02) is False
    assert queue.backlog == 1
    done.set()
    owner.join()
    queue.lost("its owner ended")


def test_an_owner_may_be_given_by_identity(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread=threading.get_ident())
    assert on(manager, queue).close() is True


def test_closing_waits_for_a_drain_elsewhere(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle = on(manager, queue)
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            queue.drain()
            time.sleep(0.005)

    thread = threading.Thread(target=loop)
    thread.start()
    assert handle.close(timeout=10) is True
    stop.set()
    thread.join()


def test_a_queue_tells_what_waits(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    assert (queue.backlog, queue.last_drain, queue.oldest()) == (0, 0.0, 0.0)
    on(manager, queue).close()
    figures = {q.queue: q for q in manager.stats().queues}["gl"]
    assert figures.entries == 1
    assert abs(figures.oldest - time.time()) < 60
    assert manager.health().backlog["gl"] == 1
    assert repr(queue) == "<ReleaseQueue 'gl': 1 waiting>"
    queue.drain()
    assert abs(queue.last_drain - time.time()) < 60
    figures = {q.queue: q for q in manager.stats().queues}["gl"]
    assert (figures.entries, figures.oldest) == (0, 0.0)
    assert figures.last_drain == queue.last_drain


def test_a_queue_may_serve_several_managers(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    with SafetyManager(name="other") as other:
        first, second = on(manager, queue), on(other, queue)
        first.close()
        second.close()
        assert queue.drain() == 2
        assert (first.state, second.state) == ("released", "released")


def test_a_release_may_drain_its_own_queue(manager: SafetyManager) -> None:
    """I5."""
    queue = ReleaseQueue("gl")
    released: list[str] = []
    handles = []
    for n in range(5):
        handles.append(
            manager.register(
                f"{n}", release=lambda label: (queue.drain(), released.append(label)), release_on=queue
            )
        )
    for handle in handles:
        handle.close()
    queue.drain()
    assert sorted(released) == ["0", "1", "2", "3", "4"]
    assert all(handle.close() for handle in handles)


def test_a_drain_on_many_threads_releases_each_once(manager: SafetyManager) -> None:
    """I3."""
    queue = ReleaseQueue("any")
    natives = [Native() for _ in range(500)]
    for native in natives:
        manager.register(native, release=Native.free, release_on=queue).close()
    ran: list[int] = []
    threads = [threading.Thread(target=lambda: ran.append(queue.drain())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: ran.append(queue.drain()) or all(native.released for native in natives))
    assert sum(ran) == 500
    assert all(native.errors == [] for native in natives)


def test_a_release_that_meets_its_own_ticket_runs_once(manager: SafetyManager) -> None:
    """I3: one claim. The owner's close runs the release while its ticket still lies in the queue, and the
    release drains that."""
    queue = ReleaseQueue("gl", thread="current")
    native = Native()

    def release(native: Native) -> None:
        native.free()
        queue.drain()
        with on(manager, queue):
            pass

    handle = manager.register(native, release=release, release_on=queue)
    assert handle.close() is True
    assert native.threads == [threading.get_ident()]
    assert queue.drain() == 0
    assert manager.stats().failed == 0


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("any")], ids=repr)
def test_whoever_else_comes_by_while_a_release_runs_leaves_it_alone(
    manager: SafetyManager, place: Any
) -> None:
    """I3: one claim, whatever ticket of it is still about."""
    running, go_on = threading.Event(), threading.Event()

    def release(native: Native) -> None:
        native.free()
        running.set()
        go_on.wait(20)

    native = Native()
    handle = manager.register(native, release=release, release_on=place)
    record = handle._record

    def close() -> None:
        handle.close(timeout=0)
        while isinstance(place, ReleaseQueue) and not running.is_set():
            place.drain()

    closer = threading.Thread(target=close)
    closer.start()
    eventually(running.is_set)
    for _ in range(3):
        record.place.put(record)  # as if its ticket came once more
        with on(manager, place):
            pass
        if isinstance(place, ReleaseQueue):
            place.drain()
    time.sleep(0.05)
    assert native.released == 1
    assert handle.state == "releasing"
    go_on.set()
    closer.join()
    eventually(lambda: handle.state == "released")
    assert native.errors == []
    assert manager.stats().failed == 0


# -- losing a queue ------------------------------------------------------------------------------------------


def test_a_lost_queue_orphans_everything_of_it(manager: SafetyManager) -> None:
    """I3, I4: nothing of it is ever released: its native names may mean something else now."""
    queue = ReleaseQueue("gl")
    waiting, closing, valid = Native(), Native(), Native()
    handles = [
        manager.register(native, release=Native.free, release_on=queue)
        for native in (waiting, closing, valid)
    ]
    elsewhere = on(manager, ANY_THREAD)
    handles[0].close()
    lease = handles[1].lease()
    handles[1].close()
    assert queue.lost("the context died") == 3
    assert [str(handle.state) for handle in handles] == ["orphaned"] * 3
    assert elsewhere.valid
    assert queue.orphaned == 3
    with pytest.raises(LifecycleError, match="the context died"):
        handles[2].lease()
    lease.close()
    assert [handle.close() for handle in handles] == [False] * 3
    queue.drain()
    elsewhere.close()
    assert (waiting.released, closing.released, valid.released) == (0, 0, 0)
    figures = manager.stats()
    assert (figures.orphaned, figures.released, figures.active_objects) == (3, 1, 0)


def test_a_lost_queue_begins_anew(manager: SafetyManager) -> None:
    """An old name never reaches an object of the new world."""
    queue = ReleaseQueue("gl")
    old = Native()
    old_handle = manager.register(old, "texture", native=1, release=Native.free, release_on=queue)
    lease = old_handle.lease()
    old_handle.close()
    queue.lost("context recreated")
    new = Native()
    new_handle = manager.register(new, "texture", native=1, release=Native.free, release_on=queue)
    lease.close()
    queue.drain()
    assert (old.released, new.released) == (0, 0)
    assert new_handle.valid
    new_handle.close()
    assert queue.drain() == 1
    assert (old.released, new.released) == (0, 1)


def test_whoever_holds_an_orphan_keeps_its_object(manager: SafetyManager) -> None:
    """I2: a lease that was made before the loss gives the object, not None; and an access that runs goes on."""
    queue = ReleaseQueue("gl")
    native = Native("held")
    handle = manager.register(native, release=Native.free, release_on=queue)
    lease = handle.lease()

    def use(held: Native) -> Native:
        queue.lost("meanwhile")
        return held

    assert manager.safe_access(handle, use) is native
    with lease as held:
        assert held is native


def test_the_objects_of_a_lost_queue_do_not_die_where_it_was_lost(manager: SafetyManager) -> None:
    """I4: a wrapper that frees its native in its own deallocation would do so on the wrong thread."""
    died: list[int] = []

    class Wrapper:
        def __del__(self, here: Any = threading.get_ident) -> None:
            died.append(here())

    queue = ReleaseQueue("gl", thread="current")
    handle = manager.register(Wrapper(), release=lambda wrapper: None, release_on=queue)
    thread = threading.Thread(target=queue.lost, args=("gone",))
    thread.start()
    thread.join()
    assert handle.state == "orphaned"
    manager.stats()
    assert thread.ident not in died


def test_losing_twice_orphans_once(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    on(manager, queue)
    assert [queue.lost("once"), queue.lost("twice")] == [1, 0]
    assert queue.orphaned == 1


def test_a_parent_of_an_orphan_is_freed(manager: SafetyManager) -> None:
    """I6."""
    queue = ReleaseQueue("gl")
    parent = on(manager, ANY_THREAD)
    child = on(manager, queue, parent=parent)
    parent.close()
    queue.lost("gone")
    assert child.state == "orphaned"
    eventually(lambda: parent.close())


# -- ANY_THREAD ----------------------------------------------------------------------------------------------


def test_a_release_may_close_others(manager: SafetyManager) -> None:
    """I5: nested, on the same thread."""
    order: list[str] = []
    handles: list[Handle[str]] = []
    for n in range(8):
        inner = handles[-1] if handles else None

        def release(label: str, inner: Handle[str] | None = inner) -> None:
            assert inner is None or inner.close() is True
            order.append(label)

        handles.append(manager.register(str(n), release=release, release_on=ANY_THREAD))
    assert handles[-1].close() is True
    assert order == [str(n) for n in range(8)]


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_long_chain_of_releases_that_close_each_other_does_not_recurse(
    manager: SafetyManager, place: Any
) -> None:
    """I5."""
    handles: list[Handle[Native]] = []
    inside: dict[int, int] = collections.Counter()
    deepest = 0

    def release_with(inner: Handle[Native] | None) -> Callable[[Native], None]:
        def release(native: Native) -> None:
            nonlocal deepest
            me = threading.get_ident()
            inside[me] += 1
            deepest = max(deepest, inside[me])
            native.free()
            if inner is not None:
                inner.close()
            inside[me] -= 1

        return release

    for _ in range(400):
        release = release_with(handles[-1] if handles else None)

        handles.append(on(manager, place, release))
    handles[-1].close()
    # Without the GIL the keeper may come to run them, for one of which each time this thread has to run
    # Python.
    eventually(lambda: manager.stats().released == 400, progress=lambda: manager.stats().released)
    assert manager.stats().failed == 0
    assert deepest <= NEST_LIMIT


def test_a_release_may_close_its_own_handle(manager: SafetyManager) -> None:
    """I3, I5."""
    for place in (ANY_THREAD, BACKGROUND, ReleaseQueue("mine", thread="current")):
        answers: list[bool] = []
        native = Native()

        def release(native: Native, answers: list[bool] = answers) -> None:
            answers.append(handle.close())
            native.free()

        handle: Handle[Native] = manager.register(native, release=release, release_on=place)
        began = time.monotonic()
        assert handle.close() is True
        assert answers == [False]
        assert native.released == 1
        assert time.monotonic() - began < SOON


def test_an_idle_any_thread_ticket_is_run_without_anybody(manager: SafetyManager) -> None:
    """I3: nobody registers or closes any more: the keeper sees to it."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    with handle.lease():
        handle.close()
    eventually(lambda: native.released == 1)


# -- BACKGROUND ----------------------------------------------------------------------------------------------


def test_a_release_past_its_deadline_is_stuck_and_may_come_back_late() -> None:
    """I3, I6: it is never run again; a late success ends in RELEASED, by one claim."""
    go_on = threading.Event()
    calls: list[Native] = []

    def hang(native: Native) -> None:
        calls.append(native)
        go_on.wait(20)

    with SafetyManager(QUICK) as manager:
        began = time.monotonic()
        handle = on(manager, BACKGROUND, hang)
        assert handle.close() is False
        assert 0.05 < time.monotonic() - began < SOON
        assert handle.state == "stuck"
        assert "has not come back for 0.25 s" in repr(handle)
        figures = manager.stats()
        assert (figures.stuck, figures.finalizer_failures, figures.stuck_workers, figures.active_objects) == (
            1,
            1,
            1,
            0,
        )
        assert figures.types["native"].release_failures["timeout"] == 1
        assert any("stuck" in problem for problem in manager.health().problems)
        other = on(manager, BACKGROUND)
        assert other.close() is True
        assert handle.close() is False
        go_on.set()
        eventually(lambda: handle.state == "released")
        assert handle.close() is True
        eventually(lambda: manager.stats().stuck_workers == 0)
        figures = manager.stats()
        assert (figures.stuck, figures.late, figures.released, figures.total_objects) == (1, 1, 1, 2)
        assert len(calls) == 1


def test_a_stuck_release_that_fails_late_stays_stuck() -> None:
    go_on = threading.Event()

    def hang(native: Native) -> None:
        go_on.wait(20)
        raise NotReleased("and not even that")

    with SafetyManager(QUICK) as manager:
        handle = on(manager, BACKGROUND, hang)
        handle.close()
        go_on.set()
        eventually(lambda: manager.stats().late == 1)
        assert handle.state == "stuck"
        assert (manager.stats().released, manager.stats().types["native"].retries) == (0, 0)


def test_a_stuck_object_keeps_its_parent() -> None:
    """I2: its release may still be running."""
    go_on = threading.Event()
    with SafetyManager(QUICK) as manager:
        native = Native()
        parent = manager.register(native, release=Native.free, release_on=ANY_THREAD)
        child = on(manager, BACKGROUND, lambda native: go_on.wait(20), parent=parent)
        child.close()
        assert child.state == "stuck"
        assert parent.close(timeout=0.05) is False
        assert native.released == 0
        go_on.set()
        eventually(lambda: parent.close(timeout=0.05))


def test_a_stuck_object_has_an_owner_still() -> None:
    """I3: its native must not be registered a second time while the first release may be at it."""
    go_on = threading.Event()
    with SafetyManager(QUICK) as manager:
        native = Native()
        manager.register(native, native=5, release=lambda native: go_on.wait(20)).close()
        with pytest.raises(LifecycleError, match=r"native 0x5 is owned by .*native 0x5"):
            manager.register(Native(), "tests.core.natives.Native", native=5, release=Native.free)
        go_on.set()


def test_beyond_the_limit_of_stuck_workers_releases_are_quarantined_until_one_comes_back() -> None:
    """I6: quarantined, counted, not lost."""
    go_on = threading.Event()
    config = SafetyConfig(finalizer_timeout=0.1, max_stuck_finalizers=1, shutdown_timeout=5)
    with SafetyManager(config) as manager:
        stuck = [on(manager, BACKGROUND, lambda native: go_on.wait(20)) for _ in range(8)]
        for handle in stuck:
            handle.close(timeout=0)
        eventually(lambda: manager.stats().quarantined > 0)
        figures = manager.stats()
        assert 1 <= figures.stuck_workers <= 3
        assert figures.stuck_workers_limit == 1
        assert figures.stuck == figures.stuck_workers
        assert figures.quarantined + figures.stuck == 8
        waiting = on(manager, BACKGROUND)
        began = time.monotonic()
        assert waiting.close() is False
        assert time.monotonic() - began < SOON
        assert manager.stats().quarantined == figures.quarantined + 1
        assert any("quarantined" in problem for problem in manager.health().problems)
        inline = on(manager, ANY_THREAD)
        assert inline.close() is True
        go_on.set()
        eventually(lambda: manager.stats().quarantined == 0)
        assert waiting.close(timeout=10) is True
        eventually(lambda: all(handle.state == "released" for handle in stuck))
        eventually(lambda: manager.stats().stuck_workers == 0)


def test_a_nested_release_has_a_deadline_of_its_own() -> None:
    """I5: it runs on the worker it was closed from: handed to another the two could wait for each other."""
    go_on = threading.Event()
    with SafetyManager(QUICK) as manager:
        hanging = on(manager, BACKGROUND, lambda native: go_on.wait(20))
        blocked = on(manager, BACKGROUND, lambda native: hanging.close())
        blocked.close()
        eventually(lambda: hanging.state == "stuck")
        assert FREE_THREADED or blocked.state == "stuck"
        go_on.set()
        eventually(lambda: (hanging.state, blocked.state) == ("released", "released"))


def test_what_a_release_closes_is_released_before_it_goes_on(manager: SafetyManager) -> None:
    """I5: on its own worker."""
    for _ in range(50):
        threads: list[int] = []
        inner = on(manager, BACKGROUND, lambda native, threads=threads: threads.append(threading.get_ident()))

        def release(native: Native, inner: Handle[Native] = inner, threads: list[int] = threads) -> None:
            assert (
                inner.close() is True or FREE_THREADED
            )  # there it may die later, on the thread that made it
            threads.append(threading.get_ident())

        outer = on(manager, BACKGROUND, release)
        assert outer.close() is True, repr(outer)
        eventually(lambda threads=threads: len(threads) == 2)  # type: ignore[misc]
        assert FREE_THREADED or threads[0] == threads[1]


def test_two_releases_that_close_each_other_do_not_wait_for_each_other(manager: SafetyManager) -> None:
    """I5."""
    both = threading.Barrier(2)

    def release_a(native: Native) -> None:
        both.wait(20)
        b.close()

    def release_b(native: Native) -> None:
        both.wait(20)
        a.close()

    a, b = on(manager, BACKGROUND, release_a), on(manager, BACKGROUND, release_b)
    began = time.monotonic()
    a.close(timeout=0)
    b.close(timeout=0)
    eventually(lambda: a.state == b.state == "released")
    assert time.monotonic() - began < SOON


def test_many_slow_releases_find_more_workers(manager: SafetyManager) -> None:
    handles = [on(manager, BACKGROUND, lambda native: time.sleep(0.3)) for _ in range(6)]
    for handle in handles:
        handle.close(timeout=0)
    quick = on(manager, BACKGROUND)
    quick.close(timeout=0)
    eventually(lambda: all(handle.state == "released" for handle in (*handles, quick)))


def test_without_finalizer_safety_nothing_has_a_deadline() -> None:
    config = SafetyConfig(finalizer_timeout=0.05, enable_finalizer_safety=False)
    with SafetyManager(config) as manager:
        handle = on(manager, BACKGROUND, lambda native: time.sleep(0.2))
        assert handle.close() is True
        assert manager.stats().stuck == 0


# -- retries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("gl", thread="current")], ids=repr)
def test_not_released_is_tried_again_with_back_off(manager: SafetyManager, place: Any) -> None:
    times: list[float] = []

    def release(native: Native) -> None:
        times.append(time.monotonic())
        if len(times) < 3:
            raise NotReleased("busy")
        native.free()

    handle = on(manager, place, release)
    handle.close(timeout=5)
    assert handle.state == "released"
    assert len(times) == 3
    first, second = times[1] - times[0], times[2] - times[1]
    assert first >= 0.009
    assert second >= 0.018
    figures = manager.stats().types["native"]
    assert (figures.retries, figures.ended["released"], figures.ended["failed"]) == (2, 1, 0)


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_not_released_for_ever_fails_after_so_many_attempts(place: Any) -> None:
    calls: list[Native] = []

    def release(native: Native) -> None:
        calls.append(native)
        raise NotReleased("busy")

    with SafetyManager(SafetyConfig(max_finalizer_retries=2)) as manager:
        handle = on(manager, place, release)
        assert handle.close(timeout=5) is False
        assert handle.state == "failed"
        assert "NotReleased: busy" in repr(handle)
        assert len(calls) == 3
        figures = manager.stats().types["native"]
        assert (
            figures.retries,
            figures.release_failures["not_released"],
            figures.release_failures["error"],
        ) == (2, 1, 0)


def test_no_retries_at_all_when_told_so() -> None:
    calls: list[Native] = []

    def release(native: Native) -> None:
        calls.append(native)
        raise NotReleased("busy")

    with SafetyManager(SafetyConfig(max_finalizer_retries=0)) as manager:
        assert on(manager, ANY_THREAD, release).close() is False
        assert len(calls) == 1


def test_other_errors_are_never_tried_again_unless_declared_idempotent(manager: SafetyManager) -> None:
    """I3."""
    calls: list[str] = []

    def release(native: Native) -> None:
        calls.append(native.label)
        raise OSError("busy")

    plain = manager.register(Native("plain"), release=release, release_on=ANY_THREAD)
    assert plain.close(timeout=1) is False
    declared = manager.register(
        Native("declared"),
        "again",
        release=release,
        release_on=ANY_THREAD,
        retry_on=(OSError, KeyError),
        retry_for=0.05,
    )
    assert declared.close(timeout=20) is False
    single = manager.register(
        Native("single"), "again", release=release, release_on=ANY_THREAD, retry_on=LookupError
    )
    assert single.close(timeout=1) is False
    assert (calls.count("plain"), calls.count("single")) == (1, 1)
    assert calls.count("declared") > 1
    figures = manager.stats()
    assert figures.types["again"].retries == calls.count("declared") - 1
    assert figures.types["again"].release_failures["error"] == 2
    assert figures.failed == 3


def test_never_again_after_a_timeout() -> None:
    """I3: the first call may still be running."""
    calls: list[int] = []

    def release(native: Native) -> None:
        calls.append(1)
        time.sleep(0.3)
        raise NotReleased("too late to say so")

    with SafetyManager(QUICK) as manager:
        handle = on(manager, BACKGROUND, release)
        assert handle.close() is False
        eventually(lambda: manager.stats().late == 1)
        time.sleep(0.1)
        assert handle.state == "stuck"
        assert len(calls) == 1


@pytest.mark.parametrize("outcome", ["not released", "released"])
def test_a_deadline_holds_while_nobody_watches(outcome: str) -> None:
    """A keeper that is starved of CPU declares nothing stuck; a failure past its deadline is no retry for all
    that."""
    calls: list[int] = []

    def release(native: Native) -> None:
        calls.append(1)
        time.sleep(0.3)
        if outcome == "not released":
            raise NotReleased("too late to say so")

    with SafetyManager(QUICK) as manager:
        handle = on(manager, BACKGROUND, release)
        with manager._maintenance._role:  # the keeper stands
            handle.close(timeout=0)
            eventually(lambda: calls)
            time.sleep(0.5)
        expected = "stuck" if outcome == "not released" else "released"
        eventually(lambda: handle.state == expected)
        time.sleep(0.1)
        assert len(calls) == 1


def test_a_parent_waits_for_its_childs_retries(manager: SafetyManager) -> None:
    """I2."""
    order: list[str] = []

    def release(label: str) -> None:
        order.append("try")
        if len(order) < 3:
            raise NotReleased("busy")
        order.append(label)

    parent = manager.register("parent", release=order.append, release_on=ANY_THREAD)
    child = manager.register("child", release=release, release_on=ANY_THREAD, parent=parent)
    parent.close()
    child.close()
    eventually(lambda: order[-1:] == ["parent"])
    assert order == ["try", "try", "try", "child", "parent"]


# -- errors of releases --------------------------------------------------------------------------------------


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("gl", thread="current")], ids=repr)
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), Panic("rust"), SystemExit(2), GeneratorExit(), Odd()],
    ids=lambda e: type(e).__name__,
)
def test_whatever_a_release_raises_ends_there(
    manager: SafetyManager, place: Any, error: BaseException
) -> None:
    """I6: the next ones are released; nothing comes out of close()."""

    def bad(native: Native) -> None:
        raise error

    for _ in range(4):
        handle = on(manager, place, bad)
        assert handle.close() is False
        assert handle.state == "failed"
        assert type(error).__name__ in repr(handle)
        assert on(manager, place).close() is True
    figures = manager.stats()
    assert (figures.failed, figures.released, figures.finalizer_failures) == (4, 4, 4)
    assert figures.types["native"].release_failures["error"] == 4
    assert manager.health().ok


def test_a_parent_on_another_place_follows_its_child(manager: SafetyManager) -> None:
    """I4: each at its own place."""
    queue = ReleaseQueue("gl", thread="current")
    natives = {place: Native(str(place)) for place in (queue, BACKGROUND, ANY_THREAD)}
    handles: list[Handle[Native]] = []
    for place, native in natives.items():
        handles.append(
            manager.register(
                native, release=Native.free, release_on=place, parent=handles[-1] if handles else None
            )
        )
    for handle in handles:
        handle.close()
    eventually(lambda: queue.drain() >= 0 and all(native.released == 1 for native in natives.values()))
    assert natives[queue].threads == [threading.get_ident()]
    assert natives[BACKGROUND].threads != [threading.get_ident()]


# -- fences --------------------------------------------------------------------------------------------------


def test_a_fenced_object_does_not_hold_up_its_queue(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    fence = Fence()
    fenced, free = on(manager, queue), on(manager, queue)
    fenced.close(after=fence)
    free.close()
    assert queue.drain() == 1
    assert (fenced.state, free.state) == ("due", "released")
    for _ in range(5):
        time.sleep(0.01)
        queue.drain()
    assert fenced.state == "due"
    fence.done = True
    eventually(lambda: queue.drain() >= 0 and fenced.state == "released")


def test_the_fence_of_a_share_that_is_not_the_last_counts(manager: SafetyManager) -> None:
    """I2."""
    fence = Fence()
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    share = handle.share()
    handle.close(after=fence)
    assert share.close() is False
    time.sleep(0.05)
    assert native.released == 0
    fence.done = True
    assert share.close(timeout=5) is True


def test_a_parent_waits_for_its_childs_fence(manager: SafetyManager) -> None:
    """I2."""
    fence = Fence()
    parent = on(manager, ANY_THREAD)
    child = on(manager, ANY_THREAD, parent=parent)
    child.close(after=fence)
    assert parent.close(timeout=0.05) is False
    fence.done = True
    assert parent.close(timeout=5) is True
    assert child.state == "released"


# -- a queue whose owner is gone -----------------------------------------------------------------------------


def ended_owner(manager: SafetyManager) -> tuple[ReleaseQueue, Handle[Native], int]:
    """A queue whose thread made one object and ended, and the identity that thread had."""
    made: list[Any] = []

    def own() -> None:
        queue = ReleaseQueue("gl", thread="current")
        made.extend((queue, on(manager, queue), threading.get_ident()))

    thread = threading.Thread(target=own)
    thread.start()
    thread.join()
    return tuple(made)  # type: ignore[return-value]


def test_a_thread_that_inherits_an_identity_does_not_inherit_the_queue(manager: SafetyManager) -> None:
    """I4: the system gives an ended thread's identity to the next one, which owns nothing of it."""
    queue, handle, ident = ended_owner(manager)
    native = handle.lease().__enter__()
    seen: list[Any] = []

    def heir() -> None:
        seen.append(threading.get_ident())
        seen.append(handle.close())
        with pytest.raises(WrongThreadError, match=r"has ended.*lost\(\)"):
            queue.drain()

    for _ in range(20):
        thread = threading.Thread(target=heir)
        thread.start()
        thread.join()
        if seen[0] == ident:
            break
        seen.clear()
    assert native.released == 0
    assert str(handle.state) == "due"
    assert queue.lost("its thread has ended") == 1
    assert str(handle.state) == "orphaned"


def test_what_waits_for_an_owner_that_has_ended_is_told_and_costs_no_waiting() -> None:
    """I5, I9."""
    manager = SafetyManager(SafetyConfig(shutdown_timeout=60), name="widowed")
    queue, handle, _ = ended_owner(manager)
    with pytest.raises(RegistrationError, match="'gl' belongs to a thread that has ended"):
        on(manager, queue)
    handle.close()
    assert any("'gl'" in problem and "lost()" in problem for problem in manager.health().problems)
    report = manager.close()
    assert report.duration < 30
    assert [info.reason for info in report.leaked] == ["the thread that owns queue 'gl' has ended"]
    assert queue.lost("its thread has ended") == 1
    assert manager.stats().orphaned == 1


def test_a_queue_given_by_thread_object_or_identity_knows_that_its_owner_ended(
    manager: SafetyManager,
) -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    assert thread.ident is not None
    queues = [ReleaseQueue("by thread", thread=thread), ReleaseQueue("by identity", thread=thread.ident)]
    go_on.set()
    thread.join()
    for queue in queues:
        with pytest.raises(WrongThreadError, match="has ended"):
            queue.drain()


def test_what_is_due_is_run_by_whoever_asks(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5, I3: `run_due` runs the releases that any thread may run, here and once, and none inside a release."""
    # Nobody else is quicker: no bell wakes a worker, and the keeper does not come by.
    monkeypatch.setattr(manager._registry, "ring", lambda record: None)
    manager._maintenance.stop(5.0)
    memory, released, inside = bytearray(16), [], []

    def release(obj: object) -> None:
        released.append(obj)
        inside.append(manager.run_due())

    views = []
    for n in range(3):
        handle = manager.register(f"frame {n}", release=release, release_on=ANY_THREAD)
        views.append(handle.view(memory))
        handle.close(timeout=0)
    assert manager.run_due() == 0
    views.clear()
    assert manager.run_due() == 3
    assert sorted(map(str, released)) == ["frame 0", "frame 1", "frame 2"]
    assert inside == [0, 0, 0]
    assert manager.run_due() == 0


def test_what_foreign_code_has_given_back_is_due(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager._registry, "ring", lambda record: None)
    manager._maintenance.stop(5.0)
    released: list[object] = []
    done: list[bool] = []

    class Foreign(Export):
        def over(self) -> bool:
            return bool(done)

    handle = manager.register("frame", release=released.append, release_on=ANY_THREAD)
    with handle.lease() as _:
        Foreign(raw_pin(handle._cell), "a tensor").hand_out()  # type: ignore[arg-type]
    handle.close(timeout=0)
    assert manager.run_due() == 0
    done.append(True)
    assert manager.run_due() == 1
    assert released == ["frame"]


def test_what_is_due_waits_for_no_collection(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: of another thread, whose ``__del__`` may take long. What is left is run by the next who asks."""
    monkeypatch.setattr(manager._registry, "ring", lambda record: None)
    manager._maintenance.stop(5.0)
    released: list[object] = []
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            inside.set()
            go_on.wait(20)

    handle = manager.register("frame", release=released.append, release_on=ANY_THREAD)
    view = handle.view(bytearray(16))
    handle.close(timeout=0)
    view = None  # noqa: F841 - it falls due

    def collect() -> None:
        Slow()
        gc.collect()

    collecting = threading.Thread(target=collect)
    collecting.start()
    try:
        assert inside.wait(20)
        assert manager.run_due() == 0
        assert not released
        assert not go_on.is_set()
    finally:
        go_on.set()
        collecting.join()
    assert manager.run_due() == 1
    assert released == ["frame"]
