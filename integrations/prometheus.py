"""Prometheus figures, by pull: a scrape asks each manager for one snapshot, and between scrapes nothing costs
anything.

The problem: metric objects that are touched where things happen take a lock there, and things happen here
inside the collector, in signal handlers and on streaming threads, where a lock deadlocks against itself. So
no metric object exists. A scrape asks `SafetyManager.stats()`, which is exact and costs by the number of
types, and turns the answer into families by the tables below: one row per family, one table per kind of thing
(`_PER_TYPE`, `_PER_QUEUE`, …). A new kind is a new table.

Guaranteed: no user code runs in a scrape but the ``stats()`` of components. One of these that fails, or gives
figures that are none, costs the others nothing: it is left out, and its manager reports it as a panic of the
type that is the component's kind (``lifecycle_panics_total`` and the event ``panic``, once for each scrape).
A scrape takes no lock of ours: it may happen on any thread at any moment; every family is given once, however
many managers there are; counters stand at 0 for every known type (the snapshots have every key from the
start); a closed manager is still scraped and shows its final figures. Labels are never ids, objects' names or
sites. Past `MAX_TYPES` types of one manager, the rest share the label ``_other_``.

Relied on: a manager's types keep their order and never vanish, so that the same ones keep labels of their
own.

prometheus-client's multi-process mode takes no custom collectors: give every worker process a port of its own
there.
"""

from __future__ import annotations

import bisect
import platform
import sysconfig
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from operator import attrgetter
from typing import Any, TypeVar

import attrs
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from lifecycle import RegistrationError, SafetyManager, TypeStats, __version__
from lifecycle.lowlevel import Uncopied
from lifecycle.stats import Histogram

__all__ = ["MAX_TYPES", "OTHER", "LifecycleCollector"]

MAX_TYPES = 200
"""How many types of one manager have a label of their own."""
OTHER = "_other_"
"""The type label that the types beyond `MAX_TYPES` share."""


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
        return _families(_Scrape())

    def collect(self) -> Iterable[Metric]:
        """Every family with the figures of now, from one exact snapshot of each manager."""
        scrape = _scrape(list(self._managers.values()))
        for manager in scrape.capped:
            self._announce(manager)
        return _families(scrape)

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


# -- families: one row each ----------------------------------------------------------------------------------

Sources = list[tuple[tuple[str, ...], Any]]
"""Label values, and the figures that stand under them."""


@attrs.frozen
class _Row:
    """One family: how a reading of it is got from the figures of one type, queue, manager, capture or
    pool."""

    make: Callable[..., Any]
    """The family's class: gauge, counter or histogram."""
    name: str
    help: str
    field: str
    """The attribute of the figures that has the reading: a value, None (a limit that is not set), a
    distribution, or values by one more label."""
    label: str = ""
    """That label."""

    def family(self, labels: tuple[str, ...], sources: Sources) -> Any:
        """The family, with what `sources` (label values, figures) have to say about it. Raises for figures
        that are none."""
        family = self.make(
            f"lifecycle_{self.name}", self.help, labels=labels + ((self.label,) if self.label else ())
        )
        for names, figures in sources:
            values = tuple(map(_label, names))
            reading = getattr(figures, self.field)
            if isinstance(reading, Histogram):
                family.add_metric(values, list(_cumulative(reading)), reading.sum)
            elif isinstance(reading, Mapping):
                for key, value in reading.items():
                    family.add_metric((*values, _label(key)), value)
            elif reading is not None:
                family.add_metric(values, reading)
        return family


