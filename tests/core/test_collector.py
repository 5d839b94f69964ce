"""I2, I4, I5 against the garbage collector: it runs at every line of our own code, takes handles and views
apart in any order, runs ``__del__`` methods that use what is dying, and brings the dead back. Memory is
really unmapped, so a mistake is a SIGSEGV."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from tests.core.adversary import (
    STORM,
    NativeMemory,
    assert_nothing_left,
    every_line,
    in_own_process,
    unmapped_twice,
)
from tests.support import eventually

QUIET = SafetyConfig(leak_level="off")
PLACES: dict[str, Any] = {"any_thread": ANY_THREAD, "background": BACKGROUND}
EVERY = 12 if runtime.free_threaded else 1
"""Before every so many lines: without the GIL a collection stops all threads and takes ten times as long."""


class Node:
    """Something to build cycles from."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


class Reader(Node):
    """Reads memory as its last act, from inside the collector if it has to be."""

    def __del__(self) -> None:
        for view in self.views:
            self.seen.append((view[0], view[-1]))


def mapped(manager: SafetyManager, place: Any, **facts: Any) -> tuple[Handle[NativeMemory], memoryview]:
    """An object of really mapped memory, and a view of it."""
    memory = NativeMemory()
    handle = manager.register(memory, "memory", release=NativeMemory.unmap, release_on=place, **facts)
    return handle, handle.view(memory.address, memory.nbytes)


def all_unmapped_once(manager: SafetyManager, number: int) -> None:
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    stats = assert_nothing_left(manager)
    assert stats.types["memory"].ended["released"] == stats.types["memory"].registered == number
    assert unmapped_twice() == 0


# -- what is dying is still used -----------------------------------------------------------------------------


def a_del_in_a_cycle_reads_a_view(place: str) -> None:
    seen: list[tuple[int, int]] = []
    with SafetyManager(QUIET) as manager:
        for round in range(50):
            handle, view = mapped(manager, PLACES[place])
            if round % 3 == 0:
                handle.close()
            if round % 3 == 1:
                manager.invalidate(handle, "while a view is out")
            reader = Reader(views=[view], handle=handle, seen=seen)
            reader.itself = reader
            reader.slice = view[10:20]
            del reader, handle, view
            gc.collect()
        all_unmapped_once(manager, 50)
    assert seen == [(0x5A, 0x5A)] * 50


def a_child_and_its_parent_in_one_cycle(place: str) -> None:
    seen: list[tuple[int, int]] = []
    order: deque[str] = deque()

    def release(name: str) -> Callable[[NativeMemory], None]:
        def unmap(memory: NativeMemory) -> None:
            order.append(name)
            memory.unmap()

        return unmap

    with SafetyManager(QUIET) as manager:
        for round in range(48):
            memories = [NativeMemory(), NativeMemory()]
            parent = manager.register(
                memories[0], "memory", release=release("parent"), release_on=PLACES[place]
            )
            child = manager.register(
                memories[1], "memory", release=release("child"), release_on=PLACES[place], parent=parent
            )
            views = [
                handle.view(memory.address, memory.nbytes)
                for handle, memory in zip((parent, child), memories, strict=True)
            ]
            # In whatever order the collector comes upon them, and with the parent's view held by the child's
            # reader.
            parts: list[Any] = [
                Reader(views=views[round % 2 :], seen=seen, handle=parent),
                Reader(views=views[: 1 + round % 2], seen=seen, handle=child),
                Node(handle=parent),
            ]
            if round & 4:
                parts.reverse()
            for left, right in zip(parts, [*parts[1:], parts[0]], strict=True):
                left.other = right
            if round & 8:
                parent.close()
            if round & 16:
                child.close()
            del parts, parent, child, views, left, right, memories
            gc.collect()
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
            eventually(lambda: len(order) == 2)
            assert list(order) == ["child", "parent"]
            order.clear()
        all_unmapped_once(manager, 96)
    assert set(seen) == {(0x5A, 0x5A)}


