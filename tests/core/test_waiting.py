"""`lifecycle._core.waiting`: no wake-up is lost, whatever the order, whatever strikes where, whoever gives up
(I5).

A lost wait comes back true when its timeout is over. So what these tests ask is when it came back.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.selector_events
import concurrent.futures
import ctypes
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import ends, exclusive, waiting_loops
from lifecycle._core.handle import Handle
from lifecycle._core.waiting import Flag, Inbox, Line, Reply, WaitList, WaitTable
from lifecycle.testing import code_of, interleavings
from tests.core.adversary import STORM, Signals, each_interrupt, every_line, in_own_process, switching
from tests.core.waits import GIL, LOST, NEVER, WAITING, State, joined, started, woken
from tests.support import eventually


@pytest.fixture(autouse=True)
def _blocked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interleavings a waiting thread gives its baton up at once."""
    monkeypatch.setattr(sys.modules[interleavings.__module__], "BLOCKED_AFTER", 0.002)


# -- every order ---------------------------------------------------------------------------------------------


def test_every_order_of_a_waiter_and_a_change() -> None:
    state, came = State(), list[Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal state
        state = State()
        came.clear()
        return [lambda: came.append(woken(state.wait)), state.change]

    runs = 0
    for run in interleavings(scene, of=code_of(*WAITING, State.change), switches=2, limit=int(150 * STORM)):
        runs += 1
        assert came == [True], run
        assert not state.waiters.here
    assert runs > 30


@pytest.mark.parametrize("patience", [1e-7, 0.001])
def test_every_order_of_a_waiter_a_change_and_one_that_gives_up(patience: float) -> None:
    state, came, gave_up = State(), list[Any](), list[Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal state
        state = State()
        came.clear()
        gave_up.clear()
        return [
            lambda: gave_up.append(state.waiters.wait(lambda: False, patience)),
            lambda: came.append(woken(state.wait)),
            state.change,
        ]

    for run in interleavings(scene, of=code_of(*WAITING, State.change), switches=2, limit=int(200 * STORM)):
        assert came == [True], run
        assert gave_up == [False], run


def test_every_order_at_a_table() -> None:
    """Who gives up takes out a list that another has just found in the table."""
    table, ended, came = WaitTable(), list[Any](), list[Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal table
        table = WaitTable()
        ended.clear()
        came.clear()
        return [
            lambda: table.wait(1, lambda: bool(ended), 0.0005),
            lambda: came.append(woken(table.wait, 1, lambda: bool(ended), NEVER)),
            lambda: (ended.append(1), table.end(1)),
        ]

    of = code_of(WaitTable.wait, WaitTable._list, WaitTable._leave, WaitTable.end)
    for run in interleavings(scene, of=of, switches=2, limit=int(400 * STORM)):
        assert came == [True], run
        assert not table, run


@pytest.mark.parametrize("wait", ["close", "aclose"])
def test_the_end_of_an_object_reaches_whoever_came_while_another_gave_up(wait: str) -> None:
    """The one who gives up does so between another's look into the table and its entry there, all the time."""
    from lifecycle.integrations.event_loops.asyncio import aclose

    manager = SafetyManager(SafetyConfig(leak_level="off"))
    came: list[float] = []

    def patient(handle: Handle[object]) -> None:
        if wait == "close":
            handle.close(timeout=NEVER)
        else:
            asyncio.run(aclose(handle, timeout=NEVER))
        came.append(time.monotonic())

    def switch_anywhere(*_: object) -> None:
        if random.random() < 0.3:
            time.sleep(0.0002)

    try:
        for _ in range(int(6 * STORM)):
            handles = [manager.register(object(), "thing", release=lambda _: None) for _ in range(4)]
            leases = [handle.lease() for handle in handles]
            came.clear()
            threading.setprofile(switch_anywhere)
            threads = [
                threading.Thread(target=target, args=args, daemon=True)
                for handle in handles
                for target, args in (
                    (lambda handle: handle.close(timeout=0.001), (handle,)),
                    (lambda handle: handle.close(timeout=0.002), (handle,)),
                    (patient, (handle,)),
                )
            ]
            for thread in threads:
                thread.start()
            threading.setprofile(None)  # type: ignore[arg-type]
            time.sleep(0.02)
            for lease in leases:
                lease.close()
            eventually(lambda: all(handle.state == "released" for handle in handles), timeout=LOST)
            joined(threads)
            assert len(came) == 4, "slept on through the release"
            assert not manager._registry.waiters
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
        manager.close()


# -- interrupts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [State.change, State.change_by_a_call])
def test_an_interrupt_at_each_point_of_the_change(change: Callable[[State], None]) -> None:
    state, came = State(), list[Any]()
    threads = state.others(2, came)

    def run() -> None:
        change(state)

    for struck in each_interrupt(run, of=code_of(*WAITING, change, State.count)):
        if not state.value:
            state.change()
        joined(threads)
        assert came == [True] * 2, struck.place
        state, came = State(), []
        threads = state.others(2, came)
    change(state)
    joined(threads)
    assert came == [True] * 2


@pytest.mark.skipif(not GIL, reason="a Python function there: threads look again in slices")
def test_to_wake_is_no_python_function() -> None:
    assert type(WaitList().wake) is partial
    assert type(Flag().set) is partial
    assert WaitList().wake.func is next  # type: ignore[attr-defined]


def test_an_interrupt_at_each_point_of_setting_a_flag() -> None:
    flag, came = Flag(), list[Any]()

    def fresh() -> list[threading.Thread]:
        nonlocal flag
        flag = Flag()
        came.clear()
        thread = started(lambda: came.append(woken(flag.wait, NEVER)))
        eventually(lambda: len(flag.waiters) == 1)
        return [thread]

    def run() -> None:
        flag.set()

    threads = fresh()
    for struck in each_interrupt(run, of=code_of(*WAITING, run)):
        if not flag:
            flag.set()
        joined(threads)
        assert came == [True], struck.place
        threads = fresh()
    flag.set()
    joined(threads)


def test_an_interrupt_at_each_point_of_a_waiter_that_others_stand_behind() -> None:
    state, came, threads = State(), list[Any](), list[Any]()
    over = threading.Event()

    def fresh() -> threading.Thread:
        nonlocal state, came, threads
        mine = state = State()
        answers = came = []
        row = threads = []
        over.clear()

        def behind() -> None:
            eventually(lambda: len(mine.waiters) >= 1 or over.is_set())
            time.sleep(0.003)
            row.extend(started(lambda: answers.append(woken(mine.wait))) for _ in range(3))
            time.sleep(0.006)
            mine.change()

        return started(behind)

    changer = fresh()
    for struck in each_interrupt(lambda: state.wait(), of=code_of(*WAITING)):
        over.set()
        changer.join(LOST)
        joined(threads)
        assert came == [True] * 3, struck.place
        eventually(lambda: not state.waiters.here)
        changer = fresh()
    over.set()
    changer.join(LOST)
    joined(threads)
    assert came == [True] * 3


def test_an_interrupt_at_each_point_of_a_table() -> None:
    """Struck in a wait, in leaving, or in the end: another who waits there is told, and nothing stays behind."""
    table, ended, came = WaitTable(), list[Any](), list[Any]()

    def fresh() -> threading.Thread:
        nonlocal table, ended, came
        mine, over, answers = table, ended, came = WaitTable(), list[Any](), list[Any]()
        thread = started(lambda: answers.append(woken(mine.wait, 1, lambda: bool(over), NEVER)))
        eventually(lambda: len(mine) == 1)
        return thread

    def run() -> None:
        table.wait(1, lambda: bool(ended), 0.001)
        ended.append(1)
        table.end(1)

    thread = fresh()
    for struck in each_interrupt(run, of=code_of(*WAITING)):
        if not ended:
            ended.append(1)
        # As `finish`: an end that was struck is taken up again.
        table.end(1)
        thread.join(LOST)
        assert came == [True], struck.place
        assert not table, struck.place
        thread = fresh()
    ended.append(1)
    table.end(1)
    thread.join(LOST)


@pytest.mark.skipif(
    not GIL, reason="CPython 3.13 without the GIL aborts when signals meet timed locks (cpython#148820)"
)
def test_a_storm_of_signals_in_the_change() -> None:
    """No slice saves anybody: one lost wake-up and a thread stands still."""
    state, over, seen = State(), list[Any](), [0] * 3

    def follow(me: int) -> None:
        while not over:
            state.waiters.wait(lambda: state.value > seen[me] or bool(over))
            seen[me] = state.value

    threads = [started(partial(follow, me)) for me in range(3)]
    rounds = 0
    until = time.monotonic() + 1.5 * STORM
    with Signals(5000, of=code_of(*WAITING, State.change)) as signals:
        while time.monotonic() < until:
            before = state.value
            signals.run(state.change)
            if state.value != before:
                rounds += 1
                eventually(lambda: all(one == state.value for one in seen), timeout=LOST)
    over.append(1)
    state.waiters.wake()
    joined(threads)
    assert rounds > 50
    assert signals.raised


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_exceptions_raised_into_threads_that_wait() -> None:
    """As a time limit does it: others at the same bell are woken all the same. (One that is struck outside
    its `try` ends.)"""
    state, over, seen = State(), list[Any](), [0] * 5

    def follow(me: int) -> None:
        while not over:
            try:
                while not over:
                    state.waiters.wait(lambda: state.value > seen[me] or bool(over))
                    seen[me] = state.value
            except ZeroDivisionError:
                continue

    threads = [started(partial(follow, me)) for me in range(5)]
    eventually(lambda: len(state.waiters) == 5)
    for _ in range(int(150 * STORM)):
        for thread in random.sample(threads[:3], 2):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(ZeroDivisionError)
            )
        state.change()
        eventually(lambda: seen[3] == seen[4] == state.value, timeout=LOST)
    over.append(1)
    for _ in range(3):
        state.waiters.wake()
        time.sleep(0.01)
    joined(threads)


def test_ready_that_raises_leaves_nothing_behind() -> None:
    for at in range(1, 5):
        state, came, calls = State(), [], []

        def ready() -> bool:
            calls.append(1)
            if len(calls) == at:
                raise ZeroDivisionError
            return False

        def fails() -> None:
            with pytest.raises(ZeroDivisionError):
                state.waiters.wait(ready, NEVER)
            came.append(True)

        first = started(fails)
        threads = [first, *state.others(2, came, value=6)] if at > 2 else [first]
        if at <= 2:
            first.join(LOST)
            threads += state.others(2, came, value=6)
        for _ in range(6):
            state.change()
            time.sleep(0.003)
        joined(threads)
        assert came == [True] * 3, at
        assert not state.waiters.here


# -- contexts ------------------------------------------------------------------------------------------------


def test_woken_from_the_collector_and_from_a_signal_handler() -> None:
    state, came = State(), list[Any]()
    threads = state.others(2, came)

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            state.change()

    Cycle()
    gc.collect()
    joined(threads)
    assert came == [True] * 2

    while_it_waits = State()
    nested: list[bool] = []

    def handler(*_: object) -> None:
        started(lambda: (time.sleep(0.02), while_it_waits.change()))
        nested.append(while_it_waits.wait())

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        assert woken(while_it_waits.wait) is True
        assert nested == [True]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_collector_at_every_line() -> None:
    state, came = State(), list[Any]()
    threads = state.others(2, came, value=2)
    with every_line(gc.collect, of=code_of(*WAITING, State.change)):
        assert state.waiters.wait(lambda: False, 0.02) is False
        state.change()
        state.change()
    joined(threads)
    assert came == [True] * 2


def test_timeouts_end_in_time_and_not_before() -> None:
    waiters = WaitList()
    for timeout in (0, -1, 1e-300, 0.001, 0.02):
        began = time.monotonic()
        assert waiters.wait(lambda: False, timeout) is False
        assert timeout <= time.monotonic() - began < LOST
    over: list[int] = []

    def keeps_waking() -> None:
        while not over:
            waiters.wake()
            time.sleep(0.0002)

    thread = started(keeps_waking)
    began = time.monotonic()
    assert waiters.wait(lambda: False, 0.05) is False
    assert 0.05 <= time.monotonic() - began < LOST
    over.append(1)
    thread.join(LOST)
    for without_end in (threading.TIMEOUT_MAX, 1e300, float("inf"), None):
        state, came = State(), []
        thread = started(lambda: came.append(woken(state.wait, without_end)))
        eventually(lambda: len(state.waiters) == 1)
        state.change()
        thread.join(LOST)
        assert came == [True]


def test_look_says_when_it_is_called_again() -> None:
    looks: list[int] = []

    def look() -> float | None:
        looks.append(1)
        return (0.02, None, float("inf"))[min(len(looks), 3) - 1]

    assert WaitList().wait(lambda: False, 0.3, look=look, every=0.01) is False
    assert len(looks) == 3
    looks.clear()
    assert woken(lambda: WaitList().wait(lambda: looks, NEVER, look=lambda: looks.append(1), every=0.01))


def test_many_waiters_are_one_bell_and_leave_nothing() -> None:
    state, came = State(), list[Any]()
    threads = state.others(200, came)
    assert len(state.waiters.hung) == 1
    state.change()
    joined(threads)
    assert came == [True] * 200
    eventually(lambda: not state.waiters.here)
    for _ in range(100):
        state.waiters.wait(lambda: False, 1e-9)
    assert len(state.waiters.hung) <= 1


def switches(thread: int) -> int:
    """How often the system has given a thread of this process a core."""
    with open(f"/proc/self/task/{thread}/status") as status:
        return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def idle_waiters_do_not_wake() -> None:
    """Nobody looks again in slices: of what a thread in a wait costs, nothing. Without the GIL five looks a
    second. Who may run tickets looks for those of the object's children, four times a second."""
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    handles = {
        place: manager.register(object(), "thing", release=lambda _: None, release_on=place)
        for place in (BACKGROUND, ANY_THREAD)
    }
    leases = [handle.lease() for handle in handles.values()]
    flag, line, reply, inbox, table = Flag(), Line(), Reply[int](), Inbox[int](), WaitTable()
    ids: dict[str, int] = {}
    waits: dict[str, Callable[[], object]] = {
        "flag": flag.wait,
        "list": lambda: flag.waiters.wait(lambda: flag.is_set, NEVER),
        "table": lambda: table.wait(1, lambda: flag.is_set),
        "first in line": lambda: line.wait(lambda: flag.is_set),
        "second in line": lambda: line.wait(lambda: flag.is_set),
        "reply": reply.get,
        "inbox": inbox.get,
        "token": manager.stopping.wait,
        "background": lambda: handles[BACKGROUND].close(timeout=NEVER),
        "any thread": lambda: handles[ANY_THREAD].close(timeout=NEVER),
    }

    def run(name: str) -> None:
        ids[name] = threading.get_native_id()
        waits[name]()

    threads = [started(partial(run, name)) for name in waits]
    eventually(lambda: len(ids) == len(waits))
    time.sleep(1.0)
    before = {name: switches(ids[name]) for name in waits}
    time.sleep(3.0)
    woken_up = {name: switches(ids[name]) - before[name] for name in waits}
    flag.set()
    line.wake()
    table.end(1)
    reply.offer(1)
    inbox.put(1)
    for lease in leases:
        lease.close()
    manager.close()
    joined(threads)
    assert not any(thread.is_alive() for thread in threads)
    looks = woken_up.pop("any thread")
    if GIL:
        # A look takes more than one on a loaded machine; a thousand a second it was.
        assert 0 < looks <= 300, looks
        assert all(times <= 1 for times in woken_up.values()), woken_up
    else:
        # Each look takes locks of the interpreter, which count as well.
        assert all(times <= 300 for times in woken_up.values()), woken_up


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system counts switches there")
def test_idle_waiters_do_not_wake() -> None:
    """In a process of its own: beside other threads each look costs switches, for the GIL."""
    in_own_process(idle_waiters_do_not_wake)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_thread_that_forks_in_a_signal_handler_while_it_waits() -> None:
    """In the child the object is the parent's, so it has ended: the wait in which the handler came comes back
    there too."""
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    handle = manager.register(object(), "thing", release=lambda _: None, release_on=BACKGROUND)
    lease = handle.lease()
    reading, writing = os.pipe()
    pids: list[int] = []
    parent = os.getpid()

    def handler(*_: object) -> None:
        pids.append(os.fork())
        if pids[0]:
            started(lambda: (time.sleep(0.05), lease.close()))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        began = time.monotonic()
        handle.close(timeout=NEVER)
        if os.getpid() != parent:
            os.write(writing, b"back" if time.monotonic() - began < LOST else b"late")
            os._exit(0)
        assert time.monotonic() - began < LOST
    finally:
        if os.getpid() != parent:
            os._exit(1)
        signal.signal(signal.SIGALRM, before)
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"back"
    os.waitpid(pids[0], 0)
    manager.close()


# -- coroutines ----------------------------------------------------------------------------------------------


def test_coroutines_that_are_cancelled_take_no_wake_up_along() -> None:
    async def main() -> None:
        for turn in range(60):
            state = State()
            tasks = [
                asyncio.ensure_future(state.waiters.wait_async(lambda: state.value, NEVER)) for _ in range(4)
            ]
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            if turn % 2:
                tasks[0].cancel()
            thread = started(state.change)
            if not turn % 2:
                tasks[0].cancel()
            began = time.monotonic()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - began < LOST
            assert answers[1:] == [1, 1, 1]
            assert not state.waiters.here
            thread.join(LOST)

    asyncio.run(main())


def test_coroutines_and_timeouts_and_looks() -> None:
    async def main() -> None:
        waiters = WaitList()
        for timeout in (0, -1, 1e-9, 0.02):
            began = time.monotonic()
            assert await waiters.wait_async(lambda: False, timeout) is False
            assert time.monotonic() - began < LOST
        looks: list[int] = []
        await asyncio.wait_for(
            waiters.wait_async(lambda: len(looks) > 2, None, look=lambda: looks.append(1), every=0.01), LOST
        )
        assert not waiters.here
        assert not waiters.loops

    asyncio.run(main())


@pytest.fixture
def loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = started(loop.run_forever)
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LOST)
    loop.close()


def test_an_interrupt_at_each_point_of_waking_a_coroutine(loop_elsewhere: asyncio.AbstractEventLoop) -> None:
    """In the code of asyncio as well. At most a slice late, never lost."""
    state = State()

    def fresh() -> Any:
        nonlocal state
        state = State()
        future = asyncio.run_coroutine_threadsafe(
            state.waiters.wait_async(lambda: state.value, NEVER), loop_elsewhere
        )
        eventually(lambda: bool(state.waiters.loops))
        time.sleep(0.001)
        return future

    future = fresh()
    of = code_of(*WAITING, State.change, asyncio.base_events, asyncio.selector_events)
    for struck in each_interrupt(lambda: state.change(), of=of):
        if not state.value:
            state.change()
        assert future.result(LOST) == 1, struck.place
        future = fresh()
    state.change()
    assert future.result(LOST)


@pytest.mark.skipif(not GIL, reason="there a loop's look makes up for more")
def test_an_interrupt_of_waking_a_coroutine_is_made_up_for_at_once(
    loop_elsewhere: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the loop's own look one point is left: the entry of the function that rings the loops."""
    monkeypatch.setattr(waiting_loops, "LOOP_SLICE", NEVER)
    state, lost = State(), list[str]()

    def fresh() -> Any:
        nonlocal state
        state = State()
        future = asyncio.run_coroutine_threadsafe(
            state.waiters.wait_async(lambda: state.value, NEVER), loop_elsewhere
        )
        eventually(lambda: bool(state.waiters.loops))
        time.sleep(0.001)
        return future

    future = fresh()
    of = code_of(*WAITING, State.change, asyncio.base_events, asyncio.selector_events)
    for struck in each_interrupt(lambda: state.change(), of=of):
        if not state.value:
            state.change()
        try:
            future.result(3.0)
        except concurrent.futures.TimeoutError:
            lost.append(struck.place)
            state.waiters.wake()
        if not future.done():
            assert future.result(LOST) == 1, struck.place
        future = fresh()
    state.change()
    assert future.result(LOST)
    assert len(lost) <= 1, lost
    assert all("ring_loops" in place for place in lost)


def test_a_closed_loop_is_forgotten() -> None:
    state, came = State(), list[Any]()
    loop = asyncio.new_event_loop()
    task = loop.create_task(state.waiters.wait_async(lambda: state.value))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    threads = state.others(2, came)
    state.change()
    joined(threads)
    assert came == [True] * 2
    task._log_destroy_pending = False
    del task, loop
    gc.collect()
    assert not state.waiters.here


# -- storms --------------------------------------------------------------------------------------------------


def test_a_storm_of_those_who_give_up_at_a_table() -> None:
    table = WaitTable()
    with switching(1e-6):
        for _ in range(int(25 * STORM)):
            ended: set[int] = set()
            came: list[int] = []

            def wait(key: int, timeout: float) -> None:
                if woken(table.wait, key, lambda: key in ended, timeout):
                    came.append(key)

            threads = [
                started(partial(wait, key, timeout)) for key in range(4) for timeout in (0.0005, 0.001, NEVER)
            ]
            time.sleep(0.003)
            for key in range(4):
                ended.add(key)
                table.end(key)
            joined(threads)
            assert set(came) == {0, 1, 2, 3}
            assert not table


def test_a_storm_of_threads_and_loops() -> None:
    state, over, seen = State(), list[Any](), {}

    async def follow(me: int) -> None:
        seen[me] = 0
        while not over:
            timeout = random.random() * 0.001 if random.random() < 0.3 else None
            await state.waiters.wait_async(lambda: state.value > seen[me] or over, timeout)
            seen[me] = state.value

    def follow_here(me: int) -> None:
        seen[me] = 0
        while not over:
            timeout = random.random() * 0.001 if random.random() < 0.3 else None
            state.waiters.wait(lambda: state.value > seen[me] or over, timeout)
            seen[me] = state.value

    threads = [started(partial(asyncio.run, follow(me))) for me in range(2)]
    threads += [started(partial(follow_here, me)) for me in range(2, 4)]
    eventually(lambda: len(seen) == 4)
    with switching(1e-5):
        for _ in range(int(100 * STORM)):
            state.change()
            eventually(lambda: all(one == state.value for one in list(seen.values())), timeout=LOST)
    over.append(1)
    for _ in range(3):
        state.waiters.wake()
        time.sleep(0.01)
    joined(threads)
    assert not any(thread.is_alive() for thread in threads)


# -- where it is used ----------------------------------------------------------------------------------------


def test_an_interrupt_of_the_release_leaves_nobody_asleep_who_waits_for_it() -> None:
    """Struck anywhere between the release and its announcement: whoever waits in another thread comes back."""
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    handle, came = manager.register(object(), "thing", release=None), list[Any]()
    handle.close()

    def fresh() -> list[threading.Thread]:
        nonlocal handle
        handle = manager.register(object(), "thing", release=lambda _: None, release_on=ANY_THREAD)
        lease = handle.lease()
        came.clear()
        waiting = handle.share()
        mine = handle
        mine.close(timeout=0)
        threads = [
            started(lambda: came.append(woken(lambda: waiting.close(timeout=NEVER)))) for _ in range(2)
        ]
        return [*threads, lease]  # type: ignore[list-item]

    def close_last() -> None:
        lease.close()
        handle.close(timeout=0)

    *threads, lease = fresh()
    for struck in each_interrupt(close_last, step=3):
        lease.close()
        joined(threads)
        assert len(came) == 2, struck.place
        *threads, lease = fresh()
    lease.close()
    joined(threads)
    manager.close()


def test_an_interrupt_of_closing_leaves_nobody_asleep_at_the_stop_token() -> None:
    """From the moment at which the manager is closed on."""
    for strike in range(1, 60, 2):
        manager = SafetyManager(SafetyConfig(leak_level="off"))
        came: list[bool] = []
        threads = [started(lambda: came.append(woken(manager.stopping.wait))) for _ in range(2)]
        eventually(lambda: len(manager.stopping._flag.waiters) == 2)
        passed = next(iter(each_interrupt(manager.close, first=strike, step=10_000)))
        if manager.closed:
            joined(threads)
            assert came == [True] * 2, passed.place
        manager.close()
        joined(threads)
        assert came == [True] * 2


@pytest.mark.skipif(not GIL, reason="there a waiting thread looks by itself")
def test_the_death_of_the_last_holder_wakes_who_waits_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the thread that waits may run the release: it is woken by a callback in C, and not by a
    look."""
    # No look ever comes, not even the first.
    monkeypatch.setattr(ends, "CIRCLE_LOOKS", (NEVER, NEVER))
    monkeypatch.setattr(ends, "LONGEST_LOOK", NEVER)
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    released: list[int] = []
    holders: list[Any] = []
    records: list[Any] = []

    def close_and_wait() -> None:
        queue = ReleaseQueue("its own", thread="current")
        handle = manager.register(
            object(),
            "thing",
            release=lambda _: released.append(threading.get_ident()),
            release_on=queue,
        )
        holders.append(handle.lease())
        handle.close(timeout=0)
        records.append(handle._record)
        del handle
        woken(ends.wait_for_end, records[0], None, NEVER)

    thread = started(close_and_wait)
    eventually(lambda: bool(records))
    waiters = records[0].kind.registry.waiters
    eventually(lambda: records[0].id in waiters and len(waiters[records[0].id]) == 1)
    # From standing in the list to sleeping.
    time.sleep(0.3)
    assert thread.is_alive()
    holders.clear()
    ident = thread.ident
    joined([thread])
    assert not thread.is_alive()
    assert released == [ident]
    manager.close()


def test_an_exclusive_use_that_ends_wakes_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and other exclusive uses, and no look is needed."""
    monkeypatch.setattr(exclusive, "FIRST_LOOK", NEVER)
    manager = SafetyManager(SafetyConfig(leak_level="off"))
    handle = manager.register(object(), "thing", release=lambda _: None, release_on=ANY_THREAD)
    came: list[str] = []

    def lease() -> None:
        with handle.lease(timeout=NEVER):
            came.append("lease")

    def use() -> None:
        with handle.exclusive(timeout=NEVER):
            came.append("exclusive")

    with handle.exclusive():
        threads = [started(lambda: woken(fn)) for fn in (lease, use, use)]
        eventually(lambda: len(handle._record.extra.turn_line) == 2)  # type: ignore[union-attr]
        eventually(lambda: len(handle._record.extra.turn_line.first) == 2)  # type: ignore[union-attr]
        time.sleep(0.02)
        assert not came
    joined(threads)
    assert sorted(came) == ["exclusive", "exclusive", "lease"]
    handle.close()
    manager.close()
