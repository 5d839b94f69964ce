"""`assert_no_leaks`: it finds each kind of leftover and says where it was made, and finds nothing where
nothing is."""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import ANY_THREAD, Handle, ReleaseQueue, SafetyConfig, SafetyManager
from lifecycle.observe import leaks as keeper_leaks
from lifecycle.testing import LeaksFound, Leftovers, assert_no_leaks


class Native:
    """Stands for one."""


def free(native: Native) -> None:
    """A release."""


def line() -> str:
    """``test_leaks.py:31``, of the caller's next line."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return f"test_leaks.py:{frame.f_back.f_lineno + 1}"


def leftovers(action: Callable[[], object], *managers: SafetyManager, **options: Any) -> Leftovers:
    """What `action` leaves behind; what it returns is kept while that is looked at."""
    with pytest.raises(LeaksFound) as caught:
        with assert_no_leaks(*managers, timeout=0.1, **options):
            kept = action()
    del kept
    return caught.value.left


def test_nothing_left_is_nothing_found(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl", thread="current")
    with assert_no_leaks(timeout=20):
        with manager.register(Native(), release=free) as handle:
            with handle.lease():
                pass
            handle.share().close()
        manager.register(Native(), release=free, release_on=queue).close()
        manager.register(Native(), release=free, release_on=ANY_THREAD).close()
        thread = threading.Thread(target=int)
        thread.start()
        with SafetyManager(name="inner") as inner:
            inner.register(Native(), release=free).close(timeout=0)  # its release may still be running


def test_an_object(manager: SafetyManager) -> None:
    at: list[str] = []

    def leave() -> Handle[Native]:
        at.append(line())
        return manager.register(Native(), "camera.Frame", name="seventh", release=free)

    left = leftovers(leave)
    (found,) = left.objects
    assert 'camera.Frame "seventh"' in found
    assert "valid" in found
    assert f"made at {at[0]}" in found
    assert left == Leftovers(objects=left.objects)


def test_every_object_says_where_it_was_made(manager: SafetyManager) -> None:
    """Not only the first of its type, nor one in 64, and also where the configuration wants none."""
    with SafetyManager(SafetyConfig(leak_level="off"), name="quiet") as quiet:
        quiet.register(Native(), "known before", release=free).close()
        for where in (manager, quiet):

            def leave(where: SafetyManager = where) -> list[Handle[Native]]:
                return [where.register(Native(), "known before", release=free) for _ in range(100)]

            left = leftovers(leave)
            assert len(left.objects) == 100
            assert all("made at test_leaks.py:" in found for found in left.objects)
        before = dict(keeper_leaks.SITES)
        handle = quiet.register(Native(), "known before", release=free)
        assert handle._record.site is None
        handle.close()
        assert before == keeper_leaks.SITES == {**before, "off": (-1, 0)}


def test_a_lease_and_a_view(manager: SafetyManager) -> None:
    memory = bytearray(10)
    handle = manager.register(Native(), "frame", release=free)  # before the block: of no interest
    old = handle.lease()
    at: list[str] = []

    def leave() -> object:
        mine = manager.register(Native(), "frame", release=free)
        at.append(line())
        lease = mine.lease()
        at.append(line())
        view = mine.view(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 10)[2:4]
        mine.close()
        return lease, view

    left = leftovers(leave)
    (lease,) = left.leases
    assert lease.endswith(f"taken at {at[0]}")
    (found,) = left.objects
    assert "closing" in found
    assert found.endswith(f'held by lease of thread "MainThread", view made at {at[1]}')
    old.close()
    handle.close()


def test_a_ticket(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    left = leftovers(lambda: manager.register(Native(), "tex", release=free, release_on=queue).close())
    (found,) = left.tickets
    assert "due" in found
    assert "queue 'gl' must be drained" in found
    assert not left.objects
    assert queue.drain() == 1


def test_a_thread() -> None:
    stop = threading.Event()
    at: list[str] = []

    def leave() -> None:
        thread = threading.Thread(target=stop.wait, name="forgotten")
        at.append(line())
        thread.start()

    left = leftovers(leave)
    stop.set()
    (found,) = left.threads
    assert found.startswith(f"'forgotten', started at {at[0]}, now at threading.py:")
    stop.clear()
    with assert_no_leaks(threads=False):
        leave()
    stop.set()


def test_a_manager_that_was_not_closed() -> None:
    made: list[SafetyManager] = []
    at: list[str] = []

    def leave() -> None:
        at.append(line())
        made.append(SafetyManager(name="forgotten"))
        made[0].register(Native(), release=free).close()

    left = leftovers(leave)
    (found,) = left.threads
    assert found.endswith(f"of manager 'forgotten', never closed, made at {at[0]}")
    made[0].close()


def test_a_manager_from_before_starts_its_threads_inside() -> None:
    with SafetyManager() as manager:
        with assert_no_leaks():
            manager.register(Native(), release=free).close()


def test_a_handle_that_was_dropped(manager: SafetyManager) -> None:
    def leave() -> None:
        manager.register(Native(), "dropped", release=free, release_on=ANY_THREAD)
        manager.register(Native(), "borrowed")

    (found,) = leftovers(leave).dropped
    assert found.startswith("dropped (object ")
    with assert_no_leaks(dropped=False, timeout=20):
        leave()


def test_what_is_stuck_or_failed(manager: SafetyManager) -> None:
    go_on = threading.Event()

    def fail(native: Native) -> None:
        raise ZeroDivisionError

    with SafetyManager(SafetyConfig(finalizer_timeout=0.1)) as impatient:

        def leave() -> None:
            impatient.register(Native(), "hangs", release=lambda native: go_on.wait(20)).close()
            impatient.register(Native(), "fails", release=fail).close()

        left = leftovers(leave, impatient)
        go_on.set()
    assert ["stuck" in left.objects[0], "failed" in left.objects[1]] == [True, True]


def test_of_one_manager_only(manager: SafetyManager) -> None:
    kept = []
    with SafetyManager() as other, assert_no_leaks(manager):
        kept.append(other.register(Native(), release=free))
    with pytest.raises(TypeError, match="SafetyManager"):
        assert_no_leaks("default")  # type: ignore[arg-type]


def test_what_is_ignored(manager: SafetyManager) -> None:
    stop = threading.Event()
    with assert_no_leaks() as block:
        handle = manager.register(Native(), release=free)
        block.ignore(handle)
        thread = threading.Thread(target=stop.wait)
        thread.start()
        block.ignore(thread)
        inner = SafetyManager()
        other = inner.register(Native(), release=free)
        block.ignore(inner)
        with pytest.raises(TypeError, match="handles, threads and managers"):
            block.ignore("handle")  # type: ignore[arg-type]
    stop.set()
    handle.close()
    other.close()
    inner.close()


def test_an_exception_of_the_block_passes(manager: SafetyManager) -> None:
    handles = []
    with pytest.raises(ZeroDivisionError):
        with assert_no_leaks():
            handles.append(manager.register(Native(), release=free))
            raise ZeroDivisionError
    handles[0].close()
    assert "noting" not in repr(Handle.lease), "the methods are their old selves"


def test_as_a_decorator_and_nested(manager: SafetyManager) -> None:
    kept: list[Handle[Native]] = []

    @assert_no_leaks(timeout=0.1)
    def leave() -> None:
        kept.append(manager.register(Native(), release=free))

    with assert_no_leaks(timeout=0.1):
        for _ in range(2):
            with pytest.raises(LeaksFound):
                leave()
            kept.pop().close()


def test_releases_that_are_slow_are_waited_for(manager: SafetyManager) -> None:
    slow = threading.Event()

    def release(native: Native) -> None:
        slow.wait(0.2)

    with assert_no_leaks(timeout=20):
        manager.register(Native(), release=release).close(timeout=0)


def test_a_leftover_says_all_in_its_message(manager: SafetyManager) -> None:
    handles = []
    with pytest.raises(
        LeaksFound,
        match=r"left behind: .*\(object \d+.* \(and 1 more\)\nobjects \(2\):\n  .*\(object \d+.*\n  .*\(object \d+",
    ) as caught:
        with assert_no_leaks(timeout=0.0):
            handles += [manager.register(Native(), release=free) for _ in range(2)]
    assert isinstance(caught.value, AssertionError)
    for handle in handles:
        handle.close()
