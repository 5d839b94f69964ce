"""I3, I6: exceptions that another thread raises in the library's own threads, as libraries with time limits
do, a moment late.

The first half strikes every point of what these threads run, on this thread, one after the other; the second
raises in the threads themselves, and has them die.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    Handle,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from lifecycle.events import Closed
from lifecycle.lowlevel import pin
from lifecycle.observe import maintenance as keeper_module
from lifecycle.observe.lost import LostTickets
from lifecycle.observe.observers import Observer, subscribe
from lifecycle.places import workers as workers_module
from lifecycle.places.loops import LoopNotifier
from lifecycle.places.workers import Batch, Job, Worker, Workers
from lifecycle.testing.interrupts import run_interrupted
from tests.core.adversary import in_own_process
from tests.support import eventually

QUIET = SafetyConfig(leak_level="off", finalizer_timeout=60.0)
ENDS = ("released", "failed")


class TooLong(Exception):
    """What a library with time limits raises."""

    def __init__(self, place: str = "") -> None:
        super().__init__(place)


class Thing:
    """Stands for a native object."""


# -- at every point ------------------------------------------------------------------------------------------


ENDED_THREAD = threading.Thread(target=int)
ENDED_THREAD.start()
ENDED_THREAD.join()


class Still:
    """A manager whose threads do not run: what they would do, the test does on this thread."""

    def __init__(self) -> None:
        self.manager = SafetyManager(QUIET)
        self.released: Counter[str] = Counter()
        self.machinery = self.manager._machinery
        self.workers: Workers = self.machinery.workers
        self.started = 0
        self.machinery.maintenance.start = self.workers.start = lambda: None  # type: ignore[method-assign]
        self.workers._start_one = self._count  # type: ignore[method-assign]
        self.handles: dict[str, Handle[Thing]] = {}

    def _count(self) -> bool:
        self.started += 1
        return True

    def register(
        self, name: str, action: Callable[[], object] = int, place: Any = BACKGROUND
    ) -> Handle[Thing]:
        def release(thing: Thing) -> None:
            self.released[name] += 1
            action()

        self.handles[name] = self.manager.register(Thing(), "thing", release=release, release_on=place)
        return self.handles[name]

    def due(self, name: str, action: Callable[[], object] = int, place: Any = BACKGROUND) -> None:
        self.register(name, action, place).close(timeout=0)

    def worker(self, kind: type[Worker] = Worker) -> Worker:
        """One that is told to stop when nothing else waits; its thread has ended, as far as the keeper can
        see."""
        worker = kind(self.workers)
        worker.thread = ENDED_THREAD
        self.workers.mailbox.put(None)
        return worker

    def check(self, place: str) -> None:
        """The struck worker has ended, or a `None` is left for it; whoever comes next finds everything else."""
        mailbox = self.workers.mailbox
        for _ in range(10):
            left: list[Any] = [mailbox.get() for _ in range(mailbox.qsize())]
            if not any(left):
                break
            for ticket in filter(None, left):
                mailbox.put(ticket)
            self.workers._replace_dead()
            self.worker().run()
        self.workers._replace_dead()
        states = {name: str(handle.state) for name, handle in self.handles.items()}
        assert set(states.values()) <= set(ENDS), (place, states)
        assert max(self.released.values()) == 1, (place, self.released)
        assert list(states.values()).count("failed") <= 2, (
            place,
            states,
        )  # a release, and the one that closes it
        assert not self.workers.running, place
        assert not self.workers.by_ident, place
        assert not self.workers.healthy, place
        assert not self.manager._registry.claims, place
        assert self.manager.close().ok or "failed" in states.values()


def struck(scene: Callable[[], Iterator[Callable[[], object]]]) -> Iterator[tuple[str, BaseException | None]]:
    """Run the scene's call struck at the first point, the second, …; the scene checks behind its `yield`."""
    strike_at = 0
    while True:
        strike_at += 1
        steps = scene()
        run = run_interrupted(next(steps), strike_at, error=TooLong)
        with pytest.raises(StopIteration):
            steps.send(run.place)  # type: ignore[attr-defined]
        if not run.place:
            assert strike_at > 5
            return
        yield run.place, run.error


