"""Closing a manager: doors shut, releases newest first, within one budget, every failure collected, none
stopping the rest."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import time
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    ClosedError,
    Handle,
    LifecycleError,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import ClosedAccessError
from lifecycle.manager.machinery import Machinery
from lifecycle.testing import at_once, code_of, every_line
from tests.core.natives import Fence, Native, Panic
from tests.support import SOON, eventually


def on(
    manager: SafetyManager, place: Any = BACKGROUND, release: Any = Native.free, **more: Any
) -> Handle[Native]:
    return manager.register(Native(), "native", release=release, release_on=place, **more)


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("gl", thread="current")], ids=repr)
def test_everything_is_released_newest_first(place: Any) -> None:
    """I3: once each, and nobody forgot anything."""
    order: list[int] = []
    manager = SafetyManager()
    handles = [
        manager.register(str(n), release=lambda label: order.append(int(label)), release_on=place)
        for n in range(50)
    ]
    report = manager.close()
    assert order == list(reversed(range(50)))
    assert report.ok
    assert report
    assert report.released == 50
    assert (report.failed, report.stuck, report.leaked, report.errors) == ((), (), (), ())
    assert all(handle.state == "released" for handle in handles)
    figures = manager.stats()
    assert (figures.released, figures.active_objects, figures.leaks) == (50, 0, 0)
    assert sum(each.closed["exit"] for each in figures.types.values()) == 50


def test_children_go_first_across_places() -> None:
    """I2: whatever place each belongs to, and none is left behind for being late."""
    queue = ReleaseQueue("gl", thread="current")
    families: tuple[tuple[Any, ...], ...] = (
        (BACKGROUND, queue),
        (queue, BACKGROUND),
        (ANY_THREAD, queue, BACKGROUND),
        (BACKGROUND, queue, ANY_THREAD, queue),
    )
    for places in families:
        order: list[str] = []
        manager = SafetyManager()
        parent = None
        family = []
        for depth, place in enumerate(places):
            parent = manager.register(str(depth), release=order.append, release_on=place, parent=parent)
            family.append(parent)
        report = manager.close()
        assert order == [str(depth) for depth in reversed(range(len(places)))]
        assert report.ok, report


def test_a_running_release_is_waited_for() -> None:
    native = Native()

    def slow(native: Native) -> None:
        time.sleep(0.2)
        native.free()

    manager = SafetyManager()
    handle = manager.register(native, release=slow)
    report = manager.close()
    assert native.released == 1
    assert report.released == 1
    assert report.ok
    assert report.duration >= 0.15
    assert handle.state == "released"


def test_a_release_that_began_before_is_waited_for_too() -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(native: Native) -> None:
        running.set()
        go_on.wait(10)

    manager = SafetyManager()
    handle = on(manager, BACKGROUND, slow)
    handle.close(timeout=0)
    assert running.wait(20)
    timer = threading.Timer(0.1, go_on.set)
    timer.start()
    report = manager.close()
    timer.join()
    assert report.leaked == ()
    assert handle.state == "released"


def test_what_says_not_released_is_tried_again_within_the_budget() -> None:
    """I3."""
    attempts: list[float] = []

    def busy(native: Native) -> None:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise NotReleased("busy")

    for place in (BACKGROUND, ANY_THREAD, ReleaseQueue("gl", thread="current")):
        attempts.clear()
        manager = SafetyManager()
        on(manager, place, busy)
        report = manager.close()
        assert report.released == 1, (place, report)
        assert report.ok


def test_failures_are_collected_and_stop_nothing() -> None:
    """I6."""
    released: list[str] = []

    def bad(label: str) -> None:
        raise Panic(label)

    manager = SafetyManager()
    for n in range(10):
        manager.register(f"bad {n}", "bad", release=bad)
        manager.register(f"good {n}", "good", release=released.append)
    kept = [manager.register(f"kept {n}", "good", release=released.append, keep=True) for n in range(3)]
    del kept
    eventually(lambda: manager.stats().active_objects == 3)
    assert manager.stats().failed == 10
    handles = [manager.register(f"bad {n}", "bad", release=bad) for n in range(5)]
    report = manager.close()
    assert report.released == 3
    assert [info.id for info in report.failed[10:]] == [handle.id for handle in reversed(handles)]
    assert {info.state for info in report.failed} == {"failed"}
    assert [info.reason for info in report.failed[9:11]] == ["Panic: bad 9", "Panic: bad 4"]
    assert not report.ok
    assert not report
    assert len(released) == 13


@pytest.mark.parametrize("place", [BACKGROUND, ANY_THREAD], ids=repr)
def test_one_that_hangs_is_written_off_and_the_rest_is_released(place: Any) -> None:
    """I6: also what runs inline elsewhere has a deadline here."""
    go_on = threading.Event()
    manager = SafetyManager(SafetyConfig(finalizer_timeout=0.1, shutdown_timeout=60))
    before = [on(manager, place) for _ in range(5)]
    hanging = on(manager, place, lambda native: go_on.wait(20))
    after = [on(manager, place) for _ in range(5)]
    began = time.monotonic()
    report = manager.close()
    assert time.monotonic() - began < SOON
    assert [info.id for info in report.stuck] == [hanging.id]
    assert report.released == 10
    assert all(handle.state == "released" for handle in (*before, *after))
    go_on.set()
    eventually(lambda: hanging.state == "released")


def test_the_budget_is_over_all() -> None:
    """More hang than time allows: close returns within its budget and says what it could not do."""
    go_on = threading.Event()
    manager = SafetyManager(SafetyConfig(finalizer_timeout=60, shutdown_timeout=0.3))
    handles = [on(manager, BACKGROUND, lambda native: go_on.wait(20)) for _ in range(4)]
    began = time.monotonic()
    report = manager.close()
    assert time.monotonic() - began < SOON
    assert len(report.stuck) + len(report.leaked) == 4
    assert report.released == 0
    go_on.set()
    eventually(lambda: all(handle.state == "released" for handle in handles))


def test_what_is_held_is_leaked_and_released_when_let_go() -> None:
    """I2: nothing is freed under a user."""
    for place in (ANY_THREAD, BACKGROUND):
        native = Native()
        manager = SafetyManager()
        handle = manager.register(native, "held", name="by me", release=Native.free, release_on=place)
        other = on(manager, place)
        lease = handle.lease()
        report = manager.close()
        assert report.released == 1
        assert other.state == "released"
        assert [(info.id, info.name, str(info.state)) for info in report.leaked] == [
            (handle.id, "by me", "closing")
        ]
        assert not report.ok
        with lease as held:
            held.use()
        eventually(lambda native=native: native.released == 1)  # type: ignore[misc]
        assert native.errors == []
        eventually(lambda manager=manager: manager.stats().active_objects == 0)  # type: ignore[misc]


def test_with_a_timeout_those_who_hold_are_waited_for() -> None:
    native = Native()
    manager = SafetyManager()
    lease = manager.register(native, release=Native.free, keep=True).lease()
    timer = threading.Timer(0.1, lease.close)
    timer.start()
    report = manager.close(timeout=10)
    timer.join()
    assert report.ok
    assert report.released == 1
    assert native.released == 1


def test_a_timeout_is_a_budget() -> None:
    manager = SafetyManager()
    handle = on(manager)
    lease = handle.lease()
    began = time.monotonic()
    report = manager.close(timeout=0.1)
    assert 0.05 <= time.monotonic() - began < SOON
    assert [info.id for info in report.leaked] == [handle.id]
    lease.close()
    eventually(lambda: handle.state == "released")


def test_an_undrained_queue_is_reported_and_can_still_be_drained() -> None:
    queue = ReleaseQueue("gl")
    manager = SafetyManager()
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=queue)
    report = manager.close()
    assert [info.id for info in report.leaked] == [handle.id]
    assert native.released == 0
    assert queue.drain() == 1
    assert native.released == 1


def test_a_queue_whose_owner_drains_meanwhile_is_waited_for() -> None:
    """I4: on the owner's thread."""
    stop = threading.Event()
    ready: list[ReleaseQueue] = []

    def loop() -> None:
        ready.append(ReleaseQueue("gl", thread="current"))
        while not stop.is_set():
            ready[0].drain()
            time.sleep(0.005)

    owner = threading.Thread(target=loop)
    owner.start()
    eventually(lambda: ready)
    native = Native()
    manager = SafetyManager()
    manager.register(native, release=Native.free, release_on=ready[0], keep=True)
    report = manager.close()
    stop.set()
    owner.join()
    assert report.ok, report
    assert native.threads == [owner.ident]


