"""The manager: registering, policies, cleanups, factories, retention, hooks, and what it tells of itself."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    ClosedError,
    Event,
    Handle,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import DuplicateError, LimitError, UnknownObjectError
from tests.core.natives import Native, Panic
from tests.support import eventually, run_python


def free(manager: SafetyManager, **more: Any) -> Any:
    return manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD, **more)


# -- the manager itself --------------------------------------------------------------------------------------


def test_it_is_a_context_manager_that_closes_itself() -> None:
    native = Native()
    with SafetyManager(name="block") as manager:
        manager.register(native, release=Native.free, keep=True)
        assert not manager.closed
        assert repr(manager) == "<SafetyManager 'block': open>"
    assert manager.closed
    assert native.released == 1
    assert repr(manager) == "<SafetyManager 'block': closed>"


def test_it_closes_also_after_an_exception_which_passes() -> None:
    native = Native()
    with pytest.raises(KeyError):
        with SafetyManager() as manager:
            manager.register(native, release=Native.free, keep=True)
            raise KeyError("mine")
    assert native.released == 1


def test_a_closed_manager_cannot_be_entered() -> None:
    manager = SafetyManager(name="gone")
    manager.close()
    with pytest.raises(ClosedError, match=r"'gone' is closed; make a new one"):
        with manager:
            pytest.fail("entered")


def test_no_thread_starts_before_the_first_registration() -> None:
    before = threading.active_count()
    with SafetyManager(name="idle") as manager:
        manager.policy("t", max_age=1)
        manager.stats()
        manager.health()
        assert threading.active_count() == before
        free(manager).close()
        assert threading.active_count() > before
    eventually(lambda: not [t for t in threading.enumerate() if t.name.endswith("-idle")])


def test_a_closed_manager_is_not_kept() -> None:
    manager = SafetyManager()
    free(manager).close()
    manager.close()
    gone = weakref.ref(manager)
    del manager

    def collected() -> bool:
        gc.collect()
        return gone() is None

    eventually(collected)


def test_two_managers_do_not_mix() -> None:
    with SafetyManager(name="one") as one, SafetyManager(name="two") as two:
        free(one).close()
        assert (one.stats().total_objects, two.stats().total_objects) == (1, 0)
        assert (one.stats().manager, two.stats().manager) == ("one", "two")
        assert one.name == "one"


# -- registering ---------------------------------------------------------------------------------------------


def test_the_release_gets_the_object(manager: SafetyManager) -> None:
    got: list[object] = []
    thing = object()
    manager.register(thing, release=got.append).close()
    assert got == [thing]


def test_a_bound_method_of_the_object_is_a_fine_release(manager: SafetyManager) -> None:
    class Thing:
        released: Any = None

        def free(self) -> None:
            self.released = True

    thing = Thing()
    manager.register(thing, release=thing.free).close()
    assert thing.released is True


def test_a_borrowed_object_is_not_released(manager: SafetyManager) -> None:
    native = Native()
    with manager.register(native) as handle:
        assert manager.safe_access(handle, Native.use) == ""
    assert native.released == 0
    assert handle.state == "released"


def test_keep_makes_the_id_alone_enough(manager: SafetyManager) -> None:
    native = Native("kept")
    id = manager.register(native, release=Native.free, keep=True).id
    gc.collect()
    assert manager.is_valid(id)
    assert manager.safe_access(id, Native.use) == "kept"
    with manager.safe_access(id) as held:
        assert held is native
    assert manager.unregister(id) is True
    assert manager.unregister(id) is True
    assert native.released == 1
    figures = manager.stats()
    assert (figures.leaks, figures.types["tests.core.natives.Native"].closed["unregister"]) == (0, 1)


def test_unregister_waits_as_close_does(manager: SafetyManager) -> None:
    handle = free(manager)
    with handle.lease():
        assert manager.unregister(handle) is False
        assert manager.unregister(handle, timeout=0.02) is False
        assert not handle.valid
    assert manager.unregister(handle.id, timeout=5) is True


def test_a_second_owner_of_the_same_object_is_refused_and_harms_nothing(manager: SafetyManager) -> None:
    """I3, I9: two releases of one native object is the bug this library is for. The refused release never
    runs."""
    native = Native("mine")
    handle = manager.register(native, "native", name="first", release=Native.free, release_on=ANY_THREAD)
    for place in (ANY_THREAD, BACKGROUND):
        with pytest.raises(
            DuplicateError, match=rf'is owned by native "first" \(object {handle.id}\).*share\(\)'
        ):
            manager.register(native, release=Native.free, release_on=place)
    for _ in range(3):
        free(manager).close()
        manager.register(Native(), release=Native.free).close()
    assert native.released == 0
    assert handle.valid
    assert manager.stats().types["native"].registered == 4
    handle.close()
    assert native.released == 1
    assert native.errors == []


def test_a_second_owner_of_the_same_native_is_refused(manager: SafetyManager) -> None:
    first = manager.register(Native(), "texture", native=17, release=Native.free, release_on=ANY_THREAD)
    refused = Native()
    with pytest.raises(DuplicateError, match=rf"native 0x11 is owned by .*object {first.id}"):
        manager.register(refused, "texture", native=17, release=Native.free, release_on=ANY_THREAD)
    free(manager).close()
    assert refused.released == 0
    other_type = manager.register(Native(), "buffer", native=17, release=Native.free, release_on=ANY_THREAD)
    with pytest.raises(DuplicateError):  # one process
        manager.register(refused, "texture", native=17, release=Native.free, release_on=BACKGROUND)
    queue = ReleaseQueue("gl", thread="current")  # another world
    other_place = manager.register(Native(), "texture", native=17, release=Native.free, release_on=queue)
    borrowed = manager.register(Native(), "texture", native=17)
    for handle in (first, other_type, other_place, borrowed):
        assert handle.close()
    again = manager.register(refused, "texture", native=17, release=Native.free, release_on=ANY_THREAD)
    assert again.close()
    assert refused.released == 1


def test_an_owner_in_another_manager_counts_too(manager: SafetyManager) -> None:
    native = Native()
    with SafetyManager(name="other") as other, other.register(native, release=Native.free) as first:
        with pytest.raises(DuplicateError, match=f"object {first.id}"):
            manager.register(native, release=Native.free)
    assert native.released == 1


def test_equal_values_are_not_one_object(manager: SafetyManager) -> None:
    released: list[object] = []
    handles: list[Handle[Any]] = [
        manager.register(value, release=released.append) for value in (5, 0, 0, "a", "a", b"x", b"x", (), ())
    ]
    with pytest.raises(DuplicateError):  # but an int is a native, of its release
        manager.register(5, release=released.append)
    handles.append(manager.register(5, release=released.append, unique=False))
    for handle in handles:
        assert handle.close()
    assert len(released) == 10


def test_an_owner_may_follow_one_that_has_ended_or_failed(manager: SafetyManager) -> None:
    calls = []

    def bad(native: Native) -> None:
        calls.append(native)
        raise OSError("no")

    native = Native()
    assert manager.register(native, native=1, release=bad).close() is False
    assert manager.register(native, native=1, release=Native.free).close() is True
    assert (len(calls), native.released) == (1, 1)


def test_a_native_that_waits_for_its_release_still_has_an_owner(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    first = manager.register(Native(), "texture", native=3, release=Native.free, release_on=queue)
    first.close()
    with pytest.raises(DuplicateError, match=r"texture \(object \d+, native 0x3\)"):
        manager.register(Native(), "texture", native=3, release=Native.free, release_on=queue)
    queue.drain()
    again = manager.register(Native(), "texture", native=3, release=Native.free, release_on=queue)
    again.close()
    queue.drain()


def test_a_registrar_registers_what_is_always_the_same(manager: SafetyManager) -> None:
    register = manager.registrar("frame", release=Native.free, release_on=ANY_THREAD)
    native = Native()
    with register(native, 0x7F00, 100) as handle:
        assert (handle.type_name, handle.native, handle.size) == ("frame", 0x7F00, 100)
        assert manager.stats().types["frame"].bytes == 100
    assert native.released == 1
    assert manager.stats().types["frame"].bytes == 0


# -- ids -----------------------------------------------------------------------------------------------------


def test_an_ended_object_is_remembered_for_its_retention() -> None:
    with SafetyManager(SafetyConfig(state_retention=0.2)) as manager:
        handle = free(manager)
        handle.close()
        with pytest.raises(AccessRefusedError, match=f"object {handle.id}.*released"):
            manager.safe_access(handle.id, Native.use)

        def forgotten() -> bool:
            try:
                manager.safe_access(handle.id, Native.use)
            except UnknownObjectError as error:
                return "state_retention is 0.2 s" in str(error)
            except AccessRefusedError:
                return False
            return False

        eventually(forgotten)
        assert handle.state == "released"
        with pytest.raises(AccessRefusedError, match="released"):
            handle.lease()
        assert manager.stats().released == 1


def test_no_more_ended_objects_are_remembered_than_allowed() -> None:
    """I8: memory does not grow with what is over."""
    with SafetyManager(SafetyConfig(max_retained=10)) as manager:
        for _ in range(100):
            free(manager).close()
        eventually(lambda: manager.stats().released == 100 and len(manager._registry.records) <= 10)


def test_of_several_types_the_oldest_are_forgotten_first() -> None:
    """Whatever order the types are counted in: several managers, since that is an accident."""
    for _ in range(10):
        with SafetyManager(SafetyConfig(max_retained=10)) as manager:
            for type_name in ("many",) * 12 + ("last",):
                handle = manager.register(Native(), type_name, release=Native.free, release_on=ANY_THREAD)
                handle.close()
            manager.stats()
            assert handle.id in manager._registry.records


def test_live_objects_do_not_expire() -> None:
    with SafetyManager(SafetyConfig(state_retention=0.01, cleanup_interval=0.01)) as manager:
        handle = free(manager)
        for _ in range(20):
            free(manager).close()
        time.sleep(0.3)
        assert manager.safe_access(handle.id, Native.use) == ""
        handle.close()


# -- policies ------------------------------------------------------------------------------------------------


def test_a_validator_is_asked_before_each_access_and_its_refusal_shuts_the_object(
    manager: SafetyManager,
) -> None:
    manager.policy("native", validate=lambda native: native.label != "bad")
    native = Native("good")
    handle = manager.register(native, "native", release=Native.free, release_on=ANY_THREAD)
    with handle.lease():
        pass
    native.label = "bad"
    with pytest.raises(AccessRefusedError, match=f"object {handle.id}.*invalid.*its validator refused it"):
        handle.lease()
    with pytest.raises(AccessRefusedError, match="its validator refused it"):
        manager.safe_access(handle, Native.use)
    assert not handle.valid
    assert handle.close()
    assert native.released == 1


@pytest.mark.parametrize("access", ["lease", "share-lease", "call", "block", "id"])
def test_every_access_asks_the_validator(manager: SafetyManager, access: str) -> None:
    handle = manager.register(Native(), "checked", release=Native.free, release_on=ANY_THREAD)
    asked: list[object] = []
    manager.policy("checked", validate=lambda native: asked.append(native) or True)
    if access == "lease":
        handle.lease().close()
    elif access == "share-lease":
        with handle.share() as share:
            share.lease().close()
    elif access == "call":
        manager.safe_access(handle, Native.use)
    elif access == "block":
        with manager.safe_access(handle):
            pass
    else:
        manager.safe_access(handle.id, Native.use)
    assert len(asked) == 1
    handle.close()


def test_a_validator_that_raises_refuses_with_what_it_raised(manager: SafetyManager) -> None:
    """I6."""

    def validate(native: Native) -> bool:
        raise OSError("device not there")

    manager.policy("native", validate=validate)
    handle = free(manager)
    with pytest.raises(AccessRefusedError, match="its validator raised OSError: device not there"):
        handle.lease()
    assert handle.close()


def test_a_rule_can_be_taken_away(manager: SafetyManager) -> None:
    manager.policy("native", validate=lambda native: False, max_live=1, errors=KeyError)
    manager.policy("native", validate=None, max_live=None)
    with free(manager) as handle, free(manager):
        handle.lease().close()
        with pytest.raises(KeyError):
            manager.safe_access(handle, lambda native: {"a": 1}["b"])
        assert handle.valid


def test_a_limit_of_objects_counts_what_is_not_released(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    early = manager.register(Native(), "texture", release=Native.free, release_on=queue)
    manager.policy("texture", max_live=2)
    second = manager.register(Native(), "texture", release=Native.free, release_on=queue)
    refused = Native()
    with pytest.raises(
        LimitError, match=rf"'texture' is at its limit max_live=2: 2 objects.*object {early.id} \(.*policy"
    ):
        manager.register(refused, "texture", release=Native.free, release_on=queue)
    early.close()
    with pytest.raises(LimitError):
        manager.register(refused, "texture", release=Native.free, release_on=queue)
    queue.drain()
    third = manager.register(refused, "texture", release=Native.free, release_on=queue)
    assert manager.stats().types["texture"].objects_limit == 2
    second.close()
    third.close()
    queue.drain()
    assert refused.released == 1


def test_a_limit_of_bytes(manager: SafetyManager) -> None:
    manager.policy("frame", max_bytes=1000)
    first = manager.register(Native(), "frame", size=800, release=Native.free, release_on=ANY_THREAD)
    with pytest.raises(LimitError, match=r"max_bytes=1000.*800 bytes.*300 more"):
        manager.register(Native(), "frame", size=300, release=Native.free, release_on=ANY_THREAD)
    second = manager.register(Native(), "frame", size=200, release=Native.free, release_on=ANY_THREAD)
    assert manager.stats().types["frame"].bytes == 1000
    assert manager.stats().types["frame"].bytes_limit == 1000
    first.close()
    second.close()
    with manager.register(Native(), "frame", size=1000, release=Native.free, release_on=ANY_THREAD):
        pass


def test_limits_under_many_threads(manager: SafetyManager) -> None:
    """I7: what is alive is counted from before an object is taken until after its release."""
    manager.policy("native", max_live=10)
    alive: dict[object, int] = {n: n for n in range(8)}
    most: list[int] = []
    keep = [free(manager) for _ in alive]
    errors: list[BaseException] = []

    def work(n: int) -> None:
        for turn in range(50):
            mine = (n, turn)

            def release(native: Native, mine: object = mine) -> None:
                alive.pop(mine)

            try:
                handle = manager.register(Native(), "native", release=release, release_on=ANY_THREAD)
            except LimitError:
                continue
            except BaseException as error:
                errors.append(error)
                return
            alive[mine] = 0
            most.append(len(alive))
            handle.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert max(most) <= 10
    for handle in keep:
        handle.close()
    for handle in [free(manager) for _ in range(10)]:
        assert handle.close()


def test_held_too_long_is_counted_and_the_alarm_withdrawn(manager: SafetyManager) -> None:
    manager.policy("native", max_age=0.05)
    old, young = free(manager), None
    eventually(lambda: manager.stats().types["native"].held_too_long == 1)
    young = free(manager)
    old.close()
    assert manager.stats().types["native"].held_too_long == 0
    young.close()


@pytest.mark.parametrize(
    "rule",
    [{"max_live": 1}, {"max_bytes": 1}, {"validate": lambda native: False}],
    ids=["max_live", "max_bytes", "validate"],
)
def test_policies_are_skipped_when_state_checking_is_off(rule: dict[str, Any]) -> None:
    with SafetyManager(SafetyConfig(enable_state_checking=False)) as manager:
        manager.policy("native", **rule)
        with free(manager, size=1) as first, free(manager, size=1):
            first.lease().close()


def test_a_bad_rule_changes_nothing(manager: SafetyManager) -> None:
    manager.policy("native", max_live=1)
    with pytest.raises(LifecycleError, match="max_bytes"):
        manager.policy("native", max_live=5, max_bytes=-1)
    with free(manager):
        with pytest.raises(LimitError):
            free(manager)


# -- cleanups ------------------------------------------------------------------------------------------------


def test_cleanups_run_before_the_release_the_last_added_first(manager: SafetyManager) -> None:
    order: list[str] = []
    handle = manager.register("object", release=order.append)
    manager.add_cleanup(handle, order.append, "first")
    manager.add_cleanup(handle.id, order.append, "second")
    handle.close()
    assert order == ["second", "first", "object"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), Panic("no"), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_a_cleanup_that_raises_stops_neither_the_next_nor_the_release(
    manager: SafetyManager, error: BaseException
) -> None:
    """I6."""
    order: list[str] = []

    def bad() -> None:
        order.append("bad")
        raise error

    for place in (BACKGROUND, ANY_THREAD):
        handle = manager.register("object", "thing", release=order.append, release_on=place)
        manager.add_cleanup(handle, order.append, "first")
        manager.add_cleanup(handle, bad)
        manager.add_cleanup(handle, order.append, "last")
        assert handle.close() is True
        assert order == ["last", "bad", "first", "object"]
        order.clear()
    figures = manager.stats()
    assert figures.finalizer_failures == 2
    assert figures.types["thing"].ended["released"] == 2


def test_cleanups_run_once_though_the_release_is_tried_again(manager: SafetyManager) -> None:
    from lifecycle import NotReleased

    order: list[str] = []

    def release(label: str) -> None:
        order.append("try")
        if order.count("try") < 3:
            raise NotReleased("busy")

    handle = manager.register("object", release=release)
    manager.add_cleanup(handle, order.append, "cleanup")
    assert handle.close(timeout=5) is True
    assert order == ["cleanup", "try", "try", "try"]


def test_cleanups_of_a_borrowed_object_run(manager: SafetyManager) -> None:
    order: list[str] = []
    handle = manager.register(Native())
    manager.add_cleanup(handle, order.append, "cleanup")
    handle.close()
    assert order == ["cleanup"]


def test_cleanups_do_not_run_for_an_orphan(manager: SafetyManager) -> None:
    order: list[str] = []
    queue = ReleaseQueue("gl")
    handle = manager.register(Native(), release=Native.free, release_on=queue)
    manager.add_cleanup(handle, order.append, "cleanup")
    queue.lost("gone")
    queue.drain()
    assert order == []


# -- factories -----------------------------------------------------------------------------------------------


def test_a_factory_registers_what_it_makes(manager: SafetyManager) -> None:
    make = manager.factory(Native, "made", release=Native.free)
    with make(label="x") as handle:
        assert handle.type_name == "made"
        assert manager.safe_access(handle, Native.use) == "x"
    with make("y") as handle:
        assert manager.safe_access(handle, Native.use) == "y"
    assert manager.stats().types["made"].ended["released"] == 2


def test_what_make_raises_passes_and_takes_no_slot(manager: SafetyManager) -> None:
    def fails() -> Native:
        raise OSError("no memory")

    make = manager.factory(fails, release=Native.free, limit=1)
    for _ in range(3):
        with pytest.raises(OSError, match="no memory"):
            make()
    assert manager.stats().total_objects == 0


def test_a_factory_keeps_its_limit(manager: SafetyManager) -> None:
    calls: list[Native] = []

    def counted() -> Native:
        calls.append(Native())
        return calls[-1]

    make = manager.factory(counted, "made", release=Native.free, limit=2)
    first, second = make(), make()
    with pytest.raises(LimitError, match=r"'made' is at its limit: 2 of 2 are out: .*Close one"):
        make()
    assert len(calls) == 2
    first.close()
    third = make()
    with pytest.raises(LimitError):
        make()
    second.close()
    third.close()
    assert [native.released for native in calls] == [1, 1, 1]


def test_a_factory_counts_what_failed_or_was_orphaned_as_gone(manager: SafetyManager) -> None:
    """I9: a slot is for an unreleased object; one that will never be released must not hold it for ever."""
    queue = ReleaseQueue("gl")
    make = manager.factory(Native, "made", release=Native.free, release_on=queue, limit=1)
    make()
    queue.lost("context gone")
    again = make()
    again.close()
    queue.drain()

    def bad(native: Native) -> None:
        raise OSError("no")

    make = manager.factory(Native, "bad", release=bad, limit=1)
    for _ in range(3):
        assert make().close() is False


def test_a_factory_that_makes_a_duplicate_loses_no_slot(manager: SafetyManager) -> None:
    one, two = Native(), Native()
    results = iter((one, one, two))
    make = manager.factory(lambda: next(results), "made", release=Native.free, limit=2)
    first = make()
    with pytest.raises(DuplicateError):
        make()
    second = make()
    first.close()
    second.close()
    assert (one.released, two.released) == (1, 1)


def test_a_factory_whose_product_is_refused_releases_it(manager: SafetyManager) -> None:
    """I9: nobody else has it."""
    made: list[Native] = []

    def counted() -> Native:
        made.append(Native())
        return made[-1]

    manager.policy("made", max_live=1)
    make = manager.factory(counted, "made", release=Native.free, limit=2)
    first = make()
    with pytest.raises(LimitError, match="max_live=1"):
        make()
    eventually(lambda: all(native.released for native in made[1:]))
    first.close()
    for _ in range(3):
        make().close()
    assert all(native.released == 1 for native in made)


def test_a_factory_of_a_closed_manager_makes_nothing(manager: SafetyManager) -> None:
    made: list[Native] = []

    def counted() -> Native:
        made.append(Native())
        return made[-1]

    make = manager.factory(counted, release=Native.free)
    manager.close()
    with pytest.raises(ClosedError):
        make()
    eventually(lambda: all(native.released for native in made))


# -- what it tells -------------------------------------------------------------------------------------------


def test_objects_lists_what_has_not_ended_oldest_first(manager: SafetyManager) -> None:
    before = time.time()
    parent = free(manager, name="p", native=1, size=10)
    child = free(manager, name="c", parent=parent)
    free(manager).close()
    first, second = manager.objects()
    assert (first.id, first.name, first.native, first.size, first.state, first.cause) == (
        parent.id,
        "p",
        1,
        10,
        "valid",
        "",
    )
    assert (second.id, second.parent) == (child.id, parent.id)
    assert before - 1 <= first.registered_at <= time.time() + 1
    assert "test_manager.py:" in first.site
    assert str(first).startswith(f'object {parent.id} (native "p"): valid, made at test_manager.py:')
    parent.close()
    assert [info.cause for info in manager.objects()] == ["close", ""]
    child.close()
    eventually(lambda: manager.objects() == ())


def test_the_site_is_the_applications_whatever_its_packages_are_called(tmp_path: Path) -> None:
    """An application may have packages named `integrations` and `contextlib_more`."""
    for name in ("integrations", "contextlib_more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cam.py").write_text(
            "def made(manager):\n    return manager.register([], 'list', release=list.clear)\n"
        )
    (tmp_path / "app.py").write_text("def made(manager, factory):\n    return factory(manager)\n")
    done = run_python(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from lifecycle import SafetyManager
        import app, contextlib_more.cam, integrations.cam
        manager = SafetyManager()
        for factory in (contextlib_more.cam.made, integrations.cam.made):
            with app.made(manager, factory):
                print(manager.objects()[0].site)
        """
    )
    assert done.check().split() == ["cam.py:2", "cam.py:2"]