def test_a_worker_loses_no_ticket() -> None:
    """Plain ones, one whose release closes another, one that is handed over by the keeper with what any
    thread may run."""

    def scene() -> Any:
        still = Still()
        still.register("inner")
        still.due("outer", lambda: still.handles["inner"].close())
        still.due("plain")
        still.due("other", place=ANY_THREAD)
        handed = still.machinery.any_thread.mailbox
        if handed:
            still.workers.put(handed.popleft())  # type: ignore[arg-type]
        place = yield still.worker().run
        if still.handles["inner"].valid:  # it struck before that was closed
            still.handles["inner"].close(timeout=0)
        still.check(place)

    for place, error in struck(scene):
        # The thread ends with it only where it strikes the way in and out, and is replaced.
        assert error is None or "workers.py" in place or "runtime" in place, (place, error)


def test_a_worker_loses_no_batch_and_no_errand() -> None:
    def scene() -> Any:
        still = Still()
        records = []
        for name in ("last", "middle", "first"):
            still.due(name)
            records.append(still.workers.mailbox.get())
        batch = Batch(records)  # type: ignore[arg-type]
        called: list[str] = []
        job = Job(lambda: called.append("called"))
        still.workers.mailbox.put(batch)
        still.workers.mailbox.put(job)
        place = yield still.worker().run
        still.check(place)
        assert batch.done.get(timeout=1) is None
        assert called == ["called"], place
        answer = job.done.get(timeout=1)
        assert answer is None or isinstance(answer, TooLong)

    for _ in struck(scene):
        pass


class Dying(Worker):
    __slots__ = ()

    def _recover(self, error: BaseException) -> None:
        raise TooLong("and again")


def test_a_worker_that_dies_is_replaced() -> None:
    def scene() -> Any:
        still = Still()
        still.due("plain")
        worker = still.worker(Dying)
        still.workers.healthy.append(worker)
        place = yield worker.run
        still.workers.watch()
        assert worker not in still.workers.healthy, place
        assert still.started, place
        still.check(place)

    for _ in struck(scene):
        pass


@pytest.mark.parametrize("what", ["delayed", "handed over"])
def test_the_keeper_loses_no_ticket(what: str) -> None:
    def scene() -> Any:
        still = Still()
        keeper = still.machinery.maintenance
        refusals = iter([NotReleased("not yet")])

        def once() -> None:
            for error in refusals:
                still.released.clear()
                raise error

        if what == "delayed":
            still.due("again", once)
            still.worker().run()
            time.sleep(0.015)
        else:
            still.workers.healthy.append(Worker(still.workers))
            for name in "ab":
                still.handles[name] = still.register(name, place=ANY_THREAD)
            held = [pin(still.handles[name]) for name in "ab"]
            for name in "ab":
                still.handles[name].close(timeout=0)
            still.manager._registry.bells.clear()  # they wake a worker: this is about what none was woken for
            held.clear()
            assert len(still.machinery.any_thread.mailbox) == 2
            keeper._hand_over()
            keeper._head_since -= 10
        place = yield (keeper._post_delayed if what == "delayed" else keeper._hand_over)
        still.workers.healthy.clear()
        keeper._post_delayed()
        still.machinery.any_thread.run_some(None)
        still.check(place)

    for _ in struck(scene):
        pass


def test_the_observer_tells_every_hook() -> None:
    def scene() -> Any:
        observer = Observer("test", QUIET)
        told: list[tuple[str, int]] = []
        for name in "ab":
            subscribe(observer.hooks, lambda event, name=name: told.append((name, event.id)))  # type: ignore[misc]
        for number in (1, 2):
            observer.queue.put(Closed(manager="test", time=0.0, id=number, type_name="thing"))
        observer.queue.put(None)
        place = yield observer._run
        if observer._event is not None or observer.queue.qsize():  # the thread ended: another one goes on
            observer.queue.put(None)
            observer._run()
        assert sorted(told) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)], place

    for _ in struck(scene):
        pass