def _label(value: str) -> str:
    """A label's value as it can be sent: a lone surrogate in one name would cost the whole answer."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
        total += count
        yield "+Inf" if bound == inf else repr(float(bound)), total


_gauge, _counter, _histogram = GaugeMetricFamily, CounterMetricFamily, HistogramMetricFamily

_PER_TYPE: tuple[_Row, ...] = (
    _Row(_gauge, "objects", "Objects not ended, by state.", "states", "state"),
    _Row(_gauge, "object_bytes", "Native bytes registered with size= and not ended.", "bytes"),
    _Row(_gauge, "object_bytes_limit", "Budget of native bytes, where one is set.", "bytes_limit"),
    _Row(_gauge, "objects_limit", "Most live objects allowed, where a limit is set.", "objects_limit"),
    _Row(
        _gauge,
        "oldest_object_timestamp_seconds",
        "Unix time at which the oldest live object was registered, 0 when there is none.",
        "oldest",
    ),
    _Row(_counter, "registered", "Registrations.", "registered"),
    _Row(_counter, "ended", "Ends of objects.", "ended", "end"),
    _Row(_counter, "closed", "What shut the door of objects.", "closed", "cause"),
    _Row(_counter, "refused", "Accesses refused, by the state that refused.", "refused", "state"),
    _Row(_counter, "panics", "Panics contained by safe_access and callbacks.", "panics"),
    _Row(_counter, "errors", "Declared errors that passed the boundary.", "errors"),
    _Row(_counter, "leaks", "Handles collected unclosed.", "leaks"),
    _Row(_gauge, "held_too_long", "Objects held longer than max_age now.", "held_too_long"),
    _Row(_histogram, "release_duration_seconds", "The release call alone.", "release_duration"),
    _Row(
        _histogram,
        "release_wait_seconds",
        "From the door shut until the release began: holders and queue.",
        "release_wait",
    ),
    _Row(_counter, "release_failures", "Releases that failed.", "release_failures", "reason"),
    _Row(_counter, "release_retries", "Retries after NotReleased or retry_on.", "retries"),
)

_PER_QUEUE: tuple[_Row, ...] = (
    _Row(_gauge, "release_queue_entries", "Tickets that wait for their place.", "entries"),
    _Row(
        _gauge,
        "release_queue_oldest_timestamp_seconds",
        "Unix time of the oldest waiting ticket, 0 when the queue is empty.",
        "oldest",
    ),
    _Row(_gauge, "release_queue_last_drain_timestamp_seconds", "Unix time of the last drain.", "last_drain"),
    _Row(_counter, "release_queue_orphaned", "Entries forgotten because their context was lost.", "orphaned"),
    _Row(_gauge, "fences_pending", "Entries that wait for a fence.", "fences_pending"),
    _Row(
        _counter,
        "release_queue_outcomes",
        "Releases that ran where they were closed, were handed to the queue's owner, or were orphaned.",
        "outcomes",
        "result",
    ),
)

_PER_MANAGER: tuple[_Row, ...] = (
    _Row(_gauge, "stuck_workers", "Workers written off.", "stuck_workers"),
    _Row(
        _gauge,
        "stuck_workers_limit",
        "How many workers may be written off (max_stuck_finalizers).",
        "stuck_workers_limit",
    ),
    _Row(
        _gauge, "quarantined_releases", "Releases not started because that limit is reached.", "quarantined"
    ),
    _Row(
        _gauge, "keeper_last_run_timestamp_seconds", "Unix time of the keeper's last pass.", "keeper_last_run"
    ),
    _Row(_gauge, "events_pending", "Length of the keeper's mailbox.", "events_pending"),
    _Row(
        _counter,
        "observer_events_dropped",
        "Log and hook events dropped because an observer was slow.",
        "observer_events_dropped",
    ),
)

_PER_CAPTURE: tuple[_Row, ...] = (
    _Row(_counter, "capture_frames", "Frames, by what became of them.", "results", "result"),
    _Row(
        _gauge,
        "capture_last_frame_timestamp_seconds",
        "Unix time of the last frame, 0 before the first.",
        "last_frame",
    ),
    _Row(_histogram, "capture_callback_duration_seconds", "The user's callback.", "callback_duration"),
    _Row(_gauge, "capture_frames_held", "Frames alive beyond their callback.", "frames_held"),
)

_PER_POOL: tuple[_Row, ...] = (
    _Row(_gauge, "pool_items", "Items, idle and in use.", "items", "state"),
    _Row(_gauge, "pool_items_limit", "How many items the pool keeps at most.", "items_limit"),
    _Row(_gauge, "pool_waiters", "Callers waiting now.", "waiters"),
    _Row(_histogram, "pool_get_wait_seconds", "The time to get an item.", "get_wait"),
    _Row(_counter, "pool_gets", "Calls of get, by what they ended in.", "results", "result"),
)

_PER_DISTRIBUTOR: tuple[_Row, ...] = (
    _Row(_counter, "distributor_published", "Frames published.", "published"),
)

_PER_GROUP: tuple[_Row, ...] = (
    _Row(_gauge, "distributor_receivers", "Receivers now.", "receivers"),
    _Row(_counter, "receiver_received", "Frames received, summed over the group.", "received"),
    _Row(_counter, "receiver_missed", "Frames missed, summed over the group.", "missed"),
    _Row(_gauge, "receiver_lag_frames", "Largest lag in the group.", "lag"),
    _Row(_counter, "receiver_evictions", "Receivers evicted.", "evictions"),
)


# -- a scrape: every snapshot, sorted by what it is about ----------------------------------------------------


@attrs.frozen
class _Scrape:
    """What a scrape has found, by what it is about: label values and figures."""

    builds: frozenset[str] = frozenset()
    """The leak levels in use."""
    capped: Sequence[SafetyManager] = ()
    """The managers some of whose types share a label."""
    types: Sources = attrs.field(factory=list)
    queues: Sources = attrs.field(factory=list)
    managers: Sources = attrs.field(factory=list)
    captures: Sources = attrs.field(factory=list)
    pools: Sources = attrs.field(factory=list)
    distributors: Sources = attrs.field(factory=list)
    groups: Sources = attrs.field(factory=list)


def _scrape(managers: Sequence[SafetyManager]) -> _Scrape:
    components = _read_all(managers)  # first, so that the snapshots count what fails here
    captures, pools, memories = (_of(components, kind) for kind in ("capture", "pool", "memory"))
    distributors = _of(components, "distributor")
    captures, pools = _distinct(captures), _distinct(pools)
    published = _distinct([one.with_figures(attrs.evolve(one.figures, groups={})) for one in distributors])
    groups = _distinct(
        [
            one.with_figures(figures, group)
            for one in distributors
            for group, figures in one.figures.groups.items()
        ]
    )
    snapshots = [manager.stats() for manager in managers]
    return _Scrape(
        builds=frozenset(manager.config.leak_level for manager in managers),
        capped=[m for m, stats in zip(managers, snapshots, strict=True) if len(stats.types) > MAX_TYPES],
        types=[
            ((stats.manager, label), figures)
            for manager, stats in zip(managers, snapshots, strict=True)
            for label, figures in _capped(
                _with_budgets(stats.types, [one for one in memories if one.manager is manager])
            ).items()
        ],
        queues=_by_name([(queue.queue, queue) for stats in snapshots for queue in stats.queues]),
        managers=[((stats.manager,), stats) for stats in snapshots],
        captures=[(one.labels, one.figures) for one in captures],
        pools=[(one.labels, one.figures) for one in pools],
        distributors=[(one.labels, one.figures) for one in published],
        groups=[(one.labels, one.figures) for one in groups],
    )


# -- components: whose figures are other people's code -------------------------------------------------------


@attrs.frozen(eq=False)
class _Read:
    """What a component has said of itself."""

    manager: SafetyManager
    kind: str
    labels: tuple[str, ...]
    figures: Any
    rows: tuple[_Row, ...]

    def with_figures(self, figures: Any, *more: str) -> _Read:
        """Of the same component, but other figures, under more labels."""
        rows = _PER_GROUP if more else self.rows
        return attrs.evolve(self, figures=figures, labels=(*self.labels, *more), rows=rows)

    def check(self) -> None:
        """See that families can be made of it. Raises what they would."""
        if not all(isinstance(label, str) for label in self.labels):
            raise TypeError(f"its name is to be a text, and is {self.labels[0]!r}")
        for row in self.rows:
            for sample in row.family(
                tuple("abcd"[: len(self.labels)]), [(self.labels, self.figures)]
            ).samples:
                float(sample.value)


_ROWS: Mapping[str, tuple[_Row, ...]] = {
    "capture": _PER_CAPTURE,
    "pool": _PER_POOL,
    "distributor": _PER_DISTRIBUTOR,
    "memory": (),
}
"""The kinds of components that families are made of."""


def _read_all(managers: Sequence[SafetyManager]) -> list[_Read]:
    """What the components of `managers` say, each once. One that fails is reported by its manager, and left
    out."""
    found: list[_Read] = []
    seen: set[int] = set()
    for manager in managers:
        for component in manager.components():
            if id(component) in seen:
                continue
            seen.add(id(component))
            try:
                read = _read(manager, component)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                _report(manager, _text(component, "kind"), _text(component, "name"), error)
            else:
                found += read
    return found


def _read(manager: SafetyManager, component: Any) -> list[_Read]:
    """What a component says, checked; nothing where no family is made of its kind."""
    kind = component.kind
    if not isinstance(kind, str):
        raise TypeError(f"its kind is to be a text, and is {kind!r}")
    rows = _ROWS.get(kind)
    if rows is None:
        return []
    figures = component.stats()
    read = _Read(manager, kind, (component.name,), figures, rows)
    read.check()
    if kind == "distributor":
        for group, of_group in figures.groups.items():
            read.with_figures(of_group, group).check()
        attrs.evolve(figures, groups={})
    elif kind == "memory":
        for budget in figures.types.values():
            for limit in (budget.bytes_limit, budget.objects_limit):
                float(_lower(limit, 0) or 0)
    return [read]


def _text(component: Any, attribute: str) -> str:
    """An attribute for a message, whatever it is; empty where it cannot be had, which the message is about
    then."""
    try:
        value = getattr(component, attribute)
        return value if isinstance(value, str) and value else ""
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""


def _report(manager: SafetyManager, kind: str, name: str, error: BaseException) -> None:
    """Have the manager count and tell that a component's figures are missing."""
    kind = kind if kind in _ROWS else "component"
    manager.report_panic(f"figures of {kind}{f' {name!r}' if name else ''}", error, type_name=kind)