def the_dead_come_back(place: str) -> None:
    """A ``__del__`` puts itself, with handle and view, where it can be found again: what it found is alive
    and stays so."""
    back: list[Any] = []
    seen: list[tuple[int, int]] = []

    class Lazarus(Node):
        def __del__(self) -> None:
            back.append(self)

    with SafetyManager(QUIET) as manager:
        for round in range(30):
            handle, view = mapped(manager, PLACES[place])
            lazarus = Lazarus(handle=handle, view=view)
            lazarus.itself = lazarus
            if round % 2:
                handle.close()
            del lazarus, handle, view
            gc.collect()
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
            (risen,) = back
            assert risen.view[0] == 0x5A
            if round % 2:
                assert not risen.handle.valid
            else:
                with risen.handle.lease() as memory:
                    assert memory.read() == 0x5A
                assert risen.handle.share().close() is False
            # It dies once more, in a cycle with somebody who reads at that moment.
            reader = Reader(views=[risen.view], seen=seen, risen=risen)
            risen.reader = reader
            back.clear()
            del risen, reader
            gc.collect()
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        all_unmapped_once(manager, 30)
    assert seen == [(0x5A, 0x5A)] * 30


def the_dead_come_back_while_others_drain() -> None:
    """The same while other threads register and close without a pause, and so run every ticket that they can
    find."""
    stop = threading.Event()
    seen: list[tuple[int, int]] = []
    back: list[Any] = []

    class Lazarus(Node):
        def __del__(self) -> None:
            back.append(self)

    class SlowReader(Reader):
        def __del__(self) -> None:
            for _ in range(20):
                runtime.sleep(0)
            super().__del__()

    manager = SafetyManager(QUIET)

    def drain() -> None:
        while not stop.is_set():
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
            runtime.sleep(0)

    threads = [threading.Thread(target=drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            handle, view = mapped(manager, ANY_THREAD)
            lazarus = Lazarus(handle=handle, view=view)
            lazarus.itself = lazarus
            del lazarus, handle, view
            gc.collect()
            risen = back.pop()
            reader = SlowReader(views=[risen.view], seen=seen, risen=risen)
            risen.reader = reader
            del risen, reader
            gc.collect()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    all_unmapped_once(manager, 60)
    manager.close()
    assert seen == [(0x5A, 0x5A)] * 60


def an_object_that_holds_its_own_handle(place: str) -> None:
    """The registry keeps the object, and it the handle: no collector can end that, but closing can, and so
    can the manager."""
    manager = SafetyManager(QUIET)
    handles = []
    for _ in range(10):
        memory = NativeMemory()
        owner = Node(memory=memory)
        owner.handle = manager.register(
            owner, "memory", release=lambda owner: owner.memory.unmap(), release_on=PLACES[place]
        )
        owner.view = owner.handle.view(memory.address, memory.nbytes)
        handles.append(weakref.ref(owner.handle))
        del owner
    gc.collect()
    assert all(handle() is not None for handle in handles)
    for handle in handles[:5]:
        found = handle()
        assert found is not None
        with found.lease() as owner:
            owner.view = None
        owner = None
        found.close()
    assert manager.stats().types["memory"].live == 5
    report = manager.close()
    assert report.released == 0
    assert len(report.leaked) == 5, "their own views hold them: nothing is unmapped under a view"


DYING = [a_del_in_a_cycle_reads_a_view, a_child_and_its_parent_in_one_cycle, the_dead_come_back]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scene", DYING, ids=lambda scene: str(scene.__name__))
def test_what_is_dying_is_still_used(scene: Callable[[str], None], place: str) -> None:
    in_own_process(scene, place)


def test_resurrection_while_other_threads_drain() -> None:
    in_own_process(the_dead_come_back_while_others_drain)


@pytest.mark.parametrize("place", PLACES)
def test_an_object_that_holds_its_own_handle(place: str) -> None:
    in_own_process(an_object_that_holds_its_own_handle, place)


# -- the collector calls us ----------------------------------------------------------------------------------


class Collections:
    """In which thread a collection runs, by CPython's own word."""

    def __init__(self) -> None:
        self.thread = 0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        self.thread = threading.get_ident() if phase == "start" else 0

    def __enter__(self) -> Collections:
        gc.callbacks.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self)

    def here(self) -> bool:
        return self.thread == threading.get_ident()


def in_a_collection(action: Callable[[], object]) -> None:
    """Run `action` from the ``__del__`` of a garbage cycle; raises what it raised."""
    errors: list[BaseException] = []

    class Dying:
        def __del__(self) -> None:
            try:
                action()
            except BaseException as error:
                errors.append(error)

    dying: Any = Dying()
    dying.itself = dying
    del dying
    gc.collect()
    for error in errors:
        raise error


def test_no_release_runs_inside_the_collector() -> None:
    """I4. Closing, dropping, registering and what else a ``__del__`` may do: tickets are posted there and run
    elsewhere."""
    inside: deque[str] = deque()
    released: deque[str] = deque()
    with Collections() as collections, SafetyManager(QUIET) as manager:
        queue = ReleaseQueue("owned", thread="current")

        def release(node: Node) -> None:
            released.append(node.name)
            if collections.here():
                inside.append(node.name)

        def new(name: str, place: Any = ANY_THREAD, **facts: Any) -> Handle[Node]:
            return manager.register(Node(name=name), "node", release=release, release_on=place, **facts)

        handles = {name: new(name) for name in ("close", "drop", "unregister", "invalidate", "panic")}
        on_queue = {name: new(name, queue) for name in ("q-close", "q-drop")}
        timed = {name: new(name, BACKGROUND) for name in ("b-close", "b-wait")}
        kept = new("kept", keep=True).id
        waiting = [new(f"waiting {number}") for number in range(5)]

        def everything() -> None:
            waiting.clear()
            handles["close"].close()
            handles["close"].close(timeout=5)
            del handles["drop"]
            manager.unregister(handles["unregister"])
            manager.invalidate(handles["invalidate"], "in a collection")
            with pytest.raises(LifecycleError):
                manager.safe_access(handles["panic"], lambda node: 1 // 0)
            assert on_queue["q-close"].close() is False
            del on_queue["q-drop"]
            assert timed["b-close"].close() is False
            assert timed["b-wait"].close(timeout=5) is False
            manager.unregister(kept)
            with new("registered in there").lease() as node:
                assert node.name
            new("registered and closed in there").close()
            with pytest.raises(LifecycleError):
                handles["close"].lease()
            manager.stats()
            manager.health()
            manager.objects()

        in_a_collection(everything)
        assert not inside
        queue.drain()
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        stats = assert_nothing_left(manager)
        assert stats.types["node"].ended["released"] == len(released) == len(set(released)) == 17


def test_a_manager_closed_inside_the_collector_still_releases() -> None:
    released: deque[Node] = deque()
    manager = SafetyManager(QUIET)
    handles = [
        manager.register(Node(), "node", release=released.append, release_on=place)
        for place in (ANY_THREAD, BACKGROUND)
    ]
    in_a_collection(manager.close)
    assert manager.closed
    for handle in handles:
        with pytest.raises(AccessRefusedError):
            handle.lease()
    eventually(lambda: len(released) == 2)
    assert_nothing_left(manager)


def tell(phase: str) -> None:
    """Tell the library of a collection that begins or ends on this thread, as CPython does."""
    info = {"generation": 2, "collected": 0, "uncollectable": 0}
    for callback in runtime._callbacks:
        callback(phase, info)


def test_a_young_collection_is_told_from_none() -> None:
    """A mark whose end was not told, for want of memory, is taken away by whoever asks."""
    tell("start")
    assert runtime.collecting
    assert not runtime.in_collector()
    assert not runtime.collecting
    told: list[bool] = []
    in_a_collection(lambda: told.append(runtime.in_collector()))
    assert told == [True]
    assert not runtime.in_collector()


def test_a_mark_left_standing_by_another_thread_holds_nobody_up() -> None:
    """The mark of a thread that does nothing more is found out and taken away."""
    with SafetyManager(QUIET) as manager:
        manager.register(Node(), "node", release_on=BACKGROUND).close()
        other = threading.Thread(target=tell, args=("start",))
        other.start()
        other.join()
        assert runtime.collecting
        assert not runtime.in_collector()
        began = runtime.monotonic()
        for _ in range(8):
            assert manager.register(Node(), "node", release=repr, release_on=ANY_THREAD).close(timeout=0)
        assert not runtime.collecting
        assert runtime.monotonic() - began < runtime.COLLECTION_WAIT


def waits(thread: threading.Thread) -> bool:
    """Whether `thread` holds back because of a collection."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is runtime.await_collection.__code__


def test_who_waits_for_a_collection_does_not_wait_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """I2. On a loaded machine one collection ends and the next begins between two of its looks. Who took them
    for one lost patience in the midst of a third, and released what that was still reading."""
    monkeypatch.setattr(runtime, "COLLECTION_WAIT", 60.0)

    def next_one() -> None:
        waiting = threading.Thread(target=runtime.await_collection, args=(60.0,), daemon=True)
        waiting.start()
        eventually(lambda: waits(waiting))
        tell("stop")
        tell("start")
        waiting.join(20)
        assert not waiting.is_alive()
        assert runtime.waited_for is not runtime._now.start

    in_a_collection(next_one)


def test_a_collection_that_waits_for_a_release_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I5: its ``__del__`` joins a thread that drains, and that holds back. Once: the second does not."""
    monkeypatch.setattr(runtime, "COLLECTION_WAIT", 0.2)
    queue = ReleaseQueue("any thread may drain it")
    with SafetyManager(QUIET) as manager:
        handles = [manager.register(Node(), "node", release=repr, release_on=queue) for _ in range(2)]

        def close_and_drain(handle: Handle[Node]) -> None:
            handle.close()
            queue.drain()

        def join() -> None:
            for handle in handles:
                closing = threading.Thread(target=close_and_drain, args=(handle,), daemon=True)
                closing.start()
                closing.join(20)
                assert handle.state == "released"
                assert runtime.waited_for is runtime._now.start

        in_a_collection(join)


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, "queue"])
def test_a_close_does_not_wait_for_a_collection_on_another_thread(place: Any) -> None:
    """I2, I5: nothing is released before that is over, and then it is, without another call. A timeout is
    kept to."""
    released: deque[Node] = deque()
    said: list[tuple[bool, float]] = []
    handles: list[Handle[Node]] = []
    queue: Any = None

    def timed(call: Callable[[], Any]) -> None:
        began = runtime.monotonic()
        said.append((bool(call()), runtime.monotonic() - began))

    def meanwhile() -> None:
        thread = threading.Thread(target=on_another)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert not released

    def on_another() -> None:
        nonlocal handles, queue
        queue = ReleaseQueue("owned", thread="current")
        at = queue if place == "queue" else place
        handles = [manager.register(Node(), "node", release=released.append, release_on=at) for _ in range(3)]
        timed(handles[0].close)
        timed(lambda: handles[1].close(timeout=0.3))
        timed(lambda: manager.register(Node(), "node", release_on=ANY_THREAD).close() and False)
        timed(handles[2].__exit__)

    with SafetyManager(QUIET) as manager:
        manager.register(Node(), "node", release_on=BACKGROUND).close()
        in_a_collection(meanwhile)
        assert [answer for answer, _ in said] == [False] * 4
        assert said[1][1] >= 0.3
        assert max(took for _, took in said) < runtime.COLLECTION_WAIT / 2
        if place != "queue":  # that one's owner has ended
            eventually(lambda: len(released) == 3)
            assert {handle.state for handle in handles} == {"released"}
        else:
            queue.lost("its thread has ended")


