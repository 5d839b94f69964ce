"""What an error says of an object: one sentence about its state, one about what to do, and the same facts as
attributes that keep nothing alive."""

from __future__ import annotations

import ast
import asyncio
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessError,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    HeldError,
    LifecycleError,
    NotReleased,
    ObjectPool,
    ObjectState,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    never_wait,
)
from lifecycle._core import holders
from lifecycle.errors import (
    CallbackError,
    CircularCloseError,
    ClosedAccessError,
    DuplicateError,
    ExclusiveError,
    FenceError,
    ForeignHandleError,
    LeaseEndedError,
    LimitError,
    OwnershipError,
    QueueLostError,
    WrongThreadError,
)
from tests.support import eventually

HERE = Path(__file__).name


class Node:
    """A native that can be watched."""

    pixels: Any = None


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[SafetyManager]:
    """One that may be left with what the errors are about. What the tests before have looked for is not
    counted."""
    monkeypatch.setattr(holders, "budget", type(holders.budget)())
    manager = SafetyManager(SafetyConfig(finalizer_timeout=0.2, max_finalizer_retries=1), name="errors")
    yield manager
    manager.close()


def buffer(manager: SafetyManager, **how: Any) -> Handle[Node]:
    """An object called «left»."""
    how.setdefault("release", lambda node: None)
    how.setdefault("release_on", ANY_THREAD)
    how.setdefault("native", ("buffer", manager.name, time.monotonic_ns()))
    return manager.register(Node(), "buffer", name="left", **how)


def view_of(handle: Handle[Any]) -> memoryview:
    """A view of some bytes, which stand for the object's."""
    return handle.view(MEMORY[1], 8)


def _memory() -> tuple[Any, int]:
    import ctypes

    memory = (ctypes.c_ubyte * 64)()
    return memory, ctypes.addressof(memory)


MEMORY = _memory()


def line(offset: int = 0) -> str:
    """Where the caller stands, as errors say it."""
    return f"{HERE}:{sys._getframe(1).f_lineno + offset}"


# -- the sentences -------------------------------------------------------------------------------------------


def refused(handle: Handle[Any]) -> AccessRefusedError:
    with pytest.raises(AccessRefusedError) as caught:
        handle.lease()
    return caught.value


def test_released(manager: SafetyManager) -> None:
    handle = buffer(manager, native=None)
    handle.close()
    closed = line(-1)
    assert re.fullmatch(
        rf'buffer "left" \(object {handle.id}\) was released \d+ ms ago, by close\(\) at {closed}\. '
        r"Use it before that line, or keep a share of your own: handle\.share\(\)\.",
        str(refused(handle)),
    )


def test_closing_names_those_it_waits_for(manager: SafetyManager) -> None:
    handle = buffer(manager, native=7)
    view = handle.view(MEMORY[1], 8)
    made = line(-1)
    inside, over = threading.Event(), threading.Event()

    def decode() -> None:
        with handle.lease():
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=decode, name="decoder")
    thread.start()
    assert inside.wait(10)
    handle.close()
    closed = line(-1)
    error = refused(handle)
    over.set()
    thread.join()
    assert str(error) == (
        f'buffer "left" (object {handle.id}, native 0x7) was closed at {closed} and is released when '
        f'nothing holds it any more; held by lease of thread "decoder", view made at {made}. New accesses are '
        "refused."
    )
    assert error.holders == ('lease of thread "decoder"', f"view made at {made}")
    assert error.state == "closing"
    assert error.closed_site == closed
    view.release()


def test_a_refusal_looks_for_holders_only_where_a_pause_is_in_place(manager: SafetyManager) -> None:
    handle = buffer(manager)
    with handle.lease():
        handle.close()
        with never_wait():
            assert "when nothing holds it any more. New" in str(refused(handle))
        began = time.monotonic()
        for _ in range(3000):
            with pytest.raises(AccessRefusedError):
                handle.lease()
        assert time.monotonic() - began < 30  # not one walk through the heap for each


def average(node: Node) -> float:
    return 1 / 0


