"""Scenes of what stands on the manager: guards, pools, memory, objects, distribution."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from typing import Any

from lifecycle import (
    ANY_THREAD,
    BufferPool,
    CleanupGuard,
    CleanupStack,
    FrameDistributor,
    Lagged,
    LifecycleError,
    MemoryConfig,
    MemoryManager,
    ObjectLifecycleManager,
    ObjectPool,
    SharedCleanupGuard,
)
from lifecycle.distribution import derived_from, with_release
from lifecycle.errors import Empty
from tests.adversaries.stage import Native, Stage, Table

TABLE = Table()
scene = TABLE.scene


# -- guards --------------------------------------------------------------------------------------------------


def action(stage: Stage) -> Any:
    """A cleanup that runs once: the native's release."""
    return stage.keep(stage.register()).close


@scene(
    "CleanupGuard.__init__",
    "CleanupGuard.__enter__",
    "CleanupGuard.__exit__",
    "CleanupGuard.armed",
    "CleanupGuard.__repr__",
)
def guard(stage: Stage) -> None:
    with CleanupGuard(action(stage)) as made:
        assert made.armed
        repr(made)


@scene("CleanupGuard.close", "CleanupGuard.defuse", "CleanupGuard.__del__")
def guard_by_hand(stage: Stage) -> None:
    stage.keep(CleanupGuard(action(stage))).close()
    stage.keep(CleanupGuard(action(stage))).defuse()


@scene(
    "SharedCleanupGuard.__init__",
    "SharedCleanupGuard.share",
    "SharedCleanupGuard.close",
    "SharedCleanupGuard.closed",
    "SharedCleanupGuard.armed",
    "SharedCleanupGuard.__repr__",
    "SharedCleanupGuard.__enter__",
    "SharedCleanupGuard.__exit__",
    "SharedCleanupGuard.defuse",
    "SharedCleanupGuard.__del__",
)
def shared_guard(stage: Stage) -> None:
    first = stage.keep(SharedCleanupGuard(action(stage)))
    with stage.keep(first.share()) as second:
        assert second.armed
        repr(second)
    assert second.closed
    first.close()
    stage.keep(SharedCleanupGuard(action(stage))).defuse()


@scene(
    "CleanupStack.__init__",
    "CleanupStack.__enter__",
    "CleanupStack.__exit__",
    "CleanupStack.callback",
    "CleanupStack.push",
    "CleanupStack.enter_context",
    "CleanupStack.__len__",
    "CleanupStack.__bool__",
    "CleanupStack.__repr__",
)
def stack(stage: Stage) -> None:
    with CleanupStack() as made:
        made.callback(action(stage))
        made.push(stage.keep(stage.register()))
        made.enter_context(stage.keep(stage.register()))
        assert len(made) == 3
        assert made
        repr(made)


@scene("CleanupStack.pop_all", "CleanupStack.close", "CleanupStack.defuse", "CleanupStack.__del__")
def stack_by_hand(stage: Stage) -> None:
    first = stage.keep(CleanupStack())
    first.callback(action(stage))
    stage.keep(first.pop_all()).close()
    first.callback(list)
    first.defuse()


# -- pools ---------------------------------------------------------------------------------------------------


def objects(stage: Stage) -> None:
    pool = stage.props.pool = ObjectPool(
        stage.manager, stage.native, size=2, destroy=Native.free, timeout=0, name="items"
    )
    stage.keep(pool)


def buffers(stage: Stage) -> None:
    stage.props.pool = stage.keep(BufferPool(stage.manager, 5000, 2, exhausted="refuse"))


def guarded(stage: Stage) -> None:
    stage.props.pool = stage.keep(BufferPool(stage.manager, 5000, 2, exhausted="refuse", guard="paranoid"))


POOL = ("Pool.put", "Pool.loans", "Pool.stats", "Pool.closed", "Pool.__repr__")