def test_a_fence_that_signals_in_time_is_waited_for() -> None:
    """I2."""
    fence = Fence()
    native = Native()
    manager = SafetyManager()
    manager.register(native, release=Native.free).close(after=fence, timeout=0)
    timer = threading.Timer(0.1, lambda: setattr(fence, "done", True))
    timer.start()
    report = manager.close()
    timer.join()
    assert report.ok, report
    assert native.released == 1


def test_closing_twice_gives_the_same_report() -> None:
    manager = SafetyManager()
    on(manager).close()
    on(manager, keep=True)
    report = manager.close()
    assert manager.close() is report
    assert manager.close(timeout=5) is report


def test_closing_on_two_threads_gives_one_report() -> None:
    """I3."""
    for _ in range(20):
        natives = [Native() for _ in range(20)]
        manager = SafetyManager()
        for native in natives:
            manager.register(native, release=Native.free, keep=True)
        go = threading.Barrier(2)
        reports: list[Any] = []

        def close(
            manager: SafetyManager = manager, go: threading.Barrier = go, reports: list[Any] = reports
        ) -> None:
            go.wait(10)
            reports.append(manager.close())

        threads = [threading.Thread(target=close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(native.released == 1 for native in natives)
        assert reports[0] is reports[1]
        assert reports[0].released == 20


def test_a_closed_manager_refuses_by_name() -> None:
    """I9."""
    manager = SafetyManager(name="gone")
    handle = on(manager)
    manager.close()
    with pytest.raises(ClosedAccessError, match=rf"object {handle.id}.*was released .* with its manager"):
        handle.lease()
    with pytest.raises(ClosedAccessError):
        manager.safe_access(handle.id, Native.use)
    assert isinstance(ClosedAccessError("x"), ClosedError)
    assert manager.is_valid(handle) is False
    assert handle.close() is True
    assert manager.unregister(handle) is True
    assert manager.invalidate(handle, "late") is False


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("gl", thread="current")], ids=repr)
def test_registering_with_a_closed_manager_releases_and_says_so(place: Any) -> None:
    """I3, I9: the object had become the manager's; it is not lost."""
    manager = SafetyManager(name="gone")
    on(manager).close()
    manager.close()
    native = Native()
    with pytest.raises(
        ClosedError,
        match=r"manager 'gone' is closed: .*released. Register before close\(\), or make a new manager",
    ):
        manager.register(native, release=Native.free, release_on=place)
    assert native.released == 1
    assert manager.stats().active_objects == 0
    gc.collect()
    assert native.errors == []


