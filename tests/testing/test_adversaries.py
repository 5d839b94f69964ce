"""The adversaries themselves: that they strike where they say they do, and leave nothing behind."""

from __future__ import annotations

import gc
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

import lifecycle
from lifecycle import ANY_THREAD, NotReleased, SafetyConfig, SafetyManager
from lifecycle._core import record as cell
from lifecycle._core import release as releases
from lifecycle.testing import (
    Fault,
    FaultPlan,
    Interrupt,
    LyingClock,
    Standing,
    at_once,
    code_of,
    each_interrupt,
    every_line,
    every_point,
    fails,
    hangs,
    library,
    switching,
    takes,
)
from tests.support import eventually, run_python


class Native:
    """Stands for one."""


def plain(values: list[int]) -> int:
    total = 0
    for value in values:
        total += value
    return total


# -- which code ----------------------------------------------------------------------------------------------


def test_the_library_is_chosen_and_its_kit_is_not() -> None:
    assert library(releases.process.__code__)
    assert not library(code_of.__code__)
    assert not library(plain.__code__)


def test_code_of_modules_packages_and_functions() -> None:
    only = code_of(plain, cell)
    assert only(plain.__code__)
    assert only(cell.shut.__code__)
    assert not only(releases.process.__code__)
    everything = code_of(lifecycle)
    assert everything(releases.process.__code__)
    assert everything(code_of.__code__)
    with pytest.raises(TypeError, match="modules, packages and Python functions"):
        code_of("plain")  # type: ignore[arg-type]


# -- lines and points ----------------------------------------------------------------------------------------


def test_every_line_strikes_before_each_line_and_every_so_many() -> None:
    with every_line(lambda: None, of=code_of(plain)) as struck:
        assert plain([1, 2]) == 3
    assert struck.strikes == 1 + 3 + 2 + 1  # the first line, the loop's head, its body, the last
    assert all("plain" in place for place in struck.places)
    with every_line(lambda: None, of=code_of(plain), step=3) as thinner:
        plain([1, 2])
    assert (thinner.passed, thinner.strikes) == (7, 2)
    assert sys.gettrace() is None


def test_every_line_on_threads_that_start_inside() -> None:
    with every_line(lambda: None, of=code_of(plain), threads=True) as struck:
        thread = threading.Thread(target=plain, args=([1],))
        thread.start()
        thread.join()
    assert struck.strikes == 5


def test_an_exception_of_the_action_leaves_the_line() -> None:
    def strike() -> None:
        raise Interrupt

    with pytest.raises(Interrupt), every_line(strike, of=code_of(plain)):
        plain([])
    assert sys.gettrace() is None


def test_each_interrupt_strikes_once_a_run_and_raises_what_it_is_told() -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        plain([1, 2])

    places = []
    for struck in each_interrupt(run, of=code_of(plain), error=MemoryError):
        assert isinstance(struck.error, MemoryError)
        places.append(struck.place)
    assert len(runs) == len(places) + 1, "the last one went through"
    assert len(places) > 2
    assert gc.isenabled()


# -- threads -------------------------------------------------------------------------------------------------


def test_standing_stands_until_told_to_go() -> None:
    with Standing(lambda: plain([1, 2]), plain, "return total") as standing:
        assert standing._thread.is_alive()
        assert standing.result() == 3
    with pytest.raises(AssertionError, match="0 lines"):
        Standing(lambda: plain([]), plain, "no such line")
    with pytest.raises(AssertionError, match="without coming to line"):
        Standing(lambda: None, plain, "return total").__enter__()


def test_at_once_raises_what_one_raised_and_says_who_never_ended() -> None:
    done: list[int] = []
    at_once(*[lambda: done.append(1)] * 5)
    assert len(done) == 5

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        at_once(fail, lambda: done.append(1))
    stop = threading.Event()
    with pytest.raises(AssertionError, match="not at their end"):
        at_once(stop.wait, patience=0.1)
    stop.set()