@scene("ObjectPool.get", "ObjectPool.item", "ObjectPool.size", "ObjectPool.drain", *POOL, prepare=objects)
def object_pool(stage: Stage) -> None:
    pool = stage.props.pool
    with stage.keep(pool.get()) as handle, handle.lease() as native:
        native.use()
        with pool.item() as other:
            other.use()
    pool.put(stage.keep(pool.get()))
    pool.drain()
    pool.loans()
    pool.stats()
    repr(pool)
    assert pool.size in (2, 3)
    assert not pool.closed


@scene("BufferPool.get", prepare=guarded)
def guarded_pool(stage: Stage) -> None:
    """What comes back is made inaccessible: what is lent afterwards can be written to."""
    for _ in range(3):
        with stage.keep(stage.props.pool.get()) as buffer:
            buffer.view()[:] = bytes(5000)


@scene("ObjectPool.give_away", prepare=objects, lets_go=True)
def object_pool_of_which_one_is_taken(stage: Stage) -> None:
    pool = stage.props.pool
    native = pool.get().detach()
    try:
        native.use()
        assert pool.size in (2, 3)
    finally:
        native.free()
    stage.keep(pool.get()).close()
    stage.keep(pool.get()).close()


@scene("Pool.give_away", prepare=buffers)
def buffer_pool_of_which_one_is_taken(stage: Stage) -> None:
    stage.keep(stage.props.pool.get()).detach(timeout=0)
    stage.keep(stage.props.pool.get()).close()
    stage.keep(stage.props.pool.get()).close()


@scene("ObjectPool.trim", "ObjectPool.resize", prepare=objects)
def object_pool_resized(stage: Stage) -> None:
    pool = stage.props.pool
    stage.keep(pool.get()).close()
    pool.resize(3)
    pool.trim()
    pool.resize(2)


@scene("Pool.warm_up", prepare=objects)
def object_pool_warmed_up(stage: Stage) -> None:
    stage.props.pool.warm_up(1)
    stage.keep(stage.props.pool.get()).close()


def at_once(borrowing: Any) -> Any:
    """What a coroutine gets that has not to wait."""
    coroutine = borrowing.__await__()
    try:
        next(coroutine)
    except StopIteration as got:
        return got.value
    finally:
        coroutine.close()
    raise AssertionError("it waits")


@scene("ObjectPool.get_async", prepare=objects)
def object_pool_in_a_coroutine(stage: Stage) -> None:
    with stage.keep(at_once(stage.props.pool.get_async())) as handle, handle.lease() as native:
        native.use()


@scene("BufferPool.get_async", prepare=buffers)
def buffer_pool_in_a_coroutine(stage: Stage) -> None:
    with stage.keep(at_once(stage.props.pool.get_async(100))) as buffer:
        assert buffer.nbytes == 100


@scene("ObjectPool.__init__", "Pool.__enter__", "Pool.__exit__", "Pool.close")
def object_pool_whole(stage: Stage) -> None:
    objects(stage)
    with stage.props.pool as pool:
        stage.keep(pool.get()).close()
    pool.close()


@scene(
    "BufferPool.get",
    "BufferPool.stats",
    "BufferPool.size",
    "BufferPool.count",
    "Buffer.address",
    "Buffer.nbytes",
    "Buffer.view",
    "Buffer.share",
    "Block.__repr__",
    "Pool.drain",
    *POOL,
    prepare=buffers,
)
def buffer_pool(stage: Stage) -> None:
    pool = stage.props.pool
    with stage.keep(pool.get()) as buffer:
        stage.props.view = buffer.view()
        stage.props.view[0] = 1
        assert buffer.address
        assert buffer.nbytes == 5000
        with buffer.lease() as block:
            repr(block)
        stage.keep(buffer.share()).close()
    stage.props.view = None
    pool.put(stage.keep(pool.get()))
    pool.drain()
    pool.loans()
    pool.stats()
    repr(pool)
    assert pool.size == 5000
    assert pool.count in (2, 3)
    assert not pool.closed


