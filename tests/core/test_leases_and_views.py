"""What holds an object: leases, views and everything made from them, children. I1 and I2 are held here."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    LifecycleError,
    ReleaseQueue,
    SafetyManager,
)
from lifecycle._core.runtime import free_threaded as FREE_THREADED
from lifecycle.errors import LeaseEndedError
from tests.core.natives import Native
from tests.support import eventually


class Memory:
    """Native memory: what it is released to is bytes of 0xDD."""

    def __init__(self, size: int = 1000) -> None:
        self.bytes = (ctypes.c_ubyte * size)(*(i % 200 for i in range(size)))
        self.address = ctypes.addressof(self.bytes)
        self.size = size
        self.released = 0

    def free(self) -> None:
        self.released += 1
        ctypes.memset(self.address, 0xDD, self.size)


def mapped(manager: SafetyManager, memory: Memory) -> Handle[Memory]:
    return manager.register(memory, "memory", release=Memory.free, release_on=ANY_THREAD)


# -- leases --------------------------------------------------------------------------------------------------


def test_a_lease_gives_the_object_and_lets_exceptions_pass(manager: SafetyManager) -> None:
    native = Native()
    with manager.register(native, release=Native.free) as handle:
        with handle.lease() as held:
            assert held is native
        with pytest.raises(ZeroDivisionError):
            with handle.lease():
                raise ZeroDivisionError
        assert handle.valid


def test_a_lease_is_used_once(manager: SafetyManager) -> None:
    with manager.register(Native(), release=Native.free) as handle:
        lease = handle.lease()
        with lease:
            assert f"object {handle.id}" in repr(lease)
        assert repr(lease) == f"<Lease of tests.core.natives.Native (object {handle.id}): ended>"
        with pytest.raises(LeaseEndedError, match=r"ended.*handle\.lease\(\)"):
            with lease:
                pytest.fail("entered twice")
        lease.close()


def test_a_lease_holds_from_the_moment_it_is_made(manager: SafetyManager) -> None:
    """I2."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    lease = handle.lease()
    assert handle.close() is False
    with lease as held:
        held.use()
        assert native.released == 0
    assert handle.close() is True
    assert native.errors == []


def test_a_lease_that_was_never_ended_ends_with_its_death(manager: SafetyManager) -> None:
    """I2: what `__exit__` does happens also when it is skipped."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    lease = handle.lease()
    lease.__enter__()
    handle.close()
    assert native.released == 0
    del lease
    eventually(lambda: handle.close())
    assert native.released == 1


def test_leases_nest_and_the_last_one_counts(manager: SafetyManager) -> None:
    """I2."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    with handle.lease(), handle.lease():
        last = handle.lease()
        handle.close()
    assert native.released == 0
    last.close()
    assert handle.close()


def test_a_lease_keeps_the_object_and_not_the_door(manager: SafetyManager) -> None:
    """I1: the last handle is dropped while a lease lives: no access by id after that."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    id = handle.id
    lease = handle.lease()
    handle.close()
    del handle
    with pytest.raises(AccessRefusedError, match=f"object {id}"):
        manager.safe_access(id, Native.use)
    other = manager.register(Native())
    other_id = other.id
    other_lease = other.lease()
    del other
    eventually(lambda: not manager.is_valid(other_id))
    with pytest.raises(AccessRefusedError, match=f"object {other_id}"):
        manager.safe_access(other_id, Native.use)
    other_lease.close()
    lease.close()
    eventually(lambda: native.released)


def test_releases_follow_on_whatever_thread_the_last_lease_ends(manager: SafetyManager) -> None:
    """I4: the owner's queue releases, not the thread that lets go."""
    queue = ReleaseQueue("owner", thread="current")
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=queue)
    lease = handle.lease()
    handle.close()
    thread = threading.Thread(target=lease.close)
    thread.start()
    thread.join()
    assert native.released == 0
    eventually(lambda: queue.drain() >= 0 and native.released)
    assert native.threads == [threading.get_ident()]


