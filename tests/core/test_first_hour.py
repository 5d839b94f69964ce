"""What people write first does what it says, or says what else to write."""

from __future__ import annotations

import ctypes
import functools
import gc
import mmap
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessRefusedError,
    ClosedError,
    Handle,
    LifecycleError,
    NotReleased,
    RegistrationError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import kept
from lifecycle.errors import CallbackError, ForeignHandleError, UnknownObjectError
from tests.support import eventually

PLACES = [ANY_THREAD, BACKGROUND]


class Device:
    """A native with methods, as users have them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def close(self, *how: Any) -> None:
        self.calls.append(how)

    def stop(self, force: bool) -> None:
        self.calls.append(force)

    def reset(self, force: bool = False) -> None:
        self.calls.append(force)

    def take(self, other: object) -> None:
        self.calls.append(other)

    @classmethod
    def end(cls, device: Device) -> None:
        device.calls.append("end")

    label = "a text"


@pytest.fixture
def manager() -> Iterator[SafetyManager]:
    with SafetyManager(
        SafetyConfig(finalizer_timeout=2.0, shutdown_timeout=2.0), name="first hour"
    ) as manager:
        yield manager


# -- releases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=repr)
@pytest.mark.parametrize("how", ["bound", "name", "reset", "default"])
def test_a_method_of_the_object_runs_once_with_nothing_more(
    manager: SafetyManager, place: Any, how: str
) -> None:
    device = Device()
    releases: dict[str, Any] = {
        "bound": device.close,
        "name": "close",
        "reset": device.reset,
        "default": "reset",
    }
    release = releases[how]
    handle = manager.register(device, release=release, release_on=place)
    assert handle.close(timeout=5)
    assert device.calls == [() if how in ("bound", "name") else False]


def test_a_bound_method_does_not_keep_the_object(manager: SafetyManager) -> None:
    """I4: the place drops the last reference."""
    device = Device()
    gone = weakref.ref(device)
    handle = manager.register(device, release=device.close, release_on=ANY_THREAD)
    record = handle._record
    assert device not in gc.get_referents(record.release)
    del device
    handle.close()
    assert gone() is None


def test_methods_of_c_types_too(manager: SafetyManager) -> None:
    memory = mmap.mmap(-1, 4096)
    assert manager.register(memory, release=memory.close, release_on=ANY_THREAD).close()
    assert memory.closed
    items = [1, 2]
    assert manager.register(items, release=items.clear, release_on=ANY_THREAD).close()
    assert items == []
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is what is registered
    assert manager.register(file, release="close", release_on=ANY_THREAD).close()
    assert file.closed
    shared = SharedMemory(create=True, size=64)
    shared.unlink()
    assert manager.register(shared, release=shared.close, release_on=ANY_THREAD).close()


def test_methods_of_others_get_the_object(manager: SafetyManager) -> None:
    device, other, free = Device(), Device(), []  # type: ignore[var-annotated]
    manager.register(device, release=other.take, release_on=ANY_THREAD).close()
    assert other.calls == [device]
    manager.register(device, release=free.append, release_on=ANY_THREAD).close()
    assert free == [device]
    manager.register(device, release=Device.end, release_on=ANY_THREAD).close()
    assert device.calls == ["end"]
    manager.register(
        device, release=functools.partial(Device.stop, force=True), release_on=ANY_THREAD
    ).close()
    assert device.calls == ["end", True]
    manager.register(device, release=lambda *each: free.extend(each), release_on=ANY_THREAD).close()
    assert free == [device, device]


class Callable_:
    def __call__(self) -> None:
        """Takes nothing."""


REFUSED: list[tuple[str, Callable[[Device], Any], str]] = [
    (
        "partial of its method",
        lambda d: functools.partial(d.stop, True),
        r"release=lambda obj: obj\.stop\(True\)",
    ),
    (
        "partial with keywords",
        lambda d: functools.partial(d.stop, force=True),
        r"lambda obj: obj\.stop\(force=True\)",
    ),
    ("partial over it", lambda d: functools.partial(Device.stop, d, True), r"lambda obj: stop\(obj, True\)"),
    ("no argument", lambda d: lambda: d.close(), r"takes no argument.*release=lambda obj: "),
    ("a callable without arguments", lambda d: Callable_(), "takes no argument"),
    ("two arguments", lambda d: lambda a, b: None, "takes 2 arguments"),
    ("its method needs more", lambda d: d.stop, "takes .* arguments"),
    ("another's method that takes nothing", lambda d: Exact().nothing, "takes no argument"),
    ("a name that must be given", lambda d: lambda obj, *, force: None, "must be named"),
    ("partial of too little", lambda d: functools.partial(lambda: None), "takes no argument"),
    ("partial of too much", lambda d: functools.partial(lambda a, b, c, d: None, 1), "takes 3 arguments"),
    ("partial that names it", lambda d: functools.partial(lambda obj: None, obj=1), "takes no argument"),
    ("a class of exceptions", lambda d: OSError, "class of exceptions"),
    ("no such method", lambda d: "clsoe", r"has no method of that name \(it has .*close.*\)"),
    ("no method but data", lambda d: "label", "has no method of that name"),
    ("a name that needs more", lambda d: "stop", "takes .* arguments"),
    ("no name at all", lambda d: "not a name", "the name of a method"),
    ("no function", lambda d: 7, "must be callable"),
]


class Exact:
    def nothing(self) -> None:
        """Takes nothing."""


@pytest.mark.parametrize(("what", "release", "says"), REFUSED, ids=[each[0] for each in REFUSED])
def test_a_release_that_cannot_work_is_refused_at_once(
    manager: SafetyManager, what: str, release: Callable[[Device], Any], says: str
) -> None:
    """I9: the object is still the caller's."""
    device = Device()
    with pytest.raises(RegistrationError, match=says):
        manager.register(device, release=release(device), release_on=ANY_THREAD)
    assert device.calls == []
    assert manager.objects() == ()
    assert manager.register(device, release="close", release_on=ANY_THREAD).close()
    assert device.calls == [()]