def test_registering_with_a_manager_that_never_began(manager: SafetyManager) -> None:
    """The same, where no thread was ever started."""
    fresh = SafetyManager(name="fresh")
    assert fresh.close().ok
    for place in (ANY_THREAD, BACKGROUND):
        native = Native()
        with pytest.raises(ClosedError):
            fresh.register(native, release=Native.free, release_on=place)
        assert native.released == 1
    with pytest.raises(ClosedError):
        fresh.register(Native())
    thing = Native()
    ran: list[int] = []
    with pytest.raises(ClosedError):
        fresh.set_safe_finalizer(thing, ran.append, 1)


def test_registering_on_a_queue_nobody_drains_with_a_closed_manager() -> None:
    manager = SafetyManager(name="gone")
    manager.close()
    queue = ReleaseQueue("gl")
    native = Native()
    with pytest.raises(ClosedError, match="waits for its queue"):
        manager.register(native, release=Native.free, release_on=queue)
    assert native.released == 0
    assert queue.drain() == 1
    assert native.released == 1


def test_releases_may_use_the_manager_while_it_closes() -> None:
    """I5: close, register, unregister, stats, drop and even close the manager, from inside a release."""
    manager = SafetyManager()
    told: list[object] = []
    others = [on(manager, ANY_THREAD), on(manager, BACKGROUND)]

    def release(native: Native) -> None:
        told.append(others[0].close())
        told.append(others[1].close())
        told.append(manager.stats().manager)
        with pytest.raises(LifecycleError):
            manager.register(Native(), release=Native.free)
        told.append(manager.closed)
        native.free()

    natives = [Native() for _ in range(3)]
    for native in natives:
        manager.register(native, release=release, keep=True)
    began = time.monotonic()
    report = manager.close()
    assert time.monotonic() - began < SOON
    assert report.ok, report
    assert all(native.released == 1 for native in natives)
    assert len(told) == 12


def test_a_release_that_closes_its_own_manager() -> None:
    """I5: no deadlock, whoever calls."""
    for place in (ANY_THREAD, BACKGROUND):
        manager = SafetyManager(SafetyConfig(shutdown_timeout=2, finalizer_timeout=1.5))
        reports: list[Any] = []
        handle = on(
            manager, place, lambda native, manager=manager, reports=reports: reports.append(manager.close())
        )
        other = on(manager, BACKGROUND, keep=True)
        began = time.monotonic()
        handle.close()
        assert time.monotonic() - began < SOON
        eventually(lambda handle=handle: handle.state in ("released", "stuck"))  # type: ignore[misc]
        eventually(lambda other=other: other.state == "released")  # type: ignore[misc]
        assert manager.closed


def test_closing_in_a_collection_does_not_wait() -> None:
    """I5."""
    go_on = threading.Event()
    manager = SafetyManager(SafetyConfig(shutdown_timeout=60, finalizer_timeout=60))

    class Closer:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            began = time.monotonic()
            manager.close()
            took.append(time.monotonic() - began)

    took: list[float] = []
    handle = on(manager, BACKGROUND, lambda native: go_on.wait(50))
    Closer()
    gc.collect()
    assert len(took) == 1
    assert took[0] < SOON
    go_on.set()
    eventually(lambda: handle.state == "released")


