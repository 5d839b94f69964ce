"""Families: one row each, one table for each kind of thing. A new kind is a new table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from lifecycle.stats import Histogram

Sources = list[tuple[tuple[str, ...], Any]]
"""Label values, and the figures that stand under them."""


@attrs.frozen
class Row:
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


def is_gauge(row: Row) -> bool:
    """Return True if what the row reads ends with the thing that it is of."""
    return row.make is gauge


def _label(value: str) -> str:
    """A label's value as it can be sent: a lone surrogate in one name would cost the whole answer."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
        total += count
        yield "+Inf" if bound == inf else repr(float(bound)), total


gauge: type[GaugeMetricFamily] = GaugeMetricFamily
counter: type[CounterMetricFamily] = CounterMetricFamily
histogram: type[HistogramMetricFamily] = HistogramMetricFamily

PER_TYPE: tuple[Row, ...] = (
    Row(gauge, "objects", "Objects that have not ended, by state.", "states", "state"),
    Row(gauge, "object_bytes", "Native bytes registered with size= and not ended.", "bytes"),
    Row(gauge, "object_bytes_limit", "Budget of native bytes, where one is set.", "bytes_limit"),
    Row(gauge, "objects_limit", "Most live objects allowed, where a limit is set.", "objects_limit"),
    Row(
        gauge,
        "oldest_object_timestamp_seconds",
        "Unix time at which the oldest live object was registered, 0 when there is none.",
        "oldest",
    ),
    Row(counter, "registered", "Objects registered.", "registered"),
    Row(
        counter,
        "ended",
        "Objects that have ended, by how: released, failed, stuck, detached or orphaned.",
        "ended",
        "end",
    ),
    Row(counter, "closed", "Objects closed to new accesses, by cause.", "closed", "cause"),
    Row(counter, "refused", "Accesses refused, by the state of the object.", "refused", "state"),
    Row(counter, "panics", "Undeclared exceptions that safe_access and callbacks contained.", "panics"),
    Row(
        counter,
        "errors",
        "Exceptions declared with errors= that safe_access passed on or a callback counted.",
        "errors",
    ),
    Row(counter, "leaks", "Objects whose last handle was dropped without close().", "leaks"),
    Row(
        gauge,
        "held_too_long",
        "Objects that now live for longer than the max_age of their type.",
        "held_too_long",
    ),
    Row(histogram, "release_duration_seconds", "Time that a call of a release took.", "release_duration"),
    Row(
        histogram,
        "release_wait_seconds",
        "Time from close until the release began: waiting for holders, then in the queue.",
        "release_wait",
    ),
    Row(
        counter,
        "release_failures",
        "Failed calls of releases: an exception, the deadline, or NotReleased.",
        "release_failures",
        "reason",
    ),
    Row(
        counter,
        "release_retries",
        "Releases called again after NotReleased or an exception of retry_on.",
        "retries",
    ),
)

PER_QUEUE: tuple[Row, ...] = (
    Row(gauge, "release_queue_entries", "Releases that wait to run.", "entries"),
    Row(
        gauge,
        "release_queue_oldest_timestamp_seconds",
        "Unix time at which the oldest waiting release was queued, 0 when the queue is empty.",
        "oldest",
    ),
    Row(
        gauge,
        "release_queue_last_drain_timestamp_seconds",
        "Unix time at which the queue was last drained.",
        "last_drain",
    ),
    Row(
        counter,
        "release_queue_orphaned",
        "Objects that are never released because the queue was lost.",
        "orphaned",
    ),
    Row(gauge, "fences_pending", "Releases that wait for a fence.", "fences_pending"),
    Row(
        counter,
        "release_queue_outcomes",
        "Releases that ran where they were closed, were handed to the queue's owner, or were orphaned.",
        "outcomes",
        "result",
    ),
)

PER_MANAGER: tuple[Row, ...] = (
    Row(gauge, "stuck_workers", "Worker threads that hang in a release past its deadline.", "stuck_workers"),
    Row(
        gauge,
        "stuck_workers_limit",
        "How many worker threads may hang (max_stuck_finalizers).",
        "stuck_workers_limit",
    ),
    Row(
        gauge,
        "quarantined_releases",
        "Releases that do not start because that many worker threads hang.",
        "quarantined",
    ),
    Row(
        gauge,
        "keeper_last_run_timestamp_seconds",
        "Unix time at which the maintenance thread last ran.",
        "keeper_last_run",
    ),
    Row(gauge, "events_pending", "Events that have not been counted yet.", "events_pending"),
    Row(
        counter,
        "observer_events_dropped",
        "Log and hook events dropped because an observer was slow.",
        "observer_events_dropped",
    ),
)

