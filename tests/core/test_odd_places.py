"""Every public call works where nobody expects to be: with no Python frame below it, in a profile or trace
function, in a signal handler, in collector context, at the recursion limit.

The first part is a table: what is called, and where. Each operation is made by C alone in the places that
have no Python frame.
"""

from __future__ import annotations

import _thread
import ctypes
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, starmap
from types import SimpleNamespace
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    CleanupGuard,
    CleanupStack,
    ReleaseQueue,
    SafetyManager,
    SharedCleanupGuard,
    Timeline,
)
from lifecycle._core import ends, runtime
from lifecycle.distribution.distributor import FrameDistributor
from lifecycle.memory.config import MemoryConfig
from lifecycle.memory.manager import MemoryManager
from lifecycle.observe import lost
from lifecycle.pools.buffers import BufferPool
from lifecycle.pools.objects import ObjectPool
from tests.support import eventually

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.unwatched]


class Native:
    """Stands for a native object."""


def _handle(manager: SafetyManager, **facts: Any) -> Any:
    facts.setdefault("release", gc.is_tracked)
    return manager.register(Native(), "native", release_on=ANY_THREAD, **facts)


# -- what is called: made with a manager, called without arguments -------------------------------------------

Operation = Callable[[SafetyManager], Callable[[], Any]]


def _release_after(manager: SafetyManager) -> Callable[[], Any]:
    class Fence:
        def signalled(self) -> bool:
            return True

    return partial(_handle(manager).release_after, Fence())


def _queued(manager: SafetyManager) -> Callable[[], Any]:
    queue = ReleaseQueue("odd")
    manager.register(Native(), "native", release=gc.is_tracked, release_on=queue).close()
    return queue.drain


def _stack(manager: SafetyManager) -> Callable[[], Any]:
    stack = CleanupStack()
    stack.callback(int)
    return stack.close


def _memory(manager: SafetyManager) -> Callable[[], Any]:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=1000))
    return partial(memory.reserve, 10)


def _frames() -> FrameDistributor[bytes]:
    return FrameDistributor(4)


OPERATIONS: dict[str, Operation] = {
    "close": lambda m: _handle(m).close,
    "close, posted": lambda m: partial(m.register(Native(), "t", release=gc.is_tracked).close, timeout=0),
    "close, refusing holders": lambda m: partial(_handle(m).close, held="refuse"),
    "end of a with block": lambda m: partial(_handle(m).__exit__, None, None, None),
    "begin of a with block": lambda m: _handle(m).__enter__,
    "detach": lambda m: _handle(m).detach,
    "lease": lambda m: _handle(m).lease,
    "exclusive": lambda m: _handle(m).exclusive().__enter__,
    "view": lambda m: partial(_handle(m).view, 4096, 0),
    "share": lambda m: _handle(m).share,
    "weak": lambda m: _handle(m).weak(),
    "holders": lambda m: _handle(m).holders,
    "expect_holders": lambda m: _handle(m).expect_holders,
    "release_after": _release_after,
    "repr": lambda m: _handle(m).__repr__,
    "register": lambda m: partial(m.register, Native(), "t", release=gc.is_tracked, release_on=ANY_THREAD),
    "registrar": lambda m: partial(m.registrar("t", release=gc.is_tracked, release_on=ANY_THREAD), Native()),
    "factory": lambda m: m.factory(Native, "t", release=gc.is_tracked, release_on=ANY_THREAD),
    "observe": lambda m: partial(m.observe, m, "t"),
    "safe_access": lambda m: partial(m.safe_access, _handle(m), id),
    "is_valid": lambda m: partial(m.is_valid, _handle(m)),
    "invalidate": lambda m: partial(m.invalidate, _handle(m), "odd"),
    "unregister": lambda m: partial(m.unregister, _handle(m)),
    "add_cleanup": lambda m: partial(m.add_cleanup, _handle(m), int),
    "set_safe_finalizer": lambda m: partial(m.set_safe_finalizer, m, int),
    "policy": lambda m: partial(m.policy, "t", max_live=5),
    "stats": lambda m: m.stats,
    "objects": lambda m: m.objects,
    "health": lambda m: m.health,
    "manager.close": lambda m: m.close,
    "drain": _queued,
    "lost": lambda m: partial(ReleaseQueue("odd").lost, "gone"),
    "CleanupGuard": lambda m: partial(CleanupGuard, int),
    "CleanupStack": lambda m: CleanupStack,
    "CleanupStack.close": _stack,
    "SharedCleanupGuard": lambda m: partial(SharedCleanupGuard, int),
    "ObjectPool.get": lambda m: ObjectPool(m, Native, size=2).get,
    "BufferPool.get": lambda m: BufferPool(m, 4096, count=2).get,
    "reserve": _memory,
    "publish": lambda m: partial(_frames().publish, b""),
    "subscribe": lambda m: _frames().subscribe,
}