def test_who_waits_for_the_end_gets_it_as_soon_as_the_collection_is_over() -> None:
    manager = SafetyManager(QUIET)
    answers: list[bool] = []
    handles = [
        manager.register(Node(), "node", release=repr, release_on=place) for place in (ANY_THREAD, BACKGROUND)
    ]
    threads = [
        threading.Thread(target=lambda handle=handle: answers.append(handle.close(timeout=None)))
        for handle in handles
    ]

    def meanwhile() -> None:
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert not answers
        assert {handle.state for handle in handles} == {"due"}

    in_a_collection(meanwhile)
    for thread in threads:
        thread.join(30)
    assert answers == [True, True]
    assert manager.close().ok


# -- who collects --------------------------------------------------------------------------------------------


def garbage(action: Callable[[], object]) -> None:
    """Make a cycle whose ``__del__`` calls ``action()``."""

    class Dying:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            action()

    Dying()


def test_the_collecting_thread_knows_and_no_other_does() -> None:
    """Exact in each of many ``__del__``s, while other threads ask all the time, and on none of them."""
    wrong: deque[str] = deque()
    inside: deque[bool] = deque()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            if runtime.in_collector():
                wrong.append("another thread")

    def collect() -> None:
        for _ in range(50):
            garbage(lambda: inside.append(runtime.in_collector() and runtime.must_not_wait()))
            gc.collect()
            if runtime.in_collector():
                wrong.append("after the end")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    collectors = [threading.Thread(target=collect) for _ in range(2)]
    for thread in collectors:
        thread.start()
    for thread in collectors:
        thread.join()
    over.set()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert len(inside) == 100
    assert all(inside)
    assert not runtime.collecting


