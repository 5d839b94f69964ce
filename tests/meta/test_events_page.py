"""`docs/events.md` and the library agree: the same events, levels, switches and fields; and what is told has
no other."""

from __future__ import annotations

import ast
import inspect
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import lifecycle.events
from lifecycle import (
    ANY_THREAD,
    DROPPED,
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
from lifecycle.events import CLASSES, Leak, TypesCapped, own_fields
from tests.support import eventually
from tools.pages import events_table


def test_the_page_lists_every_event_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "events.md").read_text(encoding="utf-8")
    assert events_table() in page, "write it anew: python -m tools.pages"
    assert len(set(CLASSES)) == len(CLASSES) == len(lifecycle.events.__all__)


def test_every_field_of_every_event_says_what_it_is() -> None:
    source = ast.parse(inspect.getsource(lifecycle.events))
    bare = []
    for cls in (node for node in source.body if isinstance(node, ast.ClassDef)):
        for field, then in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.dump(field.annotation):
                documented = isinstance(then, ast.Expr) and isinstance(then.value, ast.Constant)
                if not documented:
                    bare.append(f"{cls.name}.{ast.unparse(field.target)}")
    assert bare == []


def test_an_observer_asks_for_a_class() -> None:
    """As the documentation of `lifecycle.events` shows it."""
    sites: list[str | None] = []
    with SafetyManager(name="by class") as manager:

        def observe(event: Event) -> None:
            match event:
                case Leak(type_name="list", site=site, count=1):
                    sites.append(site)
                case _:
                    pass

        manager.add_observer(observe)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manager.register([], "list", release=list.clear, release_on=ANY_THREAD)
            eventually(lambda: sites)
    assert sites[0] is not None
    assert sites[0].startswith("test_events_page.py:")


def test_fields_of_a_program_become_details() -> None:
    told: list[Event] = []
    with SafetyManager(name="details") as manager:
        manager.register([], release=list.clear).close()
        manager.add_observer(told.append)
        manager.report("types_capped", limit=3, record="mine", manager="theirs", kind=1, time="now")
        eventually(lambda: [event for event in told if event.kind == "types_capped"])
    (event,) = (event for event in told if isinstance(event, TypesCapped))
    assert (event.manager, event.limit) == ("details", 3)
    assert event.details == {"record": "mine", "manager": "theirs", "kind": 1, "time": "now"}
    assert event.fields == {"limit": 3, **event.details}


def test_the_observer_logs_as_the_page_says() -> None:
    from lifecycle.observe.observers import Observer

    for state in (False, True):
        for finalizers in (False, True):
            config = SafetyConfig(log_state_changes=state, log_finalizers=finalizers)
            observer = Observer("page", config)
            for kind, cls in CLASSES.items():
                switches = {"log_finalizers": finalizers, "log_state_changes": state, "always": True}
                assert observer.logs(kind) == switches[cls.logged], kind
                assert cls.logged != "always" or cls.leak or cls.level not in ("debug", "info"), kind


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
    referred_to: list[int] = []
    manager.register(referred_to, "list", release=DROPPED, release_on=ANY_THREAD).close()
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
    manager._maintenance.observer.tell_failure(RuntimeError("planted"))
    manager.report("thread_interrupted", thread="lifecycle-keeper-page", error="planted")
    eventually(lambda: told["late"] and told["returned"] and told["observer_failed"], timeout=20)
    eventually(lambda: told["kept"], timeout=20)
    del referred_to
    memory.close()
    manager.close()
    eventually(lambda: set(CLASSES) <= set(told), timeout=20)
    for kind, events in told.items():
        for event in events:
            assert set(event.fields) <= set(own_fields(CLASSES[kind])), (kind, event.fields)
        if kind not in ("failed", "leak", "observer_failed"):  # several sources, each with some of them
            missing = set(own_fields(CLASSES[kind])) - {field for event in events for field in event.fields}
            # `count` and `types` are told where many objects end at once.
            assert missing <= {"reason", "accesses", "count", "types"} - (
                {"count"} if CLASSES[kind].leak else set()
            )
    del kept
