"""Who holds an object: exact numbers, and names one can go to."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from typing import Any

import pytest

from lifecycle import ANY_THREAD, Handle, HeldError, Holder, LifecycleError, SafetyManager
from lifecycle._core.holders import all_holders
from tests.core.natives import Native
from tests.sharing.test_fences import Told
from tests.support import run_python

MEMORY = (ctypes.c_ubyte * 4096)()
ADDRESS = ctypes.addressof(MEMORY)


@pytest.fixture
def handle(manager: SafetyManager) -> Any:
    made = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    yield made
    made.close()


def kinds(handle: Handle[Any]) -> list[str]:
    return [holder.kind for holder in handle.holders()]


def where(handle: Handle[Any], kind: str) -> str:
    return " | ".join(str(holder) for holder in handle.holders() if holder.kind == kind)


def test_nobody_holds_a_fresh_object(handle: Handle[Native]) -> None:
    assert handle.holders() == ()
    handle.expect_holders()


def test_the_numbers_are_exact(handle: Handle[Native]) -> None:
    leases = [handle.lease() for _ in range(5)]
    views = [handle.view(ADDRESS, 100) for _ in range(3)]
    slices = [view[10:20] for view in views for _ in range(4)]
    arrays = [memoryview(view) for view in views]
    handle.release_after(Told(True))
    handle.release_after(Told(True))
    handle.expect_holders(leases=5, views=3, fences=2)
    leases.pop()
    with leases[0]:
        handle.expect_holders(leases=4, views=3, fences=2)
    handle.expect_holders(leases=3, views=3, fences=2)  # that one has ended with its block
    del views[0]
    handle.expect_holders(leases=3, views=3, fences=2)  # slices of it are left
    del slices[:4], arrays[0]
    handle.expect_holders(leases=3, views=2, fences=2)
    with pytest.raises(
        HeldError,
        match=r"has 3 leases, 2 views, 2 fences where 1 lease, 0 views, 0 fences were expected; it is",
    ) as error:
        handle.expect_holders(leases=1)
    assert len(error.value.holders) == 7
    leases.clear()
    views.clear()
    slices.clear()
    arrays.clear()
    handle.expect_holders(fences=2)


def test_looking_keeps_nothing_alive(manager: SafetyManager) -> None:
    """Up to 3.12 asking a frame for its locals leaves a copy of them behind, which would hold the lease that
    was looked for."""
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)

    def use() -> None:
        lease = handle.lease()
        assert "lease" in str(handle.holders())
        del lease
        handle.expect_holders(leases=0)
        view = handle.view(ADDRESS, 8)
        handle.holders()
        del view
        handle.expect_holders()

    use()
    assert handle.close()
    assert native.released == 1


def test_after_the_close_who_is_left_is_still_named(manager: SafetyManager) -> None:
    handle = manager.register(Native(), "native", release=Native.free, release_on=ANY_THREAD)
    lease = handle.lease()
    assert handle.close() is False
    assert kinds(handle) == ["lease"]
    handle.expect_holders(leases=1)
    lease.close()
    handle.expect_holders()
    assert handle.holders() == ()


def test_other_threads_are_waited_for(handle: Handle[Native]) -> None:
    go, taken = threading.Event(), threading.Event()

    def use() -> None:
        with handle.lease():
            taken.set()
            go.wait(20)

    thread = threading.Thread(target=use, name="user")
    thread.start()
    assert taken.wait(20)
    handle.expect_holders(leases=1)
    assert where(handle, "lease").startswith('lease of thread "user"')
    assert "closure" not in where(handle, "lease")  # that would be one of the library's own
    threading.Timer(0.05, go.set).start()
    handle.expect_holders(timeout=20)
    thread.join()


def test_children_and_other_handles(manager: SafetyManager, handle: Handle[Native]) -> None:
    child = manager.register(Native(), "child", release=Native.free, release_on=ANY_THREAD, parent=handle)
    share = handle.share()
    assert kinds(handle) == ["child", "share"]
    assert f"its child child (object {child.id})" in where(handle, "child")
    if sys.version_info >= (3, 11):
        assert "local 'share' of test_children_and_other_handles() at test_holders.py:" in where(
            handle, "share"
        )
    assert kinds(share) == ["child", "share"]
    share.close()
    child.close()
    assert handle.holders() == ()


# -- by name -------------------------------------------------------------------------------------------------


def test_a_frame_by_its_line(handle: Handle[Native]) -> None:
    lease = handle.lease()
    line = sys._getframe().f_lineno + 1
    (holder,) = handle.holders()
    assert isinstance(holder, Holder)
    assert any(
        name.startswith("local 'lease' of test_a_frame_by_its_line() at test_holders.py:")
        and name.endswith(f":{line}")
        for name in holder.where
    ), holder
    lease.close()


def test_a_closure(handle: Handle[Native]) -> None:
    def keeping() -> Any:
        lease = handle.lease()
        return lambda: lease

    keeper = keeping()
    assert "the closure of test_a_closure.<locals>.keeping.<locals>.<lambda>() at test_holders.py:" in where(
        handle, "lease"
    )
    keeper().close()


def test_a_traceback(handle: Handle[Native]) -> None:
    def fail() -> None:
        lease = handle.lease()
        assert lease is not None
        raise ValueError

    try:
        fail()
    except ValueError as error:
        kept = error
    assert "a kept traceback through test_a_traceback.<locals>.fail() at test_holders.py:" in where(
        handle, "lease"
    ).replace("through fail()", "through test_a_traceback.<locals>.fail()")
    kept.__traceback__ = None
    handle.expect_holders()


def test_containers_attributes_and_globals(handle: Handle[Native]) -> None:
    class Keeper:
        pass

    class Slotted:
        __slots__ = ("lease",)

    keeper, slotted = Keeper(), Slotted()
    keeper.lease = handle.lease()
    slotted.lease = handle.lease()
    deep = {"frames": [handle.lease()]}
    globals()["_kept"] = handle.lease()
    try:
        text = where(handle, "lease")
        assert "attribute 'lease' of a " in text
        assert "Keeper" in text
        assert "Slotted" in text
        assert "global '_kept' of module " in text
        assert "a list of 1" in text or "a dict of 1" in text or "'deep'" in text
        handle.expect_holders(leases=4)
    finally:
        del globals()["_kept"]
    deep.clear()
    keeper.lease = slotted.lease = None
    handle.expect_holders()


def test_a_container_that_is_a_global_of_a_program() -> None:
    # The collector does not know every module's namespace (3.13 without the GIL).
    finished = run_python(
        """
        from lifecycle import ANY_THREAD, SafetyManager

        manager = SafetyManager(name="program")
        kept = {}

        def keep(key):
            kept["image", key] = manager.register([], "image", release=list.clear, release_on=ANY_THREAD)

        for key in range(3):
            keep(key)
        (holder,) = manager.holders(1)
        print(holder)
        while kept:
            kept.popitem()[1].close()
        """
    )
    assert finished.check() == "another handle, kept by global 'kept' of module '__main__'\n"


def test_a_suspended_generator(handle: Handle[Native]) -> None:
    def frames() -> Any:
        lease = handle.lease()
        yield lease

    generator = frames()
    next(generator)
    assert "frames() at test_holders.py:" in where(handle, "lease")
    generator.close()
    handle.expect_holders()


def test_an_object_that_holds_its_own_handle(manager: SafetyManager) -> None:
    class Camera:
        def free(self) -> None:
            pass

    camera = Camera()
    handle = manager.register(camera, release=Camera.free, release_on=ANY_THREAD)
    camera.handle = {"mine": [handle]}
    assert "holds this very handle: it is never dropped, so close it" in str(handle.holders()[0])
    other = handle.share()
    assert any("the object, or its release, holds itself" in holder.what for holder in other.holders())
    other.close()
    camera.handle = None
    assert handle.holders() == ()
    handle.close()


def test_a_release_that_holds_the_handle(manager: SafetyManager) -> None:
    box: list[Any] = []
    handle = manager.register(Native(), release=lambda native: box.clear(), release_on=ANY_THREAD)
    assert handle.holders() == ()
    box.append(handle)
    assert "holds this very handle" in str(handle.holders())
    handle.close()


def test_fences_by_name(handle: Handle[Native]) -> None:
    class Shy(Told):
        def __repr__(self) -> str:
            raise ValueError

    handle.release_after(Told(True))
    handle.release_after(Shy(True))
    assert "fence <tests.sharing.test_fences.Told" in where(handle, "fence").replace(
        "<test_fences", "<tests.sharing.test_fences"
    )
    assert "fence a Shy" in where(handle, "fence")


def test_an_access_that_is_under_way(manager: SafetyManager, handle: Handle[Native]) -> None:
    with manager.safe_access(handle):
        assert kinds(handle) == ["access"]
        assert where(handle, "access").startswith('access of thread "MainThread"')
        assert "closure" not in where(handle, "access")
    assert handle.holders() == ()


def test_a_stray_reference_is_unknown(handle: Handle[Native]) -> None:
    pin = handle._cell.pin
    stray = [pin]
    pin = None
    assert kinds(handle) == ["unknown"]
    assert "a list" in str(handle.holders()[0])
    stray.clear()
    handle.expect_holders()


@pytest.mark.parametrize("wrong", [{"leases": -1}, {"views": 1.5}, {"fences": True}, {"timeout": -1}])
def test_impossible_numbers_are_refused(handle: Handle[Native], wrong: dict[str, Any]) -> None:
    with pytest.raises(LifecycleError):
        handle.expect_holders(**wrong)


def test_exact_under_threads_that_come_and_go(handle: Handle[Native]) -> None:
    kept = [handle.lease() for _ in range(3)]
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with handle.lease():
                view = handle.view(ADDRESS, 8)
                time.sleep(0.0005)
                del view

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        found = [holder.kind for holder in all_holders(handle._record, handle, named=False)]
        assert 3 <= found.count("lease") <= 6, found
        assert found.count("view") <= 3, found
    stop.set()
    for thread in threads:
        thread.join()
    gc.collect()
    handle.expect_holders(leases=3, timeout=20)
    kept.clear()
    handle.expect_holders(timeout=20)


def test_a_debugger_that_asks_who_holds_an_object_leaves_the_variables_alone(handle: Handle[Native]) -> None:
    """Up to 3.12 CPython writes a frame's copy of its locals back after each call of a trace function."""
    asked: list[str] = []

    def debugged() -> tuple[int, str]:
        number = 1
        name = "kept"
        with handle.lease():
            number += 1
        return number, name

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code is debugged.__code__:
            asked.extend(kinds(handle))
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        told = debugged()
    finally:
        sys.settrace(before)
    assert told == (2, "kept")
    assert "lease" in asked
