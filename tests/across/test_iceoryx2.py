"""Topics of one machine: another process is a receiver with a seat, and its frames are handles like any
other."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import select
import threading
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("iceoryx2")

from lifecycle import FrameDistributor, SafetyManager
from lifecycle.errors import (
    AccessRefusedError,
    ClosedError,
    Empty,
    ForeignHandleError,
    HeldError,
    Lagged,
    LifecycleError,
    PoolExhaustedError,
)
from tests.across.support import Other
from tests.adversaries.surface import called
from tests.core.adversary import STORM
from tests.support import eventually

try:
    from lifecycle.integrations.iceoryx2 import (
        FrameFormatError,
        FrameTooLargeError,
        NoPublisherError,
        Publisher,
        Receiver,
        SecondPublisherError,
        SourceDiedError,
        TopicError,
        _engine,
    )
except ImportError:
    pass

PRINTING = """
    receiver = Receiver(manager, topic)
    say("open")
    try:
        while True:
            try:
                with receiver.recv(60) as frame:
                    say(frame.seq, *frame.shape, frame.dtype, int(frame.array().min()),
                    int(frame.array().max()))
            except Lagged as error:
                say("missed", error.missed)
    except ClosedError as error:
        say(type(error).__name__, receiver.received, receiver.missed, receiver.lag, receiver.source)
    receiver.close()
    manager.close()
"""
PUBLISHING = """
    publisher = Publisher(manager, topic, 4096)
    say("open")
    while (line := told()):
        say("told", publisher.copy(np.full(100, int(line), "u1")), publisher.published)
    publisher.close()
    manager.close()
