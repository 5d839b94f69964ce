"""Topics between machines, over loopback: the same words, with copies, and exact counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("zenoh")

from lifecycle import FrameDistributor, SafetyManager
from lifecycle.errors import ClosedError, Empty, Lagged, LifecycleError
from tests.across.support import Other
from tests.support import eventually

try:
    import zenoh  # noqa: F401 - for the function that SESSION makes

    from lifecycle.integrations.zenoh import (
        FrameFormatError,
        NoPublisherError,
        Publisher,
        Receiver,
        SourceDiedError,
        TopicError,
    )
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


def test_bad_input_is_refused(manager: SafetyManager, link: Any) -> None:
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
        receiver = Receiver(manager, TOPIC, session=here, start=30)
        for wrong in (np.array([object()]), np.zeros(2, [("a", "u1")]), np.zeros((1,) * 9)):
            with pytest.raises(FrameFormatError):
                publisher.copy(wrong)
        here.put(TOPIC, b"of somebody else")
        here.put(TOPIC, b"x", attachment=bytes(136))
        assert publisher.published == 0
        publisher.copy(np.arange(6, dtype="f8")[::2])
        with receiver.recv(30) as frame:
            assert frame.array().tolist() == [0.0, 2.0, 4.0]
        receiver.close()
    with pytest.raises(ClosedError):
        publisher.copy(b"late")
