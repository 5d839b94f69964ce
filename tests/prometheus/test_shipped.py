"""The dashboard and the alert rules that are shipped: each query against a real server that scrapes a real
workload, each rule by promtool over what real managers say when it is to fire, and when it is not."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry, start_http_server

import lifecycle
from lifecycle import (
    ANY_THREAD,
    BufferPool,
    FrameDistributor,
    Lagged,
    MemoryConfig,
    MemoryManager,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    Timeline,
)
from lifecycle.errors import AccessPanicError
from lifecycle.fences import EventFence
from lifecycle.integrations.prometheus import LifecycleCollector, dashboard_path, rules_path
from tests.prometheus.support import Branches, Cache, Camera, Native, released
from tests.prometheus.test_scraping import get, prometheus_running, query
from tests.support import ROOT, eventually

RULES = Path(rules_path())


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))


# -- what is shipped -------------------------------------------------------------------------------------------


def test_the_dashboard_is_as_the_tool_writes_it() -> None:
    from tools.dashboard import text

    assert Path(dashboard_path()).read_text(encoding="utf-8") == text(), "python -m tools.dashboard"


def test_each_alert_has_a_section_in_the_runbook_that_it_names() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == alerts()
    runbooks = re.findall(r"runbook: docs/alerts.md#(\w+)", RULES.read_text(encoding="utf-8"))
    assert runbooks == [name.lower() for name in alerts()]


def test_families_that_are_asked_for_exist() -> None:
    from tools.dashboard import queries

    known: set[str] = set()
    for family in LifecycleCollector().describe():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        known.update(family.name + suffix for suffix in suffixes.get(family.type, ("",)))
    text = RULES.read_text(encoding="utf-8")
    rules = re.findall(r"expr: >-\n\s+(.*)", text)
    assert len(rules) == len(alerts())
    asked = {name for each in (*queries(), *rules) for name in re.findall(r"\blifecycle_\w+", each)}
    assert asked - known == set()
    # A family that no panel shows would be one that nobody looks at.
    shown = {name for each in queries() for name in re.findall(r"\blifecycle_\w+", each)}
    unseen = {name for name in known - shown if not name.endswith(("_sum", "_count"))}
    assert unseen == UNSEEN


UNSEEN = {
    "lifecycle_build_info",
    "lifecycle_closed_total",
    "lifecycle_objects_limit",
    "lifecycle_release_queue_orphaned_total",
}
"""Not on the dashboard: constant, or told by another panel in other words."""


# -- a real server ---------------------------------------------------------------------------------------------


class Workload:
    """Something of everything that has figures."""

    def __init__(self, folder: Path) -> None:
        self.manager = SafetyManager(SafetyConfig(finalizer_timeout=5.0), name="shop")
        self.recorder = lifecycle.recorder.start(folder / "shop.rec", slots=1024, fault=False)
        self.memory = MemoryManager(self.manager, MemoryConfig(max_bytes=10**9))
        self.manager.policy("frame", max_live=1000, max_bytes=10**8, max_age=0.001)
        self.queue = ReleaseQueue("gl", thread="current")
        self.pool = BufferPool(self.manager, 4096, 2, name="frames")
        self.distributor: FrameDistributor[int] = FrameDistributor(2, name="camera", manager=self.manager)
        self.receiver = self.distributor.subscribe(group="preview")
        self.camera = Camera("front", 3)
        self.manager.add_component(self.camera)
        self.branches = Branches()
        self.manager.add_component(self.branches)
        self.cache = Cache("textures")
        self.manager.add_component(self.cache)
        self.done = threading.Event()
        self.timeline = Timeline("device", fence=lambda: EventFence(self.done), manager=self.manager)
        self.kept = self.manager.register(Native(), "frame", release=released, size=1000)
        self.owned = self.manager.register(Native(), "texture", release=released, release_on=self.queue)

    def step(self) -> None:
        """A moment of it."""
        manager = self.manager
        manager.register(Native(), "frame", release=released, size=10).close()
        other = manager.register(Native(), "texture", release=released, release_on=self.queue)
        threading.Thread(target=other.close).start()
        self.queue.drain()
        self.pool.get().close()
        for number in range(4):
            self.distributor.publish(number)
        with contextlib.suppress(Lagged):
            self.receiver.recv(timeout=0)
        self.receiver.recv(timeout=0)
        self.camera.frames += 1
        self.done.set()
        self.timeline.poll()
        self.done.clear()
        with self.timeline.submission():
            pass
        self.timeline.wait(0)

    def close(self) -> None:
        self.done.set()
        self.timeline.poll()
        self.kept.close()
        self.owned.close()
        self.queue.drain()
        self.receiver.close()
        self.manager.close()
        self.recorder.stop()


@pytest.fixture
def workload(tmp_path: Path) -> Iterator[Workload]:
    made = Workload(tmp_path)
    yield made
    made.close()


@pytest.mark.needs("prometheus")
def test_each_query_of_the_dashboard_answers(
    workload: Workload, prometheus_server: str, tmp_path: Path
) -> None:
    from tools.dashboard import queries

    registry = CollectorRegistry()
    registry.register(LifecycleCollector(workload.manager))
    served, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with prometheus_running(prometheus_server, served.server_port, tmp_path, rules=RULES) as (
            server,
            base,
        ):
            silent = queries()

            def answered() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                workload.step()
                try:
                    silent[:] = [each for each in silent if not query(base, each)]
                except OSError:
                    # Not listening, or not ready, yet.
                    return False
                return not silent

            eventually(answered, timeout=60, every=0.1, progress=lambda: len(silent))
            rules = json.loads(get(f"{base}/api/v1/rules"))["data"]["groups"][0]["rules"]
            assert [rule["name"] for rule in rules] == alerts()

            def evaluated() -> bool:
                rules = json.loads(get(f"{base}/api/v1/rules"))["data"]["groups"][0]["rules"]
                return all(rule["health"] == "ok" for rule in rules)

            eventually(evaluated, timeout=60, every=0.1)
    finally:
        served.shutdown()
        served.server_close()
        thread.join(20)


# -- rules, over real scrapes ----------------------------------------------------------------------------------

Samples = dict[str, float]
STEP = 30
BEFORE, BEHIND = 20, 40
"""Scrapes before the thing happens, and behind it: ten minutes, and twenty."""


def scraped(*managers: SafetyManager) -> Samples:
    """A scrape as promtool's tests name series; timestamps as they were, but that now is 0."""
    now = time.time()
    found = {}
    for metric in LifecycleCollector(*managers).collect():
        for one in metric.samples:
            labels = {**one.labels, "job": "app", "instance": "here"}
            text = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
            stamp = one.name.endswith("_timestamp_seconds") and one.value
            found[f"{one.name}{{{text}}}"] = one.value - now if stamp else one.value
    return found