"""


def test_a_frame_that_is_written_in_place_is_received_by_another_process(
    manager: SafetyManager, topic: str
) -> None:
    """A1, A2, A4: it arrives whole, of its shape and type, and the end of the topic is told with exact
    counts."""
    with Publisher(manager, topic, 1080 * 1920 * 3) as publisher, Other(PRINTING, topic) as other:
        assert other.says() == "open"
        eventually(lambda: publisher.receivers == 1)
        for value in range(3):
            with publisher.loan((1080, 1920, 3)) as loan:
                picture = loan.array()
                picture[...] = value
                del picture
                assert publisher.publish(loan) == 1
            assert other.says() == f"{value} 1080 1920 3 uint8 {value} {value}"
        publisher.copy(np.arange(24, dtype="<i4").reshape(4, 6)[::2, ::3])
        assert other.says() == "3 2 2 int32 0 15"
        assert publisher.published == 4
        assert [peer.pid for peer in publisher.consumers()] == [other.pid]
        publisher.close()
        assert other.ends() == ["ClosedError 4 0 0 closed"]


def test_an_array_outlives_frame_receiver_publisher_and_the_publishers_process(topic: str) -> None:
    """A1, A6: a slice is the same picture after everything else is gone, and the sample goes back after
    it."""
    with Other(PUBLISHING, topic) as other:
        assert other.says() == "open"
        manager = SafetyManager(name="outlived")
        receiver = Receiver(manager, topic)
        other.tell("7")
        assert other.says() == "told 1 1"
        frame = receiver.recv(30)
        part = frame.array()[10:20]
        assert not part.flags.writeable
        frame.close()
        for value in range(20):
            other.tell(str(value))
            other.says()
        other.kill()
        receiver.close()
        assert [one.type_name for one in manager.objects()] == ["iceoryx2.Sample"]
        manager.close(timeout=0)
        del frame, receiver
        gc.collect()
        assert part.tolist() == [7] * 10
        del part
        eventually(lambda: manager.stats().active_objects == 0)


def test_the_engine_compares_keys_without_python_code(manager: SafetyManager, topic: str) -> None:
    """Never an abort: where a Ctrl-C strikes in its own function for that, it ends the process."""
    with called() as codes:
        with Publisher(manager, topic, 64), Receiver(manager, topic) as receiver:
            assert receiver.source == "alive"
    assert codes
    assert [code.co_name for code in codes if code.co_name in ("key_cmp", "__eq__")] == []


def test_a_loan_is_published_by_nobody_while_an_array_could_write_it(
    manager: SafetyManager, topic: str
) -> None:
    """A2: refused, naming them; then it goes, and whatever comes later is refused."""
    with Publisher(manager, topic, 4096, loans=1) as publisher:
        loan = publisher.loan(16, "f4")
        part = loan.array()[2:4]
        with pytest.raises(HeldError, match="view made at test_iceoryx2"):
            publisher.publish(loan)
        assert publisher.published == 0
        del part
        assert publisher.publish(loan) == 0
        assert publisher.published == 1
        for late in (loan.array, loan.data, lambda: publisher.publish(loan)):
            with pytest.raises(AccessRefusedError):
                late()
        loan.close()
        with publisher.loan(16) as dropped:
            assert dropped.nbytes == 16
        assert publisher.published == 1


def test_loans_that_are_all_written_are_waited_for(manager: SafetyManager, topic: str) -> None:
    with Publisher(manager, topic, 64, loans=1) as publisher:
        loan = publisher.loan(8)
        with pytest.raises(PoolExhaustedError, match="has 1 loan"):
            publisher.loan(8)
        picture = loan.array()
        loan.close()
        with pytest.raises(PoolExhaustedError):
            publisher.loan(8, timeout=0.05)
        threading.Timer(0.1, lambda held: held.clear(), ([picture],)).start()
        del picture
        with publisher.loan(8, timeout=30):
            pass


@pytest.mark.parametrize("policy", ["drop-oldest", "latest-only", "keep-key-frames"])
def test_what_a_slow_receiver_misses_is_counted_exactly(
    manager: SafetyManager, topic: str, policy: str
) -> None:
    """A4, A5: ``published == received + missed + lag`` at every step, and the publisher waits for nobody."""
    with Publisher(manager, topic, 64, behind=4, history=0) as publisher:
        with Receiver(manager, topic, policy=policy) as receiver:
            got: list[int] = []
            for number in range(60):
                publisher.copy(np.full(8, number, "u1"), key=number % 7 == 0)
                if number % 9 == 8:
                    try:
                        with receiver.recv(0) as frame:
                            assert frame.array().tolist() == [frame.seq] * 8
                            got.append(frame.seq)
                    except (Lagged, Empty):
                        pass
                assert publisher.published == receiver.received + receiver.missed + receiver.lag
            while True:
                try:
                    with receiver.recv(0) as frame:
                        got.append(frame.seq)
                except Lagged:
                    continue
                except Empty:
                    break
                finally:
                    assert publisher.published == receiver.received + receiver.missed + receiver.lag
            assert len(got) == receiver.received
            assert got == sorted(set(got))
            assert receiver.lag == 0
            stats = receiver.stats()
            assert (stats.published, stats.received, stats.missed) == (60, len(got), 60 - len(got))
            if policy == "latest-only":
                assert got == [8, 17, 26, 35, 44, 53, 59]
                assert stats.lags == 0
            elif policy == "keep-key-frames":
                # After each gap the first that was given is a key frame.
                for before, after in zip([-1, *got], got, strict=False):
                    assert after == before + 1 or after % 7 == 0
            else:
                assert got[-4:] == [56, 57, 58, 59]


def test_a_lag_is_told_once_and_exactly(manager: SafetyManager, topic: str) -> None:
    with Publisher(manager, topic, 64, behind=4) as publisher, Receiver(manager, topic) as receiver:
        for _ in range(100):
            publisher.copy(np.zeros(8, "u1"))
        with pytest.raises(Lagged, match="missed 96 frame") as caught:
            receiver.recv(0)
        assert caught.value.missed == 96
        assert (receiver.received, receiver.missed, receiver.lag) == (0, 96, 4)
        for seq in (96, 97, 98, 99):
            with receiver.recv(0) as frame:
                assert frame.seq == seq
        with pytest.raises(Empty):
            receiver.recv(0)
        publisher.copy(np.zeros(8, "u1"))
        assert receiver.lag == 1
        receiver.close()
        assert (receiver.received, receiver.missed, receiver.lag) == (4, 97, 0)
        with pytest.raises(ClosedError):
            receiver.recv(0)


def test_a_receiver_that_keeps_its_whole_seat_is_refused_and_goes_on_when_arrays_go(
    manager: SafetyManager, topic: str
) -> None:
    """An array that is gone has posted its frame: it is found at once, whoever else comes by or not."""
    with Publisher(manager, topic, 64, held=2, behind=3) as publisher, Receiver(manager, topic) as receiver:
        kept: list[Any] = []
        for number in range(60):
            publisher.copy(np.full(8, number % 256, "u1"))
            if len(kept) == 2:
                with pytest.raises(PoolExhaustedError, match=r"keeps the 2 frame\(s\)"):
                    receiver.recv(0)
                kept.clear()
            with receiver.recv(0) as frame:
                assert frame.seq == number
                kept.append(frame.array()[1:])
        assert (receiver.received, receiver.missed) == (60, 0)
        kept.clear()


def test_a_late_receiver_is_given_the_last_frames(manager: SafetyManager, topic: str) -> None:
    """It rings, and the publisher's watcher hands over what `history` keeps."""
    with Publisher(manager, topic, 64, history=2) as publisher:
        for number in range(5):
            publisher.copy(np.full(8, number, "u1"))
        with Receiver(manager, topic) as receiver:
            for seq in (3, 4):
                with receiver.recv(30) as frame:
                    assert (frame.seq, frame.array()[0]) == (seq, seq)
            assert (receiver.received, receiver.missed, receiver.lag) == (2, 0, 0)


