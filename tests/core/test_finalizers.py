"""Safe finalizers: a timed, counted, contained action at the death of any Python object."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from lifecycle import RegistrationError, SafetyConfig, SafetyManager
from lifecycle.errors import CallbackError
from tests.core.natives import Panic
from tests.support import eventually


class Thing:
    """Something that can be watched."""

    def method(self) -> None:
        """A method that reaches it."""


def test_it_runs_once_its_object_is_gone(manager: SafetyManager) -> None:
    ran: list[Any] = []
    thing = Thing()
    finalizer = manager.set_safe_finalizer(
        thing, lambda *args: ran.append((args, threading.get_ident())), 1, "two"
    )
    time.sleep(0.02)
    assert ran == []
    assert finalizer.alive
    assert finalizer.state == "valid"
    del thing
    eventually(lambda: ran)
    assert ran[0][0] == (1, "two")
    assert ran[0][1] != threading.get_ident()
    eventually(lambda: finalizer.state == "released")
    assert not finalizer.alive
    assert len(ran) == 1
    assert manager.stats().leaks == 0


def test_it_runs_after_a_collection_too(manager: SafetyManager) -> None:
    """I4: never inside the collector."""
    ran: list[int] = []

    class Node:
        def __init__(self) -> None:
            self.me = self

    for _ in range(10):
        manager.set_safe_finalizer(Node(), lambda: ran.append(threading.get_ident()))
    gc.collect()
    eventually(lambda: len(ran) == 10)
    assert threading.get_ident() not in ran


def test_several_may_watch_one_object(manager: SafetyManager) -> None:
    ran: list[str] = []
    thing = Thing()
    for label in ("a", "b", "c"):
        manager.set_safe_finalizer(thing, ran.append, label)
    del thing
    eventually(lambda: sorted(ran) == ["a", "b", "c"])


def test_cancelled_it_never_runs(manager: SafetyManager) -> None:
    ran: list[str] = []
    thing = Thing()
    finalizer = manager.set_safe_finalizer(thing, ran.append, "never")
    assert finalizer.cancel() is True
    assert finalizer.cancel() is False
    assert not finalizer.alive
    assert finalizer.state == "detached"
    del thing
    gc.collect()
    time.sleep(0.1)
    assert ran == []
    figures = manager.stats()
    assert (figures.detached, figures.active_objects, figures.leaks) == (1, 0, 0)


def test_cancelling_what_ran_says_so(manager: SafetyManager) -> None:
    ran: list[str] = []
    thing = Thing()
    finalizer = manager.set_safe_finalizer(thing, ran.append, "ran")
    del thing
    eventually(lambda: ran)
    assert finalizer.cancel() is False
    eventually(lambda: finalizer.state == "released")


def test_it_runs_when_the_manager_closes_though_its_object_lives() -> None:
    ran: list[str] = []
    thing = Thing()
    manager = SafetyManager()
    manager.set_safe_finalizer(thing, ran.append, "at close")
    report = manager.close()
    assert ran == ["at close"]
    assert report.released == 1
    del thing
    gc.collect()
    time.sleep(0.05)
    assert ran == ["at close"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), Panic("rust"), SystemExit(1)], ids=lambda e: type(e).__name__
)
def test_one_that_raises_is_counted_and_harms_no_other(manager: SafetyManager, error: BaseException) -> None:
    """I6."""
    ran: list[str] = []

    def bad() -> None:
        raise error

    for fn in (bad, lambda: ran.append("good"), bad, lambda: ran.append("good")):
        manager.set_safe_finalizer(Thing(), fn)
    eventually(lambda: len(ran) == 2 and manager.stats().active_objects == 0)
    figures = manager.stats()
    assert (figures.finalizer_failures, figures.failed, figures.released) == (2, 2, 2)


def test_one_that_hangs_is_stuck_and_stops_nothing() -> None:
    """I6."""
    go_on = threading.Event()
    ran: list[str] = []
    with SafetyManager(SafetyConfig(finalizer_timeout=0.1)) as manager:
        thing = Thing()
        finalizer = manager.set_safe_finalizer(thing, go_on.wait, 20)
        del thing
        eventually(lambda: finalizer.state == "stuck")
        manager.set_safe_finalizer(Thing(), ran.append, "next")
        eventually(lambda: ran == ["next"])
        assert manager.stats().finalizer_failures == 1
        go_on.set()
        eventually(lambda: finalizer.state == "released")


def test_a_watch_whose_callback_was_lost_is_swept() -> None:
    """I3: CPython prints what a weakref callback raises, as where memory has run out, and forgets the
    callback."""
    ran: list[str] = []
    with SafetyManager(SafetyConfig(cleanup_interval=0.05)) as manager:
        thing = Thing()
        finalizer = manager.set_safe_finalizer(thing, ran.append, "swept")
        (id, (_, handle)) = next(iter(finalizer._table.items()))
        finalizer._table[id] = (weakref.ref(thing), handle)
        del handle
        del thing
        eventually(lambda: ran == ["swept"])


# -- what could never run ------------------------------------------------------------------------------------


def closure_over(thing: Thing) -> Any:
    return lambda: thing


def nested_closure(thing: Thing) -> Any:
    inner = {"deep": [(thing,)]}
    return lambda: inner


def default_argument(thing: Thing) -> Any:
    def fn(kept: Thing = thing) -> Thing:
        return kept

    return fn


def keyword_default(thing: Thing) -> Any:
    def fn(*, kept: Thing = thing) -> Thing:
        return kept

    return fn


def callable_object(thing: Thing) -> Any:
    class Call:
        def __init__(self) -> None:
            self.kept = thing

        def __call__(self) -> None:
            pass

    call = Call()
    return call


@pytest.mark.parametrize(
    "reaching",
    [
        closure_over,
        nested_closure,
        default_argument,
        keyword_default,
        callable_object,
        lambda thing: thing.method,
        lambda thing: functools.partial(print, thing),
        lambda thing: functools.partial(print, end=thing),
        lambda thing: [thing].clear,
    ],
    ids=[
        "closure",
        "nested",
        "default",
        "keyword",
        "callable",
        "method",
        "partial",
        "partial-keyword",
        "builtin-method",
    ],
)
def test_a_finalizer_that_reaches_its_object_is_refused(manager: SafetyManager, reaching: Any) -> None:
    """I9: it would never run; nothing is left behind by the refusal."""
    thing = Thing()
    with pytest.raises(
        RegistrationError, match=r"keeps its own Thing object alive.*never run.*give it what it needs"
    ):
        manager.set_safe_finalizer(thing, reaching(thing))
    assert manager.stats().total_objects == 0


def test_arguments_that_reach_the_object_are_refused(manager: SafetyManager) -> None:
    thing = Thing()
    for args in ((thing,), ([thing],), ({"a": thing},)):
        with pytest.raises(RegistrationError, match="keeps its own Thing"):
            manager.set_safe_finalizer(thing, print, *args)
    assert manager.stats().total_objects == 0


@pytest.mark.parametrize("thing", [5, "text", (), [], {}, None], ids=repr)
def test_what_cannot_be_weakly_referenced_is_refused(manager: SafetyManager, thing: Any) -> None:
    """I9."""
    with pytest.raises(
        RegistrationError, match=rf"a {type(thing).__name__} cannot be weakly referenced.*class of yours"
    ):
        manager.set_safe_finalizer(thing, print)
    assert manager.stats().total_objects == 0


def test_handles_are_refused_by_name(manager: SafetyManager) -> None:
    with manager.register(Thing()) as handle:
        with pytest.raises(RegistrationError, match=r"not a handle.*add_cleanup"):
            manager.set_safe_finalizer(handle, print)


def test_what_is_no_plain_callable_is_refused(manager: SafetyManager) -> None:
    async def later() -> None:
        pass

    with pytest.raises(RegistrationError, match="finalizer must be callable"):
        manager.set_safe_finalizer(Thing(), 42)  # type: ignore[arg-type]
    with pytest.raises(CallbackError, match="coroutine"):
        manager.set_safe_finalizer(Thing(), later)
    assert manager.stats().total_objects == 0


def test_no_python_runs_at_the_death_of_the_object(manager: SafetyManager) -> None:
    """So no signal that is pending is raised there, to be printed and forgotten together with the action."""
    ran: list[str] = []
    called = threading.Event()
    thing = Thing()
    finalizer = manager.set_safe_finalizer(thing, called.set)
    sys.setprofile(lambda frame, event, arg: ran.append(frame.f_code.co_name) if event == "call" else None)
    del thing
    sys.setprofile(None)
    assert not ran
    assert not finalizer.alive
    assert called.wait(20)
