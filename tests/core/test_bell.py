"""Queues that an event loop drains: `ReleaseQueue(post=)`, against loops that are slow, deaf, closed or gone."""

from __future__ import annotations

import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from lifecycle import Handle, RegistrationError, ReleaseQueue, SafetyConfig, SafetyManager
from lifecycle.errors import CallbackError
from lifecycle.places import loops as bell
from tests.core.adversary import STORM, each_interrupt, every_line
from tests.core.natives import Native
from tests.support import eventually


class Loop:
    """The smallest event loop: a thread that calls what is posted."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.posted = 0
        self.taken = 0
        self.errors: list[BaseException] = []
        self.paused = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def post(self, fn: Callable[[], object]) -> None:
        self.posted += 1
        self.calls.put(fn)

    def run(self) -> None:
        while (fn := self.calls.get()) is not None:
            self.taken += 1
            try:
                fn()
            except BaseException as error:
                self.errors.append(error)
            fn = None

    def call(self, fn: Callable[[], Any]) -> Any:
        answer: SimpleQueue[Any] = SimpleQueue()
        self.calls.put(lambda: answer.put(fn()))
        return answer.get(timeout=20)

    def stop(self) -> None:
        self.calls.put(None)
        self.thread.join(20)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.stop()
    assert made.errors == []


def on(
    manager: SafetyManager, queue: ReleaseQueue, release: Any = Native.free
) -> tuple[Native, Handle[Native]]:
    native = Native()
    return native, manager.register(native, "native", release=release, release_on=queue)


def test_a_loop_releases_what_is_closed_dropped_or_let_go_elsewhere(
    manager: SafetyManager, loop: Loop
) -> None:
    """I4: at once, on its own thread, however the last reference went."""
    queue = ReleaseQueue("loop", thread=loop.thread, post=loop.post)
    closed, handle = on(manager, queue)
    handle.close()
    leased, handle = on(manager, queue)
    with handle.lease():
        handle.close()
        assert leased.released == 0
    dropped, handle = on(manager, queue)
    handle._record.owning = 0  # not a leak to report
    del handle
    looped, handle = on(manager, queue)
    handle._record.owning = 0
    circle: list[Any] = [handle]
    circle.append(circle)
    del handle, circle
    gc.collect()
    for native in (closed, leased, dropped, looped):
        eventually(lambda: native.released == 1, timeout=20)
        assert native.threads == [loop.thread.ident]
    eventually(lambda: queue.backlog == 0, timeout=20)


def test_closing_with_a_timeout_waits_for_the_loop(manager: SafetyManager, loop: Loop) -> None:
    queue = ReleaseQueue("loop", thread=loop.thread, post=loop.post)
    native, handle = on(manager, queue)
    assert handle.close(timeout=20) is True
    assert native.threads == [loop.thread.ident]


def test_on_the_loop_itself_closing_releases_at_once(manager: SafetyManager, loop: Loop) -> None:
    queue = ReleaseQueue("loop", thread=loop.thread, post=loop.post)
    assert loop.call(lambda: on(manager, queue)[1].close()) is True
    eventually(lambda: queue.backlog == 0, timeout=20)


def test_a_burst_rings_once_and_the_loop_gets_its_turns(manager: SafetyManager) -> None:
    """A turn ends after `TURN_TIME`, so the loop's other work is not starved."""
    calls: list[Callable[[], None]] = []
    queue = ReleaseQueue("busy", thread="current", post=calls.append)
    released: list[float] = []

    def slow(native: object) -> None:
        time.sleep(bell.TURN_TIME / 2)
        released.append(time.monotonic())

    handles = [on(manager, queue, slow)[1] for _ in range(3 * bell.TURN_STEPS)]
    closer = threading.Thread(target=lambda: [handle.close() for handle in handles])
    closer.start()
    closer.join()
    eventually(lambda: calls, timeout=20)
    assert len(calls) == 1
    turns = 0
    while queue.backlog:
        eventually(lambda: calls, timeout=20)
        before = len(released)
        calls.pop()()
        turns += 1
        assert 0 < len(released) - before <= bell.TURN_STEPS
    assert turns == 3
    assert calls == []


