"""`LifecycleInstruments`: what a meter asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
from prometheus_client import Metric

from lifecycle import SafetyManager, __version__
from lifecycle.integrations.prometheus import LifecycleCollector
from lifecycle.lowlevel import Uncopied

NAME = "lifecycle"
"""Of the meter, and what each instrument's name begins with."""
UNITS = {"_seconds": "s", "_bytes": "By"}
HISTOGRAM = (("_count", ".count", "1"), ("_sum", ".sum", "s"))
"""The samples of a distribution, and the instruments that they become."""


class LifecycleInstruments(Uncopied):
    """Observable instruments for any number of managers.

    ``LifecycleInstruments(manager)`` uses the global meter provider, which may be set later;
    ``meter=provider.get_meter("lifecycle")`` another one. It keeps its managers alive until they are removed,
    and the meter keeps it. All methods may be called on any thread.

    Raises `RegistrationError` when two managers have the same name.
    """

    _remedy = "pass the instruments themselves, or make others over the same managers"

    def __init__(self, *managers: SafetyManager, meter: Meter | None = None) -> None:
        self._collector = LifecycleCollector(*managers)
        self._families: dict[str, Metric] = {}
        self._asked: set[str] = set()
        self._closed = False
        meter = get_meter(NAME, __version__) if meter is None else meter
        for family in self._collector.describe():
            self._make(meter, family)

    def add(self, manager: SafetyManager) -> None:
        """Observe `manager` too, from the next collection on. Raises `RegistrationError` when its name is
        taken."""
        self._collector.add(manager)

    def remove(self, manager: SafetyManager) -> None:
        """Observe `manager` no more, and let go of it. Nothing happens if it is not observed here."""
        self._collector.remove(manager)

    def close(self) -> None:
        """Observe nothing any more, and let go of the managers. OpenTelemetry cannot take instruments back:
        they stay, and are silent."""
        self._closed = True
        self._collector = LifecycleCollector()
        self._families = {}

    def _make(self, meter: Meter, family: Metric) -> None:
        name = f"{NAME}.{family.name.removeprefix('lifecycle_')}"
        unit = next((unit for suffix, unit in UNITS.items() if family.name.endswith(suffix)), "1")
        if family.type == "histogram":
            for suffix, ending, of in HISTOGRAM:
                callback = self._callback(family.name, family.name + suffix)
                meter.create_observable_counter(name + ending, [callback], of, family.documentation)
        elif family.type == "counter":
            callback = self._callback(family.name, f"{family.name}_total")
            meter.create_observable_counter(name, [callback], unit, family.documentation)
        else:
            sample = f"{family.name}_info" if family.type == "info" else family.name
            meter.create_observable_gauge(
                name, [self._callback(family.name, sample)], unit, family.documentation
            )

    def _callback(self, family: str, sample: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for one in self._family(family, sample).samples:
                if one.name == sample:
                    yield Observation(one.value, dict(one.labels))

        return observe

    def _family(self, family: str, sample: str) -> Any:
        """The figures of a family, from the snapshot of this collection."""
        if self._closed:
            return _NOTHING
        families = self._families
        if sample in self._asked or family not in families:
            # Asked a second time: another collection has begun. Two readers at a time take snapshots in turn.
            self._asked = set()
            families = self._families = {one.name: one for one in self._collector.collect()}
        self._asked.add(sample)
        return families[family]


_NOTHING = Metric("nothing", "Nothing.", "gauge")
