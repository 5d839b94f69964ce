"""`docs/events.md` and the library agree: the same events, levels, switches and fields; and what is told has
no other."""

from __future__ import annotations

import re
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    Event,
    Handle,
    MemoryConfig,
    MemoryManager,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    ShutdownReport,
)
from lifecycle.events import FIELDS, FINALIZER_KINDS, LEAK_KINDS, LEVELS
from tests.support import eventually

ROW = re.compile(r"^\| `lifecycle\.(\w+)` \| (\w+) \| (\S+) \| (.*?) \|", re.MULTILINE)


def test_the_page_lists_every_event_as_it_is(repository: Path) -> None:
    rows = ROW.findall((repository / "docs" / "events.md").read_text())
    listed = {
        kind: (level, switch.strip("`"), tuple(re.findall(r"`(\w+)`", fields)))
        for kind, level, switch, fields in rows
    }
    assert len(listed) == len(rows)
    expected = {}
    for kind, level in LEVELS.items():
        switch = "always"
        if level in ("debug", "info") and kind not in LEAK_KINDS:
            switch = "log_finalizers" if kind in FINALIZER_KINDS else "log_state_changes"
        expected[kind] = (level, switch, FIELDS[kind])
    assert listed == expected
    assert FIELDS.keys() == LEVELS.keys()


def test_the_observer_logs_as_the_page_says() -> None:
    from lifecycle.observe.observers import Observer

    for state in (False, True):
        for finalizers in (False, True):
            config = SafetyConfig(log_state_changes=state, log_finalizers=finalizers)
            observer = Observer("page", config)
            for kind, level in LEVELS.items():
                switched = finalizers if kind in FINALIZER_KINDS else state
                expected = level not in ("debug", "info") or kind in LEAK_KINDS or switched
                assert observer.logs(kind) == expected, kind


def test_what_is_told_has_the_fields_of_the_page() -> None:
    """A little of everything happens; each event has no field that the page does not name, and the kinds are
    all there but those of the machinery itself."""
    told: dict[str, list[Event]] = defaultdict(list)
    config = SafetyConfig(leak_level="paranoid", finalizer_timeout=0.1, max_finalizer_retries=1)
    manager = SafetyManager(config, name="page")
    manager.add_observer(lambda event: told[event.kind].append(event))

    def register(release: Any = list.clear, release_on: Any = ANY_THREAD) -> Handle[Any]:
        return manager.register([], "list", name="some", release=release, release_on=release_on)

    def refuse(_: object) -> None:
        raise NotReleased

    handle = register()
    with handle.lease():
        handle.close()
    with pytest.raises(AccessPanicError):
        manager.safe_access(register(), lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        manager.safe_access(register(), lambda _: 1 / 0, errors=ZeroDivisionError)
    register(lambda _: 1 / 0).close()
    register(refuse).close(timeout=20)
    manager.register([], "slow", release=lambda _: time.sleep(0.5)).close()
    queue = ReleaseQueue("gl")
    kept = register(release_on=queue)
    queue.lost("context lost")
    register().detach()
    manager.policy("old", max_age=0.01)
    empty: list[int] = []
    old = manager.register(empty, "old", release=list.clear, release_on=ANY_THREAD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register()
        eventually(lambda: told["leak"] and told["held_too_long"], timeout=20)
    old.close()
    memory = MemoryManager(manager, MemoryConfig(max_bytes=10, over="report"))
    for _ in range(2):
        memory.track_object([], "memory", 10, release=list.clear, release_on=ANY_THREAD)
    manager.report("types_capped", limit=200)
    manager._ending.tell_of(ShutdownReport(1, (), (), (), ("planted",), 0.1))
    manager._keeper.observer.tell_failure(RuntimeError("planted"))
    manager.report("thread_interrupted", thread="lifecycle-keeper-page", error="planted")
    eventually(lambda: told["late"] and told["returned"] and told["observer_failed"], timeout=20)
    memory.close()
    manager.close()
    eventually(lambda: set(LEVELS) <= set(told), timeout=20)
    for kind, events in told.items():
        for event in events:
            assert set(event.fields) <= set(FIELDS[kind]), (kind, event.fields)
        if kind not in ("failed", "leak", "observer_failed"):  # several sources, each with some of them
            missing = set(FIELDS[kind]) - {field for event in events for field in event.fields}
            # `count` and `types` are told where many objects end at once.
            assert missing <= {"reason", "accesses", "count", "types"} - (
                {"count"} if kind in LEAK_KINDS else set()
            )
    del kept
