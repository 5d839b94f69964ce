"""Who waits is woken, whatever strikes the one that wakes it, and not before."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Any

import pytest

from lifecycle import ClosedError, FrameDistributor, FrameReceiver
from lifecycle._core import runtime
from lifecycle.distribution import BlockPublisher
from lifecycle.distribution.receiver import FrameReceiver as Receiver
from lifecycle.distribution.ring import Ring
from lifecycle.testing import code_of, each_interrupt
from tests.sharing.sources import adds_up, read
from tests.support import eventually

LOST = 20.0
"""Seconds after which a wait is taken to be lost. Nobody here gives up by itself before."""
IDLE = 3.0
"""Seconds for which the switches of idle threads are counted."""


def started(fn: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(runtime.free_threaded, reason="threads look again in slices without the GIL")
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="only Linux counts a thread's switches")
def test_idle_receivers_cost_no_wake_up() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    ids: list[int] = []

    def receive(receiver: FrameReceiver[int]) -> None:
        ids.append(threading.get_native_id())
        for _ in receiver:
            pass

    receivers = [distributor.subscribe() for _ in range(3)]
    threads = [started(partial(receive, receiver)) for receiver in receivers]
    eventually(lambda: len(distributor._ring.heard) == 3)
    distributor.publish(1)
    eventually(lambda: len(distributor._ring.heard) == 3)
    time.sleep(0.1)

    def switches() -> int:
        found = 0
        for ident in ids:
            with open(f"/proc/self/task/{ident}/status") as status:
                found += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
        return found

    before = switches()
    time.sleep(IDLE)
    assert switches() - before <= len(threads)
    distributor.close()
    for thread in threads:
        thread.join(LOST)
        assert not thread.is_alive()


def test_an_interrupt_in_publish_leaves_no_receiver_asleep() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(4)
    ring = distributor._ring
    receiver = distributor.subscribe()
    thread = started(lambda: list(receiver))

    def publish() -> None:
        eventually(lambda: len(ring.heard) == 1)
        distributor.publish(1)

    struck = 0
    for _ in each_interrupt(publish, of=code_of(Ring.publish, Ring._published)):
        struck += 1
        eventually(lambda: receiver.lag == 0, timeout=LOST)
    assert struck >= 5
    distributor.close()
    thread.join(LOST)
    assert adds_up(receiver)


def test_a_publisher_that_is_struck_twice_still_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once behind the deciding step, and once more while it makes up for that."""
    distributor: FrameDistributor[int] = FrameDistributor(4)
    receiver = distributor.subscribe()
    got: list[int] = []
    thread = started(lambda: got.append(receiver.recv()))
    eventually(lambda: len(distributor._ring.heard) == 1)
    publishing, index = threading.get_ident(), Ring._index
    strikes = [KeyboardInterrupt(), KeyboardInterrupt()]

    def strike(ring: Ring[int], slot: Any) -> None:
        if strikes and threading.get_ident() == publishing:
            raise strikes.pop()
        index(ring, slot)

    monkeypatch.setattr(Ring, "_index", strike)
    with pytest.raises(KeyboardInterrupt):
        distributor.publish(7)
    thread.join(LOST)
    assert got == [7]
    assert not strikes


@pytest.mark.parametrize("what", ["receiver", "distributor"])
def test_an_interrupt_in_close_leaves_nobody_asleep(what: str) -> None:
    made: list[tuple[FrameDistributor[int], FrameReceiver[int], threading.Thread]] = []

    def wait(receiver: FrameReceiver[int]) -> None:
        with pytest.raises(ClosedError):
            receiver.recv()

    def close() -> None:
        distributor: FrameDistributor[int] = FrameDistributor(4)
        receiver = distributor.subscribe()
        thread = started(lambda: wait(receiver))
        eventually(lambda: len(distributor._ring.heard) == 1)
        made.append((distributor, receiver, thread))
        (receiver if what == "receiver" else distributor).close()

    for _ in each_interrupt(close, of=code_of(Ring.retire, Ring._retire, Ring.close)):
        distributor, receiver, thread = made.pop()
        if receiver.closed:
            thread.join(LOST)
            assert not thread.is_alive()
        else:
            distributor.close()
            thread.join(LOST)
    made.clear()


def test_an_interrupt_in_recv_leaves_no_publisher_blocked() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(1)
    receiver = distributor.subscribe(policy=BlockPublisher(deadline=3 * LOST))
    published: list[int] = []

    def publish() -> None:
        published.append(distributor.publish(2))

    distributor.publish(1)
    struck = 0

    def receive() -> None:
        thread = started(publish)
        eventually(lambda: len(distributor._ring.room) == 1)
        threads.append(thread)
        receiver.recv(timeout=0)

    threads: list[threading.Thread] = []
    for _ in each_interrupt(receive, of=code_of(Receiver._take)):
        struck += 1
        thread = threads.pop()
        if receiver.lag == 1 and thread.is_alive():
            # Nothing was taken: the publisher waits with good reason.
            receiver.recv(timeout=0)
        thread.join(LOST)
        assert not thread.is_alive()
    assert struck >= 5
    assert adds_up(receiver)


def test_a_blocked_publisher_goes_on_when_the_receiver_is_dropped() -> None:
    """A receiver that is dropped tells nobody, so the publisher looks."""
    distributor: FrameDistributor[int] = FrameDistributor(1)
    kept = [distributor.subscribe(policy=BlockPublisher(deadline=3 * LOST))]
    distributor.publish(1)
    thread = started(lambda: distributor.publish(2))
    eventually(lambda: len(distributor._ring.room) == 1)
    kept.clear()
    thread.join(LOST)
    assert not thread.is_alive()
    assert distributor.published == 2


def test_who_looks_for_the_newest_does_not_run_after_a_publisher_without_pause() -> None:
    """Each step of the walk is met by another frame, as a publisher without pause may do it."""
    distributor: FrameDistributor[int] = FrameDistributor(8)
    ring = distributor._ring
    old = ring.tail
    for number in range(4):
        distributor.publish(number)
    ring.tail = old  # a publisher that was held up before it stored the tail
    steps = 0

    class Racing(type(old)):  # type: ignore[misc]
        __slots__ = ()

        def __contains__(self, key: object) -> bool:
            nonlocal steps
            steps += 1
            if steps > 1000:
                raise AssertionError("the walk has no end")
            distributor.publish(steps)
            return bool(super().__contains__(key))

    first = old[None]
    while None in first:
        first = first[None]
    for slot in [*ring.table.values()]:
        slot.__class__ = Racing
    before = distributor._ring.tail.seq
    newest = ring.newest()
    assert newest.seq >= before
    assert steps < 100
    distributor.close()


def test_a_publisher_that_was_held_up_does_not_set_the_tail_back() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(8)
    ring = distributor._ring
    distributor.publish(0)
    late = ring.tail
    for number in range(1, 6):
        distributor.publish(number)
    ring._published(late)
    assert ring.tail.seq == 5


def test_more_slots_than_places_are_all_received() -> None:
    distributor: FrameDistributor[int] = FrameDistributor(3000)
    receiver = distributor.subscribe()
    for number in range(3000):
        distributor.publish(number)
    assert read(receiver) == ([*range(3000)], 0)
