"""The low-level layer: what adapters are built on keeps its promises under interrupts, collections and drops."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections import deque
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    Handle,
    LifecycleError,
    ObjectState,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import register
from lifecycle.errors import ClosedError, DuplicateError, LimitError, RegistrationError, UnknownObjectError
from lifecycle.lowlevel import (
    Claim,
    Leaving,
    Tally,
    caller,
    collect,
    describe,
    facts,
    forgets,
    held_pin,
    holders,
    is_closed,
    is_control_flow,
    is_dead,
    next_id,
    pin,
    raw,
    recipe,
    refuse_near_limit,
    releasing,
    taking,
    tend,
    type_name_of,
    view,
)
from lifecycle.manager import recipes
from lifecycle.testing import code_of, each_interrupt


class Native:
    def __init__(self) -> None:
        self.released = 0

    def free(self) -> None:
        self.released += 1


class Part(Handle[Native]):
    """A handle of an adapter's own class."""

    __slots__ = ()

    def free_count(self) -> int:
        return raw(pin(self)).released  # type: ignore[no-any-return]


def test_a_recipe_registers_what_is_the_same_once(manager: SafetyManager) -> None:
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    native, other = Native(), Native()
    with parts.register(native, handle=Part, native=0x10, size=100, name="left") as part:
        assert type(part) is Part
        assert (part.free_count(), part.native, part.size, part.name) == (0, 0x10, 100, "left")
        with parts.register(other, parent=part) as child:
            assert facts(child).parent_id == part.id
            part.close()
            assert native.released == 0, "a child holds its parent"
    assert (native.released, other.released) == (1, 1)
    assert manager.stats().types["sdk.Part"].registered == 2


def test_a_pin_as_parent_holds_and_is_no_parent(manager: SafetyManager) -> None:
    outer, inner = Native(), Native()
    first = manager.register(outer, release=Native.free, release_on=ANY_THREAD)
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    second = parts.register(inner, parent=pin(first))
    first.close()
    assert outer.released == 0
    assert facts(second).parent_id == 0
    second.close()
    tend(manager)
    assert (outer.released, inner.released) == (1, 1)


def test_a_recipe_names_the_place_it_is_given(manager: SafetyManager) -> None:
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    with parts.register(Native(), site=sys._getframe()) as part:
        assert facts(part).site.startswith("test_lowlevel.py:")


@pytest.mark.parametrize("unique", [True, False])
def test_only_a_recipe_that_asks_looks_for_a_second_owner(manager: SafetyManager, unique: bool) -> None:
    parts = recipe(manager, "sdk.Part", release=lambda _: None, release_on=ANY_THREAD, unique=unique)
    native = Native()
    with parts.register(native):
        if unique:
            with pytest.raises(DuplicateError, match="is owned by"):
                parts.register(native)
        else:
            parts.register(native).close()


def test_what_a_recipe_refuses_is_still_the_callers(manager: SafetyManager) -> None:
    with pytest.raises(RegistrationError, match=r"recipe\(\) takes a type name of one letter or more, not 3"):
        recipe(manager, 3, release=None, release_on=ANY_THREAD)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="release must be callable"):
        recipe(manager, "part", release=3, release_on=ANY_THREAD)  # type: ignore[arg-type]
    manager.policy("sdk.Part", max_live=1)
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    refused, taken = Native(), [False]
    with parts.register(Native()):
        with pytest.raises(LimitError):
            parts.register(refused, taken=taken)
    assert (refused.released, taken) == (0, [False])


def test_a_recipe_of_a_closed_manager_releases_what_it_is_given() -> None:
    manager = SafetyManager()
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=BACKGROUND)
    manager.close()
    native, taken = Native(), [False]
    with pytest.raises(ClosedError):
        parts.register(native, taken=taken)
    assert (native.released, taken) == (1, [True])


def test_interrupted_anywhere_a_recipe_loses_nothing() -> None:
    """I3: what was taken is a handle's, or is released; `taken` says whose it is."""
    manager = SafetyManager(config=SafetyConfig(leak_level="off"))
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    given: list[tuple[Native, list[bool]]] = []
    made: list[Handle[Any]] = []

    def run() -> None:
        native, taken = Native(), [False]
        given.append((native, taken))
        made.append(parts.register(native, handle=Part, parent=pin(held), taken=taken))

    struck = 0
    with manager.register(Native(), release=Native.free, release_on=ANY_THREAD) as held:
        for _ in each_interrupt(run, of=code_of(recipes, register)):
            struck += 1
        for handle in made:
            handle.close()
    gc.collect()  # the frames that were struck
    assert struck >= 8
    assert manager.close(timeout=10).ok
    # On the way in, and on 3.10 at the beginning of its `try`, nothing was taken.
    left = [native for native, taken in given if not taken[0]]
    assert len(left) <= 2
    assert [native.released for native, _ in given] == [int(native not in left) for native, _ in given]


