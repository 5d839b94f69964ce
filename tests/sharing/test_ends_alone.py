"""What happens to one consumer, or to one frame, is no other's affair: panics, errors of any class, frames that
their owner has shut, and the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    BufferPool,
    ClosedError,
    FrameDistributor,
    FrameReceiver,
    Handle,
    Lagged,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.distribution import EvictAfter, Policy
from lifecycle.errors import Empty, EvictedError
from tests.core.natives import Native
from tests.sharing.sources import adds_up, frame, read
from tests.support import eventually


class Panic(BaseException):
    """As PyO3's PanicException: no `Exception`."""


# -- a panic ---------------------------------------------------------------------------------------------------


def panics(obj: object) -> None:
    raise ValueError("odd stride")


def by_call(manager: SafetyManager, share: Handle[Any]) -> None:
    manager.safe_access(share, panics)


def by_block(manager: SafetyManager, share: Handle[Any]) -> None:
    with manager.safe_access(share) as obj:
        panics(obj)


def of_a_share(manager: SafetyManager, share: Handle[Any]) -> None:
    with share.share() as other:
        manager.safe_access(other, panics)


WAYS = [by_call, by_block, of_a_share]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", ["handle", "pool"])
def test_a_panic_takes_the_frame_from_nobody_else(
    manager: SafetyManager, way: Callable[[SafetyManager, Handle[Any]], None], source: str
) -> None:
    pool = BufferPool(manager, 4096, 4)
    distributor: FrameDistributor[Handle[Any]] = FrameDistributor(4, manager=manager)
    bad, good = distributor.subscribe(group="bad"), distributor.subscribe(group="good")
    native = Native()
    with pool.get() if source == "pool" else frame(manager, native) as handle:
        distributor.publish(handle)
        share = bad.recv(timeout=0)
        with pytest.raises(
            AccessPanicError, match="this share of it is closed, and its other shares are open"
        ):
            way(manager, share)
        assert share.valid == (way is of_a_share)
        assert handle.valid
    with good.recv(timeout=0) as frame_of_good, frame_of_good.lease():
        assert frame_of_good.valid
    share.close()
    assert (good.received, good.missed) == (1, 0)
    assert manager.stats().panics == 1
    distributor.close(discard=True)
    assert native.released == (source == "handle")
    assert manager.stats().active_objects == 0


def test_a_panic_of_the_last_share_poisons_the_frame(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4, manager=manager)
    receiver = distributor.subscribe()
    with frame(manager) as handle:
        distributor.publish(handle)
    share = receiver.recv(timeout=0)
    distributor.close()
    with pytest.raises(AccessPanicError, match="it is invalid now"):
        manager.safe_access(share, panics)
    with pytest.raises(AccessRefusedError, match="panic"):
        share.lease()
    assert manager.stats().types["frame"].closed["panic"] == 1


def test_a_panic_of_the_owner_poisons_the_frame_for_all(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4, manager=manager)
    receiver = distributor.subscribe()
    handle = frame(manager)
    distributor.publish(handle)
    with pytest.raises(AccessPanicError, match="it is invalid now"):
        manager.safe_access(handle, panics)
    with pytest.raises(Lagged):
        receiver.recv(timeout=0)
    handle.close()


def test_without_state_checking_a_panic_closes_no_share() -> None:
    with SafetyManager(SafetyConfig(enable_state_checking=False), name="unchecked") as manager:
        distributor: FrameDistributor[Handle[Native]] = FrameDistributor(4, manager=manager)
        receiver = distributor.subscribe()
        with frame(manager) as handle:
            distributor.publish(handle)
        with receiver.recv(timeout=0) as share:
            with pytest.raises(AccessPanicError, match="it stays open"):
                manager.safe_access(share, panics)
            assert share.valid


# -- errors of any class -----------------------------------------------------------------------------------------


class Odd:
    """A frame of somebody else's, whose `share` or `close` raises where it was published as number 1."""

    def __init__(self, number: int, error: type[BaseException], where: str, published: bool = False) -> None:
        self.number, self.error, self.where, self.published = number, error, where, published

    def share(self) -> Odd:
        if self.where == "share" and self.number == 1 and self.published:
            raise self.error("share")
        return Odd(self.number, self.error, self.where, True)

    def close(self) -> None:
        if self.where == "close" and self.number == 1 and self.published:
            raise self.error("close")


def numbers(receiver: FrameReceiver[Odd]) -> tuple[list[int], int]:
    got, missed = read(receiver)
    return [each.number for each in got], missed


