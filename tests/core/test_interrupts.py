"""I3, I5, I7 under interrupts: whatever a signal handler raises, wherever it strikes, each object is released
exactly once.

The first half strikes every point of every operation, one after the other; the second lets a real signal rain
at 10 kHz.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import time
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import structlog

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    HeldError,
    LifecycleError,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import holders, register, runtime, views
from lifecycle._core.place import AnyThread
from lifecycle.manager import manager as manager_module
from lifecycle.testing import code_of
from tests.core.adversary import (
    STORM,
    Interrupt,
    NativeMemory,
    Signals,
    Struck,
    assert_nothing_left,
    each_interrupt,
    in_own_process,
    library,
    switching,
    unmapped_twice,
)
from tests.support import eventually

QUIET = SafetyConfig(leak_level="off", finalizer_timeout=60.0, max_retained=20)


NOWHERE: Struck[Any] = Struck("", None, None)


class Thing:
    """Stands for a native object."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int = 0) -> None:
        self.number = number


@attrs.define
class World:
    """One object in a manager, to be struck. Its release is a C function, so no interrupt falls *inside* the
    release."""

    manager: SafetyManager
    place: Any
    queue: ReleaseQueue | None
    released: deque[Thing] = attrs.field(factory=deque)
    thing: Thing = attrs.field(factory=Thing)
    handles: list[Handle[Thing]] = attrs.field(factory=list)

    def register(self, **facts: Any) -> Handle[Thing]:
        facts.setdefault("release", self.released.append)
        return self.manager.register(self.thing, "struck", release_on=self.place, **facts)

    def renew(self, **facts: Any) -> Handle[Thing]:
        """A new object, with a handle."""
        self.thing = Thing()
        self.handles = [self.register(**facts)]
        return self.handles[0]

    @property
    def handle(self) -> Handle[Thing]:
        return self.handles[0]

    @property
    def times(self) -> int:
        """How often the present object was released."""
        return sum(1 for thing in runtime.snapshot(self.released) if thing is self.thing)

    def flush(self) -> None:
        """Run what waits: what any register and close, and the owner of the queue, would."""
        if self.queue is not None:
            self.queue.drain()
        self.manager.register(Thing(), "flush", release_on=ANY_THREAD).close()

    def released_once(self, struck: Struck[Any]) -> None:
        """Close what is open; the present object must be released now or soon, and only once. Kept tracebacks
        hold it up as little as the arguments of functions allow."""
        where = struck.place or "nowhere"
        if struck.on_entry and struck.error is not None:
            struck.error.__traceback__ = None
        for handle in self.handles:
            handle.close(timeout=0)
        self.handles = []
        self.flush()
        try:
            eventually(lambda: self.times)
        except AssertionError:
            raise AssertionError(f"never released: interrupted at {where}") from None
        assert self.times == 1, f"released {self.times} times: interrupted at {where}"


PLACES = ["any_thread", "background", "queue"]