PER_CAPTURE: tuple[Row, ...] = (
    Row(
        counter,
        "capture_frames",
        "Frames by result: ok, error (declared), panic (undeclared exception), dropped.",
        "results",
        "result",
    ),
    Row(
        gauge,
        "capture_last_frame_timestamp_seconds",
        "Unix time of the last frame, 0 before the first.",
        "last_frame",
    ),
    Row(
        histogram,
        "capture_callback_duration_seconds",
        "Time that the callback took for a frame.",
        "callback_duration",
    ),
    Row(gauge, "capture_frames_held", "Frames still held after their callback returned.", "frames_held"),
)

PER_POOL: tuple[Row, ...] = (
    Row(gauge, "pool_items", "Items, idle and in use.", "items", "state"),
    Row(gauge, "pool_items_limit", "How many items the pool keeps at most.", "items_limit"),
    Row(gauge, "pool_waiters", "Callers waiting now.", "waiters"),
    Row(histogram, "pool_get_wait_seconds", "Time from the call of get until it returned.", "get_wait"),
    Row(counter, "pool_gets", "Calls of get, by result.", "results", "result"),
    Row(
        counter, "guarded_releases", "Buffers made inaccessible when they were returned (guard=).", "guarded"
    ),
    Row(gauge, "guarded_bytes", "Bytes of buffers that are inaccessible now.", "guarded_bytes"),
)

PER_DISTRIBUTOR: tuple[Row, ...] = (Row(counter, "distributor_published", "Frames published.", "published"),)

PER_GROUP: tuple[Row, ...] = (
    Row(gauge, "distributor_receivers", "Receivers that are open.", "receivers"),
    Row(counter, "receiver_received", "Frames received, summed over the group.", "received"),
    Row(counter, "receiver_missed", "Frames missed, summed over the group.", "missed"),
    Row(gauge, "receiver_lag_frames", "Most frames that a receiver of the group is behind.", "lag"),
    Row(
        counter, "receiver_evictions", "Receivers removed because they fell behind (EvictAfter).", "evictions"
    ),
)

PER_BRANCH: tuple[Row, ...] = (
    Row(
        counter,
        "branch_frames",
        "Buffers that came to a branch: passed, dropped after its end, or refused while it was flushed or "
        "stopped.",
        "results",
        "result",
    ),
)

PER_PIPELINES: tuple[Row, ...] = (
    Row(
        counter,
        "branches_ended",
        "Branches, by how they ended: by themselves, or closed before.",
        "ended",
        "reason",
    ),
    Row(
        counter,
        "unfinished_files",
        "Recordings that could not be finished before their pipeline went.",
        "unfinished",
    ),
)

PER_TIMELINE: tuple[Row, ...] = (
    Row(gauge, "submissions_in_flight", "Submissions whose fence has not signalled.", "in_flight"),
    Row(
        gauge,
        "submission_oldest_timestamp_seconds",
        "Unix time at which the oldest submission in flight was begun, 0 when there is none.",
        "oldest",
    ),
    Row(counter, "submissions", "Submissions that ended: their fence signalled, or was lost.", "ends", "end"),
    Row(counter, "submission_waits", "Waits for a device that had something in flight.", "waits"),
)

PER_TEXTURE_CACHE: tuple[Row, ...] = (
    Row(gauge, "texture_cache_entries", "Textures in the cache.", "entries"),
    Row(gauge, "texture_cache_bytes", "Native bytes of the cached textures, as given with size=.", "bytes"),
    Row(counter, "texture_cache_gets", "Requests, by result.", "gets", "result"),
    Row(counter, "texture_cache_rebuilds", "Rebuilds after a change of context.", "rebuilds"),
)

PER_PROCESS: tuple[Row, ...] = (
    Row(counter, "recorder_records", "Records written to the flight recorder.", "records"),
    Row(
        counter,
        "recorder_left_out",
        "Uses and names that found no room in the flight recorder's file.",
        "left_out",
        "reason",
    ),
    Row(
        gauge,
        "previous_run_crashed",
        "1 if this start has found the file of an earlier run without a clean end.",
        "previous_run_crashed",
    ),
)
