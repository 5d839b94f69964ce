"""Limits are exact, with threads and interrupts, and cost the same with any number of objects alive."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

from lifecycle import ANY_THREAD, MemoryConfig, MemoryManager, Profiler, SafetyManager
from lifecycle._core import release as releases
from lifecycle._core.handle import Handle
from lifecycle._core.tables import ObjectType
from lifecycle.errors import BudgetError, DuplicateError, LimitError
from lifecycle.manager import policies
from lifecycle.manager.factory import Places
from lifecycle.testing import code_of, interleavings
from tests.core.adversary import TRACING_KEEPS_LOCALS, Struck, each_interrupt, every_line, library


def register(manager: SafetyManager, size: int = 0) -> Handle[object]:
    return manager.register(object(), "thing", release=lambda _: None, release_on=ANY_THREAD, size=size)


def room(manager: SafetyManager, size: int = 0) -> int:
    """How many more fit. Nothing is left of them."""
    handles: list[Handle[object]] = []
    try:
        while len(handles) < 10:
            handles.append(register(manager, size))
    except LimitError:
        pass
    finally:
        for handle in handles:
            handle.close()
    return len(handles)


def let_go(struck: Struck[Any]) -> None:
    """A kept traceback keeps the handle with which a method was just being called."""
    if struck.error is not None:
        struck.error.__traceback__ = None


class Walked(dict[Any, Any]):
    """Counts how often all of it was looked at."""

    walks = 0

    def values(self) -> Any:
        self.walks += 1
        return super().values()

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        return super().__iter__()


def test_a_registration_does_not_walk_what_is_alive(manager: SafetyManager) -> None:
    manager.policy("thing", max_bytes=1000, max_live=500)
    kept = [register(manager, 1) for _ in range(100)]
    register(manager, 1).close()
    kind = kept[0]._record.kind
    kind.alive = alive = Walked(kind.alive or {})
    for _ in range(20):
        register(manager, 1).close()
    assert alive.walks == 0
    for handle in kept:
        handle.close()
    assert room(manager, 100) == 10
    with pytest.raises(LimitError, match=r"max_bytes=1000: 0 objects with 0 bytes .* 1001 more"):
        register(manager, 1001)


def test_the_refusal_says_what_is_held(manager: SafetyManager) -> None:
    manager.policy("thing", max_bytes=100)
    first, second = register(manager, 60), register(manager, 30)
    with pytest.raises(LimitError, match=rf"2 objects with 90 bytes .* object {first.id} "):
        register(manager, 20)
    first.close()
    with register(manager, 70):
        pass
    second.close()


@pytest.mark.parametrize("how", ["factory", "type"])
def test_what_only_garbage_holds_makes_room(manager: SafetyManager, how: str) -> None:
    manager.policy("buffer", max_live=2 if how == "type" else None)
    make = manager.factory(
        bytearray,
        "buffer",
        release=bytearray.clear,
        release_on=ANY_THREAD,
        limit=2 if how == "factory" else None,
    )
    for _ in range(2):
        box: list[object] = [make(8)]
        box.append(box)
    del box
    make(8).close()


def test_an_interrupt_at_each_point_of_a_registration(manager: SafetyManager) -> None:
    """What was struck counts, or does not, as its object lives or does not. Nothing is counted twice."""
    manager.policy("thing", max_live=2, max_bytes=25)
    kept = register(manager, 10)

    def run() -> None:
        register(manager, 10).close()

    for struck in each_interrupt(run, of=code_of(ObjectType.reserve, releases)):
        let_go(struck)
        assert room(manager, 16) == 0, struck.place
        # Last: what it closes is still to be counted when the next one is struck.
        assert room(manager, 15) == 1, struck.place
    kept.close()


def test_a_handler_that_registers_in_the_middle_of_a_registration(manager: SafetyManager) -> None:
    """The limit holds for both, and is not taken for reached while there is room."""
    manager.policy("thing", max_live=2, max_bytes=20)
    kept = register(manager, 10)
    inner: list[Handle[object]] = []

    def handler() -> None:
        try:
            inner.append(register(manager, 10))
        except LimitError:
            return

    lines = 0
    while True:
        inner.clear()
        passed = 0

        def at_line() -> None:
            nonlocal passed
            passed += 1
            if passed == lines + 1:
                handler()

        outer = None
        with every_line(at_line, of=code_of(ObjectType.reserve)) as struck:
            try:
                outer = register(manager, 10)
            except LimitError:
                pass
        assert len(inner) + (outer is not None) == 1, f"line {lines}"
        for handle in (outer, *inner):
            if handle is not None:
                handle.close()
        assert room(manager, 10) == 1
        lines += 1
        if lines > struck.passed:
            break
    kept.close()


def test_of_two_that_register_at_once_as_many_as_fit_are_taken(manager: SafetyManager) -> None:
    manager.policy("thing", max_live=2, max_bytes=30)
    kept = register(manager, 10)

    def attempt(size: int) -> Handle[object] | None:
        try:
            return register(manager, size)
        except LimitError:
            return None

    def scene() -> list[Callable[[], object]]:
        return [lambda: attempt(20), lambda: attempt(20)]

    for run in interleavings(scene, of=code_of(ObjectType.reserve), switches=1):
        got: list[Any] = [outcome.result for outcome in run.outcomes]
        assert got.count(None) == 1, run
        for handle in got:
            if handle is not None:
                handle.close()
    kept.close()


def test_a_limit_that_is_set_while_objects_end(manager: SafetyManager) -> None:
    """None of those that ended meanwhile counts for ever."""
    handles: list[Handle[object]] = []

    def scene() -> list[Callable[[], object]]:
        manager.policy("thing", max_live=None)
        handles[:] = [register(manager)]
        closing = handles[0]
        return [closing.close, lambda: manager.policy("thing", max_live=1)]

    of = code_of(releases.finish, ObjectType.limit, policies.set_policy)
    for run in interleavings(scene, of=of, switches=1):
        assert room(manager) == 1, run


# -- factories -----------------------------------------------------------------------------------------------


def test_of_two_that_call_a_factory_at_once_one_gets_the_last_place(manager: SafetyManager) -> None:
    make: Callable[[], Handle[list[Any]]] = manager.factory(
        list, "list", release=list.clear, release_on=ANY_THREAD, limit=1
    )

    def attempt() -> Handle[Any] | None:
        try:
            return make()
        except LimitError:
            return None

    def scene() -> list[Callable[[], object]]:
        return [attempt, attempt]

    for run in interleavings(scene, of=code_of(Places.take, Places.pop, make), switches=2):
        got: list[Any] = [outcome.result for outcome in run.outcomes]
        taken = [handle for handle in got if handle is not None]
        assert len(taken) == 1, run
        taken[0].close()
    with make(), pytest.raises(LimitError, match="at its limit: 1 of 1"):
        make()


def test_a_factory_gives_its_place_back_however_it_ends(manager: SafetyManager) -> None:
    failing = manager.factory(lambda: 1 / 0, "number", release=None, limit=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            failing()
    one: list[object] = []
    same = manager.factory(lambda: one, "list", release=lambda _: None, release_on=ANY_THREAD, limit=2)
    with same():
        for _ in range(3):
            with pytest.raises(DuplicateError):
                same()
    manager.policy("limited", max_live=1)
    limited = manager.factory(object, "limited", release=lambda _: None, release_on=ANY_THREAD, limit=3)
    with limited():
        for _ in range(5):
            with pytest.raises(LimitError, match="max_live=1"):
                limited()
    limited().close()


@pytest.mark.parametrize("borrowed", [False, True])
def test_an_interrupt_at_each_point_of_a_factory(manager: SafetyManager, borrowed: bool) -> None:
    release = None if borrowed else list.clear
    make: Callable[[], Handle[list[Any]]] = manager.factory(
        list, "list", release=release, release_on=ANY_THREAD, limit=2
    )
    kept = make()
    for struck in each_interrupt(lambda: make().close(), step=3):
        let_go(struck)
        with make(), pytest.raises(LimitError):
            make()
    kept.close()


# -- budgets -------------------------------------------------------------------------------------------------


def test_a_handler_that_tracks_in_the_middle_of_tracking() -> None:
    """The budget holds for both."""
    with MemoryManager(config=MemoryConfig(max_live=1)) as memory:
        inner: list[int] = []
        lines = 0
        while True:
            inner.clear()
            passed = 0

            def at_line() -> None:
                nonlocal passed
                passed += 1
                if passed == lines + 1:
                    try:
                        inner.append(
                            memory.track_object(object(), "thing", 1, release=str, release_on=ANY_THREAD)
                        )
                    except BudgetError:
                        return

            outer = None
            with every_line(at_line, of=code_of(MemoryManager._try)) as struck:
                try:
                    outer = memory.track_object(object(), "thing", 1, release=str, release_on=ANY_THREAD)
                except BudgetError:
                    pass
            assert len(inner) + (outer is not None) == 1, f"line {lines}"
            for id in (*inner, outer):
                if id is not None:
                    memory.release_object(id)
            assert memory.stats_of_all().objects == 0
            lines += 1
            if lines > struck.passed:
                break


# -- what others change meanwhile ----------------------------------------------------------------------------


@contextmanager
def every_opcode(action: Callable[[], object], of: Callable[[CodeType], bool]) -> Iterator[list[int]]:
    """As `every_line`, before every instruction."""
    strikes: list[int] = [0]

    def local(frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            strikes[0] += 1
            # Nothing is traced in here.
            action()
        return local

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not of(frame.f_code):
            return None
        frame.f_trace = local
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True
    try:
        sys.settrace(trace)
        yield strikes
    finally:
        sys.settrace(before)


def test_policies_and_profilers_that_come_and_go_before_each_instruction(manager: SafetyManager) -> None:
    """What is asked before an access is read once: none of these raises, whatever another thread does in
    between."""
    profiler = Profiler(manager)
    handle = register(manager, 1)
    kind = handle._record.kind
    ledger = manager._maintenance.ledger
    on = False
    period = countdown = 1

    def toggle() -> None:
        """As `Profiler.start`, `Profiler.stop` and `SafetyManager.policy`, without waiting for the keeper."""
        nonlocal on, countdown
        countdown -= 1
        if countdown:
            return
        countdown = period
        on = not on
        manager._registry.timer = kind.timer = ledger.profiler = profiler if on else None
        limit = 100 if on else None
        manager.policy(
            "thing", max_live=limit, max_bytes=limit, max_age=limit, validate=(lambda _: True) if on else None
        )

    gc.disable()
    try:
        with every_opcode(toggle, library) as strikes:
            # Two looks with an even number of instructions between them see the same if each one changes it.
            for period, on in itertools.product((1, 3, 4, 5), (False, True)):  # noqa: B007 - toggle() uses it
                countdown = period
                with register(manager, 1) as made:
                    with made.lease():
                        pass
                    manager.safe_access(made, lambda _: None)
                    manager.safe_access(made.id, lambda _: None)
                    with manager.safe_access(made):
                        pass
                    if not TRACING_KEEPS_LOCALS:  # there a traced frame counts as a holder
                        with made.exclusive():
                            pass
            ledger.leaks.look()
    finally:
        gc.enable()
        manager._registry.timer = kind.timer = ledger.profiler = None
        manager.policy("thing", max_live=None, max_bytes=None, max_age=None, validate=None)
    assert strikes[0] > 500
    handle.close()


def test_a_validator_stays_while_a_profiler_comes_and_goes(manager: SafetyManager) -> None:
    handle = register(manager)
    kind = handle._record.kind
    asked: list[object] = []

    def scene() -> list[Callable[[], object]]:
        manager.policy("thing", validate=None)
        kind.timer = None
        kind.watch()
        return [
            lambda: manager.policy("thing", validate=lambda obj: asked.append(obj) or True),
            lambda: (setattr(kind, "timer", Profiler(manager)), kind.watch()),
        ]

    for run in interleavings(scene, of=code_of(ObjectType.watch, policies.set_policy), switches=1):
        asked.clear()
        handle.lease().close()
        assert asked, run
    manager.policy("thing", validate=None)
    kind.timer = None
    kind.watch()
    handle.close()


def test_what_is_larger_than_the_limit_is_told_that_it_never_fits(manager: SafetyManager) -> None:
    manager.policy("large", max_bytes=10)
    with pytest.raises(
        LimitError, match=r"are out and 11 more were asked for\. It can never be taken: raise"
    ):
        manager.register([1], "large", release=list.clear, release_on=ANY_THREAD, size=11)
    assert manager.stats().active_objects == 0
