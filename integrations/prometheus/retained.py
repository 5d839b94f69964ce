"""What has been shown: counters of components and queues that are gone stay, and labels are given out once.

**The problem.** A camera is opened again under its name. Its pool is another object, whose counts begin at 0;
Prometheus takes a counter that goes down for a restart of the process, and its rates are wrong.

**The idea.** Each manager has one `Known`, an immutable value that a scrape replaces in one indivisible step
(`Register`): what each component said last, and the sums of what those said last that are gone. A counter is
what the components of now say and what is gone, together; a gauge is what those of now say.

What a component counted after its last scrape goes with it: its counters stand still for that time, and do
not go down.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import attrs

from lifecycle import SafetyManager
from lifecycle.distribution.chain import Register
from lifecycle.integrations.prometheus.families import Row, is_gauge
from lifecycle.integrations.prometheus.merging import MAX_TYPES, OTHER, merged
from lifecycle.stats import QueueStats

Labels = tuple[str, ...]


@attrs.frozen(eq=False)
class Reading:
    """What a component has said under one set of labels, of which the first is its manager's name."""

    kind: str
    labels: Labels
    rows: tuple[Row, ...]
    figures: SimpleNamespace

    def counters(self) -> SimpleNamespace:
        """Its figures, but for those that end with the component."""
        return SimpleNamespace(
            **{row.field: None if is_gauge(row) else getattr(self.figures, row.field) for row in self.rows}
        )


Key = tuple[str, Labels]


@attrs.frozen(eq=False)
class Entry:
    """What a component said last."""

    component: weakref.ref[Any]
    readings: tuple[Reading, ...]


@attrs.frozen(eq=False)
class Known:
    """What is known of one manager's components and queues. Never changed."""

    last: Mapping[int, Entry] = attrs.field(factory=dict)
    gone: Mapping[Key, Reading] = attrs.field(factory=dict)
    own: Mapping[str, Mapping[Labels, None]] = attrs.field(factory=dict)
    """By kind: those that have labels of their own, `MAX_TYPES` at most."""
    queues: Mapping[str, tuple[QueueStats, QueueStats]] = attrs.field(factory=dict)
    """By name: what was read last, and what is to be added to that."""

    def after(self, read: Sequence[tuple[Any, tuple[Reading, ...]]], queues: Sequence[QueueStats]) -> Known:
        """What is known once this was read."""
        last: dict[int, Entry] = {}
        gone = dict(self.gone)
        for number, entry in self.last.items():
            if entry.component() is not None:
                last[number] = entry
                continue
            for reading in entry.readings:
                key = (reading.kind, self.label(reading))
                before = [gone[key].figures] if key in gone else []
                figures = merged(reading.rows, [*before, reading.counters()])
                gone[key] = attrs.evolve(reading, labels=key[1], figures=figures)
        own = {kind: dict(labels) for kind, labels in self.own.items()}
        for component, readings in read:
            last[id(component)] = Entry(weakref.ref(component), readings)
            for reading in readings:
                labels = own.setdefault(reading.kind, {})
                if len(labels) < MAX_TYPES:
                    labels.setdefault(reading.labels)
        return Known(last, gone, own, self._after_queues(queues))

    def _after_queues(self, queues: Sequence[QueueStats]) -> dict[str, tuple[QueueStats, QueueStats]]:
        now = {queue.queue: queue for queue in queues}
        known = {}
        for name in (*self.queues, *(name for name in now if name not in self.queues)):
            none = QueueStats(name, 0, 0.0, 0.0, 0, 0, 0, 0)
            read = now.get(name, none)
            before, more = self.queues.get(name, (none, none))
            known[name] = (
                read,
                attrs.evolve(
                    more,
                    last_drain=max(more.last_drain, before.last_drain),
                    **{
                        field: getattr(more, field) + max(0, getattr(before, field) - getattr(read, field))
                        for field in _QUEUE_COUNTERS
                    },
                ),
            )
        return known

    def label(self, reading: Reading) -> Labels:
        """The labels under which `reading` is shown."""
        if reading.labels in self.own.get(reading.kind, {}):
            return reading.labels
        return (reading.labels[0], *(OTHER for _ in reading.labels[1:]))

    def retained(self, read: Sequence[tuple[Any, tuple[Reading, ...]]]) -> Iterator[Reading]:
        """The counters of what is gone, and of what was not to be had this time."""
        yield from self.gone.values()
        now = {id(component) for component, _ in read}
        for number, entry in self.last.items():
            if number not in now:
                for reading in entry.readings:
                    yield attrs.evolve(reading, figures=reading.counters())

    def queue_stats(self) -> list[QueueStats]:
        """The figures of every queue that there was."""
        return [
            attrs.evolve(
                read,
                last_drain=max(read.last_drain, more.last_drain),
                **{field: getattr(read, field) + getattr(more, field) for field in _QUEUE_COUNTERS},
            )
            for read, more in self.queues.values()
        ]

    @property
    def capped(self) -> bool:
        """True if some share a label."""
        return any(
            entry_reading.labels not in self.own.get(entry_reading.kind, {})
            for entry in self.last.values()
            for entry_reading in entry.readings
        )


_QUEUE_COUNTERS = ("orphaned", "run", "handed")

_known: weakref.WeakKeyDictionary[SafetyManager, Register[Known]] = weakref.WeakKeyDictionary()
"""Of each manager, for all collectors: two that show the same must not differ."""


def retain(
    manager: SafetyManager, read: Sequence[tuple[Any, tuple[Reading, ...]]], queues: Sequence[QueueStats]
) -> Known:
    """Note what was read of `manager`, and return what is known then. Callable on any thread at any
    moment."""
    history = _known.get(manager) or _known.setdefault(manager, Register(Known()))
    return history.update(lambda known: known.after(read, queues))
