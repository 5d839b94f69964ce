"""Fences: nothing is released while somebody without a reference still uses it, and asking is cheap."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    EventFence,
    Fence,
    FutureFence,
    Handle,
    LifecycleError,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    Timeline,
)
from lifecycle._core.release import _fences_signalled
from lifecycle._core.timelines import users
from lifecycle.errors import FenceError, QueueLostError
from lifecycle.fences import ProcessFence, fence_of_block
from lifecycle.states import ENDED
from tests.core.adversary import STORM, Standing, assert_nothing_left, at_once, each_interrupt, every_line
from tests.core.natives import Native
from tests.support import eventually

PATIENCE = 20.0
STEP = max(1, round(3 / STORM))
"""Of the points at which an interrupt may fall, every so manieth is tried."""


class Told:
    """A fence that says what it is told to say, and knows what it was asked."""

    def __init__(self, says: Any = False, timeline: Any = None) -> None:
        self.says = says
        self.timeline = timeline
        self.asked: list[int] = []

    def signalled(self) -> Any:
        self.asked.append(threading.get_ident())
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says


class Deleted(Told):
    """One that wants to be deleted."""

    def __init__(self, says: Any = False, timeline: Any = None) -> None:
        super().__init__(says, timeline)
        self.deleted: list[int] = []

    def delete(self) -> None:
        self.deleted.append(threading.get_ident())


def held(manager: SafetyManager, place: Any, native: Native | None = None) -> Handle[Native]:
    return manager.register(native or Native(), "native", release=Native.free, release_on=place)


def figures(manager: SafetyManager, queue: str) -> Any:
    return next(each for each in manager.stats().queues if each.queue == queue)


PLACES: dict[str, Callable[[], Any]] = {
    "any": lambda: ANY_THREAD,
    "background": lambda: BACKGROUND,
    "queue": lambda: ReleaseQueue("gl"),
}


def drained(place: Any) -> bool:
    if isinstance(place, ReleaseQueue):
        place.drain()
    return True


# -- what counts as signalled --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_the_release_waits_for_the_fence(manager: SafetyManager, place: str) -> None:
    where = PLACES[place]()
    native, fence = Native(), Told()
    held(manager, where, native).close(after=fence, timeout=0)
    eventually(lambda: drained(where) and len(fence.asked) > 2, timeout=PATIENCE)
    assert native.released == 0
    fence.says = True
    eventually(lambda: drained(where) and native.released == 1, timeout=PATIENCE)


@pytest.mark.parametrize(
    "said", [None, 1, 0, "signalled", 0x911B, ValueError("gone"), MemoryError(), SystemExit()]
)
def test_what_is_neither_true_nor_false_is_lost(manager: SafetyManager, said: Any) -> None:
    native, fence = Native(), Deleted(said)
    handle = held(manager, ANY_THREAD, native)
    handle.close(after=fence)
    assert handle.state == "orphaned"
    assert (native.released, fence.deleted) == (0, [])
    (info,) = [i for i in [handle] if "its fence is lost" in repr(i)]
    assert manager.stats().orphaned == 1
    assert users == {}


def test_a_numpy_truth_is_not_true(manager: SafetyManager) -> None:
    numpy = pytest.importorskip("numpy")
    handle = held(manager, ANY_THREAD)
    handle.close(after=Told(numpy.True_))
    assert handle.state == "orphaned"


def test_a_fence_that_may_not_be_asked_here_is_pending(manager: SafetyManager) -> None:
    class There(Told):
        may: Any = False

        def may_poll(self) -> Any:
            return self.may

    queue = ReleaseQueue("gl")
    fence = There(True)
    handle = held(manager, queue)
    handle.close(after=fence)
    queue.drain()
    fence.may = 1  # neither
    eventually(lambda: queue.drain() >= 0 and figures(manager, "gl").fences_pending == 1, timeout=PATIENCE)
    assert (fence.asked, str(handle.state)) == ([], "due")
    fence.may = True
    eventually(lambda: queue.drain() == 1, timeout=PATIENCE)
    assert len(fence.asked) == 1


def test_fences_are_asked_at_the_place(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread="current")
    fence = Told(True)
    handle = held(manager, queue)
    worker = threading.Thread(target=lambda: handle.close(after=fence))
    worker.start()
    worker.join()
    assert fence.asked == []
    assert queue.drain() == 1
    assert fence.asked == [threading.get_ident()]


def test_all_fences_must_have_signalled(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    one, two = Told(), Told()
    handle = held(manager, queue)
    other = handle.share()
    handle.close(after=one)
    other.close(after=two)
    two.says = True
    eventually(lambda: queue.drain() >= 0 and len(one.asked) > 2, timeout=PATIENCE)
    assert handle.state == "due"
    one.says = True
    eventually(lambda: queue.drain() == 1, timeout=PATIENCE)


def test_release_after_is_for_what_will_only_be_dropped(manager: SafetyManager) -> None:
    native, fence = Native(), Told()
    handle = held(manager, ANY_THREAD, native)
    handle.release_after(fence)
    assert handle.valid
    handle.share().close()
    del handle
    gc.collect()
    manager.register(Native(), release_on=ANY_THREAD).close()
    eventually(lambda: len(fence.asked) > 1, timeout=PATIENCE)
    assert native.released == 0
    fence.says = True
    eventually(lambda: native.released == 1, timeout=PATIENCE)


def test_a_fence_is_deleted_once_at_the_place_after_the_last_who_waits(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread="current")
    fence = Deleted()
    handles = [held(manager, queue) for _ in range(3)]
    for handle in handles:
        twice = handle.share()
        twice.release_after(fence)
        twice.close()
    for handle in handles:
        handle.close(after=fence)
    fence.says = True
    eventually(lambda: queue.drain() >= 0 and handles[2].state == "released", timeout=PATIENCE)
    assert fence.deleted == [threading.get_ident()]
    assert users == {}


def test_a_delete_that_raises_stops_nothing(manager: SafetyManager) -> None:
    class Bad(Told):
        def delete(self) -> None:
            raise OSError("no")

    handle = held(manager, ANY_THREAD)
    assert handle.close(after=Bad(True))
    assert manager.stats().finalizer_failures == 1


# -- timelines -----------------------------------------------------------------------------------------------


def test_a_timeline_is_first_in_first_out(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    timeline = Timeline("gpu", queue)
    order: list[int] = []
    fences = [Told(timeline=timeline) for _ in range(10)]
    for number, fence in enumerate(fences):
        manager.register([number], "n", release=lambda item: order.append(item[0]), release_on=queue).close(
            after=fence
        )
    queue.drain()
    assert figures(manager, "gl").fences_pending == 10
    for fence in fences[:4]:
        fence.says = True
    eventually(lambda: queue.drain() >= 0 and len(order) == 4, timeout=PATIENCE)
    assert order == [0, 1, 2, 3]
    assert figures(manager, "gl").fences_pending == 6
    for fence in reversed(fences):
        fence.says = True
    eventually(lambda: queue.drain() >= 0 and len(order) == 10, timeout=PATIENCE)
    assert order == list(range(10))
    assert figures(manager, "gl").fences_pending == 0


@pytest.mark.parametrize("many", [10, 1000])
def test_polling_costs_the_same_however_many_stand_behind(manager: SafetyManager, many: int) -> None:
    queue = ReleaseQueue("gl")
    timeline = object()
    fences = [Told(timeline=timeline) for _ in range(many)]
    for fence in fences:
        held(manager, queue).close(after=fence)
    for _ in range(5):
        eventually(lambda: queue.backlog or queue.drain() or fences[0].asked, timeout=PATIENCE)
        queue.drain()
    assert sum(len(fence.asked) for fence in fences[1:]) == 0
    assert queue.backlog <= 1
    for fence in fences:
        fence.says = True
    eventually(lambda: queue.drain() >= 0 and not manager.stats().active_objects, timeout=PATIENCE)
    assert sum(len(fence.asked) for fence in fences[1:]) == many - 1


def test_entries_of_one_fence_are_a_timeline(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    fence = Told()
    for _ in range(100):
        held(manager, queue).close(after=fence)
    queue.drain()
    assert len(fence.asked) < 20  # and not a hundred: once for each time that the keeper had it asked
    fence.says = True
    eventually(lambda: queue.drain() >= 0 and not manager.stats().active_objects, timeout=PATIENCE)


def test_timelines_do_not_wait_for_each_other(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    slow, quick = Told(timeline="slow"), Told(True, timeline="quick")
    held(manager, queue).close(after=slow)
    fast = held(manager, queue)
    fast.close(after=quick)
    assert queue.drain() == 1
    assert fast.state == "released"
    slow.says = True
    eventually(lambda: queue.drain() == 1, timeout=PATIENCE)


def test_a_lost_fence_holds_up_nobody_behind_it(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    timeline = Timeline("gpu", queue)
    fences = [Told(timeline=timeline), Told("?", timeline=timeline), Told(True, timeline=timeline)]
    handles = [held(manager, queue) for _ in fences]
    for handle, fence in zip(handles, fences, strict=True):
        handle.close(after=fence)
    queue.drain()
    fences[0].says = True
    eventually(lambda: queue.drain() >= 0 and handles[2].state == "released", timeout=PATIENCE)
    assert [str(handle.state) for handle in handles] == ["released", "orphaned", "released"]


def test_drain_runs_no_more_than_its_limit(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    fence = Told(True)
    for _ in range(10):
        held(manager, queue).close(after=fence)
    assert [queue.drain(4), queue.drain(4), queue.drain(4)] == [4, 4, 2]


def test_a_fence_of_another_timeline_is_refused(manager: SafetyManager) -> None:
    gl, cuda = ReleaseQueue("gl"), ReleaseQueue("cuda")
    timeline = Timeline("gpu", gl)
    handle, other = held(manager, cuda), held(manager, gl)
    with pytest.raises(
        FenceError,
        match=r"released at 'cuda' and cannot wait for .* a fence of another timeline .*'gpu' of queue 'gl'",
    ):
        handle.close(after=Told(timeline=timeline))
    with pytest.raises(FenceError):
        handle.release_after(Told(timeline=timeline))
    assert handle.valid
    other.release_after(Told(True, timeline))
    gl.lost("context reset")
    new = held(manager, gl)
    with pytest.raises(FenceError, match=r"'gpu' of queue 'gl', lost"):
        new.close(after=Told(True, timeline=timeline))  # of the old world, in which the numbers were others
    for each in (handle, new):
        each.close()
    cuda.drain()
    gl.drain()


@pytest.mark.parametrize("fence", [object(), None, 7, True, "fence"])
def test_what_is_no_fence_is_refused(manager: SafetyManager, fence: Any) -> None:
    handle = held(manager, ANY_THREAD)
    with pytest.raises(FenceError, match=r"takes a fence with a signalled\(\) method, not"):
        handle.release_after(fence)
    if fence is not None:
        with pytest.raises(LifecycleError):
            handle.close(after=fence)
    assert handle.close()
    with pytest.raises(AccessRefusedError):
        handle.release_after(Told(True))


def test_closing_after_a_fence_on_a_lost_queue_is_refused(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    fence = Deleted(True)
    handle = held(manager, queue)
    queue.lost("context reset")
    with pytest.raises(
        QueueLostError,
        match=r"'gl' was lost \(context reset\) and the object is orphaned.* The fence is still yours",
    ):
        handle.close(after=fence)
    with pytest.raises(QueueLostError):
        handle.release_after(fence)
    assert handle.close() is False
    assert (fence.asked, fence.deleted, users) == ([], [], {})


# -- wrong threads and lost queues ---------------------------------------------------------------------------


def test_the_three_outcomes_are_counted_apart(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread="current")
    run, handed, orphaned = (
        [held(manager, queue) for _ in range(3)],
        [held(manager, queue) for _ in range(2)],
        held(manager, queue),
    )
    for handle in run:
        handle.close()
    worker = threading.Thread(target=lambda: [handle.close() for handle in handed])
    worker.start()
    worker.join()
    assert (figures(manager, "gl").run, figures(manager, "gl").handed) == (3, 0)
    queue.drain()
    queue.lost("gone")
    orphaned.close()
    now = figures(manager, "gl")
    assert (now.run, now.handed, now.orphaned) == (3, 2, 1)


def test_a_lost_queue_orphans_what_waits_for_its_fences(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    timeline = Timeline("gpu", queue)
    natives = [Native() for _ in range(5)]
    fences = [Deleted(timeline=timeline) for _ in natives]
    for native, fence in zip(natives, fences, strict=True):
        held(manager, queue, native).close(after=fence)
    queue.drain()
    assert queue.lost("context reset") == 5
    for fence in fences:
        fence.says = True
    asked = len(fences[0].asked)
    assert queue.drain() == 0
    assert figures(manager, "gl").fences_pending == 0
    assert [native.released for native in natives] == [0] * 5
    assert len(fences[0].asked) == asked
    assert (users, [fence.deleted for fence in fences]) == ({}, [[]] * 5)


def test_drain_against_loss(manager: SafetyManager) -> None:
    """A drain that stands between the fence's answer and the release when the queue is lost releases nothing."""
    queue = ReleaseQueue("gl")
    native, behind = Native(), Native()
    fence = Told(True, timeline="t")
    held(manager, queue, native).close(after=fence)
    held(manager, queue, behind).close(after=Told(True, timeline="t"))
    with Standing(queue.drain, _fences_signalled, "answer = ask(") as one:
        queue.lost("context reset")
        one.result()
    assert behind.released == 0
    assert figures(manager, "gl").orphaned + native.released == 2
    assert manager.stats().active_objects == 0