def failed_open() -> Any:
    """What a function of ctypes returns for NULL."""


@pytest.mark.parametrize("release", [ctypes.CDLL(None).free, lambda address: None, "close"])
def test_none_is_what_a_failed_open_returns(manager: SafetyManager, release: Any) -> None:
    """A function of C would be called with NULL."""
    match = (
        "no method of that name"
        if release == "close"
        else "is None: the call that makes it has perhaps failed"
    )
    with pytest.raises(RegistrationError, match=match):
        manager.register(failed_open(), "device", release=release, release_on=ANY_THREAD)
    with pytest.raises(RegistrationError, match=match):
        manager.factory(failed_open, "device", release=release, release_on=ANY_THREAD)()
    assert manager.objects() == ()


def test_none_may_stand_for_a_native_that_has_a_name(manager: SafetyManager) -> None:
    given: list[Any] = []
    assert manager.register(None, "section", native=7, release=given.append, release_on=ANY_THREAD).close()
    assert manager.register(
        None, "section", unique=False, release=given.append, release_on=ANY_THREAD
    ).close()
    assert given == [None, None]


@pytest.mark.parametrize("by", ["name", "method"])
def test_a_method_whose_body_would_run_later_is_refused(manager: SafetyManager, by: str) -> None:
    class Later(Device):
        async def aclose(self) -> None:
            """Would not have run when the call returns."""

    device = Later()
    with pytest.raises(CallbackError, match="its body would not run"):
        manager.register(device, release="aclose" if by == "name" else device.aclose)
    assert manager.objects() == ()


def test_factories_and_registrars_take_the_name_of_a_method(manager: SafetyManager) -> None:
    make = manager.factory(Device, release="close", release_on=ANY_THREAD)
    with make() as handle, handle.lease() as device:
        assert device.calls == []
    assert device.calls == [()]
    register = manager.registrar("device", release="close", release_on=ANY_THREAD)
    register(device, None, 0).close()
    assert device.calls == [(), ()]
    with pytest.raises(RegistrationError, match="no argument"):
        manager.factory(Device, release=lambda: None, release_on=ANY_THREAD)  # type: ignore[arg-type, misc]
    wrong = manager.factory(Device, release="clsoe", release_on=ANY_THREAD, limit=1)
    for _ in range(2):  # nothing was registered, so the place is free
        with pytest.raises(RegistrationError, match=r"has no method of that name \(it has .*close"):
            wrong()


