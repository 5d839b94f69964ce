"""Profiling: where the time of objects goes, by type, while a profiler runs.

Four durations are collected: an object's whole life, from its registration to the end of its release; how
long leases and guarded calls hold it; how long it waits from the door shut until its release begins; how long
that runs. The first, third and fourth come from the same records that the counting of ends reads
(`observe/ledger.py`), so nothing is missed under load, as events to an observer may be. Leases are timed
where accesses are noted: on the way of validators, so when no profiler runs nothing is asked that is not
asked anyway, and it costs nothing.

Not timed: views and arrays (they may live for ever), ``with manager.safe_access(...)`` blocks and exclusive
accesses; take a lease for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime
from lifecycle._core.leases import Lease
from lifecycle.errors import LifecycleError
from lifecycle.lowlevel import HistogramCount, Pin, Uncopied, monotonic, snapshot
from lifecycle.manager import SafetyManager
from lifecycle.stats import Histogram, TypeProfile

if TYPE_CHECKING:
    from lifecycle._core.record import Record
    from lifecycle._core.tables import ObjectType

_new_object = object.__new__
_starting = runtime.process_lock()
"""Of two that start at once one is refused. Held for a comparison and two stores."""


class _Counts:
    """One type's figures being collected, by the one who counts."""

    __slots__ = ("held", "life", "release", "wait")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.life, self.held = HistogramCount(bounds), HistogramCount(bounds)
        self.wait, self.release = HistogramCount(bounds), HistogramCount(bounds)


class _TimedLease(Lease[Any]):
    """A lease that says how long it was held."""

    __slots__ = ("_kind", "_profiler", "_since")
    _kind: ObjectType
    _profiler: Profiler
    _since: float

    def __exit__(self, *_: object) -> None:
        """End the lease. Ending twice is ending once."""
        ends = self._pin is not None
        Lease.__exit__(self)
        if ends:
            self._profiler.note(self._kind, self._since)

    close = __exit__

    def take_times(self) -> tuple[Callable[[Any, float], None], Any, float]:
        """As `Lease.take_times`."""
        self._pin = None
        return self._profiler.note, self._kind, self._since

    def __del__(self) -> None:
        try:
            self.close()
        except AttributeError:  # an interrupt while it was made
            return


class Profiler(Uncopied):
    """``with Profiler(manager) as profiler: …`` and then `report`, or `table`. One at a time for each
    manager.

    Raises `LifecycleError` on `start` when another runs. All methods may be called on any thread.
    """

    _remedy = "send its report() instead"

    def __init__(self, manager: SafetyManager) -> None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"Profiler takes a SafetyManager, not {manager!r}")
        self._manager = manager
        self._counts: dict[str, _Counts] = {}
        self._held: deque[tuple[ObjectType, float]] = deque()
        self._running = False

    @property
    def running(self) -> bool:
        """True if it collects now."""
        return self._running

    def start(self) -> None:
        """Begin to collect; what was collected before stays. Starting twice is starting once."""
        registry, ledger = self._manager._registry, self._manager._maintenance.ledger
        self._manager.stats()  # what has ended before is not ours
        with _starting:
            if registry.timer is not None and registry.timer is not self:
                raise LifecycleError(
                    f"another profiler runs on manager {self._manager.name!r}: stop it first"
                )
            registry.timer = ledger.profiler = self
        for kind in snapshot(registry.kinds.values()):
            kind.timer = self
            kind.watch()
        self._running = True

    def stop(self) -> None:
        """Collect no more. Leases that are held now are not counted."""
        registry, ledger = self._manager._registry, self._manager._maintenance.ledger
        if registry.timer is not self:
            return
        self._manager.stats()
        registry.timer = ledger.profiler = None
        for kind in snapshot(registry.kinds.values()):
            kind.timer = None
            kind.watch()
        self._running = False

    def __enter__(self) -> Profiler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def report(self) -> tuple[TypeProfile, ...]:
        """What was collected so far, by type; those whose objects were held longest first."""
        self._manager.stats()  # whoever answers has counted everything before
        profiles = [
            TypeProfile(
                name,
                life=counts.life.snapshot(),
                held=counts.held.snapshot(),
                wait=counts.wait.snapshot(),
                release=counts.release.snapshot(),
            )
            for name, counts in snapshot(self._counts.items())
        ]
        return tuple(sorted(profiles, key=lambda one: -one.held.sum))

    def table(self) -> str:
        """`report` as text: for each type and duration how often, the mean, and the bound below which 95 %
        were."""
        rows = [f"{'type':24} {'':8} {'count':>8} {'mean':>10} {'95 % below':>11}"]
        for one in self.report():
            name = one.type_name
            for what in ("life", "held", "wait", "release"):
                histogram: Histogram = getattr(one, what)
                if histogram.count:
                    mean = _seconds(histogram.sum / histogram.count)
                    rows.append(f"{name:24} {what:8} {histogram.count:8} {mean:>10} {_below(histogram):>11}")
                    name = ""
        return "\n".join(rows)

    # -- called by the core ----------------------------------------------------------------------------------

    def lease(self, pin: Pin) -> Lease[Any]:
        """A lease that is timed."""
        try:
            made = _new_object(_TimedLease)
            made._kind = pin.record.kind
            made._profiler = self
            made._since = monotonic()
            made._thread = get_ident()
            made._record = pin.record
            made._pin = pin
            return made
        finally:
            pin = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def call(self, record: Record, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, timed."""
        kind = record.kind
        if not callable(fn):
            return fn  # type: ignore[unreachable]  # refused with its own message

        def timed(*args: Any) -> Any:
            since = monotonic()
            try:
                return fn(*args)
            finally:
                args = ()
                self.note(kind, since)

        return timed

    def note(self, kind: ObjectType, since: float) -> None:
        """Something was held since then. Callable at any moment."""
        if self._running:
            self._held.append((kind, monotonic() - since))

    def ended(self, records: Iterable[Record]) -> None:
        """Objects have ended. Called by the one who counts, with none as well."""
        held: dict[str, list[float]] = {}
        for _ in range(len(self._held)):
            kind, duration = self._held.popleft()
            held.setdefault(kind.type_name, []).append(duration)
        for name, durations in held.items():
            self._of(name).held.add_all(durations)
        ended: dict[str, list[Record]] = {}
        for record in records:
            ended.setdefault(record.kind.type_name, []).append(record)
        for name, group in ended.items():
            counts = self._of(name)
            counts.life.add_all([record.ended - record.born for record in group])
            counts.wait.add_all([one.begun - one.shut for one in group if one.begun and one.shut])
            counts.release.add_all([record.ended - record.begun for record in group if record.begun])

    def _of(self, type_name: str) -> _Counts:
        counts = self._counts.get(type_name)
        if counts is None:
            counts = self._counts.setdefault(type_name, _Counts(self._manager._kinds.bounds))
        return counts


def _below(histogram: Histogram) -> str:
    """The bound below which 95 % lie."""
    seen = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        seen += count
        if seen >= 0.95 * histogram.count:
            return _seconds(bound) if bound != float("inf") else f"> {_seconds(histogram.bounds[-1])}"
    return ""


def _seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
