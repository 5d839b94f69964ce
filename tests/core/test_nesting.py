"""I5, I6 when releases meet each other: finalizers that close, register, wait and ask; families of any depth;
cleanups that touch what is being cleaned. Nothing recurses, nothing waits for itself, and one that fails
changes the fate of no other."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    LifecycleError,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from tests.core.adversary import STORM, assert_nothing_left, at_once, in_own_process
from tests.support import SOON, eventually

QUIET = SafetyConfig(leak_level="off", finalizer_timeout=60.0, shutdown_timeout=60.0, max_finalizer_retries=3)
PLACES = ["any_thread", "background", "queue"]
MIXED = [(first, second) for first in PLACES for second in PLACES]


class Node:
    def __init__(self, name: Any = "") -> None:
        self.name = name


def places() -> dict[str, Any]:
    return {
        "any_thread": ANY_THREAD,
        "background": BACKGROUND,
        "queue": ReleaseQueue("owned", thread="current"),
    }


def settle(manager: SafetyManager, queue: ReleaseQueue) -> None:
    """Run what waits, until nothing is left."""

    def over() -> bool:
        queue.drain()
        for _ in range(100):  # each runs a few of those that wait
            manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        return manager.stats().active_objects == 0

    eventually(over, progress=lambda: manager.stats().active_objects)
    assert_nothing_left(manager)


# -- finalizers that close others ----------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), MIXED)
def test_a_release_closes_another_handle(first: str, second: str) -> None:
    where = places()
    order: deque[str] = deque()
    with SafetyManager(QUIET) as manager:
        inner = manager.register(
            Node("inner"), "node", release=lambda node: order.append("inner"), release_on=where[second]
        )

        def release(node: Node) -> None:
            inner.close()
            order.append("outer")

        outer = manager.register(Node("outer"), "node", release=release, release_on=where[first])
        outer.close()
        settle(manager, where["queue"])
        assert sorted(order) == ["inner", "outer"]


@pytest.mark.parametrize(("first", "second"), MIXED)
def test_two_releases_that_close_each_other(first: str, second: str) -> None:
    where = places()
    released: deque[str] = deque()
    with SafetyManager(QUIET) as manager:
        handles: dict[str, Handle[Node]] = {}

        def release(node: Node) -> None:
            other = handles["b" if node.name == "a" else "a"]
            assert other.close() in (True, False)
            handles[node.name].close()
            released.append(node.name)

        handles["a"] = manager.register(Node("a"), "node", release=release, release_on=where[first])
        handles["b"] = manager.register(Node("b"), "node", release=release, release_on=where[second])
        began = time.monotonic()
        handles["a"].close()
        settle(manager, where["queue"])
        assert sorted(released) == ["a", "b"]
        assert time.monotonic() - began < SOON, "they waited for each other"


def test_two_threads_whose_releases_close_each_other() -> None:
    """Each is inside the release that the other one would wait for."""
    with SafetyManager(QUIET) as manager:
        handles: dict[str, Handle[Node]] = {}
        inside = threading.Barrier(2)
        answers: deque[bool] = deque()

        def release(node: Node) -> None:
            inside.wait(20)
            answers.append(handles["b" if node.name == "a" else "a"].close())

        for name in "ab":
            handles[name] = manager.register(Node(name), "node", release=release, release_on=ANY_THREAD)
        began = time.monotonic()
        at_once(handles["a"].close, handles["b"].close)
        assert time.monotonic() - began < SOON
        assert len(answers) == 2
        assert_nothing_left(manager)


def test_timed_releases_that_close_each_other_in_a_ring() -> None:
    """More of them than workers: whoever handed one to another worker and waited would wait for ever."""
    number = 12
    released: deque[int] = deque()
    with SafetyManager(QUIET) as manager:
        handles: list[Handle[Node]] = []

        def release(node: Node) -> None:
            handles[(node.name + 1) % number].close()
            released.append(node.name)

        for name in range(number):
            handles.append(manager.register(Node(name), "node", release=release))
        began = time.monotonic()
        at_once(*(handle.close for handle in handles[::3]))
        eventually(lambda: len(released) == number)
        assert time.monotonic() - began < SOON
        assert sorted(released) == list(range(number))
        assert manager.stats().stuck == 0
        assert_nothing_left(manager)


@pytest.mark.parametrize("place", PLACES)
def test_a_chain_of_releases_each_closing_the_next(place: str) -> None:
    number = int(2000 * STORM)
    where = places()
    released: deque[int] = deque()
    with SafetyManager(QUIET) as manager:
        handles: list[Handle[Node]] = []

        def release(node: Node) -> None:
            released.append(node.name)
            if node.name + 1 < number:
                handles[node.name + 1].close()

        for name in range(number):
            handles.append(manager.register(Node(name), "node", release=release, release_on=where[place]))
        handles[0].close()
        settle(manager, where["queue"])
        stats = manager.stats()
        assert stats.failed == stats.stuck == 0, "the chain became a recursion"
        assert sorted(released) == list(range(number))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("does", ["closes", "drops", "registers", "closes what it registers"])
def test_many_at_once_whose_releases_use_the_manager(place: str, does: str) -> None:
    """2 000 are dropped at a time, and each release takes part in running the rest: it must not do so inside
    itself."""
    number = int(2000 * STORM)
    where = places()
    outer: deque[Node] = deque()
    inner: deque[Node] = deque()
    with SafetyManager(QUIET) as manager:
        inners: list[Handle[Node]] = []

        def release(node: Node) -> None:
            if does == "closes":
                inners.pop().close()
            elif does == "drops":
                inners.pop()
            else:
                made = manager.register(Node(), "inner", release=inner.append, release_on=where[place])
                if does == "registers":
                    inners.append(made)
                else:
                    made.close()
            outer.append(node)  # last: who sees all of them there sees all that they did

        handles = [
            manager.register(Node(), "outer", release=release, release_on=where[place]) for _ in range(number)
        ]
        if does in ("closes", "drops"):
            inners.extend(
                manager.register(Node(), "inner", release=inner.append, release_on=where[place])
                for _ in range(number)
            )
        handles.clear()
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        eventually(
            lambda: (where["queue"].drain(), len(outer))[1] == number,
            progress=lambda: len(outer),
        )
        inners.clear()
        settle(manager, where["queue"])
        stats = manager.stats()
        assert stats.failed == stats.stuck == 0
        assert len(inner) == len(set(map(id, inner))) == number


def test_a_release_may_do_anything_to_its_own_object() -> None:
    with SafetyManager(QUIET) as manager:
        answers: dict[str, object] = {}
        refusals: list[str] = []

        def refused(action: Callable[[], object]) -> None:
            try:
                action()
            except AccessRefusedError as error:
                refusals.append(str(error))

        def release(node: Node) -> None:
            answers["state"] = str(handle.state)
            answers["valid"] = handle.valid or manager.is_valid(handle.id)
            answers["weak"] = weak()
            answers["close"] = handle.close()
            answers["close for ever"] = handle.close(timeout=0)
            answers["unregister"] = manager.unregister(handle.id)
            answers["invalidate"] = manager.invalidate(handle, "late")
            answers["live"] = manager.stats().types["node"].live
            refused(handle.lease)
            refused(handle.share)
            refused(lambda: handle.view(1, 1))
            refused(lambda: manager.safe_access(handle, repr))
            refused(lambda: manager.safe_access(handle.id, repr))
            refused(lambda: manager.add_cleanup(handle, repr))
            refused(lambda: manager.register(Node(), "child", parent=handle))

        for place in (ANY_THREAD, BACKGROUND):
            answers.clear()
            refusals.clear()
            handle = manager.register(Node(), "node", release=release, release_on=place)
            weak = handle.weak()
            began = time.monotonic()
            assert handle.close() is True
            assert time.monotonic() - began < SOON
            assert len(refusals) == 7
            assert all(f"object {handle.id}" in text and "releasing" in text for text in refusals), refusals
            assert answers == {
                "state": "releasing",
                "valid": False,
                "weak": None,
                "close": False,
                "close for ever": False,
                "unregister": False,
                "invalidate": False,
                "live": 1,
            }
        assert_nothing_left(manager)


def test_cleanups_touch_what_is_being_cleaned() -> None:
    with SafetyManager(QUIET) as manager:
        order: list[str] = []
        refusals: list[LifecycleError] = []

        def first() -> None:
            order.append("first added")
            handle.close()
            manager.unregister(handle.id, timeout=0)

        def second() -> None:
            order.append("second added")
            try:
                manager.add_cleanup(handle, first)
            except AccessRefusedError as error:
                refusals.append(error)
            raise ZeroDivisionError

        for place in (ANY_THREAD, BACKGROUND):
            order.clear()
            handle = manager.register(
                Node(), "node", release=lambda node: order.append("release"), release_on=place
            )
            manager.add_cleanup(handle, first)
            manager.add_cleanup(handle, second)
            assert handle.close() is True
            assert order == ["second added", "first added", "release"]
        assert len(refusals) == 2
        assert manager.stats().released == 2
        assert manager.stats().finalizer_failures == 2
        assert_nothing_left(manager)


@pytest.mark.parametrize("place", PLACES)
def test_a_release_that_closes_the_manager(place: str) -> None:
    where = places()
    released: deque[str] = deque()
    manager = SafetyManager(QUIET)
    others = [
        manager.register(Node(), "other", release=lambda node: released.append("other"), release_on=here)
        for here in where.values()
    ]

    def release(node: Node) -> None:
        manager.close()
        released.append("closer")

    began = time.monotonic()
    manager.register(Node(), "node", release=release, release_on=where[place]).close()
    where["queue"].drain()
    manager.close()
    where["queue"].drain()
    eventually(lambda: len(released) == 4)
    assert time.monotonic() - began < SOON
    assert_nothing_left(manager)
    assert all(not other.valid for other in others)


def test_one_that_fails_changes_nothing_for_the_rest() -> None:
    """I6, for everything a release can raise."""

    class Panic(BaseException):
        pass

    released: deque[Node] = deque()
    raised = [
        ZeroDivisionError(),
        Panic("x"),
        SystemExit(3),
        GeneratorExit(),
        NotReleased("never"),
        MemoryError(),
    ]
    with SafetyManager(QUIET) as manager:
        where = places()
        for name, place in where.items():
            for error in raised:

                def fail(node: Node, error: BaseException = error) -> None:
                    raise error

                parent = manager.register(Node(), "parent", release=released.append, release_on=place)
                handle = manager.register(
                    Node(), f"bad {name}", release=fail, release_on=place, parent=parent
                )
                good = manager.register(Node(), "good", release=released.append, release_on=place)
                handle.close(timeout=0)
                parent.close(timeout=0)
                good.close(timeout=0)
        settle(manager, where["queue"])
        stats = manager.stats()
        for name in where:
            assert stats.types[f"bad {name}"].ended["failed"] == len(raised)
            assert stats.types[f"bad {name}"].retries == 3
        assert len(released) == stats.released - stats.types["flush"].ended["released"] == 2 * 3 * len(raised)


# -- families ------------------------------------------------------------------------------------------------


def a_long_family(number: int, how: str, place: str) -> None:
    """`number` objects, each the parent of the next: the last is released first, the first last, and nothing
    recurses."""
    sys.setrecursionlimit(400)
    released: deque[int] = deque()
    where = places()
    manager = SafetyManager(QUIET)
    family: list[Handle[Node]] = []
    for generation in range(number):
        family.append(
            manager.register(
                Node(generation),
                "node",
                release=lambda node: released.append(node.name),
                release_on=where[place],
                parent=family[-1] if family else None,
            )
        )
    if how == "parents close first":
        for handle in family:
            handle.close(timeout=0)
    elif how == "children close first":
        while family:
            family.pop().close(timeout=0)
    elif how == "dropped":
        family.clear()
    elif how == "dropped in a cycle":
        family.append(family)  # type: ignore[arg-type]
        family = []
        gc.collect()
    elif how == "unregistered":
        for handle in family:
            manager.unregister(handle, timeout=0)
    else:
        report = manager.close()
        assert report.released == number, report
    if how != "the manager closes":
        settle(manager, where["queue"])
        assert manager.stats().types["node"].ended["released"] == number
        manager.close()
    assert list(released) == list(range(number - 1, -1, -1)), "children before their parents"


@pytest.mark.parametrize("how", ["parents close first", "dropped"])
def test_100_000_nested_parents(how: str) -> None:
    in_own_process(a_long_family, 100_000, how, "any_thread", timeout=90)


@pytest.mark.parametrize(
    "how", ["children close first", "dropped in a cycle", "unregistered", "the manager closes"]
)
def test_10_000_nested_parents(how: str) -> None:
    in_own_process(a_long_family, 10_000, how, "any_thread", timeout=90)


@pytest.mark.parametrize("how", ["parents close first", "dropped", "the manager closes"])
@pytest.mark.parametrize("place", ["background", "queue"])
def test_nested_parents_at_other_places(how: str, place: str) -> None:
    in_own_process(a_long_family, 3_000, how, place, timeout=90)


def test_a_parent_waits_for_a_child_at_another_place() -> None:
    order: list[str] = []
    with SafetyManager(QUIET) as manager:
        queue = ReleaseQueue("owned", thread="current")
        parent = manager.register(
            Node(), "parent", release=lambda node: order.append("parent"), release_on=ANY_THREAD
        )
        child = manager.register(
            Node(), "child", release=lambda node: order.append("child"), release_on=queue, parent=parent
        )
        at_once(lambda: parent.close(), lambda: child.close())
        eventually(lambda: queue.backlog == 1)
        assert order == []
        assert parent.state == "closing"
        assert queue.drain() == 1
        settle(manager, queue)
        assert order == ["child", "parent"]


def test_a_lost_queue_frees_no_parent_under_a_view() -> None:
    """A child that is orphaned while somebody still reads it: its memory is its parent's, and that stays
    (I2)."""
    buffer = bytearray(b"x" * 64)
    address = ctypes.addressof((ctypes.c_char * 64).from_buffer(buffer))
    order: list[str] = []
    with SafetyManager(QUIET) as manager:
        queue = ReleaseQueue("context")
        parent = manager.register(
            Node(), "parent", release=lambda node: order.append("parent"), release_on=ANY_THREAD
        )
        child = manager.register(
            Node("child"),
            "child",
            release=lambda node: order.append("child"),
            release_on=queue,
            parent=parent,
        )
        view = child.view(address, 64)
        lease = child.lease()
        parent.close()
        assert queue.lost("the context died") == 1
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        assert order == []
        assert view[0] == ord("x")
        with lease as node:
            assert node.name == "child"
        del node
        assert order == []
        del view, lease
        child.close()
        eventually(lambda: (queue.drain(), manager.stats(), order == ["parent"])[2])
        assert_nothing_left(manager)
        assert manager.stats().orphaned == 1


def test_a_stuck_child_keeps_its_parent() -> None:
    go_on = threading.Event()
    order: list[str] = []
    with SafetyManager(SafetyConfig(finalizer_timeout=0.05, leak_level="off")) as manager:
        parent = manager.register(
            Node(), "parent", release=lambda node: order.append("parent"), release_on=ANY_THREAD
        )
        node = Node()
        child = manager.register(node, "child", release=lambda node: go_on.wait(10), native=7, parent=parent)
        assert child.close() is False
        assert child.state == "stuck"
        parent.close(timeout=0)
        manager.register(Node(), "flush", release_on=ANY_THREAD).close()
        assert order == []
        with pytest.raises(
            LifecycleError, match=r"is owned by child \(.*is not known\.$"
        ):  # its first release still runs
            manager.register(node, "child", release=repr)
        with pytest.raises(LifecycleError, match="native 0x7 is owned by child"):
            manager.register(Node(), "child", release=repr, native=7)
        go_on.set()
        eventually(lambda: order == ["parent"])
        eventually(lambda: child.state == "released")
        manager.register(node, "child", release=repr, native=7).close()
        assert_nothing_left(manager)


def test_stuck_workers_hold_up_no_inline_release() -> None:
    """I6: what never was theirs runs on the next register or close, even when every worker that may exist
    hangs."""
    go_on = threading.Event()
    released: deque[Node] = deque()
    config = SafetyConfig(
        finalizer_timeout=0.05, max_stuck_finalizers=1, leak_level="off", shutdown_timeout=0.5
    )
    manager = SafetyManager(config)
    for _ in range(6):
        manager.register(Node(), "hangs", release=lambda node: go_on.wait(20)).close(timeout=0)
    eventually(lambda: manager.health().quarantined)
    dropped = [
        manager.register(Node(), "inline", release=released.append, release_on=ANY_THREAD) for _ in range(10)
    ]
    dropped.clear()
    time.sleep(0.3)  # long enough for the keeper to have taken them, had it wanted to
    manager.register(Node(), "inline", release=released.append, release_on=ANY_THREAD).close()
    assert len(released) == 11
    go_on.set()
    eventually(lambda: manager.stats().active_objects == 0)
    manager.close()