def test_the_bell_rings_all_the_same() -> None:
    def scene() -> Any:
        turns: list[Callable[[], None]] = []
        queue = ReleaseQueue("bell")
        bell = LoopNotifier(queue, lambda turn: turns.append(turn) or bell._answered.put(None))
        queue._notifier = queue.generation.notifier = bell
        queue.generation.mailbox = bell.mailbox

        def end() -> None:
            nonlocal queue
            bell.mailbox.clear()
            bell._queue = lambda: None  # type: ignore[assignment]
            bell._answered.put(None)

        bell._post = lambda turn: (turns.append(turn), end())
        bell.put(None)
        place = yield bell._listen
        if not turns:  # the thread ended on its way in or out
            bell.put(None)
            bell._listen()
        assert turns or not bell._queue(), place

    for _ in struck(scene):
        pass


# -- in the threads themselves -------------------------------------------------------------------------------


def throw(thread: threading.Thread | None, error: type[BaseException] = TooLong) -> None:
    assert thread is not None
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))


def works(thread: threading.Thread) -> bool:
    """Whether it runs the library's code by now."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("lifecycle."):
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("error", [TooLong, SystemExit, KeyboardInterrupt])
def test_each_thread_goes_on(error: type[BaseException]) -> None:
    """Told as an event; nothing else is different afterwards."""
    told: list[Any] = []
    with SafetyManager(QUIET) as manager:
        manager.add_observer(told.append)
        manager.register(Thing(), "thing", release=repr).close()
        machinery = manager._machinery
        eventually(lambda: machinery.maintenance.observer.thread is not None)
        threads = [
            *(worker.thread for worker in machinery.workers.healthy),
            machinery.maintenance._thread,
            machinery.maintenance.observer.thread,
        ]
        assert len(threads) == 4
        # One that is struck on the lines of `threading` before ours ends, and is replaced: not the case here.
        eventually(lambda: all(thread is not None and works(thread) for thread in threads))
        for thread in threads:
            throw(thread, error)
        # Both workers at once: one that is woken at its end only is struck there, where Python prints it.
        both = threading.Barrier(2)
        handles = [manager.register(Thing(), "thing", release=lambda _: both.wait(30)) for _ in range(2)]
        for handle in handles:
            handle.close(timeout=0)
        assert all(handle.close(timeout=30) for handle in handles)
        for _ in range(20):
            assert manager.register(Thing(), "thing", release=repr).close(timeout=30)
        eventually(lambda: manager.stats().released == 23)
        assert all(thread is not None and thread.is_alive() for thread in threads)
        assert manager.health().problems == ()
        eventually(lambda: any(event.kind == "thread_interrupted" for event in told))


def rain_on_the_workers() -> None:
    threading.excepthook = lambda info: None
    over = threading.Event()

    def rain() -> None:
        while not over.is_set():
            for thread in threading.enumerate():
                if thread.name.startswith("lifecycle-release") and thread.ident is not None:
                    throw(thread)
            time.sleep(0.0005)

    manager = SafetyManager(QUIET)
    raining = threading.Thread(target=rain)
    raining.start()
    handles = []
    until = time.monotonic() + 3
    while time.monotonic() < until:
        some = [manager.register(Thing(), "thing", release=lambda thing: None) for _ in range(20)]
        for handle in some:
            handle.close(timeout=0)
        handles += some
        time.sleep(0.002)
    over.set()
    raining.join()
    eventually(lambda: all(handle.state in ENDS for handle in handles), timeout=60)
    assert any(handle.state == "released" for handle in handles)
    assert not manager._machinery.workers.running
    eventually(lambda: manager.stats().active_objects == 0)


def test_exceptions_rain_on_the_workers() -> None:
    """As a library with time limits raises them, but a thousand times a second, wherever they strike."""
    in_own_process(rain_on_the_workers)


def test_a_thread_that_is_ended_before_it_begins_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` waits for ever for one that an exception strikes on its first line."""
    monkeypatch.setattr(runtime, "START_PATIENCE", 0.1)
    begin = threading.Thread._bootstrap  # type: ignore[attr-defined]
    struck: list[str] = []

    def bootstrap(thread: threading.Thread) -> None:
        if thread.name.startswith("lifecycle-") and thread.name.split("-")[1] not in struck:
            struck.append(thread.name.split("-")[1])
        else:
            begin(thread)

    monkeypatch.setattr(threading.Thread, "_bootstrap", bootstrap)
    with SafetyManager(QUIET) as manager:
        for _ in range(4):
            manager.register(Thing(), "thing", release=repr).close(timeout=30)
        eventually(lambda: manager.stats().released == 4)
        eventually(lambda: len(manager._machinery.workers.healthy) == 2)
        assert manager._machinery.maintenance.alive
    assert struck[:2] == ["release", "keeper"]


