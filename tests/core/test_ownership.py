"""Owned, borrowed, observed, moved out: one handle type, and never two who release."""

from __future__ import annotations

import ctypes
import functools
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    HeldError,
    LifecycleError,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import DuplicateError, OwnershipError
from lifecycle.testing.interrupts import TRACING_COPIES_LOCALS
from tests.core.adversary import (
    STORM,
    Interrupt,
    assert_adds_up,
    assert_nothing_left,
    at_once,
    each_interrupt,
    switching,
)
from tests.support import eventually

QUIET = SafetyConfig(leak_level="off", finalizer_timeout=5.0)


class Thing:
    """A native object of another library."""

    def __init__(self) -> None:
        self.destroyed = False


@pytest.fixture
def manager() -> Iterator[SafetyManager]:
    with SafetyManager(QUIET) as made:
        yield made
        assert_nothing_left(made)


@pytest.fixture
def released() -> deque[Thing]:
    return deque()


def places() -> dict[str, Any]:
    return {
        "any_thread": ANY_THREAD,
        "background": BACKGROUND,
        "queue": ReleaseQueue("owned", thread="current"),
    }


# -- out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["any_thread", "background", "queue"])
def test_detached_it_is_the_callers_again(manager: SafetyManager, released: deque[Thing], place: str) -> None:
    where = places()[place]
    thing = Thing()
    handle = manager.register(thing, "thing", release=released.append, release_on=where, native=7)
    assert handle.detach() is thing
    assert handle.state == "detached"
    assert not handle.valid
    assert handle.close() is False, "closing says whether it was released here"
    with pytest.raises(AccessRefusedError, match=r"handed out by detach\(\) at test_ownership.py"):
        handle.lease()
    again = manager.register(thing, "thing", release=released.append, release_on=where, native=7)
    assert not released
    again.close()
    if place == "queue":
        where.drain()
    assert list(released) == [thing]
    stats = assert_adds_up(manager)
    assert (stats.detached, stats.released) == (1, 1)
    assert stats.types["thing"].closed["detach"] == 1


def test_a_detach_wakes_no_worker_for_a_view_that_has_gone(manager: SafetyManager) -> None:
    """Whoever detaches has the object; a view that outlives a close does wake one."""
    memory = ctypes.create_string_buffer(8)

    def viewed() -> Handle[Any]:
        return manager.register(Thing(), "viewed", release=lambda _: None, release_on=ANY_THREAD)

    handle = viewed()
    registry = handle._record.kind.registry
    rung: list[Any] = []
    workers, registry.ring = registry.ring, rung.append
    try:
        handle.view(ctypes.addressof(memory), 8).release()
        handle.detach()
        assert rung == []
        handle = viewed()
        outlives = handle.view(ctypes.addressof(memory), 8)
        handle.close(timeout=0)
        del outlives
        assert len(rung) == 1
    finally:
        registry.ring = workers
    manager.run_due()
    eventually(lambda: manager.stats().active_objects == 0)


def test_detaching_twice_is_refused_and_registers_nothing(
    manager: SafetyManager, released: deque[Thing]
) -> None:
    handle = manager.register(Thing(), "thing", release=released.append, release_on=ANY_THREAD)
    handle.detach()
    for _ in range(2):
        with pytest.raises(AccessRefusedError, match="handed out by detach"):
            handle.detach()
    stats = assert_adds_up(manager)
    assert (stats.total_objects, stats.detached, stats.active_objects) == (1, 1, 0)
    assert not released


def test_a_detached_object_lives_by_its_callers_reference_alone(manager: SafetyManager) -> None:
    import weakref

    handle = manager.register(Thing(), "thing", release=lambda _: None, release_on=ANY_THREAD)
    thing = handle.detach()
    watch = weakref.ref(thing)
    del thing
    assert watch() is None