def test_callbacks_of_others_that_raise_confuse_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: printed.append(info.exc_type))
    told: list[bool] = []

    def raises(phase: str, info: dict[str, Any]) -> None:
        raise KeyError(phase)

    try:
        gc.callbacks.insert(0, raises)
        gc.callbacks.append(raises)
        in_a_collection(lambda: told.append(runtime.in_collector()))
    finally:
        gc.callbacks.remove(raises)
        gc.callbacks.remove(raises)
    assert told == [True]
    assert set(printed) == {KeyError}
    assert not runtime.collecting


def test_callbacks_that_were_taken_away_come_back() -> None:
    """In the midst of a collection too, which then leaves no mark behind."""
    before = list(gc.callbacks)
    told: list[bool] = []
    try:
        in_a_collection(gc.callbacks.clear)
        assert not runtime.in_collector()
        assert not runtime.collecting
        in_a_collection(lambda: told.append(runtime.in_collector()))
        assert told == [True]
        del gc.callbacks[:]
        with SafetyManager(QUIET) as manager:
            manager.register(Node(), "node").close()
            eventually(lambda: set(runtime._callbacks) <= set(gc.callbacks))
        in_a_collection(lambda: told.append(runtime.in_collector()))
        assert told == [True, True]
    finally:
        gc.callbacks[:] = before