def test_health_is_well_and_says_so(manager: SafetyManager) -> None:
    free(manager).close()
    eventually(lambda: manager.health().keeper_last_run > 0)
    health = manager.health()
    assert health.ok
    assert health.keeper_alive
    assert health.problems == ()
    assert set(health.backlog) == {"ANY_THREAD", "BACKGROUND"}


def test_events_reach_observers_in_order(manager: SafetyManager) -> None:
    events: list[Event] = []
    remove = manager.add_observer(events.append)
    handle = free(manager, name="watched")
    with pytest.raises(LifecycleError):
        manager.safe_access(handle, lambda native: 1 / 0)
    handle.close()
    eventually(
        lambda: (
            {event.kind for event in events if event.id == handle.id} >= {"registered", "panic", "released"}
        )
    )
    kinds = [event.kind for event in events if event.id == handle.id]
    assert [kind for kind in kinds if kind != "closed"] == ["registered", "panic", "released"]
    assert {event.manager for event in events} == {manager.name}
    assert {event.name for event in events} == {"watched"}
    assert all(abs(event.time - time.time()) < 60 for event in events)
    remove()
    remove()
    seen = len(events)
    free(manager).close()
    manager.stats()
    time.sleep(0.05)
    assert len(events) == seen


def test_an_observer_that_raises_costs_nobody_else_an_event(manager: SafetyManager) -> None:
    """I6."""
    events: list[Event] = []

    def bad(event: Event) -> None:
        raise Panic("observer")

    manager.add_observer(bad)
    manager.add_observer(events.append)
    handle = free(manager)
    handle.close()
    eventually(lambda: "released" in [event.kind for event in events])