def test_detach_refuses_beside_holders_and_names_them(manager: SafetyManager, released: deque[Thing]) -> None:
    handle = manager.register(Thing(), "thing", release=released.append, release_on=ANY_THREAD)
    memory = ctypes.create_string_buffer(8)

    def refused(names: str) -> None:
        with pytest.raises(HeldError, match=names) as raised:
            handle.detach()
        assert raised.value.holders
        assert handle.valid, "nothing was changed"

    with handle.lease():
        refused("lease")
    with handle.exclusive():
        refused("held by")
    view = handle.view(ctypes.addressof(memory), 8)
    refused("view")
    del view
    share = handle.share()
    refused("1 other share")
    share.close()
    child = manager.register(Thing(), "child", release=released.append, release_on=ANY_THREAD, parent=handle)
    refused("its child ")
    child.close()

    class Never:
        def signalled(self) -> bool:
            return False

    handle._record.more().fences.append(Never())
    refused("a fence")
    handle._record.more().fences.clear()
    handle.detach()
    assert len(released) == 1


def test_a_share_that_was_dropped_holds_nothing(manager: SafetyManager, released: deque[Thing]) -> None:
    handle = manager.register(Thing(), "thing", release=released.append, release_on=ANY_THREAD)
    share = handle.share()
    other = manager.register(Thing(), "thing", release=released.append, release_on=ANY_THREAD)
    other_share = other.share()
    del share, other_share
    handle.detach()
    assert other.close(held="refuse")
    assert len(released) == 1


def test_what_is_not_owned_alone_cannot_be_detached(manager: SafetyManager, released: deque[Thing]) -> None:
    parent = manager.register(Thing(), "parent", release=released.append, release_on=ANY_THREAD)
    borrowed = manager.register(Thing(), "borrowed", parent=parent)
    thing = Thing()
    watched = manager.observe(thing, "watched")
    for handle, why in (
        (borrowed, "not owned here"),
        (watched, "observed, not owned"),
    ):
        with pytest.raises(OwnershipError, match=why):
            handle.detach()
        assert handle.valid
        handle.close()
    parent.close()
    with pytest.raises(AccessRefusedError, match="released"):
        parent.detach()
    with pytest.raises(LifecycleError, match="timeout="):
        parent.detach(timeout=-1)


def test_a_kept_object_and_one_of_a_limited_factory_make_room(manager: SafetyManager) -> None:
    make = manager.factory(Thing, "thing", release=lambda _: None, release_on=ANY_THREAD, limit=1)
    first = make()
    first.detach()
    make().close()
    kept = manager.register(Thing(), "kept", release=lambda _: None, release_on=ANY_THREAD, keep=True)
    kept.detach()
    assert not manager.is_valid(kept.id)


@pytest.mark.parametrize("place", ["any_thread", "background", "queue"])
def test_interrupted_anywhere_a_transfer_is_whole_or_the_object_goes_back(place: str) -> None:
    """Either the caller has the object and nobody releases it, or it is released once; in no case neither or
    both."""
    if TRACING_COPIES_LOCALS:
        pytest.skip("on 3.10 tracing itself holds what detach() counts the holders of")
    released: deque[Thing] = deque()
    where = places()[place]
    with SafetyManager(QUIET) as manager:
        handle: Handle[Thing] | None = None
        thing = Thing()

        def run() -> Thing:
            assert handle is not None
            return handle.detach(timeout=0)

        def anew() -> None:
            nonlocal handle, thing
            thing = Thing()
            handle = manager.register(thing, "thing", release=released.append, release_on=where)

        anew()
        for struck in each_interrupt(run):
            assert struck.error is None or isinstance(struck.error, Interrupt), (struck.place, struck.error)
            if struck.on_entry and struck.error is not None:
                struck.error.__traceback__ = None
            assert handle is not None
            had = struck.result is thing
            handle.close(timeout=0)

            def over(had: bool = had) -> bool:
                if place == "queue":
                    where.drain()
                manager.register(Thing(), "flush", release_on=ANY_THREAD).close()
                return had or thing in released

            try:
                eventually(over, timeout=3)
            except AssertionError:
                raise AssertionError(struck.place) from None
            assert list(released).count(thing) == (0 if had else 1), struck.place
            anew()
        assert handle is not None
        handle.close(timeout=5)