# -- what is kept alive --------------------------------------------------------------------------------------


class Kept:
    pass


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_kept_alive_until_the_release_has_returned(manager: SafetyManager, place: Any) -> None:
    kept_one = Kept()
    gone = weakref.ref(kept_one)
    during: list[bool] = []
    handle = manager.register(
        Device(),
        release=lambda device: during.append(gone() is not None),
        release_on=place,
        keep_alive=(kept_one,),
    )
    del kept_one
    gc.collect()
    assert gone() is not None
    handle.close(timeout=5)
    assert during == [True]
    eventually(lambda: gone() is None)


def test_one_object_alone_needs_no_tuple(manager: SafetyManager) -> None:
    kept_one = Kept()
    gone = weakref.ref(kept_one)
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD, keep_alive=kept_one)
    del kept_one
    assert gone() is not None
    handle.close()
    assert gone() is None


class Odd(Kept):
    """As an array, of which it cannot be asked whether it is true; or as an empty buffer, which is not."""

    def __init__(self, answer: bool | None) -> None:
        self.answer = answer

    def __bool__(self) -> bool:
        if self.answer is None:
            raise ValueError("The truth value of an array with more than one element is ambiguous")
        return self.answer


@pytest.mark.parametrize("answer", [None, False])
def test_what_is_kept_is_not_asked_whether_it_is_true(manager: SafetyManager, answer: bool | None) -> None:
    kept_one = Odd(answer)
    gone = weakref.ref(kept_one)
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD, keep_alive=kept_one)
    del kept_one
    assert gone() is not None
    handle.close()
    assert gone() is None


@pytest.mark.parametrize("end", ["failed", "stuck", "orphaned", "detached"])
def test_kept_for_ever_where_the_native_may_still_call(end: str) -> None:
    manager = SafetyManager(SafetyConfig(finalizer_timeout=0.1), name="for ever")
    kept_one = Kept()
    gone = weakref.ref(kept_one)
    queue = ReleaseQueue("gl")
    hangs = threading.Event()

    def release(device: Device) -> None:
        if end == "stuck":
            hangs.wait(20)
        raise OSError("no")

    handle = manager.register(
        Device(),
        release=release,
        release_on=queue if end == "orphaned" else BACKGROUND if end == "stuck" else ANY_THREAD,
        keep_alive=(kept_one,),
    )
    del kept_one
    if end == "detached":
        handle.detach()
    elif end == "orphaned":
        queue.lost("context destroyed")
    else:
        handle.close()
    assert handle.state == end
    del handle
    manager.close()
    gc.collect()
    assert gone() is not None
    hangs.set()
    kept.for_ever.clear()


def test_functions_for_c_are_let_go_a_moment_later(manager: SafetyManager) -> None:
    """The release may run inside such a function, whose machine code has still to return."""
    thunk = manager.callback(lambda: 7, ctypes.CFUNCTYPE(ctypes.c_int))
    gone = weakref.ref(thunk)
    called: list[int] = []

    def inside() -> int:
        handles.pop().close()
        return 5

    handles: list[Handle[Any]] = []
    outer = ctypes.CFUNCTYPE(ctypes.c_int)(inside)
    handles.append(
        manager.register(Device(), release="close", release_on=ANY_THREAD, keep_alive=(thunk, outer))
    )
    del thunk
    called.append(outer())
    assert called == [5]
    del outer
    eventually(lambda: gone() is None, timeout=20)


# -- callbacks -----------------------------------------------------------------------------------------------

INT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


def test_a_callback_returns_what_its_function_does(manager: SafetyManager) -> None:
    assert manager.callback(lambda number: number + 1, INT)(4) == 5
    nothing = manager.callback(lambda: None, ctypes.CFUNCTYPE(None))
    assert nothing() is None