@pytest.mark.parametrize("error", [ValueError, Panic])
def test_a_share_that_raises_is_missed_whatever_it_raises(error: type[BaseException]) -> None:
    distributor: FrameDistributor[Odd] = FrameDistributor(3)
    receiver = distributor.subscribe()
    for number in range(3):
        distributor.publish(Odd(number, error, "share"))
    assert numbers(receiver) == ([0, 2], 1)
    assert adds_up(receiver)


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_receiver_comes_past_a_share_that_always_exits(error: type[BaseException]) -> None:
    """Control flow passes, since it is no fault of the frame; but not for ever."""
    distributor: FrameDistributor[Odd] = FrameDistributor(8)
    receivers = [distributor.subscribe(), distributor.subscribe(policy="keep-key-frames")]
    newest = distributor.subscribe(policy="latest-only")
    for number in range(3):
        distributor.publish(Odd(number, error, "share"), key=number != 1)
    for receiver in receivers:
        got: list[Any] = []
        while len(got) < 10:
            try:
                got.append(receiver.recv(timeout=0).number)
            except Lagged as lagged:
                got.append(f"{lagged.missed} missed")
            except Empty:
                break
            except error:
                got.append("left")
        assert got == [0, "left", "left", "1 missed", 2]
        assert adds_up(receiver)
    assert newest.recv(timeout=0).number == 2


def test_a_loop_comes_past_a_frame_whose_close_always_exits() -> None:
    class Consumed(Odd):
        depth = 0

        def share(self) -> Consumed:
            share = Consumed(self.number, self.error, self.where)
            share.depth = self.depth + 1
            return share

        def close(self) -> None:
            if self.number == 1 and self.depth == 2:  # the receiver's share, and not the ring's
                raise self.error("close")

    distributor: FrameDistributor[Odd] = FrameDistributor(8)
    receiver = distributor.subscribe()
    for number in range(4):
        distributor.publish(Consumed(number, SystemExit, "loop"))
    distributor.close()
    loop = iter(receiver)
    got: list[Any] = []
    while len(got) < 20:
        try:
            got.append(next(loop).number)
        except StopIteration:
            break
        except SystemExit:
            got.append("left")
    assert got == [0, 1, "left", "left", "left", 2, 3]


@pytest.mark.parametrize("error", [ValueError, Panic])
def test_a_close_that_raises_is_counted_whatever_it_raises(error: type[BaseException]) -> None:
    distributor: FrameDistributor[Odd] = FrameDistributor(2)
    for number in range(7):
        distributor.publish(Odd(number, error, "close"))
    stats = distributor.stats()
    assert (stats.held, stats.close_failures) == (2, 1)


def test_a_close_that_always_exits_is_given_up() -> None:
    distributor: FrameDistributor[Odd] = FrameDistributor(2)
    left = 0
    for number in range(12):
        try:
            distributor.publish(Odd(number, SystemExit, "close"))
        except SystemExit:
            left += 1
    assert 0 < left < 5
    assert distributor.stats().held == 2


@pytest.mark.parametrize("error", [ValueError, Panic])
def test_a_loop_goes_on_behind_a_frame_whose_close_raised(error: type[BaseException]) -> None:
    class Consumed(Odd):
        def share(self) -> Consumed:
            return Consumed(self.number, self.error, self.where, True)

        def close(self) -> None:
            if self.number == 1 and self.where == "loop":
                raise self.error("close")

    distributor: FrameDistributor[Odd] = FrameDistributor(8)
    receiver = distributor.subscribe()
    for number in range(4):
        distributor.publish(Consumed(number, error, "loop"))
    distributor.close()
    loop = iter(receiver)
    got = [next(loop).number for _ in range(2)]
    with pytest.raises(error):
        next(loop)
    got += [each.number for each in loop]
    assert got == [0, 1, 2, 3]


class Ambiguous:
    """What has no truth, as an array of several elements."""

    def __bool__(self) -> bool:
        raise Panic("ambiguous")


def test_a_key_that_is_no_truth_is_the_publishers_affair(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Any] = FrameDistributor(4)
    receiver = distributor.subscribe(policy="keep-key-frames", start="keyframe")
    native = Native()
    with frame(manager, native) as handle, pytest.raises(Panic):
        distributor.publish(handle, key=Ambiguous())  # type: ignore[arg-type]
    assert native.released == 1
    distributor.publish(7, key=1)  # type: ignore[arg-type]
    assert read(receiver) == ([7], 0)


# -- frames that their owner has shut ----------------------------------------------------------------------------


def after_shutting(
    manager: SafetyManager,
    policy: Policy | str,
    frames: str,
    shut: str,
    start: Any = "now",
) -> list[object]:
    """What a receiver gets that has asked for nothing before some of `frames` were shut; capitals are key
    frames, digits how many were missed."""
    distributor: FrameDistributor[Handle[list[str]]] = FrameDistributor(8)
    receiver = distributor.subscribe(policy=policy) if start == "now" else None
    handles: dict[str, Handle[list[str]]] = {}
    for name in frames:
        handles[name] = manager.register([name], "frame", release=list.clear, release_on=ANY_THREAD)
        distributor.publish(handles[name], key=name.isupper())
    receiver = receiver or distributor.subscribe(policy=policy, start=start)
    for name in shut:
        manager.invalidate(handles[name], "its owner shut it")
    got: list[object] = []
    while True:
        try:
            with receiver.recv(timeout=0) as share, share.lease() as obj:
                got.append(obj[0])
        except Lagged as lagged:
            got.append(lagged.missed)
        except Empty:
            break
        except EvictedError:
            got.append("evicted")
            break
    assert adds_up(receiver)
    for handle in handles.values():
        handle.close()
    return got