def test_detach_against_everything(manager: SafetyManager) -> None:
    """Whoever wins, the object is released by us or handed out, never both and never neither."""
    rounds = int(150 * STORM)
    for _ in range(rounds):
        released: deque[Thing] = deque()
        got: deque[Thing] = deque()
        thing = Thing()
        handle = manager.register(thing, "thing", release=released.append, release_on=ANY_THREAD)

        def detach(handle: Handle[Thing] = handle, got: deque[Thing] = got) -> None:
            try:
                got.append(handle.detach())
            except (HeldError, AccessRefusedError):
                return

        def use(handle: Handle[Thing] = handle) -> None:
            try:
                with handle.lease() as it:
                    assert it is not None
            except AccessRefusedError:
                return

        def share(handle: Handle[Thing] = handle) -> None:
            try:
                with handle.share() as mine, mine.lease():
                    pass
            except AccessRefusedError:
                return

        def invalidate(handle: Handle[Thing] = handle) -> None:
            manager.invalidate(handle, "storm")

        with switching():
            at_once(detach, use, share, *([invalidate] if _ % 2 else []))
        handle.close()
        eventually(lambda: len(released) + len(got) == 1)
        assert len(released) + len(got) == 1


# -- borrowed ------------------------------------------------------------------------------------------------


def test_borrowed_objects_are_usable_while_their_owner_is_and_never_released(
    manager: SafetyManager, released: deque[Thing]
) -> None:
    owner = manager.register(Thing(), "owner", release=released.append, release_on=ANY_THREAD)
    borrowed = manager.register(Thing(), "borrowed", parent=owner)
    owner.close()
    with borrowed.lease() as thing:
        assert not thing.destroyed
        assert not released, "the owner may not go while what it lent is in use"
    borrowed.close()
    eventually(lambda: len(released) == 1)
    assert manager.stats().types["borrowed"].leaks == 0


# -- observed ------------------------------------------------------------------------------------------------


def test_observed_its_state_follows_the_object(manager: SafetyManager) -> None:
    thing = Thing()
    handle = manager.observe(thing, "thing", name="theirs", native=0x10, size=5)
    assert (handle.native, handle.name, handle.size) == (0x10, "theirs", 5)
    with handle.lease() as leased:
        assert leased is thing
    assert manager.safe_access(handle, lambda it: it) is thing
    assert manager.safe_access(handle.id, lambda it: it) is thing
    with manager.safe_access(handle) as it:
        assert it is thing
    del leased, it
    assert manager.objects()[0].state == "valid"
    del thing
    assert handle.state == "released"
    assert not handle.valid
    for access in (
        handle.lease,
        lambda: manager.safe_access(handle, id),
        lambda: manager.safe_access(handle.id, id),
    ):
        with pytest.raises(AccessRefusedError, match="its owner let it go"):
            access()  # type: ignore[operator]
    assert manager.stats().panics == 0
    assert manager.stats().types["thing"].closed["owner"] == 1


def test_an_owner_that_lets_go_is_noticed_without_an_access(manager: SafetyManager) -> None:
    things = [Thing() for _ in range(20)]
    handles = [manager.observe(thing, "thing") for thing in things]
    things.clear()
    eventually(lambda: manager.stats().active_objects == 0)
    assert {str(handle.state) for handle in handles} == {"released"}
    assert manager.stats().leaks == 0


