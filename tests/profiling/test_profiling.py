"""The profiler: what it collects, and that without it nothing is different."""

from __future__ import annotations

import threading
import time

import pytest

from lifecycle import ANY_THREAD, LifecycleError, Profiler, SafetyConfig, SafetyManager
from lifecycle._core.leases import Lease
from lifecycle.stats import TypeProfile
from tests.core.adversary import Interrupt, assert_nothing_left, each_interrupt
from tests.core.natives import Native


def profile_of(profiler: Profiler, type_name: str) -> TypeProfile:
    return next(one for one in profiler.report() if one.type_name == type_name)


def test_where_the_time_goes(manager: SafetyManager) -> None:
    def slow(native: Native) -> None:
        time.sleep(0.03)
        native.free()

    before = manager.register(Native(), "slow", release=slow, release_on=ANY_THREAD)
    with Profiler(manager) as profiler:
        assert profiler.running
        other = manager.register(Native(), "quick", release=Native.free, release_on=ANY_THREAD)
        with before.lease():
            time.sleep(0.02)
        assert manager.safe_access(other, Native.use) == ""
        assert manager.safe_access(other.id, lambda native, more: more, 5) == 5
        lease = before.lease()
        before.close()
        time.sleep(0.02)
        lease.close()
        lease.close()
        before.close(timeout=20)
        other.close()
        slow_one, quick = profile_of(profiler, "slow"), profile_of(profiler, "quick")
    assert (slow_one.life.count, slow_one.held.count, slow_one.wait.count, slow_one.release.count) == (
        1,
        2,
        1,
        1,
    )
    assert slow_one.held.sum >= 0.04
    assert slow_one.wait.sum >= 0.02
    assert slow_one.release.sum >= 0.03
    assert slow_one.life.sum >= slow_one.wait.sum + slow_one.release.sum
    assert (quick.life.count, quick.held.count) == (1, 2)
    table = profiler.table()
    assert table.splitlines()[1].split()[:3] == ["slow", "life", "1"]
    assert "µs" in table or "ms" in table


def test_off_it_changes_nothing(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    kind = handle._record.kind
    assert (kind.timer, kind.validate, kind.plain) == (None, None, manager._registry)
    profiler = Profiler(manager)
    profiler.start()
    profiler.start()
    assert type(handle.lease()) is not Lease
    later = manager.register(Native(), "later", release=Native.free, release_on=ANY_THREAD)
    assert later._record.kind.timer is profiler
    profiler.stop()
    profiler.stop()
    assert (kind.timer, kind.validate, kind.plain) == (None, None, manager._registry)
    assert later._record.kind.validate is None
    assert type(handle.lease()) is Lease
    with handle.lease():
        pass
    assert profile_of(profiler, "native").held.count == 1  # the one that was dropped
    handle.close()
    later.close()
    assert all(one.life.count == 0 for one in profiler.report())


def test_it_goes_with_validators_and_notes() -> None:
    with SafetyManager(SafetyConfig(leak_level="paranoid"), name="noted") as manager:
        asked: list[Native] = []
        handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
        manager.policy("native", validate=asked.append)
        with Profiler(manager) as profiler:
            with handle.lease():
                pass
        with handle.lease():
            pass
        assert len(asked) == 2
        assert len(handle._record.more().accesses or ()) == 2
        assert profile_of(profiler, "native").held.count == 1
        manager.policy("native", validate=None)
        with handle.lease():
            pass
        assert len(handle._record.more().accesses or ()) == 3
        handle.close()


def test_one_at_a_time_and_only_of_managers(manager: SafetyManager) -> None:
    with Profiler(manager):
        with pytest.raises(LifecycleError, match="another profiler runs"):
            Profiler(manager).start()
    with Profiler(manager):
        pass
    with pytest.raises(LifecycleError, match="takes a SafetyManager"):
        Profiler("camera")  # type: ignore[arg-type]


def test_nothing_is_missed_under_load(manager: SafetyManager) -> None:
    def churn() -> None:
        for _ in range(500):
            with manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD) as handle:
                with handle.lease():
                    pass

    with Profiler(manager) as profiler:
        threads = [threading.Thread(target=churn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    one = profile_of(profiler, "native")
    assert (one.life.count, one.held.count, one.release.count) == (2000, 2000, 2000)


def test_a_panic_is_timed_and_stays_a_panic(manager: SafetyManager) -> None:
    from lifecycle import AccessPanicError
    from lifecycle.errors import CallbackError

    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    other = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    with Profiler(manager) as profiler:
        with pytest.raises(AccessPanicError):
            manager.safe_access(handle, lambda native: 1 / 0)
        with pytest.raises(LifecycleError, match="must be callable"):
            manager.safe_access(other, 7)  # type: ignore[call-overload]
        with pytest.raises(CallbackError):
            manager.safe_access(other, lambda native: (yield))
    assert profile_of(profiler, "native").held.count == 2
    other.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_leave_no_lease_behind() -> None:
    """CPython prints and loses one that strikes in `__del__`."""
    with SafetyManager(SafetyConfig(leak_level="off"), name="interrupted") as manager, Profiler(manager):

        def run() -> None:
            with manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD) as handle:
                with handle.lease():
                    pass
                manager.safe_access(handle, Native.use)

        for struck in each_interrupt(run, step=3):
            assert struck.error is None or isinstance(struck.error, Interrupt)
            if struck.error is not None:
                struck.error.__traceback__ = None
        assert_nothing_left(manager)
