"""What nobody uses any more is released at once, wherever the last reference to it went."""

from __future__ import annotations

import ctypes
import gc
import sqlite3
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any

import pytest

from lifecycle import ANY_THREAD, Handle, SafetyConfig, SafetyManager
from lifecycle._core import runtime
from lifecycle._core.record import Bell
from tests.core.adversary import STORM, Signals, each_interrupt, every_line, in_own_process, switching
from tests.support import eventually

AT_ONCE = 0.1
"""Seconds. Without a bell it takes more than twice as long."""
SIZE = 64


FRAMES: deque[Frame] = deque(maxlen=1000)
"""The latest."""


class Frame:
    """Native memory, as a camera hands it out."""

    def __init__(self) -> None:
        self.memory = (ctypes.c_ubyte * SIZE)()
        self.address = ctypes.addressof(self.memory)
        self.released: list[float] = []
        self.threads: list[int] = []
        self.in_collector: list[bool] = []
        FRAMES.append(self)

    def give_back(self) -> None:
        """The release."""
        self.in_collector.append(runtime.in_collector())
        self.threads.append(threading.get_ident())
        self.released.append(time.monotonic())


def frame(manager: SafetyManager) -> tuple[Frame, Handle[Frame]]:
    made = Frame()
    return made, manager.register(made, "frame", release=Frame.give_back, release_on=ANY_THREAD)


def let_go(manager: SafetyManager, how: str) -> tuple[Frame, float]:
    """Have the last user of a frame go; the frame, and when that was."""
    made, handle = frame(manager)
    if how == "a view":
        view: Any = handle.view(made.address, SIZE)[3:9]
        handle.close()
    elif how == "a view of its buffer":
        view = handle.view(made.memory)
        handle.close()
    elif how == "an array":
        np = pytest.importorskip("numpy")
        view = handle.array(np.frombuffer(made.memory, np.uint8))[2:]
        handle.close()
    elif how == "a view in a garbage cycle":
        view = [handle.view(made.address, SIZE)]
        view.append(view)
        handle.close()
        del view
        gc.collect(0)
        return made, time.monotonic()  # no release begins in the midst of a collection
    elif how == "a view whose handle was never closed":
        view = handle.view(made.address, SIZE)
        handle._record.owning = 0  # not a leak to report
        del handle
    elif how == "a view of what was unregistered":
        view = handle.view(made.address, SIZE)
        manager.unregister(handle)
    elif how == "a lease that is dropped":
        view = handle.lease()
        handle.close()
    elif how == "a child":
        child: Handle[Any] = manager.register([], "child", release=list.clear, parent=handle)  # at a worker
        handle.close()
        began = time.monotonic()
        child.close()
        return made, began
    else:
        view = [handle.view(made.address, SIZE), handle.share(), handle.share()]
        handle.close()
        view.pop().close()
        view.pop().close()
    assert not made.released
    began = time.monotonic()
    del view
    return made, began


WAYS = [
    "a view",
    "a view of its buffer",
    "an array",
    "a view in a garbage cycle",
    "a view whose handle was never closed",
    "a view of what was unregistered",
    "a lease that is dropped",
    "a child",
    "a view of what was shared",
]


@pytest.mark.parametrize("how", WAYS)
def test_the_release_follows_at_once(manager: SafetyManager, how: str) -> None:
    waits = []
    for _ in range(7):
        made, began = let_go(manager, how)
        eventually(lambda made=made: made.released)  # type: ignore[misc]
        waits.append(made.released[0] - began)
        assert made.in_collector == [False]
        assert how == "a child" or made.threads != [threading.get_ident()], "inside the death callback"
        time.sleep(0.01)  # an idle program
    assert statistics.median(waits) < AT_ONCE, waits
    eventually(lambda: not manager._registry.bells and not manager._registry.claims)


def test_beside_a_thread_that_runs_python_all_the_time(manager: SafetyManager) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    busy = threading.Thread(target=work)
    busy.start()
    waits = []
    try:
        for _ in range(7):
            made, began = let_go(manager, "a view")
            eventually(lambda made=made: made.released)  # type: ignore[misc]
            waits.append(made.released[0] - began)
    finally:
        stop.set()
        busy.join()
    assert statistics.median(waits) < AT_ONCE, waits