def test_the_manager_keeps_nothing_alive_and_a_lease_does(manager: SafetyManager) -> None:
    import weakref

    thing: Thing | None = Thing()
    watch = weakref.ref(thing)  # type: ignore[arg-type]
    handle = manager.observe(thing, "thing")
    lease = handle.lease()
    thing = None
    with lease:
        assert watch() is not None
        assert handle.valid
    assert watch() is None
    memory = ctypes.create_string_buffer(8)
    thing = Thing()
    watch = weakref.ref(thing)
    handle = manager.observe(thing, "thing")
    view = handle.view(ctypes.addressof(memory), 8)
    part = view[2:4]
    thing = None
    del view
    assert watch() is not None
    del part
    assert watch() is None


def test_a_native_end_that_can_be_asked_for(manager: SafetyManager) -> None:
    thing = Thing()
    handle = manager.observe(thing, "texture", alive=lambda it: not it.destroyed)
    share = handle.share()
    assert share.state == "valid"
    thing.destroyed = True
    with pytest.raises(AccessRefusedError, match="its owner has ended it"):
        share.lease()
    assert handle.state == "released"

    def lost(it: Thing) -> bool:
        raise RuntimeError("context lost")

    other = manager.observe(thing, "texture", alive=lost)
    with pytest.raises(AccessRefusedError, match="RuntimeError: context lost"):
        manager.safe_access(other, id)


@pytest.mark.parametrize("form", ["bound method", "name", "function of the class"])
def test_alive_is_asked_as_a_release_is_called(manager: SafetyManager, form: str) -> None:
    class Texture:
        destroyed = False

        def is_ok(self) -> bool:
            return not self.destroyed

    texture = Texture()
    alive: Any = {"bound method": texture.is_ok, "name": "is_ok", "function of the class": Texture.is_ok}[
        form
    ]
    handle = manager.observe(texture, "texture", alive=alive)
    assert handle.valid
    with handle.lease() as leased:
        assert leased is texture
    texture.destroyed = True
    assert (handle.valid, handle.state) == (False, "released")

    other = Texture()
    gone = weakref.ref(other)
    handle = manager.observe(other, "texture", alive=other.is_ok if form == "bound method" else alive)
    del other, leased, texture, alive
    gc.collect()
    assert gone() is None
    assert handle.state == "released"


def test_a_question_that_cannot_work_is_refused_at_once(manager: SafetyManager) -> None:
    thing = Thing()
    for alive, says in (
        (lambda: True, "takes no argument"),
        (lambda one, two: True, "takes 2 arguments"),
        (lambda _: thing is not None, "keeps the object itself alive"),
        (lambda _, it=thing: it is not None, "keeps the object itself alive"),
        (functools.partial(bool, thing), "which it would keep alive"),
        ("nothing", "no method of that name"),
    ):
        question: Any = alive
        with pytest.raises(RegistrationError, match=says):
            manager.observe(thing, "thing", alive=question)
    validate: Any = lambda: True  # noqa: E731 - as users write it
    with pytest.raises(RegistrationError, match="takes no argument"):
        manager.policy("thing", validate=validate)
    assert manager.objects() == ()
    handle = manager.register([1], "thing", release=list.clear, release_on=ANY_THREAD)
    handle.lease().close()
    assert handle.close()


def test_a_native_end_that_only_the_owner_knows(manager: SafetyManager) -> None:
    thing = Thing()
    handle = manager.observe(thing, "texture")
    assert manager.invalidate(handle, "the page was closed")
    with pytest.raises(AccessRefusedError, match="the page was closed"):
        handle.lease()


def test_observing_takes_no_ownership(manager: SafetyManager, released: deque[Thing]) -> None:
    thing = Thing()
    owner = manager.register(thing, "thing", release=released.append, release_on=ANY_THREAD)
    first, second = manager.observe(thing, "thing"), manager.observe(thing, "thing")
    with pytest.raises(DuplicateError):
        manager.register(thing, "thing", release=released.append, release_on=ANY_THREAD)
    first.close()
    owner.close()
    assert list(released) == [thing]
    assert second.valid, "the Python object is still there; whether its native is, only its owner can say"
    second.close()


