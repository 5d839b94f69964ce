"""One source, many consumers: what is shared, what is missed, what is closed, and what is told."""

from __future__ import annotations

import asyncio
import gc
import queue
import re
import threading
import time
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessRefusedError,
    ClosedError,
    FrameDistributor,
    FrameReceiver,
    Handle,
    Lagged,
    LifecycleError,
    ReleaseQueue,
    SafetyManager,
    never_wait,
)
from lifecycle._core import facts
from lifecycle._core.budget import Budget
from lifecycle.distribution import BlockPublisher, EvictAfter, KeepKeyFrames, Policy, Shareable
from lifecycle.errors import Empty, EvictedError
from tests.core.natives import Native
from tests.sharing.sources import adds_up, frame, read
from tests.support import eventually

PATIENCE = 20.0


# -- publishing ----------------------------------------------------------------------------------------------


def test_a_frame_is_shared_and_not_copied(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4, name="camera")
    receivers = [distributor.subscribe() for _ in range(3)]
    native = Native()
    mine = frame(manager, native)
    assert distributor.publish(mine) == 3
    assert mine.valid
    mine.close()
    shares = [receiver.recv(timeout=0) for receiver in receivers]
    for share in shares:
        with share.lease() as obj:
            assert obj is native
    distributor.close()
    assert native.released == 0
    for share in shares:
        share.close()
    assert native.released == 1


@pytest.mark.parametrize("item", [b"bytes", bytearray(3), memoryview(b"abc"), {"any": "object"}, None, 7])
def test_what_cannot_be_shared_is_passed_on_as_it_is(item: object) -> None:
    with FrameDistributor[object](2) as distributor:
        receiver = distributor.subscribe()
        distributor.publish(item)
        assert receiver.recv(timeout=0) is item


class Reel:
    """Something else that can be shared."""

    def __init__(self, log: list[str], owner: str = "publisher") -> None:
        self.log = log
        self.owner = owner

    def share(self) -> Reel:
        self.log.append("share")
        return Reel(self.log, "a receiver")

    def close(self) -> None:
        self.log.append(f"close by {self.owner}")


def test_anything_with_share_and_close_is_shared() -> None:
    log: list[str] = []
    reel = Reel(log)
    assert isinstance(reel, Shareable)
    distributor: FrameDistributor[Reel] = FrameDistributor(1)
    receiver = distributor.subscribe()
    distributor.publish(reel)
    receiver.recv(timeout=0).close()
    distributor.publish(reel)
    assert log == ["share", "share", "close by a receiver", "share", "close by a receiver"]


def test_the_share_of_an_overwritten_frame_is_closed_at_once(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(3)
    distributor.subscribe()
    natives = [Native(str(number)) for number in range(10)]
    for number, native in enumerate(natives):
        with frame(manager, native) as handle:
            distributor.publish(handle)
        assert [n.released for n in natives[: number + 1]].count(0) == min(3, number + 1)
    assert len(distributor) == 3
    distributor.close(discard=True)
    assert [native.released for native in natives] == [1] * 10


def test_publishing_does_not_wait_for_the_release_of_what_it_overwrites(manager: SafetyManager) -> None:
    """The release is timed, and slow: whoever publishes goes on."""
    go = threading.Event()
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(1)
    with manager.register(Native(), "slow", release=lambda native: go.wait(PATIENCE)) as slow:
        distributor.publish(slow)
        slow.close(timeout=0)
    with frame(manager) as quick:
        distributor.publish(quick)  # overwrites the slow one, whose release stands still
        assert not go.is_set()
    go.set()
    distributor.close()


def test_frames_are_kept_for_those_who_come_later() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(3)
    assert [distributor.publish(number) for number in range(5)] == [0] * 5
    assert read(distributor.subscribe(start="oldest")) == ([2, 3, 4], 0)
    assert read(distributor.subscribe()) == ([], 0)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 7, 100])
