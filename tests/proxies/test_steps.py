"""Generators, iterators, coroutines and memory of a proxy's object."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any

import pytest

from lifecycle import AccessRefusedError, SafetyManager
from lifecycle.proxies import VIEW, handle_of
from tests.proxies.natives import Part, Store
from tests.support import eventually


@pytest.fixture
def raw() -> Store:
    return Store()


@pytest.fixture
def store(manager: SafetyManager, raw: Store) -> Any:
    made = manager.proxy(raw, release="close", children={Part: None, "raw_memory": VIEW})
    yield made
    made.close()


def test_a_generator_is_refused_at_its_next_step(store: Any, raw: Store) -> None:
    steps = store.steps(3)
    assert isinstance(steps, Generator)
    assert next(steps) == 0
    assert steps.send(None) == 1
    assert handle_of(store).close(), "one that only stands holds nothing"
    assert raw.log == ["finally", "close"], "its end runs before the release"
    with pytest.raises(AccessRefusedError):
        next(steps)
    with pytest.raises(AccessRefusedError):
        steps.send(1)
    with pytest.raises(AccessRefusedError):
        steps.throw(OSError())
    steps.close()


def test_a_generator_that_is_dropped_ends_inside_the_door(store: Any, raw: Store) -> None:
    steps = store.steps(3)
    next(steps)
    del steps
    assert raw.log == ["finally"]
    assert not handle_of(store)._dependents.boxes  # type: ignore[attr-defined]


def test_a_generator_that_is_dropped_after_the_close_ends_before_the_release(store: Any, raw: Store) -> None:
    steps = store.steps(3)
    next(steps)
    with handle_of(store).lease():
        store.close()
        del steps
        gc.collect()
        assert raw.log == []
    assert handle_of(store).close(timeout=5)
    assert raw.log == ["finally", "close"]


def test_a_generator_to_its_end(store: Any, raw: Store) -> None:
    steps = store.steps(2)
    assert list(steps) == [0, 1]
    with pytest.raises(StopIteration):
        next(steps)
    assert raw.log == ["finally"]
    closed = store.steps(2)
    next(closed)
    closed.close()
    assert raw.log == ["finally", "finally"]
    thrown = store.steps(2)
    next(thrown)
    with pytest.raises(OSError, match="thrown"):
        thrown.throw(OSError("thrown"))
    assert repr(thrown).startswith("<GuardedGenerator of <proxy")


class Database:
    """Has blocks and generators that give out the object itself."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.released = 0

    def close(self) -> None:
        self.released += 1

    def touch(self, what: str) -> str:
        assert not self.released, f"{what} after the release"
        self.log.append(what)
        return what

    def part(self) -> Part:
        return Part(Store(), "part")

    @contextlib.contextmanager
    def block(self) -> Generator[Any, None, None]:
        self.touch("begin")
        try:
            yield self
        finally:
            self.touch("end")

    @contextlib.asynccontextmanager
    async def async_block(self) -> AsyncGenerator[Any, None]:
        self.touch("begin")
        try:
            yield self
        finally:
            self.touch("end")

    def talk(self, last: Any = None) -> Generator[Any, Any, Any]:
        got = yield 1
        yield got
        return self if last is None else last


@pytest.fixture(params=[None, "free"], ids=["light", "registered"])
def database(manager: SafetyManager, request: pytest.FixtureRequest) -> Any:
    made = manager.proxy(Database(), release="close", children={Part: request.param})
    yield made
    made.close()


def test_a_block_of_a_generator_gives_out_the_proxy_and_ends_inside_the_door(database: Any) -> None:
    with database.block() as inside:
        assert inside is database
    assert database.log == ["begin", "end"]
    with pytest.raises(KeyError), database.block():
        raise KeyError("passes through")
    assert database.log == ["begin", "end"] * 2

    @database.block()  # type: ignore[untyped-decorator, unused-ignore]
    def decorated() -> int:
        return 7

    assert [decorated(), decorated()] == [7, 7]
    assert database.log == ["begin", "end"] * 4
    log = database.log
    block = database.block()
    block.__enter__()
    database.close()
    assert log == ["begin", "end"] * 5, "its end has run before the release"
    with pytest.raises(AccessRefusedError):
        block.__exit__(None, None, None)


