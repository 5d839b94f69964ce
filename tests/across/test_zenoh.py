"""Topics between machines, over loopback: the same words, with copies, and exact counts."""

from __future__ import annotations

import os
import socket
import textwrap
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("zenoh")

from lifecycle import FrameDistributor, SafetyManager
from lifecycle.errors import ClosedError, Empty, Lagged, LifecycleError
from lifecycle.integrations.across.header import SIZE, form_of, pack
from lifecycle.testing import each_interrupt
from tests.across.support import Other
from tests.core.adversary import STORM
from tests.support import eventually

try:
    import zenoh

    from lifecycle.integrations.zenoh import (
        FrameFormatError,
        NoPublisherError,
        Publisher,
        Receiver,
        SourceDiedError,
        TopicError,
        TransportError,
    )
    from lifecycle.integrations.zenoh import publisher as publisher_module
    from lifecycle.integrations.zenoh import receiver as receiver_module
except ImportError:
    pass

TOPIC = "test/camera"
SESSION = """
import zenoh
def session(port, listens):
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", f'["tcp/127.0.0.1:{port if listens else 0}"]')
    if not listens:
        config.insert_json5("connect/endpoints", f'["tcp/127.0.0.1:{port}"]')
    return zenoh.open(config)
"""
exec(SESSION.replace("import zenoh\n", ""))
session: Any = globals()["session"]
PUBLISHING = (
    SESSION
    + """
link = session(int(sys.argv[2]), False)
publisher = Publisher(manager, topic, session=link)
say("open")
while (line := told()):
    if line == "end":
        break
    publisher.copy(bytes([int(line)]) * 1000, key=int(line) % 3 == 0)
    say("sent", publisher.published)
publisher.close()
link.close()
manager.close()
"""
)


@pytest.fixture
def link() -> Iterator[tuple[Any, int]]:
    """A session that listens on a port of loopback, and nothing else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = session(port, True)
    yield here, port
    here.close()


def drained(receiver: Any) -> list[int]:
    found = []
    while True:
        try:
            with receiver.recv(0) as frame:
                assert len(set(frame.array().tolist())) == 1
                found.append(frame.seq)
        except Lagged:
            continue
        except Empty:
            return found


def test_frames_of_another_process_come_with_exact_counts(manager: SafetyManager, link: Any) -> None:
    """A4: those that came, and those that the ring dropped; then the end of the topic."""
    here, port = link
    with Other(PUBLISHING, TOPIC, str(port), transport="zenoh") as other:
        assert other.says() == "open"
        receiver = Receiver(manager, TOPIC, session=here, start=30)
        other.tell("7")
        assert other.says() == "sent 1"
        with receiver.recv(30) as frame:
            array = frame.array()
            assert (frame.seq, frame.key, frame.nbytes, set(array.tolist())) == (0, False, 1000, {7})
            assert not array.flags.writeable
        for value in range(40):
            other.tell(str(value))
            other.says()
        eventually(lambda: receiver.stats().published == 41)
        assert receiver.lag == 40
        with pytest.raises(Lagged) as caught:
            receiver.recv(0)
        assert caught.value.missed == 36
        assert drained(receiver) == [37, 38, 39, 40]
        assert (receiver.received, receiver.missed, receiver.lag, receiver.source) == (5, 36, 0, "alive")
        other.tell("end")
        assert other.ends() == []
        with pytest.raises(ClosedError, match="its publisher is closed"):
            receiver.recv(30)
        assert receiver.source == "closed"
        assert set(array.tolist()) == {7}
        receiver.close()
        del array


def test_the_first_frame_after_a_receiver_was_made_comes(manager: SafetyManager, link: Any) -> None:
    """zenoh sends nothing before it knows of a subscription: of 300 first frames it lost 4."""
    here, port = link
    there = session(port, False)
    for number in range(600):
        topic = f"{TOPIC}/{number}"
        with (
            Publisher(manager, topic, session=there) as publisher,
            Receiver(manager, topic, session=here, start=30) as receiver,
        ):
            publisher.copy(b"first")
            with receiver.recv(10) as frame:
                assert (frame.seq, bytes(frame.array())) == (0, b"first")
    there.close()


def test_a_publisher_that_does_not_answer_is_received_all_the_same(
    manager: SafetyManager, link: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs, or of an earlier version: its frames come, from the one that reaches us on."""
    here, port = link
    monkeypatch.setattr(publisher_module, "_answer", lambda query: None)
    there = session(port, False)
    with (
        Publisher(manager, TOPIC, session=there) as publisher,
        Receiver(manager, TOPIC, session=here, start=30) as receiver,
    ):
        eventually(lambda: publisher.copy(b"some") > 0)
        receiver.recv(10).close()
    there.close()


