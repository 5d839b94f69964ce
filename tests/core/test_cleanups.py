"""Cleanups of an object that meet what they belong to: each is told, none waits for itself."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core.record import Record
from lifecycle.errors import CircularCloseError
from lifecycle.testing import code_of, interleavings
from tests.core.adversary import STORM, assert_nothing_left, at_once, every_line
from tests.core.natives import Native
from tests.managers.support import collector
from tests.support import eventually

PATIENT = SafetyConfig(finalizer_timeout=60.0)
SOON = 30.0
"""Seconds within which nothing that waits for itself would end."""


def test_a_cleanup_that_uses_its_own_object_is_told_that_it_is_being_released(manager: SafetyManager) -> None:
    for place in (ANY_THREAD, BACKGROUND):
        told: list[AccessRefusedError] = []
        handle = manager.register(Native(), "native", release=Native.free, release_on=place)

        def touch(told: list[AccessRefusedError] = told, id: int = handle.id) -> None:
            for use in (lambda: manager.safe_access(id, repr), lambda: manager.add_cleanup(id, print)):
                try:
                    use()
                except AccessRefusedError as error:
                    told.append(error)

        manager.add_cleanup(handle, touch)
        assert handle.close(timeout=SOON)
        assert len(told) == 2
        assert all(f"object {handle.id}" in str(error) and "this very call" in str(error) for error in told)


@pytest.mark.parametrize("timeout", [None, 3600.0])
@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND])
@pytest.mark.parametrize("how", ["close", "unregister"])
def test_one_that_waits_for_its_own_object_is_told_so(timeout: float | None, place: Any, how: str) -> None:
    with SafetyManager(PATIENT) as manager:
        native = Native()
        handle = manager.register(native, "native", release=Native.free, release_on=place)
        told: list[CircularCloseError] = []

        def wait() -> None:
            try:
                if how == "close":
                    handle.close(timeout=timeout)
                else:
                    manager.unregister(handle, timeout=timeout)
            except CircularCloseError as error:
                told.append(error)

        manager.add_cleanup(handle, wait)
        began = time.monotonic()
        assert handle.close(timeout=SOON)
        assert time.monotonic() - began < SOON
        assert f"object {handle.id} -> object {handle.id}" in str(told[0])
        assert native.released == 1
        assert_nothing_left(manager)


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND])
@pytest.mark.parametrize("length", [2, 3])
def test_a_circle_on_one_thread_is_told(place: Any, length: int) -> None:
    """Each object's cleanup waits for the end of the next; the last one's for that of the first."""
    with SafetyManager(PATIENT) as manager:
        natives = [Native(str(number)) for number in range(length)]
        handles = [
            manager.register(native, "native", release=Native.free, release_on=place) for native in natives
        ]
        for handle, following in zip(handles, [*handles[1:], handles[0]], strict=True):
            manager.add_cleanup(handle, lambda following=following: following.close(timeout=None))
        assert handles[0].close(timeout=SOON)
        assert [native.released for native in natives] == [1] * length
        assert manager.stats().finalizer_failures == 1  # the last one's cleanup
        assert_nothing_left(manager)


def test_a_circle_through_the_threads_of_two_queues_is_told() -> None:
    """Each is drained by a thread whose release waits for the other's: nobody else could end it."""
    with SafetyManager(PATIENT) as one, SafetyManager(PATIENT) as other:
        natives = [Native("one"), Native("other")]
        meet = threading.Barrier(2)
        queues: list[ReleaseQueue] = []
        handles: list[Any] = []
        ready = threading.Barrier(2)
        told: list[CircularCloseError] = []

        def owner(number: int, manager: SafetyManager) -> None:
            queue = ReleaseQueue(f"queue {number}", thread="current")
            queues.append(queue)
            handle = manager.register(natives[number], "native", release=Native.free, release_on=queue)
            handles.append(handle)
            ready.wait(SOON)

            def wait_for_the_other() -> None:
                meet.wait(SOON)
                mine = handles.index(handle)
                try:
                    handles[1 - mine].close(timeout=None)
                except CircularCloseError as error:
                    told.append(error)

            manager.add_cleanup(handle, wait_for_the_other)
            handle.close()

        began = time.monotonic()
        at_once(lambda: owner(0, one), lambda: owner(1, other), patience=60)
        assert time.monotonic() - began < SOON
        assert told
        assert [native.released for native in natives] == [1, 1]