@scene("BufferPool.trim", "BufferPool.resize", prepare=buffers)
def buffer_pool_resized(stage: Stage) -> None:
    pool = stage.props.pool
    stage.keep(pool.get()).close()
    pool.resize(count=3)
    pool.trim()
    pool.resize(count=2)


@scene("BufferPool.__init__", "Pool.__enter__", "Pool.__exit__", "Pool.close", "Block.__init__")
def buffer_pool_whole(stage: Stage) -> None:
    buffers(stage)
    with stage.props.pool as pool:
        stage.keep(pool.get()).close()


# -- memory --------------------------------------------------------------------------------------------------


def memory(stage: Stage) -> None:
    stage.props.memory = stage.keep(
        MemoryManager(stage.manager, MemoryConfig(max_bytes=10_000, over="refuse"), name="memory")
    )


FACADE = (
    "Facade.manager",
    "Facade.name",
    "Facade.closed",
    "Facade.__len__",
    "Facade.__bool__",
    "Facade.__contains__",
    "Facade.__repr__",
    "Facade.safe_object_access",
)


def look_at(facade: Any, number: int, stage: Stage) -> None:
    """What every facade answers."""
    assert facade.manager is stage.manager
    assert facade.name
    assert not facade.closed
    assert len(facade) >= 0
    assert facade
    assert (number in facade) in (True, False)
    repr(facade)
    with contextlib.suppress(LifecycleError):
        facade.safe_object_access(number, Native.use)


@scene(
    "MemoryManager.track_object",
    "MemoryManager.release_object",
    "MemoryManager.config",
    "MemoryManager.stats",
    "MemoryManager.stats_of_all",
    "MemoryManager.holders",
    *FACADE,
    prepare=memory,
    callers=True,
)
def memory_tracks(stage: Stage) -> None:
    facade = stage.props.memory
    number = facade.track_object(stage.native(), "native", 10, release=Native.free, release_on=ANY_THREAD)
    look_at(facade, number, stage)
    assert facade.config.max_bytes == 10_000
    facade.stats()
    facade.stats_of_all()
    facade.holders()
    facade.release_object(number, timeout=0)


@scene(
    "MemoryManager.reserve",
    "MemoryManager.set_budget",
    "MemoryManager.add_pressure_callback",
    "MemoryManager.relieve",
    "Reservation.__init__",
    "Reservation.__enter__",
    "Reservation.__exit__",
    "Reservation.release",
    "Reservation.__repr__",
    prepare=memory,
)
def memory_reserves(stage: Stage) -> None:
    facade = stage.props.memory
    stage.keep(facade.add_pressure_callback(list))
    facade.set_budget("native", max_bytes=500, max_live=10)
    with facade.reserve(100, "native") as reservation:
        repr(reservation)
        facade.relieve()
    reservation.release()
    facade.set_budget("native", max_bytes=None, max_live=None)
    assert facade.stats_of_all().bytes == 0


@scene("MemoryManager.__init__", "Facade.__enter__", "Facade.__exit__", "Facade.close", callers=True)
def memory_whole(stage: Stage) -> None:
    memory(stage)
    with stage.props.memory as facade:
        facade.track_object(stage.native(), "native", 10, release=Native.free, release_on=ANY_THREAD)


# -- objects -------------------------------------------------------------------------------------------------


def by_id(stage: Stage) -> None:
    stage.props.objects = stage.keep(ObjectLifecycleManager(stage.manager, name="objects"))