def test_who_closes_with_nobody_inside_wakes_nobody(manager: SafetyManager) -> None:
    rung: deque[Any] = deque()
    registry = manager._registry
    registry.ring = rung.append
    made, handle = frame(manager)
    handle.close()
    made, handle = frame(manager)
    view = handle.view(made.address, SIZE)
    del view
    assert registry.bells  # the handle may still be dropped
    handle.close()
    with handle_of_lease(manager) as handle:
        handle.close()
    assert not rung
    assert not registry.bells
    made, handle = frame(manager)
    view = handle.view(made.address, SIZE)
    handle.close()
    assert not rung
    del view
    assert [type(ticket) for ticket in rung] == [Bell]
    rung.pop()
    eventually(lambda: made.released)  # by those who look after what was not told
    registry.ring = manager._machinery.workers.put


def handle_of_lease(manager: SafetyManager) -> Any:
    """A block that ends with its object released, by the last who lets go."""
    made, handle = frame(manager)

    class Block:
        def __enter__(self) -> Handle[Frame]:
            self.lease = handle.lease()
            self.lease.__enter__()
            return handle

        def __exit__(self, *_: object) -> None:
            assert not made.released
            self.lease.__exit__()
            assert made.threads == [threading.get_ident()]

    return Block()


def test_a_bell_is_for_promptness_alone(manager: SafetyManager) -> None:
    """A fork, an exit or an interrupt may cost it: the ticket is in the mailbox all the same."""
    made, handle = frame(manager)
    view = handle.view(made.address, SIZE)
    handle.close()
    manager._registry.bells.clear()
    del view
    eventually(lambda: made.released)
    assert len(made.released) == 1


def test_nothing_is_left_for_the_collector(manager: SafetyManager) -> None:
    def one() -> None:
        made, handle = frame(manager)
        view = handle.view(made.address, SIZE)
        handle.close()
        del view
        eventually(lambda: made.released)

    one()
    eventually(lambda: not manager._registry.claims)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            one()
        eventually(lambda: not manager._registry.claims and not manager._registry.bells)
        assert gc.collect() < 20
    finally:
        gc.enable()


# -- natives that belong to a thread -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lease", "lease.close", "safe_access", "block", "exclusive"])
def test_who_lets_go_as_the_last_releases_on_its_own_thread(manager: SafetyManager, how: str) -> None:
    """A database connection may be closed on the thread that made it, and on no other."""

    def use(handle: Handle[Any]) -> None:
        closer = threading.Thread(target=handle.close)
        if how == "lease":
            with handle.lease():
                closer.start()
                closer.join()
        elif how == "lease.close":
            lease = handle.lease()
            closer.start()
            closer.join()
            lease.close()
        elif how == "safe_access":
            manager.safe_access(handle, lambda _: (closer.start(), closer.join()))
        elif how == "block":
            with manager.safe_access(handle):
                closer.start()
                closer.join()
        else:
            with handle.exclusive():
                closer.start()
                closer.join()

    for _ in range(20):
        handle = manager.register(
            sqlite3.connect(":memory:"), "sqlite3", release=sqlite3.Connection.close, release_on=ANY_THREAD
        )
        use(handle)
        assert handle.state == "released", manager.objects()


def test_a_release_that_fails_on_another_thread_says_so(manager: SafetyManager) -> None:
    made = threading.get_ident()

    def release(_: object) -> None:
        if threading.get_ident() != made:
            raise RuntimeError("wrong context")

    frame = Frame()
    handle = manager.register(frame, "texture", release=release, release_on=ANY_THREAD)
    view = handle.view(frame.address, SIZE)
    handle.close()
    del view
    eventually(lambda: handle.state == "failed")
    reason = handle._record.more().reason
    assert 'RuntimeError: wrong context (released on thread "lifecycle-release-' in reason
    assert 'release_on=ReleaseQueue(name, thread="current")' in reason
    connection = sqlite3.connect(":memory:")
    bound = manager.register(connection, "sqlite3", release=sqlite3.Connection.close)  # at a worker
    assert not bound.close(timeout=20)
    assert "ReleaseQueue" in bound._record.more().reason
    connection.close()


# -- rings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [30, 240])
def test_a_ring_of_four_loses_next_to_nothing(manager: SafetyManager, fps: int) -> None:
    """Without a bell more pictures are lost than taken."""
    free: Queue[Frame] = Queue()
    ready: Queue[Frame] = Queue()
    stop = threading.Event()
    lost = [0]
    for _ in range(4):
        free.put(Frame())

    def drive() -> None:
        due = time.monotonic()
        while not stop.is_set():
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                ready.put(free.get_nowait())
            except Empty:
                lost[0] += 1

    driver = threading.Thread(target=drive)
    driver.start()
    taken = 0
    batch: list[Any] = []
    until = time.monotonic() + 1.0
    try:
        while time.monotonic() < until:
            picture = ready.get(timeout=20)
            with manager.register(picture, "buffer", release=free.put, release_on=ANY_THREAD) as handle:
                batch.append(handle.view(picture.address, SIZE))
            taken += 1
            if len(batch) == 4:
                batch.clear()
    finally:
        stop.set()
        driver.join()
    assert lost[0] <= taken // 2, (lost, taken)