def test_the_capacity_is_what_was_asked_for(capacity: int) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(capacity)
    receiver = distributor.subscribe()
    for number in range(capacity):
        distributor.publish(number)
    assert read(receiver) == (list(range(capacity)), 0)
    for number in range(capacity + 1):
        distributor.publish(number)
    assert read(receiver) == (list(range(1, capacity + 1)), 1)


# -- falling behind ------------------------------------------------------------------------------------------


def test_a_receiver_that_fell_behind_is_told_once_and_goes_on_with_the_oldest() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()
    for number in range(10):
        distributor.publish(number)
    assert (len(receiver), receiver.lag) == (4, 10)
    with pytest.raises(Lagged, match=r"missed 6 frame\(s\); the next recv\(\) goes on") as lagged:
        receiver.recv(timeout=0)
    assert lagged.value.missed == 6
    assert [receiver.recv(timeout=0) for _ in range(4)] == [6, 7, 8, 9]
    with pytest.raises(Empty):
        receiver.recv(timeout=0)
    assert (receiver.received, receiver.missed, receiver.lag) == (4, 6, 0)
    assert receiver.stats().lags == 1


def test_a_loop_is_not_told_but_counts() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()
    for number in range(10):
        distributor.publish(number)
    distributor.close()
    assert list(receiver) == [6, 7, 8, 9]
    assert receiver.missed == 6


def test_a_frame_that_its_owner_shut_counts_as_missed(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4)
    receiver = distributor.subscribe()
    first, second = frame(manager), frame(manager)
    distributor.publish(first)
    distributor.publish(second)
    first.close()
    manager.invalidate(second.id, "broken")
    receiver.recv(timeout=0).close()
    with pytest.raises(Lagged) as lagged:
        receiver.recv(timeout=0)
    assert lagged.value.missed == 1
    assert isinstance(lagged.value.__cause__, AccessRefusedError)
    assert (receiver.received, receiver.missed, receiver.lag) == (1, 1, 0)
    second.close()
    distributor.close(discard=True)


def test_latest_only_skips_and_does_not_tell() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe(policy="latest-only")
    for number in range(10):
        distributor.publish(number)
    assert len(receiver) == 1
    assert read(receiver) == ([9], 0)
    distributor.publish(10)
    assert read(receiver) == ([10], 0)
    assert (receiver.received, receiver.missed, receiver.stats().lags) == (2, 9, 0)


def keys(distributor: FrameDistributor[int], numbers: range, every: int) -> None:
    for number in numbers:
        distributor.publish(number, key=number % every == 0)


def test_after_a_lag_only_a_key_frame_will_do() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe(policy=KeepKeyFrames(keep=2))
    keys(distributor, range(3), 5)
    assert read(receiver) == ([0, 1, 2], 0)
    keys(distributor, range(3, 18), 5)  # 5 and 10 are kept, 14 to 17 are in the ring with 15 in them
    assert read(receiver) == ([5, 10, 15, 16, 17], 2 + 4 + 4)
    assert len(distributor) <= 4 + 2
    keys(distributor, range(18, 19), 5)
    assert read(receiver) == ([18], 0)
    assert adds_up(receiver)


def test_without_a_key_frame_the_next_one_is_awaited() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(policy="keep-key-frames")
    keys(distributor, range(1, 6), 100)
    assert read(receiver) == ([], 5)
    keys(distributor, range(6, 8), 100)
    assert read(receiver) == ([], 0)  # each needs its predecessor
    distributor.publish(100, key=True)
    distributor.publish(101, key=False)
    assert read(receiver) == ([100, 101], 0)
    assert (receiver.received, receiver.missed) == (2, 7)