def test_invalid_after_a_panic(manager: SafetyManager) -> None:
    handle = buffer(manager)
    with handle.lease():
        with pytest.raises(AccessPanicError) as caught:
            manager.safe_access(handle, average)
        at = f"in average(), {HERE}:{average.__code__.co_firstlineno + 1}"
        assert str(caught.value).startswith(
            f"panic during object access: ZeroDivisionError: division by zero {at}, while using buffer"
        )
        assert "errors=(ZeroDivisionError,)" in str(caught.value)
        assert caught.value.id == handle.id
        error = refused(handle)
    assert error.state == "invalid"
    assert error.cause == "panic"
    assert re.search(
        rf"is invalid since a panic \d+ ms ago: ZeroDivisionError: division by zero {re.escape(at)}\. If that error "
        r"is harmless, declare it: errors=\(ZeroDivisionError,\)\.$",
        str(error),
    )
    handle.close()
    assert "is invalid, and released, since a panic" in str(refused(handle))


def test_invalidated(manager: SafetyManager) -> None:
    handle = buffer(manager)
    with handle.lease():
        manager.invalidate(handle, "the camera was unplugged")
        at = line(-1)
        assert f"is invalid since invalidate() at {at}" in str(refused(handle))
        assert "the camera was unplugged. Make a new one." in str(refused(handle))


def test_orphaned_with_its_queue(manager: SafetyManager) -> None:
    queue = ReleaseQueue("gl")
    handle = buffer(manager, release_on=queue)
    queue.lost("context destroyed")
    error = refused(handle)
    assert error.state == "orphaned"
    assert re.search(
        r'was lost with queue "gl" \d+ ms ago \(context destroyed\)\. It is never released; make a new one on the '
        r"queue's new generation\.$",
        str(error),
    )


def test_orphaned_with_its_fence(manager: SafetyManager) -> None:
    class Unknown:
        def signalled(self) -> Any:
            return 7

    handle = buffer(manager)
    handle.close(after=Unknown())
    error = refused(handle)
    assert error.state == "orphaned"
    assert re.search(
        r"was orphaned \d+ ms ago \(its fence is lost: it said 7, .*\)\. It is never released; make a new one\.$",
        str(error),
    )


def test_detached(manager: SafetyManager) -> None:
    handle = buffer(manager)
    handle.detach()
    at = line(-1)
    assert str(refused(handle)).endswith(f"was handed out by detach() at {at}: use what that returned.")


def test_closed_with_its_manager() -> None:
    manager = SafetyManager(name="camera")
    handle = buffer(manager)
    manager.close()
    with pytest.raises(ClosedAccessError, match=r'with its manager "camera"\. Make a new manager\.$'):
        handle.lease()


def test_dropped_invalid_by_its_owner_and_by_id(manager: SafetyManager) -> None:
    id = buffer(manager, size=8).id
    gc.collect()
    manager.stats()
    with pytest.raises(AccessRefusedError, match=r"as its last handle was dropped\. Keep a handle"):
        manager.safe_access(id, lambda node: None)
    node = Node()
    observed = manager.observe(node, "seen")
    manager_id = observed.id
    del node
    gc.collect()
    with pytest.raises(AccessRefusedError, match=r"was let go .*: its owner let it go\. Ask the owner"):
        manager.safe_access(manager_id, lambda node: None)
    del observed


def test_failed_stuck_and_waiting(manager: SafetyManager) -> None:
    def fail(node: Node) -> None:
        raise OSError("no device")

    failed = buffer(manager, release=fail)
    failed.close()
    assert re.search(r"could not be released \d+ ms ago: OSError: no device\.", str(refused(failed)))

    hangs = threading.Event()
    parent = buffer(manager)
    stuck = manager.register(Node(), "camera", release=lambda node: hangs.wait(20), parent=parent)
    assert stuck.close() is False
    error = refused(stuck)
    assert error.state == "stuck"
    assert re.search(
        rf'its release has not come back for 0\.2 s: thread "lifecycle-[^"]+" is in {HERE}:\d+\. Its parent is kept\. '
        r"If it may take longer: finalizer_timeout=\.",
        str(error),
    )
    hangs.set()
    eventually(lambda: stuck.state == "released")

    queue = ReleaseQueue("elsewhere", thread=threading.get_ident())
    due = manager.register(Node(), "texture", release=lambda node: None, release_on=queue)
    thread = threading.Thread(target=due.close)
    thread.start()
    thread.join()
    assert "waits for its release" in str(refused(due))
    queue.drain()
    parent.close()


