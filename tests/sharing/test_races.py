"""Two at once, by the sequencer, by interrupts at every point, by the collector at every line, and at last by
storms."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import AccessRefusedError, ClosedError, FrameDistributor, FrameReceiver, Lagged, SafetyManager
from lifecycle._core import runtime
from lifecycle.distribution.chain import Register
from lifecycle.distribution.receiver import FrameReceiver as Receiver
from lifecycle.distribution.ring import Ring
from lifecycle.errors import Empty
from tests.core.adversary import (
    STORM,
    Standing,
    assert_nothing_left,
    at_once,
    each_interrupt,
    every_line,
    switching,
)
from tests.core.natives import Native
from tests.sharing.sources import adds_up, frame, read

Frames = FrameDistributor[Any]
ROUNDS = 1 if runtime.free_threaded else int(12 * STORM)
STEP = max(1, round(5 / STORM))
"""Of the points at which an interrupt may fall, every so manieth is tried."""


# -- one interleaving, on demand -----------------------------------------------------------------------------


def test_publish_against_subscribe() -> None:
    """Whoever subscribes while a publish stands before its deciding step gets that frame; after it, not."""
    distributor: Frames = FrameDistributor(4)
    with Standing(
        lambda: distributor.publish(1), Ring.publish, "if tail.setdefault(None, slot) is slot"
    ) as one:
        early = distributor.subscribe()
        assert one.result() == 1
    with Standing(lambda: distributor.publish(2), Ring._published, "self._index(slot)") as two:
        late = distributor.subscribe()
        assert distributor.published == 2
        assert two.result() == 2
    assert read(early) == ([1, 2], 0)
    assert read(late) == ([], 0)
    assert adds_up(early)
    assert adds_up(late)


def test_subscribe_against_publish() -> None:
    """What is published between finding the place and taking it is received."""
    distributor: Frames = FrameDistributor(4)
    with Standing(distributor.subscribe, Register.update, "if last.setdefault(None, new) is new") as one:
        distributor.publish(1)
        distributor.subscribe()  # wins the step that the other stands before
        receiver = one.result()
    assert read(receiver) == ([1], 0)


def test_publish_against_close(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(4)
    native = Native()
    handle = frame(manager, native)
    with Standing(
        lambda: distributor.publish(handle), Ring.publish, "if tail.setdefault(None, slot) is slot"
    ) as one:
        distributor.close()
        with pytest.raises(ClosedError):
            one.result()
    assert handle.close()
    assert native.released == 1


def test_publish_against_the_end_of_its_manager() -> None:
    manager = SafetyManager(name="ends")
    distributor: Frames = FrameDistributor(4, manager=manager)
    handle = frame(manager, Native())
    with Standing(lambda: distributor.publish(handle), Ring.publish, "slot.item = item.share()") as one:
        manager.close()
        with pytest.raises(ClosedError):
            one.result()
    assert_nothing_left(manager)


def test_the_last_receiver_against_publish(manager: SafetyManager) -> None:
    """The frame stays in the ring for whoever comes, and goes with the ring."""
    distributor: Frames = FrameDistributor(4)
    receiver = distributor.subscribe()
    native = Native()
    handle = frame(manager, native)
    with Standing(
        lambda: distributor.publish(handle), Ring._published, "return len(subscribers.subscriptions)"
    ) as one:
        receiver.close()
        one.result()
    assert (receiver.missed, receiver.received) == (1, 0)
    handle.close()
    distributor.close()  # nobody is left to read it
    assert native.released == 1


def test_the_last_receiver_against_the_close(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(4)
    receiver = distributor.subscribe()
    native = Native()
    with frame(manager, native) as handle:
        distributor.publish(handle)
    with Standing(receiver.close, Ring._retire, "subscribers = self.subscribers.update") as one:
        distributor.close()
        one.result()
    assert native.released == 1


@pytest.mark.parametrize("many", [1, 3, 4, 9])
def test_a_publisher_that_is_held_up_after_its_step(manager: SafetyManager, many: int) -> None:
    """Others go on past it, its frame is received in its turn, and it leaves nothing behind."""
    distributor: Frames = FrameDistributor(3)
    receiver = distributor.subscribe()
    natives = [Native(str(number)) for number in range(many + 1)]
    handles = [frame(manager, native) for native in natives]
    with Standing(lambda: distributor.publish(handles[0]), Ring._published, "self._index(slot)") as one:
        for handle in handles[1:]:
            distributor.publish(handle)
        got, missed = read(receiver)
        assert [share.id for share in got] == [handle.id for handle in handles][-3:][-len(got) :]
        assert missed == max(0, many + 1 - 3)
        one.result()
    assert len(distributor) == min(3, many + 1)
    for handle in got + handles:
        handle.close()
    distributor.close(discard=True)
    assert [native.released for native in natives] == [1] * (many + 1)


def test_a_frame_overwritten_while_it_is_being_received(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(1)
    receiver = distributor.subscribe()
    natives = [Native("one"), Native("two")]
    with frame(manager, natives[0]) as handle:
        distributor.publish(handle)
    with Standing(lambda: receiver.recv(timeout=0), Receiver._share_of, "return share_of(item)") as one:
        with frame(manager, natives[1]) as handle:
            distributor.publish(handle)
        with pytest.raises(Lagged) as lagged:
            one.result()
    assert lagged.value.missed == 1
    receiver.recv(timeout=0).close()
    assert natives[0].released == 1
    assert (receiver.received, receiver.missed) == (1, 1)
    distributor.close()


def test_two_threads_receive_from_one_receiver(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(4)
    receiver = distributor.subscribe()
    handles = [frame(manager) for _ in range(2)]
    for handle in handles:
        distributor.publish(handle)
    with Standing(
        lambda: receiver.recv(timeout=0), Receiver._take, "if subscription.advance(now, new)"
    ) as one:
        first = receiver.recv(timeout=0)
        second = one.result()
    assert [first.id, second.id] == [handle.id for handle in handles]
    assert (receiver.received, receiver.missed) == (2, 0)
    for handle in (first, second, *handles):
        handle.close()
    distributor.close(discard=True)


def test_closing_a_receiver_against_its_recv(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(4)
    receiver = distributor.subscribe()
    native = Native()
    with frame(manager, native) as handle:
        distributor.publish(handle)
    with Standing(
        lambda: receiver.recv(timeout=0), Receiver._take, "if subscription.advance(now, new)"
    ) as one:
        receiver.close()
        with pytest.raises(ClosedError):
            one.result()
    assert (receiver.received, receiver.missed) == (0, 1)
    distributor.close()
    assert native.released == 1


# -- at every point ------------------------------------------------------------------------------------------


def scene(manager: SafetyManager) -> tuple[Frames, FrameReceiver[Any], Callable[[], None]]:
    distributor: Frames = FrameDistributor(2)
    receiver = distributor.subscribe(group="g")

    def run() -> None:
        with frame(manager) as handle:
            distributor.publish(handle)
        share = receiver.recv(timeout=0)
        share.close()

    return distributor, receiver, run


def test_an_interrupt_anywhere_leaves_figures_that_add_up(manager: SafetyManager) -> None:
    distributor, receiver, run = scene(manager)
    count = 0
    for _ in each_interrupt(run):
        count += 1
        assert adds_up(receiver)
        while receiver.lag:
            try:
                receiver.recv(timeout=0).close()
            except Lagged:
                pass
            assert adds_up(receiver)
        group = distributor.stats().groups["g"]
        assert group.published == group.received + group.missed == distributor.published
        assert len(distributor) <= 2
        distributor.publish(None)  # overwrites one of those that the interrupted call left
        distributor.publish(None)
        assert [slot.item for slot in distributor._ring.table.values()] == [None, None]
        read(receiver)
    assert count > 100
    distributor.close(discard=True)
    receiver.close()
    gc.collect()
    assert_nothing_left(manager)


def test_an_interrupt_anywhere_in_subscribing_and_closing(
    manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some strike a ``__del__``, and are printed and lost; kept, as pytest would, their tracebacks keep what
    it was at work on."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    assert sum(1 for _ in each_interrupt(lambda: open_and_close(manager), step=STEP)) > 30
    gc.collect()
    assert_nothing_left(manager)


def open_and_close(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(1, manager=manager)
    one = distributor.subscribe(policy="keep-key-frames")
    with frame(manager) as handle:
        distributor.publish(handle)
        distributor.publish(handle)
    one.close()
    distributor.close()


def test_the_collector_at_every_line(manager: SafetyManager) -> None:
    """In every collection a cycle dies that receives, and in some of them that publishes or subscribes: were
    it all of them, what is under way would never catch up."""
    distributor: Frames = FrameDistributor(2)
    receiver = distributor.subscribe()
    strikes = 0

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            nonlocal strikes
            strikes += 1
            if strikes % 97 == 0:
                distributor.publish(strikes)
            if strikes % 211 == 11:
                distributor.subscribe().close()
            try:
                item = receiver.recv()
                if not isinstance(item, int):
                    item.close()
            except (Empty, Lagged):
                pass
            distributor.stats()

    lines = itertools.count()

    def strike() -> None:
        if runtime.free_threaded and next(lines) % 8:
            return  # every collection is a full one there, and stops everybody
        Cycle()
        gc.collect(0)

    def work() -> None:
        with frame(manager) as handle:
            distributor.publish(handle)
        try:
            item = receiver.recv(timeout=0)
            if not isinstance(item, int):
                item.close()
        except (Lagged, Empty):
            pass
        distributor.subscribe().close()

    with every_line(strike) as struck:
        for _ in range(ROUNDS):
            work()
    gc.collect()
    assert struck.strikes > 100
    assert strikes > 50
    assert adds_up(receiver)
    assert len(distributor) == 2
    distributor.close(discard=True)
    gc.collect()
    assert_nothing_left(manager)


# -- storms --------------------------------------------------------------------------------------------------


def test_a_storm_of_everything(manager: SafetyManager) -> None:
    distributor: Frames = FrameDistributor(8)
    rounds = int(400 * STORM)
    receivers = [distributor.subscribe(group="steady") for _ in range(3)]
    latest = distributor.subscribe(policy="latest-only")
    got: list[Counter[int]] = [Counter() for _ in receivers]
    published: list[list[int]] = [[], []]

    def publish(mine: list[int]) -> None:
        for _ in range(rounds):
            with frame(manager) as handle:
                distributor.publish(handle)
                mine.append(handle.id)

    def receive(receiver: FrameReceiver[Any], seen: Counter[int]) -> None:
        for handle in receiver:
            with handle.lease():
                seen[handle.id] += 1

    def come_and_go() -> None:
        for _ in range(rounds // 4):
            with distributor.subscribe(start="oldest", group="guests") as guest:
                try:
                    guest.recv(timeout=0).close()
                except (Empty, Lagged):
                    pass
                assert adds_up(guest)

    def publish_all() -> None:
        threads = [threading.Thread(target=publish, args=(mine,)) for mine in published]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        distributor.close()

    with switching():
        at_once(
            publish_all,
            come_and_go_until_closed(come_and_go),
            lambda: receive(latest, Counter()),
            *(
                lambda r=receiver, c=seen: receive(r, c)
                for receiver, seen in zip(receivers, got, strict=True)
            ),  # type: ignore[misc]
            lambda: receive(receivers[0], got[0]),  # two threads share the first
        )
    assert distributor.published == 2 * rounds
    everything = set(published[0]) | set(published[1])
    for receiver, seen in zip(receivers, got, strict=True):
        assert set(seen.values()) <= {1}
        assert set(seen) <= everything
        assert (receiver.received, receiver.received + receiver.missed) == (len(seen), 2 * rounds)
    assert latest.received + latest.missed == 2 * rounds
    stats = distributor.stats()
    guests = stats.groups["guests"]
    assert guests.published == guests.received + guests.missed
    assert stats.held == 0
    receiver = seen = None  # type: ignore[assignment]
    gc.collect()
    assert_nothing_left(manager)


def come_and_go_until_closed(action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            action()
        except ClosedError:
            pass  # the publishers were quicker

    return run


def test_publish_against_close_by_luck(manager: SafetyManager) -> None:
    """Every frame is published wholly or refused, whoever is first."""
    for _ in range(int(60 * STORM)):
        distributor: Frames = FrameDistributor(4)
        receiver = distributor.subscribe()
        done = []

        def publish() -> None:
            with frame(manager) as handle:
                try:
                    while True:
                        distributor.publish(handle)
                        done.append(1)
                except (ClosedError, AccessRefusedError):
                    pass

        at_once(publish, publish, distributor.close)
        read_rest = sum(1 for _ in receiver)
        assert read_rest + receiver.missed == distributor.published == len(done)
        assert len(distributor) == 0
    assert_nothing_left(manager)
