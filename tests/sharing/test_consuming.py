"""Consumers that give back, whatever becomes of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from lifecycle import ANY_THREAD, ClosedError, Handle, LifecycleError, ReleaseQueue, SafetyManager
from lifecycle.distribution import derived_from, with_release
from lifecycle.errors import CallbackError
from tests.core.natives import Native
from tests.sharing.sources import frame


def test_the_share_goes_back_after_each_frame(manager: SafetyManager) -> None:
    seen: list[Any] = []

    def look(handle: Handle[Native], more: int) -> str:
        """Looks."""
        seen.append((handle.valid, more))
        return "result"

    sink = with_release(look)
    native = Native()
    assert sink(frame(manager, native), 7) == "result"
    assert (seen, native.released) == ([(True, 7)], 1)
    assert sink.__name__ == "look"
    assert sink.__doc__ == "Looks."


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_on_its_error_paths_too(manager: SafetyManager, error: type[BaseException]) -> None:
    native = Native()

    def look(handle: Handle[Native]) -> None:
        raise error("planted")

    with pytest.raises(error, match="planted") as raised:
        with_release(look)(frame(manager, native))
    assert native.released == 1
    assert raised.value.__traceback__ is not None  # kept, and holds nothing of ours


def test_a_kept_traceback_keeps_no_frame(manager: SafetyManager) -> None:
    native = Native()

    def look(handle: Handle[Native]) -> None:
        del handle
        raise ValueError

    mine = frame(manager, native)
    try:
        with_release(look)(mine.share())
    except ValueError as error:
        kept = error
    mine.close()
    assert native.released == 1
    assert kept.__traceback__ is not None


def test_the_fallback_keeps_the_only_share(manager: SafetyManager) -> None:
    native = Native()
    kept: list[Handle[Native]] = []

    def look(handle: Handle[Native]) -> str:
        raise ValueError("planted")

    def keep(handle: Handle[Native], error: Exception) -> str:
        kept.append(handle)
        return f"kept after {error}"

    assert with_release(look, fallback=keep)(frame(manager, native)) == "kept after planted"
    assert native.released == 0
    assert kept[0].valid
    kept[0].close()
    assert native.released == 1


def test_what_is_no_share_is_left_alone() -> None:
    assert with_release(len)(b"abc") == 3


def test_a_coroutine_gives_back_at_its_end(manager: SafetyManager) -> None:
    native = Native()

    async def look(handle: Handle[Native]) -> int:
        await asyncio.sleep(0)
        assert handle.valid
        return native.released

    assert asyncio.run(with_release(look)(frame(manager, native))) == 0
    assert native.released == 1


def test_a_cancelled_coroutine_gives_back(manager: SafetyManager) -> None:
    native = Native()

    async def look(handle: Handle[Native]) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(with_release(look)(frame(manager, native)))
        await asyncio.sleep(0)
        assert native.released == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert native.released == 1


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_coroutine_that_is_never_awaited_gives_back(manager: SafetyManager) -> None:
    native = Native()

    async def look(handle: Handle[Native]) -> None:
        pass

    with_release(look)(frame(manager, native))
    gc.collect()
    assert native.released == 1


def test_a_coroutine_falls_back(manager: SafetyManager) -> None:
    native = Native()
    kept: list[Handle[Native]] = []

    async def look(handle: Handle[Native]) -> None:
        raise ValueError

    async def keep(handle: Handle[Native], error: Exception) -> str:
        kept.append(handle)
        return "kept"

    assert asyncio.run(with_release(look, fallback=keep)(frame(manager, native))) == "kept"
    assert (native.released, kept[0].close(), native.released) == (0, True, 1)


def test_a_thread_owns_its_share_when_the_coroutine_is_cancelled(manager: SafetyManager) -> None:
    native = Native()
    begun, go, done = threading.Event(), threading.Event(), threading.Event()
    seen: list[int] = []

    def look(handle: Handle[Native]) -> None:
        begun.set()
        go.wait(20)
        seen.append(native.released)
        done.set()

    async def main() -> None:
        task = asyncio.create_task(with_release(look).in_thread(frame(manager, native)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert native.released == 0
        go.set()

    asyncio.run(main())
    assert done.wait(20)
    assert (seen, native.released) == ([0], 1)


def test_a_share_goes_back_when_its_thread_had_not_begun(manager: SafetyManager) -> None:
    from concurrent.futures import ThreadPoolExecutor

    native = Native()
    go = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(max_workers=1)
        loop.set_default_executor(executor)
        blocked = loop.run_in_executor(None, go.wait, 20)
        task = asyncio.create_task(with_release(lambda handle: None).in_thread(frame(manager, native)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert native.released == 1
        go.set()
        await blocked

    asyncio.run(main())
    assert native.released == 1


def test_what_cannot_be_a_sink_is_refused(manager: SafetyManager) -> None:
    def generator(handle: Any) -> Any:
        yield handle

    with pytest.raises(CallbackError, match="generator function"):
        with_release(generator)
    with pytest.raises(LifecycleError, match="takes a function, not 7"):
        with_release(7)  # type: ignore[arg-type]
    with pytest.raises(LifecycleError, match=r"fallback=\) takes a function"):
        with_release(len, fallback=7)  # type: ignore[arg-type]

    async def coroutine(handle: Any) -> None: ...

    native = Native()
    with pytest.raises(CallbackError, match="await sink"):
        asyncio.run(with_release(coroutine).in_thread(frame(manager, native)))
    assert native.released == 1


# -- what is made from a frame -------------------------------------------------------------------------------


def derive(
    manager: SafetyManager, source: Handle[Native], log: list[str], fail_at: int, count: int = 4
) -> Any:
    with derived_from(manager, source) as derived:
        for number in range(count):
            if number == fail_at:
                raise ValueError("half-way")
            derived.register(
                Native(str(number)),
                "derived",
                release=lambda native: log.append(native.label),
                release_on=ANY_THREAD,
            )
        return derived.keep()


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_half_way_through_everything_goes_back_in_order(manager: SafetyManager, fail_at: int) -> None:
    log: list[str] = []
    source = frame(manager, Native("frame"), lambda native: log.append(native.label))
    with pytest.raises(ValueError, match="half-way"):
        derive(manager, source, log, fail_at)
    source.close()
    assert log == [str(number) for number in reversed(range(fail_at))] + ["frame"]


def test_what_is_kept_keeps_the_frame(manager: SafetyManager) -> None:
    log: list[str] = []
    source = frame(manager, Native("frame"), lambda native: log.append(native.label))
    kept = derive(manager, source, log, -1)
    source.close()
    assert log == []
    for handle in kept:
        handle.close()
    manager.register(Native(), release_on=ANY_THREAD).close()  # the frame falls due with its last child
    assert log == ["0", "1", "2", "3", "frame"]


def test_derived_objects_may_stand_on_each_other(manager: SafetyManager) -> None:
    log: list[str] = []
    gl = ReleaseQueue("gl")
    source = frame(manager, Native("frame"), lambda native: log.append("frame"))
    with pytest.raises(ValueError, match="planted"):
        with derived_from(manager, source) as derived:
            tensor = derived.register(
                Native(), "t", release=lambda n: log.append("tensor"), release_on=ANY_THREAD
            )
            derived.add(
                manager.register(
                    Native(), "x", release=lambda n: log.append("texture"), release_on=gl, parent=tensor
                )
            )
            raise ValueError("planted")
    source.close()
    assert log == []  # the texture waits for its queue, and everything for the texture
    gl.drain()
    for _ in range(3):
        manager.register(Native(), release_on=ANY_THREAD).close()
    assert log == ["texture", "tensor", "frame"]


def test_after_its_block_nothing_is_taken(manager: SafetyManager) -> None:
    with frame(manager) as source:
        with derived_from(manager, source) as derived:
            pass
        native = Native()
        with pytest.raises(ClosedError, match="block is over"):
            derived.register(native, release=Native.free)
        assert native.released == 0
        with pytest.raises(LifecycleError, match="takes a handle or a frame, not 7"):
            derived_from(manager, 7)


def test_what_was_not_kept_goes_back_without_an_error_too(manager: SafetyManager) -> None:
    log: list[str] = []
    with frame(manager) as source:
        with derived_from(manager, source) as derived:
            derived.register(Native(), "t", release=lambda n: log.append("t"), release_on=ANY_THREAD)
            assert "1 not kept" in repr(derived)
        assert log == ["t"]