def test_the_callbacks_run_no_python() -> None:
    """So no signal that is pending is delivered in them, to be printed and lost: see `test_ctrl_c.py`."""
    ran: list[str] = []
    gc.disable()
    try:
        sys.setprofile(
            lambda frame, event, arg: ran.append(frame.f_code.co_name) if event == "call" else None
        )
        info = {"generation": 0, "collected": 0, "uncollectable": 0}
        for callback in runtime._callbacks:
            callback("start", info)
        for callback in runtime._callbacks:
            callback("stop", info)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert not ran
    assert not runtime.collecting


# -- the collector at every line -----------------------------------------------------------------------------


def everyday(manager: SafetyManager, place: Any, released: deque[Any]) -> int:
    """A bit of everything; how many objects."""
    parent = manager.register(Node(), "parent", release=released.append, release_on=place)
    with manager.register(
        Node(), "node", release=released.append, release_on=place, parent=parent, native=1, size=8
    ) as handle:
        other = handle.share()
        with other.lease() as node, handle.lease():
            assert isinstance(node, Node)
        weak = other.weak()
        found = weak()
        assert found is not None
        found.close()
        assert manager.safe_access(handle.id, lambda node: 42) == 42
        manager.add_cleanup(handle, released.append, "cleanup")
        buffer = (ctypes.c_ubyte * 100)(7)
        view = handle.view(ctypes.addressof(buffer), 100)
        other.close()
    with pytest.raises(AccessRefusedError):
        handle.lease()
    assert view[0] == 7
    assert handle.state == "closing"
    del view
    parent.close()
    manager.register(Node(), "dropped", release=released.append, release_on=place)
    kept = manager.register(Node(), "kept", release=released.append, release_on=place, keep=True).id
    manager.invalidate(kept, "enough")
    manager.unregister(kept)
    return 5  # four objects and a cleanup


