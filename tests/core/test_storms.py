"""I1–I3, I5, I7 under threads: first the interleavings that were thought of, one by one; then storms for
those that were not."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    ClosedError,
    Handle,
    HeldError,
    LifecycleError,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    WeakHandle,
)
from lifecycle._core import detach as ownership
from lifecycle._core import handle as handle_module
from lifecycle._core import owning, shares
from lifecycle._core import record as cell
from lifecycle._core import release as releases
from lifecycle._core import tables as registry
from lifecycle._core.place import AnyThread
from lifecycle.errors import DuplicateError, LimitError, UnknownObjectError
from lifecycle.manager import manager as manager_module
from lifecycle.manager.machinery import Machinery
from lifecycle.observe import maintenance as keeper
from tests.core.adversary import (
    STORM,
    NativeMemory,
    Standing,
    assert_nothing_left,
    at_once,
    in_own_process,
    switching,
    unmapped_twice,
)
from tests.support import SOON, eventually

QUIET = SafetyConfig(leak_level="off", max_retained=1000)
PLACES = ["any_thread", "background", "queue"]


class Node:
    def __init__(self, name: Any = "") -> None:
        self.name = name


def flush(manager: SafetyManager) -> None:
    manager.register(Node(), "flush", release_on=ANY_THREAD).close()


# -- one interleaving at a time ------------------------------------------------------------------------------


def test_two_cleanups_added_at_once_both_run() -> None:
    """The record's rarer facts come into being when first needed: by two threads at once, and none is lost."""
    ran: deque[int] = deque()
    with SafetyManager(QUIET) as manager:
        handle = manager.register(Node(), "node", release_on=ANY_THREAD)
        with Standing(
            lambda: manager.add_cleanup(handle, ran.append, 1), cell.Extra.__init__, "self.cleanups"
        ) as standing:
            manager.add_cleanup(handle, ran.append, 2)
            standing.result()
        handle.close()
        assert sorted(ran) == [1, 2]


def test_an_invalidation_and_a_cleanup_at_once() -> None:
    ran: deque[int] = deque()
    with SafetyManager(QUIET) as manager:
        handle = manager.register(Node(), "node", release_on=ANY_THREAD)
        with Standing(
            lambda: manager.invalidate(handle, "because"), cell.Extra.__init__, "self.cleanups"
        ) as standing:
            manager.add_cleanup(handle, ran.append, 1)
            standing.result()
        flush(manager)
        eventually(lambda: list(ran) == [1])
        assert "because" in repr(handle)


@pytest.mark.parametrize("shutting", ["invalidate", "unregister", "close"])
def test_closing_with_refuse_undoes_no_other_closing(shutting: str) -> None:
    """I1: one thread looks whether the object is held, and another shuts it meanwhile: it stays shut."""
    released: deque[Node] = deque()
    with SafetyManager(QUIET) as manager:
        handle = manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD)
        lease = handle.lease()
        with Standing(
            lambda: handle.close(held="refuse"), ownership.refuse_if_held, "raise held_error"
        ) as standing:
            if shutting == "invalidate":
                manager.invalidate(handle.id, "because")
            elif shutting == "unregister":
                manager.unregister(handle.id, timeout=0)
            else:
                handle.close(timeout=0)
            try:
                standing.result()
            except HeldError:
                pass
        assert not handle.valid
        with pytest.raises(AccessRefusedError):
            handle.lease()
        with pytest.raises(LifecycleError):
            manager.safe_access(handle.id, repr)
        with lease:
            pass
        handle.close()
        flush(manager)
        eventually(lambda: len(released) == 1)


def test_two_owners_at_once_where_the_first_has_just_gone() -> None:
    """Both find the place of the former owner free; only one may take it."""
    node = Node()
    owners: deque[Handle[Node]] = deque()
    refused: deque[DuplicateError] = deque()
    with SafetyManager(QUIET) as manager:
        first = manager.register(node, "node", release=repr, release_on=ANY_THREAD)

        def register() -> None:
            try:
                owners.append(manager.register(node, "node", release=repr, release_on=ANY_THREAD))
            except DuplicateError as error:
                refused.append(error)

        with Standing(register, owning.supersede, "with ownership:") as standing:
            first.close()
            register()
            standing.result()
        assert len(owners) == 1
        assert len(refused) == 1
        owners.pop().close()