def test_a_late_receiver_that_waits_is_woken_for_the_last_frames(manager: SafetyManager, topic: str) -> None:
    """It waited to the end of a slice of its wait before: 50 ms."""
    with Publisher(manager, topic, 64, history=1) as publisher:
        publisher.copy(b"before")
        with Receiver(manager, topic) as receiver:
            feed: Any = receiver._feed
            eventually(feed.has_more)
            eventually(lambda: bool(feed.heard.try_wait()))
            receiver.recv(30).close()


def test_loops_and_coroutines_receive_until_the_publisher_closes(manager: SafetyManager, topic: str) -> None:
    with Publisher(manager, topic, 64, behind=8) as publisher:
        one, other = Receiver(manager, topic), Receiver(manager, topic)
        for number in range(6):
            publisher.copy(np.full(8, number, "u1"))

        async def read() -> list[int]:
            return [int(frame.array()[0]) async for frame in other]

        threading.Timer(0.2, publisher.close).start()
        assert [frame.seq for frame in one] == list(range(6))
        assert asyncio.run(read()) == list(range(6))
        assert (one.source, other.source) == ("closed", "closed")
        with pytest.raises(ClosedError, match="its publisher is closed"):
            one.recv(0)
        one.close()
        other.close()


def test_a_coroutine_that_is_cancelled_loses_no_frame(manager: SafetyManager, topic: str) -> None:
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:

        async def program() -> int:
            waiting = asyncio.ensure_future(receiver.recv_async(60))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            publisher.copy(np.zeros(8, "u1"))
            with await receiver.recv_async(30) as frame:
                return frame.seq

        assert asyncio.run(program()) == 0
        assert (receiver.received, receiver.missed) == (1, 0)


def test_a_distributor_of_this_process_has_the_frames_of_another(manager: SafetyManager, topic: str) -> None:
    """Distributor to distributor: published, pumped, received, seen by three threads at equal addresses."""
    local: FrameDistributor[Any] = FrameDistributor(4, name="camera")
    here: FrameDistributor[Any] = FrameDistributor(2, name="copy", manager=manager)
    with Publisher(manager, topic, 4096, held=8, behind=8) as publisher, Receiver(manager, topic) as receiver:
        readers = [here.subscribe(policy="drop-oldest") for _ in range(3)]
        with publisher.pump(local.subscribe()) as pump, receiver.into(here) as bridge:
            for number in range(20):
                local.publish(np.full(100, number, "u1"))
                seen = []
                for reader in readers:
                    with reader.recv(30) as frame:
                        seen.append((frame.seq, int(frame.array()[50]), frame.array().ctypes.data))
                assert set(seen) == {(number, number, seen[0][2])}
            assert (pump.stats().carried, bridge.stats().carried) == (20, 20)
            assert (bridge.stats().failed, pump.stats().failed) == (0, 0)
        assert not bridge.running
        with pytest.raises(TopicError, match="would keep all 8"):
            receiver.into(FrameDistributor(8))
        here.close()
    local.close()