def test_within_its_own_release(manager: SafetyManager) -> None:
    told: list[AccessError] = []
    handle: Handle[Node]

    def release(node: Node) -> None:
        told.append(refused(handle))

    handle = buffer(manager, release=release)
    handle.close()
    assert "is releasing by this very call. Give the cleanup or release what it needs" in str(told[0])


def test_a_share_that_is_closed_while_others_are_not(manager: SafetyManager) -> None:
    handle = buffer(manager)
    other = handle.share()
    other.close()
    error = refused(other)
    assert "this share of" in str(error)
    assert error.state == "valid"
    assert error.cause == ""
    handle.close()


def test_duplicate(manager: SafetyManager) -> None:
    first = manager.register(
        Node(), "buffer", name="left", native=0x7F00, release=lambda node: None, release_on=ANY_THREAD
    )
    at = line(-3)
    with pytest.raises(DuplicateError) as caught:
        buffer(manager, native=0x7F00)
    assert str(caught.value) == (
        f'native 0x7f00 is owned by buffer "left" (object {first.id}, native 0x7f00), valid, from {at}. '
        "A second release would free it twice. For another user of the object: share() on its handle. For a part "
        "of it: parent=its handle. If it counts references, or is no native: unique=False."
    )
    assert caught.value.id == first.id
    view = first.view(MEMORY[1], 8)
    made = line(-1)
    first.close()
    closed = line(-1)
    with pytest.raises(DuplicateError) as waits:
        buffer(manager, native=0x7F00)
    assert str(waits.value).endswith(
        f"It was closed at {closed} and waits for view made at {made}; close(timeout=1) waits for that."
    )
    view.release()


def test_wrong_thread() -> None:
    queue = ReleaseQueue("gl", thread="current")
    told: list[WrongThreadError] = []

    def drain() -> None:
        with pytest.raises(WrongThreadError) as caught:
            queue.drain()
        told.append(caught.value)

    thread = threading.Thread(target=drain, name="worker-2")
    thread.start()
    thread.join()
    assert str(told[0]) == (
        'queue "gl" belongs to thread "MainThread"; drain() came from "worker-2". Call it there, or give the queue '
        "post=loop.call_soon_threadsafe."
    )


def test_held(manager: SafetyManager) -> None:
    handle = buffer(manager)
    batch = handle.view(MEMORY[1], 8)
    made = line(-1)
    with pytest.raises(HeldError) as caught:
        handle.close(held="refuse")
    assert f"is held by view made at {made}" in str(caught.value)
    assert "local 'batch' of test_held()" in str(caught.value)
    assert str(caught.value).endswith(
        'It stays open: end those, or close() without held="refuse" and let it follow.'
    )
    assert handle.valid
    batch.release()
    del batch
    handle.close()


def test_leak_is_told_with_its_line(manager: SafetyManager) -> None:
    with pytest.warns(ResourceWarning) as told:
        manager.register(Node(), "buffer", name="left", release=lambda node: None, release_on=ANY_THREAD)
        at = line(-1)
        gc.collect()
        eventually(lambda: bool(told))
    assert re.fullmatch(
        rf'buffer "left" \(object \d+, from {at}\) was dropped without close\(\); it (has been|is) released( at its place)?\. '
        r"Use `with`, or close\(\)",
        str(told[0].message),
    )


# -- the facts -----------------------------------------------------------------------------------------------

RAISING: dict[str, tuple[type[LifecycleError], Callable[[SafetyManager, list[Any]], Any]]] = {}
"""By name: the error, and what raises it. The object that it is about, or its handle, is put into the list."""


def raising(error: type[LifecycleError]) -> Callable[[Any], Any]:
    def enter(fn: Any) -> Any:
        RAISING[fn.__name__] = (error, fn)
        return fn

    return enter


