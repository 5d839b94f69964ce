"""Leak detection in production: what is reported, where, how often, and what it is allowed to cost."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lifecycle.observe.leaks
from lifecycle import ANY_THREAD, AccessRefusedError, Event, RegistrationError, SafetyConfig, SafetyManager
from lifecycle.errors import ConfigError
from tests.core.natives import Native
from tests.support import eventually, run_python


class Reports:
    """What a leak hook was told."""

    def __init__(self, manager: SafetyManager) -> None:
        self.events: list[Event] = []
        self.remove = manager.add_leak_hook(self.events.append)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def leaks(self) -> int:
        return sum(event.fields["count"] for event in self.events if event.kind == "leak")


def leak(manager: SafetyManager, number: int = 1) -> None:
    for _ in range(number):
        manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., SafetyManager]]:
    """Managers of any level, closed at the end."""
    made: list[SafetyManager] = []

    def one(level: str, **more: Any) -> SafetyManager:
        made.append(SafetyManager(SafetyConfig(leak_level=level, **more), name=f"leaks-{level}"))
        return made[-1]

    yield one
    for manager in made:
        manager.close()


def ours(caught: list[warnings.WarningMessage]) -> list[warnings.WarningMessage]:
    """Those that stand in this file: a manager of a test before may still be telling what it held back."""
    return [warning for warning in caught if warning.filename == __file__]


def test_a_leak_is_told_with_its_site_and_its_source(make: Callable[..., SafetyManager]) -> None:
    manager = make("simple")
    reports = Reports(manager)
    tracemalloc.start(10)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            leak(manager)
            eventually(lambda: ours(caught) and reports.events, timeout=20)
        event = reports.events[0]
        assert event.fields["site"].startswith("test_leaks.py:")
        assert event.fields["reason"] == "dropped without close()"
        found = tracemalloc.get_object_traceback(event.source)
        assert found is not None
        assert any(frame.filename == __file__ for frame in found)
    finally:
        tracemalloc.stop()
    warning = ours(caught)[0]
    assert warning.category is ResourceWarning
    assert f"test_leaks.py:{warning.lineno}" == event.fields["site"]
    assert warning.source is event.source
    assert manager.stats().leaks == 1


@pytest.mark.parametrize("level", ["off", "simple", "detailed", "paranoid"])
def test_no_false_alarm(make: Callable[..., SafetyManager], level: str) -> None:
    manager = make(level)
    reports = Reports(manager)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            with manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD) as handle:
                handle.share().close()
                with handle.lease():
                    pass
        borrowed = manager.register(Native(), "borrowed", parent=None)
        del borrowed, handle
        gc.collect()
        assert manager.stats().leaks == 0
        time.sleep(0.3)
    assert not reports.events
    assert not [warning for warning in ours(caught) if warning.category is ResourceWarning]


def test_off_says_nothing(make: Callable[..., SafetyManager]) -> None:
    manager = make("off")
    reports = Reports(manager)
    leak(manager, 3)
    assert manager.stats().leaks == 0
    time.sleep(0.2)
    assert not reports.events
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    assert manager.objects()[0].site == ""
    handle.close()


@pytest.mark.parametrize(("level", "known"), [("simple", 16 + 1), ("detailed", 100), ("paranoid", 100)])
def test_sites_are_sampled(make: Callable[..., SafetyManager], level: str, known: int) -> None:
    manager = make(level)
    handles = [
        manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD) for _ in range(100)
    ]
    sites = [info.site for info in manager.objects()]
    assert sum(bool(site) for site in sites) == known
    for handle in handles:
        handle.close()


@pytest.mark.parametrize(("level", "kept"), [("simple", 0), ("detailed", 4), ("paranoid", 32)])
def test_the_last_accesses_are_told(make: Callable[..., SafetyManager], level: str, kept: int) -> None:
    manager = make(level)
    reports = Reports(manager)
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    for _ in range(40):
        with handle.lease():
            pass
        manager.safe_access(handle, Native.use)
        with manager.safe_access(handle.id):
            pass
    del handle
    eventually(lambda: reports.events, timeout=20)
    accesses = reports.events[0].fields.get("accesses", ())
    assert len(accesses) == kept
    if kept:
        assert 'on thread "MainThread"' in accesses[0]
        assert len({access.split(" ")[0] for access in accesses}) == 3  # the three lines above
        assert all(access.startswith("test_leaks.py:") for access in accesses)


def test_validators_still_decide_at_the_higher_levels(make: Callable[..., SafetyManager]) -> None:
    manager = make("paranoid")
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    asked: list[Native] = []
    manager.policy("native", validate=asked.append)
    manager.safe_access(handle, Native.use)
    assert len(asked) == 1
    manager.policy("native", validate=None)
    manager.safe_access(handle, Native.use)
    assert len(asked) == 1
    assert len(handle._record.more().accesses or ()) == 2
    manager.policy("native", validate=lambda native: False)
    with pytest.raises(AccessRefusedError):
        manager.safe_access(handle, Native.use)
    handle.close()


def test_reports_are_limited_and_none_is_lost(make: Callable[..., SafetyManager]) -> None:
    manager = make("simple")
    reports = Reports(manager)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.monotonic()
        leak(manager, 200)
        eventually(lambda: reports.leaks() == 200, timeout=30)
        seconds = time.monotonic() - began
    # One site at most a second, and the sampled ones are known by their type alone.
    assert len(reports.events) <= 2 * (seconds / lifecycle.observe.leaks.REPORT_EVERY + 1)
    assert manager.stats().leaks == 200


def test_what_is_held_too_long_is_told_once_and_withdrawn(make: Callable[..., SafetyManager]) -> None:
    manager = make("simple")
    reports = Reports(manager)
    manager.policy("native", max_age=0.05)
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    eventually(lambda: "held_too_long" in reports.kinds(), timeout=20)
    event = reports.events[0]
    assert event.id == handle.id
    assert event.fields["age"] > 0.05
    assert event.fields["site"].startswith("test_leaks.py:")
    time.sleep(0.4)
    assert reports.kinds() == ["held_too_long"]
    assert manager.stats().types["native"].held_too_long == 1
    handle.close()
    eventually(lambda: "returned" in reports.kinds(), timeout=20)
    assert reports.events[-1].fields["held"] >= event.fields["age"] - 0.01
    assert manager.stats().types["native"].held_too_long == 0
    assert not manager._maintenance.ledger.leaks.alarmed


def test_what_comes_back_in_time_is_no_alarm(make: Callable[..., SafetyManager]) -> None:
    manager = make("simple")
    reports = Reports(manager)
    manager.policy("native", max_age=60.0)
    for _ in range(20):
        manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD).close()
    time.sleep(0.3)
    assert not reports.events


def test_many_held_too_long_are_one_report_with_a_count(make: Callable[..., SafetyManager]) -> None:
    manager = make("detailed")
    reports = Reports(manager)
    manager.policy("native", max_age=0.01)
    handles = [
        manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD) for _ in range(50)
    ]

    def told() -> int:
        return sum(event.fields["count"] for event in reports.events if event.kind == "held_too_long")

    eventually(lambda: told() == 50, timeout=30)
    assert reports.kinds().count("held_too_long") < 10
    for handle in handles:
        handle.close()
    eventually(lambda: reports.kinds().count("returned") == 50, timeout=20)


def test_a_hook_that_raises_costs_nobody_a_report(make: Callable[..., SafetyManager]) -> None:
    manager = make("simple")
    bad = manager.add_leak_hook(lambda event: 1 / 0)
    reports = Reports(manager)
    leak(manager)
    eventually(lambda: reports.events, timeout=20)
    bad()
    bad()
    reports.remove()
    with pytest.raises(RegistrationError):
        manager.add_leak_hook(7)  # type: ignore[arg-type]


def test_the_environment_sets_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_LEAK_LEVEL", " Detailed ")
    assert SafetyConfig().leak_level == "detailed"
    assert SafetyConfig(leak_level="off").leak_level == "off"
    assert SafetyConfig.from_env().leak_level == "detailed"
    assert SafetyConfig.from_env({}).leak_level == "simple"
    monkeypatch.delenv("LIFECYCLE_LEAK_LEVEL")
    assert SafetyConfig().leak_level == "simple"


def test_an_unknown_level_in_the_environment_is_warned_of_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIFECYCLE_LEAK_LEVEL", "loud")
    with pytest.warns(RuntimeWarning, match="'loud' is unknown.*'simple'.*off, simple, detailed, paranoid"):
        assert SafetyConfig().leak_level == "simple"
    with pytest.warns(RuntimeWarning, match="unknown"):
        assert SafetyConfig.from_env().leak_level == "simple"
    with pytest.raises(ConfigError):
        SafetyConfig(leak_level="loud")
    done = run_python(
        "from lifecycle import SafetyManager; print(SafetyManager().config.leak_level)",
        env={"LIFECYCLE_LEAK_LEVEL": "loud"},
    )
    assert done.check().strip() == "simple"
    assert "LIFECYCLE_LEAK_LEVEL='loud' is unknown" in done.stderr


def test_history_is_noted_from_any_thread_and_in_the_collector(make: Callable[..., SafetyManager]) -> None:
    manager = make("paranoid")
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    used = threading.Event()

    class InCycle:
        def __del__(self) -> None:
            manager.safe_access(handle, Native.use)
            used.set()

    cycle = InCycle()
    cycle.me = cycle
    del cycle
    gc.collect()
    assert used.is_set()
    threads = [threading.Thread(target=lambda: manager.safe_access(handle, Native.use)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handle._record.more().accesses or ()) == 5
    handle.close()


HELD_BACK = """
import sys, time, warnings
warnings.simplefilter("ignore")
from lifecycle import ANY_THREAD, SafetyManager
manager = SafetyManager(name="held-back")
held = manager.register([0], "kept", release=list.clear, release_on=ANY_THREAD).lease() if "held" in sys.argv else None
manager.add_leak_hook(lambda event: print("told", event.fields["count"], flush=True))
def make():
    manager.register([1], "frame", release=list.clear, release_on=ANY_THREAD)
for _ in range(10):
    make()
manager.stats()
if "close" in sys.argv:
    manager.close()
if held is not None:
    held.close()
"""


@pytest.mark.parametrize("how", [[], ["close"], ["close", "held"]])
def test_what_was_held_back_is_told_before_the_end(how: list[str]) -> None:
    done = run_python(HELD_BACK, argv=tuple(how))
    told = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("told")]
    assert sum(told) == 10 + ("held" in how)
    assert len(told) <= 3


def test_a_forked_child_does_not_tell_what_its_parent_held_back() -> None:
    fork = """
import os
manager.stats()
if os.fork() == 0:
    manager.close()
    os._exit(0)
os.wait()
"""
    done = run_python(HELD_BACK.replace("manager.stats()\n", fork))
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("told")) == 10
