"""I7: the figures are exact: registered = live + every kind of end."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    LifecycleError,
    NotReleased,
    ObjectState,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    SafetyStats,
    TypeStats,
)
from lifecycle._core.record import shut
from lifecycle._core.runtime import never_wait
from lifecycle.observe import ledger, maintenance
from lifecycle.states import BY_CLOSE
from lifecycle.stats import Histogram
from lifecycle.testing import code_of, each_interrupt, every_point
from tests.core.natives import Native
from tests.support import eventually

ENDS = ("released", "failed", "stuck", "detached", "orphaned")


def check_sums(figures: SafetyStats) -> None:
    """What has to hold at every moment, of a manager and of each of its types (I7)."""
    assert figures.total_objects == figures.active_objects + sum(getattr(figures, end) for end in ENDS)
    for each in figures.types.values():
        assert each.registered == each.live + sum(each.ended.values()), each
        assert each.live == sum(each.states.values()), each
        assert min(each.states.values()) >= 0
        assert each.live >= 0
        assert each.bytes >= 0
        assert sum(each.closed.values()) <= each.registered
        assert sum(each.closed.values()) >= sum(each.ended.values())
    for end in ENDS:
        assert getattr(figures, end) == sum(each.ended[end] for each in figures.types.values())
    assert figures.total_objects == sum(each.registered for each in figures.types.values())
    assert figures.refused == sum(sum(each.refused.values()) for each in figures.types.values())
    assert figures.panics == sum(each.panics for each in figures.types.values())
    assert figures.leaks == sum(each.leaks for each in figures.types.values())


def on(
    manager: SafetyManager,
    type_name: str = "t",
    place: Any = ANY_THREAD,
    release: Any = Native.free,
    **more: Any,
) -> Handle[Native]:
    return manager.register(Native(), type_name, release=release, release_on=place, **more)


def test_nothing_yet() -> None:
    with SafetyManager(name="fresh") as manager:
        figures = manager.stats()
        check_sums(figures)
        assert (figures.manager, figures.total_objects, figures.types) == ("fresh", 0, {})
        assert [queue.queue for queue in figures.queues] == ["ANY_THREAD", "BACKGROUND"]


def test_each_step_is_counted_at_once(manager: SafetyManager) -> None:
    """A scrape is answered after everything that happened before it."""

    def now() -> TypeStats:
        figures = manager.stats()
        check_sums(figures)
        return figures.types["t"]

    for turn in range(20):
        handle = on(manager, size=100)
        assert (now().registered, now().live, now().states["valid"], now().bytes) == (turn + 1, 1, 1, 100)
        lease = handle.lease()
        handle.close()
        assert (now().states["closing"], now().states["valid"], now().closed["close"]) == (1, 0, turn + 1)
        lease.close()
        eventually(lambda: handle.close())
        assert (now().live, now().ended["released"], now().bytes) == (0, turn + 1, 0)


def test_states_while_releases_run(manager: SafetyManager) -> None:
    """I7: whatever else is open, shut or poisoned at that moment."""
    running, go_on = threading.Event(), threading.Event()

    def slow(native: Native) -> None:
        running.set()
        go_on.wait(20)

    valid, closing, invalid = on(manager), on(manager), on(manager)
    leases = [closing.lease(), invalid.lease()]
    closing.close()
    manager.invalidate(invalid, "poisoned")
    closed = on(manager, place=BACKGROUND, release=slow)
    closed.close(timeout=0)
    assert running.wait(20)
    figures = manager.stats()
    check_sums(figures)
    assert figures.types["t"].states == {"valid": 1, "invalid": 1, "closing": 1, "kept": 0, "releasing": 1}
    running.clear()
    poisoned = on(manager, place=BACKGROUND, release=slow)
    manager.invalidate(poisoned, "poisoned")
    assert running.wait(20)
    figures = manager.stats()
    check_sums(figures)
    assert figures.types["t"].states == {"valid": 1, "invalid": 1, "closing": 1, "kept": 0, "releasing": 2}
    thread = threading.Thread(target=on(manager, place=BACKGROUND, release=slow).close)
    thread.start()
    eventually(lambda: manager.stats().types["t"].states["releasing"] == 3)
    figures = manager.stats()
    check_sums(figures)
    assert figures.types["t"].states == {"valid": 1, "invalid": 1, "closing": 1, "kept": 0, "releasing": 3}
    go_on.set()
    thread.join()
    for lease in leases:
        lease.close()
    valid.close()
    for handle in (closed, poisoned, closing, invalid):
        eventually(handle.close)
    check_sums(manager.stats())


def test_a_door_whose_closer_was_interrupted_before_it_told_is_counted(manager: SafetyManager) -> None:
    """What the figures call valid is valid, also while the object is held on."""
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    with handle.lease():
        shut(handle._record, None, BY_CLOSE, None)  # and there the interrupt comes
        assert handle.state is not ObjectState.VALID
        eventually(lambda: manager.stats().types["native"].states["valid"] == 0)
        assert manager.stats().types["native"].closed["close"] == 1
    handle.close()
    kind = manager.stats().types["native"]
    assert (kind.live, kind.closed["close"], kind.ended["released"]) == (0, 1, 1)


def test_every_kind_of_end_and_of_cause() -> None:
    """I7."""
    go_on = threading.Event()
    queue = ReleaseQueue("gl")

    def bad(native: Native) -> None:
        raise OSError("no")

    with SafetyManager(SafetyConfig(finalizer_timeout=0.1)) as manager:
        on(manager).close()
        on(manager, release=bad).close()
        on(manager, place=BACKGROUND, release=lambda native: go_on.wait(20)).close()
        kept = on(manager, place=queue)
        queue.lost("gone")
        del kept
        thing = Native()
        manager.set_safe_finalizer(thing, print).cancel()
        manager.unregister(on(manager, keep=True).id)
        manager.invalidate(on(manager), "reason")
        with pytest.raises(AccessPanicError):
            manager.safe_access(on(manager), lambda native: 1 / 0)
        on(manager, "dropped")
        live = on(manager, "live")
        eventually(lambda: manager.stats().types["dropped"].live == 0)
        figures = manager.stats()
        check_sums(figures)
        assert {end: getattr(figures, end) for end in ENDS} == {
            "released": 5,
            "failed": 1,
            "stuck": 1,
            "detached": 1,
            "orphaned": 1,
        }
        assert figures.active_objects == 1
        assert figures.finalizer_failures == 2
        closed = figures.types["t"].closed
        assert {cause: count for cause, count in closed.items() if count} == {
            "close": 3,
            "unregister": 1,
            "invalidate": closed["invalidate"],
            "panic": 1,
        }
        assert closed["invalidate"] in (1, 2)  # the lost queue's may be of that cause too
        assert figures.types["dropped"].closed["drop"] == 1
        assert figures.types["dropped"].leaks == figures.leaks == 1
        assert live.close()
        go_on.set()
    check_sums(manager.stats())
    assert manager.stats().active_objects == 0


def test_exact_after_a_wild_mix_on_many_threads() -> None:
    """I7: 8 threads register, share, lease, close, drop, invalidate, panic and fail at random; scrapes go on
    meanwhile."""
    queue = ReleaseQueue("gl")
    told: list[dict[str, int]] = []
    errors: list[BaseException] = []
    config = SafetyConfig(finalizer_timeout=30, max_retained=50, leak_level="simple")
    manager = SafetyManager(config, name="mix")
    stop = threading.Event()

    def bad(native: Native) -> None:
        raise OSError("no")

    def busy(native: Native) -> None:
        if native.label == "":
            native.label = "tried"
            raise NotReleased("busy")

    def work(seed: int) -> None:
        dice = random.Random(seed)
        mine = dict.fromkeys(
            ("registered", "closed", "dropped", "invalid", "panic", "failed", "orphan", "refused"), 0
        )
        told.append(mine)
        try:
            for _ in range(250):
                place = dice.choice((ANY_THREAD, ANY_THREAD, BACKGROUND, queue))
                release = dice.choice((Native.free, Native.free, Native.free, bad, busy))
                handle = on(manager, f"t{dice.randrange(3)}", place, release, size=dice.randrange(100))
                mine["registered"] += 1
                mine["failed"] += release is bad
                what = dice.randrange(8)
                if what == 0:
                    share = handle.share()
                    handle.close(timeout=0)
                    share.close(timeout=0)
                    mine["closed"] += 1
                elif what == 1:
                    lease = handle.lease()
                    handle.close(timeout=0)
                    lease.close()
                    mine["closed"] += 1
                elif what == 2:
                    manager.invalidate(handle, "dice")
                    mine["invalid"] += 1
                elif what == 3:
                    try:
                        manager.safe_access(handle, lambda native: 1 / 0)
                    except AccessPanicError:
                        mine["panic"] += 1
                elif what == 4:
                    handle.close(timeout=0)
                    mine["closed"] += 1
                    try:
                        handle.lease()
                    except AccessRefusedError:
                        mine["refused"] += 1
                elif what == 5:
                    mine["dropped"] += 1
                else:
                    handle.close(timeout=0)
                    mine["closed"] += 1
                del handle
                if dice.randrange(20) == 0:
                    queue.drain()
        except BaseException as error:
            errors.append(error)

    def scrape() -> None:
        try:
            while not stop.is_set():
                check_sums(manager.stats())
                time.sleep(0.001)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    scraper = threading.Thread(target=scrape)
    for thread in (*threads, scraper):
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    eventually(lambda: queue.drain() >= 0 and manager.stats().active_objects == 0, timeout=20)
    stop.set()
    scraper.join()
    assert errors == []
    figures = manager.stats()
    check_sums(figures)
    total = {key: sum(mine[key] for mine in told) for key in told[0]}
    assert figures.total_objects == total["registered"] == 2000
    assert figures.failed == total["failed"]
    assert figures.released == 2000 - total["failed"]
    assert figures.panics == total["panic"]
    assert figures.refused == total["refused"]
    assert figures.leaks == total["dropped"]
    by_cause = {
        cause: sum(each.closed[cause] for each in figures.types.values())
        for cause in figures.types["t0"].closed
    }
    assert {cause: count for cause, count in by_cause.items() if count} == {
        "close": total["closed"],
        "invalidate": total["invalid"],
        "panic": total["panic"],
        "drop": total["dropped"],
    }
    assert all(each.bytes == 0 for each in figures.types.values())
    assert sum(each.release_duration.count for each in figures.types.values()) == 2000
    report = manager.close()
    assert len(report.failed) == total["failed"] <= 1000  # those that are no longer retained as well
    assert (report.leaked, report.stuck, report.errors) == ((), (), ())
    after = manager.stats()
    check_sums(after)
    assert (
        attrs.evolve(after, keeper_last_run=0, events_pending=0, observer_events_dropped=0).types
        == figures.types
    )


def test_refusals_are_counted_by_the_state_that_refused(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle = on(manager, place=queue)
    lease = handle.lease()
    handle.close()

    def refused() -> None:
        with pytest.raises(AccessRefusedError):
            handle.lease()

    refused()
    refused()
    lease.close()
    eventually(lambda: handle.state == "due")
    refused()
    queue.drain()
    refused()
    with pytest.raises(LifecycleError):
        manager.safe_access(handle.id, Native.use)
    counts = {state: count for state, count in manager.stats().types["t"].refused.items() if count}
    assert counts == {"closing": 2, "due": 1, "released": 2}
    assert manager.stats().refused == 5


def test_every_key_exists_from_the_start(manager: SafetyManager) -> None:
    with on(manager):
        each = manager.stats().types["t"]
        assert set(each.states) == {"valid", "invalid", "closing", "kept", "releasing"}
        assert set(each.ended) == set(ENDS)
        assert set(each.closed) >= {"close", "unregister", "invalidate", "drop", "exit"}
        assert set(each.release_failures) == {"error", "timeout", "not_released"}
        assert not any(each.ended.values())
        assert len(each.release_duration.counts) == len(each.release_duration.bounds) + 1


def test_figures_are_frozen(manager: SafetyManager) -> None:
    figures = manager.stats()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        figures.released = 5  # type: ignore[misc]
    on(manager).close()
    assert figures.total_objects == 0


def test_histograms_have_a_bound_exactly_at_the_deadline() -> None:
    with SafetyManager(SafetyConfig(finalizer_timeout=0.1234)) as manager:
        with on(manager):
            pass
        histogram = manager.stats().types["t"].release_duration
        assert 0.1234 in histogram.bounds
        assert list(histogram.bounds) == sorted(set(histogram.bounds))


def test_durations_and_waits_are_measured(manager: SafetyManager) -> None:
    handle = on(manager, place=BACKGROUND, release=lambda native: time.sleep(0.06))
    with handle.lease():
        handle.close()
        time.sleep(0.06)
    assert handle.close(timeout=5)
    each = manager.stats().types["t"]
    for histogram in (each.release_duration, each.release_wait):
        assert histogram.count == 1
        assert histogram.sum >= 0.05
        assert at_least(histogram, 0.0333) == 1


def at_least(histogram: Histogram, bound: float) -> int:
    """How many durations lie above `bound`, one of the histogram's bounds."""
    return sum(histogram.counts[histogram.bounds.index(bound) + 1 :])


