"""The same figures as a scrape, by the real SDK."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.needs("opentelemetry", "prometheus_client")
pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk: `make test` installs it")
pytest.importorskip("prometheus_client", reason="needs prometheus_client: `make test` installs it")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from lifecycle import ANY_THREAD, BufferPool, RegistrationError, SafetyManager
from lifecycle.integrations.opentelemetry import LifecycleInstruments
from lifecycle.integrations.prometheus import LifecycleCollector
from tests.prometheus.support import Native, released

Figures = dict[tuple[str, tuple[tuple[str, Any], ...]], float]


class Reader:
    """A provider, its meter, and what a collection says."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("lifecycle")

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def figures(self) -> Figures:
        return {
            (name, tuple(sorted(point.attributes.items()))): point.value
            for name, metric in self.metrics().items()
            for point in metric.data.data_points
        }


@pytest.fixture
def reader() -> Any:
    made = Reader()
    yield made
    made.provider.shutdown()


def scraped(manager: SafetyManager) -> Figures:
    """What Prometheus is told, under OpenTelemetry's names."""
    found: Figures = {}
    for family in LifecycleCollector(manager).collect():
        for one in family.samples:
            name = f"lifecycle.{one.name.removeprefix('lifecycle_')}"
            if family.type == "counter":
                name = name.removesuffix("_total")
            elif family.type == "info":
                name = name.removesuffix("_info")
            elif family.type == "histogram":
                if name.endswith("_bucket"):
                    continue
                head, _, tail = name.rpartition("_")
                name = f"{head}.{tail}"
            found[name, tuple(sorted(one.labels.items()))] = one.value
    return found


def steady(figures: Figures) -> Figures:
    """Without what moves by itself; times of the wall clock to a millisecond."""
    moving = ("lifecycle.keeper_last_run_timestamp_seconds", "lifecycle.events_pending")
    return {key: round(value, 3) for key, value in figures.items() if key[0] not in moving}


def test_the_figures_are_those_of_a_scrape(manager: SafetyManager, reader: Reader) -> None:
    instruments = LifecycleInstruments(manager, meter=reader.meter)
    pool = BufferPool(manager, 4096, 2, name="frames")
    pool.get().close()
    kept = manager.register(Native(), "frame", release=released, release_on=ANY_THREAD, size=100)
    manager.register(Native(), "frame", release=released, release_on=ANY_THREAD).close()
    manager.stats()
    assert steady(reader.figures()) == steady(scraped(manager))
    key = ("lifecycle.object_bytes", (("manager", manager.name), ("type", "frame")))
    assert reader.figures()[key] == 100
    kept.close()
    # The next collection has the next figures.
    assert reader.figures()[key] == 0
    instruments.close()


def test_units_and_kinds(manager: SafetyManager, reader: Reader) -> None:
    instruments = LifecycleInstruments(manager, meter=reader.meter)
    with manager.register(Native(), "frame", release=released, size=1):
        metrics = reader.metrics()
    assert metrics["lifecycle.object_bytes"].unit == "By"
    assert metrics["lifecycle.release_duration_seconds.sum"].unit == "s"
    assert metrics["lifecycle.release_duration_seconds.count"].data.is_monotonic
    assert metrics["lifecycle.registered"].data.is_monotonic
    assert not hasattr(metrics["lifecycle.objects"].data, "is_monotonic")
    assert metrics["lifecycle.registered"].description == "Objects registered."
    instruments.close()


def test_each_collection_asks_each_manager_once(
    manager: SafetyManager, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    stats = SafetyManager.stats
    monkeypatch.setattr(SafetyManager, "stats", lambda self: (asked.append(self), stats(self))[1])
    instruments = LifecycleInstruments(manager, meter=reader.meter)
    assert asked == []
    for times in (1, 2, 3):
        reader.figures()
        assert asked == [manager] * times
    instruments.close()


def test_managers_come_and_go(manager: SafetyManager, reader: Reader) -> None:
    instruments = LifecycleInstruments(manager, meter=reader.meter)

    def names() -> set[str]:
        return {value for _, labels in reader.figures() for key, value in labels if key == "manager"}

    with SafetyManager(name="other") as other:
        instruments.add(other)
        with pytest.raises(RegistrationError, match="other"):
            instruments.add(other)
        assert names() == {manager.name, "other"}
        instruments.remove(other)
        assert names() == {manager.name}
    instruments.close()
    assert reader.figures() == {}