def test_another_thread_reads_while_the_first_closes(manager: SafetyManager) -> None:
    """I1, I2: whoever got a lease reads a live object; whoever comes later is refused."""
    for _ in range(50):
        native = Native("raced")
        handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
        refused: list[bool] = []
        go = threading.Barrier(3)

        def read(
            handle: Handle[Native] = handle, go: threading.Barrier = go, refused: list[bool] = refused
        ) -> None:
            go.wait(10)
            for _ in range(10_000):
                try:
                    with handle.lease() as held:
                        held.use()
                except AccessRefusedError:
                    refused.append(True)
                    return

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        go.wait(10)
        handle.close()
        for thread in threads:
            thread.join()
        with pytest.raises(AccessRefusedError):
            handle.lease()
        assert len(refused) == 2
        eventually(lambda native=native: native.released == 1)  # type: ignore[misc]
        assert native.errors == []


def at_each_line_of_ours(action: Callable[[], object], n: int) -> Callable[..., Any]:
    """A trace function that runs `action` at the `n`-th line of the library that is executed."""
    left = n

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if not str(frame.f_globals.get("__name__", "")).startswith("lifecycle."):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                action()
        return trace

    return trace


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, ReleaseQueue("gl", thread="current")], ids=repr)
def test_the_last_lease_ends_at_any_line_of_close(manager: SafetyManager, place: Any) -> None:
    """I2, I3: wherever its ticket comes from, it is run, and once."""
    for n in range(1, 70):
        native = Native()
        handle = manager.register(native, release=Native.free, release_on=place)
        lease = handle.lease()
        before = sys.gettrace()
        sys.settrace(at_each_line_of_ours(lease.close, n))
        try:
            handle.close(timeout=0)
        finally:
            sys.settrace(before)
        lease.close()

        def released(native: Native = native) -> bool:
            if isinstance(place, ReleaseQueue):
                place.drain()
            return native.released == 1

        eventually(released)
        assert native.errors == []


# -- views ---------------------------------------------------------------------------------------------------


def test_a_view_is_the_memory_itself(manager: SafetyManager) -> None:
    memory = Memory()
    with mapped(manager, memory) as handle:
        view = handle.view(memory.address, memory.size)
        assert (view.format, view.itemsize, view.ndim, view.nbytes, view.readonly) == ("B", 1, 1, 1000, True)
        assert bytes(view) == bytes(memory.bytes)
        memory.bytes[3] = 77
        assert view[3] == 77
        with pytest.raises(TypeError):
            view[3] = 1
        writable = handle.view(memory.address, memory.size, readonly=False)
        assert not writable.readonly
        writable[4] = 99
        assert memory.bytes[4] == 99
        del view, writable


@pytest.mark.parametrize("size", [1, 2, 3, 4095, 4096, 4097])
def test_views_of_every_size_show_no_more_than_was_asked(manager: SafetyManager, size: int) -> None:
    memory = Memory(size)
    with mapped(manager, memory) as handle:
        view = handle.view(memory.address, size)
        assert len(view) == size
        assert bytes(view) == bytes(memory.bytes)
        del view


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: view,
        lambda view: view[10:20],
        lambda view: view[::7],
        lambda view: view[:1000].cast("H"),
        lambda view: memoryview(view),
        lambda view: view.toreadonly(),
        lambda view: iter(view),
        lambda view: (ctypes.c_ubyte * 1000).from_buffer_copy(view) and view[5:],
    ],
    ids=["view", "slice", "stride", "cast", "memoryview", "toreadonly", "iterator", "slice-after-copy"],
)
def test_whatever_is_made_from_a_view_holds_the_object(manager: SafetyManager, derive: Any) -> None:
    """I2: beyond the view's own release, the handle's close and a collection."""
    memory = Memory()
    handle = mapped(manager, memory)
    view = handle.view(memory.address, memory.size)
    made = derive(view)
    if made is not view and not hasattr(made, "__next__"):
        view.release()
    del view
    assert handle.close() is False
    gc.collect()
    assert memory.released == 0
    assert handle.state == "closing"
    del made
    eventually(lambda: memory.released == 1)
    assert handle.close() is True


