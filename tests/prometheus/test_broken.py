"""One component whose figures cannot be had costs the scrape nothing else, and is reported by its manager."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry, generate_latest

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    Event,
    FrameDistributor,
    MemoryManager,
    RegistrationError,
    ReleaseQueue,
    SafetyManager,
)
from lifecycle.integrations.prometheus import LifecycleCollector
from lifecycle.stats import Histogram
from tests.prometheus.support import Camera, Native, released, value
from tests.support import eventually


class Component:
    """One of the program's own, whose attributes are given, and may raise."""

    def __init__(self, **attributes: Any) -> None:
        self._attributes = attributes

    def __getattr__(self, name: str) -> Any:
        try:
            value = self._attributes[name]
        except KeyError:
            raise AttributeError(name) from None
        if isinstance(value, BaseException):
            raise value
        return value


def fails(error: BaseException) -> Callable[[], Any]:
    def stats() -> Any:
        raise error

    return stats


def figures(**changes: Any) -> Any:
    """Those of a capture, with changes."""
    return attrs.evolve(Camera("odd", 1).stats(), **changes)


class Unshowable(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


BROKEN: dict[str, Callable[[], Component]] = {
    "stats raises": lambda: Component(kind="pool", name="odd", stats=fails(OSError("device gone"))),
    "stats exits": lambda: Component(kind="capture", name="odd", stats=fails(SystemExit(1))),
    "stats panics": lambda: Component(kind="capture", name="odd", stats=fails(BaseException("panic"))),
    "an exception without a text": lambda: Component(kind="capture", name="odd", stats=fails(Unshowable())),
    "no stats": lambda: Component(kind="capture", name="odd"),
    "no kind": lambda: Component(name="odd", stats=figures),
    "a kind that is no text": lambda: Component(kind=7, name="odd", stats=figures),
    "a kind that cannot be had": lambda: Component(kind=OSError("gone"), name="odd", stats=figures),
    "a kind that exits": lambda: Component(kind=SystemExit(1), name="odd", stats=figures),
    "a kind that is a list": lambda: Component(kind=[], name="odd", stats=figures),
    "no name": lambda: Component(kind="capture", stats=figures),
    "a name that is no text": lambda: Component(kind="capture", name=None, stats=figures),
    "a name that exits": lambda: Component(kind="capture", name=SystemExit(1), stats=figures),
    "figures that are none": lambda: Component(kind="pool", name="odd", stats=lambda: None),
    "figures of another kind": lambda: Component(kind="pool", name="odd", stats=figures),
    "a figure that is no number": lambda: Component(
        kind="capture", name="odd", stats=lambda: figures(last_frame="x")
    ),
    "a mapping of no numbers": lambda: Component(
        kind="capture", name="odd", stats=lambda: figures(results={"ok": object()})
    ),
    "a mapping with keys that are no texts": lambda: Component(
        kind="capture", name="odd", stats=lambda: figures(results={1: 2})
    ),
    "a histogram that does not fit": lambda: Component(
        kind="capture", name="odd", stats=lambda: figures(callback_duration=Histogram((1.0,), (1, 2, 3), 1.0))
    ),
    "a distributor": lambda: Component(kind="distributor", name="odd", stats=fails(OSError("gone"))),
    "a distributor without groups": lambda: Component(
        kind="distributor", name="odd", stats=lambda: SimpleNamespace(published=1)
    ),
    "groups that are none": lambda: Component(
        kind="distributor", name="odd", stats=lambda: SimpleNamespace(published=1, groups={"": None})
    ),
    "a memory manager": lambda: Component(kind="memory", name="odd", stats=fails(OSError("gone"))),
    "limits that are none": lambda: Component(
        kind="memory",
        name="odd",
        stats=lambda: SimpleNamespace(types={"native": SimpleNamespace(bytes_limit="x", objects_limit=None)}),
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_the_others_are_given_and_the_failure_is_told(
    manager: SafetyManager, broken: Callable[[], Component]
) -> None:
    told: list[Event] = []
    manager.add_observer(told.append)
    component = broken()
    good = Camera("good", 3)
    distributor: FrameDistributor[int] = FrameDistributor(2, name="fine", manager=manager)
    with BufferPool(manager, 100, 2, name="fine"), distributor:
        memory = MemoryManager(manager)
        memory.set_budget("native", max_bytes=1000)
        with distributor.subscribe(), manager.register(Native(), "native", release=released, size=10):
            for one in (component, good):
                manager.add_component(one)
            registry = CollectorRegistry()
            collector = LifecycleCollector(manager, registry=registry)
            text = generate_latest(registry).decode()
            metrics = list(collector.collect())
        memory.close()
    assert value(metrics, "lifecycle_capture_frames_total", capture="good", result="ok") == 3
    assert value(metrics, "lifecycle_pool_items_limit", pool="fine") == 2
    assert value(metrics, "lifecycle_distributor_receivers", distributor="fine", group="") == 1
    assert value(metrics, "lifecycle_object_bytes_limit", type_="native", manager=manager.name) == 1000
    assert "odd" not in text
    kind = component._attributes.get("kind")
    kind = kind if kind in ("capture", "pool", "distributor", "memory") else "component"
    # Two scrapes (by the registry, by hand); it has been counted by the time that this one says so.
    assert value(metrics, "lifecycle_panics_total", type_=kind, manager=manager.name) == 2
    eventually(lambda: sum(event.kind == "panic" for event in told) == 2)
    event = next(event for event in told if event.kind == "panic")
    assert event.fields["reason"].startswith(f"figures of {kind}")


def test_one_that_recovers_is_given_again(manager: SafetyManager) -> None:
    camera = Camera("front", 3)
    manager.add_component(camera)
    collector = LifecycleCollector(manager)
    camera.stats = fails(OSError("gone"))  # type: ignore[method-assign]
    assert not [s for m in collector.collect() if m.name == "lifecycle_capture_frames" for s in m.samples]
    del camera.stats
    assert (
        value(list(collector.collect()), "lifecycle_capture_frames_total", capture="front", result="ok") == 3
    )
    assert manager.stats().types["capture"].panics == 1


def test_an_interrupt_is_the_programs(manager: SafetyManager) -> None:
    component = Component(kind="capture", name="odd", stats=fails(KeyboardInterrupt()))
    manager.add_component(component)
    with pytest.raises(KeyboardInterrupt):
        list(LifecycleCollector(manager).collect())


def samples_of(text: str) -> list[str]:
    """The series of an answer, by name and labels."""
    return [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]


def test_no_series_is_given_twice(manager: SafetyManager) -> None:
    """Several components of one name; one of two managers; some whose figures cannot be put together."""
    other = SafetyManager(name="other")
    twice = Camera("front", 1)
    components = [
        twice,
        Camera("front", 2),
        Camera("front", 4, bounds=(0.5, 5.0)),
        Component(
            kind="capture",
            name="front",
            stats=lambda: SimpleNamespace(
                results={"ok": 100},
                last_frame=0.0,
                callback_duration=Histogram((1.0,), (1, 2), 1.0),
                frames_held=0,
            ),
        ),
    ]
    for one in components:
        manager.add_component(one)
    other.add_component(twice)
    registry = CollectorRegistry()
    LifecycleCollector(manager, other, registry=registry)
    text = generate_latest(registry).decode()
    series = samples_of(text)
    assert len(series) == len(set(series))
    frames = [
        line
        for line in text.splitlines()
        if line.startswith('lifecycle_capture_frames_total{capture="front",') and 'result="ok"' in line
    ]
    assert len(frames) == 1
    other.close()


def test_names_that_cannot_be_sent(manager: SafetyManager) -> None:
    """A lone surrogate, as file names have them, would cost the whole answer."""
    bad = "file\udcff"
    manager.register([], bad, release=list.clear, release_on=ANY_THREAD).close()
    manager.add_component(camera := Camera(bad, 3))
    queue = ReleaseQueue(bad)
    manager.register([], "list", release=list.clear, release_on=queue).close(timeout=0)
    queue.drain()
    registry = CollectorRegistry()
    LifecycleCollector(manager, registry=registry)
    text = generate_latest(registry).decode()
    assert text.count("file\\\\udcff") > 3
    assert camera.frames == 3


def test_what_cannot_be_a_component_is_refused(manager: SafetyManager) -> None:
    things: tuple[Any, ...] = (
        [],
        7,
        attrs.make_class("Slotted", ["x"], slots=True, weakref_slot=False)(1),
    )
    for thing in things:
        with pytest.raises(RegistrationError, match="add_component takes an object"):
            manager.add_component(thing)
    assert manager.components() == ()
