"""One native, one owner: a true second owner is refused, and who comes after the first is not."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import traceback
from queue import Queue
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    Handle,
    LifecycleError,
    NotReleased,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle._core import owning, tables
from lifecycle._core.numbers import HAS_IDENTITY
from lifecycle._core.register import withdraw
from lifecycle._core.release import leave_owners
from lifecycle._core.tables import owners, owners_under
from lifecycle.errors import DuplicateError, RegistrationError
from lifecycle.proxies import handle_of
from lifecycle.testing import code_of, each_interrupt, interleavings, switching
from tests.core.adversary import STORM
from tests.support import eventually


@pytest.mark.parametrize("how", ["number", "object"])
def test_who_comes_while_the_release_runs_waits_for_it(manager: SafetyManager, how: str) -> None:
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []
    native: Any = 7 if how == "number" else [7]
    facts: dict[str, Any] = {"native": 7} if how == "number" else {}

    def release(_: object) -> None:
        inside.set()
        go_on.wait(20)
        order.append("first is over")

    first = manager.register(native, "fd", release=release, release_on=ANY_THREAD, **facts)
    closing = threading.Thread(target=first.close)
    closing.start()
    inside.wait(20)
    letting = threading.Timer(0.01, go_on.set)
    letting.start()
    second = manager.register(
        native, "fd", release=lambda _: order.append("second"), release_on=ANY_THREAD, **facts
    )
    go_on.set()
    closing.join()
    with pytest.raises(DuplicateError, match="valid"):
        manager.register(native, "fd", release=print, release_on=ANY_THREAD, **facts)
    second.close()
    assert order == ["first is over", "second"]
    assert not [record for record in owners.values() if record.kind.registry is manager._registry]


def test_who_looked_before_the_release_began_waits_for_it_all_the_same(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def release(_: object) -> None:
        inside.set()
        go_on.wait(20)
        order.append("released")

    first = manager.register(7, "fd", release=release, release_on=ANY_THREAD)
    closing = threading.Thread(target=first.close)
    letting = threading.Timer(0.01, go_on.set)
    looked = owning._make_way

    def look(record: Any) -> bool:
        answer = looked(record)
        if closing.ident is None:
            assert not answer
            closing.start()
            assert inside.wait(20)
            letting.start()
        return answer

    monkeypatch.setattr(owning, "_make_way", look)
    second = manager.register(7, "fd", release=release, release_on=ANY_THREAD)
    order.append("second is there")
    closing.join()
    second.close()
    assert order == ["released", "second is there", "released"]


def test_a_part_takes_the_number_of_a_whole_that_is_being_released(manager: SafetyManager) -> None:
    """Its parent lives beside it, so nobody waits for the parent's end: it would not come."""
    inside, go_on = threading.Event(), threading.Event()

    def release(_: object) -> None:
        inside.set()
        assert go_on.wait(20)

    whole = manager.register([7], "whole", native=7, release=release, release_on=ANY_THREAD)
    closing = threading.Thread(target=whole.close)
    closing.start()
    assert inside.wait(20)
    with pytest.raises(LifecycleError):
        manager.register([8], "part", native=7, release=print, release_on=ANY_THREAD, parent=whole)
    go_on.set()
    closing.join()


@pytest.mark.parametrize("how", ["inside the release", "never_wait", "in the collector"])
def test_who_must_not_wait_takes_over_at_once(manager: SafetyManager, how: str) -> None:
    """The native is free inside its release: a descriptor that was closed, a buffer on its way to the next.
    Waiting there would be waiting for oneself, for a streaming thread, or in the collector."""
    taken: list[Handle[Any]] = []

    def take() -> None:
        taken.append(manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7))

    class Dying:
        def __del__(self) -> None:
            take()

    def release(_: object) -> None:
        if how == "inside the release":
            take()
        elif how == "never_wait":
            with never_wait():
                take()
        else:
            dying: Any = Dying()
            dying.me = dying
            del dying
            gc.collect()

    manager.register([], "fd", release=release, release_on=ANY_THREAD, native=7).close()
    assert len(taken) == 1
    with pytest.raises(DuplicateError):  # what the first left behind on its way out is the second's
        manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7)
    taken[0].close()


