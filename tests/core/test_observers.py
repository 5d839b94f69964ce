"""I6 for those who watch: an observer, a log or a standard error stream that blocks for ever, or raises,
costs nobody else anything: counts, sweeps, deadlines, retries and the end of the process go on."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import structlog

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    Event,
    Handle,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.observe.observers import OBSERVER_LIMIT
from tests.core.adversary import assert_nothing_left, in_own_process
from tests.support import SOON, eventually

CONFIG = SafetyConfig(
    finalizer_timeout=0.25,
    cleanup_interval=0.05,
    state_retention=0.2,
    log_state_changes=True,
    log_finalizers=True,
)


class Node:
    pass


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Something to wait for, for ever as far as the test goes."""
    event = threading.Event()
    yield event
    event.set()


def all_goes_on(manager: SafetyManager, number: int = 3 * OBSERVER_LIMIT) -> None:
    """Counts are exact and prompt, what is past its deadline is declared, retries come, records expire,
    finalizers are found."""
    released: deque[Node] = deque()
    handles = [
        manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD)
        for _ in range(number)
    ]
    for handle in handles[::2]:
        handle.close()
    del handles[:], handle
    manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD).close()
    began = time.monotonic()
    eventually(lambda: manager.stats().types["node"].live == 0)
    stats = manager.stats()
    assert time.monotonic() - began < SOON
    assert stats.types["node"].registered == len(released) == number + 1
    eventually(lambda: manager.stats().keeper_last_run > time.time() - SOON)

    hangs = threading.Event()
    stuck = manager.register(Node(), "stuck", release=lambda node: hangs.wait(10), release_on=BACKGROUND)
    began = time.monotonic()
    assert stuck.close() is False
    assert stuck.state == "stuck"
    assert time.monotonic() - began < SOON
    hangs.set()
    eventually(lambda: stuck.state == "released")

    refusals = [NotReleased("not yet"), NotReleased("nor now")]

    def release(node: Node) -> None:
        if refusals:
            raise refusals.pop()

    retried = manager.register(Node(), "retried", release=release)
    assert retried.close(timeout=5) is True
    assert manager.stats().types["retried"].retries == 2

    ran = threading.Event()
    target = Node()
    manager.set_safe_finalizer(target, ran.set)
    del target
    assert ran.wait(20)

    id = manager.register(Node(), "expiring", keep=True).id
    manager.unregister(id)
    eventually(lambda: id not in manager._registry.records)
    assert manager.health().keeper_alive


def test_an_observer_that_blocks_for_ever(never: threading.Event) -> None:
    manager = SafetyManager(CONFIG)
    told: list[Event] = []

    def block(event: Event) -> None:
        told.append(event)
        never.wait(60)

    manager.add_observer(block)
    all_goes_on(manager)
    assert len(told) == 1
    stats = manager.stats()
    assert stats.observer_events_dropped > OBSERVER_LIMIT
    assert not manager.health().ok
    assert "not told" in " ".join(manager.health().problems)
    began = time.monotonic()
    manager.close()
    assert time.monotonic() - began < SOON
    assert_nothing_left(manager)


def test_an_observer_that_raises() -> None:
    class Panic(BaseException):
        pass

    told: Counter[str] = Counter()
    raised = Counter[type]()

    def bad(event: Event) -> None:
        error = [ZeroDivisionError, Panic, SystemExit, KeyboardInterrupt][raised.total() % 4]
        raised[error] += 1
        raise error

    def good(event: Event) -> None:
        told[event.kind] += 1

    with SafetyManager(CONFIG) as manager:
        manager.add_observer(bad)
        manager.add_observer(good)
        all_goes_on(manager, 100)
        eventually(lambda: told["released"] >= 104)  # the one that was stuck is told as stuck, and as late
        assert told["registered"] >= 105
        assert told["leak"] >= 1
        eventually(lambda: told["stuck"] == told["late"] == 1)
        assert told["retry"] == 2
        eventually(lambda: raised.total() == told.total())
        assert manager.stats().observer_events_dropped == 0
        assert_nothing_left(manager)