def test_switching_is_undone() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError), switching(1e-5):
        assert sys.getswitchinterval() == pytest.approx(1e-5)
        raise ZeroDivisionError
    assert sys.getswitchinterval() == before


# -- faults --------------------------------------------------------------------------------------------------


def test_a_plan_names_calls() -> None:
    done: list[str] = []
    slow = takes(0.01)
    plan = FaultPlan({2: fails(ConnectionError), 3: fails(ZeroDivisionError("late"), when="after"), 4: slow})
    work: Callable[[str], None] = plan.wrap(done.append)
    other = plan.wrap(done.append)
    work("first")
    with pytest.raises(ConnectionError):
        other("second")
    with pytest.raises(ZeroDivisionError, match="late"):
        work("third")
    work("fourth")
    assert done == ["first", "third", "fourth"]
    assert [(number, fault.name) for number, fault in plan.struck] == [
        (2, "ConnectionError before"),
        (3, "ZeroDivisionError after"),
        (4, "takes 0.01 s"),
    ]
    assert plan.count(slow) == 1


def test_what_hangs_goes_on_when_let() -> None:
    done: list[int] = []
    plan = FaultPlan({1: hangs()})
    thread = threading.Thread(target=plan.wrap(done.append), args=(1,))
    thread.start()
    eventually(lambda: plan.struck)
    assert done == []
    plan.let_go()
    thread.join(20)
    assert done == [1]


def test_a_drawn_plan_is_the_same_each_time() -> None:
    def drawn(seed: int) -> list[int]:
        plan = FaultPlan.random(seed, {fails(OSError): 0.2, takes(0.0): 0.1})
        call = plan.wrap(int)
        for _ in range(200):
            try:
                call()
            except OSError:
                continue
        return [number for number, _ in plan.struck]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 30 < len(drawn(1)) < 90


@pytest.mark.parametrize(
    "make",
    [
        lambda: FaultPlan({0: hangs()}),
        lambda: FaultPlan({1: ZeroDivisionError}),  # type: ignore[dict-item]
        lambda: FaultPlan.random(1, {hangs(): 1.5}),
        lambda: FaultPlan.random(1, {hangs(): -0.5}),
        lambda: fails(OSError, when="never"),
    ],
)
def test_impossible_plans_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"not|between"):
        make()


def test_a_plan_of_releases(manager: SafetyManager) -> None:
    """A release that says NotReleased twice, and one that fails after its work."""
    released: list[Native] = []
    plan = FaultPlan(
        {1: fails(NotReleased("busy")), 2: fails(NotReleased("busy")), 4: fails(OSError("x"), when="after")}
    )
    release = plan.wrap(released.append)
    first = manager.register(Native(), "native", release=release)
    assert first.close(timeout=20) is True
    second = manager.register(Native(), "native", release=release)
    assert second.close(timeout=20) is False
    assert (str(first.state), str(second.state), len(released)) == ("released", "failed", 2)
    assert manager.stats().types["native"].retries == 2
    assert isinstance(plan.struck[0][1], Fault)


# -- the clock -----------------------------------------------------------------------------------------------


def test_an_hour_passes_at_once() -> None:
    with LyingClock() as clock, SafetyManager(SafetyConfig(finalizer_timeout=600.0)) as manager:
        stop = threading.Event()
        began = time.monotonic()
        handle = manager.register(Native(), release=lambda native: stop.wait(60))
        assert handle.close(timeout=0) is False
        eventually(lambda: manager._machinery.workers.running)
        clock.advance(3600)
        eventually(lambda: handle.state == "stuck")
        assert time.monotonic() - began < 50
        stop.set()
        eventually(lambda: handle.state == "released")


def test_the_wall_clock_goes_back_and_no_deadline_with_it() -> None:
    with LyingClock() as clock, SafetyManager() as manager:
        clock.set_wall(1000.0)
        with manager.register(Native(), "native", release=lambda native: None, release_on=ANY_THREAD):
            assert manager.stats().types["native"].oldest == pytest.approx(1000.0, abs=20)
        assert clock.monotonic() == pytest.approx(time.monotonic(), abs=20)