# -- where ---------------------------------------------------------------------------------------------------


class Told:
    """What came of a call: a list of its results, and of what could only be printed."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.unraisable: list[str] = []

    def in_c(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """`call` with its result noted, without a Python frame of its own."""
        return partial(self.results.extend, starmap(call, [()]))


def on_a_bare_thread(call: Callable[[], Any], told: Told) -> None:
    _thread.start_new_thread(told.in_c(call), ())
    eventually(lambda: told.results or told.unraisable)


def on_a_foreign_thread(call: Callable[[], Any], told: Told) -> None:
    libc = ctypes.CDLL(None)
    callback = ctypes.CFUNCTYPE(None)(told.in_c(call))
    thread = ctypes.c_ulong()
    pointers = [ctypes.c_void_p] * 4
    libc.pthread_create.argtypes = pointers
    libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(callback, ctypes.c_void_p), None)
    libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    libc.pthread_join(thread, None)


def at_the_death_of_an_object(call: Callable[[], Any], told: Told) -> None:
    native = Native()
    weakref.finalize(native, told.in_c(call))
    del native


def in_a_signal_handler(call: Callable[[], Any], told: Told) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: told.in_c(call)())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        eventually(lambda: told.results)
    finally:
        signal.signal(signal.SIGUSR1, before)


def in_a_collection(call: Callable[[], Any], told: Told) -> None:
    class Cycle:
        def __del__(self) -> None:
            told.in_c(call)()

    cycle: Any = Cycle()
    cycle.me = cycle
    del cycle

    def collected() -> bool:
        gc.collect()  # without the GIL it does nothing while another thread collects
        return bool(told.results or told.unraisable)

    eventually(collected)


def in_a_profile_function(call: Callable[[], Any], told: Told) -> None:
    def profile(*_: Any) -> None:
        sys.setprofile(None)
        told.in_c(call)()

    sys.setprofile(profile)
    len(())
    sys.setprofile(None)


def under_a_profile_function(call: Callable[[], Any], told: Told) -> None:
    sys.setprofile(lambda *_: None)
    try:
        told.in_c(call)()
    finally:
        sys.setprofile(None)


def under_a_trace_function(call: Callable[[], Any], told: Told) -> None:
    before = sys.gettrace()

    def trace(*_: Any) -> Any:
        return trace

    sys.settrace(trace)
    try:
        told.in_c(call)()
    finally:
        sys.settrace(before)


def under_a_low_limit(call: Callable[[], Any], told: Told) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth() + 100)
    try:
        told.in_c(call)()
    finally:
        sys.setrecursionlimit(before)


def depth() -> int:
    frame, number = sys._getframe(), 0
    while frame is not None:
        frame, number = frame.f_back, number + 1  # type: ignore[assignment]
    return number


PLACES = [
    on_a_bare_thread,
    on_a_foreign_thread,
    at_the_death_of_an_object,
    in_a_signal_handler,
    in_a_collection,
    in_a_profile_function,
    under_a_profile_function,
    under_a_trace_function,
    under_a_low_limit,
]

# Counts of references do not tell who holds an object there: on 3.10 a profile or trace function adds one.
BY_COUNTS = ("detach", "close, refusing holders", "exclusive", "expect_holders")
NOT_THERE = {
    (name, place)
    for name in BY_COUNTS
    for place in ("under_a_profile_function", "under_a_trace_function")
    if sys.version_info < (3, 11)
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(sys, "unraisablehook", lambda info: told.unraisable.append(repr(info.exc_value)))
    return told


def test_a_thread_that_python_did_not_start_has_released_when_its_close_is_over() -> None:
    """While the one that made the object sleeps in C, and runs no Python: without the GIL the object waited
    for it to die."""
    released: list[str] = []
    seen: list[list[str]] = []
    with SafetyManager() as manager:
        handle = manager.register("thing", release=released.append, release_on=ANY_THREAD)

        def close() -> None:
            handle.close()
            seen.append(released.copy())

        on_a_foreign_thread(close, Told())
    assert seen == [["thing"]]


@pytest.mark.skipif(not runtime.free_threaded, reason="with the GIL nobody waits for the maker of an object")
@pytest.mark.parametrize("holder", ["lease", "lease elsewhere", "child", "submission"])
def test_a_close_does_not_wait_for_the_death_of_what_somebody_holds(
    holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One holder looks, by the count of references, like one that has let go on another thread."""
    assert ends.MARKS, "this Python lays objects out otherwise: see what stands beside MARKS"
    waited: list[Any] = []
    monkeypatch.setattr(ends, "poll", lambda *args, **more: waited.append(args))
    with SafetyManager() as manager:
        released: list[str] = []
        handle = manager.register("thing", release=released.append, release_on=ANY_THREAD)
        done = threading.Event()
        if holder == "lease":
            let_go: Callable[[], object] = handle.lease().close
        elif holder == "lease elsewhere":
            taken = threading.Event()

            def use() -> None:
                with handle.lease():
                    taken.set()
                    done.wait(30)

            thread = threading.Thread(target=use)
            thread.start()
            assert taken.wait(30)
            let_go = done.set
        elif holder == "child":
            child = manager.register("child", release=released.append, release_on=ANY_THREAD, parent=handle)
            let_go = child.close
        else:
            timeline = Timeline("device", fence=lambda: SimpleNamespace(signalled=done.is_set))
            with timeline.submission() as work:
                work.use(handle)
            let_go = lambda: (done.set(), timeline.poll())  # noqa: E731
        assert handle.close() is False
        assert waited == []
        let_go()
        eventually(lambda: "thing" in released)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_call_works_there(name: str, place: Callable[..., None], told: Told) -> None:
    if (name, place.__name__) in NOT_THERE:
        pytest.skip("counts of references do not tell there who holds an object, see above")
    with SafetyManager() as manager:
        call = OPERATIONS[name](manager)
        try:
            place(call, told)
        finally:
            del call
        assert told.unraisable == []
        assert len(told.results) == 1
        told.results.clear()