def test_an_observer_that_uses_the_manager() -> None:
    """It runs on a thread of its own under no lock of ours: it may ask, register, close, and add or remove
    observers."""
    answers: deque[int] = deque()
    released: deque[Node] = deque()
    with SafetyManager(SafetyConfig(leak_level="off")) as manager:

        def observe(event: Event) -> None:
            if event.type_name != "first":
                return
            answers.append(manager.stats().total_objects)
            manager.register(Node(), "second", release=released.append, release_on=BACKGROUND).close()
            manager.register(Node(), "third", release=released.append, release_on=ANY_THREAD)
            manager.add_observer(answers.clear if event is None else lambda event: None)()
            manager.objects()
            manager.health()

        remove = manager.add_observer(observe)
        for _ in range(20):
            manager.register(Node(), "first", release_on=ANY_THREAD).close()
        eventually(lambda: len(answers) == 40)
        remove()
        remove()
        manager.register(Node(), "first", release_on=ANY_THREAD).close()
        eventually(lambda: len(released) == 80)
        stats = assert_nothing_left(manager)
        assert stats.total_objects == 20 + 1 + 80
        assert len(answers) == 40


def test_events_say_what_happened() -> None:
    told: deque[Event] = deque()
    with SafetyManager(SafetyConfig(leak_level="off")) as manager:
        manager.add_observer(told.append)
        handle = manager.register(Node(), "node", name="mine", release=repr, release_on=ANY_THREAD)
        with handle.lease():
            handle.close()
            eventually(lambda: [event.kind for event in told] == ["registered", "closed"])
        manager.stats()
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        eventually(lambda: [event.kind for event in told if event.id == handle.id][2:] == ["released"])
        assert {event.name for event in told if event.id == handle.id} == {"mine"}
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            told[0].kind = "other"  # type: ignore[misc]


def test_a_log_that_blocks_for_ever(never: threading.Event) -> None:
    def block(logger: Any, name: str, event: Any) -> Any:
        never.wait(60)
        raise structlog.DropEvent

    with a_log([block]):
        manager = SafetyManager(CONFIG)
        all_goes_on(manager)
        assert manager.stats().observer_events_dropped > OBSERVER_LIMIT
        manager.close()
        assert_nothing_left(manager)


def test_a_log_that_raises() -> None:
    def bad(logger: Any, name: str, event: Any) -> Any:
        raise ZeroDivisionError

    told: deque[Event] = deque()
    with a_log([bad]), SafetyManager(CONFIG) as manager:
        manager.add_observer(told.append)
        all_goes_on(manager, 100)
        eventually(lambda: len(told) > 200)
        assert manager.stats().observer_events_dropped > 0, "the log is what fails, and that can be seen"
        assert_nothing_left(manager)


class a_log:
    """structlog with these processors, for a block."""

    def __init__(self, processors: list[Callable[..., Any]]) -> None:
        self.processors = processors

    def __enter__(self) -> None:
        self.before = structlog.get_config()
        structlog.configure(processors=self.processors)

    def __exit__(self, *_: object) -> None:
        structlog.configure(**self.before)


# -- leak reports are warnings, and warnings are code of the user's ------------------------------------------


def leaks_as_errors() -> None:
    warnings.simplefilter("error")
    structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])
    with SafetyManager(CONFIG) as manager:
        for _ in range(3):
            manager.register(Node(), "leaked", release=repr, release_on=ANY_THREAD)
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
            time.sleep(0.1)
        all_goes_on(manager)
        assert manager.stats().types["leaked"].leaks == 3


def warnings_that_block() -> None:
    blocked = threading.Event()

    def show(*_: object, **__: object) -> None:
        blocked.set()
        threading.Event().wait(60)

    warnings.simplefilter("always")
    warnings.showwarning = show
    manager = SafetyManager(CONFIG)
    manager.register(Node(), "leaked", release=repr, release_on=ANY_THREAD)
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()
    assert blocked.wait(20)
    all_goes_on(manager)


def a_standard_error_that_blocks() -> None:
    """Everything that the library could write goes into a pipe that is full and that nobody reads."""
    real = os.dup(2)
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(write, True)
    os.dup2(write, 2)
    try:
        manager = SafetyManager(CONFIG)
        for _ in range(20):
            manager.register(Node(), "leaked", release=repr, release_on=ANY_THREAD)
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        all_goes_on(manager)
        began = time.monotonic()
        manager.close()
        assert time.monotonic() - began < SOON
    finally:
        os.dup2(real, 2)
    os._exit(0)  # a blocked stream would hold up the interpreter's own end, which is none of ours


@pytest.mark.parametrize("scene", [leaks_as_errors, warnings_that_block, a_standard_error_that_blocks])
def test_leak_reports_hold_up_nothing(scene: Callable[[], None]) -> None:
    in_own_process(scene, timeout=90)


