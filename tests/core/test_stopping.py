"""Closing reaches every producer before a door is shut, and waits for the threads that said they would end."""

from __future__ import annotations

import _thread
import itertools
import queue
import threading
import time
from collections import deque
from types import CodeType
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    ClosedError,
    LifecycleError,
    RegistrationError,
    SafetyConfig,
    SafetyManager,
    StopToken,
    never_wait,
)
from lifecycle.testing.interrupts import Interrupt, run_interrupted
from tests.core.adversary import STORM, at_once, each_interrupt, switching
from tests.core.test_ctrl_c import struck_on_the_way_into
from tests.support import eventually

QUIET = SafetyConfig(leak_level="off", shutdown_timeout=20.0)


def producer(manager: SafetyManager, made: deque[Any], refused: deque[BaseException]) -> None:
    """What a user's thread looks like."""
    manager.stopping.attach()
    try:
        while not manager.stopping:
            with manager.register(object(), "made", release=made.append, release_on=ANY_THREAD):
                pass
    except ClosedError as error:
        refused.append(error)


def test_no_producer_runs_after_close() -> None:
    manager = SafetyManager(QUIET)
    made: deque[Any] = deque()
    refused: deque[BaseException] = deque()
    threads = [threading.Thread(target=producer, args=(manager, made, refused)) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(made) > 50)
    report = manager.close()
    assert not any(thread.is_alive() for thread in threads)
    assert report.ok
    assert report.running == ()
    stats = manager.stats()
    assert stats.active_objects == 0
    assert stats.released == len(made)


def test_the_order_is_token_callbacks_threads_doors() -> None:
    order: deque[str] = deque()
    manager = SafetyManager(QUIET)
    handle = manager.register(
        object(), "made", release=lambda _: order.append("released"), release_on=ANY_THREAD
    )

    def work() -> None:
        manager.stopping.attach()
        ready.set()
        manager.stopping.wait(20)
        eventually(lambda: "second" in order)
        order.append(f"thread, valid: {handle.valid}")

    ready = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(20)
    manager.on_close(lambda: order.append(f"second, valid: {handle.valid}") or order.append("second"))
    manager.stopping.on_stop(lambda: order.append(f"first, set: {manager.stopping.is_set}"))
    manager.close()
    assert list(order) == [
        "first, set: True",
        "second, valid: True",
        "second",
        "thread, valid: True",
        "released",
    ]