def test_children_of_an_observed_object_end_first(manager: SafetyManager, released: deque[Thing]) -> None:
    thing = Thing()
    handle = manager.observe(thing, "device")
    child = manager.register(Thing(), "buffer", release=released.append, release_on=ANY_THREAD, parent=handle)
    del thing
    eventually(lambda: handle.state == "closing")
    with child.lease():
        pass
    child.close()
    eventually(lambda: handle.state == "released")
    assert len(released) == 1


def test_what_cannot_be_observed(manager: SafetyManager) -> None:
    with pytest.raises(RegistrationError, match=r"a int cannot be weakly referenced.*parent="):
        manager.observe(5, "number")
    with pytest.raises(RegistrationError, match="alive must be callable"):
        manager.observe(Thing(), "thing", alive=5)  # type: ignore[arg-type]
    with pytest.raises(OwnershipError, match="observed, not owned"):
        manager.observe(thing := Thing(), "thing").exclusive()
    assert thing is not None


def test_dropped_and_collected_in_any_order(manager: SafetyManager) -> None:
    for drop_first in ("handle", "object", "cycle"):
        thing: Any = Thing()
        handle: Any = manager.observe(thing, "thing")
        if drop_first == "cycle":
            thing.handle = handle
        if drop_first == "object":
            thing = None
            handle = None
        else:
            handle = None
            thing = None
        gc.collect()
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().leaks == 0


def test_observing_from_many_threads_while_owners_let_go(manager: SafetyManager) -> None:
    rounds = int(200 * STORM)

    def watch() -> None:
        for _ in range(rounds):
            thing = Thing()
            handle = manager.observe(thing, "thing")
            other = threading.Thread(target=lambda handle=handle: handle.state) if _ % 50 == 0 else None
            if other is not None:
                other.start()
            del thing
            try:
                with handle.lease():
                    pytest.fail("the object is gone")
            except AccessRefusedError:
                assert not handle.valid
            if other is not None:
                other.join()

    with switching():
        at_once(watch, watch, watch)
    assert_adds_up(manager)


class Owner:
    """In a garbage cycle, with the handle of a native and what it keeps of it."""

    def __init__(self, handle: Any, keeps: Any, end: Callable[[Any], object]) -> None:
        self.handle, self.kept, self.end, self.me = handle, keeps(handle), end, self

    def __del__(self) -> None:
        try:
            OUTCOMES.append(self.end(self.handle))
        except HeldError:
            OUTCOMES.append("held")


OUTCOMES: list[object] = []


@pytest.mark.parametrize("keeps", ["nothing", "a lease", "a view", "a share"])
@pytest.mark.parametrize("end", ["detach", "refuse"])
def test_in_a_garbage_cycle_the_collector_is_no_holder(manager: SafetyManager, end: str, keeps: str) -> None:
    """Without the GIL it refers to what it calls `__del__` of."""
    kept = {
        "nothing": lambda handle: None,
        "a lease": lambda handle: handle.lease(),
        "a view": lambda handle: handle.view(bytearray(8)),
        "a share": lambda handle: handle.share(),
    }
    ends = {
        "detach": lambda handle: handle.detach(timeout=0),
        "refuse": lambda handle: handle.close(held="refuse") and "closed",
    }
    released: list[object] = []
    native = ["native"]
    OUTCOMES.clear()
    Owner(
        manager.register(native, "native", release=released.append, release_on=ANY_THREAD),
        kept[keeps],
        ends[end],
    )
    gc.collect()
    eventually(lambda: manager.stats().active_objects == 0)
    if keeps != "nothing":
        assert (OUTCOMES, released) == (["held"], [native])
    elif end == "detach":
        assert (OUTCOMES, released) == ([native], [])
    else:
        assert (OUTCOMES, released) == ([False], [native]), "it is released once the collection is over"