def test_a_wait_that_a_queue_ends_by_its_loss(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle = held(manager, queue)
    done = threading.Event()

    def wait() -> None:
        handle.close(after=Told(), timeout=None)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    eventually(lambda: handle.state == "due", timeout=PATIENCE)
    queue.lost("gone")
    assert done.wait(PATIENCE)


# -- modes ---------------------------------------------------------------------------------------------------


def test_modes_for_comparison(manager: SafetyManager) -> None:
    event = threading.Event()
    ignoring = ReleaseQueue("now", fences="ignore")
    waiting = ReleaseQueue("wait", fences="wait")
    held(manager, ignoring).close(after=EventFence(event))
    assert ignoring.drain() == 1
    handle = held(manager, waiting)
    handle.close(after=EventFence(event))
    threading.Timer(0.05, event.set).start()
    assert waiting.drain() == 1
    assert event.is_set()
    event.clear()
    told = Told()
    held(manager, waiting).close(after=told)
    threading.Timer(0.05, lambda: setattr(told, "says", True)).start()
    assert waiting.drain() == 1
    with pytest.raises(
        RegistrationError, match=r"fences=\) takes one of 'poll', 'wait', 'ignore', not 'maybe'"
    ):
        ReleaseQueue("x", fences="maybe")  # type: ignore[arg-type]


def test_a_wait_is_no_longer_than_a_finalizer_may_take() -> None:
    with SafetyManager(SafetyConfig(finalizer_timeout=0.05)) as manager:
        queue = ReleaseQueue("wait", fences="wait")
        event = threading.Event()
        held(manager, queue).close(after=EventFence(event))
        assert queue.drain() == 0
        event.set()
        eventually(lambda: queue.drain() == 1, timeout=PATIENCE)


# -- fences that need no GPU ---------------------------------------------------------------------------------


def test_an_event() -> None:
    event = threading.Event()
    fence = EventFence(event)
    assert isinstance(fence, Fence)
    assert fence.signalled() is False
    assert fence.wait(0.001) is False
    event.set()
    assert fence.signalled() is True
    with pytest.raises(FenceError, match="is_set"):
        EventFence(7)


def test_a_block(manager: SafetyManager) -> None:
    native = Native()
    with pytest.raises(ValueError, match="planted"):
        with fence_of_block() as fence:
            held(manager, ANY_THREAD, native).close(after=fence)
            assert native.released == 0
            raise ValueError("planted")
    eventually(lambda: native.released == 1, timeout=PATIENCE)


def test_a_future_of_an_executor(manager: SafetyManager) -> None:
    go = threading.Event()
    native = Native()
    with ThreadPoolExecutor(1) as executor:
        work = executor.submit(go.wait, PATIENCE)
        cancelled = executor.submit(print)
        held(manager, ANY_THREAD, native).close(after=FutureFence(work))
        assert native.released == 0
        assert cancelled.cancel()
        assert FutureFence(cancelled).signalled() is True  # it never began
        go.set()
    eventually(lambda: native.released == 1, timeout=PATIENCE)
    failed: Future[None] = Future()
    assert FutureFence(failed).signalled() is False
    failed.set_exception(ValueError())
    assert FutureFence(failed).signalled() is True
    with pytest.raises(FenceError, match="takes a future"):
        FutureFence(object())


def test_a_task() -> None:
    async def main() -> None:
        done = asyncio.create_task(asyncio.sleep(0))
        fence = FutureFence(done)
        assert fence.signalled() is False
        await done
        assert fence.signalled() is True
        cut = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.wait([cut])
        with pytest.raises(FenceError, match="does not end what it had started on other threads"):
            FutureFence(cut).signalled()

    asyncio.run(main())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pidfd")
def test_a_fence_of_a_process_is_deleted_while_another_thread_asks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    fences = [ProcessFence(child), ProcessFence(child)]
    real = select.select

    def in_between(*args: Any) -> Any:
        fences[0].delete()
        return real(*args)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(select, "select", in_between)
    assert fences[0].signalled() is False
    fences.reverse()
    assert fences[1].signalled() is False
    assert fences[0].wait(0.001) is False
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before - 2  # closed when the call was over
    child.communicate(b"\n", timeout=PATIENCE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pidfd")
def test_a_process(manager: SafetyManager) -> None:
    native = Native()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    fence = ProcessFence(child)
    by_number = ProcessFence(child.pid)
    held(manager, ANY_THREAD, native).close(after=fence)
    assert (fence.signalled(), by_number.signalled(), by_number.wait(0.001)) == (False, False, False)
    assert native.released == 0
    child.communicate(b"\n", timeout=PATIENCE)
    assert by_number.wait(PATIENCE) is True
    eventually(lambda: native.released == 1, timeout=PATIENCE)
    assert fence._watched is None  # deleted
    by_number.delete()
    by_number.delete()
    assert ProcessFence(child).signalled() is True
    with pytest.raises(FenceError, match="has ended is not known any more"):
        by_number.signalled()
    with pytest.raises(FenceError, match=f"process {child.pid} cannot be watched"):
        ProcessFence(child.pid)
    for wrong in (0, -1, True, "1", None, object()):
        with pytest.raises(FenceError, match="takes a process id, or a process that was started"):
            ProcessFence(wrong)


# -- at every point ------------------------------------------------------------------------------------------


def settle(manager: SafetyManager, queue: ReleaseQueue) -> None:
    """Drain until everything has ended, without waiting for the keeper to post what it has put aside."""
    records = manager._registry.records
    until = time.monotonic() + PATIENCE
    while any(record.phase not in ENDED for record in list(records.values())):
        assert time.monotonic() < until, (records.values(), queue.generation.timelines._lines)
        for _, record in list(manager._registry.delayed):
            record.more().not_before = 0.0
            queue.generation.put(record)
        queue.drain()


def test_an_interrupt_anywhere_loses_no_entry(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    timeline = Timeline("gpu", queue)
    natives: list[Native] = []
    fences: list[Deleted] = []

    def run() -> None:
        natives[:] = [Native() for _ in range(3)]
        fences[:] = [Deleted(number > 1, timeline) for number in range(3)]
        for native, fence in zip(natives, fences, strict=True):
            held(manager, queue, native).close(after=fence)
        queue.drain()
        for fence in fences:
            fence.says = True
        settle(manager, queue)

    count = 0
    for struck in each_interrupt(run, step=STEP):
        count += 1
        place = struck.place
        if struck.error is not None:
            struck.error.__traceback__ = (
                None  # it keeps what an interrupt on entering a function left in its arguments
            )
        for fence in fences:
            fence.says = True
        settle(manager, queue)
        assert max(native.released for native in natives) <= 1, place
        assert max(len(fence.deleted) for fence in fences) <= 1, place
        assert len(queue.generation.timelines) == 0, place
        assert users == {}, place
        manager._registry.records.clear()
    assert count > 60
    assert_nothing_left(manager)


def test_the_collector_at_every_line(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    with every_line(lambda: gc.collect(0)) as struck:
        fences = [Told(timeline="t") for _ in range(3)]
        for fence in fences:
            held(manager, queue).close(after=fence)
        queue.drain()
        for fence in fences:
            fence.says = True
    assert struck.strikes > 50
    eventually(lambda: queue.drain() >= 0 and not manager.stats().active_objects, timeout=PATIENCE)


def test_a_storm_of_closers_and_drains(manager: SafetyManager) -> None:
    """Every entry is released once, by whoever drains, whatever its timeline does meanwhile."""
    queue = ReleaseQueue("gl")
    rounds = int(150 * STORM)
    natives: list[Native] = []
    fences: list[Deleted] = []
    closing = threading.Semaphore(0)

    def close(place: Any, timeline: Any) -> None:
        for _ in range(rounds):
            native, fence = Native(), Deleted(timeline=timeline)
            natives.append(native)
            fences.append(fence)
            held(manager, place, native).close(after=fence, timeout=0)
        closing.release()

    def signal_and_drain() -> None:
        over = 0
        while over < 3 or manager._registry.claims or len(queue.generation.timelines):
            over += closing.acquire(blocking=False)
            for fence in list(fences):
                fence.says = True
            queue.drain(7)
            if over >= 3 and not manager.stats().active_objects:
                break

    at_once(
        lambda: close(queue, Timeline("gpu", queue)),
        lambda: close(ANY_THREAD, "shared"),
        lambda: close(BACKGROUND, "shared"),
        signal_and_drain,
        lambda: [queue.drain() for _ in range(rounds)],
    )
    eventually(lambda: queue.drain() >= 0 and not manager.stats().active_objects, timeout=PATIENCE)
    assert [native.released for native in natives] == [1] * (3 * rounds)
    assert [len(fence.deleted) for fence in fences] == [1] * (3 * rounds)
    assert users == {}
    assert_nothing_left(manager)