@pytest.mark.needs("numpy")
def test_arrays_hold_the_object(manager: SafetyManager) -> None:
    """I2: slices, reshapes, transposes and casts of an array outlive frame, view and handle."""
    import numpy

    for derive in (
        lambda array: array,
        lambda array: array[100:200],
        lambda array: array.reshape(10, 10, 10)[2],
        lambda array: array.reshape(10, 100).T,
        lambda array: array.view("u2"),
        lambda array: numpy.lib.stride_tricks.as_strided(array, (3,), (2,)),
    ):
        memory = Memory()
        handle = mapped(manager, memory)
        made = derive(numpy.frombuffer(handle.view(memory.address, memory.size), dtype="u1"))
        before = made.copy()
        assert handle.close() is False
        gc.collect()
        assert (made == before).all()
        assert memory.released == 0
        del made
        eventually(lambda memory=memory: memory.released == 1)  # type: ignore[misc]


def test_a_view_outlives_its_manager() -> None:
    """I2: closing the manager frees nothing under a user."""
    manager = SafetyManager(name="short")
    memory = Memory()
    handle = mapped(manager, memory)
    view = handle.view(memory.address, memory.size)
    report = manager.close()
    assert [info.id for info in report.leaked] == [handle.id]
    assert not report.ok
    assert view[199] == 199
    assert memory.released == 0
    del view
    eventually(lambda: memory.released == 1)
    eventually(lambda: manager.stats().active_objects == 0)


def test_an_empty_view_holds_nothing(manager: SafetyManager) -> None:
    memory = Memory()
    handle = mapped(manager, memory)
    view = handle.view(0, 0)
    assert len(view) == 0
    assert view.readonly
    assert handle.close() is True
    assert len(view) == 0


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (0, 16),
        (-1, 16),
        (0x1000, -1),
        (None, 16),
        (0x1000, None),
        (4096.0, 16),
        (0x1000, 1 << 70),
        (1 << 70, 16),
        (0x1000, (1 << 63) - 1),
    ],
)
def test_impossible_views_are_refused(manager: SafetyManager, address: Any, size: Any) -> None:
    """I9: by name, and nothing is held after it."""
    memory = Memory()
    handle = mapped(manager, memory)
    with pytest.raises(LifecycleError, match=rf"object {handle.id}.*address"):
        handle.view(address, size)
    assert handle.close() is True


def test_views_of_many_sizes_share_few_types_and_leave_nothing_to_collect(manager: SafetyManager) -> None:
    """I8: a view's whole life leaves the collector nothing."""
    memory = Memory(5000)
    handle = mapped(manager, memory)
    for size in range(1, 5000, 7):  # every array type is made
        handle.view(memory.address, size)
    gc.collect()
    gc.disable()
    try:
        for size in range(1, 5000, 3):
            handle.view(memory.address, size)[1:]
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert handle.close() is True


# -- garbage cycles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_del_in_a_garbage_cycle_reads_a_live_object(manager: SafetyManager, place: Any) -> None:
    """I2: no release runs before the last `__del__` of a garbage cycle that can still reach the object."""
    seen: list[Any] = []

    class Reader:
        def __init__(self, handle: Handle[Memory], memory: Memory) -> None:
            self.me = self
            self.handle = handle
            self.memory = memory
            self.view = handle.view(memory.address, memory.size)

        def __del__(self) -> None:
            seen.append((self.memory.released, bytes(self.view[:3])))

    for closed in (True, False):
        memory = Memory()
        handle = manager.register(memory, release=Memory.free, release_on=place)
        reader = Reader(handle, memory)
        reader.other = Reader(handle, memory)  # type: ignore[attr-defined]
        reader.other.other = reader  # type: ignore[attr-defined]
        if closed:
            handle.close()
        del handle, reader
        gc.collect()
        eventually(lambda memory=memory: memory.released == 1)  # type: ignore[misc]
    assert seen == [(0, b"\x00\x01\x02")] * 4