def test_a_publisher_that_is_killed_is_told_and_its_successor_is_received(
    manager: SafetyManager, link: Any
) -> None:
    here, port = link
    receiver: Any = None
    for life in range(2):
        with Other(PUBLISHING, TOPIC, str(port), transport="zenoh") as other:
            assert other.says() == "open"
            if receiver is None:
                receiver = Receiver(manager, TOPIC, session=here, start=30)
            other.tell(str(life))
            other.says()
            with receiver.recv(30) as frame:
                assert (frame.seq, frame.array()[0]) == (0, life)
            other.kill()
            with pytest.raises(SourceDiedError, match="ended without closing"):
                receiver.recv(30)
    assert (receiver.received, receiver.missed, receiver.lag, receiver.restarts) == (2, 0, 0, 1)
    receiver.close()


def test_policies_and_bridges_are_those_of_one_machine(manager: SafetyManager, link: Any) -> None:
    here, _ = link
    local: FrameDistributor[Any] = FrameDistributor(8)
    copy: FrameDistributor[Any] = FrameDistributor(8)
    with Publisher(manager, TOPIC, session=here) as publisher:
        keys = Receiver(manager, TOPIC, policy="keep-key-frames", behind=8, session=here, start=30)
        latest = Receiver(manager, TOPIC, policy="latest-only", behind=8, session=here, start=30)
        whole = Receiver(manager, TOPIC, behind=30, session=here, start=30)
        reader = copy.subscribe()
        with publisher.pump(local.subscribe()), whole.into(copy):
            for number in range(20):
                local.publish(np.full(10, number, "u1"), key=number % 5 == 3)
                with reader.recv(30) as frame:
                    assert frame.array().tolist() == [number] * 10
        eventually(lambda: latest.stats().published == keys.stats().published == 20)
        assert drained(latest) == [19]
        # The bridge carries no news of key frames that plain arrays do not have.
        assert drained(keys) == list(range(12, 20))
        assert (keys.received + keys.missed, keys.lag) == (20, 0)
        for receiver in (keys, latest, whole):
            receiver.close()
    local.close()
    copy.close()


def test_a_session_that_its_owner_closes_ends_what_it_carried(manager: SafetyManager, link: Any) -> None:
    """What had come is received; a wait, a loop and a bridge end; both ends can be closed."""
    here, _ = link
    local: FrameDistributor[Any] = FrameDistributor(4)
    publisher = Publisher(manager, TOPIC, session=here)
    receiver, carried = (Receiver(manager, TOPIC, session=here) for _ in range(2))
    bridge = carried.into(local)
    publisher.copy(b"last")
    eventually(lambda: receiver.lag == 1)
    here.close()
    assert [frame.seq for frame in receiver] == [0]
    with pytest.raises(ClosedError, match="was closed under its receiver"):
        receiver.recv()
    with pytest.raises(TransportError, match="session closed"):
        publisher.copy(b"late")
    eventually(lambda: not bridge.running)
    assert bridge.stats().failed == 0
    assert (receiver.closed, receiver.received, receiver.missed) == (True, 1, 0)
    for end in (publisher, receiver, carried, bridge, local):
        end.close()


def test_of_two_publishers_at_once_each_has_its_own_counts(manager: SafetyManager, link: Any) -> None:
    here, _ = link
    with Publisher(manager, TOPIC, session=here) as one, Publisher(manager, TOPIC, session=here) as other:
        receiver: Any = Receiver(manager, TOPIC, behind=20, session=here)
        for _ in range(5):
            one.copy(b"1")
            other.copy(b"2")
        eventually(lambda: len(receiver._feed.arrivals.frames) == 10)
        got: dict[int, list[int]] = {}
        while receiver.received < 10:
            with receiver.recv(0) as frame:
                got.setdefault(frame.epoch, []).append(frame.seq)
        assert got == {one.epoch: list(range(5)), other.epoch: list(range(5))}
        assert (receiver.missed, receiver.lag) == (0, 0)
        receiver.close()


def test_one_of_two_publishers_that_closes_ends_nobodys_loop(manager: SafetyManager, link: Any) -> None:
    here, _ = link
    with Publisher(manager, TOPIC, session=here) as one:
        receiver: Any = Receiver(manager, TOPIC, session=here)
        with Publisher(manager, TOPIC, session=here) as other:
            other.copy(b"2")
            with receiver.recv(20) as frame:
                assert frame.epoch == other.epoch
        eventually(lambda: other.epoch in receiver._feed.arrivals.ended)
        assert receiver.source == "alive"
        with pytest.raises(Empty):
            receiver.recv(0)
        one.copy(b"1")
        with receiver.recv(20) as frame:
            assert frame.epoch == one.epoch
    with pytest.raises(ClosedError):
        receiver.recv(20)
    assert (receiver.source, receiver.received, receiver.missed) == ("closed", 2, 0)
    receiver.close()