def test_no_exception_gets_into_c(manager: SafetyManager, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(number: int) -> int:
        raise [ValueError("odd"), KeyError("k"), SystemExit(3)][number]

    thunk = manager.callback(fail, INT, errors=KeyError, on_error=-1)
    assert [thunk(number) for number in range(3)] == [-1, -1, -1]
    odd = manager.callback(lambda number: "text", INT, on_error=-2)
    assert odd(1) == -2
    none = manager.callback(lambda number: None, INT, on_error=-3)
    assert none(1) == -3
    stats = manager.stats()
    assert (stats.types["callback"].panics, stats.types["callback"].errors) == (4, 1)
    for result, fits in ((2**70, False), (2**32 - 1, True), (-(2**31) - 1, False), (-1, True)):
        large = manager.callback(lambda _, result=result: result, INT, on_error=-4)
        assert large(1) == (ctypes.c_int(result).value if fits else -4)
    with pytest.raises(RegistrationError, match="does not fit into c_int"):
        manager.callback(print, INT, on_error=2**40)
    manager.close()
    assert "Exception ignored" not in capfd.readouterr().err


def test_ctrl_c_is_raised_behind_c(manager: SafetyManager) -> None:
    def strike(number: int) -> int:
        signal.raise_signal(signal.SIGINT)
        for _ in range(10):
            time.sleep(0)
        return 1

    thunk = manager.callback(strike, INT, on_error=-1)
    with pytest.raises(KeyboardInterrupt):
        assert thunk(1) == -1
        time.sleep(5)
    assert "callback" not in manager.stats().types or manager.stats().types["callback"].panics == 0


def test_a_bound_method_is_kept_weakly_and_a_function_is_kept(manager: SafetyManager) -> None:
    class Player:
        def on_audio(self, number: int) -> int:
            return number + 1

    player = Player()
    gone = weakref.ref(player)
    thunk = manager.callback(player.on_audio, INT, on_error=-1)
    assert thunk(1) == 2
    del player
    gc.collect()
    assert gone() is None
    assert thunk(1) == -1
    function = manager.callback(lambda number: number, INT)
    gc.collect()
    assert function(3) == 3


def test_what_is_no_callback_is_refused(manager: SafetyManager) -> None:
    with pytest.raises(RegistrationError, match="CFUNCTYPE"):
        manager.callback(print, int)
    with pytest.raises(RegistrationError, match="cannot be given to C as c_int"):
        manager.callback(print, INT, on_error="no")
    with pytest.raises(RegistrationError, match="must be callable"):
        manager.callback(7, INT)  # type: ignore[arg-type]

    async def later(number: int) -> int:
        return number

    with pytest.raises(CallbackError):
        manager.callback(later, INT)


# -- parents -------------------------------------------------------------------------------------------------


def family(manager: SafetyManager, place: Any = ANY_THREAD) -> tuple[list[str], Callable[..., Handle[Any]]]:
    order: list[str] = []

    def make(name: str, parent: Any = None) -> Handle[Any]:
        return manager.register(
            [name], name, release=lambda obj: order.extend(obj), release_on=place, parent=parent
        )

    return order, make


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_released_before_each_of_several_parents(manager: SafetyManager, place: Any) -> None:
    order, make = family(manager, place)
    buffer, texture = make("buffer"), make("texture")
    group = make("group", (buffer, texture, buffer))
    info = next(each for each in manager.objects() if each.id == group.id)
    assert info.parents == (buffer.id, texture.id)
    assert info.parent == buffer.id
    assert f"its child group (object {group.id})" in str(buffer.holders())
    assert f"its child group (object {group.id})" in str(texture.holders())
    buffer.close(timeout=0)
    texture.close(timeout=0)
    assert order == []
    assert group.close(timeout=5)
    eventually(lambda: len(order) == 3)
    assert order[0] == "group"


def test_another_parent(manager: SafetyManager) -> None:
    order, make = family(manager)
    old, new, child = make("old"), make("new"), make("nobody")
    child.reparent(old)
    old.close()
    assert order == []
    child.reparent(new)
    manager.stats()
    eventually(lambda: order == ["old"])
    new.close()
    assert order == ["old"]
    child.reparent(None)
    eventually(lambda: order == ["old", "new"])
    child.close()
    assert order == ["old", "new", "nobody"]


def test_no_circle_of_parents(manager: SafetyManager) -> None:
    order, make = family(manager)
    first = make("first")
    second = make("second", first)
    third = make("third", (second, make("other")))
    for wrong in (first, second, third, (make("x"), third)):
        with pytest.raises(RegistrationError, match="descendants"):
            first.reparent(wrong)
    with pytest.raises(RegistrationError, match="takes a handle"):
        first.reparent("second")
    other = SafetyManager(name="the other")
    with pytest.raises(ForeignHandleError):
        first.reparent(other.register([1], "x", release=list.clear, release_on=ANY_THREAD))
    third.close()
    with pytest.raises(AccessRefusedError):
        third.reparent(first)
    with pytest.raises(AccessRefusedError):
        first.reparent(third)
    second.close()
    first.close()
    assert order.index("third") < order.index("second") < order.index("first")


def test_two_threads_make_no_circle(manager: SafetyManager) -> None:
    _, make = family(manager)
    for _ in range(50):
        pair = [make("a"), make("b")]
        gate = threading.Barrier(2)
        refused: list[Exception] = []

        def take(mine: Handle[Any], other: Handle[Any], gate: Any = gate, refused: Any = refused) -> None:
            gate.wait(10)
            try:
                mine.reparent(other)
            except RegistrationError as error:
                refused.append(error)

        threads = [threading.Thread(target=take, args=(pair[i], pair[1 - i])) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1
        refused.clear()
        for handle in pair:
            handle.close()
        eventually(lambda pair=pair: all(handle.state == "released" for handle in pair))  # type: ignore[misc]


@pytest.mark.parametrize("several", [False, True])
def test_a_child_can_be_handed_over(manager: SafetyManager, several: bool) -> None:
    order, make = family(manager)
    context, other = make("context"), make("other")
    message = make("message", (context, other) if several else context)
    raw = message.detach()
    assert raw == ["message"]
    assert context.close(timeout=5)
    assert order == ["context"]
    other.close()


# -- retries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_a_release_is_tried_until_it_succeeds(manager: SafetyManager, place: Any) -> None:
    memory = SharedMemory(create=True, size=64)
    memory.unlink()
    assert memory.buf is not None
    view = memory.buf[:8]
    handle = manager.register(memory, release=SharedMemory.close, release_on=place, retry_on=BufferError)
    handle.close(timeout=0)
    time.sleep(0.6)
    assert handle.state == "due"
    info = next(each for each in manager.objects() if each.id == handle.id)
    assert "BufferError" in info.reason
    assert "tried" in info.reason
    view.release()
    eventually(lambda: handle.state == "released")
    assert manager.stats().types["multiprocessing.shared_memory.SharedMemory"].retries >= 2


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_no_longer_than_it_was_told(manager: SafetyManager, place: Any) -> None:
    calls: list[float] = []

    def release(obj: object) -> None:
        calls.append(time.monotonic())
        raise NotReleased("busy")

    handle = manager.register(Device(), release=release, release_on=place, retry_for=0.3)
    handle.close(timeout=0)
    eventually(lambda: handle.state == "failed")
    assert 0.29 < calls[-1] - calls[0] < 10
    once = manager.register(Device(), release=release, release_on=place, retry_for=0)
    calls.clear()
    once.close(timeout=0)
    eventually(lambda: once.state == "failed")
    assert len(calls) == 1
    for wrong in (-1, "1", True, float("nan"), float("inf")):
        with pytest.raises(RegistrationError, match="retry_for"):
            manager.register(Device(), release=release, retry_for=wrong)  # type: ignore[arg-type]


def test_closing_the_manager_waits_for_retries_within_its_budget() -> None:
    tries: list[int] = []

    def release(obj: object) -> None:
        tries.append(1)
        if len(tries) < 5:
            raise NotReleased("busy")

    manager = SafetyManager(SafetyConfig(shutdown_timeout=10), name="retries")
    manager.register(Device(), release=release, release_on=ANY_THREAD, keep=True)
    assert manager.close()
    assert len(tries) == 5


# -- the library's own ClosedError ---------------------------------------------------------------------------


def test_something_of_ours_that_was_closed_is_no_panic(manager: SafetyManager) -> None:
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD)
    other = SafetyManager(name="closed")
    other.close()

    def publish(device: Device) -> None:
        other.register(device, release=None)

    with pytest.raises(ClosedError):
        manager.safe_access(handle, publish)
    assert handle.valid
    assert manager.report_error("camera", ClosedError("the distributor is closed"))
    stats = manager.stats()
    assert (stats.panics, stats.errors) == (0, 2)
    handle.close()


# -- by id ---------------------------------------------------------------------------------------------------


def test_a_handle_and_the_holders_of_an_id(manager: SafetyManager) -> None:
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD)
    other = manager.handle(handle.id)
    assert other.id == handle.id
    handle.close()
    assert other.valid
    with other.lease():
        assert [holder.kind for holder in manager.holders(other)] == ["lease"]
        assert [holder.kind for holder in manager.holders(other.id)] == ["lease", "share"]
    other.close()
    with pytest.raises(AccessRefusedError):
        manager.handle(other.id)
    with pytest.raises(UnknownObjectError):
        manager.handle(10**9)
    with pytest.raises(UnknownObjectError):
        manager.holders(10**9)


