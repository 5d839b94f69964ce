"""Figures of distributors, of their receivers by group, and of what became of releases at a queue."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest

from lifecycle import FrameDistributor, ReleaseQueue, SafetyManager
from lifecycle.distribution import EvictAfter
from lifecycle.integrations.prometheus import LifecycleCollector
from tests.prometheus.support import check_metrics, released, value
from tests.sharing.sources import read

pytestmark = pytest.mark.needs("prometheus_client")


def test_a_distributor_and_its_groups(manager: SafetyManager) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4, name="camera", manager=manager)
    preview = [distributor.subscribe(group="preview") for _ in range(2)]
    slow = distributor.subscribe(group="disk", policy=EvictAfter(1))
    for number in range(9):
        distributor.publish(number)
    read(preview[0])
    assert slow.evicted
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_distributor_published_total", distributor="camera") == 9
    labels = {"distributor": "camera", "group": "preview"}
    assert value(metrics, "lifecycle_distributor_receivers", **labels) == 2
    assert value(metrics, "lifecycle_receiver_received_total", **labels) == 4
    assert value(metrics, "lifecycle_receiver_missed_total", **labels) == 5
    assert value(metrics, "lifecycle_receiver_lag_frames", **labels) == 9
    assert value(metrics, "lifecycle_receiver_evictions_total", **labels) == 0
    disk = {"distributor": "camera", "group": "disk"}
    assert value(metrics, "lifecycle_distributor_receivers", **disk) == 0
    assert value(metrics, "lifecycle_receiver_evictions_total", **disk) == 1
    assert value(metrics, "lifecycle_receiver_missed_total", **disk) == slow.missed


def test_distributors_of_one_name_are_summed(manager: SafetyManager) -> None:
    both: list[FrameDistributor[int]] = [FrameDistributor(4, name="same", manager=manager) for _ in range(2)]
    receivers = [each.subscribe() for each in both]
    for times, each in enumerate(both, 1):
        for number in range(times):
            each.publish(number)
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_distributor_published_total", distributor="same") == 3
    assert value(metrics, "lifecycle_receiver_lag_frames", distributor="same", group="") == 2
    assert value(metrics, "lifecycle_distributor_receivers", distributor="same", group="") == len(receivers)


def test_what_became_of_releases(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl-outcomes", thread="current")
    handles = [manager.register([number], release=released, release_on=queue) for number in range(3)]
    handles[0].close()
    worker = threading.Thread(target=handles[1].close)
    worker.start()
    worker.join()
    queue.drain()
    queue.lost("reset")
    metrics = list(LifecycleCollector(manager).collect())
    for result in ("run", "handed", "orphaned"):
        assert (
            value(metrics, "lifecycle_release_queue_outcomes_total", queue="gl-outcomes", result=result) == 1
        )


def test_promtool_has_no_objection(manager: SafetyManager, promtool: str) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(1, name="camera", manager=manager)
    receiver = distributor.subscribe(group="g")
    distributor.publish(1)
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    check_metrics(promtool, generate_latest(registry))
    assert receiver.lag == 1