def test_an_applications_own_integrations_keep_the_true_clock() -> None:
    other = types.ModuleType("integrations.cam")
    other.__file__ = "/app/integrations/cam.py"
    other.monotonic = time.monotonic
    sys.modules["integrations.cam"] = other
    try:
        with LyingClock() as clock:
            assert other.monotonic is time.monotonic
            assert releases.monotonic == clock.monotonic
    finally:
        del sys.modules["integrations.cam"]


def test_time_stands_still_and_goes_on_and_the_true_clock_comes_back() -> None:
    true = releases.monotonic, lifecycle._core.runtime.wall_time
    with LyingClock() as clock:
        assert releases.monotonic == clock.monotonic
        clock.stop()
        before = clock.monotonic(), clock.wall()
        time.sleep(0.02)
        assert (clock.monotonic(), clock.wall()) == before
        clock.advance(5)
        assert clock.monotonic() == before[0] + 5
        clock.run()
        assert before[0] + 5 <= clock.monotonic() < before[0] + 25
        assert before[1] + 4.9 <= clock.wall() < before[1] + 25
        with pytest.raises(ValueError, match="does not go back"):
            clock.advance(-1)
    assert (releases.monotonic, lifecycle._core.runtime.wall_time) == true == (time.monotonic, time.time)


@pytest.mark.parametrize("outlives", ["nothing", "generator"])
def test_opcodes_may_be_traced_while_other_threads_are(outlives: str) -> None:
    """CPython 3.12.1 calls a null pointer where a frame that asks for opcode events runs on a thread that is
    not traced (any more) while another is: a frame of this kit, or a generator that goes on behind its block.
    """
    code = f"""
    import sys, threading
    from lifecycle.testing import code_of, each_interrupt, interleavings

    never, stands = threading.Event(), threading.Event()
    def stand():
        sys.settrace(lambda *_: None)
        stands.set()
        never.wait()
    threading.Thread(target=stand, daemon=True).start()
    stands.wait()

    def numbers():
        for number in range(3):
            yield str(number)
    def count():
        try:
            generator = numbers()
            next(generator)
        finally:
            len("a handler")
        return generator
    def rest(generator):
        return list(generator) if {outlives == "generator"} else []

    for of in (code_of(numbers, count), code_of(count)):
        for struck in each_interrupt(count, of=of):
            rest(struck.result or [])
        for run in interleavings(lambda: [count, count], of=of, opcodes=True, switches=1, limit=18):
            for outcome in run.outcomes:
                rest(outcome.result)
    print("survived")
    """
    assert "survived" in run_python(code).check()


def test_every_point_is_where_a_signal_handler_may_run_and_nowhere_else() -> None:
    seen: list[tuple[int, int]] = []
    state = {"first": 0, "second": 0}

    def two_stores_and_a_call() -> None:
        state["first"] = 1
        state["second"] = 1
        abs(-1)
        state["first"] = 2
        state["second"] = 2

    def look() -> None:
        seen.append((state["first"], state["second"]))

    with every_point(look, of=code_of(two_stores_and_a_call)) as struck:
        two_stores_and_a_call()
    assert struck.strikes == len(seen) >= 2
    assert set(seen) <= {(0, 0), (1, 1), (2, 2)} or sys.version_info < (3, 11)
    assert (1, 1) in seen


def test_an_interrupt_strikes_where_its_handler_is_the_one_that_would_be_asked() -> None:
    """Behind the last call of a block nothing can be raised from outside that the block would see, so nothing
    is."""
    lock = threading.Lock()

    def guarded() -> int:
        with lock:
            return abs(-1)

    for struck in each_interrupt(guarded, of=code_of(guarded)):
        assert not lock.locked(), struck.place