def test_kept_key_frames_are_closed_with_the_last_who_wants_them(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(1)
    one = distributor.subscribe(policy=KeepKeyFrames(keep=3))
    two = distributor.subscribe(policy=KeepKeyFrames(keep=1))
    natives = [Native() for _ in range(6)]
    for native in natives:
        with frame(manager, native) as handle:
            distributor.publish(handle)
    assert [n.released for n in natives] == [1, 1, 0, 0, 0, 0]
    one.close()
    assert [n.released for n in natives] == [1, 1, 1, 1, 0, 0]
    two.close()
    assert [n.released for n in natives] == [1, 1, 1, 1, 1, 0]
    distributor.close()


def test_start_at_a_key_frame() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    keys(distributor, range(8), 3)  # 4 to 7 are there, 6 is the newest key frame
    assert read(distributor.subscribe(start="keyframe")) == ([6, 7], 0)
    keys(distributor, range(11, 15), 100)
    late = distributor.subscribe(start="keyframe")
    keys(distributor, range(98, 102), 100)
    assert read(late) == ([100, 101], 0)
    assert (late.received, late.missed) == (2, 2)


def test_a_publisher_waits_for_a_receiver_that_blocks_it() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(policy=BlockPublisher(deadline=PATIENCE))
    got: list[int] = []

    def consume() -> None:
        for number in receiver:
            time.sleep(0.001)
            got.append(number)

    thread = threading.Thread(target=consume)
    thread.start()
    for number in range(50):
        distributor.publish(number)
    distributor.close()
    thread.join(PATIENCE)
    assert got == list(range(50))
    assert receiver.missed == 0


def test_a_publisher_waits_no_longer_than_the_deadline() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(policy=BlockPublisher(deadline=0.05))
    distributor.publish(0)
    distributor.publish(1)
    began = time.monotonic()
    distributor.publish(2)
    assert time.monotonic() - began >= 0.05
    assert read(receiver) == ([1, 2], 1)


def test_a_thread_that_must_not_wait_does_not() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(1)
    receiver = distributor.subscribe(policy=BlockPublisher(deadline=1000))
    with never_wait():
        distributor.publish(0)
        distributor.publish(1)
        assert read(receiver) == ([1], 1)
        with pytest.raises(Empty):
            receiver.recv()


def test_a_blocking_receiver_that_ends_lets_the_publisher_go_on() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(1)
    receiver = distributor.subscribe(policy=BlockPublisher(deadline=1000))
    distributor.publish(0)
    done = threading.Event()

    def publish() -> None:
        distributor.publish(1)
        done.set()

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    assert not done.wait(0.05)
    receiver.close()
    assert done.wait(PATIENCE)


def test_a_receiver_is_thrown_out_at_its_last_lag() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(policy=EvictAfter(lags=2), group="slow")
    for number in range(3):
        distributor.publish(number)
    assert read(receiver) == ([1, 2], 1)
    for number in range(3):
        distributor.publish(number)
    with pytest.raises(
        EvictedError, match=r"thrown out after 1 lag\(s\) by its policy EvictAfter\(lags=2\): resubscribe"
    ):
        receiver.recv(timeout=0)
    assert receiver.evicted
    assert receiver.closed
    assert (receiver.received, receiver.missed) == (2, 4)
    group = distributor.stats().groups["slow"]
    assert (group.receivers, group.evictions, group.published, group.received, group.missed) == (
        0,
        1,
        6,
        2,
        4,
    )
    assert distributor.receivers == 0
    with pytest.raises(EvictedError):
        next(iter(receiver))


def test_a_dead_receiver_is_thrown_out_by_the_publisher() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    dead = distributor.subscribe(policy=EvictAfter(lags=3))
    told = [distributor.publish(number) for number in range(40)]
    assert told[0] == 1
    assert told[-1] == 0
    assert told.index(0) == 12  # the third time that all four slots were new
    assert dead.evicted
    assert adds_up(dead)


# -- waiting -------------------------------------------------------------------------------------------------


def test_recv_waits_until_something_comes() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receivers = [distributor.subscribe() for _ in range(8)]
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda receiver=receiver: got.put(receiver.recv()), daemon=True)  # type: ignore[misc]
        for receiver in receivers
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: bool(distributor._ring.heard.hung))
    time.sleep(0.05)
    distributor.publish(7)
    assert [got.get(timeout=PATIENCE) for _ in threads] == [7] * 8


