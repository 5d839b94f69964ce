"""Submissions: what a device uses is leased to it until its fence has signalled (G1 to G6), on a device that is
simulated, so that every moment can be chosen."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessRefusedError,
    HeldError,
    LifecycleError,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    Timeline,
)
from lifecycle._core import submissions
from lifecycle._core.timelines import busy
from lifecycle._core.uses import Uses
from lifecycle.errors import SubmittedError, WrongContextError
from lifecycle.testing import Interrupt, Signals, each_interrupt, every_line
from tests.core.adversary import STORM
from tests.core.waits import GIL
from tests.support import eventually, run_python

STEP = 1 if STORM >= 10 else 7
"""Every so many points are struck: all of them take minutes."""


class Device:
    """Executes what it is given when it is told to, and knows what it reads meanwhile."""

    def __init__(self) -> None:
        self.made: list[Done] = []
        self.executed = 0
        self.refuse: Exception | None = None

    def fence(self) -> Done:
        if self.refuse is not None:
            raise self.refuse
        fence = Done(self, len(self.made) + 1)
        self.made.append(fence)
        return fence

    def run(self, count: int | None = None) -> None:
        self.executed = len(self.made) if count is None else min(len(self.made), self.executed + count)


class Done:
    """Signals when the device has come so far."""

    def __init__(self, device: Device, number: int) -> None:
        self.device = device
        self.number = number
        self.asked = 0
        self.deleted = 0
        self.answer: Any = None

    def signalled(self) -> Any:
        self.asked += 1
        if self.answer is not None:
            return self.answer
        return self.device.executed >= self.number

    def delete(self) -> None:
        self.deleted += 1


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def timeline(device: Device) -> Timeline:
    return Timeline("device", fence=device.fence)


def owned(manager: SafetyManager, freed: list[Any], native: int = 1, **more: Any) -> Any:
    return manager.register(native, "buffer", release=freed.append, release_on=ANY_THREAD, **more)


def test_what_a_submission_uses_is_released_when_its_fence_has_signalled(
    manager: SafetyManager, device: Device, timeline: Timeline
) -> None:
    freed: list[int] = []
    handle = owned(manager, freed, 7)
    with timeline.submission() as work:
        assert work.use(handle) == 7
        assert work.use(handle) == 7
        assert not work.done
    assert handle.close() is False
    assert (timeline.poll(), freed, timeline.in_flight) == (0, [], 1)
    device.run()
    assert timeline.poll() == 1
    # The releases that may run anywhere have run when poll returns.
    assert (freed, work.done, timeline.in_flight, timeline.signalled) == ([7], True, 0, 1)
    assert [fence.deleted for fence in device.made] == [1]
    assert id(timeline) not in busy


def test_only_the_oldest_fence_is_asked_and_an_open_one_holds_up_nobody(
    manager: SafetyManager, device: Device, timeline: Timeline
) -> None:
    freed: list[int] = []
    still_open = timeline.submission()
    outer = owned(manager, freed, 100)
    with still_open as open_work:
        open_work.use(outer)
        for number in range(50):
            handle = owned(manager, freed, number)
            with timeline.submission() as work:
                work.use(handle)
            handle.close()
        timeline.poll()
        assert [fence.asked for fence in device.made[1:]] == [0] * 49
        device.run(10)
        assert timeline.poll() == 10
        assert freed == list(range(10))
        device.run()
        assert timeline.poll() == 40
        outer.close()
        assert (timeline.in_flight, 100 in freed) == (1, False)
    device.run()
    assert timeline.poll() == 1
    assert freed[-1] == 100


def test_a_poll_does_not_look_through_what_is_in_flight(timeline: Timeline, device: Device) -> None:
    class Line(deque[Any]):
        looked = 0

        def __iter__(self) -> Iterator[Any]:
            Line.looked += 1
            return super().__iter__()

    timeline._line = Line()
    for _ in range(100):
        with timeline.submission():
            pass
    assert timeline.poll() == 0
    device.run()
    assert timeline.poll() == 100
    assert Line.looked == 0
    with timeline.submission():
        pass
    assert timeline.lost("gone") == 0
    assert (Line.looked > 0, timeline.in_flight, timeline.lost_submissions) == (True, 0, 1)


def test_close_exclusive_and_drain_poll(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    with timeline.submission() as work:
        work.use(handle)
    with pytest.raises(
        HeldError, match=r"a submission to timeline 'device', begun .* at test_submissions.py"
    ):
        with handle.exclusive(timeout=0.02):
            pass
    threading.Timer(0.05, device.run).start()
    with handle.exclusive(timeout=30) as raw:
        assert raw == 1
    with timeline.submission() as work:
        work.use(handle)
    assert handle.close(timeout=0.01) is False
    threading.Timer(0.05, device.run).start()
    assert handle.close(timeout=30) is True
    queue = ReleaseQueue("q", thread="current")
    posted = manager.register(5, "buffer", release=freed.append, release_on=queue)
    with timeline.submission() as work:
        work.use(posted)
    posted.close()
    assert queue.drain() == 0
    device.run()
    assert queue.drain() == 1


def test_a_manager_waits_for_the_device(device: Device, timeline: Timeline) -> None:
    freed: list[int] = []
    manager = SafetyManager(SafetyConfig(shutdown_timeout=30.0), name="waits")
    handle = owned(manager, freed)
    with timeline.submission() as work:
        work.use(handle)
    threading.Timer(0.1, device.run).start()
    report = manager.close()
    assert report.ok
    assert freed == [1]


def test_a_manager_says_what_is_still_in_flight(device: Device, timeline: Timeline) -> None:
    manager = SafetyManager(SafetyConfig(shutdown_timeout=0.2, finalizer_timeout=0.1), name="hung")
    handle = owned(manager, [])
    with timeline.submission() as work:
        work.use(handle)
    eventually(lambda: any("submission to timeline 'device'" in each for each in manager.health().problems))
    report = manager.close()
    assert [info.reason for info in report.leaked] == ["still in flight on timeline 'device'"]
    device.run()
    timeline.poll()


def test_holders_are_named_and_counted(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    handle = owned(manager, [])
    with timeline.submission() as one:
        one.use(handle)
    with timeline.submission() as other:
        other.use(handle)
        handle.expect_holders(submissions=2)
        other_share = handle.share()
        handle.expect_holders(submissions=2, shares=2)
        assert handle.shares == 2
        with pytest.raises(HeldError, match=r"0 fences, 2 submissions where .* 1 submission were expected"):
            handle.expect_holders(submissions=1)
    kinds = [holder.kind for holder in handle.holders()]
    assert kinds == ["submission", "submission", "share"]
    other_share.close()
    assert handle.shares == 1
    device.run()
    handle.expect_holders()
    handle.close()
    assert handle.shares == 0


def test_an_error_in_the_block_passes_and_what_was_given_to_the_device_is_waited_for(
    manager: SafetyManager, device: Device, timeline: Timeline
) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    with pytest.raises(ZeroDivisionError):
        with timeline.submission() as work:
            work.use(handle)
            raise ZeroDivisionError
    handle.close()
    timeline.poll()
    assert freed == []
    device.run()
    timeline.poll()
    assert freed == [1]


def test_a_fence_that_cannot_be_made_is_made_by_the_next_poll(
    manager: SafetyManager, device: Device, timeline: Timeline
) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    device.refuse = WrongContextError("elsewhere")
    with timeline.submission() as work:
        work.use(handle)
    handle.close()
    assert timeline.poll() == 0
    assert "without a fence yet: WrongContextError: elsewhere" in str(handle.holders()[0])
    device.refuse = None
    assert (timeline.poll(), len(device.made), freed) == (0, 1, [])
    device.run()
    assert (timeline.poll(), freed) == (1, [1])


def test_a_fence_that_ends_an_iteration_is_no_fence(manager: SafetyManager, device: Device) -> None:
    freed: list[int] = []
    device.refuse = StopIteration()
    timeline = Timeline("odd", fence=device.fence)
    handle = owned(manager, freed)
    with timeline.submission() as work:
        work.use(handle)
    handle.close()
    timeline.poll()
    assert freed == []
    device.refuse = None
    timeline.poll()
    device.run()
    timeline.poll()
    assert freed == [1]


def test_a_block_that_dies_without_its_end_gets_a_later_fence(
    manager: SafetyManager, device: Device, timeline: Timeline
) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    work = timeline.submission()
    end = work.__exit__  # as a `with` statement takes it, and dies without calling it
    work.__enter__()
    work.use(handle)
    handle.close()
    assert timeline.poll() == 0
    assert device.made == []
    del end
    timeline.poll()
    with pytest.raises(SubmittedError, match="inside its block"):
        work.use(owned(manager, freed, 2))
    assert (len(device.made), freed) == (1, [])
    device.run()
    timeline.poll()
    assert 1 in freed


def test_an_exit_stack_ends_a_submission(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(timeline.submission())
        work.use(handle)
        handle.close()
        del work
        gc.collect()
        timeline.poll()
        assert device.made == []
    assert len(device.made) == 1
    device.run()
    timeline.poll()
    assert freed == [1]


@pytest.mark.parametrize("answer", [0, 1, None, "yes", RuntimeError("gone")], ids=str)
def test_only_true_is_true_and_a_lost_fence_orphans(
    manager: SafetyManager, device: Device, timeline: Timeline, answer: Any
) -> None:
    freed: list[int] = []
    handle = owned(manager, freed)
    other = handle.share()
    with timeline.submission() as work:
        work.use(handle)
    if answer is None or isinstance(answer, Exception):

        def signalled() -> Any:
            if answer is not None:
                raise answer
            return None

        device.made[0].signalled = signalled  # type: ignore[method-assign]
    else:
        device.made[0].answer = answer
    assert timeline.poll() == 1
    assert (handle.state, freed, timeline.lost_submissions, timeline.signalled) == ("orphaned", [], 1, 0)
    assert device.made[0].deleted == 0
    with pytest.raises(AccessRefusedError, match="timeline 'device' that used it is lost"):
        other.lease()
    assert work.done


def test_lost_orphans_whatever_holds_it(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    freed: list[int] = []
    first, second, third = (owned(manager, freed, number) for number in (1, 2, 3))
    with timeline.submission() as work:
        work.use(first)
    work = timeline.submission()
    with work, second.lease():
        work.use(second)
        assert timeline.lost("unplugged") == 2
        with pytest.raises(SubmittedError, match="it is lost"):
            work.use(third)
        assert [handle.state for handle in (first, second, third)] == ["orphaned", "orphaned", "valid"]
    device.run()
    assert (timeline.poll(), timeline.in_flight, timeline.lost_submissions, freed) == (0, 0, 2, [])
    third.close()
    assert freed == [3]
    with timeline.submission():
        pass
    device.run()
    assert timeline.poll() == 1


def test_a_timeline_of_a_lost_queue_loses_what_is_in_flight(manager: SafetyManager, device: Device) -> None:
    queue = ReleaseQueue("gl", thread="current")
    timeline = Timeline("gl", queue, fence=device.fence)
    frame = owned(manager, [])
    with timeline.submission() as work:
        work.use(frame)
    queue.lost("its context died")
    timeline.poll()
    assert frame.state == "orphaned"


def test_fences_of_a_queue_are_asked_where_it_may_be_drained_alone(
    manager: SafetyManager, device: Device
) -> None:
    queue = ReleaseQueue("gl", thread="current")
    timeline = Timeline("gl", queue, fence=device.fence)
    freed: list[int] = []
    frame = owned(manager, freed)
    with timeline.submission() as work:
        work.use(frame)
    device.run()
    frame.close()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append((timeline.poll(), frame.close(timeout=0.05))))
    thread.start()
    thread.join()
    assert (answers, device.made[0].asked) == ([(0, False)], 0)
    assert queue.drain() == 0
    assert freed == [1]


def test_a_waiter_gives_back_what_nobody_polls(manager: SafetyManager, device: Device) -> None:
    timeline = Timeline("apart", fence=device.fence, waiter=True)
    freed: list[int] = []
    for number in range(3):
        frame = owned(manager, freed, number)
        with timeline.submission() as work:
            work.use(frame)
        frame.close()
        time.sleep(0.01)
        assert number not in freed
        device.run()
        eventually(partial(freed.__contains__, number))
    eventually(lambda: timeline._thread is None)


def test_here_decides_where_a_queue_is_drained(manager: SafetyManager) -> None:
    asked: list[int] = []
    answer: list[Any] = [False]

    def here() -> Any:
        asked.append(1)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    queue = ReleaseQueue("world", here=here)
    freed: list[int] = []
    for odd in (False, 1, None, RuntimeError("no world")):
        answer[0] = odd
        handle = manager.register(1, "name", release=freed.append, release_on=queue)
        assert (handle.close(), handle.state) == (False, "due")
        with pytest.raises(WrongContextError, match="queue 'world' cannot be drained here"):
            queue.drain()
        assert freed == []
        answer[0] = True
        asked.clear()
        assert (queue.drain(), freed.pop()) == (1, 1)
        assert len(asked) == 1
    asked.clear()
    handle = manager.register(2, "name", release=freed.append, release_on=queue)
    assert handle.close() is True
    assert (freed, len(asked)) == ([2], 1)
    with pytest.raises(RegistrationError, match="thread= or here="):
        ReleaseQueue("both", thread="current", here=here)


def test_bad_input(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    with pytest.raises(LifecycleError, match="give it fence="):
        Timeline("bare").submission()
    with pytest.raises(LifecycleError, match="waiter=True is for fences that may be asked anywhere"):
        Timeline("both", ReleaseQueue("q"), fence=device.fence, waiter=True)
    handle = owned(manager, [])
    work = timeline.submission()
    with pytest.raises(SubmittedError, match="inside its block"):
        work.use(handle)
    with work:
        with pytest.raises(SubmittedError, match="entered already"):
            work.__enter__()
        with pytest.raises(LifecycleError, match="takes a Handle, not 7"):
            work.use(7)  # type: ignore[arg-type]
        with pytest.raises(LifecycleError, match="would wait for a submission"):
            timeline.wait(1)
    with pytest.raises(SubmittedError, match="inside its block"):
        work.use(handle)
    device.run()
    assert timeline.wait(5) is True
    handle.close()
    with timeline.submission() as work:
        with pytest.raises(AccessRefusedError):
            work.use(handle)
    device.run()
    assert timeline.wait(5) is True


class Looked(Uses):
    """Calls `then` behind each look at its block."""

    kept: Any = None
    then: Any = staticmethod(lambda: None)

    @property
    def block(self) -> Any:  # type: ignore[override]
        try:
            return self.kept
        finally:
            self.then()

    @block.setter
    def block(self, block: Any) -> None:
        self.kept = block


def test_a_block_that_ends_between_two_looks_of_a_poll_is_no_error(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "Uses", Looked)
    timeline = Timeline("ending", fence=device.fence)
    with timeline.submission() as work:
        uses: Any = work._uses
        uses.then = partial(setattr, uses, "kept", None)  # as another thread does, which ends the block
        assert (timeline.poll(), device.made) == (0, [])
        assert (timeline.poll(), len(device.made)) == (0, 1)


def test_what_is_lost_and_submitted_between_two_looks_of_a_poll_is_lost_by_the_next(
    manager: SafetyManager, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Line(deque[Any]):
        then: Any = None

        def __iter__(self) -> Iterator[Any]:
            found = list(super().__iter__())
            then, self.then = self.then, None
            if then is not None:
                then()
            return iter(found)

    def lose() -> None:
        uses.then = lambda: None
        timeline._mark_lost("unplugged")
        line.then = submit

    def submit() -> None:
        with timeline.submission():  # begun after the loss, it stands before what was lost
            pass
        end(None, None, None)

    monkeypatch.setattr(submissions, "Uses", Looked)
    timeline = Timeline("lost", fence=device.fence)
    timeline._line = line = Line()
    frame = owned(manager, [])
    work = timeline.submission()
    end = work.__exit__
    with contextlib.closing(frame):
        work.__enter__()
        work.use(frame)
        uses: Any = work._uses
        uses.then = lose
        assert (timeline.poll(), timeline.poll()) == (0, 1)
        assert (frame.state, timeline.lost_submissions, timeline.in_flight) == ("orphaned", 1, 1)


def test_a_loss_asks_no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a submission which another thread makes meanwhile belongs to that thread's world."""
    asked: list[Any] = []

    class Asked:
        def signalled(self) -> bool:
            asked.append(self)
            return True

    mark = Timeline._mark_lost

    def mark_then_submit(timeline: Timeline, reason: str) -> None:
        mark(timeline, reason)
        with timeline.submission():
            pass

    timeline = Timeline("lost", fence=Asked)
    with timeline.submission():
        pass
    monkeypatch.setattr(Timeline, "_mark_lost", mark_then_submit)
    timeline.lost("unplugged")
    assert (asked, timeline.in_flight, timeline.lost_submissions) == ([], 1, 1)
    assert timeline.poll() == 1
    assert (len(asked), timeline.in_flight) == (1, 0)
    assert id(timeline) not in busy