def test_waiting_for_it() -> None:
    manager = SafetyManager(QUIET)
    token = manager.stopping
    began = time.monotonic()
    assert token.wait(0.02) is False
    assert time.monotonic() - began >= 0.02
    answers: deque[bool] = deque()
    threads = [threading.Thread(target=lambda: answers.append(token.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(token._flag.waiters) == 4)
    with never_wait():
        assert token.wait() is False, "a streaming thread does not block"
    manager.close()
    for thread in threads:
        thread.join(20)
    assert list(answers) == [True] * 4
    assert token.wait() is True
    assert bool(token)
    with pytest.raises(ClosedError, match="is closing"):
        token.check()
    assert not token._flag.waiters.here


def test_callbacks_once_late_and_taken_back() -> None:
    called: deque[str] = deque()
    manager = SafetyManager(QUIET)
    manager.stopping.on_stop(lambda: called.append("kept"))
    remove = manager.stopping.on_stop(lambda: called.append("taken back"))
    remove()
    remove()
    manager.close()
    manager.close()
    manager.stopping.on_stop(lambda: called.append("late"))
    assert list(called) == ["kept", "late"]


def test_struck_at_any_point_each_callback_is_called_once() -> None:
    """By the close that was interrupted, or by the next."""

    def first() -> None:
        called.append("first")

    def second() -> None:
        called.append("second")

    def chosen(code: CodeType) -> bool:
        return code.co_filename == StopToken.on_stop.__code__.co_filename

    def made() -> SafetyManager:
        called.clear()
        manager = SafetyManager(QUIET)
        manager.stopping.on_stop(first)
        manager.on_close(second)
        return manager

    called: list[str] = []
    for strike_at in itertools.count(1):
        manager = made()
        struck = run_interrupted(manager.close, strike_at, of=chosen)
        report = manager.close()
        assert not report.leaked
        assert called == ["second", "first"], struck.place
        if not struck.place:
            break
        assert isinstance(struck.error, Interrupt)
    assert strike_at > 10
    for callback in (first, second):
        manager = made()
        struck_on_the_way_into(callback.__code__, manager.close)
        assert called == ["second", "first"]
        assert not manager.close().errors


def test_what_callbacks_raise_is_reported_and_stops_nothing() -> None:
    manager = SafetyManager(QUIET)
    called: deque[str] = deque()

    class Odd(BaseException):
        pass

    def fail(error: BaseException) -> None:
        raise error

    manager.on_close(lambda: called.append("ran"))
    manager.on_close(lambda: fail(Odd("odd")))
    manager.on_close(lambda: fail(SystemExit(3)))
    report = manager.close()
    assert list(called) == ["ran"]
    assert [text.split(": ", 1)[1] for text in report.errors] == ["SystemExit: 3", "Odd: odd"]
    assert not report.ok


def test_a_thread_that_does_not_end_is_named_and_the_budget_holds() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off", shutdown_timeout=0.3))
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(20,), name="deaf")
    thread.start()
    manager.stopping.attach(thread)
    report = manager.close()
    assert report.running == ("deaf",)
    assert not report.ok
    go.set()
    thread.join(20)


def test_closing_from_a_producer_does_not_wait_for_itself() -> None:
    manager = SafetyManager(QUIET)
    reports: deque[Any] = deque()

    def work() -> None:
        manager.stopping.attach()
        reports.append(manager.close())

    at_once(work)
    assert reports[0].ok
    released: deque[Any] = deque()
    other = SafetyManager(QUIET)
    thread = threading.Thread(target=lambda: (other.stopping.attach(), released.append(handle.close())))
    handle = other.register(object(), "closes", release=lambda _: other.close(), release_on=ANY_THREAD)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    other.close()


def test_odd_input() -> None:
    with SafetyManager(QUIET) as manager:
        with pytest.raises(RegistrationError, match=r"takes a threading.Thread"):
            manager.stopping.attach(5)  # type: ignore[arg-type]
        with pytest.raises(LifecycleError, match="timeout="):
            manager.stopping.wait(-1)
        with pytest.raises(RegistrationError, match="callable"):
            manager.stopping.on_stop(None)  # type: ignore[arg-type]
        assert "not set" in repr(manager.stopping)


def test_a_wait_that_is_interrupted_leaves_nothing_behind() -> None:
    with SafetyManager(QUIET) as manager:
        for struck in each_interrupt(lambda: manager.stopping.wait(0.001)):
            if not struck.on_entry:
                assert len(manager.stopping._flag.waiters) <= 1, struck.place
            manager.stopping._flag.waiters.here.clear()


def test_registering_against_closing() -> None:
    """What comes too late ends in ClosedError, released: nothing is leaked, whatever the moment."""
    for _ in range(int(30 * STORM)):
        manager = SafetyManager(QUIET)
        made: deque[Any] = deque()
        entered: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def register(manager: SafetyManager = manager, made: Any = made, entered: Any = entered) -> None:
            try:
                for _ in range(20):
                    thing = object()
                    entered.put(thing)
                    manager.register(thing, "made", release=made.append, release_on=ANY_THREAD).close()
            except ClosedError:
                return

        with switching():
            at_once(register, register, manager.close)
        number = entered.qsize()
        eventually(lambda: len(made) == number)
        assert manager.stats().active_objects == 0


def test_a_thread_that_threading_did_not_start_is_waited_for() -> None:
    manager = SafetyManager(QUIET)
    released: list[str] = []
    manager.register("object", release=released.append)
    attached, goes_on = threading.Event(), threading.Event()
    ended: list[bool] = []

    def foreign() -> None:
        manager.stopping.attach()
        attached.set()
        ended.append(goes_on.wait(60))

    _thread.start_new_thread(foreign, ())
    assert attached.wait(60)
    manager.on_close(lambda: threading.Timer(0.1, goes_on.set).start())
    report = manager.close()
    assert (ended, report.running, report.ok, released) == ([True], (), True, ["object"])


def test_a_thread_that_cannot_be_joined_and_goes_on_is_named() -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off", shutdown_timeout=0.2))
    released: list[str] = []
    manager.register("object", release=released.append, release_on=ANY_THREAD)
    attached, goes_on = threading.Event(), threading.Event()

    def foreign() -> None:
        manager.stopping.attach()
        attached.set()
        goes_on.wait(60)

    _thread.start_new_thread(foreign, ())
    assert attached.wait(60)
    report = manager.close()
    goes_on.set()
    assert len(report.running) == 1
    eventually(lambda: released == ["object"])