# -- adversaries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["a view", "a lease that is dropped", "a view of what was shared", "leases"])
def test_interrupted_at_any_point_each_is_released_once(way: str) -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="struck")

    def one() -> None:
        try:
            if way == "leases":
                _, handle = frame(manager)
                with handle.lease():
                    handle.close()
                handle = None  # type: ignore[assignment]
            else:
                let_go(manager, way)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            handle = None  # type: ignore[assignment]
            raise

    def over() -> bool:
        manager.register(object(), "flush", release=id, release_on=ANY_THREAD).close()
        return manager.stats().active_objects == 0

    points = 0
    for struck in each_interrupt(one, step=1):
        points += struck.error is not None
        struck = None  # type: ignore[assignment]
        eventually(over)
        assert all(len(made.released) <= 1 for made in FRAMES)
        FRAMES.clear()
    assert points > 10
    eventually(lambda: not manager._registry.claims and not manager._registry.bells)
    assert not manager.close().leaked


def test_the_collector_at_every_line(manager: SafetyManager) -> None:
    """Others die in the middle of it, in a collection."""
    dropped: list[Frame] = []

    def collect() -> None:
        made, handle = frame(manager)
        cycle: list[Any] = [handle.view(made.address, SIZE)]
        cycle.append(cycle)
        handle.close()
        dropped.append(made)
        del cycle, handle
        gc.collect(0)

    frames = []
    with every_line(collect, step=3) as struck:
        for way in ("a view", "a lease that is dropped", "a view of what was shared"):
            frames.append(let_go(manager, way)[0])
    assert struck.strikes > 10
    everybody = [*dropped, *frames]
    eventually(lambda: all(one.released for one in everybody))
    assert {len(one.released) for one in everybody} == {1}
    assert not any(inside for one in everybody for inside in one.in_collector)


def test_a_storm_of_droppers_closers_and_leases(manager: SafetyManager) -> None:
    """Each once, never in use, whoever is the last, and no bell is left behind."""
    wrong: list[str] = []
    count = int(300 * STORM)
    everybody: deque[Frame] = deque()

    def user(handle: Handle[Frame]) -> None:
        with handle.lease() as made:
            if made.released:
                wrong.append("released in use")
            handle.close()
            if made.released:
                wrong.append("released in use")

    def work(number: int) -> None:
        for turn in range(count):
            made, handle = frame(manager)
            everybody.append(made)
            view = handle.view(made.address, SIZE)
            share = handle.share()
            other = threading.Thread(target=user, args=(share,)) if turn % 20 == number else None
            if other is not None:
                other.start()
            else:
                share.close()
            handle.close()
            if made.released:
                wrong.append("released in use")
            del view
            if other is not None:
                other.join()

    with switching():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    eventually(lambda: all(one.released for one in everybody))
    assert not wrong
    assert {len(one.released) for one in everybody} == {1}
    eventually(lambda: not manager._registry.bells and not manager._registry.claims)


def raising_signals(seconds: float) -> None:
    """Ten thousand signals a second whose handler raises, into frames that are dropped."""
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    released: deque[int] = deque()
    registered: deque[int] = deque()
    release: Callable[[Any], object] = lambda made: released.append(made.number)  # noqa: E731
    until = time.monotonic() + seconds

    class Numbered(Frame):
        number = 0

    number = 0

    def one() -> None:
        made = Numbered()
        made.number = number
        handle = manager.register(made, "frame", release=release, release_on=ANY_THREAD)
        registered.append(number)
        view = handle.view(made.address, SIZE)
        handle.close()
        del view

    # The manager's threads are there before: on CPython 3.14 a signal at the entry of a block leaves the lock of
    # `threading` taken (cpython#148874), and no thread begins any more.
    one()
    eventually(lambda: manager.health().keeper_alive)
    with Signals() as signals:
        while time.monotonic() < until:
            number += 1
            signals.run(one)
    assert signals.raised > 20
    gc.collect()
    eventually(lambda: not manager._registry.claims and not manager._registry.bells)
    eventually(lambda: manager.stats().active_objects == 0)
    assert len(set(released)) == len(released), "released twice"
    failed = manager.stats().failed
    assert len(set(registered) - set(released)) <= failed, (len(set(registered) - set(released)), failed)


def test_signals_that_raise_while_frames_are_dropped() -> None:
    in_own_process(raising_signals, 1.0 * STORM)