def test_one_object_may_have_a_release_of_its_own(manager: SafetyManager) -> None:
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    native = Native()
    mine: list[Native] = []
    parts.register(native, release=mine.append).close()
    assert (mine, native.released) == ([native], 0)
    parts.register(native).close()
    assert native.released == 1


def test_everything_that_waits_for_any_thread_is_run() -> None:
    manager = SafetyManager(config=SafetyConfig(leak_level="off"))
    natives = [Native() for _ in range(300)]
    parts = recipe(manager, "sdk.Part", release=Native.free, release_on=ANY_THREAD)
    handles = [parts.register(native) for native in natives]
    del handles
    tend(manager, everything=True)
    assert {native.released for native in natives} == {1}
    manager.close()


def test_a_manager_says_that_it_releases(manager: SafetyManager) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def free(_: object) -> None:
        begun.set()
        may_end.wait(20)

    assert not releasing(manager)
    handle = manager.register(Native(), release=free, release_on=BACKGROUND)
    handle.close(timeout=0)
    assert begun.wait(20)
    assert releasing(manager)
    may_end.set()
    manager.close(timeout=20)
    assert not releasing(manager)


def test_the_type_of_what_is_given_no_name(manager: SafetyManager) -> None:
    native = Native()
    name = type_name_of(manager, native)
    with manager.register(native, release=Native.free, release_on=ANY_THREAD) as handle:
        assert handle.type_name == name == f"{__name__}.Native"
    assert type_name_of(manager, 3) == "int"


def test_near_the_recursion_limit_nothing_is_begun() -> None:
    refuse_near_limit("this")
    refused: list[str] = []

    def deeper(levels: int) -> None:
        try:
            refuse_near_limit("reading a frame")
        except RecursionError as error:
            refused.append(str(error))
            return
        deeper(levels + 1)

    deeper(0)
    assert refused[0].startswith("reading a frame: fewer than")


def test_what_passes_every_boundary_is_control_flow() -> None:
    import asyncio

    for error in (KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()):
        assert is_control_flow(error)
    for error in (ValueError(), MemoryError(), BaseException()):
        assert not is_control_flow(error)


def test_a_dead_reference_and_a_number_of_its_own(manager: SafetyManager) -> None:
    native = Native()
    reference = weakref.ref(native)
    assert not is_dead(reference)
    del native
    assert is_dead(reference)
    numbers = [next_id() for _ in range(3)]
    with manager.register(Native(), release=Native.free, release_on=ANY_THREAD) as handle:
        assert len({*numbers, handle.id}) == 4


def test_the_caller_is_outside_the_library_and_a_collection_is_run() -> None:
    assert caller(1) is sys._getframe()
    loop: list[Any] = [Native()]
    loop.append(loop)
    gone = weakref.ref(loop[0])
    del loop
    collect()
    assert gone() is None


def test_facts_are_of_now_and_outlive_their_object(manager: SafetyManager) -> None:
    handle = manager.register(
        Native(), "part", name="left", native=7, size=3, release=Native.free, release_on=ANY_THREAD
    )
    known = facts(handle)
    assert known == facts(pin(handle)) == facts(handle.id, manager)
    assert (known.id, known.type_name, known.name, known.native, known.size) == (
        handle.id,
        "part",
        "left",
        7,
        3,
    )
    assert (known.state, known.has_ended, known.cause) == (ObjectState.VALID, False, None)
    assert str(known) == describe(handle) == f'part "left" (object {handle.id}, native 0x7)'
    handle.close()
    assert (known.state, known.has_ended, known.cause) == (ObjectState.RELEASED, True, "close")
    assert known.born <= known.shut <= known.begun <= known.ended
    assert known.closed_site.startswith("test_lowlevel.py:")
    assert known.fate.startswith("released ")
    assert known.info().state is ObjectState.RELEASED
    with pytest.raises(UnknownObjectError):
        facts(10**12, manager)
    with pytest.raises(LifecycleError, match="takes a handle, a pin or facts"):
        facts("left")  # type: ignore[arg-type]


def test_the_pin_of_what_others_hold_is_had_after_the_close(manager: SafetyManager) -> None:
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    held: Any = pin(handle)
    known = facts(handle)
    handle.close()
    other = held_pin(known)
    assert other is held
    assert raw(other) is native  # type: ignore[arg-type]
    held = None
    tend(manager)
    assert native.released == 0, "it holds like any pin"
    other = None
    tend(manager)
    assert (native.released, held_pin(known), held_pin(handle)) == (1, None, None)


