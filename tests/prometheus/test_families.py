"""The figures themselves: which families there are, that they are exact, complete from the start, and honest
about time."""

from __future__ import annotations

import gc
import time
from threading import Event

import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    BufferPool,
    FrameDistributor,
    NotReleased,
    ReleaseQueue,
    SafetyManager,
    Timeline,
)
from lifecycle.fences import EventFence
from lifecycle.integrations.prometheus import MAX_TYPES, OTHER, LifecycleCollector
from tests.prometheus.support import Branches, Cache, Camera, Native, family, released, value
from tests.support import SOON, eventually

FAMILIES = {
    "lifecycle_build": ("info", ("version", "python", "free_threaded", "leak_level")),
    "lifecycle_objects": ("gauge", ("manager", "type", "state")),
    "lifecycle_object_bytes": ("gauge", ("manager", "type")),
    "lifecycle_object_bytes_limit": ("gauge", ("manager", "type")),
    "lifecycle_objects_limit": ("gauge", ("manager", "type")),
    "lifecycle_oldest_object_timestamp_seconds": ("gauge", ("manager", "type")),
    "lifecycle_registered": ("counter", ("manager", "type")),
    "lifecycle_ended": ("counter", ("manager", "type", "end")),
    "lifecycle_closed": ("counter", ("manager", "type", "cause")),
    "lifecycle_refused": ("counter", ("manager", "type", "state")),
    "lifecycle_panics": ("counter", ("manager", "type")),
    "lifecycle_errors": ("counter", ("manager", "type")),
    "lifecycle_leaks": ("counter", ("manager", "type")),
    "lifecycle_held_too_long": ("gauge", ("manager", "type")),
    "lifecycle_release_duration_seconds": ("histogram", ("manager", "type")),
    "lifecycle_release_wait_seconds": ("histogram", ("manager", "type")),
    "lifecycle_release_failures": ("counter", ("manager", "type", "reason")),
    "lifecycle_release_retries": ("counter", ("manager", "type")),
    "lifecycle_release_queue_entries": ("gauge", ("manager", "queue")),
    "lifecycle_release_queue_oldest_timestamp_seconds": ("gauge", ("manager", "queue")),
    "lifecycle_release_queue_last_drain_timestamp_seconds": ("gauge", ("manager", "queue")),
    "lifecycle_release_queue_orphaned": ("counter", ("manager", "queue")),
    "lifecycle_fences_pending": ("gauge", ("manager", "queue")),
    "lifecycle_release_queue_outcomes": ("counter", ("manager", "queue", "result")),
    "lifecycle_stuck_workers": ("gauge", ("manager",)),
    "lifecycle_stuck_workers_limit": ("gauge", ("manager",)),
    "lifecycle_quarantined_releases": ("gauge", ("manager",)),
    "lifecycle_keeper_last_run_timestamp_seconds": ("gauge", ("manager",)),
    "lifecycle_events_pending": ("gauge", ("manager",)),
    "lifecycle_observer_events_dropped": ("counter", ("manager",)),
    "lifecycle_capture_frames": ("counter", ("manager", "capture", "result")),
    "lifecycle_capture_last_frame_timestamp_seconds": ("gauge", ("manager", "capture")),
    "lifecycle_capture_callback_duration_seconds": ("histogram", ("manager", "capture")),
    "lifecycle_capture_frames_held": ("gauge", ("manager", "capture")),
    "lifecycle_pool_items": ("gauge", ("manager", "pool", "state")),
    "lifecycle_pool_items_limit": ("gauge", ("manager", "pool")),
    "lifecycle_pool_waiters": ("gauge", ("manager", "pool")),
    "lifecycle_pool_get_wait_seconds": ("histogram", ("manager", "pool")),
    "lifecycle_pool_gets": ("counter", ("manager", "pool", "result")),
    "lifecycle_guarded_releases": ("counter", ("manager", "pool")),
    "lifecycle_guarded_bytes": ("gauge", ("manager", "pool")),
    "lifecycle_distributor_published": ("counter", ("manager", "distributor")),
    "lifecycle_distributor_receivers": ("gauge", ("manager", "distributor", "group")),
    "lifecycle_receiver_received": ("counter", ("manager", "distributor", "group")),
    "lifecycle_receiver_missed": ("counter", ("manager", "distributor", "group")),
    "lifecycle_receiver_lag_frames": ("gauge", ("manager", "distributor", "group")),
    "lifecycle_receiver_evictions": ("counter", ("manager", "distributor", "group")),
    "lifecycle_branch_frames": ("counter", ("manager", "branch", "result")),
    "lifecycle_branches_ended": ("counter", ("manager", "reason")),
    "lifecycle_unfinished_files": ("counter", ("manager",)),
    "lifecycle_submissions_in_flight": ("gauge", ("manager", "timeline")),
    "lifecycle_submission_oldest_timestamp_seconds": ("gauge", ("manager", "timeline")),
    "lifecycle_submissions": ("counter", ("manager", "timeline", "end")),
    "lifecycle_submission_waits": ("counter", ("manager", "timeline")),
    "lifecycle_texture_cache_entries": ("gauge", ("manager", "cache")),
    "lifecycle_texture_cache_bytes": ("gauge", ("manager", "cache")),
    "lifecycle_texture_cache_gets": ("counter", ("manager", "cache", "result")),
    "lifecycle_texture_cache_rebuilds": ("counter", ("manager", "cache")),
    "lifecycle_recorder_records": ("counter", ()),
    "lifecycle_recorder_left_out": ("counter", ("reason",)),
    "lifecycle_previous_run_crashed": ("gauge", ()),
}
"""Name and labels of every family, as they are promised."""


