"""`LifecycleCollector`: what a registry asks.

**Several in one registry.** A family may be given once in an exposition. So of the collectors that were made
with one ``registry=`` the first that is still registered gives the families, with the managers of all, and
the others give nothing. Each is registered and unregistered by itself; who comes next is seen at the scrape.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from lifecycle import RegistrationError, SafetyManager
from lifecycle.errors import shown
from lifecycle.integrations.prometheus.merging import MAX_TYPES
from lifecycle.integrations.prometheus.scrape import Scrape, families, scrape
from lifecycle.lowlevel import Uncopied, after_fork, snapshot


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
        check_managers({}, managers)
        self._managers: dict[str, SafetyManager] = {}
        self._announced: dict[str, object] = {}
        self._group: Group | None = None
        self._gives = True
        """True if the registry knows the families as this one's."""
        self._joining = False
        if registry is not None:
            self._join(registry, managers)
        self._managers.update((manager.name, manager) for manager in managers)

    def _join(self, registry: CollectorRegistry, managers: Sequence[SafetyManager]) -> None:
        """Register this collector. The families are its own, or those of one that is registered already."""
        if not isinstance(registry, CollectorRegistry):
            raise RegistrationError(
                f"LifecycleCollector(registry=) takes a CollectorRegistry of prometheus_client, not "
                f"{shown(registry)}"
            )
        group = _groups.get(registry) or _groups.setdefault(registry, Group(registry))
        with group.lock:
            members = group.members()
            check_managers({name: None for each in members for name in each._managers}, managers)
            self._gives = not members
            # Before it is registered: a scrape on another thread then waits until it has joined.
            self._group = group
            try:
                self._joining = True
                registry.register(self)
            except ValueError as error:
                self._group = None
                raise RegistrationError(
                    "this registry has families of these names already; if they are of a "
                    "LifecycleCollector that it was given by hand, make that one with registry=, or give it "
                    "this manager with its add()"
                ) from error
            finally:
                self._joining = False
            group.joined[self] = None

    def add(self, manager: SafetyManager) -> None:
        """Collect `manager` too, from the next scrape on. Raises `RegistrationError` when its name is
        taken."""
        check_managers({name: None for each in self._members() for name in each._managers}, (manager,))
        self._managers[manager.name] = manager

    def remove(self, manager: SafetyManager) -> None:
        """Collect `manager` no more, and let go of it; its series end. Nothing happens if it is not collected
        here."""
        if self._managers.get(manager.name) is manager:
            del self._managers[manager.name]

    def describe(self) -> Iterable[Metric]:
        """Every family, without samples. Asks no manager. Nothing where another collector of the same
        registry gives them."""
        if not self._joining and self._group is not None and not self._group.has(self):
            # It was unregistered there, and is on its way into another.
            self._group, self._gives = None, True
        return families(Scrape()) if self._gives else []

    def collect(self) -> Iterable[Metric]:
        """Every family with the figures of now, from one exact snapshot of each manager, those of the other
        collectors of the same registry included. Nothing where another one gives them."""
        members = self._members()
        if members[0] is not self:
            return []
        if not self._gives and self._group is not None:
            self._group.hand_over(self)
        now = scrape([manager for each in members for manager in snapshot(each._managers.values())])
        for manager in now.capped:
            self._announce(manager)
        return families(now)

    def _members(self) -> list[LifecycleCollector]:
        """The collectors of its registry, the one that gives the families first; itself alone where it joined
        none, and where all have left. Others, where it alone has: a scrape that had begun still asks it."""
        return (None if self._group is None else self._group.members()) or [self]

    def _announce(self, manager: SafetyManager) -> None:
        """Say once that types, pools or groups of `manager` share a label."""
        mine = object()
        if self._announced.setdefault(manager.name, mine) is mine:
            manager.report("types_capped", limit=MAX_TYPES)


class Group:
    """The collectors that joined one registry. Does not keep it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._prometheus = weakref.ref(registry)
        self.lock: Any = threading.RLock()
        """Held while one of them joins, is looked for or takes the families over, so that no other thread
        finds it in between. The registry's own lock is taken inside it, never the other way round."""
        self.joined: dict[LifecycleCollector, None] = {}
        after_fork(self._after_fork)

    def _after_fork(self) -> None:
        """In the child: the thread that held the lock exists only in the parent."""
        self.lock = threading.RLock()

    def has(self, collector: LifecycleCollector) -> bool:
        """Return True if it is one of them. Waits for nobody: a registry asks while it holds its own lock."""
        registry = self._prometheus()
        return registry is not None and collector in self.joined and collector in _registered(registry)

    def members(self) -> list[LifecycleCollector]:
        """Those that are still registered, in the order in which they came."""
        with self.lock:
            registry = self._prometheus()
            for each in snapshot(self.joined):
                if registry is None or each not in _registered(registry):
                    self.joined.pop(each, None)
            return snapshot(self.joined)

    def hand_over(self, collector: LifecycleCollector) -> None:
        """The one that gave the families was unregistered: they are `collector`'s from now on."""
        registry = self._prometheus()
        if registry is None:
            return
        with self.lock:
            collector._gives = collector._joining = True
            try:
                registry.unregister(collector)
                registry.register(collector)
            except (KeyError, ValueError):
                # Another thread did it, or unregistered it in the meantime.
                collector._gives = collector in _registered(registry)
            finally:
                collector._joining = False


def _registered(registry: CollectorRegistry) -> Mapping[Any, object]:
    """What is registered. prometheus_client has no public way to ask."""
    return registry._collector_to_names


_groups: weakref.WeakKeyDictionary[CollectorRegistry, Group] = weakref.WeakKeyDictionary()


def check_managers(present: Mapping[str, object], managers: Sequence[SafetyManager]) -> None:
    """Raise `RegistrationError` for what is no manager, and for one whose name is in `present`."""
    names = set(present)
    for manager in managers:
        if not isinstance(manager, SafetyManager):
            raise RegistrationError(
                f"figures are those of a SafetyManager, not of {manager!r}; a registry goes by registry="
            )
        if manager.name in names:
            raise RegistrationError(
                f'a manager named "{manager.name}" is already collected here, and figures are told apart by '
                "the manager's name; give each its own, as in SafetyManager(name=...)"
            )
        names.add(manager.name)
