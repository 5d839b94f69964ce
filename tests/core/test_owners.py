"""One native, one owner: a true second owner is refused, and who comes after the first is not."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest

from lifecycle import ANY_THREAD, Handle, NotReleased, ReleaseQueue, SafetyManager, never_wait
from lifecycle._core.register import withdraw
from lifecycle._core.tables import owners
from lifecycle.errors import DuplicateError
from lifecycle.testing import code_of, each_interrupt, switching
from tests.support import eventually


@pytest.mark.parametrize("how", ["number", "object"])
def test_who_comes_while_the_release_runs_waits_for_it(manager: SafetyManager, how: str) -> None:
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []
    native: Any = 7 if how == "number" else [7]
    facts: dict[str, Any] = {"native": 7} if how == "number" else {}

    def release(_: object) -> None:
        inside.set()
        go_on.wait(20)
        order.append("first is over")

    first = manager.register(native, "fd", release=release, release_on=ANY_THREAD, **facts)
    closing = threading.Thread(target=first.close)
    closing.start()
    inside.wait(20)
    letting = threading.Timer(0.01, go_on.set)
    letting.start()
    second = manager.register(
        native, "fd", release=lambda _: order.append("second"), release_on=ANY_THREAD, **facts
    )
    go_on.set()
    closing.join()
    with pytest.raises(DuplicateError, match="valid"):
        manager.register(native, "fd", release=print, release_on=ANY_THREAD, **facts)
    second.close()
    assert order == ["first is over", "second"]
    assert not [record for record in owners.values() if record.kind.registry is manager._registry]


@pytest.mark.parametrize("how", ["inside the release", "never_wait", "in the collector"])
def test_who_must_not_wait_takes_over_at_once(manager: SafetyManager, how: str) -> None:
    """The native is free inside its release: a descriptor that was closed, a buffer on its way to the next.
    Waiting there would be waiting for oneself, for a streaming thread, or in the collector."""
    taken: list[Handle[Any]] = []

    def take() -> None:
        taken.append(manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7))

    class Dying:
        def __del__(self) -> None:
            take()

    def release(_: object) -> None:
        if how == "inside the release":
            take()
        elif how == "never_wait":
            with never_wait():
                take()
        else:
            dying: Any = Dying()
            dying.me = dying
            del dying
            gc.collect()

    manager.register([], "fd", release=release, release_on=ANY_THREAD, native=7).close()
    assert len(taken) == 1
    with pytest.raises(DuplicateError):  # what the first left behind on its way out is the second's
        manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7)
    taken[0].close()


def test_an_owner_whose_release_has_not_begun_has_the_native(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle: Handle[Any] = manager.register([], "texture", release=list.clear, release_on=queue, native=7)
    lease = handle.lease()
    handle.close()
    for state in ("closing", "due"):
        with pytest.raises(DuplicateError, match=state):
            manager.register([], "texture", release=list.clear, release_on=queue, native=7)
        lease.close()
    queue.drain()
    manager.register([], "texture", release=list.clear, release_on=queue, native=7).close()
    queue.drain()


def test_an_owner_whose_release_is_to_be_called_again_has_the_native(manager: SafetyManager) -> None:
    calls: list[int] = []

    def release(_: object) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise NotReleased("busy")

    handle: Handle[Any] = manager.register([], "fd", release=release, release_on=ANY_THREAD, native=7)
    handle.close()
    if len(calls) < 3:
        with pytest.raises(DuplicateError):
            manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7)
    eventually(lambda: handle.close(timeout=20))
    manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7).close()


def test_a_storm_of_descriptors(manager: SafetyManager) -> None:
    """Four threads open and close descriptors, which the kernel gives out again at once: none is refused. Now
    and then one is registered twice on purpose: each of those is."""
    false_alarms: list[str] = []
    missed: list[int] = []
    planted: list[int] = []

    def work() -> None:
        for turn in range(1500):
            for number in os.pipe():
                try:
                    handle = manager.register(
                        number, "fd", release=os.close, release_on=ANY_THREAD, native=number
                    )
                except DuplicateError as error:
                    false_alarms.append(str(error))
                    os.close(number)
                    continue
                if turn % 20 == 0:
                    planted.append(number)
                    try:
                        manager.register(number, "fd", release=print, release_on=ANY_THREAD, native=number)
                        missed.append(number)
                    except DuplicateError:
                        pass
                handle.close()

    with switching():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not false_alarms, (len(false_alarms), false_alarms[0])
    assert not missed
    assert len(planted) == 4 * 75 * 2


def test_an_interrupt_as_a_second_owner_is_refused_leaves_no_entry_of_it(manager: SafetyManager) -> None:
    """An entry would keep the object of the refused registration for ever."""
    first = manager.register(Target(), "native", native=7, release=id)
    points = 0
    for _ in each_interrupt(
        lambda: outcome(lambda: manager.register(Target(), "native", native=7, release=id)),
        of=code_of(withdraw),
    ):
        points += 1
        eventually(
            lambda: sum(record.kind.registry is manager._registry for record in list(owners.values())) == 2
        )
    assert points > 3
    first.close()


class Target:
    """Owned."""


def outcome(make: Any) -> None:
    """Refused."""
    with pytest.raises(DuplicateError):
        make()