def test_describe_names_every_family_and_asks_no_manager(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = LifecycleCollector(manager)

    def refuse(_: SafetyManager) -> None:
        raise AssertionError("describe() asked a manager")

    monkeypatch.setattr(SafetyManager, "stats", refuse)
    described = list(collector.describe())
    monkeypatch.undo()
    assert {metric.name: metric.type for metric in described} == {
        name: kind for name, (kind, _) in FAMILIES.items()
    }
    assert not any(metric.samples for metric in described)


def test_every_family_has_the_promised_labels_and_no_other(manager: SafetyManager) -> None:
    manager.policy("camera.Frame", max_live=10, max_bytes=1000)
    camera = Camera("front", 3)
    manager.add_component(camera)
    branches = Branches()
    manager.add_component(branches)
    distributor: FrameDistributor[int] = FrameDistributor(4, name="front", manager=manager)
    receiver = distributor.subscribe()
    timeline = Timeline("engine", fence=lambda: EventFence(Event()), manager=manager)
    cache = Cache("textures")
    manager.add_component(cache)
    with manager.register(Native(), "camera.Frame", release=released, size=10), BufferPool(manager, 4096, 1):
        metrics = list(LifecycleCollector(manager).collect())
    receiver.close()
    assert (timeline.kind, cache.kind) == ("timeline", "texture_cache")
    assert [metric.name for metric in metrics] == list(FAMILIES)
    for metric in metrics:
        kind, labels = FAMILIES[metric.name]
        assert metric.type == kind
        if labels in ((), ("reason",)):
            # Of the process: test_apps.py has a recorder.
            assert metric.samples == []
            continue
        assert metric.samples, metric.name
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == set(labels), sample
        assert metric.documentation.endswith(".")


def test_counters_stand_at_zero_for_every_known_type(manager: SafetyManager) -> None:
    with manager.register(Native(), "gl.Texture", release=released):
        metrics = list(LifecycleCollector(manager).collect())
    at = {"type_": "gl.Texture", "manager": manager.name}
    for end in ("released", "failed", "stuck", "detached", "orphaned"):
        assert value(metrics, "lifecycle_ended_total", end=end, **at) == 0
    for cause in ("close", "unregister", "invalidate", "drop", "exit"):
        assert value(metrics, "lifecycle_closed_total", cause=cause, **at) == 0
    for reason in ("error", "timeout", "not_released"):
        assert value(metrics, "lifecycle_release_failures_total", reason=reason, **at) == 0
    for state in ("closing", "invalid", "released"):
        assert value(metrics, "lifecycle_refused_total", state=state, **at) == 0
    for name in ("panics", "errors", "leaks", "release_retries"):
        assert value(metrics, f"lifecycle_{name}_total", **at) == 0
    assert value(metrics, "lifecycle_release_duration_seconds_count", **at) == 0
    assert value(metrics, "lifecycle_registered_total", **at) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_figures_are_what_happened(manager: SafetyManager) -> None:
    attempts = iter([NotReleased("busy"), None])

    def second_time(obj: object) -> None:
        error = next(attempts)
        if error is not None:
            raise error

    def fail(obj: object) -> None:
        raise OSError("the driver is gone")

    def missing_key(obj: object) -> None:
        raise KeyError("missing")

    manager.policy("frame", errors=(KeyError,))
    handles = [
        manager.register(Native(), "frame", release=released, release_on=ANY_THREAD, size=100)
        for _ in range(6)
    ]
    handles[0].close()
    manager.unregister(handles[1])
    with pytest.raises(AccessPanicError):
        manager.safe_access(handles[2], lambda _: 1 / 0)
    with pytest.raises(KeyError):
        manager.safe_access(handles[3], missing_key)
    with pytest.raises(AccessRefusedError):
        manager.safe_access(handles[0], lambda _: None)
    handles[3].close()
    del handles[4]  # a leak
    gc.collect()
    retried = manager.register(Native(), "retried", release=second_time)
    retried.close(timeout=5)
    failed = manager.register(Native(), "failed", release=fail)
    failed.close(timeout=5)
    collector = LifecycleCollector(manager)
    eventually(
        lambda: value(collector.collect(), "lifecycle_ended_total", type_="frame", end="released") == 5
    )
    eventually(
        lambda: value(collector.collect(), "lifecycle_ended_total", type_="retried", end="released") == 1
    )
    metrics = list(collector.collect())
    assert value(metrics, "lifecycle_registered_total", type_="frame") == 6
    assert value(metrics, "lifecycle_objects", type_="frame", state="valid") == 1
    assert value(metrics, "lifecycle_object_bytes", type_="frame") == 100
    assert value(metrics, "lifecycle_closed_total", type_="frame", cause="close") == 2
    assert value(metrics, "lifecycle_closed_total", type_="frame", cause="unregister") == 1
    assert value(metrics, "lifecycle_closed_total", type_="frame", cause="drop") == 1
    assert value(metrics, "lifecycle_panics_total", type_="frame") == 1
    assert value(metrics, "lifecycle_errors_total", type_="frame") == 1
    assert value(metrics, "lifecycle_leaks_total", type_="frame") == 1
    assert (
        sum(s.value for s in family(metrics, "lifecycle_refused").samples if s.labels["type"] == "frame") == 1
    )
    assert value(metrics, "lifecycle_release_retries_total", type_="retried") == 1
    assert value(metrics, "lifecycle_ended_total", type_="failed", end="failed") == 1
    assert value(metrics, "lifecycle_release_failures_total", type_="failed", reason="error") == 1
    handles[4].close()


def test_registered_is_live_plus_every_end(manager: SafetyManager) -> None:
    handles = [manager.register(Native(), f"kind{n % 7}", release=released) for n in range(200)]
    for handle in handles[::2]:
        handle.close(timeout=0)
    metrics = list(LifecycleCollector(manager).collect())
    for kind in (f"kind{n}" for n in range(7)):
        ended = sum(s.value for s in family(metrics, "lifecycle_ended").samples if s.labels["type"] == kind)
        live = sum(s.value for s in family(metrics, "lifecycle_objects").samples if s.labels["type"] == kind)
        assert value(metrics, "lifecycle_registered_total", type_=kind) == live + ended
    for handle in handles:
        handle.close()


def test_timestamps(manager: SafetyManager) -> None:
    collector = LifecycleCollector(manager)
    before = time.time()
    first = manager.register(Native(), "frame", release=released)
    between = time.time()
    time.sleep(0.02)
    second = manager.register(Native(), "frame", release=released)
    oldest = value(collector.collect(), "lifecycle_oldest_object_timestamp_seconds", type_="frame")
    assert before - 0.005 <= oldest <= between + 0.005
    first.close()
    oldest = value(collector.collect(), "lifecycle_oldest_object_timestamp_seconds", type_="frame")
    assert between < oldest <= time.time()
    second.close()
    eventually(lambda: manager.health().keeper_last_run)
    metrics = list(collector.collect())
    assert value(metrics, "lifecycle_oldest_object_timestamp_seconds", type_="frame") == 0
    assert before - 1 <= value(metrics, "lifecycle_keeper_last_run_timestamp_seconds") <= time.time()


def test_a_queue_that_nobody_drains_shows_since_when(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl-thread")
    collector = LifecycleCollector(manager)
    handles = [manager.register(Native(), "gl.Texture", release=released, release_on=queue) for _ in range(3)]
    before = time.time()
    for handle in handles:
        handle.close(timeout=0)
    metrics = list(collector.collect())
    assert value(metrics, "lifecycle_release_queue_entries", queue="gl-thread") == 3
    oldest = value(metrics, "lifecycle_release_queue_oldest_timestamp_seconds", queue="gl-thread")
    assert before - 0.05 <= oldest <= time.time()
    assert queue.drain() == 3
    drained = list(collector.collect())
    assert value(drained, "lifecycle_release_queue_entries", queue="gl-thread") == 0
    assert value(drained, "lifecycle_release_queue_oldest_timestamp_seconds", queue="gl-thread") == 0
    assert value(drained, "lifecycle_release_queue_last_drain_timestamp_seconds", queue="gl-thread") >= before


def test_a_limit_stands_beside_its_gauge_once_it_is_set(manager: SafetyManager) -> None:
    manager.policy("bounded", max_live=5, max_bytes=4096)
    with (
        manager.register(Native(), "bounded", release=released),
        manager.register(Native(), "free", release=released),
    ):
        metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_objects_limit", type_="bounded") == 5
    assert value(metrics, "lifecycle_object_bytes_limit", type_="bounded") == 4096
    for name in ("lifecycle_objects_limit", "lifecycle_object_bytes_limit"):
        assert not [s for s in family(metrics, name).samples if s.labels["type"] == "free"]


def slowly(obj: object) -> None:
    time.sleep(0.02)


def test_histograms_are_cumulative_and_have_a_bound_at_the_deadline(manager: SafetyManager) -> None:
    for release in (released, released, slowly):
        manager.register(Native(), "frame", release=release).close()
    metrics = list(LifecycleCollector(manager).collect())
    buckets = [
        (float(s.labels["le"]), s.value)
        for s in family(metrics, "lifecycle_release_duration_seconds").samples
        if s.name.endswith("_bucket") and s.labels["type"] == "frame"
    ]
    assert [bound for bound, _ in buckets] == sorted(bound for bound, _ in buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert manager.config.finalizer_timeout in [bound for bound, _ in buckets]
    counts = dict(buckets)
    assert (counts[0.0166], counts[float("inf")]) == (2, 3)
    assert 0.02 <= value(metrics, "lifecycle_release_duration_seconds_sum", type_="frame") < SOON


def test_captures(manager: SafetyManager) -> None:
    front, back = Camera("front", 3), Camera("back", 5)
    manager.add_component(front)
    manager.add_component(back)
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_capture_frames_total", capture="front", result="ok") == 3
    assert value(metrics, "lifecycle_capture_frames_total", capture="front", result="panic") == 0
    assert value(metrics, "lifecycle_capture_last_frame_timestamp_seconds", capture="back") == 1005
    assert value(metrics, "lifecycle_capture_callback_duration_seconds_count", capture="back") == 5
    assert value(metrics, "lifecycle_capture_frames_held", capture="front") == 1


def test_what_shares_a_label_is_given_once_and_added_up() -> None:
    with SafetyManager(name="a") as a, SafetyManager(name="b") as b:
        cameras = Camera("front", 3), Camera("front", 4, bounds=(0.001, 1.0, 5.0)), Camera("front", 9)
        a.add_component(cameras[0])
        a.add_component(cameras[1])
        b.add_component(cameras[2])
        metrics = list(LifecycleCollector(a, b).collect())
        of_a = {"capture": "front", "manager": "a"}
        assert value(metrics, "lifecycle_capture_frames_total", result="ok", **of_a) == 7
        assert (
            value(metrics, "lifecycle_capture_frames_total", capture="front", manager="b", result="ok") == 9
        )
        assert value(metrics, "lifecycle_capture_last_frame_timestamp_seconds", **of_a) == 1004
        durations = family(metrics, "lifecycle_capture_callback_duration_seconds").samples
        buckets = {
            s.labels["le"]: s.value
            for s in durations
            if s.name.endswith("_bucket") and s.labels["manager"] == "a"
        }
        assert buckets == {"0.001": 0, "5.0": 7, "+Inf": 7}  # exact at the bounds that both have
        seen = [(s.name, tuple(sorted(s.labels.items()))) for metric in metrics for s in metric.samples]
        assert len(seen) == len(set(seen))


def test_too_many_types_share_one_label_and_one_event_says_so(manager: SafetyManager) -> None:
    events: list[str] = []
    manager.add_observer(lambda event: events.append(event.kind))
    collector = LifecycleCollector(manager)
    handles = [manager.register(Native(), f"kind{n:03}", release=released, size=1) for n in range(MAX_TYPES)]
    assert OTHER not in {
        s.labels["type"] for s in family(collector.collect(), "lifecycle_registered").samples
    }
    handles += [
        manager.register(Native(), f"kind{n:03}", release=released, size=2)
        for n in range(MAX_TYPES, MAX_TYPES + 50)
    ]
    for _ in range(3):
        metrics = list(collector.collect())
    types = {s.labels["type"] for s in family(metrics, "lifecycle_registered").samples}
    assert types == {f"kind{n:03}" for n in range(MAX_TYPES)} | {OTHER}
    assert value(metrics, "lifecycle_registered_total", type_=OTHER) == 50
    assert value(metrics, "lifecycle_object_bytes", type_=OTHER) == 100
    assert value(metrics, "lifecycle_objects", type_=OTHER, state="valid") == 50
    assert value(metrics, "lifecycle_oldest_object_timestamp_seconds", type_=OTHER) > 0
    eventually(lambda: "types_capped" in events)
    for handle in handles:
        handle.close(timeout=0)
    eventually(lambda: manager.stats().active_objects == 0)
    assert events.count("types_capped") == 1