# -- the recursion limit -------------------------------------------------------------------------------------

NEAR = 60
"""Depths before the limit at which everything is tried."""


def in_python(depth: int, act: Callable[[], object]) -> None:
    """Call `act` so many Python frames further down."""
    if depth:
        return in_python(depth - 1, act)
    act()
    return None


def through_c(depth: int, act: Callable[[], object]) -> None:
    """Call `act` so many levels further down, each a Python function that C calls: counted apart from 3.12
    on."""
    if depth:
        list(map(partial(through_c, act=act), (depth - 1,)))
    else:
        act()


Descent = Callable[[int, Callable[[], object]], None]


def deepest(descend: Descent) -> int:
    """The first depth that is too deep."""
    depth = 50
    while True:
        try:
            descend(depth, [].clear)
        except RecursionError:
            return depth
        depth += 1


@pytest.fixture(params=[in_python, through_c], ids=lambda descend: descend.__name__)
def descend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Descent]:
    # pytest's own hook needs depth too. A low limit spares the C stack.
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth() + 400)
    yield request.param
    sys.setrecursionlimit(before)


def at_every_depth(descend: Descent, act: Callable[[], object]) -> int:
    """Call `act` at each of the last depths before the limit; how often that, or getting there, raised
    `RecursionError`."""
    bottom = deepest(descend)
    raised = 0
    for near in range(NEAR, -1, -1):
        try:
            descend(bottom - near, act)
        except RecursionError:
            raised += 1
    return raised