# -- views of buffers ----------------------------------------------------------------------------------------


def read_only_map() -> mmap.mmap:
    with tempfile.TemporaryFile() as file:
        file.write(b"hello")
        file.flush()
        return mmap.mmap(file.fileno(), 5, prot=mmap.PROT_READ)


@pytest.mark.parametrize("make", [read_only_map, lambda: mmap.mmap(-1, 5), lambda: bytearray(b"hello")])
def test_a_view_of_the_object_itself(manager: SafetyManager, make: Any) -> None:
    memory = make()
    read_only = memoryview(memory).readonly
    content = bytes(memory[:5])
    release = memory.close if isinstance(memory, mmap.mmap) else memory.clear
    handle = manager.register(memory, release=release, release_on=ANY_THREAD)
    view = handle.view(memory)
    assert bytes(view) == content
    assert view.readonly is read_only
    assert handle.view(memory, readonly=True).readonly
    if not read_only:
        view[0] = 90
        assert memory[0] == 90
    part = view[1:3]
    del view
    assert "view made at test_first_hour.py" in str(handle.holders())
    assert [holder.kind for holder in handle.holders()] == ["view"]
    handle.close()
    assert handle.state == "closing"
    assert bytes(part) == content[1:3]
    with pytest.raises((BufferError, ValueError)):
        memory.resize(9) if isinstance(memory, mmap.mmap) else memory.append(1)
    del part
    manager.stats()
    eventually(lambda: handle.state == "released")  # no BufferError: the export had gone before
    assert memory.closed if isinstance(memory, mmap.mmap) else memory == b""