def test_a_worker_that_died_without_a_word_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread was ended in the `threading` module, or on its very last lines: the keeper sees that."""
    monkeypatch.setattr(threading, "excepthook", lambda info: None)
    told: list[Any] = []
    with SafetyManager(QUIET) as manager:
        manager.add_observer(told.append)
        manager.register(Thing(), "thing", release=repr).close()
        workers = manager._machinery.workers
        victims = list(workers.healthy)

        def ends(self: Workers, worker: Worker) -> None:
            if worker in victims and threading.current_thread() is worker.thread:
                raise TooLong("on its last line")
            ended(self, worker)

        def recovers(self: Worker, error: BaseException) -> None:
            raise error

        ended = Workers.ended
        monkeypatch.setattr(Workers, "ended", ends)
        monkeypatch.setattr(Worker, "_recover", recovers)
        for worker in victims:
            throw(worker.thread)
        for _ in victims:
            manager.register(Thing(), "thing", release=repr).close(timeout=0)
        eventually(lambda: not any(worker in workers.healthy for worker in victims))
        monkeypatch.undo()
        assert manager.register(Thing(), "thing", release=repr).close(timeout=30)
        eventually(lambda: manager.stats().released == 4)
        assert manager.health().problems == ()
        eventually(lambda: any(event.kind == "thread_interrupted" for event in told))


@pytest.mark.parametrize("noticed", ["by itself", "register", "scrape", "close"])
def test_a_keeper_that_died_is_replaced(noticed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda info: None)
    with SafetyManager(QUIET) as manager:
        handle = manager.register(Thing(), "thing", release=repr)
        keeper = manager._machinery.maintenance
        first = keeper._thread
        assert first is not None

        def dies(me: threading.Thread) -> None:
            raise SystemExit

        def fails() -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(keeper, "_keep", dies)
            patch.setattr(manager._registry, "events", _Refuses())
            if noticed != "by itself":
                patch.setattr(keeper, "start", fails)
            else:
                patch.setattr(keeper, "start", lambda: (patch.undo(), keeper.start()))
            throw(first, SystemExit)
            eventually(lambda: not first.is_alive())
        if noticed == "register":
            manager.register(Thing(), "thing", release=repr)
        elif noticed == "scrape":
            manager.stats()
        elif noticed == "close":
            handle.close()
        eventually(lambda: keeper.alive)
        assert keeper._thread is not first
        assert manager.health().problems == ()
        handle.close()
        eventually(lambda: manager.stats().active_objects == 0)


class _Refuses(list):  # type: ignore[type-arg]
    """A mailbox in which a second exception strikes."""

    popleft = list.pop

    def append(self, event: object) -> None:
        raise TooLong("and again")


def test_a_bell_that_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda info: None)
    turns: list[Callable[[], None]] = []
    queue = ReleaseQueue("bell", post=turns.append)
    bell = queue._notifier
    assert bell is not None
    with SafetyManager(QUIET) as manager:
        handle = manager.register(Thing(), "thing", release=repr, release_on=queue)
        first = bell._thread
        bell._listen_and_ring = None  # type: ignore[assignment, method-assign]
        bell._inbox = None  # type: ignore[assignment]  # the handler fails as well
        with monkeypatch.context() as patch:
            patch.setattr(bell, "start", int)
            throw(first)
            bell.put(None)
            eventually(lambda: not first.is_alive())
        del bell._listen_and_ring
        bell._inbox = bell.put.__self__  # type: ignore[attr-defined]
        eventually(lambda: bell._thread is not first)
        handle.close()
        eventually(lambda: turns)
        turns.pop()()
        assert handle.state == "released"


# -- what a worker closes itself -----------------------------------------------------------------------------


def test_what_a_del_closes_in_a_collection_on_a_worker_is_released(manager: SafetyManager) -> None:
    released: list[str] = []
    inner = manager.register("inner", "thing", release=released.append)

    class Reader:
        def __init__(self) -> None:
            self.handle = inner
            self.itself = self

        def __del__(self) -> None:
            self.handle.close()

    collected = threading.Event()

    def collect(thing: Thing) -> None:
        Reader()
        gc.collect()
        collected.set()

    manager.register(Thing(), "thing", release=collect).close(timeout=30)
    assert collected.is_set()
    del inner
    eventually(lambda: released == ["inner"])
    assert not any(worker.closing for worker in manager._machinery.workers.healthy)


@pytest.mark.parametrize("error", [TooLong, RecursionError, KeyboardInterrupt])
def test_a_close_on_a_worker_that_ends_early_leaves_its_ticket_to_others(
    manager: SafetyManager, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes between the mark, which others respect, and the settling: also where taking the mark
    away fails as well."""
    released: list[str] = []
    states: list[str] = []
    inner = manager.register("inner", "thing", release=released.append)
    workers = manager._machinery.workers
    # What is lost all the same the keeper finds, half a second later.
    monkeypatch.setattr(LostTickets, "look", lambda lost: None)

    def breaks(*_: object) -> bool:
        raise error

    def close(thing: Thing) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "settle", breaks)
            patch.setattr(workers, "will_not_settle", breaks)
            with pytest.raises(error):
                inner.close()
        states.append(str(inner.state))
        eventually(lambda: not workers.mailbox.qsize())  # another one has come by, and left it to this one

    outer = manager.register(Thing(), "thing", release=close)
    outer.close(timeout=0)
    eventually(lambda: released == ["inner"])
    assert outer.close(timeout=30)
    assert states[0] in ("closing", "due", "released")  # the first of them without the GIL


