"""What is made over a manager and dropped unclosed is freed, closed and reported, like a dropped handle; with
nothing in it, freed."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    Event,
    FrameDistributor,
    MemoryManager,
    ObjectLifecycleManager,
    ObjectPool,
    SafetyManager,
)
from lifecycle.testing import each_interrupt
from tests.support import eventually


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is dropped here is told, and not as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


MAKERS: dict[str, Callable[[SafetyManager], Any]] = {
    "memory": MemoryManager,
    "objects": ObjectLifecycleManager,
    "buffers": lambda manager: BufferPool(manager, 100, 2),
    "pool of objects": lambda manager: ObjectPool(manager, list, size=2),
    "distributor": lambda manager: FrameDistributor(2, manager=manager),
}


def callbacks_of(manager: SafetyManager) -> int:
    """How many are to be called when it closes."""
    return len(manager.stopping._callbacks)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_dropped_with_nothing_in_it_it_goes_without_an_alarm(
    manager: SafetyManager, make: Callable[[SafetyManager], Any]
) -> None:
    before = callbacks_of(manager)
    gone = [weakref.ref(make(manager)) for _ in range(50)]
    gc.collect()
    assert [ref() for ref in gone] == [None] * 50
    assert (callbacks_of(manager), len(manager.components())) == (before, 0)
    assert manager.stats().leaks == 0


@pytest.mark.parametrize("make", [MemoryManager, ObjectLifecycleManager])
def test_dropped_with_objects_in_it_they_are_released_and_told(manager: SafetyManager, make: Any) -> None:
    released: list[list[int]] = []
    facade = make(manager)
    register = facade.track_object if isinstance(facade, MemoryManager) else facade.register_object
    ids = [
        register([number], "native", release=released.append, release_on=ANY_THREAD) for number in range(3)
    ]
    facade.safe_object_access(ids[0], list.append, 7)  # the id alone is enough while the facade is there
    with manager.safe_access(ids[1]):
        del facade, register
        assert not manager.is_valid(ids[0])
        gc.collect()
        eventually(lambda: len(released) == 2)  # the third is in use
    eventually(lambda: len(released) == 3)
    assert sorted(map(len, released)) == [1, 1, 2]
    figures = manager.stats().types["native"]
    assert (figures.leaks, figures.closed["drop"], figures.ended["released"], figures.live) == (3, 3, 3, 0)


@pytest.mark.parametrize("make", [MemoryManager, ObjectLifecycleManager])
@pytest.mark.parametrize("held", [False, True])
def test_a_manager_that_it_made_is_closed_and_its_threads_end(make: Any, held: bool) -> None:
    released: list[object] = []
    facade = make(name="of its own")
    register = facade.track_object if isinstance(facade, MemoryManager) else facade.register_object
    register("left", "native", release=released.append)
    facade.close_me = facade  # a cycle: it is dropped in a collection
    made = facade.manager
    assert any(thread.name.endswith("of its own") for thread in threading.enumerate())
    access = made.safe_access(next(iter(facade._index))) if held else None
    del facade, register
    gc.collect()
    eventually(lambda: made.closed)
    assert made.stats().leaks == 1
    if access is not None:
        assert released == []
        with access as obj:
            assert obj == "left"
        del access
    eventually(lambda: released == ["left"])
    eventually(lambda: not any(thread.name.endswith("of its own") for thread in threading.enumerate()))


@pytest.mark.parametrize("make", [MemoryManager, ObjectLifecycleManager])
def test_an_object_that_has_ended_is_no_longer_kept(manager: SafetyManager, make: Any) -> None:
    facade = make(manager)
    register = facade.track_object if isinstance(facade, MemoryManager) else facade.register_object
    id = register([1], "native", release=list.clear, release_on=ANY_THREAD)
    assert manager.unregister(id)
    assert (id in facade, len(facade), dict(facade._index)) == (False, 0, {})
    del facade, register
    gc.collect()
    assert manager.stats().leaks == 0


def test_a_closed_facade_is_no_leak(manager: SafetyManager) -> None:
    for make in (MemoryManager, ObjectLifecycleManager):
        with make(manager) as facade:
            (facade.track_object if isinstance(facade, MemoryManager) else facade.register_object)(
                [1], "native", release=list.clear, release_on=ANY_THREAD
            )
        del facade
    gc.collect()
    figures = manager.stats().types["native"]
    assert (figures.leaks, figures.ended["released"]) == (0, 2)


def test_closing_the_manager_still_stops_who_waits_at_a_facade() -> None:
    """The callback is weak, but it is there: a caller who waits for room is told at once."""
    from lifecycle import ClosedError, MemoryConfig

    manager = SafetyManager()
    memory = MemoryManager(manager, MemoryConfig(max_bytes=10, over="block", block_timeout=60.0))
    memory.track_object([1], "native", size=10, release=list.clear, release_on=ANY_THREAD)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            memory.track_object([2], "native", size=10, release=list.clear, release_on=ANY_THREAD)
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: len(memory._waiting) > 0)
    manager.close()
    thread.join(20)
    assert [type(error) for error in told] == [ClosedError]


# -- components of the program's own -------------------------------------------------------------------------


class Camera:
    """A component as a program writes it: what it opens knows nothing of it."""

    kind, name = "camera", "front"

    def __init__(self, manager: SafetyManager, ended: list[int]) -> None:
        self._ended = ended
        self._over = manager.add_component(self, end=lambda: ended.append(threading.get_ident()))
        self.me = self  # a circle, as they come about

    def close(self) -> None:
        """What ends it."""
        self._ended.append(0)
        self._over()

    def stats(self) -> None:
        """No figures."""


def test_a_component_that_is_dropped_is_reported_and_ended_once(manager: SafetyManager) -> None:
    ended: list[int] = []
    events: list[Event] = []
    manager.add_leak_hook(events.append)
    camera = Camera(manager, ended)
    assert (manager.stats().total_objects, manager.objects()) == (0, ())  # no object of the program's
    del camera
    gc.collect()
    figures = manager.stats().types["camera"]
    assert (figures.leaks, figures.registered, figures.closed["drop"]) == (1, 1, 1)
    eventually(lambda: len(ended) == 1)
    eventually(lambda: len(events) == 1)
    assert (events[0].kind, events[0].type_name, events[0].name) == ("leak", "camera", "front")
    assert events[0].fields["site"].startswith("test_dropped.py:")
    figures = manager.stats().types["camera"]
    assert (figures.ended["released"], figures.live, len(ended)) == (1, 0, 1)


def test_the_warning_names_it_and_where_it_was_made(manager: SafetyManager) -> None:
    with pytest.warns(
        ResourceWarning, match=r'camera "front" \(object \d+, from test_dropped.* was dropped without close'
    ) as told:
        Camera(manager, [])
        gc.collect()
        eventually(lambda: len(told))
    assert told[0].filename == __file__
    assert "Use `with`, or close()" in str(told[0].message)


def test_a_component_that_was_closed_leaves_no_trace(manager: SafetyManager) -> None:
    ended: list[int] = []
    for _ in range(3):
        camera = Camera(manager, ended)
        camera.close()
        camera._over()  # again: nothing
        del camera
    gc.collect()
    manager.register([], "list", release=list.clear, release_on=ANY_THREAD).close()
    stats = manager.stats()
    assert (stats.leaks, stats.total_objects, ended) == (0, 1, [0, 0, 0])
    assert not manager._registry.roots
    assert not manager._registry.claims
    assert [record.kind.type_name for record in manager._registry.records.values()] == ["list"]


def test_what_a_component_opened_is_ended_when_its_manager_closes() -> None:
    ended: list[int] = []
    manager = SafetyManager()
    camera = Camera(manager, ended)
    report = manager.close()
    assert (len(ended), report.released, report.leaked) == (1, 1, ())
    camera.close()
    stats = manager.stats()
    assert (stats.leaks, stats.total_objects, stats.released, stats.active_objects) == (0, 1, 1, 0)


def test_dropped_before_the_manager_closes_it_is_ended_by_that() -> None:
    ended: list[int] = []
    manager = SafetyManager()
    Camera(manager, ended).me = None
    assert manager.close().ok
    assert len(ended) == 1
    assert manager.stats().leaks == 1
    assert manager.stats().active_objects == 0


def test_an_end_that_fails_is_reported_and_costs_nobody_else(manager: SafetyManager) -> None:
    class Broken:
        kind, name = "broken", "one"

        def __init__(self) -> None:
            self.over = manager.add_component(self, end=lambda: 1 / 0)

    ended: list[int] = []
    Broken()
    camera = Camera(manager, ended)
    camera.me = None  # type: ignore[assignment]
    del camera
    gc.collect()
    eventually(lambda: len(ended) == 1)
    eventually(lambda: manager.stats().failed == 1)
    assert manager.stats().types["broken"].leaks == 1


def test_a_component_alone_starts_the_threads_that_notice_its_drop(manager: SafetyManager) -> None:
    assert not manager._registry.started
    ended: list[int] = []
    Camera(manager, ended)
    gc.collect()
    eventually(lambda: len(ended) == 1)
    assert ended != [threading.get_ident()]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_as_a_component_enters_or_leaves_leaves_no_ticket_and_no_claim(
    manager: SafetyManager,
) -> None:
    registry = manager._registry

    class Opened:
        kind = name = "opened"

    def enter_and_leave() -> None:
        component = Opened()
        leave = manager._join(component, list, "opened", False)  # no thread runs that would tidy up
        try:
            leave()
        except KeyboardInterrupt:
            leave()
            raise

    enter_and_leave()  # from now on each time the same code
    points = 0
    for struck in each_interrupt(enter_and_leave):
        points += 1
        half = [record for record in list(registry.waiting) if not hasattr(record, "phase")]
        assert not half, f"a ticket without facts, by an interrupt at {struck.place}"
        assert not registry.claims, f"a claim is left by an interrupt at {struck.place}"
    assert points > 20
