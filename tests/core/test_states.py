"""The table of states, and that objects live by it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    DROPPED,
    AccessRefusedError,
    Handle,
    NotReleased,
    ObjectState,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from lifecycle._core.record import Record
from lifecycle.states import ENDED, TRANSITIONS, Cause
from lifecycle.testing import check_transitions
from lifecycle.testing.transitions import WATCHED
from tests.core.natives import Native
from tests.support import eventually


def reachable(start: ObjectState) -> set[ObjectState]:
    found = {start}
    todo = [start]
    for state in todo:
        for following in TRANSITIONS[state] - found:
            found.add(following)
            todo.append(following)
    return found


def test_the_table_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(ObjectState)
    assert all(following <= set(ObjectState) for following in TRANSITIONS.values())


def test_every_state_can_be_reached_from_valid() -> None:
    assert reachable(ObjectState.VALID) == set(ObjectState)


@pytest.mark.parametrize("state", sorted(set(ObjectState) - ENDED))
def test_every_life_can_still_be_released(state: ObjectState) -> None:
    assert ObjectState.RELEASED in reachable(state)


def test_ends_are_final_except_that_a_stuck_release_may_come_back() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDED - {ObjectState.STUCK}
    assert TRANSITIONS[ObjectState.STUCK] == {ObjectState.RELEASED}


def test_a_change_that_the_table_does_not_have_is_noted(
    manager: SafetyManager, transitions: check_transitions
) -> None:
    """On whichever thread: as the fixture of every test does, which fails it."""
    handle = manager.register(Native(), release=Native.free, release_on=ANY_THREAD)

    def wrong() -> None:
        handle._record.phase = ObjectState.STUCK

    thread = threading.Thread(target=wrong, name="wrong")
    thread.start()
    thread.join()
    handle._record.phase = None
    broken, transitions.broken = transitions.broken, []
    assert len(broken) == 2
    assert f"object {handle.id}" in broken[0]
    assert "valid -> stuck is not in the table" in broken[0]
    assert "on thread 'wrong' at test_states.py:" in broken[0]
    assert "stuck -> valid" in broken[1]
    handle._record.outcome = ObjectState.RELEASED
    handle._record.outcome = None
    broken, transitions.broken = transitions.broken, []
    assert [text for text in broken if "its outcome was released, and became None" in text]
    assert handle.close()


def test_when_it_is_off_nothing_is_left_of_it(transitions: check_transitions) -> None:
    try:
        transitions.stop()
        assert [type(vars(Record)[name]).__name__ for name in WATCHED] == ["member_descriptor"] * len(WATCHED)
    finally:
        transitions.start()
    with pytest.raises(RuntimeError, match="checked already"):
        check_transitions().start()


def test_the_code_walks_the_whole_table(transitions: check_transitions) -> None:
    """What the table has the code does: each change is made here, and seen."""
    transitions.walked.clear()
    go_on = threading.Event()
    config = SafetyConfig(finalizer_timeout=0.2, max_finalizer_retries=1, leak_level="off")
    with SafetyManager(config) as manager:
        queue = ReleaseQueue("walked")

        def register(release: Any = Native.free, release_on: Any = queue) -> Handle[Native]:
            return manager.register(Native(), release=release, release_on=release_on)

        def raise_it(error: Exception) -> Any:
            def release(native: Native) -> None:
                raise error

            return release

        for shut in (Handle.close, manager.unregister, lambda handle: manager.invalidate(handle, "broken")):
            handle = register()
            lease = handle.lease()
            shut(handle)
            lease.close()
            handle.close()
            del handle
        register()  # dropped
        register(raise_it(OSError("driver says no"))).close()
        register(raise_it(NotReleased("busy"))).close()
        eventually(lambda: queue.drain() >= 0 and not queue.backlog and not manager._registry.delayed)
        handles = [register() for _ in range(3)]
        leases = [handle.lease() for handle in handles[:2]]
        manager.invalidate(handles[1], "broken")
        for handle in handles:
            handle.close()
        queue.lost("the context died")
        leases.clear()
        register(release_on=ANY_THREAD).detach()
        slow = register(lambda native: go_on.wait(20), BACKGROUND)
        late = register(release_on=BACKGROUND)
        manager.add_cleanup(late, go_on.wait, 20)
        assert not slow.close()
        assert not late.close()
        go_on.set()
        eventually(lambda: slow.state == "released" and late.state == "released")

        class Wrapper:
            def __del__(self) -> None:
                saved.append(self)

        saved: list[Any] = []
        # Without the GIL an object that another thread saves in its ``__del__`` looks gone for a moment.
        for place in (queue,) if runtime.free_threaded else (queue, ANY_THREAD, BACKGROUND):
            saved.append(Wrapper())
            kept = manager.register(saved[0], release=DROPPED, release_on=place)
            kept.close()
            queue.drain()
            assert kept.state == "kept"
            del saved[:1]  # and its deallocation hands it on
            eventually(lambda: queue.drain() >= 0 and bool(saved))
            eventually(lambda kept=kept: kept.state == "kept")  # type: ignore[misc]
            saved.clear()
            eventually(lambda kept=kept: queue.drain() >= 0 and kept.state == "released")  # type: ignore[misc]
        saved.append(Wrapper())
        manager.register(saved[0], release=DROPPED, release_on=queue).close()
        queue.drain()
        queue.lost("the context died")
    there = {(one, two) for one, following in TRANSITIONS.items() for two in following}
    unseen = {
        # The last handle goes without a store; seen by those who look at that very moment.
        (ObjectState.VALID, ObjectState.DUE),
        # A look whether others refer to it calls nothing of users'.
        (ObjectState.KEPT, ObjectState.STUCK),
        # Without the GIL the core may outlive its pin for a moment.
        (ObjectState.CLOSING, ObjectState.DETACHED),
    }
    assert transitions.walked <= there
    assert there - transitions.walked <= unseen, sorted(map(str, there - transitions.walked))


def test_nothing_leads_back_to_valid() -> None:
    """I1."""
    assert not [state for state, following in TRANSITIONS.items() if ObjectState.VALID in following]


def test_states_and_causes_compare_equal_to_their_names() -> None:
    assert ObjectState("valid") is ObjectState.VALID
    assert [str(state) for state in ObjectState] == [state.value for state in ObjectState]
    assert {ObjectState.VALID: 1}["valid"] == 1  # type: ignore[index]
    assert str(Cause.CLOSE) == "close"


def test_closed_while_leased(manager: SafetyManager) -> None:
    native = Native()
    seen = []
    handle: Handle[Native] = manager.register(
        native, release=lambda n: (seen.append(handle.state), n.free()), release_on=ANY_THREAD
    )
    lease = handle.lease()
    seen.append(handle.state)
    handle.close()
    seen.append(handle.state)
    lease.close()
    handle.close()
    seen.append(handle.state)
    assert seen == ["valid", "closing", "releasing", "released"]


def test_poisoned_while_leased(manager: SafetyManager) -> None:
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    lease = handle.lease()
    manager.invalidate(handle, "the device is gone")
    assert handle.state == "invalid"
    lease.close()
    assert handle.state in ("due", "released")
    assert handle.close()
    assert handle.state == "released"


def test_due_until_its_place_is_drained(manager: SafetyManager) -> None:
    queue = ReleaseQueue("due")
    handle = manager.register(Native(), release=Native.free, release_on=queue)
    handle.close()
    assert handle.state == "due"
    queue.drain()
    assert handle.state == "released"


def test_due_again_between_two_attempts(manager: SafetyManager) -> None:
    queue = ReleaseQueue("retries")
    states = []
    attempts = 0

    def release(native: Native) -> None:
        nonlocal attempts
        attempts += 1
        states.append(handle.state)
        if attempts == 1:
            raise NotReleased("busy")
        native.free()

    handle = manager.register(Native(), release=release, release_on=queue)
    handle.close()
    queue.drain()
    states.append(handle.state)
    eventually(lambda: queue.drain() >= 0 and handle.state in ENDED)
    states.append(handle.state)
    assert states == ["releasing", "due", "releasing", "released"]


def test_failed(manager: SafetyManager) -> None:
    def release(native: Native) -> None:
        raise OSError("driver says no")

    handle = manager.register(Native(), release=release, release_on=ANY_THREAD)
    assert handle.close() is False
    assert handle.state == "failed"


def test_stuck_and_released_after_all() -> None:
    go_on = threading.Event()
    with SafetyManager(SafetyConfig(finalizer_timeout=0.1)) as manager:
        handle = manager.register(Native(), release=lambda native: go_on.wait(20))
        assert handle.close() is False
        assert handle.state == "stuck"
        go_on.set()
        eventually(lambda: handle.state == "released")


def test_orphaned_when_its_queue_is_lost(manager: SafetyManager) -> None:
    queue = ReleaseQueue("context")
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=queue)
    queue.lost("the context died")
    assert handle.state == "orphaned"
    time.sleep(0.02)
    assert native.released == 0


def test_detached_when_a_safe_finalizer_is_cancelled(manager: SafetyManager) -> None:
    target = Native()
    finalizer = manager.set_safe_finalizer(target, print, "never")
    assert finalizer.state == "valid"
    assert finalizer.cancel()
    assert finalizer.state == "detached"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("close", "by close()"),
        ("unregister", "by unregister()"),
        ("invalidate", "since invalidate()"),
        ("panic", "since a panic"),
    ],
)
def test_messages_tell_what_became_of_an_object_when_why_and_where(
    manager: SafetyManager, how: str, text: str
) -> None:
    """I9: a late access names the object, its state, since when, by what, and where in the program."""
    handle = manager.register(
        Native(), "gst.Sample", name="capture", native=0x7F00, release=Native.free, release_on=ANY_THREAD
    )
    share = handle.share()
    if how == "close":
        share.close()
        handle.close()
    elif how == "unregister":
        manager.unregister(handle)
    elif how == "invalidate":
        manager.invalidate(handle, "the reason given")
    else:
        with pytest.raises(Exception, match="panic"):
            manager.safe_access(handle, lambda native: 1 / 0)
    with pytest.raises(AccessRefusedError) as refused:
        share.lease()
    message = str(refused.value)
    assert f'gst.Sample "capture" (object {handle.id}, native 0x7f00)' in message
    assert "released" in message
    assert " ms ago" in message
    assert text in message
    if how == "invalidate":
        assert "the reason given" in message
    if how in ("close", "unregister", "invalidate"):
        assert "test_states.py:" in message
    share.close()
    handle.close()
