"""Components, queues and collectors come and go: counters never go down, each collector is unregistered by
itself, and labels do not grow without end."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    FrameDistributor,
    MemoryConfig,
    MemoryManager,
    ReleaseQueue,
    SafetyManager,
)
from lifecycle.integrations.prometheus import MAX_TYPES, OTHER, LifecycleCollector
from tests.prometheus.support import Camera, exposed, family, value
from tests.support import eventually

COUNTERS = ("_total", "_bucket", "_count", "_sum")


def counters(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    gc.collect()
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith(COUNTERS)
    }


def fell(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[object, object]:
    return {key: (was, after.get(key)) for key, was in before.items() if after.get(key, -1.0) < was}


def camera(manager: SafetyManager, frames: int, scrape: Callable[[], object]) -> None:
    """A camera that is opened and closed: all that it had is gone afterwards."""
    pool = BufferPool(manager, 4096, 2, name="camera")
    queue = ReleaseQueue("camera", thread="current")
    capture = Camera("camera", frames)
    manager.add_component(capture)
    with FrameDistributor[object](4, name="camera", manager=manager) as distributor:
        receiver = distributor.subscribe(group="ui")
        for _ in range(frames):
            with pool.get() as buffer:
                distributor.publish(buffer)
            receiver.recv(timeout=1).close()  # type: ignore[attr-defined]
            manager.register([1], "texture", release=list.clear, release_on=queue).close(timeout=0)
        queue.drain()
        scrape()
        receiver.close()
    pool.close()


def test_counters_never_go_down(manager: SafetyManager) -> None:
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    scrapes = [counters(registry)]

    def scrape() -> None:
        scrapes.append(counters(registry))

    for frames in (5, 2, 3):
        camera(manager, frames, scrape)
        scrape()
        scrape()
    for before, after in itertools.pairwise(scrapes):
        assert fell(before, after) == {}
    metrics = list(registry.collect())
    at = {"manager": manager.name}
    assert value(metrics, "lifecycle_distributor_published_total", distributor="camera", **at) == 10
    assert value(metrics, "lifecycle_receiver_received_total", distributor="camera", group="ui", **at) == 10
    assert value(metrics, "lifecycle_capture_frames_total", capture="camera", result="ok", **at) == 10
    assert value(metrics, "lifecycle_pool_get_wait_seconds_count", pool="camera", **at) == 10
    assert value(metrics, "lifecycle_release_queue_outcomes_total", queue="camera", result="run", **at) == 10
    # What is of now is gone with the components.
    for name in ("lifecycle_pool_items", "lifecycle_distributor_receivers", "lifecycle_capture_frames_held"):
        assert family(metrics, name).samples == []


def test_a_limit_of_one_that_is_there_stays_beside_those_that_are_gone(manager: SafetyManager) -> None:
    collector = LifecycleCollector(manager)
    for _ in range(2):
        pool = BufferPool(manager, 4096, 7, name="camera")
        metrics = list(collector.collect())
        assert value(metrics, "lifecycle_pool_items_limit", pool="camera") == 7
        pool.close()
        del pool
        gc.collect()


def test_counters_of_one_that_fails_stand_still(manager: SafetyManager) -> None:
    collector = LifecycleCollector(manager)
    capture = Camera("front", 3)
    manager.add_component(capture)
    list(collector.collect())
    capture.stats = None  # type: ignore[assignment, method-assign]
    metrics = list(collector.collect())
    assert value(metrics, "lifecycle_capture_frames_total", capture="front", result="ok") == 3
    assert family(metrics, "lifecycle_capture_frames_held").samples == []


def test_scrapes_on_many_threads_while_components_come_and_go(manager: SafetyManager) -> None:
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    fallen: list[object] = []
    over = threading.Event()

    def scrape() -> None:
        before: dict[tuple[str, str], float] = {}
        while not over.is_set():
            after = {key: each for key, each in counters(registry).items() if "published" in key[0]}
            fallen.extend(fell(before, after).items())
            before = after

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with FrameDistributor[int](2, name="busy", manager=manager) as distributor:
            for number in range(10):
                distributor.publish(number)
            list(registry.collect())
        del distributor
    over.set()
    for thread in threads:
        thread.join(20)
    assert fallen == []
    metrics = list(registry.collect())
    assert value(metrics, "lifecycle_distributor_published_total", distributor="busy") == 200


# -- labels --------------------------------------------------------------------------------------------------------


def test_pools_and_groups_beyond_the_limit_share_a_label(manager: SafetyManager) -> None:
    events: list[str] = []
    manager.add_observer(lambda event: events.append(event.kind))
    collector = LifecycleCollector(manager)
    with FrameDistributor[int](4, name="camera", manager=manager) as distributor:
        for number in range(MAX_TYPES + 20):
            distributor.subscribe(group=f"client {number}").close()
        metrics = list(collector.collect())
    groups = {s.labels["group"] for s in family(metrics, "lifecycle_receiver_received").samples}
    assert len(groups) == MAX_TYPES + 1
    assert OTHER in groups
    kept = [BufferPool(manager, 4096, 1, name=f"again {number}") for number in range(MAX_TYPES + 20)]
    for _ in range(2):
        metrics = list(collector.collect())
        names = {s.labels["pool"] for s in family(metrics, "lifecycle_pool_gets").samples}
        assert len(names) == MAX_TYPES + 1
        assert OTHER in names
    eventually(lambda: events.count("types_capped") == 1)
    for pool in kept:
        pool.close()


# -- budgets -------------------------------------------------------------------------------------------------------


def test_budgets_of_all_types_are_in(manager: SafetyManager) -> None:
    memory = MemoryManager(manager, MemoryConfig(max_bytes=20_000_000, max_live=50))
    memory.set_budget("frame", max_bytes=6_000_000)
    memory.track_object([], "frame", 5_000_000, release=list.clear, release_on=ANY_THREAD)
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_object_bytes_limit", type_="_all_") == 20_000_000
    assert value(metrics, "lifecycle_objects_limit", type_="_all_") == 50
    assert value(metrics, "lifecycle_object_bytes_limit", type_="frame") == 6_000_000
    tighter = MemoryManager(manager, MemoryConfig(max_live=5), name="tighter")
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_objects_limit", type_="_all_") == 5
    tighter.close()
    memory.close()


# -- collectors ----------------------------------------------------------------------------------------------------


def shown(registry: CollectorRegistry) -> list[str]:
    text = exposed(registry)
    assert text.count("# TYPE lifecycle_events_pending ") == (1 if "lifecycle_" in text else 0)
    return [name for name in ("a", "b", "c") if f'lifecycle_events_pending{{manager="{name}"}}' in text]


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_collectors_are_unregistered_one_by_one(order: str) -> None:
    registry = CollectorRegistry()
    managers = {name: SafetyManager(name=name) for name in "abc"}
    collectors = {name: LifecycleCollector(manager, registry=registry) for name, manager in managers.items()}
    left = list("abc")
    assert shown(registry) == left
    for name in order:
        registry.unregister(collectors[name])
        left.remove(name)
        assert shown(registry) == left
    again = LifecycleCollector(managers["b"], registry=registry)
    assert shown(registry) == ["b"]
    registry.unregister(again)
    for manager in managers.values():
        manager.close()


def test_a_collector_that_was_unregistered_can_go_into_another_registry() -> None:
    first, other = CollectorRegistry(), CollectorRegistry()
    managers = [SafetyManager(name=name) for name in ("a", "b")]
    a, b = (LifecycleCollector(manager, registry=first) for manager in managers)
    with pytest.raises(ValueError, match="Duplicated"):
        first.register(a)
    first.unregister(b)
    assert list(b.collect()) == []  # a scrape that had begun before
    other.register(b)
    first.unregister(a)
    assert 'manager="b"' in exposed(other)
    assert 'manager="b"' not in exposed(first)
    first.register(a)
    assert 'manager="a"' in exposed(first)
    for manager in managers:
        manager.close()


def test_collectors_join_and_leave_one_registry_on_many_threads() -> None:
    registry = CollectorRegistry()
    stays = SafetyManager(name="stays")
    LifecycleCollector(stays, registry=registry)
    wrong: list[str] = []

    def come_and_go(number: int) -> None:
        try:
            for turn in range(10):
                with SafetyManager(name=f"{number}-{turn}") as manager:
                    collector = LifecycleCollector(manager, registry=registry)
                    text = exposed(registry)
                    for name in ("stays", manager.name):
                        if f'manager="{name}"' not in text:
                            wrong.append(f"{name} is not there")
                    if text.count("# TYPE lifecycle_objects gauge") != 1:
                        wrong.append(
                            f"families are there {text.count('# TYPE lifecycle_objects gauge')} times"
                        )
                    registry.unregister(collector)
        except BaseException as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert exposed(registry).count('manager="stays"')
    stays.close()


def test_one_family_can_be_asked_for_after_the_first_collector_has_gone(manager: SafetyManager) -> None:
    registry = CollectorRegistry()
    with SafetyManager(name="first") as first:
        leaving = LifecycleCollector(first, registry=registry)
        LifecycleCollector(manager, registry=registry)
        registry.unregister(leaving)
    exposed(registry)
    (metric,) = registry.restricted_registry(["lifecycle_events_pending"]).collect()
    assert [sample.labels for sample in metric.samples] == [{"manager": manager.name}]
