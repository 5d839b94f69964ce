"""Whoever is asked about an object gives the same answer: the handle, the manager by handle and by id, the
access itself; also while the collector has the object, and after its owner has ended it."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessError,
    AccessRefusedError,
    Event,
    Handle,
    HeldError,
    ObjectState,
    Profiler,
    SafetyManager,
)
from lifecycle._core import describe, doors, runtime, sentences
from lifecycle._core.facts import facts
from tests.core.natives import Native
from tests.support import eventually


@pytest.fixture(autouse=True)
def no_collection_by_itself() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def granted(access: Callable[[], Any]) -> bool:
    try:
        access()
    except AccessError:
        return False
    return True


def answers(manager: SafetyManager, id: int, handle: Handle[Any] | None = None) -> dict[str, bool]:
    """What everybody says of an object, by id and, where there is one, by handle."""
    info = {info.id: info.state for info in manager.objects()}
    said = {
        "is_valid(id)": manager.is_valid(id),
        "safe_access(id)": granted(lambda: manager.safe_access(id, lambda native: native)),
        "block(id)": granted(lambda: manager.safe_access(id).__exit__(None, None, None)),
        "objects()": info.get(id) is ObjectState.VALID,
    }
    if handle is not None:
        said |= {
            "state": handle.state is ObjectState.VALID,
            "valid": handle.valid,
            "is_valid(handle)": manager.is_valid(handle),
            "lease": granted(lambda: handle.lease().close()),
            "safe_access(handle)": granted(lambda: manager.safe_access(handle, lambda native: native)),
            "view": granted(lambda: handle.view(0, 0)),
        }
    return said


class Dying:
    """An object of a garbage cycle, with a handle, whose ``__del__`` does as it was told."""

    def __init__(self, handle: Handle[Any], action: Callable[[Handle[Any]], object]) -> None:
        self.handle = handle
        self.action = action
        self.me = self

    def __del__(self) -> None:
        self.action(self.handle)


def in_garbage(manager: SafetyManager, action: Callable[[Handle[Any], int], object], **facts: Any) -> Native:
    native = Native()
    handle = manager.register(native, "dying", release=Native.free, release_on=ANY_THREAD, **facts)
    id = handle.id
    Dying(handle, lambda handle: action(handle, id))
    del handle
    gc.collect()
    return native


@pytest.mark.parametrize("by", ["handle", "id"])
def test_in_a_garbage_cycle_all_say_valid_until_it_is_closed(manager: SafetyManager, by: str) -> None:
    seen: list[dict[str, bool]] = []

    def use(handle: Handle[Any], id: int) -> None:
        seen.append(answers(manager, id, handle if by == "handle" else None))
        handle.close()
        seen.append(answers(manager, id, handle if by == "handle" else None))

    native = in_garbage(manager, use)
    assert all(seen[0].values()), seen[0]
    assert not any(seen[1].values()), seen[1]
    eventually(lambda: native.released == 1)


@pytest.mark.parametrize("by", ["handle", "id"])
@pytest.mark.parametrize("how", ["unregister", "invalidate", "close the manager"])
def test_in_a_garbage_cycle_it_can_be_shut_for_everybody(manager: SafetyManager, by: str, how: str) -> None:
    seen: list[Any] = []

    def use(handle: Handle[Any], id: int) -> None:
        target = handle if by == "handle" else id
        if how == "close the manager":
            manager.close()
        elif how == "invalidate":
            seen.append(manager.invalidate(target, "broken"))
            seen.append(not manager.invalidate(target, "again"))
        else:
            manager.unregister(target)
        seen.extend(not one for one in answers(manager, id, handle).values())

    native = in_garbage(manager, use)
    assert all(seen), seen
    eventually(lambda: manager.stats().active_objects == 0)
    assert native.released == 1


def test_closed_in_the_del_of_its_cycle_is_no_leak(manager: SafetyManager) -> None:
    told: list[Event] = []
    manager.add_leak_hook(told.append)
    counted: list[int] = []

    def flush_and_close(handle: Handle[Any], id: int) -> None:
        with handle.lease():
            asking = threading.Thread(target=lambda: counted.append(manager.stats().leaks))
            asking.start()
            asking.join()  # what the collector has reported is counted meanwhile
        handle.close()

    for _ in range(3):
        in_garbage(manager, flush_and_close)
    eventually(lambda: manager.stats().active_objects == 0)
    stats = manager.stats()
    assert counted == [0, 0, 0]
    assert (stats.leaks, stats.types["dying"].closed["close"], stats.types["dying"].closed["drop"]) == (
        0,
        3,
        0,
    )
    manager.close()
    assert not told


def test_left_open_in_its_cycle_is_a_leak(manager: SafetyManager) -> None:
    natives = [in_garbage(manager, lambda handle, id: handle.lease().close()) for _ in range(3)]
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().leaks == 3
    assert [native.released for native in natives] == [1, 1, 1]


def test_dropped_while_a_lease_holds_it_is_told_at_once(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "held", release=Native.free, release_on=ANY_THREAD)
    id = handle.id
    lease = handle.lease()
    del handle
    assert not any(answers(manager, id).values())
    stats = manager.stats()
    assert (stats.leaks, stats.types["held"].states["closing"]) == (1, 1)
    lease.close()


@pytest.mark.parametrize("by", ["handle", "id"])
def test_a_saved_object_can_be_used_and_shut(manager: SafetyManager, by: str) -> None:
    saved: list[Handle[Any]] = []
    natives = [in_garbage(manager, lambda handle, id: saved.append(handle)) for _ in range(3)]
    targets = saved if by == "handle" else [handle.id for handle in saved]
    for handle in saved:
        assert all(answers(manager, handle.id, handle).values())
    assert manager.stats().types["dying"].states["valid"] == 3
    at_once = manager.unregister(targets[0])
    assert at_once or runtime.free_threaded  # there another thread's look at it may keep it for a moment
    assert manager.invalidate(targets[1], "broken")
    eventually(lambda: [native.released for native in natives] == [1, 1, 0])
    assert manager.close().ok
    for handle in saved:
        assert not any(answers(manager, handle.id, handle).values())
    assert [native.released for native in natives] == [1, 1, 1]
    assert manager.stats().leaks == 0


def test_a_saved_object_may_be_garbage_once_more(manager: SafetyManager) -> None:
    """The second time nobody closes it, and it is read until the end."""
    saved: list[Handle[Any]] = []
    native = in_garbage(manager, lambda handle, id: saved.append(handle))
    assert all(answers(manager, saved[0].id, saved[0]).values())
    manager.stats()  # the record knows its door again
    seen: list[bool] = []

    def use(handle: Handle[Any]) -> None:
        seen.extend(answers(manager, handle.id, handle).values())
        seen.append(native.released == 0)

    Dying(saved.pop(), use)
    gc.collect()
    assert seen
    assert all(seen)
    eventually(lambda: manager.stats().active_objects == 0)
    assert (native.released, manager.stats().leaks) == (1, 1)


def test_nobody_has_an_object_alone_beside_an_access_by_id(manager: SafetyManager) -> None:
    """An access by id in the midst of the collection holds the object like any other."""
    kept: list[Any] = []
    refused: list[tuple[str, ...]] = []

    def use(handle: Handle[Any], id: int) -> None:
        kept.append(manager.safe_access(id))
        with pytest.raises(HeldError) as caught:
            handle.close(held="refuse")
        refused.append(caught.value.holders)
        kept.append(handle)

    native = in_garbage(manager, use)
    block, handle = kept
    assert len(refused) == 1
    with pytest.raises(HeldError):
        handle.detach(timeout=0)
    handle.close()
    assert native.released == 0
    block.__exit__(None, None, None)
    kept.clear()
    del block
    eventually(lambda: manager.stats().active_objects == 0)
    assert native.released == 1


class Texture:
    destroyed = False


def test_an_observed_object_that_its_owner_has_ended(manager: SafetyManager) -> None:
    for ask in range(2):
        texture = Texture()
        handle = manager.observe(texture, "texture", alive=lambda texture: not texture.destroyed)
        assert all(answers(manager, handle.id, handle).values())
        texture.destroyed = True
        if ask == 0:
            assert not manager.is_valid(handle.id)
        assert not any(answers(manager, handle.id, handle).values())


def test_an_observed_object_may_be_asked_about_at_any_moment(manager: SafetyManager) -> None:
    """State and validity are facts: they answer, and never raise, also between the two steps of an end."""
    texture = Texture()
    handle = manager.observe(texture, "texture")
    record = handle._record
    ref, record.obj = record.obj, None  # as the last step of its end has it, before that is announced
    try:
        assert handle.state in set(ObjectState)
        assert handle.valid in (True, False)
        assert manager.is_valid(handle.id) in (True, False)
        assert manager.objects()
        with pytest.raises(AccessRefusedError):
            handle.lease()
    finally:
        record.obj = ref
    handle.close()


def test_a_profiler_sees_how_long_an_observed_object_was_held(manager: SafetyManager) -> None:
    texture = Texture()
    handle = manager.observe(texture, "texture")
    held = threading.Event()
    with Profiler(manager) as profiler:
        with handle.lease():
            held.wait(0.05)
        handle.lease()  # dropped without its end
        lease = handle.lease()
        lease.close()
        lease.close()
    (profile,) = (one for one in profiler.report() if one.type_name == "texture")
    assert profile.held.count == 3
    assert profile.held.sum >= 0.05


@pytest.mark.parametrize("setter", [sys.setprofile, sys.settrace])
def test_a_trace_function_is_no_holder(manager: SafetyManager, setter: Callable[[Any], None]) -> None:
    """One that looks at the variables, as debuggers do: up to 3.12 a copy of them is left in each frame."""

    def trace(frame: Any, *_: Any) -> Any:
        assert frame.f_locals is not None
        return trace

    before = sys.gettrace(), sys.getprofile()
    memory = bytearray(8)
    handle = manager.register(memory, "memory", release=lambda _: None, release_on=ANY_THREAD)

    def look() -> list[str]:
        views = [handle.view(memory), handle.view(1, 1)]
        handle.expect_holders(views=2, shares=1)
        assert len(views) == 2
        return [holder.kind for holder in handle.holders()]

    try:
        setter(trace)
        handle.expect_holders(shares=1)
        assert handle.holders() == ()
        kinds = look()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    assert kinds == ["view", "view"]
    gc.collect()
    assert handle.close(timeout=5)


@pytest.mark.parametrize("setter", [sys.setprofile, sys.settrace])
def test_a_trace_function_holds_nothing(manager: SafetyManager, setter: Callable[[Any], None]) -> None:
    """Up to 3.12 it leaves a copy of the locals in each frame."""

    def trace(*_: Any) -> Any:
        return trace

    before = sys.gettrace(), sys.getprofile()
    released: list[str] = []
    for act in ("detach", "refuse", "exclusive", "exclusive twice"):
        handle = manager.register(
            Native(), act, release=lambda native: released.append("it"), release_on=ANY_THREAD
        )
        abandoned = handle.exclusive() if act == "exclusive twice" else None
        if abandoned is not None:
            abandoned.__enter__()
            abandoned = None  # died without its end
        try:
            setter(trace)
            if act == "detach":
                handle.detach(timeout=0.2)
            elif act == "refuse":
                assert handle.close(held="refuse")
            else:
                with handle.exclusive(timeout=0.2):
                    pass
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])
        handle.close()
    assert len(released) == 3


def test_who_speaks_of_a_dropped_object_opens_no_door(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record and cell share the float of `Record.born`, which says whether the cell lives. A sentence about the
    object, in the middle of which another thread runs, must not look like the cell."""
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    record = handle._record
    told = []
    with handle.lease():
        times = [describe.since(record, ObjectState.VALID), facts(handle).born]
        id = handle.id
        del handle
        assert not doors.is_open(record), times

        def ago(since: float) -> str:
            told.append(doors.is_open(record))
            return f"{since} ago"

        for module in (describe, sentences):
            monkeypatch.setattr(module, "ago", ago)
        with pytest.raises(AccessRefusedError):
            manager.safe_access(id, int)
        describe.fate(record)
        assert told
        assert not any(told)