def test_an_owner_whose_release_has_not_begun_has_the_native(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle: Handle[Any] = manager.register([], "texture", release=list.clear, release_on=queue, native=7)
    lease = handle.lease()
    handle.close()
    for state in ("closing", "due"):
        with pytest.raises(DuplicateError, match=state):
            manager.register([], "texture", release=list.clear, release_on=queue, native=7)
        lease.close()
    queue.drain()
    manager.register([], "texture", release=list.clear, release_on=queue, native=7).close()
    queue.drain()


def test_an_owner_whose_release_is_to_be_called_again_has_the_native(manager: SafetyManager) -> None:
    calls: list[int] = []

    def release(_: object) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise NotReleased("busy")

    handle: Handle[Any] = manager.register([], "fd", release=release, release_on=ANY_THREAD, native=7)
    handle.close()
    if len(calls) < 3:
        with pytest.raises(DuplicateError):
            manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7)
    eventually(lambda: handle.close(timeout=20))
    manager.register([], "fd", release=list.clear, release_on=ANY_THREAD, native=7).close()


@pytest.mark.parametrize("how", ["native", "int"])
@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_storm_of_descriptors(manager: SafetyManager, how: str, place: Any) -> None:
    """Four threads open and close descriptors in two managers, and the kernel gives them out again at once:
    none is refused. Now and then one is registered twice on purpose, at another place and in the other manager:
    each of those is."""
    other = SafetyManager(SafetyConfig(leak_level="off"), name="other")
    false_alarms: list[str] = []
    missed: list[int] = []
    planted: list[int] = []
    turns = int((600 if place is ANY_THREAD else 150) * STORM)

    def facts(number: int) -> dict[str, Any]:
        return {"native": number} if how == "native" else {}

    def work(mine: SafetyManager, another: SafetyManager) -> None:
        for turn in range(turns):
            for number in os.pipe():
                try:
                    handle = mine.register(number, "fd", release=os.close, release_on=place, **facts(number))
                except DuplicateError as error:
                    false_alarms.append(str(error))
                    os.close(number)
                    continue
                if turn % 20 == 0:
                    planted.append(number)
                    try:
                        another.register(
                            number, "fd", release=os.close, release_on=ANY_THREAD, **facts(number)
                        )
                        missed.append(number)
                    except DuplicateError:
                        pass
                handle.close()

    with switching():
        pairs = [(manager, other), (other, manager)] * 2
        threads = [threading.Thread(target=work, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not false_alarms, (len(false_alarms), false_alarms[0])
    assert not missed
    assert len(planted) == 4 * ((turns + 19) // 20) * 2
    other.close()


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_a_ring_whose_release_hands_the_buffer_on(manager: SafetyManager, place: Any) -> None:
    """The next thread registers the object while the release that handed it on still runs."""
    ring: Queue[list[int]] = Queue()
    for number in range(3):
        ring.put([number])
    refused: list[str] = []
    missed: list[object] = []

    def work() -> None:
        for turn in range(int((500 if place is ANY_THREAD else 100) * STORM)):
            buffer = ring.get(timeout=20)
            try:
                handle = manager.register(buffer, "buffer", release=ring.put, release_on=place)
            except DuplicateError as error:
                refused.append(str(error))
                ring.put(buffer)
                continue
            if turn % 20 == 0:
                try:
                    manager.register(buffer, "buffer", release=ring.put, release_on=place)
                    missed.append(buffer)
                except DuplicateError:
                    pass
            handle.close()

    with switching():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not refused, (len(refused), refused[0])
    assert not missed
    eventually(lambda: not ours(manager))


def ours(*managers: SafetyManager) -> list[object]:
    """What is left in the table of owners."""
    registries = [manager._registry for manager in managers]
    return [
        key
        for key in list(owners)
        if any(record.kind.registry is registry for record in owners_under(key) for registry in registries)
    ]


# -- what is one native --------------------------------------------------------------------------------------

ADDRESS = 0x7F00_1234_5000


class Wrapper:
    """Stands for a native."""


def freed(_: object) -> None:
    """A release."""


@pytest.mark.parametrize("first", ["native", "int", "numpy", "ctypes", "pointer"])
@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND, "a queue"], ids=str)
@pytest.mark.parametrize("where", ["here", "in another manager"])
def test_an_address_is_one_native_in_the_process(
    manager: SafetyManager, first: str, place: Any, where: str
) -> None:
    place = ReleaseQueue("gl") if place == "a queue" else place
    memory = (ctypes.c_ubyte * 16)()
    address = ctypes.addressof(memory)
    assert 2**32 <= address < 2**48
    native: Any = address
    if first == "numpy":
        native = pytest.importorskip("numpy").uint64(address)
    elif first == "ctypes":
        native = ctypes.c_void_p(address)
    elif first == "pointer":
        native = ctypes.pointer(memory)
    if first == "int":
        handle: Handle[Any] = manager.register(address, "buffer", release=freed, release_on=ANY_THREAD)
        assert handle.native == address
    else:
        handle = manager.register(Wrapper(), "buffer", release=freed, release_on=ANY_THREAD, native=native)
    with SafetyManager(name="other") as other:
        second = manager if where == "here" else other
        with pytest.raises(DuplicateError, match="unique=False") as told:
            second.register(Wrapper(), "texture", release=id, release_on=place, native=address)
        assert told.value.id == handle.id
        with pytest.raises(DuplicateError):
            second.register(address, "texture", release=id, release_on=place)
        handle.close()
        again = second.register(Wrapper(), "texture", release=freed, release_on=place, native=address)
        again.close(timeout=0)
        if isinstance(place, ReleaseQueue):
            place.drain()
        eventually(lambda: not ours(manager, other))


def test_other_names_are_those_of_a_type_and_a_world(manager: SafetyManager) -> None:
    gl, other_gl = ReleaseQueue("gl", thread="current"), ReleaseQueue("another gl", thread="current")
    with SafetyManager(name="other") as other:
        for native in (7, ("vk.Image", 7), "a name", 2**50):

            def make(kind: str, place: Any, by: SafetyManager = manager, native: Any = native) -> Handle[Any]:
                return by.register(Wrapper(), kind, release=freed, release_on=place, native=native)

            handles = [make("fd", ANY_THREAD), make("texture", ANY_THREAD), make("texture", gl)]
            handles.append(make("texture", other_gl))
            for kind, place, by in (
                ("fd", BACKGROUND, manager),  # one process
                ("fd", ANY_THREAD, other),
                ("texture", gl, manager),
                ("texture", gl, other),
            ):
                with pytest.raises(DuplicateError):
                    make(kind, place, by)
            gl.lost("context died")  # another world
            handles.append(make("texture", gl))
            for handle in handles:
                handle.close()
        eventually(lambda: not ours(manager, other))


def test_ints_are_those_of_a_release(manager: SafetyManager) -> None:
    gone: list[int] = []
    first = manager.register(7, "handle", release=gone.append, release_on=ANY_THREAD)
    assert first.native == 7
    with pytest.raises(DuplicateError, match="native 0x7"):
        manager.register(7, "another type", release=gone.append, release_on=BACKGROUND)
    others = [
        manager.register(7, "handle", release=freed, release_on=ANY_THREAD),  # textures 7 and buffer 7
        manager.register(7, "handle", release=lambda _: None, release_on=ANY_THREAD),
        manager.register(7, "handle", release=lambda _: None, release_on=ANY_THREAD),
        manager.register(7, "handle", release=gone.append, release_on=ReleaseQueue("gl", thread="current")),
    ]
    for handle in (first, *others):
        handle.close()
    assert first.native == 7
    assert gone == [7, 7]
    assert not ours(manager)


class Number(int):
    """A binding's own type of handles."""


def _pointer(number: int) -> Any:
    return ctypes.cast(number, ctypes.POINTER(ctypes.c_int))


def _of_numpy(number: int) -> Any:
    return pytest.importorskip("numpy").uint64(number)


def _of_cffi(number: int) -> Any:
    return _cffi("char *", number)


def _cffi(ctype: str, value: Any) -> Any:
    return pytest.importorskip("cffi").FFI().cast(ctype, value)


FORMS: dict[str, Any] = {
    "int": int,
    "subclass": Number,
    "c_void_p": ctypes.c_void_p,
    "c_uint64": ctypes.c_uint64,
    "c_uint64.__ctype_be__": lambda number: ctypes.c_uint64.__ctype_be__(number),
    # Nothing is mapped there: what it points to is not looked at.
    "c_char_p": ctypes.c_char_p,
    "c_wchar_p": ctypes.c_wchar_p,
    "pointer": _pointer,
    "numpy": _of_numpy,
    "cffi": _of_cffi,
    "cffi number": lambda number: _cffi("uint64_t", number),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_number_is_the_same_native_in_every_form(manager: SafetyManager, form: str) -> None:
    make, number = FORMS[form], 0x7F00_1234_8000
    freed: list[Any] = []
    first = manager.register(make(number), "image", release=freed.append, release_on=ANY_THREAD)
    assert first.native == number
    for again in (make(number), number, ctypes.c_void_p(number)):
        with pytest.raises(DuplicateError, match="native 0x7f0012348000 is owned"):
            manager.register(again, "image", release=freed.append, release_on=ANY_THREAD)
        with pytest.raises(DuplicateError):
            manager.register([1], "other", native=again, release=freed.append)
    assert first.close()
    assert len(freed) == 1
    assert manager.register(make(number), "image", release=freed.append, release_on=ANY_THREAD).close()


def test_small_numbers_in_other_forms_and_null(manager: SafetyManager) -> None:
    freed: list[Any] = []
    first = manager.register(ctypes.c_uint32(7), "texture", release=freed.append, release_on=ANY_THREAD)
    with pytest.raises(DuplicateError):
        manager.register(7, "texture", release=freed.append)
    assert first.close()
    nulls = [ctypes.c_void_p(), ctypes.POINTER(ctypes.c_int)(), ctypes.c_void_p()]
    handles = [manager.register(null, "null", release=freed.append, release_on=ANY_THREAD) for null in nulls]
    assert all(handle.close() for handle in handles)


def _owned_by_both(manager: SafetyManager, first: Any, second: Any) -> bool:
    """Whether two objects of different types may have these natives."""
    one = manager.register([1], "A", native=first, release=lambda _: None, release_on=ANY_THREAD)
    try:
        manager.register([2], "B", native=second, release=lambda _: None, release_on=ANY_THREAD).close()
    except DuplicateError:
        return False
    finally:
        one.close()
    return True


@pytest.mark.parametrize("make", [ctypes.c_void_p, _pointer, lambda number: _cffi("void *", number)])
def test_a_pointer_to_where_nothing_is_mapped_is_a_name(manager: SafetyManager, make: Any) -> None:
    """As of Windows handles, and of libraries that give out numbers as pointers."""
    assert _owned_by_both(manager, make(7), make(7))
    assert not _owned_by_both(manager, make(1 << 16), make(1 << 16))


def test_what_cffi_calls_a_number_is_no_pointer(manager: SafetyManager) -> None:
    assert _owned_by_both(manager, _cffi("int", 1 << 20), _cffi("int", 1 << 20))
    assert not _owned_by_both(manager, _cffi("int *", 1 << 20), _cffi("int *", 1 << 20))
    halves = [_cffi("double", 7.5), _cffi("double", 7.25)]
    handles = [
        manager.register(half, "half", release=lambda _: None, release_on=ANY_THREAD) for half in halves
    ]
    assert all(handle.close() for handle in handles)


@pytest.mark.parametrize("form", ["c_void_p", "c_char_p", "pointer", "function"])
def test_looking_at_a_pointer_leaves_no_reference_to_it(manager: SafetyManager, form: str) -> None:
    """`ctypes.cast` has an object refer to itself, so that only the collector would free it."""
    one = ctypes.CDLL(None)["abs"] if form == "function" else FORMS[form](0x7F00_1234_8000)
    before = gc.get_referents(one)
    if form == "function":
        manager.register(77, "thing", release=one, release_on=ANY_THREAD).close()
    else:
        manager.register(one, "thing", release=lambda _: None, release_on=ANY_THREAD).close()
        manager.register([1], "thing", native=one, release=list.clear, release_on=ANY_THREAD).close()
    assert gc.get_referents(one) == before
    assert not (isinstance(one._objects, dict) and any(each is one for each in one._objects.values()))


def test_memory_of_the_c_heap_is_an_address_wherever_that_lies(manager: SafetyManager) -> None:
    """A program that was linked to lie at a fixed address has its heap below 2**32."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    number = libc.malloc(64)
    other = SafetyManager(name="other")
    first = manager.register(number, "A", release=libc.free, release_on=ANY_THREAD)
    with pytest.raises(DuplicateError):
        other.register([1], "B", native=number, release=lambda _: None)
    with pytest.raises(DuplicateError):
        other.register(ctypes.c_void_p(number), "C", release=lambda _: None, release_on=ANY_THREAD)
    assert first.close()
    other.register([1], "B", native=number, release=lambda _: None, release_on=ANY_THREAD).close()
    other.close()


def test_a_function_of_ctypes_is_one_however_often_it_is_looked_up(manager: SafetyManager) -> None:
    libc = ctypes.CDLL(None)
    first = manager.register(77, "thing", release=libc["abs"], release_on=ANY_THREAD)
    with pytest.raises(DuplicateError):
        manager.register(77, "thing", release=libc["abs"])
    manager.register(77, "thing", release=libc["labs"], release_on=ANY_THREAD).close()
    assert first.close()


def test_a_proxy_is_not_registered_once_more(manager: SafetyManager) -> None:
    proxy = manager.proxy(Queue[int](), release="join")
    with pytest.raises(RegistrationError, match=r"handle_of\(proxy\)\.share\(\)"):
        manager.register(proxy, release=Queue.join)
    child = manager.register([1], "child", release=list.clear, release_on=ANY_THREAD, parent=proxy)
    proxy.join()
    assert str(handle_of(proxy).state) == "closing"
    assert child.close()
    assert handle_of(proxy).close(timeout=20)


def test_classes_that_may_go_are_not_kept(manager: SafetyManager) -> None:
    """What is remembered of a class keeps none that its module does not keep."""
    passing: Any = type("Passing", (), {})
    for cls in (passing, Wrapper):
        manager.register(cls(), "some", release=lambda _: None, release_on=ANY_THREAD).close()
    assert Wrapper in HAS_IDENTITY
    assert passing not in HAS_IDENTITY


@pytest.mark.parametrize("number", [0, -1])
def test_no_native_is_checked_never(manager: SafetyManager, number: int) -> None:
    handles: list[Handle[Any]] = []
    for _ in range(2):
        handles += [
            manager.register(number, "fd", release=freed, release_on=ANY_THREAD),
            manager.register(Wrapper(), "fd", release=freed, release_on=ANY_THREAD, native=number),
            manager.register(Wrapper(), "p", release=freed, native=ctypes.c_void_p(None)),
            manager.register(True, "flag", release=freed),
        ]
    for handle in handles:
        handle.close()
    assert not ours(manager)


def test_what_counts_references_is_registered_as_often_as_it_was_counted(manager: SafetyManager) -> None:
    unref: list[object] = []
    one = Wrapper()
    handles: list[Handle[Any]] = [
        manager.register(one, "g", release=unref.append, release_on=ANY_THREAD, native=ADDRESS, unique=False)
        for _ in range(3)
    ]
    handles.append(
        manager.register(one, "g", release=unref.append, release_on=ANY_THREAD)
    )  # an owner as well
    make = manager.factory(lambda: one, "g", release=unref.append, release_on=ANY_THREAD, unique=False)
    handles.append(make())
    for handle in handles:
        handle.close()
    assert len(unref) == 5
    assert not ours(manager)


def test_a_name_whose_release_cannot_be_hashed(manager: SafetyManager) -> None:
    class Release:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, obj: object) -> None: ...

    release = Release()
    handle = manager.register(7, "n", release=release, release_on=ANY_THREAD)
    with pytest.raises(DuplicateError):
        manager.register(7, "n", release=release, release_on=ANY_THREAD)
    handle.close()
    assert not ours(manager)


# -- two lives of one object ---------------------------------------------------------------------------------


def test_one_life_within_another(manager: SafetyManager) -> None:
    """create … destroy, and within it map … unmap, several times."""
    calls: list[str] = []
    buffer = Wrapper()
    whole = manager.register(
        buffer, "Buffer", release=lambda _: calls.append("destroy"), release_on=ANY_THREAD
    )

    def mapped(parent: Any = whole, **facts: Any) -> Handle[Any]:
        return manager.register(
            buffer,
            "Mapping",
            release=lambda _: calls.append("unmap"),
            release_on=ANY_THREAD,
            parent=parent,
            **facts,
        )

    for _ in range(2):
        inner = mapped()
        part = mapped(parent=inner)  # of that mapping
        for stranger in ({"parent": None}, {"parent": whole}):
            with pytest.raises(DuplicateError):
                mapped(**stranger)
        inner.close()
        part.close()
        with pytest.raises(DuplicateError, match="Buffer"):  # the outer life goes on
            mapped(parent=None)
    inner = mapped()
    whole.close()
    assert calls[-1] == "unmap"
    assert whole.state == "closing"
    inner.close()
    assert calls == ["unmap"] * 5 + ["destroy"]
    assert not ours(manager)


def test_two_natives_of_one_object(manager: SafetyManager) -> None:
    """Each map() gives another address, to be given back by itself."""
    buffer = Wrapper()

    def mapped(address: int | None) -> Handle[Any]:
        return manager.register(buffer, "Mapping", release=freed, release_on=ANY_THREAD, native=address)

    first, second = mapped(ADDRESS), mapped(ADDRESS + 4096)
    for address in (ADDRESS, ADDRESS + 4096, None):
        with pytest.raises(DuplicateError):
            mapped(address)
    first.close()
    with pytest.raises(DuplicateError):
        mapped(None)
    third = mapped(ADDRESS)
    second.close()
    third.close()
    assert not ours(manager)


def test_a_struct_and_its_first_member(manager: SafetyManager) -> None:
    outer = manager.register(Wrapper(), "Outer", release=freed, release_on=ANY_THREAD, native=ADDRESS)
    with pytest.raises(DuplicateError, match="parent="):
        manager.register(Wrapper(), "Inner", release=freed, release_on=ANY_THREAD, native=ADDRESS)
    inner = manager.register(
        Wrapper(), "Inner", release=freed, release_on=ANY_THREAD, native=ADDRESS, parent=outer
    )
    outer.close()
    inner.close()
    assert outer.state == "released"
    assert not ours(manager)


# -- adversaries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["lives", "natives", "refused", "taken over", "int"])
def test_an_interrupt_at_each_point_leaves_no_entry(scene: str) -> None:
    manager = SafetyManager(SafetyConfig(leak_level="off"), name="struck")
    buffer = Wrapper()
    facts: dict[str, Any] = {"release": freed, "release_on": ANY_THREAD}

    def run() -> None:
        whole = inner = None
        try:
            if scene == "int":
                manager.register(77, "n", **facts).close()
                return
            whole = manager.register(buffer, "b", native=ADDRESS if scene == "natives" else None, **facts)
            if scene == "natives":
                inner = manager.register(buffer, "b", native=ADDRESS + 1, **facts)
            elif scene == "lives":
                inner = manager.register(buffer, "m", parent=whole, native=ADDRESS, **facts)
            elif scene == "refused":
                with contextlib.suppress(DuplicateError):
                    manager.register(buffer, "b", native=8, **facts)
            else:
                # Inside the release the native is another's.
                taken: list[Handle[Any]] = []

                def release(obj: object) -> None:
                    taken.append(manager.register(obj, "b", **facts))

                other = Wrapper()
                manager.register(other, "b", release=release, release_on=ANY_THREAD).close()
                taken.pop().close()
        finally:
            try:
                if inner is not None:
                    inner.close()
            finally:
                if whole is not None:
                    whole.close()

    points = 0
    for struck in each_interrupt(run, of=code_of(owning, tables.keys_of, leave_owners, withdraw)):
        points += 1
        where = str(struck)
        if struck.error is not None:
            traceback.clear_frames(struck.error.__traceback__)
        struck = None  # type: ignore[assignment]

        def over() -> bool:
            manager.register(Wrapper(), "flush", **facts).close()
            return not ours(manager)

        eventually(over)
        assert where
    assert points > 3
    assert not manager.close().leaked


class Contested:
    """A native that several want, and how often it is owned."""

    def __init__(self, manager: SafetyManager) -> None:
        self.manager = manager
        self.log: list[str] = []
        self.handles: list[Handle[Any]] = []
        self.register()

    def register(self) -> None:
        try:
            handle = self.manager.register(self, "b", release=self.release, release_on=ANY_THREAD)
        except DuplicateError:
            self.log.append("refused")
            return
        self.log.append("owned")
        self.handles.append(handle)

    def release(self) -> None:
        self.log.append("released")

    def close(self) -> None:
        self.handles[0].close()


@pytest.mark.parametrize("names", ["close register", "register register", "close register register"])
def test_in_every_order_of_registrations_and_a_close(manager: SafetyManager, names: str) -> None:
    """Whatever newcomers and the close of the owner do to each other: each who owned it released it, nobody
    is refused once it is free, and no entry is left."""
    scenes: list[Contested] = []

    def scene() -> list[Any]:
        for before in scenes:
            for handle in before.handles:
                handle.close()
        scenes[:] = [Contested(manager)]
        return [getattr(scenes[0], name) for name in names.split()]

    runs = 0
    for run in interleavings(scene, of=code_of(owning, leave_owners), switches=2, limit=int(60 * STORM)):
        runs += 1
        for outcome in run.outcomes:
            assert outcome.error is None, (str(run), outcome.error)
        contested = scenes[0]
        for handle in contested.handles:
            handle.close()
        log = contested.log
        assert log.count("owned") == log.count("released"), (str(run), log)
        if "close" not in names:
            assert log.count("owned") == 1, (str(run), log)
        assert not ours(manager), str(run)
    assert runs >= 2


def test_an_interrupt_as_a_second_owner_is_refused_leaves_no_entry_of_it(manager: SafetyManager) -> None:
    """An entry would keep the object of the refused registration for ever."""
    first = manager.register(Target(), "native", native=7, release=id)
    points = 0
    for _ in each_interrupt(
        lambda: outcome(lambda: manager.register(Target(), "native", native=7, release=id)),
        of=code_of(withdraw),
    ):
        points += 1
        eventually(
            lambda: sum(record.kind.registry is manager._registry for record in list(owners.values())) == 2
        )
    assert points > 3
    first.close()


class Target:
    """Owned."""


def outcome(make: Any) -> None:
    """Refused."""
    with pytest.raises(DuplicateError):
        make()