def _of(components: Sequence[_Read], kind: str) -> list[_Read]:
    return [one for one in components if one.kind == kind]


def _distinct(reads: Sequence[_Read]) -> list[_Read]:
    """One for each set of label values, with the figures of all that have them: a series is given once.
    Figures that cannot be put together are those of the first, and the others are reported."""
    groups: dict[tuple[str, ...], list[_Read]] = {}
    for one in reads:
        groups.setdefault(one.labels, []).append(one)
    found = []
    for group in groups.values():
        first = group[0]
        try:
            whole = first.with_figures(_together([one.figures for one in group]))
            whole = attrs.evolve(whole, rows=first.rows)
            whole.check()
        except Exception as error:
            whole = first
            for other in group[1:]:
                _report(other.manager, other.kind, other.labels[0], error)
        found.append(whole)
    return found


def _with_budgets(types: Mapping[str, TypeStats], memories: Sequence[_Read]) -> Mapping[str, TypeStats]:
    """`types` with the limits that memory managers set for them; the lowest of several."""
    limited = dict(types)
    for memory in memories:
        for name, budget in memory.figures.types.items():
            known = limited.get(name)
            if known is not None:
                limited[name] = attrs.evolve(
                    known,
                    bytes_limit=_lower(known.bytes_limit, budget.bytes_limit),
                    objects_limit=_lower(known.objects_limit, budget.objects_limit),
                )
    return limited