def test_an_observer_that_blocks_stops_neither_counts_nor_sweeps_nor_deadlines() -> None:
    """I5, I6: and what it misses is counted."""
    go_on = threading.Event()
    config = SafetyConfig(finalizer_timeout=0.1, state_retention=0.05, cleanup_interval=0.05)
    with SafetyManager(config, name="blocked") as manager:
        manager.add_observer(lambda event: go_on.wait(30))
        for _ in range(1500):
            free(manager).close()
        stuck = manager.register(Native(), release=lambda native: go_on.wait(30))
        assert stuck.close() is False
        assert stuck.state == "stuck"
        figures = manager.stats()
        assert (figures.released, figures.stuck) == (1500, 1)
        assert figures.observer_events_dropped > 0
        assert not manager.health().ok
        assert any("not told to observers" in problem for problem in manager.health().problems)
        eventually(lambda: len(manager._registry.records) < 1500)
        go_on.set()


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (SafetyConfig(), set()),
        (SafetyConfig(log_state_changes=True), {"lifecycle.registered", "lifecycle.closed"}),
        (SafetyConfig(log_finalizers=True), {"lifecycle.released"}),
    ],
    ids=["off", "state_changes", "finalizers"],
)
def test_what_is_logged(config: SafetyConfig, kinds: set[str]) -> None:
    with structlog.testing.capture_logs() as logged, SafetyManager(config, name="logged") as manager:
        with free(manager, name="x") as handle:
            manager.stats()
            lease = handle.lease()
        manager.stats()
        lease.close()
        handle.close()
        manager.stats()
        panicked = free(manager)
        with pytest.raises(LifecycleError):
            manager.safe_access(panicked, lambda native: 1 / 0)
        manager.stats()
        eventually(
            lambda: [
                entry
                for entry in logged
                if entry["event"] == "lifecycle.panic" and entry["id"] == panicked.id
            ]
        )
    entries = [entry for entry in logged if entry.get("manager") == "logged"]
    assert {entry["event"] for entry in entries if entry.get("id") == handle.id} == kinds