def release_nothing(native: Native) -> None:
    raise ValueError("no")


def shop() -> SafetyManager:
    """A manager with something of everything, as it is before anything goes wrong."""
    made = SafetyManager(name="shop")
    made.policy("frame", max_live=1000, max_bytes=1000, max_age=60.0)
    well(made)
    return made


def well(manager: SafetyManager) -> None:
    """What a program does that is well."""
    with manager.register(Native(), "frame", release=released, size=10) as handle:
        manager.safe_access(handle, id)
    manager.register(Native(), "frame", release=released, release_on=ANY_THREAD).close()


def leaks(manager: SafetyManager) -> None:
    manager.register(Native(), "frame", release=released, release_on=ANY_THREAD)
    gc.collect()


def panics(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "frame", release=released)
    with pytest.raises(AccessPanicError):
        manager.safe_access(handle, lambda native: 1 / 0)
    handle.close()


def fails(manager: SafetyManager) -> None:
    manager.register(Native(), "frame", release=release_nothing, release_on=ANY_THREAD).close()


HAPPENS: dict[str, Callable[[SafetyManager], None]] = {
    "LifecycleNeverClosed": leaks,
    "LifecyclePanics": panics,
    "LifecycleReleaseFailures": fails,
}
"""What is done for real between the two scrapes."""