def test_an_address_in_every_form(manager: SafetyManager) -> None:
    memory = (ctypes.c_ubyte * 8)(*b"goodbye!")
    number = ctypes.addressof(memory)
    handle = manager.register(memory, release=lambda _: None, release_on=ANY_THREAD)
    for address in (ctypes.c_void_p(number), ctypes.cast(number, ctypes.POINTER(ctypes.c_int))):
        assert bytes(handle.view(address, 4)) == b"good"
        with pytest.raises(LifecycleError, match="a size of 0 or more"):
            handle.view(address)  # not the eight bytes of the pointer itself
    small = ctypes.c_uint8(7)  # without a size it is a buffer, as other data of ctypes
    assert handle.view(small).tolist() == [7]
    gone = memoryview(b"abc")
    gone.release()
    with pytest.raises(LifecycleError, match="released"):
        handle.view(gone)
    assert handle.close()


def test_shared_memory_closes_after_its_views(manager: SafetyManager) -> None:
    memory = SharedMemory(create=True, size=64)
    memory.unlink()
    handle = manager.register(memory, release=memory.close, release_on=ANY_THREAD)
    view = handle.view(memory.buf)
    view[3] = 9
    assert memory.buf is not None
    assert memory.buf[3] == 9
    del view
    assert handle.close()