def test_a_publisher_that_dies_is_told_and_its_successor_is_received(
    manager: SafetyManager, topic: str
) -> None:
    """A6: what it had sent is read first; then `SourceDiedError`, once, at once; then the next life, from 0
    on."""
    with Other(PUBLISHING, topic) as first:
        assert first.says() == "open"
        receiver = Receiver(manager, topic)
        for value in (1, 2):
            first.tell(str(value))
            first.says()
        assert receiver.source == "alive"
        first.kill()
        eventually(lambda: receiver.source == "died")
        with receiver.recv(0) as held:
            kept = held.array()
        with receiver.recv(0) as frame:
            assert frame.array()[0] == 2
        with pytest.raises(SourceDiedError, match="ended without closing"):
            receiver.recv(60)
        with pytest.raises(SourceDiedError):
            receiver.recv(0.1)
    with Other(PUBLISHING, topic) as second:
        assert second.says() == "open"
        eventually(lambda: receiver.source == "alive")
        second.tell("3")
        assert second.says() == "told 1 1"
        with receiver.recv(30) as frame:
            assert (frame.seq, int(frame.array()[0])) == (0, 3)
        assert (receiver.received, receiver.missed, receiver.lag, receiver.restarts) == (3, 0, 0, 1)
        assert kept.tolist() == [1] * 100
        del kept
        receiver.close()


def test_a_consumer_that_dies_gives_back_seat_and_frames(manager: SafetyManager, topic: str) -> None:
    """A6: several in a row hold all that their seat has, on two seats; each is reaped by the watcher."""
    holding = """
        receiver = Receiver(manager, topic)
        say("open")
        kept = [receiver.recv(60) for _ in range(2)]
        say("holds")
        told()
    """
    with Publisher(manager, topic, 4096, receivers=2, held=2, behind=2) as publisher:
        with Receiver(manager, topic) as survivor:
            sent = 0
            for _ in range(14 if STORM >= 10 else 3):
                with Other(holding, topic) as other:
                    assert other.says() == "open"
                    eventually(lambda: publisher.receivers == 2)
                    for _ in range(2):
                        assert publisher.copy(np.full(64, sent % 256, "u1")) == 2
                        with survivor.recv(30) as frame:
                            assert frame.array().tolist() == [sent % 256] * 64
                        sent += 1
                    assert other.says() == "holds"
                    with pytest.raises(PoolExhaustedError, match="2 seat"):
                        Receiver(manager, topic, start=0)
                    other.kill()
                eventually(lambda: publisher.receivers == 1)
            assert (survivor.received, survivor.missed) == (sent, 0)
            assert publisher.stats().failed == 0
        assert publisher.consumers() == ()


