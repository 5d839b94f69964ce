"""`lifecycle._core.waiting`: turns, answers, inboxes and polls lose nothing either, in any order and whatever
strikes where (I5).

A lost wait comes back true when its timeout is over. So what these tests ask is when it came back.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

import pytest

from lifecycle import never_wait
from lifecycle._core import waiting_loops
from lifecycle._core.waiting import Flag, Inbox, Line, Reply, WaitList, WaitTable, poll
from lifecycle.testing import code_of, interleavings
from tests.core.adversary import STORM, each_interrupt, switching
from tests.core.waits import GIL, LOST, NEVER, WAITING, State, joined, started, woken
from tests.support import eventually


@pytest.fixture(autouse=True)
def _blocked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interleavings a waiting thread gives its baton up at once."""
    monkeypatch.setattr(sys.modules[interleavings.__module__], "BLOCKED_AFTER", 0.002)


def taken_from(room: list[Any]) -> Any:
    try:
        return room.pop()
    except IndexError:
        return None


# -- turns ---------------------------------------------------------------------------------------------------


def test_every_order_of_two_who_wait_their_turn() -> None:
    line, room, came = Line(), list[Any](), list[Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal line, room, came
        line, room, came = Line(), [], []
        mine, row = line, room

        def give() -> None:
            for _ in range(2):
                row.append(True)
                mine.wake()

        def wait() -> None:
            came.append(woken(mine.wait, partial(taken_from, row), NEVER))

        return [wait, wait, give]

    for run in interleavings(scene, of=code_of(*WAITING), switches=2, limit=int(120 * STORM)):
        assert came == [True, True], run
        assert not len(line), run


def test_every_order_of_a_turn_and_one_that_gives_up() -> None:
    line, room, came = Line(), list[Any](), list[Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal line, room, came
        line, room, came = Line(), [], []
        mine, row, answers = line, room, came

        def give() -> None:
            for _ in range(2):
                row.append(True)
                mine.wake()
                time.sleep(0.002)

        def patient() -> None:
            answers.append(woken(mine.wait, partial(taken_from, row), NEVER))

        return [lambda: mine.wait(partial(taken_from, row), 0.001), patient, give]

    for run in interleavings(scene, of=code_of(*WAITING), switches=2, limit=int(120 * STORM)):
        assert came == [True], run
        assert not len(line), run


def test_an_interrupt_at_each_point_of_a_turn_that_others_stand_behind() -> None:
    line, room, came, threads = Line(), list[Any](), list[Any](), list[Any]()
    over = threading.Event()

    def fresh() -> threading.Thread:
        nonlocal line, room, came, threads
        mine, row, answers, behind = line, room, came, threads = Line(), list[Any](), list[Any](), list[Any]()
        over.clear()

        def give() -> None:
            eventually(lambda: len(mine) >= 1 or over.is_set())
            time.sleep(0.002)
            for _ in range(2):
                behind.append(
                    started(lambda: answers.append(woken(mine.wait, partial(taken_from, row), NEVER)))
                )
            time.sleep(0.004)
            for _ in range(3):
                row.append(True)
                mine.wake()
                time.sleep(0.001)

        return started(give)

    giver = fresh()
    for struck in each_interrupt(lambda: line.wait(partial(taken_from, room), NEVER), of=code_of(*WAITING)):
        over.set()
        giver.join(LOST)
        joined(threads)
        assert came == [True] * 2, struck.place
        assert not len(line), struck.place
        giver = fresh()
    over.set()
    giver.join(LOST)
    joined(threads)
    assert came == [True] * 2


def test_nobody_is_passed_by() -> None:
    """Those who came first have their turns first, also when all could go on."""
    line, order = Line(), list[int]()
    opened: list[bool] = []
    threads = []
    for number in range(6):
        threads.append(
            started(
                partial(
                    lambda me: line.wait(lambda: bool(opened) and (order.append(me) or True), NEVER), number
                )
            )
        )
        eventually(lambda count=number + 1: len(line) == count)  # type: ignore[misc]
    time.sleep(0.01)
    opened.append(True)
    line.wake()
    joined(threads)
    assert order == list(range(6))
    assert not len(line)


def test_a_turn_that_is_not_to_wait() -> None:
    line, asked = Line(), list[int]()
    assert line.wait(lambda: "free", 0) == "free"
    assert line.wait(lambda: False, 0) is False
    assert line.wait(lambda: False, -1) is False
    began = time.monotonic()
    assert line.wait(lambda: False, 0.02) is False
    assert 0.02 <= time.monotonic() - began < LOST
    opened: list[bool] = []
    thread = started(lambda: line.wait(lambda: bool(opened), NEVER))
    eventually(lambda: len(line) == 1)
    # Not asked, since another stands before it.
    assert line.wait(lambda: asked.append(1) or True, 0) is None
    assert line.wait(lambda: asked.append(1) or True, 0.02) is None
    assert not asked
    opened.append(True)
    line.wake()
    joined([thread])
    assert not len(line)
    assert all(waiters is not line for waiters, _ in waiting_loops.standing.values())


def test_a_storm_of_turns() -> None:
    line, room, over = Line(), ["turn", "turn"], list[int]()
    turns, gave_up = [0] * 5, [0]

    def work(me: int) -> None:
        while not over:
            timeout = NEVER if me < 3 else random.random() * 0.0005
            if line.wait(lambda: True if over else taken_from(room), timeout) == "turn":
                turns[me] += 1
                room.append("turn")
                line.wake()
            else:
                gave_up[0] += 1

    threads = [started(partial(work, me)) for me in range(5)]
    with switching(1e-5):
        for _ in range(int(20 * STORM)):
            before = sum(turns[:3])
            eventually(lambda since=before: sum(turns[:3]) > since, timeout=LOST)  # type: ignore[misc]
            time.sleep(0.01)
    over.append(1)
    line.wake()
    joined(threads)
    assert not any(thread.is_alive() for thread in threads)
    assert len(room) == 2
    assert not len(line)


# -- answers -------------------------------------------------------------------------------------------------


def test_every_order_of_an_answer() -> None:
    reply, told = Reply[str](), dict[str, Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal reply, told
        mine, answers = reply, told = Reply[str](), dict[str, Any]()
        return [
            lambda: answers.update(got=woken(mine.get, NEVER)),
            lambda: answers.update(a=mine.offer("a")),
            lambda: answers.update(b=mine.offer("b")),
        ]

    for run in interleavings(scene, of=code_of(*WAITING), switches=2, limit=int(120 * STORM)):
        assert told["a"] + told["b"] == 1, run
        assert told["got"] == ("a" if told["a"] else "b"), run


def test_every_order_of_an_answer_and_giving_up() -> None:
    reply, told = Reply[str](), dict[str, Any]()

    def scene() -> list[Callable[[], object]]:
        nonlocal reply, told
        mine, answers = reply, told = Reply[str](), dict[str, Any]()
        return [
            lambda: answers.update(kept=mine.give_up()),
            lambda: answers.update(a=mine.offer("a")),
        ]

    for run in interleavings(scene, of=code_of(*WAITING), switches=None, limit=int(300 * STORM)):
        assert (told["kept"] == "a") == told["a"], run
        assert reply.has("a") == told["a"], run


def test_an_interrupt_at_each_point_of_an_answer() -> None:
    reply, came = Reply[str](), list[Any]()

    def fresh() -> threading.Thread:
        nonlocal reply, came
        mine, answers = reply, came = Reply[str](), []
        thread = started(lambda: answers.append(woken(mine.get, NEVER)))
        eventually(lambda: len(mine._waiters) == 1)
        time.sleep(0.001)
        return thread

    def run() -> None:
        reply.offer("answer")

    thread = fresh()
    for struck in each_interrupt(run, of=code_of(*WAITING, run)):
        if reply.has("answer"):
            # Nobody repeats it: it is known that it was given.
            thread.join(LOST)
        else:
            assert reply.offer("answer")
            thread.join(LOST)
        assert came == ["answer"], struck.place
        thread = fresh()
    reply.offer("answer")
    thread.join(LOST)


def test_an_answer_that_is_too_late() -> None:
    reply = Reply[int]()
    began = time.monotonic()
    with pytest.raises(Empty):
        reply.get(0.02)
    assert 0.02 <= time.monotonic() - began < LOST
    assert reply.give_up() is None
    assert not reply.offer(1)
    assert not reply.has(1)
    with pytest.raises(Empty):
        reply.get(NEVER)
    asked = Reply[Any]()
    assert asked.offer(None)
    assert not asked.offer(1)
    assert asked.get(0) is None
    assert asked.give_up() is None


def test_giving_up_wakes_whoever_asks_as_well() -> None:
    reply, came = Reply[int](), list[Any]()

    def ask() -> None:
        with pytest.raises(Empty):
            woken(reply.get)
        came.append(True)

    thread = started(ask)
    eventually(lambda: len(reply._waiters) == 1)
    reply.give_up()
    joined([thread])
    assert came == [True]


# -- inboxes -------------------------------------------------------------------------------------------------


class Thing:
    pass


class Unlike:
    """As an array of NumPy: comparing it raises."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = object.__hash__


def test_an_inbox_gives_what_came_in_its_order() -> None:
    inbox, many = Inbox[tuple[int, int]](), int(2000 * STORM)
    got: list[tuple[int, int]] = []

    def consume() -> None:
        while len(got) < 3 * many:
            try:
                got.append(inbox.get(random.choice((None, 0.0005, NEVER))))
            except Empty:
                continue

    consumer = started(consume)
    with switching(1e-5):
        joined(
            [
                started(partial(lambda who: [inbox.put((who, n)) for n in range(many)], who))
                for who in range(3)
            ]
        )
        eventually(lambda: len(got) == 3 * many, timeout=LOST)
    consumer.join(LOST)
    for who in range(3):
        assert [number for one, number in got if one == who] == list(range(many))
    assert not len(inbox)


def test_a_death_arrives_without_python_in_between() -> None:
    inbox = Inbox[Any]()
    things = [Thing() for _ in range(200)]
    references = [weakref.ref(thing, inbox.put) for thing in things]
    for thing in things:
        thing.me = thing  # type: ignore[attr-defined]
    came: list[Any] = []
    thread = started(lambda: came.append(woken(inbox.get, NEVER)))
    time.sleep(0.01)
    del things, thing
    gc.collect()
    thread.join(LOST)
    assert came[0] in references
    some: deque[Any] = deque()
    inbox.take(some, 50)
    assert len(some) == 50
    inbox.take(some)
    assert len(some) == 199
    assert not len(inbox)
    inbox.take(some)
    assert len(some) == 199


@pytest.mark.skipif(not GIL, reason="a Python function there")
def test_to_put_is_no_python_function() -> None:
    assert not hasattr(Inbox().put, "__code__")


def test_items_are_not_compared() -> None:
    inbox = Inbox[Any]()
    items = [Unlike(), None, False, inbox]
    for item in items:
        inbox.put(item)
    assert inbox.get() is items[0]
    assert inbox.get(0) is None
    rest: deque[Any] = deque()
    inbox.take(rest)
    assert rest[0] is False
    assert rest[1] is inbox


def test_an_inbox_is_no_garbage_cycle() -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        inbox = Inbox[Any]()
        inbox.put(thing)
        del thing
        assert gone() is not None
        del inbox
        assert gone() is None
    finally:
        gc.enable()


def test_an_inbox_and_timeouts() -> None:
    inbox = Inbox[int]()
    for timeout in (0, -1, 1e-9, 0.001, 0.02):
        began = time.monotonic()
        with pytest.raises((Empty, IndexError)) as raised:
            inbox.get(timeout)
        assert raised.type is Empty
        assert timeout <= time.monotonic() - began < LOST
    for without_end in (threading.TIMEOUT_MAX, 1e300, float("inf"), None):
        came: list[int] = []
        thread = started(lambda: came.append(woken(inbox.get, without_end)))
        time.sleep(0.003)
        inbox.put(1)
        thread.join(LOST)
        assert came == [1]


def test_a_handler_that_outlasts_the_deadline() -> None:
    """Up to CPython 3.12 `queue.SimpleQueue` waits for ever then."""
    inbox, waiters = Inbox[int](), WaitList()
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.04))
    try:
        for wait in (partial(inbox.get, 0.03), partial(waiters.wait, lambda: False, 0.03)):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            began = time.monotonic()
            try:
                assert wait() is False
            except Empty:
                assert wait.func == inbox.get
            assert 0.03 <= time.monotonic() - began < LOST
    finally:
        signal.signal(signal.SIGALRM, before)


# -- flags and polls -----------------------------------------------------------------------------------------


def test_a_flag_is_set_by_a_death() -> None:
    flag, came = Flag(), list[Any]()
    thread = started(lambda: came.append(woken(flag.wait, NEVER)))
    eventually(lambda: len(flag.waiters) == 1)
    thing = Thing()
    reference = weakref.ref(thing, flag.set)
    thing.me = thing  # type: ignore[attr-defined]
    assert not flag.is_set
    del thing
    gc.collect()
    joined([thread])
    assert came == [True]
    assert flag.is_set
    assert reference() is None


def test_a_flag_and_coroutines() -> None:
    async def main() -> None:
        flag = Flag()
        assert await flag.wait_async(0.01) is False
        waits = asyncio.gather(*(flag.wait_async(NEVER) for _ in range(3)))
        await asyncio.sleep(0.01)
        started(flag.set)
        assert await asyncio.wait_for(waits, LOST) == [True] * 3
        assert await flag.wait_async() is True

    asyncio.run(main())


def test_a_poll_asks_until_the_end_and_once_more_then() -> None:
    asked: list[float] = []

    def never() -> bool:
        asked.append(time.monotonic())
        return False

    began = time.monotonic()
    assert poll(never, 0.05) is False
    assert asked[-1] - began >= 0.05
    assert len(asked) > 3
    asked.clear()
    assert poll(never, 0) is False
    assert poll(never, -1) is False
    assert len(asked) == 2
    assert woken(poll, lambda: len(asked) > 5 or asked.append(0.0), None) is True


def test_threads_that_must_not_wait_do_not() -> None:
    table, inbox, asked = WaitTable(), Inbox[int](), list[int]()
    came: list[Any] = []

    def waits() -> None:
        with never_wait():
            came.append(WaitList().wait(lambda: False))
            came.append(table.wait(1, lambda: False))
            came.append(Line().wait(lambda: False))
            came.append(Flag().wait())
            came.append(poll(lambda: asked.append(1), None))
            with pytest.raises(Empty):
                inbox.get()
            with pytest.raises(Empty):
                Reply[int]().get()

    joined([started(waits)])
    assert came == [False] * 4 + [None]
    assert asked == [1]
    assert not table


# -- forks ---------------------------------------------------------------------------------------------------


def in_child(fn: Callable[[], bool]) -> bool:
    """What `fn` says in a forked child."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(int(LOST))
            status = 0 if fn() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
no_warning = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@forks
@no_warning
def test_a_child_waits_where_threads_of_the_parent_waited() -> None:
    state, line, came = State(), Line(), list[Any]()
    threads = state.others(3, came)
    threads += [started(lambda: line.wait(lambda: state.value, NEVER)) for _ in range(2)]
    eventually(lambda: len(line) == 2)
    time.sleep(0.01)

    def child() -> bool:
        if GIL:
            assert not state.waiters.here
            assert not len(line)
            assert not waiting_loops.standing
        began = time.monotonic()
        started(lambda: (time.sleep(0.02), state.change()))
        assert state.wait()
        opened: list[bool] = []
        started(lambda: (time.sleep(0.02), opened.append(True), line.wake()))
        assert line.wait(lambda: bool(opened), NEVER)
        return time.monotonic() - began < LOST / 2

    assert in_child(child)
    state.change()
    line.wake()
    joined(threads)
    assert came == [True] * 3


@forks
@no_warning
def test_a_thread_that_forks_while_another_of_the_parent_has_the_lock() -> None:
    """The bell is rung, and a thread that the child does not have was about to let it go."""
    state, pids = State(), list[int]()
    parent = os.getpid()
    reading, writing = os.pipe()

    def handler(*_: object) -> None:
        # As if another had taken the lock of the bell at which this thread sleeps, and not let it go yet.
        bell = state.waiters.hung.pop(0)
        pids.append(os.fork())
        started(lambda: (time.sleep(0.02), state.change()))
        if pids[0]:
            bell()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        began = time.monotonic()
        assert state.wait()
        in_time = time.monotonic() - began < LOST
        if os.getpid() != parent:
            os.write(writing, b"back" if in_time else b"late")
            os._exit(0)
        assert in_time
    finally:
        if os.getpid() != parent:
            os._exit(1)
        signal.signal(signal.SIGALRM, before)
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"back"
    os.waitpid(pids[0], 0)


@forks
@no_warning
def test_a_thread_that_forks_while_it_asks() -> None:
    """Meanwhile its bell was rung, and a thread that the child does not have has the lock."""
    state, pids, parent = State(), list[int](), os.getpid()
    reading, writing = os.pipe()

    def ready() -> bool:
        if not pids and state.waiters.hung:
            bell = state.waiters.hung.pop(0)
            pids.append(os.fork())
            started(lambda: (time.sleep(0.02), state.change()))
            if pids[0]:
                bell()
        return bool(state.value)

    try:
        began = time.monotonic()
        assert state.waiters.wait(ready, NEVER)
        in_time = time.monotonic() - began < LOST
        if os.getpid() != parent:
            os.write(writing, b"back" if in_time else b"late")
            os._exit(0)
        assert in_time
    finally:
        if os.getpid() != parent:
            os._exit(1)
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"back"
    os.waitpid(pids[0], 0)


@forks
@no_warning
def test_forks_in_a_storm_of_waits() -> None:
    state, over = State(), list[int]()

    def follow() -> None:
        seen = 0
        while not over:
            state.waiters.wait(lambda: state.value > seen or bool(over), random.choice((None, 0.0003)))
            seen = state.value

    def change() -> None:
        while not over:
            state.change()
            time.sleep(0.0001)

    threads = [*(started(follow) for _ in range(3)), started(change)]

    def child() -> bool:
        before = state.value
        began = time.monotonic()
        started(lambda: (time.sleep(0.002), state.change()))
        return state.waiters.wait(lambda: state.value > before, NEVER) and time.monotonic() - began < LOST / 2

    for _ in range(int(20 * STORM)):
        assert in_child(child)
    over.append(1)
    for _ in range(3):
        state.waiters.wake()
        time.sleep(0.01)
    joined(threads)


@forks
@no_warning
def test_a_child_does_not_ring_the_loops_of_its_parent() -> None:
    """To ring one would write into a socket that both share."""
    state, posted = State(), list[int]()
    pid = os.getpid()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        real = loop.call_soon_threadsafe
        task = asyncio.ensure_future(state.waiters.wait_async(lambda: state.value, NEVER))
        await asyncio.sleep(0.01)
        for bell in state.waiters.loops.values():
            bell.post = lambda fn: (posted.append(os.getpid()), real(fn))[1]

        def child() -> bool:
            state.change()
            return pid in posted or not posted

        assert await loop.run_in_executor(None, in_child, child)
        state.change()
        await asyncio.wait_for(task, LOST)

    asyncio.run(main())
    assert posted == [pid]


# -- trio ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("trio")
def test_tasks_of_trio() -> None:
    trio: Any = importlib.import_module("trio")

    async def main() -> None:
        for turn in range(30):
            state, got = State(), list[int]()
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await state.waiters.wait_async(lambda: state.value, NEVER)

            async def waits() -> None:
                got.append(await state.waiters.wait_async(lambda: state.value, NEVER))

            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                nursery.start_soon(waits)
                nursery.start_soon(waits)
                for _ in range(turn % 4):
                    await trio.lowlevel.checkpoint()
                if turn % 2:
                    scope.cancel()
                started(state.change)
            assert time.monotonic() - began < LOST
            assert got == [1, 1]
            assert not state.waiters.here
            assert not state.waiters.loops
        waiters = WaitList()
        began = time.monotonic()
        assert await waiters.wait_async(lambda: False, 0.02) is False
        assert 0.02 <= time.monotonic() - began < LOST
        looks: list[int] = []
        assert await waiters.wait_async(
            lambda: len(looks) > 2, NEVER, look=lambda: looks.append(1), every=0.01
        )

    # Trio warns of who is there before it; a test of signals may be.
    signal.set_wakeup_fd(-1)
    trio.run(main)
    state = State()

    async def gives_up() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(state.waiters.wait_async, lambda: state.value)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(gives_up)
    state.change()
    assert not state.waiters.here


@pytest.mark.needs("uvloop")
def test_coroutines_on_uvloop() -> None:
    import uvloop

    async def main() -> None:
        state = State()
        for turn in range(30):
            state.value = 0
            tasks = [
                asyncio.ensure_future(state.waiters.wait_async(lambda: state.value, NEVER)) for _ in range(3)
            ]
            for _ in range(turn % 3):
                await asyncio.sleep(0)
            tasks[0].cancel()
            thread = started(state.change)
            began = time.monotonic()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - began < LOST
            assert answers[1:] == [1, 1]
            thread.join(LOST)
        assert not state.waiters.here
        assert not state.waiters.loops

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