@scene(
    "ObjectLifecycleManager.register_object",
    "ObjectLifecycleManager.unregister_object",
    "ObjectLifecycleManager.children",
    "ObjectLifecycleManager.parent",
    "ObjectLifecycleManager.info",
    "ObjectLifecycleManager.find",
    "ObjectLifecycleManager.history",
    "ObjectLifecycleManager.tree",
    "ObjectLifecycleManager.stats",
    *FACADE,
    prepare=by_id,
    callers=True,
)
def objects_by_id(stage: Stage) -> None:
    facade = stage.props.objects
    parent = facade.register_object(
        stage.native(), "native", "parent", release=Native.free, release_on=ANY_THREAD
    )
    with contextlib.suppress(LifecycleError):
        child = facade.register_object(
            stage.native(), "native", release=Native.free, release_on=ANY_THREAD, parent=parent
        )
        look_at(facade, child, stage)
        facade.parent(child)
        facade.children(parent)
        facade.info(child)
        facade.find("parent")
        facade.history(parent)
        facade.tree()
        facade.stats()
        facade.unregister_object(child, timeout=0)
    facade.unregister_object(parent, timeout=0)


@scene(
    "ObjectLifecycleManager.enable_validation",
    "ObjectLifecycleManager.disable_validation",
    "ObjectLifecycleManager.set_max_age",
    "ObjectLifecycleManager.overdue",
    prepare=by_id,
)
def objects_by_id_with_rules(stage: Stage) -> None:
    facade = stage.props.objects
    facade.enable_validation("native", Native.use)
    facade.set_max_age("native", 1000.0)
    with contextlib.suppress(LifecycleError):
        stage.manager.safe_access(stage.handle, Native.use)
    facade.overdue()
    facade.disable_validation("native")
    facade.set_max_age("native", None)


@scene("ObjectLifecycleManager.__init__", "Facade.__enter__", "Facade.__exit__", "Facade.close", callers=True)
def objects_by_id_whole(stage: Stage) -> None:
    by_id(stage)
    with stage.props.objects as facade:
        facade.register_object(stage.native(), "native", release=Native.free, release_on=ANY_THREAD)


# -- distribution --------------------------------------------------------------------------------------------


def distributor(stage: Stage) -> None:
    made = stage.props.distributor = FrameDistributor[Any](3, name="frames", manager=stage.manager)
    stage.keep(lambda: made.close(discard=True))
    stage.props.receiver = stage.keep(made.subscribe(name="one"))


@scene(
    "FrameDistributor.publish",
    "FrameDistributor.subscribe",
    "FrameDistributor.name",
    "FrameDistributor.capacity",
    "FrameDistributor.published",
    "FrameDistributor.receivers",
    "FrameDistributor.closed",
    "FrameDistributor.__len__",
    "FrameDistributor.__bool__",
    "FrameDistributor.__repr__",
    "FrameDistributor.stats",
    "FrameReceiver.recv",
    "FrameReceiver.__init__",
    prepare=distributor,
)
def distribute(stage: Stage) -> None:
    made, receiver = stage.props.distributor, stage.props.receiver
    for _ in range(4):
        made.publish(stage.keep(stage.register()))
    stage.keep(made.subscribe(group="g", policy="latest-only", start="oldest"))
    repr(made)
    made.stats()
    assert (made.name, made.capacity) == ("frames", 3)
    assert made.published >= 0
    assert made.receivers >= 0
    assert len(made) <= 3
    assert made
    assert not made.closed
    for _ in range(2):
        try:
            stage.keep(receiver.recv(timeout=0)).close()
        except (Lagged, Empty):
            continue