def test_a_close_that_was_interrupted_is_finished_by_the_next(manager: SafetyManager, link: Any) -> None:
    """The session is another's, and goes on: nothing of the publisher may stay in it."""
    here, _ = link
    step = 1 if STORM >= 10 else 4
    ends: list[Any] = []

    def close() -> None:
        ends[-1].close()

    ends.append(Publisher(manager, TOPIC, session=here))
    receiver: Any = Receiver(manager, TOPIC, session=here)
    for case in each_interrupt(close, step=step):
        ends[-1].close()
        with pytest.raises(ClosedError, match="its publisher is closed"):
            receiver.recv(30)
        eventually(lambda: not receiver._feed.arrivals.alive)
        if case.error is not None:
            case.error.__traceback__ = None
        ends.append(Publisher(manager, TOPIC, session=here))
        eventually(lambda: receiver.source == "alive")
    assert len(ends) > 3
    close()
    receiver.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)"])
def test_a_forked_child_waits_for_no_lock_and_takes_nothing(link: Any, end: str) -> None:
    """Threads of the parent are sending and receiving at that moment; it goes on afterwards."""
    code = f"""
        import warnings
        warnings.simplefilter("ignore")
        link = session(int(sys.argv[2]), False)
        publisher = Publisher(manager, topic, session=link)
        receiver = Receiver(manager, topic, session=link, start=30)
        local = FrameDistributor(4)
        bridge = Receiver(manager, topic, session=link, start=30).into(local)
        publisher.copy(b"7")
        frame = receiver.recv(30)
        held, over = threading.Event(), threading.Event()
        def hold():
            with publisher._ports.turn, receiver._turn, bridge._carrying.stopped._cond:
                held.set()
                over.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        pid = os.fork()
        if not pid:
            for call in (lambda: publisher.copy(b"8"), receiver.recv):
                try:
                    call()
                    os._exit(3)
                except ClosedError as error:
                    if "of the parent process" not in str(error):
                        os._exit(4)
            for one in (frame, receiver, publisher, bridge):
                one.close()
            {end}
        say("child", os.waitpid(pid, 0)[1])
        over.set()
        thread.join()
        publisher.copy(b"9")
        with receiver.recv(30) as frame2:
            say(frame2.seq, receiver.source, *frame.array())
        source = bridge._carrying.receiver
        for one in (frame, receiver, bridge, source, publisher, link, local):
            one.close()
        say(manager.close().ok)
    """
    with Other(SESSION + textwrap.dedent(code), TOPIC, str(link[1]), transport="zenoh") as other:
        assert other.ends() == ["child 0", "1 alive 55", "True"]


def test_bad_input_is_refused(manager: SafetyManager, link: Any, capfd: Any) -> None:
    here, _ = link
    for name in ("", "a//b", "/a", "a/*", "a/$*", "a/@b", "ä"):
        with pytest.raises(TopicError):
            Publisher(manager, name, session=here)
    with pytest.raises(NoPublisherError):
        Receiver(manager, "nobody/here", session=here, start=0)
    with pytest.raises(LifecycleError, match="waits for no other process"):
        Receiver(manager, TOPIC, policy="block", session=here)
    with pytest.raises(TopicError, match="takes a zenoh"):
        Publisher(manager, TOPIC, session=object())
    with Publisher(manager, TOPIC, session=here) as publisher:
        receiver: Any = Receiver(manager, TOPIC, session=here, start=30)
        for wrong in (np.array([object()]), np.zeros(2, [("a", "u1")]), np.zeros((1,) * 9)):
            with pytest.raises(FrameFormatError):
                publisher.copy(wrong)
        here.put(TOPIC, b"of somebody else")
        for size in (SIZE, SIZE + 16):
            here.put(TOPIC, b"x", attachment=bytes(size))
            here.put(f"{TOPIC}/@end", b"", attachment=bytes(size))
        token = here.liveliness().declare_token(f"{TOPIC}/@life/\u00b2")
        # Of zenoh's threads none has complained: what they call tells nobody else.
        eventually(lambda: receiver._feed.arrivals.refused == 5)
        token.undeclare()
        assert capfd.readouterr().err == ""
        assert publisher.published == 0
        publisher.copy(np.arange(6, dtype="f8")[::2])
        with receiver.recv(30) as frame:
            assert frame.array().tolist() == [0.0, 2.0, 4.0]
        receiver.close()
    with pytest.raises(ClosedError):
        publisher.copy(b"late")


def test_who_closes_is_not_taken_for_dead_where_the_token_ends_ahead_of_the_message() -> None:
    """As on a busy machine: zenoh tells of tokens ahead of data."""
    arrivals = receiver_module._Arrivals(4)
    feed = object.__new__(receiver_module._Feed)
    feed.arrivals = arrivals
    for epoch in (7, 8):
        arrivals.last[epoch] = 2
        for kind in (zenoh.SampleKind.PUT, zenoh.SampleKind.DELETE):
            arrivals.lives(SimpleNamespace(key_expr=f"{TOPIC}/lives/{epoch}", kind=kind))
            assert feed.source().state == "alive"
        if epoch == 7:
            end = pack(form_of(0, "u1"), 3, epoch, 0, False)
            arrivals.closes(SimpleNamespace(attachment=SimpleNamespace(to_bytes=lambda end=end: end)))
            assert (feed.source().state, feed.source().published) == ("closed", 3)
    eventually(lambda: feed.source().state == "died")
