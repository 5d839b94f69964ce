"""I1–I4 in every order in which two, three or four short operations on one object may follow each other, line
by line.

Each run has a fresh object; every operation looks, as it goes, at what must never be seen, and after the run
the object must have been released once and nothing may be left in any table.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    Cause,
    Handle,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import (
    describe,
    doors,
    exclusive,
    leases,
    place,
    runtime,
    shares,
    tables,
    targets,
)
from lifecycle._core import ends as waiting
from lifecycle._core import handle as handle_module
from lifecycle._core import record as cell_module
from lifecycle._core import release as releases
from lifecycle.errors import ExclusiveError
from lifecycle.manager import (
    access,
)
from lifecycle.manager import manager as manager_module
from lifecycle.places import (
    queues,
)
from lifecycle.testing import Interleaving, code_of, interleavings
from tests.core.adversary import STORM
from tests.support import eventually

CONFIG = SafetyConfig(leak_level="off", max_retained=10, finalizer_timeout=60.0)
CORE = code_of(
    cell_module,
    describe,
    doors,
    shares,
    tables,
    handle_module,
    leases,
    releases,
    waiting,
    place,
    queues,
    access,
    exclusive,
    manager_module,
    targets,
)
REFUSED = (AccessRefusedError, ExclusiveError)


class Object:
    """A native, and all that is known of it from outside."""

    def __init__(self) -> None:
        self.memory = bytearray(b"x" * 16)
        self.users = 0
        self.released = 0
        self.shut = False  # somebody was told that no access starts any more
        self.wrong: list[str] = []

    def free(self) -> None:
        """The release."""
        if self.users:
            self.wrong.append("I2: released while in use")
        if runtime.in_collector():
            self.wrong.append("I4: released inside the collector")
        self.released += 1
        self.memory[:] = b"?" * 16

    def address(self) -> int:
        return ctypes.addressof((ctypes.c_char * 16).from_buffer(self.memory))

    @contextlib.contextmanager
    def used(self, shut_before: bool, look: Callable[[], object]) -> Iterator[None]:
        """Somebody was let in who asked when it was (not) shut; `look` is library code, so that others come
        in between."""
        if shut_before:
            self.wrong.append("I1: an access began after the door was shut")
        self.users += 1
        try:
            look()
            yield
            look()
            if self.released:
                self.wrong.append("I2: in use after its release")
        finally:
            self.users -= 1


class Scene:
    """One object, and what may be done to it at once."""

    def __init__(self, manager: SafetyManager, queue: ReleaseQueue | None) -> None:
        self.manager = manager
        self.queue = queue
        self.object = Object()
        self.handles: list[Handle[Object]] = [
            manager.register(self.object, "object", release=Object.free, release_on=queue or ANY_THREAD)
        ]
        self.id = self.handles[0].id
        self.shares = 1
        self.closed = 0

    def over(self, name: str, granted: Any) -> None:
        """A closing call came back."""
        if granted is True and self.object.released != 1:
            self.object.wrong.append(f"{name} said released")

    # Operations. Each is one that a program may do at any time.

    def lease(self) -> None:
        shut = self.object.shut
        try:
            with (
                self.handles[0].lease() as native,
                native.used(shut, lambda: self.handles[0].valid if self.handles else None),
            ):
                pass
        except (*REFUSED, IndexError):
            pass

    def view(self) -> None:
        shut = self.object.shut
        try:
            view = self.handles[0].view(self.object.address(), 16)
        except (*REFUSED, IndexError):
            return
        with self.object.used(shut, lambda: self.handles[0].valid if self.handles else None):
            if view[0] != ord("x"):
                self.object.wrong.append("I2: a view of what was released")
        del view

    def access(self) -> None:
        shut = self.object.shut

        def use(native: Object) -> None:
            with native.used(shut, lambda: self.manager.is_valid(self.id)):
                pass

        with contextlib.suppress(*REFUSED):
            self.manager.safe_access(self.id, use)

    def panic(self) -> None:
        def fail(native: Object) -> None:
            raise ZeroDivisionError

        try:
            self.manager.safe_access(self.id, fail)
        except AccessPanicError:
            self.object.shut = True
        except REFUSED:
            pass

    def share(self) -> None:
        """A share that was granted is a right to use it, whoever else closes; closing that is the end, if it
        was the last."""
        try:
            mine = self.handles[0].share()
        except (*REFUSED, IndexError):
            return
        self._use_and_close(mine)

    def weak(self) -> None:
        try:
            mine = self.handles[0].weak()()
        except IndexError:
            return
        if mine is not None:
            self._use_and_close(mine)

    def _use_and_close(self, mine: Handle[Object]) -> None:
        try:
            with mine.lease() as native, native.used(False, lambda: mine.valid):
                pass
        except ExclusiveError:
            pass
        except AccessRefusedError:
            if not self.object.shut and self.closed == 0:
                self.object.wrong.append("a share that is open was refused")
        self.over("close of a share", mine.close())

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            self.over("close", self.handles[0].close())

    def close_and_wait(self) -> None:
        with contextlib.suppress(IndexError):
            self.over("close(timeout=20)", self.handles[0].close(timeout=20))

    def drop(self) -> None:
        self.handles.clear()

    def unregister(self) -> None:
        self.closed += 1
        self.over("unregister", self.manager.unregister(self.id))
        self.object.shut = True

    def invalidate(self) -> None:
        self.closed += 1
        self.manager.invalidate(self.id, "because")
        self.object.shut = True

    def child(self) -> None:
        order: list[str] = []
        try:
            child = self.manager.register(
                object(),
                "child",
                release=lambda _: order.append("child" if not self.object.released else "parent first"),
                release_on=ANY_THREAD,
                parent=self.handles[0],
            )
        except (LifecycleError, IndexError):
            return
        child.close()
        if order != ["child"]:
            self.object.wrong.append(f"I2: {order}")

    def exclusive(self) -> None:
        shut = self.object.shut
        try:
            with self.handles[0].exclusive(timeout=0) as native:
                with native.used(shut, lambda: self.handles[0].valid if self.handles else None):
                    if native.users != 1:
                        native.wrong.append("exclusive beside another")
        except (LifecycleError, IndexError):
            pass

    def drain(self) -> None:
        if self.queue is not None:
            self.queue.drain()

    # And then.

    def check(self, run: Interleaving, names: Sequence[str]) -> None:
        record = self.manager._registry.records[self.id]
        for outcome in run.outcomes:
            assert outcome.error is None, (str(run), outcome.error)
        self.handles.clear()
        for _ in range(3):  # what came last may have freed its parent
            if self.queue is not None:
                self.queue.drain()
            self.manager.register(object(), "flush", release_on=ANY_THREAD).close()
        if not self.object.released:
            if runtime.free_threaded:
                gc.collect()
            for _ in range(200):
                self.manager.register(object(), "flush", release_on=ANY_THREAD).close()
                if self.object.released:
                    break
                runtime.sleep(0.01)
        assert self.object.wrong == [], str(run)
        assert self.object.released == 1, f"I3: released {self.object.released} times in {run}"
        registry = self.manager._registry
        if (
            "drop" not in names and "close" in names
        ):  # who closed shut the door, and left that to nobody's death
            assert record.cause in (Cause.CLOSE, Cause.UNREGISTER, Cause.INVALIDATE, Cause.PANIC), str(run)
        eventually(lambda: not registry.claims)  # a worker may have been the last
        assert not registry.shared, str(run)
        assert not registry.waiters, str(run)
        with pytest.raises(LifecycleError):
            self.manager.safe_access(self.id, repr)


@pytest.fixture(scope="module")
def manager() -> Iterator[SafetyManager]:
    with SafetyManager(CONFIG, name="interleaved") as made:
        made.register(object(), "first").close()  # its threads run
        yield made


def every_order(
    manager: SafetyManager, names: Sequence[str], *, queue: bool = False, least: int = 1, **options: Any
) -> int:
    """Run the named operations in every order within `options` and check after each; how many runs it took."""
    place = ReleaseQueue("interleaved") if queue else None
    scenes: list[Scene] = []

    def scene() -> list[Callable[[], object]]:
        scenes[:] = [Scene(manager, place)]
        return [getattr(scenes[0], name) for name in names]

    runs = 0
    collects = gc.isenabled()
    gc.disable()  # a run is the same each time
    try:
        for run in interleavings(scene, **{"of": CORE, **options}):
            scenes[0].check(run, names)
            runs += 1
    finally:
        if collects:
            gc.enable()
    assert runs >= least, f"only {runs} runs"
    return runs


OPERATIONS = [
    "lease",
    "view",
    "access",
    "panic",
    "share",
    "weak",
    "close",
    "close_and_wait",
    "drop",
    "unregister",
    "invalidate",
    "child",
    "exclusive",
]


@pytest.mark.parametrize("first", OPERATIONS)
def test_every_two_operations(manager: SafetyManager, first: str) -> None:
    """With one switch in the middle, at every line; with more when there is time."""
    switches = 2 if STORM >= 10 else 1
    limit = None if STORM >= 10 else 60 if "panic" in first or runtime.free_threaded else 200
    for second in OPERATIONS[OPERATIONS.index(first) :: 2 if runtime.free_threaded else 1]:
        every_order(manager, [first, second], switches=switches, limit=limit, least=2)


@pytest.mark.parametrize("pair", ["lease close", "share close", "weak close", "share drop", "child close"])
def test_two_operations_with_two_switches(manager: SafetyManager, pair: str) -> None:
    limit = None if STORM >= 10 else 100 if runtime.free_threaded else 500
    every_order(manager, pair.split(), switches=2, limit=limit, least=100)


@pytest.mark.parametrize(
    "pair", ["lease close", "share close", "drop weak", "close drain", "unregister drain"]
)
def test_two_operations_and_a_queue_that_another_thread_drains(manager: SafetyManager, pair: str) -> None:
    every_order(manager, [*pair.split(), "drain"], queue=True, switches=1, least=100)


@pytest.mark.parametrize(
    "names",
    [
        "share weak close",
        "lease share close",
        "close unregister lease",
        "invalidate panic view",
        "child weak drop",
        "lease view weak close",
        "share share drop unregister",
    ],
)
def test_three_and_four_operations(manager: SafetyManager, names: str) -> None:
    limit = None if STORM >= 10 else 100 if runtime.free_threaded else 250
    every_order(manager, names.split(), switches=1, limit=limit, least=100)


@pytest.mark.parametrize(
    ("pair", "functions"),
    [
        ("share close", [shares.add_share, cell_module.shut, shares.give_back]),
        ("weak drop", [shares.add_share, shares.drop_share, cell_module.shut]),
        ("weak unregister", [shares.add_share, shares.drop_share, cell_module.shut]),
        ("lease close", [handle_module.Handle.lease, handle_module.Handle.close, releases.finish]),
        ("close unregister", [cell_module.shut, handle_module.Handle.close]),
    ],
)
def test_every_order_there_is(manager: SafetyManager, pair: str, functions: list[Any]) -> None:
    """Without a bound, between the lines of the functions that decide."""
    # Half of the orders of *unregister* wait for the other thread, a tenth of a second each.
    few = runtime.free_threaded or "unregister" in pair
    limit = None if STORM >= 10 else 100 if few else 600
    every_order(manager, pair.split(), switches=None, of=code_of(*functions), limit=limit, least=10)


def test_instruction_by_instruction(manager: SafetyManager) -> None:
    functions: list[Any] = [handle_module.Handle.lease, cell_module.shut]
    every_order(manager, ["lease", "close"], switches=1, of=code_of(*functions), opcodes=True, least=20)


# -- that the explorer finds what is there -------------------------------------------------------------------


def test_it_finds_a_lost_update_and_says_where() -> None:
    box = {"value": 0}

    def add() -> None:
        value = box["value"]
        box["value"] = value + 1

    def scene() -> list[Callable[[], object]]:
        box["value"] = 0
        return [add, add]

    lost = [run for run in interleavings(scene, of=code_of(add), switches=1) if box["value"] != 2]
    assert lost
    assert "test_interleavings.py" in str(lost[0])
    assert "add" in str(lost[0])
    assert [run for run in interleavings(scene, of=code_of(add), switches=0) if box["value"] != 2] == []


def test_without_a_bound_it_runs_every_order() -> None:
    seen: set[str] = set()
    word: list[str] = []

    def first() -> None:
        word.append("a")
        word.append("b")
        word.append("c")

    def second() -> None:
        word.append("x")
        word.append("y")

    def scene() -> list[Callable[[], object]]:
        word.clear()
        return [first, second]

    for _ in interleavings(scene, of=code_of(first, second), switches=None):
        seen.add("".join(word))
    orders = {"".join(order) for order in itertools.permutations("abcxy")}
    assert seen == {
        order
        for order in orders
        if [c for c in order if c in "abc"] == list("abc") and order.index("x") < order.index("y")
    }


def test_one_that_waits_for_another_gives_the_baton_up() -> None:
    lock = threading.Lock()
    done: list[int] = []

    def work(number: int) -> None:
        with lock:
            done.append(number)
            done.append(number)

    def scene() -> list[Callable[[], object]]:
        done.clear()
        return [lambda: work(1), lambda: work(2)]

    runs = 0
    for run in interleavings(scene, of=code_of(work), switches=1):
        assert sorted(done) == [1, 1, 2, 2], run
        runs += 1
    assert runs > 4


def test_what_an_operation_raises_is_its_outcome() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    (run,) = interleavings(lambda: [fail], switches=0)
    assert isinstance(run.outcomes[0].error, ZeroDivisionError)
    assert sys.gettrace() is None
    with pytest.raises(AssertionError, match="not at its end"):
        list(interleavings(lambda: [threading.Event().wait], switches=0, patience=0.1))