def test_waiting_for_another_release_is_no_circle() -> None:
    """Only a chain of waits that comes back is one: a cleanup may wait for what another thread releases, for
    as long as it likes."""
    with SafetyManager(PATIENT) as manager:
        begun, go_on = threading.Event(), threading.Event()

        def slow(native: Native) -> None:
            begun.set()
            assert go_on.wait(SOON)
            native.free()

        other = manager.register(Native(), "slow", release=slow)
        other.close(timeout=0)
        assert begun.wait(SOON)
        handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
        answers: list[bool] = []
        manager.add_cleanup(handle, lambda: answers.append(other.close(timeout=None)))
        thread = threading.Thread(target=handle.close)
        thread.start()
        time.sleep(1.2)  # it has asked itself three times whether this is a circle
        assert not answers
        go_on.set()
        thread.join(SOON)
        eventually(
            lambda: answers == [True], timeout=SOON
        )  # without the GIL it dies when its own thread runs again
        assert_nothing_left(manager)


def test_a_release_that_closes_its_manager_and_waits_for_everything_ends() -> None:
    manager = SafetyManager(PATIENT)
    closed: list[bool] = []

    def close_all(native: Native) -> None:
        native.free()
        closed.append(manager.close(timeout=None).ok)

    native = Native()
    handle = manager.register(native, "native", release=close_all, release_on=ANY_THREAD)
    began = time.monotonic()
    handle.close()
    assert time.monotonic() - began < SOON
    assert closed == [False]  # one was left: that which was being released
    assert native.released == 1


def test_a_cleanup_whose_body_would_run_later_is_told(manager: SafetyManager) -> None:
    async def later() -> None:
        raise AssertionError

    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    reasons: list[str] = []
    manager.add_observer(lambda event: reasons.append(event.fields.get("reason", "")))
    manager.add_cleanup(handle, lambda: later())
    assert handle.close()
    eventually(lambda: any("the cleanup returned a coroutine" in reason for reason in reasons), timeout=20)


def test_the_collector_at_every_line_of_cleaning_changes_nothing(manager: SafetyManager) -> None:
    order: list[str] = []
    with every_line(collector()):
        handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
        for name in "abc":
            manager.add_cleanup(handle, order.append, name)
        inner = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
        manager.add_cleanup(handle, inner.close)
        assert handle.close()
    assert order == ["c", "b", "a"]


def test_cleanups_added_while_it_is_closed_run_or_are_refused(manager: SafetyManager) -> None:
    """From many threads: none is lost, none runs twice, none after the release."""

    def add(handle: Handle[list[Any]], accepted: list[int], number: int, log: list[Any]) -> None:
        try:
            manager.add_cleanup(handle, log.append, number)
            accepted.append(number)
        except AccessRefusedError:
            pass

    for _ in range(40):
        log: list[Any] = []
        accepted: list[int] = []
        handle = manager.register(log, "list", release=release_of)
        adders = [functools.partial(add, handle, accepted, number, log) for number in range(4)]
        at_once(handle.close, *adders)
        assert handle.close(timeout=SOON)
        assert log[-1] == "release"
        assert sorted(log[:-1]) == sorted(accepted)


def release_of(log: list[Any]) -> None:
    log.append("release")


def test_of_two_first_cleanups_none_is_lost_in_any_order(manager: SafetyManager) -> None:
    """The list is made by whoever comes first, without a lock."""
    log: list[Any] = []
    handle = manager.register(log, "list", release=release_of)

    def scene() -> list[Callable[[], object]]:
        nonlocal handle
        handle.close(timeout=SOON)
        log.clear()
        handle = manager.register(log, "list", release=release_of, unique=False)
        return [functools.partial(manager.add_cleanup, handle, log.append, number) for number in range(2)]

    runs = 0
    for run in interleavings(scene, of=code_of(Record.made, Record.more), switches=3, limit=int(300 * STORM)):
        runs += 1
        assert handle.close(timeout=SOON), run
        assert sorted(log[:-1]) == [0, 1], run
        assert log[-1] == "release", run
    assert runs > 100