def test_a_mark_does_not_outlive_its_call(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker runs it while the release that closed it in vain goes on."""
    released: list[str] = []
    seen: list[bool] = []
    inner = manager.register("inner", "thing", release=released.append)
    workers = manager._machinery.workers

    def breaks(*_: object) -> bool:
        raise TooLong

    def close(thing: Thing) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "settle", breaks)
            with pytest.raises(TooLong):
                inner.close()
        until = time.monotonic() + 20
        while not released and time.monotonic() < until:
            time.sleep(0.005)
        seen.append(bool(released))

    manager.register(Thing(), "thing", release=close).close(timeout=40)
    assert seen == [True]


def test_a_ticket_that_fails_each_time_is_not_multiplied(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    failures: list[float] = []
    process = workers_module.process

    def fails(record: Any, *rest: Any) -> Any:
        if len(failures) < 12:
            failures.append(time.monotonic())
            record.place.put(record)  # as `process` does itself where it was struck inside
            raise TooLong
        return process(record, *rest)

    monkeypatch.setattr(workers_module, "process", fails)
    handle = manager.register("one", "thing", release=released.append)
    handle.close(timeout=0)
    eventually(lambda: len(failures) == 12)
    assert manager._machinery.workers.mailbox.qsize() < 2 ** (workers_module.TRIES + 2)
    eventually(lambda: released == ["one"])


def test_a_keeper_that_fails_each_time_pauses_and_ends(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.register("one", "thing", release=lambda thing: None).close(timeout=10)
    keeper = manager._maintenance
    thread = keeper._thread
    assert thread is not None
    passes: list[float] = []

    def fails() -> None:
        passes.append(time.monotonic())
        raise TooLong

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "RECOVERY", (0.001, 0.05))
        patch.setattr(keeper, "_pass", fails)
        keeper._stop = True
        keeper.wake()
        eventually(lambda: not thread.is_alive())
    assert 0 < len(passes) < 20
