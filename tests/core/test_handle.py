"""Handles: facts, closing, dropping, weak references, and what a handle is not."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    EventFence,
    Handle,
    HeldError,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle._core.waiting import WaitList
from tests.core.natives import Fence, Native
from tests.support import SOON, eventually


def registered(manager: SafetyManager, native: Native, place: object = ANY_THREAD) -> Handle[Native]:
    return manager.register(native, "native", release=Native.free, release_on=place)  # type: ignore[arg-type]


# -- facts ---------------------------------------------------------------------------------------------------


def test_facts(manager: SafetyManager) -> None:
    with manager.register(
        Native(), "texture", name="sky", native=17, size=4096, release=Native.free
    ) as handle:
        assert (handle.type_name, handle.name, handle.native, handle.size) == ("texture", "sky", 17, 4096)
        assert handle.valid
        assert handle.state == "valid"
    assert not handle.valid
    assert (handle.type_name, handle.name, handle.native, handle.size) == ("texture", "sky", 17, 4096)


def test_the_type_defaults_to_the_class(manager: SafetyManager) -> None:
    with manager.register(Native()) as handle, manager.register({"a": 1}) as other:
        assert handle.type_name == "tests.core.natives.Native"
        assert other.type_name == "dict"


def test_ids_never_come_back(manager: SafetyManager) -> None:
    with SafetyManager(name="another") as other:
        ids = []
        for owner in (manager, other) * 20:
            with owner.register(Native(), release=Native.free, release_on=ANY_THREAD) as handle:
                ids.append(handle.id)
    assert ids == sorted(set(ids))


def test_repr_names_the_object_and_its_state(manager: SafetyManager) -> None:
    handle = manager.register(
        Native(), "texture", name="sky", native=0x7F3A10, release=Native.free, release_on=ANY_THREAD
    )
    assert repr(handle) == f'<Handle of texture "sky" (object {handle.id}, native 0x7f3a10): valid>'
    share = handle.share()
    share.close()
    assert repr(share).endswith(": valid, this share closed>")
    handle.close()
    assert re.search(r": released \d+ ms ago by close\(\) at test_handle\.py:\d+>$", repr(handle)), repr(
        handle
    )


@pytest.mark.parametrize("do", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda do: do.__name__)
def test_handles_cannot_be_copied_or_pickled(manager: SafetyManager, do: Callable[[object], object]) -> None:
    with registered(manager, Native()) as handle:
        with pytest.raises(TypeError, match=rf"object {handle.id}.*(share\(\)|send its data)"):
            do(handle)
        assert handle.valid


# -- closing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_close_has_released_when_it_returns(manager: SafetyManager, place: object) -> None:
    native = Native()
    handle = registered(manager, native, place)
    assert handle.close() is True
    assert native.released == 1
    assert handle.state == "released"


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_closing_twice_gives_the_same_answer(manager: SafetyManager, place: object) -> None:
    """I3: however often it is closed, the release runs once."""
    native = Native()
    handle = registered(manager, native, place)
    assert [handle.close(), handle.close(), handle.close(timeout=0), handle.close(held="refuse")] == [
        True
    ] * 4
    assert native.released == 1


def test_closing_a_failed_object_twice_gives_the_same_answer(manager: SafetyManager) -> None:
    calls = []

    def release(native: Native) -> None:
        calls.append(native)
        raise ValueError("no")

    handle = manager.register(Native(), release=release)
    assert [handle.close(), handle.close(), handle.close(timeout=1)] == [False] * 3
    assert len(calls) == 1


def test_background_releases_on_another_thread_any_thread_on_this(manager: SafetyManager) -> None:
    inline, timed = Native(), Native()
    registered(manager, inline, ANY_THREAD).close()
    registered(manager, timed, BACKGROUND).close()
    assert inline.threads == [threading.get_ident()]
    assert timed.threads
    assert timed.threads != [threading.get_ident()]


def test_no_access_after_close(manager: SafetyManager) -> None:
    """I1: every way in is shut."""
    handle = registered(manager, Native())
    weak = handle.weak()
    id = handle.id
    handle.close()
    for access in (
        handle.lease,
        handle.share,
        handle.__enter__,
        lambda: handle.view(0x1000, 16),
        lambda: manager.safe_access(handle, Native.use),
        lambda: manager.safe_access(id, Native.use),
        lambda: manager.safe_access(handle),
        lambda: manager.safe_access(id),
        lambda: manager.add_cleanup(handle, print),
        lambda: manager.register(Native(), parent=handle),
    ):
        with pytest.raises(AccessRefusedError, match=f"object {id}.*was released"):
            access()
    assert weak() is None
    assert not manager.is_valid(handle)
    assert not manager.is_valid(id)


def test_closing_while_held_returns_at_once_and_releases_later(manager: SafetyManager) -> None:
    """I2: close never frees under a user."""
    native = Native()
    handle = registered(manager, native, BACKGROUND)
    with handle.lease() as held:
        began = time.monotonic()
        assert handle.close() is False
        assert time.monotonic() - began < SOON
        assert handle.state == "closing"
        held.use()
        assert native.released == 0
    eventually(lambda: native.released)
    assert handle.close() is True
    assert native.errors == []


def test_close_with_a_timeout_waits_for_the_others(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    lease = handle.lease()
    began = time.monotonic()
    assert handle.close(timeout=0.05) is False
    assert time.monotonic() - began >= 0.05
    held = threading.Event()

    def hold() -> None:
        nonlocal lease
        held.wait(20)
        time.sleep(0.02)
        lease.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.set()
    assert handle.close(timeout=10) is True
    thread.join()
    assert native.released == 1


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_close_for_ever(manager: SafetyManager, place: object) -> None:
    native = Native()
    handle = registered(manager, native, place)
    lease = handle.lease()
    timer = threading.Timer(0.05, lease.close)
    timer.start()
    assert handle.close(timeout=None) is True
    timer.join()
    assert native.released == 1


def test_close_with_timeout_zero_waits_for_nothing(manager: SafetyManager) -> None:
    running, go_on = threading.Event(), threading.Event()

    def release(native: Native) -> None:
        running.set()
        go_on.wait(10)
        native.free()

    native = Native()
    handle = manager.register(native, release=release)
    began = time.monotonic()
    assert handle.close(timeout=0) is False
    assert running.wait(20)
    assert handle.close(timeout=0) is False
    assert time.monotonic() - began < SOON
    go_on.set()
    eventually(lambda: handle.close(timeout=0))
    assert native.released == 1


def test_a_wait_that_came_after_the_call_is_told_by_the_keeper(manager: SafetyManager) -> None:
    """It enters when the end has been announced, or leaves and is interrupted: nobody else would take its
    entry out."""
    handle = registered(manager, Native())
    assert handle.close()
    waiters = manager._registry.waiters.setdefault(handle.id, WaitList())
    assert waiters.wait(lambda: handle.id not in manager._registry.waiters, 20)
    assert not manager._registry.waiters


def test_waiting_in_vain_leaves_nothing_behind(manager: SafetyManager) -> None:
    handle = registered(manager, Native())
    with handle.lease():
        handle.close()
        for _ in range(20):
            assert handle.close(timeout=0.001) is False
        assert not manager._registry.waiters
    assert handle.close()


@pytest.mark.parametrize(
    "shut", [SafetyManager.unregister, lambda m, h: m.invalidate(h, "gone")], ids=["unregister", "invalidate"]
)
def test_closing_what_was_shut_already_leaves_nothing_behind(
    manager: SafetyManager, shut: Callable[..., object]
) -> None:
    for _ in range(10):
        handle = registered(manager, Native())
        shut(manager, handle)
        handle.close()
    assert len(manager._registry.shared) == 0


def test_with_closes_also_after_an_exception_which_passes(manager: SafetyManager) -> None:
    native = Native()
    with pytest.raises(KeyError):
        with registered(manager, native):
            raise KeyError("mine")
    assert native.released == 1


# -- close(held="refuse") ------------------------------------------------------------------------------------


def test_refusing_close_leaves_the_door_open_and_names_the_holders(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    with handle.lease():
        with pytest.raises(HeldError, match=rf"object {handle.id}.*lease.*end those") as refused:
            handle.close(held="refuse")
        assert refused.value.holders[0].startswith('lease of thread "MainThread"')
        assert handle.valid
        assert handle.state == "valid"
        with handle.lease() as again:
            again.use()
    del refused
    assert handle.close(held="refuse") is True
    assert native.released == 1


def test_refusing_close_names_children_views_and_shares(manager: SafetyManager) -> None:
    memory = (bytearray(64),)
    handle = manager.register(memory, "memory", release=len, release_on=ANY_THREAD)
    child = manager.register(Native(), "child", release=Native.free, release_on=ANY_THREAD, parent=handle)
    with pytest.raises(HeldError, match=rf"its child .*\(object {child.id}\)"):
        handle.close(held="refuse")
    child.close()
    share = handle.share()
    with pytest.raises(HeldError, match="1 other share"):
        handle.close(held="refuse")
    share.close()
    assert handle.close(held="refuse") is True


def test_a_refused_close_keeps_no_fence(manager: SafetyManager) -> None:
    """I9: a refusal changes nothing: the fence that came with it must not hold up the close that follows."""
    handle = registered(manager, Native())
    with handle.lease():
        with pytest.raises(HeldError):
            handle.close(held="refuse", after=Fence())
    assert handle.close(timeout=2) is True


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND])
def test_refusing_close_names_fences_that_are_pending(manager: SafetyManager, place: Any) -> None:
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=place)
    pending, done = threading.Event(), threading.Event()
    done.set()
    handle.release_after(EventFence(done))
    handle.release_after(EventFence(pending))
    with pytest.raises(HeldError, match=r"is held by fence .*wait for those") as refused:
        handle.close(held="refuse")
    assert len(refused.value.holders) == 1
    assert handle.state == "valid"
    pending.set()
    assert handle.close(held="refuse", timeout=20) is True
    assert native.released == 1


def test_a_fence_that_may_be_asked_elsewhere_alone_is_taken_for_pending(manager: SafetyManager) -> None:
    queue = ReleaseQueue("mine", thread="current")
    handle = manager.register(Native(), release=Native.free, release_on=queue)
    done = threading.Event()
    done.set()
    handle.release_after(EventFence(done))
    refused: list[str] = []

    def close() -> None:
        try:
            handle.close(held="refuse")
        except HeldError as error:
            refused.append(error.holders[0])

    other = threading.Thread(target=close)
    other.start()
    other.join()
    assert refused[0].startswith("fence <EventFence of ")
    assert handle.close(held="refuse")


# -- dropping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_dropped_handle_releases_and_is_counted_as_a_leak(manager: SafetyManager, place: object) -> None:
    native = Native()
    handle = registered(manager, native, place)
    handle.lease().close()
    with pytest.warns(ResourceWarning, match=r"native \(object .* was dropped without close") as reports:
        del handle
        eventually(lambda: native.released)
        eventually(lambda: len(reports))
    figures = manager.stats().types["native"]
    assert (figures.leaks, figures.closed["drop"], figures.ended["released"]) == (1, 1, 1)


def test_dropped_on_any_thread_is_released_by_the_next_registration(manager: SafetyManager) -> None:
    """A hot loop that drops its handles one turn late never has more than two objects unreleased."""
    most = 0
    natives = []
    handle = None
    for _ in range(500):
        native = Native()
        natives.append(native)
        handle = registered(manager, native)
        most = max(most, sum(not native.released for native in natives[-10:]))
    assert handle is not None
    handle.close()
    assert most <= 2
    eventually(lambda: all(native.released == 1 for native in natives))


def test_a_borrowed_object_may_be_dropped(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "borrowed")
    assert handle.valid
    del handle
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().leaks == 0


def test_the_last_reference_to_the_object_goes_with_its_release(manager: SafetyManager) -> None:
    """I4: after RELEASED the library keeps nothing of the object, its parent or its release function."""
    queue = ReleaseQueue("owner", thread="current")
    for place in (ANY_THREAD, BACKGROUND, queue):
        native = Native()
        gone = weakref.ref(native)
        handle = registered(manager, native, place)
        del native
        handle.close()
        assert handle.state == "released"
        eventually(lambda gone=gone: gone() is None)  # type: ignore[misc]


def test_the_last_reference_goes_also_when_the_release_fails(manager: SafetyManager) -> None:
    """I4: neither the error nor what caused it keeps the object alive, or it would die wherever the record
    expires."""
    queue = ReleaseQueue("owner", thread="current")

    def release(native: Native) -> None:
        try:
            raise KeyError(native.label)
        except KeyError as error:
            raise ValueError("cannot free") from error

    native = Native()
    gone = weakref.ref(native)
    handle = manager.register(native, release=release, release_on=queue)
    del native
    assert handle.close() is False
    assert handle.state == "failed"
    assert gone() is None


# -- not waiting ---------------------------------------------------------------------------------------------


def test_never_wait_only_posts(manager: SafetyManager) -> None:
    go_on = threading.Event()
    native = Native()

    def release(native: Native) -> None:
        go_on.wait(10)
        native.free()

    handle = manager.register(native, release=release)
    with never_wait():
        began = time.monotonic()
        assert handle.close() is False
        assert handle.close(timeout=60) is False
        assert time.monotonic() - began < SOON
    go_on.set()
    assert handle.close(timeout=10) is True


def test_never_wait_may_be_nested(manager: SafetyManager) -> None:
    handle = registered(manager, Native())
    with handle.lease():
        with never_wait():
            with never_wait():
                pass
            began = time.monotonic()
            assert handle.close(timeout=60) is False
            assert time.monotonic() - began < SOON
        assert handle.close(timeout=0.01) is False


def test_closing_inside_a_collection_only_posts(manager: SafetyManager) -> None:
    """I4, I5: a `__del__` that the collector runs may close; the release runs outside the collection."""
    collecting = []

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.handle = manager.register(
                Native(),
                "owned",
                release=lambda native: collecting.append((inside[-1], native.free())),
                release_on=ANY_THREAD,
            )

        def __del__(self) -> None:
            answers.append(self.handle.close(timeout=10))

    answers: list[bool] = []
    inside = [False]

    def note(phase: str, info: dict[str, int]) -> None:
        inside.append(phase == "start")

    Owner()
    gc.callbacks.append(note)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(note)
    assert answers == [False]
    eventually(lambda: collecting)
    assert collecting == [(False, None)]


# -- weak references -----------------------------------------------------------------------------------------


def test_weak_gives_shares_and_keeps_nothing(manager: SafetyManager) -> None:
    native = Native()
    handle = registered(manager, native)
    weak = handle.weak()
    share = weak()
    assert share is not None
    assert share.id == handle.id
    handle.close()
    assert native.released == 0
    share.close()
    assert native.released == 1
    assert weak() is None


def test_weak_never_revives(manager: SafetyManager) -> None:
    """I1: an object that is shut, but still held, is not given out again."""
    handle = registered(manager, Native())
    weak = handle.weak()
    with handle.lease():
        handle.close()
        assert weak() is None
    other = registered(manager, Native())
    weak = other.weak()
    manager.unregister(other)
    assert weak() is None
    assert "unregister" in repr(weak)


def test_weak_of_a_dropped_handle(manager: SafetyManager) -> None:
    handle = manager.register(Native())
    weak = handle.weak()
    del handle
    eventually(lambda: weak() is None)


# -- fences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_close_after_a_fence_waits_for_it(manager: SafetyManager, place: object) -> None:
    """I2: the device's own lease."""
    fence = Fence()
    native = Native()
    handle = registered(manager, native, place)
    assert handle.close(after=fence, timeout=0.05) is False
    assert not handle.valid
    assert native.released == 0
    assert manager.stats().queues
    fence.done = True
    assert handle.close(timeout=10) is True
    assert native.released == 1
    assert fence.asked >= 2