def _lower(one: int | None, other: int | None) -> int | None:
    return min(one, other) if one is not None and other is not None else one if other is None else other


def _families(scrape: _Scrape) -> list[Metric]:
    return [
        _build_info(scrape.builds),
        *(row.family(("manager", "type"), scrape.types) for row in _PER_TYPE),
        *(row.family(("queue",), scrape.queues) for row in _PER_QUEUE),
        *(row.family(("manager",), scrape.managers) for row in _PER_MANAGER),
        *(row.family(("capture",), scrape.captures) for row in _PER_CAPTURE),
        *(row.family(("pool",), scrape.pools) for row in _PER_POOL),
        *(row.family(("distributor",), scrape.distributors) for row in _PER_DISTRIBUTOR),
        *(row.family(("distributor", "group"), scrape.groups) for row in _PER_GROUP),
    ]


def _build_info(leak_levels: Iterable[str]) -> Metric:
    family = InfoMetricFamily("lifecycle_build", "What runs here.", labels=("leak_level",))
    for level in sorted(leak_levels):
        family.add_metric((level,), _BUILD)
    return family


_BUILD = {
    "version": __version__,
    "python": platform.python_version(),
    "free_threaded": "yes" if sysconfig.get_config_var("Py_GIL_DISABLED") else "no",
}