def the_collector_at_every_line(place: str) -> None:
    released: deque[Any] = deque()
    with SafetyManager(QUIET) as manager:
        expected = 0
        seen: list[tuple[int, int]] = []
        cycles = 0

        def litter() -> None:
            """Garbage with a view and a handle in it, and its collection, here and now."""
            nonlocal cycles
            cycles += 1
            handle, view = mapped(manager, ANY_THREAD)
            reader = Reader(views=[view], seen=seen, handle=handle)
            reader.itself = reader
            del handle, view, reader
            gc.collect(1)

        expected += everyday(manager, PLACES[place], released)
        gc.collect()
        gc.freeze()
        with every_line(gc.collect, threads=True, step=EVERY) as plain:
            expected += everyday(manager, PLACES[place], released)
            manager.stats()
        gc.collect()
        gc.freeze()
        with every_line(litter, step=EVERY) as littering:
            expected += everyday(manager, PLACES[place], released)
            manager.stats()
        assert min(plain.strikes, littering.strikes) * EVERY > 200
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        eventually(lambda: (gc.collect(), len(released))[1] == expected)
        assert len(seen) == cycles == littering.strikes
        all_unmapped_once(manager, cycles)


def other_calls_at_every_line(place: str) -> None:
    """At every line of our own code the library is called again: as a signal handler, a trace function or a
    ``__del__`` would."""
    released: deque[Any] = deque()
    others: deque[Any] = deque()
    calls: deque[int] = deque()
    with SafetyManager(QUIET) as manager:
        queue = ReleaseQueue("owned", thread="current")
        stock: list[Handle[Node]] = []

        def restock() -> None:
            for where in (ANY_THREAD, BACKGROUND, queue) * 40:
                stock.append(manager.register(Node(), "other", release=others.append, release_on=where))

        def strike() -> None:
            calls.append(1)
            what = len(calls) % 8
            if what == 0:
                manager.stats()
            elif what == 1:
                manager.register(Node(), "other", release=others.append, release_on=ANY_THREAD).close()
            elif what == 2:
                manager.register(Node(), "other", release=others.append, release_on=BACKGROUND).close()
            elif what == 3:
                queue.drain()
            elif what == 4 and stock:
                manager.invalidate(stock.pop(), "struck")
            elif stock:
                handle = stock.pop()
                handle.share().close()
                handle.close(timeout=0)

        restock()
        expected = everyday(manager, PLACES[place], released)
        for _ in range(2):
            with every_line(strike) as struck:
                expected += everyday(manager, PLACES[place], released)
                manager.stats()
                manager.objects()
                queue.drain()
            assert struck.strikes > 200
            restock()
        stock.clear()
        queue.drain()
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        eventually(lambda: len(released) == expected)
        stats = assert_nothing_left(manager)
        assert stats.types["other"].ended["released"] == len(others) == len(set(map(id, others)))