@raising(AccessRefusedError)
def closed(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    about[0].lease()


@raising(AccessRefusedError)
def closed_view(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    view_of(about[0])


@raising(AccessRefusedError)
def closed_share(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    about[0].share()


@raising(AccessRefusedError)
def closed_with(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    with about[0]:
        pass


@raising(AccessRefusedError)
def closed_parent(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    buffer(manager, parent=about[0])


@raising(AccessRefusedError)
def closed_access(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    manager.safe_access(about[0], lambda node: None)


@raising(AccessRefusedError)
def closed_block(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    manager.safe_access(about[0].id)


@raising(AccessRefusedError)
def closed_exclusive(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    about[0].exclusive()


@raising(AccessRefusedError)
def closed_detach(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close()
    about[0].detach()


@raising(AccessRefusedError)
def refused_by_validator(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    manager.policy("buffer", validate=lambda node: False)
    about[0].lease()


@raising(AccessPanicError)
def panic(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    manager.safe_access(about[0], average)


@raising(AccessPanicError)
def panic_in_block(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with manager.safe_access(about[0]):
        _ = 1 / 0


@raising(CallbackError)
def generator(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    manager.safe_access(about[0], lambda node: (each for each in [node]))


@raising(LeaseEndedError)
def lease_twice(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    lease = about[0].lease()
    with lease:
        pass
    with lease:
        pass


@raising(LeaseEndedError)
def block_twice(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    block = manager.safe_access(about[0])
    with block:
        pass
    with block:
        pass


@raising(LeaseEndedError)
def exclusive_twice(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    block = about[0].exclusive()
    with block:
        pass
    with block:
        pass


@raising(HeldError)
def held_close(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].lease():
        about[0].close(held="refuse")


@raising(HeldError)
def held_detach(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].lease():
        about[0].detach()


@raising(HeldError)
def held_exclusive(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    view = view_of(about[0])
    try:
        with about[0].exclusive(timeout=0):
            pass
    finally:
        view.release()


@raising(HeldError)
def unexpected(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].expect_holders(leases=1)


@raising(ExclusiveError)
def beside_exclusive(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].exclusive():
        about[0].lease()


@raising(ExclusiveError)
def access_beside_exclusive(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].exclusive():
        manager.safe_access(about[0], lambda node: None)


@raising(ExclusiveError)
def exclusive_in_exclusive(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].exclusive(), about[0].exclusive():
        pass


@raising(ExclusiveError)
def exclusive_in_lease(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with about[0].lease(), about[0].exclusive():
        pass


@raising(OwnershipError)
def borrowed(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager, release=None))
    about[0].detach()


@raising(OwnershipError)
def observed(manager: SafetyManager, about: list[Any]) -> None:
    node = Node()
    about.append(manager.observe(node, "buffer", name="left"))
    about[0].detach()


@raising(DuplicateError)
def duplicate(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager, native=0x77))
    buffer(manager, native=0x77)


@raising(ForeignHandleError)
def foreign(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    SafetyManager(name="the other").safe_access(about[0], lambda node: None)


@raising(ForeignHandleError)
def foreign_id(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    SafetyManager(name="the other").unregister(about[0].id)


@raising(CircularCloseError)
def circle(manager: SafetyManager, about: list[Any]) -> None:
    told: list[BaseException] = []

    def release(node: Node) -> None:
        try:
            about[0].close(timeout=None)
        except LifecycleError as error:
            told.append(error)

    about.append(buffer(manager, release=release))
    about[0].close()
    raise told.pop()


@raising(FenceError)
def no_fence(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close(after=object())


@raising(QueueLostError)
def lost_queue(manager: SafetyManager, about: list[Any]) -> None:
    queue = ReleaseQueue("gl")
    about.append(buffer(manager, release_on=queue))
    queue.lost("gone")
    from lifecycle.fences import EventFence

    about[0].close(after=EventFence(threading.Event()))


@raising(LifecycleError)
def odd_view(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].view(0, 8)


@raising(LifecycleError)
def odd_close(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    about[0].close(held="wait")


@raising(LifecycleError)
def lent_elsewhere(manager: SafetyManager, about: list[Any]) -> None:
    about.append(buffer(manager))
    with closing(ObjectPool(manager, Node, name="pooled", size=1)) as pool:
        pool.put(about[0])


@pytest.mark.parametrize("name", RAISING)
def test_every_error_about_an_object_has_its_facts(manager: SafetyManager, name: str) -> None:
    kind, fn = RAISING[name]
    about: list[Any] = []
    before = time.time()
    with pytest.raises(kind) as caught:
        fn(manager, about)
    error = caught.value
    (handle,) = about
    assert error.id == handle.id
    assert error.type_name == "buffer"
    assert error.name == "left"
    assert error.native == handle.native
    assert error.state in (handle.state, "valid", "invalid", "due", "releasing")
    assert error.cause in ("", "close", "panic", "invalidate") if error.state != "orphaned" else True
    assert (error.cause == "") == (error.state == "valid")
    assert before - 1 < error.at < time.time() + 1
    assert error.closed_site == "" or error.closed_site.startswith(HERE)
    assert isinstance(error.holders, tuple)
    assert all(type(each) is str for each in error.holders)
    assert f"object {handle.id}" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.id, again.state, str(again)) == (error.id, error.state, str(error))
    handle.close()


@pytest.mark.parametrize("name", RAISING)
def test_a_kept_error_keeps_nothing_alive(manager: SafetyManager, name: str) -> None:
    """F7: neither by its attributes nor by the library's frames in its traceback."""
    kind, fn = RAISING[name]
    about: list[Any] = []
    with pytest.raises(kind) as caught:
        fn(manager, about)
    error = caught.value
    record = about[0]._record
    orphaned = record.phase == "orphaned"  # kept for ever, for other reasons
    node = weakref.ref(record.obj if type(record.obj) is Node else error)
    about.clear()
    frames = []
    trace = error.__traceback__
    while trace is not None:  # those of the test are the test's own business
        if trace.tb_frame.f_code.co_filename == __file__:
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    del trace, caught
    for frame in frames:
        if frame.f_code is not test_a_kept_error_keeps_nothing_alive.__code__:
            frame.clear()
    del frames, frame
    eventually(lambda: gc.collect() >= 0 and record() is None, timeout=10)
    manager.stats()
    if not orphaned and node() is not error:
        eventually(lambda: node() is None, timeout=10)
    assert error.id == record.id


def test_a_native_of_any_kind_is_told_as_data(manager: SafetyManager) -> None:
    class Context:
        def __repr__(self) -> str:
            return "<Context 3>"

    handle = buffer(manager, native=(Context(), 7))
    handle.close()
    error = refused(handle)
    assert error.native == ("<Context 3>", 7)
    assert {type(value) for value in vars(error).values()} <= {int, str, float, tuple, ObjectState}


def test_an_error_about_no_object_has_no_facts() -> None:
    error = LifecycleError("about nothing")
    assert (error.id, error.type_name, error.name, error.native, error.state) == (0, "", None, None, None)
    assert (error.cause, error.at, error.closed_site, error.holders) == ("", 0.0, "", ())


def test_every_text_that_names_an_object_is_an_error_with_its_facts(repository: Path) -> None:
    """No module makes an error about an object without `about`."""
    bare = []
    for folder in ("lifecycle", "integrations"):
        for path in (repository / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            wrapped = {
                id(inner)
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "about"
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call) or id(node) in wrapped:
                    continue
                name = getattr(node.func, "id", "")
                if not name.endswith("Error") or name in ("TypeError", "BudgetError"):
                    continue
                if any(
                    isinstance(one, ast.Call) and getattr(one.func, "id", "") == "describe"
                    for one in ast.walk(node)
                ):
                    bare.append(f"{path.name}:{node.lineno}")
    assert not bare


# -- limits --------------------------------------------------------------------------------------------------


def test_a_factory_at_its_limit_names_what_is_out(manager: SafetyManager) -> None:
    make = manager.factory(Node, "frame", release=lambda node: None, release_on=ANY_THREAD, limit=2)
    first, second = make(), make()
    view = first.view(MEMORY[1], 8)
    made = line(-1)
    with pytest.raises(LimitError) as caught:
        make()
    assert str(caught.value).startswith("factory of 'frame' is at its limit: 2 of 2 are out: ")
    assert f"object {first.id} (valid, from {HERE}:" in str(caught.value)
    assert f"view made at {made})" in str(caught.value)
    assert str(caught.value).endswith("Close one, or raise limit=.")
    assert len(caught.value.holders) == 2
    view.release()
    del view
    first.close()
    second.close()


@pytest.mark.parametrize("release_on", ["any", "background"])
def test_what_nobody_holds_makes_room_first(manager: SafetyManager, release_on: str) -> None:
    from lifecycle import BACKGROUND

    place = ANY_THREAD if release_on == "any" else BACKGROUND
    make = manager.factory(Node, "frame", release=lambda node: time.sleep(0.002), release_on=place, limit=3)
    manager.policy("type", max_live=3)

    def typed() -> Handle[Node]:
        return manager.register(Node(), "type", release=lambda node: time.sleep(0.002), release_on=place)

    for one in (make, typed):
        for _ in range(5):
            views = []
            for _ in range(3):
                with one() as handle:
                    views.append(view_of(handle))
            views.clear()
        handles = [one() for _ in range(3)]
        with pytest.raises(LimitError):
            one()
        for handle in handles:
            handle.close()


# -- the report ----------------------------------------------------------------------------------------------


def test_the_report_tells_of_every_release_that_failed_or_got_stuck() -> None:
    config = SafetyConfig(
        finalizer_timeout=0.1, state_retention=0.01, cleanup_interval=0.02, max_finalizer_retries=0
    )
    manager = SafetyManager(config, name="life")
    hangs = threading.Event()

    def fail(node: Node) -> None:
        raise NotReleased("busy")

    failed = [manager.register(Node(), "failing", release=fail, release_on=ANY_THREAD) for _ in range(2)]
    failed[0].close()
    stuck = manager.register(Node(), "hanging", release=lambda node: hangs.wait(20))
    late = manager.register(Node(), "late", release=lambda node: time.sleep(0.3))
    stuck.close()
    late.close()
    eventually(lambda: late.state == "released")
    id = failed[0].id
    eventually(lambda: id not in manager._registry.records)
    report = manager.close()
    hangs.set()
    assert [info.id for info in report.failed] == [id, failed[1].id]
    assert [info.id for info in report.stuck] == [stuck.id]
    assert not report.ok
    assert not report
    assert manager.close() is report


def test_a_report_without_failures_is_true() -> None:
    manager = SafetyManager(name="clean")
    buffer(manager).close()
    assert manager.close()


# -- where ---------------------------------------------------------------------------------------------------


def test_sites_are_the_users_lines_also_behind_contextlib_and_asyncio(manager: SafetyManager) -> None:
    handle = buffer(manager)
    with closing(handle):
        assert handle.valid
    assert refused(handle).closed_site.startswith(HERE)

    async def use() -> Handle[Node]:
        with buffer(manager) as inner:
            await asyncio.sleep(0)
        return inner

    assert refused(asyncio.run(use())).closed_site.startswith(HERE)


def test_pytest_shows_the_users_line(tmp_path: Path) -> None:
    """In pytest a refusal is shown at the user's line, and a finalizer that closes is no line of pytest's."""
    (tmp_path / "test_user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_user.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "test_user.py:17: AccessRefusedError" in done.stdout, done.stdout
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "was released" in done.stdout
    assert "_pytest" not in done.stdout
    assert "handle.py" not in done.stdout


USER = """
import pytest
from lifecycle import ANY_THREAD, SafetyManager

MADE = []

@pytest.fixture
def handle(request):
    MADE.append(SafetyManager(name="m").register([1], "list", release=list.clear, release_on=ANY_THREAD))
    request.addfinalizer(MADE[-1].close)
    return MADE[-1]

def test_closes(handle):
    assert handle.valid

def test_uses_it_later():
    MADE[0].lease()
"""


def test_a_panic_is_printed_as_lines() -> None:
    """Without any logging set up, and with structlog's own console."""
    done = subprocess.run(
        [sys.executable, "-c", PANIC],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    lines = done.stderr.splitlines()
    assert any(line.strip().startswith("File ") and "in average" in line for line in lines), done.stderr
    assert "ZeroDivisionError: division by zero" in lines
    assert "\\n" not in done.stderr


PANIC = """
from lifecycle import ANY_THREAD, AccessPanicError, SafetyManager

with SafetyManager(name="panics") as manager:
    handle = manager.register([1], "samples", release=list.clear, release_on=ANY_THREAD)

    def average(samples):
        return sum(samples) / 0

    try:
        manager.safe_access(handle, average)
    except AccessPanicError:
        pass
    manager.stats()
"""
