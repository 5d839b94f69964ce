"""`TimedQueue`: a timed get ends in time, on every CPython, whatever happens in the middle of it (I5)."""

from __future__ import annotations

import ast
import contextlib
import itertools
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from lifecycle._core import runtime
from lifecycle._core.timed_queue import TimedQueue
from tests.core.adversary import at_once, each_interrupt, every_line, in_own_process, switching
from tests.support import ROOT

RIGHT = sys.version_info >= (3, 13)
"""Whether the standard queue has the sign of the time that is left right."""


# -- what is wrong with the standard one ---------------------------------------------------------------------


def wait_in_fresh_queues(kind: str, seconds: float) -> None:
    """Waits whose deadline is past when the loop in `get` comes round: in a fresh queue the first turn takes
    the lock. Several threads that take the interpreter from each other see to that."""
    make = {"standard": queue.SimpleQueue, "ours": TimedQueue}[kind]

    def work() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                make().get(timeout=1e-6)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(12)]
    with switching(1e-6):
        for thread in threads:
            thread.start()
        patience = time.monotonic() + seconds + 3
        for thread in threads:
            thread.join(max(0, patience - time.monotonic()))
    print("stands still" if any(thread.is_alive() for thread in threads) else "goes on", flush=True)


def wait_under_slow_signals(kind: str) -> None:
    """Waits on the main thread in which a signal's handler takes longer than what is left."""
    make = {"standard": queue.SimpleQueue, "ours": TimedQueue}[kind]
    handled = []

    def slowly(number: int, frame: object) -> None:
        handled.append(number)
        time.sleep(0.08)

    signal.signal(signal.SIGALRM, slowly)
    for _ in range(5):
        waits: TimedQueue[None] = make()
        with contextlib.suppress(queue.Empty):
            waits.get_nowait()
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with contextlib.suppress(queue.Empty):
            waits.get(timeout=0.06)
    assert len(handled) == 5
    print("goes on")


def test_a_deadline_that_is_past_at_once() -> None:
    assert in_own_process(wait_in_fresh_queues, "ours", 1.0) == "goes on\n"


def test_a_signal_handler_that_takes_longer_than_what_is_left() -> None:
    assert in_own_process(wait_under_slow_signals, "ours") == "goes on\n"


@pytest.mark.skipif(RIGHT, reason="put right in CPython 3.13")
def test_the_standard_one_stands_still_here() -> None:
    """Should this fail, `LockQueue` has lost its reason on this version."""
    assert any(in_own_process(wait_in_fresh_queues, "standard", 1.0) == "stands still\n" for _ in range(10))
    with pytest.raises(AssertionError, match="still running after 3 s"):
        in_own_process(wait_under_slow_signals, "standard", timeout=3)


def test_the_standard_one_is_taken_where_it_is_right() -> None:
    assert (TimedQueue is queue.SimpleQueue) == RIGHT
    assert runtime.TimedQueue is TimedQueue


def names(module: ast.AST, wanted: str) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id == wanted)
        or (isinstance(node, ast.Attribute) and node.attr == wanted)
        for node in ast.walk(module)
    )


def timed_gets(module: ast.AST) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and any(keyword.arg == "timeout" for keyword in node.keywords)
    ]


def test_no_module_waits_at_the_standard_one_with_a_timeout() -> None:
    """Who names the standard queue has no timed get in the same module, unless it names one of ours as well."""
    seen = 0
    for path in [*(ROOT / "lifecycle").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]:
        module = ast.parse(path.read_text())
        if timed_gets(module):
            seen += 1
            ours = any(names(module, one) for one in ("TimedQueue", "Reply", "Inbox"))
            assert ours or not names(module, "SimpleQueue"), path
    assert seen  # there are such modules, so the test looks at something


not_here = pytest.mark.skipif(RIGHT, reason="the standard queue is taken here")


# -- ours ----------------------------------------------------------------------------------------------------


def test_first_in_first_out() -> None:
    line: TimedQueue[int] = TimedQueue()
    assert (line.qsize(), line.empty()) == (0, True)
    for number in range(5):
        line.put(number)
    assert (line.qsize(), line.empty()) == (5, False)
    assert [line.get(), line.get_nowait(), line.get(timeout=0), line.get(timeout=1), line.get()] == [
        *range(5)
    ]
    for wait in (line.get_nowait, lambda: line.get(timeout=0), lambda: line.get(timeout=0.001)):
        with pytest.raises(queue.Empty):
            wait()