def test_recv_gives_up_after_its_timeout() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4, name="still")
    receiver = distributor.subscribe(name="view")
    with pytest.raises(Empty, match=r"'view' of 'still'.*no frame within 0.02 s") as empty:
        receiver.recv(timeout=0.02)
    assert isinstance(empty.value, queue.Empty)
    assert isinstance(empty.value, LifecycleError)


@pytest.mark.parametrize("how", ["thread", "coroutine"])
def test_who_waited_in_vain_is_told_who_holds_the_frames(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from lifecycle.distribution import receiver as module

    # One that no other test has spent.
    monkeypatch.setattr(facts, "walks", Budget(30.0))
    distributor: FrameDistributor[Any] = FrameDistributor(4, name="camera", manager=manager)
    hoarding, receiver = distributor.subscribe(name="hoard"), distributor.subscribe(name="view")
    for number in range(5):
        with manager.register(
            [number], "frame", release=list.clear, release_on=ANY_THREAD, native=number
        ) as frame:
            distributor.publish(frame)
    receiver.close()
    receiver = distributor.subscribe(name="view")
    with pytest.raises(Lagged):
        hoarding.recv()
    hoarded = [hoarding.recv() for _ in range(2)]

    def empty(timeout: float) -> Empty:
        with pytest.raises(Empty) as found:
            if how == "thread":
                receiver.recv(timeout=timeout)
            else:
                asyncio.run(receiver.recv_async(timeout))
        return found.value

    assert "held are" not in str(empty(0.02)), "it may look again and again"
    monkeypatch.setattr(module, "NAMED_AFTER", 0.02)
    error = empty(0.02)
    assert len(error.holders) == 2
    assert re.search(r"held are frame .*native 0x1\).*'hoarded' of .*; frame .*native 0x2\)", str(error)), (
        error
    )
    for share in hoarded:
        share.close()
    hoarded.clear()
    error = empty(0.02)
    assert error.holders == ()
    assert "held are" not in str(error)
    distributor.close(discard=True)
    assert manager.stats().active_objects == 0


def test_who_waited_in_vain_is_told_for_whom_the_publisher_waits() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(1, name="camera")
    slow = distributor.subscribe(name="slow", group="disk", policy=BlockPublisher(deadline=60))
    receiver = distributor.subscribe(name="view")
    distributor.publish(0)
    assert receiver.recv() == 0
    thread = threading.Thread(target=distributor.publish, args=(1,))
    thread.start()
    eventually(lambda: bool(distributor._ring.room.hung))
    with pytest.raises(Empty, match="whoever publishes waits for receiver 'slow' of group 'disk' to receive"):
        receiver.recv(timeout=0)
    assert slow.recv() == 0
    thread.join()
    assert receiver.recv() == 1


def test_closing_wakes_everyone_and_what_was_published_can_be_read() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    waiting, reading = distributor.subscribe(), distributor.subscribe()
    seen: list[str] = []

    def wait() -> None:
        try:
            waiting.recv()
            waiting.recv()
        except ClosedError:
            seen.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    distributor.publish(1)
    time.sleep(0.02)
    distributor.close()
    thread.join(PATIENCE)
    assert seen == ["closed"]
    assert not reading.closed
    assert reading.recv() == 1
    assert reading.closed
    with pytest.raises(ClosedError, match="has read everything, and its distributor is closed"):
        reading.recv()


def test_closing_a_receiver_wakes_who_waits_on_it() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(ClosedError):
            receiver.recv()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    eventually(lambda: bool(distributor._ring.heard.hung))
    receiver.close()
    assert ended.wait(PATIENCE)


def test_once_closed_and_read_by_all_nothing_is_held(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4)
    one, two, three = (distributor.subscribe() for _ in range(3))
    native = Native()
    with frame(manager, native) as handle:
        distributor.publish(handle)
    distributor.close()
    one.close()
    two.recv().close()
    with pytest.raises(ClosedError):
        two.recv()
    assert native.released == 0  # the third may still want it
    del three
    assert distributor.receivers == 1
    assert native.released == 1


@pytest.mark.parametrize("closed", [False, True])
def test_more_receivers_are_dropped_than_calls_can_be_nested(manager: SafetyManager, closed: bool) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(2, manager=manager)
    receivers = [distributor.subscribe(group="many") for _ in range(2000)]
    last = distributor.subscribe(group="last", policy=KeepKeyFrames(keep=3))
    native = Native()
    with frame(manager, native) as one:
        distributor.publish(one)
    if closed:
        distributor.close()
    receivers.clear()
    gc.collect()
    assert distributor.receivers == 1
    groups = distributor.stats().groups
    assert (groups["many"].receivers, groups["many"].published, groups["many"].missed) == (0, 2000, 2000)
    last.close()
    distributor.close()
    eventually(lambda: native.released == 1)


def test_figures_add_up_whatever_policy_comes_and_goes(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(2, manager=manager)
    policies: list[Policy] = [KeepKeyFrames(keep=2), BlockPublisher(deadline=0.01), EvictAfter(lags=1)]
    receivers = [distributor.subscribe(policy=policy) for policy in policies * 2]
    subscribers = distributor._ring.subscribers
    assert (len(subscribers.value.blocking), len(subscribers.value.evicting), subscribers.value.keep) == (
        2,
        2,
        2,
    )
    for left, receiver in zip(reversed(range(6)), receivers, strict=True):
        receiver.close()
        assert len(subscribers.value.subscriptions) == left
    assert (subscribers.value.blocking, subscribers.value.evicting, subscribers.value.keep) == ((), (), 0)


def test_a_dropped_distributor_is_closed(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4)
    receiver = distributor.subscribe()
    with frame(manager) as handle:
        distributor.publish(handle)
    del distributor
    receiver.recv().close()
    with pytest.raises(ClosedError):
        receiver.recv()
    del receiver
    assert manager.stats().leaks == 0


def test_dropping_everything_gives_everything_back_and_is_no_leak(manager: SafetyManager) -> None:
    native = Native()
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4)
    receiver = distributor.subscribe(policy="keep-key-frames")
    with frame(manager, native) as handle:
        distributor.publish(handle)
    del distributor, receiver
    gc.collect()
    assert native.released == 1
    assert manager.stats().leaks == 0


# -- loops ---------------------------------------------------------------------------------------------------


def test_a_loop_closes_each_frame_when_it_takes_the_next(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(8)
    receiver = distributor.subscribe()
    natives = [Native() for _ in range(3)]
    for native in natives:
        with frame(manager, native) as handle:
            distributor.publish(handle)
    distributor.close()
    kept = None
    for number, handle in enumerate(receiver):
        assert handle.valid
        if number == 1:
            kept = handle.share()
    assert [native.released for native in natives] == [1, 0, 1]
    assert kept is not None
    kept.close()


def test_a_loop_that_is_left_gives_its_frame_back(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(1)
    receiver = distributor.subscribe()
    native = Native()
    with frame(manager, native) as handle:
        distributor.publish(handle)
    for _ in receiver:
        break
    distributor.close(discard=True)
    assert native.released == 1
    assert manager.stats().leaks == 0


def test_coroutines_receive(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(64)

    async def consume(receiver: FrameReceiver[Any]) -> list[int]:
        return [number async for number in receiver]

    async def main() -> list[list[int]]:
        tasks = [asyncio.create_task(consume(distributor.subscribe())) for _ in range(5)]
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()

        def publish() -> None:
            for number in range(50):
                distributor.publish(number)
            distributor.close()

        await loop.run_in_executor(None, publish)
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    assert asyncio.run(main()) == [list(range(50))] * 5


def test_a_cancelled_recv_loses_nothing(manager: SafetyManager) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()

    async def main() -> int:
        task = asyncio.create_task(receiver.recv_async())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Empty):
            await receiver.recv_async(timeout=0.01)
        distributor.publish(1)
        return await receiver.recv_async(timeout=0)

    assert asyncio.run(main()) == 1
    assert receiver.received == 1


def test_a_loop_that_is_gone_is_no_trouble() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()

    async def main() -> None:
        with pytest.raises(Empty):
            await receiver.recv_async(timeout=0.01)

    asyncio.run(main())
    assert distributor.publish(1) == 1
    assert receiver.recv(timeout=0) == 1


# -- reentrancy ----------------------------------------------------------------------------------------------


def test_a_release_that_a_publish_has_caused_may_publish_receive_and_subscribe(
    manager: SafetyManager,
) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(2)
    receiver = distributor.subscribe()
    seen: list[Any] = []

    def release(native: Native) -> None:
        seen.append(distributor.publish(f"in place of {native.label}"))
        seen.append(read(receiver)[0][-1])
        distributor.subscribe().close()
        seen.append(distributor.stats().published)

    with frame(manager, Native("one"), release) as handle:
        distributor.publish(handle)
    for number in range(3):
        distributor.publish(number)
    assert seen == [1, "in place of one", 4]
    assert receiver.lag == 1
    assert adds_up(receiver)


def test_a_release_may_close_the_distributor(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(1)
    receiver = distributor.subscribe()
    with frame(manager, release=lambda native: distributor.close()) as handle:
        distributor.publish(handle)
    assert distributor.publish("last") == 1
    with pytest.raises(ClosedError):
        distributor.publish("too late")
    assert read_all(receiver) == (["last"], 1)


def read_all(receiver: FrameReceiver[Any]) -> tuple[list[Any], int]:
    return list(receiver), receiver.missed


def test_everything_may_be_called_inside_a_collection(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(1)
    receiver = distributor.subscribe()
    seen: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            seen.append(distributor.publish("from the collector"))
            seen.append(receiver.recv())
            try:
                receiver.recv()
            except Empty:
                seen.append("empty")
            distributor.stats()
            distributor.subscribe(policy="block").close()

    with frame(manager) as handle:
        distributor.publish(handle)
    receiver.recv().close()
    Cycle()
    gc.collect()
    assert seen == [1, "from the collector", "empty"]


# -- figures -------------------------------------------------------------------------------------------------


def test_groups_keep_what_their_gone_receivers_had() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2, name="groups")
    one = distributor.subscribe(group="preview")
    two = distributor.subscribe(group="preview")
    other = distributor.subscribe(group="disk")
    for number in range(5):
        distributor.publish(number)
    assert read(one) == ([3, 4], 3)
    two.close()
    del one
    stats = distributor.stats()
    preview = stats.groups["preview"]
    assert (preview.receivers, preview.published, preview.received, preview.missed, preview.lag) == (
        0,
        10,
        2,
        8,
        0,
    )
    disk = stats.groups["disk"]
    assert (disk.receivers, disk.published, disk.received, disk.missed, disk.lag) == (1, 5, 0, 0, 5)
    assert (stats.published, stats.held, stats.receivers, stats.capacity) == (5, 2, 1, 2)
    other.close()


def test_resubscribe_begins_anew() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(group="g", name="n", policy=EvictAfter(1))
    for number in range(5):
        distributor.publish(number)
    again = receiver.resubscribe()
    assert (again.group, again.name, again.received, again.missed, again.lag) == ("g", "n", 0, 0, 0)
    distributor.publish(5)
    assert again.recv(timeout=0) == 5


def test_repr_tells_the_state() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2, name="camera")
    receiver = distributor.subscribe(name="view", group="ui")
    distributor.publish(1)
    assert repr(distributor) == "<FrameDistributor 'camera': open, 1 published, 1 of 2 kept, 1 receivers>"
    assert (
        repr(receiver) == "<FrameReceiver 'view' of group 'ui' of 'camera': 0 received, 0 missed, 1 to come>"
    )
    receiver.close()
    distributor.close()
    assert repr(receiver) == "<FrameReceiver 'view' of group 'ui' of 'camera': closed>"
    assert "closed" in repr(distributor)


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "8", None, True])
def test_an_impossible_capacity_is_refused(capacity: Any) -> None:
    with pytest.raises(LifecycleError, match="takes a whole number of frames, 1 or more, not"):
        FrameDistributor(capacity)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "tomorrow"}, r"start=\) takes 'now', 'keyframe' or 'oldest', not 'tomorrow'"),
        ({"policy": "politely"}, "takes one of 'drop-oldest', .*not 'politely'"),
        ({"policy": Policy()}, "policy="),
        ({"group": 7}, r"subscribe\(group=\) takes a text, not 7"),
        ({"name": b"x"}, r"subscribe\(name=\)"),
    ],
)
def test_an_impossible_subscription_is_refused(wrong: dict[str, Any], message: str) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    with pytest.raises(LifecycleError, match=message):
        distributor.subscribe(**wrong)
    assert distributor.receivers == 0


