"""`LifecycleCollector`: what a registry asks."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from lifecycle import RegistrationError, SafetyManager
from lifecycle.integrations.prometheus.merging import MAX_TYPES
from lifecycle.integrations.prometheus.scrape import Scrape, families, scrape
from lifecycle.lowlevel import Uncopied


class LifecycleCollector(Uncopied, Collector):
    """A prometheus_client collector for any number of managers.

    ``registry.register(LifecycleCollector(manager))`` as with any custom collector, or, as
    prometheus_client's own collectors do it, ``LifecycleCollector(manager, registry=registry)``. The second
    way may be used several times with one registry (an application and a library in it, each with a manager):
    such collectors share their families, as the exposition format asks, and so tell their managers apart by
    name.

    A collector keeps its managers alive until they are removed. All methods may be called on any thread.

    Raises `RegistrationError` when two managers have the same name; then nothing was added or registered.
    """

    _remedy = "pass the collector itself, or make another over the same managers"

    def __init__(self, *managers: SafetyManager, registry: CollectorRegistry | None = None) -> None:
        _refuse_duplicates({}, managers)
        self._managers: dict[str, SafetyManager] = {}
        self._announced: dict[str, object] = {}
        if registry is not None:
            self._join(registry, managers)
        self._managers.update((manager.name, manager) for manager in managers)

    def _join(self, registry: CollectorRegistry, managers: Sequence[SafetyManager]) -> None:
        """Register this collector, or share the managers of the one that is registered already."""
        try:
            registry.register(self)
        except ValueError as error:
            present = _managers_of.get(registry)
            if present is None:
                raise RegistrationError(
                    "this registry has families of these names already; if they are of a LifecycleCollector "
                    "that it was given by hand, make that one with registry=, or give it this manager with "
                    "its add()"
                ) from error
            _refuse_duplicates(present, managers)
            self._managers = present
        else:
            _managers_of[registry] = self._managers

    def add(self, manager: SafetyManager) -> None:
        """Collect `manager` too, from the next scrape on. Raises `RegistrationError` when its name is
        taken."""
        _refuse_duplicates(self._managers, (manager,))
        self._managers[manager.name] = manager

    def remove(self, manager: SafetyManager) -> None:
        """Collect `manager` no more, and let go of it; its series end. Nothing happens if it is not collected
        here."""
        if self._managers.get(manager.name) is manager:
            del self._managers[manager.name]

    def describe(self) -> Iterable[Metric]:
        """Every family, without samples. Asks no manager."""
        return families(Scrape())

    def collect(self) -> Iterable[Metric]:
        """Every family with the figures of now, from one exact snapshot of each manager."""
        now = scrape(list(self._managers.values()))
        for manager in now.capped:
            self._announce(manager)
        return families(now)

    def _announce(self, manager: SafetyManager) -> None:
        """Say once that types of `manager` share a label."""
        mine = object()
        if self._announced.setdefault(manager.name, mine) is mine:
            manager.report("types_capped", limit=MAX_TYPES)


_managers_of: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, SafetyManager]] = (
    weakref.WeakKeyDictionary()
)
"""Whom each registry's own collector collects, for those that join it."""


def _refuse_duplicates(present: Mapping[str, SafetyManager], managers: Sequence[SafetyManager]) -> None:
    names = set(present)
    for manager in managers:
        if manager.name in names:
            raise RegistrationError(
                f'a manager named "{manager.name}" is already collected here, and figures are told apart by '
                "the manager's name; give each its own, as in SafetyManager(name=...)"
            )
        names.add(manager.name)