def test_formats_and_shapes(manager: SafetyManager) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(12.0).reshape(3, 4)
    handle = manager.register(array, release=lambda array: None, release_on=ANY_THREAD)
    view = handle.view(array)
    assert (view.format, view.shape) == ("d", (3, 4))
    assert np.asarray(view)[2, 3] == 11.0
    bytes_of = handle.view(array.view("i4,f4"))
    assert (bytes_of.format, bytes_of.nbytes) == ("B", 96)
    assert handle.view(array[:0]).nbytes == 0
    for wrong, says in (
        (array[:, ::2], "contiguous"),
        ("text", "a buffer"),
        (None, "there is no address"),
        (3.5, "a buffer"),
    ):
        with pytest.raises(LifecycleError, match=says):
            handle.view(wrong)
    with pytest.raises(LifecycleError, match="address only"):
        handle.view(array, 5)
    assert handle.view(np.int64(array.ctypes.data), 8).nbytes == 8
    with pytest.raises(LifecycleError, match=r"handle\.array\(\)"):
        handle.view(np.zeros(3, "M8[s]"))
    with pytest.raises(LifecycleError, match="read-only"):
        handle.view(b"abc", readonly=False)
    del view, bytes_of
    assert handle.close()
    with pytest.raises(AccessRefusedError):
        handle.view(array)


def test_a_view_of_what_is_observed(manager: SafetyManager) -> None:
    class Owned(bytearray):
        pass

    memory = Owned(b"hello")
    handle = manager.observe(memory, "owned")
    view = handle.view(memory)
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert bytes(view) == b"hello"
    assert gone() is not None
    del view
    gc.collect()
    assert gone() is None


# -- arrays --------------------------------------------------------------------------------------------------


def arrays() -> dict[str, Any]:
    try:
        import numpy as np
    except ImportError:
        return {}
    record = np.dtype({"names": ["a", "b"], "formats": ["<i2", ">f4"], "offsets": [1, 4], "itemsize": 12})
    fixed = np.arange(6)
    fixed.flags.writeable = False
    return {
        "plain": np.arange(24).reshape(2, 3, 4),
        "strided": np.arange(24).reshape(4, 6)[::-2, 1::2],
        "big-endian": np.arange(5, dtype=">u4"),
        "records": np.zeros(3, dtype=record),
        "dates": np.array(["2026-11-27", "2026-11-28"], dtype="M8[D]"),
        "read-only": fixed,
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j]),
        "text": np.array(["ab", "c"]),
        "no dimension": np.array(7.5),
        "empty": np.zeros((0, 3)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }


@pytest.mark.parametrize("name", arrays())
def test_an_array_is_the_same_and_holds_the_object(manager: SafetyManager, name: str) -> None:
    np = pytest.importorskip("numpy")
    array = arrays()[name]
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD)
    made = handle.array(array)
    assert type(made) is np.ndarray
    assert made.dtype == array.dtype
    assert made.shape == array.shape
    assert made.strides == array.strides or not array.size
    assert made.flags.writeable == array.flags.writeable
    assert made.__array_interface__["data"] == array.__array_interface__["data"]
    assert made.tobytes() == array.tobytes()
    assert [holder.kind for holder in handle.holders()] == ["view"]
    part = made[...] if made.ndim == 0 else made[:1]
    del made
    handle.close()
    assert handle.state == "closing"
    del part
    manager.stats()
    eventually(lambda: handle.state == "released")


def test_what_is_no_array_of_numbers_is_refused(manager: SafetyManager) -> None:
    np = pytest.importorskip("numpy")
    handle = manager.register(Device(), release="close", release_on=ANY_THREAD)
    for wrong in ([1, 2], b"abc", np.array([object()])):
        with pytest.raises(LifecycleError, match="ndarray"):
            handle.array(wrong)
    handle.close()
    with pytest.raises(AccessRefusedError):
        handle.array(np.zeros(3))


def test_an_array_of_what_is_observed(manager: SafetyManager) -> None:
    np = pytest.importorskip("numpy")
    device = Device()
    handle = manager.observe(device, "device")
    made = handle.array(np.zeros(3))
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is not None
    del made
    gc.collect()
    assert gone() is None