def the_same_object_at_every_line(place: str) -> None:
    """At every line somebody else closes, shares, invalidates or cleans the very object."""
    for action in ("close", "unregister", "invalidate", "cleanup", "weak", "lease", "refuse"):
        with SafetyManager(QUIET) as manager:
            released: deque[Any] = deque()
            handles: list[Handle[Node]] = []
            ran: deque[int] = deque()
            added: deque[int] = deque()

            def strike(action: str = action) -> None:
                if not handles:
                    return
                handle = handles[-1]
                try:
                    if action == "close":
                        handle.close()
                    elif action == "unregister":
                        manager.unregister(handle.id)
                    elif action == "invalidate":
                        manager.invalidate(handle, "struck")
                    elif action == "cleanup":
                        manager.add_cleanup(handle, ran.append, 1)
                        added.append(1)
                    elif action == "weak":
                        found = handle.weak()()
                        assert found is None or found.close() in (True, False)
                    elif action == "refuse":
                        handle.close(held="refuse")
                    else:
                        with handle.lease() as node:
                            assert isinstance(node, Node)
                except LifecycleError:
                    return

            def use(strike: Callable[[], None] = strike) -> None:
                handle = manager.register(Node(), "node", release=released.append, release_on=PLACES[place])
                handles.append(handle)
                with every_line(strike):
                    try:
                        with handle.lease():
                            pass
                        other = handle.share()
                        manager.add_cleanup(handle, ran.append, 1)
                        added.append(1)
                        manager.safe_access(handle.id, repr)
                        other.close()
                        handle.close(held="refuse")
                    except LifecycleError:
                        pass
                    manager.invalidate(handle.id, "done")
                    handle.close()

            for number in range(5):
                use()
                handles.clear()
                manager.register(Node(), "flush", release_on=ANY_THREAD).close()
                eventually(lambda number=number: len(released) == number + 1)  # type: ignore[misc]
            stats = assert_nothing_left(manager)
            assert stats.types["node"].registered == 5
            assert len(ran) == len(added), (
                f"{len(added)} cleanups were added and {len(ran)} ran, with {action}"
            )


LINES = [the_collector_at_every_line, other_calls_at_every_line, the_same_object_at_every_line]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scene", LINES, ids=lambda scene: str(scene.__name__))
def test_at_every_line(scene: Callable[[str], None], place: str) -> None:
    in_own_process(scene, place)


def statistics_of_a_closed_manager_at_every_line() -> None:
    """Once the keeper has gone, whoever asks counts: also when asked again in the middle of it."""
    manager = SafetyManager(QUIET)
    handle = manager.register(Node(), "node", release=repr, release_on=ANY_THREAD)
    manager.close()
    for _ in range(5):
        with pytest.raises(AccessRefusedError):
            handle.lease()
    with every_line(manager.stats, step=1 if STORM >= 10 else 5) as struck:
        stats = manager.stats()
    assert struck.strikes > 20
    assert stats.refused == 5
    assert manager.stats().total_objects == 1
    fresh = SafetyManager(QUIET)
    with every_line(fresh.stats, step=1 if STORM >= 10 else 5):
        assert fresh.stats().total_objects == 0
    fresh.close()


def test_statistics_of_a_closed_manager_at_every_line() -> None:
    in_own_process(statistics_of_a_closed_manager_at_every_line, timeout=90)


# -- nothing is left to collect ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_frame_like_life_leaves_nothing_to_collect(place: str) -> None:
    manager = SafetyManager(QUIET)
    buffer = (ctypes.c_ubyte * 5000)()
    address = ctypes.addressof(buffer)

    def life(size: int) -> None:
        with manager.register(
            Node(), "frame", release=len_of, release_on=PLACES[place], native=address + size, size=size
        ) as handle:
            with handle.lease():
                view = handle.view(address, size)
                part = view[10:20]
            other = handle.share()
            with manager.safe_access(other) as node:
                assert node is not None
            manager.safe_access(other, repr)
            other.close()
            weak = handle.weak()
            found = weak()
            assert found is not None
            found.close()
            assert part[0] == 0
        del view, part

    def len_of(node: Node) -> int:
        return len(node.__dict__)

    for size in (100, 1000, 5000):
        life(size)
    eventually(lambda: manager.stats().active_objects == 0)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        gc.collect()
        for size in range(100, 5000, 49):
            life(size)
        eventually(lambda: manager.stats().active_objects == 0)
        assert gc.collect() == 0
    finally:
        if was_enabled:
            gc.enable()
    manager.close()