def test_threads_end_with_their_manager() -> None:
    manager = SafetyManager(name="ending")
    manager.add_observer(lambda event: None)
    on(manager).close()
    assert manager.close().ok
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.endswith("-ending")])


def test_threads_end_after_the_last_holder() -> None:
    manager = SafetyManager(name="lingering")
    handle = on(manager)
    lease = handle.lease()
    manager.close()
    assert [thread for thread in threading.enumerate() if thread.name.endswith("-lingering")]
    lease.close()
    eventually(lambda: handle.state == "released")
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.endswith("-lingering")])
    figures = manager.stats()
    assert (figures.released, figures.active_objects) == (1, 0)


def threads_of(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(f"-{name}")]


def test_what_is_told_after_the_end_leaves_no_thread() -> None:
    manager = SafetyManager(name="told-late")
    manager.register(Native(), "native", release=Native.free).close()
    assert manager.close().ok
    told: list[Any] = []
    manager.add_observer(told.append)
    for _ in range(2):
        manager.report_panic("a callback that came late", ValueError())
        manager.stats()
    eventually(lambda: [event.kind for event in told] == ["panic", "panic"])
    eventually(lambda: not threads_of("told-late"))


def test_threads_that_are_started_as_the_manager_is_closed_end_too() -> None:
    """By the first registration, on another thread, which had looked just before."""
    for at in itertools.count(1):
        manager = SafetyManager(name="begun-late")
        passed = itertools.count(1)
        closers: list[threading.Thread] = []

        def close(manager: Any = manager, at: int = at, passed: Any = passed, closers: Any = closers) -> None:
            if next(passed) == at:
                closers.append(threading.Thread(target=manager.close))
                closers[0].start()
                closers[0].join(0.05)

        with every_line(close, of=code_of(Machinery._start)):
            try:
                manager.register(Native(), "native", release=Native.free).close()
            except ClosedError:
                pass
        for closer in closers:
            closer.join(SOON)
        manager.close()
        eventually(lambda: not threads_of("begun-late"))
        if not closers:
            break
    assert at > 5


def test_threads_that_were_being_started_serve_the_one_who_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They had been ended at once, while a batch waited for them: `close` slept its whole time-out."""
    manager = SafetyManager(name="serving")
    machinery = manager._machinery
    starting, closing = threading.Event(), threading.Event()
    start = machinery.maintenance.start
    workers: list[int] = []

    def slow_start() -> None:
        start()
        starting.set()
        assert closing.wait(20)

    monkeypatch.setattr(machinery.maintenance, "start", slow_start)

    def close() -> None:
        assert starting.wait(20)
        manager.on_close(stop)
        manager.close()

    def stop() -> None:
        closing.set()
        eventually(lambda: machinery._registry.started)
        time.sleep(0.3)
        workers.append(len(machinery.workers.healthy))

    def register() -> None:
        with contextlib.suppress(ClosedError):
            manager.register(Native(), "native", release=Native.free)

    at_once(register, close)
    assert workers == [2]
    eventually(lambda: not threads_of("serving"))


def test_a_dropped_handle_that_the_keeper_has_not_counted_is_no_leak_of_close() -> None:
    manager = SafetyManager()
    native = Native()
    manager.register(native, release=Native.free)
    report = manager.close()
    assert native.released == 1
    assert report.leaked == ()
    figures = manager.stats()
    assert figures.types["tests.core.natives.Native"].closed["drop"] == 1
    assert figures.leaks == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True, [5]], ids=repr)
def test_impossible_timeouts_are_refused_and_change_nothing(manager: SafetyManager, timeout: Any) -> None:
    """I9."""
    handle = on(manager)
    with pytest.raises(LifecycleError, match="timeout= takes seconds"):
        manager.close(timeout=timeout)
    assert not manager.closed
    with pytest.raises(LifecycleError, match="timeout= takes seconds"):
        handle.close(timeout=timeout)
    with pytest.raises(LifecycleError, match="timeout= takes seconds"):
        manager.unregister(handle, timeout=timeout)
    assert handle.valid
    handle.close()


@pytest.mark.parametrize("timeout", [float("inf"), 1e12], ids=repr)
def test_a_very_long_time_is_for_ever_or_refused_by_name(timeout: float) -> None:
    """I9: never a bare OverflowError."""
    manager = SafetyManager()
    handle = on(manager)
    lease = handle.lease()
    timer = threading.Timer(0.05, lease.close)
    timer.start()
    try:
        assert handle.close(timeout=timeout) is True
    except LifecycleError as error:
        assert "timeout=" in str(error)
    timer.join()
    try:
        assert manager.close(timeout=timeout).leaked == ()
    except LifecycleError as error:
        assert "timeout=" in str(error)
    manager.close()