def test_an_asynchronous_block_of_a_generator(database: Any) -> None:
    async def main() -> None:
        async with database.async_block() as inside:
            assert inside is database
        with pytest.raises(KeyError):
            async with database.async_block():
                raise KeyError("passes through")

    asyncio.run(main())
    assert database.log == ["begin", "end"] * 2


def test_what_a_generator_returns(database: Any) -> None:
    def outer() -> Generator[Any, Any, Any]:
        return (yield from database.talk(5))

    for steps in (outer(), database.talk(5)):
        assert [next(steps), steps.send(4)] == [1, 4]
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert end.value.value == 5
    for last, kind in ((None, "DatabaseProxy"), (Part(Store(), "last"), "PartProxy")):
        steps = database.talk(last)
        assert len(list(zip(range(2), steps, strict=False))) == 2
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert type(end.value.value).__name__ == kind
        del end


def test_an_iterator_of_children(store: Any) -> None:
    parts = store.part_steps(2)
    first = next(parts)
    assert type(first) is not Part
    assert first.read() == "0"


def test_an_iterator_of_the_standard_kind(store: Any) -> None:
    for iterator in (iter(store), store.mapped()):
        next(iterator)
        assert iter(iterator) is iterator
    kept = store.mapped(), iter(store)
    store.close()
    for iterator in kept:
        with pytest.raises(AccessRefusedError):
            next(iterator)


def test_closing_inside_a_step(store: Any, raw: Store) -> None:
    def closing() -> Any:
        yield store.close()

    store.kept = [closing()]
    assert next(store.kept[0]) is False
    assert raw.released == 1


def test_a_coroutine_holds_its_object_until_it_is_done(store: Any, raw: Store) -> None:
    async def main() -> None:
        hold = asyncio.get_running_loop().create_future()
        running = store.later(hold)
        assert isinstance(running, Coroutine)
        task = asyncio.create_task(running)
        await asyncio.sleep(0)
        assert store.close() is False
        assert raw.released == 0
        hold.set_result(None)
        assert await task == 5
        assert raw.released == 1
        with pytest.raises(AccessRefusedError):
            store.later()

    asyncio.run(main())
    assert raw.log == ["close"]