def test_nothing_is_kept_of_what_went_through() -> None:
    line: TimedQueue[object] = TimedQueue()
    item = object()
    before = sys.getrefcount(item)
    line.put(item)
    line.get(timeout=1)
    line.put(item)
    line.get_nowait()
    with pytest.raises(queue.Empty):
        line.get(timeout=0.001)
    assert sys.getrefcount(item) == before


def test_a_put_wakes_who_waits() -> None:
    """Ten times in a row, with a limit that only a lost call would reach."""
    line: TimedQueue[int] = TimedQueue()
    back: TimedQueue[int] = TimedQueue()

    def answer() -> None:
        for _ in range(10):
            back.put(line.get())

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(10):
        time.sleep(0.002)  # it stands at the lock
        line.put(number)
        assert back.get(timeout=30) == number
    thread.join(30)
    assert not thread.is_alive()


def test_several_wait_and_two_puts_come_before_one_of_them_runs() -> None:
    """The lock can only be let go once: the first who wakes passes the call on."""
    line: TimedQueue[int] = TimedQueue()
    got: TimedQueue[int] = TimedQueue()
    threads = [threading.Thread(target=lambda: got.put(line.get())) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    with switching(1.0):
        for number in range(6):
            line.put(number)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(got.get_nowait() for _ in range(6)) == [*range(6)]


def test_putters_and_getters_at_once() -> None:
    line: TimedQueue[int] = TimedQueue()
    each, got = 2_000, [list[int]() for _ in range(3)]

    def put(start: int) -> None:
        for number in range(start, start + each):
            line.put(number)

    def get(mine: list[int]) -> None:
        while True:
            try:
                mine.append(line.get(timeout=0.0001 if len(mine) % 2 else 0.2))
            except queue.Empty:
                if len(mine) % 2 == 0 or sum(map(len, got)) == 3 * each:
                    return

    with switching(1e-5):
        at_once(
            *(lambda start=start: put(start) for start in (0, each, 2 * each)),  # type: ignore[misc]
            *(lambda mine=mine: get(mine) for mine in got),  # type: ignore[misc]
            patience=60,
        )
    assert sorted([*itertools.chain(*got), *drained(line)]) == [*range(3 * each)]
    for mine in got:
        for start in (0, each, 2 * each):
            part = [number for number in mine if start <= number < start + each]
            assert part == sorted(part)  # one putter's come in its order


def drained(line: TimedQueue[int]) -> Iterator[int]:
    while True:
        try:
            yield line.get_nowait()
        except queue.Empty:
            return


@not_here
def test_a_put_in_the_middle_of_a_put_and_of_a_get() -> None:
    """As the collector does it, and the handler of a signal: at every line of either."""
    line: TimedQueue[int] = TimedQueue()
    numbers = itertools.count(1)
    last = 0
    got: list[int] = []
    with every_line(lambda: line.put(next(numbers))) as struck:
        for _ in range(20):
            line.put(0)
            got.append(line.get(timeout=30))
        last = next(numbers)
    assert struck.strikes > 100
    got.extend(drained(line))
    assert got.count(0) == 20
    assert [number for number in got if number] == [*range(1, last)]


@not_here
def test_an_interrupted_put_wakes_who_waits() -> None:
    """At every opcode: if the item is in, whoever waits for it without a limit gets it."""
    line: TimedQueue[int] = TimedQueue()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(iter(line.get, -1)))
    thread.start()
    put = 0
    for strike in each_interrupt(lambda: line.put(1)):
        until = time.monotonic() + 30
        while line.qsize() and time.monotonic() < until:
            time.sleep(0.0005)
        assert not line.qsize(), strike.place
        put += 1
    line.put(-1)
    thread.join(30)
    assert not thread.is_alive()
    assert 3 <= len(got) <= put


@pytest.mark.parametrize("wrong", ["1", []])
def test_a_time_that_is_none(wrong: object) -> None:
    line: TimedQueue[int] = TimedQueue()
    with pytest.raises(TypeError):
        line.get(timeout=wrong)  # type: ignore[arg-type]
    line.put(1)
    assert line.get(timeout=30) == 1