def test_what_is_dropped_at_the_limit_is_released(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    released: list[object] = []
    with SafetyManager() as manager, manager.register(Native(), "parent", release=released.append) as parent:
        held: list[Any] = []
        bottom = deepest(descend)
        number = 0
        for near in range(NEAR, -1, -1):
            for place in (ANY_THREAD, BACKGROUND):
                held.append(manager.register(Native(), "t", release=released.append, release_on=place))
                held.append(
                    manager.register(Native(), "t", release=released.append, release_on=place, parent=parent)
                )
                leased = manager.register(Native(), "t", release=released.append, release_on=place)
                held.append(leased.lease())
                leased.close()
                watched = Native()
                manager.set_safe_finalizer(watched, released.append, near)
                held.append(watched)
                del leased, watched
                number += 4
            try:
                descend(bottom - near, held.clear)
            except RecursionError:
                held.clear()
        eventually(lambda: len(released) == number)
        eventually(lambda: manager.stats().active_objects == 1)
        assert manager.stats().failed == 0


@pytest.mark.parametrize("kind", ["guard", "shared", "stack"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_action_of_a_guard_that_is_dropped_at_the_limit_runs(
    descend: Descent, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All but those whose ``__del__`` CPython cannot call."""
    ran: list[int] = []

    def made(number: int) -> object:
        action = partial(ran.append, number)
        if kind == "guard":
            return CleanupGuard(action)
        if kind == "shared":
            return SharedCleanupGuard(action)
        stack = CleanupStack()
        stack.callback(action)
        return stack

    bottom = deepest(descend)
    held: list[object] = []
    for near in range(NEAR, -1, -1):
        held.append(made(near))
        try:
            descend(bottom - near, held.clear)
        except RecursionError:
            held.clear()
    made(NEAR + 1)  # whoever makes the next one runs what could not even be handed to a thread
    eventually(lambda: len(ran) > NEAR - 2)
    assert len(set(ran)) == len(ran)
    assert set(range(4, NEAR + 1)) <= set(ran)
    capfd.readouterr()


def test_an_observed_object_that_dies_at_the_limit_has_ended(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    with SafetyManager() as manager:
        held: list[Any] = []
        handles = []
        bottom = deepest(descend)
        for near in range(20, -1, -1):
            native = Native()
            held.append(native)
            handles.append(manager.observe(native, "t"))
            del native
            try:
                descend(bottom - near, held.clear)
            except RecursionError:
                held.clear()
        eventually(lambda: manager.stats().active_objects == 0)


def note(log: list[object], native: object) -> None:
    log.append(native)


def test_no_release_fails_for_the_depth_it_was_closed_at(descend: Descent) -> None:
    released: list[object] = []

    def release(native: object, levels: int = 8) -> None:
        """Needs more levels than a close does by itself."""
        if levels:
            release(native, levels - 1)
        else:
            note(released, native)

    queue = ReleaseQueue("deep", thread="current")
    with SafetyManager() as manager:
        handles = []
        for place, call in (
            (ANY_THREAD, release),
            (ANY_THREAD, released.append),
            (queue, release),
            (queue, released.append),
            (BACKGROUND, release),
        ):
            here = [manager.register(Native(), "t", release=call, release_on=place) for _ in range(NEAR + 1)]
            left = iter(here)
            at_every_depth(descend, lambda left=left: next(left).close(timeout=0))  # type: ignore[misc]
            handles += here
        for handle in handles:
            handle.close(timeout=5)
        assert {str(handle.state) for handle in handles} == {"released"}
        assert len(released) == len(handles)


def test_no_cleanup_fails_for_the_depth_it_was_closed_at(descend: Descent) -> None:
    log: list[object] = []

    def release(native: object) -> None:
        note(log, native)

    with SafetyManager() as manager:
        handles = [
            manager.register(Native(), "t", release=release, release_on=ANY_THREAD) for _ in range(NEAR + 1)
        ]
        for handle in handles:
            manager.add_cleanup(handle, note, log, "cleanup")
        left = iter(handles)
        at_every_depth(descend, lambda: next(left).close())
        for handle in handles:
            handle.close(timeout=5)
        assert {str(handle.state) for handle in handles} == {"released"}
        assert log.count("cleanup") == len(handles)
        assert manager.stats().finalizer_failures == 0


def test_a_drain_at_the_limit_begins_nothing(descend: Descent) -> None:
    released: list[object] = []

    def release(native: object) -> None:
        note(released, native)

    queue = ReleaseQueue("deep")
    with SafetyManager() as manager:
        handles = [
            manager.register(Native(), "t", release=release, release_on=queue) for _ in range(NEAR + 1)
        ]
        for handle in handles:
            handle.close()
        raised = at_every_depth(descend, lambda: queue.drain(1))
        assert raised > 0
        assert len(released) == NEAR + 1 - raised
        assert queue.drain() == raised
        assert {str(handle.state) for handle in handles} == {"released"}


def test_what_a_factory_made_at_the_limit_is_released(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    left = [Native() for _ in range(4 * (NEAR + 1))]
    names = set(map(id, left))
    all_of_them = len(left)
    released: list[Native] = []

    def make() -> Native:
        return left.pop()

    def release(native: Native) -> None:
        released.append(native)

    with SafetyManager() as manager:
        for place in (ANY_THREAD, BACKGROUND):
            for how in (make, left.pop):  # C needs less depth to make one than there is to register it
                at_every_depth(descend, manager.factory(how, "t", release=release, release_on=place))
        assert all_of_them - len(left) > 2 * NEAR
        eventually(lambda: len(released) + len(left) == all_of_them)
        assert set(map(id, released)) | set(map(id, left)) == names


def test_what_is_put_behind_a_proxy_at_the_limit_is_released(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    class Part(Native):
        pass

    class Device(Native):
        def part(self) -> Native:
            return left.pop()

    left: list[Native] = [Part() for _ in range(6 * (NEAR + 1))]
    all_of_them = len(left)
    names = set(map(id, left))
    released: list[Native] = []

    def make() -> Native:
        return left.pop()

    def release(native: Any) -> None:
        if type(native) is Part:
            released.append(native)

    with SafetyManager() as manager:
        for place in (ANY_THREAD, BACKGROUND):
            for how in (make, left.pop):
                at_every_depth(descend, manager.proxy_factory(how, release=release, release_on=place))
            device: Any = manager.proxy(Device(), release=release, release_on=place, children={Part: release})
            at_every_depth(descend, device.part)
            del device
        assert all_of_them - len(left) > 2 * NEAR
        eventually(lambda: len(released) + len(left) == all_of_them)
    assert set(map(id, released)) | set(map(id, left)) == names


def test_what_is_given_to_a_proxy_at_the_limit_is_released(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    released: list[Native] = []
    begun = 0

    def guard() -> None:
        nonlocal begun
        native = Native()
        begun += 1
        manager.proxy(native, release=released.append)

    with SafetyManager() as manager:
        manager.register([], "list", release=list.clear).close()
        at_every_depth(descend, guard)
        eventually(lambda: len(released) >= begun - 2)  # the call itself was not possible
    assert len(set(map(id, released))) == len(released)


def test_a_registration_at_the_limit_leaves_nothing_behind(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    released: list[object] = []
    with SafetyManager() as manager:
        plain = manager.registrar("t", release=released.append, release_on=ANY_THREAD)
        numbers = count()

        def known() -> None:
            manager.register(
                Native(), "t", release=released.append, release_on=ANY_THREAD, native=next(numbers)
            )

        at_every_depth(descend, lambda: plain(Native(), None, 0))
        at_every_depth(descend, known)
        eventually(lambda: manager.stats().active_objects == 0)
        assert len(released) == len(set(map(id, released))) == manager.stats().total_objects


def test_an_access_at_the_limit_poisons_what_it_has_begun_only(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    begun: list[object] = []

    def use(native: object) -> None:
        begun[0:0] = [native]
        note(begun, native)

    bottom = deepest(descend)
    with SafetyManager() as manager:
        for near in range(20, -1, -1):
            begun.clear()
            handle = manager.register(Native(), "t", release=gc.is_tracked, release_on=ANY_THREAD)
            raised: BaseException | None = None
            try:
                descend(bottom - near, partial(manager.safe_access, handle, use))
            except (RecursionError, AccessPanicError) as error:
                raised = error
            if raised is not None and begun:
                eventually(lambda handle=handle: not handle.valid)  # type: ignore[misc]
            else:
                assert handle.valid
            handle.close()
            raised = None
        figures = manager.stats()
        assert figures.panics == figures.types["t"].closed["panic"]


def test_nothing_is_detached_by_half_at_the_limit(descend: Descent) -> None:
    with SafetyManager() as manager:
        natives: list[object] = []
        handles = [manager.register(Native(), "t", release=natives.append) for _ in range(NEAR + 1)]
        left = iter(handles)
        raised = at_every_depth(descend, lambda: natives.append(next(left).detach()))
        assert raised > 0
        assert len(natives) == NEAR + 1 - raised
        assert sum(handle.valid for handle in handles) == raised


def test_a_manager_is_not_closed_by_half_at_the_limit(descend: Descent) -> None:
    released: list[object] = []
    bottom = deepest(descend)
    for near in (0, 2, 4, 6):
        with SafetyManager() as manager:
            handle = manager.register(Native(), "t", release=released.append)
            with pytest.raises(RecursionError):
                descend(bottom - near, manager.close)
            assert handle.valid
            assert not manager.closed
    assert len(released) == 4


def test_a_pool_keeps_its_slots_at_the_limit(descend: Descent) -> None:
    with SafetyManager() as manager:
        pool = ObjectPool(manager, Native, size=2, timeout=5)
        at_every_depth(descend, lambda: pool.get().close())
        first, second = pool.get(), pool.get()
        assert first.valid
        assert second.valid
        first.close()
        second.close()


def test_a_receiver_dropped_at_the_limit_leaves(descend: Descent, capfd: pytest.CaptureFixture[str]) -> None:
    frames: FrameDistributor[bytes] = FrameDistributor(2)
    held: list[object] = []
    bottom = deepest(descend)
    for near in range(20, -1, -1):
        held.append(frames.subscribe(policy="block"))
        try:
            descend(bottom - near, held.clear)
        except RecursionError:
            held.clear()
    for _ in range(4):
        frames.publish(b"")
    assert frames.receivers == 0


def test_a_reservation_dropped_at_the_limit_makes_room(
    descend: Descent, capfd: pytest.CaptureFixture[str]
) -> None:
    with SafetyManager() as manager:
        memory = MemoryManager(manager, MemoryConfig(max_bytes=100, collect=False))
        held: list[object] = []
        bottom = deepest(descend)
        for near in range(20, -1, -1):
            held.append(memory.reserve(100))
            try:
                descend(bottom - near, held.clear)
            except RecursionError:
                held.clear()
        memory.reserve(100).release()


# -- what nobody was told of, on every interpreter: callbacks that fail --------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
@pytest.mark.parametrize("lost", ["unroot", "tell_drop", "put"])
def test_a_death_that_was_not_told_is_found(
    lost: str, place: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[object] = []
    with SafetyManager() as manager:
        registry = manager._registry
        target = registry if lost != "put" else manager._machinery.place_of(place)
        with monkeypatch.context() as patch:
            # `len` of a weak reference raises, as any C function does at the recursion limit.
            patch.setattr(target, lost, len)
            handle = manager.register(Native(), "t", release=released.append, release_on=place)
        held = handle.lease()
        del handle
        if lost == "tell_drop":
            eventually(lambda: manager.stats().types["t"].states["closing"] == 1)
            assert manager.stats().types["t"].leaks == 1
        del held
        eventually(lambda: released)
        eventually(lambda: manager.stats().active_objects == 0)
        assert len(told.unraisable) == 1


def test_a_death_that_was_not_told_is_found_when_the_manager_closes(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost, "ROUND", 1000.0)
    released: list[object] = []
    with SafetyManager() as manager:
        manager.register(Native(), "t", release=released.append).close()
        eventually(lambda: released)
        registry = manager._registry
        with monkeypatch.context() as patch:
            patch.setattr(registry, "unroot", len)
            handle = manager.register(Native(), "t", release=released.append)
        del handle
        report = manager.close()
    assert len(released) == 2
    assert report.ok


def test_what_waits_for_a_drain_is_not_posted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "ROUND", 0.01)
    queue = ReleaseQueue("slow")
    with SafetyManager() as manager:
        for _ in range(5):
            manager.register(Native(), "t", release=gc.is_tracked, release_on=queue).close()
        time.sleep(0.7)
        assert queue.backlog == 5
        assert queue.drain() == 5


def test_looking_for_the_lost_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "ROUND", 0.0)
    with SafetyManager() as manager:
        handles = [
            manager.register(Native(), "t", release=gc.is_tracked, release_on=ANY_THREAD) for _ in range(200)
        ]
        looks = manager._maintenance.lost
        stop = threading.Event()

        def keep_looking() -> None:
            while not stop.is_set():
                looks.look_at_all()

        thread = threading.Thread(target=keep_looking)
        thread.start()
        try:
            for handle in handles:
                handle.detach(timeout=0)
        finally:
            stop.set()
            thread.join()