@pytest.mark.parametrize(
    ("policy", "frames", "shut", "got"),
    [
        ("drop-oldest", "Abc", "b", ["A", 1, "c"]),
        ("block", "Abc", "Ab", [1, 1, "c"]),
        ("keep-key-frames", "AbcdEf", "b", ["A", 3, "E", "f"]),
        ("keep-key-frames", "AbcdEfGh", "bE", ["A", 5, "G", "h"]),
        ("keep-key-frames", "Abcd", "b", ["A", 3]),
        ("latest-only", "ABC", "C", ["B"]),
        ("latest-only", "ABCD", "CD", ["B"]),
        ("latest-only", "ABC", "ABC", []),
        (EvictAfter(lags=1), "ABC", "AB", ["evicted"]),
        (EvictAfter(lags=2), "ABCD", "AC", [1, "B", "evicted"]),
    ],
)
def test_a_frame_that_its_owner_shut_is_passed_by_as_the_policy_says(
    manager: SafetyManager, policy: Policy | str, frames: str, shut: str, got: list[object]
) -> None:
    assert after_shutting(manager, policy, frames, shut) == got


def test_a_receiver_that_begins_with_a_key_frame_waits_for_the_next_when_that_is_shut(
    manager: SafetyManager,
) -> None:
    assert after_shutting(manager, "keep-key-frames", "AbCdE", "E", start="keyframe") == [1]
    assert after_shutting(manager, "keep-key-frames", "AbCde", "C", start="keyframe") == [3]


def test_a_new_receiver_does_not_begin_with_a_key_frame_that_is_shut(manager: SafetyManager) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(8)
    handles = [frame(manager, Native(name)) for name in "ABC"]
    for handle in handles:
        distributor.publish(handle)
    manager.invalidate(handles[2], "its owner shut it")
    with distributor.subscribe(start="keyframe").recv(timeout=0) as share, share.lease() as native:
        assert native.label == "B"
    for handle in handles:
        handle.close()


def test_latest_only_skips_nothing_that_comes_while_it_looks_back(manager: SafetyManager) -> None:
    """The frame that is published after the newest was found shut is the next one."""
    distributor: FrameDistributor[Any] = FrameDistributor(4)
    receiver = distributor.subscribe(policy="latest-only")

    class Shuts:
        def share(self) -> Any:
            if distributor.published > 1:
                return self
            return Late()

        def close(self) -> None: ...

    class Late(Shuts):
        def share(self) -> Any:
            distributor.publish("new")
            raise ValueError("shut")

    distributor.publish(Shuts())
    assert receiver.recv(timeout=0) == "new"
    assert adds_up(receiver)


# -- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop-oldest", "latest-only", "keep-key-frames", "block", "evict"])
def test_nobody_holds_a_frame_after_the_end_was_read(manager: SafetyManager, policy: str) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(3, manager=manager)
    receivers = [distributor.subscribe(policy=policy) for _ in range(2)]
    for _ in range(3):
        with frame(manager) as handle:
            distributor.publish(handle)
    del handle
    distributor.close()
    for receiver in receivers:
        while not receiver.closed:
            receiver.recv(timeout=0).close()
    assert distributor.stats().held == 0
    assert manager.stats().active_objects == 0


@pytest.mark.parametrize("how", ["shut", "dropped", "loop"])
def test_nobody_holds_a_frame_however_the_end_was_reached(manager: SafetyManager, how: str) -> None:
    distributor: FrameDistributor[Handle[Native]] = FrameDistributor(3, manager=manager)
    receiver, other = distributor.subscribe(), distributor.subscribe()
    handles = [frame(manager) for _ in range(3)]
    for handle in handles:
        distributor.publish(handle)
        handle.close()
    distributor.close()
    if how == "shut":
        manager.invalidate(handles[2].id, "its owner shut it")
        other.close()
        assert len(read_to_the_end(receiver)) == 2
    elif how == "dropped":
        del other
        gc.collect()
        assert len(read_to_the_end(receiver)) == 3
    else:
        other.close()
        assert sum(1 for _ in receiver) == 3
    eventually(lambda: distributor._ring.table == {} and manager.stats().active_objects == 0)


def read_to_the_end(receiver: FrameReceiver[Handle[Native]]) -> list[int]:
    got = []
    while not receiver.closed:
        try:
            with receiver.recv(timeout=0) as share:
                got.append(share.id)
        except Lagged:
            continue
        except ClosedError:
            break
    return got