def test_a_released_drop_is_measured_too(manager: SafetyManager) -> None:
    """Every release has one duration; a wait as well, since a door was shut by the drop."""
    on(manager, place=BACKGROUND)
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().types["t"].release_duration.count == 1


def test_a_wait_is_no_less_than_nothing(manager: SafetyManager) -> None:
    """Where the drop was noted only when the release had begun: a sum that shrinks is no counter's."""
    made: list[Any] = []

    def noted_late(native: Native) -> None:
        record = made[0]
        record.shut = record.begun + 1.0

    handle = on(manager, place=BACKGROUND, release=noted_late)
    made.append(handle._record)
    assert handle.close(timeout=5)
    each = manager.stats().types["t"]
    assert (each.release_wait.count, each.release_wait.sum) == (1, 0.0)


def test_the_oldest_live_object(manager: SafetyManager) -> None:
    before = time.time()
    with on(manager):
        first = manager.stats().types["t"].oldest
        assert before - 1 < first < time.time() + 1
        for _ in range(600):
            on(manager).close()
        assert abs(manager.stats().types["t"].oldest - first) < 1
    assert manager.stats().types["t"].oldest == 0.0


def test_a_scrape_costs_what_types_exist() -> None:
    """I8: asserted on what is touched, not on time: the objects of a type are not walked."""
    with SafetyManager(name="big") as manager:
        handles = [on(manager) for _ in range(2000)]
        manager.policy("t", max_age=3600)
        manager.stats()
        touched: list[int] = []

        class Counting(dict):  # type: ignore[type-arg]
            def __iter__(self) -> Any:
                touched.append(1)
                return super().__iter__()

            def values(self) -> Any:
                touched.append(1)
                return super().values()

            def items(self) -> Any:
                touched.append(1)
                return super().items()

        manager._registry.records = Counting(manager._registry.records)
        manager.stats()
        manager.health()
        assert touched == []
        manager.objects()
        assert touched
        for handle in handles:
            handle.close()