# -- hooks ---------------------------------------------------------------------------------------------------


def test_on_close_stops_producers_first_the_latest_added_first() -> None:
    order: list[object] = []
    manager = SafetyManager()
    manager.register("object", release=order.append, keep=True)
    manager.on_close(lambda: order.append("first"))
    remove = manager.on_close(lambda: order.append("removed"))
    manager.on_close(lambda: order.append("second"))
    remove()
    manager.close()
    assert order == ["second", "first", "object"]
    manager.on_close(lambda: order.append("late"))
    assert order[-1] == "late"


def test_an_on_close_callback_that_raises_is_reported_and_stops_nothing() -> None:
    """I6."""
    order: list[object] = []

    def bad() -> None:
        raise Panic("producer")

    manager = SafetyManager()
    manager.register("object", release=order.append, keep=True)
    manager.on_close(lambda: order.append("other"))
    manager.on_close(bad)
    report = manager.close()
    assert order == ["other", "object"]
    assert len(report.errors) == 1
    assert "Panic: producer" in report.errors[0]
    assert not report.ok


def test_components_are_weakly_kept(manager: SafetyManager) -> None:
    class Capture:
        kind = "capture"
        name = "main"

        def stats(self) -> None:
            return None

    capture = Capture()
    manager.add_component(capture)
    assert manager.components() == (capture,)
    del capture

    def none_left() -> bool:
        gc.collect()
        return manager.components() == ()

    eventually(none_left)