def test_two_that_make_one_fence_leave_none(device: Device) -> None:
    def fence() -> Done:
        if not device.made:
            device.made.append(Done(device, 1))
            assert timeline.poll() == 0  # in a signal handler, or on another thread
            return device.made[0]
        return device.fence()

    timeline = Timeline("twice", fence=fence)
    with timeline.submission():
        pass
    device.run()
    assert timeline.poll() == 1
    assert timeline.poll() == 0
    assert [fence.deleted for fence in device.made] == [1, 1]
    assert id(timeline) not in busy


def test_a_poll_releases_itself_what_it_lets_go_and_wakes_no_worker(
    manager: SafetyManager, device: Device, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[Any] = []
    monkeypatch.setattr(manager._registry, "ring", rung.append)
    freed: list[int] = []
    first, second = owned(manager, freed, 1), owned(manager, freed, 2)
    with timeline.submission() as work:
        work.use(first)
        work.use(second)
    lease = second.lease()
    assert (first.close(), second.close()) == (False, False)
    device.run()
    assert timeline.poll() == 1
    assert (freed, rung) == ([1], [])
    del lease  # it is no block that ends: only a worker may release here
    assert [bell.id for bell in rung] == [second.id]
    monkeypatch.undo()
    assert second.close() is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_in_a_forked_child_every_timeline_is_empty() -> None:
    run_python(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from lifecycle import ANY_THREAD, SafetyManager, Timeline
        parent = os.getpid()
        class Fence:
            def signalled(self):
                assert os.getpid() == parent, "asked in the child"
                return True
        manager = SafetyManager(name="forks")
        timeline = Timeline("device", fence=Fence)
        freed = []
        handle = manager.register(1, "buffer", release=freed.append, release_on=ANY_THREAD)
        with timeline.submission() as work:
            work.use(handle)
        pid = os.fork()
        if not pid:
            ok = timeline.in_flight == 0 and timeline.poll() == 0 and handle.state == "orphaned" and not freed
            os._exit(0 if ok else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert timeline.in_flight == 1
        handle.close()
        assert timeline.poll() == 1 and freed == [1]
        """
    ).check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_that_is_forked_in_a_block_or_in_a_poll_calls_nothing_of_the_device() -> None:
    run_python(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from lifecycle import ANY_THREAD, SafetyManager, Timeline
        from lifecycle.errors import SubmittedError
        parent = os.getpid()
        child = None
        class Fence:
            asked = 0
            def __init__(self):
                assert os.getpid() == parent, "made in the child"
            def signalled(self):
                assert os.getpid() == parent, "asked in the child"
                Fence.asked += 1
                if Fence.asked == 1:
                    fork()
                return True
            def delete(self):
                assert os.getpid() == parent, "deleted in the child"
            def __del__(self):
                if os.getpid() != parent:
                    os._exit(5)
        def fork():
            global child
            child = os.fork()
        def ended():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        manager = SafetyManager(name="forks")
        timeline = Timeline("device", fence=Fence)
        freed = []
        handle = manager.register(1, "buffer", release=freed.append, release_on=ANY_THREAD)
        with timeline.submission() as work:
            fork()
            if not child:
                try:
                    work.use(handle)
                except SubmittedError as error:
                    assert "forked child" in str(error), error
                else:
                    os._exit(4)
            else:
                work.use(handle)
        if not child:
            os._exit(0 if work.done and timeline.in_flight == 0 and timeline.wait(5) else 3)
        assert ended() == 0
        with timeline.submission() as work:
            work.use(handle)
        timeline.poll()
        if not child:
            os._exit(0 if timeline.in_flight == 0 and not freed else 3)
        assert ended() == 0
        handle.close()
        assert (timeline.in_flight, freed) == (0, [1])
        """
    ).check()


def test_no_garbage_is_made(manager: SafetyManager, device: Device, timeline: Timeline) -> None:
    handle = owned(manager, [])

    def submit() -> None:
        with timeline.submission() as work:
            work.use(handle)
        device.run()
        timeline.poll()

    submit()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            submit()
        device.made.clear()
        device.executed = 0
        assert gc.collect() < 20
        assert len(gc.get_objects()) < before + 100
    finally:
        gc.enable()
    handle.close()


@pytest.mark.parametrize("seed", range(3))
def test_threads_that_submit_poll_and_close_release_nothing_early_and_leave_nothing(
    manager: SafetyManager, seed: int
) -> None:
    device = Device()
    timeline = Timeline("storm", fence=device.fence)
    reading: dict[int, int] = {}
    early: list[int] = []
    freed: list[int] = []
    numbers = iter(range(10**9))
    lock = threading.Lock()
    stop = threading.Event()

    def release(number: int) -> None:
        if reading.get(number, 0) > device.executed:
            early.append(number)
        freed.append(number)

    def submitter(rng: random.Random) -> None:
        for _ in range(400):
            with lock:
                number = next(numbers)
            handle = manager.register(number, "buffer", release=release, release_on=ANY_THREAD)
            with timeline.submission() as work:
                work.use(handle)
                reading[number] = len(device.made) + 1  # no fence that is there already covers it
                if rng.random() < 0.3:
                    handle.close()
            handle.close()

    def runner(rng: random.Random) -> None:
        while not stop.is_set():
            device.run(rng.randrange(4))
            timeline.poll()
            time.sleep(0)

    threads = [threading.Thread(target=submitter, args=(random.Random(seed * 10 + at),)) for at in range(3)]
    runners = [threading.Thread(target=runner, args=(random.Random(seed + at),)) for at in range(2)]
    for thread in (*threads, *runners):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in runners:
        thread.join()
    device.run()
    assert timeline.wait(20)
    eventually(lambda: len(freed) == 1200)
    assert early == []
    assert timeline.signalled == 1200


class Round:
    """One object, used by one submission whose device takes its time: what must hold however it is cut short."""

    def __init__(self, manager: SafetyManager) -> None:
        self.manager = manager
        self.device = Device()
        self.timeline = Timeline("round", fence=self.device.fence)
        self.reads: dict[int, int] = {}  # the device has that object until it has executed so much
        self.numbers = itertools.count(1)
        self.early: list[int] = []
        self.freed: list[int] = []
        self.handles: list[Any] = []  # the traceback of an interrupt keeps them as well

    def release(self, number: int) -> None:
        if self.reads.get(number, 0) > self.device.executed:
            self.early.append(number)
        self.freed.append(number)

    def run(self) -> None:
        number = next(self.numbers)
        self.handles.append(
            self.manager.register(number, "buffer", release=self.release, release_on=ANY_THREAD)
        )
        handle = self.handles[-1]
        try:
            with self.timeline.submission() as work:
                number = work.use(handle)
                # Noted once `use` has returned: one that was interrupted inside gave its caller no name.
                self.reads[number] = len(self.device.made) + 1
        finally:
            handle.close()
        self.timeline.poll()
        self.device.run()
        self.timeline.poll()

    def lose(self) -> None:
        number = next(self.numbers)
        self.handles.append(
            self.manager.register(number, "buffer", release=self.release, release_on=ANY_THREAD)
        )
        handle = self.handles[-1]
        try:
            with self.timeline.submission() as work:
                work.use(handle)
            self.timeline.lost("planned")
        finally:
            handle.close()

    def check(self, entered: int) -> None:
        while self.handles:
            self.handles.pop().close()
        gc.collect()
        self.timeline.poll()  # a block that was cut short has its fence now
        self.device.run()
        assert self.timeline.wait(20)
        eventually(lambda: self.manager.stats().active_objects == 0)
        assert self.early == []
        assert len(self.freed) <= entered
        assert self.timeline.in_flight == 0
        assert id(self.timeline) not in busy


def test_an_interrupt_at_each_point_delays_and_never_frees(manager: SafetyManager) -> None:
    rounds = [Round(manager)]

    def run() -> None:
        rounds[-1].run()

    count = 0
    for struck in each_interrupt(run, step=STEP):
        count += 1
        if struck.error is not None:
            assert isinstance(struck.error, Interrupt)
        del struck
        rounds[-1].check(1)
        rounds.append(Round(manager))
    assert count > 60 // STEP
    assert rounds[-1].freed == [1]  # the last run went through


def test_an_interrupt_at_each_point_of_a_loss_leaves_nothing(manager: SafetyManager) -> None:
    rounds = [Round(manager)]

    def run() -> None:
        rounds[-1].lose()

    for struck in each_interrupt(run, step=STEP):
        del struck
        rounds[-1].timeline.lost("again")
        rounds[-1].check(1)
        assert rounds[-1].timeline.lost_submissions <= 1
        rounds.append(Round(manager))
    assert rounds[-1].freed == []
    assert rounds[-1].timeline.lost_submissions == 1


def test_the_collector_at_each_line(manager: SafetyManager) -> None:
    with every_line(gc.collect, step=STEP) as struck:
        one = Round(manager)
        one.run()
    one.check(1)
    assert one.freed == [1]
    assert struck.strikes > 60 // STEP


def test_another_poll_at_each_line(manager: SafetyManager) -> None:
    one = Round(manager)
    with every_line(one.timeline.poll) as struck:
        one.run()
    one.check(1)
    assert (one.freed, one.timeline.signalled) == ([1], 1)
    assert struck.strikes > 60


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="needs setitimer()")
def test_a_storm_of_signals(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interrupt in a callback of the interpreter is CPython's to print; pytest's hook would be struck as well.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    one = Round(manager)
    passed = 0
    # Slow enough that some rounds end unstruck, without the GIL too.
    with Signals(4000 if GIL else 1000) as signals:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            passed += signals.run(one.run)
            one.device.run()
            one.handles.clear()
    one.check(10**9)
    assert passed > 0
    assert signals.raised > 0
    # A turn that was left taken would let nothing end any more.
    freed = len(one.freed)
    one.run()
    assert len(one.freed) == freed + 1