def test_asking_on_the_observer_thread_and_in_a_release(manager: SafetyManager) -> None:
    """I5."""
    answers: list[int] = []
    manager.add_observer(lambda event: answers.append(manager.stats().total_objects))
    on(manager, release=lambda native: answers.append(manager.stats().total_objects)).close()
    on(
        manager, place=BACKGROUND, release=lambda native: answers.append(manager.stats().total_objects)
    ).close()
    eventually(lambda: len(answers) >= 4)


def test_asking_inside_a_collection(manager: SafetyManager) -> None:
    """I5: a `__del__` may ask; it gets the last figures taken."""
    answers: list[SafetyStats] = []

    class Asker:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            answers.append(manager.stats())

    on(manager).close()
    manager.stats()
    Asker()
    gc.collect()
    assert len(answers) == 1
    check_sums(answers[0])


def test_asking_on_the_keeper_itself_while_it_sleeps(manager: SafetyManager) -> None:
    """As a callback of `gc.callbacks` does that comes after ours: the collection is over for us, and runs on
    any thread."""
    handle = on(manager)
    keeper = manager._maintenance
    bell = keeper._bell
    told: list[tuple[int, int]] = []

    class Bell:
        put = bell.put

        def __len__(self) -> int:
            return len(bell)

        def get(self, timeout: float | None = None) -> None:
            if not told:
                told.append((threading.get_ident(), manager.stats().active_objects))
            return bell.get(timeout)

    keeper._bell = Bell()  # type: ignore[assignment]
    bell.put(None)
    eventually(lambda: told, timeout=20)  # it does not wait for its own answer
    assert keeper._thread is not None
    assert told == [(keeper._thread.ident, 1)]
    keeper._bell = bell
    handle.close()