def an_observer_blocks_at_exit() -> None:
    manager = SafetyManager(SafetyConfig(shutdown_timeout=1.0))
    manager.add_observer(lambda event: threading.Event().wait(600))
    released = []
    kept = manager.register(
        Node(), "node", release=lambda node: print("released at exit"), release_on=ANY_THREAD
    )
    released.append(kept)
    globals()["kept"] = kept


def test_a_blocked_observer_does_not_keep_the_process() -> None:
    assert "released at exit" in in_own_process(an_observer_blocks_at_exit, timeout=60)


@pytest.mark.parametrize("how", ["add_observer", "add_leak_hook", "on_close"])
def test_a_remover_takes_back_its_own_entry_alone(how: str) -> None:
    """The same function added twice, by two plug-ins: one takes its own back twice, and the other's stays."""
    called: list[object] = []

    def hook(*event: object) -> None:
        called.append(event)

    manager = SafetyManager()
    first, _second = (getattr(manager, how)(hook) for _ in range(2))
    first()
    first()
    manager.report("leak", reason="for the hooks")
    manager.stats()
    if how == "on_close":
        manager.close()
    eventually(lambda: len(called) == 1)
    manager.close()
    assert len(called) == 1


@pytest.mark.parametrize(
    "field", ["record", "event", "kind", "type_name", "self", "name", "id", "method_name", "fields"]
)
def test_a_program_calls_its_fields_as_it_likes(field: str) -> None:
    told: list[Event] = []
    lines: list[dict[str, Any]] = []

    def note(logger: object, level: str, line: Any) -> str:
        lines.append(dict(line))
        return ""

    before = structlog.get_config()
    structlog.configure(processors=[note], logger_factory=structlog.ReturnLoggerFactory())
    try:
        with SafetyManager() as manager:
            manager.add_observer(told.append)
            for _ in range(20):
                manager.register([], "list", release=list.clear, release_on=ANY_THREAD).close()
            manager.report("types_capped", **{field: "some"})
            for _ in range(20):
                manager.register([], "list", release=list.clear, release_on=ANY_THREAD).close()
            stats = manager.stats()
        assert (stats.total_objects, stats.active_objects, stats.released) == (40, 0, 40)
        assert [dict(event.fields) for event in told if event.kind == "types_capped"] == [{field: "some"}]
        line = next(line for line in lines if line["event"] == "lifecycle.types_capped")
        assert "some" in line.values()
        assert not [event for event in told if event.kind == "observer_failed"]
    finally:
        structlog.configure(**before)


def test_an_event_that_cannot_be_counted_loses_itself_alone() -> None:
    told: list[Event] = []
    with SafetyManager() as manager:
        manager.add_observer(told.append)
        for _ in range(20):
            manager.register([], "list", release=list.clear, release_on=ANY_THREAD).close()
        for broken in (
            ("no such event",),
            ("panic",),
            ("refused", None, "valid"),
        ):
            manager._registry.events.append(broken)
        manager.report("types_capped", limit=1)
        for _ in range(20):
            manager.register([], "list", release=list.clear, release_on=ANY_THREAD).close()
        stats = manager.stats()
        assert (stats.total_objects, stats.active_objects, stats.released) == (40, 0, 40)
        eventually(lambda: [event.kind for event in told].count("observer_failed") == 3)
        eventually(lambda: [event.kind for event in told].count("types_capped") == 1)
        assert manager.health().keeper_alive


def test_many_that_end_alike_are_told_in_one_line() -> None:
    told: list[Event] = []
    queue = ReleaseQueue("gl")

    def register(type_name: str) -> Handle[Any]:
        return manager.register([], type_name, release=list.clear, release_on=queue)

    with SafetyManager() as manager:
        handles = [register(f"type {n % 2}") for n in range(2001)]
        manager.stats()
        manager.add_observer(told.append)
        queue.lost("context lost")
        assert manager.stats().orphaned == 2001
        few = [register("few") for _ in range(3)]
        queue.lost("lost again")
        manager.stats()
        eventually(lambda: few[-1].id in [event.id for event in told if event.kind == "orphaned"])
    orphaned = [event for event in told if event.kind == "orphaned"]
    together = [event for event in orphaned if "count" in event.fields]
    singly = [event.id for event in orphaned if "count" not in event.fields]
    assert 1 <= len(together) <= 20, "one for each time that the keeper came by"
    assert all(event.id == 0 and "of type type" in event.fields["types"] for event in together)
    assert sum(event.fields["count"] for event in together) + len(singly) == len(handles) + len(few)
    assert set(singly) >= {handle.id for handle in few}
