"""Exclusive access: one at a time, nothing beside it (I1, I2), and nothing stands still for it (I5)."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessRefusedError,
    Handle,
    HeldError,
    LifecycleError,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle.errors import ExclusiveError, LeaseEndedError
from lifecycle.testing.interrupts import TRACING_COPIES_LOCALS
from tests.core.adversary import (
    STORM,
    assert_nothing_left,
    at_once,
    each_interrupt,
    every_line,
    switching,
)
from tests.support import eventually


class Counter:
    def __init__(self) -> None:
        self.value = 0
        self.inside = 0


@pytest.fixture
def manager() -> Iterator[SafetyManager]:
    with SafetyManager(SafetyConfig(leak_level="off")) as made:
        yield made
        assert_nothing_left(made)


@pytest.fixture
def handle(manager: SafetyManager) -> Iterator[Handle[Counter]]:
    with manager.register(Counter(), "counter", release=lambda _: None, release_on=ANY_THREAD) as made:
        yield made


def test_the_block_has_the_object_alone_and_gives_it_back(handle: Handle[Counter]) -> None:
    with handle.exclusive() as counter:
        counter.value += 1
        assert handle.valid
        assert handle.state == "valid"
    with handle.lease() as counter:
        assert counter.value == 1


@pytest.mark.parametrize("by", ["lease", "safe_access", "by id", "block", "view", "parent"])
def test_every_access_beside_it_is_refused_and_counted(
    manager: SafetyManager, handle: Handle[Counter], by: str
) -> None:
    def access() -> object:
        if by == "lease":
            return handle.lease()
        if by == "safe_access":
            return manager.safe_access(handle, lambda counter: counter)
        if by == "by id":
            return manager.safe_access(handle.id, lambda counter: counter)
        if by == "block":
            return manager.safe_access(handle)
        if by == "view":
            return handle.view(0x1000, 1)
        return manager.register(object(), "child", parent=handle)

    access_from_elsewhere: deque[BaseException] = deque()

    def elsewhere() -> None:
        try:
            access()
        except ExclusiveError as error:
            access_from_elsewhere.append(error)

    with handle.exclusive():
        with pytest.raises(ExclusiveError, match="in exclusive use by this thread itself"):
            access()
        at_once(elsewhere)
        assert '"MainThread"' in str(access_from_elsewhere.pop())
    assert manager.stats().types["counter"].refused["valid"] == 2
    assert manager.stats().panics == 0
    if by not in ("view", "parent"):
        access()


def test_shares_weak_handles_and_closing_go_on_meanwhile(manager: SafetyManager) -> None:
    released: deque[Counter] = deque()
    handle = manager.register(Counter(), "counter", release=released.append, release_on=ANY_THREAD)
    weak = handle.weak()
    with handle.exclusive() as counter:
        share = handle.share()
        assert weak() is not None
        assert share.close() is False
        assert handle.close() is False
        assert handle.state == "closing"
        counter.value = 1
        assert not released, "released under its only user"
    eventually(lambda: released)


def test_it_waits_for_a_lease_and_the_lease_can_wait_for_it(handle: Handle[Counter]) -> None:
    leased, go = threading.Event(), threading.Event()
    order: deque[str] = deque()

    def reader() -> None:
        with handle.lease():
            leased.set()
            go.wait(20)
            order.append("lease over")

    def writer() -> None:
        leased.wait(20)
        threading.Timer(0.05, go.set).start()
        with handle.exclusive(timeout=20):
            order.append("exclusive")
            late.start()
            eventually(lambda: handle._record.extra.turns)  # type: ignore[union-attr]
            order.append("exclusive over")

    def later() -> None:
        with handle.lease(timeout=20):
            order.append("lease after")

    late = threading.Thread(target=later)
    at_once(reader, writer)
    late.join(20)
    assert list(order) == ["lease over", "exclusive", "exclusive over", "lease after"]


def test_waiting_for_itself_is_an_error_not_a_deadlock(
    manager: SafetyManager, handle: Handle[Counter]
) -> None:
    with handle.exclusive(), pytest.raises(ExclusiveError, match="would wait for itself"):
        handle.exclusive(timeout=None).__enter__()
    with handle.lease(), pytest.raises(ExclusiveError, match="this thread holds a lease"):
        handle.exclusive(timeout=None).__enter__()
    with manager.safe_access(handle), pytest.raises(ExclusiveError, match="this thread holds a lease"):
        handle.exclusive(timeout=None).__enter__()
    with handle.exclusive() as counter:
        assert counter.value == 0


def test_the_time_is_over(handle: Handle[Counter]) -> None:
    memory = bytearray(8)
    address = __import__("ctypes").addressof(__import__("ctypes").c_char.from_buffer(memory))
    view = handle.view(address, 8)
    with pytest.raises(HeldError, match="is held by view") as raised:
        handle.exclusive(timeout=0.02).__enter__()
    assert raised.value.holders[0].startswith("view made at test_exclusive.py")
    del view
    with handle.exclusive(timeout=0):
        pass


def test_who_may_not_wait_is_told_at_once(handle: Handle[Counter]) -> None:
    inside, go = threading.Event(), threading.Event()

    def writer() -> None:
        with handle.exclusive():
            inside.set()
            go.wait(20)

    def streaming() -> None:
        inside.wait(20)
        try:
            with never_wait():
                with pytest.raises(HeldError, match="an exclusive access of thread"):
                    handle.exclusive(timeout=None).__enter__()
                with pytest.raises(ExclusiveError):
                    handle.lease(timeout=None)
        finally:
            go.set()

    at_once(writer, streaming)


def test_once_only_and_not_after_the_end(manager: SafetyManager, handle: Handle[Counter]) -> None:
    exclusive = handle.exclusive()
    with exclusive:
        pass
    with pytest.raises(LeaseEndedError, match="used already"):
        exclusive.__enter__()
    never = handle.exclusive()
    never.close()
    with pytest.raises(LeaseEndedError):
        never.__enter__()
    unentered = handle.exclusive()
    handle.close()
    with pytest.raises(AccessRefusedError, match="released"):
        unentered.__enter__()
    with pytest.raises(AccessRefusedError):
        handle.exclusive()
    with pytest.raises(LifecycleError, match="timeout="):
        handle.exclusive(timeout=-1)


def test_exceptions_pass_and_change_nothing(handle: Handle[Counter]) -> None:
    with pytest.raises(ZeroDivisionError), handle.exclusive():
        raise ZeroDivisionError
    with handle.exclusive() as counter:
        assert counter.value == 0


def test_a_validator_is_asked(manager: SafetyManager) -> None:
    manager.policy("checked", validate=lambda counter: counter.value == 0)
    handle = manager.register(Counter(), "checked", release=lambda _: None, release_on=ANY_THREAD)
    with handle.exclusive() as counter:
        counter.value = 1
    with pytest.raises(AccessRefusedError, match="its validator refused it"):
        handle.exclusive().__enter__()
    assert handle.state in ("invalid", "due", "released")
    handle.close()


def test_a_block_that_dies_without_its_end_frees_the_turn(handle: Handle[Counter]) -> None:
    """What CPython 3.14 may do to any ``__exit__``, and an interrupt at its entry on every version."""
    for after in (handle.lease, lambda: handle.exclusive().__enter__()):
        abandoned = handle.exclusive()
        abandoned.__enter__()
        del abandoned
        gc.collect()
        after()  # type: ignore[operator]
        gc.collect()


@pytest.mark.skipif(
    TRACING_COPIES_LOCALS, reason="on 3.10 tracing itself holds what exclusive access counts the holders of"
)
@pytest.mark.parametrize("beside", ["nothing", "a lease"])
def test_interrupted_anywhere_the_turn_is_free_again(handle: Handle[Counter], beside: str) -> None:
    def run() -> None:
        try:
            with handle.exclusive(timeout=0) as counter:
                counter.value += 1
        except ExclusiveError:
            assert holder is not None

    holder = handle.lease() if beside == "a lease" else None
    for struck in each_interrupt(run):
        if struck.error is not None:
            assert isinstance(struck.error, (KeyboardInterrupt, ExclusiveError)), (struck.place, struck.error)
            chained: BaseException | None = struck.error
            while chained is not None:  # tracebacks may keep a block alive that never came to its end
                chained.__traceback__ = None
                chained = chained.__context__
        if holder is None:
            with handle.exclusive(timeout=5), pytest.raises(ExclusiveError):
                handle.lease()
        with handle.lease():
            pass
    holder = None


@pytest.mark.skipif(
    TRACING_COPIES_LOCALS, reason="on 3.10 tracing itself holds what exclusive access counts the holders of"
)
def test_the_collector_at_every_line(handle: Handle[Counter]) -> None:
    def run() -> None:
        with handle.exclusive() as counter:
            counter.value += 1
        with handle.lease(timeout=1):
            pass

    run()
    with every_line(lambda: gc.collect(1)):
        run()


def test_a_storm_of_readers_and_writers(manager: SafetyManager) -> None:
    """A writer never sees a reader or another writer inside; a reader never a writer."""
    rounds = int(400 * STORM)
    wrong: deque[str] = deque()
    done: deque[str] = deque()
    handle: Handle[Any] = manager.register(
        Counter(), "counter", release=lambda _: None, release_on=ANY_THREAD
    )
    reading: deque[int] = deque()

    def write() -> None:
        for _ in range(rounds):
            with handle.exclusive(timeout=60) as counter:
                counter.inside += 1
                if counter.inside != 1 or reading:
                    wrong.append("a writer was not alone")
                counter.value += 1
                counter.inside -= 1
                done.append("write")

    def read() -> None:
        for _ in range(rounds):
            with handle.lease(timeout=60) as counter:
                reading.append(1)
                if counter.inside:
                    wrong.append("a reader beside a writer")
                reading.pop()
                done.append("read")

    def shares() -> None:
        for _ in range(rounds):
            handle.share().close()

    with switching():
        at_once(write, write, read, read, shares)
    assert not wrong
    assert handle._record.obj.value == 2 * rounds
    assert len(done) == 4 * rounds
    assert handle.close()


def test_close_against_exclusive(manager: SafetyManager) -> None:
    """I1, I2 with the door falling shut at any moment: no access after, no release during."""
    rounds = int(80 * STORM)
    wrong: deque[str] = deque()
    for _ in range(rounds):
        counter = Counter()

        def release(it: Counter) -> None:
            if it.inside:
                wrong.append("released under its user")
            it.value = -1

        handle = manager.register(counter, "counter", release=release, release_on=ANY_THREAD)

        def use(handle: Handle[Counter] = handle) -> None:
            try:
                with handle.exclusive(timeout=20) as it:
                    it.inside = 1
                    if it.value == -1:
                        wrong.append("access after release")
                    it.inside = 0
            except AccessRefusedError:
                return

        with switching():
            at_once(use, handle.close)
        handle.close()
    assert not wrong