def test_a_loop_that_takes_no_turn_is_asked_again(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that was posted and lost, as by an interrupt as it began, strands nothing."""
    monkeypatch.setattr(bell, "PATIENCE", 0.02)
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    queue = ReleaseQueue("deaf", thread="current", post=calls.put)
    native, handle = on(manager, queue)
    closer = threading.Thread(target=handle.close)
    closer.start()
    closer.join()
    calls.get(timeout=20)  # and forgotten
    calls.get(timeout=20)
    calls.get(timeout=20)()
    assert native.released == 1
    time.sleep(0.3)
    while not calls.empty():
        calls.get()
    time.sleep(0.1)
    with pytest.raises(Empty):  # answered: no more calls
        calls.get_nowait()


def test_a_closed_loop_is_told_and_strands_nothing() -> None:
    """I9: what waits is in the health report, and the owner's own closing or the end of the manager still
    runs it."""
    manager = SafetyManager(name="loopless")

    def post(fn: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    queue = ReleaseQueue("closed", thread="current", post=post)
    native, handle = on(manager, queue)
    closer = threading.Thread(target=handle.close)
    closer.start()
    closer.join()
    eventually(lambda: queue.problem, timeout=20)
    assert (
        "'closed': 1 release(s) wait, but its event loop takes no turn: RuntimeError: Event loop is closed"
        in (queue.problem)
    )
    assert queue.problem in manager.health().problems
    assert native.released == 0
    assert manager.close().ok
    assert native.released == 1
    queue.drain()
    assert queue.problem == ""


def test_a_release_that_fails_stops_no_turn(manager: SafetyManager, loop: Loop) -> None:
    """I6."""
    queue = ReleaseQueue("loop", thread=loop.thread, post=loop.post)

    def bad(native: Native) -> None:
        raise SystemExit(3)

    handles = [on(manager, queue, release)[1] for release in (Native.free, bad, Native.free)]
    for handle in handles:
        handle.close()
    eventually(lambda: queue.backlog == 0, timeout=20)
    assert [str(handle.state) for handle in handles] == ["released", "failed", "released"]


def test_a_lost_queue_with_a_loop_goes_on_with_its_next_generation(
    manager: SafetyManager, loop: Loop
) -> None:
    queue = ReleaseQueue("gl", thread=loop.thread, post=loop.post)
    lost, first = on(manager, queue)
    assert loop.call(lambda: queue.lost("context died")) == 1
    fresh, second = on(manager, queue)
    first.close()
    assert second.close(timeout=20) is True
    assert (lost.released, fresh.released) == (0, 1)


def test_the_bells_thread_ends_with_its_queue(loop: Loop) -> None:
    def bells() -> int:
        return sum(thread.name == "lifecycle-notifier-short" for thread in threading.enumerate())

    manager = SafetyManager()
    queue = ReleaseQueue("short", thread=loop.thread, post=loop.post)
    gone = weakref.ref(queue)
    _, handle = on(manager, queue)
    del queue
    gc.collect()
    assert bells() == 1  # an object needs it still
    assert handle.close(timeout=20) is True
    manager.close()
    del manager, handle
    gc.collect()
    eventually(lambda: gone() is None and bells() == 0, timeout=20)


def test_post_must_be_a_plain_function() -> None:
    """I9."""

    async def post(fn: object) -> None: ...

    with pytest.raises(RegistrationError, match="post= of queue 'x' must be callable, not 3"):
        ReleaseQueue("x", post=3)  # type: ignore[arg-type]
    with pytest.raises(CallbackError, match="coroutine"):
        ReleaseQueue("x", post=post)


# -- adversaries ---------------------------------------------------------------------------------------------


def test_an_interrupt_at_every_point_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3, I5: each is released once, and the loop is called again for what is left."""
    monkeypatch.setattr(bell, "PATIENCE", 0.02)
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    queue = ReleaseQueue("struck", thread="current", post=calls.put)
    natives: list[Native] = []

    def make() -> None:
        natives[:] = [Native(str(n)) for n in range(3)]
        for native in natives:
            manager.register(native, "native", release=Native.free, release_on=queue)

    def turn() -> None:
        calls.get(timeout=20)()

    interrupted = 0
    make()
    for struck in each_interrupt(turn):
        interrupted += struck.error is not None
        while queue.backlog:
            calls.get(timeout=20)()
        eventually(lambda: [native.released for native in natives] == [1, 1, 1], timeout=20)
        assert [native.errors for native in natives] == [[]] * 3, struck.place
        make()
    assert interrupted > 30
    queue.drain()
    assert not manager.close().leaked  # a release that an interrupt struck has failed, and is told of


def test_the_collector_at_every_line_of_a_closing_and_a_turn(manager: SafetyManager) -> None:
    """I4, I5: other objects of the queue die in the middle of it."""
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    queue = ReleaseQueue("collected", thread="current", post=calls.put)
    natives: list[Native] = []

    def collect() -> None:
        native, handle = on(manager, queue)
        natives.append(native)
        handle._record.owning = 0  # not a leak to report
        circle: list[Any] = [handle]
        circle.append(circle)
        del handle, circle
        gc.collect(0)

    with every_line(collect, step=3) as struck:
        for _ in range(3):
            native, handle = on(manager, queue)
            natives.append(native)
            threading.Thread(target=handle.close).start()
            calls.get(timeout=20)()
    assert struck.strikes > 10
    queue.drain()
    eventually(lambda: queue.drain() == 0 and all(native.released for native in natives), timeout=20)
    assert {native.released for native in natives} == {1}
    assert {ident for native in natives for ident in native.threads} == {threading.get_ident()}


def test_a_storm_of_droppers_against_a_loop_and_a_hand_that_drains(
    manager: SafetyManager, loop: Loop
) -> None:
    """I3, I4: each once and there, whichever of loop, closer and `drain` is quicker, while generations are
    lost."""
    queue = ReleaseQueue("storm", thread=loop.thread, post=loop.post)
    released: list[int] = []
    count = int(400 * STORM)

    def release(n: int) -> None:
        assert threading.get_ident() == loop.thread.ident
        released.append(n)

    def drop(first: int) -> None:
        for n in range(first, first + count):
            handle = manager.register(n, "n", release=release, release_on=queue)
            if n % 3:
                lease = handle.lease()
                handle.close()
                del lease
            else:
                handle.close(timeout=0)
            if n % 50 == 0:
                loop.post(functools.partial(queue.drain, 3))

    threads = [threading.Thread(target=drop, args=(first * count,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: queue.backlog == 0 and len(released) == 3 * count, timeout=60)
    assert sorted(released) == list(range(3 * count))
    assert manager.stats().released == 3 * count