def test_panics_contained_elsewhere_are_counted(manager: SafetyManager) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    manager.report_panic("capture main", ValueError("bad frame"), type_name="frame")
    manager.report_panic("capture main", Odd())
    figures = manager.stats()
    assert figures.panics == 2
    assert figures.types["frame"].panics == 1
    assert figures.types["capture main"].panics == 1


def test_errors_contained_elsewhere_are_counted_as_what_they_were_declared() -> None:
    with SafetyManager(SafetyConfig(errors=(OSError,)), name="declared") as manager:
        told: list[tuple[str, str]] = []
        manager.add_observer(lambda event: told.append((event.kind, str(event.fields.get("reason")))))
        manager.policy("frame", errors=(KeyError,))
        report = manager.report_error
        assert report("capture main", KeyError("k"), type_name="frame") is True
        assert report("capture main", OSError("configured"), type_name="frame") is False, "nearest wins"
        assert report("capture main", OSError("configured"), type_name="other") is True
        assert report("capture main", ValueError("v"), type_name="frame", errors=(ValueError,)) is True
        assert report("capture main", KeyError("k"), type_name="frame", errors=(ValueError,)) is False
        assert report("alone", OSError()) is True
        types = manager.stats().types
        assert (types["frame"].errors, types["frame"].panics) == (2, 2)
        assert (types["other"].errors, types["other"].panics) == (1, 0)
        assert types["alone"].errors == 1
        eventually(lambda: ("error", "capture main: ValueError: v") in told)