@pytest.mark.skipif(
    not (hasattr(os, "pidfd_open") and hasattr(select, "epoll")), reason="no system tells of processes here"
)
def test_the_watcher_is_woken_for_all_that_it_serves(
    manager: SafetyManager, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late receiver and a killed one: nothing else would wake it within an hour."""
    monkeypatch.setattr(
        importlib.import_module("lifecycle.integrations.iceoryx2.publisher"), "LONG_SLICE", 3600
    )
    code = """
        receiver = Receiver(manager, topic)
        say(receiver.recv(60).seq)
        told()
    """
    with Publisher(manager, topic, 64, history=1) as publisher:
        publisher.copy(b"before")
        with Other(code, topic) as other:
            assert other.says() == "0"
            other.kill()
            eventually(lambda: publisher.receivers == 0)


def test_a_copy_is_no_object_of_the_managers(manager: SafetyManager, topic: str) -> None:
    """Nobody else has what it fills; what is lent for it is back, sent or refused."""
    with Publisher(manager, topic, 64, loans=1) as publisher, Receiver(manager, topic) as receiver:
        for number in range(3):
            publisher.copy(np.full((3, 5), number, "i2"))
            with receiver.recv(30) as frame:
                assert (frame.shape, frame.dtype, int(frame.array().max())) == (
                    (3, 5),
                    np.dtype("i2"),
                    number,
                )
        with publisher.loan(8):
            with pytest.raises(PoolExhaustedError):
                publisher.copy(b"no room")
        publisher.loan(8).close()
        assert "iceoryx2.Loan" in manager.stats().types
        registered = manager.stats().types["iceoryx2.Loan"].registered
        assert (publisher.published, registered) == (3, 2)


# -- bad input -----------------------------------------------------------------------------------------------


def test_a_second_publisher_and_other_figures_are_refused(manager: SafetyManager, topic: str) -> None:
    publisher = Publisher(manager, topic, 64)
    with pytest.raises(SecondPublisherError, match="has a publisher"):
        Publisher(manager, topic, 64)
    with pytest.raises(TopicError, match=r"receivers=4, held=4, .* receivers=4, held=5"):
        Publisher(manager, topic, 64, held=5)
    receiver = Receiver(manager, topic)
    publisher.close()
    with pytest.raises(TopicError, match="was asked for with"):
        Publisher(manager, topic, 64, behind=9)
    with Publisher(manager, topic, 128) as again:
        again.copy(np.zeros(128, "u1"))
        with receiver.recv(30) as frame:
            assert frame.nbytes == 128
    receiver.close()


def test_names_figures_and_policies_that_are_none_are_refused(manager: SafetyManager, topic: str) -> None:
    # The last two would be a life of topic "a", and its bell.
    for name in ("", "ä", "a\n", "x" * 300, None, 7, f"a?life {2**64}", "a?ring"):
        with pytest.raises(TopicError, match="topic's name"):
            Publisher(manager, name, 64)  # type: ignore[arg-type]
        with pytest.raises(TopicError, match="topic's name"):
            Receiver(manager, name)  # type: ignore[arg-type]
    for figures in (
        {"receivers": 0},
        {"held": 1.5},
        {"behind": True},
        {"loans": 0},
        {"history": -1},
        {"history": 9},
    ):
        with pytest.raises(TopicError):
            Publisher(manager, topic, 64, **figures)  # type: ignore[arg-type]
    with pytest.raises(TopicError, match="nbytes"):
        Publisher(manager, topic, 0)
    with pytest.raises(NoPublisherError, match="was not there within 0"):
        Receiver(manager, topic, start=0)
    for policy in ("block", "evict"):
        with pytest.raises(LifecycleError, match="a publisher waits for no other process"):
            Receiver(manager, topic, policy=policy, start=0)
    with pytest.raises(LifecycleError, match="SafetyManager"):
        Publisher(None, topic, 64)  # type: ignore[arg-type]


def test_a_service_of_somebody_else_is_no_topic(manager: SafetyManager, topic: str) -> None:
    import ctypes

    import iceoryx2 as iox

    node = (
        iox.NodeBuilder.new()
        .config(_engine.settings())
        .signal_handling_mode(iox.SignalHandlingMode.Disabled)
        .create(iox.ServiceType.Ipc)
    )
    service = node.service_builder(iox.ServiceName.new(topic)).publish_subscribe(ctypes.c_uint64).create()
    with pytest.raises(TopicError, match="none of this library's topics"):
        Publisher(manager, topic, 64)
    with pytest.raises(TopicError, match="none of this library's topics"):
        Receiver(manager, topic, start=0)
    del service, node


class Raising:
    """Neither a shape nor a type of elements, and says so in a way of its own."""

    def __index__(self) -> int:
        raise RuntimeError("no number")

    @property
    def dtype(self) -> object:
        raise RuntimeError("no type")


def test_frames_that_nobody_could_read_are_refused(manager: SafetyManager, topic: str) -> None:
    core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    rational = importlib.import_module(f"{core}._rational_tests").rational
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:
        for wrong in (
            np.array([object()]),
            np.zeros(2, [("a", "u1")]),
            np.zeros((1,) * 9, "u1"),
            np.array(["x" * 2], object),
            # Another library's type of elements: its text says eight plain bytes.
            np.zeros(2, rational),
        ):
            with pytest.raises(FrameFormatError):
                publisher.copy(wrong)
        for shape, dtype in (
            ((-1,), "u1"),
            ("ab", "u1"),
            ((2.5,), "u1"),
            (3, "no such type"),
            (3, "O"),
            (3, "f4,,"),
            ((0, 2**64), "u1"),
        ):
            with pytest.raises(FrameFormatError):
                publisher.loan(shape, dtype)
        with pytest.raises(FrameTooLargeError, match="has 65 bytes"):
            publisher.loan(65)
        # More bytes than the header can say.
        for shape in ((2**40, 2**40), (2**62, 8)):
            with pytest.raises(FrameTooLargeError, match="more bytes than any topic"):
                publisher.loan(shape)
        for raising in (Raising(), (1, Raising())):
            with pytest.raises(FrameFormatError):
                publisher.loan(raising)
            with pytest.raises(FrameFormatError):
                publisher.loan(3, raising)
        with pytest.raises(FrameTooLargeError):
            publisher.copy(np.zeros(65, "u1"))
        with pytest.raises(LifecycleError, match="takes a Loan"):
            publisher.publish(np.zeros(3))  # type: ignore[arg-type]
        assert publisher.published == 0
        # What is not contiguous is copied as it is seen, and an empty frame is one.
        publisher.copy(np.arange(64, dtype="u1").reshape(8, 8).T[:, ::2])
        publisher.copy(np.zeros((0, 3), "f4"))
        publisher.copy(b"ab\0")
        publisher.copy(memoryview(bytearray(b"abcd"))[::2])
        with receiver.recv(30) as frame:
            assert frame.array().tolist() == np.arange(64).reshape(8, 8).T[:, ::2].tolist()
        with receiver.recv(30) as frame:
            assert frame.array().shape == (0, 3)
            assert bytes(frame.data()) == b""
        with receiver.recv(30) as frame:
            assert frame.array().tolist() == [97, 98, 0]
        with receiver.recv(30) as frame:
            assert frame.array().tolist() == [97, 99]


def test_a_loan_goes_by_its_own_publisher_only(manager: SafetyManager, topic: str) -> None:
    with Publisher(manager, topic + "/a", 64) as one, Publisher(manager, topic + "/b", 64) as other:
        with one.loan(8) as loan:
            with pytest.raises(ForeignHandleError):
                other.publish(loan)
            one.close()
            with pytest.raises(ClosedError):
                one.publish(loan)
            with pytest.raises(ClosedError):
                one.loan(8)
        other.close()


def test_closing_the_manager_closes_both_ends(topic: str) -> None:
    manager = SafetyManager(name="closing")
    publisher = Publisher(manager, topic, 64)
    receiver = Receiver(manager, topic)
    publisher.copy(np.zeros(8, "u1"))
    assert manager.close().ok
    assert (publisher.closed, receiver.closed) == (True, True)
    assert (receiver.received, receiver.missed) == (0, 1)
    with pytest.raises(ClosedError):
        Publisher(manager, topic, 64)
    with pytest.raises(ClosedError):
        Receiver(manager, topic)


def test_a_topic_is_a_distributor_among_the_metrics(manager: SafetyManager, topic: str) -> None:
    """By its name, in the publisher's process and in each receiver's."""
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    from lifecycle.integrations.prometheus import LifecycleCollector

    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    with Publisher(manager, topic, 64, behind=4) as publisher, Receiver(manager, topic) as receiver:
        for _ in range(7):
            publisher.copy(np.zeros(8, "u1"))
        with pytest.raises(Lagged):
            receiver.recv(0)
        receiver.recv(0).close()
        text = generate_latest(registry).decode()
        labels = f'distributor="{topic}"'
        lines = {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if labels in line
        }
    assert lines["lifecycle_distributor_published_total"] == 7
    assert lines["lifecycle_receiver_received_total"] == 1
    assert lines["lifecycle_receiver_missed_total"] == 3
    assert lines["lifecycle_receiver_lag_frames"] == 3