@pytest.fixture(params=["any_thread", "any_thread, in steps", "background", "queue"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with a_world(request.param) as made:
        yield made


@contextlib.contextmanager
def a_world(place: str) -> Iterator[World]:
    with SafetyManager(QUIET, name="struck") as manager:
        queue = ReleaseQueue("struck", thread="current") if place == "queue" else None
        chosen: Any = queue or (BACKGROUND if place == "background" else ANY_THREAD)
        # What `Handle.close` does in one piece is also done in steps, for objects that are not plain.
        manager._any_thread.at_once = AnyThread.at_once and place == "any_thread"
        made = World(manager, chosen, queue)
        made.flush()  # the threads run
        yield made
        made.handles = []
        made.flush()
        assert_nothing_left(manager)


# -- every point of every operation --------------------------------------------------------------------------


def test_register(world: World) -> None:
    parent = world.manager.register(Thing(), "parent", release_on=ANY_THREAD)
    world.manager.policy("struck", max_live=3, max_bytes=1000)
    native = 0x7F00

    def register() -> None:
        world.handles.append(world.register(native=native, name="n", size=10, parent=parent))

    for number, struck in enumerate(each_interrupt(register)):
        if number == 0:  # before its first statement it has taken nothing: the object is still the caller's
            assert not world.times
        else:
            world.released_once(struck)
        world.thing = Thing()
        native += 1
    assert world.times == 0
    world.released_once(NOWHERE)
    parent.close()


def test_the_first_registration_of_a_manager_which_starts_the_threads() -> None:
    managers: list[SafetyManager] = []
    released: deque[Thing] = deque()
    thing = Thing()

    def first() -> None:
        managers[-1].register(thing, "first", release=released.append, release_on=BACKGROUND)

    def fresh() -> None:
        managers.append(SafetyManager(QUIET, name="fresh"))

    fresh()
    for struck in each_interrupt(first, step=1 if STORM >= 10 else 7):
        manager = managers[-1]
        managers[-1].register(Thing(), "second", release=released.append).close()
        eventually(lambda: released and released[-1] is not None)
        assert manager.health().keeper_alive, struck.place
        assert sum(one is thing for one in released) <= 1
        stats = manager.stats()
        assert stats.types["second"].registered == 1
        manager.close()
        assert_nothing_left(manager)
        thing = Thing()
        released.clear()
        fresh()
    managers[-1].close()


def test_factory(world: World) -> None:
    made: list[Thing] = []

    def make() -> Thing:
        made.append(Thing())
        return made[-1]

    factory = world.manager.factory(
        make, "struck", release=world.released.append, release_on=world.place, limit=1
    )

    def build() -> None:
        world.handles.append(factory())

    for struck in each_interrupt(build):
        for thing in made:
            world.thing = thing
            world.released_once(struck)
        made.clear()
        world.released.clear()
        again = factory()  # the limit did not shrink
        again.close(timeout=0)
        world.thing = made.pop()
        world.released_once(struck)


OPERATIONS: dict[str, Callable[[World], object]] = {}


def operation(function: Callable[[World], object]) -> Callable[[World], object]:
    OPERATIONS[function.__name__] = function
    return function


@operation
def close(world: World) -> object:
    return world.handle.close()


@operation
def close_and_wait(world: World) -> object:
    return world.handle.close(timeout=1)


@operation
def close_refuse(world: World) -> object:
    return world.handle.close(held="refuse")


@operation
def close_refuse_held(world: World) -> object:
    with world.handle.lease():
        try:
            world.handle.close(held="refuse")
        except HeldError:
            return True
    raise AssertionError("it was held")


@operation
def with_handle(world: World) -> object:
    with world.handle:
        return None


@operation
def lease(world: World) -> object:
    with world.handle.lease() as thing:
        return thing.number


@operation
def share(world: World) -> object:
    world.handles.append(world.handle.share())
    return world.handles[-1].close()


@operation
def share_then_close_first(world: World) -> object:
    with (
        world.handle.share()
    ):  # the handle is the caller's own: without a with block a kept traceback would keep it open
        return world.handle.close()


@operation
def weak(world: World) -> object:
    with world.handle.weak()() or contextlib.nullcontext():
        return None


@operation
def safe_access(world: World) -> object:
    return world.manager.safe_access(world.handle, lambda thing: thing.number)


@operation
def safe_access_by_id(world: World) -> object:
    return world.manager.safe_access(world.handle.id, lambda thing: thing.number)


@operation
def safe_access_block(world: World) -> object:
    with world.manager.safe_access(world.handle) as thing:
        return thing.number


@operation
def panic(world: World) -> object:
    try:
        world.manager.safe_access(world.handle, lambda thing: 1 // 0)
    except AccessPanicError:
        return True
    raise AssertionError("no panic")


@operation
def unregister(world: World) -> object:
    return world.manager.unregister(world.handle)


@operation
def invalidate(world: World) -> object:
    return world.manager.invalidate(world.handle, "struck")


@operation
def invalidate_and_refuse(world: World) -> object:
    world.manager.invalidate(world.handle, "struck")
    try:
        world.handle.lease()
    except AccessRefusedError:
        return True
    raise AssertionError("the door is open")


@operation
def add_cleanup(world: World) -> object:
    world.manager.add_cleanup(world.handle, list)
    return world.handle.close()


@operation
def drop(world: World) -> object:
    world.handles.clear()
    world.flush()
    return None


@operation
def objects_and_stats(world: World) -> object:
    return world.manager.objects(), world.manager.stats(), world.manager.health(), repr(world.handle)


@pytest.fixture
def brief_search(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A refusal that names holders searches the heap and every frame: here it is out of its budget for that,
    and what there was before is not looked through."""
    monkeypatch.setattr(holders.budget, "allows", lambda: False)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("brief_search")
def test_operation(world: World, name: str) -> None:
    if sys.version_info < (3, 11) and name.startswith("close_refuse"):
        pytest.skip("on 3.10 tracing itself holds what close(held='refuse') counts the holders of")
    run = OPERATIONS[name]
    world.renew()
    for struck in each_interrupt(lambda: run(world)):
        assert struck.error is None or isinstance(struck.error, Interrupt), (struck.place, struck.error)
        if struck.on_entry and struck.error is not None:
            struck.error.with_traceback(None)
        world.released_once(struck)  # while the traceback is kept: it holds nothing
        world.renew()
    world.released_once(NOWHERE)


def test_a_release_that_says_not_released(world: World) -> None:
    """What is known not to have released is called again, also when an interrupt falls between saying so and
    the retry."""
    refuse: deque[BaseException] = deque()

    def release(thing: Thing) -> None:
        if refuse:
            raise refuse.pop()
        world.released.append(thing)

    def run() -> None:
        world.handle.close(timeout=0)
        if world.queue is not None:
            world.queue.drain()

    refuse.append(NotReleased("not yet"))
    world.renew(release=release)
    for struck in each_interrupt(run):
        for handle in world.handles:
            handle.close(timeout=0)
        try:
            eventually(lambda: (world.flush(), world.times)[1])
        except AssertionError:
            raise AssertionError(f"never released: interrupted at {struck.place}") from None
        assert world.times == 1, struck.place
        world.handles = []
        world.flush()
        refuse.clear()
        refuse.append(NotReleased("not yet"))
        world.renew(release=release)
    eventually(lambda: (world.flush(), world.times)[1])
    world.handles = []


def test_drain_loses_no_ticket() -> None:
    with a_world("queue") as world:
        queue = world.queue
        assert queue is not None
        things: list[Thing] = []

        def fill() -> None:
            things[:] = [Thing(number) for number in range(3)]
            for thing in things:
                world.manager.register(thing, "struck", release=world.released.append, release_on=queue)

        fill()
        for struck in each_interrupt(queue.drain):
            queue.drain()
            counts = Counter(thing.number for thing in world.released)
            assert counts == {0: 1, 1: 1, 2: 1}, struck.place
            world.released.clear()
            fill()
        assert len(world.released) == 3


def test_a_close_puts_back_the_ticket_of_another_object() -> None:
    """At a place of the test's own, where nobody else takes the ticket."""
    with a_world("any_thread") as world:
        world.renew()
        kind = world.manager._registry.kinds["struck"]
        place = AnyThread("alone")
        place.at_once = False  # in steps
        released: deque[Thing] = deque()
        handles: list[Handle[Thing]] = []

        def entered(number: int) -> Handle[Thing]:
            return register.enter(
                kind, place, Thing(number), released.append, None, None, 0, None, None, False
            )

        def fill() -> None:
            entered(1)  # dropped: its ticket waits
            entered(2)
            handles[:] = [entered(3)]
            assert len(place) == 2

        fill()
        for struck in each_interrupt(lambda: handles[0].close(), of=code_of(AnyThread._settle)):
            if struck.error is not None:
                struck.error.with_traceback(None)
            handles[0].close(timeout=0)
            place.run_some(None)
            counts = Counter(thing.number for thing in released)
            assert counts == {1: 1, 2: 1, 3: 1}, (struck.place, counts)
            released.clear()
            fill()
        handles[0].close()
        place.run_some(None)


def test_losing_a_queue_ends_every_object_of_it() -> None:
    with a_world("queue") as world:
        queue = world.queue
        assert queue is not None
        world.renew()
        for struck in each_interrupt(lambda: queue.lost("its context died")):
            queue.lost("again")
            handle = world.handle
            with pytest.raises(LifecycleError):
                handle.lease()
            handle.close(timeout=0)
            world.flush()
            assert world.times == 0, struck.place
            eventually(lambda: world.manager.stats().types["struck"].live == 0)
            world.renew()
        assert world.times == 0


def test_cancelling_a_safe_finalizer_decides_once() -> None:
    with a_world("background") as world:
        ran: deque[int] = deque()

        def run() -> bool:
            return finalizer.cancel()

        target = Thing()
        finalizer = world.manager.set_safe_finalizer(target, ran.append, 1)
        for struck in each_interrupt(run):
            if struck.on_entry and struck.error is not None:
                struck.error.with_traceback(None)
            del target
            gc.collect()
            try:
                eventually(lambda: finalizer.state in ("released", "detached"))
            except AssertionError:
                raise AssertionError(f"{finalizer} for ever: interrupted at {struck.place}") from None
            assert len(ran) == (finalizer.state == "released"), struck.place
            ran.clear()
            target = Thing()
            finalizer = world.manager.set_safe_finalizer(target, ran.append, 1)
        assert not ran


def test_set_safe_finalizer_runs_it_once_or_not_at_all() -> None:
    with a_world("background") as world:
        ran: deque[int] = deque()
        target = Thing()
        for struck in each_interrupt(lambda: world.manager.set_safe_finalizer(target, ran.append, 1)):
            if struck.error is not None:  # the frames that it passed keep the target, which is the caller's
                struck.error.with_traceback(None)
            target = Thing()
            world.manager._finalizers.sweep()
            world.flush()
            assert len(ran) <= 1, struck.place
            eventually(lambda: world.manager.stats().active_objects == 0)
            ran.clear()
        del target
        eventually(lambda: len(ran) == 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_closing_a_manager_can_be_done_again() -> None:
    """Without the GIL closing collects; what strikes in a callback of the collector is CPython's to print and
    to lose."""
    released: deque[Thing] = deque()

    def fresh() -> SafetyManager:
        made = SafetyManager(QUIET, name="closing")
        queue = ReleaseQueue("closing", thread="current")
        released.clear()
        handles.clear()
        for place in (ANY_THREAD, BACKGROUND, queue):
            handles.append(made.register(Thing(), "x", release=released.append, release_on=place))
            made.register(Thing(), "kept", release=released.append, release_on=place, keep=True)
        return made

    handles: list[Handle[Thing]] = []
    manager = fresh()
    for struck in each_interrupt(lambda: manager.close(), step=5 if STORM >= 10 else 31):
        manager.close()
        eventually(lambda: len(released) >= 6)
        assert len(released) == len({id(thing) for thing in released}) == 6, struck.place
        assert_nothing_left(manager)
        manager = fresh()
    assert len(released) == 6


# -- a second interrupt, in what handles the first -----------------------------------------------------------


def test_what_was_made_is_not_lost_to_a_second_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_world("any_thread") as world:
        made: list[Thing] = []
        first: list[int] = []
        next_id = register.next_id

        def make() -> Thing:
            made.append(Thing())
            return made[-1]

        def strikes() -> int:
            if first:
                first.clear()
                raise Interrupt("before there is a record")
            return next_id()

        factory = world.manager.factory(make, "struck", release=world.released.append, release_on=ANY_THREAD)

        def build() -> None:
            first[:] = [1]
            with contextlib.suppress(Interrupt):
                factory()

        monkeypatch.setattr(register, "next_id", strikes)
        for struck in each_interrupt(build, of=code_of(register.enter)):
            for world.thing in made:
                world.released_once(struck)
            made.clear()
            world.released.clear()
        first.clear()


def test_what_is_registered_is_not_lost_to_a_second_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first strikes before there is a record, the second in what handles it."""
    with a_world("any_thread") as world:
        world.thing = Thing()
        struck: list[str] = []

        def strikes(where: str, *_: object) -> None:
            struck.append(where)
            raise Interrupt(where)

        for name in ("next_id", "unhashable"):
            monkeypatch.setattr(manager_module, name, functools.partial(strikes, name))
        with pytest.raises(Interrupt):
            world.manager.register(
                world.thing, "struck", release=world.released.append, release_on=ANY_THREAD
            )
        monkeypatch.undo()
        assert struck == ["next_id", "unhashable"]
        world.released_once(attrs.evolve(NOWHERE, place="a second interrupt"))


# -- a kept traceback keeps nothing --------------------------------------------------------------------------


def test_a_kept_error_holds_no_pin(world: World) -> None:
    """I2, I8: whatever refusal is kept, with its traceback and our frames in it, the object is released when
    it is closed."""
    manager = world.manager

    def refuses(*_: object) -> bool:
        return False

    def view_of_nothing(handle: Handle[Thing]) -> object:
        return handle.view(0, 10)

    def bad_size(handle: Handle[Thing]) -> object:
        return handle.view(1, -1)

    def validated(handle: Handle[Thing]) -> object:
        manager.policy("struck", validate=refuses)
        try:
            return handle.lease()
        finally:
            manager.policy("struck", validate=None)

    def validated_access(handle: Handle[Thing]) -> object:
        manager.policy("struck", validate=refuses)
        try:
            return manager.safe_access(handle.id, repr)
        finally:
            manager.policy("struck", validate=None)

    def panics(handle: Handle[Thing]) -> object:
        return manager.safe_access(handle, lambda thing: 1 // 0)

    def panics_in_a_block(handle: Handle[Thing]) -> None:
        with manager.safe_access(handle.id):
            raise ZeroDivisionError

    def declared(handle: Handle[Thing]) -> object:
        return manager.safe_access(handle, lambda thing: 1 // 0, errors=ZeroDivisionError)

    def generator(handle: Handle[Thing]) -> object:
        return manager.safe_access(handle, lambda thing: (thing for _ in ()))

    def held(handle: Handle[Thing]) -> None:
        with handle.lease():
            handle.close(held="refuse")

    def child_without_release(handle: Handle[Thing]) -> None:
        manager.register(Thing(), "child", parent=handle, release=42)  # type: ignore[arg-type]

    def unhashable_child(handle: Handle[Thing]) -> None:
        manager.register(Thing(), "child", parent=handle, release=repr, native=[])

    def duplicate_child(handle: Handle[Thing]) -> None:
        first = manager.register(Thing(), "child", release=repr, native=1)
        try:
            manager.register(Thing(), "child", parent=handle, release=repr, native=1)
        finally:
            first.close()

    def limited_child(handle: Handle[Thing]) -> None:
        manager.policy("limited", max_bytes=1)
        manager.register(Thing(), "limited", parent=handle, release=repr, size=5)

    def leased_twice(handle: Handle[Thing]) -> None:
        lease = handle.lease()
        lease.close()
        with lease:
            raise AssertionError("the lease had ended")

    for provoke in (
        view_of_nothing,
        bad_size,
        validated,
        validated_access,
        panics,
        panics_in_a_block,
        declared,
        generator,
        held,
        child_without_release,
        unhashable_child,
        duplicate_child,
        limited_child,
        leased_twice,
    ):
        with pytest.raises((LifecycleError, ZeroDivisionError)) as caught:
            provoke(world.renew())
        world.released_once(attrs.evolve(NOWHERE, place=provoke.__name__))
        assert caught.tb is not None


# -- a real signal at 10 kHz ---------------------------------------------------------------------------------


def drop_event(logger: Any, name: str, event: Any) -> Any:
    raise structlog.DropEvent


def quietly() -> None:
    """CPython prints an interrupt that strikes a callback of the collector, and goes on; thousands of them
    say nothing."""
    sys.unraisablehook = lambda unraisable: None
    structlog.configure(processors=[drop_event])


def all_once(released: deque[Thing], number: int) -> None:
    counts = Counter(thing.number for thing in released)
    assert not [times for times in counts.values() if times != 1], counts.most_common(3)
    assert len(counts) == number, f"{number - len(counts)} of {number} were never released"


def rain_on_leases(rounds: int) -> None:
    quietly()
    manager = SafetyManager(QUIET)
    with Signals() as signals:
        for _ in range(rounds):
            memory = NativeMemory()
            handle = manager.register(memory, "memory", release=NativeMemory.unmap, release_on=ANY_THREAD)

            def use(handle: Handle[NativeMemory] = handle) -> None:
                for _ in range(200):
                    with handle.lease() as memory:
                        memory.read()
                    with handle.lease():
                        pass
                    view = handle.view(memory.address, memory.nbytes)
                    assert view[0] == memory.fill
                    manager.safe_access(handle, NativeMemory.read)

            signals.run(use)
            assert handle.close(), "an interrupted lease still holds"
            assert memory.unmapped == 1
    assert signals.raised > rounds / 10, f"only {signals.raised} interrupts"
    assert_nothing_left(manager)
    assert unmapped_twice() == 0


def rain_on_drops(number: int) -> None:
    quietly()
    manager = SafetyManager(QUIET)
    released: deque[Thing] = deque()
    done = 0
    with Signals() as signals:
        while done < number:
            handles = [
                manager.register(Thing(done + i), "thing", release=released.append, release_on=ANY_THREAD)
                for i in range(5000)
            ]
            done += 5000

            def drop(handles: list[Handle[Thing]] = handles) -> None:
                while handles:
                    handles.pop()

            while handles:
                signals.run(drop)
    assert signals.raised > 50, f"only {signals.raised} interrupts"
    stats = assert_nothing_left(manager)
    all_once(released, done)
    assert stats.released == stats.total_objects == done


def rain_on_register_and_close(place: str, seconds: float) -> None:
    """Objects that `factory` made: each that came into being is released once, however it was interrupted."""
    quietly()
    manager = SafetyManager(QUIET)
    queue = ReleaseQueue("rain", thread="current")
    where: Any = {"any_thread": ANY_THREAD, "background": BACKGROUND, "queue": queue}[place]
    released: deque[Thing] = deque()
    made: deque[Thing] = deque()
    handles: deque[Handle[Thing]] = deque()

    def make() -> Thing:
        thing = Thing(len(made))
        made.append(thing)
        return thing

    factory = manager.factory(make, "thing", release=released.append, release_on=where)

    def work() -> None:
        for _ in range(50):
            handles.append(factory())
            shared = handles[-1].share()
            with shared.lease():
                shared.close()
            if place == "queue":
                handles.popleft().close()
                queue.drain()
            elif len(handles) % 2:
                handles.popleft().close(timeout=0.01)
            else:
                handles.popleft()
        manager.stats()

    until = time.monotonic() + seconds
    with Signals(of=library) as signals:
        while time.monotonic() < until:
            signals.run(work)
    assert signals.raised > 50, f"only {signals.raised} interrupts"
    while handles:
        handles.popleft().close(timeout=0)
    queue.drain()
    manager.register(Thing(), "flush", release_on=ANY_THREAD).close()
    stats = assert_nothing_left(manager)
    all_once(released, len(made))
    kind = stats.types["thing"]
    assert kind.registered == len(made) == kind.ended["released"] + kind.ended["failed"]
    assert kind.release_failures["error"] == kind.ended["failed"] < signals.raised
    print(f"{len(made)} objects, {signals.raised} interrupts, {kind.ended['failed']} counted as interrupted")


def rain_on_plain_ends(seconds: float, at_once: bool) -> None:
    """What was taken is released once, and the figures know each of them, whoever counted while it was struck."""
    quietly()
    manager = SafetyManager(QUIET)
    manager._any_thread.at_once = at_once
    released: deque[Thing] = deque()
    made = 0

    def work() -> None:
        nonlocal made
        for _ in range(200):
            made += 1
            manager.register(Thing(made), "thing", release=released.append, release_on=ANY_THREAD).close()
        manager.stats()

    until = time.monotonic() + seconds
    with Signals(of=library) as signals:
        while time.monotonic() < until:
            signals.run(work)
    assert signals.raised > 50, f"only {signals.raised} interrupts"
    manager.register(Thing(), "flush", release_on=ANY_THREAD).close()
    stats = assert_nothing_left(manager)
    kind = stats.types["thing"]
    assert len({thing.number for thing in released}) == len(released) <= made
    assert kind.registered == len(released) == kind.ended["released"] + kind.ended["failed"]
    assert sum(kind.closed.values()) == kind.registered == kind.release_duration.count
    assert kind.live == kind.bytes == 0
    print(f"{made} objects, {signals.raised} interrupts, {kind.ended['failed']} counted as interrupted")


@pytest.mark.parametrize("at_once", [True, False])
def test_rain_on_plain_ends(at_once: bool) -> None:
    in_own_process(rain_on_plain_ends, 1.0 * STORM, at_once, timeout=90 + 2 * STORM)


def test_rain_on_leases() -> None:
    in_own_process(rain_on_leases, int(400 * STORM))


def test_what_is_called_as_an_object_dies_is_c_alone(world: World) -> None:
    """In a callback written in Python a pending interrupt is raised, printed and lost, and the object is found
    by a later look at best."""
    for handle in (
        world.manager.register(Thing(), "registered", release=repr, release_on=world.place),
        world.manager.registrar("by registrar", release=repr, release_on=world.place)(Thing(), None, 0),
        world.manager.factory(Thing, "made", release=repr, release_on=world.place)(),
    ):
        assert isinstance(handle._record.__callback__, types.BuiltinMethodType)


def test_rain_on_150_000_drops() -> None:
    in_own_process(rain_on_drops, int(150_000 * max(1.0, STORM)))


@pytest.mark.parametrize("place", PLACES)
def test_rain_on_register_and_close(place: str) -> None:
    in_own_process(rain_on_register_and_close, place, 1.0 * STORM, timeout=90 + 2 * STORM)


def rain_and_switches() -> None:
    with switching():
        rain_on_register_and_close("background", 1.0 * STORM)


def test_rain_while_threads_change_all_the_time() -> None:
    in_own_process(rain_and_switches, timeout=90 + 2 * STORM)


def test_nothing_of_this_leaves_a_trace_function_behind() -> None:
    assert sys.gettrace() is None or "coverage" in repr(sys.gettrace())


def test_asking_where_a_buffer_lies_leaves_no_export() -> None:
    """One would keep the buffer from being resized or closed for good."""
    buffer = bytearray(b"hello")
    struck = 0
    for strike in each_interrupt(
        lambda: views._address_of(memoryview(buffer)), of=code_of(views._address_of)
    ):
        if strike.error is not None:
            struck += 1
            strike.error.with_traceback(None)
        buffer.append(0)  # refused while there is one
    assert struck > 2