def test_a_resurrected_view_holds_on(manager: SafetyManager) -> None:
    """I2: `__del__` brings the view back; the object lives until it is really gone."""
    saved: list[memoryview] = []

    class Phoenix:
        def __init__(self, view: memoryview) -> None:
            self.me = self
            self.view = view

        def __del__(self) -> None:
            saved.append(self.view)

    memory = Memory()
    handle = mapped(manager, memory)
    Phoenix(handle.view(memory.address, memory.size))
    handle.close()
    gc.collect()
    manager.register(Native(), release=Native.free, release_on=ANY_THREAD).close()
    assert len(saved) == 1
    assert memory.released == 0
    assert saved[0][7] == 7
    saved.clear()
    eventually(lambda: memory.released == 1)


def test_a_handle_in_a_garbage_cycle_is_released_after_it(manager: SafetyManager) -> None:
    """I3: collected, not closed: released once all the same."""

    class Node:
        def __init__(self, handle: Handle[Native]) -> None:
            self.me = self
            self.handle = handle

    natives = [Native() for _ in range(10)]
    for native in natives:
        Node(manager.register(native, release=Native.free))
    gc.collect()
    eventually(lambda: all(native.released == 1 for native in natives))
    assert all(not native.errors for native in natives)


# -- children ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_parent_is_released_after_its_children_however_they_are_closed(
    manager: SafetyManager, place: Any
) -> None:
    """I2: order comes for free."""
    order: list[str] = []
    device = manager.register("device", "device", release=order.append, release_on=place)
    texture = manager.register("texture", "texture", release=order.append, release_on=place, parent=device)
    view = manager.register("view", "view", release=order.append, release_on=place, parent=texture)
    assert device.close() is False
    assert texture.close() is False
    assert order == []
    assert view.close() is True
    eventually(lambda: order == ["view", "texture", "device"])
    assert device.close() is texture.close() is True


def test_a_parent_waits_until_its_childs_release_is_done(manager: SafetyManager) -> None:
    """I2: not only until it begins."""
    order: list[str] = []
    running, go_on = threading.Event(), threading.Event()

    def slow(label: str) -> None:
        running.set()
        go_on.wait(10)
        order.append(label)

    parent = manager.register("parent", release=order.append)
    child = manager.register("child", release=slow, parent=parent)
    parent.close()
    child.close(timeout=0)
    assert running.wait(20)
    assert parent.close(timeout=0.05) is False
    go_on.set()
    assert parent.close(timeout=5) is True
    assert order == ["child", "parent"]


def test_a_parent_is_freed_when_its_childs_release_fails(manager: SafetyManager) -> None:
    """I6."""

    def bad(label: str) -> None:
        raise OSError(label)

    parent = manager.register(Native(), release=Native.free, release_on=ANY_THREAD)
    child = manager.register("child", release=bad, release_on=ANY_THREAD, parent=parent)
    parent.close()
    assert child.close() is False
    eventually(lambda: parent.close())


def test_a_lease_of_a_child_holds_the_parent(manager: SafetyManager) -> None:
    """I2."""
    native = Native("parent")
    parent = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    child = manager.register(Native("child"), release=Native.free, release_on=ANY_THREAD, parent=parent)
    with child.lease():
        child.close()
        parent.close()
        assert native.released == 0
    eventually(lambda: native.released == 1)


def test_a_deep_family_falls_without_recursion(manager: SafetyManager) -> None:
    """I5: parents that fall free go through their place's queue."""
    natives = [
        Native() for _ in range(50 if FREE_THREADED else 5000)
    ]  # there each waits for the thread that made it
    handle = manager.register(natives[0], release=Native.free, release_on=ANY_THREAD)
    family = [handle]
    for native in natives[1:]:
        family.append(manager.register(native, release=Native.free, release_on=ANY_THREAD, parent=family[-1]))
    for handle in family:
        handle.close()
    eventually(lambda: all(native.released == 1 for native in natives), timeout=20)
    del handle, family


def test_a_leases_own_references(manager: SafetyManager) -> None:
    """I8: beyond the lease itself nothing is allocated, and nothing is left for the collector."""
    handle = manager.register(Native(), release=Native.free, release_on=ANY_THREAD)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            with handle.lease() as held:
                held.use()
        assert gc.collect() == 0
    finally:
        gc.enable()
    lease = handle.lease()
    gone = weakref.finalize(lease, int) if hasattr(type(lease), "__weakref__") else None
    lease.close()
    assert gone is None or gone.alive
    assert handle.close()
