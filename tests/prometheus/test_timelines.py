"""Timelines and caches of textures in a scrape: what is in flight, what ended and how."""

from __future__ import annotations

import gc
import threading
import time

import pytest

pytest.importorskip("prometheus_client", reason="needs prometheus_client: run the tests with `make test`")

from prometheus_client import CollectorRegistry, generate_latest

from lifecycle import ANY_THREAD, Handle, SafetyManager, Timeline
from lifecycle.fences import EventFence
from lifecycle.integrations.prometheus import LifecycleCollector
from tests.prometheus.support import check_metrics, value


class Device:
    """A queue whose work ends when it is told to."""

    def __init__(self, name: str, manager: SafetyManager | None = None) -> None:
        self.done: list[threading.Event] = []
        self.timeline = Timeline(name, fence=self.fence, manager=manager)

    def fence(self) -> EventFence:
        self.done.append(threading.Event())
        return EventFence(self.done[-1])


def native(manager: SafetyManager) -> Handle[object]:
    return manager.register(object(), "texture", release=lambda _: None, release_on=ANY_THREAD)


def test_what_is_in_flight_and_how_it_ended(manager: SafetyManager, promtool: str) -> None:
    device = Device("engine", manager)
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))

    def scraped(name: str, **labels: str) -> float:
        metrics = list(registry.collect())
        return value(metrics, name, manager=manager.name, timeline="engine", **labels)

    assert scraped("lifecycle_submissions_in_flight") == 0
    assert scraped("lifecycle_submission_oldest_timestamp_seconds") == 0
    assert scraped("lifecycle_submissions_total", end="signalled") == 0
    assert scraped("lifecycle_submissions_total", end="lost") == 0
    before = time.time()
    handles = [native(manager) for _ in range(3)]
    for handle in handles:
        with device.timeline.submission() as work:
            work.use(handle)
        handle.close()
    assert scraped("lifecycle_submissions_in_flight") == 3
    assert before - 1 <= scraped("lifecycle_submission_oldest_timestamp_seconds") <= time.time() + 1
    device.done[0].set()
    assert device.timeline.poll() == 1
    assert not device.timeline.wait(0)
    assert scraped("lifecycle_submissions_in_flight") == 2
    assert scraped("lifecycle_submissions_total", end="signalled") == 1
    assert scraped("lifecycle_submission_waits_total") == 1
    assert device.timeline.lost("the device is gone") == 2
    assert scraped("lifecycle_submissions_in_flight") == 0
    assert scraped("lifecycle_submission_oldest_timestamp_seconds") == 0
    assert scraped("lifecycle_submissions_total", end="lost") == 2
    assert value(list(registry.collect()), "lifecycle_ended_total", type_="texture", end="orphaned") == 2
    text = generate_latest(registry)
    assert f'lifecycle_submissions_total{{end="lost",manager="{manager.name}",timeline="engine"}} 2.0' in (
        text.decode()
    )
    check_metrics(promtool, text)


def test_a_timeline_stands_with_the_manager_of_what_it_uses_first(manager: SafetyManager) -> None:
    with SafetyManager(name="other") as other:
        device = Device("dma")
        assert manager.components() == other.components() == ()
        for owner in (manager, other):
            with native(owner) as handle, handle.share() as share:
                with device.timeline.submission() as work:
                    work.use(share)
                device.done[-1].set()
        assert device.timeline.poll() == 2
        metrics = list(LifecycleCollector(manager, other).collect())
        assert manager.components() == (device.timeline,)
        assert other.components() == ()
        assert value(metrics, "lifecycle_submissions_total", timeline="dma", end="signalled") == 2


def test_the_counters_of_a_timeline_that_is_gone_stay(manager: SafetyManager) -> None:
    collector = LifecycleCollector(manager)

    def signalled() -> float:
        metrics = list(collector.collect())
        return value(metrics, "lifecycle_submissions_total", timeline="context", end="signalled")

    for count in (1, 2, 3):  # a context is lost and made again under its name
        device = Device("context", manager)
        with device.timeline.submission():
            pass
        device.done[0].set()
        device.timeline.poll()
        assert signalled() == count
        del device
        gc.collect()
        assert signalled() == count