@pytest.mark.parametrize("policy", [BlockPublisher, EvictAfter, KeepKeyFrames])
@pytest.mark.parametrize("value", [0, -1, "1", True, float("nan"), float("inf")])
def test_an_impossible_policy_is_refused(policy: Any, value: Any) -> None:
    with pytest.raises(LifecycleError, match=f"{policy.__name__}.*takes a .*number above 0"):
        policy(value)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), float("inf"), True])
def test_an_impossible_timeout_is_refused(timeout: Any) -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe()
    with pytest.raises(LifecycleError, match="timeout"):
        receiver.recv(timeout=timeout)


def test_a_closed_frame_is_not_published(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(2)
    receiver = distributor.subscribe()
    handle = frame(manager)
    handle.close()
    with pytest.raises(AccessRefusedError, match=f"object {handle.id}.* was released"):
        distributor.publish(handle)
    assert distributor.published == 0
    assert receiver.lag == 0


def test_a_closed_distributor_takes_nothing_and_keeps_nothing(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(2, name="camera")
    distributor.close()
    distributor.close()
    native = Native()
    handle = frame(manager, native)
    with pytest.raises(
        ClosedError, match=r"distributor 'camera' is closed after 0 frames: .* the frame is still yours"
    ):
        distributor.publish(handle)
    assert handle.close()
    assert native.released == 1
    with pytest.raises(ClosedError):
        distributor.subscribe()


def test_a_closed_receiver_says_so() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(2)
    receiver = distributor.subscribe(name="view")
    distributor.publish(1)
    receiver.close()
    receiver.close()
    with pytest.raises(
        ClosedError, match=r"'view'.* is closed: nothing can be received from it; subscribe\(\) again"
    ):
        receiver.recv(timeout=0)
    assert list(receiver) == []
    assert (len(receiver), receiver.lag, receiver.missed) == (0, 0, 1)


def test_publishing_an_object_of_a_closed_manager_is_a_closed_error() -> None:
    manager = SafetyManager(name="over")
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(2, manager=manager)
    other: FrameDistributor[Handle[Native]] = FrameDistributor(2)
    handle = frame(manager)
    manager.close()
    assert distributor.closed
    for each in (distributor, other):
        with pytest.raises(ClosedError):
            each.publish(handle)
    assert other.published == 0


def test_a_share_whose_close_raises_stops_nothing() -> None:
    class Bad:
        def share(self) -> Bad:
            return self

        def close(self) -> None:
            raise OSError("no")

    distributor: FrameDistributor[Any] = FrameDistributor(1)
    receiver = distributor.subscribe()
    for _ in range(3):
        distributor.publish(Bad())
    distributor.publish(1)
    assert read(receiver) == ([1], 3)
    assert distributor.stats().close_failures == 3


def test_receivers_are_not_copied() -> None:
    import copy
    import pickle

    receiver = FrameDistributor[int](2).subscribe()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"use resubscribe\(\)"):
            attempt(receiver)


def test_a_frame_of_a_queue_goes_back_at_its_queue(manager: SafetyManager) -> None:
    """Whoever publishes may not touch what belongs to another thread."""
    gl = ReleaseQueue("gl", thread="current")
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(1)
    native = Native()
    with frame(manager, native, release_on=gl) as handle:
        distributor.publish(handle)
    worker = threading.Thread(target=lambda: distributor.close(discard=True))
    worker.start()
    worker.join()
    assert native.released == 0
    gl.drain()
    assert native.threads == [threading.get_ident()]