def test_events_in_the_mailbox_are_counted_and_go(manager: SafetyManager) -> None:
    for _ in range(100):
        on(manager).close()
    manager.stats()
    eventually(lambda: manager.health().events_pending == 0)


@pytest.mark.parametrize("how", ["close", "unregister", "invalidate"])
def test_what_an_interrupted_call_has_shut_is_not_counted_as_valid(manager: SafetyManager, how: str) -> None:
    """Somebody holds it, so that it does not end, which would set the figures right."""
    handles = [manager.register(Native(), "held", release=Native.free, release_on=ANY_THREAD)]
    leases = [handles[0].lease()]
    calls: dict[str, Callable[[], object]] = {
        "close": lambda: handles[0].close(),
        "unregister": lambda: manager.unregister(handles[0].id),
        "invalidate": lambda: manager.invalidate(handles[0].id, "because"),
    }
    for struck in each_interrupt(calls[how]):
        kind = manager.stats().types["held"]
        assert kind.states["valid"] == handles[0].valid, struck.place
        leases.pop().close()
        handles.pop().close()
        handles.append(manager.register(Native(), "held", release=Native.free, release_on=ANY_THREAD))
        leases.append(handles[0].lease())
    leases.pop().close()
    handles.pop().close()


def test_counting_that_is_interrupted_anywhere_counts_everything_once() -> None:
    """I7: a signal strikes whoever counts, at each point; the next one who asks goes on from there."""
    config = SafetyConfig(leak_level="simple", max_retained=5)
    counting = code_of(ledger, maintenance)
    asked = 0

    def fail(native: Native) -> None:
        raise OSError("no")

    with SafetyManager(config, name="struck") as manager:
        on(manager).close()
        manager._maintenance.stop(20)  # so that nobody else counts, and the points are the same in every run

        def happen() -> None:
            nonlocal asked
            asked += 1
            for _ in range(3):
                on(manager, "plain").close()
            on(manager, "failed", release=fail).close()
            held = on(manager, "held", size=7)
            lease = held.lease()
            held.close()
            with pytest.raises(AccessRefusedError):
                held.lease()
            lease.close()
            lived = on(manager, "lived", size=5)
            if asked % 2:
                manager.stats()  # what is counted while it lives goes another way afterwards
            lived.close()
            on(manager, "dropped")
            with pytest.raises(AccessPanicError):
                manager.safe_access(on(manager, "panicked"), lambda native: 1 // 0)
            on(manager, "flush").close()

        happen()
        for struck in each_interrupt(manager.stats, of=counting):
            figures = manager.stats()
            check_sums(figures)
            kinds = figures.types
            times = {name: kinds[name].registered for name in kinds}
            names = ("failed", "held", "lived", "dropped", "panicked", "flush")
            assert times == {"t": 1, "plain": 3 * asked, **dict.fromkeys(names, asked)}, struck.place
            assert figures.active_objects == 0, struck.place
            assert (figures.failed, figures.leaks, figures.refused, figures.panics) == (asked,) * 4, (
                struck.place
            )
            assert all(sum(each.closed.values()) == each.registered for each in kinds.values()), struck.place
            assert all(each.release_duration.count == each.registered for each in kinds.values()), (
                struck.place
            )
            assert all(each.bytes == 0 for each in kinds.values()), struck.place
            assert len(manager._registry.records) <= 5, struck.place
            forgotten_next = [record.id for record in manager._maintenance.ledger._expiring]
            assert len(set(forgotten_next)) == len(forgotten_next), struck.place
            happen()
        assert asked > 100


def test_a_signal_handler_and_a_del_that_ask_while_this_thread_counts(manager: SafetyManager) -> None:
    """They are answered with what was counted so far, and wait for nothing."""
    answers: list[SafetyStats] = []

    def ask() -> None:
        answers.append(manager.stats())

    for _ in range(5):
        on(manager).close()
    with every_point(
        ask, of=code_of(maintenance.Maintenance._count, ledger.Ledger.count_all, ledger.Ledger._count_plain)
    ):
        figures = manager.stats()
    assert figures.total_objects == figures.released == 5
    assert len(answers) > 20
    for answer in answers:
        check_sums(answer)
    assert answers[-1].total_objects == 5


def test_who_finds_another_thread_counting_waits_for_it_or_takes_the_last_figures(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(manager).close()
    before = manager.stats()
    on(manager).close()
    with manager._maintenance._role:
        with never_wait():
            assert manager.stats() == before
        monkeypatch.setattr(maintenance, "ROLE_WAIT", 0.05)
        assert manager.stats() == before
        monkeypatch.setattr(maintenance, "ROLE_WAIT", 60.0)
        asking = threading.Thread(target=manager.stats)
        asking.start()
        assert manager.register(Native(), "t", release_on=ANY_THREAD).close()  # nobody else waits
    asking.join(20)
    assert not asking.is_alive()
    assert manager.stats().released == 3