def test_a_cancelled_coroutine_lets_go(store: Any, raw: Store) -> None:
    async def main() -> None:
        task = asyncio.create_task(store.later(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handle_of(store).close()

    asyncio.run(main())


def test_a_coroutine_that_is_never_run_lets_go(store: Any) -> None:
    running = store.later()
    assert not store.close()
    with pytest.raises(RuntimeError, match="reuse"):
        running.close()
        running.send(None)
    assert handle_of(store).close(timeout=5)
    assert "GuardedCoroutine" in repr(running)


def test_an_asynchronous_generator(store: Any, raw: Store) -> None:
    async def main() -> None:
        steps = store.async_steps(3)
        assert isinstance(steps, AsyncGenerator)
        assert [one async for one in steps] == [0, 1, 2]
        raw.log.clear()
        steps = store.async_steps(3)
        assert await steps.__anext__() == 0
        assert await steps.asend(None) == 1
        other = store.async_steps(1)
        assert await anext(other) == 0
        await other.aclose()
        assert raw.log == ["async finally"]
        store.close()
        assert raw.log == ["async finally", "async finally", "close"]
        with pytest.raises(AccessRefusedError):
            await anext(steps)
        with pytest.raises(AccessRefusedError):
            await steps.athrow(OSError())

    asyncio.run(main())


# -- memory --------------------------------------------------------------------------------------------------


def test_a_memoryview_holds_the_object(store: Any, raw: Store) -> None:
    view = store.view()
    assert bytes(view[:3]) == b"012"
    assert not view.readonly
    view[0] = ord("x")
    assert raw.memory[0] == ord("x")
    part = view[4:8]
    assert [one.kind for one in handle_of(store).holders()] == ["view"]
    with pytest.raises(BufferError):
        raw.memory.append(1)
    assert not store.close()
    with pytest.raises(AccessRefusedError):
        store.view()
    del view
    assert bytes(part) == b"4567"
    assert raw.released == 0
    del part
    eventually(lambda: raw.released == 1)
    raw.memory.append(1)


def test_what_is_named_view_is_a_view(store: Any, raw: Store) -> None:
    view = store.raw_memory()
    assert isinstance(view, memoryview)
    assert not store.close()
    del view
    assert handle_of(store).close(timeout=5)


def test_the_release_finds_no_export(manager: SafetyManager) -> None:
    import mmap

    raw = mmap.mmap(-1, 4096)
    memory = manager.proxy(raw, release="close")
    holder = manager.proxy(Holder(raw), release=lambda one: one.memory.close(), children={"memory": VIEW})
    memory_view = holder.memory
    assert not handle_of(holder).close()
    del memory_view
    eventually(lambda: handle_of(holder).state == "released")
    assert raw.closed
    handle_of(memory).close()


class Holder:
    def __init__(self, memory: Any) -> None:
        self.memory = memory


SHAPES = {
    "bytes": memoryview(b"abcd"),
    "doubles": memoryview(bytearray(32)).cast("d"),
    "matrix": memoryview(bytearray(24)).cast("I", (2, 3)),
    "empty": memoryview(b""),
    "every second": memoryview(bytearray(range(8)))[::2],
}


@pytest.mark.parametrize("what", SHAPES)
def test_format_and_shape_stay(what: str, manager: SafetyManager) -> None:
    raw = SHAPES[what]
    holder = manager.proxy(Holder(raw), release=lambda one: None)
    view = holder.memory
    assert view is not raw
    assert view.tolist() == raw.tolist()
    assert (view.format, view.shape, view.ndim) == (raw.format, raw.shape, raw.ndim)
    assert view.readonly == (raw.readonly or what == "every second")
    handle_of(holder).close()


@pytest.mark.needs("numpy")
def test_an_array_named_view_holds_the_object(manager: SafetyManager) -> None:
    import numpy as np

    native = np.arange(24, dtype=">i4").reshape(4, 6)
    holder = manager.proxy(Holder(native), release=lambda one: None, children={np.ndarray: VIEW})
    array = holder.memory
    assert array is not native
    assert array.dtype == native.dtype
    assert (array == native).all()
    part = array[1:3, ::2]
    del array
    assert not handle_of(holder).close()
    assert part.shape == (2, 3)
    del part
    eventually(lambda: handle_of(holder).state == "released")


class Exporting:
    """Has an address to give away, as arrays and pictures do."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.released = 0

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__

    def close(self) -> None:
        self.released += 1


@pytest.mark.needs("numpy")
def test_numpy_gets_an_array_that_holds_the_object(manager: SafetyManager) -> None:
    import numpy as np

    raw = Exporting(np.arange(6))
    proxy = manager.proxy(raw, release="close")
    with pytest.raises(AttributeError):
        proxy.__array_interface__
    array = np.asarray(proxy)
    assert list(array) == list(range(6))
    assert not proxy.close()
    assert raw.released == 0
    del array
    eventually(lambda: raw.released == 1)
    with pytest.raises(AccessRefusedError):
        np.asarray(proxy)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a Python class exports a buffer from CPython 3.12 on")
def test_a_memoryview_of_the_proxy_holds_the_object(manager: SafetyManager) -> None:
    raw = bytearray(b"abc")
    freed: list[bytes] = []
    array = manager.proxy(Buffered(raw), release=lambda one: freed.append(bytes(raw)))
    view = memoryview(array)
    assert bytes(view) == b"abc"
    assert not handle_of(array).close()
    assert freed == []
    del view
    eventually(lambda: freed == [b"abc"])


class Buffered:
    def __init__(self, memory: bytearray) -> None:
        self.memory = memory

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.memory)


def test_one_that_was_dropped_in_the_same_garbage_is_at_its_end(store: Any, raw: Store) -> None:
    """As a generator of Python that a ``__del__`` of its cycle goes on with; the object is open."""
    steps_gone: list[int] = []
    wrong: list[BaseException] = []

    class Holder:
        def __init__(self, *steps: Any) -> None:
            self.me, self.steps = self, steps

        def __del__(self) -> None:
            generator, later = self.steps
            try:
                # All of them where the collector has taken this one first.
                steps_gone.append(3 - len(list(generator)))
                with contextlib.suppress(StopIteration):
                    generator.send(None)
                with contextlib.suppress(StopIteration, StopAsyncIteration):
                    later.__anext__().send(None)
                generator.close()
            except BaseException as error:
                wrong.append(error)

    Holder(store.steps(3), store.async_steps(3))
    gc.collect()
    assert wrong == []
    assert steps_gone in ([0], [3])
    assert handle_of(store).valid
