"""What receivers of all transports have in common, over a feed in memory."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.errors import Empty, Lagged
from lifecycle.integrations.across import header, receiving
from lifecycle.integrations.across.errors import FrameFormatError
from lifecycle.integrations.across.feeds import Source
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.across.header import form_of, pack, read
from lifecycle.integrations.across.receiving import TopicReceiver, check_policy
from lifecycle.testing import each_interrupt


class Feed:
    """Frames of one life, from this process."""

    def __init__(self, manager: SafetyManager) -> None:
        self.manager = manager
        self.published = 0
        self.frames: deque[Frame] = deque()

    def publish(self) -> None:
        payload = b"frame"
        head = read(pack(form_of(len(payload), "u1"), self.published, 1, 0, True), len(payload))
        handle = self.manager.register(payload, release=len, release_on=ANY_THREAD, type_name="test.Frame")
        self.frames.append(Frame(handle, head, payload))
        self.published += 1

    def take(self) -> Frame | None:
        return self.frames.popleft() if self.frames else None

    def has_more(self) -> bool:
        return bool(self.frames)

    def source(self) -> Source:
        return Source(1, self.published, "alive")

    def peers(self) -> list[dict[str, Any]]:
        return []

    def start(self, epoch: int) -> int | None:
        return None

    def closed(self) -> bool:
        return False

    def wait(self, seconds: float) -> None:
        return

    def shut(self) -> None:
        self.frames.clear()

    def keep(self) -> None:
        return


def drained(receiver: TopicReceiver) -> list[int]:
    found = []
    while True:
        try:
            with receiver.recv(0) as frame:
                found.append(frame.seq)
        except Lagged:
            continue
        except Empty:
            return found


@pytest.mark.filterwarnings("ignore:test.Frame:ResourceWarning")  # of those that are lost, which are counted
def test_an_interrupted_recv_leaves_its_frame_to_the_next_one(manager: SafetyManager) -> None:
    """A4: whatever is struck from the moment on that the feed has given it. Only what is on its way through
    a return can be lost, and that is counted."""
    feed = Feed(manager)
    receiver = TopicReceiver(manager, "memory", check_policy("drop-oldest"), feed)
    got: list[Frame] = []

    def run() -> None:
        got.append(receiver.recv(0))

    lines = Path(receiving.__file__).read_text().splitlines()
    kept = 0
    feed.publish()
    for case in each_interrupt(run):
        received = [frame.seq for frame in got]
        for frame in got:
            frame.close()
        got.clear()
        if case.error is not None:
            case.error.__traceback__ = None
        received += drained(receiver)
        last = feed.published - 1
        file, _, line = case.place.split()[0].partition(":")
        on_its_way = file != "receiving.py" or "take()" in lines[int(line) - 1]
        assert received == [last] or (received == [] and on_its_way), case.place
        kept += received == [last]
        feed.publish()
        assert feed.published == receiver.received + receiver.missed + receiver.lag, case.place
    assert kept >= 15
    receiver.close()


def test_what_equals_a_known_form_is_looked_at_all_the_same() -> None:
    """Forms are remembered, and 2.0 equals 2: what is no whole number stays refused."""
    assert form_of((2, 3), "u1") is form_of((2, 3), "u1")
    assert form_of((1, 1), "u1").shape == (1, 1)
    for shape in ((2.0, 3), (2, 3 + 0j), (2, "3")):
        with pytest.raises(FrameFormatError, match="whole numbers"):
            form_of(shape, "u1")
    assert [type(side) for side in form_of((True, 1), "u1").shape] == [int, int]
    head = read(pack(form_of((2, 3), "<i2"), 5, 6, 7, False), 12)
    assert (head.seq, head.epoch, head.published_ns, head.nbytes, head.key) == (5, 6, 7, 12, False)
    # Known by now, and still compared with the room that there is.
    with pytest.raises(FrameFormatError, match="there are 11"):
        read(pack(form_of((2, 3), "<i2"), 5, 6, 7, False), 11)


def test_no_more_forms_are_remembered_than_a_topic_may_have() -> None:
    for side in range(header.MOST_KNOWN * 2):
        read(pack(form_of(side, "u1"), 0, 1, 0, True), side)
    assert len(header._forms) <= header.MOST_KNOWN
    assert len(header._read) <= header.MOST_KNOWN