def test_two_first_registrations_at_once_start_one_keeper() -> None:
    manager = SafetyManager(QUIET, name="first two")
    with Standing(
        lambda: manager.register(Node(), "node", release_on=ANY_THREAD).close(),
        Machinery._start,
        "self.workers.start()",
    ) as standing:
        other = threading.Thread(
            target=lambda: manager.register(Node(), "node", release_on=ANY_THREAD).close()
        )
        other.start()
        other.join(0.3)
        standing.result()
        other.join(20)
    keepers = [thread for thread in threading.enumerate() if thread.name == "lifecycle-keeper-first two"]
    assert len(keepers) == 1
    assert manager.stats().total_objects == 2
    manager.close()


def test_asking_while_the_keeper_ends() -> None:
    """Who asks while the keeper ends is answered soon, and rightly."""
    manager = SafetyManager(QUIET)
    for _ in range(10):
        manager.register(Node(), "node", release_on=ANY_THREAD).close()
    with Standing(manager.stats, keeper.Maintenance.ask, "answers: list[SafetyStats] = []") as standing:
        manager.close()
        began = time.monotonic()
        stats = standing.result()
        assert time.monotonic() - began < SOON
        assert stats.total_objects == stats.released == 10


def test_an_access_that_began_before_the_door_was_shut_is_finished_before_the_release() -> None:
    order: deque[str] = deque()
    with SafetyManager(QUIET) as manager:
        handle = manager.register(
            Node("x"), "node", release=lambda node: order.append("released"), release_on=ANY_THREAD
        )
        with Standing(
            lambda: manager.safe_access(handle, lambda node: order.append(f"used {node.name}")),
            manager_module.SafetyManager.safe_access,
            "result = fn(obj, *args)",
        ) as standing:
            assert handle.close() is False
            assert handle.state == "closing"
            flush(manager)
            standing.result()
        flush(manager)
        eventually(lambda: list(order) == ["used x", "released"])


def test_a_share_that_is_made_while_the_last_is_closed_is_either_good_or_refused() -> None:
    """At each line of making it, the only other share is closed."""
    for line in (
        "tokens[announced] = None",
        "tokens[token] = tokens.get(parent)",
        "tokens.pop(announced, None)",
    ):
        for how in ("share", "weak"):
            released: deque[Node] = deque()
            with SafetyManager(QUIET) as manager:
                handle = manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD)
                make: Callable[[], Any] = handle.share if how == "share" else handle.weak()
                with Standing(make, shares.add_share, line) as standing:
                    handle.close(timeout=0)
                    try:
                        other = standing.result()
                    except AccessRefusedError:
                        other = None
                if other is not None:
                    with other.lease() as node:
                        assert isinstance(node, Node)
                    assert not released
                    other.close()
                flush(manager)
                assert len(released) == 1
                assert_nothing_left(manager)


def test_registering_while_the_manager_closes() -> None:
    """Whoever is between entering its record and its handle when the doors are shut loses nothing and opens
    nothing."""
    for line in (
        "registry.records[id] = record",
        "pin = Pin()",
        "cell = Cell()",
        "handle: Handle[T] = Handle()",
    ):
        released: deque[Node] = deque()
        manager = SafetyManager(QUIET)
        flush(manager)
        with Standing(
            lambda manager=manager, released=released: manager.register(  # type: ignore[misc]
                Node(), "node", release=released.append, release_on=ANY_THREAD
            ),
            manager_module.SafetyManager.register,
            line,
        ) as standing:
            manager.close()
            with pytest.raises(ClosedError):
                standing.result()
        eventually(lambda released=released: len(released) == 1)  # type: ignore[misc]
        assert_nothing_left(manager)