# -- several figures under one label -------------------------------------------------------------------------

Figures = TypeVar("Figures", bound=attrs.AttrsInstance)


def _capped(types: Mapping[str, TypeStats]) -> dict[str, TypeStats]:
    """`types` by label: the first `MAX_TYPES` under their own names, all others together."""
    own = dict(list(types.items())[:MAX_TYPES])
    rest = list(types.values())[MAX_TYPES:]
    if OTHER in own:  # a type that somebody has named so
        rest.append(own.pop(OTHER))
    if rest:
        own[OTHER] = _together(rest)
    return own


def _by_name(named: Iterable[tuple[str, Figures]]) -> list[tuple[tuple[str, ...], Figures]]:
    return _by_labels(((name,), figures) for name, figures in named)


def _by_labels(
    labelled: Iterable[tuple[tuple[str, ...], Figures]],
) -> list[tuple[tuple[str, ...], Figures]]:
    """Each set of label values once, with the figures of all that have them."""
    groups: dict[tuple[str, ...], list[Figures]] = {}
    for labels, figures in labelled:
        groups.setdefault(labels, []).append(figures)
    return [(labels, _together(group)) for labels, group in groups.items()]


def _together(group: Sequence[Figures]) -> Figures:
    """The figures of several things that share a label, as one."""
    first = group[0]
    if len(group) == 1:
        return first
    changes = {
        field.name: _combine(field.name, [getattr(figures, field.name) for figures in group])
        for field in attrs.fields(type(first))
    }
    return type(first)(**changes)


def _combine(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, str):
        return first
    if isinstance(first, Mapping):
        return {
            key: sum(value.get(key, 0) for value in values)
            for key in dict.fromkeys(k for v in values for k in v)
        }
    if isinstance(first, Histogram):
        return _sum_of_histograms(values)
    if name == "oldest":
        return min((value for value in values if value), default=0.0)
    if name.startswith("last_") or name == "lag":
        return max(values)
    if name == "longest":
        return max(filter(None, values), key=attrgetter("seconds"), default=None)
    if name.endswith("_limit"):
        return None  # each has its own; a sum would be nobody's
    return sum(values)


def _sum_of_histograms(histograms: Sequence[Histogram]) -> Histogram:
    """Exact at the bounds that all of them have; the others are left out."""
    bounds = tuple(sorted(set(histograms[0].bounds).intersection(*(set(h.bounds) for h in histograms[1:]))))
    counts = [0] * (len(bounds) + 1)
    for histogram in histograms:
        for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
            counts[bisect.bisect_left(bounds, bound)] += count
    return Histogram(bounds=bounds, counts=tuple(counts), sum=sum(h.sum for h in histograms))