@scene(
    "FrameReceiver.name",
    "FrameReceiver.group",
    "FrameReceiver.received",
    "FrameReceiver.missed",
    "FrameReceiver.lag",
    "FrameReceiver.closed",
    "FrameReceiver.evicted",
    "FrameReceiver.__len__",
    "FrameReceiver.__bool__",
    "FrameReceiver.__repr__",
    "FrameReceiver.__reduce_ex__",
    "FrameReceiver.stats",
    "FrameReceiver.resubscribe",
    "FrameReceiver.close",
    "FrameReceiver.__enter__",
    "FrameReceiver.__exit__",
    prepare=distributor,
)
def receive(stage: Stage) -> None:
    receiver = stage.props.receiver
    stage.props.distributor.publish(stage.keep(stage.register()))
    with receiver:
        repr(receiver)
        receiver.stats()
        assert (receiver.name, receiver.group) == ("one", "")
        assert receiver.received + receiver.missed + receiver.lag >= 0
        assert len(receiver) >= 0
        assert bool(receiver) in (True, False)
        assert not receiver.evicted
        with contextlib.suppress(TypeError):
            pickle.dumps(receiver)
    assert receiver.closed
    stage.keep(receiver.resubscribe()).close()


@scene(
    "FrameReceiver.__iter__",
    "FrameLoop.__init__",
    "FrameLoop.__iter__",
    "FrameLoop.__next__",
    "FrameLoop.__del__",
    prepare=distributor,
    lets_go=True,
)
def receive_in_a_loop(stage: Stage) -> None:
    made = stage.props.distributor
    made.publish(stage.keep(stage.register()))
    made.publish(stage.keep(stage.register()))
    made.close()
    with contextlib.suppress(Lagged):
        for frame in iter(iter(stage.props.receiver)):
            stage.keep(frame.share()).close()


@scene(
    "FrameReceiver.recv_async",
    "FrameReceiver.__aiter__",
    "FrameLoop.__aiter__",
    "FrameLoop.__anext__",
    prepare=distributor,
    interrupts=False,
)
def receive_async(stage: Stage) -> None:
    """An interrupt here is asyncio's to deal with."""
    made = stage.props.distributor
    for _ in range(3):
        made.publish(stage.keep(stage.register()))
    made.close()

    async def main() -> None:
        stage.keep(await stage.props.receiver.recv_async(timeout=1))
        async for frame in aiter(stage.props.receiver):
            stage.keep(frame.share())

    with contextlib.suppress(Lagged, LifecycleError):
        asyncio.run(main())


@scene(
    "FrameDistributor.__init__",
    "FrameDistributor.__enter__",
    "FrameDistributor.__exit__",
    "FrameDistributor.close",
    "FrameDistributor.__del__",
)
def distributor_whole(stage: Stage) -> None:
    distributor(stage)
    with stage.props.distributor as made:
        made.publish(stage.keep(stage.register()))


def takes(frame: Any, *args: Any) -> int:
    """What a sink does with a frame."""
    with frame.lease() as native:
        return native.use()  # type: ignore[no-any-return]


@scene("with_release", "Sink.__init__", "Sink.__call__", "Sink.__repr__")
def sink(stage: Stage) -> None:
    made = with_release(takes)
    repr(made)
    made(stage.keep(stage.handle.share()), 1)


@scene("Sink.in_thread", interrupts=False)
def sink_in_thread(stage: Stage) -> None:
    """An interrupt here is asyncio's to deal with."""
    made = with_release(takes)

    async def main() -> None:
        await made.in_thread(stage.keep(stage.handle.share()), 1)

    asyncio.run(main())


@scene(
    "derived_from",
    "Derived.__init__",
    "Derived.__enter__",
    "Derived.__exit__",
    "Derived.register",
    "Derived.add",
    "Derived.close",
    "Derived.__repr__",
    callers=True,
    lets_go=True,
)
def derived(stage: Stage) -> None:
    with derived_from(stage.manager, stage.handle) as made:
        made.register(stage.native(), "native", release=Native.free, release_on=ANY_THREAD)
        made.add(stage.keep(stage.register()))
        repr(made)


@scene("Derived.keep", callers=True, lets_go=True)
def derived_kept(stage: Stage) -> None:
    with derived_from(stage.manager, stage.handle) as made:
        made.register(stage.native(), "native", release=Native.free, release_on=ANY_THREAD)
        stage.things.extend(made.keep())