def test_two_closers_of_one_handle() -> None:
    """Both are inside close; one shuts the door and releases, and both say the same."""
    straight = [
        "now = monotonic()",
        "cell.pin = None",
        "self._cell = SHUT_CELL",
        "tight = cramped(STEPS) and near_limit()",
        "record.begun = now",
        "if record.owning >= 2:",
        "tell(record)",
        "if registry.kept or registry.waiters",
        "mailbox = place.mailbox",
    ]
    stands = [(True, handle_module.Handle.close, line) for line in straight if AnyThread.at_once]
    for straightly, function, line in [
        *stands,
        (False, handle_module.Handle._give_back, "self._cell = SHUT_CELL"),
    ]:
        released: deque[Node] = deque()
        with SafetyManager(QUIET) as manager:
            manager._any_thread.at_once = straightly
            handles: list[Handle[Node]] = []

            # Made there too: without the GIL an object dies on the thread that made it.
            def run(
                manager: SafetyManager = manager,
                handles: list[Handle[Node]] = handles,
                released: deque[Node] = released,
            ) -> bool:
                handles.append(
                    manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD)
                )
                return handles[0].close()

            with Standing(run, function, line) as standing:
                handle = handles[0]
                assert handle.close(timeout=0) in (True, False)
                standing.result()
            assert handle.close() is True
            assert len(released) == 1
            assert_nothing_left(manager)


@pytest.mark.parametrize("straightly", [True, False])
def test_a_release_is_claimed_once_by_a_closer_and_a_drain(straightly: bool) -> None:
    released: deque[Node] = deque()
    stand: tuple[Any, str] = (releases.process, "claims = record.kind.registry.claims")
    if straightly:
        stand = (handle_module.Handle.close, "tight = cramped(STEPS) and near_limit()")
    with SafetyManager(QUIET) as manager:
        manager._any_thread.at_once = straightly

        def run() -> bool:  # made there too: without the GIL an object dies on the thread that made it
            return manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD).close()

        with Standing(run, *stand) as standing:
            flush(manager)
            eventually(lambda: len(released) == 1)
            standing.result()
        assert len(released) == 1
        assert_nothing_left(manager)


def test_a_closer_leaves_the_release_to_a_drain_that_has_claimed_it() -> None:
    """The drain has the claim and has not begun; the closer, who had looked before, waits for it."""
    released: deque[Node] = deque()
    with SafetyManager(QUIET) as manager:
        manager._any_thread.at_once = True

        def run() -> bool:
            return manager.register(Node(), "node", release=released.append, release_on=ANY_THREAD).close()

        with Standing(run, handle_module.Handle.close, "tight = cramped(STEPS) and near_limit()") as closer:
            with Standing(lambda: flush(manager), releases.process, "phase = record.phase") as drain:
                assert manager._registry.claims
                closer.go()
                time.sleep(0.1)
                assert not released
                drain.result()
            assert closer.result() is True
        assert len(released) == 1
        assert_nothing_left(manager)


def test_losing_a_queue_while_it_is_registered_at() -> None:
    """An object entered into a generation that is lost in that moment is orphaned, never released, and shut
    soon."""
    released: deque[Node] = deque()
    queue = ReleaseQueue("context")
    with SafetyManager(QUIET) as manager:
        flush(manager)
        with Standing(
            lambda: manager.register(Node(), "node", release=released.append, release_on=queue),
            manager_module.SafetyManager.register,
            "registry.records[id] = record",
        ) as standing:
            queue.lost("the context died")
            handle = standing.result()
        handle.close()
        eventually(lambda: (queue.drain(), manager.stats().orphaned)[1] == 1)
        assert not released
        assert_nothing_left(manager)


# -- storms --------------------------------------------------------------------------------------------------


class Slot:
    """A place in the storm: an object that comes and goes."""

    def __init__(self) -> None:
        self.handle: Handle[NativeMemory] | None = None
        self.weak: WeakHandle[NativeMemory] | None = None
        self.id = 0
        self.shut = 0  # the id that was shut, once that is certain