def test_each_share_may_close_after_a_fence_of_its_own(manager: SafetyManager) -> None:
    """I2: two devices still read: the release waits for both."""
    first, second = Fence(), Fence()
    native = Native()
    handle = registered(manager, native)
    share = handle.share()
    handle.close(after=first)
    share.close(after=second)
    second.done = True
    time.sleep(0.1)
    assert native.released == 0
    first.done = True
    assert share.close(timeout=10) is True


def test_fences_that_wait_are_counted(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    fence = Fence()
    handle = registered(manager, Native(), queue)
    handle.close(after=fence)
    queue.drain()
    eventually(
        lambda: queue.drain() >= 0 and {q.queue: q.fences_pending for q in manager.stats().queues}["gl"] == 1
    )
    fence.done = True
    eventually(lambda: queue.drain() >= 0 and handle.state == "released")


def test_a_fence_that_raises_orphans_the_object(manager: SafetyManager) -> None:
    class LostFence:
        def signalled(self) -> bool:
            raise RuntimeError("device lost")

    native = Native()
    handle = registered(manager, native)
    assert handle.close(after=LostFence(), timeout=5) is False
    assert handle.state == "orphaned"
    assert native.released == 0
    assert "device lost" in repr(handle)


# -- what it takes to be refused -----------------------------------------------------------------------------


class No:
    """False, but not ``False``: as NumPy's."""

    def __bool__(self) -> bool:
        return False


class Ambiguous:
    """As an array of several elements."""

    def __bool__(self) -> bool:
        raise ValueError("the truth of several values is ambiguous")


class Panic(BaseException):
    """As PyO3's PanicException: no `Exception`."""


def raises_a_panic(native: Native) -> bool:
    raise Panic("bounds")


@pytest.mark.parametrize(
    ("answer", "granted"),
    [(None, True), (True, True), (1, True), (False, False), (No(), False), (0, False), ("", False)],
)
def test_a_validator_says_no_with_what_is_false_of_whatever_type(
    manager: SafetyManager, answer: object, granted: bool
) -> None:
    manager.policy("native", validate=lambda native: answer)
    handle = registered(manager, Native())
    if granted:
        handle.lease().close()
        assert handle.valid
        handle.close()
    else:
        with pytest.raises(AccessRefusedError, match="its validator refused it"):
            handle.lease()
        assert not handle.valid


@pytest.mark.parametrize(
    ("validate", "reason"), [(lambda native: Ambiguous(), "ambiguous"), (raises_a_panic, "Panic: bounds")]
)
def test_a_validator_that_raises_refuses_whatever_it_raises(
    manager: SafetyManager, validate: Callable[[Native], object], reason: str
) -> None:
    manager.policy("native", validate=validate)
    handle = registered(manager, Native())
    with pytest.raises(AccessRefusedError, match=reason):
        handle.lease()
    assert not handle.valid


def test_control_flow_in_a_validator_passes_and_refuses_nothing(manager: SafetyManager) -> None:
    def leave(native: Native) -> bool:
        raise SystemExit

    manager.policy("native", validate=leave)
    handle = registered(manager, Native())
    with pytest.raises(SystemExit):
        handle.lease()
    assert handle.valid
    handle.close()


def test_asking_whether_an_observed_object_is_alive_may_raise_a_panic(manager: SafetyManager) -> None:
    owner = Native()
    handle = manager.observe(owner, "native", alive=raises_a_panic)
    with pytest.raises(AccessRefusedError, match="Panic: bounds"):
        handle.lease()


def test_errors_do_not_keep_the_object(manager: SafetyManager) -> None:
    """I2 the other way round: a kept traceback is no holder."""
    manager.policy("checked", validate=lambda native: native.label != "bad")
    kept: list[BaseException] = []

    def bad_lease(handle: Handle[Native]) -> object:
        return handle.lease()

    def bad_view(handle: Handle[Native]) -> object:
        return handle.view(0, 16)

    def bad_block(handle: Handle[Native]) -> object:
        return manager.safe_access(handle)

    def bad_call(handle: Handle[Native]) -> object:
        return manager.safe_access(handle, lambda native: 1 / 0)

    def bad_register(handle: Handle[Native]) -> object:
        return manager.register(Native(), parent=handle, size=-1, release=Native.free)

    def bad_duplicate(handle: Handle[Native]) -> object:
        return manager.register(twice, parent=handle, release=Native.free)

    def bad_cleanup(handle: Handle[Native]) -> object:
        return manager.add_cleanup(handle, None)  # type: ignore[arg-type]

    def bad_close(handle: Handle[Native]) -> object:
        with handle.lease():
            return handle.close(held="refuse")

    twice = Native()
    first = manager.register(twice, release=Native.free)
    for label, access in (
        ("bad", bad_lease),
        ("bad", bad_block),
        ("good", bad_view),
        ("good", bad_call),
        ("good", bad_register),
        ("good", bad_duplicate),
        ("good", bad_cleanup),
        ("good", bad_close),
    ):
        native = Native(label)
        handle = manager.register(native, "checked", release=Native.free, release_on=ANY_THREAD)
        with pytest.raises(LifecycleError) as refused:
            access(handle)
        kept.append(refused.value)
        assert handle.close() is True, access.__name__
        assert native.released == 1
    first.close()
    assert twice.released == 1
    assert len(kept) == 8


def test_close_without_deadlines_when_finalizer_safety_is_off() -> None:
    with SafetyManager(SafetyConfig(enable_finalizer_safety=False)) as manager:
        native = Native()
        assert registered(manager, native, BACKGROUND).close() is True
        assert native.threads == [threading.get_ident()]