def test_a_pin_holds_and_its_view_holds(manager: SafetyManager) -> None:
    memory = bytearray(b"abc")
    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)
    held: Any = pin(handle)
    import ctypes

    shown = view(held, ctypes.addressof(ctypes.c_char.from_buffer(memory)), 3)
    assert not is_closed(handle)
    handle.close()
    assert is_closed(handle)
    with pytest.raises(AccessRefusedError):
        pin(handle)
    assert (bytes(shown), shown.readonly, native.released) == (b"abc", True, 0)
    assert "view" in {holder.kind for holder in holders(handle)}
    held = None
    assert native.released == 0
    del shown
    gc.collect()
    tend(manager)
    assert native.released == 1


def test_leaving_forgets_what_ends_however_it_ends(manager: SafetyManager) -> None:
    left: list[int] = []
    table = Leaving(left.append)

    def fail(_: object) -> None:
        raise OSError("gone")

    handles = [
        manager.register(Native(), release=Native.free, release_on=ANY_THREAD),
        manager.register(Native(), release=fail, release_on=ANY_THREAD),
        manager.register(Native(), release=Native.free, release_on=ANY_THREAD),
    ]
    ids = [table.enter(handle) for handle in handles]
    assert sorted(table) == ids
    handles[0].close()
    handles[1].close()
    handles[2].detach()
    assert dict(table) == {}
    assert sorted(set(left)) == ids
    assert table.knew(facts(handles[0]))
    late = manager.register(Native(), release=Native.free, release_on=ANY_THREAD)
    late.close()
    table.enter(late)
    assert dict(table) == {}


def test_a_table_that_is_dropped_drops_its_handles() -> None:
    manager = SafetyManager(config=SafetyConfig(leak_level="off"))
    native = Native()
    table = Leaving(lambda _: None)
    table.enter(manager.register(native, release=Native.free, release_on=ANY_THREAD))
    gone = weakref.ref(table)
    del table
    assert gone() is None
    manager.close(timeout=10)
    assert native.released == 1


def test_a_claim_is_taken_once() -> None:
    claim: Claim[object] = Claim()
    claimants = [object() for _ in range(8)]
    won: list[object] = []
    start = threading.Barrier(len(claimants))

    def run(me: object) -> None:
        start.wait()
        if claim.take(me):
            won.append(me)

    threads = [threading.Thread(target=run, args=(me,)) for me in claimants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert claim.held_by(won[0])
    assert claim.take(won[0])
    assert repr(claim) == "<Claim: taken>"


def test_an_interrupted_claim_tells_whose_it_is() -> None:
    me = object()
    for _ in each_interrupt(lambda: Claim[object]().take(me), of=code_of(Claim.take)):
        pass
    claim: Claim[object] = Claim()

    def run() -> None:
        claim.take(me)

    for struck in each_interrupt(run, of=code_of(Claim.take)):
        assert claim.held_by(me) or claim.take(me), struck
        assert claim.held_by(me)


def test_taking_loses_nothing_to_an_interrupt() -> None:
    """K2: an element is in the queue, or in the loop's variable."""
    queue: deque[int] = deque()
    seen: list[int] = []

    def take() -> None:
        number = None
        try:
            for number in taking(queue.popleft):
                seen.append(number)
                number = None
        except IndexError:
            pass
        finally:
            if number is not None and number not in seen:
                queue.appendleft(number)

    for _ in each_interrupt(lambda: (queue.extend((1, 2, 3)), take()), of=code_of(take)):
        assert sorted([*seen, *queue]) == [1, 2, 3]
        seen.clear()
        queue.clear()


def test_a_kept_exception_of_a_method_that_forgets_keeps_nothing() -> None:
    """Neither its own frames nor its arguments; also where one such method calls another."""

    def local(held: Any) -> None:
        raise ValueError("no")

    class Adapter:
        @forgets
        def read(self, held: Any) -> None:
            local(held)

        @forgets
        def outer(self, held: Any) -> None:
            self.read(held)

    for call in (Adapter().read, Adapter().outer):
        natives = [Native()]
        gone = weakref.ref(natives[0])
        with pytest.raises(ValueError, match="no") as caught:
            call(natives.pop())
        kept = caught.value
        del caught
        assert kept.__traceback__ is not None
        assert gone() is None


def test_the_frames_of_the_library_are_forgotten(manager: SafetyManager) -> None:
    """`forgets` on a function of the library: only what the user's own frames hold is kept."""
    from lifecycle._core import facts as module

    native = Native()
    handle = manager.register(native, release=Native.free, release_on=ANY_THREAD)

    @forgets
    def adapter(one: Handle[Any]) -> memoryview:
        return module.view(module.pin(one), -1, 10)

    try:
        adapter(handle)
    except LifecycleError as error:
        kept = error
    frame = kept.__traceback__
    while frame is not None:
        if (
            "lifecycle" in frame.tb_frame.f_code.co_filename
            and "tests" not in frame.tb_frame.f_code.co_filename
        ):
            assert "pin" not in frame.tb_frame.f_locals
        frame = frame.tb_next
    handle.close()
    tend(manager)


def test_a_tally_loses_no_count() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add() for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(tally) == 4000