def the_great_storm(place: str, seconds: float, threads: int = 8) -> None:
    """Leases, views, shares, closes, drops, weak handles, accesses by id, invalidations, children and
    collections, by `threads` threads on the same few objects, which are really unmapped."""
    manager = SafetyManager(QUIET)
    queue = ReleaseQueue("storm")
    where: Any = {"any_thread": ANY_THREAD, "background": BACKGROUND, "queue": queue}[place]
    slots = [Slot() for _ in range(6)]
    made = itertools.count()
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    wrong: deque[str] = deque()

    def read(memory: NativeMemory) -> None:
        if memory.unmapped or memory.read() != memory.fill:
            wrong.append("read after the release")

    def renew(slot: Slot, rng: random.Random, views: deque[memoryview]) -> None:
        parent = None
        if rng.random() < 0.3:
            other = rng.choice(slots).handle
            parent = other if other is not None and other is not slot.handle else None
        memory = NativeMemory()
        try:
            fresh = manager.register(
                memory,
                "memory",
                release=NativeMemory.unmap,
                release_on=where,
                parent=parent,
                size=memory.nbytes,
            )
        except AccessRefusedError:  # the parent had gone
            fresh = manager.register(memory, "memory", release=NativeMemory.unmap, release_on=where)
        next(made)
        slot.shut = 0
        slot.weak = fresh.weak()
        slot.id = fresh.id
        slot.handle = fresh

    def act(seed: int) -> None:
        rng = random.Random(seed)
        views: deque[memoryview] = deque(maxlen=4)
        count: Counter[str] = Counter()
        while time.monotonic() < until and not wrong:
            slot = rng.choice(slots)
            handle, id, shut = slot.handle, slot.id, slot.shut
            what = rng.random()
            try:
                if handle is None or what < 0.08:
                    renew(slot, rng, views)  # whatever was there is dropped unless somebody closes it
                elif what < 0.35:
                    with handle.lease() as memory:
                        read(memory)
                        if rng.random() < 0.2:
                            time.sleep(0)
                        read(memory)
                    if shut == handle.id:
                        wrong.append("a lease of what was shut")
                elif what < 0.45:
                    with handle.lease() as memory:
                        views.append(handle.view(memory.address, memory.nbytes)[1:])
                elif what < 0.55:
                    share = handle.share()
                    with share.lease() as memory:
                        read(memory)
                    if rng.random() < 0.7:
                        share.close(timeout=0)
                elif what < 0.65:
                    weak = slot.weak
                    found = weak() if weak is not None else None
                    if found is not None:
                        with found.lease() as memory:
                            read(memory)
                        found.close(timeout=0)
                elif what < 0.75:
                    manager.safe_access(id, read)
                    if shut == id:
                        wrong.append("an access by id to what was shut")
                elif what < 0.83:
                    handle.close(timeout=0)
                elif what < 0.87:
                    manager.unregister(id, timeout=0)
                    if slot.id == id:
                        slot.shut = id
                elif what < 0.91:
                    manager.invalidate(handle, "by the storm")
                    if slot.handle is handle:
                        slot.shut = handle.id
                elif what < 0.93:
                    handle.close(held="refuse", timeout=0)
                elif what < 0.95:
                    queue.drain(8)
                elif what < 0.96:
                    gc.collect(1)
                elif what < 0.97:
                    cycle: list[Any] = [handle, *views]
                    cycle.append(cycle)
                    del cycle
                elif what < 0.975:
                    manager.stats()
                else:
                    slot.handle = None
                for view in views:
                    if view[0] != 0x5A:
                        wrong.append("a view of something else")
                count["done"] += 1
            except HeldError:
                count["held"] += 1
            except UnknownObjectError:
                count["unknown"] += 1
            except AccessRefusedError:
                count["refused"] += 1
            handle = memory = share = found = weak = None  # type: ignore[assignment]
        seen.update(count)

    with switching():
        at_once(*(lambda seed=seed: act(seed) for seed in range(threads)), patience=seconds + 30)  # type: ignore[misc]
    assert not wrong, Counter(wrong)
    for slot in slots:
        slot.handle = None
    gc.collect()

    def over() -> bool:
        queue.drain()
        flush(manager)
        gc.collect()
        return manager.stats().active_objects == 0

    eventually(over, timeout=20)
    stats = assert_nothing_left(manager)
    total = next(made)
    kind = stats.types["memory"]
    assert kind.registered == kind.ended["released"] == total, (kind, total)
    assert unmapped_twice() == 0
    assert seen["done"] > 100
    manager.close()
    print(f"{total} objects, {dict(seen)}")