# -- leases in what runs later -------------------------------------------------------------------------------


@pytest.fixture
def handle() -> Iterator[tuple[SafetyManager, Handle[NativeMemory], NativeMemory]]:
    with SafetyManager(QUIET) as manager:
        memory = NativeMemory()
        yield (
            manager,
            manager.register(memory, "memory", release=NativeMemory.unmap, release_on=ANY_THREAD),
            memory,
        )
        assert_nothing_left(manager)
        assert memory.unmapped == 1


def test_a_lease_in_a_generator_that_is_never_finished(
    handle: tuple[SafetyManager, Handle[NativeMemory], NativeMemory],
) -> None:
    manager, mine, memory = handle

    def read() -> Iterator[int]:
        with mine.lease() as leased:
            while True:
                yield leased.read()

    reading = read()
    assert next(reading) == 0x5A
    assert mine.close() is False
    assert next(reading) == 0x5A
    del reading, read
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    eventually(lambda: memory.unmapped == 1)


def test_a_lease_in_a_generator_in_a_cycle(
    handle: tuple[SafetyManager, Handle[NativeMemory], NativeMemory],
) -> None:
    manager, mine, memory = handle

    def read(holder: list[Any]) -> Iterator[int]:
        with mine.lease() as leased:
            try:
                yield leased.read()
            finally:
                assert leased.read() == 0x5A

    holder: list[Any] = []
    holder.append(read(holder))
    assert next(holder[0]) == 0x5A
    assert mine.close() is False
    del holder, read
    gc.collect()
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    eventually(lambda: memory.unmapped == 1)


def test_an_async_generator_finished_on_another_thread(
    handle: tuple[SafetyManager, Handle[NativeMemory], NativeMemory],
) -> None:
    manager, mine, memory = handle
    out: list[Any] = []

    async def read() -> AsyncIterator[int]:
        with mine.lease() as leased:
            try:
                yield leased.read()
                yield leased.read()
            finally:
                assert leased.read() == 0x5A

    async def begin() -> None:
        reading = read()
        assert await reading.__anext__() == 0x5A
        out.append(reading)

    def finish() -> None:
        async def close() -> None:
            reading = out.pop()
            assert await reading.__anext__() == 0x5A
            await reading.aclose()

        asyncio.run(close())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    assert mine.close() is False
    assert memory.unmapped == 0
    thread = threading.Thread(target=finish)
    thread.start()
    thread.join(10)
    loop.close()
    del read
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    eventually(lambda: (manager.stats(), memory.unmapped)[1] == 1)


def test_a_worker_thread_owns_the_lease_of_a_cancelled_task(
    handle: tuple[SafetyManager, Handle[NativeMemory], NativeMemory],
) -> None:
    manager, mine, memory = handle
    going, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def work() -> None:
        with mine.lease() as leased:
            going.set()
            go_on.wait(10)
            seen.append(leased.read())

    async def main() -> None:
        task = asyncio.create_task(asyncio.to_thread(work))
        while not going.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mine.close() is False
        assert memory.unmapped == 0
        go_on.set()

    asyncio.run(main())
    eventually(lambda: seen == [0x5A])
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    eventually(lambda: memory.unmapped == 1)


def test_a_kept_traceback_of_the_users_block_holds_no_more_than_the_block_did(
    handle: tuple[SafetyManager, Handle[NativeMemory], NativeMemory],
) -> None:
    manager, mine, memory = handle
    with pytest.raises(ZeroDivisionError) as caught:
        with mine.lease() as leased:
            view = mine.view(leased.address, leased.nbytes)
            del view
            raise ZeroDivisionError
    with pytest.raises(LifecycleError):
        manager.safe_access(mine, lambda leased: 1 // 0)
    assert memory.unmapped == 1
    assert caught.tb is not None
    assert sys.exc_info() == (None, None, None)
