"""asyncio and uvloop: queues of the loop, leases across awaits, threads that own their lease, closing without
blocking."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core.runtime import free_threaded as FREE_THREADED
from lifecycle.errors import CallbackError
from lifecycle.integrations.event_loops.asyncio import aclose, release_queue, run_leased
from tests.core.natives import Fence, Native

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on the loop in question, with 20 s for it, and sees that the loop had nothing to
    complain of."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        complaints: list[Any] = []

        async def watched() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, facts: complaints.append(facts))
            return await asyncio.wait_for(main, 20)

        if request.param == "asyncio":
            answer = asyncio.run(watched())
        else:
            import uvloop

            answer = uvloop.run(watched())
        assert complaints == []
        return answer

    return run


def on(
    manager: SafetyManager, place: Any = BACKGROUND, release: Any = Native.free
) -> tuple[Native, Handle[Native]]:
    native = Native("native")
    return native, manager.register(native, "native", release=release, release_on=place)


async def true(condition: Callable[[], object]) -> None:
    """Wait, without blocking the loop, until it is."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, condition
        await asyncio.sleep(0.002)


async def cancelled(task: Awaitable[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


# -- a queue of the loop -------------------------------------------------------------------------------------


def test_the_loop_releases_its_own_objects(manager: SafetyManager, run: Run) -> None:
    """I4: on its thread, whoever closed, dropped or let go."""

    async def main() -> None:
        queue = release_queue()
        here = threading.get_ident()
        natives = []
        for end in (
            lambda handle: handle.close(),
            lambda handle: handle.lease().__enter__() and handle.close(),
            lambda handle: manager.unregister(handle),
            lambda handle: manager.invalidate(handle, "gone"),
        ):
            native, handle = on(manager, queue)
            natives.append(native)
            await asyncio.to_thread(end, handle)
        await true(lambda: all(native.released for native in natives))
        assert {ident for native in natives for ident in native.threads} == {here}
        assert [native.errors for native in natives] == [[]] * 4
        await true(lambda: queue.backlog == 0)

    run(main())


def test_a_release_may_use_the_loop(manager: SafetyManager, run: Run) -> None:
    """It runs in a turn of the loop, so what belongs to the loop can be touched."""

    async def main() -> str:
        done = asyncio.get_running_loop().create_future()
        handle = manager.register("connection", "db", release=done.set_result, release_on=release_queue())
        await asyncio.to_thread(handle.close)
        return str(await done)

    assert run(main()) == "connection"


def test_a_manager_is_closed_from_a_thread_while_its_loop_runs(run: Run) -> None:
    """I4, I5: what belongs to the loop is released by it, parents after children, and the loop is not
    blocked."""
    manager = SafetyManager(name="closing")
    order: list[tuple[str, int]] = []

    async def main() -> None:
        here = threading.get_ident()
        queue = release_queue()

        def release(label: str) -> None:
            order.append((label, threading.get_ident()))

        parent = manager.register("parent", release=release, release_on=queue)
        child = manager.register("child", release=release, parent=parent)
        grandchild = manager.register("grandchild", release=release, release_on=queue, parent=child)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        report = await asyncio.to_thread(manager.close)
        ticking.cancel()
        if FREE_THREADED:  # what the loop's thread made may die only when that runs Python again
            await true(lambda: len(order) == 3)
        else:
            assert report.ok, report
        assert [label for label, _ in order] == ["grandchild", "child", "parent"]
        assert [ident == here for _, ident in order] == [True, False, True]
        await true(lambda: grandchild.state == child.state == parent.state == "released")

    run(main())


def test_after_the_loop_has_ended_its_thread_and_the_manager_still_release(run: Run) -> None:
    """I3: nobody rings a closed loop for ever."""
    manager = SafetyManager(name="after")
    kept: list[Any] = []

    async def main() -> None:
        queue = release_queue()
        kept.extend((queue, on(manager, queue), on(manager, queue)))

    run(main())
    queue, (first, first_handle), (second, second_handle) = kept
    closer = threading.Thread(target=first_handle.close)
    closer.start()
    closer.join()
    for _ in range(400):
        if queue.problem:
            break
        time.sleep(0.05)
    assert "its event loop takes no turn" in queue.problem
    assert second_handle.close() is True  # on the owner's thread, which takes the other along
    assert (first.released, second.released) == (1, 1)
    assert manager.close().ok


def test_a_queue_of_no_loop_is_refused() -> None:
    """I9."""
    with pytest.raises(LifecycleError, match=r"release_queue\('ui'\) belongs to a running event loop"):
        release_queue("ui")


# -- leases across awaits ------------------------------------------------------------------------------------


def test_a_lease_lasts_over_awaits_and_ends_with_its_block(manager: SafetyManager, run: Run) -> None:
    """I2."""

    async def main() -> None:
        native, handle = on(manager)
        entered = asyncio.Event()
        go_on = asyncio.Event()

        async def use() -> str:
            with handle.lease() as leased:
                entered.set()
                await go_on.wait()
                return leased.use()

        using = asyncio.create_task(use())
        await entered.wait()
        assert handle.close() is False
        assert native.released == 0
        go_on.set()
        assert await using == "native"
        assert handle.close(timeout=20) is True
        assert native.errors == []

    run(main())


@pytest.mark.parametrize("how", ["cancelled", "timed out", "dropped with the loop"])
def test_a_task_that_ends_in_a_lease_ends_the_lease(manager: SafetyManager, run: Run, how: str) -> None:
    """I2: and control flow poisons nothing, in `safe_access` neither."""
    native, handle = on(manager)

    async def use(entered: asyncio.Event) -> None:
        with manager.safe_access(handle) as obj, handle.lease():
            entered.set()
            await asyncio.sleep(60)
            obj.use()

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(use(entered))
        await entered.wait()
        if how == "cancelled":
            task.cancel()
            await cancelled(task)
        elif how == "timed out":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.01)
        assert str(handle.state) == "valid"

    run(main())
    gc.collect()
    assert handle.valid
    assert handle.close() is True
    assert native.released == 1


def test_an_asynchronous_generator_left_in_a_lease_gives_it_up(manager: SafetyManager, run: Run) -> None:
    """I2: the loop closes it."""

    async def frames(handle: Handle[Native]) -> Any:
        with handle.lease() as native:
            while True:
                yield native.use()

    async def main() -> None:
        native, handle = on(manager)
        async for _ in frames(handle):
            break
        gc.collect()
        assert await aclose(handle, timeout=20) is True
        assert native.errors == []

    run(main())


def test_an_exception_in_a_block_across_awaits_is_a_panic_as_elsewhere(
    manager: SafetyManager, run: Run
) -> None:
    async def main() -> None:
        _, handle = on(manager)
        with pytest.raises(AccessPanicError):
            with manager.safe_access(handle):
                await asyncio.sleep(0)
                raise ZeroDivisionError
        assert not handle.valid

    run(main())


# -- threads that own their lease ----------------------------------------------------------------------------


def test_run_leased_runs_on_a_thread_and_ends_its_lease_before_it_returns(
    manager: SafetyManager, run: Run
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def work(native: Native, *more: int) -> tuple[Any, ...]:
        return native.use(), more, variable.get(), threading.get_ident()

    async def main() -> None:
        native, handle = on(manager, ANY_THREAD)
        variable.set("of the caller")
        label, more, value, ident = await run_leased(handle, work, 1, 2)
        assert (label, more, value) == ("native", (1, 2), "of the caller")
        assert ident != threading.get_ident()
        await true(lambda: handle.close())
        assert native.errors == []

    run(main())


def test_cancelling_does_not_end_the_lease_of_a_thread_that_works(manager: SafetyManager, run: Run) -> None:
    """I2: `asyncio.to_thread` inside a lease would free the object under the thread; shown by doing that
    first."""

    async def main() -> None:
        for leased in (False, True):
            native, handle = on(manager, ANY_THREAD)
            began, go_on, done = threading.Event(), threading.Event(), threading.Event()

            def work(native: Native) -> None:
                began.set()
                go_on.wait(20)
                native.use()
                done.set()

            async def unsafe() -> None:
                with handle.lease() as obj:
                    await asyncio.to_thread(work, obj)

            task = asyncio.create_task(run_leased(handle, work) if leased else unsafe())
            await true(began.is_set)
            task.cancel()
            await cancelled(task)
            handle.close()
            assert native.released == (0 if leased else 1)
            go_on.set()
            await true(done.is_set)
            assert native.errors == ([] if leased else ["native used after its release"])
            assert await aclose(handle, timeout=20) is True

    run(main())


def test_cancelled_before_a_thread_was_free_the_lease_ends_at_once(manager: SafetyManager, run: Run) -> None:
    """I2: it does not wait in the executor's queue, and `fn` never runs."""

    async def main() -> None:
        native, handle = on(manager, ANY_THREAD)
        go_on = threading.Event()
        ran: list[Any] = []
        with ThreadPoolExecutor(1) as pool:
            pool.submit(go_on.wait, 20)
            task = asyncio.create_task(run_leased(handle, ran.append, executor=pool))
            await asyncio.sleep(0.01)
            assert handle.close() is False  # leased already
            task.cancel()
            await cancelled(task)
            assert handle.close() is True
            go_on.set()
        assert (ran, native.released) == ([], 1)

    run(main())


def test_an_exception_passes_unchanged_and_keeps_nothing(manager: SafetyManager, run: Run) -> None:
    def bad(native: Native) -> None:
        raise KeyError("mine")

    async def main() -> None:
        _, handle = on(manager, ANY_THREAD)
        with pytest.raises(KeyError, match="mine") as caught:
            await run_leased(handle, bad)
        assert handle.valid  # no panic boundary
        await true(lambda: handle.close())  # the traceback in `caught` keeps no lease
        assert caught.value.__traceback__ is not None

    run(main())


def test_a_failure_after_cancellation_is_told_to_the_loop(manager: SafetyManager) -> None:
    """I9: nobody else would hear of it."""
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, facts: told.append(facts))
        _, handle = on(manager, ANY_THREAD)
        began, go_on = threading.Event(), threading.Event()

        def bad(native: Native) -> None:
            began.set()
            go_on.wait(20)
            raise KeyError("late")

        task = asyncio.create_task(run_leased(handle, bad))
        await true(began.is_set)
        task.cancel()
        await cancelled(task)
        go_on.set()
        await true(lambda: told)
        assert await aclose(handle, timeout=20) is True

    asyncio.run(main())
    assert [str(facts["exception"]) for facts in told] == ["'late'"]
    assert "after its task had been cancelled" in told[0]["message"]


def test_what_run_leased_refuses(manager: SafetyManager, run: Run) -> None:
    """I9."""

    async def coroutine(native: Native) -> None: ...

    async def main() -> None:
        _, handle = on(manager, ANY_THREAD)
        with pytest.raises(CallbackError, match="coroutine"):
            await run_leased(handle, coroutine)  # type: ignore[unused-coroutine]
        with pytest.raises(LifecycleError, match="expected a handle"):
            await run_leased("no handle", str)  # type: ignore[arg-type]
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            await run_leased(handle, str, executor=pool)
        handle.close()
        assert handle.state == "released"  # no lease was left behind
        with pytest.raises(AccessRefusedError, match="released"):
            await run_leased(handle, str)

    run(main())


def test_many_at_a_time_cancelled_at_random(manager: SafetyManager, run: Run) -> None:
    """I2, I3: a storm."""
    natives: list[Native] = []

    def work(native: Native) -> None:
        time.sleep(0.0005)
        native.use()

    async def one(n: int) -> None:
        native, handle = on(manager, ANY_THREAD)
        natives.append(native)
        task = asyncio.create_task(run_leased(handle, work))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        if n % 3:
            task.cancel()
        handle.close()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert outcome is None or isinstance(outcome, (asyncio.CancelledError, AccessRefusedError)), outcome
        assert await aclose(handle, timeout=20) is True

    async def main() -> None:
        await asyncio.gather(*map(one, range(300)))

    run(main())
    assert [native.errors for native in natives] == [[]] * 300
    assert {native.released for native in natives} == {1}


# -- closing without blocking --------------------------------------------------------------------------------


def test_aclose_waits_for_a_slow_release_while_the_loop_goes_on(manager: SafetyManager, run: Run) -> None:
    async def main() -> None:
        go_on = threading.Event()
        _, handle = on(manager, BACKGROUND, lambda native: go_on.wait(20))
        closing = asyncio.create_task(aclose(handle))
        await asyncio.sleep(0.05)  # the loop runs
        assert not closing.done()
        go_on.set()
        assert await closing is True
        assert await aclose(handle) is True

    run(main())


def test_aclose_answers_as_close_does(run: Run) -> None:
    """I9: held by others, stuck, failed, waiting for the others, and for a fence."""

    async def main() -> None:
        hasty = SafetyManager(SafetyConfig(finalizer_timeout=0.1), name="hasty")
        with SafetyManager() as manager, hasty:
            native, handle = on(manager)
            lease = handle.lease()
            assert await aclose(handle) is False
            assert await aclose(handle, timeout=0.01) is False
            waiting = asyncio.create_task(aclose(handle, timeout=None))
            await asyncio.sleep(0.01)
            await asyncio.to_thread(lease.close)
            del lease
            assert await waiting is True
            assert native.released == 1

            never = threading.Event()
            _, stuck = on(hasty, BACKGROUND, lambda native: never.wait(20))
            assert await aclose(stuck) is False
            assert stuck.state == "stuck"
            never.set()

            _, failing = on(manager, BACKGROUND, lambda native: 1 / 0)
            assert await aclose(failing, timeout=20) is False
            assert failing.state == "failed"

            fence = Fence()
            _, fenced = on(manager, ANY_THREAD)
            fenced.close(after=fence, timeout=0)
            asyncio.get_running_loop().call_later(0.05, setattr, fence, "done", True)
            assert await aclose(fenced, timeout=20) is True

            with pytest.raises(LifecycleError, match="timeout="):
                await aclose(handle, timeout=-1)

    run(main())


def test_aclose_cancelled_closes_all_the_same(manager: SafetyManager, run: Run) -> None:
    async def main() -> None:
        _, handle = on(manager)
        lease = handle.lease()
        closing = asyncio.create_task(aclose(handle, timeout=None))
        await asyncio.sleep(0.01)
        closing.cancel()
        await cancelled(closing)
        assert not handle.valid
        assert handle._record.kind.registry.waiters == {}
        lease.close()
        assert await aclose(handle, timeout=20) is True

    run(main())


def test_aclose_on_the_loops_own_queue(manager: SafetyManager, run: Run) -> None:
    async def main() -> None:
        queue = release_queue()
        native, handle = on(manager, queue)
        lease = handle.lease()
        closing = asyncio.create_task(aclose(handle, timeout=20))
        await asyncio.sleep(0.01)
        lease.close()
        assert await closing is True
        assert native.threads == [threading.get_ident()]
        _, second = on(manager, queue)
        assert await aclose(second) is True

    run(main())


def test_nobody_waits_on_a_loop_that_is_closed(manager: SafetyManager) -> None:
    """I6: its waiters are let go, and an end announced to one that was left changes nothing."""
    native, handle = on(manager, ANY_THREAD)
    lease = handle.lease()

    async def main() -> asyncio.Task[bool]:
        waiting = asyncio.create_task(aclose(handle, timeout=None))
        await asyncio.sleep(0.01)
        return waiting

    loop = asyncio.new_event_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        waiting = loop.run_until_complete(main())
        loop.close()
        lease.close()
        assert handle.close(timeout=20) is True
        assert not waiting.done()
        del waiting
        gc.collect()
    assert native.released == 1


def test_several_loops_on_several_threads(manager: SafetyManager) -> None:
    """I4: each releases its own."""
    natives: list[tuple[Native, int]] = []
    queues: list[ReleaseQueue] = []

    async def main() -> None:
        queue = release_queue("one of many")
        queues.append(queue)
        handles = []
        for _ in range(20):
            native, handle = on(manager, queue)
            natives.append((native, threading.get_ident()))
            handles.append(handle)
        await asyncio.gather(*(asyncio.to_thread(handle.close) for handle in handles))
        await true(lambda: queue.backlog == 0)
        assert all([await aclose(handle, timeout=20) for handle in handles])

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(natives) == 80
    assert all(native.threads == [ident] for native, ident in natives)


def test_a_loop_goes_on_while_another_thread_collects(run: Run, manager: SafetyManager) -> None:
    """Nothing can be released then: the notifier's thread waits for the end of the collection, not the
    loop."""
    began, over = threading.Event(), threading.Event()
    gone: list[int] = []

    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            began.set()
            over.wait(20)

    async def main() -> None:
        queue = release_queue("loop")
        handles = [
            manager.register(object(), "thing", release=lambda _: gone.append(1), release_on=queue)
            for _ in range(20)
        ]
        Slow()
        collector = threading.Thread(target=gc.collect)
        collector.start()
        began.wait(20)
        closer = threading.Thread(target=lambda: [handle.close() for handle in handles])
        closer.start()
        while queue.backlog < 20:
            await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert gone == []
        over.set()
        closer.join()
        while len(gone) < 20:
            await asyncio.sleep(0.001)
        collector.join()

    collecting = gc.isenabled()
    gc.disable()
    try:
        run(main())
    finally:
        over.set()
        if collecting:
            gc.enable()