@pytest.mark.parametrize("place", PLACES)
def test_the_great_storm(place: str) -> None:
    in_own_process(the_great_storm, place, 1.5 * STORM, timeout=90 + 4 * STORM)


def a_storm_of_owners(seconds: float) -> None:
    """Threads that all want to own the same few natives: there is never more than one owner, and every one is
    released. A newcomer waits for a release that has begun, here for as long as a loaded machine needs."""
    owning.HANDED_ON_WITHIN = 30.0
    manager = SafetyManager(QUIET)
    nodes = [Node(number) for number in range(3)]
    owned: Counter[int] = Counter()
    entered: Counter[int] = Counter()
    lock = threading.Lock()
    until = time.monotonic() + seconds
    outcome: Counter[str] = Counter()

    def release(node: Node) -> None:
        with lock:
            owned[node.name] -= 1

    def act(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until:
            node = rng.choice(nodes)
            try:
                handle = manager.register(
                    node, "node", release=release, release_on=ANY_THREAD, native=node.name
                )
            except DuplicateError:
                with lock:
                    outcome["refused"] += 1
                continue
            with lock:
                owned[node.name] += 1
                entered[node.name] += 1
                outcome["owned"] += 1
                assert owned[node.name] == 1, "two owners"
            if rng.random() < 0.3:
                time.sleep(0)
            if rng.random() < 0.7:
                handle.close()
            else:
                handle = None  # type: ignore[assignment]
                flush(manager)

    with switching():
        at_once(*(lambda seed=seed: act(seed) for seed in range(8)), patience=seconds + 30)  # type: ignore[misc]
    flush(manager)
    stats = assert_nothing_left(manager)
    assert stats.types["node"].registered == sum(entered.values())
    assert set(owned.values()) == {0}
    assert not [record for record in registry.owners.values() if record.kind.registry is manager._registry]
    assert min(outcome["owned"], outcome["refused"]) > 50, outcome
    manager.close()


def test_a_storm_of_owners() -> None:
    in_own_process(a_storm_of_owners, 1.0 * STORM, timeout=90 + 2 * STORM)


def a_storm_of_limits(seconds: float) -> None:
    """Limits hold under contention, nothing they refuse is taken, and in the end all of the room is there
    again."""
    manager = SafetyManager(QUIET)
    manager.policy("limited", max_live=5, max_bytes=450)
    alive: Counter[str] = Counter()
    lock = threading.Lock()
    until = time.monotonic() + seconds
    refusals = Counter[str]()
    factory = manager.factory(Node, "made", release=repr, release_on=ANY_THREAD, limit=3)

    def release(node: Node) -> None:
        with lock:
            alive["objects"] -= 1

    def act() -> None:
        while time.monotonic() < until:
            try:
                with manager.register(Node(), "limited", release=release, release_on=ANY_THREAD, size=100):
                    with lock:
                        alive["objects"] += 1
                        assert alive["objects"] <= 4, "450 bytes are 4 objects of 100"
            except LimitError:
                refusals["policy"] += 1
            try:
                factory().close()
            except LimitError:
                refusals["factory"] += 1

    with switching():
        at_once(*[act] * 8, patience=seconds + 30)
    assert_nothing_left(manager)
    handles = [manager.register(Node(), "limited", size=100, release_on=ANY_THREAD) for _ in range(4)]
    made = [factory() for _ in range(3)]
    with pytest.raises(LimitError):
        factory()
    for handle in (*handles, *made):
        handle.close()
    assert_nothing_left(manager)
    manager.close()


def test_a_storm_of_limits() -> None:
    in_own_process(a_storm_of_limits, 0.7 * STORM, timeout=90 + 2 * STORM)


def a_storm_of_managers(seconds: float) -> None:
    """Managers are made, used by 8 threads, asked, and closed by several at once while all of that goes on."""
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until or rounds < 3:
        rounds += 1
        manager = SafetyManager(SafetyConfig(leak_level="off", shutdown_timeout=60))
        released: deque[int] = deque()
        made: deque[int] = deque()
        numbers = itertools.count()
        go_on = threading.Event()

        def use(manager: SafetyManager = manager, place: Any = ANY_THREAD) -> None:
            held: list[Any] = []
            try:
                while True:
                    number = next(numbers)
                    node = Node(number)
                    made.append(number)
                    handle = manager.register(
                        node, "node", release=lambda node: released.append(node.name), release_on=place
                    )
                    with handle.lease():
                        held.append(handle)
                    if len(held) > 5:
                        held.pop(0).close(timeout=0)
                    if number > 40:
                        go_on.set()
            except LifecycleError:
                return

        def ask(manager: SafetyManager = manager) -> None:
            while not manager.closed:
                stats = manager.stats()
                assert stats.total_objects == sum(kind.registered for kind in stats.types.values())
                manager.objects()
                manager.health()
            manager.stats()

        def close(manager: SafetyManager = manager) -> None:
            go_on.wait(10)
            began = time.monotonic()
            manager.close()
            assert time.monotonic() - began < SOON

        at_once(
            *[use] * 2,
            *[lambda use=use: use(place=BACKGROUND)] * 2,  # type: ignore[misc]
            *[ask] * 2,
            *[close] * 2,
            patience=30,
        )
        eventually(lambda: len(released) >= len(made))
        assert Counter(released) == Counter(made), "each once, those that were refused as well"
        assert_nothing_left(manager)
    print(f"{rounds} managers")


def test_a_storm_of_managers() -> None:
    in_own_process(a_storm_of_managers, 1.5 * STORM, timeout=90 + 2 * STORM)


def a_storm_of_retries_and_queues(seconds: float) -> None:
    """Releases that say `NotReleased`, on timed workers and an owned queue, while figures are asked for
    without a pause."""
    manager = SafetyManager(SafetyConfig(leak_level="off", max_finalizer_retries=50))
    until = time.monotonic() + seconds
    released: deque[int] = deque()
    numbers = itertools.count()
    queue = ReleaseQueue("storm")

    def release(node: Node) -> None:
        if random.random() < 0.2:
            raise NotReleased("not now")
        released.append(node.name)

    def make(place: Any) -> None:
        while time.monotonic() < until:
            manager.register(Node(next(numbers)), "node", release=release, release_on=place).close(timeout=0)
            if place is queue:
                queue.drain(4)

    def ask() -> None:
        while time.monotonic() < until:
            assert manager.stats().queues
            manager.health()

    with switching():
        at_once(
            *[lambda: make(BACKGROUND)] * 2,
            *[lambda: make(queue)] * 2,
            *[lambda: make(ANY_THREAD)] * 2,
            *[ask] * 2,
            patience=seconds + 30,
        )

    def over() -> bool:
        queue.drain()
        flush(manager)
        return manager.stats().active_objects == 0

    eventually(over, timeout=40)
    stats = assert_nothing_left(manager)
    total = next(numbers)
    assert len(released) == len(set(released)) == total == stats.types["node"].ended["released"]
    assert stats.types["node"].retries > 0
    manager.close()


def test_a_storm_of_retries_and_queues() -> None:
    in_own_process(a_storm_of_retries_and_queues, 0.5 * STORM, timeout=90 + 5 * STORM)