PUT: dict[str, dict[str, str]] = {
    "LifecycleHeldTooLong": {"lifecycle_held_too_long{": "2"},
    "LifecycleGrowing": {
        "lifecycle_object_bytes{": " ".join(f"{2e8 * 2 ** (at / 50):.0f}" for at in range(240)),
        "lifecycle_object_bytes_limit{": "10000000000",
    },
    "LifecycleNearBudget": {"lifecycle_object_bytes{": "950"},
    "LifecycleStuckWorkers": {"lifecycle_stuck_workers{": "1"},
    "LifecycleQuarantine": {"lifecycle_quarantined_releases{": "1"},
    "LifecycleQueueWaits": {"lifecycle_release_queue_oldest_timestamp_seconds{": "600"},
    "LifecycleKeeperStalled": {
        "lifecycle_keeper_last_run_timestamp_seconds{": "600",
        "lifecycle_events_pending{": "9",
    },
    "LifecycleEventsDropped": {"lifecycle_observer_events_dropped_total{": "0+3x40"},
    "LifecyclePoolStarves": {"lifecycle_pool_waiters{": "3"},
    "LifecycleCaptureStopped": {"lifecycle_capture_last_frame_timestamp_seconds{": "600"},
    "LifecycleReceiverFallsBehind": {
        "lifecycle_distributor_published_total{": "0+30x40",
        "lifecycle_receiver_missed_total{": "0+15x40",
    },
    "LifecyclePreviousRunCrashed": {"lifecycle_previous_run_crashed{": "1"},
}
"""What takes hours, or a hung process, to come about: the series are real, these figures are put there."""


def series(before: Samples, after: Samples, put: dict[str, str]) -> list[dict[str, str]]:
    """Input of promtool: the first scrape, then the second, or what is put in its place."""
    found = []
    asked = set(re.findall(r"\blifecycle_\w+", RULES.read_text(encoding="utf-8")))
    for name, value in after.items():
        prefix = name[: name.index("{") + 1]
        first = before.get(name, 0.0 if prefix.endswith("_total{") else value)
        if prefix[:-1] not in asked:
            continue
        stamp = prefix.endswith("_timestamp_seconds{") and value
        if prefix in put:
            given = put[prefix]
            start = f"{STEP}+{STEP}x{BEFORE - 1}" if stamp else f"{first:.12g}x{BEFORE - 1}"
            values = f"{start} {given}" + ("" if "x" in given or " " in given else f"x{BEHIND}")
        elif stamp:
            # As old as it is, all the time.
            values = f"{STEP}+{STEP}x{BEFORE + BEHIND}"
        else:
            values = f"{first:.12g}x{BEFORE - 1} {value:.12g}x{BEHIND}"
        found.append({"series": name, "values": values})
    return found


def judged(promtool: str, folder: Path, cases: dict[str, list[dict[str, str]]]) -> None:
    """Have promtool play each case. None of the alerts may fire before the thing happens, and only its own
    behind it."""
    tests = []
    for name, given in cases.items():
        firing = 'max by (alertname) (ALERTS{alertstate="firing"})'
        own = (
            [{"labels": json.dumps(name).join(("{alertname=", "}")), "value": 1}] if name in alerts() else []
        )
        when = BEFORE * STEP + (6000 if name == "LifecycleGrowing" else 600)
        tests.append(
            {
                "name": name,
                "interval": f"{STEP}s",
                "input_series": given,
                "promql_expr_test": [
                    {"expr": firing, "eval_time": f"{BEFORE * STEP - STEP}s", "exp_samples": []},
                    {"expr": firing, "eval_time": f"{when}s", "exp_samples": own},
                ],
            }
        )
    path = folder / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_is_to_and_no_other(promtool: str, tmp_path: Path) -> None:
    assert {*HAPPENS, *PUT} == set(alerts())
    cases = {}
    for name, happens in HAPPENS.items():
        with shop() as manager:
            before = scraped(manager)
            happens(manager)
            eventually(lambda manager=manager: manager.stats().active_objects == 0)  # type: ignore[misc]
            cases[name] = series(before, scraped(manager), {})
    recorder = lifecycle.recorder.start(tmp_path / "shop.rec", slots=1024, fault=False)
    with shop() as manager:
        camera = Camera("front", 3)
        manager.add_component(camera)
        pool = BufferPool(manager, 4096, 1, name="frames")
        pool.get().close()
        queue = ReleaseQueue("gl", thread="current")
        owned = manager.register(Native(), "texture", release=released, release_on=queue)
        closer = threading.Thread(target=owned.close)
        closer.start()
        closer.join()
        distributor: FrameDistributor[int] = FrameDistributor(2, name="camera", manager=manager)
        receiver = distributor.subscribe(group="preview")
        distributor.publish(1)
        kept = manager.register(Native(), "frame", release=released, size=100)
        before = scraped(manager)
        for _ in range(20):
            well(manager)
        after = scraped(manager)
        for name, put in PUT.items():
            assert all(any(one.startswith(prefix) for one in after) for prefix in put), name
            cases[name] = series(before, after, put)
        cases["nothing has happened"] = series(before, after, {})
        queue.drain()
        receiver.close()
        kept.close()
    recorder.stop()
    judged(promtool, tmp_path, cases)
